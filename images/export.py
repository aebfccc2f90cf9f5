"""Stored images as files again: the very file that was imported, or an OCI image layout (image-spec 1.1, image-layout.md).  Cold."""

from __future__ import annotations

import contextlib
import hashlib
import os

from pyrun.errors import DigestError, ImageError, UsageError
from pyrun.images import fastjson
from pyrun.images.convert import convert
from pyrun.images.fresh import fresh, fresh_signed
from pyrun.images.oci import MANIFESTS
from pyrun.images.staging import Staging
from pyrun.images.store import Image, Store
from pyrun.images.tarwrite import END, header, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrun.images.convert import Files
    from pyrun.images.fresh import Sign

    Signed = Callable[[bytes], tuple[dict[str, bytes], list[dict[str, Any]]]]

__all__ = ["export_aci", "export_oci"]

_CHUNK = 1 << 20
_REF = "org.opencontainers.image.ref.name"
_DIRECTORY = b"5"


def export_aci(store: Store, image: Image, target: str, *, overwrite: bool = False, sign: Sign | None = None) -> list[str]:
    """Writes the file that was imported, and beside it the signature that `sign` makes, or its own where it has one; both paths.

    UsageError for an image that never was one file, DigestError when the store's copy is damaged, StateError.
    """
    if image.kind != "aci":
        hint = "write it as what it is: pyrun image export REF --oci PATH"
        raise UsageError("export", image.name, "an OCI image, which is no single file", hint=hint)
    with store.lock(exclusive=False):
        blob = store.blob_path(image.blob)
        if sign is None and os.path.exists(f"{blob}.asc"):
            sign = lambda _, signature: _again(f"{blob}.asc", signature)  # noqa: E731
        with fresh_signed(target, sign, overwrite=overwrite) as new, _create(new.path) as out:
            _copy(blob, image.blob, lambda data: _write(out, data))
    return [target, f"{target}.asc"] if sign else [target]


def _again(source: str, target: str) -> None:
    with _create(target) as out, open(source, "rb") as file:
        _write(out, file.read())


def export_oci(store: Store, image: Image, target: str, *, overwrite: bool = False, signed: Signed | None = None) -> str:
    """Writes an OCI layout, as an archive where `target` ends in .tar; the digest of the manifest, ``sha256:<hex>``.

    `signed` is asked with the manifest for further files and entries of the index.
    Of an OCI image all documents and layers are the very ones that were imported; an App Container Image is converted.
    ImageError for what OCI cannot say, DigestError when the store's copy is damaged, StateError.
    """
    with store.lock(exclusive=False), Staging(store.root, "export") as staging:
        files, manifest = _original(store, image) if image.kind == "oci" else convert(store, image, staging.path)
        manifest["annotations"] = {_REF: image.labels.get("version", "latest")}
        more, entries = signed(_document(files, manifest)) if signed else ({}, [])
        files |= {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": fastjson.dumps({"schemaVersion": 2, "manifests": [manifest, *entries]}).encode(),
            **more,
        }
        with fresh(target, overwrite=overwrite) as new:
            (_archive if target.endswith(".tar") else _directory)(new.path, files)
    return str(manifest["digest"])


def _document(files: Files, descriptor: dict[str, Any]) -> bytes:
    """The manifest, which is about to be signed: its digest is checked first."""
    content = files[f"blobs/{str(descriptor['digest']).replace(':', '/')}"]
    if isinstance(content, bytes):
        return content
    data = bytearray()
    _copy(content, str(descriptor["digest"]).replace(":", "-"), data.extend)
    return bytes(data)


def _original(store: Store, image: Image) -> tuple[Files, dict[str, Any]]:
    path = store.blob_path(image.blob)
    with open(path, "rb") as file:
        data = file.read()
    document = fastjson.loads(data)
    media_type = str(document.get("mediaType", MANIFESTS[0])) if isinstance(document, dict) else MANIFESTS[0]
    files: Files = {f"blobs/{digest.replace('-', '/')}": store.blob_path(digest) for digest in dict.fromkeys((image.blob, *image.blobs))}
    return files, {"mediaType": media_type, "digest": image.blob.replace("-", ":"), "size": len(data)}


def _directory(path: str, files: Files) -> None:
    os.mkdir(path, 0o755)
    for name, content in files.items():
        os.makedirs(os.path.dirname(f"{path}/{name}"), 0o755, exist_ok=True)
        with _create(f"{path}/{name}") as out:
            _put(name, content, lambda data, out=out: _write(out, data))  # type: ignore[misc]


def _archive(path: str, files: Files) -> None:
    with _create(path) as out:
        made: set[str] = set()
        for name, content in sorted(files.items()):
            parts = name.split("/")[:-1]
            for end in range(1, len(parts) + 1):
                directory = "/".join(parts[:end])
                if directory not in made:
                    made.add(directory)
                    _write(out, header(directory.encode() + b"/", _DIRECTORY, mode=0o755))
            size = len(content) if isinstance(content, bytes) else os.stat(content).st_size
            _write(out, header(name.encode(), size=size))
            _put(name, content, lambda data: _write(out, data))
            _write(out, padding(size))
        _write(out, END)


def _put(name: str, content: str | bytes, write: Callable[[bytes], None]) -> None:
    """Passes on one file, which is what its name in blobs/ says."""
    if isinstance(content, bytes):
        write(content)
    else:
        _copy(content, name.removeprefix("blobs/").replace("/", "-"), write)


def _copy(path: str, digest: str, write: Callable[[bytes], None]) -> None:
    algorithm, _, digits = digest.partition("-")
    hasher = hashlib.new(algorithm)
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        raise ImageError("export", digest[:19], "missing in the store", hint="import the image again: pyrun fetch") from None
    with file:
        while piece := file.read(_CHUNK):
            hasher.update(piece)
            write(piece)
    if hasher.hexdigest() != digits:
        raise DigestError("export", path, "its content has another digest", hint="see what else is damaged: pyrun image verify --all")


@contextlib.contextmanager
def _create(path: str):  # type: ignore[no-untyped-def]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
