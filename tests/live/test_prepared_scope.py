"""Pods in a scope of systemd's, prepared or from a recipe, asked for by the launcher itself: what a bus may answer, and what comes of it.

The bus is the test's own, at the path of the system's in a mount namespace; systemd's own is in tests/vm/guest/test_prepared_scopes.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buses import Bus, job, message, string
from harness import COMMAND, Pyrun
from launched import launch, programs, traced
from scale import scaled

TREE = Path("/sys/fs/cgroup")
WITHIN = 'mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/systemd/system && ln -s {} /run/dbus/system_bus_socket && exec "$@"'
HEAD = struct.Struct("<cBBBIII")


@pytest.fixture
def within(pyrun: Pyrun, tmp_path: Path) -> Iterator[Path]:
    """pyrun runs where the system's bus is the one at this path."""
    before = pyrun.within
    pyrun.within = ["unshare", "--mount", "sh", "-c", WITHIN.format(tmp_path / "bus"), "sh"]
    yield tmp_path / "bus"
    pyrun.within = before


@pytest.fixture
def machine() -> Iterator[Path]:
    """The slice in which systemd would make the scopes."""
    folder = TREE / "machine.slice"
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
    folder.rmdir()


def prepare(pyrun: Pyrun, *flags: str) -> str:
    words = [*flags, pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0"]
    return pyrun("prepare", "--cgroup-manager", "systemd", *words, code=0).out.strip()


def mover(machine: Path, uuid: str = "", more: bytes = b"") -> Callable[[Bus, bytes], None]:
    """Does what systemd does: the process that the call names comes into the scope that it names."""

    def answer(bus: Bus, body: bytes) -> None:
        name = uuid or body[4 + len("pyrun-") :][:36].decode()
        assert body.startswith(string(f"pyrun-{name}.scope")) and b"machine.slice\0" in body
        assert string(f"pyrun pod {name}") in body
        at = body.index(string("PIDs")) + len(string("PIDs")) + len(b"\2au\0")
        size, pid = struct.unpack_from("<II", body, at + -at % 4)
        assert size == 4
        scope = machine / f"pyrun-{name}.scope"
        scope.mkdir()
        (scope / "cgroup.procs").write_text(str(pid))
        bus.send(more + job(bus.serial))

    return answer


def signal(name: str) -> bytes:
    """What a bus says unasked."""
    head = message(2, 0, "s", string(name))
    return head[:1] + b"\4" + head[2:]


def test_the_launcher_asks_for_a_scope(pyrun: Pyrun, within: Path, machine: Path, tmp_path: Path) -> None:
    """Whatever else the bus says before it answers, and however it comes."""
    uuid = prepare(pyrun, "--pod-name", "scoped")
    with Bus(within, mover(machine, uuid, signal("NameAcquired") + message(2, 1) + signal("x" * 9000))) as bus:
        said, became = launch(pyrun, tmp_path, "--detach", "scoped")
        assert (said.returncode, said.stdout, became) == (0, f"{uuid}\n", ["pyrun", "keeper"]), said.stderr
        assert [member for member, _, _ in bus.calls] == ["Hello", "StartTransientUnit"]
    group = Path(json.loads(pyrun("status", "--format", "json", uuid, code=0).out)["cgroup"])
    assert group == machine / f"pyrun-{uuid}.scope" / f"pyrun-{uuid}" and (group / "cgroup.procs").read_text()
    pyrun("rm", "--force", uuid, code=0)


def test_a_run_in_the_foreground_that_comes_again(pyrun: Pyrun, within: Path, machine: Path, tmp_path: Path) -> None:
    """busctl(1) asks for Python, the second time the launcher itself does, for a scope of that pod's own."""
    words = ["run", "--slice", "machine.slice", str(pyrun.probe_image), "--exec", "/probe", "--", "exit", "7"]
    command = [*pyrun.within, *traced(tmp_path), str(COMMAND), *words]
    with Bus(within, mover(machine)) as bus:
        for had_python in (True, False):
            bus.calls.clear()
            done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
            assert ("python3" in programs(tmp_path)) == had_python
            assert [member for member, _, _ in bus.calls] == ["Hello", "StartTransientUnit"]
    scopes = list(machine.glob("pyrun-*.scope"))
    assert len(scopes) == 2, "each its own"
    assert not [path for scope in scopes for path in scope.iterdir() if path.is_dir() and path.name != "pyrun-supervisor"]


def test_a_run_in_the_foreground_that_gets_no_scope(pyrun: Pyrun, within: Path, machine: Path, tmp_path: Path) -> None:
    """Refused once, it begins again with Python, which gets one; refused for ever, it is told why; nothing is left."""
    words = ["run", "--cgroup-manager", "systemd", str(pyrun.probe_image), "--exec", "/probe", "--", "exit", "7"]
    command = [*pyrun.within, *traced(tmp_path), str(COMMAND), *words]
    refusals = 0

    def answer(bus: Bus, body: bytes) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals < 0:
            mover(machine)(bus, body)
        else:
            bus.send(message(3, bus.serial))

    with Bus(within, answer):
        for times, code, had_python in ((0, 7, True), (1, 7, True), (99, 125, True), (0, 7, False)):
            refusals = times
            done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=60)
            assert (done.returncode, "python3" in programs(tmp_path)) == (code, had_python), done.stderr
            assert done.stderr.startswith("pyrun: ask systemd for pyrun-" if code == 125 else "")
            assert [os.listdir(pyrun.root / "pods" / phase) for phase in ("preparing", "running", "garbage")] == [[], [], []]


