"""What hangs on an image in a registry: referrers page by page, their fallback tag, tags by digest, lookaside files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from registries import INDEX, MANIFEST, Authority, Reply, Request, Scripted, descriptor, digest_of

from pyrun.errors import DigestError, ImageError, ManifestError
from pyrun.images.registry.artifacts import MAX_REFERRERS, attached, blob, document, lookaside, referrers
from pyrun.images.registry.client import Client
from pyrun.images.registry.reference import parse
from pyrun.images.registry.transport import Patience

IMAGE = b'{"the": "image"}'
ID = digest_of(IMAGE).replace(":", "-")
KIND = "application/vnd.example.signature"
Connect = Callable[[Callable[[Request], Reply]], tuple[Client, Scripted]]


def artifact(subject: bytes = IMAGE, note: str = "") -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "subject": descriptor(MANIFEST, subject), "note": note}).encode()


def listing(*entries: dict[str, object]) -> Reply:
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    return Reply(body, headers={"Content-Type": INDEX})


def entry(data: bytes, kind: str = KIND) -> dict[str, object]:
    return {**descriptor(MANIFEST, data), "artifactType": kind, "annotations": {"a": "b"}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("server")
    return made


@pytest.fixture
def connect(authority: Authority) -> Iterator[Connect]:
    with ExitStack() as stack:

        def start(answer: Callable[[Request], Reply]) -> tuple[Client, Scripted]:
            server = stack.enter_context(Scripted((authority.folder / "server.crt", authority.folder / "server.key"), answer))
            dirs = authority.certs_dirs(server.place)
            client = Client(
                parse(f"docker://{server.place}/app:1"),
                patience=Patience(back_off=0.001),
                environ={},
                certs_dirs=dirs,
                sleep=lambda _: None,
            )
            return stack.enter_context(client), server

        yield start


def test_referrers_page_by_page(connect: Connect) -> None:
    one, two, other = artifact(note="1"), artifact(note="2"), artifact(note="3")

    def answer(request: Request) -> Reply:
        if "last" in request.path:
            return listing(entry(two), entry(other, "application/other"))
        reply = listing(entry(one))
        reply.headers["Link"] = f'</v2/app/referrers/{digest_of(IMAGE)}?last=1>; rel="next"'
        return reply

    client, server = connect(answer)
    found = referrers(client, ID, KIND)
    assert [one.digest.replace("-", ":") for one in found] == [digest_of(one), digest_of(two)]
    assert (found[0].size, found[0].media_type, found[0].artifact_type, found[0].annotations) == (len(one), MANIFEST, KIND, {"a": "b"})
    assert server.seen[0].path == f"/v2/app/referrers/{digest_of(IMAGE)}?artifactType=application%2Fvnd.example.signature"
    assert len(server.seen) == 2


@pytest.mark.parametrize("status", [404, 200])
def test_registry_without_referrers_has_a_tag(connect: Connect, status: int) -> None:
    one = artifact()

    def answer(request: Request) -> Reply:
        if "/referrers/" in request.path:
            return Reply(b"<html>", status, {"Content-Type": "text/html"})
        return listing(entry(one)) if request.path.endswith(f"/manifests/{ID}") else Reply(b"", 404)

    client, _ = connect(answer)
    assert [found.digest.replace("-", ":") for found in referrers(client, ID)] == [digest_of(one)]
    empty, _ = connect(lambda _: Reply(b"", 404))
    assert referrers(empty, ID) == []


def test_floods_end(connect: Connect) -> None:
    many = listing(*[entry(artifact(note=str(number))) for number in range(1000)])
    client, _ = connect(lambda _: many)
    assert len(referrers(client, ID)) == MAX_REFERRERS

    def around(request: Request) -> Reply:
        reply = listing(entry(artifact()))
        reply.headers["Link"] = f'<{request.path}>; rel="next"'
        return reply

    client, server = connect(around)
    with pytest.raises(ManifestError, match="does not end"):
        referrers(client, ID)
    assert len(server.seen) <= 32


def test_pages_stay_at_the_registry(connect: Connect) -> None:
    _, stranger = connect(lambda _: listing())
    for link in (stranger.url("/v2/app/referrers/x"), "http://127.0.0.1/", "https://me:x@127.0.0.1/"):
        reply = listing()
        reply.headers["Link"] = f'<{link}>; rel="next"'
        client, _ = connect(lambda _, reply=reply: reply)  # type: ignore[misc]
        with pytest.raises(ImageError):
            referrers(client, ID)
    assert stranger.seen == []


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"manifests": {}}', b'{"manifests": [1]}', b'{"manifests": [{"digest": "sha256:../x", "size": 1}]}',
     b'{"manifests": [], "manifests": []}', b'{"manifests": [{"digest": "sha256:' + b"0" * 64 + b'", "size": -1}]}'],
)  # fmt: skip
def test_lists_that_are_none(connect: Connect, body: bytes) -> None:
    client, _ = connect(lambda _: Reply(body, headers={"Content-Type": INDEX}))
    with pytest.raises(ManifestError):
        referrers(client, ID)


def test_attached_names_its_subject(connect: Connect) -> None:
    good, foreign = artifact(), artifact(b"another image")
    files = {digest_of(data): data for data in (good, foreign)}

    def answer(request: Request) -> Reply:
        if "/referrers/" in request.path:
            return listing(entry(good), entry(foreign), {**entry(good), "size": 1}, entry(b"{}"))
        data = files.get(request.path.rpartition("/")[2])
        return Reply(data, headers={"Content-Type": MANIFEST}) if data else Reply(b"", 404)

    client, _ = connect(answer)
    found = referrers(client, ID)
    assert attached(client, found[0], ID).data == good
    for one, reason in zip(found[1:], ("belongs to another image", "not what its list says", "does not have"), strict=True):
        with pytest.raises(ManifestError, match=reason):
            attached(client, one, ID)


def test_document_and_blob(connect: Connect) -> None:
    data = artifact()
    lies = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(b"other")}

    def answer(request: Request) -> Reply:
        name = request.path.rpartition("/")[2]
        replies = {f"{ID}.sig": Reply(data, headers={"Content-Type": MANIFEST}), digest_of(b"x"): Reply(b"x"), digest_of(b"y"): Reply(b"x")}
        return replies.get(name) or (Reply(data, headers=lies) if name == "lie" else Reply(b"", 404))

    client, _ = connect(answer)
    found = document(client, f"{ID}.sig")
    assert found and (found.data, found.digest, found.media_type) == (data, digest_of(data).replace(":", "-"), MANIFEST)
    assert document(client, "nothing") is None and document(client, ID) is None
    with pytest.raises(DigestError):
        document(client, "lie")
    assert blob(client, digest_of(b"x").replace(":", "-"), 1) == b"x"
    for digest, size, limit in ((b"y", 1, 10), (b"x", 2, 10), (b"x", 1, 0)):
        with pytest.raises(ImageError):
            blob(client, digest_of(digest).replace(":", "-"), size, limit)


def test_lookaside(authority: Authority, connect: Connect) -> None:
    def answer(request: Request) -> Reply:
        if request.path.startswith("/moved/"):
            return Reply(b"", 302, {"Location": request.path.replace("/moved", "/sigs")})
        good = request.path == f"/sigs/app@{ID.replace('-', '=')}/signature-1"
        return (
            Reply(b"signature") if good else Reply(b"", 401 if "locked" in request.path else 404, {"WWW-Authenticate": 'Basic realm="x"'})
        )

    client, server = connect(answer)
    more = {"patience": client.patience, "certs_dirs": authority.certs_dirs(server.place)}
    assert lookaside(server.url("/sigs/"), client.reference, ID, 1, **more) == b"signature"
    assert lookaside(server.url("/moved"), client.reference, ID, 1, **more) == b"signature"
    assert lookaside(server.url("/sigs"), client.reference, ID, 2, **more) is None
    with pytest.raises(ImageError, match="401"):
        lookaside(server.url("/locked"), client.reference, ID, 1, **more)
    with pytest.raises(ImageError, match="not https"):
        lookaside(f"http://{server.place}/sigs", client.reference, ID, 1, **more)
    with pytest.raises(ManifestError, match="more than 4 bytes"):
        lookaside(server.url("/sigs"), client.reference, ID, 1, 4, **more)
    assert all(request.authorization == "" for request in server.seen)
