"""Signatures for tests: keys in the form of cosign's, what cosign and sigstore make with them, and skopeo as a signer.

key = CosignKey(folder, "a")      key.public is cosign.pub, key.plain the private key
key.sign(payload)                 over exactly these bytes
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
STATEMENT = "application/vnd.in-toto+json"
ATOMIC, COSIGN = "atomic container signature", "cosign container image signature"
KINDS: dict[str, Any] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "weak": lambda: rsa.generate_private_key(65537, 1024),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
}


class CosignKey:
    """A key pair of a kind in `KINDS`."""

    def __init__(self, folder: Path, name: str, kind: str = "p256") -> None:
        self.key = KINDS[kind]()
        self.plain, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.plain.write_bytes(self.key.private_bytes(*form))
        public = self.key.public_key()
        self.public.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
        spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = f"sha256-{hashlib.sha256(spki).hexdigest()}"

    def sign(self, data: bytes, digest: Any = None) -> bytes:
        """A signature over `data`, with SHA-256 unless another digest is given."""
        digest = digest or hashes.SHA256()
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(data)
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), digest)
        made: bytes = self.key.sign(data, ec.ECDSA(digest))
        return made


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def payload(digest: str, reference: str, kind: str = ATOMIC, **more: Any) -> dict[str, Any]:
    """What simple signing signs; cosign's has another type, and null where nothing is to be said."""
    critical = {"type": kind, "image": {"docker-manifest-digest": digest}, "identity": {"docker-reference": reference}}
    optional = None if kind == COSIGN else {"creator": "tests", "timestamp": 1700000000}
    return {"critical": critical, "optional": optional, **more}


def statement(digest: str, kind: str = "https://sigstore.dev/cosign/sign/v1") -> bytes:
    """What cosign 3 signs."""
    subject = [{"digest": {"sha256": digest.removeprefix("sha256:")}}]
    return json.dumps({"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": kind, "predicate": {}}).encode()


def dsse(key: CosignKey, body: bytes, kind: str = STATEMENT) -> dict[str, Any]:
    """A bundle with an envelope around a statement."""
    encoding = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(body), body)
    envelope = {"payload": text(body), "payloadType": kind, "signatures": [{"sig": text(key.sign(encoding)), "keyid": ""}]}
    return {"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []}, "dsseEnvelope": envelope}


def message(key: CosignKey, manifest: bytes) -> dict[str, Any]:
    """A bundle with a signature over a manifest itself."""
    digest = {"algorithm": "SHA2_256", "digest": text(hashlib.sha256(manifest).digest())}
    signature = {"messageDigest": digest, "signature": text(key.sign(manifest))}
    return {"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}, "messageSignature": signature}


def skopeo(*arguments: str | Path, gpg: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs skopeo with a gpg home; whether it succeeded is for the caller to say."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **({"GNUPGHOME": str(gpg)} if gpg else {}), **(env or {})}
    return subprocess.run(["skopeo", *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60)
