"""Gathering the signatures that hang on an image; nothing here believes them.

    registry    lookaside/REPOSITORY@sha256=HEX/signature-N     simple signing, see `registriesd`
                the tag sha256-HEX.sig                          cosign
                referrers of the digest                         sigstore bundles, cosign's experimental form
    layout      signature-N in its directory                    simple signing, as in a dir: of skopeo
                images in index.json: sha256-HEX.sig, referrers, what `cosign save` writes

Whoever can push to a registry can attach anything, so what cannot be read is noted and passed over.
"""

from __future__ import annotations

import hashlib
import os
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

from pyrun.errors import ImageError, TrustError
from pyrun.images import strictjson
from pyrun.images.oci import MAX_MANIFEST, Tree, check_digest
from pyrun.images.registry import artifacts
from pyrun.images.registry.client import Client
from pyrun.images.registry.endpoints import Endpoints
from pyrun.images.store import is_digest
from pyrun.images.trust import bundle, registriesd
from pyrun.images.trust.claims import MAX_PAYLOAD, matches
from pyrun.images.trust.evidence import BUNDLE, COSIGN, MAX_COUNT, OPENPGP, Attached, Collection
from pyrun.images.trust.gate import Gate
from pyrun.images.trust.keyfiles import read_bounded
from pyrun.images.trust.policyfile import Subject

__all__ = ["Gathering", "from_layout"]

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_NOTE = "dev.cosignproject.cosign/signature"
_CERTIFICATE_NOTE = "dev.sigstore.cosign/certificate"
_COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
_KIND, _SIGNATURES = "kind", "dev.cosignproject.cosign/sigs"
_REF = "org.opencontainers.image.ref.name"
MAX_SIGNATURE = 4 << 20
_KEYLESS = "it is signed keyless (with a certificate), which pyrun does not verify"


class Gathering:
    """Gathers the signatures of an image in a registry, of the kinds that `gate` wants; called once that has something to ask.

    ImageError, TrustError for places that fail.
    """

    __slots__ = ("_asked", "_gate", "_subject")

    def __init__(self, asked: Endpoints, subject: Subject, gate: Gate) -> None:
        self._asked = asked
        self._subject = subject
        self._gate = gate

    def __call__(self, into: Collection) -> None:
        subject, wanted = self._subject, self._gate.wants(self._subject)
        assert subject.asked is not None
        places = registriesd.read(subject.asked)
        for digest in _digests(subject):
            if OPENPGP in wanted:
                _from_lookaside(self._asked, places.lookaside, digest, into)
            if COSIGN in wanted and (places.attachments or BUNDLE in wanted):
                self._asked.first(partial(_from_tag, digest=digest, into=into))
            if BUNDLE in wanted:
                self._asked.first(partial(_from_referrers, digest=digest, into=into))


def _from_tag(client: Client, digest: str, into: Collection) -> None:
    found = artifacts.document(client, f"{digest}.sig")
    if found is not None:
        _from_manifest(lambda one, size: artifacts.blob(client, one, size, MAX_PAYLOAD), found.data, into)


def _digests(subject: Subject) -> list[str]:
    return [f"sha256-{hashlib.sha256(one).hexdigest()}" for one in subject.documents]


def _from_lookaside(asked: Endpoints, base: str, digest: str, into: Collection) -> None:
    parts = urlsplit(base)
    for number in range(1, MAX_COUNT + 2):
        if parts.scheme == "file":
            path = f"{unquote(parts.path)}/{asked.reference.repository}@{digest.replace('-', '=', 1)}/signature-{number}"
            data = _small_file(path)
        else:
            data = asked.first(partial(_lookaside, base, asked, digest, number))
        if data is None:
            return
        into.add(Attached(OPENPGP, data))


def _lookaside(base: str, asked: Endpoints, digest: str, number: int, client: Client) -> bytes | None:
    """Asked for with the patience and the authorities of the registry's own client."""
    asker = {"patience": client.patience, "certs_dirs": client.transport.certs_dirs}
    return artifacts.lookaside(base, asked.reference, digest, number, MAX_SIGNATURE, **asker)


def _from_referrers(client: Client, digest: str, into: Collection) -> None:
    for referrer in artifacts.referrers(client, digest):
        if not (bundle.is_bundle_type(referrer.artifact_type) or referrer.artifact_type == _COSIGN_ARTIFACT):
            continue
        try:
            found = artifacts.attached(client, referrer, digest)
            _from_manifest(lambda one, size: artifacts.blob(client, one, size, bundle.MAX_BUNDLE), found.data, into)
        except ImageError as error:
            into.notes.append(f"an artifact that hangs on it cannot be read: {error.reason or error}")


def _from_manifest(fetch: Any, data: bytes, into: Collection) -> None:
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
    tags = {f"{digest}.sig" for digest in _digests(subject)}

    def fetch(digest: str, size: int) -> bytes:
        data = tree.read(f"blobs/{digest.replace('-', '/', 1)}", min(size, bundle.MAX_BUNDLE))
        if not matches(digest, data):
            raise ImageError("read", f"{tree.title}: {digest[:19]}", "its content has another digest", hint="copy it again")
        return data

    for entry in entries if isinstance(entries, list) else []:
        notes = entry.get("annotations") or {}
        ref = str(notes.get(_REF, ""))
        kind = str(entry.get("artifactType", ""))
        if ref.rpartition(":")[2] in tags or notes.get(_KIND) == _SIGNATURES or bundle.is_bundle_type(kind) or kind == _COSIGN_ARTIFACT:
            digest = str(entry.get("digest", "")).replace(":", "-", 1)
            if is_digest(digest) and isinstance(entry.get("size"), int):
                _from_manifest(fetch, fetch(digest, entry["size"]), into)


def _small_file(path: str) -> bytes | None:
    if not os.path.lexists(path):
        return None
    try:
        return read_bounded(path, MAX_SIGNATURE, "signature")
    except TrustError as error:
        raise ImageError(error.step, error.subject, error.reason, errno=error.errno, hint=error.hint) from None
