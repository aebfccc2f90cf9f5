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
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = ["as_meant", "enable", "resource_ops", "write"]

_CORE = ("cgroup",)


def as_meant(resources: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the resources with pids.limit 0 as the runtime-spec of that version means it: none before 1.3, since then one process."""
    major, minor = version.split(".")[:2]
    if (int(major), int(minor)) >= (1, 3) and (resources.get("pids") or {}).get("limit") == 0:
        return {**resources, "pids": {"limit": 1}}
    return resources


def resource_ops(resources: dict[str, Any], group: str) -> list[Op]:
    """Return the operations that limit a new container; ConfigError for a limit on a host without cgroup2."""
    from pyrun.plan.resources import of_resources

    limits = of_resources(resources, bfq=_has_bfq(group))
    if limits and not group:
        raise ConfigError("limit", limits[0][0], "this host has no cgroup2 tree", hint="mount one on /sys/fs/cgroup", origin=limits[0][2])
    todo = [op(ops.LIMIT, file, text, origin=origin) for file, text, origin in limits]
    rules = resources.get("devices")
    if rules and group:
        from pyrun.plan.devices_bpf import device_program, rules_of_oci, text_of

        wanted = rules_of_oci(rules)
        program = device_program(wanted)
        if program:
            todo.append(op(ops.DEVICES, program, text_of(wanted), origin="linux.resources.devices"))
    return todo


def _has_bfq(group: str) -> bool:
    return (
        bool(group)
        and os.path.exists(f"{os.path.dirname(group)}/io.bfq.weight")
        and not os.path.exists(f"{os.path.dirname(group)}/io.weight")
    )


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


def write(resources: dict[str, Any], group: str, *, user: bool = False) -> None:
    """Change the limits of a running container; ConfigError or HostError, and what was changed before stays changed."""
    from pyrun.plan.resources import of_resources

    if not group:
        raise HostError("update", "", "the container has no cgroup")
    held = {name: read_small(f"{group}/{name}").decode().strip() for name in ("memory.max", "memory.current", "memory.swap.max", "cpu.max")}
    limits = of_resources(resources, held={name: text for name, text in held.items() if text}, bfq=_has_bfq(group))
    enable(group, [(file, origin) for file, _, origin in limits])
    if os.path.dirname(group).endswith(".scope"):
        from pyrun.oci import systemd

        systemd.adjust(group, [(file, text) for file, text, _ in limits], user=user)
    for file, text, origin in limits:
        try:
            fd = os.open(f"{group}/{file}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise HostError("update", f"{file} to {text}", errno=error.errno or 0, origin=origin) from None
