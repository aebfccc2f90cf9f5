"""Limits of a pod's bandwidth: a token bucket (tc-tbf(8)) where packets are sent, so that they wait instead of being lost.

in    what the pod receives: on the host's end of its interface
out   what the pod sends: on the pod's end.  An app with CAP_NET_ADMIN, which is not among the defaults, could take it away

pyroute2 writes the requests, and is imported by those who limit only: its import takes longer than the rest of a start.
"""

from __future__ import annotations

from pyrun.errors import UsageError
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.net.netlink import Netlink

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


def limit(link: Netlink, inside: Netlink, made: dict[str, Any], rates: dict[str, int]) -> None:
    """Limit one interface of a pod; the sockets are of the host's network and the pod's.  OSError when the kernel cannot."""
    for way, where, name in (("in", link, made["link"]), ("out", inside, made["ifname"])):
        if way in rates:
            where.new_queue(name, _bucket(where.index(name), rates[way] // 8))


def _bucket(index: int, rate: int) -> bytes:
    """Return the request for a link that sends no more than `rate` bytes a second; what would wait longer than 50 ms is lost."""
    from pyroute2.netlink.rtnl.tcmsg import tcmsg
    from pyroute2.netlink.rtnl.tcmsg.sched_tbf import get_parameters, parent

    rate = min(rate, _MOST)
    burst = max(rate // _BURST_TIME, _SMALLEST_BURST)
    asked = tcmsg()
    asked["index"], asked["parent"] = index, parent
    parameters = get_parameters({"rate": rate, "burst": burst, "limit": min(burst + rate // _WAIT, _MOST)})
    asked["attrs"] = [("TCA_KIND", "tbf"), ("TCA_OPTIONS", parameters)]
    asked.encode()
    return bytes(asked.data[16:])  # without struct nlmsghdr
