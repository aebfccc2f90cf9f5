"""Checking stored images against everything that was recorded at import: record, blob, signature, files."""

from __future__ import annotations

import hashlib
import os

from pyrun.errors import PyrunError, StateError
from pyrun.images import commit, fastjson, tags, tree
from pyrun.images.printable import printable
from pyrun.images.store import Image, Store
from pyrun.images.trust.gate import rejudge
from pyrun.images.trust.keyring import Keyring

__all__ = ["verify_image", "verify_store"]

_CHUNK = 1 << 20


def verify_image(store: Store, image_id: str, keyring: Keyring) -> list[str]:
    """What is wrong with one stored image, a line each; empty when it is as it was imported and its key is trusted today.

    An image that was accepted unsigned is not wrong for that.  NotFoundError when it does not exist.
    """
    try:
        image = store.load(image_id)
    except StateError as error:
        return [str(error)]
    problems = _record(store, image)
    for digest in dict.fromkeys((image.blob, *image.blobs)):
        problems += _blob(store, image, digest, keyring)
    for layer in image.layers:
        problems += _layer(store, layer)
    return problems


def _record(store: Store, image: Image) -> list[str]:
    path = store.image_path(image.id)
    problems = []
    try:
        with open(path, "rb") as file:
            value = fastjson.loads(file.read())
        assert isinstance(value, dict)
        check = value.pop("check", None)
        if hashlib.sha256(fastjson.dumps(value).encode()).hexdigest() != check:
            problems.append(f"record {path}: not what was written at import")
        reference = f"{store.ref_dir(image.name)}/{image.id}"
        with open(reference, "rb") as file:
            if file.read() != fastjson.dumps(image.labels).encode():
                problems.append(f"reference {reference}: not what was written at import")
    except OSError as error:
        problems.append(f"{error.filename or path}: {os.strerror(error.errno or 0).lower()}")
    return problems


def _blob(store: Store, image: Image, digest: str, keyring: Keyring) -> list[str]:
    path = store.blob_path(digest)
    algorithm, _, expected = digest.partition("-")
    try:
        with open(path, "rb", buffering=0) as blob:
            hasher = hashlib.new(algorithm)
            while piece := blob.read(_CHUNK):
                hasher.update(piece)
            if hasher.hexdigest() != expected:
                return [f"blob {path}: its digest is {algorithm}-{hasher.hexdigest()}"]
            return _signature(store, image, f"{path}.asc", blob.fileno(), keyring) if digest == image.blob else []
    except OSError as error:
        return [f"blob {path}: {os.strerror(error.errno or 0).lower()}"]


def _signature(store: Store, image: Image, path: str, data_fd: int, keyring: Keyring) -> list[str]:
    if image.signature is None:
        return []
    try:
        if "sha256" in image.signature:
            with open(path, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != image.signature["sha256"]:
                    return [f"signature {path}: not what was written at import"]
        if image.kind == "oci":
            rejudge(store, image, system=keyring.system)
        else:
            keyring.verify(image.name, path, data_fd)
    except PyrunError as error:
        return [f"signature: {error.reason or error}"]
    except OSError as error:
        return [f"signature {path}: {os.strerror(error.errno or 0).lower()}"]
    return []


def _layer(store: Store, layer: str) -> list[str]:
    path = store.layer_path(layer)
    try:
        with open(f"{path}/tree", "rb") as file:
            recorded = file.read()
        with open(f"{path}/complete", "rb") as file:
            marker = file.read()
        if not _is_recorded(path, recorded, marker):
            return [f"layer {path}: the list of its digests is damaged"]
        strange = sorted(set(os.listdir(path)) - {"rootfs", "complete", *commit.LISTS})
    except OSError as error:
        return [f"layer {path}: {os.strerror(error.errno or 0).lower()} ({os.path.basename(os.fsdecode(error.filename))})"]
    if strange:
        return [f"layer {path}: {printable(strange[0])} is not part of it"]
    try:
        changed = tree.difference(f"{path}/rootfs", recorded)
    except PyrunError as error:
        return [f"layer {path}: {error}"]
    return [f"layer {path}: {changed}"] if changed else []


def _is_recorded(path: str, listing: bytes, marker: bytes) -> bool:
    try:
        return commit.marker(path, listing) == marker
    except ValueError:
        return False


def verify_store(store: Store) -> list[str]:
    """What is wrong beside the images: names, tags and notes that lead to no stored image.  StateError when it cannot be read."""
    ids = set(store.ids())
    damaged: list[str] = []
    problems = [f"tag {tag.text}: its image is not in the store" for tag in tags.stored(store, damaged) if tag.id not in ids]
    problems += [f"tag {path}: damaged" for path in damaged]
    for name in _names(f"{store.root}/refs"):
        problems += [
            f"reference {store.root}/refs/{name}/{image_id}: its image is not in the store"
            for image_id in _names(f"{store.root}/refs/{name}")
            if image_id not in ids
        ]
    for name in _names(f"{store.root}/imports"):
        path = f"{store.root}/imports/{name}"
        try:
            with open(path, "rb") as file:
                image_id = file.read(512).decode("ascii", "replace").partition(" ")[0]
        except OSError as error:
            problems.append(f"note {path}: {os.strerror(error.errno or 0).lower()}")
        else:
            problems += [f"note {path}: its image is not in the store"] if image_id not in ids else []
    return [f"{problem}; `pyrun image gc` removes it" for problem in problems]


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError("read", directory, errno=error.errno or 0) from None
