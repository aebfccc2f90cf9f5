"""Devices of a container: those of the configuration, and those that every container has (runtime-spec config-linux.md, "Devices")."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError
from pyrun.oci import mounts
from pyrun.plan import ops
from pyrun.plan.mounts import DEVICES
from pyrun.plan.ops import op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = ["device_ops"]

_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)
_TYPES = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


def device_ops(spec: dict[str, Any], mounter: mounts.Mounter) -> list[Op]:
    """Return the operations for nodes, links and the console; where the host's /dev is bound it has them already."""
    linux = spec.get("linux", {})
    todo: list[Op] = []
    wanted: set[str] = set()
    for index, device in enumerate(linux.get("devices", ())):
        where = f"linux.devices[{index}]"
        wanted.add(mounts.clean(device["path"]))
        todo.append(_device(device, mounter, where))
    if not _is_bound(spec):
        for name, major, minor in DEVICES:
            if "/dev/" + name not in wanted:
                one = {"type": "c", "path": "/dev/" + name, "major": major, "minor": minor, "fileMode": 0o666}
                todo.append(_device(one, mounter, "default devices"))
        todo += [op(ops.SYMLINK, path, to, origin="default devices") for path, to in _LINKS]
    if spec["process"].get("terminal"):
        todo.append(op(ops.MKFILE, "/dev/console", n=0o600, origin="process.terminal"))
        todo.append(op(ops.TTY, a=spec["process"].get("user", {}).get("uid", 0), origin="process.terminal"))
    return todo


def _is_bound(spec: dict[str, Any]) -> bool:
    for mount in spec.get("mounts", ()):
        if mounts.clean(mount["destination"]) == "/dev":
            return mount.get("type") == "bind" or bool({"bind", "rbind"}.intersection(mount.get("options", ())))
    return False


def _device(device: dict[str, Any], mounter: mounts.Mounter, where: str) -> Op:
    kind, path = _TYPES[device["type"]], mounts.clean(device["path"])
    number = os.makedev(device.get("major", 0), device.get("minor", 0)) if device["type"] != "p" else 0
    if mounter.users and device["type"] != "p":
        try:
            found = os.stat(path)
        except OSError as error:
            hint = "in a user namespace a device is the host's own, shown again"
            raise ConfigError("show device", path, errno=error.errno or 0, hint=hint, origin=where) from None
        if found.st_mode & 0o170000 != kind or found.st_rdev != number:
            raise ConfigError("show device", path, "the host has another device there", hint="name the host's path", origin=where)
        return mounter.bound_device(path, where)
    mode = kind | device.get("fileMode", 0o666) & 0o7777
    owner = device.get("uid", 0) | device.get("gid", 0) << 32
    return op(ops.OCI_DEVICE, path, n=mode, a=number, b=owner, origin=where)
