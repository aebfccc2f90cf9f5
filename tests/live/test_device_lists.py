"""Devices that a user lists: those open and no others, whoever makes nodes (SEC-19, A23)."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun

from pyrun.plan import caps

Shell = Callable[..., str]
MKNOD = ("--caps-retain", f"{','.join(caps.names(caps.DEFAULT))},MKNOD")
USUAL = {"c:1:3", "c:1:5", "c:1:7", "c:1:8", "c:1:9", "c:5:0"}
LISTED = [("/dev/fuse", "c:10:229"), ("/dev/loop-control", "c:10:237")]


@pytest.fixture(scope="module", autouse=True)
def nodes_of_the_host() -> None:
    for path, _ in LISTED:
        if not os.path.exists(path):
            pytest.fail(f"this host has no {path}")


@pytest.fixture
def holder(pyrun: Pyrun, busybox: Path) -> Iterator[Callable[..., tuple[str, int]]]:
    """A pod in the background that has these flags: its UUID, and its process 1."""
    made: list[str] = []

    def start(*flags: str) -> tuple[str, int]:
        made.append(pyrun("run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", "sleep 1000", code=0).out.strip())
        return made[-1], int(json.loads(pyrun("status", "--format", "json", made[-1], code=0).out)["pid"])

    yield start
    for uuid in made:
        pyrun("rm", "--force", uuid, code=0)


def swept(pyrun: Pyrun, *flags: str) -> set[str]:
    return set(pyrun.probe("sweep", "/dev/swept", flags=flags, code=0).out.split())


def test_a_sweep_opens_what_is_listed(shared: Pyrun) -> None:
    """Half a million of numbers would take long; 28,000 nodes are made and opened with CAP_MKNOD."""
    assert swept(shared, *MKNOD) == set(), "without a list no node opens that the app makes"
    assert swept(shared, *MKNOD, "--device", "/dev/fuse") == USUAL | {"c:10:229"}
    assert swept(shared, "--device", "/dev/fuse") == set(), "without the capability none is made"


def test_nodes_that_somebody_else_made(holder: Callable[..., tuple[str, int]], pyrun: Pyrun) -> None:
    """The program, not the capability, keeps a pod with devices closed; in a program that enters as well."""
    uuid, pid = holder("--device", "/dev/fuse")
    numbers = {info.st_rdev for info in (os.lstat(f"/dev/{name}") for name in os.listdir("/dev")) if stat.S_ISCHR(info.st_mode)}
    numbers -= {os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)} | {os.makedev(5, 0), os.makedev(5, 2)}
    assert {os.makedev(10, 229), os.makedev(1, 11)} <= numbers
    for number in numbers:
        os.mknod(f"/proc/{pid}/root/dev/x{os.major(number)}-{os.minor(number)}", stat.S_IFCHR | 0o666, number)
    script = "for n in /dev/x*; do (: <$n) 2>/dev/null && echo $n; done; true"
    assert pyrun("exec", uuid, "/bin/sh", "-c", script, code=0).out.split() == ["/dev/x10-229"]


def test_update_opens_and_closes(holder: Callable[..., tuple[str, int]], pyrun: Pyrun) -> None:
    """In a pod that began without a program, with the access that is named; for its next start as well."""
    uuid, _ = holder()
    look = ("exec", uuid, "/bin/sh", "-c", "for n in fuse sub/loop; do (: </dev/$n) 2>/dev/null && echo $n; done; true")
    assert pyrun(*look, code=0).out == ""
    pyrun("update", "--device", "/dev/fuse", "--device", "/dev/loop-control:/dev/sub/loop:r", uuid, code=0)
    assert pyrun(*look, code=0).out.split() == ["fuse", "sub/loop"]
    write = ("exec", uuid, "/bin/sh", "-c", "(: >/dev/sub/loop) 2>/dev/null; echo $?; stat -c %a:%u /dev/fuse")
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    assert pyrun(*write, code=0).out.split() == ["1", f"{mode:o}:0"]
    pyrun("update", "--device-deny", "/dev/fuse", uuid, code=0)
    assert pyrun(*look, code=0).out.split() == ["sub/loop"]
    pyrun("restart", uuid, code=0)
    assert pyrun(*look, code=0).out.split() == ["sub/loop"]
    pyrun("update", "--device", "/dev/fuse", uuid, code=0)
    assert pyrun(*look, code=0).out.split() == ["fuse", "sub/loop"], "opened again"


def test_update_of_a_pod_that_may_make_nodes(holder: Callable[..., tuple[str, int]], pyrun: Pyrun) -> None:
    """SEC-19: what the app makes stays closed after an update too."""
    uuid, _ = holder(*MKNOD, "--device", "/dev/fuse")
    pyrun("update", "--device", "/dev/loop-control", uuid, code=0)
    script = "mknod /dev/a c 1 11; mknod /dev/b c 10 237; mknod /dev/c b 7 0; for n in a b c; do (: </dev/$n) && echo $n; done; true"
    assert pyrun("exec", uuid, "/bin/sh", "-c", f"({script}) 2>/dev/null", code=0).out.split() == ["b"]
    other, _ = holder(*MKNOD)
    assert "nodev" in pyrun("update", "--device", "/dev/fuse", other, code=125).err


def test_update_refuses(holder: Callable[..., tuple[str, int]], pyrun: Pyrun) -> None:
    uuid, pid = holder()
    for words, code, says in (
        (["--device", "/dev/missing"], 2, "no such file"),
        (["--device", "/dev/fuse:/x"], 2, "below /dev"),
        (["--device-deny", "/dev/null"], 2, "every pod has"),
        (["--device-deny", "/etc"], 2, "not a device"),
        (["--device", "/dev/fuse", "--cgroup-set", "memory.max=1"], 125, "controller memory"),
    ):
        refused = pyrun("update", *words, uuid, code=code)
        assert says in refused.err and refused.err.count("hint: ") == 1
    assert not os.path.exists(f"/proc/{pid}/root/dev/fuse"), "all or nothing"
    os.symlink("/etc/passwd", f"/proc/{pid}/root/dev/fuse")
    assert "file exists" in pyrun("update", "--device", "/dev/fuse", uuid, code=125).err


def test_update_of_a_pod_in_the_foreground(pyrun: Pyrun, busybox: Path) -> None:
    with pyrun.start(
        "run", "-i", busybox, "--exec", "/bin/sh", "--", "-c", "echo on; read x; (: </dev/fuse) && (: </dev/loop-control) && echo both"
    ) as running:
        assert running.stdout is not None and running.stdin is not None and running.stdout.readline() == "on\n"
        uuid = json.loads(pyrun("list", "--format", "json", code=0).out)[0]["uuid"]
        for name in ("fuse", "loop-control"):
            pyrun("update", "--device", f"/dev/{name}", uuid, code=0)
        out, err = running.communicate("x\n", timeout=60)
        assert out == "both\n", err


def test_a_node_is_like_the_hosts(shell: Shell, shared: Pyrun) -> None:
    assert shell("stat -c '%a %t %T %u %g' /dev/fuse", "--device", "/dev/fuse") == "600 a e5 0 0".replace(
        "600", f"{stat.S_IMODE(os.stat('/dev/fuse').st_mode):o}"
    )
    assert shell("ls /dev/sub/one", "--device", "/dev/fuse:/dev/sub/one") == "/dev/sub/one"
    before = os.stat("/dev/fuse").st_mode
    assert shell("chmod 0 /dev/fuse; echo $?", "--device", "/dev/fuse") == "0", "it is a node of the pod's own"
    assert os.stat("/dev/fuse").st_mode == before
    loops = shell("ls /dev/block", "--device", "/dev/net:/dev/block") if os.path.isdir("/dev/net") else "tun"
    assert loops.split() == ["tun"], "all nodes of a directory"


@pytest.mark.parametrize(("access", "allowed"), [("r", "r"), ("w", "w"), ("rw", "rw w r"), ("rwm", "rw w r")])
def test_access(shell: Shell, access: str, allowed: str) -> None:
    script = "(: <>/dev/one) && echo rw; (: >/dev/one) && echo w; (: </dev/one) && echo r; true"
    found = shell(f"({script}) 2>/dev/null", "--device", f"/dev/loop-control:/dev/one:{access}")
    assert sorted(found.split()) == sorted(allowed.split())


def test_a_volume_that_is_a_device(shell: Shell) -> None:
    """rkt's way: its place is a volume's, it opens all the same, and nothing else does."""
    look = "(: <>/vol) && echo open; chmod 0 /vol || echo kept"
    assert shell(f"({look}) 2>/dev/null", "-v", "/dev/loop-control:/vol").split() == ["open", "kept"]
    assert shell("(: >/vol) 2>/dev/null || echo no; : </vol && echo yes", "-v", "/dev/loop-control:/vol:ro").split() == ["no", "yes"]


def test_default_start_has_no_program(shared: Pyrun) -> None:
    plan = shared("plan", shared.probe_image, code=0).out
    assert "devices only" not in plan
    plan = shared("plan", "--device", "/dev/fuse", shared.probe_image, code=0).out
    assert "let the pod use these devices only: c 1:3 rwm" in plan and "c 10:229 rwm" in plan and "make device /dev/fuse 10:229" in plan


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("/dev/missing", "no such file"),
        ("fuse", "did you mean /dev/fuse"),
        ("/etc/passwd", "not a device"),
        ("/etc", "no device nodes"),
        ("/dev/fuse:/x", "below /dev"),
        ("/dev/fuse:/dev/../x", "below /dev"),
        ("/dev/fuse:/dev/null", "own place"),
        ("/dev/fuse:/dev/pts/x", "own place"),
        ("/dev/fuse:/dev/x:rwx", "[:rwm]"),
        ("/dev/fuse:/dev/x:r:w", "[:rwm]"),
        ("/dev/fuse:", "below /dev"),
        ("", "value is empty"),
    ],
)
def test_what_is_no_device_is_refused(pyrun: Pyrun, word: str, says: str) -> None:
    refused = pyrun("run", "--device", word, pyrun.probe_image, code=2)
    assert says in refused.err and refused.err.count("hint: ") == 1 and "Traceback" not in refused.err
    assert json.loads(pyrun("list", "--format", "json", code=0).out) == []


def test_the_same_path_twice(pyrun: Pyrun) -> None:
    assert "twice" in pyrun("run", "--device", "/dev/fuse", "--device", "/dev/fuse:/dev/fuse:r", pyrun.probe_image, code=2).err
