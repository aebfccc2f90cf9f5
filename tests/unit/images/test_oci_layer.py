"""Layers: whiteouts in every form, what replaces what, what only seems to be said, and trees as umoci makes them (B07, B16)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
from archives import directory, file, hardlink, symlink
from mkoci import Layout, layer

from pyrun.errors import ArchiveError
from pyrun.images import resolve
from pyrun.images.copy import copy_layers, copy_up
from pyrun.images.store import Image, Store
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says

OPAQUE = "trusted.overlay.opaque"
Run = Callable[..., Image]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "app")


@pytest.fixture
def load(store: Store, layout: Layout) -> Run:
    """Imports an image of these layers, bottom first."""

    def run(*layers: bytes) -> Image:
        layout.entries.clear()
        layout.image(*layers)
        return resolve.find(store, f"oci:{layout.path}", unsigned=True)

    return run


@pytest.fixture
def merged(store: Store, load: Run, tmp_path: Path) -> Callable[..., Path]:
    """The tree that an image of these layers shows."""

    def run(*layers: bytes) -> Path:
        image = load(*layers)
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            shutil.rmtree(tmp_path / "merged", ignore_errors=True)
            copy_layers([store.layer_dir(one) for one in image.layers], fd, b"merged")
        finally:
            os.close(fd)
        return tmp_path / "merged"

    return run


def names(top: Path) -> list[str]:
    return [str(path.relative_to(top)) for path in archives.walk(top)]


def is_whiteout(path: Path) -> bool:
    info = path.lstat()
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def opaque(path: Path) -> bool:
    return OPAQUE in os.listxattr(path) and os.getxattr(path, OPAQUE) == b"y"


BASE = layer(directory(b"d", mode=0o700), file(b"d/a", b"1"), file(b"d/b", b"2"), file(b"x", b"3"))


def test_overlay_form(load: Run, store: Store) -> None:
    image = load(BASE, layer(directory(b"d"), file(b"d/.wh..wh..opq"), file(b"d/c"), file(b".wh.x")))
    top = Path(store.layer_dir(image.layers[0]))
    assert opaque(top / "d") and is_whiteout(top / "x") and names(top) == ["d", "d/c", "x"]
    assert verify_image(store, image.id, None) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ([file(b"d/.wh.a")], ["d", "d/b", "x"]),
        ([file(b"d/.wh..wh..opq"), file(b"d/c")], ["d", "d/c", "x"]),
        ([file(b"d/c"), file(b"d/.wh..wh..opq")], ["d", "d/c", "x"]),
        ([file(b".wh.d"), file(b"d/c")], ["d", "d/c", "x"]),
        ([directory(b"d"), file(b"d/c"), file(b".wh.d")], ["d", "d/c", "x"]),
        ([file(b".wh.x"), file(b"x", b"new")], ["d", "d/a", "d/b", "x"]),
        ([file(b"x", b"new"), file(b".wh.x")], ["d", "d/a", "d/b", "x"]),
        ([file(b".wh.x"), file(b"./.wh.x"), file(b".wh.none")], ["d", "d/a", "d/b"]),
        ([hardlink(b".wh.x", b".wh.d"), file(b".wh.d")], []),
        ([file(b"d", b"now a file")], ["d", "x"]),
        ([symlink(b"d", b"x")], ["d", "x"]),
        ([file(b"x"), directory(b"x"), file(b"x/y")], ["d", "d/a", "d/b", "x", "x/y"]),
    ],
)
def test_what_is_shown(merged: Callable[..., Path], members: list[bytes], shown: list[str]) -> None:
    assert names(merged(BASE, layer(*members))) == shown


def test_opaque_root_hides_all_layers_below(merged: Callable[..., Path]) -> None:
    assert names(merged(BASE, layer(file(b".wh..wh..opq"), file(b"n")), layer(file(b"top")))) == ["n", "top"]


@pytest.mark.parametrize(
    "member",
    [
        file(b".wh."),
        file(b".wh.."),
        file(b".wh..."),
        file(b"d/.wh.."),
        file(b".wh..wh.x"),
        file(b".wh..wh..wh..opq"),
        file(b".wh.d/x"),
        file(b".wh.d/.wh.x"),
        directory(b".wh.x"),
        symlink(b".wh.x", b"/etc/passwd"),
        symlink(b".wh..wh..opq", b"/"),
        file(b".wh.x", b"data"),
        archives.node(b"x", b"3", 0, 0),
        archives.node(b".wh.x", b"6"),
        file(b"../.wh.x"),
        symlink(b"l", b"/tmp") + file(b"l/.wh..wh..opq"),
        symlink(b"l", b"d") + file(b"l/.wh.a"),
    ],
)
def test_hostile_whiteouts(load: Run, leftovers: Callable[[], list[str]], member: bytes) -> None:
    with pytest.raises(ArchiveError):
        load(BASE, layer(member))
    assert leftovers() == []


def test_duplicates_last_one_wins(merged: Callable[..., Path]) -> None:
    top = merged(layer(file(b"f", b"1"), file(b"./f", b"22", mode=0o600), directory(b"g"), file(b"g/x"), file(b"g", b"3")))
    assert (top / "f").read_bytes() == b"22" and (top / "g").read_bytes() == b"3"


def test_overlay_attributes_of_the_archive_are_dropped(load: Run, store: Store) -> None:
    attribute = archives.pax((b"SCHILY.xattr.trusted.overlay.opaque", b"y"), (b"SCHILY.xattr.user.note", b"kept"))
    image = load(layer(attribute + directory(b"d")))
    assert os.listxattr(Path(store.layer_dir(image.layers[0]), "d")) == ["user.note"]


def test_implied_directories_look_as_below(merged: Callable[..., Path], load: Run, store: Store) -> None:
    below = layer(directory(b"root", mode=0o700, uid=5, gid=6), directory(b"root/in", mode=0o711), directory(b"tmp", mode=0o1777))
    above = layer(file(b"root/in/f"), file(b"tmp/x"), file(b"new/x"))
    top = merged(below, above)
    info = (top / "root").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o700, 5, 6)
    assert [stat.S_IMODE((top / name).stat().st_mode) for name in ("root/in", "tmp", "new")] == [0o711, 0o1777, 0o755]
    image = load(below, above)
    assert len(image.layers) == 3 and verify_image(store, image.id, None) == []  # type: ignore[arg-type]
    assert len(load(below, layer(directory(b"root", mode=0o755), file(b"root/f"))).layers) == 2
    hidden = load(below, layer(file(b"root/f")), layer(file(b".wh.root")), layer(directory(b"root"), file(b"root/f")))
    assert len(hidden.layers) == 4


def test_copy_up(load: Run, store: Store, tmp_path: Path) -> None:
    image = load(
        layer(directory(b"v", mode=0o750, uid=7, gid=8), file(b"v/a", b"1"), file(b"v/b", b"2")),
        layer(file(b"v/.wh.a"), file(b"v/c", b"3")),
    )
    layers = [store.layer_dir(one) for one in image.layers]
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for path, name in (("/v", "copied"), ("/none", "empty")):
            copy_up(layers, path, fd, name)
    finally:
        os.close(fd)
    info = (tmp_path / "copied").stat()
    assert (names(tmp_path / "copied"), stat.S_IMODE(info.st_mode), info.st_uid) == (["b", "c"], 0o750, 7)
    assert names(tmp_path / "empty") == []


def test_the_tree_is_umocis(merged: Callable[..., Path], layout: Layout, tmp_path: Path) -> None:
    layers = [
        layer(directory(b"etc"), file(b"etc/a", b"1"), file(b"etc/b"), directory(b"usr"), directory(b"usr/lib"), file(b"usr/lib/x", b"x")),
        layer(
            directory(b"etc"),
            file(b"etc/.wh.a"),
            symlink(b"etc/l", b"b"),
            directory(b"var", mode=0o1777),
            file(b"var/s", mode=0o4755, uid=3),
        ),
        layer(directory(b"usr"), file(b"usr/.wh..wh..opq"), file(b"usr/new"), hardlink(b"usr/link", b"usr/new"), file(b".wh.none")),
        layer(directory(b"usr"), directory(b"usr/lib", mode=0o711), file(b"usr/lib/y", b"y"), file(b"etc/b", b"again")),
    ]
    ours = merged(*layers)
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{layout.path}:latest", tmp_path / "theirs"], check=True, stdin=subprocess.DEVNULL
    )
    found = [archives.snapshot(top, times=False) for top in (ours, tmp_path / "theirs")]
    for one in found:
        del one["."]
        for path, facts in one.items():
            one[path] = (*facts[:-1], {key: value for key, value in facts[-1].items() if not key.startswith("user.rootlesscontainers")})
    assert found[0] == found[1]
