"""Where a prepared pod that has limits may run."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.pod.state import Pods

__all__ = ["limits_of", "scope_of", "take_place"]


def take_place(pods: Pods, uuid: str) -> None:
    """Bring this process to where the limits of the prepared pod `uuid` can be set; without limits it stays where it is.

    HostError when there is no such place, see `pyrun.engine.placement.take`.
    """
    try:
        file = os.open(f"prepared/{uuid}/controllers", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return
    try:
        words = os.read(file, 4096).decode().split()
    finally:
        os.close(file)
    from pyrun.engine.placement import take

    take(uuid, words, limits_of(_plan(pods, uuid)) if "@systemd" in words else ())


def scope_of(uuid: str, controllers: Sequence[str], block: bytes = b"") -> dict[str, bytes]:
    """Return the file in which native/scope.c finds how to ask systemd for a scope, by name, where it may have to; pure.

    `controllers` are those of the pod's file of that name, `block` its encoded plan.
    """
    from pyrun.native.users import is_root

    if not controllers or "@cgroupfs" in controllers or not is_root():
        return {}
    from pyrun.engine.placement import properties_of_scope
    from pyrun.plan.dbus import transient_unit
    from pyrun.plan.scope import properties_of

    limits = properties_of(limits_of(block)) if "@systemd" in controllers else []
    place, calls = transient_unit(f"pyrun-{uuid}.scope", properties_of_scope(uuid, limits))
    return {"scope": place.to_bytes(4, "little") + calls}


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
