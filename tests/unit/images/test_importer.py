"""Importing: what lands in the store, what is skipped the second time, and what a failure leaves (nothing)."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrun.errors import ArchiveError, ImageError, ManifestError, NotFoundError, SignatureError
from pyrun.images import aci, commit, importer
from pyrun.images.importer import import_file
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_image

Build = Callable[..., Path]
Leftovers = Callable[[], list[str]]

pytestmark = pytest.mark.needs_root  # layers keep the owners that the archive says


class Importer:
    """Imports into one store and counts how often something is unpacked."""

    def __init__(self, store: Store, keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.keyring, self.unpacked = store, keyring, 0
        unpack = aci.unpack_aci

        def counting(source: int, target: int) -> aci.AciInfo:
            self.unpacked += 1
            return unpack(source, target)

        monkeypatch.setattr(aci, "unpack_aci", counting)

    def __call__(self, path: Path, **options: Any) -> Image:
        return import_file(self.store, str(path), keyring=self.keyring, **options)


@pytest.fixture
def load(store: Store, trusted: Keyring, monkeypatch: pytest.MonkeyPatch) -> Importer:
    return Importer(store, trusted, monkeypatch)


def test_what_lands_in_the_store(load: Importer, build: Build, store: Store, keyring: Keyring) -> None:
    path = build(version="1.2", hello=b"hello")
    image = load(path)
    shipped = path.read_bytes()
    assert image.id.startswith("sha512-") and len(image.id) == 135
    assert (image.kind, image.name, image.layers) == ("aci", "example.com/app", [image.id])
    assert image.labels == {"version": "1.2", "os": "linux", "arch": "amd64"}
    assert image.blob == f"sha256-{hashlib.sha256(shipped).hexdigest()}"
    assert image.size == len(shipped) + len(b"hello")
    assert Path(store.blob_path(image.blob)).read_bytes() == shipped
    assert Path(store.layer_dir(image.id), "data/hello").read_bytes() == b"hello"
    assert Path(store.layer_path(image.id), "complete").exists()
    assert image.manifest["acKind"] == "ImageManifest"
    assert store.load(image.id).record() == image.record()
    assert store.find_import(str(path)) is not None
    assert os.listdir(f"{store.root}/tmp") == []
    assert verify_image(store, image.id, keyring) == []
    for directory, _, _ in os.walk(store.root):
        if "/rootfs" not in directory:
            assert os.stat(directory).st_mode & 0o777 == 0o700, directory


def test_sec_06_store_is_private_under_any_umask(load: Importer, build: Build, store: Store) -> None:
    path = build()
    before = os.umask(0)
    try:
        load(path)
    finally:
        os.umask(before)
    for directory, _, names in os.walk(store.root):
        for name in () if "/rootfs" in directory or "/trust" in directory else names:
            assert os.stat(f"{directory}/{name}").st_mode & 0o077 == 0, f"{directory}/{name}"


def test_same_file_twice_is_one_stat(load: Importer, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build()
    first = load(path)
    monkeypatch.setattr(importer, "Staging", None)  # anything but the short way would fail
    second = load(path)
    assert (first.id, load.unpacked) == (second.id, 1)


def test_a_manifest_that_an_older_version_did_not_keep_comes_with_the_next_import(load: Importer, build: Build, store: Store) -> None:
    path = build()
    image = load(path)
    text, image.text = image.text, ""
    record = Path(store.image_path(image.id))
    record.write_bytes(commit.encode_record(image))
    assert store.load(image.id).text == ""
    again = load(path)
    assert again.text == text and store.load(image.id).record() == again.record() and again.signature == image.signature


def test_same_content_elsewhere_is_not_unpacked_again(load: Importer, build: Build, tmp_path: Path, store: Store) -> None:
    path = build()
    image = load(path)
    copy = tmp_path / "copy.aci"
    shutil.copy(path, copy)  # without its signature: these bytes were verified before
    assert load(copy).id == image.id
    assert load.unpacked == 1
    assert store.find_import(str(copy)) is not None and store.find_import(str(path)) is not None


def test_copy_of_an_image_that_is_no_longer_trusted(load: Importer, build: Build, tmp_path: Path, gpg: Any) -> None:
    path = build()
    load(path)
    copy = tmp_path / "copy.aci"
    shutil.copy(path, copy)
    load.keyring.remove(gpg.fingerprint("good"))
    for each in (path, copy):
        with pytest.raises(SignatureError):
            load(each)


def test_changed_file_is_imported_again(load: Importer, build: Build, store: Store) -> None:
    path, other = build(version="1"), build(version="2")
    first = load(path)
    path.write_bytes(other.read_bytes())
    Path(f"{path}.asc").write_bytes(Path(f"{other}.asc").read_bytes())
    assert store.find_import(str(path)) is None
    second = load(path)
    assert second.id != first.id and second.labels["version"] == "2"
    assert len(os.listdir(f"{store.root}/imports")) == 1, "what the same inode held before is forgotten"


def test_change_right_after_the_import_is_seen(load: Importer, build: Build, store: Store) -> None:
    for _ in range(20):
        path = build(signer="")
        load(path, allow_unsigned=True)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        with path.open("r+b") as file:
            file.write(data)
        assert store.find_import(str(path)) is None
        path.unlink()


def test_one_id_for_every_compression(load: Importer, build: Build, store: Store) -> None:
    images = [load(build(compression=compression)) for compression in ("gzip", "xz", "bzip2", "none")]
    assert len({image.id for image in images}) == 1
    assert os.listdir(f"{store.root}/layers") == [images[0].id]
    assert len(store.images()) == 1


def test_signed_copy_promotes_an_unsigned_one(load: Importer, build: Build, store: Store, keyring: Keyring) -> None:
    unsigned = load(build(signer="", compression="xz"), allow_unsigned=True)
    assert unsigned.signature is None
    with pytest.raises(SignatureError, match="without a signature"):
        store.require_trusted(unsigned, keyring.system)
    signed = load(build())
    assert signed.id == unsigned.id and signed.signature is not None
    assert signed.imported == unsigned.imported
    store.require_trusted(store.find("example.com/app"), keyring.system)
    assert verify_image(store, signed.id, keyring) == []


def test_unsigned_copy_does_not_demote_a_signed_one(load: Importer, build: Build, store: Store, keyring: Keyring) -> None:
    load(build())
    again = load(build(signer="", compression="xz"), allow_unsigned=True)
    assert again.signature is not None
    store.require_trusted(again, keyring.system)


def test_unsigned_is_accepted_for_one_run_only(load: Importer, build: Build, store: Store) -> None:
    path = build(signer="")
    image = load(path, allow_unsigned=True)
    assert image.signature is None
    assert load(path, allow_unsigned=True).id == image.id
    with pytest.raises(SignatureError, match="no signature"):
        load(path)
    assert store.find("example.com/app").signature is None


def test_signature_that_comes_later(load: Importer, build: Build, gpg: Any, store: Store, keyring: Keyring) -> None:
    path = build(signer="")
    image = load(path, allow_unsigned=True)
    Path(f"{path}.asc").write_bytes(gpg.sign(path.read_bytes(), "good"))
    signed = load(path)
    assert signed.id == image.id and signed.signature is not None
    assert load.unpacked == 1
    store.require_trusted(store.load(image.id), keyring.system)
    assert verify_image(store, image.id, keyring) == []


def test_bad_signature_where_none_is_needed(load: Importer, build: Build) -> None:
    assert load(build(signer="other"), allow_unsigned=True).signature is None


def test_removed_key_then_another_signature(load: Importer, build: Build, gpg: Any, keyfile: Callable[[str], str], store: Store) -> None:
    path = build()
    load(path)
    load.keyring.remove(gpg.fingerprint("good"))
    load.keyring.add(keyfile("other"), "example.com/app")
    Path(f"{path}.asc").write_bytes(gpg.sign(path.read_bytes(), "other"))
    image = load(path)
    digest = hashlib.sha256(Path(f"{path}.asc").read_bytes()).hexdigest()
    assert image.signature == {"fingerprint": gpg.fingerprint("other"), "prefix": "example.com/app", "sha256": digest}
    store.require_trusted(image, load.keyring.system)
    assert load.unpacked == 1


def test_expected_name(load: Importer, build: Build, leftovers: Leftovers) -> None:
    path = build()
    with pytest.raises(ImageError, match=r"it holds example\.com/app instead of example\.com/other"):
        load(path, expect_name="example.com/other")
    assert leftovers() == []
    assert load(path, expect_name="example.com/app").name == "example.com/app"
    with pytest.raises(ImageError, match="instead of"):
        load(path, expect_name="example.com/other")


def test_a_missing_dependency_is_named(load: Importer, build: Build, gpg: Any, leftovers: Leftovers, tmp_path: Path) -> None:
    from mkaci import Image as AciImage

    image = AciImage("example.com/app")
    image.manifest["dependencies"] = [{"imageName": "example.com/base"}, {"imageName": "example.com/libs"}]
    path = image.write(tmp_path / "app.aci")
    Path(f"{path}.asc").write_bytes(gpg.sign(path.read_bytes(), "good"))
    with pytest.raises(NotFoundError, match=r"find dependency example\.com/base: not in the store"):
        load(path)
    assert leftovers() == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_special_files(load: Importer, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x.aci")
    with pytest.raises(ImageError, match="not a regular file"):
        load(tmp_path / "x.aci")


def test_missing_and_empty(load: Importer, tmp_path: Path, leftovers: Leftovers) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        load(tmp_path / "x.aci")
    (tmp_path / "x.aci").touch()
    with pytest.raises(ArchiveError, match="empty"):
        load(tmp_path / "x.aci")
    assert leftovers() == []


@pytest.mark.parametrize("data", [b"hello", bytes(2048), b"\x1f\x8b\x08garbage"])
def test_garbage(load: Importer, tmp_path: Path, leftovers: Leftovers, data: bytes, gpg: Any) -> None:
    path = tmp_path / "x.aci"
    path.write_bytes(data)
    with pytest.raises(SignatureError):
        load(path)
    assert load.unpacked == 0, "no byte of it is parsed before its signature is good"
    Path(f"{path}.asc").write_bytes(gpg.sign(data, "good"))
    with pytest.raises((ArchiveError, ManifestError)):
        load(path)
    assert leftovers() == []


def test_sec_40_file_that_is_exchanged_after_the_check(load: Importer, build: Build, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    path, evil = build(good=b"good"), build(signer="", evil=b"evil")
    unpack = aci.unpack_aci

    def swap(source: int, target: int) -> aci.AciInfo:
        os.replace(evil, path)
        return unpack(source, target)

    monkeypatch.setattr(aci, "unpack_aci", swap)
    image = load(path)
    assert Path(store.layer_dir(image.id), "data/good").exists()
    assert store.find_import(str(path)) is None


def test_file_that_grows_while_it_is_read(load: Importer, build: Build, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers) -> None:
    path = build()

    def settle(_info: os.stat_result) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(importer, "settle", settle)
    with pytest.raises(ImageError, match="it changed while it was read"):
        load(path)
    assert leftovers() == []
