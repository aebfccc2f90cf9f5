"""JSON as every reader must understand it: what two parsers could read differently is refused.

RFC 8259 leaves duplicate members, NaN, byte order marks and lone surrogates to the implementation, and Go
matches member names without regard to case; a signed manifest must not mean one thing to one tool and
another to the next.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from pyrun.errors import ManifestError
from pyrun.images.printable import printable

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_NODES = 100_000

# One whole string.  Possessive and anchored at the end of input as well, so that hostile quoting stays linear.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")
_HINT = "write the document with a standard JSON encoder"


def loads(data: bytes, *, what: str, case_twins: str = "refuse", limit: int = MAX_BYTES) -> object:
    """Parses one JSON document; ManifestError names `what` when any reader could take it otherwise.

    Refused: more than `limit` bytes, depth over 64, over 100,000 values, a byte order mark, bytes that are not UTF-8,
    duplicate members, numbers that are not finite, lone surrogates, anything after the document.  Members
    that differ only in case are refused too unless `case_twins` is "allow" (for maps with free keys).
    """
    _measure(data, what, limit)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        _refuse(what, f"byte {exc.start} is not UTF-8", "save the document as UTF-8")
    fold = case_twins == "refuse"
    try:
        return _decoder(what, fold).decode(text)
    except json.JSONDecodeError as exc:
        _refuse(what, f"line {exc.lineno} column {exc.colno}: {exc.msg[:1].lower()}{exc.msg[1:]}")
    except RecursionError:
        _refuse(what, f"nested deeper than {MAX_DEPTH}", "flatten the document")
    except ValueError as exc:  # an integer beyond the interpreter's digit limit
        _refuse(what, f"a number has too many digits ({str(exc).split(';')[0].lower()})")


def _measure(data: bytes, what: str, limit: int) -> None:
    """Bounds the work of parsing before any of it is done; the byte scan below runs in C."""
    if len(data) > limit:
        _refuse(what, f"{len(data)} bytes, more than {limit} allowed", "manifests hold metadata, move bulk data into the rootfs")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        _refuse(what, "begins with a byte order mark", "save the document as UTF-8 without a byte order mark")
    bare = _STRING.sub(b"", data)
    brackets = bare.translate(None, _NOT_BRACKETS)
    # Every value follows a comma or an opening bracket, or is the document itself.
    if bare.count(b",") + brackets.count(b"[") + brackets.count(b"{") >= MAX_NODES:
        _refuse(what, f"more than {MAX_NODES} values", "manifests hold metadata, move bulk data into the rootfs")
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            _refuse(what, f"nested deeper than {MAX_DEPTH}", "flatten the document")
        if depth < 0:
            break  # malformed: the parser says where
    if b"\\u" in data:
        _check_surrogates(data, what)


def _check_surrogates(data: bytes, what: str) -> None:
    """Refuses a lone half of a surrogate pair, which cannot be written out as UTF-8 again."""
    for string in _STRING.findall(data):
        if b"\\u" not in string or not string.endswith(b'"'):
            continue
        try:
            json.loads(string, strict=False).encode("utf-8")
        except UnicodeEncodeError:
            _refuse(what, f"the string {printable(string, 40)} holds half a surrogate pair", "write the character itself in UTF-8")
        except ValueError:
            continue  # malformed: the real parse says where


def _decoder(what: str, fold: bool) -> json.JSONDecoder:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            _refuse(what, f"member {_twin([k for k, _ in pairs])} occurs twice in one object", "keep one of them")
        if fold and len({k.casefold() for k in result}) != len(result):
            _refuse(
                what,
                f"member {_twin([k.casefold() for k in result])} occurs twice, in different case",
                "some readers ignore case: keep one",
            )
        return result

    def constant(name: str) -> NoReturn:
        _refuse(what, f"{name} is not a JSON number", "write a finite number")

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            _refuse(what, f"the number {printable(text, 40)} is out of range", "write a finite number")
        return value

    return json.JSONDecoder(object_pairs_hook=members, parse_constant=constant, parse_float=number)


def _twin(keys: list[str]) -> str:
    seen: set[str] = set()
    return next(repr(printable(k, 60)) for k in keys if k in seen or seen.add(k))  # type: ignore[func-returns-value]


def _refuse(what: str, reason: str, hint: str = _HINT) -> NoReturn:
    raise ManifestError(f"read {what}", "", reason, hint=hint)
