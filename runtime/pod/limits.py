"""Flags and appc isolators -> the files of the pod's cgroup (cgroups(7); Linux, Documentation/admin-guide/cgroup-v2.rst).

A limit is (file, text, origin), written before the pod has a process.  A flag beats the isolator that sets the same file.
What would silently not hold is refused: quantities without a unit, a limit below another one that it has to be above, a
processor or a disk that is not there.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, UsageError
from pyrun.host import read_small, version_1_cgroups
from pyrun.images.types import parse_quantity
from pyrun.plan.resources import KEYED, PAGE_SIZES, PERIOD, SMALLEST_QUOTA, UNLIMITED, check_file, check_together, weight_of_shares
from pyrun.pod.options import LIMITS, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Limit = tuple[str, str, str]
    Problem = type[ConfigError] | type[UsageError]

__all__ = ["cpuset_above", "looked_at", "of", "of_pod", "placed", "with_rates"]

SMALLEST_MEMORY = 1 << 20  # bytes; no program starts with less
_HIGHEST = (1 << 63) - 1
_MEMORY = {"memory": "max", "memory_high": "high", "memory_low": "low", "memory_min": "min", "swap": "swap.max"}
_RATES = ("rbps", "wbps", "riops", "wiops")
_SWITCHES = ("--oom-group", "--cpu-idle")
_SETS = {"cpuset.cpus": "/sys/devices/system/cpu/cpu{}/topology", "cpuset.mems": "/sys/devices/system/node/node{}"}  # there while it is
_MICROSECONDS = {"us": 1, "ms": 1_000, "s": 1_000_000}


def of(options: Options, isolators: Iterable[dict[str, Any]], *, fresh: bool = True) -> list[Limit]:
    """Return what is to be written, in order; UsageError for a flag and ConfigError for an isolator that make no sense.

    A `fresh` cgroup need not be told that something has no limit.
    """
    found: dict[tuple[str, str], Limit] = {}
    for isolator in isolators:
        for limit in _of_isolator(isolator["name"], isolator["value"]):
            found[_key(limit)] = with_rates(found.get(_key(limit)), limit)
    for name in LIMITS:
        value = getattr(options, name)
        if value is None or value is False or value == []:
            continue
        flag = "--" + name.replace("_", "-")
        for part in value if isinstance(value, list) else [value]:
            for limit in _OF[name](part, flag):
                key = _key(limit)
                if key in found and found[key][2].startswith("--"):
                    hint = f"keep one of {found[key][2]} and {flag}" if found[key][2] != flag else f"write {flag} once for it"
                    raise UsageError("set limit", limit[0], "is set twice", hint=hint, origin=flag)
                found[key] = with_rates(found.get(key), limit)
    limits = list(found.values())
    by_file = {file: (text, origin) for file, text, origin in limits}
    check_together(by_file)
    if "cpu.max.burst" in by_file and by_file.get("cpu.max", ("max", ""))[0].startswith("max"):
        raise _bad("cpu.max.burst", "needs a limit to burst above", "add --cpus", by_file["cpu.max.burst"][1])
    return [limit for limit in limits if not fresh or limit[:2] not in UNLIMITED]


def _key(limit: Limit) -> tuple[str, str]:
    """What can be set once: a file, or one device's line of those that have several."""
    return limit[0], limit[1].partition(" ")[0] if limit[0] in KEYED and limit[0] != "io.weight" else ""


def with_rates(old: Limit | None, new: Limit) -> Limit:
    """Rates of a disk, or numbers of an RDMA device, that are limited already stay, unless the new one says otherwise."""
    if old is None or new[0] not in ("io.max", "rdma.max"):
        return new
    disk, *words = new[1].split(" ")
    told = {word.partition("=")[0] for word in words}
    kept = [word for word in old[1].split(" ")[1:] if word.partition("=")[0] not in told]
    return new[0], " ".join([disk, *kept, *words]), new[2]


def of_pod(words: Iterable[str], isolators: Iterable[dict[str, Any]], root: str) -> list[Limit]:
    """Return the limits of a pod of several apps together, NAME=VALUE each, NAME being that of a limit's flag; errors as `of`."""
    options = Options(root)
    for word in words:
        name, equals, value = word.partition("=")
        attribute = name.replace("-", "_")
        if not equals or attribute not in LIMITS or "--" + name in _SWITCHES:
            hint = "NAME is that of a flag with a value, as in memory=1Gi or pids-limit=200"
            raise UsageError("option --pod-limit", word, "not NAME=VALUE", hint=hint)
        held = getattr(options, attribute)
        if held is not None and not isinstance(held, list):
            raise UsageError("option --pod-limit", name, "is set twice", hint="keep one of them")
        setattr(options, attribute, [*held, value] if isinstance(held, list) else value)
    return of(options, isolators)


