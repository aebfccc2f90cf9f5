"""Kernel locks (flock(2)) on files of the store; they die with their holder, so no crash leaves one behind.

    locks/store          shared: whoever reads layers or imports; exclusive: whoever deletes
    locks/fetch-XX       one at a time brings an image of which the digest begins with XX from a registry
    locks/part-XX        one download at a time of a blob of which the digest begins with XX
    locks/blob-XX        one import at a time of a file whose digest begins with XX
    locks/id-XX          one commit at a time of an image whose id begins with XX
    locks/tags           one change of a tag at a time

Order: store, then fetch or blob, then id, or tags; part is the last, whatever is held.  Those with XX are 256 files each, that are
never removed, because removing a lock file while somebody waits for it needs a second protocol.
"""

from __future__ import annotations

import fcntl
import os

from pyrun.errors import StateError


def make_room(error: OSError) -> str:
    """Return the hint for a state directory that takes nothing: to be root only to whom that helps."""
    from pyrun.images.room import hint

    return hint(error)


class Lock:
    """An flock held from `__enter__` to `__exit__`; `wait=False` raises `StateError` (EAGAIN) when another holds it."""

    __slots__ = ("_exclusive", "_fd", "_path", "_wait")

    def __init__(self, path: str, *, exclusive: bool, wait: bool = True) -> None:
        self._path = path
        self._exclusive = exclusive
        self._wait = wait
        self._fd = -1

    def __enter__(self) -> Lock:
        fd = self._open()
        mode = fcntl.LOCK_EX if self._exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(fd, mode if self._wait else mode | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(fd)
            if not isinstance(error, OSError):
                raise
            import errno

            busy = error.errno == errno.EAGAIN
            reason, hint = ("another pyrun holds it", "try again in a moment") if busy else ("", "")
            raise StateError("lock", self._path, reason, errno=error.errno or 0, hint=hint) from None
        self._fd = fd
        return self

    def __exit__(self, *_exc: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def fileno(self) -> int:
        """The descriptor that holds the lock; -1 when it is not held."""
        return self._fd

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _cannot_open(self._path, error) from None
        try:
            private_dirs(os.path.dirname(self._path))
            return os.open(self._path, flags, 0o600)
        except OSError as error:
            raise _cannot_open(self._path, error) from None


def private_dirs(path: str) -> None:
    """Makes a directory and its missing parents, 0700 each whatever the umask lets through, and their names durable; OSError."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        parent = os.path.dirname(path)
        if parent == path or not parent:
            break
        path = parent
    for entry in reversed(missing):
        try:
            os.mkdir(entry, 0o700)
        except FileExistsError:
            if not os.path.isdir(entry):
                raise
            continue
        fd = os.open(os.path.dirname(entry) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _cannot_open(path: str, error: OSError) -> StateError:
    import errno

    hint = make_room(error) if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
    return StateError("open lock", path, errno=error.errno or 0, hint=hint)
