"""Blobs that several fetches of different images want at the same time: the first one brings each, the others take it from there.

    part-XX --held--> another brings it: wait, then look again
       |
    blobs/, tmp/part-DIGEST --there--> linked, not brought
       |
    brought --digest right--> linked as tmp/part-DIGEST, until its image is stored or has failed

A part in tmp/ is complete, since it is linked after its digest was checked; who links it reads and checks it all the same.  It is
locked (flock(2)) while its owner lives, so that what a killed one left is swept with the rest of tmp/.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading

from pyrun.errors import ImageError, StateError
from pyrun.images import commit
from pyrun.images.locks import Lock
from pyrun.images.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Parts"]

_LONGEST = 0.1  # seconds between two looks at a lock


class Parts:
    """The blobs that one fetch brings, for others to take; threads may share it.  `close` takes them back."""

    __slots__ = ("_offered", "_stopped", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._offered: list[tuple[str, int]] = []
        self._stopped = threading.Event()

    @contextlib.contextmanager
    def turn(self, digest: str) -> Iterator[None]:
        """One at a time brings a blob; ImageError once `stop` was called.

        A wait in flock(2) could be ended by a signal to its thread only, so the lock is tried again and again.
        """
        with contextlib.ExitStack() as stack:
            self._enter(stack, commit.part_lock(self._store, digest))
            yield

    def _enter(self, stack: contextlib.ExitStack, lock: Lock) -> None:
        pause = _LONGEST / 16
        while True:
            try:
                stack.enter_context(lock)
                return
            except StateError as error:
                if error.errno != errno.EAGAIN:  # somebody has it
                    raise
            pause = min(2 * pause, _LONGEST)
            if self._stopped.wait(pause):
                raise ImageError("fetch", "layer", "stopped", hint="see the first error")

    def stop(self) -> None:
        """Ends the waiting of all threads."""
        self._stopped.set()

    def take(self, digest: str, size: int, target: str) -> bool:
        """Whether the blob is here, brought by somebody else, and is linked as `target` now."""
        stored = self._store.blob_path(digest)
        for path in (stored, self._path(digest), stored):  # it goes from the second place to the first
            with contextlib.suppress(OSError):
                if os.stat(path).st_size == size:
                    os.link(path, target)
                    return True
        return False

    def offer(self, digest: str, path: str) -> None:
        """Lets others take the complete blob at `path`.  That only saves time, so whatever prevents it is no error."""
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(fd, fcntl.LOCK_SH)
            offered = self._path(digest)
            self._offered.append((offered, fd))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(offered)  # of one that was killed, and is not as large as it should be
            os.link(path, offered)

    def close(self) -> None:
        """Takes back what was offered: it is in the store now, or belongs to an image that was refused."""
        for path, fd in self._offered:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(path), os.fstat(fd)):
                    os.unlink(path)
            os.close(fd)
        self._offered.clear()

    def _path(self, digest: str) -> str:
        return f"{self._store.root}/tmp/part-{digest}"
