"""Rules for JSON values: small functions that look at one value, and those that put them together.

A rule raises `Bad`; whatever holds the value puts its own name in front on the way out, so that a path like
``linux.namespaces[2].path`` is only made when there is something to say.  Members that are not in a table are
ignored (runtime-spec config.md, "Extensibility"), those that are null have been dropped by the reader.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Rule = Callable[[Any], None]

__all__ = ["Bad", "absolute", "array", "boolean", "choice", "filled", "integer", "mapping", "record", "text"]

INT64 = (-(1 << 63), (1 << 63) - 1)
UINT64 = (0, (1 << 64) - 1)
UINT32 = (0, (1 << 32) - 1)

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "an integer", float: "a number with a fraction"}


class Bad(Exception):
    """A broken rule: where (grows from the inside out), why, and what to do about it."""

    def __init__(self, reason: str, hint: str = "", where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.where = where

    def inside(self, name: str) -> Bad:
        """Put the name of what holds the value in front of its path."""
        joint = "" if not self.where or self.where[0] == "[" else "."
        self.where = f"{name}{joint}{self.where}"
        return self


def _wrong(value: object, wanted: str) -> Bad:
    return Bad(f"must be {wanted}, not {_KINDS.get(type(value), 'this')}")


def text(value: object) -> None:
    """A string that the kernel can be given: without NUL, and valid UTF-8."""
    if type(value) is not str:
        raise _wrong(value, "a string")
    if "\0" in value:
        raise Bad("holds a NUL character", "the kernel would end the string there")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Bad("holds half a surrogate pair", "write the character itself in UTF-8") from None


def filled(value: object) -> None:
    """A string that is not empty."""
    text(value)
    if not value:
        raise Bad("must not be empty")


def absolute(value: object) -> None:
    """An absolute path."""
    text(value)
    assert isinstance(value, str)
    if not value.startswith("/"):
        raise Bad(f"{value!r} is not an absolute path", "let it begin with /")


def boolean(value: object) -> None:
    """true or false."""
    if type(value) is not bool:
        raise _wrong(value, "a boolean")


def integer(low: int, high: int) -> Rule:
    """A whole number within bounds, both included."""

    def rule(value: object) -> None:
        if type(value) is not int:
            raise _wrong(value, "an integer")
        if not low <= value <= high:
            raise Bad(f"{value} is out of range", f"from {low} to {high}")

    return rule


def choice(*words: str, absent: str = "", what: str = "") -> Rule:
    """One of some words; `absent` lists those that the spec knows and this runtime cannot do, `what` begins the reason."""
    known = frozenset(words)
    missing = frozenset(absent.split())

    def rule(value: object) -> None:
        if type(value) is not str:
            raise _wrong(value, "a string")
        if value in known:
            return
        if value in missing:
            raise Bad(f"{value} is not supported", f"one of {', '.join(words)}")
        raise Bad(f"{what}{value!r} is unknown", f"one of {', '.join(words)}")

    return rule


def array(rule: Rule, *, least: int = 0, also: Rule | None = None) -> Rule:
    """A list whose items all keep `rule`, and that itself keeps `also`."""

    def check(value: object) -> None:
        if type(value) is not list:
            raise _wrong(value, "an array")
        if len(value) < least:
            raise Bad(f"must have at least {least} item{'s' if least > 1 else ''}")
        for at, item in enumerate(value):
            try:
                rule(item)
            except Bad as bad:
                raise bad.inside(f"[{at}]") from None
        if also is not None:
            also(value)

    return check


def mapping(rule: Rule, key: Rule = filled) -> Rule:
    """An object with free member names."""

    def check(value: object) -> None:
        if type(value) is not dict:
            raise _wrong(value, "an object")
        for name, item in value.items():
            try:
                key(name)
                rule(item)
            except Bad as bad:
                raise bad.inside(name if name and name.replace("_", "").isalnum() else f"[{name!r}]") from None

    return check


def record(fields: dict[str, Rule], *required: str, also: Rule | None = None) -> Rule:
    """An object with known members, some of which must be there; `also` looks at them together."""

    def check(value: object) -> None:
        if type(value) is not dict:
            raise _wrong(value, "an object")
        for name, item in value.items():
            rule = fields.get(name)
            if rule is not None:
                try:
                    rule(item)
                except Bad as bad:
                    raise bad.inside(name) from None
        for name in required:
            if name not in value:
                raise Bad("is required", where=name)
        if also is not None:
            also(value)

    return check
