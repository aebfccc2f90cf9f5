"""Dependencies fetched by discovery: order, ids, labels, sizes, keys, circles (IM-32..35, IM-40, ACE-03..10, DISC-11)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mkaci import Image as AciImage
from registries import Reply
from sites import Bench, Site

from pyrun.errors import DigestError, ImageError, NotFoundError, SignatureError
from pyrun.images.copy import copy_layers
from pyrun.images.importer import import_file
from pyrun.images.resolve import fetch, parse
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root


class Maker:
    """Makes signed images and offers them on the server."""

    def __init__(self, site: Site, gpg: Any, folder: Path) -> None:
        self.site = site
        self.gpg = gpg
        self.folder = folder
        for host in ("example.com", "other.org"):
            site.meta(host, f"{host} https://storage.example.com/{{name}}-{{version}}.{{ext}}")

    def __call__(
        self,
        name: str,
        *needs: Any,
        signer: str = "good",
        version: str = "1.0",
        offer: str = "latest",
        white: tuple[str, ...] = (),
        **files: bytes,
    ) -> AciImage:
        image = AciImage(name, ["/bin/true"], version=version)
        image.manifest["dependencies"] = [{"imageName": need} if isinstance(need, str) else need for need in needs]
        if white:
            image.manifest["pathWhitelist"] = list(white)
        for path, data in {"own": name.encode(), **files}.items():
            image.add(f"data/{path}", data)
        target = self.folder / f"{name.replace('/', '_')}-{offer}.aci"
        image.write(target, "none")
        Path(f"{target}.asc").write_bytes(self.gpg.sign(target.read_bytes(), signer))
        self.site.offer(f"storage.example.com/{name}-{offer}.aci", target)
        return image

    def path(self, name: str, offer: str = "latest") -> Path:
        return self.folder / f"{name.replace('/', '_')}-{offer}.aci"

    def id(self, name: str, offer: str = "latest") -> str:
        return "sha512-" + hashlib.sha512(self.path(name, offer).read_bytes()).hexdigest()


@pytest.fixture
def make(site: Site, gpg: Any, tmp_path: Path) -> Maker:
    return Maker(site, gpg, tmp_path)


def downloads(site: Site) -> list[str]:
    return [place.rpartition("/")[2].removesuffix("-latest.aci") for place in site.seen if place.endswith(".aci")]


def test_ace_04_whole_tree_is_fetched_and_stacked_in_order(bench: Bench, site: Site, make: Maker) -> None:
    make("example.com/d")
    make("example.com/b")
    make("example.com/c", "example.com/d")
    make("example.com/a", "example.com/b", "example.com/c")
    image = bench.name("example.com/a")
    assert image.layers == [make.id(f"example.com/{name}") for name in "acdb"]
    assert downloads(site) == ["a", "b", "c", "d"]
    site.seen.clear()
    assert bench.name("example.com/a").id == image.id
    assert downloads(site) == ["a"], "asked whether it changed, what it needs is in the store"


def test_ace_05_diamond_is_fetched_once_and_d_wins_over_b(bench: Bench, site: Site, make: Maker) -> None:
    make("example.com/d")
    make("example.com/b", "example.com/d")
    make("example.com/c", "example.com/d")
    make("example.com/a", "example.com/b", "example.com/c")
    assert bench.name("example.com/a").layers == [make.id(f"example.com/{name}") for name in "acdb"]
    assert sorted(downloads(site)) == ["a", "b", "c", "d"]


def test_local_file_has_its_dependencies_fetched_too(bench: Bench, site: Site, make: Maker) -> None:
    make("example.com/b")
    make("example.com/a", "example.com/b")
    image = import_file(bench.store, str(make.path("example.com/a")), keyring=bench.keyring, bring=bench.fetcher().bringer(near=True))
    assert image.layers == [make.id("example.com/a"), make.id("example.com/b")] and downloads(site) == ["b"]


def test_im_40_labels_choose(bench: Bench, site: Site, make: Maker) -> None:
    make("example.com/b", version="1.0", offer="1.0")
    make("example.com/b", version="2.0", offer="2.0")
    make("example.com/a", {"imageName": "example.com/b", "labels": [{"name": "version", "value": "1.0"}]})
    assert bench.name("example.com/a").needs == [make.id("example.com/b", "1.0")]


def test_disc_11_dependency_with_other_labels_is_refused(bench: Bench, make: Maker, leftovers: Callable[[], list[str]]) -> None:
    make("example.com/b", version="1.0", offer="2.0")
    make("example.com/a", {"imageName": "example.com/b", "labels": [{"name": "version", "value": "2.0"}]})
    with pytest.raises(ImageError, match=r"it has version 1\.0, 2\.0 was asked for") as caught:
        bench.name("example.com/a")
    assert "example.com/a needs example.com/b" in caught.value.origin and leftovers() == []


def test_im_33_pinned_id(bench: Bench, make: Maker, leftovers: Callable[[], list[str]]) -> None:
    make("example.com/b")
    make("example.com/a", {"imageName": "example.com/b", "imageID": "sha512-" + "0" * 128})
    with pytest.raises(DigestError, match="not sha512-0000"):
        bench.name("example.com/a")
    assert leftovers() == []
    make("example.com/c", {"imageName": "example.com/b", "imageID": make.id("example.com/b")})
    assert bench.name("example.com/c").needs == [make.id("example.com/b")]


def test_im_34_size_ends_the_download(bench: Bench, site: Site, make: Maker, leftovers: Callable[[], list[str]]) -> None:
    make("example.com/b")
    size = make.path("example.com/b").stat().st_size
    make("example.com/a", {"imageName": "example.com/b", "size": size})
    site.files["storage.example.com/example.com/b-latest.aci"] = Reply(
        b"%x\r\n%s\r\n0\r\n\r\n" % (size + 1, bytes(size + 1)), headers={"Transfer-Encoding": "chunked"}
    )
    with pytest.raises(DigestError, match=f"more than the {size} bytes"):
        bench.name("example.com/a")
    assert leftovers() == []
    make("example.com/b")
    assert bench.name("example.com/a").needs == [make.id("example.com/b")]


def test_each_needs_a_key_for_its_own_name(
    bench: Bench, make: Maker, keyfile: Callable[[str], str], leftovers: Callable[[], list[str]]
) -> None:
    make("other.org/b")  # signed by the key that is trusted for example.com only
    make("example.com/a", "other.org/b")
    with pytest.raises(SignatureError, match=r"trusted for example\.com only") as caught:
        bench.name("example.com/a")
    assert "needs other.org/b" in caught.value.origin and leftovers() == []
    make("other.org/b", signer="other")
    bench.keyring.add(keyfile("other"), "other.org")
    assert bench.name("example.com/a").needs == [make.id("other.org/b")]


@pytest.mark.parametrize("pinned", [False, True])
def test_ace_10_circles_are_refused(bench: Bench, make: Maker, leftovers: Callable[[], list[str]], pinned: bool) -> None:
    version = {"labels": [{"name": "version", "value": "1.0"}]} if pinned else {}
    make("example.com/b", {"imageName": "example.com/a", **version})
    make("example.com/a", "example.com/b")
    with pytest.raises(ImageError, match=r"in a circle: example\.com/a -> example\.com/b -> example\.com/a"):
        bench.name("example.com/a")
    assert leftovers() == []
    make("example.com/self", "example.com/self")
    with pytest.raises(ImageError, match="in a circle"):
        bench.name("example.com/self")


def rendered(bench: Bench, image: Any, folder: Path) -> dict[str, str]:
    """The files below /data of an image, as an app would see them."""
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        copy_layers([bench.store.layer_dir(layer) for layer in image.layers], parent, b"rendered")
    finally:
        os.close(parent)
    root = folder / "rendered" / "data"
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_ace_07_whitelist_filters_along_its_own_route(bench: Bench, make: Maker, tmp_path: Path) -> None:
    """B shows one file of its own and one of D; what C and A have, and D by the other route, never passed B's whitelist."""
    make("example.com/d", d1=b"D", d2=b"D", all=b"D")
    make("example.com/b", "example.com/d", white=("/data/b1", "/data/d1", "/data/all"), b1=b"B", b2=b"B", all=b"B", only_c=b"B", own=b"B")
    make("example.com/c", "example.com/d", c1=b"C", b2=b"C", only_c=b"C")
    make("example.com/a", "example.com/c", "example.com/b", a1=b"A")
    image = bench.name("example.com/a")
    expected = {"own": "example.com/a", "a1": "A", "c1": "C", "b1": "B", "b2": "C", "only_c": "C", "d1": "D", "d2": "D", "all": "B"}
    assert rendered(bench, image, tmp_path) == expected
    assert verify_image(bench.store, image.id, bench.keyring) == []


