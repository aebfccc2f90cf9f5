"""`pyrun.run` and its kin from a live process: streams, ends, roots without an image, and a host process that is left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun

import pyrun as library
from pyrun.errors import ConfigError, ExecError, StateError, UsageError
from pyrun.images import Store

PACKAGE = str(Path(library.__file__ or "").parent.parent)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., library.Result]]:
    """Runs a program of the host's /usr; the state directory is the test's own."""
    root = str(tmp_path / "state")

    def call(*args: str, **more: object) -> library.Result:
        more = {"rootfs": "host", "capture_output": True, **more}
        return library.run(None, args, root=root, **more)  # type: ignore[arg-type]

    yield call
    library.settle(root=root)
    deadline = time.monotonic() + 60
    while any(os.listdir(f"{root}/pods/{phase}") for phase in ("preparing", "running", "garbage")):
        assert time.monotonic() < deadline, "a pod is left"
        time.sleep(0.01)


def shell(run: Callable[..., library.Result], script: str, **more: object) -> library.Result:
    return run("sh", "-c", script, **more)


def test_ends(run: Callable[..., library.Result]) -> None:
    done = shell(run, "cat; echo bad >&2; exit 3", input=b"hello")
    assert (done.returncode, done.stdout, done.stderr, done.reason, done.ok) == (3, b"hello", b"bad\n", "exited", False)
    assert done.usage["cpu_usec"] > 0 and 0 < done.seconds < 60
    usage = done.rusage
    assert usage is not None and usage.ru_maxrss > 100 and usage.ru_utime + usage.ru_stime > 0
    with pytest.raises(library.ExitError, match="exit code 3") as caught:
        shell(run, "exit 3", check=True)
    assert caught.value.result.returncode == 3
    assert (shell(run, "kill -9 $$").returncode, shell(run, "kill -15 $$").reason) == (-9, "signal")
    assert run("true", capture_output=False).stdout is None and shell(run, "exit 0", check=True).ok


def test_time_is_over(run: Callable[..., library.Result]) -> None:
    """All of the pod goes, those too that ignore signals and hold the pipe."""
    done = shell(run, "trap '' TERM; echo first; (trap '' TERM; sleep 1000) & sleep 1000", timeout=0.5)
    assert (done.reason, done.returncode, done.stdout) == ("timeout", -9, b"first\n") and 0.5 <= done.seconds < 20
    with pytest.raises(library.ExitError, match="killed after"):
        run("sleep", "100", timeout=0.2, check=True)
    assert run("true", timeout=60).ok


def test_too_much_is_said(run: Callable[..., library.Result]) -> None:
    done = run("yes", output_limit=100_000)
    assert done.reason == "output" and len(done.stdout or b"") == 100_000 and done.returncode in (-9, -13)
    assert run("head", "-c", "100000", "/dev/zero", output_limit=100_000).ok


def test_much_is_moved(run: Callable[..., library.Result]) -> None:
    """More than pipes hold, both ways at once; and an app that does not read."""
    data = os.urandom(3_000_000)
    assert run("cat", input=data).stdout == data
    assert run("true", input=data).ok and run("cat", input=b"").stdout == b""


def test_streams(run: Callable[..., library.Result], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        assert shell(run, "cat; echo x >&2", stdin=source, stdout=sink, stderr=library.STDOUT, capture_output=False).ok
    assert (tmp_path / "out").read_bytes() == b"from a filex\n"
    assert shell(run, "cat; echo x", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, capture_output=False).stderr == b""
    with pytest.raises(UsageError, match="exclude each other"):
        run("true", input=b"", stdin=0)
    with pytest.raises(UsageError, match="use stream stdout"):
        run("true", stdout=-9, capture_output=False)


def test_a_pipe_is_a_conversation(run: Callable[..., library.Result], tmp_path: Path) -> None:
    words = ["sh", "-c", 'while read x; do echo "<$x>"; done; exit 4']
    with library.start(None, words, rootfs="host", root=str(tmp_path / "state"), stdin=-1, stdout=-1) as app:
        assert app.stdin and app.stdout and app.stderr is None and app.poll() is None
        for word in (b"one", b"two"):
            app.stdin.write(word + b"\n")
            assert app.stdout.read(100) == b"<" + word + b">\n"
        with pytest.raises(TimeoutError):
            app.wait(0.05)
        app.stdin.close()
        assert app.wait(60) == 4 == app.returncode == app.poll()


def test_the_hosts_usr(run: Callable[..., library.Result]) -> None:
    """Its programs, nothing else of it: no network but lo, no files, nothing that can be written but the pod's own."""
    seen = (
        shell(run, "ls /; cat /proc/net/dev | grep -c :; hostname; id -u; touch /usr/x; touch /x && echo wrote; ls /root /home").stdout
        or b""
    )
    words = seen.decode().split()
    assert {"usr", "etc", "proc", "tmp", "root"} <= set(words) and "wrote" in words and words[-2:] == ["/home:", "/root:"]
    assert not {"work", "srv", "opt", "boot", "mnt"} & set(words) and "1" in words
    assert not Path("/usr/x").exists() and not Path("/x").exists()
    done = run("python3", "-c", "import json, ssl; print(json.dumps({'fine': True}))")
    assert json.loads(done.stdout or b"") == {"fine": True}, done.stderr
    assert run("cat", "/etc/shadow").returncode == 1


