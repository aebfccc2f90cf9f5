"""What the script of a pod's network consists of: struct net_script of native/net_script.h, written by pyrun.net.script.

    native/net_script.h     struct net_script | struct net_op[count] | pool
    the pool                messages, texts, paths; offsets count from its start, 0 is none

A start knows more than its script: addresses, numbers of links.  For each such value something unlikely stands in what is written
down; where that is found in messages and texts the launcher puts what it took.
"""

from __future__ import annotations

import os
from struct import Struct

from pyrun.net.addresses import INET, text_of
from pyrun.net.netlink import Netlink, link_request, message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Recorder", "UnableError", "Writer"]

_MAGIC, _VERSION = 0x74656E70, 6
_HEADER, _OP, _PATCH, _STAMP = Struct("=8I"), Struct("=8I"), Struct("=2I"), Struct("=3Q2q")
CHECK, LOCK, UNLOCK, LEASE, LINK_LOCAL, PORT, FILE, NAMESPACE, ASK = range(1, 10)
RELAY, SETTING, NAME, HOSTS, RANDOM, UNLESS, RULES, FORWARD, PROGRAM, PLUGIN, WHEN, INTACT, PICK = range(10, 23)
HOST, INSIDE, FILTER = range(3)  # which socket a message goes to
# in texts, with a number behind it: that value in this form, what plug-ins of a network said, and its addresses
_TEXT, _HEX, _COLONS, _RESULT, _LIST, _EACH, _END, _THIS = MARKS = [bytes((mark,)) for mark in range(1, 9)]
_FIRST, _BASE = 0x20, 128  # of these numbers' two digits
_VALUES, _OPS, _SIZE = 1024, 65536, 1 << 24  # at most
PLUGGED = 64  # networks of plug-ins at most
IS_PLUGGED = 0x8000  # of a source of NET_PICK
LAST, WITH_RESULT, NETWORK = 1, 2, 4  # of a plug-in's turn; the number of its network stands above
FAIL = 0


class UnableError(Exception):
    """The launcher cannot do that."""


