"""Limits of a cgroup -> properties of the systemd unit that it is the cgroup of (systemd.resource-control(5)). Pure."""

from __future__ import annotations

import contextlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["properties_of", "quota_of"]

_INFINITY = (1 << 64) - 1
_MOST_CPUS = 1 << 16  # far more than any kernel is made for
_NUMBERS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "cpu.weight": "CPUWeight",
    "pids.max": "TasksMax",
    "io.weight": "IOWeight",
}
_SETS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
# The unit holds pyrun's own processes beside the pod: a supervisor, a keeper, whoever enters.
_MORE = {"memory.max": 16 << 20, "memory.high": 16 << 20, "pids.max": 16}


def properties_of(limits: Iterable[tuple[str, str]], more: Mapping[str, int] = _MORE) -> list[list[str]]:
    """Return name, signature and values of each property, as busctl(1) takes them; limits that have no property are left out.

    `more` is what the unit gets on top: it bounds memory and processes a little wider than the pod, whose own cgroup has the exact limit.
    """
    found: list[list[str]] = []
    for file, text in limits:
        with contextlib.suppress(ValueError):  # a form that only the kernel reads: the pod's own cgroup has the limit
            found += _of(file, text, more)
    return found


def quota_of(text: str) -> str:
    """Return `cpu.max` as systemd writes it for the properties of that text; ValueError for another form."""
    quota, period = _quota(text)
    return f"{'max' if quota is None else quota * period // 1_000_000} {period}"


def _quota(text: str) -> tuple[int | None, int]:
    """Microseconds in a second, and the period; in whole percents, upward, as systemd keeps it when it reloads."""
    words = text.split() or [""]
    period = int(words[1]) if len(words) > 1 else 100_000
    if period <= 0:
        raise ValueError(text)
    return (None if words[0] == "max" else -(-int(words[0]) * 1_000_000 // (period * 10_000)) * 10_000), period


def _of(file: str, text: str, more: Mapping[str, int]) -> list[list[str]]:
    words = text.split()
    if file in _NUMBERS and words[:-1] in ([], ["default"]):
        number = _INFINITY if words[-1] == "max" else int(words[-1]) + more.get(file, 0)
        return [[_NUMBERS[file], "t", str(number)]]
    if file == "cpu.max":
        quota, period = _quota(text)
        return [["CPUQuotaPerSecUSec", "t", str(_INFINITY if quota is None else quota)], ["CPUQuotaPeriodUSec", "t", str(period)]]
    if file not in _SETS:
        return []
    bits = 0
    for part in text.split(","):
        low, _, high = part.partition("-")
        first, last = int(low), int(high or low)
        if last >= _MOST_CPUS:
            raise ValueError(text)
        for bit in range(first, last + 1):
            bits |= 1 << bit
    data = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return [[_SETS[file], "ay", str(len(data)), *map(str, data)]]
