"""How far a download is: on a terminal a bar for each blob, elsewhere one line for each blob that is complete.

    sha256:0123456789ab [########------------]   23 MiB of 57 MiB  8.1 MiB/s  0:04

The bars are drawn by a thread of their own, ten times a second: those that download only count, so a terminal that is stopped
(^S) does not slow them down, and a download that stands still is seen to stand still.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

from pyrun.cli.output import colour, emit, escape, size
from pyrun.cli.parse import getenv
from pyrun.errors import PyrunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Bars", "Blob", "picture", "shown"]

_PAUSE = 0.1  # seconds between two pictures
_BAR = 20  # columns
_SPAN = 3.0  # seconds that the rate is the mean of


@contextlib.contextmanager
def shown(quiet: bool) -> Iterator[Bars | None]:
    """What to tell of a download, on standard error; None with `quiet`."""
    if quiet:
        yield None
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()


class Blob:
    """One download: `have` of `total` bytes, 0 when nobody knows; `rate` in bytes a second over the last seconds."""

    __slots__ = ("_seen", "have", "name", "rate", "total")

    def __init__(self, name: str, total: int, now: float) -> None:
        self.name = name
        self.total = total
        self.have = 0
        self.rate = 0.0
        self._seen = [(now, 0)]

    def measure(self, now: float) -> None:
        """Takes the rate anew."""
        while len(self._seen) > 1 and self._seen[1][0] < now - _SPAN:
            del self._seen[0]
        then, had = self._seen[0]
        self.rate = max(0.0, (self.have - had) / (now - then)) if now > then else 0.0
        self._seen.append((now, self.have))


def picture(blobs: Sequence[Blob], columns: int, rows: int) -> list[str]:
    """The lines to show, none wider than the terminal and not more than it has; no control characters but colours."""
    shown = blobs if len(blobs) < rows else blobs[: max(1, rows - 2)]
    lines = [_line(blob, columns) for blob in shown]
    if len(shown) < len(blobs):
        rest = blobs[len(shown) :]
        lines.append(f"and {len(rest)} more, {size(sum(blob.total - blob.have for blob in rest))}"[: columns - 1])
    return lines


def _line(blob: Blob, columns: int) -> str:
    have = size(blob.have)
    if not blob.total:
        return f"{blob.name} {have}  {size(int(blob.rate))}/s"[: columns - 1]
    left = max(0, blob.total - blob.have)
    wait = f"{_clock(left / blob.rate)}" if blob.rate >= 1 else "-:--"
    facts = f"{have:>8} of {size(blob.total)}  {size(int(blob.rate))}/s  {wait}"
    done = min(_BAR, _BAR * blob.have // blob.total)
    if len(blob.name) + len(facts) + _BAR + 5 > columns:  # too narrow for a bar
        return f"{blob.name} {100 * blob.have // blob.total}% {facts.strip()}"[: columns - 1]
    return f"{blob.name} [{colour('#' * done, '32', sys.stderr)}{'-' * (_BAR - done)}] {facts}"


def _clock(seconds: float) -> str:
    """Time that is left: 0:07, 12:34, 3:00:00."""
    whole = int(min(seconds + 0.999, 359999))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


class Bars:
    """Told by `images.registry` and `images.web`, from several threads; the blobs of one image together."""

    __slots__ = ("_blobs", "_drawn", "_guard", "_moves", "_pen", "_stop", "_thread")

    def __init__(self) -> None:
        self._moves = _has_terminal()
        self._guard = threading.Lock()  # of what is counted
        self._pen = threading.Lock()  # of the terminal
        self._blobs: dict[str, Blob] = {}
        self._drawn = 0  # lines
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, key: str, size: int) -> None:
        """The download of `key`, a digest or a URL, begins; `size` in bytes, 0 where nobody knows."""
        with self._guard:
            self._blobs[key] = Blob(_name(key), size, time.monotonic())
            if self._moves and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()

    def moved(self, key: str, count: int) -> None:
        """So many more bytes are here; negative when some have to come again."""
        with self._guard:
            blob = self._blobs.get(key)
            if blob is not None:
                blob.have = max(0, blob.have + count)

    def end(self, key: str, size: int, digest: str) -> None:
        """What `key` names is complete: it has that digest."""
        with self._guard:
            self._blobs.pop(key, None)
        with self._pen:
            self._erase()
            emit(f"pyrun: fetched {escape(digest[:19].replace('-', ':'))} {_bytes(size)}\n", error=True)

    def close(self) -> None:
        """Takes the bars away; nothing is drawn any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._pen:
            self._erase()

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError, PyrunError):  # the terminal is gone: the download is worth more than its picture
            while not self._stop.wait(_PAUSE):
                self._draw()

    def _draw(self) -> None:
        columns, rows = _terminal_size()
        with self._guard:
            now = time.monotonic()
            for blob in self._blobs.values():
                blob.measure(now)
            lines = picture(list(self._blobs.values()), columns, rows)
        with self._pen:
            self._erase()
            if lines:
                self._drawn = len(lines)
                emit("\n".join(lines), error=True)
                sys.stderr.flush()

    def _erase(self) -> None:
        if self._drawn:
            up = f"\033[{self._drawn - 1}A" if self._drawn > 1 else ""
            self._drawn = 0
            emit(f"\r{up}\033[J", error=True)
            sys.stderr.flush()


def _has_terminal() -> bool:
    if getenv("TERM") in ("", "dumb"):  # the cursor cannot be moved there
        return False
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def _terminal_size() -> tuple[int, int]:
    """Columns and rows of standard error, looked at each time: windows are resized."""
    found = os.get_terminal_size(sys.stderr.fileno())
    return found.columns or 80, found.lines or 24


def _name(key: str) -> str:
    """What a bar is called: the beginning of a digest, or the file's name in a URL, whose query may hold what opens the door."""
    if key.startswith(("sha256-", "sha512-")):
        return escape(key[:19].replace("-", ":"))
    return escape(key.partition("?")[0].rstrip("/").rpartition("/")[2])[:19]


_bytes = size
