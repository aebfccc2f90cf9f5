"""The few messages of rtnetlink(7) that starting a pod takes, in one datagram where the kernel lets us.

pyroute2 speaks all of netlink, and takes 150 ms or more to be imported; a start may cost 15 for its network.  So what every start
needs is here; what is rare is pyroute2's: requests that limit bandwidth, `network check`, the links that `gc` looks for.

    request     struct nlmsghdr | family's own header | attributes, each struct nlattr | value, padded to 4 bytes
    answer      NLMSG_ERROR with 0 or minus an errno, with NLM_F_ACK; a dump ends in NLMSG_DONE
"""

from __future__ import annotations

import _socket
import os
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "ACK",
    "APPEND",
    "CREATE",
    "NETFILTER",
    "Netlink",
    "chain_request",
    "delete_request",
    "enclosed",
    "has_chains",
    "has_table",
    "link_request",
    "message",
    "pack",
    "split",
    "table_request",
    "transaction",
]

_HEADER, _ATTRIBUTE, _LINK, _ADDRESS, _ROUTE = Struct("=IHHII"), Struct("=HH"), Struct("=BxHiII"), Struct("=BBBBI"), Struct("=8BI")
_REQUEST, ACK, CREATE, APPEND, _EXCLUSIVE, _DUMP = 1, 4, 0x400, 0x800, 0x200, 0x300
_ERROR, _DONE = 2, 3
NEWLINK, DELLINK, GETLINK, SETLINK, NEWADDR, GETADDR, NEWROUTE, GETROUTE, NEWQDISC = 16, 17, 18, 19, 20, 22, 24, 26, 36
_NESTED = 0x8000
IFF_UP = 1
MAC, IFNAME, MTU, MASTER, LINKINFO, NS_FD, ALIAS, GROUP = 1, 3, 4, 10, 18, 28, 20, 27
_KIND, _DATA, _VETH_PEER = 1, 2, 1
_SLAVE_KIND, _SLAVE_DATA, _PORT_MODE = 4, 5, 4
_NODAD, _PERMANENT = 2, 0x80
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_DST, _OIF, _GATEWAY, _MAIN = 1, 4, 5, 254
INET, INET6 = 2, 10
NETFILTER, _GETTABLE, _GETCHAIN, _NFPROTO_INET = 12, 10 << 8 | 1, 10 << 8 | 4, 1
_CHAIN_USE = 6  # NFTA_CHAIN_USE: its rules, and those that jump there
_BATCH_BEGIN, _BATCH_END = 16, 17
_BUFFER = 1 << 18


def pack(kind: int, value: bytes) -> bytes:
    """Return one attribute."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _text(kind: int, text: str) -> bytes:
    return pack(kind, text.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return pack(kind, value.to_bytes(4, "little"))


def split(data: bytes) -> list[tuple[int, bytes]]:
    """Return the attributes that a message carries: kind, with the bits that say how it is written, and value."""
    found = []
    at = 0
    while at + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < 4:
            break
        found.append((kind, data[at + 4 : at + size]))
        at += (size + 3) & ~3
    return found


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes that a message carries, by kind."""
    return {kind & 0x3FFF: value for kind, value in split(data)}


def message(kind: int, flags: int, body: bytes, number: int) -> bytes:
    """Return a request as the kernel gets it."""
    return _HEADER.pack(16 + len(body), kind, _REQUEST | flags, number, 0) + body


def transaction(kind: int, flags: int, bodies: list[bytes], number: int) -> bytes:
    """Return requests of one kind as a transaction of nf_tables; each is acknowledged."""
    return enclosed(b"".join(message(kind, flags | ACK, body, number) for body in bodies), number)


def enclosed(requests: bytes, number: int) -> bytes:
    """Return requests as one transaction of nf_tables."""
    begin, end = bytes((0, 0, 0, 10)), bytes(4)  # struct nfgenmsg: for the subsystem NFNL_SUBSYS_NFTABLES
    return message(_BATCH_BEGIN, 0, begin, number) + requests + message(_BATCH_END, 0, end, number)


def link_request(name: str) -> tuple[int, int, bytes]:
    """Return kind, flags and body of the question for a link by its name."""
    return GETLINK, ACK, _LINK.pack(0, 0, 0, 0, 0) + _text(IFNAME, name)


def delete_request(name: str) -> tuple[int, int, bytes]:
    """Return those of the request that removes a link."""
    return DELLINK, ACK, _LINK.pack(0, 0, 0, 0, 0) + _text(IFNAME, name)


