"""Finding stored images, and what damage to the store does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrun.errors import ImageError, NotFoundError, StateError
from pyrun.images import fastjson, trust
from pyrun.images.store import Image, Store, file_key, is_digest


def put(store: Store, digit: str, name: str = "example.com/app", *, imported: int = 1, **labels: str) -> str:
    """A record and its reference without files behind them: enough for look-ups."""
    store.ensure()
    image_id = f"sha512-{digit * 128}" if len(digit) == 1 else f"sha512-{digit:0<128}"
    record = {
        "id": image_id,
        "kind": "aci",
        "name": name,
        "labels": labels,
        "layers": [image_id],
        "blob": f"sha256-{'0' * 64}",
        "size": 1,
        "imported": imported,
        "signature": None,
        "manifest": {"name": name},
    }
    Path(store.image_path(image_id)).write_text(fastjson.dumps(record))
    os.makedirs(store.ref_dir(name), exist_ok=True)
    Path(store.ref_dir(name), image_id).write_text(fastjson.dumps(labels))
    return image_id


def found(store: Store, ref: str) -> str:
    return store.find(ref).id


def test_by_id(store: Store) -> None:
    a, b = put(store, "a"), put(store, "b", "example.com/other")
    for ref in (a, a[:13], a[7:13], "A" * 8, a.upper().replace("SHA512", "sha512")):
        assert found(store, ref) == a, ref
    assert found(store, b[:20]) == b


def test_too_short_or_foreign_id(store: Store) -> None:
    a = put(store, "a")
    for ref in (a[:12], "aaaaa", "sha512-", "sha256-aaaaaa", "sha1-aaaaaaaa", a + "a", "", "aaaaag", " aaaaaa"):
        with pytest.raises(NotFoundError) as caught:
            store.find(ref)
        assert "image list" in caught.value.hint


def test_ambiguous_id(store: Store) -> None:
    a, b = put(store, "abcdef1"), put(store, "abcdef2")
    with pytest.raises(ImageError, match="beginning of 2 ids") as caught:
        store.find("abcdef")
    assert a[:27] in caught.value.hint and b[:27] in caught.value.hint
    assert found(store, "abcdef2") == b


def test_by_name_version_and_labels(store: Store) -> None:
    one = put(store, "1", imported=10, version="1.0", arch="amd64")
    two = put(store, "2", imported=30, version="2.0", arch="amd64")
    arm = put(store, "3", imported=20, version="2.0", arch="aarch64")
    put(store, "4", "example.com/app/part", imported=99, version="1.0")
    assert found(store, "example.com/app") == two
    assert found(store, "example.com/app:1.0") == one
    assert found(store, "example.com/app:2.0") == two
    assert found(store, "example.com/app:2.0,arch=aarch64") == arm
    assert found(store, "example.com/app,arch=aarch64") == arm
    for ref in ("example.com/app:3.0", "example.com/app:", "example.com/app,os=linux", "example.com", "EXAMPLE.COM/app"):
        with pytest.raises(NotFoundError):
            store.find(ref)
    with pytest.raises(ImageError, match="is not label=value"):
        store.find("example.com/app,amd64")


def test_name_that_looks_like_an_id(store: Store) -> None:
    image_id = put(store, "1", "abcdef")
    assert found(store, "abcdef") == image_id
    put(store, "abcdef7", "example.com/x")
    with pytest.raises(ImageError, match="both a name and the beginning of an id"):
        store.find("abcdef")


def test_hint_for_a_file(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "app").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError) as caught:
        store.find("dir/app")
    assert "leading ./" in caught.value.hint


@pytest.mark.parametrize("ref", ["../../etc/passwd", "a\0b", "a" * 5000, "\udcff", "%2E%2E", "..", "."])
def test_hostile_references_find_nothing(store: Store, ref: str) -> None:
    put(store, "a")
    with pytest.raises(NotFoundError):
        store.find(ref)


def test_listing_is_newest_first(store: Store) -> None:
    ids = [put(store, digit, imported=number) for digit, number in (("a", 5), ("b", 9), ("c", 7))]
    assert [image.id for image in store.images()] == [ids[1], ids[2], ids[0]]


def test_empty_store(store: Store) -> None:
    assert store.images() == [] and store.ids() == []
    with pytest.raises(NotFoundError):
        store.find("example.com/app")


def test_record_cut_at_every_byte(store: Store) -> None:
    whole, other = put(store, "a"), put(store, "b", "example.com/other")
    path = Path(store.image_path(whole))
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(StateError, match="damaged") as caught:
            store.load(whole)
        assert "image rm" in caught.value.hint
        broken: list[str] = []
        assert [image.id for image in store.images(broken)] == [other] and broken == [whole]
    path.write_bytes(data)
    assert store.load(whole).name == "example.com/app"


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "sha512-" + "b" * 128),
        ("id", 1),
        ("kind", ""),
        ("name", None),
        ("labels", {"a": 1}),
        ("labels", []),
        ("layers", []),
        ("layers", ["../../etc"]),
        ("layers", "sha512-" + "a" * 128),
        ("blob", "sha256-" + "A" * 64),
        ("size", -1),
        ("size", True),
        ("imported", "1"),
        ("signature", {}),
        ("signature", {"fingerprint": 1, "prefix": ""}),
        ("manifest", []),
    ],
)
def test_record_with_a_wrong_member(store: Store, member: str, value: object) -> None:
    image_id = put(store, "a")
    record = fastjson.loads(Path(store.image_path(image_id)).read_bytes())
    assert isinstance(record, dict)
    record[member] = value
    Path(store.image_path(image_id)).write_text(fastjson.dumps(record))
    with pytest.raises(StateError, match=member):
        store.load(image_id)


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_record_that_is_no_file(store: Store, make: Callable[[str], None]) -> None:
    store.ensure()
    image_id = f"sha512-{'a' * 128}"
    make(store.image_path(image_id))
    with pytest.raises(StateError):
        store.load(image_id)


def test_stray_files_are_not_images(store: Store) -> None:
    put(store, "a")
    Path(store.root, "images", ".x").touch()
    Path(store.root, "images", "sha512-abc").touch()
    Path(store.ref_dir("example.com/app"), "junk").touch()
    assert len(store.images()) == 1
    assert found(store, "example.com/app").startswith("sha512-a")


def test_layer_dir(store: Store, stored: Callable[..., Image]) -> None:
    image = stored(hello=b"hello")
    assert Path(store.layer_dir(image.id), "data", "hello").read_bytes() == b"hello"
    assert store.has_layers(image)
    Path(store.layer_path(image.id), "complete").unlink()
    assert not store.has_layers(image)
    with pytest.raises(StateError, match="not complete"):
        store.layer_dir(image.id)


def test_incomplete_layer_is_imported_again(store: Store, stored: Callable[..., Image], build: Any, tmp_path: Path) -> None:
    image = stored()
    Path(store.layer_path(image.id), "complete").unlink()
    [path] = tmp_path.glob("*.aci")
    assert store.find_import(str(path)) is None
    assert stored().id == image.id
    assert store.has_layers(image)


def test_imports_note_that_is_damaged(store: Store, stored: Callable[..., Image], tmp_path: Path) -> None:
    stored()
    [path] = tmp_path.glob("*.aci")
    note = Path(store.root, "imports", file_key(path.stat()))
    for data in (b"", b"sha512-", b"\xff" * 200, b"sha512-" + b"0" * 128):
        note.write_bytes(data)
        assert store.find_import(str(path)) is None


def test_find_import_of_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        store.find_import(str(tmp_path / "x.aci"))


def test_require_trusted_is_one_stat(store: Store, stored: Callable[..., Image], trusted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = stored()
    looked: list[str] = []
    stat = os.stat
    monkeypatch.setattr(trust.os, "stat", lambda path, **options: looked.append(path) or stat(path, **options))
    store.require_trusted(image, trusted.system)
    assert len(looked) == 1 and looked[0].startswith(f"{store.root}/trust/prefix.d/example.com/")


def test_unreadable_store(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("")
    with pytest.raises(StateError, match="not a directory"):
        Store(str(tmp_path)).images()


@pytest.mark.parametrize(("text", "good"), [("sha512-" + "0" * 128, True), ("sha256-" + "f" * 64, True), ("sha256-" + "f" * 65, False)])
def test_is_digest(text: str, good: bool) -> None:
    assert is_digest(text) is good
    assert not is_digest(text.upper()) and not is_digest("") and not is_digest("../x")


def test_hot_modules_import_nothing_expensive() -> None:
    code = (
        "import sys; before = set(sys.modules); import pyrun.images.store, pyrun.images.rootfs, pyrun.images.passwd, pyrun.images.locks;"
        "print(*sorted(set(sys.modules) - before))"
    )
    code = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    done = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True)
    new = set(done.stdout.split())
    costly = "argparse json re enum dataclasses pathlib typing subprocess logging asyncio socket hashlib shutil tempfile contextlib"
    assert new & {*costly.split(), "collections", "functools"} == set()
    cold = {"importer", "keyring", "staging", "tree"}
    assert not {name for name in new if name.startswith("pyrun.images.") and name.rpartition(".")[2] in cold}
