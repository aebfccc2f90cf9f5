"""What a start does for its pod's network, written down: native/net_script.c does it again for other pods, without Python.

    native/net_script.h     struct net_script | struct net_op[count] | pool
    the pool                messages, texts, paths; offsets count from its start, 0 is none

Nothing is decided here that pyrun.net.attach would not decide: its own functions are called, with a socket that takes messages down
(`_Recorder`), and with placeholders for what only a start knows: addresses, numbers of links.  Where these are in the messages and
texts the launcher puts what it took.  What it cannot have, finds changed or is refused it gives back, and leaves the start to Python.
"""

from __future__ import annotations

import _socket
import os
from struct import Struct

from pyrun.errors import PyrunError
from pyrun.images import fastjson
from pyrun.native import RELAY
from pyrun.native.users import which
from pyrun.net import attach, bridges, elements, leases, names, networks, ports, relay, rules, snapshot
from pyrun.net.addresses import INET, OF_INET6, Subnet, number_of, text_of
from pyrun.net.netlink import Netlink, delete_request, link_request, message, table_request, transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from pyrun.net.networks import Network

__all__ = ["FILE", "write_down"]

FILE = "net.script"
_MAGIC, _VERSION = 0x74656E70, 2
_HEADER, _OP, _PATCH, _STAMP = Struct("=6I"), Struct("=8I"), Struct("=2I"), Struct("=3Q2q")
_CHECK, _LOCK, _UNLOCK, _LEASE, _LINK_LOCAL, _PORT, _FILE, _NAMESPACE, _ASK = range(1, 10)
_RELAY, _SETTING, _NAME, _HOSTS, _RANDOM, _UNLESS, _ALONE, _RULES, _FORWARD, _PROGRAM = range(10, 20)
_NS, _TOLD = 8, 9  # the descriptors that such a program gets
_HOST, _INSIDE, _FILTER = range(3)  # which socket a message goes to
_TEXT, _HEX, _COLONS = b"\1", b"\2", b"\3"  # in texts, with a number behind it: that value in this form
_FIRST = 0x20  # of these numbers
_VALUES, _PORTS = 48, 64  # at most
_PLAIN = 1 << 112  # addresses below are written in more than one way (RFC 5952, section 5)


class _UnableError(Exception):
    """The launcher cannot do that."""


def write_down(root: str, uuid: str, want: dict[str, Any]) -> bytes:
    """Return the script for pods that want what the pod `uuid` does; nothing where Python has to do it each time."""
    if any(want.get(one) for one in ("join", "ahead")) or len(want["ports"]) > _PORTS:
        return b""
    try:
        script = _Script(root, uuid)
        script.of_user(want) if want.get("user") else script.of_root(want)
        return script.whole()
    except (_UnableError, PyrunError, OSError):
        return b""  # whoever starts such a pod is told


