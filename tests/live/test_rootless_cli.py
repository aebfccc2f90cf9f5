"""The command line of users who are not root: one with a range of ids in /etc/subuid, one without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import archives
import pytest
from harness import COMMAND, LIMIT, TOP
from mkaci import Image
from mkoci import Layout, layer
from users import COUNT, PLAIN, RANGE, RANGED, User
from waiting import wait_until

UNSIGNED = "--insecure-options=image"


@pytest.fixture(params=[PLAIN, RANGED])
def user(request: pytest.FixtureRequest, ranges: None) -> Iterator[User]:
    made = User(request.param)
    yield made
    made.close()


@pytest.fixture
def ranged(ranges: None) -> Iterator[User]:
    made = User(RANGED)
    yield made
    made.close()


@pytest.fixture
def plain(ranges: None) -> Iterator[User]:
    made = User(PLAIN)
    yield made
    made.close()


def give(user: User, path: Path) -> Path:
    """A copy of a file where the user can read it."""
    target = user.home / path.name
    shutil.copyfile(path, target)
    target.chmod(0o644)
    return target


def fetch(user: User, path: Path) -> str:
    return user.pyrun("fetch", UNSIGNED, give(user, path)).out.strip()


def test_a_pod_of_a_users(user: User, busybox: Path, signer: object) -> None:
    """A signed image whose key the user trusts; state is below the data home, the ids are those that the user may have."""
    key = give(user, signer.public)  # type: ignore[attr-defined]
    user.pyrun("trust", "--yes", "--prefix", "example.com", key)
    copy = give(user, busybox)
    give(user, busybox.with_name(busybox.name + ".asc"))
    script = "id -u; cat /proc/self/uid_map /proc/self/gid_map; ls /sys/class/net; echo x > /dev/null && touch /new && echo wrote"
    words = user.pyrun("run", copy, "--exec", "/bin/sh", "--", "-c", script).out.split()
    own = ["0", str(user.uid), "1"]
    ids = [*own, "1", str(RANGE), str(COUNT)] if user.name == RANGED else own
    gids = [*own[:1], str(user.uid if user.name == PLAIN else 1), *own[2:], *ids[3:]]
    assert words[0] == "0" and words[1 : 1 + len(ids)] == ids and words[-2:] == ["lo", "wrote"], words
    assert len(words) == 3 + len(ids) + len(gids)
    assert (user.state / "pods" / "running").is_dir() and user.state.stat().st_uid == user.uid
    listed = json.loads(user.pyrun("image", "list", "--format", "json").out)
    assert [one["name"] for one in listed] == ["example.com/busybox"]
    assert "ok" in user.pyrun("image", "verify", "--all").out
    user.pyrun("run", "example.com/busybox", "--exec", "/bin/true", env={"XDG_DATA_HOME": str(user.home / "elsewhere")}, code=125)
    assert (user.home / "elsewhere" / "pyrun" / "pods").is_dir()
    assert json.loads(user.pyrun("list", "--format", "json").out) == []


def test_who_a_pod_may_be(ranged: User, plain: User, busybox: Path) -> None:
    for user in (ranged, plain):
        fetch(user, busybox)
    assert ranged.shell("id -u; touch /tmp/x; stat -c %u /tmp/x; id -G", UNSIGNED, "--user", "app", "--supplementary-gids", "7") == (
        "1000\n1000\n1000 7"
    )
    volume = ranged.shell(
        "touch /v/x; stat -c %u /v /v/x",
        UNSIGNED,
        "--user",
        "app",
        "-v",
        "data,kind=empty,uid=1000,gid=1000",
        "--mount",
        "volume=data,target=/v",
    )
    assert volume == "1000\n1000"
    for flags, said in ((("--user", "app"), "one user inside"), (("--supplementary-gids", "7"), "without root there are none")):
        refused = plain.pyrun("run", UNSIGNED, *flags, "example.com/busybox", "--exec", "/bin/true", code=125)
        assert said in refused.err and "/etc/subuid" in refused.err
    far = ranged.pyrun("run", UNSIGNED, "--user", str(COUNT + 1), "example.com/busybox", "--exec", "/bin/true", code=125)
    assert f"the highest ids here are {COUNT}" in far.err


def test_files_of_an_image(user: User, tmp_path: Path) -> None:
    """Owners are those of the image where there are ids for them, devices are left out; nothing is left when the image goes."""
    made = Image("example.com/owners", ["/bin/sh"])
    made.busybox()
    made.directory("/tmp", 0o1777)
    made.add("/of/1000", b"x", mode=0o600, uid=1000, gid=1000)
    made.add("/node", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    ref = fetch(user, made.write(tmp_path / "owners.aci"))
    assert user.shell("stat -c %u:%a /of/1000; cat /of/1000; ls /node 2>&1 || true", UNSIGNED, image="example.com/owners").splitlines() == [
        "1000:600" if user.name == RANGED else "0:600",
        "xls: /node: No such file or directory",
    ]
    (stored,) = (user.state / "layers").glob("*/rootfs/of/1000")
    assert stored.stat().st_uid == (RANGE + 999 if user.name == RANGED else user.uid)
    assert "ok" in user.pyrun("image", "verify", ref).out
    user.pyrun("image", "export", ref, user.home / "again.aci")
    user.pyrun("image", "rm", ref)
    assert list((user.state / "layers").iterdir()) == []


def test_layers_that_hide_others(user: User) -> None:
    busybox = Path("/bin/busybox").read_bytes()
    low = layer(
        archives.directory(b"bin"), archives.file(b"bin/sh", busybox, mode=0o755), archives.directory(b"a"), archives.file(b"a/old", b""),
        archives.file(b"gone", b""),
    )  # fmt: skip
    high = layer(archives.file(b"a/.wh..wh..opq", b""), archives.file(b"a/new", b""), archives.file(b".wh.gone", b""))
    layout = Layout(user.home / "layout")
    layout.image(low, high)
    user.pyrun("fetch", UNSIGNED, f"oci:{layout.path}:latest")
    (name,) = [one["name"] for one in json.loads(user.pyrun("image", "list", "--format", "json").out)]
    assert user.shell("echo /a/* /g*; rm -r /a; mkdir /a; echo /a/*", UNSIGNED, image=name) == "/a/new /g*\n/a/*"


def test_a_pod_in_the_background(user: User, busybox: Path) -> None:
    fetch(user, busybox)
    script = "echo ready; trap 'exit 3' TERM; while :; do sleep 1000 & wait; done"
    words = ("run", "-d", UNSIGNED, "--pod-name", "web", "example.com/busybox", "--exec", "/bin/sh", "--", "-c", script)
    uuid = user.pyrun(*words).out.strip()
    wait_until(lambda: "ready" in user.pyrun("logs", "web").out)
    assert user.pyrun("exec", "web", "/bin/sh", "-c", "id -u; hostname").out == f"0\npyrun-{uuid}\n"
    inside = user.pyrun("exec", "web", "/bin/cat", "/proc/self/uid_map").out.split()
    assert inside[:3] == ["0", str(user.uid), "1"] and len(inside) == (6 if user.name == RANGED else 3)
    (user.home / "f").write_text("there and back")
    user.pyrun("cp", user.home / "f", "web:/tmp/f")
    user.pyrun("cp", "web:/tmp/f", user.home / "g")
    assert (user.home / "g").read_text() == "there and back" and (user.home / "g").stat().st_uid == user.uid
    assert json.loads(user.pyrun("inspect", "web").out)[0]["state"] == "running"
    user.pyrun("restart", "web")
    wait_until(lambda: user.pyrun("logs", "web").out.count("ready") == 2)
    user.pyrun("stop", "web")
    status = json.loads(user.pyrun("status", "web", "--format", "json").out)
    assert (status if isinstance(status, dict) else status[0])["exit_code"] == 3
    user.pyrun("rm", "web")
    assert [os.listdir(user.state / "pods" / phase) for phase in ("running", "exited", "garbage")] == [[], [], []]


def test_what_a_killed_supervisor_leaves(user: User, busybox: Path) -> None:
    """The pod dies with it, and the next command removes the files, those of other ids too."""
    fetch(user, busybox)
    flags = ["--user", "app"] if user.name == RANGED else []
    script = "mkdir -m 0700 /tmp/d; touch /tmp/d/f; echo ready; sleep 1000"
    with user.start("run", UNSIGNED, *flags, "example.com/busybox", "--exec", "/bin/sh", "--", "-c", script) as supervisor:
        assert supervisor.stdout is not None and supervisor.stdout.readline() == "ready\n"
        (pod,) = (user.state / "pods" / "running").iterdir()
        supervisor.send_signal(signal.SIGKILL)
    assert supervisor.stdout.closed
    user.pyrun("gc")
    assert not pod.exists() and os.listdir(user.state / "pods" / "garbage") == []


def test_prepared_pods(user: User, busybox: Path) -> None:
    ref = fetch(user, busybox)
    uuid = user.pyrun("prepare", UNSIGNED, ref, "--exec", "/bin/sh", "--", "-c", "id -u; exit 5").out.strip()
    assert user.pyrun("run-prepared", uuid, code=5).out == "0\n"
    user.pyrun("rm", uuid)


def test_network_of_the_host(user: User, busybox: Path) -> None:
    """Its interfaces are there; of its sysfs, which comes with them, nothing that belongs to another part of the host."""
    fetch(user, busybox)
    script = "ls /sys/class/net | tr '\\n' ' '; ls /sys/kernel/debug /sys/fs/bpf /sys/module; echo 0 > /sys/kernel/profiling; true"
    done = user.pyrun("run", UNSIGNED, "--net", "host", "example.com/busybox", "--exec", "/bin/sh", "--", "-c", script)
    interfaces, _, rest = done.out.partition("\n")
    assert set(os.listdir("/sys/class/net")) - {"bonding_masters"} <= set(interfaces.split()) | {"/sys/fs/bpf:"}
    assert "/sys/module:\n" in rest and "kernel" not in rest.replace("/sys/kernel/debug", "") and "Read-only" in done.err


def test_who_enters_the_network_of_the_host(user: User, busybox: Path) -> None:
    """It belongs to none of the user's namespaces: who is in it stays, of one app and of several, and so does what checks health."""
    fetch(user, busybox)
    host, ask = os.readlink("/proc/self/ns/net") + "\n", ("--", "readlink", "/proc/self/ns/net")
    app = ("example.com/busybox", "--exec", "/bin/sleep")
    more = ("--health-cmd", "touch /well", "--health-interval", "50ms", UNSIGNED)
    user.pyrun("run", "-d", "--net", "host", "--pod-name", "web", *more, *app, "--", "1000")
    assert user.pyrun("exec", "web", *ask).out == host
    user.pyrun("wait", "--condition", "healthy", "web")
    user.within = ["unshare", "--net"]
    assert "and this is another one" in user.pyrun("exec", "web", *ask, code=125).err
    user.within = []
    user.pyrun("rm", "--force", "web")
    two = [word for name in ("one", "two") for word in (*app, "--name", name, "--", "1000", "---")][:-1]
    user.pyrun("run", "-d", "--net", "host", "--pod-name", "web", UNSIGNED, *two)
    assert user.pyrun("exec", "--app", "two", "web", *ask).out == host
    user.pyrun("rm", "--force", "web")


