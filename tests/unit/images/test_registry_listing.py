"""Tags of a repository, page by page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from registries import Authority, Reply, Request, Scripted

from pyrun.errors import ImageError, ManifestError, NotFoundError, UsageError
from pyrun.images.registry.listing import repository, tags
from pyrun.images.registry.transport import Patience


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("server")
    return made


def ask(authority: Authority, answer: Callable[[Request], Reply], name: str = "app") -> tuple[list[str], list[str]]:
    """The tags that a server lists, and what it was asked for."""
    with Scripted((authority.folder / "server.crt", authority.folder / "server.key"), answer) as server:
        found = tags(
            f"docker://{server.place}/{name}",
            patience=Patience(back_off=0.001),
            environ={},
            certs_dirs=authority.certs_dirs(server.place),
            sleep=lambda _: None,
        )
        return found, [request.path for request in server.seen]


def page(*names: str, link: str = "") -> Reply:
    headers = {"Content-Type": "application/json", **({"Link": f'<{link}>; rel="next"'} if link else {})}
    return Reply(json.dumps({"name": "app", "tags": names}).encode(), headers=headers)


def test_page_by_page(authority: Authority) -> None:
    pages = {
        "/v2/app/tags/list?n=1000": page("1", "2", link="/v2/app/tags/list?n=2&last=2"),
        "/v2/app/tags/list?n=2&last=2": page("2", "latest", link="list?n=2&last=latest"),
        "/v2/app/tags/list?n=2&last=latest": page("v1.0_x-y"),
    }
    assert ask(authority, lambda request: pages[request.path]) == (["1", "2", "latest", "v1.0_x-y"], list(pages))


@pytest.mark.parametrize("body", [b'{"name": "app", "tags": []}', b'{"name": "app", "tags": null}'])
def test_none(authority: Authority, body: bytes) -> None:
    assert ask(authority, lambda _: Reply(body))[0] == []


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"tags": {}}', b'{"tags": [1]}', b'{"tags": ["\\u001b[31m"]}', b'{"tags": ["../x"]}', b'{"tags": ["a"], "tags": []}'],
)
def test_nonsense(authority: Authority, body: bytes) -> None:
    with pytest.raises(ManifestError):
        ask(authority, lambda _: Reply(body))


def test_an_endless_list(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyrun.images.registry.listing.MAX_PAGES", 3)
    with pytest.raises(ManifestError, match="does not end"):
        ask(authority, lambda request: page("x", link=request.path))


def test_pages_stay_at_the_registry(authority: Authority) -> None:
    with pytest.raises(ManifestError, match="its list of tags goes on at"):
        ask(authority, lambda _: page("x", link="https://elsewhere.example/v2/app/tags/list"))


def test_not_there(authority: Authority) -> None:
    with pytest.raises(NotFoundError):
        ask(authority, lambda _: Reply(b'{"errors": [{"code": "NAME_UNKNOWN", "message": "no"}]}', 404))


@pytest.mark.parametrize("text", ["docker://localhost/app:1", "localhost/app:1", "localhost/app@sha256:" + "0" * 64, "docker://app:1"])
def test_versions_are_not_repositories(text: str) -> None:
    with pytest.raises(UsageError, match="names one version"):
        repository(text)


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "registries.conf").write_text('[aliases]\nmine = "registry.example.com/team/app"\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    assert repository("docker://busybox").name == "docker.io/library/busybox"
    assert repository("registry.example.com:5000/a/b").name == "registry.example.com:5000/a/b"
    assert repository("mine").name == "registry.example.com/team/app"
    with pytest.raises((UsageError, ImageError)):
        repository("strange")
