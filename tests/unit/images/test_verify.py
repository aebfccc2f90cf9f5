"""`image verify` finds every change to what an import wrote."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrun.errors import NotFoundError
from pyrun.images import tree
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_image

pytestmark = pytest.mark.needs_root


@pytest.fixture
def image(stored: Callable[..., Image]) -> Image:
    return stored(one=b"one", two=b"two" * 1000)


@pytest.fixture
def check(store: Store, keyring: Keyring, image: Image) -> Callable[[], list[str]]:
    return lambda: verify_image(store, image.id, keyring)


@pytest.fixture
def root(store: Store, image: Image) -> Path:
    return Path(store.layer_dir(image.id))


def test_untouched(check: Callable[[], list[str]]) -> None:
    assert check() == []


def test_unknown(store: Store, keyring: Keyring) -> None:
    with pytest.raises(NotFoundError):
        verify_image(store, f"sha512-{'0' * 128}", keyring)


def remove_marker(root: Path) -> None:
    (root.parent / "complete").unlink()


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: (root / "data" / "one").write_bytes(b"two"), "/data/one: content changed"),
    (lambda root: (root / "data" / "one").write_bytes(b"more"), "/data/one: size, content changed"),
    (lambda root: (root / "data" / "one").unlink(), "/data/one: missing"),
    (lambda root: (root / "data" / "two").unlink(), "/data/two: missing"),
    (lambda root: (root / "data" / "new").touch(), "/data/new: not part of the image"),
    (lambda root: (root / "data" / "zzz").mkdir(), "/data/zzz: not part of the image"),
    (lambda root: (root / "aaa").symlink_to("x"), "/aaa: not part of the image"),
    (lambda root: (root / "data" / "one").chmod(0o4755), "/data/one: mode changed"),
    (lambda root: os.chown(root / "data", 1, 2), "/data: owner, group changed"),
    (lambda root: os.chmod(root, 0o700), "/: mode changed"),
    (lambda root: os.setxattr(root / "data" / "one", "user.x", b"y"), "/data/one: xattrs changed"),
    (lambda root: os.link(root / "data" / "one", root / "data" / "oof"), "/data/one: link count changed"),
    (lambda root: ((root / "data" / "one").unlink(), os.mkfifo(root / "data" / "one", 0o644)), "/data/one: type, size, content changed"),
    (remove_marker, "no such file or directory (complete)"),
    (lambda root: (root.parent / "tree").unlink(), "no such file or directory (tree)"),
    (lambda root: (root.parent / "tree").write_bytes((root.parent / "tree").read_bytes() + b"\n"), "the list of its digests is damaged"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_changed_tree(check: Callable[[], list[str]], root: Path, change: Callable[[Path], object], words: str) -> None:
    change(root)
    [problem] = check()
    assert words in problem


def test_times_do_not_matter(check: Callable[[], list[str]], root: Path) -> None:
    os.utime(root / "data" / "one", (1, 1))
    assert check() == []


MOUNTED = """
import subprocess, sys
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_image
root, image_id, vendor, place = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
print(*verify_image(Store(root), image_id, Keyring(root, vendor)))
"""


def test_mount_on_top(store: Store, image: Image, keyring: Keyring, root: Path, private_mounts: Callable[..., str]) -> None:
    text = private_mounts(MOUNTED, store.root, image.id, keyring.system, str(root / "data"))
    assert "another file system is mounted there" in text


def test_blob(check: Callable[[], list[str]], store: Store, image: Image) -> None:
    path = Path(store.blob_path(image.blob))
    path.write_bytes(path.read_bytes() + b"x")
    assert ["its digest is sha256-" in problem for problem in check()] == [True]
    path.unlink()
    assert ["no such file" in problem for problem in check()] == [True]


def test_signature(check: Callable[[], list[str]], store: Store, image: Image, gpg: Any, keyring: Keyring) -> None:
    Path(store.blob_path(image.blob) + ".asc").write_bytes(gpg.sign(b"something else", "good"))
    assert ["not what was written at import" in problem for problem in check()] == [True]
    Path(store.blob_path(image.blob) + ".asc").unlink()
    assert [problem.startswith("signature ") and problem.endswith("no such file or directory") for problem in check()] == [True]


def test_key_that_is_no_longer_trusted(check: Callable[[], list[str]], gpg: Any, keyring: Keyring) -> None:
    keyring.remove(gpg.fingerprint("good"))
    [problem] = check()
    assert "which is not trusted" in problem


def test_reference(check: Callable[[], list[str]], store: Store, image: Image) -> None:
    Path(store.ref_dir(image.name), image.id).write_text("{}")
    assert ["reference" in problem for problem in check()] == [True]


def test_every_flipped_bit_is_found(check: Callable[[], list[str]], store: Store) -> None:
    files = [
        Path(directory, name)
        for directory, _, names in os.walk(store.root)
        for name in names
        if not any(part in directory for part in ("/locks", "/trust", "/imports"))
    ]
    chance = random.Random(1)
    for path in sorted(files):
        data = path.read_bytes()
        for _ in range(4):
            damaged = bytearray(data)
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            # The armour of a signature holds bits that mean nothing: its checksum, and the case of no header at all.
            assert check() or path.suffix == ".asc", path
        path.write_bytes(data)
    assert check() == []


def test_listing_of_odd_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a b\n\xff").write_bytes(b"x")
    (root / os.fsdecode(b"\xfe")).touch()
    (root / "link").symlink_to("-")
    (root / "dash").mkdir()
    os.mknod(root / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mkfifo(root / "pipe")
    os.link(root / "link", root / "link2")
    os.link(root / "a b\n\xff", root / "b")
    listing, size = tree.measure(str(root))
    assert size == 1
    lines = [line.split(b" ") for line in listing.splitlines()]
    assert {len(line) for line in lines} == {11}
    by_path = {line[0]: line for line in lines}
    assert by_path[b"/null"][1:3] == [b"c", b"0600"] and by_path[b"/null"][5] == b"1:3"
    assert by_path[b"/link"][8] == b"%2D"
    assert by_path[b"/link2"][9] == b"/link"
    assert by_path[b"/b"][9] == b"/a%20b%0A%C3%BF" and by_path[b"/b"][7] == b"-"
    assert tree.difference(str(root), listing) == ""


def test_deep_tree(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(200):
        path /= "d"
    path.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    listing, _ = tree.measure(str(tmp_path))
    assert listing.count(b"\n") == 201
    assert len(os.listdir("/proc/self/fd")) == before
