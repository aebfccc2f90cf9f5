"""A container's cgroup from systemd: a scope (systemd.scope(5)), asked for over D-Bus with systemd's own busctl.

systemd wants a process for a scope, and the container's is born into its cgroup.  So this process goes there first, into a
leaf of its own, for a cgroup with controllers for others takes no process (cgroups(7)); the container lives beside it, or in
the scope itself.  Once it does, this process goes back where it came from, unless it is a user's, who may not.  When both are
gone systemd removes the scope.

Its limits are the container's: shares count between the scopes of a slice, and clients look there for all of them.
"""

from __future__ import annotations

import contextlib
import os
import time

from pyrun.engine.placement import environment
from pyrun.errors import ConfigError, HostError
from pyrun.host import LEAF, read_small
from pyrun.oci import cgroups
from pyrun.oci.arguments import program
from pyrun.plan import ops
from pyrun.plan.resources import of_resources
from pyrun.plan.scope import properties_of, quota_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = ["Scope", "adjust", "as_kept", "at_first", "delegate", "scope"]

_PATIENCE = 10.0  # seconds for systemd to make a scope
_CONTAINER = "container"
_SUBGROUP, _DELEGATED = "run.oci.systemd.subgroup", "run.oci.delegate-cgroup"  # annotations of crun's
_PREFIX = "org.systemd.property."
_LEAST = {"memory.max": 32 << 20, "memory.high": 32 << 20, "pids.max": 16}  # with this process in it
_QUOTA = "cpu.max"  # for which this process would have to wait
_IDLE = "cpu.idle"


class Scope:
    """One that has been made, `unit`: `group` is the directory for the container in it, its own where the container is `alone`."""

    __slots__ = ("_before", "_directory", "_limits", "_named", "_user", "alone", "group", "unit")

    def __init__(self, unit: str, directory: str, below: str, before: str, *, user: bool) -> None:
        """`before` is the cgroup that this process was in."""
        self.unit, self._directory, self._before, self._user = unit, directory, before, user
        self.group, self.alone = f"{directory}/{below}".rstrip("/"), not below
        self._limits: list[tuple[str, str]] = []
        self._named: set[str] = set()

    def later(self, limits: list[tuple[str, str]], named: set[str]) -> None:
        """Remember what `settle` is to see to, but for the properties that are `named` otherwise."""
        self._limits, self._named = limits, named

    def settle(self, files: Iterable[tuple[str, str]]) -> None:
        """Leave it to the container, whose process lives there by now, with the rest of its limits; HostError when systemd refuses.

        `files` are all the limits, as the container's own cgroup has them.
        """
        away = self.leave()
        rest = [one for one in self._limits if one[0] == _QUOTA or (away and _floored(one) != one)]
        _set(self.unit, [one for one in _properties(rest) if one[0] not in self._named], user=self._user)
        if not self.alone:
            _write(self._directory, files)
            return
        for file, text in files:  # systemd writes its part some time after it has answered
            if not away and _floored((file, text)) != (file, text):
                raise HostError("limit", f"{file} to {text}", "this process cannot leave the scope", origin="linux.resources")
            if not cgroups.put(f"{self._directory}/{file}", as_kept(file, text)):
                raise HostError("limit", f"{file} to {text}", "the kernel refuses it", origin="linux.resources")

    def leave(self) -> bool:
        """Go back where this process came from; False where that may not be."""
        away = not self._user and cgroups.put(f"{cgroups.tree()}{self._before}/cgroup.procs", "0")
        if away:
            with contextlib.suppress(OSError):
                os.rmdir(f"{self._directory}/{LEAF}")
        return away


