"""Bringing and unpacking the layers of one import, several at a time.

blob --copy, hash--> staging/blob-N --worker, confined--> staging/layer-N: rootfs, tree, implied; its DiffID is checked
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from pyrun import native
from pyrun.errors import DigestError, PyrunError
from pyrun.images import commit, worker
from pyrun.images.limits import Limits
from pyrun.images.lower import LIST
from pyrun.images.oci import Layer, Tree
from pyrun.images.parents import BENEATH, DIRECTORY
from pyrun.images.staging import Staging, open_dir
from pyrun.images.tree import line
from pyrun.images.unpack import Policy
from pyrun.native.users import is_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.flow import Flow

__all__ = ["Layers"]

OPAQUE = "trusted.overlay.opaque"  # overlayfs(5); below a mount with userxattr it is user.overlay.opaque
_USERS_OPAQUE = "user.overlay.opaque"
_CHUNK = 1 << 20
_COPY = "copy the image again from where it came"


class Layers:
    """Copies and unpacks layers into staging; `unpack` may be called in several threads."""

    __slots__ = ("limits", "private", "staging", "title", "tree")

    def __init__(self, staging: Staging, tree: Tree, limits: Limits, title: str, *, private: bool) -> None:
        """`private`: nobody else writes where the blobs of `tree` lie; `title` is what errors call the image."""
        self.staging = staging
        self.tree = tree
        self.limits = limits
        self.private = private
        self.title = title

    def unpack(self, number: int, layer: Layer) -> None:
        """Leaves `blob-N` and `layer-N` in staging; DigestError when the content is not what the documents say."""
        staging = self.staging
        blob = f"{staging.path}/blob-{number}"
        flow = self.tree.flow(layer.path, layer.size)
        if flow is None or not self.follow(flow, number, layer, blob):
            if flow is None:
                self.copy(layer, blob)
            with open(blob, "rb", buffering=0) as file:
                self.work(file.fileno(), number, layer)
        with open_dir(f"{staging.path}/layer-{number}") as made:
            changed = _make_opaque(made)
        if os.path.exists(f"{staging.path}/layer-{number}/{LIST}"):
            os.unlink(f"{staging.path}/layer-{number}/tree")  # it is not complete yet
        else:
            commit.measure_layer(staging, f"layer-{number}", changed)

    def follow(self, flow: Flow, number: int, layer: Layer, blob: str) -> bool:
        """Unpacks a layer while it is copied to `blob`; false, and nothing is unpacked, where what came first was not what is there now.

        What is wrong with the copy is the reason for what is wrong with its content, so it is raised first.
        """
        failure: PyrunError | None = None
        with flow, ThreadPoolExecutor(1, "copy") as side:
            copied = side.submit(self.copy, layer, blob)
            copied.add_done_callback(lambda _: flow.end())
            try:
                self.work(flow.fd, number, layer)
            except PyrunError as error:
                failure = error
            copied.result()
        if not flow.whole:
            os.rename(f"layer-{number}", f"broken-{number}", src_dir_fd=self.staging.fd, dst_dir_fd=self.staging.fd)
            return False
        if failure is not None:
            raise failure
        return True

    def work(self, source: int, number: int, layer: Layer) -> None:
        """Unpacks what can be read from `source` into `layer-N`."""
        os.mkdir(f"layer-{number}", 0o700, dir_fd=self.staging.fd)
        with open_dir(f"{self.staging.path}/layer-{number}") as target:
            try:
                found = worker.run("layer", source, target, self.limits, Policy(conflicts="replace"), formats=layer.formats)
            except PyrunError as error:
                error.origin = f"{self.title}: layer {layer.digest[:19]}"
                raise
            if found["diff_id"] != layer.diff_id:
                reason = f"its content is {found['diff_id'][:19]}, the configuration says {layer.diff_id[:19]}"
                raise DigestError("unpack layer", layer.digest[:19], reason, hint=_COPY, origin=self.title)

    def copy(self, layer: Layer, target: str) -> None:
        """The blob as a private file, with its size and digest checked while it is read; not synced."""
        fd = self.tree.open(layer.path)
        try:
            algorithm, _, digits = layer.digest.partition("-")
            hasher, size = hashlib.new(algorithm), 0
            if self.private:  # linkat(2) follows the link in /proc to what is open
                os.link(f"/proc/self/fd/{fd}", target, dst_dir_fd=self.staging.fd, follow_symlinks=True)
            out = os.open(target, os.O_WRONLY | os.O_CLOEXEC | (0 if self.private else os.O_CREAT | os.O_EXCL), 0o600)
            try:
                while size <= layer.size and (piece := os.read(fd, _CHUNK)):
                    hasher.update(piece)
                    size += len(piece)
                    view = memoryview(piece)
                    while view and not self.private:
                        view = view[os.write(out, view) :]
            finally:
                os.close(out)
        finally:
            os.close(fd)
        if size != layer.size or hasher.hexdigest() != digits:
            reason = f"its size is not {layer.size}" if size != layer.size else "its content has another digest"
            raise DigestError("read", f"{self.title}: {layer.path}", reason, hint=_COPY)


def _make_opaque(layer_fd: int) -> dict[bytes, bytes]:
    """Does what the worker may not: marks the directories that it listed; what changes by that in the layer's listing."""
    changed = {}
    with open("opaque", "rb", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, dir_fd=layer_fd)) as file:
        paths = file.read().split(b"\0")[:-1]
    name = OPAQUE if is_root() else _USERS_OPAQUE
    root = os.open("rootfs", DIRECTORY, dir_fd=layer_fd)
    try:
        for path in paths:
            fd = native.openat2(root, path or b".", DIRECTORY, 0, BENEATH)
            try:
                os.setxattr(fd, name, b"y")
                begin, whole = line(path, fd)
                changed[begin] = whole
            finally:
                os.close(fd)
    finally:
        os.close(root)
    os.unlink("opaque", dir_fd=layer_fd)
    return changed
