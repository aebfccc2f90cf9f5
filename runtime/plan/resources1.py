"""`linux.resources` for controllers that are in cgroup version 1, in whose terms the specification speaks (config-linux.md). Pure.

On hybrid hosts a part of the resources goes to version 1 as it stands, and the rest to the v2 tree: see `pyrun.plan.resources`.
Linux, Documentation/admin-guide/cgroup-v1.
"""

from __future__ import annotations

from pyrun.plan.resources import (
    LARGEST_PERIOD,
    PAGE_SIZES,
    SMALLEST_QUOTA,
    Values,
    check_file,
    check_not_in_use,
    device_of,
    limit_of_pids,
    rdma_line,
)
from pyrun.plan.version1 import controller_of, version_1

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from typing import Any

    from pyrun.plan.version1 import Limit1

__all__ = ["UNLIMITED_1", "divided", "of_resources_1"]

_INT64 = (1 << 63) - 1
_UINT64 = (1 << 64) - 1
# controller -> (member of the resources, those members of that which it has; all of them)
_PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("memory", "memory", ()),
    ("cpu", "cpu", ("shares", "quota", "period", "burst", "idle", "realtimeRuntime", "realtimePeriod")),
    ("cpuset", "cpu", ("cpus", "mems")),
    ("pids", "pids", ()),
    ("blkio", "blockIO", ()),
    ("hugetlb", "hugepageLimits", ()),
    ("rdma", "rdma", ()),
    ("net_cls", "network", ("classID",)),
    ("net_prio", "network", ("priorities",)),
)
_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps"),
    ("throttleWriteBpsDevice", "write_bps"),
    ("throttleReadIOPSDevice", "read_iops"),
    ("throttleWriteIOPSDevice", "write_iops"),
)
# What a new cgroup has anyway
UNLIMITED_1 = {
    *(("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1"), ("memory.soft_limit_in_bytes", "-1")),
    *(("memory.kmem.tcp.limit_in_bytes", "-1"), ("cpu.cfs_quota_us", "-1"), ("cpu.cfs_burst_us", "0"), ("cpu.idle", "0")),
    ("pids.max", "max"),
}


