"""The supervisor: what it is, how little it holds, what happens when it or init is killed (F11, F12, F20, F22, SEC-51, SEC-57)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from waiting import gone, phase, wait_until

Start = Callable[..., "subprocess.Popen[str]"]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
def start(pyrun: Pyrun) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(*flags: str | Path, command: tuple[str, ...] = ("sleep", "0")) -> subprocess.Popen[str]:
        one = pyrun.start("run", *flags, pyrun.probe_image, "--exec", "/probe", "--", *command)
        running.append(one)
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
        return one

    yield begin
    for one in running:
        one.kill()
        one.communicate()
    pyrun("gc", code=0)


def init_of(supervisor: int) -> int:
    (pid,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return int(pid)


def cgroups() -> set[str]:
    return {name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("pyrun-")}


def test_the_process_becomes_the_supervisor(pyrun: Pyrun, start: Start) -> None:
    """Same pid, no Python left, a sealed memfd instead of any file of the host (A01), a name that says whose it is."""
    one = start()
    (uuid,) = phase(pyrun, "running")
    assert UUID.fullmatch(uuid)
    for pid in (one.pid, init_of(one.pid)):
        assert os.readlink(f"/proc/{pid}/exe") == "/memfd:pyrun-helper (deleted)"
        assert Path(f"/proc/{pid}/cmdline").read_bytes() == f"pyrun: pod {uuid}\0".encode()
        assert "python" not in Path(f"/proc/{pid}/maps").read_text()
        seals = subprocess.run(
            [
                "/usr/bin/python3",
                "-c",
                "import fcntl, os, sys; print(fcntl.fcntl(os.open(sys.argv[1], os.O_RDONLY), 1034))",
                f"/proc/{pid}/exe",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(seals.stdout) == 0xF  # F_SEAL_SEAL, SHRINK, GROW, WRITE


def test_it_is_small(start: Start) -> None:
    """DESIGN: a tenth of a megabyte resident per running container; supervisor and init together under 150 KiB PSS."""
    one = start()
    pss = 0
    for pid in (one.pid, init_of(one.pid)):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        pss += int(re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[0])
    assert pss < 150


def test_init_holds_nothing(start: Start) -> None:
    """A02, SEC-12: no descriptor of the host but the link to the supervisor, no capability but CAP_KILL."""
    one = start()
    init = init_of(one.pid)
    wait_until(lambda: "Seccomp:\t2" in Path(f"/proc/{init}/status").read_text())
    kinds = [os.readlink(f"/proc/{init}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{init}/fd")]
    assert kinds in ([], ["socket"])
    assert os.readlink(f"/proc/{init}/root") == "/"
    assert os.stat(f"/proc/{init}/root/probe").st_size > 0  # its root is the pod's


def test_no_fd_of_the_pods_directory_is_inheritable_by_the_app(start: Start) -> None:
    one = start()
    app = int(Path(f"/proc/{init_of(one.pid)}/task/{init_of(one.pid)}/children").read_text())
    assert sorted(os.listdir(f"/proc/{app}/fd")) == ["0", "1", "2"]


def test_the_lock_says_who_lives(pyrun: Pyrun, start: Start) -> None:
    start()
    (uuid,) = phase(pyrun, "running")
    fd = os.open(pyrun.root / "pods" / "running" / uuid, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        record = json.loads((pyrun.root / "pods" / "running" / uuid / "pod").read_text())
    finally:
        os.close(fd)
    assert record["uuid"] == uuid and record["name"] == "example.com/probe" and record["app"] == "probe"
    assert Path(record["cgroup"]).is_dir()
    assert pyrun("gc", code=0).out == ""
    assert phase(pyrun, "running") == [uuid]


def test_the_pod_has_a_cgroup_and_the_supervisor_stays_outside(pyrun: Pyrun, start: Start) -> None:
    one = start()
    (uuid,) = phase(pyrun, "running")
    assert Path(f"/proc/{init_of(one.pid)}/cgroup").read_text().splitlines()[-1].endswith(f"/pyrun-{uuid}")
    assert f"pyrun-{uuid}" not in Path(f"/proc/{one.pid}/cgroup").read_text()


@pytest.mark.parametrize("flags", [(), ("--keep",), ("--no-overlay",)], ids=["default", "keep", "copy"])
def test_a_killed_supervisor(pyrun: Pyrun, start: Start, flags: tuple[str, ...]) -> None:
    """F11: the pod dies with it; the next command removes what is left, or moves what was to be kept."""
    one = start(*flags)
    (uuid,) = phase(pyrun, "running")
    init = init_of(one.pid)
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: gone(init))
    assert one.wait() == -signal.SIGKILL
    assert f"pyrun-{uuid}" in cgroups()
    pyrun.probe("exit", "0", code=0)
    assert phase(pyrun, "running") == phase(pyrun, "garbage") == phase(pyrun, "preparing") == []
    assert f"pyrun-{uuid}" not in cgroups()
    assert phase(pyrun, "exited") == ([uuid] if "--keep" in flags else [])
    if "--keep" in flags:
        assert not (pyrun.root / "pods" / "exited" / uuid / "exit").exists()  # how it ended is not known


def test_gc_tells_what_it_removes(pyrun: Pyrun, start: Start) -> None:
    victims = [start(), start()]
    uuids = phase(pyrun, "running")
    for one in victims:
        one.kill()
        one.wait()
    wait_until(lambda: pyrun("gc", "--format", "json", code=0) and not phase(pyrun, "running"))
    assert phase(pyrun, "garbage") == []
    assert not cgroups() & {f"pyrun-{uuid}" for uuid in uuids}


def test_a_killed_init(pyrun: Pyrun, start: Start) -> None:
    """F12, SEC-51: never a success; nothing of the pod remains."""
    one = start()
    app = int(Path(f"/proc/{init_of(one.pid)}/task/{init_of(one.pid)}/children").read_text())
    os.kill(init_of(one.pid), signal.SIGKILL)
    assert one.wait(5) == 137
    wait_until(lambda: gone(app))
    assert phase(pyrun, "running") == phase(pyrun, "garbage") == []


def test_a_killed_app(start: Start) -> None:
    one = start()
    init = init_of(one.pid)
    os.kill(int(Path(f"/proc/{init}/task/{init}/children").read_text()), signal.SIGSEGV)
    assert one.wait(5) == 139


def test_whoever_enters_the_cgroup_goes_with_the_pod(pyrun: Pyrun, start: Start) -> None:
    one = start()
    (uuid,) = phase(pyrun, "running")
    guest = subprocess.Popen(["sleep", "100"])
    try:
        record = json.loads((pyrun.root / "pods" / "running" / uuid / "pod").read_text())
        (Path(record["cgroup"]) / "cgroup.procs").write_text(str(guest.pid))
        one.terminate()
        assert one.wait(5) == 143
        assert guest.wait(5) == -signal.SIGKILL
    finally:
        guest.kill()
        guest.wait()
    assert f"pyrun-{uuid}" not in cgroups()


def test_a_cgroup_removed_by_somebody_else(pyrun: Pyrun, start: Start) -> None:
    """F20: so is the pod's directory; the supervisor ends as if nothing had been."""
    one = start()
    (uuid,) = phase(pyrun, "running")
    (pyrun.root / "pods" / "running" / uuid).rename(pyrun.root / "elsewhere")
    one.terminate()
    assert one.wait(5) == 143
    assert phase(pyrun, "running") == []


