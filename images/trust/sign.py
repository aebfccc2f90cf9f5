"""Signing images: what skopeo and podman verify (simple signing), and what cosign does (a key pair).

    simple signing   one file, to be put where `lookaside` of registries.d leads: REPOSITORY@sha256=HEX/signature-1
    cosign           an OCI layout with one image called sha256-HEX.sig, to be copied beside the image:
                     skopeo copy oci:DIR:sha256-HEX.sig docker://HOST/REPOSITORY:sha256-HEX.sig

The manifest that is signed is the stored one, after its digest was checked again.  A layout that is just being written has its
signature in itself, `signature-1` or one more image in its index, where pyrun looks for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from typing import Any

from pyrun.errors import ImageError, PyrunError, TrustError, UsageError
from pyrun.images.oci import CONFIGS, INDEXES, MANIFESTS
from pyrun.images.store import Image, Store
from pyrun.images.trust import claims, identity
from pyrun.images.trust.attached import SIGNATURE_NOTE, SIMPLE_SIGNING
from pyrun.images.trust.gpg import GPG
from pyrun.images.trust.keyfiles import MAX_KEY, read_bounded

__all__ = ["attached", "cosign", "name_of", "openpgp"]

_REF = "org.opencontainers.image.ref.name"
_PLAIN_KEY = "give an unencrypted one in PEM form, as openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes it"


def name_of(image: Image, wanted: str | None) -> str:
    """The name to sign an image as: `wanted`, else the one it was fetched by; UsageError where neither says a version."""
    own = f"{image.name}:{image.labels.get('version', '')}" if image.kind == "aci" else ""  # one that becomes another in this moment
    text = wanted or (image.origin["name"] if image.origin is not None else "") or own
    found = identity.parse(text) if text else None
    if found is None or not found.tag:
        hint = "say which: --identity HOST/REPOSITORY:TAG"
        raise UsageError("sign", image.name, f"{text!r} is no name with a tag" if text else "nothing says under which name", hint=hint)
    return str(found)


def openpgp(store: Store, image: Image, name: str, key: str, target: str) -> None:
    """Signs as containers-signature(5) says, with a secret key of the caller's gpg, into the new file `target`; PyrunError."""
    _write(target, _message(_manifest(store, image), name, key))


def _message(manifest: bytes, name: str, key: str) -> bytes:
    payload = _payload(manifest, name, claims.ATOMIC)
    command = [GPG, "--no-tty", "--local-user", key, "--digest-algo", "SHA512", "--output", "-", "--sign"]
    try:
        done = subprocess.run(command, input=payload, capture_output=True, check=False)
    except OSError as error:
        raise TrustError("run", GPG, errno=error.errno or 0, hint="install it, on Debian: apt install gpg") from None
    if done.returncode or not done.stdout:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise TrustError("sign", name, words[-1] if words else "gpg did not sign", hint="see the keys with: gpg --list-secret-keys")
    return done.stdout


def cosign(store: Store, image: Image, name: str, key: str, target: str) -> str:
    """Signs as cosign's SIGNATURE_SPEC.md says, with the private key in a PEM file, into the new directory `target`; PyrunError.

    Returns the tag that the signature has to have in the image's repository.
    """
    files, entry = _cosigned(_manifest(store, image), name, key)
    try:
        os.makedirs(f"{target}/blobs/sha256")
        for place, data in files.items():
            _write(f"{target}/{place}", data)
        _write(f"{target}/index.json", _json({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [entry]}))
        _write(f"{target}/oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    except OSError as error:
        raise ImageError("write signature", target, errno=error.errno or 0, hint="name a directory that is not there yet") from None
    return str(entry["annotations"][_REF])


def attached(manifest: bytes, name: str, *, by: str | None = None, key: str | None = None) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Return the files and the index entries that a signature adds to an image layout; as `openpgp` with `by`, as `cosign` with `key`."""
    if by:
        return {"signature-1": _message(manifest, name, by)}, []
    if not key:
        return {}, []
    files, entry = _cosigned(manifest, name, key)
    return files, [entry]


def _cosigned(manifest: bytes, name: str, key: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The blobs of the image that holds a signature, by their place in a layout, and its descriptor."""
    payload = _payload(manifest, name, claims.COSIGN)
    signature = base64.b64encode(_private(key, payload)).decode("ascii")
    tag = f"sha256-{hashlib.sha256(manifest).hexdigest()}.sig"
    layer = {**_descriptor(SIMPLE_SIGNING, payload), "annotations": {SIGNATURE_NOTE: signature}}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = _json({"architecture": "", "os": "", "config": {}, "rootfs": rootfs, "history": [{"created_by": "pyrun"}]})
    document = _json({"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": _descriptor(CONFIGS[0], config), "layers": [layer]})
    entry = {**_descriptor(MANIFESTS[0], document), "annotations": {_REF: tag}}
    return {f"blobs/sha256/{hashlib.sha256(data).hexdigest()}": data for data in (payload, config, document)}, entry


def _private(path: str, payload: bytes) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    data = read_bounded(path, MAX_KEY, "key")
    if b"ENCRYPTED" in data:
        raise TrustError("read key", path, "it is encrypted", hint=_PLAIN_KEY)
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise TrustError("read key", path, "not a private key in PEM form", hint=_PLAIN_KEY) from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(payload, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(payload)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return key.sign(payload, padding.PKCS1v15(), hashes.SHA256())
    raise TrustError("read key", path, "of a kind that cosign does not use", hint=_PLAIN_KEY)


def _manifest(store: Store, image: Image) -> bytes:
    if image.kind != "oci":
        hint = "sign the file itself: gpg --armor --detach-sign FILE"
        raise UsageError("sign", image.name, "an App Container Image is signed as a file", hint=hint)
    try:
        with open(store.blob_path(image.blob), "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError("read manifest of", image.name, errno=error.errno or 0, hint="fetch it again") from None
    if not claims.matches(image.blob, data):
        raise ImageError("read manifest of", image.name, "its content has another digest", hint="see what else: pyrun image verify")
    return data


def _payload(manifest: bytes, name: str, kind: str) -> bytes:
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    critical = {"type": kind, "image": {"docker-manifest-digest": digest}, "identity": {"docker-reference": name}}
    return _json({"critical": critical, "optional": {"creator": "pyrun", "timestamp": int(time.time())}})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}


def _write(path: str, data: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except OSError as error:
        raise PyrunError("write signature", path, errno=error.errno or 0, hint="name a file that is not there yet") from None
