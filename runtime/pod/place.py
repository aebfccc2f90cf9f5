"""Where a prepared pod that has limits may run."""

from __future__ import annotations

import os

from pyrun.errors import StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

_BUS = 108  # bytes, of a socket's path in unix(7)

__all__ = ["limits_of", "manager_of", "scope_of", "take_place"]

_SLICE = r"(-|[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*)\.slice"  # systemd.slice(5), systemd.unit(5)


def manager_of(options: Options) -> list[str]:
    """Return who is to manage the pod's cgroup, and in which slice, in the words of `pyrun.engine.placement.take`.

    UsageError for the name of a slice that systemd would refuse, and for one that nobody asks systemd for.
    """
    manager, name = options.cgroup_manager or "auto", options.slice
    if name is None:
        return [] if manager == "auto" else [f"@{manager}"]
    import re

    if manager == "cgroupfs":
        raise UsageError("option --slice", name, "only systemd has slices", hint="leave out --cgroup-manager cgroupfs")
    if len(name) > 255 or not re.fullmatch(_SLICE, name):
        hint = "as in machine.slice, or batch-night.slice, which is in batch.slice"
        raise UsageError("option --slice", name[:300], "not the name of a slice", hint=hint)
    return ["@systemd", f"@slice={name}"]


def take_place(pods: Pods, uuid: str, *, movable: bool = True) -> None:
    """Bring this process to where the limits of the prepared pod `uuid` can be set; without limits it stays where it is.

    HostError when there is no such place, see `pyrun.engine.placement.take`.  One that is not `movable` stays, and is refused a pod
    that is to be in a scope, which systemd would move it into.
    """
    try:
        file = os.open(f"prepared/{uuid}/controllers", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return
    try:
        words = os.read(file, 4096).decode().split()
    finally:
        os.close(file)
    if not movable:
        if "@systemd" in words:
            hint = "use `pyrun run-prepared` or `pyrun restart`, or leave out cgroup_manager and slice"
            raise StateError("start pod", uuid, "it wants a scope of systemd's, which this program would be moved into", hint=hint)
        return
    from pyrun.engine.placement import take

    take(uuid, words, limits_of(_plan(pods, uuid)) if "@systemd" in words else ())


def scope_of(uuid: str, controllers: Sequence[str], block: bytes = b"") -> dict[str, bytes]:
    """Return the file in which native/scope.c finds how to ask systemd for a scope, by name, where it may have to; pure.

    `controllers` are those of the pod's file of that name, `block` its encoded plan.
    """
    if not controllers or "@cgroupfs" in controllers:
        return {}
    from pyrun.engine.placement import bus, properties_of_scope, slice_of
    from pyrun.plan.dbus import transient_unit

    limits: Sequence[Sequence[str]] = ()
    if "@systemd" in controllers:
        from pyrun.plan.scope import properties_of

        limits = properties_of(limits_of(block))
    place, calls = transient_unit(f"pyrun-{uuid}.scope", properties_of_scope(uuid, limits, slice_of(controllers)))
    path = os.fsencode(bus())
    return {"scope": place.to_bytes(4, "little") + path.ljust(_BUS, b"\0") + calls} if len(path) < _BUS else {}


def _plan(pods: Pods, uuid: str) -> bytes:
    """Of a pod of one app; the apps of several have theirs by their own cgroups only."""
    try:
        with open(os.open(f"prepared/{uuid}/plan", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def limits_of(block: bytes) -> list[tuple[str, str]]:
    """Return the limits of an encoded plan, as (file of the cgroup, text); those of version 1 apart."""
    from pyrun.plan import ops

    return [(str(one[3]), str(one[4])) for one in (ops.notes(block) if block else ()) if one[0] == ops.LIMIT and not one[5]]
