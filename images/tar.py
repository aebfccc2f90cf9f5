"""The one tar parser for untrusted archives: streaming, bounded, and strict where readers disagree.

Understood: POSIX ustar, GNU (base-256 numbers, long names), star's and pax's extended headers with paths, sizes,
ids, times and SCHILY.xattr.  Refused, because two tools would see two different trees or because no image needs
it: headers before POSIX, sparse members, data behind links and directories, global pax headers that rename or
resize, an archive without its two closing zero blocks, anything but zeros behind them.

    stream of 512-byte blocks:  [pax x | GNU L, K]*  header  data, padded   ...   zero block  zero block  zeros
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn, Protocol

from pyrun.errors import ArchiveError
from pyrun.images.limits import Limits
from pyrun.images.pax import Extended, parse_records
from pyrun.images.printable import printable

BLOCK = 512
MAX_PAX = 1 << 20
MAX_NAME = 4096

FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = "file", "hardlink", "symlink", "char", "block", "directory", "fifo"

_KINDS = {
    b"0": FILE, b"\0": FILE, b"7": FILE, b"1": HARDLINK, b"2": SYMLINK, b"3": CHAR, b"4": BLOCK_DEVICE, b"5": DIRECTORY, b"6": FIFO,
}  # fmt: skip
_OCTAL = b"01234567"
_ZEROS = bytes(BLOCK)
_TOOL_HINT = "write the archive with tar --format=posix"


class Stream(Protocol):
    """A source of decompressed bytes, such as `codec.Reader`."""

    def chunk(self) -> bytes: ...


class Member:
    """One member; `path` and `linkname` are the bytes of the archive, `mtime_ns` nanoseconds since the epoch.

    `read` gives the data of a file and may be left unread or half read.
    """

    __slots__ = ("_members", "devmajor", "devminor", "gid", "kind", "linkname", "mode", "mtime_ns", "path", "size", "uid", "xattrs")

    def __init__(self, members: Members, path: bytes, kind: str) -> None:
        self._members = members
        self.path = path
        self.kind = kind
        self.mode = self.uid = self.gid = self.size = 0
        self.mtime_ns = self.devmajor = self.devminor = 0
        self.linkname = b""
        self.xattrs: dict[bytes, bytes] = {}

    def read(self, n: int) -> bytes:
        """Up to `n` bytes of data, empty after the last; ArchiveError when the archive is cut short."""
        return self._members.data(n)

    def __repr__(self) -> str:
        return f"<{self.kind} {printable(self.path)}>"


def refuse(subject: bytes, reason: str, hint: str = _TOOL_HINT) -> NoReturn:
    """Raises the ArchiveError of a member."""
    raise ArchiveError("unpack", printable(subject), reason, hint=hint)


class Members:
    """Iterates over the members of an archive and leaves the stream drained to its end."""

    def __init__(self, stream: Stream, limits: Limits, *, unclosed: str = "refuse") -> None:
        """With `unclosed` "accept" the end may come without zero blocks: for layers, of which a digest covers the whole."""
        self._stream = stream
        self._limits = limits
        self._unclosed = unclosed
        self._chunk = b""
        self._at = 0  # position in the chunk
        self._left = 0  # data bytes of the current member still in the stream
        self._padding = 0
        self.count = 0
        self._last = b""

    def __iter__(self) -> Iterator[Member]:
        extended = Extended()
        while (header := self._header()) is not None:
            kind = header[156:157]
            if kind in b"xgLK":
                if kind == b"g":
                    self._count(self._last)
                self._extension(kind, header, extended)
                continue
            member = self._member(header, extended)
            extended = Extended()
            self._count(member.path)
            self._last = member.path
            yield member
            self._skip_rest()
        if extended.seen:
            refuse(self._last, "the archive ends in an extended header without its member")
        self._drain()

    def _count(self, path: bytes) -> None:
        self.count += 1
        if self.count > self._limits.entries:
            refuse(path, f"more than {self._limits.entries} members", "build a smaller image: this quota guards the disk of the host")

    def data(self, n: int) -> bytes:
        """Up to `n` bytes of the current member."""
        if not self._left:
            return b""
        data = self._some(min(n, self._left))
        self._left -= len(data)
        return data

    def _some(self, n: int) -> bytes:
        if self._at == len(self._chunk):
            self._chunk, self._at = self._stream.chunk(), 0
            if not self._chunk:
                self._cut()
        data = self._chunk[self._at : self._at + n]
        self._at += len(data)
        return data

    def _exactly(self, n: int) -> bytes:
        data = self._some(n)
        while len(data) < n:
            data += self._some(n - len(data))
        return data

    def _at_end(self) -> bool:
        if self._at == len(self._chunk):
            self._chunk, self._at = self._stream.chunk(), 0
        return not self._chunk

    def _cut(self) -> NoReturn:
        where = f"after {printable(self._last)}" if self._last else "in its first member"
        raise ArchiveError("unpack", "archive", f"ends in the middle, {where}", hint="the file was cut short: fetch it again")

    def _skip_rest(self) -> None:
        while self._left:
            self._left -= len(self._some(self._left))
        left, self._padding = self._padding, 0
        if left and self._unclosed == "accept" and self._at_end():
            return  # umoci does not even fill the last block
        while left:
            left -= len(self._some(left))

    def _header(self) -> bytes | None:
        """The next header block with its checksum verified, or None at the closing zero blocks."""
        if self._unclosed == "accept" and self._at_end():
            return None
        block = self._exactly(BLOCK)
        if block == _ZEROS:
            if not (self._unclosed == "accept" and self._at_end()) and self._exactly(BLOCK) != _ZEROS:
                self._garbage("a lone zero block")
            return None
        if block[257:262] != b"ustar":
            self._garbage("something that is no POSIX tar header")
        stored = self._octal(block[148:156], "checksum", block[:100])
        plain = sum(block) - sum(block[148:156]) + 8 * 32
        # Some old writers summed signed characters, and every reader accepts it.
        if stored != plain and stored != plain - 256 * sum(1 for i, c in enumerate(block) if c > 127 and not 148 <= i < 156):
            refuse(block[:100].partition(b"\0")[0], "the checksum of its header is wrong", "the file is damaged: fetch it again")
        return block

    def _garbage(self, what: str) -> NoReturn:
        where = f" after {printable(self._last)}" if self._last else ""
        raise ArchiveError("unpack", "archive", f"holds {what}{where}", hint="the file is damaged, or not one tar archive: fetch it again")

    def _drain(self) -> None:
        """Reads on to the end of the stream, which must be zeros: the image ID covers them (ACI-12)."""
        tail, self._chunk = self._chunk[self._at :], b""
        self._at = 0
        while True:
            if tail.count(0) != len(tail):
                raise ArchiveError(
                    "unpack", "archive", "goes on after its end", hint="readers disagree on such files: write one archive only"
                )
            tail = self._stream.chunk()
            if not tail:
                return

    def _octal(self, field: bytes, what: str, name: bytes) -> int:
        digits = field.partition(b"\0")[0].strip(b" ")
        if digits.strip(_OCTAL):
            refuse(name.partition(b"\0")[0], f"its {what} is not a number", "the file is damaged: fetch it again")
        return int(digits, 8) if digits else 0

    def _number(self, field: bytes, what: str, name: bytes) -> int:
        """Octal, or GNU's base 256: sign and size in the first byte."""
        first = field[0]
        if first == 0x80:
            return int.from_bytes(field[1:], "big")
        if first == 0xFF:
            return int.from_bytes(field, "big", signed=True)
        return self._octal(field, what, name)

    def _extension(self, kind: bytes, header: bytes, extended: Extended) -> None:
        """Reads one header that describes the next member (or, harmlessly, all of them)."""
        name = header[:100].partition(b"\0")[0]
        size = self._number(header[124:136], "size", name)
        limit = MAX_NAME + 1 if kind in b"LK" else MAX_PAX
        if not 0 < size <= limit:
            refuse(name, f"an extended header of {size} bytes, {limit} are allowed", "no image needs names or attributes that long")
        payload = self._exactly(size)
        self._exactly(-size % BLOCK)
        if kind == b"L":
            extended.set("path", payload.partition(b"\0")[0])
        elif kind == b"K":
            extended.set("linkpath", payload.partition(b"\0")[0])
        else:
            parse_records(payload, extended, everywhere=kind == b"g")

    def _member(self, header: bytes, extended: Extended) -> Member:
        path = extended.path or self._ustar_path(header)
        flag = header[156:157]
        kind = _KINDS.get(flag)
        if kind is None:
            refuse(path, f"members of type {printable(flag)!r} are not supported" if flag != b"S" else "sparse members are not supported")
        if path.endswith(b"/") and kind == FILE:
            if flag != b"\0":
                refuse(path, "a file whose name ends in a slash")
            kind = DIRECTORY
        if not path or len(path) > MAX_NAME or b"\0" in path:
            refuse(path, "has no usable name" if len(path) <= MAX_NAME else f"its name has {len(path)} bytes, {MAX_NAME} are allowed")
        member = Member(self, path, kind)
        self._numbers(member, header, extended)
        if kind in (HARDLINK, SYMLINK):
            member.linkname = extended.linkpath or header[157:257].partition(b"\0")[0]
            if not member.linkname or len(member.linkname) > MAX_NAME or b"\0" in member.linkname:
                refuse(path, "its link has no usable target")
        if kind != FILE and member.size:
            refuse(path, f"a {kind} with {member.size} bytes of data")
        self._left = member.size
        self._padding = -member.size % BLOCK
        return member

    def _ustar_path(self, header: bytes) -> bytes:
        name = header[:100].partition(b"\0")[0]
        if header[257:263] != b"ustar\0":
            return name  # GNU keeps times where POSIX has the prefix
        end = 476 if header[508:512] == b"tar\0" else 500  # star's prefix is shorter
        prefix = header[345:end].partition(b"\0")[0]
        return prefix + b"/" + name if prefix else name

    def _numbers(self, member: Member, header: bytes, extended: Extended) -> None:
        path, limits = member.path, self._limits
        member.mode = self._number(header[100:108], "mode", path) & 0o7777
        member.uid = self._number(header[108:116], "user id", path) if extended.uid is None else extended.uid
        member.gid = self._number(header[116:124], "group id", path) if extended.gid is None else extended.gid
        member.size = self._number(header[124:136], "size", path) if extended.size is None else extended.size
        member.mtime_ns = self._number(header[136:148], "time", path) * 10**9 if extended.mtime_ns is None else extended.mtime_ns
        if member.kind in (CHAR, BLOCK_DEVICE):
            member.devmajor = self._number(header[329:337], "device number", path)
            member.devminor = self._number(header[337:345], "device number", path)
        member.xattrs = extended.xattrs
        if not 0 <= member.size <= limits.total:
            refuse(
                path,
                f"a size of {member.size} bytes, {limits.total} are allowed",
                "build a smaller image: this quota guards the disk of the host",
            )


def clean(path: bytes) -> tuple[bytes, ...]:
    """The components of a member's path without empty ones and dots, so ``./a``, ``a/`` and ``a`` are one (ACI-02).

    ArchiveError for absolute paths, ``..`` and components of more than 255 bytes.
    """
    if path[:1] == b"/":
        refuse(path, "an absolute path", "paths in an archive are relative to its root")
    parts = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    for part in parts:
        if part == b"..":
            refuse(path, "a path through ..", "paths in an archive may not leave its root")
        if len(part) > 255:
            refuse(path, f"a file name of {len(part)} bytes", "file systems allow 255 bytes")
    return parts