def scope(path: str, name: str, resources: dict[str, Any], annotations: dict[str, str], *, user: bool = False) -> Scope:
    """Make the scope of `linux.cgroupsPath` (slice:prefix:name, or slice:name), with this process in it.

    It gets the properties of annotations org.systemd.property.NAME; `user` says that it is the user's own service manager which has
    to do it.  ConfigError for another form of path, and for an annotation that is malformed; HostError when systemd refuses.
    """
    parts = (path or f":pyrun:{name}").split(":")
    if len(parts) == 2 and parts[1]:  # as crun has it
        parts.insert(1, "")
    if len(parts) != 3 or "/" in path:
        hint = "as in system.slice:podman:NAME"
        raise ConfigError("make scope", path, "not slice:prefix:name", hint=hint, origin="linux.cgroupsPath")
    below = _below(annotations)[0] or (_CONTAINER if user else "")  # a user's process stays, and small limits are not for it
    above, prefix, own = parts
    unit = "-".join(part for part in (prefix, own or name) if part).removesuffix(".scope") + ".scope"
    each = [["Description", "s", f"pyrun-oci container {name}"], ["CollectMode", "s", "inactive-or-failed"]]
    limits = _limits(resources)
    each += _properties([_floored(one) for one in limits if one[0] != _QUOTA])
    wanted = _wanted(annotations)
    named = {one[0] for one in wanted}
    each = [one for one in each if one[0] not in named] + wanted
    each += [["Delegate", "b", "true"], ["Slice", "s", above or ("user.slice" if user else "system.slice")]]
    each.append(["PIDs", "au", "1", str(os.getpid())])
    words = [word for one in each for word in one]
    before = cgroups.own()
    _ask(unit, user, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", str(len(each)), *words, "0")
    directory = _arrive(unit)
    leaf = f"{directory}/{LEAF}"
    os.makedirs(leaf, exist_ok=True)
    if not cgroups.put(leaf + "/cgroup.procs", "0"):
        raise HostError("make scope", unit, "its cgroup is not delegated", origin="linux.cgroupsPath")
    made = Scope(unit, directory, below, before, user=user)
    made.later(limits, named)
    return made


def _limits(resources: dict[str, Any]) -> list[tuple[str, str]]:
    """A scope has a limit of processes by default (systemd-system.conf(5), DefaultTasksMax), so that none is to be said, too."""
    limits = [one[:2] for one in of_resources(resources)]
    none = (resources.get("pids") or {}).get("limit", 0) < 0
    said = (resources.get("unified") or {}).get("pids.max", "max" if none else "")
    if said.strip() == "max":
        limits.append(("pids.max", "max"))
    return limits


def at_first(limits: list[Op]) -> list[Op]:
    """Return the operations that limit a scope which this process shares with the container for now: it has to live with them."""
    kept: list[Op] = []
    for one in limits:
        if one[0] == ops.LIMIT:
            file, text = _floored((str(one[3]), str(one[4])))
            if file.startswith(_QUOTA):  # a burst depends on it
                continue
            kept.append((*one[:4], text, *one[5:]))
        else:
            kept.append(one)
    return kept


def as_kept(file: str, text: str) -> str:
    """Return a limit as systemd has it for its property, where it writes the file too."""
    with contextlib.suppress(ValueError):  # which the kernel refuses too
        return quota_of(text) if file == _QUOTA else text
    return text


def _floored(limit: tuple[str, str]) -> tuple[str, str]:
    file, text = limit
    return (file, str(max(int(text), _LEAST[file]))) if file in _LEAST and text.isdigit() else limit


def _below(annotations: dict[str, str]) -> tuple[str, str]:
    """The container's cgroup in its scope, and one below that for its processes to manage, each "" for none; runc has none."""
    usual = "" if program() == "runc" else _CONTAINER
    names = annotations.get(_SUBGROUP, usual), annotations.get(_DELEGATED, "") if _SUBGROUP in annotations else ""
    for key, name in zip((_SUBGROUP, _DELEGATED), names, strict=True):
        if "/" in name or name in (".", "..", LEAF) or not name.isprintable() or len(name.encode()) > 255:
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
        cgroups.hand_over(path, *(_root(linux.get(kind, ())) for kind in ("uidMappings", "gidMappings")))
    except OSError as error:
        raise HostError("delegate cgroup", path, errno=error.errno or 0, origin=f"annotations[{_DELEGATED!r}]") from None


def _root(mappings: Iterable[dict[str, int]]) -> int:
    return next((row["hostID"] for row in mappings if row["containerID"] == 0), 0)


def adjust(unit: str, group: str, limits: Iterable[tuple[str, str]], *, user: bool = False) -> None:
    """Give the scope of a container in `group` new limits; HostError when systemd refuses."""
    directory = group if os.path.basename(group) == unit else os.path.dirname(group)
    limits = [_floored(one) if read_small(f"{directory}/{LEAF}/cgroup.procs") else one for one in limits]
    _set(unit, _properties(limits), user=user)
    _write(directory, limits)


def _properties(limits: Iterable[tuple[str, str]]) -> list[list[str]]:
    found: list[list[str]] = []
    for file, text in limits:
        if file == _IDLE:  # systemd 252 has it as a weight; the largest number stands for its default
            found.append(["CPUWeight", "t", "0" if text == "1" else str((1 << 64) - 1)])
        else:
            found += properties_of([(file, text)], more={})
    return found


def _set(unit: str, properties: list[list[str]], *, user: bool) -> None:
    if properties:
        words = [word for one in properties for word in one]
        _ask(unit, user, "SetUnitProperties", "sba(sv)", unit, "true", str(len(properties)), *words)


def _write(directory: str, limits: Iterable[tuple[str, str]]) -> None:
    """Put what systemd has no properties for into files of the scope, as far as they are there: the container's own has them in any case.

    A burst needs its quota, which systemd writes once it has answered.
    """
    for file, text in limits:
        if file == _QUOTA or not _properties([(file, text)]):
            cgroups.put(f"{directory}/{file}", as_kept(file, text))


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
        if "already loaded" in done.stderr:  # org.freedesktop.systemd1.UnitExists, of which busctl tells the text alone
            hint = "choose another linux.cgroupsPath, or end what runs there"
            raise HostError("make scope", unit, "container's cgroup is not empty: systemd has this unit already", hint=hint)
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
