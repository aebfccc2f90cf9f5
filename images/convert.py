"""An App Container Image as an OCI image: a layer for each of its layers, and a configuration made of its manifest.  Cold.

What OCI has no word for is left out of the configuration (isolators, event handlers) and kept as it is in the label
`appc.io/manifest`.  The same image gives the same bytes each time.
"""

from __future__ import annotations

import hashlib
import json
import zlib

from pyrun.errors import ConfigError, ImageError
from pyrun.images import fastjson
from pyrun.images.oci import CONFIGS, MANIFESTS
from pyrun.images.passwd import resolve_user
from pyrun.images.rootfs import RootFS
from pyrun.images.store import Image, Store
from pyrun.images.tarwrite import write_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    Files = dict[str, str | bytes]

__all__ = ["convert"]

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_LEVEL = 6
_GOARCH = {"i386": ("386", ""), "aarch64": ("arm64", ""), "aarch64_be": ("arm64be", ""), "armv6l": ("arm", "v6"), "armv7l": ("arm", "v7")}


def convert(store: Store, image: Image, directory: str) -> tuple[Files, dict[str, Any]]:
    """The blobs of an image by their place in a layout, each the path of a file in `directory` or bytes; and the manifest's descriptor.

    ImageError for what OCI cannot say, StateError when the store lacks something, OSError.
    """
    files: Files = {}
    layers: list[dict[str, Any]] = []
    diff_ids: list[str] = []
    for number, layer in enumerate(reversed(image.layers)):
        path = f"{directory}/{number}"
        with open(path, "xb") as file:
            sink = _Sink(file)
            write_layer(store.layer_dir(layer), sink.write)
            sink.close()
        descriptor = {"mediaType": _LAYER, "digest": f"sha256:{sink.blob.hexdigest()}", "size": sink.size}
        files[_place(descriptor)] = path
        layers.append(descriptor)
        diff_ids.append(f"sha256:{sink.content.hexdigest()}")
    config = _encode(_config(store, image, diff_ids))
    described = _describe(config, CONFIGS[0])
    manifest = _encode({"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": described, "layers": layers})
    descriptor = _describe(manifest, MANIFESTS[0])
    files |= {_place(described): config, _place(descriptor): manifest}
    return files, descriptor


class _Sink:
    """Takes a layer, compresses it, and hashes both sides."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self.content, self.blob = hashlib.sha256(), hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.content.update(data)
        self._out(self._deflate.compress(data))

    def close(self) -> None:
        self._out(self._deflate.flush())

    def _out(self, data: bytes) -> None:
        if data:
            self.blob.update(data)
            self.size += len(data)
            self._file.write(data)


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _describe(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _place(descriptor: dict[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")


def _config(store: Store, image: Image, diff_ids: list[str]) -> dict[str, Any]:
    arch = image.labels.get("arch", "amd64")
    architecture, variant = _GOARCH.get(arch, (arch, ""))
    manifest = image.manifest
    created = _annotations(manifest).get("created")
    config: dict[str, Any] = {
        "architecture": architecture,
        "os": image.labels.get("os", "linux"),
        "config": _execution(store, image),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"pyrun image export: {layer}"} for layer in reversed(image.layers)],
    }
    if variant:
        config["variant"] = variant
    if created:
        config["created"] = created
        for entry in config["history"]:
            entry["created"] = created
    return config


def _annotations(manifest: dict[str, Any]) -> dict[str, str]:
    return {str(note["name"]): str(note["value"]) for note in manifest.get("annotations") or []}


def _execution(store: Store, image: Image) -> dict[str, Any]:
    labels = {**_annotations(image.manifest), "appc.io/name": image.name, "appc.io/manifest": fastjson.dumps(image.manifest)}
    if "version" in image.labels:
        labels["appc.io/version"] = image.labels["version"]
    app = image.manifest.get("app")
    if not isinstance(app, dict):
        return {"Labels": labels}
    found: dict[str, Any] = {
        "Entrypoint": app.get("exec") or [],
        "User": _user(store, image, app),
        "WorkingDir": app.get("workingDirectory") or "/",
        "Env": [f"{variable['name']}={variable['value']}" for variable in app.get("environment") or []],
        "Labels": labels,
    }
    volumes: dict[str, Any] = {mount["path"]: {} for mount in app.get("mountPoints") or []}
    ports: dict[str, Any] = {}
    for port in app.get("ports") or []:
        last = port["port"] + (port.get("count") or 1) - 1
        ports[f"{port['port']}{f'-{last}' if last != port['port'] else ''}/{port['protocol']}"] = {}
    return {**found, **({"Volumes": volumes} if volumes else {}), **({"ExposedPorts": ports} if ports else {})}


def _user(store: Store, image: Image, app: dict[str, Any]) -> str:
    """uid:gid, by the image's own files, since OCI knows no paths there."""
    rootfs = RootFS([store.layer_dir(layer) for layer in image.layers])
    try:
        identity = resolve_user(rootfs, str(app.get("user", "0")), str(app.get("group", "0")))
    except ConfigError as error:
        raise ImageError("convert to OCI", image.name, str(error), hint=error.hint) from None
    return f"{identity.uid}:{identity.gid}"
