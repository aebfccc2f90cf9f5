"""Hard links of a layer to files of the layers below: `lower` lists them, here they are made.

    lower   NAME NUL TARGET NUL ...    "/" before TARGET where the target keeps its own name

A tree that has all layers in it makes such a link and is done; overlayfs copies the target up, and both names are one file in
the upper layer.  The same is done here: the file that the layers below show is copied into this one, under both names.
What such a layer holds depends on those below it, so it is not kept by its DiffID but by its ChainID (image-spec 1.1,
config.md "Layer ChainID"), and shared by images with the same layers below only.  Cold.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat

from pyrun import native
from pyrun.errors import ArchiveError, ImageError
from pyrun.images.copy import copy_entry
from pyrun.images.limits import Limits
from pyrun.images.merged import providers
from pyrun.images.parents import BENEATH, DIRECTORY
from pyrun.images.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

__all__ = ["LIST", "chain_ids", "link_lower"]

LIST = "lower"
_HINT = "the target of a hard link comes before it in the archive, or in a layer below"


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The ChainID of each layer, given the DiffIDs, bottom first; all written ``sha256-<hex>``."""
    found = diff_ids[:1]
    for diff_id in diff_ids[1:]:
        text = f"{found[-1]} {diff_id}".replace("-", ":")
        found.append(f"sha256-{hashlib.sha256(text.encode()).hexdigest()}")
    return found


def link_lower(layer: str, below: list[str], limits: Limits, origin: str) -> int:
    """Makes the links that the staged directory `layer` lists, to files of the trees `below`, top first; the bytes that were copied.

    ArchiveError for a target that is not there or no file, or for more than `limits` allow; ImageError or OSError when the disk is full.
    """
    with open(f"{layer}/{LIST}", "rb") as file:
        words = file.read().split(b"\0")[:-1]
    root = os.open(f"{layer}/rootfs", DIRECTORY)
    try:
        work = _Links(root, below, limits, origin)
        for name, target in zip(words[::2], words[1::2], strict=True):
            work.link(name, target.removeprefix(b"/"), keep=target.startswith(b"/"))
    finally:
        os.close(root)
    os.unlink(f"{layer}/{LIST}")
    return work.copied


class _Links:
    """The links of one layer; files of the layers below that were copied, by device and inode."""

    __slots__ = ("below", "copied", "known", "limits", "made", "origin", "root")

    def __init__(self, root: int, below: list[str], limits: Limits, origin: str) -> None:
        self.root = root
        self.below = below
        self.limits = limits
        self.origin = origin
        self.copied = 0
        self.made: dict[tuple[int, int], bytes] = {}
        self.known: dict[bytes, list[int]] = {}

    def link(self, name: bytes, target: bytes, *, keep: bool) -> None:
        """Makes one link; with `keep` the target gets its name in this layer, too."""
        source, info = self.find(name, target)
        first = self.made.get((info.st_dev, info.st_ino))
        if first is None:
            self.copy(source, name, info)
            self.made[(info.st_dev, info.st_ino)] = first = name
        else:
            self.same(first, name)
        if keep:
            with contextlib.suppress(FileExistsError):  # this layer has another file of that name, or had it from another link
                self.same(first, target)

    def find(self, name: bytes, target: bytes) -> tuple[bytes, os.stat_result]:
        """The file that the layers below show at `target`."""
        for number in providers(self.below, target.rpartition(b"/")[0], self.known):
            path = os.path.join(os.fsencode(self.below[number]), target)
            try:
                info = os.lstat(path)
            except FileNotFoundError:
                continue
            if stat.S_ISCHR(info.st_mode) and not info.st_rdev:
                break  # a whiteout
            if not stat.S_ISREG(info.st_mode) and not stat.S_ISLNK(info.st_mode):
                self.refuse(name, f"a hard link to {printable(target, 80)}, which is no file", "link to a regular file")
            return path, info
        self.refuse(name, f"a hard link to {printable(target, 80)}, which is not there, nor in the layers below", _HINT)

    def copy(self, path: bytes, name: bytes, info: os.stat_result) -> None:
        """Copies the file `path` of a layer below to `name`, with all that belongs to it."""
        folder, _, last = path.rpartition(b"/")
        self.copied += info.st_size
        if self.copied > self.limits.total:
            self.refuse(name, f"hard links to more than {self.limits.total} bytes of the layers below", "build a smaller image")
        space = os.fstatvfs(self.root)
        if space.f_bavail * space.f_frsize < self.limits.free + info.st_blocks * 512:
            hint = "remove images that are no longer needed, or use a larger file system for the store"
            raise ImageError("unpack", printable(name), "too little is left on the store", errno=errno.ENOSPC, hint=hint)
        source = os.open(folder, DIRECTORY)
        try:
            with self.parent(name) as (target, new):
                copy_entry(source, last, target, new)
        finally:
            os.close(source)

    def same(self, first: bytes, name: bytes) -> None:
        """Gives a file of this layer one more name; FileExistsError."""
        with self.parent(first) as (source, old), self.parent(name) as (target, new):
            os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The directory of a path in this layer, which keeps its times, and the path's last component."""
        above, _, last = path.rpartition(b"/")
        fd = native.openat2(self.root, above or b".", DIRECTORY, 0, BENEATH)
        try:
            info = os.fstat(fd)
            yield fd, last
            os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
        finally:
            os.close(fd)

    def refuse(self, name: bytes, reason: str, hint: str) -> NoReturn:
        """Raises ArchiveError."""
        raise ArchiveError("unpack", printable(name), reason, hint=hint, origin=self.origin)
