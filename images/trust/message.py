"""Signed messages of OpenPGP (RFC 4880 section 11.3), taken apart: what was signed, and its signature as a detached one.

    [compressed data [] one-pass signature, literal data, signature []]

That is what skopeo and podman write for an image.  Programs that verify such messages have been talked into
showing other bytes than those that were signed; here there is exactly one way to read one, and gpgv gets two
files, as for any detached signature: the hash over literal data is the one over a file (section 5.2.4).
"""

from __future__ import annotations

import bz2
import zlib
from typing import Any

from pyrun.images.trust import armour
from pyrun.images.trust.armour import ArmourError

__all__ = ["take_apart"]

MAX_SIGNED = 256 << 10  # bytes; what skopeo signs is a few hundred
_COMPRESSED, _ONE_PASS, _LITERAL, _SIGNATURE = 8, 4, 11, 2


def take_apart(data: bytes) -> tuple[bytes, bytes]:
    """The bytes that were signed and one signature packet over them; ArmourError for anything else than one signed message."""
    if armour.is_armoured(data):
        data = armour.decode(data, "MESSAGE")
    packets = _packets(data)
    if [tag for tag, _ in packets] == [_COMPRESSED]:
        packets = _packets(_inflate(packets[0][1]))
    if [tag for tag, _ in packets] != [_ONE_PASS, _LITERAL, _SIGNATURE]:
        kinds = ", ".join(str(tag) for tag, _ in packets[:4]) or "none"
        raise ArmourError(f"not a message with one signature (packets of type {kinds})")
    literal, signature = packets[1][1], packets[2][1]
    start = 6 + (literal[1] if len(literal) > 1 else 0)  # format, name with its length, date
    if len(literal) < start or literal[:1] != b"b":
        raise ArmourError("the signed data is not marked as binary")
    return literal[start:], bytes((0xC0 | _SIGNATURE, 0xFF)) + len(signature).to_bytes(4, "big") + signature


def _packets(data: bytes) -> list[tuple[int, bytes]]:
    """Packets as (tag, body); few are looked for, so more than a few are refused."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        first = data[position]
        if not first & 0x80 or len(found) == 4:
            raise ArmourError("not OpenPGP" if not first & 0x80 else "more packets than a signed message has")
        read = _new_body if first & 0x40 else _old_body
        body, position = read(data, position)
        found.append((first & 63 if first & 0x40 else (first >> 2) & 15, body))
    return found


def _old_body(data: bytes, position: int) -> tuple[bytes, int]:
    size = (1, 2, 4, 0)[data[position] & 3]
    if not size:  # up to the end, which gpg writes for compressed data
        return data[position + 1 :], len(data)
    return _piece(data, position + 1 + size, int.from_bytes(data[position + 1 : position + 1 + size], "big"))


def _new_body(data: bytes, position: int) -> tuple[bytes, int]:
    body = b""
    position += 1
    while True:
        field = data[position : position + 5]
        if not field:
            raise ArmourError("a truncated packet")
        if 224 <= field[0] < 255:  # one part of several; the last has a length of another form
            piece, position = _piece(data, position + 1, 1 << (field[0] & 31))
            body += piece
            continue
        if field[0] < 192:
            piece, position = _piece(data, position + 1, field[0])
        elif field[0] < 224:
            piece, position = _piece(data, position + 2, ((field[0] - 192) << 8) + (field[1] if len(field) > 1 else 0) + 192)
        else:
            piece, position = _piece(data, position + 5, int.from_bytes(field[1:], "big"))
        return body + piece, position


def _piece(data: bytes, start: int, length: int) -> tuple[bytes, int]:
    if start + length > len(data):
        raise ArmourError("a truncated packet")
    return data[start : start + length], start + length


def _inflate(body: bytes) -> bytes:
    kind, data = body[:1], body[1:]
    if kind == b"\0":
        return data
    decoders: dict[bytes, Any] = {b"\1": zlib.decompressobj(-15), b"\2": zlib.decompressobj(), b"\3": bz2.BZ2Decompressor()}
    decoder = decoders.get(kind)
    if decoder is None:
        raise ArmourError(f"data compressed in a way that is not known ({kind.hex() or 'none'})")
    try:
        out: bytes = decoder.decompress(data, MAX_SIGNED + 1)
    except (zlib.error, OSError, ValueError, EOFError):
        raise ArmourError("damaged compressed data") from None
    if len(out) > MAX_SIGNED:
        raise ArmourError(f"more than {MAX_SIGNED >> 10} KiB of signed data")
    if not decoder.eof or decoder.unused_data:
        raise ArmourError("compressed data that does not end where it should")
    return out
