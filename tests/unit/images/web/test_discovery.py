"""App Container discovery against a real https server: the walk, the templates, what the manifest must say (DISC-01..15)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from registries import Reply
from sites import NAME, TEMPLATE, Bench, Site, page

from pyrun.errors import ImageError, NotFoundError, SignatureError
from pyrun.images.web.notes import sources

pytestmark = pytest.mark.needs_root

STORED = "storage.example.com/example.com/app-1.0.aci"
Build = Callable[..., Path]


def test_disc_01_the_name_is_asked_for_over_https(bench: Bench, site: Site, build: Build) -> None:
    site.meta("example.com/app", f"example.com {TEMPLATE}")
    site.offer(STORED, build())
    image = bench.name(f"{NAME}:1.0")
    assert site.seen == ["example.com/app?ac-discovery=1", f"{STORED}.asc", STORED]
    assert all("cookie" not in request.headers and not request.authorization for request in site.requests)
    (note,) = sources(bench.store, image.id)
    assert (note.url, note.name) == (f"https://{STORED}", f"{NAME}:1.0")


def test_disc_07_the_walk_ends_at_the_bare_host(bench: Bench, site: Site, build: Build) -> None:
    site.files["example.com/a/b/app?ac-discovery=1"] = page("other.org https://x/{ext}", "example.com/a/b/other https://x/{ext}")
    site.files["example.com/a/b?ac-discovery=1"] = Reply(b"", 403)
    site.files["example.com/a?ac-discovery=1"] = Reply(b"", 500)
    site.meta("example.com", "example.com https://example.com/get/{name}.{ext}")
    site.offer("example.com/get/example.com/a/b/app.aci", build("example.com/a/b/app"))
    assert bench.name("example.com/a/b/app").name == "example.com/a/b/app"
    asked = [place for place in dict.fromkeys(site.seen) if "?" in place]
    assert asked == [f"example.com{path}?ac-discovery=1" for path in ("/a/b/app", "/a/b", "/a", "/")]


def test_disc_07_nothing_anywhere_says_what_was_asked(bench: Bench, site: Site) -> None:
    site.files["example.com/?ac-discovery=1"] = b"<html>"
    with pytest.raises(NotFoundError) as caught:
        bench.name("example.com/app")
    assert str(caught.value) == "discover example.com/app: example.com/app answers 404; example.com names no ac-discovery for it"


def test_disc_08_redirects_of_a_page_are_followed_but_not_to_http(bench: Bench, site: Site, build: Build) -> None:
    site.files["example.com/app?ac-discovery=1"] = Reply(b"", 301, {"Location": "https://other.org/app.html"})
    site.files["other.org/app.html"] = page("example.com https://storage.example.com/app.{ext}")
    site.offer("storage.example.com/app.aci", build())
    assert bench.name().name == NAME
    site.files["example.com/app?ac-discovery=1"] = Reply(b"", 302, {"Location": "http://example.com/app?ac-discovery=1"})
    with pytest.raises(ImageError, match="which is not https"):
        bench.name()


def test_disc_09_places_are_tried_in_order(bench: Bench, site: Site, build: Build) -> None:
    templates = [
        f"{scheme}://storage.example.com/{number}.{{ext}}" for number, scheme in enumerate(("hdfs", "http", "https", "https", "https"))
    ]
    site.meta("example.com/app", *(f"example.com {template}" for template in templates))
    site.files["storage.example.com/2.aci"] = b"without a signature"
    site.offer("storage.example.com/3.aci", build())
    assert bench.name().name == NAME
    assert [place for place in site.seen if "storage" in place] == [
        f"storage.example.com/{one}" for one in ("2.aci.asc", "3.aci.asc", "3.aci")
    ]
    del site.files["storage.example.com/3.aci.asc"]
    bench.forget_key()
    with pytest.raises(ImageError) as caught:
        bench.name()
    assert "hdfs" in caught.value.origin and "not https" in caught.value.origin and "no signature" in caught.value.origin


def test_a_bad_signature_is_not_passed_over(bench: Bench, site: Site, build: Build) -> None:
    """Only what cannot be had is: where somebody offers another image, the user wants to know."""
    site.meta("example.com/app", *(f"example.com https://storage.example.com/{number}.{{ext}}" for number in (1, 2)))
    site.offer("storage.example.com/1.aci", build(signer="other"))
    site.offer("storage.example.com/2.aci", build())
    with pytest.raises(SignatureError):
        bench.name()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("example.com/app", ""),
        ("example.com/app:1.0", ""),
        ("example.com/app:2.0", "it has version 1.0, 2.0 was asked for"),
        ("example.com/app,channel=beta", "it has no label channel, beta was asked for"),
        ("example.com/other", "it holds example.com/app instead of example.com/other"),
    ],
)
def test_disc_11_name_and_labels_must_be_those_of_the_manifest(
    bench: Bench, site: Site, build: Build, leftovers: Any, asked: str, reason: str
) -> None:
    site.meta("example.com", "example.com https://storage.example.com/app.{ext}")
    site.offer("storage.example.com/app.aci", build())
    if not reason:
        assert bench.name(asked).name == NAME
        return
    with pytest.raises(ImageError) as caught:
        bench.name(asked)
    assert caught.value.reason == reason and leftovers() == []


def test_disc_11_also_of_what_the_store_has_already(bench: Bench, site: Site, build: Build) -> None:
    site.meta("example.com", "example.com https://storage.example.com/app.{ext}")
    site.offer("storage.example.com/app.aci", build())
    bench.name()
    with pytest.raises(ImageError, match=r"2\.0 was asked for"):
        bench.name("example.com/app:2.0")


def test_disc_15_plain_http_for_the_host_that_was_named(bench: Bench, site: Site, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from registries import Scripted

    with Scripted(None, site.answer) as plain:
        site.lead_here(monkeypatch, plain)
        site.meta("example.com/app", "example.com http://example.com/app.{ext}")
        site.offer("example.com/app.aci", build())
        with pytest.raises(ImageError, match="does not speak TLS"):
            bench.name()
        assert bench.name(http=("",)).name == NAME
        site.meta("example.com/app", "example.com http://storage.example.com/app.{ext}")
        with pytest.raises(ImageError, match="it is not https"):
            bench.name(http=("",))


def test_disc_15_a_certificate_of_nobody(bench: Bench, site: Site) -> None:
    bench.fetch_certs = ()
    with pytest.raises(ImageError, match="its certificate is not accepted"):
        bench.name()
    assert site.seen == []


def test_c12_a_page_without_end_is_read_to_its_bound(bench: Bench, site: Site, build: Build) -> None:
    site.files["example.com/app?ac-discovery=1"] = page("example.com https://storage.example.com/app.{ext}", around="<a " * (1 << 20))
    site.offer("storage.example.com/app.aci", build())
    assert bench.name().name == NAME
