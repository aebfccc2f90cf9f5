"""containers-policy.json(5): what is read, which rule is meant, which name fits; and that nothing broken opens anything (SEC-42)."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from signing import COSIGN, payload
from vouchers import MANIFEST, NAME, Bench, digest

from pyrun.errors import PyrunError, SignatureError, TrustError
from pyrun.images.trust import policyfile
from pyrun.images.trust.evidence import Attached, Collection
from pyrun.images.trust.gate import Gate
from pyrun.images.trust.identity import parse
from pyrun.images.trust.policyfile import Requirement, Subject

ACCEPT, REJECT = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
KEY = base64.b64encode(b"key").decode()


def subject(transport: str, place: str, asked: str = "") -> Subject:
    return Subject(transport, place, parse(asked) if asked else None, "it")


def signed_by(**more: Any) -> dict[str, Any]:
    return {"type": "signedBy", "keyType": "GPGKeys", "keyData": KEY, **more}


def rule(kind: str, **more: str) -> Requirement:
    return Requirement(signed_by(signedIdentity={"type": kind, **more}), "x")


BROKEN: dict[str, Any] = {
    "empty": b"",
    "no JSON": b"{",
    "a list": [],
    "null": None,
    "no default": {"transports": {}},
    "default is no list": {"default": {}},
    "default is empty": {"default": []},
    "default twice": b'{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}',
    "a member besides": {"default": ACCEPT, "comment": ""},
    "default in another case": {"Default": ACCEPT},
    "bytes behind": b'{"default": [{"type": "insecureAcceptAnything"}]} x',
    "a byte order mark": b'\xef\xbb\xbf{"default": [{"type": "insecureAcceptAnything"}]}',
    "a requirement that is none": {"default": ["insecureAcceptAnything"]},
    "a requirement of no type": {"default": [{}]},
    "a requirement of no known type": {"default": [{"type": "signedByAnybody"}]},
    "a type in another case": {"default": [{"type": "insecureacceptanything"}]},
    "accepting with a member besides": {"default": [{"type": "insecureAcceptAnything", "keyPath": "/x"}]},
    "rejecting with a member besides": {"default": [{"type": "reject", "x": 1}]},
    "signed by no key": {"default": [{"type": "signedBy", "keyType": "GPGKeys"}]},
    "signed by two sources of keys": {"default": [signed_by(keyPath="/x")]},
    "signed by keys of no type": {"default": [{"type": "signedBy", "keyData": KEY}]},
    "signed by keys of no known type": {"default": [signed_by(keyType="PGP")]},
    "key that is no base64": {"default": [signed_by(keyData="?")]},
    "key path that is empty": {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": ""}]},
    "key paths that are none": {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": "/x"}]},
    "no key paths": {"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": []}]},
    "identity of no type": {"default": [signed_by(signedIdentity={})]},
    "identity of no known type": {"default": [signed_by(signedIdentity={"type": "matchAnything"})]},
    "identity with a member besides": {"default": [signed_by(signedIdentity={"type": "matchExact", "x": 1})]},
    "exact reference without one": {"default": [signed_by(signedIdentity={"type": "exactReference"})]},
    "exact reference without a tag": {
        "default": [signed_by(signedIdentity={"type": "exactReference", "dockerReference": "example.com/a"})]
    },
    "exact repository that is none": {"default": [signed_by(signedIdentity={"type": "exactRepository", "dockerRepository": "UPPER"})]},
    "prefix that is none": {
        "default": [signed_by(signedIdentity={"type": "remapIdentity", "prefix": "short", "signedPrefix": "example.com"})]
    },
    "sigstore without a key": {"default": [{"type": "sigstoreSigned"}]},
    "sigstore with the other's key type": {"default": [{"type": "sigstoreSigned", "keyType": "GPGKeys", "keyData": KEY}]},
    "transports that are none": {"default": ACCEPT, "transports": []},
    "a transport that is none": {"default": ACCEPT, "transports": {"docker": []}},
    "a transport of no known name": {"default": ACCEPT, "transports": {"dokcer": {"": REJECT}}},
    "a scope without requirements": {"default": ACCEPT, "transports": {"docker": {"": []}}},
    "a scope twice": b'{"default": [{"type": "reject"}], "transports": {"docker": {"a": [{"type": "reject"}], "a": '
    b'[{"type": "insecureAcceptAnything"}]}}}',
    "a scope of archives": {"default": ACCEPT, "transports": {"docker-archive": {"/x": REJECT}}},
    "a path with dots": {"default": ACCEPT, "transports": {"oci": {"/srv/../x": REJECT}}},
    "a path that is relative": {"default": ACCEPT, "transports": {"oci": {"srv": REJECT}}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_sec_42_broken_policies_open_nothing(bench: Bench, name: str) -> None:
    data = BROKEN[name] if isinstance(BROKEN[name], bytes) else json.dumps(BROKEN[name]).encode()
    path = bench.folder / "policy.json"
    path.write_bytes(data)
    with pytest.raises(TrustError) as caught:
        Gate(bench.store, policy=str(path))
    assert caught.value.subject == str(path) and caught.value.reason and caught.value.hint


@pytest.mark.parametrize("kind", ["group", "others", "owner", "link", "fifo", "missing", "large"])
def test_sec_42_policies_that_others_can_change(bench: Bench, kind: str) -> None:
    path = Path(bench.store.root, "trust", "policy.json")
    target = bench.folder / "target.json"
    target.write_text(json.dumps({"default": ACCEPT}))
    if kind == "link":
        path.symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "missing":
        path.write_text(json.dumps({"default": ACCEPT}) + " " * ((2 << 20) if kind == "large" else 0))
        path.chmod({"group": 0o664, "others": 0o666}.get(kind, 0o644))
        if kind == "owner":
            os.chown(path, 1000, 1000)
    with pytest.raises(PyrunError):
        Gate(bench.store, policy=str(path) if kind == "missing" else "")


def test_sec_42_keys_that_others_can_change(bench: Bench) -> None:
    key = bench.folder / "key.asc"
    key.write_bytes(bench.gpg.public("good"))
    key.chmod(0o666)
    rules = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key)}]
    with pytest.raises(TrustError, match="others than root can write it"):
        judged(bench, rules, bench.signed())
    key.unlink()
    with pytest.raises(TrustError, match="no such file"):
        judged(bench, rules, bench.signed())


def judged(bench: Bench, rules: list[Any], *found: Attached, asked: str = f"{NAME}:1") -> Any:
    path = bench.folder / "policy.json"
    path.write_text(json.dumps({"default": REJECT, "transports": {"docker": {"": rules}}}))
    name = parse(asked)
    assert name is not None
    what = Subject("docker", name.name, name, asked)
    what.documents = [MANIFEST]

    def gather(into: Collection) -> None:
        for one in found:
            into.add(one)

    gate = Gate(bench.store, policy=str(path))
    gate.begin(what)
    return gate.judge(what, gather)


def test_all_requirements_count(bench: Bench) -> None:
    good = {"type": "signedBy", "keyType": "GPGKeys", "keyData": base64.b64encode(bench.gpg.public("good", armour=False)).decode()}
    both = {**good, "keyData": base64.b64encode(bench.gpg.public("good", "other")).decode()}
    cosign = {
        "type": "sigstoreSigned",
        "keyData": base64.b64encode(bench.keys["p256"].public.read_bytes()).decode(),
        "signedIdentity": {"type": "matchRepository"},
    }
    assert judged(bench, [good], bench.signed()).signature["fingerprint"] == bench.gpg.fingerprint("good")
    assert judged(bench, [both], bench.signed(None, "other")).signature["fingerprint"] == bench.gpg.fingerprint("other")
    assert judged(bench, [cosign], bench.cosigned()).signature["kind"] == "cosign"
    assert judged(bench, [good, cosign, *ACCEPT], bench.signed(), bench.cosigned()).signature
    for rules, found in (
        ([good], bench.signed(None, "other")),
        ([good, cosign], bench.signed()),
        ([good, *REJECT], bench.signed()),
        ([{**cosign, "signedIdentity": {"type": "matchExact"}}], bench.cosigned()),
        ([cosign], Attached("cosign", b"{}", b"x")),
    ):
        with pytest.raises(SignatureError) as caught:
            judged(bench, rules, found)
        assert caught.value.hint
    with_tag = {**cosign, "signedIdentity": {"type": "matchRepoDigestOrExact"}}
    assert judged(bench, [with_tag], bench.cosigned(document=payload(digest(MANIFEST), f"{NAME}:1", COSIGN))).signature


@pytest.mark.parametrize(
    "requirement",
    [
        {"type": "sigstoreSigned", "fulcio": {"caPath": "/x"}, "rekorPublicKeyPath": "/y"},
        {"type": "sigstoreSigned", "keyData": KEY, "rekorPublicKeyPath": "/y"},
        {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}},
        signed_by(keyType="X509Certificates"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_words(bench: Bench, requirement: dict[str, Any]) -> None:
    with pytest.raises(SignatureError, match=r"asks for what cannot be checked: .* supported"):
        judged(bench, [requirement], bench.signed())


def test_a_policy_decides_alone(bench: Bench) -> None:
    """Whom the store trusts, and from where it accepts unsigned images, does not count where there is a policy."""
    bench.keyring.accept_unsigned("reg.example.com")
    with pytest.raises(SignatureError, match="rejects it"):
        judged(bench, REJECT, bench.signed())
    assert judged(bench, ACCEPT).signature is None


SCOPES = "example.com:5000 example.com/team example.com/team/app example.com/team/app:1 *.com docker.io/library".split()
POLICY = {
    "default": REJECT,
    "transports": {
        "docker": {name: [signed_by(keyData=base64.b64encode(name.encode()).decode())] for name in SCOPES},
        "oci": {"/srv/images": ACCEPT, "/srv/images/bad": REJECT},
        "docker-archive": {"": ACCEPT},
    },
}


@pytest.mark.parametrize(
    ("asked", "scope"),
    [
        ("example.com/team/app:1", "example.com/team/app:1"),
        ("example.com/team/app:2", "example.com/team/app"),
        ("example.com/team/apple:1", "example.com/team"),
        ("example.com/team", "example.com/team"),
        ("example.com/teams/x:1", "*.com"),
        ("other.com/x:1", "*.com"),
        ("a.b.com:5000/x:1", "*.com"),
        ("example.com:5000/x:1", "example.com:5000"),
        ("busybox:1", "docker.io/library"),
        ("docker.io/me/x:1", ""),
        ("example.org/x:1", ""),
    ],
)
def test_the_closest_scope_decides(asked: str, scope: str) -> None:
    policy = policyfile.parse(json.dumps(POLICY).encode(), "x")
    found = policy.requirements(subject("docker", "", asked))[0]
    assert (found.datas[0].decode() if found.datas else "") == scope


@pytest.mark.parametrize(
    ("transport", "place", "kind"),
    [
        ("oci", "/srv/images/app", "insecureAcceptAnything"),
        ("oci", "/srv/images/bad/app", "reject"),
        ("oci", "/srv/imagesx", "reject"),
        ("oci-archive", "/srv/images/app", "reject"),
        ("docker-archive", "/anywhere", "insecureAcceptAnything"),
    ],
)
def test_scopes_of_files(transport: str, place: str, kind: str) -> None:
    policy = policyfile.parse(json.dumps(POLICY).encode(), "x")
    assert policy.requirements(subject(transport, place))[0].type == kind


MATCHES = [
    # rule, asked, signed, fits
    (rule("matchExact"), "a.com/x:1", "a.com/x:1", True),
    (rule("matchExact"), "a.com/x:1", "a.com/x:2", False),
    (rule("matchExact"), "a.com/x:1", "a.com/x", False),
    (rule("matchExact"), f"a.com/x@sha256:{'0' * 64}", "a.com/x:1", False),
    (rule("matchRepoDigestOrExact"), "a.com/x:1", "a.com/x:1", True),
    (rule("matchRepoDigestOrExact"), "a.com/x:1", "a.com/x:2", False),
    (rule("matchRepoDigestOrExact"), "a.com/x:1", "b.com/x:1", False),
    (rule("matchRepoDigestOrExact"), "a.com/x:1", f"a.com/x@sha256:{'0' * 64}", False),
    (rule("matchRepoDigestOrExact"), f"a.com/x@sha256:{'0' * 64}", "a.com/x:1", True),
    (rule("matchRepoDigestOrExact"), f"a.com/x@sha256:{'0' * 64}", "a.com/y:1", False),
    (rule("matchRepoDigestOrExact"), "busybox:1", "docker.io/library/busybox:1", True),
    (rule("matchRepository"), "a.com/x:1", "a.com/x:2", True),
    (rule("matchRepository"), "a.com/x:1", "a.com/x", True),
    (rule("matchRepository"), "a.com/x:1", "a.com/xx", False),
    (rule("matchRepository"), "", "a.com/x", False),
    (rule("exactReference", dockerReference="b.com/y:2"), "a.com/x:1", "b.com/y:2", True),
    (rule("exactReference", dockerReference="b.com/y:2"), "a.com/x:1", "b.com/y:1", False),
    (rule("exactReference", dockerReference="b.com/y:2"), "", "b.com/y:2", True),
    (rule("exactRepository", dockerRepository="b.com/y"), "a.com/x:1", "b.com/y:7", True),
    (rule("exactRepository", dockerRepository="b.com/y"), "a.com/x:1", "b.com/yy:7", False),
    (rule("remapIdentity", prefix="mirror.local:5000", signedPrefix="a.com"), "mirror.local:5000/x:1", "a.com/x:1", True),
    (rule("remapIdentity", prefix="mirror.local:5000", signedPrefix="a.com"), "mirror.local:5000/x:1", "a.com/x:2", False),
    (rule("remapIdentity", prefix="mirror.local/a", signedPrefix="a.com"), "mirror.local/ab:1", "a.comb:1", False),
    (rule("remapIdentity", prefix="mirror.local", signedPrefix="a.com"), "a.com/x:1", "a.com/x:1", True),
    (rule("matchExact"), "a.com/x:1", "not a name", False),
    (rule("matchExact"), "a.com/x:1", "docker://a.com/x:1", False),
]


@pytest.mark.parametrize("index", range(len(MATCHES)))
def test_identities(index: int) -> None:
    requirement, asked, signed, fits = MATCHES[index]
    assert requirement.accepts(parse(asked) if asked else None, signed) is fits
