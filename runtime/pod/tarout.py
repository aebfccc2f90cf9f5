"""Writing tar archives (POSIX.1-2001, pax): what ustar has no room for goes into an extended header."""

from __future__ import annotations

import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import BinaryIO

__all__ = ["TarWriter"]

BLOCK = 512
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


class TarWriter:
    """Writes entries one after the other to a binary stream; `close` writes the end.  `count` of them were written."""

    __slots__ = ("_out", "count")

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.count = 0

    def entry(
        self, path: bytes, info: os.stat_result, *, link: bytes = b"", hard: bool = False, xattrs: dict[str, bytes] | None = None
    ) -> int:
        """Write a header for `path`; the size of the content that must follow with `content`, 0 where none does.

        `link` is a symbolic link's target or, with `hard`, an earlier entry of the same file.
        """
        kind = stat.S_IFMT(info.st_mode)
        size = info.st_size if kind == stat.S_IFREG and not hard else 0
        name = path + (b"/" if kind == stat.S_IFDIR else b"")
        pax = {f"SCHILY.xattr.{key}".encode(): value for key, value in (xattrs or {}).items()}
        for key, value, most in ((b"path", name, 100), (b"linkpath", link, 100)):
            if len(value) > most:
                pax[key] = value
        for key, number, most in ((b"uid", info.st_uid, 0o7777777), (b"gid", info.st_gid, 0o7777777), (b"size", size, 0o77777777777)):
            if number > most:
                pax[key] = b"%d" % number
        if info.st_mtime_ns % 10**9 or not 0 <= info.st_mtime_ns // 10**9 <= 0o77777777777:
            pax[b"mtime"] = b"%d.%09d" % divmod(info.st_mtime_ns, 10**9)
        self._extended(name, pax)
        self.count += 1
        kind_code = b"1" if hard else _TYPES[kind]
        mtime = info.st_mtime_ns // 10**9
        device = info.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        mode = stat.S_IMODE(info.st_mode)
        self._out.write(_header(name[:100], mode, info.st_uid, info.st_gid, size, mtime, kind_code, link[:100], device))
        return size

    def marker(self, path: bytes, mtime: int) -> None:
        """Write an empty file of root's, whose name is what it says."""
        self.count += 1
        self._extended(path, {b"path": path} if len(path) > 100 else {})
        self._out.write(_header(path[:100], 0o600, 0, 0, 0, mtime, b"0", b"", 0))

    def _extended(self, name: bytes, pax: dict[bytes, bytes]) -> None:
        if pax:
            records = b"".join(_record(key, value) for key, value in sorted(pax.items()))
            self._out.write(_header(b"pax/" + name[-80:].replace(b"/", b"_"), 0o600, 0, 0, len(records), 0, b"x", b"", 0))
            self._out.write(records + bytes(-len(records) % BLOCK))

    def content(self, data: bytes) -> None:
        """Write a part of the content."""
        self._out.write(data)

    def pad(self, size: int) -> None:
        """Fill the last block of a content of `size` bytes."""
        self._out.write(bytes(-size % BLOCK))

    def close(self) -> None:
        """Write the end of the archive; the stream stays open."""
        self._out.write(bytes(2 * BLOCK))
        self._out.flush()


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    size = len(body)
    while size != len(body) + len(b"%d" % size):
        size = len(body) + len(b"%d" % size)
    return b"%d" % size + body


def _octal(value: int, width: int) -> bytes:
    most = 8 ** (width - 1) - 1
    return b"%0*o\0" % (width - 1, min(max(value, 0), most))


def _header(name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes, device: int) -> bytes:
    import os

    head = name.ljust(100, b"\0") + _octal(mode, 8) + _octal(uid, 8) + _octal(gid, 8) + _octal(size, 12) + _octal(mtime, 12)
    tail = kind + link.ljust(100, b"\0") + b"ustar\00000" + bytes(64) + _octal(os.major(device), 8) + _octal(os.minor(device), 8)
    block = (head + b" " * 8 + tail).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
