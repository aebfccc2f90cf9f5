"""Images by URL and by discovery, from a real https server on loopback that is honest, broken or hostile."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registries import ImageParts, Reply, Request, Scripted
from sites import NAME, TEMPLATE, URL, Bench, Site, page

from pyrun.errors import ArchiveError, DigestError, ImageError, SignatureError
from pyrun.images.registry import transport
from pyrun.images.registry.transport import Patience
from pyrun.images.web.fetch import Fetcher
from pyrun.images.web.notes import recall, sources

pytestmark = pytest.mark.needs_root

Build = Callable[..., Path]


# By URL


def test_url_with_its_signature(bench: Bench, site: Site, build: Build) -> None:
    site.offer("example.com/images/app.aci", build(data=b"x" * 300_000))
    image = bench.url()
    assert image.name == NAME and image.signature is not None
    assert site.seen == ["example.com/images/app.aci.asc", "example.com/images/app.aci"]
    (note,) = sources(bench.store, image.id)
    assert (note.url, note.signature, note.cache_control) == (URL, URL + ".asc", "max-age=0") and note.fetched == note.asked


def test_unchanged_url_is_not_downloaded_again(bench: Bench, site: Site, build: Build) -> None:
    site.offer("example.com/images/app.aci", build())
    first = bench.url()
    before = sources(bench.store, first.id)[0]
    site.seen.clear()
    assert bench.url().id == first.id
    assert site.seen == ["example.com/images/app.aci"] and site.requests[-1].headers["if-modified-since"]
    after = sources(bench.store, first.id)[0]
    assert after.asked > before.asked and after.fetched == before.fetched
    site.offer("example.com/images/app.aci", build(version="2.0"))
    second = bench.url()
    assert second.labels["version"] == "2.0" and site.seen[-1] == "example.com/images/app.aci.asc"
    assert sources(bench.store, first.id) == []


def test_no_store_is_obeyed(bench: Bench, site: Site, build: Build) -> None:
    image = build()
    site.offer("example.com/images/app.aci", image)
    site.files["example.com/images/app.aci"] = Reply(image.read_bytes(), headers={"ETag": '"x"', "Cache-Control": "No-Store"})
    bench.url()
    bench.url()
    assert not any("if-none-match" in request.headers for request in site.requests)


def test_key_that_is_no_longer_trusted_is_not_overlooked_by_a_304(bench: Bench, site: Site, build: Build) -> None:
    site.offer("example.com/images/app.aci", build())
    bench.url()
    bench.forget_key()
    with pytest.raises(SignatureError):
        bench.url()


@pytest.mark.parametrize("where", ["url", "file"])
def test_signature_elsewhere(bench: Bench, site: Site, build: Build, where: str) -> None:
    image = build()
    site.offer("example.com/images/app.aci", image, signed=False)
    site.files["keys.example.com/app.sig"] = Path(f"{image}.asc").read_bytes()
    assert bench.url(signature="https://keys.example.com/app.sig" if where == "url" else f"{image}.asc").signature is not None


def test_disc_12_without_signatures_nobody_asks_for_one(bench: Bench, site: Site, build: Build) -> None:
    site.offer("example.com/images/app.aci", build())
    assert bench.url(unsigned=True).signature is None
    assert site.seen == ["example.com/images/app.aci"]
    assert bench.url().signature is not None  # asked for again, since now it matters


@pytest.mark.parametrize("query", ["", "?token=secret"])
def test_missing_signature_ends_it_before_the_download(bench: Bench, site: Site, build: Build, leftovers: Any, query: str) -> None:
    site.offer("example.com/images/app.aci" + query, build(), signed=False)
    with pytest.raises(SignatureError, match="no signature") as caught:
        bench.url(URL + query)
    assert site.seen == ["example.com/images/app.aci.asc" + query] and leftovers() == []
    assert "secret" not in f"{caught.value} {caught.value.hint}"


def test_wrong_signatures(bench: Bench, site: Site, build: Build, leftovers: Any) -> None:
    good, other = build(), build(version="2.0")
    site.offer("example.com/images/app.aci", good)
    site.files["example.com/images/app.aci.asc"] = Path(f"{other}.asc").read_bytes()
    with pytest.raises(SignatureError):
        bench.url()
    site.files["example.com/images/app.aci.asc"] = b"<html>not found, but 200</html>"
    with pytest.raises(SignatureError, match="not ascii-armoured"):
        bench.url()
    site.files["example.com/images/app.aci.asc"] = b"x" * (65 << 10)
    with pytest.raises(ImageError, match="more than 65536 bytes"):
        bench.url()
    site.offer("example.com/images/app.aci", build(signer="other"))
    with pytest.raises(SignatureError):
        bench.url()
    assert leftovers() == []


def test_not_a_byte_is_parsed_before_the_signature_is_verified(bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files |= {"example.com/images/app.aci": b"\x1f\x8bnot an archive", "example.com/images/app.aci.asc": b"no signature"}
    monkeypatch.setattr("pyrun.images.aci.unpack_aci", None)
    with pytest.raises(SignatureError):
        bench.url()


def test_size_is_bounded(bench: Bench, site: Site, build: Build, leftovers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrun.images.web.fetch._MAX_IMAGE", 1000)
    monkeypatch.setattr(Fetcher._bring, "__kwdefaults__", {**(Fetcher._bring.__kwdefaults__ or {}), "limit": 1000})
    site.offer("example.com/images/app.aci", build(data=b"x" * 3000), signed=True)
    data = bytes(2000)
    for reply in (Reply(data), Reply(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data), headers={"Transfer-Encoding": "chunked"})):
        site.files["example.com/images/app.aci"] = reply
        with pytest.raises(DigestError, match=r"more than the 1000|2000 bytes"):
            bench.url()
    assert leftovers() == []


def test_cut_download_goes_on_where_it_ended(bench: Bench, site: Site, build: Build) -> None:
    image = build(data=bytes(range(256)) * 4000, compression="none")
    data = image.read_bytes()
    site.offer("example.com/images/app.aci", image)
    starts: list[int] = []

    def answer(request: Request) -> Reply:
        head = {"ETag": '"1"'}
        wanted = request.headers.get("range", "")
        if not wanted:
            starts.append(0)
            return Reply(data, headers=head, cut=700_000)
        assert request.headers["if-range"] == '"1"'
        start = int(wanted[6:-1])
        starts.append(start)
        head["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Reply(data[start:], 206, head)

    site.files["example.com/images/app.aci"] = answer
    assert bench.url().name == NAME
    assert starts[0] == 0 and 0 < starts[1] <= 700_000 and len(starts) == 2


def test_without_an_etag_a_cut_download_begins_anew(bench: Bench, site: Site, build: Build) -> None:
    image = build(data=bytes(300_000), compression="none")
    site.offer("example.com/images/app.aci", image)
    replies = [Reply(image.read_bytes(), cut=200_000), Reply(image.read_bytes())]
    site.files["example.com/images/app.aci"] = lambda _: replies.pop(0)
    assert bench.url().name == NAME
    assert not any("range" in request.headers for request in site.requests)


def test_an_archive_of_another_kind(bench: Bench, site: Site, tmp_path: Path, leftovers: Any) -> None:
    import subprocess

    layout = ImageParts({"bin/app": b"#!"}).write_layout(tmp_path / "layout", "example.com/box:1")
    subprocess.run(["tar", "-cf", tmp_path / "box.tar", "-C", layout, "."], check=True)
    site.files["example.com/box.tar"] = (tmp_path / "box.tar").read_bytes()
    with pytest.raises(SignatureError):
        bench.url("https://example.com/box.tar")
    assert leftovers() == []
    image = bench.url("https://example.com/box.tar", unsigned=True)
    assert (image.kind, image.name, image.labels["version"]) == ("oci", "example.com/box", "1")
    assert [note.url for note in sources(bench.store, image.id)] == ["https://example.com/box.tar"]
    assert bench.url("https://example.com/box.tar", unsigned=True).id == image.id


# What servers may not do


def test_http_only_where_it_was_accepted_by_name(bench: Bench, site: Site, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    with Scripted(None, site.answer) as plain:
        site.lead_here(monkeypatch, plain)
        site.offer("example.com/app.aci", build())
        url = "http://example.com/app.aci"
        for http in ((), ("other.org",), ("example.com:8080",)):
            with pytest.raises(ImageError, match="it is not https") as caught:
                bench.url(url, http=http)
            assert caught.value.hint.endswith("http:example.com")
        assert plain.connections == 0
        assert bench.url(url, http=("",)).id == bench.url(url, http=("example.com",)).id


@pytest.mark.parametrize("to", ["http://example.com/other.aci", "file:///etc/passwd", "https://user@example.com/x", "http:///x"])
def test_redirects_that_are_not_followed(bench: Bench, site: Site, to: str, leftovers: Any) -> None:
    site.files["example.com/images/app.aci"] = Reply(b"", 302, {"Location": to})
    site.files["example.com/images/app.aci.asc"] = b"x"
    with pytest.raises(ImageError):
        bench.url()
    assert len(site.seen) == 2 and leftovers() == []


def test_redirects_over_https_are(bench: Bench, site: Site, build: Build) -> None:
    site.offer("storage.example.com/x", build())
    for end in ("", ".asc"):
        site.files["example.com/images/app.aci" + end] = Reply(b"", 307, {"Location": f"https://storage.example.com:8443/x{end}"})
    assert bench.url().name == NAME


def test_redirects_end(bench: Bench, site: Site) -> None:
    site.files["example.com/images/app.aci.asc"] = Reply(b"", 302, {"Location": "/images/app.aci.asc"})
    with pytest.raises(ImageError, match="more than 5 redirects"):
        bench.url()


def login(bench: Bench, folder: Path, *places: str) -> str:
    secret = base64.b64encode(b"me:hunter2-very-secret").decode()
    path = folder / "auth.json"
    path.write_text(json.dumps({"auths": {place: {"auth": secret} for place in places}}))
    path.chmod(0o600)
    bench.environ["REGISTRY_AUTH_FILE"] = str(path)
    return f"Basic {secret}"


def test_disc_13_a_login_goes_to_its_own_server_only(bench: Bench, site: Site, build: Build, tmp_path: Path) -> None:
    header = login(bench, tmp_path, "example.com")
    image = build()
    site.offer("storage.example.com/x", image)

    def guarded(request: Request) -> Reply:
        if request.authorization != header:
            return Reply(b"", 401, {"WWW-Authenticate": 'Basic realm="x"'})
        return Reply(b"", 307, {"Location": "https://storage.example.com/x" + (".asc" if request.path.endswith(".asc") else "")})

    for end in ("", ".asc"):
        site.files["example.com/images/app.aci" + end] = guarded
    assert bench.url().name == NAME
    for place, request in zip(site.seen, site.requests, strict=True):
        assert not (place.startswith("storage") and request.authorization)
    site.files["storage.example.com/x.asc"] = Reply(b"", 401, {"WWW-Authenticate": 'Basic realm="x"'})
    bench.forget_key()
    with pytest.raises(ImageError):
        bench.url()
    assert not any(place.startswith("storage") and request.authorization for place, request in zip(site.seen, site.requests, strict=True))


@pytest.mark.parametrize(("challenge", "words"), [('Basic realm="x"', "wants a login"), ("Bearer realm=x", "a kind that is not known")])
def test_disc_13_without_a_login(bench: Bench, site: Site, challenge: str, words: str) -> None:
    site.files["example.com/images/app.aci.asc"] = Reply(b"", 401, {"WWW-Authenticate": challenge})
    with pytest.raises(ImageError, match=words):
        bench.url()


@pytest.fixture
def geography(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hosts, storage.example.com is on this host, other.org is its cloud's metadata, and the rest is elsewhere."""
    near = {"storage.example.com": "127.0.0.2", "other.org": "169.254.169.254"}
    look_up = socket.getaddrinfo

    def somewhere(host: str, port: int, **more: Any) -> Any:
        (found,) = look_up(host, port, **more)
        return [(*found[:4], (near.get(host, "127.0.0.1"), found[4][1]))]

    monkeypatch.setattr(socket, "getaddrinfo", somewhere)
    monkeypatch.setattr(transport, "_is_near", lambda address: address != "127.0.0.1")


