"""Addresses, subnets and MACs as numbers; imports no more than a start can bear (the module `ipaddress` costs 5 ms)."""

from __future__ import annotations

import _socket
import os

from pyrun.plan.numbers import whole

__all__ = ["OF_INET6", "Subnet", "family_of", "mac_of", "number_of", "parse_mac", "text_of"]

INET, INET6 = 2, 10
OF_INET, OF_INET6 = b"\x06\x70", b"\x06\x71"  # what MACs begin with; 06: local, of one station


def family_of(text: str) -> int:
    """Return AF_INET or AF_INET6, 0 when this is no address."""
    for family in (INET, INET6):
        try:
            _socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return family
    return 0


def number_of(text: str) -> int:
    """Return an address as a number."""
    return int.from_bytes(_socket.inet_pton(INET6 if ":" in text else INET, text), "big")


def text_of(family: int, number: int) -> str:
    """Return the address of a number, as people write it."""
    return _socket.inet_ntop(family, number.to_bytes(4 if family == INET else 16, "big"))


class Subnet:
    """Addresses from `base` on with the first `length` bits in common."""

    __slots__ = ("base", "family", "length")

    def __init__(self, family: int, base: int, length: int) -> None:
        self.family = family
        self.base = base
        self.length = length

    @staticmethod
    def parse(text: str) -> Subnet | None:
        """Return the subnet ADDRESS/LENGTH, None for anything else and where the address has bits beyond the length."""
        address, slash, digits = text.partition("/")
        family = family_of(address)
        if not slash or not family or whole(digits, 32 if family == INET else 128) < 1:
            return None
        found = Subnet(family, number_of(address), int(digits))
        return found if found.base % found.size == 0 else None

    @property
    def size(self) -> int:
        """How many addresses there are."""
        return 1 << ((32 if self.family == INET else 128) - self.length)

    @property
    def hosts(self) -> int:
        """How many a pod can have, counted from `base` + 2: the first is the gateway's, and IPv4's last one is for all."""
        return max(self.size - (3 if self.family == INET else 2), 0)

    def overlaps(self, other: Subnet) -> bool:
        """Whether an address is in both."""
        return self.family == other.family and self.base < other.base + other.size and other.base < self.base + self.size

    def has(self, address: str) -> bool:
        """Whether an address lies inside."""
        return family_of(address) == self.family and self.base <= number_of(address) < self.base + self.size

    def at(self, place: int) -> str:
        """Return the address at a place, 0 for the subnet's own."""
        return text_of(self.family, self.base + place)

    def __str__(self) -> str:
        return f"{self.at(0)}/{self.length}"


def mac_of(address: str) -> str:
    """Return the MAC of an interface with this address: the same address has the same one, so that no neighbour's table is wrong."""
    known = family_of(address) == INET
    raw = OF_INET + _socket.inet_pton(INET, address) if known else OF_INET6 + os.urandom(4)
    return raw.hex(":")


def parse_mac(text: str) -> bytes | None:
    """Return the six bytes of a MAC that an interface can have, None for anything else."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 or part.strip("0123456789abcdefABCDEF") for part in parts):
        return None
    raw = bytes(int(part, 16) for part in parts)
    return None if raw[0] & 1 or not any(raw) else raw
