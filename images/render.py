"""Files of stored images outside of the store: the merged tree, one path of it, or an App Container Image as it is.  Cold."""

from __future__ import annotations

import os
import stat

from pyrun.errors import DigestError, ImageError, NotFoundError, UsageError
from pyrun.images.aci import unpack_aci
from pyrun.images.copy import copy_entry, copy_layers
from pyrun.images.fresh import fresh
from pyrun.images.merged import providers
from pyrun.images.printable import printable
from pyrun.images.rootfs import RootFS
from pyrun.images.staging import open_dir, write_file
from pyrun.images.store import Image, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["extract", "extract_path", "print_file", "render"]

_CHUNK = 1 << 20


def render(store: Store, image: Image, target: str, *, overwrite: bool = False) -> None:
    """Writes what an app of the image would see to the new directory `target`, with owners, modes, attributes, times and links.

    StateError when it is there already (unless it is empty, or `overwrite`) or cannot be written; nothing is left then.
    """
    with store.lock(exclusive=False), fresh(target, overwrite=overwrite) as new:
        copy_layers([store.layer_dir(layer) for layer in image.layers], new.fd, os.fsencode(new.name))


def extract(store: Store, image: Image, target: str, *, rootfs_only: bool = False, overwrite: bool = False) -> None:
    """Writes an App Container Image as it is, `manifest` and `rootfs` without those of its dependencies, or the files alone.

    The stored archive is unpacked once more.  DigestError when it is damaged,
    UsageError for an OCI image, which has no such tree; else as `render`.
    """
    if image.kind != "aci":
        hint = "use `pyrun image render`, or --path for a part of it"
        raise UsageError("extract", image.name, "an OCI image has no tree of its own but layers", hint=hint)
    with store.lock(exclusive=False), fresh(target, overwrite=overwrite) as new:
        if rootfs_only:
            copy_layers([store.layer_dir(image.id)], new.fd, os.fsencode(new.name))
            return
        os.mkdir(new.path, 0o755)
        with open_dir(new.path) as fd, open(store.blob_path(image.blob), "rb", buffering=0) as blob:
            info = unpack_aci(blob.fileno(), fd)
            os.unlink("tree", dir_fd=fd)
        if (info.blob_digest, info.image_id) != (image.blob, image.id):
            hint = f"see what else is damaged: pyrun image verify {image.id[:19]}"
            raise DigestError("extract", image.name, "the stored archive has another digest", hint=hint)
        write_file(f"{new.path}/manifest", info.manifest_bytes, 0o644)


def extract_path(store: Store, image: Image, path: str, target: str, *, overwrite: bool = False) -> None:
    """Writes one file or directory of what an app would see to `target`; links on the way are followed inside the image.

    NotFoundError when the image has no such path; else as `render`.
    """
    with store.lock(exclusive=False):
        layers = [store.layer_dir(layer) for layer in image.layers]
        place, number, info = _find(layers, path)
        with fresh(target, overwrite=overwrite) as new:
            if stat.S_ISDIR(info.st_mode):
                found = [os.fsencode(layers[layer]) + b"/" + place for layer in providers(layers, place)]
                copy_layers([os.fsdecode(one) for one in found], new.fd, os.fsencode(new.name))
                return
            parent, _, name = (os.fsencode(layers[number]) + b"/" + place).rpartition(b"/")
            with open_dir(os.fsdecode(parent)) as source:
                copy_entry(source, name, new.fd, os.fsencode(new.name))


def print_file(store: Store, image: Image, path: str, write: Callable[[bytes], object]) -> None:
    """Passes the content of one regular file to `write`, piece by piece; ImageError when it is something else."""
    with store.lock(exclusive=False):
        layers = [store.layer_dir(layer) for layer in image.layers]
        place, number, info = _find(layers, path)
        if not stat.S_ISREG(info.st_mode):
            raise ImageError("print", printable(path), "not a regular file", hint="give a name to write it to instead of -")
        with open(os.fsencode(layers[number]) + b"/" + place, "rb", buffering=0) as file:
            while piece := file.read(_CHUNK):
                write(piece)


def _find(layers: list[str], path: str) -> tuple[bytes, int, os.stat_result]:
    found = RootFS(layers).find(os.fsencode(path))
    if found is None:
        raise NotFoundError("find in image", printable(path), "not there", hint="paths are those that the app sees, as /etc/passwd")
    number, place, info = found
    return place, number, info
