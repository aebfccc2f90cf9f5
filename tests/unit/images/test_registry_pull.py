"""A registry as the directory of an image: what is brought, what is refused, how a cut download goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registries import CONFIG, INDEX, LAYER, MANIFEST, Authority, ImageParts, Reply, Request, Scripted, descriptor, digest_of

from pyrun.errors import DigestError, ImageError, ManifestError, NotFoundError, PyrunError, SignatureError
from pyrun.images.oci import Found, read_layout
from pyrun.images.registry.blob import download
from pyrun.images.registry.client import Client
from pyrun.images.registry.endpoints import Endpoints
from pyrun.images.registry.pull import RemoteTree, pull
from pyrun.images.registry.reference import parse
from pyrun.images.registry.transport import Patience
from pyrun.images.staging import Staging
from pyrun.images.store import Store
from pyrun.images.trust.gate import Gate

Answer = Callable[[Request], Reply]
PARTS = ImageParts({"hello": b"world" * 1000})
OTHER = ImageParts({"hello": b"something else"})
DATA = bytes(range(256)) * 4096
ETAG = {"ETag": f'"{digest_of(DATA)}"'}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("server")
    return made


@pytest.fixture
def serve(authority: Authority) -> Iterator[Callable[[Answer], Scripted]]:
    made: list[Scripted] = []

    def start(answer: Answer) -> Scripted:
        server = Scripted((authority.folder / "server.crt", authority.folder / "server.key"), answer)
        made.append(server)
        return server.__enter__()

    yield start
    for server in made:
        server.__exit__()


def options(authority: Authority, server: Scripted) -> dict[str, object]:
    dirs = authority.certs_dirs(server.place)
    return {"patience": Patience(back_off=0.001), "environ": {}, "certs_dirs": dirs, "sleep": lambda _: None}


@pytest.fixture
def read(authority: Authority, serve: Callable[[Answer], Scripted], store: Store) -> Callable[..., Found]:
    """Reads the image that a registry has and opens its layers, as the import does; the staging directory is empty before and after."""

    def run(answer: Answer, rest: str = ":1") -> Found:
        server = serve(answer)
        store.ensure()
        with (
            Staging(store.root, "test") as staging,
            Endpoints(parse(f"docker://{server.place}/app{rest}"), **options(authority, server)) as client,  # type: ignore[arg-type]
        ):
            tree = RemoteTree(client, store, staging)
            try:
                tree.resolve()
                found = read_layout(tree, "", "stem")
                for layer in found.layers:
                    os.close(tree.open(layer.path))
            finally:
                tree.close()
                assert not list(Path(tree.path).rglob("*.part"))
        found.name = found.name.replace(server.place, "SERVER")
        run.seen = server.seen  # type: ignore[attr-defined]
        return found

    return run


def test_by_tag(read: Callable[..., Found]) -> None:
    found = read(PARTS.answer)
    assert found.name == "SERVER/app:1"
    assert found.manifest_digest == digest_of(PARTS.manifest).replace(":", "-")
    asked = [request.path for request in read.seen]  # type: ignore[attr-defined]
    assert asked == ["/v2/app/manifests/1", *(f"/v2/app/blobs/{digest}" for digest in PARTS.blobs)]
    assert MANIFEST in read.seen[0].headers["accept"] and INDEX in read.seen[0].headers["accept"]  # type: ignore[attr-defined]


def test_by_index_and_by_digest(read: Callable[..., Found]) -> None:
    assert read(PARTS.answer, ":all").manifest_bytes == PARTS.manifest
    assert read(PARTS.answer, f"@{digest_of(PARTS.manifest)}").name == "SERVER/app"
    assert read(PARTS.answer, f":1@{digest_of(PARTS.manifest)}").name == "SERVER/app:1"


def test_the_tag_is_asked_once(read: Callable[..., Found]) -> None:
    """A tag that means another image at each request makes no mixture."""
    turns = iter([PARTS, OTHER, OTHER])

    def answer(request: Request) -> Reply:
        return (next(turns) if "/manifests/" in request.path else PARTS).answer(request)

    assert read(answer).manifest_bytes == PARTS.manifest
    assert next(turns) is OTHER


def edited(**members: object) -> bytes:
    return json.dumps({**json.loads(PARTS.manifest), **members}).encode()


def manifest(data: bytes, media_type: str = MANIFEST, claim: str = "") -> Answer:
    """A registry whose tag 1 is this document."""

    def answer(request: Request) -> Reply:
        if request.path.endswith(("/manifests/1", f"/manifests/{digest_of(data)}")):
            return Reply(data, headers={"Content-Type": media_type, **({"Docker-Content-Digest": claim} if claim else {})})
        return PARTS.answer(request)

    return answer


def blob(digest: str, reply: Callable[[], Reply]) -> Answer:
    return lambda request: reply() if request.path.endswith(digest) else PARTS.answer(request)


CONFIG_DIGEST, LAYER_DIGEST = digest_of(PARTS.config), digest_of(PARTS.layer)
SHORT = {**descriptor(LAYER, PARTS.layer), "size": len(PARTS.layer) - 1}
LONG = {**descriptor(LAYER, PARTS.layer), "size": len(PARTS.layer) + 1}
CHUNKED = {"Transfer-Encoding": "chunked"}
ENDLESS = (b"%x\r\n" % 65536 + b"x" * 65536 + b"\r\n") * 200
LIES = {
    "claimed digest": (manifest(PARTS.manifest, claim=digest_of(b"x")), DigestError),
    "claimed nonsense": (manifest(PARTS.manifest, claim="sha256:../../x"), DigestError),
    "type of an index": (manifest(PARTS.manifest, INDEX), ManifestError),
    "type of an index in it": (manifest(edited(mediaType=INDEX)), ManifestError),
    "type of a page": (manifest(PARTS.manifest, "text/html"), ManifestError),
    "schema 1": (manifest(PARTS.manifest, "application/vnd.docker.distribution.manifest.v1+prettyjws"), ManifestError),
    "no type": (manifest(PARTS.manifest, ""), ManifestError),
    "both at once": (manifest(edited(manifests=[])), ManifestError),
    "no JSON": (manifest(b"<html>"), ManifestError),
    "twice the same member": (manifest(PARTS.manifest[:-1] + b', "layers": []}'), ManifestError),
    "huge": (manifest(PARTS.manifest + b" " * (4 << 20)), ManifestError),
    "artifact": (manifest(edited(artifactType="application/x.sbom")), ManifestError),
    "size too small": (manifest(edited(layers=[SHORT])), DigestError),
    "size too large": (manifest(edited(layers=[LONG])), DigestError),
    "negative size": (manifest(edited(layers=[{**LONG, "size": -1}])), ManifestError),
    "digest that is a path": (manifest(edited(layers=[{**LONG, "digest": "sha256:../../../x"}])), ManifestError),
    "odd spelling": (manifest(PARTS.manifest.replace(b'"layers"', b'"LAYERS"')), ManifestError),
    "configuration replaced": (blob(CONFIG_DIGEST, lambda: Reply(OTHER.config)), DigestError),
    "layer replaced": (blob(LAYER_DIGEST, lambda: Reply(bytes(len(PARTS.layer)))), DigestError),
    "layer shorter": (blob(LAYER_DIGEST, lambda: Reply(PARTS.layer[:-1])), DigestError),
    "layer longer": (blob(LAYER_DIGEST, lambda: Reply(PARTS.layer + b"x")), DigestError),
    "layer endless": (blob(LAYER_DIGEST, lambda: Reply(ENDLESS, headers=CHUNKED)), DigestError),
    "layer encoded": (blob(LAYER_DIGEST, lambda: Reply(PARTS.layer, headers={"Content-Encoding": "gzip"})), DigestError),
    "layer always cut": (blob(LAYER_DIGEST, lambda: Reply(PARTS.layer, cut=0)), ImageError),
    "layer missing": (blob(LAYER_DIGEST, lambda: Reply(b"", 404)), NotFoundError),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(read: Callable[..., Found], store: Store, name: str) -> None:
    answer, kind = LIES[name]
    with pytest.raises(kind) as caught:
        read(answer)
    assert caught.value.hint and "\n" not in str(caught.value)
    root = Path(store.root)
    assert [path for path in root.rglob("*") if path.is_file() and path.parts[-2] != "locks"] == []
    assert os.listdir(root / "tmp") == []


def test_what_another_digest_names_is_refused(read: Callable[..., Found]) -> None:
    def answer(request: Request) -> Reply:
        return manifest(OTHER.manifest)(Request("/v2/app/manifests/1", {})) if "/manifests/" in request.path else OTHER.answer(request)

    with pytest.raises(DigestError):
        read(answer, f"@{digest_of(PARTS.manifest)}")


def test_index_and_registry_must_agree_about_a_manifest(read: Callable[..., Found]) -> None:
    def answer(request: Request) -> Reply:
        reply = PARTS.answer(request)
        if request.path.endswith(digest_of(PARTS.manifest)):
            reply.headers["Content-Type"] = "application/vnd.docker.distribution.manifest.v2+json"
        return reply

    with pytest.raises(ManifestError, match=r"the index application/vnd.oci.image.manifest"):
        read(answer, ":all")


def test_urls_of_descriptors_are_not_followed(read: Callable[..., Found], serve: Callable[[Answer], Scripted]) -> None:
    spy = serve(lambda _: Reply(PARTS.layer))
    data = edited(layers=[{**descriptor(LAYER, PARTS.layer), "urls": [spy.url("/layer")]}])
    read(manifest(data))
    assert spy.connections == 0


def test_blobs_of_the_store_are_not_asked_for(read: Callable[..., Found], store: Store) -> None:
    store.ensure()
    for data in (PARTS.config, PARTS.layer):
        Path(store.blob_path(digest_of(data).replace(":", "-"))).write_bytes(data)
    read(PARTS.answer)
    assert [request.path for request in read.seen] == ["/v2/app/manifests/1"]  # type: ignore[attr-defined]


def test_unsigned_images_are_refused_before_anything_is_asked(store: Store, serve: Callable[[Answer], Scripted]) -> None:
    server = serve(PARTS.answer)
    with pytest.raises(SignatureError) as caught:
        pull(store, f"docker://{server.place}/app:1", Gate(store))
    assert "--insecure-options=image" in caught.value.hint and server.connections == 0


def ranged(request: Request, data: bytes = DATA, etag: dict[str, str] = ETAG) -> Reply:
    """An honest answer to a request with or without Range."""
    wanted = request.headers.get("range", "")
    if not wanted or request.headers.get("if-range", etag.get("ETag")) != etag.get("ETag"):
        return Reply(data, headers=etag)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    return Reply(data[start:], 206, {**etag, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})


@pytest.fixture
def fetch(authority: Authority, serve: Callable[[Answer], Scripted], tmp_path: Path) -> Callable[[Answer], list[str]]:
    """Downloads DATA; returns what ranges were asked for."""

    def run(answer: Answer) -> list[str]:
        server = serve(answer)
        moved = [0]
        target = tmp_path / "blob"
        with Client(parse(f"docker://{server.place}/app:1"), **options(authority, server)) as client:  # type: ignore[arg-type]
            try:
                download(client, str(target), digest_of(DATA).replace(":", "-"), len(DATA), lambda count: moved.append(moved[-1] + count))
                assert target.read_bytes() == DATA and moved[-1] == len(DATA)
            except PyrunError:
                assert not target.exists()
                raise
        return [request.headers.get("range", "") for request in server.seen]

    return run


def first_cut(cut: int, then: Answer) -> Answer:
    turns = iter([Reply(DATA, headers=ETAG, cut=cut)])
    return lambda request: next(turns, None) or then(request)


@pytest.mark.parametrize("cut", [1, 1000, 16384, 500_001, len(DATA) - 1])
def test_resumed_where_it_was_cut(fetch: Callable[[Answer], list[str]], cut: int) -> None:
    assert fetch(first_cut(cut, ranged)) == ["", f"bytes={cut}-"]


def test_resumed_as_often_as_it_moves(fetch: Callable[[Answer], list[str]]) -> None:
    def answer(request: Request) -> Reply:
        reply = ranged(request)
        reply.cut = min(len(reply.body), 300_000)
        return reply

    assert fetch(answer) == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def part(start: int, etag: dict[str, str] = ETAG) -> Reply:
    """The rest of DATA from `start` on."""
    return Reply(DATA[start:], 206, {**etag, "Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"})


def once(reply: Reply) -> Answer:
    """Gives this to who resumes, and all of DATA to who begins."""
    return lambda request: reply if "range" in request.headers else Reply(DATA)


NEW = {"ETag": '"new"'}
WRONG = {
    "all of it": lambda _: Reply(DATA, headers=ETAG),
    "all of it under another tag": lambda _: Reply(DATA, headers=NEW),
    "another tag": once(part(5, NEW)),
    "another range": once(part(4)),
    "no range": once(Reply(DATA[5:], 206, ETAG)),
    "416": once(Reply(b"", 416)),
    "other bytes": once(ranged(Request("", {"range": "bytes=5-"}), bytes(len(DATA)))),
}


@pytest.mark.parametrize("name", WRONG)
def test_not_resumed_with_something_else(fetch: Callable[[Answer], list[str]], name: str) -> None:
    asked = fetch(first_cut(5, WRONG[name]))
    assert asked[:2] == ["", "bytes=5-"] and len(asked) <= 3


def test_other_content_is_never_mixed_in(fetch: Callable[[Answer], list[str]]) -> None:
    with pytest.raises(DigestError, match="another digest"):
        fetch(first_cut(5, lambda request: ranged(request, bytes(len(DATA)))))


def test_cut_for_ever(fetch: Callable[[Answer], list[str]]) -> None:
    with pytest.raises(ImageError):
        fetch(lambda _: Reply(DATA, cut=0))


def test_documents_of_these_tests_are_right() -> None:
    assert json.loads(PARTS.manifest)["config"]["mediaType"] == CONFIG
    assert digest_of(DATA)[7:] == hashlib.sha256(DATA).hexdigest()
