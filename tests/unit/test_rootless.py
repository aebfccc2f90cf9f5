"""Ending the process of a user's network when the file with its number is old (pyrun.net.user)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyrun.engine import placement
from pyrun.errors import ConfigError, HostError
from pyrun.net import relay, user
from pyrun.net.processes import started


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "networks").mkdir()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(params=["pasta", "passt.avx2"])
def pasta(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    shutil.copy("/bin/sleep", tmp_path / request.param)
    with subprocess.Popen([tmp_path / request.param, "1000"]) as child:
        deadline = time.monotonic() + 30
        while Path(f"/proc/{child.pid}/comm").read_text() != request.param + "\n":  # execve(2) ends a moment after its pipe closes
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield child
        child.kill()


def end(folder: Path, pod: int, **more: object) -> None:
    user.detach(str(folder), "uuid", pod, {"program": "pasta", "claims": [], **more})


def test_a_number_without_a_start(pod: int, pasta: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """As after a kill between the start of the process and its record."""
    (tmp_path / "net.pid").write_text(f"{pasta.pid}\n")
    end(tmp_path, pod)
    assert pasta.poll() == -15 and not (tmp_path / "net.pid").exists()


def test_a_number_that_was_given_again(pod: int, pasta: subprocess.Popen[bytes], tmp_path: Path) -> None:
    file = tmp_path / "net.pid"
    file.write_text(f"{pasta.pid}\n")
    os.utime(file, (1, 1))
    end(tmp_path, pod)
    with subprocess.Popen(["sleep", "1000"]) as other:
        file.write_text(f"{other.pid}\n")
        end(tmp_path, pod)
        end(tmp_path, pod, process=[other.pid, 0])
        end(tmp_path, pod, process=[other.pid, 1])
        alive = other.poll() is None
        other.kill()
    assert alive and other.returncode == -9 and pasta.poll() is None


def test_one_that_takes_no_notice(pod: int, tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while :; do read -r line; done"
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        end(tmp_path, pod, process=[child.pid, started(child.pid)])
        assert child.poll() == -9


def test_what_is_delegated_to_the_users_systemd(tmp_path: Path) -> None:
    """It is that one's; what it starts has it only in a unit with Delegate=yes."""
    manager = tmp_path / "user@7.service"
    scope, own = manager / "app.slice" / "x.scope", manager / "app.slice" / "own.scope" / "part"
    scope.mkdir(parents=True)
    own.mkdir(parents=True)
    try:
        for folder in (manager, own.parent):
            os.setxattr(folder, "user.delegate", b"1")
    except OSError as error:
        reason = "the file system keeps no user.* attributes, by which systemd marks what it delegates; with CI=true a skip fails"
        pytest.skip(f"{tmp_path}: {error.strerror}: {reason}")
    assert [placement._delegated(str(path)) for path in (scope, own, own.parent, manager)] == [False, True, True, True]


def test_what_the_programs_say() -> None:
    taken = relay._failed(errno.EADDRINUSE, 8080)
    assert isinstance(taken, ConfigError) and "8080" in str(taken) and "another port" in str(taken.hint)
    assert isinstance(relay._failed(0, 0), HostError)
    assert isinstance(user._failed("pasta", "No external routable interface for IPv4"), HostError)
