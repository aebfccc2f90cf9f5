"""linux.resources of a container: what is written into its cgroup before it lives there, and by `update` later."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError
from pyrun.host import read_small
from pyrun.oci import cgroups
from pyrun.plan import ops
from pyrun.plan.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrun.oci.arguments import Arguments
    from pyrun.oci.state import Container
    from pyrun.plan.ops import Op
    from pyrun.plan.version1 import Limit1

__all__ = ["Wanted", "as_meant", "enable", "files_of", "limits_of", "resource_ops", "write"]

_CORE = ("cgroup",)


def as_meant(resources: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the resources with pids.limit 0 as the runtime-spec of that version means it: none before 1.3, since then one process."""
    major, minor = version.split(".")[:2]
    if (int(major), int(minor)) >= (1, 3) and (resources.get("pids") or {}).get("limit") == 0:
        return {**resources, "pids": {"limit": 1}}
    return resources


class Wanted:
    """The resources of a new container: `rest` is for the v2 tree, `old` are the limits that controllers in cgroup version 1 keep.

    `places` is where those have their hierarchies, `groups` are the container's own ones there, once they have been made: if
    there are such limits, or what it takes is to be `counted` for a client that has chosen its cgroup.
    """

    __slots__ = ("groups", "old", "places", "rest")

    def __init__(self, resources: dict[str, Any], *, counted: bool) -> None:
        self.rest, self.places, self.old = _divided(resources, counted=counted)
        self.groups: dict[str, str] = {}

    def place(self, group: str, relative: str) -> dict[str, str]:
        """Choose the groups for a container whose v2 cgroup is `group`; `relative` as in `hybrid.directories`."""
        if self.places:
            from pyrun.oci import hybrid

            self.groups = hybrid.directories(self.places, group, relative)
        return self.groups

    def make(self) -> dict[str, str]:
        """Make them; errors as `hybrid.make`."""
        if self.groups:
            from pyrun.oci import hybrid

            hybrid.make(self.groups, self.old)
        return self.groups

    def settle(self) -> None:
        """Do what could not be done before there was a process."""
        if self.groups:
            from pyrun.oci import hybrid

            hybrid.settle(self.old, self.groups)


def _divided(
    resources: dict[str, Any], used: int = -1, *, counted: bool = False
) -> tuple[dict[str, Any], dict[str, tuple[str, str]], list[Limit1]]:
    asks = any(value for name, value in resources.items() if name != "devices")
    if not (asks or counted) or all(line.startswith(b"0::") for line in read_small("/proc/self/cgroup").splitlines()):
        return resources, {}, []
    from pyrun.oci import hybrid

    places = hybrid.hierarchies()
    if not places or not cgroups.tree():
        return resources, {}, []
    from pyrun.plan.resources1 import divided, of_resources_1

    rest, old = divided(resources, places)
    limits = of_resources_1(old, used=used)
    return rest, places if limits or counted else {}, limits


def limits_of(args: Arguments, wanted: Wanted, group: str, user: bool, *, shared: bool = False) -> list[Op]:
    """Return the operations that limit a new container in its cgroups, whose controllers are enabled; errors as `resource_ops`.

    `shared` with this process the v2 one has only what that can live with, and `Scope.settle` does the rest.
    """
    rest, old = wanted.rest, wanted.groups
    if rest.get("devices") and not group and not user:
        _without_rules(args)
    if user:  # bpf(2) refuses the program, and the kernel lets nobody open a node that a user could have made
        rest = {name: value for name, value in rest.items() if name != "devices"}
    if wanted.old and not old:
        raise _no_tree(wanted.old[0][1], wanted.old[0][3])
    limits = resource_ops(rest, group)
    enable(group, [(str(one[3]), one[7]) for one in limits if one[0] == ops.LIMIT])
    if shared:
        from pyrun.oci.systemd import at_first

        limits = at_first(limits)
    if old:
        from pyrun.oci import hybrid

        limits = [*hybrid.limit_ops(wanted.old, old), *limits]
    return limits


def _without_rules(args: Arguments) -> None:
    """No program decides about devices: whoever chose to have no cgroup is told, for everybody else that is an error."""
    from pyrun.oci.main import warn

    where = "linux.resources.devices"
    if args.get("cgroup-manager") != "disabled":
        hint = "mount one on /sys/fs/cgroup, or choose --cgroup-manager disabled"
        raise ConfigError("limit", "devices", "this host has no cgroup2 tree whose programs could keep the rules", hint=hint, origin=where)
    warn(args, f"{where}: without a cgroup nothing keeps these rules")


def _no_tree(file: str, origin: str) -> ConfigError:
    return ConfigError("limit", file, "this host has no cgroup2 tree", hint="mount one on /sys/fs/cgroup", origin=origin)


