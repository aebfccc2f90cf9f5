"""Signatures of OCI images that are not in the form that they must have: OpenPGP messages and sigstore bundles (SEC-38)."""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from signing import BUNDLE, CosignKey, dsse, message, payload, statement, text
from vouchers import MANIFEST, NAME, OTHER, Bench, digest

from pyrun.images.trust.evidence import Attached


def _openpgp(gpg: Any, *arguments: str, user: str = "good") -> Attached:
    data = json.dumps(payload(digest(MANIFEST), f"{NAME}:1")).encode()
    return Attached("openpgp", gpg("--local-user", f"={user}", *arguments, data=data))


def _cut(one: Attached, end: int) -> Attached:
    return Attached(one.kind, one.data[:end])


def _flip(one: Attached, at: int) -> Attached:
    data = bytearray(one.data)
    data[at] ^= 1
    return Attached(one.kind, bytes(data), one.signature)


def _bomb() -> Attached:
    raw = zlib.compressobj(9, wbits=-15)
    body = b"\1" + raw.compress(b"\0" * (64 << 20)) + raw.flush()
    return Attached("openpgp", b"\xa3" + body)


def _two(b: Bench) -> Attached:
    return _openpgp(b.gpg, "--local-user", "=other", "--sign")


def _wrapped(b: Bench) -> Attached:
    """Good data in front of a good message."""
    message = b.signed(None, "good", "--compress-algo", "none").data
    return Attached("openpgp", b"\xcb\x08b\0\0\0\0\0{}" + message)


def _revoked(b: Bench) -> Attached:
    """Signed before the key was revoked: only its secret half is needed, and gpg will not use it any more."""
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as with_key:  # short: the agent's socket lives in it
        fresh = copy.copy(b.gpg)
        fresh.home = Path(with_key)
        try:
            fresh.key("gone")
            made = _openpgp(fresh, "--sign", user="gone")
            fresh.revoke("gone")
            scope = Path(b.store.root, "trust", "prefix.d", "reg.example.com%2Fteam")
            (scope / fresh.fingerprint("gone")).write_bytes(fresh.public("gone"))
        finally:
            subprocess.run(["/usr/bin/gpgconf", "--homedir", with_key, "--kill", "all"], check=True, capture_output=True)
    return made


def _short_lived(b: Bench) -> Attached:
    """By a key that was made long enough ago."""
    b.gpg.key("old", "--faked-system-time", "20250101T000000") if b"old" not in b.gpg("--list-keys") else None
    b.by_hand("old")
    return b.signed(None, "old", "--faked-system-time", "20250102T000000", "--default-sig-expire", "1d")


def _twice(key: CosignKey) -> dict[str, Any]:
    document = dsse(key, statement(digest(MANIFEST)))
    document["dsseEnvelope"]["signatures"] *= 2
    return document


def _bare(key: CosignKey) -> dict[str, Any]:
    """The statement itself signed, without what says of which type it is."""
    document = dsse(key, statement(digest(MANIFEST)))
    document["dsseEnvelope"]["signatures"][0]["sig"] = text(key.sign(statement(digest(MANIFEST))))
    return document