def test_several_apps(user: User, busybox: Path) -> None:
    fetch(user, busybox)
    one, two = (["example.com/busybox", "--name", name, "--exec", "/bin/sh", "--", "-c", script] for name, script in (
        ("one", "echo one > /dev/shm/x; while [ ! -e /dev/shm/y ]; do sleep 0.1; done; cat /dev/shm/y"),
        ("two", "while [ ! -e /dev/shm/x ]; do sleep 0.1; done; cat /dev/shm/x; echo two > /dev/shm/z; mv /dev/shm/z /dev/shm/y"),
    ))  # fmt: skip
    assert sorted(user.pyrun("run", UNSIGNED, *one, "---", *two).out.split()) == ["one", "two"]


def test_root_of_a_user_namespace(plain: User, busybox: Path) -> None:
    """Whoever is that already stays in it, and has state where users have theirs."""
    copy = give(plain, busybox)
    inside = ["unshare", "--user", "--map-root-user", TOP / ".venv" / "bin" / "pyrun"]
    words = ["run", UNSIGNED, copy, "--exec", "/bin/sh", "--", "-c", "cat /proc/self/uid_map; echo x > /dev/null && echo device"]
    assert plain.run(*inside, *words).out.split() == ["0", str(plain.uid), "1", "device"]
    assert (plain.state / "images").is_dir()


