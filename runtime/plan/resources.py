"""`linux.resources` of an OCI runtime configuration -> files of a cgroup (runtime-spec, config-linux.md "Control groups"). Pure.

The specification speaks of cgroup version 1.  Here are the conversions to version 2 that the field has agreed on; what version 2
does not have is refused, for a limit that does nothing is worse than none.  The origin of a limit is its JSON path.
`resources.devices` is a program, not a file: see `pyrun.plan.devices_bpf`.
"""

from __future__ import annotations

from pyrun.errors import ConfigError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Limit = tuple[str, str, str]

__all__ = [
    "KEYED",
    "PAGE_SIZES",
    "UNLIMITED",
    "Values",
    "check_file",
    "check_not_in_use",
    "check_together",
    "device_of",
    "limit_of_pids",
    "of_resources",
    "rdma_line",
    "weight_of_shares",
]

PERIOD = 100_000  # of cpu.max, microseconds; the kernel's own default
SMALLEST_QUOTA = 1_000
LARGEST_PERIOD = 1_000_000
MOST_PIDS = 4_194_304
_INT64 = (1 << 63) - 1
_UINT64 = (1 << 64) - 1
PAGE_SIZES = {f"{1 << (bit % 10)}{'KMGT'[bit // 10]}B" for bit in range(40)}
_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)
# Controllers that have files to write.  cgroup.* and *.pressure are not limits: pyrun itself looks after them.
_CONTROLLERS = frozenset(("cpu", "cpuset", "dmem", "hugetlb", "io", "memory", "misc", "pids", "rdma"))
KEYED = frozenset(("io.max", "io.weight", "io.bfq.weight", "io.latency", "rdma.max", "misc.max", "dmem.max", "dmem.min", "dmem.low"))
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")
# What a new cgroup has anyway: asked for there, it takes no controller.
UNLIMITED = {
    *(("memory.max", "max"), ("memory.high", "max"), ("memory.low", "0"), ("memory.min", "0"), ("memory.swap.max", "max")),
    *(("cpu.max", "max"), ("cpu.max", f"max {PERIOD}"), ("cpu.max.burst", "0"), ("cpu.idle", "0"), ("pids.max", "max")),
}


def limit_of_pids(pids: Values) -> list[Limit]:
    """Return `pids.max`, which is the same in both versions, as linux.resources.pids has it; nothing for 0, which says nothing."""
    limit = pids.number("limit", -_INT64 - 1, _INT64)
    if limit and limit > MOST_PIDS:
        raise pids.bad("limit", limit, "is more than there can be", "write -1 for no limit")
    return [("pids.max", str(limit) if limit > 0 else "max", pids.at("limit"))] if limit else []


def of_resources(
    resources: Mapping[str, Any],
    *,
    where: str = "linux.resources",
    held: Mapping[str, str] | None = None,
    weighed: Callable[[str], Sequence[str]] = lambda _: ("io.weight",),
) -> list[Limit]:
    """Return (file, text, JSON path) in the order to write them; ConfigError for what is malformed, contradictory or not to be had.

    For `update`, `held` is what the cgroup's files hold now ("memory.max", "memory.current", "cpu.max"): a value that is given
    half is completed from there, and what asks for no limit is written.  None is a new cgroup, which has none.
    `weighed` tells which files have the weight of a disk, MAJOR:MINOR, or of all, "default": io.weight, and io.bfq.weight where the
    BFQ scheduler gives its time to who waits.
    """
    found: list[Limit] = []
    now: Mapping[str, str] = held or {}
    parts = Values(resources, where)
    _memory(parts.table("memory"), held, found)
    _cpu(parts.table("cpu"), now, found)
    found += limit_of_pids(parts.table("pids"))
    _block(parts.table("blockIO"), held is None, weighed, found)
    _huge_pages(parts, found)
    _rdma(parts.table("rdma"), found)
    network = parts.table("network")
    for name in ("classID", "priorities"):
        if network.values.get(name):
            hint = "cgroup version 2 has no classes of traffic: limit the interface"
            raise network.bad(name, network.values[name], "is not to be had", hint)
    _unified(parts.table("unified"), found)
    check_together({file: (text, origin) for file, text, origin in found if file not in KEYED})
    return [one for one in found if held is not None or one[:2] not in UNLIMITED]


