"""Who makes the network of a prepared pod: until its keeper has the lock nobody holds it, and another start would end that network."""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import StateError
from pyrun.pod.live import start_time

__all__ = ["FILE", "claim", "give_up", "taken"]

FILE = "net.by"  # in the pod's directory: process and start time


def taken(uuid: str) -> StateError:
    """Return what whoever comes second is told."""
    return StateError("start pod", uuid, "somebody else is starting or removing it", hint="a prepared pod runs once")


def claim(pod: int, uuid: str) -> bool:
    """Write down that this process starts the pod whose directory, locked, is `pod`; returns whether another one did, and is gone.

    StateError when that one lives.
    """
    pid, began = _held(pod)
    if pid and start_time(pid) == began:
        raise taken(uuid)
    fd = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=pod)
    try:
        os.write(fd, f"{os.getpid()} {start_time(os.getpid())}".encode())
    finally:
        os.close(fd)
    return pid != 0


def _held(pod: int) -> tuple[int, int]:
    try:
        fd = os.open(FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=pod)
    except FileNotFoundError:
        return 0, 0
    try:
        words = os.read(fd, 64).split()
    finally:
        os.close(fd)
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(word.isdigit() for word in words) else (0, 0)


def give_up(pod: int) -> None:
    """Let others start the pod whose directory, locked, is `pod`."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(FILE, dir_fd=pod)
