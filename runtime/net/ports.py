"""Forwarded ports of the host: taken before the pod starts, so that a clash is an error and not a surprise."""

from __future__ import annotations

import _socket

from pyrun.errors import ConfigError
from pyrun.net import leases
from pyrun.net.networks import directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LOOPBACK", "SOCKETS", "claim", "forwards", "path_of"]

SOCKETS = {"tcp": (1, 6), "udp": (2, 17), "sctp": (1, 132)}  # type and protocol of socket(2)
_IN_USE, _NOT_HERE = 98, 99  # EADDRINUSE, EADDRNOTAVAIL
_ANY = "any"
LOOPBACK = "::1"  # no rule of ours is about that: pyrun.net.relay
_PATIENCE = 5.0  # seconds


def path_of(protocol: str, address: str, port: int) -> str:
    """Return the name of the link that says whose a port is, below `networks`."""
    return f"ports/{protocol}-{port}-{address or _ANY}"


def claim(root: str, uuid: str, wanted: list[tuple[str, str, int, int]], record: dict[str, Any], dead: list[str]) -> None:
    """Take ports for a pod; ConfigError when one is another pod's, or some program of the host listens there.

    The lock is held, `dead` as `leases.claim` has it.
    """
    top = directory(root)
    others = _claimed(top) if wanted else {}
    for protocol, address, port, _ in wanted:
        patience = 0.0
        for other, path in others.get((protocol, port), []):
            if other == address or "" in (other, address):
                owner = leases.owner_of(path)
                if owner and owner != uuid and leases.alive(root, owner):
                    raise _taken(protocol, address, port, f"it is forwarded to pod {owner}")
                dead.append(path)
                leases.release(path, owner)
                patience = _PATIENCE
        _probe_soon(protocol, address, port, patience)
        leases.claim(root, f"{top}/{path_of(protocol, address, port)}", uuid, dead)
        record["claims"].append(path_of(protocol, address, port))


def _claimed(top: str) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """(protocol, port) -> (address, path) of every port that somebody has, or had."""
    import os

    found: dict[tuple[str, int], list[tuple[str, str]]] = {}
    try:
        names = os.listdir(top + "/ports")
    except FileNotFoundError:
        return found
    for name in names:
        protocol, port, address = name.split("-", 2)
        found.setdefault((protocol, int(port)), []).append(("" if address == _ANY else address, f"{top}/ports/{name}"))
    return found


def _probe_soon(protocol: str, address: str, port: int, patience: float) -> None:
    """As `_probe`; a pod that has just ended may have a process that listens yet, which is being ended."""
    import time

    end = time.monotonic() + patience
    while True:
        try:
            return _probe(protocol, address, port)
        except ConfigError as error:
            if error.errno != _IN_USE or time.monotonic() >= end:
                raise
        time.sleep(0.01)


def _probe(protocol: str, address: str, port: int) -> None:
    """Forwarding would hide what listens there already."""
    kind, number = SOCKETS[protocol]
    for family in [10 if ":" in address else 2] if address else (2, 10):
        try:
            probe = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, number)
        except OSError:
            continue  # no IPv6, or no SCTP, in this host: nobody can listen
        try:
            if kind == 1:
                probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            if family == 10:
                probe.setsockopt(41, 26, 1)  # IPPROTO_IPV6, IPV6_V6ONLY
            probe.bind((address or ("::" if family == 10 else "0.0.0.0"), port))
        except OSError as error:
            if error.errno == _IN_USE:
                raise _taken(protocol, address, port, "a program of the host uses it", _IN_USE) from None
            if error.errno == _NOT_HERE:
                hint = "write an address of the host, or none for all of them"
                raise ConfigError("forward port", f"{address}:{port}", "the host has no such address", hint=hint, origin="--port") from None
            raise
        finally:
            probe.close()


def _taken(protocol: str, address: str, port: int, why: str, errno: int = 0) -> ConfigError:
    subject = f"{address}:{port}/{protocol}" if address else f"{port}/{protocol}"
    return ConfigError("forward port", subject, why, errno=errno, hint="choose another port of the host", origin="--port")


def forwards(wanted: list[tuple[str, str, int, int]], nets: list[dict[str, Any]]) -> list[tuple[str, str, int, str, int]]:
    """Return what goes where, for each family of the first network that has an address of it.

    From ::1 a pod of either family is reached.  ConfigError for another address in a family that the pod does not have.
    """
    target: dict[bool, str] = {}
    for made in nets:
        for address in made["addresses"]:
            target.setdefault(":" in address, address.partition("/")[0])
    found = []
    for protocol, address, port, inside in wanted:
        if address == LOOPBACK:
            found.append((protocol, address, port, target.get(True) or target[False], inside))
            continue
        for family in [":" in address] if address else sorted(target):
            if family not in target:
                raise ConfigError("forward port", f"{address}:{port}", "the pod has no address of that family", origin="--port")
            found.append((protocol, address, port, target[family], inside))
    return found
