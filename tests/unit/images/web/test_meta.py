"""Names for discovery and the meta tags of pages (DISC-02..06, DISC-14), also of pages that are made to hurt (C12)."""

from __future__ import annotations

import time

import pytest

from pyrun.errors import UsageError
from pyrun.images.web.meta import MAX_PAGE, Endpoint, endpoints, key_urls, meta_tags
from pyrun.images.web.names import MAX_LEVELS, AppName, is_discoverable, parse

TEMPLATE = "https://storage.example.com/{os}/{arch}/{name}-{version}.{ext}"
APP = AppName("example.com/reduce-worker", {"version": "1.0.0", "os": "linux", "arch": "amd64"})


def image_urls(content: str, app: AppName = APP) -> list[str]:
    return [one.image for one in endpoints([("ac-discovery", content)], app)]


@pytest.mark.parametrize(
    ("text", "name", "labels"),
    [
        ("example.com/app", "example.com/app", {}),
        ("example.com", "example.com", {}),
        ("localhost/app", "localhost/app", {}),
        ("example.com/app:1.0", "example.com/app", {"version": "1.0"}),
        ("example.com/app:1.0,os=linux,arch=amd64", "example.com/app", {"version": "1.0", "os": "linux", "arch": "amd64"}),
        ("example.com/app,channel=a%2Cb%3a+1", "example.com/app", {"channel": "a,b:+1"}),
        ("example.com/app:%C3%A9", "example.com/app", {"version": "\u00e9"}),
    ],
)
def test_disc_14_names(text: str, name: str, labels: dict[str, str]) -> None:
    found = parse(text)
    assert (found.name, found.labels) == (name, labels)


