"""Deleting from the store: images on request, and what crashed imports and deletions left behind.

    record -> references -> imports -> marker of the layer -> layer renamed into tmp/ -> blob -> tmp/ removed

Each step alone leaves a store that works: an image without its record does not exist, a layer without
its marker is not used.  All but the last step happen under the exclusive store lock.
"""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import StateError
from pyrun.images import staging
from pyrun.images.locks import MAKE_ROOM
from pyrun.images.staging import Staging, fsync_dir
from pyrun.images.store import Image, Store, is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collect_tmp", "pods_using", "remove_image"]

_MAX_POD = 4 << 20


def remove_image(store: Store, image_id: str) -> int:
    """Removes one image and what only it used; the bytes of its blob and layers that went.

    StateError when a pod uses it or its record cannot be removed, NotFoundError when it does not exist.
    A damaged record is removed as well.
    """
    with Staging(store.root, "remove") as grave, store.lock(exclusive=True):
        image = _load(store, image_id)
        pods = pods_using(store, image_id)
        if pods:
            more = f", and {len(pods) - 1} more do" if len(pods) > 1 else ""
            raise StateError("remove image", image_id[:19], f"pod {pods[0]} uses it{more}", hint="stop the pod, then remove it: pyrun gc")
        dependent = next((other.name for other in store.images() if image_id in other.needs), "")
        if dependent:
            raise StateError(
                "remove image", image_id[:19], f"image {dependent} depends on it", hint=f"remove that one first: pyrun image rm {dependent}"
            )
        try:
            return _remove(store, grave, image_id, image)
        except OSError as error:
            hint = "run as root; `pyrun gc` finishes what was begun"
            raise StateError("remove image", image_id[:19], errno=error.errno or 0, hint=hint) from None


def collect_tmp(store: Store) -> int:
    """Removes what no living process and no record needs; the number of things removed.

    These are staging directories of dead processes and, when nobody is using the store at the moment,
    blobs, layers, references and import notes that no record names.
    """
    removed = staging.sweep(store.root)
    try:
        lock = store.lock(exclusive=True, wait=False)
        with Staging(store.root, "gc") as grave, lock:
            removed += _collect(store, grave)
    except StateError as error:
        if not error.errno or error.step != "lock":
            raise
    return removed


def pods_using(store: Store, image_id: str) -> list[str]:
    """UUIDs of the pods whose `pod` file names an image or layer, in any phase but garbage.

    The files are searched, not parsed, so that a damaged or newer one still protects what it names.
    """
    needle = image_id.encode()
    found: list[str] = []
    for phase in _listdir(f"{store.root}/pods"):
        if phase == "garbage":
            continue
        for uuid in _listdir(f"{store.root}/pods/{phase}"):
            with contextlib.suppress(OSError), open(f"{store.root}/pods/{phase}/{uuid}/pod", "rb") as file:
                if needle in file.read(_MAX_POD):
                    found.append(uuid)
    return sorted(found)


def _load(store: Store, image_id: str) -> Image | None:
    """The image to remove; None when its record is damaged.  NotFoundError when there is none."""
    try:
        return store.load(image_id)
    except StateError:
        return None


def _remove(store: Store, grave: Staging, image_id: str, image: Image | None) -> int:
    os.unlink(store.image_path(image_id))
    fsync_dir(f"{store.root}/images")
    if image is None:
        return _collect_size(store, grave)
    _drop_refs(store, image)
    _drop_imports(store, {image_id})
    others = store.images()
    freed = image.size if not any(set(image.layers) & set(other.layers) for other in others) else 0
    for layer in image.layers:
        if not any(layer in other.layers for other in others):
            _bury_layer(store, grave, layer)
    kept = {blob for other in others for blob in (other.blob, *other.blobs)}
    for blob in {image.blob, *image.blobs} - kept:
        _bury_blob(store, blob)
    return freed


def _collect_size(store: Store, grave: Staging) -> int:
    """After a damaged record went, nobody knows what it used: everything that no record names goes with it."""
    _collect(store, grave)
    return 0


def _collect(store: Store, grave: Staging) -> int:
    broken: list[str] = []
    images = store.images(broken)
    if broken:
        return 0  # a record that cannot be read may name anything: its files stay until it is removed
    ids = {image.id for image in images}
    layers = {layer for image in images for layer in image.layers}
    blobs = {blob for image in images for blob in (image.blob, *image.blobs)}
    removed = 0
    for layer in _listdir(f"{store.root}/layers"):
        if layer not in layers and not pods_using(store, layer):
            _bury_layer(store, grave, layer)
            removed += 1
    for algorithm in ("sha256", "sha512"):
        for name in _listdir(f"{store.root}/blobs/{algorithm}"):
            digest = f"{algorithm}-{name.removesuffix('.asc')}"
            if is_digest(digest) and digest not in blobs:
                os.unlink(f"{store.root}/blobs/{algorithm}/{name}")
                removed += 1
    return removed + _collect_refs(store, ids) + _drop_imports(store, ids, keep=True)


def _collect_refs(store: Store, ids: set[str]) -> int:
    removed = 0
    for name in _listdir(f"{store.root}/refs"):
        directory = f"{store.root}/refs/{name}"
        for image_id in _listdir(directory):
            if image_id not in ids:
                os.unlink(f"{directory}/{image_id}")
                removed += 1
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    return removed


def _drop_refs(store: Store, image: Image) -> None:
    directory = store.ref_dir(image.name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{image.id}")
        fsync_dir(directory)
    with contextlib.suppress(OSError):  # not empty: other images have that name
        os.rmdir(directory)


def _drop_imports(store: Store, ids: set[str], *, keep: bool = False) -> int:
    """Removes the notes that name one of `ids`, or with `keep` those that name none of them."""
    removed = 0
    for path, image_id in _imports(store):
        if (image_id in ids) is not keep:
            os.unlink(path)
            removed += 1
    return removed


def _imports(store: Store) -> Iterator[tuple[str, str]]:
    for name in _listdir(f"{store.root}/imports"):
        path = f"{store.root}/imports/{name}"
        with contextlib.suppress(OSError):
            with open(path, "rb") as file:
                image_id = file.read(512).decode("ascii", "replace").partition(" ")[0]
            yield path, image_id


def _bury_layer(store: Store, grave: Staging, layer: str) -> None:
    path = store.layer_path(layer)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}/complete")
        fsync_dir(path)
    with contextlib.suppress(FileNotFoundError):
        grave.take(path, layer)
        fsync_dir(f"{store.root}/layers")


def _bury_blob(store: Store, digest: str) -> None:
    path = store.blob_path(digest)
    for name in (path, f"{path}.asc"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    with contextlib.suppress(FileNotFoundError):
        fsync_dir(os.path.dirname(path))


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError("read", path, errno=error.errno or 0, hint=MAKE_ROOM) from None
