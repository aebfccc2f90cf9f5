"""The two programs of GnuPG that do the cryptography, and what they say.

gpgv checks a detached signature against exactly the keys given to it; gpg lists what is in a key file.
Both run by absolute path with an empty environment and a private home that is deleted afterwards.
No verdict rests on an exit status or on text for people: gpgv's exit status is 0 for a signature by a
revoked or expired key, and not 0 for a good signature beside one of an unknown key.  What counts is the
status lines (GnuPG's doc/DETAILS), taken one signature at a time.
"""

from __future__ import annotations

import os
import subprocess

from pyrun.errors import HostError, TrustError
from pyrun.images.staging import Staging, write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["KeyInfo", "Report", "Subkey", "check", "show_keys"]

GPG = "/usr/bin/gpg"
GPGV = "/usr/bin/gpgv"
_TIMEOUT = 600  # seconds; far more than hashing the largest image needs
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
_ALGORITHMS = {1: "rsa", 2: "rsa", 3: "rsa", 16: "elgamal", 17: "dsa", 18: "ecdh", 19: "ecdsa", 22: "eddsa"}
_KINDS = {
    "GOODSIG": "good",
    "BADSIG": "bad",
    "EXPSIG": "expired",
    "EXPKEYSIG": "key-expired",
    "REVKEYSIG": "key-revoked",
    "ERRSIG": "error",
}
_MISSING_KEY, _BAD_DIGEST = "9", "5"  # reasons of ERRSIG


class Subkey:
    """A primary key or subkey: `validity` is gpg's letter, `created` and `expires` seconds since 1970 (0: never)."""

    __slots__ = ("bits", "created", "curve", "expires", "fingerprint", "family", "validity")

    def __init__(self, fields: Sequence[str]) -> None:
        self.validity = fields[1]
        self.bits = int(fields[2] or 0)
        self.family = _ALGORITHMS.get(int(fields[3] or 0), f"algorithm {fields[3]}")
        self.created = int(fields[5] or 0)
        self.expires = int(fields[6] or 0)
        self.curve = fields[16] if len(fields) > 16 else ""
        self.fingerprint = ""

    @property
    def algorithm(self) -> str:
        """Short name, as in ``ed25519`` or ``rsa4096``."""
        return self.curve or f"{self.family}{self.bits}"

    def weakness(self) -> str:
        """Why signatures of this key prove nothing; "" when they do."""
        if self.validity == "r":
            return "revoked"
        if self.validity == "e":
            return "expired"
        if self.validity in ("i", "d"):
            return "invalid"
        if self.family in ("rsa", "dsa", "elgamal") and self.bits < 2048:
            return f"too weak ({self.algorithm})"
        return ""


class KeyInfo:
    """A public key: `keys[0]` is the primary one, the rest its subkeys."""

    __slots__ = ("keys", "secret", "user_ids")

    def __init__(self, primary: Subkey, secret: bool) -> None:
        self.keys = [primary]
        self.user_ids: list[str] = []
        self.secret = secret

    @property
    def fingerprint(self) -> str:
        """Of the primary key, upper-case hex."""
        return self.keys[0].fingerprint

    @property
    def created(self) -> int:
        """Seconds since 1970."""
        return self.keys[0].created

    @property
    def expires(self) -> int:
        """Seconds since 1970; 0 means never."""
        return self.keys[0].expires

    @property
    def algorithm(self) -> str:
        """Of the primary key, as in ``ed25519``."""
        return self.keys[0].algorithm

    def weakness(self, fingerprint: str = "") -> str:
        """Why the primary key, or the subkey of that fingerprint, is not to be trusted; "" when it is."""
        reason = self.keys[0].weakness()
        for key in self.keys[1:]:
            if key.fingerprint == fingerprint:
                reason = reason or key.weakness()
        return reason


class Report:
    """What gpgv says on one signature of a file; `kind` is a value of `_KINDS`, "unknown-key", "weak" or "" (nothing said)."""

    __slots__ = ("created", "digest", "fingerprint", "keyid", "kind", "sigclass", "signer")

    def __init__(self) -> None:
        self.kind = ""
        self.keyid = ""  # long id, or the full fingerprint where the signature carries one
        self.fingerprint = ""  # of the primary key
        self.signer = ""  # of the key or subkey that signed
        self.created = 0
        self.digest = 0
        self.sigclass = ""


