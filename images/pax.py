"""Extended headers: the pax records of POSIX.1-2001 (pax(1), "pax Extended Header") and GNU's long names."""

from __future__ import annotations

from typing import NoReturn

from pyrun.errors import ArchiveError
from pyrun.images.printable import printable

_XATTR = b"SCHILY.xattr."
_SPARSE = (b"GNU.sparse.", b"SCHILY.realsize")
_MAX_DIGITS = 20


class Extended:
    """What extended headers said about the next member; None and empty mean nothing."""

    __slots__ = ("gid", "linkpath", "mtime_ns", "path", "pax", "seen", "size", "uid", "xattrs")

    def __init__(self) -> None:
        self.path = self.linkpath = b""
        self.size: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.mtime_ns: int | None = None
        self.xattrs: dict[bytes, bytes] = {}
        self.pax = False
        self.seen = False

    def set(self, field: str, value: bytes) -> None:
        """Stores a path; ArchiveError when another extended header gave one already: readers disagree on which counts."""
        self.seen = True
        if not value or getattr(self, field):
            _refuse("names the next member twice" if value else "holds no name")
        setattr(self, field, value)


def parse_records(payload: bytes, extended: Extended, *, everywhere: bool) -> None:
    """Reads the records ``LENGTH KEY=VALUE\\n`` of one header; `everywhere` for a global one, which may only comment."""
    records = _records(payload)
    if everywhere:
        for key in records:
            if key != b"comment":
                _refuse(f"sets {printable(key, 40)} for every member")
        return
    if extended.pax:
        _refuse("follows another one")
    extended.pax = extended.seen = True
    for key, value in records.items():
        if key.startswith(_XATTR):
            extended.xattrs[key[len(_XATTR) :]] = value
        elif key.startswith(_SPARSE):
            _refuse("describes a sparse member, which is not supported")
        elif not value:
            continue  # POSIX: an empty value takes the record back
        elif key in (b"path", b"linkpath"):
            extended.set(key.decode(), value)
        elif key in (b"size", b"uid", b"gid"):
            setattr(extended, key.decode(), _integer(value, key))
        elif key == b"mtime":
            extended.mtime_ns = _nanoseconds(value)


def _records(payload: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 9)
        digits = payload[at:space] if space > at else b""
        if not digits.isdigit() or digits[:1] == b"0":
            _refuse("has a record without a length")
        end = at + int(digits)
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if end > len(payload) or payload[end - 1 : end] != b"\n" or not equals or not key or end <= space + 1:
            _refuse("has a record of the wrong length")
        records[key] = value
        at = end
    return records


def _integer(value: bytes, key: bytes) -> int:
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        _refuse(f"has a {key.decode()} that is not a number")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    """Seconds with any number of decimals and perhaps a sign; cut off below a nanosecond."""
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > _MAX_DIGITS or (fraction and not fraction.isdigit()):
        _refuse("has a mtime that is not a number")
    nanoseconds = int(whole) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if value[:1] == b"-" else nanoseconds


def _refuse(reason: str) -> NoReturn:
    raise ArchiveError("unpack", "archive", f"an extended header {reason}", hint="write the archive with tar --format=posix")