def test_ace_07_grandparents_whitelist_and_pristine_dependencies(bench: Bench, make: Maker, tmp_path: Path) -> None:
    make("example.com/d", d1=b"D", d2=b"D", d3=b"D")
    make("example.com/b", "example.com/d", white=("/data/d1", "/data/d2"))
    make("example.com/a", "example.com/b", white=("/data/d2", "/data/d3"))
    image = bench.name("example.com/a")
    assert rendered(bench, image, tmp_path) == {"d2": "D"}
    assert len(bench.store.find("example.com/d").layers) == 1


def test_an_older_version_of_itself_is_no_circle(bench: Bench, make: Maker) -> None:
    make("example.com/a", version="1.0", offer="1.0")
    make("example.com/a", {"imageName": "example.com/a", "labels": [{"name": "version", "value": "1.0"}]}, version="2.0")
    assert bench.name("example.com/a").layers == [make.id("example.com/a"), make.id("example.com/a", "1.0")]


def test_chains_have_an_end(
    bench: Bench, site: Site, make: Maker, leftovers: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrun.images.web.fetch.MAX_DEPTH", 3)
    for number in range(6):
        make(f"example.com/n{number}", f"example.com/n{number + 1}")
    with pytest.raises(ImageError, match="more than 3 images depend on each other"):
        bench.name("example.com/n0")
    assert leftovers() == [] and len(downloads(site)) == 4


def test_what_no_server_has_and_what_no_server_can_have(bench: Bench, make: Maker, leftovers: Callable[[], list[str]]) -> None:
    make("example.com/a", "example.com/missing")
    with pytest.raises(ImageError) as caught:
        bench.name("example.com/a")
    assert "example.com/a needs example.com/missing" in caught.value.origin
    make("example.com/b", "plain")
    with pytest.raises(NotFoundError, match="find dependency plain: not in the store"):
        bench.name("example.com/b")
    assert leftovers() == []


def test_an_unsigned_parent_brings_unsigned_dependencies_only_where_that_is_accepted(bench: Bench, site: Site, make: Maker) -> None:
    make("example.com/b", signer="other")
    make("example.com/a", "example.com/b")
    with pytest.raises(SignatureError):
        bench.name("example.com/a")
    assert bench.name("example.com/a", unsigned=True).needs == [make.id("example.com/b")]


def test_resolver_fetches_them_for_files(bench: Bench, make: Maker) -> None:
    """The way of `pyrun fetch FILE`: the system's authorities do not know the test's, which is how to see that it asks."""
    make("example.com/a", "example.com/b")
    with pytest.raises(ImageError, match="its certificate is not accepted") as caught:
        fetch(bench.store, parse(str(make.path("example.com/a"))), unsigned=True)
    assert "needs example.com/b" in caught.value.origin
