"""ASCII armour of OpenPGP (RFC 4880 section 6.2) and the packet headers inside (section 4.2), read strictly.

gpgv is handed bytes that were taken apart here, so a file that some tool reads as a signed message
and another as a detached signature never reaches it: what is accepted is one or more blocks of one
kind with nothing around them, and for signatures nothing but signature packets within.
"""

from __future__ import annotations

import base64
import binascii

__all__ = ["ArmourError", "decode", "is_armoured", "public_keys", "signature_packets"]

MAX_KEYS = 16
MAX_SIGNATURES = 8
_MAX_BLOCKS = 8
_TAG_SIGNATURE = 2
_TAG_PUBLIC_KEY = 6
_TAGS_SECRET = (5, 7)
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


class ArmourError(ValueError):
    """The text is not armour of the wanted kind; `str()` says in a few words what it is instead."""


def is_armoured(data: bytes) -> bool:
    """Whether the first thing in `data` is the head line of some armour."""
    return data.lstrip().startswith(b"-----BEGIN PGP ")


def decode(data: bytes, kind: str) -> bytes:
    """The bytes of all armour blocks of one kind ("SIGNATURE", "PUBLIC KEY BLOCK"); ArmourError for anything else around them."""
    lines = [line.rstrip() for line in data.replace(b"\r\n", b"\n").split(b"\n")]
    out = bytearray()
    blocks = position = 0
    while position < len(lines):
        if not lines[position]:
            position += 1
            continue
        blocks += 1
        if blocks > _MAX_BLOCKS:
            raise ArmourError(f"more than {_MAX_BLOCKS} armour blocks")
        block, position = _block(lines, position, kind)
        out += block
    if not out:
        raise ArmourError("empty")
    return bytes(out)


def _block(lines: list[bytes], position: int, kind: str) -> tuple[bytes, int]:
    head = lines[position]
    if head != b"-----BEGIN PGP " + kind.encode() + b"-----":
        if head.startswith(b"-----BEGIN PGP ") and head.endswith(b"-----"):
            raise ArmourError(f"it is a PGP {head[15:-5].decode('ascii', 'replace').lower()}")
        raise ArmourError("text outside of the armour")
    position += 1
    while position < len(lines) and lines[position]:
        name, colon, _ = lines[position].partition(b": ")
        if not colon or not name.isalnum():
            raise ArmourError("no blank line after the armour's headers")
        position += 1
    body = bytearray()
    tail = b"-----END PGP " + kind.encode() + b"-----"
    ended = False
    for line in lines[position + 1 :]:
        position += 1
        if line == tail:
            return _payload(bytes(body)), position + 1
        if ended or not line or not _BASE64.issuperset(line):
            raise ArmourError("a damaged line in the armour")
        if line.startswith(b"="):
            ended = True
        else:
            body += line
    raise ArmourError("the end line is missing")


def _payload(body: bytes) -> bytes:
    # The checksum is not looked at: RFC 9580 section 6.1 forbids to refuse armour because of it.
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise ArmourError("damaged base64") from None


def signature_packets(data: bytes) -> int:
    """How many signature packets `data` is made of; ArmourError when there is anything else or there are too many."""
    position = count = 0
    while position < len(data):
        tag, start, length = _header(data, position)
        if tag != _TAG_SIGNATURE:
            raise ArmourError(f"an OpenPGP packet of type {tag} instead of a signature")
        position = start + length
        if position > len(data):
            raise ArmourError("a truncated packet")
        count += 1
        if count > MAX_SIGNATURES:
            raise ArmourError(f"more than {MAX_SIGNATURES} signatures")
    if not count:
        raise ArmourError("no signature")
    return count


def public_keys(data: bytes) -> list[bytes]:
    """The keys in some key packets (RFC 4880 section 11.1), each with what belongs to it; ArmourError for anything else, or too many."""
    starts: list[int] = []
    position = 0
    while position < len(data):
        tag, start, length = _header(data, position)
        if tag == _TAG_PUBLIC_KEY:
            starts.append(position)
        if not starts or tag in _TAGS_SECRET:
            raise ArmourError("it holds a secret key" if tag in _TAGS_SECRET else f"an OpenPGP packet of type {tag} instead of a key")
        position = start + length
    if position > len(data):
        raise ArmourError("a truncated packet")
    if not 0 < len(starts) <= MAX_KEYS:
        raise ArmourError("no key" if not starts else f"more than {MAX_KEYS} keys")
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _header(data: bytes, position: int) -> tuple[int, int, int]:
    """Tag, start of the body and its length, for the forms of definite length."""
    first = data[position]
    if not first & 0x80:
        raise ArmourError("not OpenPGP")
    if not first & 0x40:
        size = {0: 1, 1: 2, 2: 4}.get(first & 3)
        if size is None:
            raise ArmourError("a packet of indefinite length")
        field = data[position + 1 : position + 1 + size]
        if len(field) < size:
            raise ArmourError("a truncated packet")
        return (first >> 2) & 15, position + 1 + size, int.from_bytes(field, "big")
    field = data[position + 1 : position + 6]
    if not field:
        raise ArmourError("a truncated packet")
    if field[0] < 192:
        return first & 63, position + 2, field[0]
    if field[0] < 224 and len(field) >= 2:
        return first & 63, position + 3, ((field[0] - 192) << 8) + field[1] + 192
    if field[0] == 255 and len(field) == 5:
        return first & 63, position + 6, int.from_bytes(field[1:5], "big")
    raise ArmourError("a packet of indefinite length")
