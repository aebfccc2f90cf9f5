"""What a running pod has used and how it is pressed, from its cgroup (cgroups(7); Linux, cgroup-v2.rst and psi.rst).

Figures of a controller that the pod's cgroup does not have are left out: nothing is estimated.
"""

from __future__ import annotations

import contextlib
import os
import time

from pyrun.errors import StateError
from pyrun.host import read_small
from pyrun.plan import ops
from pyrun.pod.live import apps_of, find_live
from pyrun.pod.state import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pyrun.pod.live import Live
    from pyrun.pod.state import Pods

__all__ = ["counted", "metrics", "stats"]

# file -> member; each holds one number, or "max" for none
_NUMBERS = {
    "memory.current": "memory_bytes",
    "memory.peak": "memory_peak_bytes",
    "memory.max": "memory_limit_bytes",
    "memory.swap.current": "swap_bytes",
    "pids.current": "pids",
    "pids.peak": "pids_peak",
    "pids.max": "pids_limit",
}
# file -> lines of "name number" -> member
_LINES = {
    "cpu.stat": {
        "usage_usec": "cpu_usec",
        "user_usec": "cpu_user_usec",
        "system_usec": "cpu_system_usec",
        "nr_throttled": "cpu_throttled",
        "throttled_usec": "cpu_throttled_usec",
    },
    "memory.stat": {"anon": "memory_anonymous_bytes", "file": "memory_cache_bytes", "kernel": "memory_kernel_bytes"},
    "memory.events": {"high": "memory_high_events", "max": "memory_max_events", "oom_kill": "oom_kills"},
    "pids.events": {"max": "pids_max_events"},
}
_NUMBERS_1 = {
    "memory.usage_in_bytes": "memory_bytes",
    "memory.max_usage_in_bytes": "memory_peak_bytes",
    "memory.limit_in_bytes": "memory_limit_bytes",
    "memory.memsw.usage_in_bytes": "swap_bytes",
    "memory.failcnt": "memory_max_events",
    "pids.current": "pids",
    "pids.max": "pids_limit",
}
_LINES_1 = {
    "cpu.stat": {"nr_throttled": "cpu_throttled", "throttled_time": "cpu_throttled_usec"},
    "memory.stat": {"total_rss": "memory_anonymous_bytes", "total_cache": "memory_cache_bytes"},
    "memory.oom_control": {"oom_kill": "oom_kills"},
    "pids.events": {"max": "pids_max_events"},
}
_NO_LIMIT_1 = 1 << 62
_IO = {"rbytes": "io_read_bytes", "wbytes": "io_written_bytes", "rios": "io_reads", "wios": "io_writes"}
_COUNTERS = ("usec", "events", "kills", "throttled", "reads", "writes", "read_bytes", "written_bytes")


def stats(pods: Pods, uuid: str) -> dict[str, object]:
    """Return the figures of a running pod; StateError when it does not run or has no cgroup.

    `time` (CLOCK_REALTIME, ns), `cpu_usec` and the other `_usec` since its start, `_bytes`, counts, and of each resource's
    pressure `some` and `full`: shares of the last 10, 60 and 300 seconds in percent, and `total` microseconds.
    """
    names, where, old = _groups(pods, uuid)
    if not where:
        raise StateError("measure pod", uuid, "it has no cgroup", hint="that takes a cgroup2 tree that pyrun may write to")
    found: dict[str, object] = {"uuid": uuid, "time": time.time_ns(), "cgroup": where, **_measured(where, old)}
    if names:
        found["apps"] = apps = []
        for name in names:
            if os.path.isdir(f"{where}/{name}"):
                apps.append({"name": name, **_measured(f"{where}/{name}", [f"{group}/{name}" for group in old])})
        _add_kills(found, apps if old else [])
    if "cpu_usec" not in found:
        raise StateError("measure pod", uuid, "it has just ended", hint="`pyrun status` tells how")
    return found


def _groups(pods: Pods, uuid: str) -> tuple[list[str], str, list[str]]:
    """The apps of several, whose cgroups are below the pod's; that one; its cgroups of version 1."""
    with open_running(pods, uuid) as fd:
        names = [str(one["name"]) for one in apps_of(read_json(fd, "pod"))]
        if names:
            where, old = read_json(fd, "run").get("cgroup"), read_json(fd, "pod").get("cgroups_1")
            return names, where if isinstance(where, str) else "", [str(one) for one in old] if isinstance(old, list) else []
    with find_live(pods, uuid) as live:
        return [], live.cgroup, _version_1(live)


