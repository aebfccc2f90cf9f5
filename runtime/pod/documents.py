"""Configuration documents: keys and values that an operator hands to pods, each document a directory below config/.

    config/NAME/..3          one version of it: a file for each key
    config/NAME/..data       a link to the version that counts; one rename(2) of it changes all keys at once
    config/NAME/KEY          a link to ..data/KEY, for whoever opens files by name

A pod sees that directory, read-only.  It is laid out as Kubernetes lays out its volumes of configuration, so programs
that watch those notice a change here as well.
"""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import ConfigError, StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["change", "directory", "names", "read", "remove", "watch"]

_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
_LONGEST = 253
_GONE = "..gone"
_MOST = 1 << 20  # bytes of all keys and values
_MOVED_TO, _DELETE_SELF, _MOVE_SELF = 0x80, 0x400, 0x800


def directory(root: str, name: str) -> str:
    """Return the directory of a document, whether or not there is one; UsageError for what cannot be a name."""
    if not 0 < len(name) <= _LONGEST or not _NAME.issuperset(name) or name[0] in "-." or name[-1] in "-.":
        raise UsageError("use configuration", name, "not a name for one", hint="names are lower case letters, digits, dots and dashes")
    return f"{root}/config/{name}"


def check_key(key: str) -> None:
    """UsageError for what cannot be the key of a value: it is also a file's name."""
    if not 0 < len(key) <= _LONGEST or not _KEY.issuperset(key) or key == "." or key.startswith(".."):
        hint = "keys are letters, digits, dots, dashes and underscores, and do not begin with two dots"
        raise UsageError("use configuration key", key, "not a name for one", hint=hint)


def names(root: str) -> list[str]:
    """Return the names of all documents, sorted."""
    try:
        found = os.listdir(f"{root}/config")
    except FileNotFoundError:
        return []
    return sorted(name for name in found if not name.startswith(".") and os.path.islink(f"{root}/config/{name}/..data"))


def read(root: str, name: str) -> tuple[int, dict[str, str]]:
    """Return a document's version and its values; StateError when there is none."""
    path = directory(root, name)
    for _ in range(100):
        try:
            version = os.readlink(f"{path}/..data")
            fd = os.open(f"{path}/{version}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if not os.path.islink(f"{path}/..data"):
                break
            continue  # it has just been replaced
        try:
            found = {key: _content(fd, key) for key in sorted(os.listdir(fd))}
            os.lstat(f"{path}/{version}")  # nobody has begun to remove it
            return int(version.lstrip(".")), found
        except FileNotFoundError:
            continue
        finally:
            os.close(fd)
    raise StateError("find configuration", name, "there is none of that name", hint="see `pyrun config list`")


def _content(fd: int, key: str) -> str:
    with open(os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd), "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def change(root: str, name: str, values: Mapping[str, str], *, without: list[str] | None = None, replace: bool = False) -> int:
    """Set values of a document, made if there is none, and take the keys `without` away; return its new version.

    With `replace` it has these values alone.  Nothing is written, and the version stays, where nothing changes.  UsageError
    for keys that cannot be, ConfigError for more than a MiB.
    """
    path = directory(root, name)
    for key in values:
        check_key(key)
    with _locked(root):
        try:
            version, found = read(root, name)
        except StateError:
            version, found = 0, {}
        new = {} if replace else dict(found)
        for key in without or []:
            if key not in found:
                raise ConfigError("remove configuration key", key, f"{name} has no such key", hint="see `pyrun config get`")
            new.pop(key, None)
        new.update(values)
        if version and new == found:
            return version
        data = {key: value.encode("utf-8", "surrogateescape") for key, value in new.items()}
        if sum(len(key) + len(value) for key, value in data.items()) > _MOST:
            raise ConfigError("set configuration", name, "larger than 1 MiB", hint="put large files into a volume")
        try:
            _write(path, version + 1, data)
        except OSError as error:
            raise StateError("write configuration", path, errno=error.errno or 0, hint="is there room, and are you root?") from None
        return version + 1


@contextlib.contextmanager
def _locked(root: str) -> Iterator[None]:
    import fcntl

    from pyrun.images.locks import private_dirs

    private_dirs(f"{root}/config")
    fd = os.open(f"{root}/config/.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: str, version: int, data: dict[str, bytes]) -> None:
    """A power cut leaves the old version or the new one."""
    os.makedirs(path, 0o700, exist_ok=True)
    os.chmod(path, 0o755)  # whoever may look: on the host nobody passes the directories above
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        own = f"..{version}"
        _remove_version(fd, own)
        os.mkdir(own, 0o700, dir_fd=fd)
        os.chmod(own, 0o755, dir_fd=fd)
        for key, value in data.items():
            file = os.open(f"{own}/{key}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
            with open(file, "wb") as out:
                out.write(value)
                os.fchmod(file, 0o644)
                out.flush()
                os.fsync(file)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("..new", dir_fd=fd)
        os.symlink(own, "..new", dir_fd=fd)
        os.rename("..new", "..data", src_dir_fd=fd, dst_dir_fd=fd)
        _links(fd, set(data))
        for name in os.listdir(fd):
            if name.startswith("..") and name not in (own, f"..{version - 1}", "..data"):  # somebody may still read the last one
                _remove_version(fd, name)
        os.fsync(fd)
    finally:
        os.close(fd)


def _links(fd: int, keys: set[str]) -> None:
    there = {name for name in os.listdir(fd) if not name.startswith("..")}
    for key in keys - there:
        os.symlink(f"..data/{key}", key, dir_fd=fd)
    for key in there - keys:
        os.unlink(key, dir_fd=fd)


def _remove_version(fd: int, name: str) -> None:
    """Under another name first: whoever finds it under its own after reading has read all of it."""
    if name != _GONE:
        _remove_version(fd, _GONE)
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, _GONE, src_dir_fd=fd, dst_dir_fd=fd)
    try:
        own = os.open(_GONE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return
    try:
        for key in os.listdir(own):
            os.unlink(key, dir_fd=own)
    finally:
        os.close(own)
    os.rmdir(_GONE, dir_fd=fd)


def remove(root: str, name: str) -> None:
    """Delete a document; pods that have it see an empty directory.  StateError when there is none."""
    path = directory(root, name)
    with _locked(root):
        read(root, name)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.unlink("..data", dir_fd=fd)  # from here on there is none
            _links(fd, set())
            for version in os.listdir(fd):
                _remove_version(fd, version)
        finally:
            os.close(fd)
        os.rmdir(path)


def watch(root: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield a document's version and values now and after each change, until it is removed; StateError when there is none."""
    import select

    from pyrun import native

    path = directory(root, name)
    last = 0
    read(root, name)
    fd, _ = native.inotify(os.fsencode(path), _MOVED_TO | _DELETE_SELF | _MOVE_SELF)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        while True:
            try:
                version, values = read(root, name)
            except StateError:
                return
            if version != last:
                last = version
                yield version, values
            poll.poll()
            os.read(fd, 65536)
    finally:
        os.close(fd)
