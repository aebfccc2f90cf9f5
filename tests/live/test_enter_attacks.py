"""What an app sees and can do while somebody enters its pod (A01 CVE-2019-5736, A02 CVE-2016-9962, A03, SEC-11)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun

import pyrun
from pyrun import native

ENTERS = 60  # five hundred when nobody waits for it
Find = tuple[str, str, str]  # kind, target, device:inode
# An app that may look into everybody, and a helper that stops to be looked at before it executes the program.
SPY = ("--caps-retain", "SYS_PTRACE,CHECKPOINT_RESTORE,DAC_READ_SEARCH,DAC_OVERRIDE", "--exec", "/probe", "--", "spy")
SLOW = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=setsid,execve", "-e", "inject=setsid:delay_enter=100000:when=1"]


class Spy:
    def __init__(self, shared: Pyrun, uuid: Path) -> None:
        self.pyrun = shared
        self.process = shared.start("run", "--uuid-file-save", uuid, shared.probe_image, *SPY)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.uuid = uuid.read_text().strip()

    def enter(self, *flags: str, before: list[str] | None = None, code: int = 0) -> None:
        words = [*(before or []), str(COMMAND), "exec", *flags, self.uuid, "/probe", "exit", str(code)]
        done = subprocess.run(words, env=self.pyrun.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == code, done.stderr

    def found(self) -> list[Find]:
        self.process.terminate()
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        return [(kind, target, place) for kind, target, place in (line.split("\t") for line in out.splitlines())]


@pytest.fixture
def spy(shared: Pyrun, tmp_path: Path) -> Iterator[Spy]:
    one = Spy(shared, tmp_path / "uuid")
    yield one
    one.process.kill()
    one.process.communicate()
    shared("gc", code=0)


def host_files() -> dict[str, str]:
    """Digests of everything of the host's that takes part in a start."""
    package = Path(pyrun.__file__ or "").parent
    files = [Path(os.path.realpath(sys.executable)), COMMAND, Path(native.HELPER), *package.glob("native/*.so")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def judge(found: list[Find], root: Path) -> None:
    """Nothing of the host's may be among it."""
    host = {
        f"{os.stat(path).st_dev:x}:{os.stat(path).st_ino:x}"
        for path in ("/", "/dev/null", os.getcwd(), root, root / "pods", root / "stage")
    }
    for kind, target, place in found:
        if kind in ("exe", "map"):
            assert target.startswith(("/memfd:pyrun-helper", "/memfd:pyrun-plan", "/probe", "/dev/zero")), (kind, target)
        elif kind in ("root", "cwd"):
            assert target == "/" and place not in host, (kind, target, place)
        elif kind == "fd":
            own = ("socket:", "anon_inode:", "/memfd:pyrun", "pipe:", "/dev/null")
            assert target.startswith(own) and place not in host, (kind, target)
        elif kind == "caps":
            assert int(target, 16) & ~0x10000080006 == 0, f"more than the app itself has: {target}"
        else:
            pytest.fail(f"{kind} {target}")


def test_a01_a02_sec11_nothing_of_the_host_is_seen(spy: Spy) -> None:
    before = host_files()
    for number in range(ENTERS):
        spy.enter(*(("--env", "A=B") if number % 10 == 0 else ()))
    found = spy.found()
    judge(found, spy.pyrun.root)
    assert any(kind == "exe" for kind, _, _ in found), "it saw who entered"
    assert host_files() == before


def test_a02_not_even_when_it_has_time_to_look(spy: Spy) -> None:
    """The helper waits where its program is not executed yet; it has the app's capabilities and the pod's root by then."""
    for flags in ((), ("--env", "A=B"), ("--user", "app")):
        spy.enter(*flags, before=SLOW)
    found = spy.found()
    judge(found, spy.pyrun.root)
    targets = {target for kind, target, _ in found if kind == "exe"}
    assert any(target.startswith("/memfd:pyrun-helper") for target in targets), targets


def test_a01_interpreter_line_of_itself(pod_of_scripts: tuple[Pyrun, str]) -> None:
    """`#!/proc/self/exe` runs a sealed copy of the helper, which has no plan and nothing to give."""
    pyrun_, uuid = pod_of_scripts
    before = host_files()
    for _ in range(5):
        done = pyrun_("exec", uuid, "/evil")
        assert done.code != 0
    assert host_files() == before


@pytest.fixture
def pod_of_scripts(shared: Pyrun, image: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[Pyrun, str]]:
    evil = image("example.com/evil", edit=lambda made: made.add("/evil", b"#!/proc/self/exe\n", mode=0o755))
    uuid = tmp_path / "uuid"
    process = shared.start("run", "--uuid-file-save", uuid, evil, "--exec", "/probe", "--", "sleep", "0")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield shared, uuid.read_text().strip()
    process.terminate()
    process.communicate()


def test_no_new_privs_given_up_and_an_app_that_traces(shared: Pyrun, tmp_path: Path) -> None:
    """Its filter would have to go in before the privileges go, in sight of the app: refused."""
    uuid = tmp_path / "uuid"
    flags = ("--insecure-options=new-privs", "--caps-retain", "SYS_PTRACE")
    process = shared.start("run", "--uuid-file-save", uuid, *flags, shared.probe_image, "--exec", "/probe", "--", "sleep", "0")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    refused = shared("exec", uuid.read_text().strip(), "/probe", "exit", "0", code=125)
    assert "may trace" in refused.err and "hint: start it without" in refused.err
    process.terminate()
    process.communicate()


def test_a_terminal_that_the_app_has_put_there(shared: Pyrun, image: Callable[..., Path], tmp_path: Path) -> None:
    """/dev/pts is the app's to spoil if it may mount: what is not a terminal multiplexer is not asked for a terminal."""
    box = image("example.com/spoiler", edit=lambda made: made.busybox())
    uuid = tmp_path / "uuid"
    script = "mount -t tmpfs none /dev/pts; echo x >/dev/pts/ptmx; echo ready; sleep 1000"
    flags = ("--caps-retain", "SYS_ADMIN")
    process = shared.start("run", "--uuid-file-save", uuid, *flags, box, "--exec", "/bin/sh", "--", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    refused = shared("exec", "-t", uuid.read_text().strip(), "/probe", "exit", "0", code=125)
    assert "make a terminal" in refused.err
    process.terminate()
    process.communicate()
