"""A root file system as a plain copy, for hosts where overlayfs cannot be mounted (--no-overlay).  Cold.

Layers are copied bottom first, each over what is there: a character device 0:0 removes what it hides, an
opaque directory empties the one below, and any change of type replaces.  All work is relative to
descriptors of directories that nobody else can reach, so no name in an image leads anywhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from pyrun.errors import StateError
from pyrun.images.merged import providers
from pyrun.images.printable import printable
from pyrun.images.remove import remove_tree

__all__ = ["copy_entry", "copy_layers", "copy_up"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30
_BY_HAND = 1 << 20
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def copy_layers(layer_dirs: list[str], parent_fd: int, name: bytes) -> None:
    """Copy the merged layers (top first) to the new directory `name` below `parent_fd`; StateError names the file that failed."""
    os.mkdir(name, 0o755, dir_fd=parent_fd)
    target = os.open(name, _DIRECTORY, dir_fd=parent_fd)
    try:
        for layer in reversed(layer_dirs):
            source = os.open(layer, _DIRECTORY)
            try:
                _Copy(target).directory(source, target, b"")
            finally:
                os.close(source)
    except OSError as error:
        where = os.fsencode(error.filename) if error.filename else name
        hint = "free some space, or keep the state elsewhere with --root DIR"
        raise StateError("copy the image's files", printable(where), errno=error.errno or 0, hint=hint) from error
    finally:
        os.close(target)


def copy_up(layer_dirs: list[str], path: str, parent_fd: int, name: str) -> None:
    """Copy what an image holds in the directory `path` to the new directory `name`, with its owner and mode; StateError.

    Without such a directory in the image the new one is empty and root's.
    """
    place = os.fsencode(path)
    found = [layer_dirs[number] + path for number in providers(layer_dirs, place)]
    copy_layers(found, parent_fd, os.fsencode(name))


def copy_entry(source: int, name: bytes, target: int, new: bytes) -> None:
    """Copy what is no directory from one directory to the new name in another; StateError."""
    try:
        _leaf(source, name, target, new, os.stat(name, dir_fd=source, follow_symlinks=False))
    except OSError as error:
        raise _failed(error, name) from error


def _failed(error: OSError, name: bytes) -> StateError:
    where = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else name
    hint = "free some space there, or choose another directory"
    return StateError("copy the image's files", printable(where), errno=error.errno or 0, hint=hint)


class _Copy:
    """One layer on its way over the target; `links` are the files with several names, by inode."""

    __slots__ = ("links", "root")

    def __init__(self, root: int) -> None:
        self.root = root
        self.links: dict[int, bytes] = {}

    def directory(self, source: int, target: int, path: bytes) -> None:
        """Copy what is in `source` into `target`, then the directory's own attributes, which its entries would change."""
        for entry in os.scandir(source):
            self._entry(source, target, os.fsencode(entry.name), path)
        _attributes(source, target)

    def _entry(self, source: int, target: int, name: bytes, path: bytes) -> None:
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(info.st_mode)
        path = path + b"/" + name if path else name
        if kind == stat.S_IFDIR:
            self._subdirectory(source, target, name, path)
            return
        _clear(target, name)
        if kind == stat.S_IFCHR and info.st_rdev == 0:
            return  # a whiteout: nothing is what it leaves
        if info.st_nlink > 1 and info.st_ino in self.links:
            os.link(self.links[info.st_ino], name, src_dir_fd=self.root, dst_dir_fd=target, follow_symlinks=False)
            return
        _leaf(source, name, target, name, info)
        if info.st_nlink > 1:
            self.links[info.st_ino] = path

    def _subdirectory(self, source: int, target: int, name: bytes, path: bytes) -> None:
        below = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            _clear(target, name, directories=any(_xattr(below, opaque) == b"y" for opaque in _OPAQUE))
            with contextlib.suppress(FileExistsError):  # merged with the layer below
                os.mkdir(name, 0o700, dir_fd=target)
            copy = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(below, copy, path)
            finally:
                os.close(copy)
        finally:
            os.close(below)


def _clear(target: int, name: bytes, *, directories: bool = True) -> None:
    """Remove what a lower layer put in the place; a directory stays for a directory to merge with."""
    try:
        info = os.stat(name, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=target)
    elif directories:
        remove_tree(target, name)


def _leaf(source: int, name: bytes, target: int, new: bytes, info: os.stat_result) -> None:
    """Copy what is no directory."""
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        _file(source, name, target, new, info)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
        os.chown(new, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    else:
        os.mknod(new, info.st_mode, info.st_rdev, dir_fd=target)
        os.chown(new, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
        os.chmod(new, stat.S_IMODE(info.st_mode), dir_fd=target)
    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _file(source: int, name: bytes, target: int, new: bytes, info: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            _data(reader, writer, info.st_size)
            _attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _data(reader: int, writer: int, size: int) -> None:
    """Copy the content, holes as holes (lseek(2), SEEK_DATA), in the kernel (copy_file_range(2))."""
    os.ftruncate(writer, size)
    place = 0
    while place < size:
        try:
            place = os.lseek(reader, place, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        end = os.lseek(reader, place, os.SEEK_HOLE)
        while place < end:
            done = _piece(reader, writer, place, end)
            if done == 0:
                return
            place += done


def _piece(reader: int, writer: int, place: int, end: int) -> int:
    """Copy some bytes, by hand where the two file systems differ in kind; how many, 0 where the file ends."""
    try:
        return os.copy_file_range(reader, writer, min(end - place, _CHUNK), place, place)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    return os.pwrite(writer, os.pread(reader, min(end - place, _BY_HAND), place), place)


def _attributes(source: int, target: int) -> None:
    """Owner before mode, since chown(2) clears the set-id bits, and xattrs after both; times last."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for key in os.listxattr(source):
        if not key.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, key, os.getxattr(source, key))
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _xattr(fd: int, key: str) -> bytes:
    try:
        return os.getxattr(fd, key)
    except OSError:
        return b""