def test_a_directory_is_a_root(run: Callable[..., library.Result], tmp_path: Path, probe: Path) -> None:
    """The app may change what it sees; the directory never changes.  Users are looked up in it, as it now is."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    shutil.copy(probe, tree / "probe")
    (tree / "etc/passwd").write_text("me:x:7:8::/:/bin/sh\n")
    for uid in (7, 9):
        (tree / "etc/passwd").write_text(f"me:x:{uid}:8::/:/bin/sh\n")
        report = json.loads(run("/probe", "report", rootfs=str(tree), user="me").stdout or b"")
        assert report["uid"] == [uid] * len(report["uid"]) if isinstance(report["uid"], list) else report["uid"] == uid
    assert run("/probe", "exit", "7", rootfs=str(tree), upper="tmpfs").returncode == 7
    assert run("exit", "8", rootfs=str(tree), exec="/probe", readonly_rootfs=True).returncode == 8
    assert sorted(os.listdir(tree)) == ["etc", "probe"]
    with pytest.raises(ExecError, match="execute /nope"):
        run("/nope", rootfs=str(tree))
    for wrong, error in (("tree", ConfigError), (str(tmp_path / "none"), ConfigError), (str(tree / "probe"), ConfigError)):
        with pytest.raises(error, match="use root directory"):
            run("/probe", rootfs=wrong)
    with pytest.raises(UsageError, match="no program"):
        run(rootfs=str(tree))
    for keyword, value in {"restart": "always", "pod_name": "x", "slice": "a.slice", "health_cmd": "true", "log_driver": "none"}.items():
        with pytest.raises(UsageError, match=f"{keyword}: is for a pod in the background"):
            run("/probe", rootfs=str(tree), **{keyword: value})
    pod = library.create(None, ["/probe", "exit", "0"], rootfs=str(tree), root=str(tmp_path / "state"), cgroup_manager="systemd")
    with pytest.raises(StateError, match="would be moved into"):
        pod.start()
    pod.remove()
    with pytest.raises(UsageError, match="either an image or a rootfs"):
        run("x", rootfs=None)


def test_volumes(run: Callable[..., library.Result], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "in").write_text("hi")
    script = "cat /a/in; touch /a/x; echo out >/b/out; df -k /c | tail -1"
    volumes = [f"{data}:/a:ro", library.Volume("/b", source=str(data)), library.Volume("/c", kind="tmpfs", size=1 << 20)]
    done = shell(run, script, volume=volumes)
    assert (data / "out").read_text() == "out\n" and not (data / "x").exists()
    assert (done.stdout or b"").startswith(b"hi") and b" 1024 " in (done.stdout or b"")
    for wrong in ("/a", ":/a", "/a:/b:rx", library.Volume("/d", source=str(tmp_path / "none"))):
        with pytest.raises(library.PyrunError, match="use volume"):
            run("true", volume=[wrong])


def test_a_detached_pod_without_an_image(run: Callable[..., library.Result], tmp_path: Path) -> None:
    """It outlives its maker's objects, is found by its name, entered, and gone after the block."""
    root = str(tmp_path / "state")
    library.detach(None, ["sh", "-c", "echo up; exec sleep 1000"], rootfs="host", root=root, pod_name="bare")
    with library.Container.attach("bare", root=root) as pod:
        assert next(pod.logs(follow=True))[2] == b"up\n" and pod.stats()["cpu_usec"]
        assert pod.exec(["sh", "-c", "exit 6"]).wait() == 6
        assert library.attach(pod.uuid[:8], root=root).uuid == pod.uuid == str(library.list_pods(root=root)[0]["uuid"])
    assert not pod.exists()
    with library.create(None, ["sh", "-c", "exit 5"], rootfs="host", root=root) as made:
        seen: list[object] = []
        watcher = threading.Thread(target=lambda: seen.extend(event["event"] for event in made.events()))
        watcher.start()
        time.sleep(0.2)  # the watch begins with the first event that is asked for
        made.start()
        assert made.wait(60) == 5
    watcher.join(60)
    assert [seen[0], seen[-1]] == ["started", "removed"]


