"""A container's cgroup from systemd: a scope (systemd.scope(5)), asked for over D-Bus with systemd's own busctl.

systemd wants a process for a scope, and the container's is born into its cgroup.  So this process goes there first, into a
leaf of its own, for a cgroup with controllers for others takes no process (cgroups(7)); the container lives beside it.
When both are gone systemd removes the scope.
"""

from __future__ import annotations

import os
import time

from pyrun.engine.placement import environment
from pyrun.errors import ConfigError, HostError
from pyrun.host import LEAF, read_small
from pyrun.oci import cgroups
from pyrun.plan.resources import of_resources
from pyrun.plan.scope import properties_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["adjust", "delegate", "scope"]

_PATIENCE = 10.0  # seconds for systemd to make a scope
_CONTAINER = "container"
_SUBGROUP, _DELEGATED = "run.oci.systemd.subgroup", "run.oci.delegate-cgroup"  # annotations of crun's
_PREFIX = "org.systemd.property."
# What the scope has as well, for whoever asks systemd; processor time is the container's alone, or this process had to wait for it.
_SHOWN = ("memory.max", "memory.swap.max", "pids.max")
_LEAST = {"memory.max": 32 << 20, "pids.max": 16}  # with this process in it; the container's own cgroup has the exact limit


def scope(path: str, name: str, resources: dict[str, Any], annotations: dict[str, str], *, user: bool = False) -> str:
    """Make the scope of `linux.cgroupsPath` (slice:prefix:name, or slice:name) and return the directory for the container in it.

    It gets the properties of annotations org.systemd.property.NAME; `user` says that it is the user's own service manager which has
    to do it.  ConfigError for another form of path, and for an annotation that is malformed; HostError when systemd refuses.
    """
    parts = (path or f":pyrun:{name}").split(":")
    if len(parts) == 2 and parts[1]:  # as crun has it
        parts.insert(1, "")
    if len(parts) != 3 or "/" in path:
        hint = "as in system.slice:podman:NAME"
        raise ConfigError("make scope", path, "not slice:prefix:name", hint=hint, origin="linux.cgroupsPath")
    below = _below(annotations)
    above, prefix, own = parts
    unit = "-".join(part for part in (prefix, own or name) if part).removesuffix(".scope") + ".scope"
    each = [["Description", "s", f"pyrun-oci container {name}"], ["CollectMode", "s", "inactive-or-failed"]]
    each += _properties((file, text) for file, text, _ in of_resources(resources))
    wanted = _wanted(annotations)
    named = {one[0] for one in wanted}
    each = [one for one in each if one[0] not in named] + wanted
    each += [["Delegate", "b", "true"], ["Slice", "s", above or ("user.slice" if user else "system.slice")]]
    each.append(["PIDs", "au", "1", str(os.getpid())])
    words = [word for one in each for word in one]
    _ask(unit, user, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", str(len(each)), *words, "0")
    directory = _arrive(unit)
    leaf = f"{directory}/{LEAF}"
    os.makedirs(leaf, exist_ok=True)
    if not cgroups.put(leaf + "/cgroup.procs", "0"):
        raise HostError("make scope", unit, "its cgroup is not delegated", origin="linux.cgroupsPath")
    return f"{directory}/{below[0]}"


def _below(annotations: dict[str, str]) -> tuple[str, str]:
    """The container's cgroup in its scope, and one below that for its processes to manage, "" for none."""
    names = annotations.get(_SUBGROUP, _CONTAINER), annotations.get(_DELEGATED, "") if _SUBGROUP in annotations else ""
    for key, name in zip((_SUBGROUP, _DELEGATED), names, strict=True):
        if (
            (not name and key == _SUBGROUP)
            or "/" in name
            or name in (".", "..", LEAF)
            or not name.isprintable()
            or len(name.encode()) > 255
        ):
            hint = f"one name, and not {LEAF}, which is where the runtime lives meanwhile"
            raise ConfigError("make cgroup", repr(name)[:80], "not the name of a cgroup", hint=hint, origin=f"annotations[{key!r}]")
    return names


def delegate(group: str, annotations: dict[str, str], pid: int, linux: dict[str, Any]) -> None:
    """Move a new container's process to a cgroup below its own, to manage that itself: it has the controllers and belongs to its root.

    The limits stay above it, and so does the root of its cgroup namespace.  HostError when that cannot be.
    """
    name = _below(annotations)[1]
    if not name:
        return
    path = f"{group}/{name}"
    try:
        os.mkdir(path, 0o755)
        if not cgroups.put(path + "/cgroup.procs", str(pid)):
            raise HostError("delegate cgroup", path, "its process cannot go there", origin=f"annotations[{_DELEGATED!r}]")
        for controller in read_small(group + "/cgroup.controllers").decode().split():
            cgroups.put(group + "/cgroup.subtree_control", "+" + controller)
        for one in (path, *(f"{path}/{file}" for file in read_small("/sys/kernel/cgroup/delegate").decode().split())):
            if os.path.exists(one):
                os.chown(one, *(_root(linux.get(kind, ())) for kind in ("uidMappings", "gidMappings")))
    except OSError as error:
        raise HostError("delegate cgroup", path, errno=error.errno or 0, origin=f"annotations[{_DELEGATED!r}]") from None


def _root(mappings: Iterable[dict[str, int]]) -> int:
    return next((row["hostID"] for row in mappings if row["containerID"] == 0), 0)


def adjust(group: str, limits: Iterable[tuple[str, str]], *, user: bool = False) -> None:
    """Give the scope of a container's cgroup, if it has one, new limits; HostError when systemd refuses."""
    above, own = os.path.split(group)
    unit = os.path.basename(above)
    ours = unit.endswith(".scope") and (own == _CONTAINER or os.path.isdir(f"{above}/{LEAF}"))
    properties = _properties(limits) if ours else []
    if properties:
        words = [word for one in properties for word in one]
        _ask(unit, user, "SetUnitProperties", "sba(sv)", unit, "true", str(len(properties)), *words)


def _properties(limits: Iterable[tuple[str, str]]) -> list[list[str]]:
    shown = [(file, text) for file, text in limits if file in _SHOWN]
    return properties_of([(file, text if text == "max" else str(max(int(text), _LEAST.get(file, 0)))) for file, text in shown], more={})


def _wanted(annotations: dict[str, str]) -> list[list[str]]:
    if not any(key.startswith(_PREFIX) for key in annotations):
        return []
    from pyrun.oci.variants import Malformed, property_of

    found = []
    for key, text in annotations.items():
        if key.startswith(_PREFIX):
            try:
                found.append(property_of(key[len(_PREFIX) :], text))
            except Malformed as error:
                hint = "a value as GVariant writes it, such as true, 'text', uint64 5 or ['a', 'b']"
                raise ConfigError("make scope", key, str(error), hint=hint, origin=f"annotations[{key!r}]") from None
    return found


def _ask(unit: str, user: bool, *words: str) -> None:
    import subprocess

    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    command = ["busctl", "--user" if user else "--system", "--", "call", *manager, *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL, env=environment(user=user)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError("make scope", unit, str(error).lower(), hint="--systemd-cgroup needs systemd as process 1, and busctl") from error
    if done.returncode != 0:
        hint = "--systemd-cgroup needs systemd as process 1"
        raise HostError("make scope", unit, done.stderr.strip() or "systemd refused it", hint=hint)


def _arrive(unit: str) -> str:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        own = cgroups.own()
        if own.endswith("/" + unit):
            return cgroups.tree() + own
        time.sleep(0.002)
    raise HostError("make scope", unit, "systemd did not make it in time", hint="see `systemctl list-jobs`")