def table_request(name: str) -> tuple[int, int, bytes]:
    """Likewise for our table of nf_tables."""
    return _GETTABLE, ACK, bytes((_NFPROTO_INET, 0, 0, 0)) + _text(1, name)


def chain_request(table: str, name: str) -> tuple[int, int, bytes]:
    """Likewise for one of its chains."""
    return _GETCHAIN, ACK, bytes((_NFPROTO_INET, 0, 0, 0)) + _text(1, table) + _text(3, name)


class Netlink:
    """One netlink(7) socket, of this network or, by its descriptor, of another one; used in a `with` block.

    Every request waits for its answer and raises OSError with the kernel's errno, and what it was about as file name.
    """

    __slots__ = ("_number", "_socket")

    def __init__(self, fd: int = -1, family: int = 0) -> None:
        self._number = 0
        if fd >= 0:
            self._socket = _socket.socket(16, _socket.SOCK_RAW, family, fd)
        else:
            self._socket = _socket.socket(16, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, family)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes, subject: str = "") -> list[tuple[int, bytes]]:
        """Send one request and return what comes before the acknowledgement, as (kind, body)."""
        self._number += 1
        self._socket.send(message(kind, flags, body, self._number))
        return self._answer(subject)

    def batch(self, kind: int, flags: int, bodies: list[bytes]) -> None:
        """Have nf_tables carry out requests of one kind: all of them or, with an OSError, none."""
        self._number += 1
        self._socket.send(transaction(kind, flags, bodies, self._number))
        self._answer("", len(bodies))

    def _answer(self, subject: str, acknowledgements: int = 1) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while True:
            data = self._socket.recv(_BUFFER)
            at = 0
            while at + 16 <= len(data):
                size, what, _, number, _ = _HEADER.unpack_from(data, at)
                part = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if number != self._number:
                    continue
                if what == _DONE:
                    return found
                if what == _ERROR:
                    error = -int.from_bytes(part[:4], "little", signed=True)
                    if error:
                        raise OSError(error, os.strerror(error), subject)
                    acknowledgements -= 1
                    if not acknowledgements:
                        return found
                    continue
                found.append((what, part))

    def index(self, name: str) -> int:
        """Return the number of a link, 0 when there is none of that name."""
        found = self.link(name)
        return found[0] if found else 0

    def link(self, name: str) -> tuple[int, dict[int, bytes]] | None:
        """Return (number, attributes) of a link, None when there is none of that name."""
        try:
            answer = self.ask(*link_request(name), name)
        except OSError as error:
            if error.errno == 19:  # ENODEV
                return None
            raise
        body = answer[0][1]
        return _LINK.unpack_from(body)[2], attributes(body[16:])

    def links(self) -> list[tuple[int, dict[int, bytes]]]:
        """Return (number, attributes) of every link."""
        return [(_LINK.unpack_from(body)[2], attributes(body[16:])) for _, body in self.ask(GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0))]

    def new_bridge(self, name: str, mac: bytes, mtu: int, group: int, alias: str) -> int:
        """Make a bridge that is down; return its number.  A fixed MAC: by default it changes with the ports."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _text(IFNAME, name) + pack(MAC, mac) + _number(GROUP, group)
        body += (_number(MTU, mtu) if mtu else b"") + pack(LINKINFO, _text(_KIND, "bridge"))
        self.ask(NEWLINK, ACK | CREATE | _EXCLUSIVE, body, name)
        index = self.index(name)
        self.ask(SETLINK, ACK, _LINK.pack(0, 0, index, 0, 0) + _text(ALIAS, alias), name)
        return index

    def rename(self, index: int, name: str) -> None:
        """Give a link that is down another name and bring it up, both or nothing."""
        self.ask(SETLINK, ACK, _LINK.pack(0, 0, index, IFF_UP, IFF_UP) + _text(IFNAME, name), name)

    def set(self, name: str, value: str) -> None:
        """Write a setting of this process's network, below /proc/sys/net."""
        with open("/proc/sys/net/" + name, "w", encoding="ascii") as file:
            file.write(value)

    def new_veth(self, name: str, master: int, group: int, mtu: int, peer: tuple[str, bytes, int]) -> None:
        """Make a pair: `name` here, up, below the bridge `master` if not 0; `peer` is (name, MAC, descriptor of its namespace)."""
        inside, mac, ns = peer
        other = (
            _LINK.pack(0, 0, 0, 0, 0) + _text(IFNAME, inside) + pack(MAC, mac) + _number(NS_FD, ns) + (_number(MTU, mtu) if mtu else b"")
        )
        info = _text(_KIND, "veth") + pack(_DATA | _NESTED, pack(_VETH_PEER | _NESTED, other))
        body = _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + _text(IFNAME, name) + _number(GROUP, group) + (_number(MTU, mtu) if mtu else b"")
        body += _number(MASTER, master) if master else b""
        self.ask(NEWLINK, ACK | CREATE | _EXCLUSIVE, body + pack(LINKINFO | _NESTED, info), name)

    def hairpin(self, name: str) -> None:
        """Let a port of a bridge send frames back to where they came from.

        With br_netfilter, forwarding a port happens in the bridge, and a pod that asks its own port is answered there.
        """
        data = pack(_SLAVE_DATA | _NESTED, pack(_PORT_MODE, b"\1"))
        body = _LINK.pack(0, 0, self.index(name), 0, 0) + pack(LINKINFO | _NESTED, _text(_SLAVE_KIND, "bridge") + data)
        self.ask(NEWLINK, ACK, body, name)

    def up(self, index: int) -> None:
        """Bring a link up."""
        self.ask(SETLINK, ACK, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))

    def new_queue(self, name: str, body: bytes) -> None:
        """Give a link a queueing discipline (tc(8)): struct tcmsg and attributes, which pyroute2 writes."""
        self.ask(NEWQDISC, ACK | CREATE | _EXCLUSIVE, body, name)

    def delete(self, name: str) -> bool:
        """Delete a link; whether there was one."""
        try:
            self.ask(*delete_request(name), name)
        except OSError as error:
            if error.errno == 19:
                return False
            raise
        return True

    def add_address(self, index: int, address: str, length: int) -> None:
        """Give a link an address that is usable at once: of IPv6 ones no other machine is asked first."""
        family, raw = _raw(address)
        body = _ADDRESS.pack(family, length, _PERMANENT | (_NODAD if family == INET6 else 0), 0, index)
        self.ask(NEWADDR, ACK | CREATE, body + pack(_IFA_LOCAL, raw) + pack(_IFA_ADDRESS, raw), f"{address}/{length}")

    def add_route(self, index: int, target: str, length: int, gateway: str = "") -> None:
        """Add a route by a link to `target`/`length`, "" for everything; without a gateway it is reached directly."""
        family, _ = _raw(gateway or target)
        scope = 0 if gateway else 253  # RT_SCOPE_LINK
        body = _ROUTE.pack(family, length, 0, 0, _MAIN, 3, scope, 1, 0) + _number(_OIF, index)
        if target:
            body += pack(_DST, _raw(target)[1])
        if gateway:
            body += pack(_GATEWAY, _raw(gateway)[1])
        self.ask(NEWROUTE, ACK | CREATE, body, f"{target or 'default'}/{length}")

    def routes(self) -> list[tuple[str, int, int]]:
        """Return (target, length, number of the link) of every route of the main table but default ones."""
        found = []
        for family in (INET, INET6):
            for _, body in self.ask(GETROUTE, _DUMP, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                _, length, _, _, table, *_ = _ROUTE.unpack_from(body)
                known = attributes(body[12:])
                if table == _MAIN and _DST in known and length:
                    found.append((_socket.inet_ntop(family, known[_DST]), length, int.from_bytes(known.get(_OIF, b""), "little")))
        return found


def _raw(address: str) -> tuple[int, bytes]:
    family = INET6 if ":" in address else INET
    return family, _socket.inet_pton(family, address)


def has_table(name: str) -> bool:
    """Whether nf_tables has our table, asked directly: libnftables would read the whole rule set first."""
    with Netlink(family=NETFILTER) as link:
        try:
            link.ask(*table_request(name), name)
        except OSError as error:
            if error.errno == 2:
                return False
            raise
        return True


def has_chains(table: str, wanted: dict[str, int]) -> bool:
    """Whether it has these chains with so many rules, and jumps to them, at least: somebody may have flushed them."""
    with Netlink(family=NETFILTER) as link:
        try:
            uses = [attributes(link.ask(*chain_request(table, name), name)[0][1][4:]).get(_CHAIN_USE, b"") for name in wanted]
        except OSError as error:
            if error.errno == 2:
                return False
            raise
    return all(int.from_bytes(use, "big") >= least for use, least in zip(uses, wanted.values(), strict=True))
