"""Terminals of pods in the background: any number of clients, sizes, leaving and coming back, the end, who is let in."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from harness import COMMAND, Pyrun
from waiting import nothing_kept

from pyrun.cli.attach import detach_keys
from pyrun.errors import UsageError

Detach = Callable[..., str]
Attach = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def detach(shared: Pyrun, busybox: Path) -> Iterator[Detach]:
    """Runs a shell script in the background on a terminal; returns the pod's UUID."""

    def begin(script: str, *flags: str) -> str:
        words = ("run", "--detach", "-it", "--log-driver", "k8s-file", *flags)
        return shared(*words, busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()

    with nothing_kept(shared):
        yield begin


@pytest.fixture
def attach(shared: Pyrun) -> Iterator[Attach]:
    clients: list[pexpect.spawn[str]] = []

    def begin(uuid: str, *flags: str, size: tuple[int, int] = (33, 99)) -> pexpect.spawn[str]:
        words = ["attach", *flags, uuid]
        one = pexpect.spawn(str(COMMAND), words, env=shared.environment(), timeout=60, dimensions=size, encoding="utf-8")
        clients.append(one)
        deadline = time.monotonic() + 60
        while "--no-stdin" not in flags and termios.tcgetattr(one.child_fd)[3] & termios.ICANON and one.isalive():
            assert time.monotonic() < deadline, "not attached"
            time.sleep(0.01)
        return one

    yield begin
    for one in clients:
        one.close(force=True)


LOOP = 'while read line; do test "$line" = end && exit 7; echo "got $line, $(stty size)"; done'


def finish(one: pexpect.spawn[str]) -> int:
    one.expect(pexpect.EOF)
    one.close()
    assert one.exitstatus is not None
    return one.exitstatus


def test_typing_and_the_end(detach: Detach, attach: Attach) -> None:
    one = attach(detach(LOOP))
    one.sendline("hello")
    one.expect("got hello, 33 99\r\n")
    one.setwinsize(40, 120)
    one.sendline("again")
    one.expect("got again, (40 120|33 99)\r\n")
    one.sendline("more")
    one.expect("got more, 40 120\r\n")
    one.sendline("end")
    assert finish(one) == 7


def test_several_see_the_same_and_may_leave(shared: Pyrun, detach: Detach, attach: Attach) -> None:
    uuid = detach(LOOP)
    several = [attach(uuid) for _ in range(5)]
    several[0].sendline("one")
    for client in several:
        client.expect("got one")
    several[1].send("\x10\x11")
    several[1].expect("detached")
    assert finish(several[1]) == 0
    several[2].close(force=True)
    several[3].sendline("two")
    for client in (several[0], several[3], several[4]):
        client.expect("got two")
    late = attach(uuid)
    late.sendline("end")
    assert [finish(client) for client in (late, several[0], several[3], several[4])] == [7] * 4
    text = shared("logs", uuid, code=0).out
    assert "got one" in text and "got two" in text


def test_keys_of_ones_own_and_none(detach: Detach, attach: Attach) -> None:
    uuid = detach("stty raw -echo; echo ready; dd bs=1 count=4 2>/dev/null | od -An -tx1; sleep 1000")
    one = attach(uuid, "--detach-keys", "ctrl-x,q")
    one.send("\x10\x11\x18a")
    one.expect("10 11 18 61")
    one.send("\x18q")
    assert finish(one) == 0


def test_only_looking(detach: Detach, attach: Attach) -> None:
    uuid = detach("while :; do echo tick; sleep 0.1; done")
    one = attach(uuid, "--no-stdin")
    one.expect("tick")
    one.sendintr()
    assert finish(one) == 130


def test_without_interactive_nothing_is_typed(shared: Pyrun, busybox: Path, attach: Attach) -> None:
    words = ("run", "--detach", "-t", busybox, "--exec", "/bin/sh", "--", "-c", "while :; do echo tick; sleep 0.1; done")
    uuid = shared(*words, code=0).out.strip()
    one = attach(uuid)
    one.expect("tick\r\n")
    one.send("x" * 100)
    one.expect("tick\r\n")
    shared("rm", "--force", uuid, code=0)
    assert finish(one) == 137


def test_pipes_instead_of_a_terminal(shared: Pyrun, detach: Detach) -> None:
    uuid = detach(LOOP)
    done = shared("attach", uuid, input="hello\nend\n")
    assert done.code == 7 and "got hello" in done.out


def test_a_client_that_does_not_read_holds_nobody_up(shared: Pyrun, detach: Detach, attach: Attach) -> None:
    uuid = detach("read x; i=0; while test $i -lt 20000; do echo line $i; i=$((i+1)); done; echo done; read y")
    deaf = subprocess.Popen([COMMAND, "attach", uuid], env=shared.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        one = attach(uuid)
        one.sendline("go")
        one.expect("line 19999\r\ndone\r\n", timeout=60)
    finally:
        deaf.kill()
        deaf.communicate()


def test_the_socket_is_roots(shared: Pyrun, detach: Detach) -> None:
    uuid = detach(LOOP)
    path = shared.root / "pods/running" / uuid / "attach"
    info = path.stat()
    assert stat.S_ISSOCK(info.st_mode) and stat.S_IMODE(info.st_mode) & 0o077 == 0 and info.st_uid == 0
    # SEC-22: even with a way to the socket somebody else is not let in
    code = f"""if 1:
        import os, socket
        os.chdir({str(path.parent)!r})
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.chmod("attach", 0o666)
        os.setresuid(1000, 1000, 1000)
        link.connect("attach")
        print(len(link.recv(100)))"""
    done = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True)
    path.chmod(0o600)
    assert done.stdout == "0\n" or "PermissionError" in done.stderr, done


def plug(shared: Pyrun, uuid: str) -> socket.socket:
    """A client without a terminal."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    directory = os.open(shared.root / "pods/running" / uuid, os.O_PATH)
    try:
        link.connect(f"/proc/self/fd/{directory}/attach")  # waits where too many knock, as only a socket without a time-out does
    finally:
        os.close(directory)
    link.settimeout(60)
    return link


def shown(link: socket.socket, end: bytes) -> bytes:
    """What it is shown until something ends so."""
    text = b""
    while not text.endswith(end):
        message = link.recv(5000)
        assert message[:1] == b"d", message
        text += message[1:]
    return text


@pytest.fixture
def limited(shared: Pyrun, detach: Detach, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], tuple[str, int]]:
    """Runs a script as `detach` does, below a limit of open files; returns the pod's UUID and its keeper's pid."""

    def begin(files: int, script: str) -> tuple[str, int]:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
        try:
            uuid = detach(script, "--restart", "always")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        return uuid, json.loads((shared.root / "pods/running" / uuid / "run").read_text())["keeper"]

    return begin


ECHO = "stty -echo; while read x; do echo got $x; test $x = again && exit; done"


def wait_for_restart(shared: Pyrun, uuid: str) -> None:
    """What is typed before that goes to the app that ends."""
    run, deadline = shared.root / "pods/running" / uuid / "run", time.monotonic() + 60
    while (record := json.loads(run.read_text()))["restarts"] != 1 or "pid" not in record:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_more_clients_than_a_table_would_hold(shared: Pyrun, limited: Callable[[int, str], tuple[str, int]]) -> None:
    """Each sees what the app writes, through a restart; what is ours stays small."""
    uuid, keeper = limited(500, ECHO)
    links = [plug(shared, uuid) for _ in range(300)]
    try:
        links[7].send(b"done\n")
        for word in (b"one", b"again", b"two"):
            links[-1].send(b"d" + word + b"\n")
            for link in links:
                shown(link, b"got " + word + b"\r\n")
            if word == b"again":
                wait_for_restart(shared, uuid)
        links[5].close()
        smaps = Path(f"/proc/{keeper}/smaps_rollup").read_text()
        assert sum(int(line.split()[1]) for line in smaps.splitlines() if line.startswith("Private_Dirty:")) < 100
    finally:
        shared("rm", "--force", uuid, code=0)
    assert {link.recv(100)[:1] for link in links if link.fileno() >= 0} == {b"x"}
    for link in links:
        link.close()


def test_clients_too_many_hear_why(shared: Pyrun, limited: Callable[[int, str], tuple[str, int]], attach: Attach) -> None:
    """The app starts again all the same, and who comes when another has left is let in."""
    uuid, keeper = limited(90, ECHO)
    links = [plug(shared, uuid) for _ in range(90)]
    try:
        links[0].send(b"done\n")
        first = [link.recv(100)[:1] for link in links]
        let_in = first.index(b"f")
        assert let_in > 10 and first == [b"d"] * let_in + [b"f"] * (90 - let_in)
        assert len(os.listdir(f"/proc/{keeper}/fd")) < 90
        refused = shared("attach", uuid, code=125)
        assert "no descriptor for one more client" in refused.err and "hint: " in refused.err and refused.out == ""
        links[0].send(b"dagain\n")
        wait_for_restart(shared, uuid)
        links[1].close()
        one = attach(uuid)
        one.sendline("two")
        one.expect("got two\r\n")
    finally:
        for link in links:
            link.close()


def test_no_descriptor_at_all_is_waited_out(shared: Pyrun, limited: Callable[[int, str], tuple[str, int]]) -> None:
    """Whoever knocks then is heard later, and the keeper sleeps meanwhile."""
    uuid, keeper = limited(90, f"stty -echo; echo begun; {ECHO}")
    first = plug(shared, uuid)
    first.send(b"done\n")
    shown(first, b"got one\r\n")  # it was let in before the limit falls
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (3, 90))
    second = plug(shared, uuid)
    asleep, deadline = 0, time.monotonic() + 60
    while asleep < 50:
        asleep = asleep + 1 if Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()[0] == "S" else 0
        assert time.monotonic() < deadline
        time.sleep(0.001)
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (90, 90))
    first.send(b"dagain\n")
    for link in (first, second):
        shown(link, b"begun\r\n")
        link.close()


def test_messages_that_mean_nothing(shared: Pyrun, detach: Detach, attach: Attach) -> None:
    uuid = detach(LOOP)
    for message in (b"", b"w", b"w\0", b"z" * 5000, b"d", b"x\0\0\0\0", b"w" + b"\xff" * 4):
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directory = os.open(shared.root / "pods/running" / uuid, os.O_PATH)
        link.connect(f"/proc/self/fd/{directory}/attach")
        link.send(message)
        link.close()
        os.close(directory)
    one = attach(uuid)
    one.sendline("still")
    one.expect("got still, 33 99")


def test_a_restart_keeps_the_clients(detach: Detach, attach: Attach) -> None:
    one = attach(detach("echo begun; read x; exit $x", "--restart", "on-failure"))
    one.sendline("3")
    one.expect("begun\r\n")
    one.sendline("0")
    assert finish(one) == 0


def test_who_has_no_terminal(shared: Pyrun, busybox: Path) -> None:
    uuid = shared("run", "--detach", busybox, "--exec", "/bin/sleep", "--", "1000", code=0).out.strip()
    refused = shared("attach", uuid, code=125)
    assert "no terminal" in refused.err and "hint: start it with" in refused.err
    shared("rm", "--force", uuid, code=0)
    assert "none of that name" in shared("attach", uuid, code=125).err
    assert "exclude each other" in shared("run", "--detach", "-i", busybox, code=2).err


def test_entering_beside_the_terminal(shared: Pyrun, detach: Detach) -> None:
    uuid = detach(LOOP)
    seen = json.loads(shared("exec", uuid, "/probe", "report", code=0).out)
    assert seen["dev"]["console"]["major"] == 136
    deadline = time.monotonic() + 60
    while not (shared.root / "pods/running" / uuid / "attach").exists():
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-@,~", b"\0~"), ("none", b""), ("ctrl-[", b"\x1b")]
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert detach_keys(text) == keys


@pytest.mark.parametrize("text", ["", "ctrl-", "ab", "ctrl-pq", "ctrl-1", "a,,b", "\u00e9"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(UsageError):
        detach_keys(text)
