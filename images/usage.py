"""How much of the disk each stored image takes, alone and together with others.  Cold."""

from __future__ import annotations

import os

from pyrun.images.commit import layer_size
from pyrun.images.store import Image, Store

__all__ = ["Usage", "measure"]


class Usage:
    """Bytes of one image: `total`, of which other images use `shared` too and none but it `unique`, what `image rm` would free."""

    __slots__ = ("image", "shared", "total", "unique")

    def __init__(self, image: Image, total: int, unique: int) -> None:
        self.image = image
        self.total = total
        self.unique = unique
        self.shared = total - unique


def measure(store: Store) -> tuple[list[Usage], int, int]:
    """The usage of each image, newest import first; the bytes of all that they name; and those of layers and blobs that none names."""
    images = store.images()
    parts = {image.id: {image.blob, *image.blobs} | {f"layer {layer}" for layer in image.layers} for image in images}
    count: dict[str, int] = {}
    for named in parts.values():
        for part in named:
            count[part] = count.get(part, 0) + 1
    sizes = {part: _size(store, part) for part in count}
    found = []
    for image in images:
        named = parts[image.id]
        found.append(Usage(image, sum(sizes[part] for part in named), sum(sizes[part] for part in named if count[part] == 1)))
    stray = [f"layer {name}" for name in _names(f"{store.root}/layers")]
    stray += [f"{algorithm}-{name}" for algorithm in ("sha256", "sha512") for name in _names(f"{store.root}/blobs/{algorithm}")]
    unused = sum(_size(store, part) for part in stray if part not in count and not part.endswith(".asc"))
    return found, sum(sizes.values()), unused


def _size(store: Store, part: str) -> int:
    kind, _, layer = part.partition(" ")
    try:
        return layer_size(store, layer) if layer else os.stat(store.blob_path(kind)).st_size
    except (OSError, ValueError, IndexError):
        return 0  # gone or damaged, which is for `image verify` to say


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
