"""Limits of a pod's bandwidth: a token bucket (tc-tbf(8)) where packets are sent, so that they wait instead of being lost.

in    what the pod receives: on the host's end of its interface
out   what the pod sends: on the pod's end.  An app with CAP_NET_ADMIN, which is not among the defaults, could take it away
"""

from __future__ import annotations

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.net.netlink import Netlink

__all__ = ["limit", "parse"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_BURST_TIME = 20  # 1/20 s, in what a bucket holds at least
_SMALLEST_BURST = 16 << 10  # bytes, more than the largest packet that an interface with offloads passes on at low rates


def parse(text: str, where: str = "--net-bandwidth") -> dict[str, int]:
    """Return {in, out} in bits per second of `10m` or `in=10m,out=1g`; UsageError for anything else."""
    found: dict[str, int] = {}
    for part in text.split(","):
        way, equals, value = part.rpartition("=")
        for one in [way] if equals else ["in", "out"]:
            if one not in ("in", "out") or one in found:
                raise _wrong(where, part)
            found[one] = rate(value, where)
    return found


def rate(text: str, where: str) -> int:
    """Return the bits per second of a number with k, m or g for powers of 1000, 8000 at least."""
    number = text.lower().removesuffix("bit")
    unit = number[-1:] if number[-1:] in ("k", "m", "g") else ""
    digits = number.removesuffix(unit)
    if not digits.isdecimal() or len(digits) > 12 or not 8000 <= int(digits) * _UNITS[unit] < 1 << 40:
        raise _wrong(where, text)
    return int(digits) * _UNITS[unit]


def _wrong(where: str, text: str) -> UsageError:
    hint = "write bits per second with k, m or g, as in 10m for both ways, or in=10m,out=1m"
    return UsageError(f"option {where}", text, "not a rate from 8k to 1000g", hint=hint)


def limit(link: Netlink, inside: Netlink, made: dict[str, Any], rates: dict[str, int]) -> None:
    """Limit one interface of a pod; OSError when the kernel cannot."""
    for where, name, way in ((link, made["link"], "in"), (inside, made["ifname"], "out")):
        if way in rates:
            where.limit(name, rates[way] // 8, max(rates[way] // 8 // _BURST_TIME, _SMALLEST_BURST))
