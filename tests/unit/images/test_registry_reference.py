"""Names of images in registries: docker's grammar, and what is refused of it."""

from __future__ import annotations

import pytest

from pyrun.errors import UsageError
from pyrun.images import resolve
from pyrun.images.registry.reference import parse

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "server", "repository", "tag", "digest"),
    [
        ("docker://busybox", "docker.io", "registry-1.docker.io", "library/busybox", "latest", ""),
        ("docker://busybox:1.36", "docker.io", "registry-1.docker.io", "library/busybox", "1.36", ""),
        ("docker://someone/app", "docker.io", "registry-1.docker.io", "someone/app", "latest", ""),
        ("docker://docker.io/library/x:y", "docker.io", "registry-1.docker.io", "library/x", "y", ""),
        ("docker://index.docker.io/a/b", "docker.io", "registry-1.docker.io", "a/b", "latest", ""),
        ("docker://localhost/app", "localhost", "localhost", "app", "latest", ""),
        ("docker://127.0.0.1:5000/a/b:1", "127.0.0.1:5000", "127.0.0.1", "a/b", "1", ""),
        ("docker://[::1]:5000/a:1", "[::1]:5000", "[::1]", "a", "1", ""),
        ("docker://Example.COM/a__b/c-d.e_f", "example.com", "example.com", "a__b/c-d.e_f", "latest", ""),
        (f"docker://example.com/a@sha256:{HEX}", "example.com", "example.com", "a", "", f"sha256-{HEX}"),
        (f"example.com/a:1@sha256:{HEX}", "example.com", "example.com", "a", "1", f"sha256-{HEX}"),
        (f"example.com:443/a@sha512:{HEX * 2}", "example.com:443", "example.com", "a", "", f"sha512-{HEX * 2}"),
    ],
)
def test_accepted(text: str, registry: str, server: str, repository: str, tag: str, digest: str) -> None:
    found = parse(text)
    assert (found.registry, found.server, found.repository, found.tag, found.digest) == (registry, server, repository, tag, digest)
    assert resolve.parse(text).kind == "registry"


@pytest.mark.parametrize(
    "text",
    [
        "docker://",
        "docker://UPPER/case",
        "docker://example.com/",
        "docker://example.com/Upper",
        "docker://example.com/a//b",
        "docker://example.com/a..b",
        "docker://example.com/a___b",
        "docker://example.com/../../etc",
        "docker://example.com/-a",
        "docker://example.com/a:",
        "docker://example.com/a:.hidden",
        "docker://example.com/a:t/../x",
        "docker://example.com/a:" + "t" * 129,
        "docker://example.com/" + "a" * 256,
        "docker://example.com:0/a",
        "docker://example.com:65536/a",
        "docker://example.com:x/a",
        "docker://exam ple.com/a",
        "docker://user:secret@example.com/a",
        "docker://-x.com/a",
        "docker://[::1/a",
        "docker://https://example.com/a",
        "docker://example.com/a\n",
        f"docker://example.com/a@sha256:{HEX[:-1]}",
        f"docker://example.com/a@sha256:{HEX.upper()}",
        f"docker://example.com/a@sha1:{HEX[:40]}",
        f"docker://example.com/a@sha256-{HEX}",
        "docker://example.com/a@sha256:../../../etc/passwd",
        f"busybox@sha256:{HEX}",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve.parse(text)
    assert caught.value.hint and "\n" not in str(caught.value)


def test_names_of_the_store_stay_names() -> None:
    for text in ("example.com/app:1.0", "127.0.0.1:5000/test:1", "sha256-0123456789", "busybox"):
        assert resolve.parse(text).kind == "name"
