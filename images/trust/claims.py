"""What a signature says: which manifest, by digest, goes by which name.

    {"critical": {"type": "atomic container signature",                  containers-signature(5), inside OpenPGP
                  "image": {"docker-manifest-digest": "sha256:..."},     the same with cosign's type: cosign's
                  "identity": {"docker-reference": "host/name:tag"}},    SIGNATURE_SPEC.md, "Simple Signing"
     "optional": {"creator": "...", "timestamp": 1458239713}}

    {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": "..."}}],   in a sigstore bundle:
     "predicateType": "https://sigstore.dev/cosign/sign/v1", "predicate": {}}                  no name at all

Read after the signature was found good, and strictly: every member in its place, none besides.
"""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn

from pyrun.errors import ImageError, SignatureError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.images.store import is_digest

__all__ = ["ATOMIC", "COSIGN", "Claim", "matches", "parse", "statement_digests"]

ATOMIC = "atomic container signature"
COSIGN = "cosign container image signature"
MAX_PAYLOAD = 256 << 10
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_SIGN = "https://sigstore.dev/cosign/sign/v1"


class Claim:
    """The digest (``sha256-<hex>``) of a manifest and the name that it was signed under, as written."""

    __slots__ = ("digest", "reference")

    def __init__(self, digest: str, reference: str) -> None:
        self.digest = digest
        self.reference = reference


def parse(payload: bytes, kind: str) -> Claim:
    """The claim in a payload of a kind, `ATOMIC` or `COSIGN`; SignatureError for anything else."""
    document = _object(_loads(payload), "the payload", {"critical", "optional"})
    critical = _object(document["critical"], "critical", {"type", "image", "identity"})
    if critical["type"] != kind:
        _refuse(f"its type is {_shown(critical['type'])}, not {kind}")
    digest = _object(critical["image"], "critical.image", {"docker-manifest-digest"})["docker-manifest-digest"]
    reference = _object(critical["identity"], "critical.identity", {"docker-reference"})["docker-reference"]
    spelled = digest.replace(":", "-", 1) if isinstance(digest, str) else ""
    if not is_digest(spelled) or digest == spelled:
        _refuse(f"{_shown(digest)} is not a digest")
    if not isinstance(reference, str) or not reference:
        _refuse("it names no image")
    _check_optional(document["optional"], kind)
    return Claim(spelled, reference)


def _check_optional(optional: Any, kind: str) -> None:
    if optional is None and kind == COSIGN:
        return  # what cosign writes where nothing is to be said
    if not isinstance(optional, dict):
        _refuse("optional is not an object")
    whole = int if kind == ATOMIC else (int, float)
    for name, type_ in (("creator", str), ("timestamp", whole)):
        if name in optional and (not isinstance(optional[name], type_) or isinstance(optional[name], bool)):
            _refuse(f"optional.{name} is not as it should be")


def statement_digests(payload: bytes) -> list[str]:
    """The digests (``sha256-<hex>``) that an in-toto statement signs as images; SignatureError where it says something else of them."""
    document = _loads(payload)
    if not isinstance(document, dict) or document.get("_type") not in _STATEMENTS:
        _refuse("it is no in-toto statement")
    if document.get("predicateType") != _SIGN:
        _refuse(f"it attests {_shown(document.get('predicateType'))}, which is no signature of an image")
    subjects = document.get("subject")
    if not isinstance(subjects, list) or not 0 < len(subjects) <= 64:
        _refuse("it has no subject")
    found = []
    for subject in subjects:
        digests = subject.get("digest") if isinstance(subject, dict) else None
        value = digests.get("sha256") if isinstance(digests, dict) else None
        if not isinstance(value, str) or not is_digest(f"sha256-{value}"):
            _refuse("its subject has no sha256 digest")
        found.append(f"sha256-{value}")
    return found


def matches(digest: str, document: bytes) -> bool:
    """Whether a manifest has a digest, whichever algorithm that uses."""
    algorithm, _, digits = digest.partition("-")
    return hashlib.new(algorithm, document).hexdigest() == digits


def _loads(payload: bytes) -> Any:
    try:
        return strictjson.loads(payload, what="payload", limit=MAX_PAYLOAD)
    except ImageError as error:
        _refuse(error.reason or str(error))


def _object(value: Any, where: str, members: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{where} is not an object")
    for name in [*sorted(members - value.keys()), *sorted(value.keys() - members)]:
        _refuse(f"{where} has {'no' if name in members else 'an unknown'} member {printable(name, 60)}")
    return value


def _shown(value: Any) -> str:
    return f'"{printable(value, 80)}"' if isinstance(value, str) else "nothing that is text"


def _refuse(reason: str) -> NoReturn:
    raise SignatureError("read signature", "", f"what was signed is not about an image: {reason}", hint="sign the image again")
