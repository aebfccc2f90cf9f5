"""A command line with limits that comes again: the launcher finds the place for them, and no Python is started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from struct import Struct

import pytest
from harness import COMMAND, Pyrun
from launched import programs, recipes, traced
from places import ENTER, LIMITS, processes
from waiting import phase, wait_until

LAST = Struct("=2I")  # of struct recipe_header: where what it says of limits is, and its size


class Foreground:
    """Runs of an image with busybox and a limit, from a place of their own."""

    def __init__(self, pyrun: Pyrun, image: Path, place: Path, controller: str, folder: Path) -> None:
        self.pyrun, self.place, self.folder = pyrun, place, folder
        self.flag, self.value, self.file, self.content = LIMITS[controller]
        self.image = str(image)
        self.recipes = recipes(pyrun)

    def words(self, script: str, *flags: str, value: str = "") -> list[str]:
        flags = (self.flag, value or self.value, *flags)
        leaf = self.place / "pyrun-supervisor"  # nobody may enter the place itself once controllers are enabled in it
        command = [str(COMMAND), "run", *flags, self.image, "--exec", "/bin/sh", "--", "-c", script]
        return ["sh", "-c", ENTER, str(leaf if leaf.exists() else self.place), *command]

    def __call__(self, script: str, *flags: str, before: tuple[str, ...] = (), value: str = "") -> subprocess.CompletedProcess[str]:
        command = [*(before or traced(self.folder)), *self.words(script, *flags, value=value)]
        self.recipes = recipes(self.pyrun)
        return subprocess.run(command, env=self.pyrun.environment(), capture_output=True, text=True, timeout=60)

    def reset(self) -> None:
        """As before the first run."""
        wait_until(lambda: not processes(self.place / "pyrun-supervisor"))
        os.rmdir(self.place / "pyrun-supervisor")
        (self.place / "cgroup.subtree_control").write_text(f"-{self.file.partition('.')[0]}")

    def had_python(self) -> bool:
        """Whether the process was an interpreter, or had one as its child, which leaves a recipe (native/decide.c)."""
        return "python3" in programs(self.folder) or recipes(self.pyrun) != self.recipes

    def inside(self) -> str:
        return f"cat /sys/fs/cgroup/{self.file}"

    def groups(self) -> list[str]:
        return [path.name for path in self.place.iterdir() if path.is_dir()]

    def left(self) -> list[str]:
        """What is still there of pods, but for what has ended."""
        return [name for name in self.groups() if name != "pyrun-supervisor"] + [
            f"{name}/{uuid}" for name in ("preparing", "running", "garbage") for uuid in phase(self.pyrun, name)
        ]


@pytest.fixture
def foreground(pyrun: Pyrun, busybox: Path, place: Path, controller: str, tmp_path: Path) -> Foreground:
    return Foreground(pyrun, busybox, place, controller, tmp_path)


def test_the_limit_holds_and_no_python_starts(foreground: Foreground) -> None:
    """As the app sees it and as its cgroup says, which goes with the pod; what only goes to the app may be another."""
    first = foreground(foreground.inside(), "-e", "A=1")
    assert (first.returncode, first.stdout, foreground.had_python()) == (0, foreground.content + "\n", True), first.stderr
    foreground.reset()
    again = foreground(f"{foreground.inside()}; echo $A; exit 3", "-e", "A=2")
    assert (again.returncode, again.stdout, again.stderr) == (3, f"{foreground.content}\n2\n", ""), again.stderr
    assert programs(foreground.folder)[:2] == ["sh", "pyrun"] and not foreground.had_python()
    assert foreground.groups() == ["pyrun-supervisor"] and foreground.left() == []


def test_another_limit_is_decided(foreground: Foreground) -> None:
    other = {"2MB=4Mi": ("2MB=6Mi", str(6 << 20)), "30": ("31", "31")}[foreground.value]
    for value, content in ((foreground.value, foreground.content), other):
        for had_python in (True, False):
            done = foreground(foreground.inside(), value=value)
            assert (done.returncode, done.stdout, foreground.had_python()) == (0, content + "\n", had_python), done.stderr
    assert foreground.left() == []


def test_where_it_runs(foreground: Foreground, pyrun: Pyrun) -> None:
    """Beside the leaf that the supervisor is in; the record names the cgroup, so `stats` and `enter` find it."""
    assert foreground("exit 0").returncode == 0
    with subprocess.Popen(foreground.words("exec sleep 1000"), env=pyrun.environment()) as started:
        wait_until(lambda: phase(pyrun, "running"))
        (uuid,) = phase(pyrun, "running")
        group = foreground.place / f"pyrun-{uuid}"
        wait_until(lambda: (group / "cgroup.procs").exists() and processes(group))
        assert (group / foreground.file).read_text().strip() == foreground.content
        assert processes(foreground.place / "pyrun-supervisor") == [str(started.pid)] and processes(foreground.place) == []
        assert os.path.basename(os.readlink(f"/proc/{started.pid}/exe").split(" ")[0]) == "memfd:pyrun-helper"
        shown = pyrun("status", "--format", "json", uuid, code=0).out
        assert f'"{group}"' in shown
        started.terminate()
    assert foreground.left() == []


def test_a_place_where_others_are_is_refused_both_ways(foreground: Foreground) -> None:
    """In Python's words, and nobody else's process is moved; nothing is left."""
    assert foreground("exit 0").returncode == 0
    foreground.reset()
    with subprocess.Popen(["sh", "-c", ENTER, str(foreground.place), "sleep", "1000"]) as other:
        try:
            wait_until(lambda: str(other.pid) in processes(foreground.place))
            for _ in range(2):
                refused = foreground("exit 0")
                assert (refused.returncode, refused.stdout, foreground.had_python()) == (125, "", True)
                assert re.match(r"pyrun: limit the pod \w+: the controller cannot be enabled in \S+/place\nhint: other pro", refused.stderr)
                assert processes(foreground.place) == [str(other.pid)] and foreground.left() == []
        finally:
            other.kill()


@pytest.mark.parametrize("call", ["memfd_create:error=ENOMEM:when=2", "execveat:error=ENOMEM:when=1", "mkdirat:error=EROFS:when=1"])
def test_what_fails_behind_the_place_is_left_to_python(foreground: Foreground, call: str) -> None:
    assert foreground("exit 0").returncode == 0
    log = foreground.folder / "log"
    name = call.partition(":")[0]
    before = ("strace", "-qq", "-o", str(log), "-e", f"trace={name},execve", "-e", f"inject={call}")
    done = foreground(f"{foreground.inside()}; exit 4", before=before)
    assert (done.returncode, done.stdout, done.stderr) == (4, foreground.content + "\n", ""), log.read_text()
    assert "INJECTED" in log.read_text() and "python3" in log.read_text()
    assert foreground.left() == []


@pytest.mark.parametrize("when", ["mkdirat:1", "write:1", "mkdirat:2", "renameat:1", "mkdirat:3", "memfd_create:2", "execveat:1"])
def test_a_start_that_is_killed_leaves_nothing(foreground: Foreground, pyrun: Pyrun, when: str) -> None:
    """Whatever it had made is gone after the next run."""
    assert foreground("exit 0").returncode == 0
    foreground.reset()
    call, _, number = when.partition(":")
    log = foreground.folder / "log"
    before = ("strace", "-qq", "-o", str(log), "-e", f"trace={call},execve", "-e", f"inject={call}:signal=KILL:when={number}")
    killed = foreground("exit 0", before=before)
    assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL) and killed.stdout == "", killed.stderr
    assert "python3" not in log.read_text() and "killed by SIGKILL" in log.read_text()
    wait_until(lambda: not processes(foreground.place))
    for uuid in phase(pyrun, "preparing"):  # it may be somebody's for ten seconds
        os.utime(pyrun.root / "pods" / "preparing" / uuid, (0, 0))
    done = foreground(foreground.inside())
    assert (done.returncode, done.stdout, done.stderr) == (0, foreground.content + "\n", "")
    assert foreground.left() == []


def test_a_supervisor_that_is_killed(foreground: Foreground, pyrun: Pyrun) -> None:
    """The next run removes the cgroup, of which the record speaks."""
    assert foreground("exit 0").returncode == 0
    with subprocess.Popen(foreground.words("sleep 1000"), env=pyrun.environment()) as started:
        wait_until(lambda: phase(pyrun, "running"))
        (uuid,) = phase(pyrun, "running")
        wait_until(lambda: f"pyrun-{uuid}" in foreground.groups() and processes(foreground.place / f"pyrun-{uuid}"))
        started.kill()
    wait_until(lambda: not processes(foreground.place / f"pyrun-{uuid}"))
    assert foreground("exit 5").returncode == 5 and foreground.left() == []


@pytest.mark.parametrize("how", ["another controller", "without an end", "more than there is", "nothing"])
def test_a_recipe_that_is_damaged(foreground: Foreground, pyrun: Pyrun, how: str) -> None:
    """What it says of limits is not to be had, so Python decides."""
    assert foreground("exit 0").returncode == 0
    (path,) = [path for path in (pyrun.root / "cache" / "run").iterdir() if path.name[0] != "."]
    data = bytearray(path.read_bytes())
    place, size = LAST.unpack_from(data, 72)
    words, _, _ = bytes(data[place : place + size]).partition(b"\0")
    assert words.decode() == foreground.file.partition(".")[0]
    if how == "another controller":
        data[place] ^= 1
    elif how == "without an end":
        data[place : place + size] = b"x" * size
    elif how == "more than there is":
        LAST.pack_into(data, 72, place, len(data))
    else:
        LAST.pack_into(data, 72, place, 1)
    path.write_bytes(data)
    done = foreground(foreground.inside())
    assert (done.returncode, done.stdout, done.stderr) == (0, foreground.content + "\n", "")
    assert foreground.had_python() and foreground.left() == []