def test_the_library_runs_what_was_fetched(user: User, busybox: Path) -> None:
    fetch(user, busybox)
    code = (
        "import pyrun\n"
        "app = dict(exec='/bin/sh', insecure_options=['image'], capture_output=True)\n"
        "done = pyrun.run('example.com/busybox', ['-c', 'id -u; touch /new && echo wrote; cat /proc/self/uid_map'], **app)\n"
        "print(done.stdout.decode(), done.stderr.decode())\n"
        "host = pyrun.run(None, ['ls', '/sys/class/net'], rootfs='host', net='host', capture_output=True)\n"
        "print(host.stdout.decode(), host.stderr.decode())\n"
        "pyrun.settle()"
    )
    done = user.run(TOP / ".venv" / "bin" / "python", "-c", code)
    assert done.out.split()[:5] == ["0", "wrote", "0", str(user.uid), "1"], repr(done)
    assert set(os.listdir("/sys/class/net")) - {"bonding_masters"} <= set(done.out.split()), repr(done)
    assert os.listdir(user.state / "pods" / "running") == []


def test_what_is_refused(plain: User, busybox: Path) -> None:
    """One line that says what, and a hint; nothing is left of it."""
    fetch(plain, busybox)
    node = plain.home / "node"
    os.mknod(node, 0o020666, os.makedev(10, 235))
    for flags, said in (
        (("--device", f"{node}:/dev/x:r"), "which access a device has cannot be decided without root"),
        (("-v", f"{node}:/x:ro"), "which access a device has cannot be decided without root"),
        (("--memory", "64Mi"), "limit the pod"),
        (("--net", "nosuch"), "make a network --net nosuch: that takes root"),
        (("--net-bandwidth", "1m"), "has no meaning with --net none"),
        (("--net", "default", "--net-bandwidth", "1m"), "make a network --net-bandwidth: that takes root"),
    ):
        done = plain.pyrun("run", UNSIGNED, *flags, "example.com/busybox", "--exec", "/bin/true", code=None)
        assert done.code in (2, 125) and said in done.err and "hint: " in done.err and "Traceback" not in done.err, repr(done)
    assert [os.listdir(plain.state / "pods" / phase) for phase in ("preparing", "running", "garbage")] == [[], [], []]


