"""What a container uses, as `events` shows it.  Cold."""

from __future__ import annotations

import os

from pyrun.errors import UsageError
from pyrun.oci import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["oom_kills", "seconds", "statistics"]

_DURATIONS = {"": 1, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """A duration as Go writes it, "1m30s" or "100ms"; a number alone is seconds."""
    value, rest = 0.0, text
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        unit = rest[len(digits) :]
        unit = unit[: len(unit) - len(unit.lstrip("nuµmsh"))]
        try:
            value += float(digits) * _DURATIONS[unit]
        except (ValueError, KeyError):
            value = 0.0
            break
        rest = rest[len(digits) + len(unit) :]
    if not 0 < value < 1e6:
        raise UsageError("show events", f"--interval {text}", "not a duration", hint="for example 5s, 100ms, 1m", origin="--interval")
    return value


def oom_kills(group: str) -> int:
    """Return how many processes of the cgroup the kernel has killed for want of memory, 0 where nobody counts them."""
    return _flat(group, "memory.events").get("oom_kill", 0)


def _flat(group: str, file: str) -> dict[str, int]:
    try:
        lines = state.read(f"{group}/{file}").decode().splitlines()
    except OSError:
        return {}
    return {key: int(value) for key, _, value in (line.partition(" ") for line in lines) if value.isdigit()}


def _value(group: str, file: str) -> int:
    """A file of one number; "max" is the largest there can be."""
    try:
        text = state.read(f"{group}/{file}").decode().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else (1 << 64) - 1


def statistics(group: str) -> dict[str, Any]:
    """In the members of runc's `events`, which the field reads."""
    cpu, memory = _flat(group, "cpu.stat"), _flat(group, "memory.stat")
    hits = _flat(group, "memory.events")
    usage = {"total": cpu.get("usage_usec", 0) * 1000, "kernel": cpu.get("system_usec", 0) * 1000, "user": cpu.get("user_usec", 0) * 1000}
    throttling = {
        "periods": cpu.get("nr_periods", 0),
        "throttledPeriods": cpu.get("nr_throttled", 0),
        "throttledTime": cpu.get("throttled_usec", 0) * 1000,
    }
    used = {"limit": _value(group, "memory.max"), "usage": _value(group, "memory.current"), "max": _value(group, "memory.peak")}
    swap = {"limit": _value(group, "memory.swap.max"), "usage": _value(group, "memory.swap.current"), "failcnt": 0}
    return {
        "cpu": {"usage": usage, "throttling": throttling, **_pressure(group, "cpu")},
        "memory": {
            "cache": memory.get("file", 0),
            "usage": {**used, "failcnt": hits.get("max", 0)},
            "swap": swap,
            "raw": memory,
            **_pressure(group, "memory"),
        },
        "pids": {
            "current": _value(group, "pids.current"),
            "limit": _value(group, "pids.max") if os.path.exists(f"{group}/pids.max") else 0,
        },
        "blkio": {"ioServiceBytesRecursive": _disks(group), **_pressure(group, "io")},
        "hugetlb": _huge_pages(group),
        "intel_rdt": {},
    }


def _disks(group: str) -> list[dict[str, Any]]:
    try:
        lines = state.read(f"{group}/io.stat").decode().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        device, *words = line.split()
        major, _, minor = device.partition(":")
        values = dict(word.split("=", 1) for word in words if "=" in word)
        for key, name in (("rbytes", "Read"), ("wbytes", "Write"), ("dbytes", "Discard")):
            if key in values:
                found.append({"major": int(major), "minor": int(minor), "op": name, "value": int(values[key])})
    return found


def _pressure(group: str, resource: str) -> dict[str, Any]:
    """How long processes have waited, in the shares and microseconds of psi.rst; nothing on a kernel without."""
    try:
        lines = state.read(f"{group}/{resource}.pressure").decode().splitlines()
    except OSError:
        return {}
    found: dict[str, Any] = {}
    for line in lines:
        kind, *words = line.split()
        pairs = [word.partition("=") for word in words]
        found[kind] = {name: int(value) if name == "total" else float(value) for name, _, value in pairs}
    return {"psi": found}


def _huge_pages(group: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(os.listdir(group)) if os.path.isdir(group) else ():
        controller, size, file = [*name.split("."), "", ""][:3]
        if controller == "hugetlb" and file == "current":
            hits = _flat(group, f"hugetlb.{size}.events").get("max", 0)
            found[size] = {"usage": _value(group, name), "failcnt": hits}
    return found