@pytest.mark.parametrize(
    "text",
    [
        "Example.com/app",
        "example.com//app",
        "example.com/app/",
        "example.com/app:1:2",
        "example.com:443/app",
        "example.com/app,os",
        "example.com/app,name=x",
        "example.com/app,os=linux:1",
        "example.com/app,os=a,os=b",
        "example.com/app:1,version=2",
        "example.com/app:",
        "example.com/app,os=",
        "example.com/app:%ff",
        "example.com/app:a%0ab",
        "example.com/app:\x1b",
        "app",
        "team/app",
    ],
)
def test_disc_14_what_is_no_name(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_words_without_a_host_are_not_discovery() -> None:
    assert [is_discoverable(text) for text in ("app", "app:1.0", "team/app", "app,os=a.b", "sha512-ab", "app:1.0/x")] == [False] * 6
    assert is_discoverable("example.com/app:1") and is_discoverable("localhost")


def test_disc_07_levels_end_at_the_host() -> None:
    assert parse("example.com/a/b").levels() == ["example.com/a/b", "example.com/a", "example.com"]
    with pytest.raises(UsageError, match="more than 16 parts"):
        AppName("example.com" + "/a" * MAX_LEVELS, {}).levels()


@pytest.mark.parametrize(
    "page",
    [
        '<meta name="ac-discovery" content="P T">',
        "<META NAME='ac-discovery' CONTENT='P T'/>",
        '<html><head><meta content="P T" name=ac-discovery><p>unclosed <b',
        '<meta name="ac-discovery"\n content = "P T"  data-x>',
        '<meta content="P T" content="other" name="ac-discovery" name="description">',
        '<!-- <meta name="ac-discovery" content="no no"> --><meta name="ac-discovery" content="P T">',
        '<!DOCTYPE html><?xml version="1.0"?></p><meta name="ac-discovery" content="P T">',
        '< meta name="ac-discovery" content="no no"><a < b><meta name="ac-discovery" content="P T">',
        "<script>'<meta name=\"ac-discovery\" content=\"no no\">'</SCRIPT ><meta name='ac-discovery' content='P T'>",
        "<title><meta name='ac-discovery' content='no no'></title><!--><meta name='ac-discovery' content='P T'>",
        "<style></style><meta name='ac-discovery' content='P&#32;&#x54;'>",
        "\u0130<meta name=ac-discovery content='P T'>",
        "\ufeff<meta name='ac-discovery' content='P T'><meta name='ac-discovery' content='no no",
        "<meta name='viewport' content='no no'><meta name='ac-discovery'><meta name='ac-discovery' content='P T'>",
    ],
)
def test_disc_02_html_of_any_quality(page: str) -> None:
    assert meta_tags(page.encode()) == [("ac-discovery", "P T")]


@pytest.mark.parametrize(
    "unit",
    ["<", "<a ", "<a/", "<!--", "<!", "<![a", "<a b='", '<a ="', "<meta ", "<meta name", "&#1", "<script>", "</", "<title", "\x00", "<p>"],
)
def test_c12_no_page_takes_long(unit: str) -> None:
    started = time.process_time()
    meta_tags((unit * (2 * MAX_PAGE // len(unit))).encode())
    meta_tags((f'<meta name="ac-discovery" content="{unit * (MAX_PAGE // len(unit))}').encode())
    assert time.process_time() - started < 2


def test_c12_only_the_beginning_of_a_page_and_so_many_tags_count() -> None:
    tag = b'<meta name="ac-discovery" content="P T">'
    assert meta_tags(b" " * MAX_PAGE + tag) == []
    assert len(meta_tags(tag * 10_000)) == 64
    assert meta_tags(b'<meta name="ac-discovery" content="P ' + b"T" * 5000 + b'">') == []
    assert meta_tags(b'<meta name="ac-discovery" content="P ' + b"\xff&#" + b"9" * 4000 + b'">')[0][1].startswith("P \ufffd")


@pytest.mark.parametrize(
    ("prefix", "matches"),
    [
        ("example.com", True),
        ("example.com/", True),
        ("example.com/reduce-worker", True),
        ("other.com", False),
        ("example.co", False),
        ("example.com/reduce", False),
        ("/", False),
        ("example.com/reduce-worker/x", False),
    ],
)
def test_disc_03_prefixes_match_whole_parts(prefix: str, matches: bool) -> None:
    assert bool(image_urls(f"{prefix} {TEMPLATE}")) is matches
    assert bool(key_urls([("ac-discovery-pubkeys", f"{prefix} https://example.com/k")], APP)) is matches


def test_disc_04_both_urls_are_rendered() -> None:
    (found,) = endpoints([("ac-discovery", f"example.com {TEMPLATE}")], APP)
    assert isinstance(found, Endpoint)
    assert found.image == "https://storage.example.com/linux/amd64/example.com/reduce-worker-1.0.0.aci"
    assert found.signature == found.image + ".asc"
    assert image_urls("example.com https://example.com/x.aci") == []  # no {ext}


def test_disc_05_labels_are_variables_and_open_ones_make_a_tag_unusable() -> None:
    template = "example.com https://example.com/{channel}/{name}.{ext}"
    assert image_urls(template) == []
    assert image_urls(template, AppName(APP.name, {"channel": "beta"})) == ["https://example.com/beta/example.com/reduce-worker.aci"]


def test_disc_06_defaults() -> None:
    (url,) = image_urls("example.com https://example.com/{version}-{os}-{arch}.{ext}", AppName("example.com/a", {}))
    assert url in ("https://example.com/latest-linux-amd64.aci", "https://example.com/latest-linux-aarch64.aci")


def test_disc_09_several_templates_keep_their_order() -> None:
    tags = [("ac-discovery", f"example.com {scheme}://example.com/{{name}}.{{ext}}") for scheme in ("hdfs", "https")]
    assert [one.image.partition(":")[0] for one in endpoints(tags, APP)] == ["hdfs", "https"]


@pytest.mark.parametrize(
    ("template", "labels", "url"),
    [
        ("https://{version}.example.com/{ext}", {"version": "evil.org/"}, None),
        ("https://example.com{version}/{ext}", {"version": ".evil.org"}, None),
        ("{version}://example.com/{ext}", {"version": "file"}, None),
        ("https://example.com/{version}/{ext}", {"version": "../../x"}, None),
        ("https://example.com/{version}/{ext}", {"version": "a?b#c@d e%2f"}, "https://example.com/a%3Fb%23c%40d%20e%252f/aci"),
        ("https://example.com/{version}/{ext}", {"version": "{os}"}, "https://example.com/%7Bos%7D/aci"),
        ("https://example.com/{version}/{ext}", {"version": "1.0+git/x"}, "https://example.com/1.0+git/x/aci"),
        ("https://{name}-{version}.{ext}", {"version": "1"}, "https://example.com/reduce-worker-1.aci"),
        ("https://example.com/{{version}}.{ext}", {"version": "1"}, None),
        ("https://example.com/{version.{ext}", {"version": "1"}, None),
        ("https://example.com/version}.{ext}", {"version": "1"}, None),
        ("https://example.com/{}.{ext}", {"version": "1"}, None),
    ],
)
def test_templates_with_odd_characters(template: str, labels: dict[str, str], url: str | None) -> None:
    assert image_urls(f"example.com {template}", AppName(APP.name, labels)) == ([url] if url else [])
