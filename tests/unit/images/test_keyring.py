"""Adding, listing, masking and removing keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrun.errors import SignatureError, TrustError
from pyrun.images import trust
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring

Keyfile = Callable[[str], str]


def refused(keyring: Keyring, path: Path | str, *words: str) -> None:
    with pytest.raises(TrustError) as caught:
        keyring.add(str(path), "example.com")
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.hint
    assert keyring.list() == []


def test_add_and_inspect(keyring: Keyring, gpg: Any, keyfile: Keyfile) -> None:
    info = keyring.inspect(keyfile("good"))
    assert (info.fingerprint, info.user_ids, info.algorithm, info.expires) == (gpg.fingerprint("good"), ["good"], "ed25519", 0)
    assert info.created > 1_700_000_000
    assert keyring.list() == []
    [added] = keyring.add(keyfile("good"), "example.com/team/")
    assert added.fingerprint == info.fingerprint
    [key] = keyring.list()
    assert (key.fingerprint, key.prefix, key.origin, key.masked) == (info.fingerprint, "example.com/team", "local", False)
    assert key.path == f"{keyring.root}/trust/prefix.d/example.com%2Fteam/{info.fingerprint}"
    assert keyring.describe(key).user_ids == ["good"]
    assert os.stat(key.path).st_mode & 0o777 == 0o644
    assert os.stat(keyring.root).st_mode & 0o777 == 0o700
    keyring.add(keyfile("good"), "example.com/team")
    assert len(keyring.list()) == 1


def test_add_for_all_images(keyring: Keyring, gpg: Any, keyfile: Keyfile) -> None:
    keyring.add(keyfile("good"), None)
    assert os.listdir(f"{keyring.root}/trust/root.d") == [gpg.fingerprint("good")]


def test_no_temporary_homes_stay(keyring: Keyring, keyfile: Keyfile) -> None:
    keyring.add(keyfile("good"), None)
    assert os.listdir(f"{keyring.root}/tmp") == []


def test_secret_key(keyring: Keyring, gpg: Any, tmp_path: Path) -> None:
    for number, options in enumerate(([], ["--armor"])):
        path = tmp_path / f"secret{number}"
        path.write_bytes(gpg(*options, "--export-secret-keys", "=good"))
        refused(keyring, path, "PGP private key block" if options else "secret key")


def test_several_keys(keyring: Keyring, gpg: Any, tmp_path: Path) -> None:
    path = tmp_path / "both"
    path.write_bytes(gpg.public("good", "other"))
    refused(keyring, path, "2 keys", gpg.fingerprint("good"), gpg.fingerprint("other"))


@pytest.mark.parametrize(("user", "word"), [("expired", "expired"), ("revoked", "revoked"), ("weak", "too weak (rsa1024)")])
def test_keys_that_are_no_good(keyring: Keyring, keyfile: Keyfile, user: str, word: str) -> None:
    refused(keyring, keyfile(user), f"it is {word}")


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\x99\x01", bytes(1000), b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n"])
def test_no_key(keyring: Keyring, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    refused(keyring, path, "read key")


def test_signature_is_no_key(keyring: Keyring, gpg: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gpg.sign(b"data", "good"))
    refused(keyring, path, "PGP signature")


def test_oversized(keyring: Keyring, gpg: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gpg.public("good") + b"\n" * (1 << 20))
    refused(keyring, path, "more than 1024 KiB")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_special_file(keyring: Keyring, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "file")
    refused(keyring, tmp_path / "file", "not a regular file")


def test_missing_file(keyring: Keyring, tmp_path: Path) -> None:
    refused(keyring, tmp_path / "file", "no such file")


@pytest.mark.parametrize("prefix", ["", "/", "Example.com", "https://example.com", "example.com:1.0", "../x", "a//b", "a" * 151])
def test_bad_prefix(keyring: Keyring, keyfile: Keyfile, prefix: str) -> None:
    with pytest.raises(TrustError):
        keyring.add(keyfile("good"), prefix)
    assert keyring.list() == []


def test_key_that_changed_after_the_look(keyring: Keyring, gpg: Any, keyfile: Keyfile) -> None:
    with pytest.raises(TrustError, match="now holds another key"):
        keyring.add(keyfile("good"), None, expect=gpg.fingerprint("other"))
    assert keyring.list() == []


def test_remove(keyring: Keyring, gpg: Any, keyfile: Keyfile) -> None:
    fingerprint = gpg.fingerprint("good")
    for prefix in (None, "example.com", "example.org"):
        keyring.add(keyfile("good"), prefix)
    keyring.add(keyfile("other"), "example.com")
    assert [key.prefix for key in keyring.remove(fingerprint, "example.org")] == ["example.org"]
    spaced = " ".join(fingerprint[-16:][i : i + 4] for i in range(0, 16, 4)).lower()
    assert sorted(key.prefix for key in keyring.remove(spaced)) == ["", "example.com"]
    assert [key.fingerprint for key in keyring.list()] == [gpg.fingerprint("other")]
    assert sorted(os.listdir(f"{keyring.root}/trust/prefix.d")) == ["example.com"]
    with pytest.raises(TrustError, match="not trusted"):
        keyring.remove(fingerprint)
    for text in ("", "ABCD", "x" * 40, fingerprint[-8:]):
        with pytest.raises(TrustError, match="not 16 hex digits"):
            keyring.remove(text)


def vendor_key(keyring: Keyring, gpg: Any, prefix: str = "") -> Path:
    path = Path(trust.scope_dir(keyring.system, prefix)) / gpg.fingerprint("good")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gpg.public("good"))
    return path


def test_vendor_key_and_mask(keyring: Keyring, gpg: Any, store: Store, stored: Callable[..., Image]) -> None:
    fingerprint = gpg.fingerprint("good")
    image = stored()
    vendor_key(keyring, gpg)
    keyring.remove(fingerprint, "example.com")
    [key] = keyring.list()
    assert (key.origin, key.prefix, key.masked) == ("system", "", False)
    store.require_trusted(image, keyring.system)
    [gone] = keyring.remove(fingerprint)
    assert gone.origin == "system"
    mask = Path(store.root, "trust", "root.d", fingerprint)
    assert mask.stat().st_size == 0
    assert [(key.origin, key.masked) for key in keyring.list()] == [("local", True), ("system", True)]
    with pytest.raises(SignatureError, match="no longer trusted"):
        store.require_trusted(image, keyring.system)


def test_mask_is_for_its_own_scope(keyring: Keyring, gpg: Any, store: Store) -> None:
    fingerprint = gpg.fingerprint("good")
    vendor_key(keyring, gpg)
    path = vendor_key(keyring, gpg, "example.com")
    keyring.remove(fingerprint, "")
    assert trust.find_key(store.root, "", fingerprint, keyring.system) is None
    assert trust.find_key(store.root, "example.com", fingerprint, keyring.system) == str(path)


def test_local_copy_of_a_vendor_key_is_masked_when_removed(keyring: Keyring, gpg: Any, keyfile: Keyfile) -> None:
    vendor_key(keyring, gpg)
    keyring.add(keyfile("good"), None)
    keyring.remove(gpg.fingerprint("good"))
    assert all(key.masked for key in keyring.list())


def test_names_that_are_no_fingerprints_count_for_nothing(keyring: Keyring, gpg: Any) -> None:
    path = vendor_key(keyring, gpg)
    path.rename(path.with_name(path.name.lower()))
    assert keyring.list() == []


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("a", ["", "a"]), ("example.com/a/b", ["", "example.com", "example.com/a", "example.com/a/b"])],
)
def test_scopes(name: str, scopes: list[str]) -> None:
    assert trust.scopes_of(name) == scopes


@given(st.text(min_size=1, max_size=60))
def test_quote_is_a_reversible_file_name(name: str) -> None:
    quoted = trust.quote(name)
    assert "/" not in quoted and "\0" not in quoted and not quoted.startswith(".")
    if "%~" not in quoted:
        assert trust.unquote(quoted) == name


def test_quote_of_long_names_stays_a_file_name() -> None:
    names = {trust.quote("a" * length) for length in (200, 201, 1000, 5000)}
    assert len(names) == 4 and max(map(len, names)) <= 200


@pytest.mark.parametrize("quoted", ["%", "%2", "%2f", "%41", "%ZZ", ".a", "%+1", "a%~b"])
def test_unquote_takes_only_what_quote_gives(quoted: str) -> None:
    with pytest.raises(ValueError):
        trust.unquote(quoted)
