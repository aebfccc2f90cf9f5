"""Limits of cgroup version 2 -> files of version 1, for hosts where a controller lives in a hierarchy of its own beside the v2 tree. Pure.

The unit of both is the same nearly everywhere.  What version 1 cannot do is refused by name.
Linux, Documentation/admin-guide/cgroup-v1.
"""

from __future__ import annotations

from pyrun.errors import HostError
from pyrun.plan.resources import PERIOD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Limit = tuple[str, str, str]
    Limit1 = tuple[str, str, str, str]  # of a hierarchy by its controller, or of a directory in it

__all__ = ["controller_of", "nested", "raised", "shares_of_weight", "split", "version_1", "with_swap"]

_NO_LIMIT = 1 << 62  # and more: what a file of version 1 says then depends on the size of a page
_NAMES = {"io": "blkio"}  # v2 -> v1, where it has another
_FREE = {"cpu": ("cpu.shares", "1024"), "memory": ("memory.limit_in_bytes", "-1"), "pids": ("pids.max", "max")}
_SAME = frozenset(("cpu.idle", "cpuset.cpus", "cpuset.mems", "pids.max", "rdma.max"))
_THROTTLES = {"rbps": "read_bps", "wbps": "write_bps", "riops": "read_iops", "wiops": "write_iops"}


def controller_of(file: str) -> str:
    """Return the name of the v1 hierarchy that has what the v2 file `file` does."""
    name = file.partition(".")[0]
    return _NAMES.get(name, name)


def split(limits: Iterable[Limit], available: Iterable[str], mounted: Mapping[str, str]) -> tuple[list[Limit], list[Limit]]:
    """Return those limits that the v2 tree, which has the controllers `available`, takes, and those for v1.

    A controller is in one of both only (cgroup-v2.rst, "Mounting"); one that is in neither stays with v2, which says so.
    """
    there = frozenset(available)
    new: list[Limit] = []
    old: list[Limit] = []
    for limit in limits:
        name = limit[0].partition(".")[0]
        (old if name not in there and controller_of(limit[0]) in mounted else new).append(limit)
    return new, old


def version_1(limits: Iterable[Limit], held: Mapping[str, str] | None) -> list[Limit1]:
    """Return (v1 controller, file, text, origin) in the order to write them; HostError for what version 1 does not have.

    `held` is what a cpuset above has, "cpuset.cpus" and "cpuset.mems": a v1 cpuset is empty until both are written.  None for one
    that was written before.
    """
    found: list[Limit1] = []
    wanted = {file: (text, origin) for file, text, origin in limits}
    for file, text, origin in limits:
        try:
            translated = _translate(file, text, origin, wanted)
        except (KeyError, ValueError):
            hint = "write plain numbers, without units"
            raise HostError("set limit", f"{file} {text}", "cannot be said to cgroup version 1", hint=hint, origin=origin) from None
        for name, value in translated:
            found.append((controller_of(file), name, value, origin))
    for file, other in (("cpuset.cpus", "cpuset.mems"), ("cpuset.mems", "cpuset.cpus")):
        if file in wanted and other not in wanted and held is not None:
            found.append(("cpuset", other, held.get(other, "0"), wanted[file][1]))
    return found


def with_swap(limits: list[Limit], memory: int, together: int) -> list[Limit]:
    """Return `limits` for a cgroup that has `memory` bytes, and `together` of memory and swap, so that what is not changed stays as it is.

    Version 1 has no limit of swap alone: what may be swapped is the difference, and goes along when that of memory is changed.
    """
    files = {file: (text, origin) for file, text, origin in limits}
    text, origin = files.get("memory.max", ("", ""))
    if text.isdigit() and "memory.swap.max" not in files and together < _NO_LIMIT:
        return [*limits, ("memory.swap.max", str(max(0, together - memory)), origin)]
    text, origin = files.get("memory.swap.max", ("", ""))
    if text.isdigit() and "memory.max" not in files and memory < _NO_LIMIT:
        return [("memory.max", str(memory), origin), *limits]
    return limits


def nested(pod: list[Limit1], app: list[Limit1], name: str, held: Mapping[str, str]) -> tuple[list[Limit1], list[Limit1]]:
    """Return what is to be written for all apps of a pod together, `pod`, and for the app `name` of it, whose groups lie below those.

    Both are (directory, file, text, origin) in the pod's directories.  In each hierarchy that one of both uses there are both
    groups, one of them without limits of its own; `held` is what a cpuset above has.
    """
    above, below = list(pod), [(f"{where}/{name}", file, text, origin) for where, file, text, origin in app]
    for where in dict.fromkeys(one[0] for one in (*pod, *app)):
        of_pod, of_app = ([one for one in limits if one[0] == where] for limits in (pod, app))
        if not of_pod:
            above += _without_limits(where, of_app[0], held)
        elif not of_app:
            below += _without_limits(f"{where}/{name}", of_pod[0], {file: text for _, file, text, _ in of_pod})
        elif of_pod[0][1].startswith("cpuset."):  # what the app does not limit is what the pod has
            sets = {file: text for _, file, text, _ in of_pod}
            below = [(*one[:2], sets[one[1]], one[3]) if one[2] == held.get(one[1]) and one[1] in sets else one for one in below]
    return above, below


