"""Directories that a layer only implies, by naming something in them: they look as the layers below say.

A layer is unpacked alone, because images with different layers below share it, and overlayfs shows of a
directory what the topmost layer says.  So where that layer did not mean to say anything (its file `implied`
lists the path), a further layer goes on top, of directories only, which repeats what the next one below says.
Without it a layer that holds just root/.profile would open a /root of mode 0700 to everybody.  Cold.
"""

from __future__ import annotations

import hashlib
import os
import stat

from pyrun.images import commit
from pyrun.images.lower import chain_ids
from pyrun.images.merged import OPAQUE, providers
from pyrun.images.staging import Staging
from pyrun.images.store import Store

__all__ = ["with_parents"]

_NAME = "parents"


def with_parents(store: Store, staging: Staging, layers: list[str]) -> list[str]:
    """The complete layers of an image (DiffIDs, top first), with one more on top where they need it; OSError."""
    for image in store.images():  # the answer depends on nothing but the layers
        found = image.manifest.get("diffIDs")
        made = isinstance(found, list) and image.layers[0] not in (*found, *chain_ids(found))  # none of its own layers
        if made and image.layers[1:] == layers and store.has_layers(image):
            return image.layers
    implied = [_implied(store, layer) for layer in layers]
    known: dict[bytes, list[int]] = {}
    roots = [store.layer_dir(layer) for layer in layers]
    wanted: dict[bytes, str] = {}
    for path in sorted({path for paths in implied for path in paths}):
        source = _source(roots, implied, path, known)
        if source:
            for end in [index for index, byte in enumerate(path) if byte == 0x2F] + [len(path)]:
                above = path[:end]
                wanted[above] = _source(roots, implied, above, known) or roots[providers(roots, above, known)[0]]
    if not wanted:
        return layers
    target = f"{staging.path}/{_NAME}/rootfs"
    os.makedirs(target, 0o700)
    for path in sorted(wanted):
        os.mkdir(os.fsencode(target) + b"/" + path, 0o700)
    for path in sorted(wanted, reverse=True):
        _attributes(os.fsencode(wanted[path]) + b"/" + path, os.fsencode(target) + b"/" + path)
    _attributes(os.fsencode(roots[-1]), os.fsencode(target))
    listing = commit.measure_layer(staging, _NAME)
    layer = f"sha256-{hashlib.sha256(b'parents' + listing).hexdigest()}"
    with commit.id_lock(store, layer):
        commit.commit_layer(store, staging, None, layer, _NAME)
    return [layer, *layers]


def _implied(store: Store, layer: str) -> set[bytes]:
    try:
        with open(f"{store.layer_path(layer)}/implied", "rb") as file:
            return set(file.read().split(b"\0")[:-1])
    except FileNotFoundError:
        return set()


def _source(roots: list[str], implied: list[set[bytes]], path: bytes, known: dict[bytes, list[int]]) -> str:
    """The layer that says how a directory looks, where overlayfs would show another; "" where it shows the right one."""
    shown = providers(roots, path, known)
    if not shown or path not in implied[shown[0]]:
        return ""
    return next((roots[number] for number in shown if path not in implied[number]), "")


def _attributes(source: bytes, target: bytes) -> None:
    """Owner, mode, attributes and times of one directory for another that was just made."""
    info = os.lstat(source)
    os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)
    os.chmod(target, stat.S_IMODE(info.st_mode))
    for key in os.listxattr(source, follow_symlinks=False):
        if key not in OPAQUE:
            os.setxattr(target, key, os.getxattr(source, key, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
