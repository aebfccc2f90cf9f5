"""Files and directories that are written outside of the store: whole and durable, or not there at all.  Cold.

PARENT/.NAME.pyrun-<random>  --written, synced-->  renamed to PARENT/NAME  --> PARENT synced
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat

from pyrun import native
from pyrun.errors import PyrunError, StateError
from pyrun.images.remove import remove_tree
from pyrun.images.staging import open_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Sign = Callable[[str, str], object]  # writes the signature of a file to a path

__all__ = ["Fresh", "fresh", "fresh_signed"]

_HINTS = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "raise the quota there, or choose another place",
    errno.EROFS: "choose a writable place",
    errno.ENOENT: "make the directory above it first",
    errno.ENOTDIR: "the way there passes through a file",
    errno.EXDEV: "a mount point cannot be replaced: unmount it first",
    errno.EBUSY: "a mount point cannot be replaced: unmount it first",
    errno.EIO: "check the disk",
}


class Fresh:
    """What is being made: `name` in the directory `fd`, of which `path` is a path.  Whoever has it makes it, as a file or a directory."""

    __slots__ = ("fd", "name", "path")

    def __init__(self, fd: int, name: str, path: str) -> None:
        self.fd = fd
        self.name = name
        self.path = path


@contextlib.contextmanager
def fresh(target: str, *, overwrite: bool = False) -> Iterator[Fresh]:
    """Gives a new place; what was made there becomes `target` after the `with` block, and is removed when that fails.

    StateError when something is there already (an empty directory may be), unless `overwrite`, and for kernel errors.
    """
    target = os.path.abspath(target)
    parent, _, name = target.rpartition("/")
    if not name:
        raise StateError("write", target, "the root of this host", hint="choose another directory")
    try:
        with open_dir(parent or "/") as fd:
            _check_free(fd, name, target, overwrite)
            temporary = f".{name[:100]}.pyrun-{secrets.token_hex(6)}"
            try:
                yield Fresh(fd, temporary, f"{parent}/{temporary}")
                _sync(fd, temporary)
                _place(fd, temporary, name)
                os.fsync(fd)
            except BaseException:
                with contextlib.suppress(OSError, PyrunError):
                    remove_tree(fd, os.fsencode(temporary))
                raise
    except OSError as error:
        if isinstance(error, PyrunError):
            raise
        hint = _HINTS.get(error.errno or 0, "check the directory and its permissions")
        raise StateError("write", target, errno=error.errno or 0, hint=hint) from error


@contextlib.contextmanager
def fresh_signed(target: str, sign: Sign | None, *, overwrite: bool = False) -> Iterator[Fresh]:
    """As `fresh` for a file, with its detached signature in `target`.asc, made by `sign`: both of them are there then, or neither.

    Without `sign` a signature of the file that is overwritten goes.  StateError, and whatever `sign` raises.
    """
    with fresh(target, overwrite=overwrite) as new:
        yield new
        if sign is not None:
            with fresh(f"{target}.asc", overwrite=overwrite) as beside:
                sign(new.path, beside.path)
        elif overwrite:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{target}.asc")


def _check_free(fd: int, name: str, target: str, overwrite: bool) -> None:
    try:
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if overwrite:
        return
    if stat.S_ISDIR(info.st_mode):
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=fd)  # an empty one is as good as none
            return
    raise StateError("write", target, errno=errno.EEXIST, hint="choose another name, or add --overwrite")


def _sync(fd: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        made = os.open(name, flags, dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise
        return  # a link, a device: no data of its own
    try:
        if stat.S_ISDIR(os.fstat(made).st_mode):
            native.syncfs(made)
        else:
            os.fsync(made)
    finally:
        os.close(made)


def _place(fd: int, temporary: str, name: str) -> None:
    """Renames; rename(2) replaces no directory that has something in it, so such a one goes first."""
    try:
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise
        old = f"{temporary}-old"
        os.rename(name, old, src_dir_fd=fd, dst_dir_fd=fd)
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        remove_tree(fd, os.fsencode(old))