CUT = HEAD.pack(b"l", 2, 1, 1, 0, 7, 8)
HOSTILE = {
    "nothing": b"",
    "refused": b"REJECTED EXTERNAL\r\n",
    "endless": b"OK " + b"x" * 100_000,
    "half a message": b"OK 0\r\n" + CUT,
    "an error": b"OK 0\r\n" + message(3, 2),
    "big-endian": b"OK 0\r\n" + b"B" + message(2, 2)[1:],
    "another version": b"OK 0\r\n" + HEAD.pack(b"l", 2, 1, 9, 0, 7, 8) + bytes(8),
    "a long body": b"OK 0\r\n" + HEAD.pack(b"l", 2, 1, 1, 0xFFFFFFFF, 7, 8) + bytes(200_000),
    "many fields": b"OK 0\r\n" + HEAD.pack(b"l", 2, 1, 1, 0, 7, 0xFFFFFFF8) + bytes(200_000),
    "a field that ends elsewhere": b"OK 0\r\n"
    + HEAD.pack(b"l", 2, 1, 1, 0, 7, 16)
    + struct.pack("<BBsBI", 6, 1, b"s", 0, 0xFFFFFFF0)
    + bytes(8),
    "a field of another kind": b"OK 0\r\n" + HEAD.pack(b"l", 2, 1, 1, 0, 7, 8) + struct.pack("<BBsBI", 5, 1, b"t", 0, 2),
    "answers to others": b"OK 0\r\n" + message(2, 77) * 3000,
}


def refuse(pyrun: Pyrun, within: Path, folder: Path, said_first: bytes) -> None:
    """The launcher says so: one line, and the pod stays prepared."""
    uuid = prepare(pyrun)
    turns: list[bytes] = [said_first]

    with Bus(within, lambda bus, _: None, lambda: turns.pop() if turns else b""):
        said, became = launch(pyrun, folder, "--detach", uuid)
    within.unlink()
    assert said.returncode == 125 and said.stderr.startswith(f"pyrun: ask systemd for pyrun-{uuid}.scope: "), said.stderr
    assert became == ["pyrun"] and (pyrun.root / "pods" / "prepared" / uuid).is_dir()
    pyrun("rm", uuid, code=0)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_plain_is_no_answer(pyrun: Pyrun, within: Path, tmp_path: Path, what: str) -> None:
    refuse(pyrun, within, tmp_path, HOSTILE[what])


@pytest.mark.stress
def test_damaged_answers_are_none(pyrun: Pyrun, within: Path, tmp_path: Path) -> None:
    whole = b"OK 0123456789abcdef\r\n" + message(2, 1, "s", string(":1.1")) + signal("NameAcquired") + message(3, 2)
    for turn in range(scaled(6)):
        chance = random.Random(turn)
        text = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            text[chance.randrange(len(text))] = chance.randrange(256)
        refuse(pyrun, within, tmp_path, bytes(text[: chance.randrange(len(text))]))


def test_without_a_bus_it_is_said(pyrun: Pyrun, within: Path, tmp_path: Path) -> None:
    uuid = prepare(pyrun)
    said, became = launch(pyrun, tmp_path, uuid)
    assert (said.returncode, became) == (125, ["pyrun"]) and "hint: " in said.stderr
    assert os.listdir(pyrun.root / "pods" / "prepared") == [uuid]
    pyrun("rm", uuid, code=0)


def test_a_bus_that_takes_nobody_in_is_not_waited_for(pyrun: Pyrun, within: Path, tmp_path: Path) -> None:
    """Its queue is full, so connect(2) would wait for as long as that is so."""
    uuid = prepare(pyrun)
    with contextlib.ExitStack() as open_ones:
        server = open_ones.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(within))
        server.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                client = open_ones.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(within))
        said, became = launch(pyrun, tmp_path, "--detach", uuid)
    assert said.returncode == 125 and said.stderr.startswith(f"pyrun: ask systemd for pyrun-{uuid}.scope: "), said.stderr
    assert became == ["pyrun"]
    pyrun("rm", uuid, code=0)
