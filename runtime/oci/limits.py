"""update and events.  Cold."""

from __future__ import annotations

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
_TEXTS = ("cpuset-cpus", "cpuset-mems")
_REFUSED = ("kernel-memory", "kernel-memory-tcp", "l3-cache-schema", "mem-bw-schema")


def update(args: Arguments) -> int:
    """Change the limits of a container, by a file of linux.resources or by flags."""
    container = state.Container(root_of(args), args.words[0])
    if container.status() in ("stopped", "creating"):
        raise StateError("update container", container.id, "container not running")
    resources.write(_wanted(args), container, user=has_own_manager(args))
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
    if found.get("pids", {}).get("limit") == 0 and args.get("pids-limit"):
        found["pids"]["limit"] = 1  # said in so many words it is a limit; Docker writes 0 in every file that it has nothing to say in
    return found


def _number(text: str, name: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    unit = digits.lstrip("0123456789").lower()
    number = digits[: len(digits) - len(unit)]
    if not number.isascii() or not number.isdigit() or len(number) > 19 or unit not in _UNITS or (unit and "memory" not in name):
        raise UsageError("update", f"--{name}", f"{text!r} is not a number", origin=f"--{name}")
    return sign * int(number) * _UNITS[unit]


def events(args: Arguments) -> int:
    """Show what the container uses, one JSON object a line; with --stats once, else every --interval until it has ended.

    Between them one of type "oom" for each time the kernel has killed for want of memory meanwhile.
    """
    import time

    from pyrun.oci import usage_of

    interval, killed = usage_of.seconds(args.get("interval", "5")), -1
    while True:
        try:
            container = state.Container(root_of(args), args.words[0], lock=False)
        except StateError:
            if killed < 0:
                raise
            return 0  # deleted since
        status, group, old = container.status(), container.record.get("cgroup", ""), container.record.get("cgroups_1", {})
        before, killed = killed, usage_of.oom_kills(group, old)
        if status in ("stopped", "creating") and "stats" in args.options:
            raise StateError("show events", container.id, "container not running")
        for _ in range(killed - before if before >= 0 else 0):
            _show({"type": "oom", "id": container.id})
        if status in ("stopped", "creating"):
            return 0
        _show({"type": "stats", "id": container.id, "data": usage_of.statistics(group, old)})
        container.close()
        if "stats" in args.options:
            return 0
        time.sleep(interval)


def _show(event: dict[str, Any]) -> None:
    sys.stdout.write(fastjson.dumps(event) + "\n")
    sys.stdout.flush()
