"""Copying files into and out of a running pod, whose app may change anything meanwhile.

No path is ever walked twice: the kernel resolves the first one beneath the pod's root (openat2(2), RESOLVE_IN_ROOT, no magic
links), and from there on every step is one name below an open directory, never through a link.  What is there is looked at
before it is opened, so neither a FIFO nor a device in the place of a file can hang, mislead or be told anything.  Nothing of the
pod is executed.  What arrives is the caller's on the host, and root's in the pod; set-id bits stay behind, and so do devices,
FIFOs and sockets.  A directory that was there before stays whose and as it was, and what is a hole in a file is one again.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from pyrun import native
from pyrun.errors import StateError
from pyrun.pod.live import find_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["copy_in", "copy_out", "put_in", "root_of", "take_out"]

_INSIDE = native.RESOLVE_IN_ROOT | native.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 200  # directories in each other
_CHUNK = 1 << 20
_HINT = "look with `pyrun enter`; of a pod that has ended use `pyrun export`"


def root_of(pods: Pods, uuid: str, app: str | None = None) -> int:
    """Return a descriptor of a running pod's root directory, as its process 1 sees it; StateError when it does not run.

    `app` says which app of several.
    """
    with find_live(pods, uuid, app) as live:
        try:
            fd = os.open(f"/proc/{live.init}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError("open the root of pod", uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None
        try:
            import signal

            signal.pidfd_send_signal(live.init_fd, 0)  # it lives, so that was its root
        except ProcessLookupError:
            os.close(fd)
            raise StateError("open the root of pod", uuid, "it has just ended", hint="see `pyrun list`") from None
    return fd


def copy_out(pods: Pods, uuid: str, path: str, target: str, app: str | None = None) -> list[str]:
    """Copy a file or directory of the pod to the host, as cp(1) does; what could not be copied, as paths.

    Into `target` if that is a directory, else as `target`.  StateError for what goes wrong.
    """
    if os.geteuid():
        return _in_its_namespace(pods, uuid, app, "take_out", path, os.path.abspath(target))
    return take_out(root_of(pods, uuid, app), path, target)


def take_out(root: int, path: str, target: str) -> list[str]:
    """The same from what is below the directory `root`, a descriptor, which is closed."""
    try:
        source = _open_in(root, path)
        try:
            folder, name = _split(target, path)
            with _Folder(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
                return _Copy(os.geteuid(), os.getegid()).start(source, fd, os.fsencode(name), path)
        finally:
            os.close(source)
    except OSError as error:
        raise _failed("copy from pod", path, error) from None
    finally:
        os.close(root)


def copy_in(pods: Pods, uuid: str, source: str, path: str, app: str | None = None) -> list[str]:
    """Copy a file or directory of the host into the pod, as `copy_out` the other way."""
    if os.geteuid():
        return _in_its_namespace(pods, uuid, app, "put_in", os.path.abspath(source), path)
    return put_in(root_of(pods, uuid, app), source, path)


def put_in(root: int, source: str, path: str) -> list[str]:
    """The same to below the directory `root`, a descriptor, which is closed."""
    try:
        opened = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            folder, name = _place(root, path, source, stat.S_ISDIR(os.fstat(opened).st_mode))
            with _Folder(folder) as fd:
                return _Copy(0, 0).start(opened, fd, os.fsencode(name), source)
        finally:
            os.close(opened)
    except OSError as error:
        raise _failed("copy into pod", path, error) from None
    finally:
        os.close(root)


def _in_its_namespace(pods: Pods, uuid: str, app: str | None, *words: str) -> list[str]:
    """By whom its files belong to."""
    from pyrun.pod.inside import call_in

    left: list[str] = call_in(pods, uuid, app, "pyrun.pod.files", *words)
    return left


class _Folder:
    """A descriptor for a `with` block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _open_in(root: int, path: str) -> int:
    fd = native.openat2(root, os.fsencode(path), os.O_PATH, 0, _INSIDE)
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EINVAL, "neither a file nor a directory", path)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)  # this very inode
    finally:
        os.close(fd)


def _split(target: str, source: str) -> tuple[str, str]:
    last = os.path.basename(source.rstrip("/")) or "root"
    if os.path.isdir(target):
        return target, last
    return os.path.dirname(target) or ".", os.path.basename(target) or last


def _place(root: int, path: str, source: str, directory: bool) -> tuple[int, str]:
    """Where in the pod: the directory itself, or the one above a name that is no directory, which a file does not become."""
    last = os.path.basename(os.path.abspath(source)) or "root"
    try:
        return native.openat2(root, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE), last
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR) or (path.endswith("/") and not directory):
            raise
    folder, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    return native.openat2(root, os.fsencode(folder or "/"), os.O_RDONLY | os.O_DIRECTORY, 0, _INSIDE), name


