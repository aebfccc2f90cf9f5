"""The digest of an unpacked layer: one line for each file, so that a later check can name what changed.

A line is eleven fields between blanks: path, type, mode, uid, gid, size or device, links, SHA-256 of
the content, target of a symlink, first path of the same inode, extended attributes.  Bytes outside of
the plain set are written ``%XX``; an empty field is ``-``.  Times are left out: overlayfs and backups
may touch them, and nothing runs differently because of one.  Lines are in the order of a depth-first
walk by byte-wise sorted names.  native/untar/listing.c writes the same of what it has unpacked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from pyrun.errors import DigestError, StateError
from pyrun.images.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["difference", "line", "lines", "measure", "replace", "total"]

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/+@:,=")
_PLAIN_BYTES = bytes(_PLAIN)
_ESCAPES = [bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in range(256)]
_HOST_XATTRS = frozenset(("security.selinux", "security.ima", "security.evm"))  # written by this host, not by the image
_TYPES = {
    stat.S_IFDIR: b"d",
    stat.S_IFREG: b"f",
    stat.S_IFLNK: b"l",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
}
_CHUNK = 1 << 20
_LINE = rb"/\S* ([bcdflps?]) [0-7]{4} \d+ \d+ (\S+) \S+ \S+ \S+ (\S+) \S+\n"
_FIELDS = ("path", "type", "mode", "owner", "group", "size", "link count", "content", "link target", "hard link", "xattrs")


def measure(rootfs: str) -> tuple[bytes, int]:
    """The listing of a tree and the bytes in its regular files, each inode counted once; OSError from the kernel."""
    listing = b"".join(lines(rootfs))
    return listing, total(listing)


def total(listing: bytes) -> int:
    """Bytes in the regular files of a listing, each inode counted once; ValueError for what is no listing."""
    import re

    size = position = 0
    for found in re.finditer(_LINE, listing):
        if found.start() != position:
            break
        position = found.end()
        if found[1] == b"f" and found[3] == b"-":
            size += int(found[2])
    if position != len(listing):
        raise ValueError(listing[position : position + 80])
    return size


def line(path: bytes, fd: int) -> tuple[bytes, bytes]:
    """What the line of the directory `fd` at `path` begins with, and the line; OSError."""
    path = b"/" + path
    return _quote(path) + b" ", _line(path, os.fstat(fd), b"", b"", b"", _xattrs(fd))


def replace(listing: bytes, changed: dict[bytes, bytes]) -> bytes:
    """The listing with other lines, as from `line`, for some of its paths; ValueError when one is not in it."""
    new = []
    for old in listing.splitlines(keepends=True):
        new.append(changed.pop(old[: old.find(b" ") + 1], old))
    if changed:
        raise ValueError(min(changed))
    return b"".join(new)


def difference(rootfs: str, recorded: bytes) -> str:
    """In what a tree differs first from its recorded listing, as ``<path>: <what>``; "" when in nothing.

    DigestError when the tree cannot be read.
    """
    old_lines = iter(recorded.splitlines(keepends=True))
    try:
        for new in lines(rootfs):
            old = next(old_lines, b"")
            if new != old:
                return _explain(old, new)
    except OSError as error:
        raise DigestError("read", error.filename or rootfs, errno=error.errno or 0, hint="check the disk") from None
    old = next(old_lines, b"")
    return _explain(old, b"") if old else ""


def _explain(old: bytes, new: bytes) -> str:
    before, after = old.rstrip(b"\n").split(b" "), new.rstrip(b"\n").split(b" ")
    if before[0] != after[0] or len(before) != len(after):
        # The walk is in order on both sides, so what comes first is what the other side lacks.
        missing = bool(old) and (not new or _order(before[0]) < _order(after[0]))
        return f"{printable(before[0])}: missing" if missing else f"{printable(after[0])}: not part of the image"
    changed = ", ".join(_FIELDS[index] for index in range(len(before)) if before[index] != after[index])
    return f"{printable(before[0])}: {changed} changed"


def _order(quoted: bytes) -> list[bytes]:
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(quoted).split(b"/")


def lines(rootfs: str) -> Iterator[bytes]:
    """The lines of a tree, the root first; never follows a symlink, opens only regular files and directories."""
    fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack: list[tuple[int, bytes, list[bytes]]] = []
    seen: dict[int, bytes] = {}
    try:
        info = os.fstat(fd)
        device = info.st_dev
        stack.append((fd, b"", _names(fd)))
        yield _line(b"/", info, b"", b"", b"", _xattrs(fd))
        while stack:
            parent, prefix, names = stack[-1]
            if not names:
                os.close(stack.pop()[0])
                continue
            name = names.pop()
            path = prefix + b"/" + name
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if info.st_dev != device:
                raise StateError("read tree", printable(path), "another file system is mounted there", hint="unmount it")
            if stat.S_ISDIR(info.st_mode):
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
                stack.append((child, path, _names(child)))
                yield _line(path, info, b"", b"", b"", _xattrs(child))
            else:
                yield _leaf(parent, name, path, info, seen)
    finally:
        for entry in stack:
            os.close(entry[0])


def _leaf(parent: int, name: bytes, path: bytes, info: os.stat_result, seen: dict[int, bytes]) -> bytes:
    first = seen.get(info.st_ino, b"") if info.st_nlink > 1 else b""
    if info.st_nlink > 1 and not first:
        seen[info.st_ino] = path
    if stat.S_ISREG(info.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME, dir_fd=parent)
        try:
            content = b"" if first else _content(fd, info.st_size)
            return _line(path, info, content, b"", first, _xattrs(fd))
        finally:
            os.close(fd)
    target = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(info.st_mode) else b""
    return _line(path, info, b"", target, first, _xattrs(b"/proc/self/fd/%d/%s" % (parent, name)))


def _names(fd: int) -> list[bytes]:
    """Names in a directory, last first, because they are taken from the end."""
    return sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)


def _content(fd: int, size: int) -> bytes:
    """The digest of a file; of most it takes one read, of a byte more than there should be."""
    piece = os.read(fd, min(size + 1, _CHUNK))
    hasher = hashlib.sha256(piece)
    if len(piece) != size:
        while piece := os.read(fd, _CHUNK):
            hasher.update(piece)
    return hasher.hexdigest().encode()


def _xattrs(target: int | bytes) -> bytes:
    by_fd = isinstance(target, int)
    try:
        names = os.listxattr(target) if by_fd else os.listxattr(target, follow_symlinks=False)
        if not names:
            return b""
        pairs = []
        for name in sorted(names, key=os.fsencode):
            if name not in _HOST_XATTRS:
                value = os.getxattr(target, name) if by_fd else os.getxattr(target, name, follow_symlinks=False)
                pairs.append(os.fsencode(name) + b"=" + value.hex().encode())
        return b",".join(pairs)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return b""
        raise


def _line(path: bytes, info: os.stat_result, content: bytes, target: bytes, first: bytes, xattrs: bytes) -> bytes:
    kind = _TYPES.get(stat.S_IFMT(info.st_mode), b"?")
    if kind == b"f":
        size = b"%d" % info.st_size
    elif kind in b"cb":
        size = b"%d:%d" % (os.major(info.st_rdev), os.minor(info.st_rdev))
    else:
        size = b"-"  # of a directory it is the file system's business
    links = b"-" if kind == b"d" else b"%d" % info.st_nlink
    fields = (_quote(path), kind, b"%04o" % stat.S_IMODE(info.st_mode), b"%d" % info.st_uid, b"%d" % info.st_gid, size, links)
    return b" ".join((*fields, content or b"-", _quote(target), _quote(first), _quote(xattrs))) + b"\n"


def _quote(data: bytes) -> bytes:
    if not data:
        return b"-"
    if data == b"-":
        return b"%2D"
    if not data.translate(None, _PLAIN_BYTES):
        return data
    return b"".join(map(_ESCAPES.__getitem__, data))
