"""An image's pathWhitelist as one more layer: a whiteout for everything in the merged tree that is not listed.

The App Container spec has the paths removed after everything is rendered.  A layer of whiteouts (character
devices 0:0, overlayfs(5)) on top of an image and its dependencies does that to the mounted view and
leaves the layers themselves to be shared.  A listed directory keeps its parents and itself, not what is
in it; what is below a mask passes every mask above it, so nested whitelists intersect.  Cold.
"""

from __future__ import annotations

import os
import stat

__all__ = ["write_mask"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


class _Directory:
    """A directory of the merged tree: what is in it (None for anything but a directory) and where its attributes come from."""

    __slots__ = ("entries", "source")

    def __init__(self) -> None:
        self.entries: dict[bytes, _Directory | None] = {}
        self.source: tuple[int, int, int, int] = (0o755, 0, 0, 0)  # mode, owner, group, time of modification in nanoseconds


def write_mask(layer_dirs: list[str], whitelist: list[str], target: str) -> None:
    """Fill the empty directory `target` with the whiteouts that leave only `whitelist` of the layers (top first); OSError."""
    merged = _Directory()
    for layer in reversed(layer_dirs):
        root = os.open(layer, _DIRECTORY)
        try:
            _merge(root, merged)
        finally:
            os.close(root)
    kept = _Directory()  # as a tree: an entry for each listed path and its parents
    for path in whitelist:
        place = kept
        for part in os.fsencode(path).split(b"/"):
            if part:
                place = place.entries.setdefault(part, _Directory()) or place
    root = os.open(target, _DIRECTORY)
    try:
        _mask(root, merged, kept)
        _attributes(root, merged)
    finally:
        os.close(root)


def _merge(source: int, into: _Directory) -> None:
    """Lay one layer's directory over what the layers below it make."""
    info = os.fstat(source)
    into.source = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns)
    for entry in os.scandir(source):
        name = os.fsencode(entry.name)
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            into.entries.pop(name, None)
        elif not stat.S_ISDIR(info.st_mode):
            into.entries[name] = None
        else:
            below = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                found = into.entries.get(name)
                if found is None or _is_opaque(below):
                    found = into.entries[name] = _Directory()
                _merge(below, found)
            finally:
                os.close(below)


def _is_opaque(fd: int) -> bool:
    for key in _OPAQUE:
        try:
            if os.getxattr(fd, key) == b"y":
                return True
        except OSError:
            pass  # the usual case: no such attribute
    return False


def _mask(target: int, merged: _Directory, kept: _Directory) -> None:
    for name, found in merged.entries.items():
        wanted = kept.entries.get(name)
        if wanted is None:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)
        elif found is not None and _hides_anything(found, wanted):
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                _mask(below, found, wanted)
                _attributes(below, found)
            finally:
                os.close(below)


def _hides_anything(merged: _Directory, kept: _Directory) -> bool:
    """Whether a directory needs a copy in the mask at all."""
    for name, found in merged.entries.items():
        wanted = kept.entries.get(name)
        if wanted is None or (found is not None and _hides_anything(found, wanted)):
            return True
    return False


def _attributes(fd: int, merged: _Directory) -> None:
    """The mask's directories lie on top, so theirs are the mode, owner and time that the app sees; after everything is in them."""
    mode, uid, gid, modified = merged.source
    os.fchown(fd, uid, gid)
    os.fchmod(fd, mode)
    os.utime(fd, ns=(modified, modified))