def placed(limits: list[Limit], above: str, group: str) -> tuple[list[Limit], list[tuple[str, str, str, str]]]:
    """Return the limits for the cgroup2 tree, and those that go to cgroups `group` of version 1: (directory, file, content, origin).

    `above` is the cgroup2 directory of this process.  HostError for what version 1 cannot do.
    """
    mounted = version_1_cgroups() if limits else {}
    if not mounted:
        return limits, []
    from pyrun.plan.version1 import split, version_1

    new, old = split(limits, read_small(above + "/cgroup.controllers").decode().split() if above else (), mounted)
    held = cpuset_above(mounted.get("cpuset", ""))
    return new, [(f"{mounted[name]}/{group}", file, text, origin) for name, file, text, origin in version_1(old, held)]


def cpuset_above(directory: str = "") -> dict[str, str]:
    """Return what this process's cpuset of version 1 has, cpuset.cpus and cpuset.mems; `directory` where it is already known."""
    directory = directory or version_1_cgroups().get("cpuset", "")
    return {name: read_small(f"{directory}/{name}").decode().strip() for name in ("cpuset.cpus", "cpuset.mems")}


def looked_at(options: Options, limits: Iterable[Limit]) -> tuple[list[str], list[str]] | None:
    """Return what was looked at to decide them: files that have to be as they are, and directories that have to be there.

    None where that is more than files can tell.
    """
    files = [os.path.abspath(text.rpartition(":")[0]) for text in (*(options.io_max or ()), *(options.io_latency or ()))]
    directories: list[str] = []
    for file, text, origin in limits:
        if file == "io.max" and not origin.startswith("--"):
            return None  # every disk
        if file in _SETS and origin != "--cgroup-set":
            directories += [_SETS[file].format(one) for one in sorted(_members(text) or ())]
    return files, directories


def _bad(subject: object, reason: str, hint: str, origin: str) -> ConfigError | UsageError:
    kind: Problem = UsageError if origin.startswith("--") else ConfigError
    return kind("set limit", str(subject), reason, hint=hint, origin=origin)


def _size(value: object, origin: str) -> int:
    """Bytes: 64Mi, 1.5G, 4096B; a number of the library's or of a manifest's is one of bytes already."""
    text = value.removesuffix("B") if isinstance(value, str) else value
    number = parse_quantity(text)
    if number is None or (isinstance(value, str) and value.endswith("iB")):
        raise _bad(value, "not a size", "write a number and a unit: Ki, Mi, Gi (1024), k, M, G (1000) or B, as in 64Mi", origin)
    if isinstance(value, str) and value.endswith("m"):
        hint = f"m means thousandths: write {value[:-1]}M, or {value[:-1]}Mi"
        raise _bad(value, "would be thousandths of a byte", hint, origin)
    if isinstance(value, str) and origin.startswith("--") and value[-1:].isdigit() and number:
        raise _bad(value, "has no unit", f"write {value}Mi for mebibytes or {value}B for bytes", origin)
    if number > _HIGHEST:
        raise _bad(value, "is more than there can be", "write max for no limit", origin)
    return number


def _memory(file: str) -> Callable[[Any, str], list[Limit]]:
    def read(value: object, origin: str) -> list[Limit]:
        if value == "max":
            return [(file, "max", origin)]
        number = _size(value, origin)
        if file in ("memory.max", "memory.high") and number < SMALLEST_MEMORY:
            raise _bad(value, "is too little for any program", "write at least 1Mi", origin)
        return [(file, str(number), origin)]

    return read


def _cpus(value: object, origin: str) -> list[Limit]:
    if value == "max":
        return [("cpu.max", f"max {PERIOD}", origin)]
    text = repr(value) if isinstance(value, float) else value
    thousandths = parse_quantity(text, 1000)
    if thousandths is None or (isinstance(value, str) and value[-1:] not in "0123456789m"):
        raise _bad(value, "not a number of processors", "write for example 0.5, 500m or 2", origin)
    quota = thousandths * PERIOD // 1000
    if quota < SMALLEST_QUOTA:
        raise _bad(value, "is too little: the kernel gives no less than a hundredth", "write at least 0.01 or 10m", origin)
    if quota > 1 << 42:
        raise _bad(value, "is more than there can be", "write max for no limit", origin)
    return [("cpu.max", f"{quota} {PERIOD}", origin)]


