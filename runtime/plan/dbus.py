"""Method calls of D-Bus as they go over the wire, little-endian (D-Bus specification, "Message Format"), for native/scope.c.  Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["transient_unit"]

_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8  # header fields


class _Text:
    """Values one after the other, each aligned as its type says."""

    def __init__(self) -> None:
        self.data = bytearray()

    def pad(self, step: int) -> None:
        self.data += bytes(-len(self.data) % step)

    def number(self, value: int, size: int = 4) -> None:
        self.pad(size)
        self.data += value.to_bytes(size, "little")

    def string(self, text: str) -> None:
        raw = text.encode()
        self.number(len(raw))
        self.data += raw + b"\0"

    def signature(self, text: str) -> None:
        self.data += bytes([len(text)]) + text.encode() + b"\0"

    def begin(self, step: int) -> tuple[int, int]:
        """Begin an array whose elements are aligned to `step`; `end` fills its length in, which does not count the padding before."""
        self.number(0)
        place = len(self.data)
        self.pad(step)
        return place - 4, len(self.data)

    def end(self, array: tuple[int, int]) -> None:
        place, start = array
        self.data[place : place + 4] = (len(self.data) - start).to_bytes(4, "little")

    def value(self, signature: str, words: Sequence[str]) -> None:
        """Of a property, in the words of busctl(1)."""
        if signature == "s":
            self.string(words[0])
        elif signature == "b":
            self.number(words[0] == "true")
        elif signature == "t":
            self.number(int(words[0]), 8)
        else:
            size = {"ay": 1, "au": 4}[signature]
            array = self.begin(size)
            for word in words[1:]:
                self.number(int(word), size)
            self.end(array)


def transient_unit(name: str, properties: Sequence[Sequence[str]]) -> tuple[int, bytes]:
    """Return the messages Hello (serial 1) and StartTransientUnit (serial 2) of a unit, and where in them the number of its process goes.

    Each of `properties` is name, signature and values in the words of busctl(1); signatures are s, b, t, ay and au.
    """
    body = _Text()
    body.string(name)
    body.string("fail")
    array = body.begin(8)
    for one in (*properties, ("PIDs", "au", "1", "0")):
        body.pad(8)
        body.string(one[0])
        body.signature(one[1])
        body.value(one[1], one[2:])
    body.end(array)
    place = len(body.data) - 4
    body.end(body.begin(8))  # no further units
    hello = _call(1, _BUS, "Hello", "", b"")
    call = _call(2, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", bytes(body.data))
    return len(hello) + len(call) - len(body.data) + place, hello + call


def _call(serial: int, whom: tuple[str, str, str], member: str, signature: str, body: bytes) -> bytes:
    text = _Text()
    text.data += b"l\1\0\1"  # little-endian, a method call, no flags, version 1
    text.number(len(body))
    text.number(serial)
    destination, path, interface = whom
    array = text.begin(8)
    for code, kind, value in (
        (_PATH, "o", path),
        (_DESTINATION, "s", destination),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        (_SIGNATURE, "g", signature),
    ):
        if not value:
            continue
        text.pad(8)
        text.data.append(code)
        text.signature(kind)
        if kind == "g":
            text.signature(value)
        else:
            text.string(value)
    text.end(array)
    text.pad(8)
    return bytes(text.data) + body
