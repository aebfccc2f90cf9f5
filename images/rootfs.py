"""Looking at files of an image from the host, as the app will see them, without mounting anything.

An image's root is a stack of layers, top first, that overlayfs(5) merges: a character device 0:0 hides
what is below it, an opaque directory hides the directory below it, and whatever is not a directory
hides everything below.  Symlinks are resolved here, one component at a time and always inside the
root, because the kernel would take an absolute target for one of the host.  Each component is opened
by itself and not if it is a link, so a running container that swaps a directory of its upper layer for
one changes nothing on the way.
"""

from __future__ import annotations

import _stat as stat  # the part in C: what `stat` adds in Python would cost each start that decides
import os

from pyrun.errors import ImageError, StateError
from pyrun.images.printable import printable

__all__ = ["RootFS"]

_MAX_LINKS = 40  # as the kernel, path_resolution(7)
_DOWN = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_PEEK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ABSENT = (2, 20, 40, 36)  # ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG: module errno would take longer than a look-up
_ELOOP = 40
_CHUNK = 1 << 16  # memory for more would come from the kernel, and go back to it, each time
_NO_XATTR = (61, 95, 1, 13)  # ENODATA, ENOTSUP, EPERM, EACCES


class RootFS:
    """The merged view of layer directories, top first; holds no descriptors between calls."""

    __slots__ = ("_layers",)

    def __init__(self, layer_dirs: list[str]) -> None:
        self._layers = layer_dirs

    def read(self, path: bytes, limit: int = 1 << 20) -> bytes | None:
        """The content of a regular file, None when there is nothing at `path` (links are followed inside the root).

        ImageError when it is something else than a regular file, holds more than `limit` bytes, or its links turn in circles.
        """
        with _Walk(self._layers) as walk:
            found = walk.find(path, follow=True)
            if found is None:
                return None
            layer, place, info = found
            if not stat.S_ISREG(info.st_mode):
                raise ImageError("read", f"{printable(path)} of the image", "not a regular file", hint="the image has to be mended")
            if info.st_size > limit:
                raise ImageError("read", f"{printable(path)} of the image", f"larger than {limit} bytes", hint="the image has to be mended")
            return _content(walk.roots[layer], place, limit, path)

    def find(self, path: bytes) -> tuple[int, bytes, os.stat_result] | None:
        """The layer (its position) whose file or directory `path` shows, its path there without links, and its stat; None for nothing.

        Links are followed inside the root; ImageError when they turn in circles.
        """
        with _Walk(self._layers) as walk:
            return walk.find(path, follow=True)

    def owner(self, path: bytes) -> tuple[int, int] | None:
        """Owner and group of what is at `path`, of the link itself if it is one; None when there is nothing."""
        with _Walk(self._layers) as walk:
            found = walk.find(path, follow=False)
            return None if found is None else (found[2].st_uid, found[2].st_gid)


def _content(root: int, place: bytes, limit: int, path: bytes) -> bytes | None:
    try:
        fd = _open_inside(root, place, _READ)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise StateError("read", f"{printable(path)} of the image", errno=error.errno or 0) from None
    try:
        # Once more on what was really opened: the top layer may belong to a container that runs.
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = b""
        while len(data) <= limit and (piece := os.read(fd, min(limit + 1 - len(data), _CHUNK))):
            data += piece
    except OSError as error:
        raise StateError("read", f"{printable(path)} of the image", errno=error.errno or 0) from None
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ImageError("read", f"{printable(path)} of the image", f"larger than {limit} bytes", hint="the image has to be mended")
    return data


def _open_inside(root: int, place: bytes, flags: int) -> int:
    """Open `place`, which has no "..", below `root`; OSError where a component before the last one is no directory, or a link.

    As openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, whose binding would cost every start a millisecond.
    """
    *above, name = place.split(b"/")
    at = root
    try:
        for part in above:
            below = os.open(part, _DOWN, dir_fd=at)
            if at != root:
                os.close(at)
            at = below
        return os.open(name, flags, dir_fd=at)
    finally:
        if at != root:
            os.close(at)