MESSAGES: dict[str, tuple[Callable[[Bench], Attached], str]] = {
    "of an unknown key": (lambda b: b.signed(None, "other"), "not trusted"),
    "of an expired key": (lambda b: b.signed(None, "expired", "--faked-system-time", "20250102T000000"), "expired"),
    "of a revoked key": (_revoked, "revoked"),
    "of a weak key": (lambda b: b.signed(None, "weak"), "too weak"),
    "with SHA-1": (lambda b: b.signed(None, "good", "--digest-algo", "SHA1"), "can be forged"),
    "from the future": (lambda b: b.signed(None, "good", "--faked-system-time", "20990101T000000"), ""),
    "that has expired": (_short_lived, "has expired"),
    "in text mode": (lambda b: b.signed(None, "good", "--textmode"), "not marked as binary"),
    "in clear": (lambda b: _openpgp(b.gpg, "--clear-sign"), "not a signed message"),
    "detached": (lambda b: _openpgp(b.gpg, "--detach-sign"), "not a signed message"),
    "detached, armoured": (lambda b: _openpgp(b.gpg, "--armor", "--detach-sign"), "not a signed message"),
    "of two keys": (_two, "not a signed message"),
    "of nobody": (lambda b: Attached("openpgp", b.gpg("--store", data=b"{}")), "not a signed message"),
    "behind other data": (_wrapped, "not a signed message"),
    "twice": (lambda b: Attached("openpgp", b.signed(None, "good", "--compress-algo", "none").data * 2), "more packets"),
    "cut": (lambda b: _cut(b.signed(None, "good", "--compress-algo", "none"), -1), "truncated"),
    "cut in compressed data": (lambda b: _cut(b.signed(None, "good", "--compress-algo", "zlib"), -3), "should"),
    "changed": (lambda b: _flip(b.signed(None, "good", "--compress-algo", "none"), 60), "not what key"),
    "changed in its signature": (lambda b: _flip(b.signed(None, "good", "--compress-algo", "none"), -1), ""),
    "that is a bomb": (lambda _: _bomb(), "more than"),
    "that is empty": (lambda _: Attached("openpgp", b""), "not a signed message"),
    "that is noise": (lambda _: Attached("openpgp", bytes(range(256))), "not a signed message"),
    "that is a key": (lambda b: Attached("openpgp", b.gpg.public("good", armour=False)), "not a signed message"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_sec_38_messages(bench: Bench, name: str) -> None:
    make, word = MESSAGES[name]
    bench.refused(make(bench), word)


def _without(document: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {**{name: value for name, value in document.items() if name not in names}, **more}


BUNDLES: dict[str, tuple[Callable[[CosignKey], dict[str, Any]], str]] = {
    "of another version": (lambda k: _without(message(k, MANIFEST), mediaType=BUNDLE.replace("0.3", "0.9")), "no bundle"),
    "keyless": (lambda k: _without(message(k, MANIFEST), verificationMaterial={"certificate": {"rawBytes": "AA=="}}), "keyless"),
    "keyless and with a key": (
        lambda k: _without(message(k, MANIFEST), verificationMaterial={"x509CertificateChain": {}, "publicKey": {"hint": ""}}),
        "keyless",
    ),
    "without material": (lambda k: _without(message(k, MANIFEST), "verificationMaterial"), "verificationMaterial"),
    "without a key": (lambda k: _without(message(k, MANIFEST), verificationMaterial={}), "names no public key"),
    "without content": (lambda k: _without(message(k, MANIFEST), "messageSignature"), "exactly one"),
    "with both": (lambda k: {**message(k, MANIFEST), **dsse(k, statement(digest(MANIFEST)))}, "exactly one"),
    "over another manifest": (lambda k: message(k, OTHER), "not trusted, or over another image"),
    "on another manifest": (lambda k: dsse(k, statement(digest(OTHER))), "another image"),
    "that attests": (lambda k: dsse(k, statement(digest(MANIFEST), "https://slsa.dev/provenance/v1")), "no signature of an image"),
    "of another type": (lambda k: dsse(k, statement(digest(MANIFEST)), "text/plain"), "of type text/plain"),
    "of no statement": (lambda k: dsse(k, b"{}"), "no in-toto statement"),
    "of no subject": (lambda k: dsse(k, statement(digest(MANIFEST)).replace(b'"subject": [', b'"x": [')), "no subject"),
    "of a subject without digest": (lambda k: dsse(k, statement(digest(MANIFEST)).replace(b'"sha256"', b'"sha1"')), "no sha256"),
    "with two signatures": (_twice, "exactly one signature"),
    "with noise": (lambda k: _without(message(k, MANIFEST), messageSignature={"signature": "?"}), "damaged base64"),
    "without encoding": (_bare, "not trusted"),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_sec_38_bundles(bench: Bench, name: str) -> None:
    make, word = BUNDLES[name]
    bench.refused(bench.bundled(make(bench.keys["p256"])), word)
