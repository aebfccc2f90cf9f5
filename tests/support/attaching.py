"""Puts signatures beside images in a registry, where cosign would: tags made of the digest, and referrers."""

from __future__ import annotations

import hashlib
import json
import ssl
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from registries import CONFIG, INDEX, MANIFEST, descriptor, digest_of
from signing import BUNDLE, COSIGN, SIMPLE_SIGNING, CosignKey, payload, text

EMPTY = "application/vnd.oci.empty.v1+json"


class Repository:
    """One repository of a registry, over TLS with the authority of the tests."""

    def __init__(self, place: str, name: str, authority: Path) -> None:
        self.place, self.name = place, name
        self._context = ssl.create_default_context(cafile=str(authority))

    def _ask(self, method: str, url: str, data: bytes = b"", kind: str = "application/octet-stream") -> Any:
        request = urllib.request.Request(urljoin(f"https://{self.place}/v2/{self.name}/", url), data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, context=self._context, timeout=20) as answer:
            return answer.headers, answer.read()

    def blob(self, data: bytes, kind: str, **more: Any) -> dict[str, Any]:
        """Pushes a blob and returns its descriptor."""
        headers, _ = self._ask("POST", "blobs/uploads/")
        place = headers["Location"]
        self._ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={digest_of(data)}", data)
        return descriptor(kind, data, **more)

    def manifest(self, document: dict[str, Any], tag: str = "") -> dict[str, Any]:
        """Pushes a manifest or index, by digest unless it gets a tag, and returns its descriptor."""
        data = json.dumps(document).encode()
        self._ask("PUT", f"manifests/{tag or digest_of(data)}", data, document["mediaType"])
        return descriptor(document["mediaType"], data)

    def read(self, name: str) -> bytes:
        """A manifest as it is."""
        request = urllib.request.Request(
            f"https://{self.place}/v2/{self.name}/manifests/{name}", headers={"Accept": f"{MANIFEST}, {INDEX}"}
        )
        with urllib.request.urlopen(request, context=self._context, timeout=20) as answer:
            data: bytes = answer.read()
        return data

    def cosign(self, digest: str, *signers: tuple[CosignKey, str], subject: str = "", **notes: str) -> None:
        """What `cosign sign --key` pushes: all signatures of an image under one tag; each signer with the name that it signs."""
        layers = []
        for key, reference in signers:
            data = json.dumps(payload(digest, reference, COSIGN)).encode()
            annotations = {"dev.cosignproject.cosign/signature": text(key.sign(data)), **notes}
            layers.append(self.blob(data, SIMPLE_SIGNING, annotations=annotations))
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = self.blob(json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}).encode(), CONFIG)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        self.manifest(document, f"{(subject or digest).replace(':', '-')}.sig")

    def refer(self, digest: str, *bundles: dict[str, Any], subject: str = "") -> None:
        """What cosign 3 pushes: sigstore bundles as artifacts, listed under the tag that stands for the referrers of an image."""
        entries = []
        empty = self.blob(b"{}", EMPTY)
        for bundle in bundles:
            layer = self.blob(json.dumps(bundle).encode(), BUNDLE)
            image = self.read(digest)
            about = {**descriptor(MANIFEST, image), "digest": subject or digest}
            document = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": BUNDLE,
                "config": empty,
                "layers": [layer],
                "subject": about,
            }
            entries.append({**self.manifest(document), "artifactType": BUNDLE})
        self.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, digest.replace(":", "-"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
