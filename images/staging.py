"""Private directories below tmp/ for work that is not committed yet, and the sweep of those that crashed.

    <root>/tmp/<kind>-<pid>-<random>/      flock(2) held on the directory itself while its maker lives

A directory is removed by its maker, or by whoever can take its lock: the kernel drops the lock when
the maker dies, however it dies, so neither pids nor ages are guessed at.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat

from pyrun.errors import StateError
from pyrun.images.locks import make_room, private_dirs
from pyrun.native.users import require_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Staging", "fsync_dir", "open_dir", "read_file", "sweep", "write_file"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class Staging:
    """A locked directory, `path` and `fd`, that is gone with everything in it after the `with` block; OSError from the kernel."""

    __slots__ = ("_parent", "fd", "name", "path")

    def __init__(self, root: str, kind: str) -> None:
        self._parent = f"{root}/tmp"
        self.name = f"{kind}-{os.getpid()}-{secrets.token_hex(8)}"
        self.path = f"{self._parent}/{self.name}"
        self.fd = -1

    def __enter__(self) -> Staging:
        private_dirs(self._parent)
        while True:
            os.mkdir(self.path, 0o700)
            try:
                fd = os.open(self.path, _DIRECTORY)
            except FileNotFoundError:
                continue  # swept between the two calls
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self.fd = fd
                return self
            os.close(fd)  # a sweep had the lock first and removed it

    def __exit__(self, *_exc: object) -> None:
        fd, self.fd = self.fd, -1
        try:
            _remove(self._parent, self.name)
        finally:
            os.close(fd)

    def take(self, path: str, name: str) -> None:
        """Moves a directory or file of the same file system in here, so that it vanishes with the rest."""
        os.rename(path, f"{self.path}/{name}")


_PLACES = ("tmp", "pods", "blobs", "layers", "images", "refs", "imports", "tags")  # of which a collection removes what no record names


def sweep(root: str) -> int:
    """Removes what dead processes left in tmp/; the number of entries removed.  StateError where that is another's."""
    require_own(root, _PLACES)
    parent = f"{root}/tmp"
    removed = 0
    try:
        names = os.listdir(parent)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StateError("read", parent, errno=error.errno or 0, hint=make_room(error)) from None
    for name in names:
        try:
            fd = os.open(f"{parent}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise StateError("sweep", f"{parent}/{name}", errno=error.errno or 0) from None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{parent}/{name}")
                removed += 1
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(parent, name)
            removed += 1
        except BlockingIOError:
            pass  # its maker lives
        finally:
            os.close(fd)
    return removed


def _remove(parent: str, name: str) -> None:
    from pyrun.images.remove import remove_tree

    with open_dir(parent) as fd, contextlib.suppress(FileNotFoundError):
        remove_tree(fd, os.fsencode(name))


@contextlib.contextmanager
def open_dir(path: str) -> Iterator[int]:
    """A descriptor of a directory, never through a symlink; OSError as open(2)."""
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def fsync_dir(path: str) -> None:
    """Makes renames and links in a directory durable; OSError as fsync(2)."""
    with open_dir(path) as fd:
        os.fsync(fd)


def read_file(path: str, most: int) -> bytes:
    """What a confined process has left; OSError, ValueError for anything but a regular file of at most `most` bytes."""
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode) or info.st_size > most:
        raise ValueError(path)
    with open(path, "rb") as file:  # who wrote it has ended
        return file.read(most)


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Writes a new file and syncs it; FileExistsError when there is one, OSError else."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
