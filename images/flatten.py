"""An image as one layer: its own and those of its dependencies, merged, with every pathWhitelist in it obeyed.  Cold.

The mask of a whitelist (see `whitelist`) hides what is below it in the stack.  That is right for the image itself, and for one
that depends on it alone; but in A -> [C, B] the mask of B would hide C's files too, which never passed B's whitelist (ACE-07:
a file is filtered along its own route).  There the image is copied into a layer of its own.
"""

from __future__ import annotations

import hashlib
import os

from pyrun.images import commit
from pyrun.images.copy import copy_layers
from pyrun.images.staging import Staging
from pyrun.images.store import Image, Store

__all__ = ["alone"]


def alone(store: Store, staging: Staging, undo: commit.Undo, image: Image) -> list[str]:
    """The layers that stand for an image above others: its own ones, or where a mask is among them, a copy; OSError or StateError.

    The caller holds no `id_lock`.
    """
    if not _is_masked(store, image, set()):
        return image.layers
    text = "\n".join(["flat 1", *image.layers])
    layer = "sha512-" + hashlib.sha512(text.encode()).hexdigest()
    name = f"flat-{layer[7:19]}"
    with commit.id_lock(store, layer):
        if not os.path.exists(f"{store.layer_path(layer)}/complete"):
            os.mkdir(name, 0o700, dir_fd=staging.fd)
            into = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=staging.fd)
            try:
                copy_layers([store.layer_dir(one) for one in image.layers], into, b"rootfs")
            finally:
                os.close(into)
            commit.commit_layer(store, staging, undo, layer, name)
    return [layer]


def _is_masked(store: Store, image: Image, seen: set[str]) -> bool:
    """Whether an image or one that it is stacked on has a whitelist."""
    if image.id in seen:
        return False
    seen.add(image.id)
    return bool(image.manifest.get("pathWhitelist")) or any(_is_masked(store, store.load(need), seen) for need in image.needs)
