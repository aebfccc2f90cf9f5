"""What the metadata service answers, byte for byte (App Container spec, "App Container Metadata Service")."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from pyrun.pod import documents
from pyrun.pod.metadata import _merged, offer
from pyrun.service.metadata import Answer, Facts, answer, host_key, sign

UUID, OTHER = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
KEY = bytes(range(64))
BASE = "/token/acMetadata/v1/"


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    manifest = {"acKind": "PodManifest", "annotations": [{"name": "a.io/b", "value": "1"}], "apps": [{"name": "web"}]}
    app = {"annotations": [{"name": "x", "value": "y"}], "image_id": "sha512-abc", "image_manifest": {"acKind": "ImageManifest"}}
    found = {"uuid": UUID, "token": "token", "manifest": manifest, "apps": {"web": app}, "config": ["shop"]}
    return Facts(json.dumps(found).encode(), str(tmp_path))


def ask(facts: Facts, path: str, method: str = "GET", body: bytes = b"", **more: Any) -> Answer:
    return answer(facts, KEY, method, path, body, **more)


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        pytest.param("pod/annotations", "application/json", b'[{"name":"a.io/b","value":"1"}]', id="MDS-06"),
        pytest.param("pod/uuid", "text/plain; charset=us-ascii", UUID.encode(), id="MDS-07"),
        pytest.param("apps/web/annotations", "application/json", b'[{"name":"x","value":"y"}]', id="MDS-08"),
        pytest.param("apps/web/image/manifest", "application/json", b'{"acKind":"ImageManifest"}', id="MDS-09"),
        pytest.param("apps/web/image/id", "text/plain; charset=us-ascii", b"sha512-abc", id="MDS-10"),
    ],
)
def test_mds_04_bodies_and_exact_types(facts: Facts, path: str, kind: str, body: bytes) -> None:
    found = ask(facts, BASE + path)
    assert (found.status, found.kind, found.body) == (200, kind, body)
    assert ask(facts, BASE + path, "HEAD").status == 200
    refused = ask(facts, BASE + path, "POST")
    assert (refused.status, refused.headers) == (405, {"Allow": "GET, HEAD"})


def test_mds_05_the_manifest(facts: Facts) -> None:
    found = ask(facts, BASE + "pod/manifest")
    assert json.loads(found.body) == facts.manifest and found.kind == "application/json"


def test_mds_06_without_annotations_an_empty_list(facts: Facts) -> None:
    del facts.manifest["annotations"]
    assert ask(facts, BASE + "pod/annotations").body == b"[]"


def test_mds_08_order_of_merged_annotations() -> None:
    image = [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]
    pod = [{"name": "c", "value": "3"}, {"name": "a", "value": "9"}]
    assert [(one["name"], one["value"]) for one in _merged(image, pod)] == [("a", "9"), ("b", "2"), ("c", "3")]


def test_mds_12_signature_is_hmac_sha512_bound_to_the_pod(facts: Facts) -> None:
    content = bytes(range(256))
    found = ask(facts, BASE + "pod/hmac/sign", "POST", urlencode({"content": content}).encode())
    assert (found.status, found.kind) == (200, "text/plain; charset=us-ascii")
    assert base64.b64decode(found.body) == hmac.new(KEY, UUID.encode() + b"\0" + content, hashlib.sha512).digest()
    assert sign(KEY, OTHER, content) != found.body.decode()


def test_mds_13_verify(facts: Facts) -> None:
    """Any pod may verify any pod's signature; nothing that differs passes."""

    def verify(**fields: str) -> int:
        good = {"content": "a&b=\u00e9\n", "uuid": OTHER, "signature": sign(KEY, OTHER, "a&b=\u00e9\n".encode())}
        return ask(facts, BASE + "pod/hmac/verify", "POST", urlencode({**good, **fields}).encode()).status

    assert verify() == 200 and verify(uuid=OTHER.upper()) == 200
    assert verify(content="other") == verify(uuid=UUID) == verify(uuid="") == verify(uuid="../x") == 403
    assert verify(signature=sign(KEY, UUID, b"x")) == verify(signature="") == verify(signature="\u00e9") == 403


def test_mds_03_the_token_and_its_entropy(facts: Facts) -> None:
    for path in (BASE.replace("token", "tokem"), "/", "//acMetadata/v1/", "/token2/acMetadata/v1/", "/%00/acMetadata/v1/", "/\u00e9/"):
        assert ask(facts, path + "pod/uuid").status == 401, path
    made = {offer("/root").token for _ in range(1000)}
    assert len(made) == 1000 and all(len(bytes.fromhex(token)) == 16 for token in made)
    one = offer("/root")
    assert one.url.startswith("http://127.") and one.url.endswith(f":18112/{one.token}")


@pytest.mark.parametrize(
    ("path", "method", "body", "status"),
    [
        ("apps/other/annotations", "GET", b"", 404),
        ("apps/web", "GET", b"", 404),
        ("apps/web/image", "GET", b"", 404),
        ("apps/../web/annotations", "GET", b"", 404),
        ("pod", "GET", b"", 404),
        ("pod/uuid/", "GET", b"", 404),
        ("", "GET", b"", 404),
        ("pod/hmac/sign", "GET", b"", 405),
        ("pod/hmac/sign", "POST", b"", 400),
        ("pod/hmac/sign", "POST", b"other=1", 400),
        ("pod/hmac/sign", "POST", b"content=1&content=2", 400),
        ("pod/hmac/sign", "POST", b"\xff", 400),
        ("pod/hmac/verify", "POST", b"content=1", 400),
        ("pod/hmac/verify", "PUT", b"", 405),
    ],
)
def test_mds_16_errors(facts: Facts, path: str, method: str, body: bytes, status: int) -> None:
    assert ask(facts, BASE + path, method, body).status == status


def test_mds_14_the_key_is_made_once_and_for_root_alone(tmp_path: Path) -> None:
    key = host_key(str(tmp_path))
    assert len(key) == 64 and host_key(str(tmp_path)) == key
    assert (tmp_path / "metadata.key").stat().st_mode & 0o7777 == 0o400
    assert list(tmp_path.iterdir()) == [tmp_path / "metadata.key"]


def test_documents_that_the_pod_was_given_and_no_others(facts: Facts) -> None:
    documents.change(facts.root, "shop", {"a": "1\u00e9", "b": ""})
    documents.change(facts.root, "secret", {"a": "1"})
    assert ask(facts, "/token/config/v1").body == b'["shop"]'
    found = ask(facts, "/token/config/v1/shop")
    assert json.loads(found.body) == {"a": "1\u00e9", "b": ""} and found.headers == {"ETag": '"1"'}
    value = ask(facts, "/token/config/v1/shop/a")
    assert (value.body, value.kind) == ("1\u00e9".encode(), "text/plain; charset=utf-8")
    assert ask(facts, "/token/config/v1/shop", known='"1"').status == 304
    documents.change(facts.root, "shop", {"a": "2"})
    assert ask(facts, "/token/config/v1/shop", known='"1"').status == 200
    for path in ("secret", "shop/c", "shop/a/b", "..", "shop%2F..%2Fsecret", "shop/..%2F..%2Fsecret%2Fa"):
        assert ask(facts, f"/token/config/v1/{path}").status == 404, path
    assert ask(facts, "/token/config/v1/shop", "POST").status == 405
    assert ask(facts, "/tokem/config/v1/shop").status == 401
