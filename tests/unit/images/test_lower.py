"""Hard links of a layer to files of layers below (B07): the same tree as umoci makes, under a name of its own in the store."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import directory, file, hardlink, node, pax, snapshot, symlink
from mkoci import Layout, layer, sha256

from pyrun.errors import ArchiveError
from pyrun.images import resolve
from pyrun.images.copy import copy_layers
from pyrun.images.history import history
from pyrun.images.limits import Limits
from pyrun.images.lower import chain_ids, link_lower
from pyrun.images.prune import collect
from pyrun.images.store import Image, Store
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

Run = Callable[..., Image]
ROOT = directory(b".", mtime=11)
NOTE = pax((b"SCHILY.xattr.user.note", b"kept"))
BASE = layer(
    ROOT, directory(b"d", mode=0o710, uid=4, mtime=7),
    NOTE + file(b"d/a", b"first", mode=0o4751, uid=5, gid=6, mtime=9),
    file(b"x", b"3", mtime=8), symlink(b"s", b"x", mtime=5), directory(b"e", mtime=6),
)  # fmt: skip


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "app")


@pytest.fixture
def load(store: Store, layout: Layout) -> Run:
    def run(*layers: bytes) -> Image:
        layout.entries.clear()
        layout.image(*layers)
        return resolve.find(store, f"oci:{layout.path}", unsigned=True)

    return run


def merge(store: Store, image: Image, folder: Path) -> Path:
    fd = os.open(folder, os.O_RDONLY)
    try:
        shutil.rmtree(folder / "merged", ignore_errors=True)
        copy_layers([store.layer_dir(one) for one in image.layers], fd, b"merged")
    finally:
        os.close(fd)
    return folder / "merged"


LAYERS = {
    "link": [layer(ROOT, hardlink(b"h", b"d/a"))],
    "into-a-directory-below": [layer(ROOT, hardlink(b"d/h", b"x"), directory(b"d", mtime=3), directory(b"e", mtime=4))],
    "two-names": [layer(ROOT, hardlink(b"h", b"d/a"), hardlink(b"i", b"/d/a"), hardlink(b"j", b"i"))],
    "symlink": [layer(ROOT, hardlink(b"h", b"s"))],
    "renamed": [layer(ROOT, hardlink(b"h", b"x"), file(b".wh.x"))],
    "later-file-wins": [layer(ROOT, hardlink(b"h", b"x"), file(b"h", b"mine", mtime=2))],
    "over-an-earlier-one": [layer(ROOT, file(b"h", b"mine"), hardlink(b"h", b"x"))],
    "over-the-layer-below": [layer(ROOT, hardlink(b"x", b"d/a"))],
    "target-replaced-after": [layer(ROOT, hardlink(b"h", b"x"), file(b"x", b"new", mtime=2))],
    "three-layers": [layer(ROOT, file(b"x", b"second", mtime=1)), layer(ROOT, file(b"y", mtime=1)), layer(ROOT, hardlink(b"i", b"x"))],
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_tree_is_umocis(store: Store, load: Run, layout: Layout, tmp_path: Path, name: str) -> None:
    image = load(BASE, *LAYERS[name])
    ours = merge(store, image, tmp_path)
    command = ["umoci", "raw", "unpack", "--image", f"{layout.path}:latest", str(tmp_path / "theirs")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert snapshot(ours) == snapshot(tmp_path / "theirs")
    assert verify_image(store, image.id, None) == []  # type: ignore[arg-type]


def test_made_by_plain_tar_and_umoci(store: Store, tmp_path: Path) -> None:
    tree, layout = tmp_path / "tree", tmp_path / "layout"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/tool").write_bytes(b"#!" * 5000)
    (tree / "bin/alias").hardlink_to(tree / "bin/tool")

    def run(*words: str | Path) -> None:
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True)

    run("tar", "-C", tree, "-cf", tmp_path / "1.tar", "bin/tool")
    run("tar", "-C", tree, "-cf", tmp_path / "2.tar", "bin/tool", "bin/alias")
    run("tar", "--delete", "-f", tmp_path / "2.tar", "bin/tool")
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:1")
    for archive in ("1.tar", "2.tar"):
        run("umoci", "raw", "add-layer", "--image", f"{layout}:1", tmp_path / archive)
    image = resolve.find(store, f"oci:{layout}", unsigned=True)
    merged = merge(store, image, tmp_path)
    assert (merged / "bin/alias").read_bytes() == b"#!" * 5000
    assert (merged / "bin/alias").samefile(merged / "bin/tool")


def test_kept_by_what_is_below(store: Store, load: Run, tmp_path: Path) -> None:
    """One layer over two bases: its trees differ, and nothing is mistaken for the other or for a layer that pyrun added."""
    linking = layer(hardlink(b"h", b"x"))
    other = layer(file(b"x", b"other"))
    first, second, plain = load(BASE, linking), load(other, linking), load(other)
    diff_ids = [f"sha256-{sha256(one)[7:]}" for one in (other, linking)]
    assert second.manifest["diffIDs"] == diff_ids and second.layers == chain_ids(diff_ids)[::-1]
    assert plain.layers == diff_ids[:1]
    assert not set(first.layers[:1]) & set(second.layers)
    assert [(merge(store, image, tmp_path) / "h").read_bytes() for image in (first, second)] == [b"3", b"other"]
    assert [step.layer for step in history(store, second)] == second.layers
    again = load(other, linking, layer(file(b"n")))
    assert again.layers[1:] == second.layers
    removed = collect(store, wanted=lambda image: image.id == first.id)
    assert set(first.layers) & set(removed.layers) and all(store.has_layers(image) for image in (second, plain, again))


def test_a_link_to_a_link(store: Store, load: Run, tmp_path: Path) -> None:
    """As on an overlay: the file is the same, but the name that only the lower layer has stays with the copy there."""
    merged = merge(store, load(BASE, layer(hardlink(b"h", b"x")), layer(hardlink(b"i", b"h"))), tmp_path)
    assert (merged / "i").samefile(merged / "h") and not (merged / "i").samefile(merged / "x")
    assert [(merged / name).read_bytes() for name in "hix"] == [b"3"] * 3


def test_chain_ids() -> None:
    """The formula of config.md, "Layer ChainID", by another tool."""
    one, two = "a" * 64, "b" * 64
    done = subprocess.run(["sha256sum"], input=f"sha256:{one} sha256:{two}".encode(), capture_output=True, check=True)
    assert chain_ids([f"sha256-{one}", f"sha256-{two}"]) == [f"sha256-{one}", f"sha256-{done.stdout[:64].decode()}"]
    assert chain_ids([]) == []


REFUSED = {
    "nowhere": [layer(hardlink(b"h", b"nowhere"))],
    "nowhere-deeper": [layer(hardlink(b"h", b"no/where"))],
    "directory": [layer(hardlink(b"h", b"d"))],
    "fifo": [layer(node(b"p", b"6")), layer(hardlink(b"h", b"p"))],
    "through-a-link": [layer(symlink(b"l", b"d")), layer(hardlink(b"h", b"l/a"))],
    "to-the-host": [layer(symlink(b"l", b"/etc")), layer(hardlink(b"h", b"l/passwd"))],
    "deleted-between": [layer(file(b".wh.x")), layer(hardlink(b"h", b"x"))],
    "emptied-between": [layer(directory(b"d"), file(b"d/.wh..wh..opq")), layer(hardlink(b"h", b"d/a"))],
    "in-place-of-a-directory": [layer(directory(b"h"), hardlink(b"h", b"x"))],
    "below-a-file": [layer(hardlink(b"f/h", b"x"), file(b"f", b""))],
    "twice": [layer(hardlink(b"h", b"x")), layer(hardlink(b"h", b"x"))],
    "in-the-first": [],
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(store: Store, load: Run, leftovers: Callable[[], list[str]], name: str) -> None:
    layers = [BASE, *REFUSED[name]] if REFUSED[name] else [layer(hardlink(b"h", b"x"))]
    with pytest.raises(ArchiveError) as error:
        load(*layers)
    assert error.value.hint
    assert leftovers() == []


def test_bounded(tmp_path: Path) -> None:
    """However often a layer links to large files below, it is not given more than an archive may hold."""
    base, staged = tmp_path / "base", tmp_path / "layer"
    base.mkdir()
    (staged / "rootfs").mkdir(parents=True)
    for number in range(4):
        (base / f"{number}").write_bytes(bytes(1000))
    (staged / "lower").write_bytes(b"".join(b"h%d\0/%d\0" % (number, number) for number in range(4)))
    with pytest.raises(ArchiveError, match="more than 3500 bytes"):
        link_lower(str(staged), [str(base)], Limits(total=3500), "")


def test_a_renamed_file_is_not_kept_twice(store: Store, load: Run) -> None:
    image = load(layer(directory(b"d"), file(b"d/a")), layer(directory(b"d"), hardlink(b"h", b"d/a"), file(b"d/.wh.a")))
    top = Path(store.layer_dir(image.layers[0]))
    assert (top / "d/a").is_char_device() and (top / "h").stat().st_nlink == 1
