"""What `image list` shows of all images, kept in one file, so that a thousand of them cost one read.

    cache/images    line 1: format, checksum and length of the rows, checksum of the facts, stamp of the directory images/
                    rows:   JSON, one for each image (`COLUMNS`), and the ids of damaged records
                    facts:  the record of each image without its manifest, one JSON object a line, in the same order

Records are only ever replaced by rename(2), which moves the times of their directory.  Within `_SETTLED` of its last
change the file is not written, since a second change could leave no trace on a file system with coarse times.  It may
be deleted at any time; one that is damaged is as good as none.  Hot: does without `os`, whose import takes longer than
reading the file.
"""

from __future__ import annotations

import posix
import time
from binascii import crc32

from pyrun.images import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[str, str, str, int, int, str]

__all__ = ["COLUMNS", "Catalogue", "load"]

COLUMNS = ("id", "name", "version", "size", "imported", "key")  # key: the fingerprint, "" for none
_FORMAT = "pyrun-images-1"
_HEAD = 160  # bytes of the first line, blanks and all
_SETTLED = 2_000_000_000  # ns; the coarsest times of any file system in use


class Catalogue:
    """All images, newest import first: `rows` as `COLUMNS` says, `broken` the ids of damaged records."""

    __slots__ = ("_facts", "_root", "_where", "broken", "rows")

    def __init__(self, root: str, rows: list[Row], broken: list[str], facts: str | None, where: tuple[int, int] = (0, 0)) -> None:
        self._root = root
        self.rows = rows
        self.broken = broken
        self._facts = facts
        self._where = where

    @property
    def facts(self) -> str:
        """One JSON object for each row, each on a line: the record without the manifest, its last member an empty list of `tags`."""
        if self._facts is None:
            place, checksum = self._where
            data = _slice(f"{self._root}/cache/images", place)
            if crc32(data) != checksum:  # damaged, or replaced just now
                again = _build(self._root)
                self.rows, self.broken, self._facts = again.rows, again.broken, again._facts
            else:
                self._facts = data.decode("ascii")
        assert self._facts is not None
        return self._facts


def load(root: str) -> Catalogue:
    """The catalogue of the store below `root`; StateError when its directory cannot be read."""
    stamp = _stamp(root)
    found = _read(root, stamp) if stamp else None
    if found is None:
        found = _build(root)
        if stamp and _stamp(root) == stamp:
            _save(root, stamp, found)
    return found


def _stamp(root: str) -> str:
    """What changes with any record; "" where there is no directory or it changed just now."""
    try:
        info = posix.stat(f"{root}/images")
    except OSError:
        return ""
    if time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) < _SETTLED:
        return ""
    return f"{info.st_dev:x}-{info.st_ino:x}-{info.st_mtime_ns:x}-{info.st_ctime_ns:x}"


def _slice(path: str, place: int, size: int = -1) -> bytes:
    """`size` bytes of a file from `place` on, the rest of it for -1; fewer where there are none."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return posix.pread(fd, posix.fstat(fd).st_size if size < 0 else size, place)
    except OSError:
        return b""
    finally:
        posix.close(fd)


def _read(root: str, stamp: str) -> Catalogue | None:
    path = f"{root}/cache/images"
    words = _slice(path, 0, _HEAD).split()
    if len(words) != 5 or (words[0], words[4]) != (_FORMAT.encode(), stamp.encode()):
        return None
    try:
        rows_sum, length, facts_sum = (int(word, 16) for word in words[1:4])
    except ValueError:
        return None
    data = _slice(path, _HEAD, length)
    if crc32(data) != rows_sum:
        return None
    value: list[list[Any]] = fastjson.loads(data)  # type: ignore[assignment]  # the checksum says that it is what was written
    return Catalogue(root, value[0], value[1], None, (_HEAD + length, facts_sum))


def _build(root: str) -> Catalogue:
    from pyrun.images.store import Store

    broken: list[str] = []
    rows: list[Row] = []
    facts: list[str] = []
    for image in Store(root).images(broken):
        key = image.signature["fingerprint"] if image.signature else ""
        rows.append((image.id, image.name, image.labels.get("version", ""), image.size, image.imported, key))
        record = image.record()
        del record["manifest"]
        facts.append(fastjson.dumps({**record, "tags": []}).replace("\x7f", "\\u007f") + "\n")
    return Catalogue(root, rows, broken, "".join(facts))


def _save(root: str, stamp: str, found: Catalogue) -> None:
    """Writes the file; whatever prevents it is no loss, so no error is raised."""
    from pyrun.errors import StateError
    from pyrun.images.commit import replace_file
    from pyrun.images.locks import private_dirs
    from pyrun.images.staging import Staging

    rows, facts = fastjson.dumps([found.rows, found.broken]).encode(), found.facts.encode()
    head = f"{_FORMAT} {crc32(rows):x} {len(rows):x} {crc32(facts):x} {stamp}".ljust(_HEAD - 1) + "\n"
    try:
        private_dirs(f"{root}/cache")
        with Staging(root, "list") as staging:
            replace_file(staging, "images", head.encode() + rows + facts, f"{root}/cache/images")
    except (OSError, StateError):
        pass
