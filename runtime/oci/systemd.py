"""A container's cgroup from systemd: a scope (systemd.scope(5)), asked for over D-Bus with systemd's own busctl.

systemd wants a process for a scope, and the container's is born into its cgroup.  So this process goes there first, into a
leaf of its own, for a cgroup with controllers for others takes no process (cgroups(7)); the container lives beside it.
When both are gone systemd removes the scope.
"""

from __future__ import annotations

import os
import time

from pyrun.errors import ConfigError, HostError
from pyrun.host import LEAF
from pyrun.oci import cgroups

__all__ = ["scope"]

_PATIENCE = 10.0  # seconds for systemd to make a scope
_CONTAINER = "container"


def scope(path: str, name: str) -> str:
    """Make the scope of `linux.cgroupsPath` (slice:prefix:name) and return the directory for the container in it.

    ConfigError for another form of path, HostError when systemd refuses.
    """
    parts = (path or f":pyrun:{name}").split(":")
    if len(parts) != 3 or "/" in path:
        hint = "as in system.slice:podman:NAME"
        raise ConfigError("make scope", path, "not slice:prefix:name", hint=hint, origin="linux.cgroupsPath")
    above, prefix, own = parts
    unit = "-".join(part for part in (prefix, own or name) if part) + ".scope"
    _ask(unit, above or ("user.slice" if os.geteuid() else "system.slice"), name)
    directory = _arrive(unit)
    leaf = f"{directory}/{LEAF}"
    os.makedirs(leaf, exist_ok=True)
    if not cgroups.put(leaf + "/cgroup.procs", "0"):
        raise HostError("make scope", unit, "its cgroup is not delegated", origin="linux.cgroupsPath")
    return f"{directory}/{_CONTAINER}"


def _ask(unit: str, above: str, name: str) -> None:
    import subprocess

    properties = ["Description", "s", f"pyrun-oci container {name}", "Delegate", "b", "true", "Slice", "s", above]
    properties += ["CollectMode", "s", "inactive-or-failed", "PIDs", "au", "1", str(os.getpid())]
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    bus = "--user" if os.geteuid() else "--system"
    command = ["busctl", bus, "call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "5", *properties, "0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL)
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