@contextlib.contextmanager
def open_running(pods: Pods, uuid: str) -> Iterator[int]:
    """The directory of a running pod; StateError when it does not run."""
    try:
        fd = os.open("running/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        raise StateError("measure pod", uuid, "it does not run", hint="see `pyrun list`") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _add_kills(pod: dict[str, object], apps: list[dict[str, object]]) -> None:
    """A group of version 1 counts only those of its own processes, which are the apps'."""
    kills = [one["oom_kills"] for one in apps if isinstance(one.get("oom_kills"), int)]
    if kills:
        pod["oom_kills"] = sum(kills)  # type: ignore[arg-type]


def _measured(where: str, old: Iterable[str]) -> dict[str, object]:
    """Of a cgroup, and of the groups `old` of version 1 that go with it."""
    found: dict[str, object] = dict(_figures(lambda file: read_small(f"{where}/{file}")))
    for group in old:
        found.update(_of_version_1(group))
    pressure = {name: _pressure(read_small(f"{where}/{name}.pressure").decode()) for name in ("cpu", "io", "memory")}
    found["pressure"] = {name: value for name, value in pressure.items() if value}
    return found


def counted(text: bytes) -> dict[str, int]:
    """Return the figures of an ended pod from what its supervisor said of them (PLAN_FIGURES in native/plan.h), by the names of `stats`."""
    if not text:
        return {}
    files = dict(part.split(b"\n", 1) for part in text.split(b"\0") if b"\n" in part)
    return _figures(lambda file: files.get(file.encode(), b""))


def _figures(read: Callable[[str], bytes]) -> dict[str, int]:
    found: dict[str, int] = {}
    for file, members in _LINES.items():
        for name, number in _pairs(read(file)):
            if name in members:
                found[members[name]] = number
    for file, member in _NUMBERS.items():
        text = read(file).strip()
        if text.isdigit():
            found[member] = int(text)
    found.update(_io(read("io.stat").decode()))
    return found


def _version_1(live: Live) -> list[str]:
    """The pod's cgroups in hierarchies of version 1, on hybrid hosts."""
    return sorted({str(one[5]) for one in ops.notes(live.plan()) if one[0] == ops.LIMIT and one[5]})


def _of_version_1(group: str) -> dict[str, int]:
    """What a hierarchy of version 1 counts, by the same names; Linux, cgroup-v1/memory.rst and blkio-controller.rst."""
    found: dict[str, int] = {}
    for file, member in _NUMBERS_1.items():
        text = read_small(f"{group}/{file}").strip()
        if text.isdigit() and int(text) < _NO_LIMIT_1:
            found[member] = int(text)
    for file, members in _LINES_1.items():
        found.update((members[name], number) for name, number in _pairs(read_small(f"{group}/{file}")) if name in members)
    if "cpu_throttled_usec" in found:
        found["cpu_throttled_usec"] //= 1000  # nanoseconds there
    if "swap_bytes" in found:
        found["swap_bytes"] = max(0, found["swap_bytes"] - found.get("memory_bytes", 0))  # both together there
    for file, kind in (("io_service_bytes_recursive", "bytes"), ("io_serviced_recursive", "")):
        for line in read_small(f"{group}/blkio.throttle.{file}").decode().splitlines():
            _, word, number = [*line.split(), "", ""][:3]
            name = {"Readbytes": "io_read_bytes", "Writebytes": "io_written_bytes", "Read": "io_reads", "Write": "io_writes"}.get(
                word + kind
            )
            if name:
                found[name] = found.get(name, 0) + int(number)
    return found


def _pairs(data: bytes) -> Iterable[tuple[str, int]]:
    for line in data.decode().splitlines():
        name, _, number = line.partition(" ")
        if number.isdigit():
            yield name, int(number)


def _io(text: str) -> dict[str, int]:
    """The sums over all disks."""
    found: dict[str, int] = {}
    for word in text.split():
        name, equals, number = word.partition("=")
        if equals and name in _IO and number.isdigit():
            found[_IO[name]] = found.get(_IO[name], 0) + int(number)
    return found


def _pressure(text: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        kind, *words = line.split()
        pairs = [word.partition("=") for word in words]
        found[kind] = {name: int(number) if name == "total" else float(number) for name, _, number in pairs}
    return found


def metrics(figures: Iterable[dict[str, object]], names: dict[str, str]) -> str:
    """Return the figures as OpenMetrics text, for the textfile collector of Prometheus' node_exporter; `names` are those of pods."""
    lines: dict[str, list[str]] = {}
    for one in figures:
        uuid = str(one["uuid"])
        label = f'uuid="{uuid}",name="{names.get(uuid, "")}"'
        _add_samples(lines, label, one)
        apps = one.get("apps")
        for app in apps if isinstance(apps, list) else ():
            _add_samples(lines, f'{label},app="{app["name"]}"', app, "app_")
    text = []
    for member, samples in lines.items():
        counter = member.endswith(_COUNTERS)
        name = "pyrun_" + member.replace("_usec", "_seconds")
        text.append(f"# TYPE {name} {'counter' if counter else 'gauge'}")
        text += [f"{name}{'_total' if counter else ''}{sample}" for sample in samples]
    return "\n".join([*text, "# EOF", ""])


def _add_samples(lines: dict[str, list[str]], label: str, one: dict[str, object], prefix: str = "pod_") -> None:
    for member, value in one.items():
        if isinstance(value, int) and member != "time":
            lines.setdefault(prefix + member, []).append(f"{{{label}}} {_in_seconds(member, value)}")
    pressure = one["pressure"]
    assert isinstance(pressure, dict)
    for resource, kinds in pressure.items():
        for kind, shares in kinds.items():
            seconds = shares["total"] / 1e6
            lines.setdefault(prefix + "pressure_usec", []).append(f'{{{label},resource="{resource}",kind="{kind}"}} {seconds:.6f}')


def _in_seconds(member: str, value: int) -> str:
    return f"{value / 1e6:.6f}" if member.endswith("_usec") else str(value)
