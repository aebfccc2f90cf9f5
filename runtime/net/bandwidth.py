"""Limits of a pod's bandwidth: a token bucket (tc-tbf(8)) where packets are sent, so that they wait instead of being lost.

in    what the pod receives: on the host's end of its interface
out   what the pod sends: on the pod's end.  An app with CAP_NET_ADMIN, which is not among the defaults, could take it away

pyroute2 asks the kernel, and is imported by those who limit only: its import takes longer than the rest of a start.
"""

from __future__ import annotations

import os

from pyrun.errors import UsageError
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["limit", "parse"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_BURST_TIME = 20  # 1/20 s, in what a bucket holds at least
_WAIT = 20  # 1/20 s
_MOST = 0xFFFFFFFF  # bytes, or bytes a second, that a request of tbf has room for
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
    if not 8000 <= whole(digits, 1 << 40) * _UNITS[unit] < 1 << 40:
        raise _wrong(where, text)
    return int(digits) * _UNITS[unit]


def _wrong(where: str, text: str) -> UsageError:
    hint = "write bits per second with k, m or g, as in 10m for both ways, or in=10m,out=1m"
    return UsageError(f"option {where}", text, "not a rate from 8k to 1000g", hint=hint)


def limit(ns: int, made: dict[str, Any], rates: dict[str, int]) -> None:
    """Limit one interface of a pod whose network is the descriptor `ns`; OSError when the kernel cannot."""
    from pyrun import native

    if "in" in rates:
        _shape(-1, made["link"], rates["in"] // 8)
    if "out" in rates:
        other, sock = native.netns(ns)
        os.close(other)
        _shape(sock, made["ifname"], rates["out"] // 8)


def _shape(sock: int, name: str, rate: int) -> None:
    """Send no more than `rate` bytes a second by a link; what would wait longer than 50 ms is lost.  `sock` is taken over."""
    from pyroute2.iproute.linux import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    rate = min(rate, _MOST)
    burst = max(rate // _BURST_TIME, _SMALLEST_BURST)
    with IPRoute(fileno=sock if sock >= 0 else None) as link:
        try:
            (index,) = link.link_lookup(ifname=name)
            link.tc("add", "tbf", index, rate=rate, burst=burst, limit=min(burst + rate // _WAIT, _MOST))
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code), name) from None
