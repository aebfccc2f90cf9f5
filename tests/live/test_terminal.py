"""Terminals: the app's own, relayed to the caller's; sizes, keys and signals; the caller's comes back as it was (A09, A21)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from canary import Canary
from harness import COMMAND, Pyrun
from mkaci import Image

Make = Callable[..., Path]
Spawn = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def spawn(shared: Pyrun, busybox: Path) -> Iterator[Spawn]:
    """Starts `pyrun run -it` with a shell script on a terminal of 33 rows and 99 columns."""
    running: list[pexpect.spawn[str]] = []

    def start(script: str, *flags: str, size: tuple[int, int] = (33, 99)) -> pexpect.spawn[str]:
        words = ["run", *(flags or ("-it",)), str(busybox), "--exec", "/bin/sh", "--", "-c", script]
        one = pexpect.spawn(str(COMMAND), words, env=shared.environment(), timeout=60, dimensions=size, encoding="utf-8")
        running.append(one)
        return one

    yield start
    for one in running:
        one.close(force=True)


def finish(one: pexpect.spawn[str]) -> int:
    one.expect(pexpect.EOF)
    one.close()
    assert one.exitstatus is not None
    return one.exitstatus


def test_a_terminal_of_its_own(spawn: Spawn) -> None:
    script = (
        "tty; ls -1 /dev/pts; stty size; stat -c '%a %u %g %t' /dev/console; for fd in 0 1 2; do test -t $fd && echo t$fd; done; exit 42"
    )
    one = spawn(script)
    assert finish(one) == 42
    assert one.before is not None
    lines = one.before.split("\r\n")
    assert lines[:4] == ["/dev/pts/0", "0", "ptmx", "33 99"]
    assert lines[4] == "620 0 5 88"
    assert lines[5:8] == ["t0", "t1", "t2"]


def test_the_controlling_terminal(spawn: Spawn) -> None:
    one = spawn("exec </dev/null; echo to the terminal >/dev/tty; echo to the console >/dev/console; cat /proc/self/stat")
    finish(one)
    assert one.before is not None
    assert "to the terminal" in one.before and "to the console" in one.before
    stat = one.before.strip().splitlines()[-1].split()
    assert stat[5] == "2" and stat[6] == str(136 << 8)  # session of process 2, terminal /dev/pts/0


def test_it_belongs_to_the_apps_user(spawn: Spawn) -> None:
    one = spawn("stat -c '%u %a' /dev/console $(tty); echo works >/dev/console", "-it", "--user", "app")
    assert finish(one) == 0
    assert one.before is not None and one.before.split("\r\n")[:3] == ["1000 620", "1000 620", "works"]


def test_keys_reach_the_app_unread(spawn: Spawn) -> None:
    one = spawn("stty raw -echo; echo ready; head -c 6 | od -An -c; stty sane")
    one.expect("ready")
    one.send("\x03\x04\x1a\x1c\x11\r")
    one.expect(r"003 +004 +032 +034 +021 +\\r")
    assert finish(one) == 0


def test_interrupts_are_the_apps(spawn: Spawn) -> None:
    one = spawn("trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done")
    one.expect("ready")
    one.sendcontrol("c")
    one.expect("caught")
    assert finish(one) == 7


def test_suspend_stays_inside(spawn: Spawn) -> None:
    """^Z stops nothing of pyrun: a shell inside has job control of its own."""
    one = spawn("PS1='in> ' exec sh -i")
    one.expect("in> ")
    one.sendline("sleep 100")
    time.sleep(0.1)
    one.sendcontrol("z")
    one.expect("Stopped")
    one.sendline("kill -9 %1; echo gone")
    one.expect("\r\ngone\r\n")
    one.sendline("exit 3")
    one.expect("Killed")  # the shell noticed, and refused once
    one.sendline("exit 3")
    assert finish(one) == 3


def test_end_of_file(spawn: Spawn) -> None:
    one = spawn("cat; echo over")
    one.sendline("typed")
    one.expect("typed\r\ntyped\r\n")
    one.sendeof()
    one.expect("over")
    assert finish(one) == 0


def test_resizing(spawn: Spawn) -> None:
    one = spawn("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
    one.expect("ready")
    one.setwinsize(50, 120)
    one.expect("50 120")
    one.setwinsize(10, 20)
    one.expect("10 20")
    one.kill(15)
    assert finish(one) == 143


def test_much_output(spawn: Spawn) -> None:
    one = spawn("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end-of-it")
    one.expect("end-of-it", timeout=60)
    text = one.before
    assert text is not None and [int(word) for word in re.findall(r"line (\d+)\r\n", text)] == list(range(20000))
    assert finish(one) == 0


def test_the_last_words_are_not_lost(spawn: Spawn) -> None:
    for _ in range(10):
        one = spawn("printf last")
        one.expect(pexpect.EOF)
        assert one.before == "last"


def attributes(fd: int) -> list[Any]:
    return termios.tcgetattr(fd)


@pytest.mark.parametrize("end", ["exit", "signal", "kill", "failure"])
def test_the_callers_terminal_comes_back(shared: Pyrun, busybox: Path, end: str) -> None:
    """Raw while the app runs, exactly as before afterwards, however the app ended."""
    master, slave = os.openpty()
    try:
        before = attributes(slave)
        script = "echo ready; head -n 1; " + ("kill -9 $$" if end == "kill" else "exit 5")
        program = "/missing" if end == "failure" else "/bin/sh"
        running = shared.start("run", "-it", busybox, "--exec", program, "--", "-c", script, stdin=slave, stdout=slave, stderr=slave)
        if end != "failure":
            read_until(master, b"ready")
            assert attributes(slave)[3] & (termios.ECHO | termios.ICANON | termios.ISIG) == 0
            if end == "signal":
                running.terminate()
            else:
                os.write(master, b"\r")
        assert running.wait(20) == {"exit": 5, "signal": 143, "kill": 137, "failure": 127}[end]
        assert attributes(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def read_until(fd: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([fd], [], [], 10)[0], f"only {seen!r} came"
        seen += os.read(fd, 4096)
    return seen


def test_a_terminal_without_input(shared: Pyrun, busybox: Path) -> None:
    """-t alone: output through a terminal, nothing typed."""
    result = shared("run", "-t", busybox, "--exec", "/bin/sh", "--", "-c", "test -t 1 && tty; echo done", input="not for the app\n", code=0)
    assert result.out == "/dev/pts/0\r\ndone\r\n"


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\ntwo", ""])
def test_piped_input(shared: Pyrun, busybox: Path, text: str) -> None:
    """-it below a pipe: its end is the ^D that a person would type, in the middle of a line twice."""
    result = shared("run", "-it", busybox, "--exec", "/bin/sh", "--", "-c", "stty -echo; echo ready; cat", input=text, code=0)
    assert result.out.replace("\r\n", "\n").partition("ready\n")[2] == text


def test_size_is_taken_from_any_stream(shared: Pyrun, busybox: Path) -> None:
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 21, 71, 0, 0))
        running = shared.start("run", "-t", busybox, "--exec", "/bin/stty", "--", "size", stdin=subprocess.DEVNULL, stdout=slave)
        assert b"21 71" in read_until(master, b"71")
        assert running.wait(20) == 0
        running.communicate()
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("flags", [(), ("-i",), ("-it",)], ids=["plain", "input", "terminal"])
def test_nothing_is_typed_into_the_callers_terminal(shared: Pyrun, flags: tuple[str, ...]) -> None:
    """A21, SEC-21: neither with the filter nor, on a terminal that is not the app's own, without it."""
    for insecure in ("none", "seccomp"):
        master, slave = os.openpty()
        try:
            words = ["run", *flags, "--insecure-options", insecure, shared.probe_image, "--exec", "/probe", "--", "try", "tiocsti"]
            running = shared.start(*words, stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True)
            said = read_until(master, b"}")
            assert running.wait(20) == 0
            if insecure == "none":
                assert json.loads(said)["errno"] in ("EPERM", "ENOTTY")
            waiting = struct.unpack("i", fcntl.ioctl(slave, termios.FIONREAD, b"\0\0\0\0"))[0]
            assert waiting == 0
            running.communicate()
        finally:
            os.close(master)
            os.close(slave)