class _Script:
    __slots__ = ("_ops", "_pool", "_raw", "_root", "_texts", "_uuid", "_values")

    def __init__(self, root: str, uuid: str) -> None:
        self._root, self._uuid = root, uuid
        self._ops: list[bytes] = []
        self._pool = bytearray(8)
        self._values = 0
        self._raw: list[tuple[bytes, int]] = []  # what stands in messages for a value
        self._texts: list[tuple[bytes, bytes]] = []  # and in texts

    def of_root(self, want: dict[str, Any]) -> None:
        """Take down what pyrun.net.attach does."""
        chosen = [self._network(one) for one in want["nets"]]
        host, inside = _Recorder(self, _HOST), _Recorder(self, _INSIDE)
        table = networks.table_of(self._root)
        self._make_ready(chosen, table, host)
        for network, one in chosen:
            bridges.check(network, one)
            if network.kind == "bridge":
                host.index(network.bridge)
        record = attach.blank(self._uuid, want)
        self._op(_LOCK)
        for network, one in chosen:
            self._check(f"{self._root}/networks/{network.name}.json")
            attach.join(self._root, network, (one, want), record, self._lease)
        self._claim(want, record)
        self._file(record)
        self._op(_UNLOCK)
        ns = self.number()
        self._op(_NAMESPACE, self.last)
        inside.up(1)  # lo
        for (network, _), made in zip(chosen, record["nets"], strict=True):
            bridges.connect(host, inside, ns, network, made)
            attach.limit(host, inside, made, want)
        attach.routes(inside, record)
        if words := relay.words(want["ports"], record, host):
            self._relay(words, record)
        if want.get("isolate"):
            for made in record["nets"]:
                self._link_local(made)
        attach.open_to(want, record)
        self._op(_LOCK)
        self._file(record)
        self._publish(want, record, table, host)
        self._op(_UNLOCK)

    def of_user(self, want: dict[str, Any]) -> None:
        """Take down what pyrun.net.user does."""
        from pyrun.net import user

        networks.directory(self._root)
        record = attach.blank(self._uuid, want)
        program = user.begin(want, record)
        self._op(_LOCK)
        self._claim(want, record)
        self._file(record)
        self._op(_UNLOCK)
        self.number()
        self._op(_NAMESPACE, self.last)
        _Recorder(self, _INSIDE).up(1)  # lo
        path = os.environ.get("PATH", os.defpath)
        words = [f"PATH={path}", *user.command(program, _NS, _TOLD)]
        words[1] = which(words[1], path.split(":"))
        record["process"] = [self.number(), self.number()]
        self._op(_PROGRAM, *self._words(words), self._values - 2, program == "slirp4netns")
        if want["ports"]:
            self._relay(relay.inward(want["ports"]), record, inward=True)
        record["forwards"] = user.forwards(want)
        self._file(record)
        self._hosts(want, record)

    def whole(self) -> bytes:
        """Return the script."""
        pool = bytes(self._pool)
        ops = b"".join(self._ops)
        uuid = len(pool)
        pool += self._uuid.encode() + b"\0"
        start = _HEADER.size + len(ops)
        return _HEADER.pack(_MAGIC, _VERSION, start + len(pool), len(self._ops), start, uuid) + ops + pool

    def _claim(self, want: dict[str, Any], record: dict[str, Any]) -> None:
        for wanted in want["ports"]:
            record["claims"].append(self._port(*wanted))
        self._op(_FILE, self._string("cleaner"), *self._text(attach.cleaner(self._root, self._uuid)))

    def _relay(self, words: list[str], record: dict[str, Any], *, inward: bool = False) -> None:
        record["relay"] = [self.number(), self.number()]
        self._op(_RELAY, *self._words([RELAY, *words]), self._values - 2, inward)

    def _words(self, words: list[str]) -> tuple[int, int]:
        return self._text(b"".join(os.fsencode(word) + b"\0" for word in words))

    def _make_ready(self, chosen: list[tuple[Network, dict[str, Any]]], table: str, host: _Recorder) -> None:
        """What the pods of a network have in common, where it is not there: after a boot, or where somebody has removed it."""
        outward = any(not network.internal for network, _ in chosen)
        with self._unless(_FILTER, *table_request(table)):
            self._op(_LOCK)
            with self._unless(_FILTER, *table_request(table)):  # by somebody else meanwhile
                self._op(_ALONE)
                self._forward(outward)
                self._op(_RULES, self._string(rules.version() + snapshot.SUFFIX))
            self._op(_UNLOCK)
        for network in {network.name: network for network, _ in chosen if network.kind == "bridge"}.values():
            with self._unless(_HOST, *link_request(network.bridge)):
                self._op(_LOCK)
                with self._unless(_HOST, *link_request(network.bridge)):
                    self._forward(not network.internal)
                    with self._unless(_HOST, *delete_request(bridges.unfinished(network))):
                        pass  # of somebody who was killed
                    bridges.build(self._root, network, host, self._random())
                self._op(_UNLOCK)

    def _forward(self, outward: bool) -> None:
        if outward:
            self._op(_FORWARD)

    def _unless(self, where: int, kind: int, flags: int, body: bytes) -> _Unless:
        """Return what is used in a `with` block: what that takes down is for where this asks for something that is not there."""
        data = message(kind, flags, body, 1)
        return _Unless(self._ops, (_UNLESS, where, self._put(data), len(data), 0, 0, 1))

    def _random(self) -> bytes:
        raw = os.urandom(4)  # as mac_of() of pyrun.net.addresses has it
        self._value(raw, raw.hex("."))
        self._op(_RANDOM, self.last)
        return raw

    def setting(self, name: str, value: str) -> None:
        """Take down one of /proc/sys/net."""
        self._op(_SETTING, self._string("/proc/sys/net/" + name), self._string(value))

    def _publish(self, want: dict[str, Any], record: dict[str, Any], table: str, host: Netlink) -> None:
        forwards = attach.forwarded(record)
        bodies = elements.bodies(table, forwards, record["alone"])
        if bodies:
            self._message(_FILTER, transaction(elements.NEW, elements.CREATE, bodies, 1), len(bodies))
        if forwards:
            bridges.open_ports(record["nets"], host)
        if record["names"]:
            for made in record["nets"]:
                addresses = [address.partition("/")[0] for address in made["addresses"]]
                lines = names.lines_of(self._uuid, addresses, record["names"])
                self._op(_NAME, self._string(made["network"]), *self._text("".join(line + "\n" for line in lines).encode()))
        self._hosts(want, record)

    def _hosts(self, want: dict[str, Any], record: dict[str, Any]) -> None:
        if "hosts" in want:
            own = attach.hosts_of(want, record).encode("utf-8", "surrogateescape")
            joined = b"".join(made["network"].encode() + b"\0" for made in record["nets"])
            self._op(_HOSTS, *self._text(own), self._put(joined + b"\0"))

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
        if self._values == _VALUES:
            raise _UnableError
        self._raw.append((raw, self._values))
        number = bytes((_FIRST + self._values,))
        self._texts.append((text.encode(), _TEXT + number))
        if not text.isdigit():
            self._texts += [(raw.hex().encode(), _HEX + number), (raw.hex(":").encode(), _COLONS + number)]
        self._values += 1

    def _network(self, one: dict[str, Any]) -> tuple[Network, dict[str, Any]]:
        """Return a network and what is asked of it."""
        network = networks.find(self._root, one["network"])
        if network is None:
            raise _UnableError  # it is made when it is first asked for, or by plug-ins
        if one.get("mac") or any(subnet.family == INET for subnet in network.subnets):
            return network, one
        return network, {**one, "mac": (OF_INET6 + self._random()).hex(":")}

    def _check(self, path: str) -> None:
        info = os.stat(path)
        stamp = _STAMP.pack(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        self._op(_CHECK, self._string(path), self._put(stamp))

    def _lease(self, network: Network, subnet: Subnet, wanted: str) -> str:
        """Return what stands for the address."""
        size = 4 if subnet.family == INET else 16
        if size == 16 and subnet.base < _PLAIN:
            raise _UnableError
        fixed = 0
        if wanted:
            if not 2 <= number_of(wanted) - subnet.base < subnet.hosts + 2:
                raise _UnableError
            fixed = self._put(number_of(wanted).to_bytes(size, "big"))
        raw = bytes(100 + byte % 150 for byte in os.urandom(4)) if size == 4 else b"\xfc" + os.urandom(15)
        address = text_of(subnet.family, int.from_bytes(raw, "big"))
        self._value(raw, address)
        base = self._put(subnet.base.to_bytes(size, "big"))
        most = min(subnet.hosts, leases.MOST)
        self._op(_LEASE, self._string(network.name), self._string(f"last{subnet.family}"), base, size, most, fixed, self.last)
        return address

    def _link_local(self, made: dict[str, Any]) -> None:
        raw = bytes.fromhex(made["mac"].replace(":", ""))[2:]
        source = next((number for held, number in self._raw if held == raw), None)
        if source is not None:  # else the MAC was asked for, and its address is known
            address = bridges.link_local(made["mac"])
            self._value(_socket.inet_pton(10, address), address)
            self._op(_LINK_LOCAL, source, self.last, bytes.fromhex(made["mac"].replace(":", ""))[1])

    def _port(self, protocol: str, address: str, port: int, _: int) -> str:
        path = ports.path_of(protocol, address, port)
        probes = [
            _sockaddr(family, address, port) for family in ([10 if ":" in address else 2] if address else (2, 10))
        ]  # as pyrun.net.ports asks
        kind, number = ports.SOCKETS[protocol]
        self._op(_PORT, self._string(path.partition("/")[2]), self._put(b"".join(probes)), len(probes), kind, number)
        return path

    def _file(self, record: dict[str, Any]) -> None:
        self._op(_FILE, self._string("net"), *self._text(fastjson.dumps(record).encode()))

    def _message(self, where: int, data: bytes, answers: int, number: int = 0) -> None:
        patches = []
        for raw, value in self._raw:
            at = data.find(raw)
            while at >= 0:
                patches.append(_PATCH.pack(at, value))
                at = data.find(raw, at + len(raw))
        self._op(_ASK, where, self._put(data), len(data), self._put(b"".join(patches)), len(patches), answers, number)

    def _text(self, text: bytes) -> tuple[int, int]:
        """Put a text into the pool; its place and its size."""
        if any(mark in text for mark in (_TEXT, _HEX, _COLONS)):
            raise _UnableError
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


def _sockaddr(family: int, address: str, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6, in 32 bytes."""
    raw = _socket.inet_pton(family, address or ("::" if family == 10 else "0.0.0.0"))
    return (family.to_bytes(2, "little") + port.to_bytes(2, "big") + (bytes(4) if family == 10 else b"") + raw).ljust(32, b"\0")


class _Unless:
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


class _Recorder(Netlink):
    """A socket that sends nothing: what would be asked is in the script."""

    __slots__ = ("_known", "_script", "_where")

    def __init__(self, script: _Script, where: int) -> None:
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
