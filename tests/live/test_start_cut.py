"""A start that is cut off before the app runs: what is said is what happened, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Pyrun
from waiting import phase, wait_until

KILLED = "pyrun: run the pod's supervisor: signal 9 killed it before the app ran\nhint: nothing is left of that start: try again"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def slow(image: Callable[..., Path], tmp_path: Path) -> tuple[str | Path, ...]:
    """An image whose app has to wait for a handler; that one says in `began` that it is there."""

    def edit(made: object) -> None:
        made.busybox()  # type: ignore[attr-defined]
        handler = {"name": "pre-start", "exec": ["/bin/sh", "-c", "echo >/out/began; exec sleep 1000"]}
        app = {"exec": ["/bin/sh", "-c", "echo ran"], "user": "0", "group": "0", "eventHandlers": [handler]}
        made.manifest["app"] = app  # type: ignore[attr-defined]

    (tmp_path / "out").mkdir()
    return image(edit=edit), "-v", f"{tmp_path}/out:/out"


@pytest.mark.parametrize("words", [("--detach",), ("--restart", "always")], ids=["detached", "foreground"])
def test_the_supervisor_is_killed(pyrun: Pyrun, slow: tuple[str | Path, ...], tmp_path: Path, words: tuple[str, ...]) -> None:
    with pyrun.start("run", *words, *slow) as process:
        wait_until((tmp_path / "out" / "began").exists)
        keeper = children(process.pid)[0] if "--detach" in words else process.pid
        (helper,) = [pid for pid in children(keeper) if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"pyrun: pod ")]
        os.kill(helper, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (125, "") and err.startswith(KILLED) and err.count("\n") == 2
    assert phase(pyrun, "running") == phase(pyrun, "exited") == []


@pytest.mark.parametrize("detached", [True, False])
def test_the_supervisor_has_no_descriptors(pyrun: Pyrun, detached: bool) -> None:
    uuid = pyrun("prepare", "--restart", "always", pyrun.probe_image, code=0).out.strip()
    pyrun.within = ["sh", "-c", 'ulimit -n 20; exec "$0" "$@"']
    said = pyrun("run-prepared", *(["--detach"] if detached else []), uuid, code=125)
    assert said.err == "pyrun: run the pod's supervisor: too many open files\nhint: too many open files: raise ulimit -n\n"
    assert phase(pyrun, "running") == phase(pyrun, "exited") == []


SCRIPT = """
import os, sys
from pyrun import native
from pyrun.cli.main import main
bad = os.open(sys.argv.pop(1), os.O_RDONLY)
native.helper = lambda directory: bad
sys.exit(main(sys.argv[1:]))
"""


def test_the_helper_is_no_program(pyrun: Pyrun, tmp_path: Path) -> None:
    """Found by the process that would become it: what it has made by then is undone, by the descriptors that it had."""
    pyrun("fetch", pyrun.probe_image, code=0)
    (tmp_path / "helper").write_text("no program")
    (tmp_path / "helper").chmod(0o755)
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "helper"), "run", "example.com/probe"]
    said = subprocess.run(words, env=pyrun.environment(), capture_output=True, text=True, timeout=60)
    told = "pyrun: start the native helper: exec format error\nhint: is the installation complete?\n"
    assert (said.returncode, said.stderr, said.stdout) == (125, told, "")
    assert phase(pyrun, "running") == phase(pyrun, "garbage") == []
    assert not [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("pyrun-")]
