"""Key and signature files: bounded reading, and the spelling of what identifies keys."""

from __future__ import annotations

import os
import stat

from pyrun.errors import SignatureError, TrustError
from pyrun.images import trust
from pyrun.images.store import is_digest
from pyrun.images.trust import armour
from pyrun.images.types import is_identifier

HOW_TO_SIGN = "make one with: gpg --armor --detach-sign IMAGE"
HOW_TO_EXPORT = "export it with: gpg --armor --export FINGERPRINT > FILE"
SEE_KEYS = "see the keys with: pyrun trust list"

MAX_KEY = 1 << 20
MAX_SIGNATURE = 64 << 10
_MAX_PREFIX = 150  # it becomes a file name


def check_prefix(prefix: str | None) -> str:
    """A prefix without its trailing slash, "" for None; TrustError unless it could begin an image's name."""
    if prefix is None:
        return ""
    plain = prefix[:-1] if prefix.endswith("/") else prefix
    if not (is_identifier(plain) or _is_registry(plain)) or len(plain) > _MAX_PREFIX:
        raise TrustError(
            "trust key for", prefix, "no image's name begins like that", hint="as in example.com/team: lower case, no scheme, no version"
        )
    return plain


def _is_registry(text: str) -> bool:
    """Whether it is a registry, with a port if need be, or a repository there."""
    from pyrun.images.trust.identity import parse

    found = parse(text if "/" in text else f"{text}/x")
    return found is not None and found.is_bare and found.name == (text if "/" in text else f"{text}/x")


def check_origin(origin: str) -> str:
    """Where images may come from unsigned: a name in a registry, an absolute path, an https URL; TrustError for anything else."""
    if "://" in origin and not origin.startswith("docker://"):
        place = trust.web_place(origin)
        if not place or trust.is_shortened(place) or "?" in origin:
            reason = "too long" if place and trust.is_shortened(place) else "not https, or no plain path"
            raise TrustError("accept", origin, reason, hint="write https://HOST, or https://HOST/PATH of a file or of those below it")
        return place
    if origin.startswith("/"):
        plain = os.path.realpath(origin)
        if plain == "/" or trust.is_shortened(plain):
            hint = "name the directory or file that the images are in"
            raise TrustError("accept", origin, "that is everything" if plain == "/" else "too long a path", hint=hint)
        return plain
    return check_prefix(origin.removeprefix("docker://"))


def is_entry(name: str) -> bool:
    """Whether a file of a trust tree is named as it should be: by a fingerprint of either kind, or as the mark of an origin."""
    return is_fingerprint(name) or name == trust.UNSIGNED or (name.startswith("sha256-") and is_digest(name))


def is_fingerprint(text: str) -> bool:
    """Whether `text` is a full fingerprint of OpenPGP as file names and records spell it."""
    return len(text) in (40, 64) and frozenset("0123456789ABCDEF").issuperset(text)


def normal_fingerprint(text: str) -> str:
    """A fingerprint or long key id typed by a person: no blanks, no 0x, upper case; TrustError when it is too short or not hex."""
    plain = "".join(text.split()).upper().removeprefix("0X").removeprefix("SHA256").lstrip("-:")
    if len(plain) < 16 or not frozenset("0123456789ABCDEF").issuperset(plain):
        raise TrustError("read fingerprint", text, "not 16 hex digits or more", hint=SEE_KEYS)
    return plain


def read_signature(signature: str | bytes, what: str) -> bytes:
    """The signature packets of an armoured detached signature, given as text or path; SignatureError when it is anything else."""
    if isinstance(signature, bytes):
        data = signature
    else:
        try:
            data = read_bounded(signature, MAX_SIGNATURE, "signature")
        except TrustError as error:
            raise SignatureError(error.step, error.subject, error.reason, errno=error.errno, hint=error.hint or HOW_TO_SIGN) from None
    subject = what if isinstance(signature, bytes) else signature
    if len(data) > MAX_SIGNATURE:
        raise SignatureError("read signature", subject, f"more than {MAX_SIGNATURE >> 10} KiB", hint=HOW_TO_SIGN)
    if not armour.is_armoured(data):
        binary = bool(data) and data[0] & 0x80
        raise SignatureError("read signature", subject, "not ascii-armoured" + (" but binary" if binary else ""), hint=HOW_TO_SIGN)
    try:
        packets = armour.decode(data, "SIGNATURE")
        armour.signature_packets(packets)
    except armour.ArmourError as error:
        raise SignatureError("read signature", subject, f"not a detached signature: {error}", hint=HOW_TO_SIGN) from None
    return packets


def dearmour(data: bytes, what: str) -> bytes:
    """A public key block as bytes, whether it was armoured or not; TrustError for a secret one or damaged armour."""
    if not armour.is_armoured(data):
        return data
    try:
        return armour.decode(data, "PUBLIC KEY BLOCK")
    except armour.ArmourError as error:
        raise TrustError("read key", what, f"not a public key: {error}", hint=HOW_TO_EXPORT) from None


def read_key(path: str, *, owned: bool = False) -> bytes:
    """A key file as it is; TrustError as `read_bounded`."""
    return read_bounded(path, MAX_KEY, "key", owned=owned)


def read_bounded(path: str, limit: int, what: str, *, owned: bool = False) -> bytes:
    """A small regular file; TrustError when it is missing, larger than `limit` bytes, special, or (`owned`) writable by others."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (os.O_NOFOLLOW if owned else 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise TrustError(f"read {what}", path, errno=error.errno or 0, hint="check the path") from None
    try:
        info = os.fstat(fd)
        if owned:
            trust.check_owner(path, info)
        if not stat.S_ISREG(info.st_mode):
            raise TrustError(f"read {what}", path, "not a regular file", hint=f"give the file that holds the {what}")
        data = b""
        while len(data) <= limit and (piece := os.read(fd, limit + 1 - len(data))):
            data += piece
    except OSError as error:
        raise TrustError(f"read {what}", path, errno=error.errno or 0) from None
    finally:
        os.close(fd)
    if len(data) > limit:
        raise TrustError(f"read {what}", path, f"more than {limit >> 10} KiB", hint=f"that is no {what}")
    return data
