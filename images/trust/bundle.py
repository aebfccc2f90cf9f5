"""Sigstore bundles (protobuf-specs, sigstore_bundle.proto; cosign's BUNDLE_SPEC.md) that a key of its own signed.

    {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
     "verificationMaterial": {"publicKey": {"hint": "..."}},
     "dsseEnvelope": {"payload": BASE64, "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": BASE64}]}
     or "messageSignature": {"messageDigest": {...}, "signature": BASE64}}

A bundle with a certificate instead of a key is "keyless": who signed stands in it and in a public log, and neither can
be checked here, so it counts for nothing.  Entries of a log beside a key are not looked at: the key decides.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, NoReturn

from pyrun.errors import ImageError, SignatureError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.images.trust import claims
from pyrun.images.trust.pem import PemKey

__all__ = ["BUNDLE", "Bundle", "decode", "is_bundle_type"]

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_TYPES = (BUNDLE, *(f"application/vnd.dev.sigstore.bundle+json;version=0.{minor}" for minor in (1, 2, 3)))
_STATEMENT = "application/vnd.in-toto+json"
MAX_BUNDLE = 1 << 20


def is_bundle_type(media_type: str) -> bool:
    """Whether a media or artifact type is that of a bundle."""
    return media_type in _TYPES


class Bundle:
    """A bundle taken apart: one signature over a statement (`statement` is set) or over the image's manifest itself."""

    __slots__ = ("signature", "statement")

    def __init__(self, data: bytes) -> None:
        """SignatureError for anything but a bundle that can be verified with a public key."""
        document = _loads(data)
        if not isinstance(document, dict) or document.get("mediaType") not in _TYPES:
            _refuse("it is no bundle of version 0.1 to 0.3")
        material = document.get("verificationMaterial")
        if not isinstance(material, dict):
            _refuse("it has no verificationMaterial")
        if "certificate" in material or "x509CertificateChain" in material:
            _refuse("it is keyless (signed with a certificate), which pyrun does not verify", "sign with a key: cosign sign --key")
        if not isinstance(material.get("publicKey"), dict):
            _refuse("it names no public key")
        envelope, message = document.get("dsseEnvelope"), document.get("messageSignature")
        if (envelope is None) == (message is None):
            _refuse("it has not exactly one of dsseEnvelope and messageSignature")
        self.statement: bytes | None = None
        self.signature = self._envelope(envelope) if message is None else decode(_member(message, "signature"))

    def _envelope(self, envelope: Any) -> bytes:
        if _member(envelope, "payloadType") != _STATEMENT:
            _refuse(f"its payload is of type {printable(str(_member(envelope, 'payloadType')), 60)}")
        signatures = envelope.get("signatures")
        if not isinstance(signatures, list) or len(signatures) != 1:
            _refuse("it has not exactly one signature")
        self.statement = decode(_member(envelope, "payload"))
        return decode(_member(signatures[0], "sig"))

    def signed_by(self, key: PemKey, documents: list[bytes]) -> str:
        """The digest of that manifest of `documents` that the key signed; "" when it signed none, SignatureError for nonsense."""
        if self.statement is None:
            return next((f"sha256-{hashlib.sha256(one).hexdigest()}" for one in documents if key.verifies(self.signature, one)), "")
        if not key.verifies(self.signature, _encoding(_STATEMENT, self.statement)):
            return ""
        digests = claims.statement_digests(self.statement)
        found = next((digest for digest in digests if any(claims.matches(digest, one) for one in documents)), "")
        return found or _refuse("it is a signature of another image", "look for the signature of this one")


def decode(value: Any) -> bytes:
    """Base64 as bytes; SignatureError when it is none."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError):
        _refuse("damaged base64")


def _encoding(kind: str, body: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body)


def _member(value: Any, name: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(name), str):
        _refuse(f"it has no {name}")
    return value[name]


def _loads(data: bytes) -> Any:
    try:
        return strictjson.loads(data, what="bundle", case_twins="allow", limit=MAX_BUNDLE)
    except ImageError as error:
        _refuse(error.reason or str(error))


def _refuse(reason: str, hint: str = "sign the image again") -> NoReturn:
    raise SignatureError("read signature", "sigstore bundle", reason, hint=hint)
