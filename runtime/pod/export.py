"""A pod's files as a tar archive: all that its app sees of its root, or only what it changed, as a layer of an OCI image.

Volumes, kernel file systems and devices are not part of it.  Of a running pod the archive is no snapshot.  Only directories and
what was opened is read, nothing is followed: the app may be changing its files all the time.
"""

from __future__ import annotations

import contextlib
import os
import stat

from pyrun.errors import StateError
from pyrun.images.merged import OPAQUE
from pyrun.pod.live import apps_of
from pyrun.pod.logs import open_app, open_pod
from pyrun.pod.state import read_json
from pyrun.pod.tarout import TarWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from pyrun.images.store import Store
    from pyrun.pod.state import Pods

__all__ = ["export", "export_below"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK = 1 << 20


def export_below(root: str, uuid: str, changes: bool, app: str | None, out: int) -> int:
    """Do as `export` below the state directory `root`, to the descriptor `out`."""
    from pyrun.images.store import Store
    from pyrun.pod.state import Pods

    with open(out, "wb", closefd=False) as file:
        return export(Pods(root), Store(root), uuid, file, changes=changes, app=app)


def export(pods: Pods, store: Store, uuid: str, out: BinaryIO, *, changes: bool = False, app: str | None = None) -> int:
    """Write the archive to `out` and return how many entries it has.

    With `changes` removed files are entries `.wh.NAME`, and `.wh..wh..opq` stands in a directory that was replaced (OCI image
    specification, "Layer").  `app` says which app of several.  StateError when the pod keeps no files of its own on disk, or has none left.
    """
    if os.geteuid():
        from pyrun.pod.inside import call

        return int(call("pyrun.pod.export", "export_below", pods.root, uuid, changes, app, out=out))
    pod = open_pod(pods, uuid)
    try:
        record = read_json(pod, "pod")
        own = open_app(pod, uuid, app)
    finally:
        os.close(pod)
    tops = []
    try:
        for name in ("upper", "rootfs"):
            with contextlib.suppress(OSError):
                tops.append(os.open(name, _DIRECTORY, dir_fd=own))
    finally:
        os.close(own)
    try:
        if not tops:
            hint = "one with --upper tmpfs or --readonly-rootfs has no changes; one that is removed at its end has none for long"
            raise StateError("export pod", uuid, "it keeps no files on disk", hint=hint)
        layers = list(tops[:1])
        if not changes and not _is_copy(tops[0]):
            image = store.load(next((one["image"] for one in apps_of(record) if one["name"] == app), str(record.get("image", ""))))
            layers += [os.open(store.layer_dir(layer), _DIRECTORY) for layer in image.layers]
        tops += layers[1:]
        walk = _Walk(TarWriter(out), changes=changes)
        with store.lock(exclusive=False):
            walk.directory(layers, b"")
        walk.tar.close()
        return walk.tar.count
    finally:
        for fd in tops:
            os.close(fd)


def _is_copy(fd: int) -> bool:
    """--no-overlay: the whole root is there."""
    return os.readlink(f"/proc/self/fd/{fd}").endswith("/rootfs")


class _Walk:
    """A walk through directories that lie over each other, top first."""

    __slots__ = ("changes", "links", "tar")

    def __init__(self, tar: TarWriter, *, changes: bool) -> None:
        self.tar = tar
        self.changes = changes
        self.links: dict[tuple[int, int], bytes] = {}

    def directory(self, layers: list[int], path: bytes) -> None:
        """Write what is in a directory that these layers have, in the order of the names."""
        seen: dict[bytes, list[tuple[int, os.stat_result]]] = {}
        for fd in layers:
            for entry in os.listdir(fd):
                name = os.fsencode(entry)
                try:
                    seen.setdefault(name, []).append((fd, os.stat(name, dir_fd=fd, follow_symlinks=False)))
                except FileNotFoundError:
                    continue
        for name in sorted(seen):
            self._entry(name, seen[name], path + b"/" + name if path else name)

    def _entry(self, name: bytes, found: list[tuple[int, os.stat_result]], path: bytes) -> None:
        fd, info = found[0]
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFCHR and info.st_rdev == 0:  # a whiteout
            if self.changes:
                self._empty(path.rpartition(b"/")[0], b".wh." + name, info)
            return
        if kind == stat.S_IFDIR:
            self._subdirectory(name, found, path, info)
        elif kind == stat.S_IFLNK:
            self.tar.entry(path, info, link=os.readlink(name, dir_fd=fd))
        elif kind == stat.S_IFREG:
            self._file(fd, name, path)
        elif kind != stat.S_IFSOCK:
            self.tar.entry(path, info)

    def _subdirectory(self, name: bytes, found: list[tuple[int, os.stat_result]], path: bytes, info: os.stat_result) -> None:
        below: list[int] = []
        try:
            opaque = False
            for fd, one in found:
                if not stat.S_ISDIR(one.st_mode):
                    break
                try:
                    below.append(os.open(name, _DIRECTORY, dir_fd=fd))
                except OSError:
                    break
                opaque = any(_xattr(below[-1], key) == b"y" for key in OPAQUE)
                if opaque:
                    break
            if not below:
                return
            self.tar.entry(path, info, xattrs=_xattrs(below[0]))
            if opaque and self.changes:
                self._empty(path, b".wh..wh..opq", info)
            self.directory(below, path)
        finally:
            for fd in below:
                os.close(fd)

    def _file(self, folder: int, name: bytes, path: bytes) -> None:
        try:
            fd = os.open(name, _READ, dir_fd=folder)
        except OSError:
            return  # gone, or something else by now
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return
            first = self.links.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
            if first is not None:
                self.tar.entry(path, info, link=first, hard=True)
                return
            if info.st_nlink > 1:
                self.links[info.st_dev, info.st_ino] = path
            size = self.tar.entry(path, info, xattrs=_xattrs(fd))
            left = size
            while left and (data := os.read(fd, min(left, _CHUNK))):
                self.tar.content(data)
                left -= len(data)
            while left:  # it was cut off meanwhile
                self.tar.content(bytes(min(left, _CHUNK)))
                left -= min(left, _CHUNK)
            self.tar.pad(size)
        finally:
            os.close(fd)

    def _empty(self, folder: bytes, name: bytes, info: os.stat_result) -> None:
        self.tar.marker(folder + b"/" + name if folder else name, info.st_mtime_ns // 10**9)


def _xattrs(fd: int) -> dict[str, bytes]:
    hidden = ("trusted.overlay.", "user.overlay.", "security.selinux")
    return {key: os.getxattr(fd, key) for key in os.listxattr(fd) if not key.startswith(hidden)}


def _xattr(fd: int, key: str) -> bytes:
    try:
        return os.getxattr(fd, key)
    except OSError:
        return b""