def test_a_forked_process_has_no_part_in_it(run: Callable[..., library.Result], tmp_path: Path) -> None:
    """It neither ends the pod by ending, nor keeps it alive, nor may it use it; one of its own it may start."""
    root = str(tmp_path / "state")
    with library.start(None, ["sleep", "1000"], rootfs="host", root=root) as app:
        child = os.fork()
        if child == 0:
            code = 9
            try:
                app.kill()
            except StateError:
                code = library.run(None, ["sh", "-c", "exit 3"], rootfs="host", root=root).returncode
            del app
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            assert pool.map(_in_worker, [root, root]) == [0, 0]
        assert app.poll() is None
        held = subprocess.Popen(["sleep", "1000"], close_fds=False)
        sleeper = os.fork()
        if sleeper == 0:
            time.sleep(100)
            os._exit(0)
        begin = time.monotonic()
        app.close()
        assert time.monotonic() - begin < 20
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)
        held.kill()
        held.wait()


def _in_worker(root: str) -> int:
    return library.run(None, ["true"], rootfs="host", root=root).returncode


def test_the_makers_death_ends_it_whoever_it_forked(tmp_path: Path) -> None:
    code = """if True:
        import sys, os, time; sys.path[:0] = sys.argv[2].split(":")
        import pyrun
        app = pyrun.start(None, ["sleep", "1000"], rootfs="host", root=sys.argv[1])
        app.wait_running()
        if os.fork() == 0:
            time.sleep(1000)
        print(app.pid, flush=True)
        time.sleep(1000)"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "state"), PACKAGE], stdout=subprocess.PIPE, start_new_session=True
    ) as maker:
        assert maker.stdout
        init = int(maker.stdout.readline())
        maker.kill()
        deadline = time.monotonic() + 60
        while os.path.exists(f"/proc/{init}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(maker.pid, signal.SIGKILL)


def test_signals_and_children_of_the_host(run: Callable[..., library.Result]) -> None:
    """Handlers and mask stay, also when SIGCHLD is ignored; no child but its own is reaped."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    other = subprocess.Popen(["true"])
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        done = shell(run, "exit 4")
        assert done.returncode == 4 and done.rusage is None
    finally:
        signal.signal(signal.SIGCHLD, old)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert shell(run, "exit 5").returncode == 5
    assert other.wait() == 0
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_nothing_grows(run: Callable[..., library.Result], tmp_path: Path) -> None:
    """Descriptors and zombies, also of containers that nobody waits for."""
    root = str(tmp_path / "state")
    children = Path("/proc/thread-self/children")
    others = set(children.read_text().split())
    for turn in range(2):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            shell(run, "exit 3", input=b"x" * 100_000)
            library.start(None, ["sleep", "1000"], rootfs="host", root=root)
        deadline = time.monotonic() + 60
        while turn and len(set(children.read_text().split()) - others) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.3)  # until those before have been cleaned up
            assert run("true").ok  # the next start reaps
    library.settle(root=root)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_an_interrupt_ends_the_pod(run: Callable[..., library.Result]) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("sleep", "1000")
    finally:
        signal.signal(signal.SIGALRM, old)