def _burst(value: object, origin: str) -> list[Limit]:
    return [("cpu.max.burst", str(_microseconds(value, origin)), origin)]


def _microseconds(value: object, origin: str) -> int:
    text = str(value)
    number = text.rstrip("usm")
    unit = _MICROSECONDS.get(text[len(number) :])
    if unit is None or not number.isascii() or not number.isdigit() or len(number) > 9:
        raise _bad(value, "not a time", "write for example 20ms or 5000us", origin)
    return int(number) * unit


def _whole(file: str, low: int, high: int, *, words: tuple[str, ...] = (), form: str = "{}") -> Callable[[Any, str], list[Limit]]:
    def read(value: object, origin: str) -> list[Limit]:
        text = str(value)
        if text not in words:
            if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
                also = "".join(f" or {word}" for word in words)
                raise _bad(value, f"not a whole number from {low} to {high}{also}", "see cgroups(7)", origin)
            text = str(int(text))
        return [(file, form.format(text), origin)]

    return read


def _switch(file: str) -> Callable[[Any, str], list[Limit]]:
    return lambda value, origin: [(file, "1", origin)]


def _set_of(file: str, what: str, there: str) -> Callable[[Any, str], list[Limit]]:
    def read(value: object, origin: str) -> list[Limit]:
        wanted = _members(str(value))
        if wanted is None:
            raise _bad(value, f"not a list of {what}", "write numbers and ranges, as in 0-2,5", origin)
        missing = wanted - (_members(read_small(there).decode().strip()) or set())
        if missing:
            raise _bad(value, f"{what} {min(missing)} is not there", f"see {there}", origin)
        return [(file, str(value), origin)]

    return read


def _members(text: str) -> set[int] | None:
    members: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isascii() or not low.isdigit() or len(low) > 5 or (dash and (not high.isascii() or not high.isdigit() or len(high) > 5)):
            return None
        members |= set(range(int(low), int(high if dash else low) + 1))
    return members or None


def _io_max(value: object, origin: str) -> list[Limit]:
    path, colon, rest = str(value).rpartition(":")
    parts: list[str] = []
    for word in rest.split(","):
        key, equals, amount = word.partition("=")
        if not colon or key not in _RATES or not equals or key in [part.partition("=")[0] for part in parts]:
            raise _bad(value, "not PATH:RATE=AMOUNT,...", "rates are rbps, wbps, riops, wiops: /dev/vda:rbps=10M,wiops=500", origin)
        number = 0
        if amount != "max":
            number = _size(amount, origin) if key.endswith("bps") else parse_quantity(amount) or 0
            if number <= 0 or number > _HIGHEST:
                raise _bad(value, f"{key} is not above nothing", "write a number, or max for no limit", origin)
        parts.append(f"{key}={number or 'max'}")
    return [("io.max", f"{_disk(path, origin)} {' '.join(parts)}", origin)]


def _io_latency(value: object, origin: str) -> list[Limit]:
    path, colon, target = str(value).rpartition(":")
    if not colon or not path:
        raise _bad(value, "not PATH:TIME", "write for example /dev/vda:20ms", origin)
    return [("io.latency", f"{_disk(path, origin)} target={_microseconds(target, origin)}", origin)]


def _hugetlb(value: object, origin: str) -> list[Limit]:
    """Reservations too: else a program that may not have the pages learns it by SIGBUS (hugetlb.rst)."""
    page, equals, amount = str(value).partition("=")
    if not equals or page not in PAGE_SIZES:
        raise _bad(value, "not PAGE=SIZE", "write for example 2MB=64Mi or 1GB=0", origin)
    text = "max" if amount == "max" else str(_size(amount, origin))
    return [(f"hugetlb.{page}.max", text, origin), (f"hugetlb.{page}.rsvd.max", text, origin)]


