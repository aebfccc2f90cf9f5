"""Public keys in PEM form, as cosign's key pairs have them, and what they sign.

A key is known by ``sha256-<hex>``, the digest of its SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7):

    openssl pkey -pubin -in cosign.pub -outform DER | sha256sum

Which digest a signature uses is not written in it.  cosign takes SHA-256 with every key; what makes sigstore
bundles takes the one that fits the curve, so both are tried.  Package `cryptography` does the work, and is loaded
only where such a key is met.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pyrun.errors import HostError, TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

__all__ = ["PemKey", "is_pem", "load"]

_BEGIN = (b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN RSA PUBLIC KEY-----")
_CURVES = {"secp256r1": ("p256", ("sha256",)), "secp384r1": ("p384", ("sha256", "sha384")), "secp521r1": ("p521", ("sha256", "sha512"))}
_HOW = "give a file with one PUBLIC KEY in PEM form, as cosign.pub"


def is_pem(data: bytes) -> bool:
    """Whether the first thing in `data` looks like a public key in PEM form."""
    return data.lstrip().startswith(_BEGIN)


class PemKey:
    """One public key; `fingerprint` is ``sha256-<hex>``, `algorithm` as in ``ecdsa-p256``.  Such keys have no owner and no date."""

    __slots__ = ("_key", "algorithm", "created", "expires", "fingerprint", "secret", "user_ids")

    def __init__(self, key: PublicKeyTypes, der: bytes, algorithm: str) -> None:
        self._key: Any = key
        self.fingerprint = f"sha256-{hashlib.sha256(der).hexdigest()}"
        self.algorithm = algorithm
        self.created = 0
        self.expires = 0
        self.secret = False
        self.user_ids: list[str] = []

    def weakness(self, fingerprint: str = "") -> str:
        """Why the key is not to be trusted; "" when it is."""
        if self.algorithm.startswith("rsa") and self._key.key_size < 2048:
            return f"too weak ({self.algorithm})"
        return ""

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made a signature over `data`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding

        known: dict[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
        if self.algorithm == "ed25519":
            ways: list[tuple[Any, ...]] = [()]
        elif self.algorithm.startswith("rsa"):
            ways = [(padding.PKCS1v15(), known["sha256"])]
        else:
            ways = [(ec.ECDSA(known[name]),) for name in _CURVES[self._key.curve.name][1]]
        for way in ways:
            try:
                self._key.verify(signature, data, *way)
            except InvalidSignature:
                continue
            return True
        return False


def load(data: bytes, what: str) -> PemKey:
    """The one public key in a PEM file; TrustError for anything else, HostError without package `cryptography`."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    except ImportError:
        raise HostError("check signature", what, "package cryptography is missing", hint="pip install cryptography") from None
    if data.count(b"-----BEGIN ") != 1 or not is_pem(data):
        raise TrustError("read key", what, "not one public key in PEM form", hint=_HOW)
    try:
        key = serialization.load_pem_public_key(data.strip() + b"\n")
    except (ValueError, UnsupportedAlgorithm):
        raise TrustError("read key", what, "damaged, or of a kind that is not known", hint=_HOW) from None
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        algorithm = f"ecdsa-{_CURVES[key.curve.name][0]}"
    elif isinstance(key, rsa.RSAPublicKey):
        algorithm = f"rsa{key.key_size}"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "ed25519"
    else:
        raise TrustError("read key", what, "of a kind that cosign does not use", hint="use ECDSA (P-256, P-384, P-521), RSA or Ed25519")
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PemKey(key, der, algorithm)