def test_several_apps_in_one_pod(shared: Pyrun, busybox: Path) -> None:
    """Each reads in /dev/shm what the other wrote; both have the pod's host name."""
    shared("fetch", busybox, code=0)
    root = str(shared.root)

    def app(name: str, script: str) -> library.App:
        return library.App("example.com/busybox", ["-c", script], exec="/bin/sh", name=name, set_env={"WHO": name})

    talk = "hostname >/dev/shm/$WHO; while ! [ -s /dev/shm/{other} ]; do sleep 0.02; done; cat /dev/shm/{other}; exit {code}"
    apps = [app("one", talk.format(other="two", code=3)), app("two", talk.format(other="one", code=3))]
    with library.create_pod(apps, root=root, pod_name="both", exit_policy="last-exit") as pod:
        pod.start()
        assert pod.wait(60) == 3
        lines = {name: [line[2] for line in pod.logs(app=name)] for name in ("one", "two")}
        assert lines["one"] == lines["two"] and lines["one"][0].startswith(b"pyrun-")
    with pytest.raises(UsageError, match="two apps have that name"):
        library.create_pod([apps[0], apps[0]], root=root)
    for own in ({"restart": "always"}, {"port": ["80:80"]}):
        with pytest.raises(UsageError, match="it is the pod's"):
            library.create_pod([apps[0], library.App("example.com/busybox", name="two", **own)], root=root)
    with pytest.raises(UsageError, match="has no app"):
        library.create_pod([], root=root)
    assert not library.list_pods(root=root)


def test_a_plan_is_values(run: Callable[..., library.Result], tmp_path: Path) -> None:
    plan = library.plan_of(None, ["sh"], rootfs="host", root=str(tmp_path / "state"), hostname="web", memory="64Mi")
    assert "net" in plan.namespaces and len(plan) == len(plan.operations) > 50
    found = {one.name: one for one in plan}
    assert found["hostname"].arguments == ["web"] and found["hostname"].origin == "--hostname"
    assert found["limit"].arguments[:2] == ["memory.max", "67108864"] and "execute ['sh']" in plan.operations[-1].what
    assert json.loads(json.dumps(plan.to_json()))["namespaces"] == plan.namespaces
    assert os.listdir(tmp_path / "state/pods/running") == [] and run("true").ok


def test_the_store_for_programs(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    store = Store(str(pyrun.root))
    (tmp_path / "tree").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "tree/busybox")
    app = {"exec": ["/busybox", "echo", "built"], "user": "0", "group": "0"}
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/built", "app": app}
    built = store.build(str(tmp_path / "tree"), manifest, str(tmp_path / "built.aci"))
    mine = store.pull(str(tmp_path / "built.aci"), unsigned=True)
    assert mine.id == built and store.get("example.com/built").id == built
    done = library.run(built, root=store.root, insecure_options=["image"], capture_output=True)
    library.settle(root=store.root)  # else the pod may still use it
    assert done.stdout == b"built\n" and store.remove(built) > 0
    image = store.pull(str(busybox))
    told: list[tuple[str, list[str]]] = []
    assert store.verify(progress=lambda one, wrong: told.append((one, wrong))) == {image.id: []} and told == [(image.id, [])]
    assert store.tag(image.id, "local/box") == "" and store.get("local/box").id == image.id == store.images()[0].id
    assert library.run("local/box", ["-c", "exit 3"], exec="/bin/sh", root=store.root).returncode == 3
    library.settle(root=store.root)
    assert store.remove("local/box") == 0 and store.usage()
    gone: list[str] = []
    assert store.gc().count == 0 and store.gc(older_than=0, dry_run=True, progress=gone.append).images == [image.id] == gone
    assert store.remove(image.id) > 0 and store.images() == []
    with pytest.raises(library.NotFoundError):
        store.get("example.com/busybox")
    library.settle(root=store.root)


def test_images(shared: Pyrun, busybox: Path) -> None:
    """The same of a stored image; the second time it is a recipe."""
    shared("fetch", busybox, code=0)
    for _ in range(2):
        done = library.run("example.com/busybox", ["-c", "echo $1", "x", "y"], exec="/bin/sh", root=str(shared.root), capture_output=True)
        assert (done.stdout, done.args) == (b"y\n", ["example.com/busybox", "-c", "echo $1", "x", "y"])
    with pytest.raises(UsageError, match="args is one text"):
        library.run("example.com/busybox", "true", root=str(shared.root))
    library.settle(root=str(shared.root))
