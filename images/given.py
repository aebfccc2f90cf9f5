"""Files that a caller names to be read, which may be what a shell makes of <(...), or a fifo that nobody writes to."""

from __future__ import annotations

import os

from pyrun.errors import UsageError

__all__ = ["opener"]

_PATIENCE = 10  # seconds


def opener(path: str, flags: int) -> int:
    """Open a file for open(); UsageError for a fifo with a name (fifo(7)) that nobody has begun to write to after ten seconds."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_mode & 0o170000 == 0o010000 and not os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            _wait(fd, path)
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _wait(fd: int, path: str) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(_PATIENCE * 1000):
        raise UsageError("read", path, f"a fifo that nobody has written to for {_PATIENCE} seconds", hint="name a file with content")