def _named(file: str, form: str) -> Callable[[Any, str], list[Limit]]:
    """One line of a file that has one for each name: NAME=N, or NAME:KEY=N,KEY=N."""

    def read(value: object, origin: str) -> list[Limit]:
        name, sign, rest = str(value).partition("=" if form == "NAME=N" else ":")
        parts = [part.rpartition("=") for part in rest.split(",")]
        good = bool(sign) and name.isprintable() and bool(name) and not set(name) & set(" /=")
        for key, _, amount in parts:
            good &= amount == "max" or (amount.isascii() and amount.isdigit() and len(amount) < 20)
            good &= key == "" if form == "NAME=N" else key in ("hca_handle", "hca_object")
        if not good:
            raise _bad(value, f"not {form}", f"see {file} in cgroup-v2.rst", origin)
        return [(file, f"{name} {rest.replace(',', ' ')}", origin)]

    return read


def _disk(path: str, origin: str) -> str:
    """MAJOR:MINOR of the whole disk that `path` is, or lies on: the kernel limits no partitions."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise _bad(
            path, (error.strerror or "cannot be read").lower(), "name a block device, or a file or directory on one", origin
        ) from None
    number = info.st_rdev if info.st_mode & 0o170000 == 0o060000 else info.st_dev
    entry = os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if os.path.exists(entry + "/partition"):
        entry = os.path.dirname(entry)
    disk = read_small(entry + "/dev").decode().strip()
    if not disk:
        raise _bad(path, "is not on a block device that the kernel could limit", "name the block device itself, as in /dev/vda", origin)
    return disk


def _raw(value: object, origin: str) -> list[Limit]:
    file, equals, text = str(value).partition("=")
    if not equals or not text.strip() or "\n" in text or "\0" in text:
        raise _bad(value, "not FILE=VALUE", "FILE is a controller's file of the cgroup, as in memory.high=64M or hugetlb.2MB.max=0", origin)
    check_file(file, origin)
    return [(file, text, origin)]


_OF: dict[str, Callable[[Any, str], list[Limit]]] = {
    **{name: _memory("memory." + file) for name, file in _MEMORY.items()},
    "oom_group": _switch("memory.oom.group"),
    "cpus": _cpus,
    "cpu_weight": _whole("cpu.weight", 1, 10000),
    "cpu_idle": _switch("cpu.idle"),
    "cpu_burst": _burst,
    "cpuset_cpus": _set_of("cpuset.cpus", "processor", "/sys/devices/system/cpu/online"),
    "cpuset_mems": _set_of("cpuset.mems", "memory node", "/sys/devices/system/node/online"),
    "pids_limit": _whole("pids.max", 2, 4194304, words=("max",)),
    "io_weight": _whole("io.weight", 1, 10000, form="default {}"),
    "io_max": _io_max,
    "io_latency": _io_latency,
    "hugetlb": _hugetlb,
    "rdma": _named("rdma.max", "DEVICE:hca_handle=N,hca_object=N"),
    "misc": _named("misc.max", "NAME=N"),
    "cgroup_set": _raw,
}


def _of_isolator(name: str, value: Any) -> list[Limit]:
    """Of the App Container spec (ACE "Isolators"): the limit is hard, the request is what the app keeps when others want it."""
    origin = f"isolator {name}"
    limits: list[Limit] = []
    if name == "os/linux/cpu-shares":
        return [("cpu.weight", str(weight_of_shares(value)), origin)]
    if name == "resource/memory":
        for part, file in (("limit", "memory.max"), ("request", "memory.low")):
            if value.get(part) is not None:
                limits += _memory(file)(value[part], origin)
    if name == "resource/cpu":
        if value.get("limit") is not None:
            limits += _cpus(value["limit"], origin)
        if value.get("request") is not None:
            thousandths = parse_quantity(value["request"], 1000) or 0
            limits.append(("cpu.weight", str(weight_of_shares(thousandths * 1024 // 1000)), origin))
    if name in ("resource/block-bandwidth", "resource/block-iops") and value.get("limit") is not None:
        rates = ("rbps", "wbps") if name.endswith("bandwidth") else ("riops", "wiops")
        number = _size(value["limit"], origin)
        if number <= 0:
            raise _bad(value["limit"], "is not above nothing", "write a number of bytes or operations a second", origin)
        limits += [("io.max", f"{disk} {' '.join(f'{rate}={number}' for rate in rates)}", origin) for disk in _disks()]
    return limits


def _disks() -> list[str]:
    """Every disk that holds anything, MAJOR:MINOR: the App Container's limits of disks are for all (ACE "resource/block-bandwidth")."""
    names = sorted(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else []
    found = [
        read_small(f"/sys/block/{name}/dev").decode().strip() for name in names if read_small(f"/sys/block/{name}/size").strip() != b"0"
    ]
    return [disk for disk in found if disk]
