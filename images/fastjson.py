"""JSON for the hot path: the interpreter's own C scanner and encoder without package `json`.

Package `json` costs about a millisecond to import because it brings `re`.  The C parts that do the
work are importable by themselves; they only want an object with the options of a decoder.  The text
read by `loads` was written by pyrun, that by `strict` by whoever made an OCI bundle; images' own JSON goes through
`pyrun.images.strictjson`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BLANK = " \t\n\r"


class _Options:
    """What the C scanner reads from a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None  # since Python 3.15
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> object:
        raise ValueError(f"{name} is not JSON")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """One object of a document that others wrote: members that are null count as absent, two of one name are refused."""
    made = {name: value for name, value in pairs if value is not None}
    if len(made) != len(pairs) and len({name for name, _ in pairs}) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"member {next(name for name in names if names.count(name) > 1)!r} occurs twice in one object")
    return made


class _Strict(_Options):
    object_pairs_hook = staticmethod(_members)  # type: ignore[assignment]  # the base class has none


def _default(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _slow_scan(text: str, start: int) -> tuple[object, int]:
    import json

    return json.JSONDecoder(parse_constant=_Options.parse_constant).raw_decode(text, start)


def _slow_strict(text: str, start: int) -> tuple[object, int]:
    import json

    return json.JSONDecoder(parse_constant=_Options.parse_constant, object_pairs_hook=_members).raw_decode(text, start)


def _slow_dumps(value: object) -> str:
    import json

    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _slow_quote(text: str) -> str:
    import json

    return json.dumps(text)


_scan: Callable[[str, int], tuple[object, int]] = _slow_scan
_scan_strict: Callable[[str, int], tuple[object, int]] = _slow_strict
_encode: Callable[[object, int], tuple[str, ...]] | None = None
quote: Callable[[str], str] = _slow_quote
try:
    import _json

    _scan = _json.make_scanner(_Options)  # type: ignore[arg-type]  # it takes any object with these attributes
    _scan_strict = _json.make_scanner(_Strict)  # type: ignore[arg-type]
    quote = _json.encode_basestring_ascii
    _encode = _json.make_encoder(None, _default, quote, None, ":", ",", False, False, False)
except (ImportError, AttributeError):  # an interpreter built without the accelerator
    pass


def loads(text: str | bytes) -> object:
    """The value of one JSON document; ValueError when it is anything else (also when it nests too deep)."""
    return _load(text, _scan)


def strict(text: bytes) -> object:
    """The value of a document that others wrote: without members that are null; ValueError also when a member occurs twice."""
    return _load(text, _scan_strict)


def _load(text: str | bytes, scan: Callable[[str, int], tuple[object, int]]) -> object:
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"no JSON value at character {stop.value}") from None
    except RecursionError:
        raise ValueError("JSON nests too deep") from None
    except SystemError:  # the C scanner fails without words where package json, whose error it would raise, is not loaded
        value, end = _slow_scan(text, start)
    if text[end:].strip(_BLANK):
        raise ValueError(f"text after the JSON value at character {end}")
    return value


def dumps(value: object) -> str:
    """One line of pure ASCII JSON without blanks; TypeError or ValueError for what JSON cannot say."""
    if _encode is None:
        return _slow_dumps(value)
    return "".join(_encode(value, 0))


def text(record: dict[str, object], member: str) -> str:
    """The member of an object, a string that is not empty; ValueError names it otherwise."""
    value = record.get(member)
    if not isinstance(value, str) or not value:
        raise ValueError(member)
    return value


def number(record: dict[str, object], member: str) -> int:
    """The member of an object, a whole number from 0 on; ValueError names it otherwise."""
    value = record.get(member)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(member)
    return value


def texts(record: dict[str, object], member: str) -> dict[str, str]:
    """The member of an object, an object of strings; ValueError names it otherwise."""
    value = record.get(member)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(member)
    return value
