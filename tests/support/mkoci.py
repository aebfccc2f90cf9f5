"""OCI layouts written document by document, so that each of them can be wrong; and Docker archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import archives

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SUFFIX = {"tar": "", "gzip": "+gzip", "zstd": "+zstd"}
REF = "org.opencontainers.image.ref.name"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encode(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def layer(*members: bytes) -> bytes:
    """A tar archive of members made by `archives`."""
    return b"".join(members) + archives.END


class Layout:
    """A layout directory; `image` writes one image and returns its descriptor, `index` the index.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Writes a blob and returns its descriptor."""
        digest = sha256(data)
        (self.path / "blobs" / "sha256" / digest[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def config(self, diff_ids: list[str], config: dict[str, Any] | None = None, **more: Any) -> bytes:
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            **more,
        }
        return encode({key: value for key, value in document.items() if value is not None})

    def image(
        self,
        *layers: bytes,
        ref: str = "latest",
        compression: str = "gzip",
        config: dict[str, Any] | None = None,
        diff_ids: list[str] | None = None,
        manifest: dict[str, Any] | None = None,
        descriptor: dict[str, Any] | None = None,
        config_type: str = CONFIG,
        layer_type: str = "",
        **more: Any,
    ) -> dict[str, Any]:
        """Adds an image of these layers, bottom first; None as a value of `manifest` removes a member."""
        layers = layers or (layer(archives.file(b"hello", b"hello")),)
        blobs = [self.blob(archives.COMPRESS[compression](one), layer_type or LAYER + SUFFIX[compression]) for one in layers]
        described = self.blob(self.config(diff_ids or [sha256(one) for one in layers], config, **more), config_type)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": blobs, **(manifest or {})}
        data = encode({key: value for key, value in document.items() if value is not None})
        entry = self.blob(data, MANIFEST, **({"annotations": {REF: ref}} if ref else {}), **(descriptor or {}))
        self.entries.append(entry)
        self.index()
        return entry

    def index(self, document: Any = None) -> None:
        """Writes index.json, of all images so far if no other document is given."""
        (self.path / "index.json").write_bytes(encode(document or {"schemaVersion": 2, "manifests": self.entries}))

    def nested(self, *entries: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Writes an index as a blob and returns its descriptor."""
        return self.blob(encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}), INDEX, **more)

    def archive(self, target: Path, compression: str = "tar") -> Path:
        """The layout as a tar archive."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path in sorted(self.path.rglob("*")):
                tar.add(path, str(path.relative_to(self.path)), recursive=False)
        target.write_bytes(archives.COMPRESS[compression](out.getvalue()))
        return target


def docker_archive(target: Path, *images: dict[str, Any], old: bool = True, manifest: Any = None) -> Path:
    """An archive of images, each with `layers`, `tags` and perhaps `config`; `old` is a directory for each layer."""
    files: dict[str, bytes] = {}
    entries = []
    for image in images:
        layers: list[bytes] = image["layers"]
        document = {"architecture": "amd64", "os": "linux", "config": image.get("config", {"Cmd": ["/bin/true"]})}
        config = encode({**document, "rootfs": {"type": "layers", "diff_ids": [sha256(one) for one in layers]}})
        name = sha256(config)[7:]
        config_path = f"{name}.json" if old else f"blobs/sha256/{name}"
        paths = [f"{sha256(one)[7:]}/layer.tar" if old else f"blobs/sha256/{sha256(one)[7:]}" for one in layers]
        files[config_path] = image.get("config_bytes", config)
        files |= dict(zip(paths, image.get("shipped", layers), strict=True))
        entries.append({"Config": config_path, "RepoTags": image.get("tags"), "Layers": paths})
    files["manifest.json"] = encode(entries if manifest is None else manifest)
    target.write_bytes(b"".join(archives.file(path.encode(), data) for path, data in files.items()) + archives.END)
    return target


def gzipped(data: bytes) -> bytes:
    """Gzip without a time in it."""
    return gzip.compress(data, mtime=0)
