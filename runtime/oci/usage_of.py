"""What a container uses, as `events` shows it.  Cold."""

from __future__ import annotations

import os

from pyrun.errors import UsageError
from pyrun.host import read_small
from pyrun.oci import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
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


def oom_kills(group: str, old: Mapping[str, str]) -> int:
    """Return how many processes of the cgroup the kernel has killed for want of memory, 0 where nobody counts them.

    `old` are the container's groups in version 1, by controller.
    """
    if "memory" in old:
        return _flat(old["memory"], "memory.oom_control").get("oom_kill", 0)
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


def statistics(group: str, old: Mapping[str, str]) -> dict[str, Any]:
    """In the members of runc's `events`, which the field reads; `old` are the container's groups in version 1, by controller."""
    found = _of_tree(group)
    if old:
        _add_old(found, old)
    return found


def _of_tree(group: str) -> dict[str, Any]:
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


def _add_old(found: dict[str, Any], old: Mapping[str, str]) -> None:
    """What version 1 counts instead: swap is memory and swap together there, as in runc's (cgroup-v1/memory.rst)."""
    cpu, memory, pids, disks = (old.get(name, "") for name in ("cpu", "memory", "pids", "blkio"))
    if cpu:
        times = _flat(cpu, "cpu.stat")
        periods, throttled = times.get("nr_periods", 0), times.get("nr_throttled", 0)
        found["cpu"]["throttling"] = {"periods": periods, "throttledPeriods": throttled, "throttledTime": times.get("throttled_time", 0)}
    if memory:
        raw = _flat(memory, "memory.stat")
        of = found["memory"]
        of["cache"], of["raw"] = raw.get("cache", 0), raw
        for name, files in (("usage", "memory."), ("swap", "memory.memsw."), ("kernel", "memory.kmem."), ("kernelTCP", "memory.kmem.tcp.")):
            members = (("limit", "limit_in_bytes"), ("usage", "usage_in_bytes"), ("max", "max_usage_in_bytes"), ("failcnt", "failcnt"))
            of[name] = {member: _value(memory, files + file) for member, file in members}
    if pids:
        found["pids"] = {"current": _value(pids, "pids.current"), "limit": _value(pids, "pids.max")}
    if disks:
        for file, member in (("io_service_bytes", "ioServiceBytesRecursive"), ("io_serviced", "ioServicedRecursive")):
            found["blkio"][member] = _disks_1(disks, f"blkio.throttle.{file}_recursive")
    if "hugetlb" in old:
        found["hugetlb"] = _huge_pages_1(old["hugetlb"])


def _disks_1(group: str, file: str) -> list[dict[str, Any]]:
    found = []
    for line in read_small(f"{group}/{file}").decode().splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        name, _, number = rest.partition(" ")
        if colon and number.isdigit():
            found.append({"major": int(major), "minor": int(minor), "op": name, "value": int(number)})
    return found


def _huge_pages_1(group: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(os.listdir(group)) if os.path.isdir(group) else ():
        controller, size, file = [*name.split(".", 2), "", ""][:3]
        if controller == "hugetlb" and file == "usage_in_bytes":
            found[size] = {"usage": _value(group, name), "failcnt": _value(group, f"hugetlb.{size}.failcnt")}
    return found


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
