"""Signals: from the caller through supervisor and init to the app, exactly (F14, SEC-52, SEC-60)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun

Start = Callable[..., "subprocess.Popen[str]"]
FORWARDED = [
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTERM, signal.SIGCONT),
    *(signal.SIGTSTP, signal.SIGURG, signal.SIGXCPU, signal.SIGVTALRM, signal.SIGWINCH, signal.SIGIO, signal.SIGPWR, signal.SIGSYS),
    *(signal.SIGABRT, signal.SIGTRAP, signal.SIGRTMIN, signal.SIGRTMIN + 5, signal.SIGRTMAX),
]


@pytest.fixture
def start(shared: Pyrun) -> Iterator[Start]:
    """Starts the probe with a command and waits until it says ready."""
    running: list[subprocess.Popen[str]] = []

    def begin(
        *command: str, flags: tuple[str | Path, ...] = (), image: Path | None = None, program: str = "/probe"
    ) -> subprocess.Popen[str]:
        words = ["run", *flags, image or shared.probe_image, "--exec", program, "--", *command]
        one = shared.start(*words)
        running.append(one)
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
        return one

    yield begin
    for one in running:
        one.kill()
        one.communicate()


@pytest.mark.parametrize("number", FORWARDED, ids=lambda number: f"signal{int(number)}")
def test_forwarded(start: Start, number: int) -> None:
    one = start("trap", str(int(number)))
    one.send_signal(number)
    out, err = one.communicate(timeout=60)
    assert (out, err, one.returncode) == (f"{int(number)}\n", "", int(number))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGQUIT, signal.SIGRTMIN])
def test_default_actions_are_taken(start: Start, number: int) -> None:
    """The app is not process 1, for which the kernel would ignore them."""
    one = start("sleep", "0")
    one.send_signal(number)
    assert one.wait(10) == 128 + number


def test_what_the_app_ignores_changes_nothing(start: Start, busybox: Path) -> None:
    one = start("-c", "trap '' TERM INT HUP; echo ready; read x; echo $x", flags=("-i",), image=busybox, program="/bin/sh")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        one.send_signal(number)
    out, _ = one.communicate("still here\n", timeout=60)
    assert (out, one.returncode) == ("still here\n", 0)


def test_signals_of_the_supervisors_own_do_not_reach_the_app(start: Start, busybox: Path) -> None:
    script = "trap 'echo PIPE' PIPE; trap 'echo TTIN' TTIN; trap 'echo TTOU' TTOU; echo ready; read x"
    one = start("-c", script, flags=("-i",), image=busybox, program="/bin/sh")
    for number in (signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD):
        one.send_signal(number)
    assert one.communicate("\n", timeout=60)[0] == ""


def test_stop_and_continue(start: Start) -> None:
    """SIGSTOP stops the supervisor alone, as it must; nothing is lost."""
    one = start("trap", "10")
    one.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    one.send_signal(signal.SIGUSR1)
    time.sleep(0.05)
    assert one.poll() is None
    one.send_signal(signal.SIGCONT)
    assert one.wait(10) == 10


def test_a_storm(start: Start, busybox: Path) -> None:
    """F14: none stops the supervisor, none is mistaken for another."""
    script = "trap 'n=$((n+1))' USR1 USR2 HUP INT WINCH; n=0; trap 'echo $n; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    one = start("-c", script, image=busybox, program="/bin/sh")
    choice = random.Random(1)
    for _ in range(1000):
        one.send_signal(choice.choice([signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGWINCH, signal.SIGCHLD]))
    one.terminate()
    out, _ = one.communicate(timeout=60)
    assert one.returncode == 9
    assert int(out) > 0


def test_two_interrupts_leave_nothing(pyrun: Pyrun) -> None:
    """A second ^C shortens nothing that has to be done."""
    one = pyrun.start("run", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0")
    assert one.stdout is not None and one.stdout.readline() == "ready\n"
    one.send_signal(signal.SIGINT)
    one.send_signal(signal.SIGINT)
    one.communicate(timeout=60)
    assert one.returncode == 130
    assert os.listdir(pyrun.root / "pods" / "running") == os.listdir(pyrun.root / "pods" / "garbage") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_at_any_moment_of_a_start(pyrun: Pyrun, number: int) -> None:
    """Whatever the signal hits, Python, helper or app, the process ends by it and the next command tidies up."""
    pyrun.report()
    choice = random.Random(int(number))
    codes = set()
    for _ in range(25):
        one = pyrun.start(
            "run", "-e", f"N={choice.random()}", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "5", stdout=subprocess.DEVNULL
        )
        time.sleep(choice.random() * 0.05)
        one.send_signal(number)
        one.communicate(timeout=60)
        codes.add(one.returncode)
    assert codes <= {-number, 128 + number}, codes
    for made in (pyrun.root / "pods" / "preparing").iterdir():
        os.utime(made, (0, 0))  # a directory that was made a moment ago could be somebody's who has not locked it yet
    pyrun("gc", code=0)
    assert [name for phase in ("preparing", "running", "garbage") for name in os.listdir(pyrun.root / "pods" / phase)] == []


def status(report: dict[str, Any]) -> dict[str, int]:
    return {name: int(report["status"][name], 16) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")}


def test_the_app_starts_with_default_signals(shared: Pyrun) -> None:
    assert set(status(shared.report()).values()) == {0}
    assert set(status(json.loads(shared("run", "-t", shared.probe_image, code=0).out)).values()) == {0}


def test_a_signal_to_the_whole_group_arrives_once(start: Start, busybox: Path) -> None:
    """^C on the caller's terminal goes to pyrun's process group; the app is in a session of its own."""
    one = start("-c", "trap 'echo got' INT; trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done", image=busybox, program="/bin/sh")
    assert os.getpgid(one.pid) == os.getpgid(0)
    one.send_signal(signal.SIGINT)
    time.sleep(0.2)
    one.terminate()
    out, _ = one.communicate(timeout=60)
    assert (out, one.returncode) == ("got\n", 3)
