"""A container's groups in hierarchies of cgroup version 1, on hosts that have controllers there beside a v2 tree (cgroups(7)).

There the limits are that version 1 has the controllers for; everything else is the v2 cgroup's.  A container that is limited there, or
whose cgroup a client has chosen, has a group in each hierarchy, and its processes are in all of them: all that it takes is counted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from pyrun.errors import HostError, StateError
from pyrun.host import read_small, set_file
from pyrun.oci import cgroups
from pyrun.plan import ops
from pyrun.plan.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyrun.oci.state import Container
    from pyrun.plan.ops import Op
    from pyrun.plan.version1 import Limit1

__all__ = ["adopt", "directories", "enter_ops", "hierarchies", "hint_of", "limit_ops", "make", "remove", "settle", "write_1"]

_NOT_OURS = frozenset(("devices", "freezer"))  # which the v2 cgroup does
_CHARGED = ("memory", "hugetlb")
_SETS = ("cpuset.cpus", "cpuset.mems")
_ALONE = ("pids.max", "1")
_ORIGIN = "linux.cgroupsPath"
_HINTS = {
    "memory.memsw.limit_in_bytes": "it does not account swap: boot with swapaccount=1, or leave memory.swap out",
    "blkio.weight": "weights of disks take the scheduler BFQ (CONFIG_BFQ_GROUP_IOSCHED)",
    "cpu.rt_runtime_us": "it is built without CONFIG_RT_GROUP_SCHED",
    "cpu.rt_period_us": "it is built without CONFIG_RT_GROUP_SCHED",
}
_REFUSED = {
    "memory.limit_in_bytes": "it is above the limit of memory and swap together, change that as well, or below what is in use",
    "memory.memsw.limit_in_bytes": "it is below the limit of memory, change that as well, or below what is in use",
    "cpu.rt_runtime_us": "the group above has no such time to give: see its cpu.rt_runtime_us",
    "cpuset.cpus": "processors have to be those of the group above: see its cpuset.cpus",
    "cpuset.mems": "memory nodes have to be those of the group above: see its cpuset.mems",
}


def hierarchies() -> dict[str, tuple[str, str]]:
    """Return for each controller that version 1 has here where that is mounted, and this process's own group below that."""
    own: dict[str, str] = {}
    for line in read_small("/proc/self/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, names, path = line.split(":", 2)
        own.update((name, path) for name in names.split(",") if name and "=" not in name and name not in _NOT_OURS)
    found: dict[str, tuple[str, str]] = {}
    for line in read_small("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines() if own else ():
        words = line.split(" ")
        root, where, (kind, _, flags) = words[3], words[4], words[words.index("-") + 1 :][:3]
        for name in flags.split(",") if kind == "cgroup" else ():
            if name in own and name not in found:
                path = own[name].removeprefix(root) if root != "/" else own[name]
                found[name] = (where, "/" + path.strip("/") if path.strip("/") else "")
    return found


def directories(places: Mapping[str, tuple[str, str]], group: str, relative: str) -> dict[str, str]:
    """Return the groups of a container whose v2 cgroup is `group`, by controller.

    They are at the same path as that, or at the path `relative` below this process's own ones where that is not "".
    """
    path = group[len(cgroups.tree()) :]
    return {name: f"{where}{own}/{relative}" if relative else where + path for name, (where, own) in places.items()}


def make(groups: dict[str, str], limits: Iterable[Limit1]) -> None:
    """Make the groups and those above them; out of `groups` go those that nothing is limited in and that cannot be made.

    HostError when that is not possible for a limit, or processes are in one; none stays then.
    """
    wanted = {controller: (file, origin) for controller, file, _, origin in limits}
    made: list[str] = []
    try:
        for name, path in [*groups.items()]:
            before = len(made)
            try:
                _make(name, path, made)
            except OSError as error:
                if name in wanted:
                    raise _not_made(name, path, error.errno or 0, *wanted[name]) from None
                _unmake(made[before:])
                del groups[name]
                continue
            if read_small(path + "/cgroup.procs"):
                reason = "container's cgroup is not empty: there are processes in it already"
                hint = "end them, or choose another path"
                raise HostError("make cgroup", path, reason, hint=hint, origin=_ORIGIN)
    except HostError:
        _unmake(made)
        raise


def _unmake(made: list[str]) -> None:
    for path in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _not_made(name: str, path: str, error: int, file: str, origin: str) -> HostError:
    reason = f"this host has {name} in cgroup version 1, where {path} cannot be made: {os.strerror(error).lower()}"
    hint = "leave the limit out, or start it where that hierarchy can be written to"
    return HostError("limit", file, reason, errno=error, hint=hint, origin=origin)


def _make(name: str, path: str, made: list[str]) -> None:
    """A cpuset is empty until it has been filled, and takes no process (cgroup-v1/cpusets.rst)."""
    missing = [path]
    while not os.path.isdir(missing[-1]):
        missing.append(os.path.dirname(missing[-1]))
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):  # by now, for another container
            os.mkdir(one, 0o755)
            made.append(one)
        for file in _SETS if name == "cpuset" else ():
            if not read_small(f"{one}/{file}").strip():
                set_file(f"{one}/{file}", read_small(f"{os.path.dirname(one)}/{file}").decode().strip())


def _file(groups: Mapping[str, str], limit: Limit1) -> str:
    """The name of a limit's file; HostError where the kernel has none."""
    controller, file, text, origin = limit
    for one in (file, file.replace("blkio.weight", "blkio.bfq.weight")):
        if os.path.exists(f"{groups[controller]}/{one}"):
            return one
    hint = _HINTS.get(file.removesuffix("_device"), f"see which files {groups[controller]} has")
    reason = f"this kernel has no such file in {groups[controller]}, cgroup version 1"
    raise HostError("limit", f"{file} {text}", reason, hint=hint, origin=origin)


def limit_ops(limits: Iterable[Limit1], groups: Mapping[str, str]) -> list[Op]:
    """Return the operations that limit a new container, and take it into each of its groups.

    Who clones it is in them for that long, so one process alone is a limit that is set afterwards: `settle`.
    """
    todo = []
    for limit in limits:
        controller, _, text, origin = limit
        file = _file(groups, limit)
        text = "2" if (file, text) == _ALONE else text
        todo.append(op(ops.LIMIT, file, text, a=groups[controller], origin=origin))
    held = {one[5] for one in todo}
    return [*todo, *(one for one in enter_ops(groups.values()) if one[5] not in held)]


def enter_ops(groups: Iterable[str]) -> list[Op]:
    """Return the operations of one more process that goes into the groups; in those of a new container they write a default."""
    return [op(ops.LIMIT, "notify_on_release", "0", a=path, origin=_ORIGIN) for path in dict.fromkeys(groups)]


def settle(limits: Iterable[Limit1], groups: Mapping[str, str]) -> None:
    """Set the limit that would have kept the process from being made."""
    for controller, file, text, origin in limits:
        if (file, text) == _ALONE:
            try:
                set_file(f"{groups[controller]}/{file}", text)
            except OSError as error:
                raise HostError("limit", f"{file} {text}", errno=error.errno or 0, origin=origin) from None


def adopt(container: Container, limits: Iterable[Limit1]) -> dict[str, str]:
    """Return the groups of a running container, locked, that is to be limited in them; one that was made without any gets them.

    Not those of memory, for what it has in use is counted where it was (cgroup-v1/memory.rst): StateError for such limits.
    """
    groups: dict[str, str] = container.record.get("cgroups_1", {})
    found = groups or {name: path for name, path in directories(hierarchies(), container.group, "").items() if name not in _CHARGED}
    for controller, file, text, origin in limits:
        if controller not in found:
            reason = f"this host has {controller} in cgroup version 1, and what the container uses of it is counted in another group"
            hint = "give it a limit of that kind, however wide, when it is created"
            raise StateError("update", f"{file} to {text}", reason, hint=hint, origin=origin)
    new = {name: path for name, path in found.items() if not os.path.isdir(path)}
    if new:  # known first, for it may be killed at any moment; who enters from now on is in those that are there
        before = container.record
        container.rewrite({**before, "cgroups_1": found})
        try:
            make(new, limits)
        except HostError:
            container.rewrite(before)
            raise
    _move(container.group, [path for path in dict.fromkeys(found.values()) if os.path.isdir(path)], 2 if new else 1)
    return found


def _move(group: str, groups: list[str], times: int) -> None:
    """Take all processes of a cgroup into the groups, until none was outside `times` times, with time between for who just enters."""
    quiet = 0
    for _ in range(1000):
        others = [(pid, path) for path in groups for pid in cgroups.outside(group, path)]
        quiet = 0 if others else quiet + 1
        if quiet == times:
            return
        for pid, path in others:
            try:
                set_file(f"{path}/cgroup.procs", str(pid))
            except ProcessLookupError:
                pass
            except OSError as error:
                raise HostError("update", f"process {pid} into {path}", errno=error.errno or 0) from None
        time.sleep(0 if others else 0.02)
    raise HostError("update", group, "it makes processes faster than they can be moved", hint="pause it meanwhile")


def write_1(limits: list[Limit1], groups: Mapping[str, str]) -> None:
    """Change the limits of a running container; HostError, and what was changed before stays changed.

    The kernel holds some of them against each other at any time (memory and swap together, quota and period), so one that it does
    not take is tried again when others have been changed.
    """
    left = [(f"{groups[one[0]]}/{_file(groups, one)}", one) for one in limits]
    while left:
        refused: list[tuple[str, Limit1]] = []
        for path, limit in left:
            try:
                set_file(path, limit[2])
            except OSError as error:
                if error.errno != errno.EINVAL or len(left) == 1:
                    raise _not_taken(path, limit, error) from None
                refused.append((path, limit))
        if len(refused) == len(left):
            raise _not_taken(*left[0], OSError(errno.EINVAL, os.strerror(errno.EINVAL)))
        left = refused


def _not_taken(path: str, limit: Limit1, error: OSError) -> HostError:
    _, _, text, origin = limit
    above, file = os.path.split(path)
    return HostError("update", f"{file} of {above} to {text}", errno=error.errno or 0, hint=hint_of(file, error.errno or 0), origin=origin)


def hint_of(file: str, error: int) -> str:
    """Return what to do about a value that the kernel does not take."""
    if error in (errno.EINVAL, errno.EACCES, errno.EBUSY, errno.ENOSPC, errno.ERANGE):
        return _REFUSED.get(file, "the kernel does not take this value: see its documentation, cgroup-v1")
    return "the disk cannot be limited: name a whole disk" if error == errno.ENODEV else ""


def remove(groups: Iterable[str]) -> None:
    """Remove groups in which nobody lives any more, and those below; HostError for one that stays busy for a second."""
    from pyrun.engine.cgroup import remove_version_1

    for path in dict.fromkeys(groups):
        remove_version_1(path)
        if os.path.isdir(path):
            raise HostError("remove cgroup", path, "it is still busy", hint="end the processes that its cgroup.procs names")