def test_ranges_that_overlap(ranged: User, busybox: Path) -> None:
    """The kernel maps each id once: the first line with it counts, and the user's own id is root's."""
    file = Path("/etc/subuid")
    before = file.read_text()
    try:
        file.write_text(
            f"{ranged.name}:{ranged.uid}:1\n{before}{ranged.uid}:{RANGE + 9}:{COUNT}\n{before}{ranged.name}:{RANGE + COUNT}:5\n"
        )
        fetch(ranged, busybox)
        words = ranged.shell("cat /proc/self/uid_map", UNSIGNED).split()
    finally:
        file.write_text(before)
    assert words == [str(n) for n in (0, ranged.uid, 1, 1, RANGE, COUNT, 1 + COUNT, RANGE + COUNT, 5)]


def test_another_primary_group(ranged: User) -> None:
    """As newgrp(1) gives; newuidmap(1) takes its caller for somebody else then."""
    ranged.within = ["setpriv", "--regid=games", "--clear-groups", "setpriv", f"--reuid={ranged.name}", "--keep-groups"]
    words = [*ranged.within, COMMAND, "image", "list"]
    done = subprocess.run(words, env=ranged.env, cwd="/", capture_output=True, text=True, timeout=LIMIT)
    ranged.within = []
    assert done.returncode == 125 and "newgrp" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_files_of_the_hosts_root_are_his(user: User) -> None:
    """In a user namespace the owner of /etc/containers has no id; what root has configured there counts all the same."""
    system = Path("/etc/containers/registries.conf")
    assert system.stat().st_uid == 0, "podman's packages bring it"
    done = user.pyrun("fetch", UNSIGNED, "--insecure-options=http", "docker://127.0.0.1:9/app", code=125)
    assert "refused" in done.err and "others may change" not in done.err, repr(done)
    own = user.home / ".config" / "containers" / "registries.conf"
    own.parent.mkdir(parents=True)
    own.write_text("")
    for path in (own, own.parent, own.parent.parent):
        os.chown(path, user.uid, -1)
    own.chmod(0o666)
    assert "others may change it" in user.pyrun("fetch", UNSIGNED, "docker://127.0.0.1:9/app", code=125).err
