"""Annotations org.systemd.property.NAME, whose values are in the text form of GVariant -> properties as busctl(1) takes them.  Pure."""

from __future__ import annotations

__all__ = ["Malformed", "property_of"]

_TYPES = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t", "double": "d",
    "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
_BITS = {"y": 8, "n": 15, "q": 16, "i": 31, "u": 32, "x": 63, "t": 64}
_SIGNED = "nix"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LONGEST = 4096
_DEEPEST = 8
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.")
_OWN = ("Delegate", "PIDs", "Slice")


class Malformed(ValueError):
    """What is wrong with a text."""


class _Reader:
    """One value after the other of a text."""

    __slots__ = ("at", "depth", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.depth = 0

    def peek(self) -> str:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, c: str) -> bool:
        found = self.peek() == c
        self.at += found
        return found

    def word(self) -> str:
        start = self.at
        while self.text[self.at : self.at + 1] in _WORD:
            self.at += 1
        return self.text[start : self.at]

    def value(self, wanted: str = "") -> tuple[str, list[str]]:
        """Return signature and words of the next value, which has to be of type `wanted` if that is said."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Malformed("it nests too deep")
        try:
            return self._value(self.peek(), wanted)
        finally:
            self.depth -= 1

    def _value(self, c: str, wanted: str) -> tuple[str, list[str]]:
        if c == "@":
            self.at += 1
            start = self.at
            while self.text[self.at : self.at + 1] not in ("", " "):
                self.at += 1
            return self.value(self.text[start : self.at])
        if c in ("'", '"'):
            return self._string(wanted)
        if c == "[":
            return self._array(wanted)
        if c == "(":
            return self._tuple(wanted)
        word = self.word()
        if word in _TYPES:
            return self.value(_TYPES[word])
        if word in ("true", "false"):
            return _as(wanted, "b"), [word]
        return _number(word, wanted)

    def _string(self, wanted: str) -> tuple[str, list[str]]:
        quote = self.text[self.at]
        found = ""
        self.at += 1
        while (c := self.text[self.at : self.at + 1]) != quote:
            if c == "\\":
                self.at += 1
                c = self.text[self.at : self.at + 1]
                c = _ESCAPES.get(c, c)
            if not c:
                raise Malformed("a string does not end")
            found += c
            self.at += 1
        self.at += 1
        if wanted not in ("", "s", "o", "g"):
            raise Malformed(f"a string where type {wanted} is wanted")
        return wanted or "s", [found]

    def _array(self, wanted: str) -> tuple[str, list[str]]:
        if wanted and wanted[0] != "a":
            raise Malformed(f"an array where type {wanted} is wanted")
        self.at += 1
        kind, words, count = wanted[1:], [""], 0
        while not self.take("]"):
            if count and not self.take(","):
                raise Malformed("an array does not end")
            found, more = self.value(kind)
            if kind and found != kind:
                raise Malformed("an array of different types")
            kind, count = found, count + 1
            words += more
        if not kind:
            raise Malformed("an empty array needs its type, as in @as []")
        words[0] = str(count)
        return "a" + kind, words

    def _tuple(self, wanted: str) -> tuple[str, list[str]]:
        self.at += 1
        signature = ""
        words: list[str] = []
        while not self.take(")"):
            if signature and not self.take(","):
                raise Malformed("a tuple does not end")
            found, more = self.value()
            signature += found
            words += more
        return _as(wanted, f"({signature})"), words


def _as(wanted: str, found: str) -> str:
    if wanted not in ("", found):
        raise Malformed(f"type {found} where {wanted} is wanted")
    return found


def _number(word: str, wanted: str) -> tuple[str, list[str]]:
    digits = word.lstrip("+-")
    if not digits or len(word) - len(digits) > 1 or len(word) > 24:
        raise Malformed("no value" if not word else f"{word[:24]!r} is no value")
    if wanted in _BITS or (not wanted and digits.isdigit()):
        kind = wanted or "i"
        if not digits.isdigit():
            raise Malformed(f"{word!r} is no whole number")
        number = int(word)
        if not (-(1 << _BITS[kind]) if kind in _SIGNED else 0) <= number < 1 << _BITS[kind]:
            raise Malformed(f"{word} is out of the range of its type, {kind}")
        return kind, [str(number)]
    if wanted not in ("", "d") or not digits.replace(".", "", 1).isdigit():
        raise Malformed(f"{word!r} is no value" + (f" of type {wanted}" if wanted else ""))
    return "d", [word]


def property_of(name: str, text: str) -> list[str]:
    """Return name, signature and words of the property that an annotation asks for; Malformed.

    NAMESec in seconds becomes NAMEUSec in microseconds.
    """
    if len(name) < 3 or not name.isascii() or not name.isalpha():
        raise Malformed(f"{name!r} is no name of a property")
    if name in _OWN:
        raise Malformed("the runtime sets this property")
    if len(text) > _LONGEST:
        raise Malformed(f"its value is longer than {_LONGEST} characters")
    reader = _Reader(text)
    signature, words = reader.value()
    if reader.peek():
        raise Malformed(f"{reader.text[reader.at :][:24]!r} follows the value")
    if name.endswith("Sec") and not name.endswith("USec"):
        name, signature, words = name[:-3] + "USec", "t", _microseconds(signature, words)
    return [name, signature, *words]


def _microseconds(signature: str, words: list[str]) -> list[str]:
    if signature not in "ynqiuxtd" or words[0].startswith("-"):
        raise Malformed("no number of seconds")
    number = int(float(words[0]) * 1_000_000)
    if number >= 1 << 64:
        raise Malformed("too many seconds")
    return [str(number)]
