"""How far a download is: a line that moves on a terminal, elsewhere one line for each blob that is complete."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from pyrun.cli.output import colour, emit, escape, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Line", "shown"]

_PAUSE = 0.1  # seconds between two pictures
_BAR = 20  # columns


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Line | None]:
    """What to tell of a download, on standard error; None with `quiet`."""
    if quiet:
        yield None
        return
    line = Line()
    try:
        yield line
    finally:
        line.clear()


class Line:
    """Told by `images.registry`, from several threads; the blobs of one image together."""

    __slots__ = ("_drawn", "_guard", "_have", "_last", "_moves", "_total")

    def __init__(self) -> None:
        try:
            self._moves = sys.stderr is not None and sys.stderr.isatty()
        except ValueError:  # closed
            self._moves = False
        self._guard = threading.Lock()
        self._have = self._total = 0
        self._last = 0.0
        self._drawn = False

    def begin(self, digest: str, size: int) -> None:
        """The download of a blob of `size` bytes begins."""
        with self._guard:
            self._total += size
            self._draw()

    def moved(self, digest: str, count: int) -> None:
        """So many more bytes are here; negative when some have to come again."""
        with self._guard:
            self._have += count
            self._draw()

    def end(self, digest: str, size: int) -> None:
        """The blob is complete."""
        with self._guard:
            self._erase()
            name = escape(digest[:19].replace("-", ":"))
            emit(f"pyrun: fetched {name} {_bytes(size)}\n", error=True)

    def clear(self) -> None:
        """Takes the moving line away."""
        with self._guard:
            self._erase()

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._moves or now - self._last < _PAUSE:
            return
        self._last, self._drawn = now, True
        done = min(_BAR, _BAR * max(0, self._have) // max(1, self._total))
        bar = colour("#" * done, "32", sys.stderr) + "-" * (_BAR - done)
        emit(f"\r\033[K[{bar}] {_bytes(max(0, self._have))} of {_bytes(self._total)}", error=True)
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._drawn = False
            emit("\r\033[K", error=True)
            sys.stderr.flush()


_bytes = size
