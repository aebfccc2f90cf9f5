"""What a signature must be to count (appc ACI-15 to ACI-18): every refusal names its reason and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrun.errors import SignatureError, TrustError
from pyrun.images.importer import import_file
from pyrun.images.store import Store
from pyrun.images.trust import Keyring, armour, gpg
from pyrun.images.trust.keyfiles import MAX_SIGNATURE

Build = Callable[..., Path]


class Case:
    """An image file that key good signed for example.com, and what a test does to it."""

    def __init__(self, store: Store, keyring: Keyring, gpg: Any, path: Path, leftovers: Callable[[], list[str]]) -> None:
        self.store, self.keyring, self.gpg, self.path, self.leftovers = store, keyring, gpg, path, leftovers
        self.asc = Path(f"{path}.asc")

    def sign(self, user: str, *options: str) -> None:
        self.asc.write_bytes(self.gpg.sign(self.path.read_bytes(), user, *options))

    def digest(self) -> str:
        return hashlib.sha256(self.asc.read_bytes()).hexdigest()

    def accepted(self, signer: str = "good") -> None:
        # Named explicitly it is verified each time, whatever is known of the file.
        image = import_file(self.store, str(self.path), keyring=self.keyring, signature_path=str(self.asc))
        assert image.signature == {"fingerprint": self.gpg.fingerprint(signer), "prefix": "example.com", "sha256": self.digest()}
        self.store.require_trusted(image, self.keyring.system)

    def refused(self, *words: str) -> SignatureError:
        with pytest.raises(SignatureError) as caught:
            import_file(self.store, str(self.path), keyring=self.keyring)
        text = str(caught.value)
        assert all(word in text for word in words), text
        assert caught.value.hint
        assert self.leftovers() == []
        return caught.value


@pytest.fixture
def case(store: Store, trusted: Keyring, gpg: Any, build: Build, leftovers: Callable[[], list[str]]) -> Case:
    return Case(store, trusted, gpg, build(), leftovers)


def trust_by_hand(case: Case, user: str, prefix: str = "example.com") -> None:
    """As if the key had been good when it was trusted: `add` would refuse it today."""
    directory = Path(case.store.root, "trust", "prefix.d", prefix)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    (directory / case.gpg.fingerprint(user)).write_bytes(case.gpg.public(user))


def test_good(case: Case) -> None:
    image = import_file(case.store, str(case.path), keyring=case.keyring)
    assert image.signature == {"fingerprint": case.gpg.fingerprint("good"), "prefix": "example.com", "sha256": case.digest()}
    case.accepted()


def test_good_with_a_binary_key_file(case: Case, gpg: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.gpg"
    path.write_bytes(gpg.public("other", armour=False))
    case.keyring.add(str(path), "example.com")
    case.sign("other")
    case.accepted("other")


def test_unsigned(case: Case) -> None:
    case.asc.unlink()
    error = case.refused("no signature", f"{case.path}.asc does not exist")
    assert "--insecure-options=image" in error.hint and "gpg --armor --detach-sign" in error.hint


@pytest.mark.parametrize("offset", [0, 10, -9, -1])
def test_aci_18_tampered(case: Case, offset: int) -> None:
    data = bytearray(case.path.read_bytes())
    data[offset] ^= 1
    case.path.write_bytes(data)
    case.refused("not what key", case.gpg.fingerprint("good")[-16:])


def test_appended(case: Case) -> None:
    with case.path.open("ab") as file:
        file.write(b"\0")
    case.refused("not what key")


def test_aci_17_recompressed_has_the_same_id_but_no_signature(case: Case, build: Build) -> None:
    other = build(compression="xz", signer="")
    case.path.write_bytes(other.read_bytes())
    case.refused("not what key")


def test_aci_18_unknown_key(case: Case) -> None:
    case.sign("other")
    error = case.refused("not trusted", case.gpg.fingerprint("other"))
    assert "pyrun trust --prefix NAME KEYFILE" in error.hint


def test_no_key_at_all(case: Case) -> None:
    case.keyring.remove(case.gpg.fingerprint("good"))
    case.refused("not trusted", case.gpg.fingerprint("good"))


def test_aci_18_expired_key(case: Case) -> None:
    trust_by_hand(case, "expired")
    case.sign("expired", "--faked-system-time", "20250110T000000")
    case.refused("has expired", case.gpg.fingerprint("expired"))


def test_revoked_key(case: Case, gpg: Any, tmp_path: Path) -> None:
    trust_by_hand(case, "revoked")
    # gpg does not sign with a revoked key; a copy of the home from before the revocation does.
    home = tmp_path / "h"
    home.mkdir(mode=0o700)
    (home / "private-keys-v1.d").symlink_to(gpg.home / "private-keys-v1.d")
    run = ["/usr/bin/gpg", "--homedir", str(home), "--batch", "--quiet"]
    certificate = gpg("--export-options", "export-minimal", "--export-filter", "drop-subkey=usage =~ x", "--export", "=revoked")
    unrevoked = b"".join(packet for packet in packets(certificate) if not is_revocation(packet))
    subprocess.run([*run, "--import"], input=unrevoked, check=True, capture_output=True)
    try:
        signature = subprocess.run(
            [*run, "-u", "=revoked", "--armor", "--detach-sign"], input=case.path.read_bytes(), check=True, capture_output=True
        )
    finally:
        subprocess.run(["/usr/bin/gpgconf", "--homedir", str(home), "--kill", "all"], check=True, capture_output=True)
    case.asc.write_bytes(signature.stdout)
    case.refused("has been revoked", gpg.fingerprint("revoked"))


def packets(data: bytes) -> list[bytes]:
    found, position = [], 0
    while position < len(data):
        _, start, length = armour._header(data, position)
        found.append(data[position : start + length])
        position = start + length
    return found


def is_revocation(packet: bytes) -> bool:
    tag, start, _ = armour._header(packet, 0)
    return tag == 2 and packet[start + 1] == 0x20


def test_weak_key(case: Case) -> None:
    trust_by_hand(case, "weak")
    case.sign("weak")
    case.refused("too weak (rsa1024)")


def test_wrong_prefix(case: Case, keyfile: Callable[[str], str]) -> None:
    case.keyring.add(keyfile("other"), "example.org/team")
    case.sign("other")
    error = case.refused("trusted for example.org/team only", case.gpg.fingerprint("other"))
    assert "--prefix example.com/app" in error.hint


def test_prefix_ends_where_a_segment_ends(case: Case, store: Store, trusted: Keyring, build: Build) -> None:
    neighbour = build("example.community/app")
    with pytest.raises(SignatureError, match=r"trusted for example\.com only"):
        import_file(store, str(neighbour), keyring=trusted)
    assert case.leftovers() == []


def test_key_for_all_images(store: Store, keyring: Keyring, build: Build, keyfile: Callable[[str], str]) -> None:
    keyring.add(keyfile("good"), None)
    image = import_file(store, str(build("anything.example/at/all")), keyring=keyring)
    assert image.signature is not None and image.signature["prefix"] == ""


def test_file_under_another_keys_name(case: Case) -> None:
    directory = Path(case.store.root, "trust", "prefix.d", "example.com")
    (directory / case.gpg.fingerprint("revoked")).write_bytes(case.gpg.public("other"))
    case.sign("other")
    case.refused(case.gpg.fingerprint("other"), "not trusted")


def test_aci_15_binary(case: Case) -> None:
    case.asc.write_bytes(case.gpg.sign(case.path.read_bytes(), "good", armour=False))
    case.refused("not ascii-armoured but binary")


def test_clear_signed(case: Case) -> None:
    case.asc.write_bytes(case.gpg("--local-user", "=good", "--clear-sign", data=b"hello\n"))
    case.refused("not a detached signature", "signed message")


def test_signed_message_with_its_own_content(case: Case) -> None:
    case.asc.write_bytes(case.gpg("--local-user", "=good", "--armor", "--sign", data=b"hello\n"))
    case.refused("not a detached signature", "message")


def test_signed_message_under_a_signature_head_line(case: Case) -> None:
    text = case.gpg("--local-user", "=good", "--armor", "--compress-algo", "none", "--sign", data=b"hello\n")
    case.asc.write_bytes(text.replace(b"PGP MESSAGE", b"PGP SIGNATURE"))
    case.refused("packet of type")


def test_key_instead_of_signature(case: Case) -> None:
    case.asc.write_bytes(case.gpg.public("good"))
    case.refused("public key block")


def test_signature_of_another_file(case: Case, build: Build) -> None:
    other = build(version="2.0")
    case.asc.write_bytes(Path(f"{other}.asc").read_bytes())
    case.refused("another file")


def test_two_signatures_one_good_one_unknown(case: Case) -> None:
    data = case.path.read_bytes()
    for users in (("good", "other"), ("other", "good")):
        case.asc.write_bytes(b"".join(case.gpg.sign(data, user) for user in users))
        case.accepted()


def test_two_signatures_in_one_block(case: Case) -> None:
    case.sign("good", "--local-user", "=other")
    case.accepted()


def test_two_signatures_neither_trusted(case: Case) -> None:
    case.sign("other", "--local-user", "=weak")
    case.refused("not trusted")


def test_a_bad_signature_spoils_a_good_one(case: Case, keyfile: Callable[[str], str]) -> None:
    case.keyring.add(keyfile("other"), "example.com")
    data = case.path.read_bytes()
    good, bad = case.gpg.sign(data, "good"), case.gpg.sign(data + b"x", "other")
    for both in (good + bad, bad + good):
        case.asc.write_bytes(both)
        case.refused("not what key")


def test_one_key_for_the_name_one_for_another(case: Case, keyfile: Callable[[str], str]) -> None:
    case.keyring.add(keyfile("other"), "example.org")
    case.sign("other", "--local-user", "=good")
    case.accepted()


def test_too_many_signatures(case: Case) -> None:
    case.asc.write_bytes(case.gpg.sign(case.path.read_bytes(), "good") * 9)
    case.refused("more than 8")
    case.asc.write_bytes(case.gpg.sign(case.path.read_bytes(), "good") * 8)
    case.accepted()


def test_oversized_signature(case: Case) -> None:
    case.asc.write_bytes(case.asc.read_bytes() + b"\n" * MAX_SIGNATURE)
    case.refused("more than 64 KiB")


@pytest.mark.parametrize("digest", ["SHA1"])
def test_weak_digest(case: Case, digest: str) -> None:
    case.sign("good", "--digest-algo", digest)
    case.refused("digest that can be forged")


def test_text_mode(case: Case) -> None:
    case.sign("good", "--textmode")
    case.refused("not one over exact bytes")


def test_future_signature(case: Case) -> None:
    case.sign("good", "--faked-system-time", "20370101T000000")
    case.refused("in the future")


def test_expired_signature(case: Case) -> None:
    # A signature lives for a day at least; make the whole key old.
    case.gpg("--faked-system-time", "20250101T000000", "--quick-gen-key", "ancient", "ed25519", "sign", "0")
    trust_by_hand(case, "ancient")
    case.sign("ancient", "--faked-system-time", "20250102T000000", "--default-sig-expire", "1d")
    case.refused("signature by key", "has expired")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"hello\n",
        b"-----BEGIN PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n\n!!!!\n-----END PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n\niHU\n-----END PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n\niP8=\n-----END PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n",
        b"-----BEGIN PGP SIGNATURE-----\nnot a header\n\niHUE\n-----END PGP SIGNATURE-----\n",
    ],
)
def test_damaged_signature(case: Case, text: bytes) -> None:
    case.asc.write_bytes(text)
    case.refused("read signature")


def test_text_around_the_armour(case: Case) -> None:
    good = case.asc.read_bytes()
    for text in (b"see below\n" + good, good + b"trailer\n"):
        case.asc.write_bytes(text)
        case.refused("read signature")


def test_line_ends_and_headers_do_not_matter(case: Case) -> None:
    good = case.asc.read_bytes()
    case.asc.write_bytes(good.replace(b"-----\n\n", b"-----\nComment: made by hand\n\n", 1).replace(b"\n", b"\r\n"))
    case.accepted()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_special_signature_file(case: Case, make: Callable[[Path], None]) -> None:
    case.asc.unlink()
    make(case.asc)
    case.refused("read signature", "not a regular file")


def test_dangling_signature_is_not_unsigned(case: Case) -> None:
    case.asc.unlink()
    case.asc.symlink_to("nowhere")
    case.refused("read signature", "no such file")


def test_signature_named_explicitly(case: Case, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.asc"
    case.asc.rename(elsewhere)
    image = import_file(case.store, str(case.path), keyring=case.keyring, signature_path=str(elsewhere))
    assert image.signature is not None
    with pytest.raises(SignatureError, match="no such file"):
        import_file(case.store, str(case.path), keyring=case.keyring, signature_path=str(case.asc), allow_unsigned=True)


def test_key_file_that_others_can_write(case: Case) -> None:
    path = Path(case.store.root, "trust", "prefix.d", "example.com", case.gpg.fingerprint("good"))
    path.chmod(0o666)
    with pytest.raises(TrustError, match="others than root can write it"):
        import_file(case.store, str(case.path), keyring=case.keyring)


def test_planted_gpg_is_not_run(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpg", "gpgv"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/planted\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GNUPGHOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    case.accepted()
    assert not (tmp_path / "planted").exists()


def test_no_gpgv(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyrun.errors import HostError

    monkeypatch.setattr(gpg, "GPGV", "/nonexistent/gpgv")
    with pytest.raises(HostError, match="not installed"):
        import_file(case.store, str(case.path), keyring=case.keyring)


GOOD = "[GNUPG:] GOODSIG 0123456789ABCDEF Somebody"
VALID = f"[GNUPG:] VALIDSIG {'A' * 40} 2026-01-01 1767225600 0 4 0 22 8 00 {'A' * 40}"


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (["[GNUPG:] NEWSIG", GOOD, VALID], ["good"]),
        ([GOOD, VALID], []),  # outside of any signature
        (["[GNUPG:] NEWSIG", VALID], [""]),
        (["[GNUPG:] NEWSIG", GOOD, GOOD, VALID], ["bad"]),
        (["[GNUPG:] NEWSIG", GOOD, VALID, VALID], ["bad"]),
        (["[GNUPG:] NEWSIG", "[GNUPG:] REVKEYSIG 01 x", VALID], ["key-revoked"]),
        (["[GNUPG:] NEWSIG", "[GNUPG:] ERRSIG 01 22 8 00 1 9 -", "[GNUPG:] NO_PUBKEY 01"], ["unknown-key"]),
        (["[GNUPG:] NEWSIG", "gpgv: " + GOOD, VALID], [""]),
        (["[GNUPG:] NEWSIG", "[GNUPG:] BADSIG 01 x [GNUPG:] GOODSIG 01 y"], ["bad"]),
        (["[GNUPG:] NEWSIG", GOOD, "[GNUPG:] VALIDSIG short"], ["good"]),
    ],
)
def test_status_lines(lines: list[str], kinds: list[str]) -> None:
    assert [report.kind for report in gpg.parse_status("\n".join(lines) + "\n")] == kinds
