"""Descriptors of the caller that a container, or a process that enters it, gets by --preserve-fds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    made("delete", "--force", "one")


def with_open(oci: Runtime, opened: str, *words: str) -> str:
    """What the runtime prints when a shell has opened these descriptors for it."""
    line = f'exec {opened}; exec "$@"'
    command = ["bash", "-c", line, "x", str(OCI), "--root", str(oci.root), *words]
    with (oci.folder / "out").open("w+") as out:  # not a pipe: a container would hold it open
        code = subprocess.run(
            command, cwd=oci.bundle, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=60
        ).returncode
        out.seek(0)
        text = out.read()
    assert code == 0, text
    return text


SHOW = "for fd in 3 4 5 6 7 8 9; do [ ! -e /proc/self/fd/$fd ] || echo $fd; done; echo to-three >&3; echo to-six >&6"


def test_those_that_are_not_open_stay_closed(oci: Runtime, tmp_path: Path) -> None:
    """Whoever means all that he has says a large number."""
    opened = f"3>{tmp_path}/three 6>{tmp_path}/six"
    oci.command("/bin/sh", "-c", SHOW)
    assert with_open(oci, opened, "run", "--preserve-fds", "100", "one").split() == ["3", "6"]
    assert (tmp_path / "three").read_text() == "to-three\n" and (tmp_path / "six").read_text() == "to-six\n"
    oci.start_sleeping()
    assert with_open(oci, opened, "exec", "--preserve-fds", "100", "one", "sh", "-c", SHOW).split() == ["3", "6"]


def test_nothing_of_the_runtime_stands_in_for_one_that_is_not_open(oci: Runtime) -> None:
    """By then the same number is a directory or file of the host's, which the runtime has opened for itself."""
    oci.command("/bin/sh", "-c", "ls /proc/self/fd; for fd in 3 4 5 6; do ls -l /proc/1/fd/$fd 2>/dev/null; done; true")
    assert with_open(oci, "3>&-", "run", "--preserve-fds", "4", "one").split() == ["0", "1", "2", "3"], "3 is ls's own"
    oci.start_sleeping()
    assert with_open(oci, "3>&-", "exec", "--preserve-fds", "4", "one", "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]


def test_sockets_that_are_announced_and_not_there_stay_away(oci: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_listen_fds(3) of a caller that is wrong about it: the program is told as the runtime was."""
    monkeypatch.setenv("LISTEN_FDS", "2")
    oci.command("/bin/sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd")
    assert with_open(oci, "3>&- 4</dev/null", "run", "one").split() == ["2", "1", "0", "1", "2", "3", "4"], "3 is ls's own"
    assert with_open(oci, "3>&- 4>&-", "run", "one").split() == ["2", "1", "0", "1", "2", "3"]


def told(text: str) -> list[str]:
    """The variables of sd_listen_fds(3) among what env(1) prints."""
    return sorted(word for word in text.split() if word.startswith("LISTEN_"))


def test_descriptors_that_are_kept_are_not_announced_as_sockets(oci: Runtime, tmp_path: Path) -> None:
    """A program that looks for sockets to listen on (sd_listen_fds(3)) would take files for them."""
    opened = f"3>{tmp_path}/three 4>{tmp_path}/four"
    oci.command("env")
    assert told(with_open(oci, opened, "run", "--preserve-fds", "2", "one")) == []
    oci.start_sleeping()
    assert told(with_open(oci, opened, "exec", "--preserve-fds", "2", "one", "env")) == []


def test_sockets_are_announced_once(oci: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines such as podman name them in the configuration, too."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "web")
    oci.config["process"]["env"] += ["LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=web"]
    opened = f"3>{tmp_path}/three 4>{tmp_path}/four"
    oci.command("env")
    assert told(with_open(oci, opened, "run", "--preserve-fds", "1", "one")) == ["LISTEN_FDNAMES=web", "LISTEN_FDS=1", "LISTEN_PID=1"]
    oci.start_sleeping()
    shown = with_open(oci, opened, "exec", "--preserve-fds", "1", "one", "sh", "-c", "env; echo $$")
    assert told(shown) == ["LISTEN_FDNAMES=web", "LISTEN_FDS=1", f"LISTEN_PID={shown.split()[-1]}"]


def test_more_than_can_be_kept_are_refused(oci: Runtime) -> None:
    oci.command("/bin/true")
    line = 'for fd in $(seq 3 70); do eval "exec $fd</dev/null"; done; exec "$@"'
    command = ["bash", "-c", line, "x", str(OCI), "--root", str(oci.root), "run", "--preserve-fds", "68", "one"]
    done = subprocess.run(command, cwd=oci.bundle, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "pyrun-oci: keep descriptors 68: at most 64 can be (from --preserve-fds)\n"
    assert not oci.leftovers()


def test_who_waits_for_its_start_holds_nothing_but_the_fifo(oci: Runtime) -> None:
    """By whatever else it held a process of another container in its pid namespace could reach the host."""
    oci.command("/bin/sleep", "1000")
    for _ in range(2):  # by Python and by the launcher
        oci("create", "one")
        folder = Path(f"/proc/{oci.state('one')['pid']}/fd")
        held = [os.readlink(fd) for fd in folder.iterdir() if int(fd.name) > 2]
        assert held == [str(oci.root / "one/exec.fifo")]
        oci("start", "one")
        assert [fd.name for fd in folder.iterdir()] == ["0", "1", "2"]
        oci("delete", "--force", "one")
    oci("create", "one")


def test_a_program_that_is_gone_by_its_start_is_told_of(oci: Runtime) -> None:
    """What the process leaves in the fifo is told by whoever starts it, again by who asks once more, and nothing of it is left."""
    program = oci.bundle / "rootfs/bin/program"
    for _ in range(2):
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        oci.command("/bin/program")
        oci("create", "one")
        program.write_text("#!/bin/none\n")
        for _ in range(2):
            assert "exec /bin/program: no such file or directory" in oci("start", "one", code=1).stderr
            assert oci.state("one")["status"] == "stopped"
        oci("delete", "one")
        assert not oci.leftovers()
    oci("create", "one")