@pytest.mark.usefixtures("geography")
def test_sec_31_a_server_elsewhere_cannot_send_us_to_this_host(bench: Bench, site: Site) -> None:
    site.meta("example.com/app", f"example.com {TEMPLATE}", "example.com https://other.org/{name}.{ext}")
    with pytest.raises(ImageError, match=r"sends us to 169\.254\.169\.254") as caught:
        bench.name()
    assert "127.0.0.2" in caught.value.origin
    site.files["example.com/images/app.aci.asc"] = Reply(b"", 302, {"Location": "https://storage.example.com/x"})
    with pytest.raises(ImageError, match=r"sends us to 127\.0\.0\.2"):
        bench.url()
    assert {place.partition("/")[0] for place in site.seen} == {"example.com"}
    with pytest.raises(ImageError, match="connection refused"):
        bench.name("storage.example.com/app")  # whoever names it himself may go there


TARGETS = (
    "https://127.0.0.2/{ext}", "https://127.255.255.254:8443/{ext}", "https://0.0.0.0:22/{ext}", "https://[::1]/{ext}",
    "https://[::]/{ext}", "https://[::ffff:127.0.0.2]/{ext}", "https://[fe80::1]/{ext}", "https://169.254.169.254/{ext}", "https://169.254.0.1/{ext}",
    "https://224.0.0.1/{ext}", "https://[ff02::1]/{ext}", "https://2130706434/{ext}", "https://0x7f.2/{ext}", "https://0177.0.0.2/{ext}",
    "https://127.2/{ext}", "http://example.com/{ext}", "file:///etc/passwd?{ext}", "unix:///run/docker.sock/{ext}", "https://x@127.0.0.2/{ext}",
    "//127.0.0.2/{ext}", "https:/127.0.0.2/{ext}", "https://127.0.0.2\\@example.com/{ext}", "gopher://127.0.0.2:6379/{ext}",
)  # fmt: skip