def divided(resources: Mapping[str, Any], old: Container[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what of the resources is for the v2 tree, and what for the controllers `old` of version 1."""
    rest, taken = dict(resources), {}
    for controller, name, members in _PARTS:
        value = rest.get(name)
        if controller not in old or not value:
            continue
        if not members or not isinstance(value, dict):
            taken[name] = rest.pop(name)
            continue
        rest[name] = {key: one for key, one in value.items() if key not in members}
        taken[name] = {**taken.get(name, {}), **{key: one for key, one in value.items() if key in members}}
    unified = rest.get("unified")
    if isinstance(unified, dict):
        taken["unified"] = {file: text for file, text in unified.items() if controller_of(file) in old}
        rest["unified"] = {file: text for file, text in unified.items() if file not in taken["unified"]}
    return rest, taken


def of_resources_1(resources: Mapping[str, Any], *, where: str = "linux.resources", used: int = -1) -> list[Limit1]:
    """Return (controller, file, text, JSON path) in the order to write them into a new group; errors as `of_resources`.

    `used` is for `update`: how many bytes of memory are in use now, -1 for a new group, which need not be told that something
    has no limit.
    """
    fresh, parts = used < 0, Values(resources, where)
    found: list[tuple[str, str, str]] = []
    _memory(parts.table("memory"), used, found)
    _cpu(parts.table("cpu"), found)
    found += limit_of_pids(parts.table("pids"))
    _block(parts.table("blockIO"), fresh, found)
    _huge_pages(parts, found)
    rdma = parts.table("rdma")
    found += [("rdma.max", rdma_line(rdma, name), rdma.at(name)) for name in rdma.values]
    _network(parts.table("network"), found)
    named = [(file.partition(".")[0], *rest) for file, *rest in ((file, file, text, at) for file, text, at in found)]
    limits = [(controller, file, text, at) for controller, file, text, at in named if not fresh or (file, text) not in UNLIMITED_1]
    return _with_unified(parts.table("unified"), limits)


def _memory(memory: Values, used: int, found: list[tuple[str, str, str]]) -> None:
    """`kernel` has no effect since Linux 5.16: `limit` counts that memory too (memory.rst, 2.7)."""
    if memory.values.get("kernel"):
        hint = "leave it out: memory.limit counts the kernel's memory too"
        raise memory.bad("kernel", memory.values["kernel"], "cannot be limited by itself", hint)
    limit, swap = (memory.number(name, -1, _INT64) for name in ("limit", "swap"))
    if memory.values.get("checkBeforeUpdate"):
        check_not_in_use(memory, limit or 0, swap or 0, max(used, 0))
    if swap and swap > 0 and limit and not 0 < limit <= swap:
        reason = f"is below memory.limit, {limit if limit > 0 else 'which is none'}"
        raise memory.bad("swap", swap, reason, "it is one of memory and swap together: write at least that")
    if swap and swap > 0 and not limit and used < 0:
        raise memory.bad("swap", swap, "is one of memory and swap together, and there is no limit of memory", "add memory.limit")
    if limit == -1 and not swap:
        swap = -1  # the one of both would stay
    for name, value, file in (("limit", limit, "limit_in_bytes"), ("swap", swap, "memsw.limit_in_bytes")):
        if value:
            found.append(("memory." + file, str(value), memory.at(name if memory.values.get(name) else "limit")))
    for name, file in (("reservation", "soft_limit_in_bytes"), ("kernelTCP", "kmem.tcp.limit_in_bytes")):
        value = memory.number(name, -1, _INT64)
        if value:
            found.append(("memory." + file, str(value), memory.at(name)))
    swappiness = memory.number("swappiness", -1, 100)
    if swappiness is not None and swappiness >= 0:
        found.append(("memory.swappiness", str(swappiness), memory.at("swappiness")))
    if memory.values.get("disableOOMKiller"):
        found.append(("memory.oom_control", "1", memory.at("disableOOMKiller")))


def _cpu(cpu: Values, found: list[tuple[str, str, str]]) -> None:
    shares, idle = cpu.number("shares", 0, _UINT64), cpu.number("idle", 0, 1)
    if shares and idle:
        raise cpu.bad("idle", idle, "has no share", "keep one of cpu.shares and cpu.idle")
    if idle is not None:
        found.append(("cpu.idle", str(idle), cpu.at("idle")))
    if shares:
        found.append(("cpu.shares", str(shares), cpu.at("shares")))
    quota, period = cpu.number("quota", -_INT64 - 1, _INT64), cpu.number("period", 0, _UINT64)
    if period and not SMALLEST_QUOTA <= period <= LARGEST_PERIOD:
        raise cpu.bad("period", period, f"not from {SMALLEST_QUOTA} to {LARGEST_PERIOD} microseconds")
    if quota and 0 < quota < SMALLEST_QUOTA:
        raise cpu.bad("quota", quota, f"is too little: the kernel gives no less than {SMALLEST_QUOTA} microseconds")
    burst = cpu.number("burst", 0, _UINT64)
    for name, file, value in (("period", "cfs_period_us", period or None), ("quota", "cfs_quota_us", quota or None)):
        if value is not None:
            found.append(("cpu." + file, str(max(value, -1)), cpu.at(name)))
    if burst is not None:
        found.append(("cpu.cfs_burst_us", str(burst), cpu.at("burst")))
    for name, file in (("realtimePeriod", "rt_period_us"), ("realtimeRuntime", "rt_runtime_us")):
        value = cpu.number(name, -_INT64 - 1, _UINT64)
        if value:
            found.append(("cpu." + file, str(value), cpu.at(name)))
    for name in ("cpus", "mems"):
        text = cpu.text(name).strip()
        if text:
            if not frozenset("0123456789,-:/ ").issuperset(text):
                raise cpu.bad(name, text, "not a list of numbers", "write for example 0-2,5")
            found.append((f"cpuset.{name}", text, cpu.at(name)))


def _block(block: Values, fresh: bool, found: list[tuple[str, str, str]]) -> None:
    """Which file has the weights depends on the kernel: `blkio.weight` stands for blkio.bfq.weight as well."""
    for one in (block, *block.tables("weightDevice")):
        for name, file in (("weight", "blkio.weight"), ("leafWeight", "blkio.leaf_weight")):
            weight = one.number(name, 0, 1000)
            if weight and weight < 10:
                raise one.bad(name, weight, "not from 10 to 1000")
            if weight and one is block:
                found.append((file, str(weight), one.at(name)))
            elif weight:
                found.append((f"{file}_device", f"{device_of(one)} {weight}", one.at(name)))
    for name, file in _THROTTLES:
        for one in block.tables(name):
            rate = one.number("rate", 0, _UINT64)
            if rate is None:
                raise one.bad("rate", None, "is missing")
            if rate or not fresh:
                found.append((f"blkio.throttle.{file}_device", f"{device_of(one)} {rate}", one.at("rate")))


def _huge_pages(parts: Values, found: list[tuple[str, str, str]]) -> None:
    """Reservations are limited too: else a program that may not have the pages learns it by SIGBUS (hugetlb.rst)."""
    for one in parts.tables("hugepageLimits"):
        size, limit = one.text("pageSize"), one.number("limit", 0, _UINT64)
        if size not in PAGE_SIZES:
            raise one.bad("pageSize", size, "not the size of a page", "write for example 2MB, 64KB or 1GB")
        if limit is None:
            raise one.bad("limit", None, "is missing")
        found += [(f"hugetlb.{size}.{kind}limit_in_bytes", str(limit), one.at("limit")) for kind in ("", "rsvd.")]


def _network(network: Values, found: list[tuple[str, str, str]]) -> None:
    number = network.number("classID", 0, (1 << 32) - 1)
    if number:
        found.append(("net_cls.classid", str(number), network.at("classID")))
    for one in network.tables("priorities"):
        found.append(("net_prio.ifpriomap", f"{one.text('name')} {one.number('priority', 0, (1 << 32) - 1)}", one.at("priority")))


def _with_unified(unified: Values, limits: list[Limit1]) -> list[Limit1]:
    """Files of version 2 in the words of version 1; they beat what the other members say of the same file."""
    wanted = []
    for file in unified.values:
        check_file(file, unified.at(f'"{file}"'))
        text = unified.values[file]
        if not isinstance(text, str) or "\0" in text or not text.strip():
            raise unified.bad(file, text, "not a text", "values of `unified` are strings")
        wanted += [(file, line.strip(), unified.at(f'"{file}"')) for line in text.splitlines() if line.strip()]
    found = version_1(wanted, None)
    files = {one[1] for one in found}
    return [*(one for one in limits if one[1] not in files), *found]