def test_exit_record_of_a_kept_pod(pyrun: Pyrun) -> None:
    before = time.time_ns()
    pyrun.probe("exit", "3", flags=("--keep",), code=3)
    pyrun.probe("kill", "15", flags=("--keep",), code=143)
    records = [json.loads((pyrun.root / "pods" / "exited" / uuid / "exit").read_text()) for uuid in phase(pyrun, "exited")]
    assert sorted((record["code"], record["signal"]) for record in records) == [(0, 15), (3, 0)]
    for record in records:
        assert before - 10**9 < record["started"] <= record["finished"] <= time.time_ns()
    assert pyrun("gc", "--grace-period", "1h", code=0).out == ""
    assert len(phase(pyrun, "exited")) == 2
    assert pyrun("gc", code=0).out.count("removed ended pod ") == 2
    assert phase(pyrun, "exited") == []


@pytest.mark.parametrize("detached", [False, True])
def test_however_deep_an_app_nests_it_all_goes_at_once(pyrun: Pyrun, busybox: Path, detached: bool) -> None:
    """The supervisor and the keeper have no memory for a walk of any depth; still nobody else has to come by."""
    nest = "d=d; for i in 1 2 3 4 5 6 7 8; do d=$d/$d; done; mkdir -p /$d /tmp/$d /tmp/again/$d; touch /$d/file; mkdir /tmp/deep-0"
    words = ("run", *(("--detach", "--rm") if detached else ()), busybox, "--exec", "/bin/sh", "--", "-c", nest)
    pyrun(*words, code=0)
    wait_until(lambda: not any(any((pyrun.root / "pods" / phase).iterdir()) for phase in ("running", "garbage")), "something stayed")


