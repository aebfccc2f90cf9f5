"""Limits of a pod's cgroup with every controller there: what the kernel then does, seen from inside and from outside."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import COMMAND, TOP, Pyrun

TREE = Path("/sys/fs/cgroup")
BURN = "end=$(($(cut -d. -f1 /proc/uptime) + 4)); while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do :; done; cat /sys/fs/cgroup/cpu.stat"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tools(busybox: Path) -> Path:
    """One image for all files of a machine: to import one takes seconds there."""
    return busybox


@pytest.fixture
def inside(shared: Pyrun, tools: Path) -> Run:
    """Runs a script in a pod with these flags, below a unit of its own that is delegated to it."""

    def run(script: str, *flags: str, properties: tuple[str, ...] = ("Delegate=yes",)) -> subprocess.CompletedProcess[str]:
        unit = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", *(f"--property={text}" for text in properties)]
        words = [COMMAND, "--root", shared.root, "run", *flags, tools, "--exec", "/bin/sh", "--", "-c", script]
        return subprocess.run([*unit, *map(str, words)], capture_output=True, text=True, timeout=300)

    return run


def test_every_limit_reaches_its_file(inside: Run) -> None:
    flags = {
        "memory.max": ("--memory", "64Mi", "67108864"),
        "memory.high": ("--memory-high", "60Mi", "62914560"),
        "memory.low": ("--memory-low", "8Mi", "8388608"),
        "memory.min": ("--memory-min", "4Mi", "4194304"),
        "memory.swap.max": ("--swap", "0", "0"),
        "cpu.max": ("--cpus", "1.5", "150000 100000"),
        "cpu.weight": ("--cpu-weight", "50", "50"),
        "cpu.max.burst": ("--cpu-burst", "20ms", "20000"),
        "cpuset.cpus": ("--cpuset-cpus", "0", "0"),
        "cpuset.mems": ("--cpuset-mems", "0", "0"),
        "pids.max": ("--pids-limit", "30", "30"),
        "io.weight": ("--io-weight", "20", "default 20"),
    }
    there = (TREE / "cgroup.controllers").read_text().split()
    asked = {
        file: how
        for file, how in flags.items()
        if file.partition(".")[0] in there and (file != "io.weight" or (TREE / "system.slice/io.weight").exists())
    }
    assert {"memory.max", "cpu.max", "cpuset.cpus", "pids.max"} <= set(asked), there
    words = [word for flag, value, _ in asked.values() for word in (flag, value)]
    done = inside(
        f"cd /sys/fs/cgroup; for f in {' '.join(asked)}; do echo $f $(cat $f); done",
        *words,
        "--oom-group",
        "--cgroup-set",
        "pids.max=30" if "pids.max" not in asked else "memory.oom.group=1",
    )
    assert done.returncode == 2, "the same file twice"
    done = inside(f"cd /sys/fs/cgroup; for f in {' '.join(asked)}; do echo $f $(cat $f); done; cat memory.oom.group", *words, "--oom-group")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [*(f"{file} {text}" for file, (_, _, text) in asked.items()), "1"]


def test_memory_is_limited(inside: Run) -> None:
    eat = "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48 2>/dev/null"
    assert inside(eat, "--memory", "64Mi", "--swap", "0").returncode == 0
    assert inside(f"exec {eat}", "--memory", "24Mi", "--swap", "0").returncode == 137
    done = inside(f"{eat}; echo $?; grep oom_kill /sys/fs/cgroup/memory.events", "--memory", "24Mi", "--swap", "0")
    assert done.stdout.split()[:3] == ["137", "oom_kill", "1"], done.stderr
    done = inside(f"{eat}; echo alive", "--memory", "24Mi", "--swap", "0", "--oom-group", "--format", "json")
    told = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, told["exit_code"], told["oom"], told["oom_group"]) == (137, 137, True, True), done


def test_processor_time_is_limited(inside: Run) -> None:
    done = inside(BURN, "--cpus", "0.25")
    assert done.returncode == 0 and done.stdout, done
    used = {name: int(number) for name, number in (line.split() for line in done.stdout.splitlines())}
    assert used["nr_throttled"] > 10, done.stderr
    periods = used["nr_periods"] * 25_000
    assert periods * 0.8 < used["usage_usec"] < periods * 1.1, used


def test_a_fork_bomb_stays_in_its_pod(inside: Run) -> None:
    bomb = "i=0; while [ $i -lt 60 ]; do sleep 30 & i=$((i+1)); done 2>/dev/null; true"
    done = inside(
        f"({bomb}); cat /sys/fs/cgroup/pids.current /sys/fs/cgroup/pids.max; grep max /sys/fs/cgroup/pids.events", "--pids-limit", "20"
    )
    lines = done.stdout.split()
    assert lines[1] == "20" and int(lines[0]) <= 20 and int(lines[3]) > 0, done


def test_a_disk_is_limited(inside: Run) -> None:
    if "io" not in (TREE / "cgroup.controllers").read_text().split():
        pytest.fail("the kernel has no io controller")
    begin = time.monotonic()
    done = inside(
        "dd if=/dev/zero of=/x bs=64k count=48 oflag=direct 2>&1; cat /sys/fs/cgroup/io.max",
        "--io-max",
        "/var:wbps=1Mi",
        "--memory",
        "64Mi",
    )
    assert done.returncode == 0, done.stderr
    assert "wbps=1048576" in done.stdout and time.monotonic() - begin > 2.5, done.stdout


def test_ace_78_79_isolators_of_the_image(shared: Pyrun, image: Callable[..., Path], inside: Run, tools: Path) -> None:
    """ACE-78, ACE-79; a flag beats them."""
    isolators = [
        {"name": "resource/memory", "value": {"request": "8Mi", "limit": "40Mi"}},
        {"name": "resource/cpu", "value": {"request": "250m", "limit": "500m"}},
    ]
    made = image(
        "example.com/limited", ["/bin/sh"], app={"isolators": isolators}, edit=lambda made: made.busybox(TOP / "build" / "busybox")
    )
    script = "cd /sys/fs/cgroup; cat memory.max memory.low cpu.max cpu.weight"
    unit = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", "--property=Delegate=yes", COMMAND, "--root", shared.root, "run"]
    for flags, first in (((), "41943040"), (("--memory", "50Mi"), "52428800")):
        words = [*unit, *flags, made, "--exec", "/bin/sh", "--", "-c", script]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
        assert done.stdout.splitlines() == [first, "8388608", "50000 100000", "35"], done.stderr


def test_below_a_unit_that_is_not_delegated(inside: Run) -> None:
    done = inside("true", "--memory", "64Mi", properties=())
    assert done.returncode == 125 and "memory" in done.stderr and "Delegate=yes" in done.stderr and len(done.stderr.splitlines()) == 2
    assert inside("true", properties=()).returncode == 0, "without limits it needs nothing"


def test_a_session_gets_a_scope(shared: Pyrun, tools: Path) -> None:
    """From a shell that is in a scope with others, systemd makes one for the pod; nothing of it is left."""
    pyrun = f"{COMMAND} --root {shared.root} run --memory 64Mi {tools} --exec /bin/sh -- -c"
    script = f"sleep 100 & {pyrun} 'cat /sys/fs/cgroup/memory.max; sleep 3' & sleep 100 & wait %2; code=$?; kill %1 %3; exit $code"
    with subprocess.Popen(
        ["systemd-run", "--quiet", "--scope", "bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stdout.readline() == "67108864\n", running.stderr and running.stderr.read()
        units = subprocess.run(
            ["systemctl", "list-units", "--no-legend", "--plain", "pyrun-*.scope"], capture_output=True, text=True
        ).stdout.split()
        assert subprocess.run(["systemctl", "show", "-p", "Slice,Delegate", units[0]], capture_output=True, text=True).stdout.split() == [
            "Slice=machine.slice",
            "Delegate=yes",
        ]
        assert running.wait(60) == 0
    deadline = time.monotonic() + 60
    while list((TREE / "machine.slice").glob("pyrun-*")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_prepared_pods_find_their_place(shared: Pyrun, tools: Path) -> None:
    """Below a delegated unit by the launcher alone: /proc is all it takes, so no Python is there; elsewhere as `run` does."""
    script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    words = ["prepare", "--rm", "--memory", "64Mi", "--pids-limit", "30", tools, "--exec", "/bin/sh", "--", "-c", script]
    for properties, native in ((["--pipe", "--wait", "--property=Delegate=yes"], True), (["--scope"], False)):
        uuid = shared(*words, code=0).out.strip()
        hidden = ["sh", "-c", 'mount --bind /bin/false "$(readlink -f "$0")" && exec "$@"', COMMAND.parent / "python3"]
        private = ["unshare", "--mount", *hidden] if native else []
        unit = ["systemd-run", "--quiet", *properties, *private, COMMAND, "--root", shared.root, "run-prepared", uuid]
        done = subprocess.run([str(word) for word in unit], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (0, "67108864\n30\n"), done.stderr
    uuid = shared(*words, code=0).out.strip()
    unit = ["systemd-run", "--quiet", "--pipe", "--wait", COMMAND, "--root", shared.root, "run-prepared", uuid]
    done = subprocess.run([str(word) for word in unit], capture_output=True, text=True, timeout=300)
    assert done.returncode == 125 and "hint: put Delegate=yes into " in done.stderr
    shared("rm", uuid, code=0)


def test_a_limit_outlives_a_restart(shared: Pyrun, tools: Path) -> None:
    """Of a pod in the background, which its keeper starts again; `restart` by hand finds a place for it too."""
    script = "cat /sys/fs/cgroup/memory.max; sleep 1; exit 1"
    words = ["run", "--detach", "--keep", "--restart", "on-failure:2", "--memory", "64Mi", tools, "--exec", "/bin/sh", "--", "-c", script]
    session = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root]
    uuid = subprocess.run([*map(str, session), *map(str, words)], check=True, capture_output=True, text=True, timeout=120).stdout.strip()
    shared("wait", uuid, code=1)
    assert shared("logs", uuid, code=0).out.split() == ["67108864"] * 3
    subprocess.run([*map(str, session), "restart", uuid], check=True, timeout=120)
    shared("wait", uuid, code=1)
    assert shared("logs", uuid, code=0).out.split() == ["67108864"] * 6
    shared("rm", uuid, code=0)


def test_library(shared: Pyrun) -> None:
    """A process that starts pods with limits first takes its place beside them."""
    code = (
        "import sys, json; from pyrun.api import Runtime; from pyrun.errors import PyrunError; import pyrun.engine.placement as place\n"
        "run = Runtime(sys.argv[1])\n"
        "try: run.call(sys.argv[2], ['exit', '3'], memory='64Mi', exec='/probe')\n"
        "except PyrunError as error: print(error, '|', error.hint)\n"
        "place.take('x', ['memory', 'pids'])\n"
        "print(run.call(sys.argv[2], ['exit', '3'], memory=64 << 20, pids_limit=9, exec='/probe'))\n"
    )
    words = [TOP / ".venv/bin/python3", "-c", code, shared.root, "example.com/probe"]
    shared.report()
    unit = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", "--property=Delegate=yes"]
    done = subprocess.run([*unit, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert len(done.stdout.splitlines()) == 2, done
    refused, code = done.stdout.splitlines()
    assert "memory" in refused and "other processes" in refused and code == "3", done


def test_figures_and_new_limits_of_a_running_pod(shared: Pyrun, tools: Path) -> None:
    """`stats` agrees with what the app does; `update` holds at once, and a refused one changes nothing."""
    copy = "dd if=/dev/zero bs=1M 2>/dev/null"
    script = f"{copy} of=/dev/shm/held count=16; sleep 1000 & {copy} of=/x count=4 oflag=direct; wait"
    limits = ["--memory", "64Mi", "--pids-limit", "20", "--io-weight", "50"]
    words = [COMMAND, "--root", shared.root, "run", "--detach", *limits, tools, "--exec", "/bin/sh", "--", "-c", script]
    uuid = subprocess.run(
        ["systemd-run", "--quiet", "--scope", *map(str, words)], check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()

    def figures() -> dict[str, int]:
        return dict(json.loads(shared("stats", "--format", "json", uuid, code=0).out)[0])

    deadline = time.monotonic() + 60
    while figures()["memory_bytes"] < 16 << 20 or figures().get("io_written_bytes", 0) < 4 << 20:
        assert time.monotonic() < deadline, figures()
        time.sleep(0.3)
    now = figures()
    assert now["memory_limit_bytes"] == 64 << 20 and now["pids_limit"] == 20 and 3 <= now["pids"] <= 5 and now["cpu_usec"] > 0
    assert "memory" in now["pressure"] and 'pyrun_pod_memory_bytes{uuid="' in shared("stats", "--format", "openmetrics", uuid, code=0).out  # type: ignore[operator]
    group = Path(str(now["cgroup"]))
    refused = shared("update", "--memory", "60Mi", "--cgroup-set", "memory.high=nonsense", uuid, code=125)
    assert "memory.high nonsense" in refused.err
    assert (group / "memory.max").read_text() == f"{64 << 20}\n"
    shared("update", "--memory", "48Mi", "--pids-limit", "max", uuid, code=0)
    assert ((group / "memory.max").read_text(), (group / "pids.max").read_text()) == (f"{48 << 20}\n", "max\n")
    shared("rm", "--force", uuid, code=0)


def test_what_a_limit_leaves_behind(shared: Pyrun, inside: Run) -> None:
    assert inside("true", "--memory", "64Mi").returncode == 0
    assert not [path for path in TREE.rglob("pyrun-*") if path.is_dir() and path.name != "pyrun-supervisor"], os.listdir(TREE)
    assert json.loads(shared("list", "--format", "json", code=0).out) is not None