class Values:
    """One JSON object and where it stands; reads members of one kind or raises."""

    def __init__(self, values: object, where: str) -> None:
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise ConfigError(
                "set limit", repr(values)[:80], "not an object", hint="see config-linux.md of the OCI runtime-spec", origin=where
            )
        self.values: dict[str, Any] = values
        self.where = where

    def at(self, name: str) -> str:
        return f"{self.where}.{name}"

    def bad(self, name: str, value: object, reason: str, hint: str = "see config-linux.md of the OCI runtime-spec") -> ConfigError:
        return ConfigError("set limit", f"{name} {value!r}"[:120], reason, hint=hint, origin=self.at(name))

    def table(self, name: str) -> Values:
        return Values(self.values.get(name), self.at(name))

    def tables(self, name: str) -> list[Values]:
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            raise self.bad(name, value, "not a list")
        return [Values(one, f"{self.at(name)}[{index}]") for index, one in enumerate(value or [])]

    def number(self, name: str, low: int, high: int) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.bad(name, value, f"not a whole number from {low} to {high}")
        return value

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or "\n" in value or "\0" in value:
            raise self.bad(name, value, "not a line of text")
        return value

    def none_of(self, names: Iterable[str], reason: str) -> None:
        """Zero, false and absent are the same: clients send whole structures."""
        for name in names:
            if self.values.get(name):
                raise self.bad(name, self.values[name], reason, "leave it out: cgroup version 2 does not have it")


def _memory(memory: Values, held: Mapping[str, str] | None, found: list[Limit]) -> None:
    """`swap` is memory and swap together, which version 2 has apart; -1 is no limit, 0 as if absent (clients send zeros).

    But a `swap` of 0 in a new container, whose `limit` is not 0 too, is no swap space at all.
    """
    fresh, held = held is None, held or {}
    memory.none_of(("kernel", "kernelTCP", "disableOOMKiller"), "cannot be done with cgroup version 2")
    if memory.values.get("swappiness") not in (None, -1):
        memory.none_of(("swappiness",), "cannot be done with cgroup version 2")
        raise memory.bad("swappiness", 0, "cannot be done with cgroup version 2", "write `swap` equal to `limit`: no swap space")
    limit = memory.number("limit", -1, _INT64)
    swap = memory.number("swap", -1, _INT64)
    if memory.values.get("checkBeforeUpdate"):
        check_not_in_use(memory, limit or 0, swap or 0, int(held.get("memory.current", "0")))
    if limit:
        found.append(("memory.max", _text(limit), memory.at("limit")))
    if limit == -1 and (swap is None or (swap == 0 and not fresh)):
        swap = -1  # one limit of both, in version 1: without one there is none of either
        found.append(("memory.swap.max", "max", memory.at("limit")))
    elif swap == 0 and limit != 0 and fresh:
        found.append(("memory.swap.max", "0", memory.at("swap")))
    elif swap == -1:
        found.append(("memory.swap.max", "max", memory.at("swap")))
    elif swap:
        other = held.get("memory.max", "max").strip()
        least = limit or (int(other) if other.isdigit() else -1)
        if least < 0:
            raise memory.bad("swap", swap, "is one of memory and swap together, and there is no limit of memory", "add memory.limit")
        if swap < least:
            raise memory.bad("swap", swap, f"is below memory.limit, {least}", "it is one of memory and swap together: write at least that")
        found.append(("memory.swap.max", str(swap - least), memory.at("swap")))
    reservation = memory.number("reservation", -1, _INT64)
    if reservation:
        found.append(("memory.low", _text(reservation), memory.at("reservation")))


def check_not_in_use(memory: Values, limit: int, swap: int, used: int) -> None:
    """Refuse limits of memory, and of memory and swap together, below the bytes in use (memory.checkBeforeUpdate): ConfigError."""
    for name, what, value in (("swap", "memory+swap", swap), ("limit", "memory", limit)):
        if 0 < value < used:
            reason = f"rejecting {what} limit {value}: less than the {used} bytes in use"
            raise memory.bad(name, value, reason, "see memory.checkBeforeUpdate")


