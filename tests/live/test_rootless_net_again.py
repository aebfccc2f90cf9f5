"""Networks of users' pods whose start needs no Python (native/net_user.c), by pasta and by slirp4netns."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND, LIMIT
from launched import programs, traced
from machines import OUTSIDE, Server
from networld import get
from userplace import Place
from waiting import wait_until

pytestmark = pytest.mark.usefixtures("tun")

IMAGE = "example.com/busybox"
STRACE = shutil.which("strace") or "strace"  # which the user's PATH does not have
NATIVE, PYTHON = ["pyrun", "keeper"], ["pyrun", "python3", "keeper"]


@pytest.fixture(params=["pasta", "slirp4netns"])
def place(request: pytest.FixtureRequest, busybox: Path) -> Iterator[Place]:
    made = Place(busybox, request.param)
    made.user.pyrun("trust", "--yes", "--unsigned", made.user.home / "image.aci")
    made.user.pyrun("fetch", made.user.home / "image.aci")
    yield made
    made.close()


def start(place: Place, *words: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What it said, and what the process became until it was the keeper's program."""
    user = place.user
    command = user.command(*traced(user.home), COMMAND, *words)
    done = subprocess.run(command, env=user.env, capture_output=True, text=True, timeout=LIMIT, cwd="/")
    became = programs(user.home)
    return done, became[: became.index("keeper") + 1] if "keeper" in became else became


def script(text: str) -> tuple[str, ...]:
    return IMAGE, "--exec", "/bin/sh", "--", "-c", text


SERVE = "cat /etc/hosts; ip link show lo; while true; do echo here | nc -l -p 80; done"


def test_a_prepared_pod(place: Place) -> None:
    """Ports of both families, the way out, names, and what the pod leaves: nothing."""
    uuid = place.user.pyrun("prepare", "--rm", "-p", "8080:80", *script(SERVE)).out.strip()
    done, became = start(place, "run-prepared", "--detach", uuid)
    assert (done.returncode, became) == (0, NATIVE), done.stderr
    for address in ("127.0.0.1", "::1"):
        assert get(place.host, address, 8080) == "here"
    said = place.user.pyrun("logs", uuid).out
    assert "127.0.1.1\tpyrun-" in said and "LOOPBACK,UP" in said
    with Server(place.outside, 7001):
        answer = place.user.pyrun("exec", uuid, "/bin/sh", "-c", f"timeout 3 nc {OUTSIDE[0]} 7001 </dev/null | head -n 1").out
    assert answer.strip()
    assert len(place.helpers()) == 1 and len(place.relays()) == 1
    place.user.pyrun("stop", uuid)
    wait_until(lambda: place.left() == [])


def test_the_same_command_line_again(place: Place) -> None:
    for wanted in (PYTHON, NATIVE):
        done, became = start(place, "run", "--detach", "--rm", "--pod-name", "web", "-p", "8080:80", *script(SERVE))
        assert (done.returncode, became) == (0, wanted), done.stderr
        assert get(place.host, "127.0.0.1", 8080) == "here"
        place.user.pyrun("stop", "web")
        wait_until(lambda: place.left() == [] and not list((place.user.state / "pods/garbage").iterdir()))


def test_a_port_that_a_program_has(place: Place) -> None:
    """The launcher says who refuses, and nothing is left of its try."""
    uuid = place.user.pyrun("prepare", "--rm", "-p", "8081:80", *script("echo here")).out.strip()
    with Server(place.host, 8081):
        done, became = start(place, "run-prepared", uuid)
        assert done.returncode == 125 and "a program of the host uses it" in done.stderr and became == ["pyrun"]
        assert place.left() == []
    done, became = start(place, "run-prepared", uuid)
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


def once_it_may(place: Place, uuid: str) -> str:
    """What the pod says; until a program that a killed start had begun can be found by its number, nobody else may start it."""
    while (done := place.user.run(COMMAND, "run-prepared", uuid, code=None)).code == 125:
        assert "somebody else is starting" in done.err, done
    assert done.code == 0, done
    return done.out


@pytest.mark.parametrize("place", ["pasta"], indirect=True)
@pytest.mark.parametrize("how", ["signal=KILL", "error=ENOSPC"])
def test_cut_off_at_each_step(place: Place, how: str) -> None:
    """A start that is killed, or refused by the kernel: what it had is ended and given back, by Python's start or by gc."""
    for call, counts in (("symlinkat", 1), ("renameat", 2), ("clone", 3), ("pidfd_open", 2)):
        for count in range(1, counts + 1):
            uuid = place.user.pyrun("prepare", "--rm", "-p", "8082:80", *script("echo here")).out.strip()
            inject = [STRACE, "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{how}:when={count}"]
            done = subprocess.run(
                place.user.command(*inject, COMMAND, "run-prepared", uuid),
                env=place.user.env, capture_output=True, text=True, timeout=LIMIT, cwd="/",
            )  # fmt: skip
            if how.startswith("error"):
                assert done.returncode == 0 or done.stderr.startswith("pyrun: "), (call, count, done.stderr)
            if (place.user.state / "pods/prepared" / uuid).is_dir():
                assert once_it_may(place, uuid) == "here\n", (call, count)
            place.user.pyrun("rm", "--force", uuid, code=None)
            place.user.pyrun("gc", "--grace-period", "0s", code=None)
            wait_until(lambda: place.left() == [], f"{call} {count}: {place.left()}")
