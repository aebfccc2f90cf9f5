"""The directories that an unpacker writes into: open descriptors, found by the kernel and kept for the next members."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable

from pyrun import native

BENEATH = native.RESOLVE_BENEATH | native.RESOLVE_NO_SYMLINKS | native.RESOLVE_NO_MAGICLINKS
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT = 32

Parts = tuple[bytes, ...]


class Parents:
    """Directories beneath `root`, by the components of their path.

    Only the unpacker writes there, so that a descriptor stays right until it removes something and calls
    `forget`.  Any call may close the descriptor that an earlier one returned, except the latest.
    """

    __slots__ = ("_count", "_open", "implied", "root")

    def __init__(self, root: int, count: Callable[[bytes], None]) -> None:
        self.root = root
        self.implied = {b""}  # made for their children, without a member of their own so far
        self._count = count
        self._open: OrderedDict[Parts, tuple[int, bool]] = OrderedDict()  # (descriptor, set-group-id)

    def get(self, parts: Parts) -> int:
        """A descriptor of the directory; missing ones are made, as every tar does.  OSError from openat2(2), mkdirat(2)."""
        known = self._open.get(parts)
        if known is not None:
            self._open.move_to_end(parts)
            return known[0]
        try:
            fd = native.openat2(self.root, b"/".join(parts) or b".", DIRECTORY, 0, BENEATH)
        except FileNotFoundError:
            fd = self.get(())
            for depth in range(len(parts)):
                fd = self._step(parts[: depth + 1])
            return fd
        self.remember(parts, fd)
        return fd

    def existing(self, parts: Parts) -> int:
        """As `get`, but FileNotFoundError for a missing directory."""
        if parts not in self._open:
            self.remember(parts, native.openat2(self.root, b"/".join(parts) or b".", DIRECTORY, 0, BENEATH))
        return self.get(parts)

    def _step(self, parts: Parts) -> int:
        """As `get` when the directory above was the last one asked for."""
        if parts in self._open:
            return self.get(parts)
        above, setgid = self._open[parts[:-1]]
        path = b"/".join(parts)
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=above)
        except FileExistsError:
            path = b""
        fd = native.openat2(above, parts[-1], DIRECTORY, 0, BENEATH)
        self.remember(parts, fd)
        if path:
            self._count(path)
            self.implied.add(path)
            if setgid:
                os.fchown(fd, os.geteuid(), os.getegid())
            os.fchmod(fd, 0o755)
            self._open[parts] = (fd, False)
        return fd

    def inherits_group(self, parts: Parts) -> bool:
        """Whether what is made in this directory, the latest asked for, gets its group (its mode has set-group-id)."""
        return self._open[parts][1]

    def remember(self, parts: Parts, fd: int) -> None:
        """Takes over a descriptor of a directory."""
        if parts in self._open:
            os.close(self._open.pop(parts)[0])
        elif len(self._open) >= _KEPT:
            os.close(self._open.popitem(last=False)[1][0])
        self._open[parts] = (fd, bool(os.fstat(fd).st_mode & stat.S_ISGID))

    def forget(self) -> None:
        """Closes every descriptor."""
        for fd, _ in self._open.values():
            os.close(fd)
        self._open.clear()