def _cpu(cpu: Values, held: Mapping[str, str], found: list[Limit]) -> None:
    cpu.none_of(("realtimeRuntime", "realtimePeriod"), "cannot be done with cgroup version 2")
    shares = cpu.number("shares", 0, _UINT64)
    idle = cpu.number("idle", 0, 1)
    if shares and idle:
        raise cpu.bad("idle", idle, "has no share", "keep one of cpu.shares and cpu.idle")
    if idle is not None:
        found.append(("cpu.idle", str(idle), cpu.at("idle")))
    if shares:
        found.append(("cpu.weight", str(weight_of_shares(shares)), cpu.at("shares")))
    quota = cpu.number("quota", -_INT64 - 1, _INT64)
    period = cpu.number("period", 0, _UINT64)
    if period and not SMALLEST_QUOTA <= period <= LARGEST_PERIOD:
        raise cpu.bad("period", period, f"not from {SMALLEST_QUOTA} to {LARGEST_PERIOD} microseconds")
    if quota and 0 < quota < SMALLEST_QUOTA:
        raise cpu.bad("quota", quota, f"is too little: the kernel gives no less than {SMALLEST_QUOTA} microseconds")
    if quota or period:
        old = held["cpu.max"].split() if "cpu.max" in held else ["max", str(PERIOD)]
        first = old[0] if not quota else str(quota) if quota > 0 else "max"
        found.append(("cpu.max", f"{first} {period or old[1]}", cpu.at("quota" if quota else "period")))
    burst = cpu.number("burst", 0, _UINT64)
    if burst is not None:
        found.append(("cpu.max.burst", str(burst), cpu.at("burst")))
    for name, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        text = cpu.text(name).strip()
        if text:
            if not frozenset("0123456789,-:/ ").issuperset(text):
                raise cpu.bad(name, text, "not a list of numbers", "write for example 0-2,5")
            found.append((file, text, cpu.at(name)))


def device_of(one: Values) -> str:
    """Return MAJOR:MINOR of an object with a device's numbers; ConfigError for one without."""
    numbers = [one.number(name, 0, (1 << 32) - 1) for name in ("major", "minor")]
    if None in numbers:
        raise one.bad("major", one.values, "needs the numbers of a device, major and minor")
    return f"{numbers[0]}:{numbers[1]}"


def _block(block: Values, fresh: bool, weighed: Callable[[str], Sequence[str]], found: list[Limit]) -> None:
    """Weights by the line from 10..1000 to 1..10000, but for BFQ as they are; the rates of one disk go into one line, 0 is no limit."""
    for one in (block, *block.tables("weightDevice")):
        one.none_of(("leafWeight",), "cannot be done with cgroup version 2")
        weight = one.number("weight", 0, 1000)
        if weight and weight < 10:
            raise one.bad("weight", weight, "not from 10 to 1000")
        if weight:
            key = "default" if one is block else device_of(one)
            for file in weighed(key):
                text = f"{key} {weight if file == 'io.bfq.weight' else 1 + (weight - 10) * 9999 // 990}"
                found.append((file, text, one.at("weight")))
    lines: dict[str, dict[str, tuple[str, str]]] = {}
    for name, rate in _THROTTLES:
        for one in block.tables(name):
            number = one.number("rate", 0, _UINT64)
            if number is None:
                raise one.bad("rate", None, "is missing")
            if number or not fresh:
                lines.setdefault(device_of(one), {})[rate] = (str(number or "max"), one.at("rate"))
    for device, rates in lines.items():
        text = " ".join(f"{rate}={number}" for rate, (number, _) in rates.items())
        found.append(("io.max", f"{device} {text}", next(iter(rates.values()))[1]))


def _huge_pages(parts: Values, found: list[Limit]) -> None:
    """Reservations are limited too: else a program that may not have the pages learns it by SIGBUS (hugetlb.rst)."""
    for one in parts.tables("hugepageLimits"):
        size = one.text("pageSize")
        if size not in PAGE_SIZES:
            raise one.bad("pageSize", size, "not the size of a page", "write for example 2MB, 64KB or 1GB")
        limit = one.number("limit", 0, _UINT64)
        if limit is None:
            raise one.bad("limit", None, "is missing")
        found.append((f"hugetlb.{size}.max", str(limit), one.at("limit")))
        found.append((f"hugetlb.{size}.rsvd.max", str(limit), one.at("limit")))


def _rdma(rdma: Values, found: list[Limit]) -> None:
    found += [("rdma.max", rdma_line(rdma, name), rdma.at(name)) for name in rdma.values]


