"""A signal that comes while a supervisor starts: it is the pod's, or the pod is not there; nothing is left for others to sweep."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from scale import scaled
from waiting import phase, wait_until

APP = ("--exec", "/bin/sh", "--", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done")
FIRST = {"launcher": 2, "keeper": 3}  # the helper's own first call, arch_prctl(2): who became it had called that before


def prepared(pyrun: Pyrun, busybox: Path) -> str:
    return pyrun("prepare", "--rm", busybox, *APP, code=0).out.strip()


def lines(pyrun: Pyrun, busybox: Path, who: str) -> list[str]:
    """The command that becomes a supervisor by way of `who`."""
    if who == "keeper":
        return [str(COMMAND), "run-prepared", prepared(pyrun, busybox)]
    words = [str(COMMAND), "run", str(busybox), *APP]
    return [sys.executable, "-m", "pyrun", *words[1:]] if who == "Python" else words


def leave_recipe(pyrun: Pyrun, busybox: Path) -> None:
    pyrun("list", code=0)
    for _ in range(2):
        with pyrun.start("run", busybox, *APP) as process:
            wait_until(lambda: phase(pyrun, "running") != [])
            process.terminate()
            process.communicate(timeout=60)
        assert process.returncode in (7, 143)
    assert phase(pyrun, "running") == []


@pytest.mark.parametrize("who", ["launcher", "keeper", "Python"])
def test_right_after_the_exec(pyrun: Pyrun, busybox: Path, who: str) -> None:
    """Before the helper has blocked anything itself."""
    pyrun("fetch", busybox, code=0)
    leave_recipe(pyrun, busybox)
    count = FIRST.get(who, 0)
    calls = f"arch_prctl:signal=TERM:when={count}" if count else "prctl:signal=TERM:when=1"
    inject = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls.partition(':')[0]}", "-e", f"inject={calls}"]
    begun = time.monotonic()
    done = subprocess.run([*pyrun.within, *inject, *lines(pyrun, busybox, who)], env=pyrun.environment(), capture_output=True, timeout=60)
    assert done.returncode in (7, 143), done
    assert phase(pyrun, "running") == [] and time.monotonic() - begun < 30


@pytest.mark.stress
@pytest.mark.parametrize("who", ["launcher", "keeper"])
def test_at_any_time(pyrun: Pyrun, busybox: Path, who: str) -> None:
    pyrun("fetch", busybox, code=0)
    leave_recipe(pyrun, busybox)
    chance = random.Random(1)
    ends: dict[int, int] = {}
    for _ in range(scaled(60)):
        process = subprocess.Popen([*pyrun.within, *lines(pyrun, busybox, who)], env=pyrun.environment(), stderr=subprocess.PIPE)
        time.sleep(chance.uniform(0, 0.006))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        ends[process.returncode] = ends.get(process.returncode, 0) + 1
        assert phase(pyrun, "running") == [], ends
        for uuid in phase(pyrun, "prepared"):
            pyrun("rm", uuid, code=0)
    assert set(ends) <= {7, 143, -signal.SIGTERM}, ends


@pytest.mark.parametrize("who", ["launcher", "keeper", "Python"])
def test_the_app_has_no_signal_blocked(pyrun: Pyrun, busybox: Path, who: str) -> None:
    """Nor has it when the caller had: the mask is the pod's own."""
    words = [busybox, "--exec", "/bin/sh", "--", "-c", "grep Sig /proc/self/status"]
    pyrun("fetch", busybox, code=0)
    pyrun("run", *words, code=0)

    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})

    command = [str(COMMAND), "run", *map(str, words)]
    if who == "keeper":
        command = [str(COMMAND), "run-prepared", pyrun("prepare", *words, code=0).out.strip()]
    elif who == "Python":
        command = [sys.executable, "-m", "pyrun", *command[1:]]
    for before in (None, block):
        if who == "keeper" and before is not None:
            command[-1] = pyrun("prepare", *words, code=0).out.strip()
        done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=60, preexec_fn=before)
        found = dict(line.split() for line in done.stdout.splitlines())
        assert done.returncode == 0 and int(found["SigBlk:"], 16) == 0, done
    assert os.listdir(pyrun.root / "pods" / "running") == []
