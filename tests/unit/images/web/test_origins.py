"""Unsigned images of web servers that are accepted by where they come from, and answers that are good for a while."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mkoci import Layout
from registries import Reply, Request
from sites import NAME, TEMPLATE, URL, Bench, Site

from pyrun.errors import SignatureError, TrustError
from pyrun.images import resolve, trust
from pyrun.images.importer import import_file
from pyrun.images.trust.keyfiles import check_origin
from pyrun.images.web.notes import Note, recall

pytestmark = pytest.mark.needs_root

Build = Callable[..., Path]
PLACE = "example.com/images/app.aci"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://Example.com:443/", "https://example.com"),
        ("https://example.com:8443/A//b/", "https://example.com:8443/A/b"),
        ("https://[::1]/x", "https://[::1]/x"),
    ],
)
def test_places(written: str, means: str) -> None:
    assert check_origin(written) == means == trust.web_place(f"{written}?token=secret#x")


@pytest.mark.parametrize(
    "text",
    ["http://example.com", "ftp://example.com", "https://", "https:///x", "https://me@example.com", "https://example.com/a/../b",
     "https://example.com/a/./b", "https://example.com/%2e%2E/b", "https://example.com/a%2fb", "https://example.com/a\\b",
     "https://example.com/x?y", "https://example.com/" + "x" * 300],
)  # fmt: skip
def test_what_is_no_place(bench: Bench, text: str) -> None:
    with pytest.raises(TrustError) as caught:
        bench.keyring.accept_unsigned(text)
    assert caught.value.hint


@pytest.mark.parametrize("origin", ["https://example.com", "https://example.com/images", URL])
def test_an_accepted_origin(bench: Bench, site: Site, build: Build, origin: str) -> None:
    site.offer(PLACE, build(), signed=False)
    with pytest.raises(SignatureError) as caught:
        bench.url()
    assert f"pyrun trust --unsigned {URL}" in caught.value.hint
    bench.keyring.accept_unsigned(origin)
    image = bench.url()
    assert image.signature is None and image.origin == {"transport": "aci", "place": URL, "name": ""}
    bench.store.require_trusted(image, bench.keyring.system)
    assert resolve.find(bench.store, URL, policy="never").id == image.id
    bench.keyring.remove(trust.UNSIGNED, origin)
    with pytest.raises(SignatureError):
        bench.store.require_trusted(image, bench.keyring.system)
    with pytest.raises(SignatureError):
        bench.url()


@pytest.mark.parametrize(
    "origin", ["https://example.com/image", "https://example.com/images/app.aci/x", "https://example.org", "example.com"]
)
def test_other_origins_do_not_count(bench: Bench, site: Site, build: Build, origin: str) -> None:
    site.offer(PLACE, build(), signed=False)
    bench.keyring.accept_unsigned(origin)
    with pytest.raises(SignatureError):
        bench.url()


@pytest.mark.parametrize("path", ["images/../other/app.aci", "images/%2e%2e/other/app.aci", "images%2fapp.aci"])
def test_a_path_that_leads_elsewhere(bench: Bench, site: Site, build: Build, path: str) -> None:
    site.offer(f"example.com/{path}", build(), signed=False)
    site.offer("example.com/other/app.aci", build(), signed=False)
    bench.keyring.accept_unsigned("https://example.com/images")
    with pytest.raises(SignatureError):
        bench.url(f"https://example.com/{path}")


def test_a_signature_that_is_there_counts(bench: Bench, site: Site, build: Build) -> None:
    site.offer(PLACE, build())
    bench.keyring.accept_unsigned("https://example.com")
    assert bench.url().signature is not None


def test_discovered_and_accepted(bench: Bench, site: Site, build: Build) -> None:
    """The place is that of the file, not the name."""
    site.meta("example.com/app", f"example.com {TEMPLATE}")
    site.offer("storage.example.com/example.com/app-latest.aci", build(), signed=False)
    bench.keyring.accept_unsigned("https://example.com")
    with pytest.raises(SignatureError):
        bench.name(NAME)
    bench.keyring.accept_unsigned("https://storage.example.com")
    assert bench.name(NAME).signature is None


def test_the_same_image_from_a_file(bench: Bench, site: Site, build: Build) -> None:
    """It is accepted as what comes from one place, wherever else it came from; and not as what comes from the other one."""
    made = build()
    Path(f"{made}.asc").unlink()
    image = import_file(bench.store, str(made), allow_unsigned=True, keyring=bench.keyring)
    assert image.origin is not None and image.origin["place"] == str(made.resolve())
    site.offer(PLACE, made, signed=False)
    bench.keyring.accept_unsigned("https://example.com")
    assert bench.url().id == image.id
    assert bench.store.find(NAME).origin == {"transport": "aci", "place": URL, "name": ""}
    with pytest.raises(SignatureError):
        resolve.find(bench.store, str(made))


def test_an_archive_of_another_format(bench: Bench, site: Site, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image(ref="1")
    with tarfile.open(tmp_path / "app.tar", "w") as archive:
        archive.add(layout.path, ".")
    site.offer("example.com/images/app.tar", tmp_path / "app.tar", signed=False)
    url = "https://example.com/images/app.tar"
    with pytest.raises(SignatureError):
        bench.url(url)
    bench.keyring.accept_unsigned("https://example.com/images")
    image = bench.url(url)
    assert image.kind == "oci" and image.origin is not None and image.origin["place"] == url
    bench.store.require_trusted(image, bench.keyring.system)
    Path(trust.policy_path(bench.store.root)).write_text(json.dumps({"default": [{"type": "reject"}]}))
    with pytest.raises(SignatureError, match="rejects it"):
        bench.url(url)


# Answers that are good for a while


def test_max_age_is_obeyed(bench: Bench, site: Site, build: Build) -> None:
    site.cache = "public, Max-Age=600"
    site.offer(PLACE, build())
    image = bench.url()
    site.seen.clear()
    assert bench.url().id == image.id and site.seen == []
    assert bench.url(no_cache=True).id == image.id and site.seen == [PLACE]
    assert site.requests[-1].headers["cache-control"] == "no-cache"
    site.offer(PLACE, build(version="2.0"))
    assert bench.url().labels["version"] == "1.0"
    assert bench.url(no_cache=True).labels["version"] == "2.0"


def test_fresh_is_not_trusted(bench: Bench, site: Site, build: Build) -> None:
    site.cache = "max-age=600"
    site.offer(PLACE, build())
    bench.url()
    bench.forget_key()
    with pytest.raises(SignatureError):
        bench.url()


def test_an_answer_that_it_is_unchanged_makes_it_good_again(bench: Bench, site: Site, build: Build) -> None:
    site.offer(PLACE, build())
    bench.url()
    site.cache = "max-age=600"
    bench.url()
    asked = len(site.seen)
    bench.url()
    assert len(site.seen) == asked
    found = recall(bench.store, URL)
    assert found is not None and found[0].cache_control == "max-age=600" and found[0].is_fresh()


@pytest.mark.parametrize(
    ("cache", "age", "seconds"),
    [
        ("max-age=60", "", 60), ('max-age="60"', "", 60), ("max-age=60", "20", 40), ("max-age=60", "90", 0), ("s-maxage=60", "", 0),
        ("max-age=60, no-cache", "", 0), ("No-Store, max-age=60", "", 0), ("max-age=-5", "", 0), ("max-age=1e9", "", 0), ("", "", 0),
        ("max-age=99999999999999999999", "", 1 << 31), ("max-age=60", "x", 60), ("max-age", "", 0),
    ],
)  # fmt: skip
def test_how_long(cache: str, age: str, seconds: int) -> None:
    note = Note(URL, "sha512-" + "0" * 128, headers={"Cache-Control": cache, "Age": age})
    assert note.fresh_until - note.asked == seconds * 10**9


def test_clocks_that_went_back(bench: Bench, site: Site, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Note(URL, "x", headers={"Cache-Control": "max-age=60"})
    assert note.is_fresh()
    note.asked += 10**12
    note.fresh_until += 10**12
    assert not note.is_fresh()


def test_a_busy_server_is_asked_once_it_may(bench: Bench, site: Site, build: Build) -> None:
    """Requests of a discovered name go to its pages each time: those say where to ask."""
    site.cache = "max-age=600"
    site.meta("example.com/app", f"example.com {TEMPLATE}")
    made = build()
    calls: list[Any] = []

    def answer(request: Request) -> Reply:
        calls.append(request)
        return site.conditional(request, made.read_bytes())

    place = "storage.example.com/example.com/app-latest.aci"
    site.files[place] = answer
    site.files[place.replace(".aci", ".aci.asc")] = Path(f"{made}.asc").read_bytes()
    assert bench.name(NAME).id == bench.name(NAME).id and len(calls) == 1
