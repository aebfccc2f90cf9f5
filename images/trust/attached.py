"""Signatures in cosign's and sigstore's manifests, and those that lie in an image layout; nothing here believes them.

    signature-N in the directory                           simple signing, as in a dir: of skopeo
    images in index.json: sha256-HEX.sig, referrers,       cosign, sigstore bundles
    what `cosign save` writes

What is attached may be anything, so what cannot be read is noted and passed over.  Nothing here knows of networks.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pyrun.errors import ImageError
from pyrun.images import strictjson
from pyrun.images.oci import MAX_MANIFEST, Tree, check_digest
from pyrun.images.store import is_digest
from pyrun.images.trust import bundle
from pyrun.images.trust.claims import matches
from pyrun.images.trust.evidence import BUNDLE, COSIGN, MAX_COUNT, OPENPGP, Attached, Collection
from pyrun.images.trust.policyfile import Subject

__all__ = ["MAX_SIGNATURE", "SIGNATURE_NOTE", "SIMPLE_SIGNING", "digests_of", "from_layout", "from_manifest", "is_signature"]

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_NOTE = "dev.cosignproject.cosign/signature"
_CERTIFICATE_NOTE = "dev.sigstore.cosign/certificate"
_COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_KIND, _SIGNATURES = "kind", "dev.cosignproject.cosign/sigs"
_REF = "org.opencontainers.image.ref.name"
MAX_SIGNATURE = 4 << 20
_KEYLESS = "it is signed keyless (with a certificate), which pyrun does not verify"


def is_signature(artifact_type: str) -> bool:
    """Whether an artifact of this type holds signatures."""
    return bundle.is_bundle_type(artifact_type) or artifact_type == _COSIGN_ARTIFACT


def digests_of(subject: Subject) -> list[str]:
    """The digests by which signatures of an image are filed."""
    return [f"sha256-{hashlib.sha256(one).hexdigest()}" for one in subject.documents]


def from_manifest(fetch: Any, data: bytes, into: Collection) -> None:
    """The signatures in the layers of one manifest; `fetch` brings a blob by digest and size."""
    manifest = strictjson.loads(data, what="signature manifest", case_twins="allow")
    layers = manifest.get("layers") if isinstance(manifest, dict) else None
    for layer in layers[: MAX_COUNT + 1] if isinstance(layers, list) else []:
        notes = layer.get("annotations") if isinstance(layer, dict) else None
        if not isinstance(layer, dict) or not isinstance(layer.get("size"), int) or layer["size"] < 0:
            continue
        digest = check_digest(layer.get("digest"), "layers")
        if bundle.is_bundle_type(str(layer.get("mediaType"))):
            into.add(Attached(BUNDLE, fetch(digest, layer["size"])))
        elif layer.get("mediaType") == SIMPLE_SIGNING and isinstance(notes, dict):
            if notes.get(_CERTIFICATE_NOTE):
                into.notes.append(_KEYLESS)
                continue
            try:
                signature = bundle.decode(notes.get(SIGNATURE_NOTE))
            except ImageError:
                into.notes.append("a signature of cosign's form has none in it")
                continue
            into.add(Attached(COSIGN, fetch(digest, layer["size"]), signature))


def from_layout(tree: Tree, subject: Subject, into: Collection) -> None:
    """All signatures that lie in a layout; ImageError for what cannot be read."""
    for number in range(1, MAX_COUNT + 2):
        if not tree.exists(f"signature-{number}"):
            break
        into.add(Attached(OPENPGP, tree.read(f"signature-{number}", MAX_SIGNATURE)))
    if not tree.exists("index.json"):
        return
    index = strictjson.loads(tree.read("index.json", MAX_MANIFEST), what=f"{tree.title}: index.json", case_twins="allow")
    entries = index.get("manifests") if isinstance(index, dict) else None
    tags = {f"{digest}.sig" for digest in digests_of(subject)}

    def fetch(digest: str, size: int) -> bytes:
        data = tree.read(f"blobs/{digest.replace('-', '/', 1)}", min(size, bundle.MAX_BUNDLE))
        if not matches(digest, data):
            raise ImageError("read", f"{tree.title}: {digest[:19]}", "its content has another digest", hint="copy it again")
        return data

    for entry in entries if isinstance(entries, list) else []:
        notes = entry.get("annotations") or {}
        ref = str(notes.get(_REF, ""))
        kind = str(entry.get("artifactType", ""))
        if ref.rpartition(":")[2] in tags or notes.get(_KIND) == _SIGNATURES or is_signature(kind):
            digest = str(entry.get("digest", "")).replace(":", "-", 1)
            if is_digest(digest) and isinstance(entry.get("size"), int):
                from_manifest(fetch, fetch(digest, entry["size"]), into)
