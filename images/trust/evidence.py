"""Signatures as they were found, before anybody believes them; kept beside an image's manifest to be judged again.

blobs/<alg>/<hex>.asc     JSON: [{"kind": "openpgp", "data": BASE64}, {"kind": "cosign", "data": ..., "signature": ...}, ...]
"""

from __future__ import annotations

import base64

from pyrun.errors import SignatureError
from pyrun.images import fastjson
from pyrun.images.trust import armour

__all__ = ["Attached", "Collection", "decode", "encode", "join", "of_file"]

MAX_COUNT = 64
MAX_BYTES = 4 << 20
OPENPGP, COSIGN, BUNDLE = "openpgp", "cosign", "bundle"


class Attached:
    """One signature: `data` is a signed message of OpenPGP, a payload that cosign signed with `signature`, or a sigstore bundle."""

    __slots__ = ("data", "kind", "signature")

    def __init__(self, kind: str, data: bytes, signature: bytes = b"") -> None:
        self.kind = kind
        self.data = data
        self.signature = signature


class Collection:
    """Signatures as they are gathered, each once; `notes` says what else was found and why it does not count."""

    __slots__ = ("_seen", "_size", "found", "notes")

    def __init__(self) -> None:
        self.found: list[Attached] = []
        self.notes: list[str] = []
        self._seen: set[tuple[str, bytes, bytes]] = set()
        self._size = 0

    def add(self, one: Attached) -> None:
        """Takes one more; SignatureError beyond 64 or 4 MiB (D10)."""
        key = (one.kind, one.data, one.signature)
        if key in self._seen:
            return
        self._size += len(one.data) + len(one.signature)
        if len(self.found) == MAX_COUNT or self._size > MAX_BYTES:
            hint = "ask who runs the registry to remove some"
            raise SignatureError("read signatures", "", f"more than {MAX_COUNT} of them, or than {MAX_BYTES >> 20} MiB", hint=hint)
        self._seen.add(key)
        self.found.append(one)


def join(kept: list[Attached], more: list[Attached]) -> list[Attached]:
    """What is kept and what comes, each once, up to the bounds of a `Collection`."""
    found = Collection()
    for one in [*kept, *more]:
        try:
            found.add(one)
        except SignatureError:
            break
    return found.found


def of_file(data: bytes, what: str) -> Attached:
    """The signature in a file that somebody named: a signed message of OpenPGP or a sigstore bundle; SignatureError else."""
    if data.lstrip().startswith(b"{"):
        return Attached(BUNDLE, data)
    if data[:1] and (data[0] & 0x80 or armour.is_armoured(data)):
        return Attached(OPENPGP, data)
    hint = "of OCI and Docker images these are what skopeo standalone-sign writes, and sigstore bundles"
    raise SignatureError("read signature", what, "neither a signed message of OpenPGP nor a sigstore bundle", hint=hint)


def encode(found: list[Attached]) -> bytes:
    """Signatures as they are kept."""
    return fastjson.dumps([{"kind": one.kind, "data": _text(one.data), "signature": _text(one.signature)} for one in found]).encode()


def decode(data: bytes) -> list[Attached]:
    """The reverse; ValueError for anything else."""
    value = fastjson.loads(data)
    if not isinstance(value, list):
        raise ValueError("not a list")
    try:
        return [Attached(str(one["kind"]), base64.b64decode(one["data"]), base64.b64decode(one["signature"])) for one in value]
    except (TypeError, KeyError):
        raise ValueError("not signatures") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
