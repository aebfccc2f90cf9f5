"""Deletes trees that came out of images: any depth, any number of entries, never past a mount point.

`shutil.rmtree` recurses (a few thousand nested directories end it) and would empty a host directory that is
bind-mounted inside.  Here one descriptor walks down and up again, and openat2(2) RESOLVE_NO_XDEV refuses mounts,
bind mounts of the same file system included.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NoReturn

from pyrun import native
from pyrun.errors import StateError
from pyrun.images.printable import printable

_DOWN = native.RESOLVE_BENEATH | native.RESOLVE_NO_SYMLINKS | native.RESOLVE_NO_MAGICLINKS | native.RESOLVE_NO_XDEV
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_HINTS = {
    errno.EXDEV: "unmount it first (see /proc/self/mountinfo), then run this again",
    errno.EBUSY: "unmount it first (see /proc/self/mountinfo), then run this again",
    errno.EPERM: "look for immutable or append-only attributes (lsattr) and clear them with chattr -i -a",
    errno.EACCES: "run as the owner of the store",
    errno.EROFS: "the file system of the store is read-only",
}


def remove_tree(parent_fd: int, name: bytes) -> None:
    """Removes `name` below a directory, whatever it is; nothing there is success.

    StateError when the tree holds a mount point or something that cannot be deleted; what was deleted before
    stays deleted and a second call goes on from there.
    """
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        _Walk(parent_fd).remove(name)
    except OSError as exc:
        _failed(name, exc)


class _Walk:
    """A depth-first walk that holds one descriptor; `stack` is the way from the top down to it."""

    __slots__ = ("fd", "parent_fd", "stack")

    def __init__(self, parent_fd: int) -> None:
        self.parent_fd = parent_fd
        self.fd = os.dup(parent_fd)
        # (name, device and inode of the directory above, subdirectories still to visit)
        self.stack: list[tuple[bytes, tuple[int, int], list[bytes]]] = []

    def remove(self, name: bytes) -> None:
        try:
            self._enter(name)
            while self.stack:
                subdirectories = self.stack[-1][2]
                if subdirectories:
                    self._enter(subdirectories.pop())
                else:
                    self._leave()
        finally:
            os.close(self.fd)

    def _enter(self, name: bytes) -> None:
        try:
            above = os.fstat(self.fd)
            if os.geteuid():  # its owner is kept out by its mode: overlayfs makes work/work with none at all
                os.chmod(name, 0o700, dir_fd=self.fd)
            below = _open(self.fd, name)
        except OSError as exc:
            self._fail(name, exc)
        os.close(self.fd)
        self.fd = below
        subdirectories: list[bytes] = []
        self.stack.append((name, (above.st_dev, above.st_ino), subdirectories))
        self._empty(subdirectories)

    def _empty(self, subdirectories: list[bytes]) -> None:
        """Unlinks every entry but directories, whose names it collects."""
        with os.scandir(self.fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    subdirectories.append(name)
                    continue
                try:
                    os.unlink(name, dir_fd=self.fd)
                except OSError as exc:
                    self._fail(name, exc)

    def _leave(self) -> None:
        """Goes up one level and removes the directory just left."""
        name, identity, _ = self.stack.pop()
        up = os.dup(self.parent_fd) if not self.stack else os.open("..", _DIRECTORY, dir_fd=self.fd)
        os.close(self.fd)
        self.fd = up
        above = os.fstat(up)
        if (above.st_dev, above.st_ino) != identity:
            raise StateError("remove", printable(name), "was moved while it was being removed", hint="only pyrun may write to its store")
        try:
            os.rmdir(name, dir_fd=up)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                self._fail(name, exc)
            self._enter(name)  # entries that readdir(3) skipped while others went

    def _fail(self, name: bytes, exc: OSError) -> NoReturn:
        _failed(b"/".join([*(level[0] for level in self.stack[-8:]), name]), exc)


def _open(parent: int, name: bytes) -> int:
    try:
        fd = native.openat2(parent, name, _DIRECTORY, 0, _DOWN)
    except PermissionError:  # not root, and the image made it unreadable
        path_fd = native.openat2(parent, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, 0, _DOWN)
        try:
            os.chmod(f"/proc/self/fd/{path_fd}", 0o700)
        finally:
            os.close(path_fd)
        return native.openat2(parent, name, _DIRECTORY, 0, _DOWN)
    if os.geteuid() != 0 and os.fstat(fd).st_mode & 0o300 != 0o300:
        os.fchmod(fd, stat.S_IRWXU)
    return fd


def _failed(path: bytes, exc: OSError) -> NoReturn:
    code = exc.errno or 0
    reason = "is a mount point" if code in (errno.EXDEV, errno.EBUSY) else ""
    raise StateError("remove", printable(path), reason, errno=code, hint=_HINTS.get(code, "look at errno(3) and the kernel log")) from exc
