"""Terminals of `pyrun-oci`: handed over by a socket, or relayed by a command in the foreground."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import termios
import time
from pathlib import Path

import pexpect
import pytest
from bundles import OCI, Runtime
from consoles import Socket, read_until
from waiting import wait_until


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    made = Runtime(tmp_path, probe)
    made.config["process"]["terminal"] = True
    return made


def test_the_console_socket_gets_the_terminal(oci: Runtime, tmp_path: Path) -> None:
    oci.config["process"]["consoleSize"] = {"height": 33, "width": 111}
    oci.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    oci.command("/bin/sh", "-c", "tty; stty size 2>/dev/null; stat -c %u $(tty); test -c /dev/console && read -r x && echo got $x")
    listener = Socket(tmp_path / "socket")
    oci("create", "--console-socket", tmp_path / "socket", "one")
    master, name = listener.master()
    try:
        assert name.startswith("/dev/pts/")
        assert struct.unpack("4H", fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2] == (33, 111)
        oci("start", "one")
        said = read_until(master, b"/dev/pts/0")
        os.write(master, b"typed\n")
        assert b"1000\r\n" in said + read_until(master, b"got typed")
    finally:
        os.close(master)
        listener.close()
        oci("delete", "--force", "one")


def test_the_console_socket_may_come_a_moment_later(oci: Runtime, tmp_path: Path) -> None:
    """Scripts start who listens in the background, and go on."""
    oci.command("/bin/true")
    words = [oci.program, "--root", oci.root, "create", "--bundle", oci.bundle, "--console-socket", tmp_path / "socket", "one"]
    making = subprocess.Popen(words)
    wait_until((oci.root / "one" / "exec.fifo").exists)
    time.sleep(0.1)
    assert making.poll() is None
    listener = Socket(tmp_path / "socket")
    master, _ = listener.master()
    assert making.wait(10) == 0 and oci.state("one")["status"] == "created"
    oci("delete", "--force", "one")
    os.close(master)
    listener.close()


def test_exec_hands_over_a_terminal_too(oci: Runtime, tmp_path: Path) -> None:
    oci.config["process"]["terminal"] = False
    oci.start_sleeping()
    listener = Socket(tmp_path / "socket")
    oci("exec", "--detach", "--tty", "--console-socket", tmp_path / "socket", "one", "/bin/sh", "-c", "tty; read -r x")
    master, _ = listener.master()
    read_until(master, b"/dev/pts/0")
    os.close(master)
    listener.close()
    oci("delete", "--force", "one")


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_terminal_in_the_foreground_is_relayed(oci: Runtime, verb: str) -> None:
    script = "tty; read -r x; echo got $x; exit 7"
    if verb == "run":
        oci.command("/bin/sh", "-c", script)
        words = ["run", "--bundle", str(oci.bundle), "one"]
    else:
        oci.config["process"]["terminal"] = False
        oci.start_sleeping()
        words = ["exec", "--tty", "one", "/bin/sh", "-c", script]
    child = pexpect.spawn(str(OCI), ["--root", str(oci.root), *words], timeout=60)
    child.expect("/dev/pts/0")
    child.sendline("typed")
    child.expect("got typed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 7
    oci("delete", "--force", "one")


def test_a_terminal_has_to_go_somewhere(oci: Runtime, tmp_path: Path) -> None:
    oci.command("/bin/true")
    assert "needs --console-socket" in oci("create", "one", code=1).stderr
    oci.config["process"]["args"] = ["/bin/true", 0]
    oci.write()
    assert "needs --console-socket" in oci("create", "one", code=1).stderr  # first, whatever else is wrong
    assert "process.args[1]" in oci("run", "one", code=1).stderr
    oci.command("/bin/true")
    assert "--console-socket" in oci("create", "--console-socket", tmp_path / "nobody", "one", code=1).stderr
    oci.config["process"]["terminal"] = False
    oci.command("/bin/true")
    assert "without process.terminal" in oci("create", "--console-socket", tmp_path / "x", "one", code=1).stderr
    assert not oci.leftovers()


def test_nobody_is_left_waiting_for_output(oci: Runtime) -> None:
    """create's caller sees the end of its error stream while the container lives: no process of ours holds it."""
    oci.config["process"]["terminal"] = False
    oci.command("/bin/sleep", "1000")
    with subprocess.Popen(
        [OCI, "--root", oci.root, "create", "one"],
        cwd=oci.bundle,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as create:
        assert create.wait(timeout=60) == 0
        assert create.stderr is not None
        holders = [path for path in Path("/proc").glob("[0-9]*/fd/*") if _is(path, create.stderr.fileno())]
        assert len({path.parts[2] for path in holders}) == 2, "the reader's process, and the container's, whose stream it is"
    oci("delete", "--force", "one")


def _is(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False