def rdma_line(rdma: Values, name: str) -> str:
    """Return the line of rdma.max for the device `name`, the same in both versions; ConfigError for what is not one."""
    one = rdma.table(name)
    handles, objects = (one.number(member, 0, 0xFFFFFFFF) for member in ("hcaHandles", "hcaObjects"))
    words = [f"{key}={value}" for key, value in (("hca_handle", handles), ("hca_object", objects)) if value is not None]
    if not words or not name or not name.isprintable() or " " in name or "/" in name:
        raise rdma.bad(name, one.values, "not a device with hcaHandles or hcaObjects")
    return f"{name} {' '.join(words)}"


def _unified(unified: Values, found: list[Limit]) -> None:
    """Beats what the other members say of the same file; of a file with a line for each device they hold for the other devices."""
    for file in unified.values:
        origin = unified.at(f'"{file}"')
        check_file(file, origin)
        value = unified.values[file]
        if not isinstance(value, str) or "\0" in value or not value.strip():
            raise ConfigError("set limit", f"{file} {value!r}"[:120], "not a text", hint="values of `unified` are strings", origin=origin)
        if file not in KEYED:
            found[:] = [one for one in found if one[0] != file]
        found += [(file, line.strip(), origin) for line in value.splitlines() if line.strip()]


def check_file(file: str, origin: str) -> None:
    """Refuse a name that is not one of a controller's files: UsageError when `origin` is a flag, else ConfigError."""
    controller, _, rest = file.partition(".")
    named = _PLAIN.issuperset(file) and controller in _CONTROLLERS and rest.strip(".") == rest != "" and ".." not in rest
    if named and rest != "pressure":
        return
    reason, hint = (
        "not a file of a controller",
        "write for example memory.high or hugetlb.2MB.max; controllers: " + " ".join(sorted(_CONTROLLERS)),
    )
    if controller and rest and controller not in _CONTROLLERS:
        reason += f": the requested cgroup controller `{controller}` is not available"
    elif not rest:  # crun's words, for who looks for them
        reason += f": the specified key has not the form CONTROLLER.VALUE `{file[:80]}`"
    if controller == "cgroup" or rest == "pressure":
        reason, hint = "is not a limit", "pyrun itself looks after the cgroup.* files"
    kind = UsageError if origin.startswith("--") else ConfigError
    raise kind("set limit", repr(file)[:80], reason, hint=hint, origin=origin)


def check_together(limits: Mapping[str, tuple[str, str]]) -> None:
    """Refuse limits (file -> text, origin) that contradict each other: UsageError for a flag, else ConfigError."""

    def number(file: str) -> int | None:
        text = limits.get(file, ("", ""))[0].partition(" ")[0]
        return int(text) if text.isascii() and text.isdigit() else None

    def bad(subject: str, reason: str, hint: str, origin: str) -> ConfigError | UsageError:
        kind = UsageError if origin.startswith("--") else ConfigError
        return kind("set limit", subject, reason, hint=hint, origin=origin)

    for lower, upper in (
        ("memory.high", "memory.max"),
        ("memory.low", "memory.max"),
        ("memory.min", "memory.max"),
        ("memory.min", "memory.high"),
        ("cpu.max.burst", "cpu.max"),
    ):
        low, high = number(lower), number(upper)
        if low is not None and high is not None and low > high:
            raise bad(f"{lower} {low}", f"is above {upper} {high}", f"{limits[upper][1]} must not be below it", limits[lower][1])
    if number("cpu.idle") and "cpu.weight" in limits:
        raise bad("cpu.idle", "has no weight", "keep one of the two", limits["cpu.idle"][1])
    if number("cpu.max.burst") and number("cpu.max") is None and "cpu.max" in limits:
        raise bad("cpu.max.burst", "needs a limit to burst above", "limit the processors too", limits["cpu.max.burst"][1])


def weight_of_shares(shares: int) -> int:
    """Return cpu.weight (1 to 10000) for the cpu.shares (2 to 262144) of cgroup version 1.

    By the curve through both ends and through the two defaults, 1024 and 100, that OCI runtimes use: a power of ten whose
    exponent is quadratic in log2(shares).
    """
    from math import ceil, log2

    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def _text(number: int) -> str:
    return "max" if number < 0 else str(number)