def test_the_uuid_is_saved_first(pyrun: Pyrun, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "uuid"
    start("--uuid-file-save", file)
    assert [file.read_text()] == [f"{uuid}\n" for uuid in phase(pyrun, "running")]
    failed = tmp_path / "failed"
    pyrun("run", "--uuid-file-save", failed, "--user", "ghost", pyrun.probe_image, code=125)
    assert UUID.fullmatch(failed.read_text().strip())
    (tmp_path / "link").symlink_to(tmp_path / "target")
    refused = pyrun("run", "--uuid-file-save", tmp_path / "link", pyrun.probe_image, code=125)
    assert "hint: " in refused.err and not (tmp_path / "target").exists()


def test_state_is_roots_alone(pyrun: Pyrun) -> None:
    """SEC-06, B10, under a loose umask."""
    pyrun.probe("exit", "0", flags=("--keep",), code=0, umask=0)
    assert pyrun.root.stat().st_mode & 0o077 == 0
    for path in [*(pyrun.root / "pods").iterdir(), *(pyrun.root / "pods" / "exited").iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o700, path
    nobody = ["/usr/bin/python3", "-c", "import os, sys; os.setgid(1000); os.setuid(1000); os.listdir(sys.argv[1])", str(pyrun.root)]
    assert "PermissionError" in subprocess.run(nobody, capture_output=True, text=True).stderr


def test_many_starts_at_once(pyrun: Pyrun) -> None:
    """F21, F22: no two get in each other's way, the first ones importing the image meanwhile."""
    many = [pyrun.start("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", str(number)) for number in range(20)]
    for number, one in enumerate(many):
        _, err = one.communicate(timeout=60)
        assert (one.returncode, err) == (number, "")
    assert phase(pyrun, "running") == phase(pyrun, "preparing") == phase(pyrun, "garbage") == []


def test_gc_beside_starts(pyrun: Pyrun) -> None:
    pyrun.report()
    many = []
    for _ in range(10):
        many += [pyrun.start("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0"), pyrun.start("gc")]
    for one in many:
        _, err = one.communicate(timeout=60)
        assert (one.returncode, err) == (0, "")


@pytest.mark.parametrize("what", ["no record", "empty record", "broken record", "file", "foreign cgroup", "long name"])
def test_broken_pods_are_removed_and_nothing_else(pyrun: Pyrun, what: str) -> None:
    """F19, SEC-57: gc needs one pass, and believes no path that is not the pod's own."""
    pyrun.report()
    uuid = "11111111-2222-4333-8444-555555555555"
    pod = pyrun.root / "pods" / "running" / uuid
    foreign = Path("/sys/fs/cgroup/foreign-test")
    if what == "file":
        pod.write_text("no directory")
    else:
        (pod / "upper" / ("x" * 200 if what == "long name" else "etc")).mkdir(parents=True)
        record = {"empty record": "", "broken record": '{"uuid": ', "foreign cgroup": json.dumps({"cgroup": str(foreign)})}.get(what)
        if record is not None:
            (pod / "pod").write_text(record)
    foreign.mkdir()
    try:
        pyrun("gc", code=0)
        assert foreign.is_dir()
    finally:
        foreign.rmdir()
    assert phase(pyrun, "running") == []
    pyrun.probe("exit", "0", code=0)
