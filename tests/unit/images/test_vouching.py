"""Signatures of OCI images, good and bad: simple signing, cosign's key pairs, sigstore bundles (SEC-38)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from signing import ATOMIC, COSIGN, dsse, message, payload, statement
from vouchers import INDEX, MANIFEST, NAME, OTHER, Bench, digest

from pyrun.errors import SignatureError, TrustError
from pyrun.images.trust import evidence
from pyrun.images.trust.evidence import Attached

Change = Callable[[dict[str, Any]], object]

GOOD: dict[str, Callable[[Bench], Attached]] = {
    "gpg": lambda b: b.signed(),
    "gpg uncompressed": lambda b: b.signed(None, "good", "--compress-algo", "none"),
    "gpg zlib": lambda b: b.signed(None, "good", "--compress-algo", "zlib"),
    "gpg bzip2": lambda b: b.signed(None, "good", "--compress-algo", "bzip2"),
    "gpg armoured": lambda b: b.signed(armour=True),
    "gpg sha512 of the manifest": lambda b: b.signed(payload(digest(MANIFEST, "sha512"), f"{NAME}:1")),
    "gpg over the index": lambda b: b.signed(payload(digest(INDEX), f"{NAME}:1")),
    "gpg, optional members": lambda b: b.signed({**payload(digest(MANIFEST), f"{NAME}:1"), "optional": {"x": [1, {}]}}),
    "cosign p256": lambda b: b.cosigned(),
    "cosign p384": lambda b: b.cosigned("p384"),
    "cosign p384 with sha384": lambda b: b.cosigned("p384", hash_=hashes.SHA384()),
    "cosign p521": lambda b: b.cosigned("p521"),
    "cosign p521 with sha512": lambda b: b.cosigned("p521", hash_=hashes.SHA512()),
    "cosign rsa": lambda b: b.cosigned("rsa"),
    "cosign ed25519": lambda b: b.cosigned("ed25519"),
    "cosign with a tag": lambda b: b.cosigned(document=payload(digest(MANIFEST), f"{NAME}:1", COSIGN)),
    "bundle with a statement": lambda b: b.bundled(dsse(b.keys["p256"], statement(digest(MANIFEST)))),
    "bundle with a statement on the index": lambda b: b.bundled(dsse(b.keys["ed25519"], statement(digest(INDEX)))),
    "bundle over the manifest": lambda b: b.bundled(message(b.keys["p256"], MANIFEST)),
}


@pytest.mark.parametrize("name", GOOD)
def test_sec_38_accepted(bench: Bench, name: str) -> None:
    verdict = bench.judge(GOOD[name](bench))
    assert verdict.signature is not None and verdict.signature["prefix"] == "reg.example.com/team"
    assert evidence.decode(evidence.encode(verdict.evidence))[0].data == verdict.evidence[0].data


def changed(change: Change, kind: str = ATOMIC, **more: Any) -> dict[str, Any]:
    document = payload(digest(MANIFEST), f"{NAME}:1" if kind == ATOMIC else NAME, kind, **more)
    change(document)
    return document


def _critical(name: str, value: Any) -> Change:
    return lambda document: document["critical"].__setitem__(name, value)


# what is wrong with what was signed: -> a word of the reason
PAYLOADS: dict[str, tuple[Change, str]] = {
    "other manifest": (_critical("image", {"docker-manifest-digest": digest(OTHER)}), "for another image"),
    "other repository": (_critical("identity", {"docker-reference": "reg.example.com/team/other:1"}), "signed as"),
    "above": (_critical("identity", {"docker-reference": "reg.example.com/team:1"}), "signed as"),
    "other host": (_critical("identity", {"docker-reference": "evil.example.com/team/app:1"}), "signed as"),
    "other tag": (_critical("identity", {"docker-reference": f"{NAME}:2"}), "signed as"),
    "a digest instead of a tag": (_critical("identity", {"docker-reference": f"{NAME}@{digest(MANIFEST)}"}), "signed as"),
    "no name": (_critical("identity", {"docker-reference": "UPPER CASE"}), "signed as"),
    "empty name": (_critical("identity", {"docker-reference": ""}), "names no image"),
    "name is a number": (_critical("identity", {"docker-reference": 1}), "names no image"),
    "type missing": (lambda d: d["critical"].pop("type"), "no member type"),
    "type unknown": (_critical("type", "something else"), "its type is"),
    "member besides": (_critical("more", 1), "unknown member more"),
    "member besides in image": (_critical("image", {"docker-manifest-digest": digest(MANIFEST), "x": 1}), "unknown member x"),
    "member besides in identity": (_critical("identity", {"docker-reference": f"{NAME}:1", "x": 1}), "unknown member x"),
    "member besides on top": (lambda d: d.__setitem__("x", 1), "unknown member x"),
    "no critical": (lambda d: d.pop("critical"), "no member critical"),
    "critical is a list": (lambda d: d.__setitem__("critical", []), "critical is not an object"),
    "no optional": (lambda d: d.pop("optional"), "no member optional"),
    "optional is a list": (lambda d: d.__setitem__("optional", []), "optional"),
    "time is text": (lambda d: d.__setitem__("optional", {"timestamp": "now"}), "optional.timestamp"),
    "time is true": (lambda d: d.__setitem__("optional", {"timestamp": True}), "optional.timestamp"),
    "creator is a number": (lambda d: d.__setitem__("optional", {"creator": 1}), "optional.creator"),
    "digest in upper case": (_critical("image", {"docker-manifest-digest": digest(MANIFEST).upper()}), "is not a digest"),
    "digest too short": (_critical("image", {"docker-manifest-digest": "sha256:00"}), "is not a digest"),
    "digest of no known kind": (_critical("image", {"docker-manifest-digest": "md5:" + "0" * 32}), "is not a digest"),
    "digest in the store's spelling": (_critical("image", {"docker-manifest-digest": digest(MANIFEST).replace(":", "-")}), "not a digest"),
}


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("kind", [ATOMIC, COSIGN])
def test_sec_38_good_signatures_over_wrong_payloads(bench: Bench, name: str, kind: str) -> None:
    change, word = PAYLOADS[name]
    document = changed(change, kind)
    bench.refused(bench.signed(document) if kind == ATOMIC else bench.cosigned(document=document), word)


RAW: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "a list": b"[]",
    "a member twice": json.dumps(payload(digest(OTHER), f"{NAME}:1")).encode()[:-1]
    + b', "critical": '
    + json.dumps(payload(digest(MANIFEST), f"{NAME}:1")["critical"]).encode()
    + b"}",
    "bytes behind": json.dumps(payload(digest(MANIFEST), f"{NAME}:1")).encode() + b"{}",
    "nested too deep": b'{"critical": ' + b"[" * 100 + b"]" * 100 + b', "optional": {}}',
    "twins": b'{"critical": {}, "Critical": {}, "optional": {}}',
}


@pytest.mark.parametrize("name", RAW)
def test_sec_38_signed_but_ambiguous(bench: Bench, name: str) -> None:
    bench.refused(bench.signed(raw=RAW[name]))
    data = RAW[name].replace(ATOMIC.encode(), COSIGN.encode())
    bench.refused(Attached("cosign", data, bench.keys["p256"].sign(data)))


def test_sec_38_cosign_signatures_that_do_not_fit(bench: Bench) -> None:
    good = bench.cosigned()
    bench.refused(bench.cosigned("other"), "not trusted")
    bench.refused(bench.cosigned("p256", hash_=hashes.SHA384()), "not trusted")
    bench.refused(Attached("cosign", good.data + b" ", good.signature), "not trusted")
    bench.refused(Attached("cosign", good.data, good.signature[:-1]), "not trusted")
    bench.refused(Attached("cosign", good.data, b""), "not trusted")
    bench.refused(bench.bundled(message(bench.keys["other"], MANIFEST)), "not trusted")
    bench.refused(bench.bundled(dsse(bench.keys["other"], statement(digest(MANIFEST)))), "not trusted")


def test_sec_38_keys_that_are_no_good(bench: Bench) -> None:
    for kind, word in (("weak", "too weak"), ("k256", "of a kind that cosign does not use")):
        with pytest.raises(TrustError, match=word):
            bench.keyring.add(str(bench.keys[kind].public), "reg.example.com")
    two = bench.folder / "two.pub"
    two.write_bytes(bench.keys["p256"].public.read_bytes() * 2)
    with pytest.raises(TrustError, match="not one public key"):
        bench.keyring.add(str(two), None)
    with pytest.raises(TrustError):
        bench.keyring.add(str(bench.keys["p256"].plain), None)


@pytest.mark.parametrize("prefix", ["reg.example.com/te", "reg.example.com/team/app/x", "reg.example.com:5000", "example.com", "docker.io"])
def test_sec_38_keys_for_other_names(bench: Bench, gpg: Any, prefix: str) -> None:
    for path in Path(bench.store.root, "trust", "prefix.d").iterdir():
        path.rename(path.with_name(prefix.replace("/", "%2F").replace(":", "%3A")))
    bench.by_hand("other")  # so that it is not refused before a signature is looked at
    bench.keyring.add(str(bench.keys["other"].public), "reg.example.com/team")
    bench.refused(bench.signed(), "which is trusted for", prefix)
    bench.refused(bench.cosigned(), "which is trusted for", prefix)


def test_what_sigstores_own_library_made(bench: Bench) -> None:
    """By @sigstore/sign 3.1, over `MANIFEST`; its @sigstore/verify 2.1 accepted what tests/support/signing.py makes."""
    made = json.loads(Path(__file__).with_name("sigstore-js.json").read_text())
    key = bench.folder / "js.pub"
    key.write_text(made["pub"])
    bench.keyring.add(str(key), NAME)
    for name in ("dsse", "message"):
        assert bench.judge(bench.bundled(made[name])).signature
        with pytest.raises(SignatureError):
            bench.judge(bench.bundled(made[name]), documents=(OTHER,))


def test_one_good_signature_is_enough(bench: Bench) -> None:
    found = bench.judge(bench.signed(None, "other"), bench.cosigned("other"), bench.signed()).signature
    assert found is not None and found["fingerprint"] == bench.gpg.fingerprint("good")


def test_by_digest_the_tag_does_not_matter(bench: Bench) -> None:
    asked = f"{NAME}@{digest(MANIFEST)}"
    assert bench.judge(bench.signed(payload(digest(MANIFEST), f"{NAME}:7")), asked=asked).signature
    bench.refused(bench.signed(payload(digest(MANIFEST), "reg.example.com/team/other:1")), "signed as", asked=asked)
    bench.refused(bench.signed(payload(digest(MANIFEST), NAME)), "signed as", asked=asked)


def test_floods_are_refused(bench: Bench) -> None:
    with pytest.raises(SignatureError, match="more than 64"):
        bench.judge(*(Attached("cosign", b"%d" % number, b"x") for number in range(70)))
    with pytest.raises(SignatureError, match="more than 64"):
        bench.judge(*(Attached("cosign", bytes((number,)) * (1 << 20), b"x") for number in range(5)))


def test_no_key_no_question(bench: Bench) -> None:
    with pytest.raises(SignatureError, match=re.escape("no key is trusted for images of elsewhere.example.com/app")) as caught:
        bench.judge(asked="elsewhere.example.com/app:1")
    assert "pyrun trust --unsigned elsewhere.example.com/app" in caught.value.hint


def test_unsigned_origin(bench: Bench) -> None:
    bench.keyring.accept_unsigned("reg.example.com")
    assert bench.judge(asked="reg.example.com/other/app:1").signature is None
    with pytest.raises(SignatureError):  # keys of a narrower scope: there, images are signed
        bench.judge(asked=f"{NAME}:1")
    bench.keyring.accept_unsigned(NAME)
    assert bench.judge(asked=f"{NAME}:1").signature is None
    signed = bench.judge(bench.signed()).signature
    assert signed is not None  # who signs is told all the same
    bench.keyring.remove("unsigned", NAME)
    with pytest.raises(SignatureError):
        bench.judge(asked=f"{NAME}:1")
