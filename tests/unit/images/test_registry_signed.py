"""Signatures in registries with mirrors: what a mirror did not copy is looked for at the next place, the registry itself last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from net import Answer, Net
from registries import INDEX, MANIFEST, Authority, ImageParts, Reply, Request, Scripted, descriptor, digest_of
from signing import BUNDLE, COSIGN, SIMPLE_SIGNING, CosignKey, dsse, payload, statement, text

from pyrun.errors import ImageError, SignatureError
from pyrun.images.store import Store
from pyrun.images.trust import Keyring

PARTS = ImageParts({"hello": b"world"})
DIGEST = digest_of(PARTS.manifest)
TAG = DIGEST.replace(":", "-")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def net(authority: Authority, store: Store, tmp_path: Path) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(authority, store, tmp_path, stack)


def mirrored(main: Scripted, mirror: Scripted) -> str:
    return f'[[registry]]\nlocation = "{main.place}"\n[[registry.mirror]]\nlocation = "{mirror.place}"\n'


class Signed:
    """A registry that has the image; its signature once `sign` was called, as a `.sig` tag or as a referrer."""

    def __init__(self, key: CosignKey, kind: str) -> None:
        self.key, self.kind = key, kind
        self.more: dict[str, Reply] = {}

    def sign(self, name: str) -> None:
        config = b"{}"
        if self.kind == "tag":
            data = json.dumps(payload(DIGEST, name, COSIGN)).encode()
            notes = {"dev.cosignproject.cosign/signature": text(self.key.sign(data))}
            layer = descriptor(SIMPLE_SIGNING, data, annotations=notes)
        else:
            data = json.dumps(dsse(self.key, statement(DIGEST))).encode()
            layer = descriptor(BUNDLE, data)
        document: dict[str, object] = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]}
        document["config"] = descriptor("application/vnd.oci.empty.v1+json", config)
        if self.kind == "referrer":
            document |= {"artifactType": BUNDLE, "subject": descriptor(MANIFEST, PARTS.manifest)}
        manifest = json.dumps(document).encode()
        found = Reply(manifest, headers={"Content-Type": MANIFEST})
        listing = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**descriptor(MANIFEST, manifest), "artifactType": BUNDLE}]}
        self.more = {f"blobs/{digest_of(data)}": Reply(data), f"manifests/{digest_of(manifest)}": found}
        if self.kind == "tag":
            self.more[f"manifests/{TAG}.sig"] = found
        else:
            self.more[f"referrers/{DIGEST}"] = Reply(json.dumps(listing).encode(), headers={"Content-Type": INDEX})

    def answer(self, request: Request) -> Reply:
        return self.more.get(request.path.removeprefix("/v2/app/")) or PARTS.answer(request)


@pytest.mark.parametrize("kind", ["tag", "referrer"])
def test_a_signature_that_only_the_registry_has(net: Net, store: Store, cosign_keys: dict[str, CosignKey], kind: str) -> None:
    key = cosign_keys["p256"]
    signed = Signed(key, kind)
    main, mirror = net.serve(signed.answer), net.serve(PARTS.answer)
    net.known(main, mirror)
    Keyring(store.root).add(str(key.public), main.place)
    name = f"{main.place}/app"
    with pytest.raises(SignatureError):
        net.pull(f"{name}:1", mirrored(main, mirror), unsigned=False)
    signed.sign(name)
    image = net.pull(f"{name}:1", mirrored(main, mirror), unsigned=False)
    assert image.signature is not None and image.signature["fingerprint"] == key.fingerprint
    assert any("blobs" in request.path for request in mirror.seen), "the image itself comes from the mirror"
    assert not any(digest_of(PARTS.layer) in request.path for request in main.seen)


def test_a_mirrors_own_copy_will_do(net: Net, store: Store, cosign_keys: dict[str, CosignKey]) -> None:
    signed = Signed(cosign_keys["p256"], "tag")
    main, mirror = net.serve(lambda _: Reply(b"", 404)), net.serve(signed.answer)
    net.known(main, mirror)
    Keyring(store.root).add(str(cosign_keys["p256"].public), main.place)
    signed.sign(f"{main.place}/app")
    assert net.pull(f"{main.place}/app:1", mirrored(main, mirror), unsigned=False).signature is not None
    assert not any(request.path.endswith(".sig") for request in main.seen)


@pytest.mark.parametrize(("answer", "words"), [(lambda _: Reply(b"", 404), ""), (lambda _: Reply(b"", 403), "403")])
def test_no_place_has_one(net: Net, store: Store, cosign_keys: dict[str, CosignKey], answer: Answer, words: str) -> None:
    """The registry that cannot be asked is asked once, not once for each place where a signature could be; and it is told of."""
    main, mirror = net.serve(answer), net.serve(PARTS.answer)
    net.known(main, mirror)
    Keyring(store.root).add(str(cosign_keys["p256"].public), main.place)
    with pytest.raises(ImageError) as caught:
        net.pull(f"{main.place}/app:1", mirrored(main, mirror), unsigned=False)
    assert isinstance(caught.value, SignatureError)
    if words:
        assert words in str(caught.value) + caught.value.origin + caught.value.hint
        assert len(main.seen) == 1
