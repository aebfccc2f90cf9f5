"""What hangs on an image: referrers (distribution-spec 1.1, "Listing Referrers"), tags that name a digest, lookaside files.

    referrers   GET referrers/DIGEST, page by page; a registry without that has an index under the tag sha256-HEX
    document    a manifest by tag or digest, as cosign's sha256-HEX.sig
    blob        a small blob, by digest and size
    lookaside   URL/REPOSITORY@sha256=HEX/signature-N (containers-registries.d(5)), https only

None of it vouches for anything: whoever can push can attach.  What comes is bounded, has the digest it was asked
by and, for `attached`, names the image as its subject (D11); what it says has to be verified by the caller.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NoReturn
from urllib.parse import quote, urljoin

from pyrun.errors import DigestError, ImageError, ManifestError, NotFoundError
from pyrun.images import strictjson
from pyrun.images.oci import INDEXES, MANIFESTS, MAX_MANIFEST
from pyrun.images.printable import printable
from pyrun.images.registry.asking import ASK, Asker
from pyrun.images.registry.client import Client
from pyrun.images.registry.reference import RegistryReference
from pyrun.images.registry.transport import Url
from pyrun.images.store import is_digest

__all__ = ["Document", "Referrer", "attached", "blob", "document", "lookaside", "next_page", "referrers"]

MAX_PAGES = 32
MAX_REFERRERS = 64
_MAX_BYTES = 4 << 20  # of all pages
_NEXT = re.compile(r'\s*<([^<>]{1,4096})>\s*;[^,]*?\brel\s*=\s*"?next"?\s*(?:[,;]|$)')


class Document:
    """A manifest as it came: `data` has the digest `digest` (``sha256-<hex>``)."""

    __slots__ = ("data", "digest", "media_type")

    def __init__(self, data: bytes, digest: str, media_type: str) -> None:
        self.data = data
        self.digest = digest
        self.media_type = media_type


class Referrer:
    """What a registry claims to hang on an image: the descriptor of a manifest, `digest` as ``sha256-<hex>``."""

    __slots__ = ("annotations", "artifact_type", "digest", "media_type", "size")

    def __init__(self, digest: str, size: int, media_type: str, artifact_type: str, annotations: dict[str, str]) -> None:
        self.digest = digest
        self.size = size
        self.media_type = media_type
        self.artifact_type = artifact_type
        self.annotations = annotations


def document(client: Client, name: str) -> Document | None:
    """The manifest or index of a tag or digest (``sha256-<hex>``); None where the registry has none.

    DigestError when it is not what was asked for, ImageError for everything else that the registry does.
    """
    wanted = name if is_digest(name) else ""
    try:
        answer = client.document(f"manifests/{_spelled(name) if wanted else name}", MAX_MANIFEST, (*MANIFESTS, *INDEXES))
    except NotFoundError:
        return None
    return Document(answer.data, check_claims(client, answer.data, wanted, answer.claimed), answer.media_type)


def check_claims(client: Asker, data: bytes, wanted: str, claimed: str) -> str:
    """The digest of what came, which is the `wanted` one if there is one; what the registry claims must be true as well."""
    digest = f"sha256-{hashlib.sha256(data).hexdigest()}"
    for claim in filter(None, (wanted, claimed.replace(":", "-", 1))):
        algorithm, _, digits = claim.partition("-")
        if not is_digest(claim) or hashlib.new(algorithm, data).hexdigest() != digits:
            raise DigestError("fetch", client.title, f"what came is {digest[:19]}, not {printable(claim[:19])}", hint=ASK)
    return wanted or digest


def blob(client: Client, digest: str, size: int, limit: int = MAX_MANIFEST) -> bytes:
    """The blob of a descriptor; ManifestError beyond `limit` bytes, DigestError for other bytes, ImageError else."""
    if size > limit:
        raise ManifestError("fetch", f"{client.title}: {digest[:19]}", f"{size} bytes, {limit} are allowed", hint="no real one needs that")
    data = client.document(f"blobs/{_spelled(digest)}", size).data
    if len(data) != size:
        raise DigestError("fetch", f"{client.title}: {digest[:19]}", f"{len(data)} bytes instead of {size}", hint=ASK)
    check_claims(client, data, digest, "")
    return data


def referrers(client: Client, digest: str, artifact_type: str = "") -> list[Referrer]:
    """What the registry lists for an image, at most 64, of one artifact type if that is given; ManifestError for nonsense.

    Nothing of it is checked but its form: see `attached`.
    """
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    path = f"referrers/{_spelled(digest)}{query}"
    found: list[Referrer] = []
    total = 0
    for _ in range(MAX_PAGES):
        try:
            answer = client.document(path, MAX_MANIFEST, INDEXES[:1])
        except NotFoundError:
            answer = None
        if answer is None or answer.media_type != INDEXES[0]:  # registries before 1.1 may answer anything
            fallback = _tagged(client, digest)
            return _only(_listed(client, fallback.data), artifact_type) if fallback else []
        total += len(answer.data)
        found += _listed(client, answer.data)
        path = next_page(client, path, answer.following, "list of referrers")
        if not path:
            return _only(found, artifact_type)
        if total > _MAX_BYTES:
            break
    _nonsense(client, "its list of referrers does not end")


def attached(client: Client, referrer: Referrer, subject: str) -> Document:
    """The manifest of a referrer, which names the image `subject` itself; DigestError or ManifestError else."""
    found = document(client, referrer.digest)
    if found is None:
        _nonsense(client, f"it lists {referrer.digest[:19]}, which it does not have")
    if len(found.data) != referrer.size or found.media_type != referrer.media_type:
        _nonsense(client, f"{referrer.digest[:19]} is not what its list says")
    manifest = strictjson.loads(found.data, what=f"manifest {referrer.digest[:19]}", case_twins="allow")
    own = manifest.get("subject") if isinstance(manifest, dict) else None
    if not isinstance(own, dict) or own.get("digest") != _spelled(subject):
        _nonsense(client, f"{referrer.digest[:19]} belongs to another image")
    return found


def lookaside(base: str, reference: RegistryReference, digest: str, number: int, limit: int = MAX_MANIFEST, **asker: Any) -> bytes | None:
    """The file ``signature-NUMBER`` of an image below the URL `base`; None where there is none.

    ImageError for a `base` that is not https and for everything that its server does; no credentials are sent.
    """
    url = Url(base, "lookaside URL")
    if url.scheme != "https":
        raise ImageError("fetch signature from", str(url), "it is not https", hint="write https:// or file:// in registries.d")
    path = f"{url.text.partition('?')[0].rstrip('/')}/{reference.repository}@{digest.replace('-', '=', 1)}/signature-{number}"
    with Asker(url, str(url), **asker) as asked:
        try:
            return asked.document(path, limit).data
        except NotFoundError:
            return None


def _tagged(client: Client, digest: str) -> Document | None:
    """What is tagged with the digest of an image, a tag having 128 characters at most."""
    try:
        answer = client.document(f"manifests/{digest[:128]}", MAX_MANIFEST, INDEXES[:1])
    except NotFoundError:
        return None
    return Document(answer.data, check_claims(client, answer.data, "", answer.claimed), answer.media_type)


def _listed(client: Client, data: bytes) -> list[Referrer]:
    index = strictjson.loads(data, what=f"referrers of {client.title}", case_twins="allow")
    entries = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(entries, list):
        _nonsense(client, "its list of referrers is no index")
    return [_referrer(client, entry) for entry in entries[: MAX_REFERRERS + 1]]


def _referrer(client: Client, entry: Any) -> Referrer:
    entry = entry if isinstance(entry, dict) else {}
    digest, size, notes = entry.get("digest"), entry.get("size"), entry.get("annotations") or {}
    texts = [entry.get(name) or "" for name in ("mediaType", "artifactType")]
    good = isinstance(digest, str) and ":" in digest and is_digest(digest.replace(":", "-", 1)) and isinstance(size, int) and size >= 0
    if not good or not isinstance(notes, dict) or not all(isinstance(text, str) for text in (*texts, *notes.values())):
        _nonsense(client, "its list of referrers has an entry that is no descriptor")
    return Referrer(str(digest).replace(":", "-", 1), int(str(size)), texts[0].lower(), texts[1], notes)


def _only(found: list[Referrer], artifact_type: str) -> list[Referrer]:
    """Registries may ignore the filter; and more than a few nobody needs (D10)."""
    return [one for one in found if not artifact_type or one.artifact_type == artifact_type][:MAX_REFERRERS]


def next_page(client: Client, path: str, link: str, what: str) -> str:
    """The URL of the next page (RFC 8288), which must be the registry's own (C10); "" on the last one.  ManifestError names `what`."""
    match = _NEXT.match(link[:8192])
    if not match:
        return ""
    here = client.url(path)
    following = Url(urljoin(here.text, match[1]), "link of the registry")
    if following.origin != here.origin:
        _nonsense(client, f"its {what} goes on at {following}")
    return following.text


def _spelled(digest: str) -> str:
    return digest.replace("-", ":", 1)


def _nonsense(client: Asker, reason: str) -> NoReturn:
    raise ManifestError("fetch", client.title, reason, hint=ASK)
