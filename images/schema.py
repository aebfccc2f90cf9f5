"""Reading one JSON object member by member, with the path of everything that is wrong.

Rules that hold for every App Container document: member names match without regard to case, as in the
reference's Go (TYP-09); unknown members are kept and ignored (TYP-10); null stands for an absent member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from pyrun.errors import ManifestError
from pyrun.images.printable import printable

T = TypeVar("T")
Check = Callable[[str], object]

UINT32_IDS = (1 << 32) - 2  # the largest user or group id, (uid_t) -1 means "none"


def fail(path: str, reason: str, hint: str) -> NoReturn:
    """Raises the ManifestError of a broken rule at a JSON path (empty: the document itself)."""
    raise ManifestError("read manifest", printable(path), reason, hint=hint)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names: dict[type, str] = {str: "a string", int: "an integer", float: "a fractional number", list: "a list", dict: "an object"}
    return names[type(value)]


def quoted(value: object) -> str:
    """A value as it may stand in a message: strings in quotes and escaped, the rest by kind."""
    return f'"{printable(value, 80)}"' if isinstance(value, str) else kind_of(value)


def fields(*names: str) -> Mapping[str, str]:
    """The known members of one object, for `Object`: folded name to canonical name."""
    return {name.casefold(): name for name in names}


class Object:
    """One JSON object whose known members are in canonical spelling; every getter raises ManifestError."""

    __slots__ = ("members", "path")

    def __init__(self, value: object, path: str, known: Mapping[str, str]) -> None:
        if not isinstance(value, dict):
            fail(path, f"must be an object, not {kind_of(value)}", "see the App Container specification for its members")
        self.path = path
        self.members: dict[str, Any] = {}
        for key, item in value.items():
            name = known.get(key.casefold(), key)
            if name in self.members:
                fail(self.at(name), "occurs twice, in different case", "readers that ignore case would take either: keep one")
            if item is not None or name not in known.values():
                self.members[name] = item

    def at(self, name: str) -> str:
        """JSON path of a member."""
        return f"{self.path}.{name}" if self.path else name

    def require(self, name: str) -> Any:
        """The member, whatever its type."""
        if name not in self.members:
            fail(self.at(name), "missing", f"add the member {name}, the specification requires it")
        return self.members[name]

    def string(self, name: str, *, check: Check = bool, rule: str = "a non-empty string") -> str:
        """A required string that satisfies `check`; `rule` says what a good one is."""
        value = self.require(name)
        return string(value, self.at(name), check=check, rule=rule)

    def optional(self, name: str, *, check: Check, rule: str, default: str | None = None) -> str | None:
        """As `string` when present; otherwise stores and returns a default other than None."""
        if name in self.members:
            return self.string(name, check=check, rule=rule)
        if default is not None:
            self.members[name] = default
        return default

    def integer(self, name: str, low: int, high: int, *, default: int | None = None) -> int:
        """An integer from `low` to `high`; required unless there is a default."""
        if default is not None:
            self.members.setdefault(name, default)
        return integer(self.require(name), self.at(name), low, high)

    def boolean(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.members.setdefault(name, default)
        if not isinstance(value, bool):
            fail(self.at(name), f"must be true or false, not {quoted(value)}", "write true or false without quotes")
        return value

    def array(self, name: str, parse: Callable[[Any, str], T], *, required: bool = False) -> list[T]:
        """A list; each item is replaced with what `parse(item, path)` returns.  Absent means empty."""
        value = self.require(name) if required else self.members.get(name, [])
        if not isinstance(value, list):
            fail(self.at(name), f"must be a list, not {kind_of(value)}", f"write {name} as a JSON list")
        result = [parse(item, f"{self.at(name)}[{index}]") for index, item in enumerate(value)]
        self.members[name] = result
        return result

    def strings(self, name: str) -> dict[str, str]:
        """A map with free keys whose values are strings; absent means empty."""
        value = self.members.setdefault(name, {})
        if not isinstance(value, dict):
            fail(self.at(name), f"must be an object, not {kind_of(value)}", "write it as an object of strings")
        for key, item in value.items():
            if not isinstance(item, str):
                fail(f"{self.at(name)}.{key}", f"must be a string, not {kind_of(item)}", "put the value in quotes")
        return value


def string(value: object, path: str, *, check: Check = lambda _: True, rule: str = "a string") -> str:
    """`value` as a string without NUL that satisfies `check`."""
    if not isinstance(value, str):
        fail(path, f"must be {rule}, not {kind_of(value)}", "put the value in quotes")
    if "\0" in value:
        fail(path, "holds a NUL character", "the kernel ends a string at NUL: remove it")
    if not check(value):
        fail(path, f"{quoted(value)} is not {rule}", f"write {rule}")
    return value


def integer(value: object, path: str, low: int, high: int) -> int:
    """`value` as an integer from `low` to `high`; true, 1.0 and "1" are not integers."""
    if not isinstance(value, int) or isinstance(value, bool):
        fail(path, f"must be an integer, not {quoted(value)}", "write the number without quotes or fraction")
    if not low <= value <= high:
        fail(path, f"{value if abs(value) < 1 << 64 else 'the number'} is not from {low} to {high}", "choose a number in that range")
    return value


def unique(items: list[dict[str, Any]], path: str, what: str) -> None:
    """No two objects of a list share a name."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item["name"] in seen:
            fail(f"{path}[{index}].name", f"a second {what} named {quoted(item['name'])}", f"keep one {what} of each name")
        seen.add(item["name"])
