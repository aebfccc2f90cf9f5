"""Elements of our table as nf_tables gets them, without libnftables: that costs a start more than all its other messages.

A key or a value of several parts has each of them padded to 4 bytes, numbers in network byte order (nft(8), concatenations).
"""

from __future__ import annotations

import _socket

from pyrun.net.netlink import NETFILTER, Netlink, pack, transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.net.rules import Forward

__all__ = ["CREATE", "FILE", "NEW", "add", "bodies", "remove", "sent"]

FILE = "net.elements"  # of a pod's directory: what it has in the table, for the launcher to send again
NEW, DELETE, CREATE = 10 << 8 | 12, 10 << 8 | 14, 0x400  # NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM, NLM_F_CREATE
_INET = bytes((1, 0, 0, 0))  # struct nfgenmsg: NFPROTO_INET
_NESTED = 0x8000
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_...
_KEY, _DATA = 1, 2  # NFTA_SET_ELEM_...
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def _raw(address: str) -> bytes:
    return _socket.inet_pton(10 if ":" in address else 2, address)


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + bytes(2)


def _value(kind: int, data: bytes) -> bytes:
    return pack(kind | _NESTED, pack(1, data))  # NFTA_DATA_VALUE


def _body(table: str, name: str, element: bytes) -> bytes:
    where = pack(_TABLE, table.encode() + b"\0") + pack(_SET, name.encode() + b"\0")
    return _INET + where + pack(_ELEMENTS | _NESTED, pack(1 | _NESTED, element))


def bodies(table: str, forwards: list[Forward], alone: list[str], *, values: bool = True) -> list[bytes]:
    """Return a request for each forwarded port and each address that may not reach the host, with what a key stands for or without."""
    found = []
    for one in forwards:
        key = (_raw(one.address) if one.address else b"") + bytes((_PROTOCOLS[one.protocol], 0, 0, 0)) + _port(one.port)
        value = _value(_DATA, _raw(one.to) + _port(one.inside)) if values else b""
        found.append(_body(table, one.map, _value(_KEY, key) + value))
    for address in alone:
        found.append(_body(table, f"alone{'6' if ':' in address else '4'}", _value(_KEY, _raw(address))))
    return found


def sent(table: str, forwards: list[Forward], alone: list[str]) -> bytes:
    """Return what `add` sends, nothing where that is nothing."""
    found = bodies(table, forwards, alone)
    return transaction(NEW, CREATE, found, 1) if found else b""


def add(table: str, forwards: list[Forward], alone: list[str]) -> None:
    """Add these to the table, or none of them; OSError when one is there with another value, or the table is not."""
    found = bodies(table, forwards, alone)
    if found:
        with Netlink(family=NETFILTER) as link:
            link.batch(NEW, CREATE, found)


def remove(table: str, forwards: list[Forward], alone: list[str]) -> None:
    """Take these away.  One that is gone already stops the others of its transaction: then one by one, and what cannot be is left."""
    found = bodies(table, forwards, alone, values=False)
    for requests in [found, *([one] for one in found)] if found else []:
        try:
            with Netlink(family=NETFILTER) as link:
                link.batch(DELETE, 0, requests)
        except OSError:
            continue
        if requests is found:
            return