class _Walk:
    """One path resolution; `roots` are descriptors of the layers' directories."""

    __slots__ = ("_layers", "roots")

    def __init__(self, layers: list[str]) -> None:
        self._layers = layers
        self.roots: list[int] = []

    def __enter__(self) -> _Walk:
        try:
            for layer in self._layers:
                self.roots.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            self.__exit__()
            raise StateError(
                "open layer", error.filename or "", errno=error.errno or 0, hint="import the image again: pyrun fetch FILE"
            ) from None
        return self

    def __exit__(self, *_exc: object) -> None:
        for root in self.roots:
            os.close(root)
        self.roots.clear()

    def find(self, path: bytes, *, follow: bool) -> tuple[int, bytes, os.stat_result] | None:
        """Index of the layer, path in it without links, and stat of what `path` means; None when there is nothing."""
        if b"\0" in path:
            return None
        todo = _split(path)
        done: list[bytes] = []
        merged = [list(range(len(self.roots)))]  # for each level of `done`, the layers that take part in it
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                if done:
                    done.pop()
                    merged.pop()
                continue
            place = b"/".join((*done, name))
            found = self._look(merged[-1], place)
            if found is None:
                return None
            layers, info = found
            if stat.S_ISLNK(info.st_mode) and (todo or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise ImageError("look up", f"{printable(path)} in the image", errno=_ELOOP, hint="the image has to be mended")
                target = self._target(layers[0], place)
                if target is None:
                    return None
                if target.startswith(b"/"):
                    done.clear()
                    del merged[1:]
                todo += _split(target)
            elif stat.S_ISDIR(info.st_mode):
                done.append(name)
                merged.append(layers)
            elif todo:
                return None
            else:
                return layers[0], place, info
        layer, place = merged[-1][0], b"/".join(done) or b"."
        return layer, place, os.stat(self.roots[layer]) if place == b"." else self._stat(layer, place)

    def _look(self, candidates: list[int], place: bytes) -> tuple[list[int], os.stat_result] | None:
        """The layers that make up what is at `place`, and the stat of the topmost; None when it is absent or whited out."""
        layers: list[int] = []
        top: os.stat_result | None = None
        for layer in candidates:
            fd = self._open(layer, place)
            if fd < 0:
                continue
            try:
                info = os.fstat(fd)
                if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
                    break
                if not stat.S_ISDIR(info.st_mode):
                    if top is None:
                        return [layer], info
                    break
                layers.append(layer)
                top = top or info
                if len(candidates) > 1 and _is_opaque(fd):
                    break
            finally:
                os.close(fd)
        return None if top is None else (layers, top)

    def _open(self, layer: int, place: bytes) -> int:
        """An O_PATH descriptor, -1 when there is nothing."""
        try:
            return _open_inside(self.roots[layer], place, _PEEK)
        except OSError as error:
            if error.errno in _ABSENT:
                return -1
            raise StateError("look up", f"{printable(place)} in the image", errno=error.errno or 0) from None

    def _stat(self, layer: int, place: bytes) -> os.stat_result:
        fd = self._open(layer, place)
        if fd < 0:
            raise StateError("look up", f"{printable(place)} in the image", "it vanished", hint="try again")
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _target(self, layer: int, place: bytes) -> bytes | None:
        fd = self._open(layer, place)
        if fd < 0:
            return None
        try:
            return os.readlink(b"", dir_fd=fd)  # readlinkat(2): an empty path means the link that fd is
        except OSError:
            return None  # no link any more
        finally:
            os.close(fd)


def _split(path: bytes) -> list[bytes]:
    """The components that mean something, last first."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]


def _is_opaque(fd: int) -> bool:
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(f"/proc/self/fd/{fd}", name) == b"y":
                return True
        except OSError as error:
            if error.errno not in _NO_XATTR:
                raise StateError("look up", "overlay attributes", errno=error.errno or 0) from None
    return False
