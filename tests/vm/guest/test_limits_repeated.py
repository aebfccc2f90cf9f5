"""Command lines with limits that come again, where all controllers are there: they hold, and no Python is started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from launched import programs, recipes, traced

TREE = Path("/sys/fs/cgroup")
EAT = "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48 2>/dev/null"
SHOW = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max cpuset.cpus"
FLAGS = ("--memory", "64Mi", "--pids-limit", "30", "--cpus", "0.5", "--cpuset-cpus", "0")
SHOWN = "67108864\n30\n50000 100000\n0\n"
SERVICE = ("systemd-run", "--quiet", "--collect", "--pipe", "--wait")
DELEGATED = (*SERVICE, "--property=Delegate=yes")
LOGIN = ("systemd-run", "--quiet", "--scope")
# no Python is there: where nobody else may be in the cgroup, nobody can trace
HIDDEN = ("unshare", "--mount", "sh", "-c", 'mount --bind /bin/false "$(readlink -f "$0")" && exec "$@"', str(COMMAND.parent / "python3"))


@pytest.fixture(autouse=True)
def nothing_is_left(shared: Pyrun) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 60
    while [path for path in TREE.rglob("pyrun-*") if path.is_dir() and path.name != "pyrun-supervisor"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [list((shared.root / "pods" / phase).iterdir()) for phase in ("preparing", "running", "garbage")] == [[], [], []]


def run(shared: Pyrun, image: Path, before: tuple[str, ...], script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [COMMAND, "--root", shared.root, "run", *flags, image, "--exec", "/bin/sh", "--", "-c", script]
    return subprocess.run([*before, *map(str, words)], capture_output=True, text=True, timeout=300)


def test_below_a_delegated_unit(shared: Pyrun, busybox: Path) -> None:
    """What is done in the pod may be something else; the limits are in its cgroup, and the kernel goes by them."""
    assert run(shared, busybox, DELEGATED, "true", *FLAGS).returncode == 0
    hidden = (*DELEGATED, *HIDDEN)
    assert run(shared, busybox, hidden, "true", "--memory", "63Mi").returncode != 0, "which Python has to decide"
    said = run(shared, busybox, hidden, SHOW, *FLAGS)
    assert (said.returncode, said.stdout, said.stderr) == (0, SHOWN, "")
    little = ("--memory", "24Mi", "--swap", "0", "--pids-limit", "20")
    assert run(shared, busybox, DELEGATED, "true", *little).returncode == 0
    assert run(shared, busybox, hidden, f"exec {EAT}", *little).returncode == 137
    bomb = "i=0; while [ $i -lt 60 ]; do sleep 9 & i=$((i+1)); done 2>/dev/null; true"
    said = run(shared, busybox, hidden, f"({bomb}); cat /sys/fs/cgroup/pids.current; grep max /sys/fs/cgroup/pids.events", *little)
    count, _, refused = said.stdout.split()
    assert int(count) <= 20 and int(refused) > 0, said


@pytest.mark.parametrize("flags", [(), ("--cgroup-manager", "systemd"), ("--slice", "batch-again.slice")])
def test_from_a_login(shared: Pyrun, busybox: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """systemd is asked for a scope of this very pod's."""
    flags = ("--memory-high", "60Mi", *flags)  # a line of its own: that of the test above would do here too
    for had_python in (True, False):
        before = recipes(shared)
        said = run(shared, busybox, (*LOGIN, *traced(tmp_path)), SHOW, *FLAGS, *flags)
        assert (said.returncode, said.stdout, said.stderr) == (0, SHOWN, "")
        assert programs(tmp_path)[0] == "pyrun" and (recipes(shared) != before) == had_python
        assert had_python or "python3" not in programs(tmp_path)
    command = [*LOGIN, str(COMMAND), "--root", str(shared.root), "run", *FLAGS, *flags, str(busybox), "--exec", "/bin/sh", "--", "-c"]
    with subprocess.Popen([*command, "echo ready; exec sleep 1000"], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stdout.readline() == "ready\n"
        (uuid,) = [path.name for path in (shared.root / "pods" / "running").iterdir()]
        (group,) = TREE.rglob(f"pyrun-{uuid}")
        assert group.parent == TREE / ("batch.slice/batch-again.slice" if "--slice" in flags else "machine.slice") / f"pyrun-{uuid}.scope"
        assert (group.parent / "pyrun-supervisor" / "cgroup.procs").read_text().split() == [str(started.pid)]
        assert (group / "memory.max").read_text() == f"{64 << 20}\n"
        shown = subprocess.run(["systemctl", "show", "-p", "MemoryMax", group.parent.name], capture_output=True, text=True, check=True)
        assert shown.stdout == f"MemoryMax={80 << 20 if len(flags) > 2 else 'infinity'}\n"
        started.terminate()


def test_a_start_that_is_killed(shared: Pyrun, busybox: Path) -> None:
    """As systemd is asked, and once the pod's cgroup is there: the next run is as ever, and the scope goes."""
    assert run(shared, busybox, LOGIN, "true", *FLAGS).returncode == 0
    for call in ("sendto:signal=KILL:when=1", "execveat:signal=KILL:when=1"):
        kill = ("strace", "-qq", "-o", "/dev/null", "-e", f"trace={call.partition(':')[0]}", "-e", f"inject={call}")
        assert run(shared, busybox, (*LOGIN, *kill), "true", *FLAGS).returncode in (137, -9)
        said = run(shared, busybox, LOGIN, SHOW, *FLAGS)
        assert (said.returncode, said.stdout) == (0, SHOWN), said.stderr


def test_where_it_may_not_be_is_said_both_ways(shared: Pyrun, busybox: Path) -> None:
    """The line was run in another place, so there is a recipe; Python has the words."""
    assert run(shared, busybox, DELEGATED, "true", *FLAGS).returncode == 0
    for _ in range(2):
        said = run(shared, busybox, SERVICE, "true", *FLAGS)
        assert said.returncode == 125 and "is not delegated to" in said.stderr and "hint: put Delegate=yes into " in said.stderr, said
