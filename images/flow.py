"""A download handed on while it comes: what is in the file already goes through a pipe to who unpacks it.

    registry --> file, hashed --> pipe --> the confined worker

The file never waits for the pipe: a slow reader must not look like a slow registry.  A download that begins anew may
bring other bytes than those that are in the pipe already; the flow ends then, too early, and `whole` is false.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading

__all__ = ["Flow"]

_PIECE = 1 << 20
_PIPE = 1 << 20  # bytes; what pipe-max-size(5) lets everybody have


class Flow:
    """`fd` is the end of the pipe to read from.  Use it in a `with`; `advance` and `broken` may come from another thread."""

    __slots__ = ("_changed", "_end", "_ended", "_file", "_have", "_size", "_thread", "fd", "whole")

    def __init__(self, size: int) -> None:
        self.fd, self._end = os.pipe()
        with contextlib.suppress(OSError):  # a user beyond pipe-user-pages-soft gets small pipes only
            fcntl.fcntl(self._end, fcntl.F_SETPIPE_SZ, _PIPE)
        self.whole = True
        self._size = size
        self._have = 0
        self._file = -1
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self.fd)  # whoever still writes learns that nobody reads
        self.end()
        self._thread.join()
        if self._file >= 0:
            os.close(self._file)

    def advance(self, path: str, count: int) -> None:
        """So many more bytes are in the file at `path`; fewer, when some have to come again."""
        with self._changed:
            if count < 0:
                self.whole = False
            elif self._file < 0:
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._have += count
            self._changed.notify()

    def begin(self) -> None:
        """The file is a new one."""
        with self._changed:
            self.whole = self.whole and not self._have
            self._changed.notify()

    def end(self) -> None:
        """No more will come."""
        with self._changed:
            self.whole = self.whole and self._have == self._size
            self._ended = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            sent = 0
            while sent < self._size:
                with self._changed:
                    while self._have <= sent and self.whole and not self._ended:
                        self._changed.wait()
                    if self._have <= sent or not self.whole:
                        return
                    piece = min(_PIECE, self._have - sent)
                view = memoryview(os.pread(self._file, piece, sent))
                while view:
                    count = os.write(self._end, view)
                    sent += count
                    view = view[count:]
        except BrokenPipeError:
            pass  # who reads has failed and says why
        except OSError:
            self.whole = False  # the file is read again, and then it is said what is wrong with it
        finally:
            os.close(self._end)