def test_no_controlling_terminal_without_one(shared: Pyrun) -> None:
    """The app is a session leader of its own: it cannot reach the caller's terminal by /dev/tty."""
    program = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    command = [sys.executable, "-c", program, COMMAND, "run", "-i", shared.probe_image, "--exec", "/probe", "--", "try", "open", "/dev/tty"]
    done = subprocess.run(command, env=shared.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["errno"] == "ENXIO"


def test_planted_terminals_are_not_followed(shared: Pyrun, image: Make, canary: Canary) -> None:
    """A09, A12."""

    def edit(made: Image) -> None:
        made.busybox()
        for name in ("console", "tty", "null", "ptmx", *[f"pts/{number}" for number in range(10)]):
            made.symlink(f"/dev/{name}", str(canary.path / "console"))

    path = image(
        "example.com/planted", ["/bin/sh", "-c", "echo overwritten >/dev/console; chmod 777 /dev/console; stat -c %t,%T $(tty)"], edit=edit
    )
    for flags in (["-it"], ["-t"]):
        assert "overwritten\r\n88,0" in shared("run", *flags, path, input="", code=0).out
    plain = image("example.com/planted", ["/bin/sh", "-c", "echo overwritten >/dev/console; stat -c %t,%T /dev/console"], edit=edit)
    assert shared("run", plain, code=0).out == "1,3\n"


@pytest.mark.parametrize("direction", ["output", "input"])
def test_a_stuck_relay_still_passes_signals_on(shared: Pyrun, busybox: Path, direction: str) -> None:
    """F34: nobody reads what the app writes, or the app never reads what is typed."""
    script = "echo ready; " + ("exec yes" if direction == "output" else "stty raw -echo; echo set; exec sleep 100")
    running = shared.start("run", "-it", busybox, "--exec", "/bin/sh", "--", "-c", script, stderr=subprocess.DEVNULL)
    assert running.stdin is not None and running.stdout is not None
    try:
        assert running.stdout.readline() == "ready\n"
        if direction == "input":
            assert running.stdout.readline() == "set\n"
            os.set_blocking(running.stdin.fileno(), False)
            for _ in range(100):
                try:
                    os.write(running.stdin.fileno(), b"x" * 4096)
                except BlockingIOError:
                    time.sleep(0.002)
        else:
            time.sleep(0.3)
        running.terminate()
        assert running.wait(5) == 143
    finally:
        running.kill()
        running.communicate()


def test_a_slow_reader_gets_everything(shared: Pyrun, busybox: Path) -> None:
    script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done"
    running = shared.start("run", "-t", busybox, "--exec", "/bin/sh", "--", "-c", script, stdin=subprocess.DEVNULL)
    assert running.stdout is not None
    time.sleep(0.5)  # the app has ended or waits
    out, _ = running.communicate(timeout=60)
    assert out.split() == [word for number in range(30000) for word in ("line", str(number))]
    assert running.returncode == 0


def test_a_reader_who_leaves_hangs_up(shared: Pyrun, busybox: Path) -> None:
    running = shared.start("run", "-t", busybox, "--exec", "/bin/yes", stdin=subprocess.DEVNULL)
    assert running.stdout is not None and running.stdout.readline() == "y\n"
    running.stdout.close()
    assert running.wait(5) in (129, 1)  # SIGHUP, or the failed write
    assert running.stderr is not None
    running.stderr.close()


def test_output_after_the_terminal_was_closed_and_opened_again(spawn: Spawn) -> None:
    one = spawn("exec 3<&- 0</dev/null >/dev/null 2>&1; sleep 0.2; echo again >/dev/tty; exit 4")
    one.expect("again")
    assert finish(one) == 4
