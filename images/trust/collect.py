"""Gathering the signatures that hang on an image in a registry; nothing here believes them.

    registry    lookaside/REPOSITORY@sha256=HEX/signature-N     simple signing, see `registriesd`
                the tag sha256-HEX.sig                          cosign
                referrers of the digest                         sigstore bundles, cosign's experimental form

Whoever can push to a registry can attach anything, so what cannot be read is noted and passed over.  A mirror that has the
image need not have what hangs on it: then the next place is asked, the registry itself last.
"""

from __future__ import annotations

import os
from functools import partial
from urllib.parse import unquote, urlsplit

from pyrun.errors import ImageError, TrustError
from pyrun.images.registry import artifacts
from pyrun.images.registry.client import Client
from pyrun.images.registry.endpoints import Endpoints
from pyrun.images.trust import bundle, registriesd
from pyrun.images.trust.attached import MAX_SIGNATURE, digests_of, from_manifest, is_signature
from pyrun.images.trust.claims import MAX_PAYLOAD
from pyrun.images.trust.evidence import BUNDLE, COSIGN, MAX_COUNT, OPENPGP, Attached, Collection
from pyrun.images.trust.gate import Gate
from pyrun.images.trust.keyfiles import read_bounded
from pyrun.images.trust.policyfile import Subject

__all__ = ["Gathering"]


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
        for digest in digests_of(subject):
            if OPENPGP in wanted:
                _from_lookaside(self._asked, places.lookaside, digest, into)
            if COSIGN in wanted and (places.attachments or BUNDLE in wanted):
                self._asked.found(partial(_from_tag, digest=digest, into=into), into.notes)
            if BUNDLE in wanted:
                self._asked.found(partial(_from_referrers, digest=digest, into=into), into.notes)


def _from_tag(client: Client, digest: str, into: Collection) -> bool:
    found = artifacts.document(client, f"{digest}.sig")
    if found is None:
        return False
    from_manifest(lambda one, size: artifacts.blob(client, one, size, MAX_PAYLOAD), found.data, into)
    return True


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


def _from_referrers(client: Client, digest: str, into: Collection) -> bool:
    referrers = [one for one in artifacts.referrers(client, digest) if is_signature(one.artifact_type)]
    for referrer in referrers:
        try:
            found = artifacts.attached(client, referrer, digest)
            from_manifest(lambda one, size: artifacts.blob(client, one, size, bundle.MAX_BUNDLE), found.data, into)
        except ImageError as error:
            into.notes.append(f"an artifact that hangs on it cannot be read: {error.reason or error}")
    return bool(referrers)


def _small_file(path: str) -> bytes | None:
    if not os.path.lexists(path):
        return None
    try:
        return read_bounded(path, MAX_SIGNATURE, "signature")
    except TrustError as error:
        raise ImageError(error.step, error.subject, error.reason, errno=error.errno, hint=error.hint) from None
