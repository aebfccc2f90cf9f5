"""Our table of nf_tables as the kernel has it, written down as the transaction that makes it again: so the launcher can, after a boot.

What pods have in it is left out.  The file's name has a checksum of the rules' text, so that a newer pyrun does not believe an older
one's.  Whoever makes or removes a network takes it away first, and whoever makes the table writes it anew, both under the lock.

The kernel tells attributes as it takes them (linux/netfilter/nf_tables.h); handles and counts of users are its own and stay here.
"""

from __future__ import annotations

import os

from pyrun.net.netlink import ACK, APPEND, CREATE, NETFILTER, Netlink, enclosed, message, pack, split, table_request

__all__ = ["SUFFIX", "forget", "take"]

SUFFIX = ".rules"
_TABLE, _CHAIN, _RULE, _SET, _ELEMENT = 0, 3, 6, 9, 12  # NFT_MSG_NEW...; the question for each is the number behind it
_KEPT = {
    _TABLE: {1, 2, 6},  # name, flags, user data
    _CHAIN: {1, 3, 4, 5, 7, 12},  # table, name, hook, policy, type, user data
    _SET: {1, 2, 3, 4, 5, 6, 7, 8, 9, 13},  # table, name, flags, types and lengths, policy, description, user data
    _ELEMENT: {1, 2, 3},  # table, set, elements
    _RULE: {1, 2, 4, 7},  # table, chain, expressions, user data
}
_DELETE = 2  # NFT_MSG_DELTABLE: what is left of it, where somebody has flushed some
_SET_ID = 10
_DUMP = 0x300
_MOST = 1 << 17  # bytes, that the launcher reads


def take(root: str, table: str, name: str, *, without: tuple[str, ...]) -> None:
    """Write the file `name` of the networks of `root`; the lock is held.  Of sets whose names begin as `without` says no elements.

    Where that cannot be there is no such file: OSError is not raised.
    """
    path = f"{root}/networks/{name}{SUFFIX}"
    forget(root)
    try:
        with Netlink(family=NETFILTER) as link:
            requests = _requests(link, table, without)
        *all_but_last, last = requests
        data = b"".join(message(kind, flags, body, 1) for kind, flags, body in all_but_last)
        data = enclosed(data + message(last[0], last[1] | ACK, last[2], 1), 1)
        if len(data) <= _MOST:
            with open(path + ".new", "wb") as file:
                file.write(data)
            os.rename(path + ".new", path)
    except OSError:
        return


def forget(root: str) -> None:
    """Take away what was written: something changes that is in it."""
    for entry in os.listdir(root + "/networks"):
        if entry.endswith(SUFFIX):
            os.unlink(f"{root}/networks/{entry}")


def _requests(link: Netlink, table: str, without: tuple[str, ...]) -> list[tuple[int, int, bytes]]:
    named = pack(1, table.encode() + b"\0")
    chains = [body for body in _dump(link, _CHAIN, b"") if _of(body, 1) == table]
    sets = _dump(link, _SET, named)
    found = [(_TABLE, _dump_one(link, table)), *((_CHAIN, body) for body in chains)]
    found += [(_SET, body) for body in sets]
    for body in sets:
        name = _of(body, 2)
        if not name.startswith(without):
            found += [(_ELEMENT, body) for body in _dump(link, _ELEMENT, named + pack(2, name.encode() + b"\0"))]
    found += [(_RULE, body) for body in _dump(link, _RULE, named)]
    requests = [(10 << 8 | _TABLE, CREATE, bytes((1, 0, 0, 0)) + named), (10 << 8 | _DELETE, 0, bytes((1, 0, 0, 0)) + named)]
    for place, (what, body) in enumerate(found):
        kept = body[:2] + bytes(2) + b"".join(pack(kind, value) for kind, value in split(body[4:]) if kind & 0x3FFF in _KEPT[what])
        kept += pack(_SET_ID, place.to_bytes(4, "big")) if what == _SET else b""
        requests.append((10 << 8 | what, CREATE | (APPEND if what == _RULE else 0), kept))
    return requests


def _dump(link: Netlink, what: int, of: bytes) -> list[bytes]:
    return [body for _, body in link.ask(10 << 8 | what + 1, _DUMP, bytes((1, 0, 0, 0)) + of)]


def _dump_one(link: Netlink, table: str) -> bytes:
    return link.ask(*table_request(table))[0][1]


def _of(body: bytes, kind: int) -> str:
    return next((value for known, value in split(body[4:]) if known == kind), b"").rstrip(b"\0").decode()