def _without_limits(where: str, like: Limit1, held: Mapping[str, str]) -> list[Limit1]:
    """What makes a group, in the hierarchy of the limit `like`; a cpuset takes no process before it has been filled."""
    name, origin = like[1].partition(".")[0], like[3]
    if name == "cpuset":
        return [(where, file, held.get(file, "0"), origin) for file in ("cpuset.cpus", "cpuset.mems")]
    file, text = _FREE.get(name, ("notify_on_release", "0"))  # which each group has, and nobody asks for
    return [(where, file, text, origin)]


def raised(limits: list[Limit1], together: int) -> list[Limit1]:
    """Return `limits` in the order to write them where `together` bytes of memory and swap are what holds.

    The kernel keeps the limit of memory at or below that of both at any time (cgroup-v1/memory.rst, 2.4), so on the way up the latter
    goes first.  HostError where it would have to change and is not among them.
    """
    own = [one for one in limits if one[1] == "memory.limit_in_bytes" and together < _NO_LIMIT]
    above = [one for one in own if not 0 <= int(one[2]) <= together]
    first = [one for one in limits if one[1] == "memory.memsw.limit_in_bytes"]
    if above and not first:
        reason = f"is above the limit of memory and swap together, {together}, which cgroup version 1 does not take"
        raise HostError("set limit", f"memory.max {above[0][2]}", reason, hint="give --swap as well", origin=above[0][3])
    return [*first, *(one for one in limits if one not in first)] if above else limits


def _translate(file: str, text: str, origin: str, wanted: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    first, _, rest = text.partition(" ")
    number = "-1" if first == "max" else first
    if file in _SAME:
        return [(file, text)]
    if file == "memory.max":
        return [("memory.limit_in_bytes", number)]
    if file == "memory.low":
        return [("memory.soft_limit_in_bytes", number)]
    if file == "memory.swap.max":
        return _swap(number, origin, wanted)
    if file == "cpu.max":
        return [("cpu.cfs_period_us", rest or str(PERIOD)), ("cpu.cfs_quota_us", number)]
    if file == "cpu.max.burst":
        return [("cpu.cfs_burst_us", text)]
    if file == "cpu.weight":
        return [("cpu.shares", str(shares_of_weight(int(text))))]
    if file == "io.max":
        rates = [word.split("=") for word in rest.split()]
        return [(f"blkio.throttle.{_THROTTLES[key]}_device", f"{first} {0 if value == 'max' else value}") for key, value in rates]
    if file == "io.weight":
        first, rest = (first, rest) if rest else ("default", first)
        weight = 10 + (int(rest) - 1) * 990 // 9999
        return [("blkio.bfq.weight", str(weight)) if first == "default" else ("blkio.bfq.weight_device", f"{first} {weight}")]
    if file.startswith("hugetlb.") and file.endswith(".max"):
        return [(file.removesuffix("max") + "limit_in_bytes", number)]
    name = file.partition(".")[0]
    hint = "leave it out, or boot with systemd.unified_cgroup_hierarchy=1"
    raise HostError(
        "set limit", f"{file} {text}", f"this host has {name} in cgroup version 1, which cannot do that", hint=hint, origin=origin
    )


def _swap(number: str, origin: str, wanted: Mapping[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Version 1 has one limit of memory and swap together, which may not be below that of memory, so it comes last."""
    if number == "-1":
        return [("memory.memsw.limit_in_bytes", number)]
    memory = wanted.get("memory.max", ("max", ""))[0]
    if not memory.isdigit():
        hint = "limit the memory as well"
        raise HostError(
            "set limit", f"memory.swap.max {number}", "cgroup version 1 limits memory and swap together", hint=hint, origin=origin
        )
    return [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", str(int(memory) + int(number)))]


def shares_of_weight(weight: int) -> int:
    """Return cpu.shares (2 to 262144) for cpu.weight (1 to 10000): `pyrun.plan.resources.weight_of_shares` the other way round."""
    from math import log10, sqrt

    power = (sqrt(125 * 125 + 4 * 612 * (log10(min(max(weight, 1), 10000)) + 7 / 34)) - 125) / 2
    return min(max(round(2**power), 2), 262144)
