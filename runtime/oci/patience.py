"""Waiting for the lock of a container that another command changes: a minute, for that may hang, in criu or in a hook.  Cold."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would cost an import of enum
import os

from pyrun.errors import StateError

__all__ = ["LONGEST", "wait"]

LONGEST = 60.0  # seconds
_ALARM = 14


def wait(fd: int, name: str) -> None:
    """Take the lock of the directory `fd`; StateError with the process that holds it when that takes too long."""
    import fcntl

    def late(*_: object) -> None:
        raise TimeoutError

    before = _signal.signal(_ALARM, late)
    mask = _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_ALARM])
    try:
        _signal.setitimer(0, LONGEST)  # ITIMER_REAL
        fcntl.flock(fd, fcntl.LOCK_EX)
        _signal.setitimer(0, 0)
    except TimeoutError:
        holder = _holder(fd)
        reason = f"another command changes it since more than {LONGEST:g} seconds{f', process {holder}' if holder else ''}"
        hint = "wait for that, or end it; state, kill, exec and ps work meanwhile"
        raise StateError("lock container", name, reason, hint=hint) from None
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        _signal.signal(_ALARM, before)


def _holder(fd: int) -> int:
    """Return who holds the lock of a file, 0 when it is not to be seen from here: a line of /proc/locks (proc_locks(5))."""
    info = os.fstat(fd)
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    with open("/proc/locks", encoding="ascii") as file:
        found = [line.split() for line in file]
    return next((int(words[4]) for words in found if words[1:2] == ["FLOCK"] and words[5] == place), 0)
