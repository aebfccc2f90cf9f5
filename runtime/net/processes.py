"""Processes that a pod's network has in the host: known by number and time of start, and ended by a pidfd."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["end", "started"]

_PATIENCE = 2000  # milliseconds


def started(pid: int) -> int:
    """When a process started, in clock ticks (proc(5), field 22 of stat); 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read(4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def end(pid: int, meant: Callable[[], bool]) -> None:
    """End a process and wait for that, SIGKILL after two seconds, if it is the one that is `meant`.

    ProcessLookupError when there is none, PermissionError for somebody else's.
    """
    import select
    import signal

    held = os.pidfd_open(pid)
    try:
        if not meant():
            return
        poll = select.poll()
        poll.register(held, select.POLLIN)
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(held, number)
            if poll.poll(_PATIENCE):
                return
    finally:
        os.close(held)