class _Copy:
    """One copy; `left` are the paths that were not copied, `at` is the one that an error is about."""

    __slots__ = ("at", "left", "owner")

    def __init__(self, uid: int, gid: int) -> None:
        self.owner = uid, gid
        self.left: list[str] = []
        self.at = b""

    def start(self, source: int, folder: int, name: bytes, path: str) -> list[str]:
        """Copy what is open as `source`, at `path`, to `name` below the directory `folder`."""
        self.at = name
        try:
            if stat.S_ISDIR(os.fstat(source).st_mode):
                self._directory(source, folder, name, name, _DEEPEST)
            else:
                self._file(source, folder, name)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsencode(path.rstrip("/")) + self.at[len(name) :]) from None
        return self.left

    def _directory(self, source: int, folder: int, name: bytes, path: bytes, depth: int) -> None:
        if depth == 0:
            raise OSError(errno.ELOOP, "more than 200 directories deep")
        made = True
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            made = False  # merged; a link in its place is refused by the next line
        target = os.open(name, _DIRECTORY, dir_fd=folder)
        try:
            for entry in os.listdir(source):
                self._entry(source, target, os.fsencode(entry), path + b"/" + os.fsencode(entry), depth)
            if made:
                self._attributes(os.fstat(source), target)
        finally:
            os.close(target)

    def _entry(self, source: int, target: int, name: bytes, path: bytes, depth: int) -> None:
        self.at = path
        try:
            found = os.open(name, _LOOK, dir_fd=source)
        except FileNotFoundError:  # it has just gone
            self.left.append(os.fsdecode(path))
            return
        try:
            kind = stat.S_IFMT(os.fstat(found).st_mode)
            if kind == stat.S_IFLNK:
                self._link(os.readlink(b"", dir_fd=found), target, name)
            elif kind in (stat.S_IFREG, stat.S_IFDIR):
                opened = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)  # this very inode
                try:
                    if kind == stat.S_IFDIR:
                        self._directory(opened, target, name, path, depth - 1)
                    else:
                        self._file(opened, target, name)
                finally:
                    os.close(opened)
            else:
                self.left.append(os.fsdecode(path))
        finally:
            os.close(found)

    def _link(self, where: bytes, target: int, name: bytes) -> None:
        other = _beside(name)
        os.symlink(where, other, dir_fd=target)
        self._rename(target, other, name)

    def _file(self, source: int, folder: int, name: bytes) -> None:
        """Beside, then renamed: a link in the place is replaced, not followed, and a reader sees all of it or the old one."""
        info = os.fstat(source)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "neither a file nor a directory")
        other = _beside(name)
        writer = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            if info.st_blocks * 512 < info.st_size:
                _copy_with_holes(source, writer)
            else:
                _copy_bytes(source, writer, sys.maxsize)
            self._attributes(info, writer)
        except BaseException:
            os.unlink(other, dir_fd=folder)
            raise
        finally:
            os.close(writer)
        self._rename(folder, other, name)

    def _rename(self, folder: int, other: bytes, name: bytes) -> None:
        try:
            os.rename(other, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(other, dir_fd=folder)
            raise

    def _attributes(self, info: os.stat_result, target: int) -> None:
        os.fchown(target, *self.owner)
        os.fchmod(target, info.st_mode & 0o1777)
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


def _copy_bytes(source: int, writer: int, count: int) -> int:
    """Copy up to so many bytes from where both stand; how many there were."""
    done = 0
    while data := os.read(source, min(_CHUNK, count - done)):
        view = memoryview(data)
        while view:
            view = view[os.write(writer, view) :]
        done += len(data)
    return done


def _copy_with_holes(source: int, writer: int) -> None:
    """Copy what lseek(2) says is data: an app makes a file of a petabyte with one call, and it takes no room."""
    at = 0
    while True:
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # the file system cannot tell
                _copy_bytes(source, writer, sys.maxsize)
                return
            os.ftruncate(writer, os.lseek(source, 0, os.SEEK_END))  # what is left is a hole
            return
        at = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(source, begin, os.SEEK_SET)
        os.lseek(writer, begin, os.SEEK_SET)
        if _copy_bytes(source, writer, at - begin) < at - begin:
            return  # shorter than it says, as files of sysfs(5)


def _beside(name: bytes) -> bytes:
    return b".pyrun-%s-%s" % (os.urandom(6).hex().encode(), name[:64])


def _failed(what: str, path: str, error: OSError) -> StateError:
    if isinstance(error, StateError):
        return error
    from pyrun.images.printable import printable

    name = error.filename if isinstance(error.filename, (str, bytes)) else path
    reason = "" if error.strerror in (None, os.strerror(error.errno or 0)) else str(error.strerror)
    return StateError(what, printable(os.fsencode(name)), reason, errno=error.errno or 0, hint=_HINT)