def test_sec_31_targets_of_templates(bench: Bench, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server elsewhere names them one after the other; none is connected to."""
    mapped, real, is_near = socket.getaddrinfo, site.real_look_up, transport._is_near
    met: list[str] = []

    def look_up(host: str, port: int, **more: Any) -> Any:
        if host == "example.com":
            return mapped(host, port, **more)
        found = real(host, port, **more)
        met.extend(str(one[4][0]) for one in found)
        return found

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(transport, "_is_near", lambda address: address != "127.0.0.1" and is_near(address))
    for target in TARGETS:
        site.meta("example.com/app", f"example.com {target}")
        with pytest.raises(ImageError) as caught:
            bench.name()
        assert any(words in str(caught.value) for words in ("sends us to", "no URL", "not https", "answers 404")), (target, caught.value)
    assert {place.partition("/")[0] for place in site.seen} == {"example.com"} and len(TARGETS) >= 20
    assert len(met) >= 15 and "127.0.0.1" not in met, "each was refused by its address"


@pytest.mark.usefixtures("geography")
def test_sec_31_a_dependency_leads_no_further_than_what_needs_it(bench: Bench, site: Site) -> None:
    def need(name: str, *, near: bool) -> None:
        bench.fetcher().bringer(near=near)({"imageName": name}, "example.com/top", {}, "sha512-" + "0" * 128)

    with pytest.raises(ImageError, match=r"sends us to 127\.0\.0\.2"):
        need("storage.example.com/app", near=False)
    with pytest.raises(ImageError, match="connection refused"):
        need("storage.example.com/app", near=True)  # of a local file
    site.meta("example.com/app", f"example.com {TEMPLATE}")
    with pytest.raises(ImageError, match=r"sends us to 127\.0\.0\.2"):
        need("example.com/app", near=True)
    assert {place.partition("/")[0] for place in site.seen} == {"example.com"}


def test_slow_servers_are_not_waited_for(bench: Bench, site: Site, build: Build, leftovers: Any) -> None:
    import time

    site.offer("example.com/images/app.aci", build(data=bytes(100_000)))
    site.meta("example.com/app", "example.com https://example.com/images/app.{ext}")
    for place in ("example.com/images/app.aci.asc", "example.com/app?ac-discovery=1", "example.com/images/app.aci"):
        honest = site.files[place]
        assert isinstance(honest, bytes)
        site.files[place] = Reply(honest, pause=0.05)
        began = time.monotonic()
        with pytest.raises(ImageError, match=r"takes too long|bytes a second"):
            bench.name(patience=Patience(document=0.6, window=0.5, back_off=0.01))
        assert time.monotonic() - began < 10
        site.files[place] = honest
    assert leftovers() == []


def test_many_at_once_download_once(bench: Bench, site: Site, build: Build) -> None:
    from concurrent.futures import ThreadPoolExecutor

    site.offer("example.com/images/app.aci", build(data=bytes(200_000)))
    with ThreadPoolExecutor(16) as pool:
        images = list(pool.map(lambda _: bench.url().id, range(16)))
    assert len(set(images)) == 1
    assert site.seen.count("example.com/images/app.aci.asc") == 1


def test_page_that_is_no_image(bench: Bench, site: Site, leftovers: Any) -> None:
    site.files["example.com/images/app.aci"] = page()
    with pytest.raises(ArchiveError):
        bench.url(unsigned=True)
    assert leftovers() == [] and recall(bench.store, URL) is None
