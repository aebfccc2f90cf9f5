"""`stats` and `update` where the kernel counts little: processor time and pressure are in every cgroup."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun

BURN = "while :; do :; done"


@pytest.fixture
def burner(pyrun: Pyrun, busybox: Path) -> Iterator[str]:
    uuid = pyrun("run", "--detach", "--pod-name", "burner", busybox, "--exec", "/bin/sh", "--", "-c", BURN, code=0).out.strip()
    yield uuid
    pyrun("rm", "--force", uuid, code=0)


def test_figures(pyrun: Pyrun, burner: str) -> None:
    def used() -> int:
        (found,) = json.loads(pyrun("stats", "--format", "json", "burner", code=0).out)
        assert found["uuid"] == burner and found["cpu_usec"] >= found["cpu_user_usec"]
        assert set(found["pressure"]["cpu"]["some"]) == {"avg10", "avg60", "avg300", "total"}
        return int(found["cpu_usec"])

    begin, time_then = used(), time.monotonic()
    while (now := used()) == begin:
        assert time.monotonic() - time_then < 30
    assert now - begin < (time.monotonic() - time_then) * 1.2e6, "one process cannot use more"


def test_forms(pyrun: Pyrun, burner: str) -> None:
    head, row = pyrun("stats", "--no-stream", code=0).out.splitlines()
    assert head.split()[:3] == ["UUID", "NAME", "CPU"] and row.split()[:2] == [burner[:8], "burner"]
    assert re.fullmatch(r"\d+\.\d%", row.split()[2])
    text = pyrun("stats", "--format", "openmetrics", code=0).out
    assert text.endswith("# EOF\n") and f'pyrun_pod_cpu_seconds_total{{uuid="{burner}",name="burner"}}' in text
    for line in text.splitlines():
        assert re.fullmatch(r'# (TYPE \w+ (gauge|counter)|EOF)|\w+\{(\w+="[^"]*",?)+\} \d+(\.\d+)?', line), line


def test_only_what_runs_has_figures(pyrun: Pyrun) -> None:
    assert pyrun("stats", "--no-stream", code=0).out.split()[0] == "UUID"
    uuid = pyrun("prepare", pyrun.probe_image, code=0).out.strip()
    for verb in (["stats"], ["update", "--pids-limit", "9"]):
        refused = pyrun(*verb, uuid, code=125)
        assert "does not run" in refused.err and refused.err.count("hint: ") == 1


def test_a_limit_that_cannot_hold(pyrun: Pyrun, burner: str) -> None:
    """Here no controller is enabled for pods; nothing is changed, and the message says which one is missing."""
    assert "memory" in pyrun("update", "--memory", "64Mi", "burner", code=125).err
    assert "needs a limit" in pyrun("update", "burner", code=2).err
    assert "twice" in pyrun("update", "--memory", "64Mi", "--cgroup-set", "memory.max=1", "burner", code=2).err


def test_a_start_with_a_limit_that_cannot_hold_leaves_nothing(pyrun: Pyrun) -> None:
    for words in (["run"], ["run", "--detach"]):
        failed = pyrun(*words, "--memory", "64Mi", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=125)
        assert "limit the pod memory: the controller cannot be enabled in /sys/fs/cgroup" in failed.err
        assert failed.err.count("hint: ") == 1 and failed.out == ""
    assert json.loads(pyrun("list", "--format", "json", code=0).out) == []


def test_an_endless_table_ends_with_its_reader(pyrun: Pyrun, burner: str) -> None:
    """Not on a terminal it is printed once."""
    done = subprocess.run([COMMAND, "stats"], env=pyrun.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2


def test_pressure_calls_back(pyrun: Pyrun, busybox: Path) -> None:
    """More than there are processors want to run: the kernel says so, until the pod ends."""
    import os
    import threading

    import pyrun as library

    script = f"for i in $(seq {2 * (os.cpu_count() or 1) + 2}); do ({BURN}) & done; wait"
    uuid = pyrun("run", "--detach", busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()
    pod = library.Runtime(str(pyrun.root)).pod(uuid)
    called = threading.Event()
    stop = pod.on_pressure(called.set, "cpu", stall=0.05, window=2.0)
    assert called.wait(30)
    with pod.pressure("cpu", stall=0.05, window=2.0) as trigger:
        assert trigger.wait(30)
    with pod.pressure("cpu", stall=0.05, window=2.0) as trigger:
        pyrun("rm", "--force", uuid, code=0)
        with pytest.raises(library.errors.StateError, match="ended"):
            while True:
                trigger.wait(30)
    stop()
    stop()
    for words in (
        {"resource": "disk"},
        {"resource": "cpu", "stall": 3.0},
        {"resource": "cpu", "window": 0.1},
        {"resource": "cpu", "kind": "most"},
    ):
        with pytest.raises(library.errors.UsageError):
            pod.pressure(**{"stall": 0.1, **words})
    with pytest.raises(library.errors.StateError):
        pod.pressure("cpu", stall=0.1)


def test_a_pause_has_a_deadline(pyrun: Pyrun, busybox: Path) -> None:
    """All of it stops in time, or none of it does."""
    script = f"for i in $(seq 50); do ({BURN}) & done; wait"
    uuid = pyrun("run", "--detach", busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()
    group = Path(json.loads(pyrun("status", "--format", "json", uuid, code=0).out)["cgroup"])
    for seconds in ("0", "0", "60"):
        done = pyrun("pause", "--timeout", seconds, uuid)
        paused = "frozen 1" in (group / "cgroup.events").read_text()
        assert (group / "cgroup.freeze").read_text().strip() == ("1" if done.code == 0 else "0")
        assert paused == (done.code == 0) or done.code == 125, done
        assert done.code == 0 or ("more than 0 seconds" in done.err and done.err.count("hint: ") == 1)
        pyrun("resume", uuid, code=0)
    assert done.code == 0
    pyrun("rm", "--force", uuid, code=0)