def show_keys(root: str, data: bytes, what: str) -> list[KeyInfo]:
    """The keys in an armoured or binary key file; TrustError when gpg cannot read it, HostError without gpg."""
    with Staging(root, "gpg") as home:
        command = [GPG, "--no-options", "--batch", "--no-tty", "--quiet", "--no-autostart", "--homedir", home.path]
        command += ["--with-colons", "--with-fingerprint", "--with-fingerprint", "--show-keys"]
        done = _run(command, home.path, stdin=data, pass_fds=())
    keys = _parse_keys(done.stdout.decode("utf-8", "replace"))
    if not keys:
        raise TrustError("read key", what, "no OpenPGP public key in it", hint="export one with: gpg --armor --export FINGERPRINT > FILE")
    return keys


def _parse_keys(listing: str) -> list[KeyInfo]:
    keys: list[KeyInfo] = []
    for line in listing.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sec"):
            keys.append(KeyInfo(Subkey(fields), fields[0] == "sec"))
        elif not keys:
            continue
        elif fields[0] in ("sub", "ssb"):
            keys[-1].keys.append(Subkey(fields))
        elif fields[0] == "fpr" and not keys[-1].keys[-1].fingerprint:
            keys[-1].keys[-1].fingerprint = fields[9].upper()
        elif fields[0] == "uid":
            keys[-1].user_ids.append(_unescape(fields[9]))
    return keys


def _unescape(text: str) -> str:
    """A user id of a colon listing, where bytes are written ``\\x3a``."""
    head, *tail = text.split("\\x")
    out = bytearray(head.encode())
    for piece in tail:
        try:
            out.append(int(piece[:2], 16))
        except ValueError:
            out += b"\\x" + piece[:2].encode()
        out += piece[2:].encode()
    return out.decode("utf-8", "replace")


def check(root: str, keyring: bytes, signature: bytes, data_fd: int) -> list[Report]:
    """What gpgv says on each signature over the bytes behind `data_fd` (a file, read from its start); HostError without gpgv."""
    with Staging(root, "gpg") as home:
        write_file(f"{home.path}/keys.gpg", keyring)
        write_file(f"{home.path}/data.sig", signature)
        status = os.memfd_create("status", os.MFD_CLOEXEC)
        try:
            command = [GPGV, "--homedir", home.path, "--quiet", "--weak-digest", "SHA1", "--weak-digest", "RIPEMD160"]
            command += ["--status-fd", str(status), "--keyring", f"{home.path}/keys.gpg"]
            command += [f"{home.path}/data.sig", f"/proc/self/fd/{data_fd}"]
            done = _run(command, home.path, stdin=b"", pass_fds=(status, data_fd))
            text = os.pread(status, 1 << 20, 0).decode("utf-8", "replace")
        finally:
            os.close(status)
    if not text.startswith("[GNUPG:] "):
        reason = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise TrustError("run", GPGV, reason[-1] if reason else f"exit status {done.returncode} and nothing said")
    return parse_status(text)


def parse_status(text: str) -> list[Report]:
    """Status lines as one report for each signature; a signature that is reported on twice counts as bad."""
    reports: list[Report] = []
    for line in text.split("\n"):
        words = line.split(" ")
        if words[0] != "[GNUPG:]" or len(words) < 2:
            continue
        token, rest = words[1], words[2:]
        if token == "NEWSIG":
            reports.append(Report())
        elif reports and token in _KINDS and rest:
            reports[-1].kind = "bad" if reports[-1].kind else _KINDS[token]
            reports[-1].keyid = rest[0]
            if token == "ERRSIG" and len(rest) >= 6:
                reports[-1].kind = {_MISSING_KEY: "unknown-key", _BAD_DIGEST: "weak"}.get(rest[5], reports[-1].kind)
                if len(rest) >= 7 and rest[6] != "-":
                    reports[-1].keyid = rest[6]
        elif reports and token == "VALIDSIG" and len(rest) >= 10:
            _valid(reports[-1], rest)
    return reports


def _valid(report: Report, fields: Sequence[str]) -> None:
    if report.fingerprint or not (fields[2].isdigit() and fields[7].isdigit()):
        report.kind = "bad"
        return
    report.signer = fields[0].upper()
    report.created = int(fields[2])
    report.digest = int(fields[7])
    report.sigclass = fields[8]
    report.fingerprint = fields[9].upper()


def _run(command: list[str], home: str, *, stdin: bytes, pass_fds: Sequence[int]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            env={**_ENVIRONMENT, "HOME": home, "GNUPGHOME": home},
            cwd="/",
            pass_fds=pass_fds,
            timeout=_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        package = "gpgv" if command[0] == GPGV else "gpg"
        raise HostError("run", command[0], "not installed", hint=f"install it, on Debian: apt install {package}") from None
    except subprocess.TimeoutExpired:
        raise HostError("run", command[0], f"no answer within {_TIMEOUT} seconds") from None
