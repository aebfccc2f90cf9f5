"""Writing tar archives: POSIX pax, with nothing in them that the same tree would not give again.  Cold.

Short names and small numbers stand in the ustar header; what does not fit goes into an extended header before it.
"""

from __future__ import annotations

import os
import stat

from pyrun.errors import ImageError
from pyrun.images.merged import OPAQUE
from pyrun.images.printable import printable
from pyrun.images.unpack import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Sink = Callable[[bytes], object]

__all__ = ["DIRECTORY", "END", "LINK", "Tree", "header", "padding", "write_layer"]

_BLOCK = 512
END = bytes(2 * _BLOCK)
_CHUNK = 1 << 20
_FILE, LINK, _SYMLINK, _CHAR, _BLOCK_DEVICE, DIRECTORY, _FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_TYPES = {stat.S_IFCHR: _CHAR, stat.S_IFBLK: _BLOCK_DEVICE, stat.S_IFIFO: _FIFO, stat.S_IFLNK: _SYMLINK, stat.S_IFDIR: DIRECTORY}
_WHITEOUT = b".wh."
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def header(
    path: bytes,
    kind: bytes = _FILE,
    *,
    size: int = 0,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    mtime_ns: int = 0,
    target: bytes = b"",
    device: int = 0,
    xattrs: dict[bytes, bytes] | None = None,
) -> bytes:
    """The blocks before a member's data."""
    records: list[tuple[bytes, bytes]] = []
    if len(path) > 100:
        records.append((b"path", path))
    if len(target) > 100:
        records.append((b"linkpath", target))
    for name, number in ((b"uid", owner[0]), (b"gid", owner[1])):
        if number >= 1 << 21:
            records.append((name, b"%d" % number))
    if size >= 1 << 33:
        records.append((b"size", b"%d" % size))
    seconds, fraction = divmod(mtime_ns, 10**9)
    if fraction or not 0 <= seconds < 1 << 33:
        records.append((b"mtime", _decimal(mtime_ns)))
    records += [(b"SCHILY.xattr." + name, value) for name, value in sorted((xattrs or {}).items())]
    extended = b"".join(_record(key, value) for key, value in records)
    before = b""
    if extended:
        before = _ustar(b"PaxHeaders/" + os.path.basename(path)[:80], b"x", len(extended), 0o644, (0, 0), 0, b"", 0)
        before += extended + padding(len(extended))
    return before + _ustar(path[:100], kind, size, mode, owner, seconds, target[:100], device)