def resource_ops(resources: dict[str, Any], group: str) -> list[Op]:
    """Return the operations that limit a new container; ConfigError for a limit on a host without cgroup2."""
    from pyrun.plan.resources import of_resources

    limits = of_resources(resources, weighed=_weighed(group))
    if limits and not group:
        raise _no_tree(limits[0][0], limits[0][2])
    todo = [op(ops.LIMIT, file, text, origin=origin) for file, text, origin in limits]
    rules = resources.get("devices")
    if rules and group:
        from pyrun.plan.devices_bpf import device_program, rules_of_oci, text_of

        wanted = rules_of_oci(rules)
        program = device_program(wanted)
        if program:
            todo.append(op(ops.DEVICES, program, text_of(wanted), origin="linux.resources.devices"))
    return todo


def files_of(resources: dict[str, Any], group: str) -> list[tuple[str, str]]:
    """Return the files of a cgroup and their texts, without what says nothing."""
    from pyrun.plan.resources import of_resources

    return [(file, text) for file, text, _ in of_resources(resources, weighed=_weighed(group))]


def _weighed(group: str) -> Callable[[str], Sequence[str]]:
    """The files with weights of disks (bfq-iosched.rst, cgroup-v2.rst): a disk's own is in the one that its scheduler goes by."""
    there = [one for one in ("io.weight", "io.bfq.weight") if os.path.exists(f"{os.path.dirname(group)}/{one}")] if group else []

    def files(key: str) -> Sequence[str]:
        if len(there) < 2 or key == "default":
            return there or ["io.weight"]
        return there[1:] if b"[bfq]" in read_small(f"/sys/dev/block/{key}/queue/scheduler") else there[:1]

    return files


def enable(group: str, files: list[tuple[str, str]]) -> None:
    """Enable the controllers of `files` (name, origin) for the cgroup directory `group`, from the root of the tree down.

    HostError names a controller that is not to be had (cgroups(7): not there, in version 1, or processes in a cgroup above).
    """
    base = cgroups.tree()
    for file, origin in files:
        name = file.partition(".")[0]
        if name in _CORE or os.path.exists(f"{group}/{file}"):
            continue
        path = base
        for part in group[len(base) :].strip("/").split("/"):
            if name not in read_small(path + "/cgroup.subtree_control").decode().split():
                _switch(path, name, file, origin)
            path += "/" + part


def _switch(path: str, name: str, file: str, origin: str) -> None:
    if not cgroups.put(path + "/cgroup.subtree_control", "+" + name):
        from pyrun.engine.placement import advice

        raise HostError("limit", file, f"the controller {name} cannot be enabled in {path}", hint=advice(path, name), origin=origin)


def write(resources: dict[str, Any], container: Container, *, user: bool = False) -> None:
    """Change the limits of a running container, locked; ConfigError, StateError or HostError, and what was changed before stays changed."""
    from pyrun.plan.resources import of_resources

    group, old = container.group, container.record.get("cgroups_1", {})
    if not group:
        raise HostError("update", "", "the container has no cgroup")
    used = int(read_small(old.get("memory", "") + "/memory.usage_in_bytes").strip() or 0)
    resources, _, limits_1 = _divided(resources, used)
    if limits_1:
        from pyrun.plan.resources1 import UNLIMITED_1

        limits_1 = [one for one in limits_1 if one[0] in old or one[1:3] not in UNLIMITED_1]  # of which there are none
    held = {name: read_small(f"{group}/{name}").decode().strip() for name in ("memory.max", "memory.current", "memory.swap.max", "cpu.max")}
    limits = of_resources(resources, held={name: text for name, text in held.items() if text}, weighed=_weighed(group))
    weights = [origin for file, _, origin in limits if file == "cpu.weight"]
    if weights and read_small(group + "/cpu.idle") == b"1\n":  # where the kernel takes no weight (cgroup-v2.rst)
        limits.insert(0, ("cpu.idle", "0", weights[0]))
    if limits_1:
        from pyrun.oci.hybrid import adopt

        old = adopt(container, limits_1)
    enable(group, [(file, origin) for file, _, origin in limits])
    unit = container.record.get("systemd-scope")
    if unit:
        from pyrun.oci import systemd

        systemd.adjust(unit, group, [(file, text) for file, text, _ in limits], user=user)
        if os.path.basename(group) == unit:  # systemd and this write the same files
            limits = [(file, systemd.as_kept(file, text), origin) for file, text, origin in limits]
    for file, text, origin in limits:
        try:
            fd = os.open(f"{group}/{file}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise HostError("update", f"{file} to {text}", errno=error.errno or 0, origin=origin) from None
    if limits_1:
        from pyrun.oci.hybrid import write_1

        write_1(limits_1, old)
