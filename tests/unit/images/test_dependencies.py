"""Rendering order, diamonds and whitelists of App Container Images (ACE-03 to ACE-10)."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyrun.errors import DigestError, ImageError, NotFoundError, SignatureError
from pyrun.images.copy import copy_layers
from pyrun.images.dependencies import MAX_LAYERS, mask_id, resolve, stack
from pyrun.images.whitelist import write_mask

pytestmark = pytest.mark.needs_root  # whiteouts are device nodes


def image(name: str, *layers: str) -> Any:
    return SimpleNamespace(name=name, id="sha512-" + name * 128, layers=list(layers))


def render(tmp_path: Path, layers: list[Path]) -> dict[str, str]:
    """The merged tree, path -> content, link target or "/" for a directory, as the copy without overlay has it."""
    parent = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        copy_layers([str(layer) for layer in layers], parent, b"rendered")
    finally:
        os.close(parent)
    root = tmp_path / "rendered"
    found = {}
    for path in sorted(root.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else "/" if path.is_dir() else path.read_text()
        found[str(path.relative_to(root))] = content
    return found


def layer(tmp_path: Path, name: str, **files: str | None) -> Path:
    """A layer directory; keys are paths with __ for /, None makes a directory, "->x" a link to x."""
    root = tmp_path / name
    root.mkdir()
    for key, content in files.items():
        path = root / key.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        elif content.startswith("->"):
            path.symlink_to(content[2:])
        else:
            path.write_text(content)
    return root


def test_ace_03_04_order_is_last_dependency_on_top() -> None:
    assert stack("A", [image("b", "B"), image("c", "C", "D")], "x") == ["A", "C", "D", "B"]


def test_ace_05_diamond_lets_the_second_pass_win() -> None:
    assert stack("A", [image("b", "B", "D"), image("c", "C", "D")], "x") == ["A", "C", "D", "B"]


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(ImageError, match="200 at most"):
        stack("A", [image("b", *[f"B{i}" for i in range(MAX_LAYERS)])], "x")


def mask(tmp_path: Path, layers: list[Path], *whitelist: str) -> Path:
    target = tmp_path / f"mask{len(list(tmp_path.iterdir()))}"
    target.mkdir()
    write_mask([str(path) for path in layers], list(whitelist), str(target))
    return target


def test_ace_07_whitelist_removes_everything_else(tmp_path: Path) -> None:
    own = layer(tmp_path, "own", etc__own="1", opt__x__y="2")
    below = layer(
        tmp_path, "below", etc__passwd="p", etc__shadow="s", bin__sh="->busybox", bin__busybox="b", var__log__a="a", opt__x__z="3"
    )
    layers = [mask(tmp_path, [own, below], "/bin/sh", "/etc/passwd", "/opt/x/y"), own, below]
    assert render(tmp_path, layers) == {
        "bin": "/",
        "bin/sh": "busybox",
        "etc": "/",
        "etc/passwd": "p",
        "opt": "/",
        "opt/x": "/",
        "opt/x/y": "2",
    }


def test_listed_directory_keeps_itself_not_its_content(tmp_path: Path) -> None:
    own = layer(tmp_path, "own", data__a="1", data__b__c="2", other="3")
    assert render(tmp_path, [mask(tmp_path, [own], "/data"), own]) == {"data": "/"}


def test_aci_07_masked_directories_keep_mode_owner_and_time(tmp_path: Path) -> None:
    own = layer(tmp_path, "own", secret__kept="1", secret__gone="2")
    os.chmod(own / "secret", 0o2710)
    os.chown(own / "secret", 12, 34)
    for directory, seconds in ((own / "secret", 1_000_000_007), (own, 1_000_000_009)):
        os.utime(directory, (seconds, seconds))
    made = mask(tmp_path, [own], "/secret/kept")
    info = (made / "secret").stat()
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (0o2710, 12, 34)
    assert (info.st_mtime, made.stat().st_mtime) == (1_000_000_007, 1_000_000_009)
    assert render(tmp_path, [made, own]) == {"secret": "/", "secret/kept": "1"}


def test_ace_08_nested_whitelists_intersect(tmp_path: Path) -> None:
    base = layer(tmp_path, "base", a="1", b="2", c="3")
    middle = layer(tmp_path, "middle", d="4", e="5")
    inner = mask(tmp_path, [middle, base], "/a", "/b", "/d")
    own = layer(tmp_path, "own", f="6")
    outer = mask(tmp_path, [own, inner, middle, base], "/b", "/c", "/f")
    assert render(tmp_path, [outer, own, inner, middle, base]) == {"b": "2", "f": "6"}


def test_sibling_of_a_whitelisted_image_is_not_cut(tmp_path: Path) -> None:
    left = layer(tmp_path, "left", a="1", b="2")
    right = layer(tmp_path, "right", c="3")
    assert render(tmp_path, [right, mask(tmp_path, [left], "/a"), left]) == {"a": "1", "c": "3"}


def test_ace_09_file_replaces_directory_and_back(tmp_path: Path) -> None:
    below = layer(tmp_path, "below", x__y="1", z="2")
    above = layer(tmp_path, "above", x="now a file", z__w="now a directory")
    assert render(tmp_path, [mask(tmp_path, [above, below], "/x", "/z/w"), above, below]) == {
        "x": "now a file",
        "z": "/",
        "z/w": "now a directory",
    }


def test_mask_has_a_name_of_its_own() -> None:
    assert mask_id(["a"], ["/x", "/y"]) == mask_id(["a"], ["/y", "/x"])
    assert len({mask_id(["a"], ["/x"]), mask_id(["b"], ["/x"]), mask_id(["a"], ["/y"]), mask_id(["a", "b"], ["/x"])}) == 4


class Store:
    def __init__(self, *images: Any) -> None:
        self.images = {image.name: image for image in images}
        self.asked: list[str] = []

    def find(self, reference: str) -> Any:
        self.asked.append(reference)
        name = reference.split(",")[0].split(":")[0]
        if name not in self.images:
            raise NotFoundError("find image", reference)
        return self.images[name]


def depends(**dependency: Any) -> dict[str, Any]:
    return {"dependencies": [{"imageName": "b", **dependency}]}


def test_labels_select() -> None:
    store: Any = Store(image("b", "B"))
    labels = [{"name": "os", "value": "linux"}, {"name": "version", "value": "1"}]
    assert [found.name for found in resolve(store, depends(labels=labels), lambda _: None, "x")] == ["b"]
    assert store.asked == ["b:1,os=linux"]


def test_missing_dependency_is_named() -> None:
    store: Any = Store()
    with pytest.raises(NotFoundError) as caught:
        resolve(store, depends(), lambda _: None, "x.aci")
    assert str(caught.value) == "find dependency b: not in the store"
    assert caught.value.hint == "import b first: pyrun fetch FILE"
    assert caught.value.origin == "x.aci: dependencies[0]"


def test_id_must_match() -> None:
    found = image("b", "B")
    store: Any = SimpleNamespace(find=lambda reference: found)
    with pytest.raises(DigestError):
        resolve(store, depends(imageID="sha512-" + "c" * 128), lambda _: None, "x")


def test_each_dependency_is_judged_by_its_own_signature() -> None:
    store: Any = Store(image("b", "B"))

    def refuse(_: Any) -> None:
        raise SignatureError("check signature of", "b", "not trusted")

    with pytest.raises(SignatureError) as caught:
        resolve(store, depends(), refuse, "x.aci")
    assert caught.value.origin == "x.aci: dependencies[0]"
