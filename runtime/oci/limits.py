"""update and events.  Cold."""

from __future__ import annotations

import os
import sys

from pyrun.errors import ConfigError, StateError, UsageError
from pyrun.images import fastjson
from pyrun.oci import resources, spec, state
from pyrun.oci.create import has_own_manager, root_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments

__all__ = ["events", "update"]

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
# option -> (table, member); the last three take bytes
_MEMBERS = {
    "cpu-share": ("cpu", "shares"), "cpu-quota": ("cpu", "quota"), "cpu-period": ("cpu", "period"), "cpu-burst": ("cpu", "burst"),
    "cpu-idle": ("cpu", "idle"), "cpu-rt-period": ("cpu", "realtimePeriod"), "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems"), "pids-limit": ("pids", "limit"), "blkio-weight": ("blockIO", "weight"),
    "memory": ("memory", "limit"), "memory-reservation": ("memory", "reservation"), "memory-swap": ("memory", "swap"),
}  # fmt: skip
_DURATIONS = {"": 1, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_TEXTS = ("cpuset-cpus", "cpuset-mems")
_REFUSED = ("kernel-memory", "kernel-memory-tcp", "l3-cache-schema", "mem-bw-schema")


def update(args: Arguments) -> int:
    """Change the limits of a container, by a file of linux.resources or by flags."""
    container = state.Container(root_of(args), args.words[0])
    if container.status() in ("stopped", "creating"):
        raise StateError("update container", container.id, "container not running")
    resources.write(_wanted(args), container.record.get("cgroup", ""), user=has_own_manager(args))
    container.close()
    return 0


def _wanted(args: Arguments) -> dict[str, Any]:
    found: dict[str, Any] = {}
    path = args.get("resources")
    if path:
        try:
            data = sys.stdin.buffer.read() if path == "-" else state.read(path, follow=True)
        except OSError as error:
            raise ConfigError("read resources", path, errno=error.errno or 0, origin="--resources") from None
        found = spec.load_resources(data)
    for name in _REFUSED:
        if args.get(name):
            raise ConfigError("update", f"--{name}", "cgroup version 2 and this runtime do not have it", origin=f"--{name}")
    for name, (table, member) in _MEMBERS.items():
        text = args.get(name)
        if text:
            found.setdefault(table, {})[member] = text if name in _TEXTS else _number(text, name)
    return found


def _number(text: str, name: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    unit = digits.lstrip("0123456789").lower()
    number = digits[: len(digits) - len(unit)]
    if not number.isascii() or not number.isdigit() or len(number) > 19 or unit not in _UNITS or (unit and "memory" not in name):
        raise UsageError("update", f"--{name}", f"{text!r} is not a number", origin=f"--{name}")
    return sign * int(number) * _UNITS[unit]


def events(args: Arguments) -> int:
    """Show what the container uses, one JSON object a line; with --stats once, else every --interval until it has ended."""
    import time

    interval = _seconds(args.get("interval", "5"))
    while True:
        container = state.Container(root_of(args), args.words[0], lock=False)
        status = container.status()
        if status in ("stopped", "creating"):
            if "stats" in args.options:
                raise StateError("show events", container.id, "container not running")
            return 0
        shown = {"type": "stats", "id": container.id, "data": _statistics(container.record.get("cgroup", ""))}
        sys.stdout.write(fastjson.dumps(shown) + "\n")
        sys.stdout.flush()
        container.close()
        if "stats" in args.options:
            return 0
        time.sleep(interval)


def _seconds(text: str) -> float:
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


def _statistics(group: str) -> dict[str, Any]:
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
        "cpu": {"usage": usage, "throttling": throttling},
        "memory": {"cache": memory.get("file", 0), "usage": {**used, "failcnt": hits.get("max", 0)}, "swap": swap, "raw": memory},
        "pids": {
            "current": _value(group, "pids.current"),
            "limit": _value(group, "pids.max") if os.path.exists(f"{group}/pids.max") else 0,
        },
        "blkio": {"ioServiceBytesRecursive": _disks(group)},
        "hugetlb": {},
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
