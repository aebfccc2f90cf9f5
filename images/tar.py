"""Tar archives from untrusted sources, member by member; the parser itself is native/tar.c.

Understood: POSIX ustar, GNU (base-256 numbers, long names, sparse members), star's and pax's extended headers with
paths, sizes, ids, times and SCHILY.xattr.  Refused, because two tools would see two different trees or because no
image needs it: headers before POSIX, data behind links and directories, global pax headers that rename or resize, an
archive without its two closing zero blocks, anything but zeros behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pyrun.images.faults import raise_fault, refuse
from pyrun.images.limits import Limits
from pyrun.images.printable import printable
from pyrun.native._unpack import ffi, lib

__all__ = ["Member", "Members", "Stream", "clean", "refuse"]

FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = "file", "hardlink", "symlink", "char", "block", "directory", "fifo"
_KINDS = (FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO)


class Stream(Protocol):
    """A source of decompressed bytes, such as `codec.Reader`."""

    def chunk(self) -> bytes: ...


class Member:
    """One member; `path` and `linkname` are the bytes of the archive, `mtime_ns` nanoseconds since the epoch.

    `read` gives the data of a file as they stand in the archive and may be left unread or half read.
    """

    __slots__ = (
        "devmajor",
        "devminor",
        "gid",
        "kind",
        "linkname",
        "members",
        "mode",
        "mtime_ns",
        "path",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(self, members: Members, found: Any) -> None:
        self.members = members
        self.path = bytes(ffi.buffer(found.path, found.path_size))
        self.kind = _KINDS[found.kind - 0x30]
        self.mode, self.uid, self.gid, self.size = found.mode, found.uid, found.gid, found.size
        self.mtime_ns, self.devmajor, self.devminor = found.mtime, found.devmajor, found.devminor
        self.linkname = bytes(ffi.buffer(found.link, found.link_size)) if found.link_size else b""
        self.sparse = bool(found.sparse)
        self.xattrs = members.xattrs() if found.xattrs else {}

    def read(self, n: int) -> bytes:
        """Up to `n` bytes of data, empty after the last; ArchiveError when the archive is cut short."""
        return self.members.data(n)

    def __repr__(self) -> str:
        return f"<{self.kind} {printable(self.path)}>"


class Members:
    """Iterates over the members of an archive and leaves the stream drained to its end."""

    def __init__(self, stream: Stream, limits: Limits, *, unclosed: str = "refuse") -> None:
        """With `unclosed` "accept" the end may come without zero blocks: for layers, of which a digest covers the whole."""
        parser = lib.tar_new(limits.total, limits.entries, unclosed == "accept")
        if parser == ffi.NULL:
            raise MemoryError
        self.parser = ffi.gc(parser, lib.tar_free)
        self.fault = ffi.new("struct untar_fault_info *")
        self._stream = stream
        self._chunk: object = None  # what the parser reads from

    def __iter__(self) -> Iterator[Member]:
        while (result := lib.tar_next(self.parser, self.fault)) != lib.UNTAR_END:
            if result == lib.UNTAR_MORE:
                self.feed()
            elif result == lib.UNTAR_MEMBER:
                yield self.member()
            else:
                raise_fault(self.fault)

    def feed(self) -> None:
        """Gives the parser the next piece of the stream; raises what reading it raises."""
        self._chunk = ffi.from_buffer(self._stream.chunk())
        lib.tar_feed(self.parser, self._chunk, len(self._chunk))  # type: ignore[arg-type]

    def member(self) -> Member:
        """The member that the parser stands at."""
        return Member(self, lib.tar_member(self.parser))

    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes of the current member."""
        found = {}
        name_size, value, value_size = ffi.new("size_t *"), ffi.new("char **"), ffi.new("size_t *")
        for index in range(lib.tar_member(self.parser).xattrs):
            name = lib.tar_xattr(self.parser, index, name_size, value, value_size)
            found[bytes(ffi.buffer(name, name_size[0]))] = bytes(ffi.buffer(value[0], value_size[0]))
        return found

    def data(self, n: int) -> bytes:
        """Up to `n` bytes of the current member."""
        data, offset = ffi.new("char **"), ffi.new("int64_t *")
        while not (size := lib.tar_data(self.parser, n, data, offset)) and lib.tar_left(self.parser):
            if lib.tar_cut(self.parser, self.fault) == lib.UNTAR_BAD:
                raise_fault(self.fault)
            self.feed()
        return bytes(ffi.buffer(data[0], size)) if size else b""


def clean(path: bytes) -> tuple[bytes, ...]:
    """The components of a member's path without empty ones and dots, so ``./a``, ``a/`` and ``a`` are one (ACI-02).

    ArchiveError for absolute paths, ``..`` and components of more than 255 bytes.
    """
    out, size, fault = ffi.new("char[]", len(path) + 1), ffi.new("size_t *"), ffi.new("struct untar_fault_info *")
    count = lib.path_clean(path, len(path), out, size, fault)
    if count < 0:
        raise_fault(fault)
    return tuple(ffi.buffer(out, size[0])[:].split(b"/")) if count else ()
