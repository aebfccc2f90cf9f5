"""Pods of users whose start needs no Python: the launcher becomes root of a user namespace by itself (native/users.c)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import COMMAND, LIMIT
from launched import programs, traced
from users import PLAIN, RANGED, User

IMAGE = "example.com/busybox"
MAPS = "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id -u; touch /new; chown 1:1 /new 2>/dev/null && stat -c %u:%g /new"
HELPER = "memfd:pyrun-hel"
NATIVE, PYTHON = ["pyrun", "keeper"], ["pyrun", "python3", "keeper"]
FRONT, FRONT_BY_PYTHON = ["pyrun", HELPER], ["pyrun", "python3", HELPER]
Again = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


@pytest.fixture
def account() -> str:
    return RANGED


each_account = pytest.mark.parametrize("account", [PLAIN, RANGED])


@pytest.fixture
def user(account: str, ranges: None, busybox: Path) -> Iterator[User]:
    made = User(account)
    copy = made.home / busybox.name
    copy.write_bytes(busybox.read_bytes())
    made.pyrun("trust", "--yes", "--unsigned", copy)
    made.pyrun("fetch", copy)
    yield made
    made.close()


@pytest.fixture
def start(user: User) -> Again:
    """Runs a command line; what it said, and what the process became until it was the keeper's program."""

    def call(*words: str, env: dict[str, str] | None = None) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        command = user.command(*traced(user.home), COMMAND, *words)
        done = subprocess.run(command, env={**user.env, **(env or {})}, capture_output=True, text=True, timeout=LIMIT, cwd="/")
        became = programs(user.home)
        last = next((place for place, name in enumerate(became) if name in (HELPER, "keeper")), len(became))
        return done, became[: last + 1]

    return call


def prepare(user: User, text: str, *flags: str) -> str:
    return user.pyrun("prepare", "--rm", *flags, IMAGE, "--exec", "/bin/sh", "--", "-c", text).out.strip()


@each_account
def test_a_prepared_pod(user: User, start: Again) -> None:
    """It has the ids that it has by way of Python, and files of others."""
    said = []
    for wanted in (NATIVE, PYTHON):
        uuid = prepare(user, MAPS)
        if wanted == PYTHON:
            (user.state / "users").unlink()
        done, became = start("run-prepared", uuid)
        assert (done.returncode in (0, 1), done.stderr, became) == (True, "", wanted)
        said.append(done.stdout)
    assert said[0] == said[1] and len(said[0].splitlines()) == (4 if user.name == PLAIN else 7)
    assert list((user.state / "pods" / "running").iterdir()) == []


@each_account
def test_in_the_background_and_stopped(user: User, start: Again) -> None:
    uuid = prepare(user, "exec sleep 1000", "--pod-name", "svc", "--net", "host")
    done, became = start("run-prepared", "--detach", "svc")
    assert (done.returncode, done.stdout.strip(), became) == (0, uuid, NATIVE), done.stderr
    assert user.pyrun("exec", "svc", "/bin/echo", "there").out == "there\n"
    user.pyrun("stop", "svc")
    assert not (user.state / "pods" / "running" / uuid).exists()


@pytest.mark.parametrize("what", ["ids", "record", "damaged", "others", "home"])
def test_what_is_left_to_python(user: User, start: Again, what: str) -> None:
    """Ids given out anew, a record that is missing, broken or writable for others, and no home: the pod runs all the same."""
    uuid = prepare(user, "echo here")
    record, env = user.state / "users", {}
    if what == "ids":
        os.utime("/etc/subuid")
    elif what == "record":
        record.unlink()
    elif what == "damaged":
        record.write_text("1 1\n0 0 1\n")
    elif what == "others":
        record.chmod(0o666)
    else:
        env = {"HOME": "", "PYRUN_ROOT": "", "XDG_DATA_HOME": str(user.home / ".local/share/")}
        uuid = f"{uuid}x"
    done, became = start("run-prepared", uuid, env=env)
    if what == "home":
        assert done.returncode == 125 and "there is none of that name" in done.stderr, done.stderr
    else:
        assert (done.returncode, done.stdout, became) == (0, "here\n", PYTHON), done.stderr


def test_what_is_found_from_within(user: User, start: Again) -> None:
    """The launcher has gone into the namespace, knows the state directory, and says what is wrong."""
    prepare(user, "echo here")
    for env in ({}, {"XDG_DATA_HOME": str(user.home / ".local" / "share")}, {"PYRUN_ROOT": str(user.state)}):
        for words in (["nobody"], ["--debug", "nobody"]):
            done, became = start("run-prepared", *words, env=env)
            assert done.returncode == 125 and "there is none of that name" in done.stderr, done.stderr
            assert became == ["pyrun"] and ("--debug" in words or "native/" not in done.stderr), done.stderr


@pytest.mark.parametrize("call", ["unshare", "setns", "execve", "pipe2", "write"])
def test_what_the_kernel_refuses(user: User, call: str) -> None:
    """At each step before the namespace is entered: Python makes it, or says why it cannot; nothing is left behind."""
    for count in (1, 2, 3):
        uuid = prepare(user, "echo here")
        if call == "execve" and count == 1:
            continue  # that of the command itself
        inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=EPERM:when={count}"]
        done = subprocess.run(
            user.command(*inject, COMMAND, "run-prepared", uuid), env=user.env, capture_output=True, text=True, timeout=LIMIT, cwd="/"
        )
        assert "Traceback" not in done.stderr
        if done.returncode:
            assert done.stderr.startswith("pyrun: ") and (user.state / "pods/prepared" / uuid).is_dir(), done.stderr
        user.pyrun("rm", "--force", uuid, code=None)
    assert list((user.state / "pods" / "running").iterdir()) == []


@each_account
def test_the_same_command_line_again(user: User, start: Again) -> None:
    """In the foreground, with other arguments too, and in the background; who it is and what it may write is as before."""
    said = []
    for place, wanted in enumerate((FRONT_BY_PYTHON, FRONT, FRONT)):
        done, became = start("run", IMAGE, "--exec", "/bin/sh", "--", "-c", f"{MAPS}; echo {'x' * place}")
        assert done.returncode == 0 and became == wanted, (done.stderr, became)
        said.append(done.stdout.rstrip("x\n"))
    assert said[0] == said[1] == said[2]
    for wanted in (PYTHON, NATIVE):
        done, became = start("run", "--detach", "--rm", "--pod-name", "svc", IMAGE, "--exec", "/bin/sh", "--", "-c", "exec sleep 1000")
        assert (done.returncode, became) == (0, wanted), done.stderr
        assert user.pyrun("exec", "svc", "/bin/echo", "there").out == "there\n"
        user.pyrun("stop", "svc")
    assert list((user.state / "pods" / "running").iterdir()) == []
