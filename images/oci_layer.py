"""The confined side of reading OCI and Docker images: one layer, or the archive that holds a whole image.

A layer becomes a directory that overlayfs can take as it is.  OCI's whiteouts are put into overlay's form when
everything else is there, because they mean the layers below only, wherever in the archive they stand
(image-spec 1.1, layer.md "Whiteouts"):

    .wh.NAME         NAME is a character device 0:0, or an opaque directory where this layer has a directory NAME
    .wh..wh..opq     the directory is opaque

Making a directory opaque takes a privilege that this process does not have (xattr(7), trusted): it lists them
in the file `opaque`, for the caller.  `implied` lists directories that only their children imply: layers below
know better what these look like.  `lower`, which most layers do not have, lists hard links to files of layers below,
see `pyrun.images.lower`.  `tree` lists everything (see `pyrun.images.tree`), as it is before the caller has done its part.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from pyrun.errors import ArchiveError
from pyrun.images import codec, tar
from pyrun.images.aci import Ahead, Plain
from pyrun.images.limits import Limits
from pyrun.images.parents import Parts
from pyrun.images.tar import Member
from pyrun.images.unpack import Policy, Unpacker, failed
from pyrun.native._unpack import lib

__all__ = ["read_box", "read_layer", "recognise"]

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
MAX_LIST = 16 << 20  # bytes of paths that `opaque` and `implied` may hold

_HEX = frozenset(b"0123456789abcdef")
_HINT = "build the layer again with a tool that writes whiteouts as image-spec says"


class LayerUnpacker(Unpacker):
    """An `Unpacker` that knows whiteouts.  Absolute names mean the root of the image, as for every other reader of layers."""

    flags = lib.TREE_LAYER

    def __init__(self, rootfd: int, limits: Limits, policy: Policy) -> None:
        super().__init__(rootfd, limits, policy, listed=True)
        self._limits = limits
        self._whiteouts: set[Parts] = set()
        self._opaque: set[Parts] = set()
        self._lower: dict[Parts, Parts] = {}  # hard link -> target
        self._shown: set[Parts] = set()  # targets

    def special(self, member: Member) -> None:
        """Remembers what the writer leaves to us: whiteouts, and hard links to what is not in this layer."""
        if member.kind == tar.HARDLINK and not any(part.startswith(WHITEOUT) for part in tar.clean(member.path.lstrip(b"/"))):
            self._link(tar.clean(member.path.lstrip(b"/")), tar.clean(member.linkname.lstrip(b"/")))
        else:
            self.whiteout(member)

    def _link(self, parts: Parts, target: Parts) -> None:
        target = self._lower.get(target, target)  # a link to such a link is one to the same file
        if target == parts:
            tar.refuse(b"/".join(parts), "a hard link to itself", _HINT)
        earlier = self._stat(parts)
        if earlier is not None:
            if stat.S_ISDIR(earlier.st_mode):
                tar.refuse(b"/".join(parts), "a hard link in the place of a directory of the same layer", _HINT)
            self.vacate()
        self._lower.pop(parts, None)
        self._lower[parts] = target

    def _stat(self, parts: Parts) -> os.stat_result | None:
        """What is there in this layer; its parent is made where it is missing."""
        parent = self.directory(parts[:-1])
        try:
            return os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(parent)

    def whiteout(self, member: Member) -> None:
        """Remembers a member whose path has the name of a whiteout in it."""
        parts = tar.clean(member.path.lstrip(b"/"))
        name = parts[-1][len(WHITEOUT) :]
        if not parts[-1].startswith(WHITEOUT) or any(part.startswith(WHITEOUT) for part in parts[:-1]):
            tar.refuse(member.path, "a path through a whiteout", _HINT)
        if member.kind not in (tar.FILE, tar.HARDLINK) or member.size:
            tar.refuse(member.path, f"a whiteout that is a {member.kind} of {member.size} bytes", _HINT)
        if len(parts) > self._limits.depth:
            tar.refuse(member.path, f"{len(parts)} directories deep, {self._limits.depth} are allowed")
        self.count(member.path)
        if parts[-1] == OPAQUE:
            self._opaque.add(parts[:-1])
        elif name in (b"", b".", b"..") or name.startswith(WHITEOUT):
            tar.refuse(member.path, "a whiteout of what can be no file", _HINT)
        else:
            self._whiteouts.add((*parts[:-1], name))

    def finish(self) -> None:
        """Makes the whiteouts, then everything else that comes last."""
        self._lower = {parts: target for parts, target in self._lower.items() if self._stat(parts) is None}  # else a later member won
        self._shown = {target for target in self._lower.values() if self._is_shown(target)}
        self._whiteouts.difference_update(self._lower)  # as beside any other file of that name
        for parts in sorted(self._opaque) + sorted(self._whiteouts):
            try:
                self._hide(parts)
            except OSError as exc:
                failed(b"/".join(parts), exc)
        super().finish()

    def _is_shown(self, target: Parts) -> bool:
        """Whether the target of a link keeps its name, unlike in a layer that renames it; its parent is made where it is missing."""
        above = [target[:size] for size in range(len(target) + 1)]
        if any(parts in self._whiteouts or (parts in self._opaque and parts != target) for parts in above):
            return False
        try:
            os.close(self.directory(target[:-1]))
        except ArchiveError:
            return False  # something else is there by now
        return True

    def _hide(self, parts: Parts) -> None:
        if parts in self._opaque:
            os.close(self.directory(parts))  # made where only the whiteout implies it
            return
        parent = self.directory(parts[:-1])
        try:
            existing = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(existing.st_mode):
                self._opaque.add(parts)
        except FileNotFoundError:
            os.mknod(parts[-1], stat.S_IFCHR, 0, dir_fd=parent)
        finally:
            os.close(parent)

    def lists(self) -> dict[str, bytes]:
        """The content of the files `opaque` and `implied`: paths that end in NUL, the root being empty."""
        found = {
            "opaque": b"".join(b"/".join(parts) + b"\0" for parts in sorted(self._opaque)),
            "implied": b"".join(path + b"\0" for path in self.implied()),
        }
        if self._lower:
            found["lower"] = b"".join(
                b"/".join(parts) + b"\0" + b"/" * (target in self._shown) + b"/".join(target) + b"\0"
                for parts, target in self._lower.items()
            )
        if max(map(len, found.values())) > MAX_LIST:
            raise ArchiveError("unpack", "layer", "too many opaque or unnamed directories", hint="no real layer has that many")
        return found


def read_layer(src_fd: int, staging_dirfd: int, limits: Limits, policy: Policy, formats: tuple[str, ...]) -> dict[str, Any]:
    """Unpacks a layer into a new `rootfs/` below staging, with its lists beside it.

    Returns its DiffID, the sha256 of the whole decompressed stream.
    """
    reader = codec.reader(Plain(src_fd), limits=limits, allow=formats)  # the caller knows the blob's own digest
    root = _make("rootfs", staging_dirfd, 0o755)
    stream = Ahead(reader, "sha256")
    try:
        with LayerUnpacker(root, limits, policy) as unpacker:
            for member in unpacker.others(tar.Members(stream, limits, unclosed="accept")):
                unpacker.special(member)
            unpacker.finish()
            unpacker.list(staging_dirfd)
            for name, data in unpacker.lists().items():
                _write(name, data, staging_dirfd)
    finally:
        stream.close()
        os.close(root)
    return {"diff_id": f"sha256-{stream.digest.hexdigest()}"}


def read_box(src_fd: int, staging_dirfd: int, limits: Limits) -> dict[str, Any]:
    """Unpacks an archive that holds an image into a new `box/` below staging: private files, whatever the archive says of them."""
    reader = codec.reader(Plain(src_fd), limits=limits)
    root = _make("box", staging_dirfd, 0o700)
    stream = Ahead(reader, "sha256")
    try:
        with Unpacker(root, limits, Policy(conflicts="replace"), private=True) as unpacker:
            for _ in unpacker.others(tar.Members(stream, limits)):
                pass  # without a prefix there are none
            unpacker.finish()
    finally:
        stream.close()
        os.close(root)
    return {}


def recognise(src_fd: int, limits: Limits) -> dict[str, Any]:
    """What kind of image an archive is, by its first telling name: aci, oci-archive or docker-archive; aci when none tells."""
    reader = codec.reader(Plain(src_fd), limits=limits)
    kind = "aci"
    for member in tar.Members(reader, limits):
        parts = tar.clean(member.path)
        if not parts:
            continue
        kind = _kind(parts)
        if kind:
            break
    return {"kind": kind or "aci"}


def _kind(parts: Parts) -> str:
    first = parts[0]
    if first in (b"oci-layout", b"index.json", b"blobs"):
        return "oci-archive"
    stem = first.partition(b".")[0]
    if first in (b"manifest.json", b"repositories") or (len(stem) == 64 and _HEX.issuperset(stem)):
        return "docker-archive"
    return "aci"


def _make(name: str, dirfd: int, mode: int) -> int:
    os.mkdir(name, 0o700, dir_fd=dirfd)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    os.fchmod(fd, mode)
    return fd


def _write(name: str, data: bytes, dirfd: int) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dirfd)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