def padding(size: int) -> bytes:
    """The zeros behind `size` bytes of data."""
    return bytes(-size % _BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts itself (pax, POSIX.1-2001)."""
    bare = len(key) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _ustar(
    path: bytes, kind: bytes, size: int, mode: int, owner: tuple[int, int], seconds: int, target: bytes, device: int
) -> bytes:  # fmt: skip
    def octal(value: int, digits: int) -> bytes:
        return b"%0*o\0" % (digits, value if 0 <= value < 1 << 3 * digits else 0)  # else the extended header says it

    major, minor = (os.major(device), os.minor(device)) if kind in (_CHAR, _BLOCK_DEVICE) else (0, 0)
    fields = (
        path.ljust(100, b"\0"), octal(mode, 7), octal(owner[0], 7), octal(owner[1], 7), octal(size, 11), octal(seconds, 11), b" " * 8,
        kind, target.ljust(100, b"\0"), b"ustar\x0000", bytes(64), octal(major, 7), octal(minor, 7), bytes(167),
    )  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def write_layer(rootfs: str, write: Sink) -> None:
    """Writes an unpacked layer as an OCI layer: whiteouts and opaque directories in OCI's form, names in order.

    ImageError for a name that a layer could not hold, OSError from the kernel.
    """
    _Layer(write).tree(rootfs)
    write(END)


class Tree:
    """A tree as members of an archive; a subclass says how a directory, a whiteout and a name are written."""

    __slots__ = ("_policy", "_seen", "write")

    def __init__(self, write: Sink) -> None:
        self.write = write
        self._policy = Policy()
        self._seen: dict[tuple[int, int], bytes] = {}

    def tree(self, rootfs: str) -> None:
        """All of it, by a walk that recurses nowhere, since an image may nest deep."""
        fd = os.open(rootfs, _OPEN_DIRECTORY)
        stack: list[tuple[int, bytes, list[bytes]]] = [(fd, b"", self.enter(fd, b""))]
        try:
            while stack:
                parent, prefix, names = stack[-1]
                if not names:
                    os.close(stack.pop()[0])
                    continue
                name = names.pop()
                path = prefix + name
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    below = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
                    stack.append((below, path + b"/", []))
                    stack[-1][2].extend(self.enter(below, path + b"/"))
                else:
                    self._leaf(parent, name, prefix, info)
        finally:
            for entry in stack:
                os.close(entry[0])

    def enter(self, fd: int, path: bytes) -> list[bytes]:
        """Writes a directory; returns the names in it, the first one last."""
        self.member(path, DIRECTORY, os.fstat(fd), self.xattrs(fd))
        return sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)

    def hidden(self, prefix: bytes, name: bytes) -> None:
        """Writes a whiteout."""
        self.write(header(prefix + _WHITEOUT + name))

    def _leaf(self, parent: int, name: bytes, prefix: bytes, info: os.stat_result) -> None:
        path, kind = prefix + name, stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFCHR and info.st_rdev == 0:
            self.hidden(prefix, name)
            return
        first = self._seen.setdefault((info.st_dev, info.st_ino), path) if info.st_nlink > 1 else path
        if first != path:
            self.member(path, LINK, info, target=first)
        elif kind == stat.S_IFREG:
            self._file(parent, name, path, info)
        elif kind == stat.S_IFLNK:
            self.member(path, _SYMLINK, info, target=os.fsencode(os.readlink(name, dir_fd=parent)))
        elif kind in _TYPES:
            self.member(path, _TYPES[kind], info)

    def _file(self, parent: int, name: bytes, path: bytes, info: os.stat_result) -> None:
        fd = os.open(name, _OPEN_FILE, dir_fd=parent)
        try:
            self.member(path, _FILE, info, self.xattrs(fd), size=info.st_size)
            left = info.st_size
            while left and (piece := os.read(fd, min(left, _CHUNK))):
                self.write(piece)
                left -= len(piece)
            if left:
                raise ImageError("convert to OCI", printable(path), "it became shorter", hint="check it: pyrun image verify")
            self.write(padding(info.st_size))
        finally:
            os.close(fd)

    def member(
        self,
        path: bytes,
        kind: bytes,
        info: os.stat_result,
        xattrs: dict[bytes, bytes] | None = None,
        *,
        target: bytes = b"",
        size: int = 0,
    ) -> None:
        """Writes the blocks before a member's data."""
        mode, owner = stat.S_IMODE(info.st_mode), (info.st_uid, info.st_gid)
        mtime = info.st_mtime_ns
        self.write(header(path, kind, size=size, mode=mode, owner=owner, mtime_ns=mtime, target=target, device=info.st_rdev, xattrs=xattrs))

    def xattrs(self, fd: int) -> dict[bytes, bytes]:
        """The attributes that an image may have."""
        names = [os.fsencode(name) for name in os.listxattr(fd)]
        return {name: os.getxattr(fd, name) for name in names if self._policy.keeps(name)}


class _Layer(Tree):
    __slots__ = ()

    def enter(self, fd: int, path: bytes) -> list[bytes]:
        """Writes a directory; returns the names in it, the first one last."""
        self.member(path or b"./", DIRECTORY, os.fstat(fd), self.xattrs(fd))
        if path and any(_opaque(fd, key) for key in OPAQUE):
            self.write(header(path + _WHITEOUT + b".wh..opq"))
        names = sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)
        for name in names:
            if name.startswith(_WHITEOUT):
                hint = "in OCI layers such names delete files; export it as it is, without --oci"
                raise ImageError("convert to OCI", printable(path + name), "a name that no OCI layer can hold", hint=hint)
        return names


def _opaque(fd: int, key: str) -> bool:
    try:
        return os.getxattr(fd, key) == b"y"
    except OSError:
        return False