class Writer:
    """Takes down operations, and what they need."""

    __slots__ = ("_ops", "_pool", "_raw", "_root", "_table", "_texts", "_uuid", "_values")

    def __init__(self, root: str, uuid: str) -> None:
        self._root, self._uuid = root, uuid
        self._ops: list[bytes] = []
        self._pool = bytearray(8)
        self._values = self._table = 0
        self._raw: list[tuple[bytes, int]] = []  # what stands in messages for a value
        self._texts: list[tuple[bytes, bytes]] = []  # and in texts

    def whole(self) -> bytes:
        """Return the script."""
        pool = bytes(self._pool)
        ops = b"".join(self._ops)
        uuid = len(pool)
        pool += self._uuid.encode() + b"\0"
        start = _HEADER.size + len(ops)
        if len(self._ops) > _OPS or start + len(pool) > _SIZE:
            raise UnableError("it asks for too many ports")
        return _HEADER.pack(_MAGIC, _VERSION, start + len(pool), len(self._ops), start, uuid, self._table, 0) + ops + pool

    def _words(self, words: list[str]) -> tuple[int, int]:
        return self._text(b"".join(os.fsencode(word) + b"\0" for word in words))

    def _unless(self, where: int, kind: int, flags: int, body: bytes) -> _Condition:
        """Return what is used in a `with` block: what that takes down is for where this asks for something that is not there."""
        data = message(kind, flags, body, 1)
        return _Condition(self._ops, (UNLESS, where, self._put(data), len(data), 0, 0, 1))

    def _unless_intact(self, questions: list[tuple[int, int, bytes]], wanted: bytes) -> _Condition:
        """Likewise for where one of these chains lacks a rule that it should have."""
        data = b"".join(message(kind, flags, body, 1) for kind, flags, body in questions)
        return _Condition(self._ops, (INTACT, self._put(data), len(data), len(questions), self._put(wanted), 0, 0))

    def _when(self, value: int, place: int, wanted: bytes) -> _Condition:
        """Likewise for where these bytes of a value are as wanted."""
        return _Condition(self._ops, (WHEN, value, place, self._put(wanted), len(wanted), 0, 0))

    def setting(self, name: str, value: str) -> None:
        """Take down one of /proc/sys/net."""
        self._op(SETTING, self._string("/proc/sys/net/" + name), self._string(value))

    def ask(self, where: int, kind: int, flags: int, body: bytes, number: int = 0) -> None:
        """Take down a question; the number of the link that the answer is about becomes a value, unless that is 0."""
        self._message(where, message(kind, flags, body, 1), 1, number)

    def number(self) -> int:
        """Return what stands for a number."""
        number = 1_000_000_000 + int.from_bytes(os.urandom(4), "little") % 1_000_000_000
        self._value(number.to_bytes(4, "little"), str(number))
        return number

    @property
    def last(self) -> int:
        """Which value was the last one."""
        return self._values - 1

    def _value(self, raw: bytes, text: str) -> None:
        self._raw.append((raw, self._values))
        number = self._next(_TEXT, text.encode())
        if not text.isdigit():
            self._texts += [(raw.hex().encode(), _HEX + number), (raw.hex(":").encode(), _COLONS + number)]

    def _next(self, form: bytes, held: bytes) -> bytes:
        """One more value, for which `held` stands in texts; its number."""
        if self._values == _VALUES:
            raise UnableError("it joins too many networks")
        number = _digits(self._values)
        self._texts.append((held, form + number))
        self._values += 1
        return number

    def _result(self, number: int) -> tuple[int, dict[str, object]]:
        """Values for what the plug-ins of this network say: the first, and what stands for them in the pod's record."""
        if number == PLUGGED:
            raise UnableError(f"it joins more than {PLUGGED} networks of plug-ins")
        first = self._values
        self._next(_TEXT, _token().encode())  # which addresses there are
        addresses, defaults, mac, result = _token(), _token(), _token(), _token()
        self._next(_TEXT, f'"{defaults}"'.encode())
        self._next(_TEXT, mac.encode())
        which = _digits(number)
        self._texts += [(f'"{result}"'.encode(), _RESULT + which), (f'"{addresses}"'.encode(), _LIST + which)]
        return first, {"addresses": [addresses], "defaults": [defaults], "mac": mac, "result": result}

    def _each(self, number: int) -> tuple[str, str, str]:
        """Return what stands around text that is there for each address of such a network, and in it for the address."""
        begin, this, end = _token(), _token(), _token()
        self._texts += [(begin.encode(), _EACH + _digits(number)), (this.encode(), _THIS), (end.encode(), _END)]
        return begin, this, end

    def _address(self, family: int) -> str:
        """Return what stands for an address."""
        raw = bytes(100 + byte % 150 for byte in os.urandom(4)) if family == INET else b"\xfc" + os.urandom(15)
        address = text_of(family, int.from_bytes(raw, "big"))
        self._value(raw, address)
        return address

    def _pick(self, sources: dict[int, list[int]]) -> tuple[int, dict[int, str]]:
        """Which value says whether there is an address of either family, and what stands for the first one of these sources."""
        self._next(_TEXT, _token().encode())
        told, found = self.last, {}
        for place, (family, numbers) in enumerate(sources.items()):
            found[family] = self._address(family)
            self._op(
                PICK,
                self.last,
                told,
                place,
                4 if family == INET else 6,
                self._put(b"".join(one.to_bytes(2, "little") for one in numbers)),
                len(numbers),
            )
        return told, found

    def _check(self, path: str, *, counts: bool = False) -> None:
        """The launcher goes on if this file, or directory, is as it is now, or as ever is not there.

        For a prepared pod only what a file says that `counts` has to be the same.
        """
        try:
            info = os.stat(path)
        except FileNotFoundError:
            stamp = bytes(_STAMP.size)
        else:
            stamp = _STAMP.pack(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        text = b""
        if counts:
            with open(path, "rb") as file:
                text = file.read()
        self._op(CHECK, self._string(path), self._put(stamp), self._put(text), len(text))

    def _message(self, where: int, data: bytes, answers: int, number: int = 0) -> None:
        patches = []
        for raw, value in self._raw:
            at = data.find(raw)
            while at >= 0:
                patches.append(_PATCH.pack(at, value))
                at = data.find(raw, at + len(raw))
        self._op(ASK, where, self._put(data), len(data), self._put(b"".join(patches)), len(patches), answers, number)

    def _text(self, text: bytes) -> tuple[int, int]:
        """Put a text into the pool; its place and its size."""
        if any(mark in text for mark in MARKS):
            raise UnableError("a text of it has control characters")
        for held, mark in self._texts:
            text = text.replace(held, mark)
        return self._put(text), len(text)

    def _string(self, text: str) -> int:
        return self._put(text.encode() + b"\0")

    def _put(self, data: bytes) -> int:
        at = len(self._pool)
        self._pool += data + bytes(-len(data) % 8)
        return at

    def _op(self, what: int, *words: int) -> None:
        self._ops.append(_OP.pack(what, *words, *[0] * (7 - len(words))))


def _digits(number: int) -> bytes:
    return bytes((_FIRST + number // _BASE, _FIRST + number % _BASE))


def _token() -> str:
    return "t" + os.urandom(12).hex()


class _Condition:
    """A condition, whose last word says how many operations it is for."""

    __slots__ = ("_ops", "_place", "_words")

    def __init__(self, ops: list[bytes], words: tuple[int, ...]) -> None:
        self._ops, self._words = ops, words
        self._place = 0

    def __enter__(self) -> None:
        self._place = len(self._ops)
        self._ops.append(b"")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ops[self._place] = _OP.pack(*self._words, len(self._ops) - self._place - 1)


class Recorder(Netlink):
    """A socket that sends nothing: what would be asked is in the script."""

    __slots__ = ("_known", "_script", "_where")

    def __init__(self, script: Writer, where: int) -> None:
        self._script = script
        self._where = where
        self._known: dict[str, int] = {}

    def ask(self, kind: int, flags: int, body: bytes, subject: str = "") -> list[tuple[int, bytes]]:
        """Take it down; there is no answer."""
        self._script.ask(self._where, kind, flags, body)
        return []

    def set(self, name: str, value: str) -> None:
        """Take a setting down."""
        self._script.setting(name, value)

    def index(self, name: str) -> int:
        """Return what stands for the number of a link."""
        if name not in self._known:
            self._known[name] = self._script.number()
            self._script.ask(self._where, *link_request(name), self._script.last + 1)
        return self._known[name]
