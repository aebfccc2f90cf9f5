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
_DEFAULT = "default devices"
_TREE = 16  # OCI_DEVICE_TREE of native/oci_plan.h
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
                todo.append(_device(one, mounter, _DEFAULT))
        todo += [op(ops.SYMLINK, path, to, origin=_DEFAULT) for path, to in _LINKS]
    if spec["process"].get("terminal"):
        todo.append(op(ops.MKFILE, "/dev/console", n=0o600, origin="process.terminal"))
        todo.append(op(ops.TTY, a=spec["process"].get("user", {}).get("uid", 0), origin="process.terminal"))
    return todo


def _is_bound(spec: dict[str, Any]) -> bool:
    for mount in spec.get("mounts", ()):
        if mounts.clean(mount["destination"]) == "/dev":
            return mount.get("type") == "bind" or bool({"bind", "rbind"}.intersection(mount.get("options", ())))
    return False


def _unlike(device: dict[str, Any], path: str, kind: int, number: int, maps: tuple[str, str]) -> str:
    """Why the host's own node cannot be shown again, "" if it can; without `maps` mode and owner are what they are."""
    try:
        found = os.stat(path)
    except OSError as error:
        return os.strerror(error.errno or 0).lower()
    if found.st_mode & 0o170000 != kind or found.st_rdev != number:
        return "the host has another device there"
    if not maps[0]:
        return ""
    from pyrun.oci.idmaps import inside

    owner = inside(found.st_uid, maps[0]), inside(found.st_gid, maps[1])
    if (device.get("uid", owner[0]), device.get("gid", owner[1])) != owner:
        return "the host's belongs to another user"
    mode = found.st_mode & 0o7777
    return "" if device.get("fileMode", mode) & 0o7777 == mode else "the host's has another mode"


def _on_host(device: dict[str, Any], name: str, maps: str, where: str) -> int:
    from pyrun.oci.idmaps import outside

    number = outside(device.get(name, 0), maps)
    if number < 0:
        reason = "not an id of the container's user namespace"
        raise ConfigError("make device", f"{name} {device[name]}", reason, hint="map it, or name another one", origin=f"{where}.{name}")
    return number


def _device(device: dict[str, Any], mounter: mounts.Mounter, where: str) -> Op:
    kind, path = _TYPES[device["type"]], mounts.clean(device["path"])
    number = os.makedev(device.get("major", 0), device.get("minor", 0)) if device["type"] != "p" else 0
    if mounter.users and device["type"] != "p":
        makes = mounter.early and all(mounter.maps) and where != _DEFAULT
        wrong = _unlike(device, path, kind, number, mounter.maps if makes else ("", ""))
        if not wrong:
            return mounter.bound_device(path, where)
        if not makes:
            hint = "in the user namespace of a user, or one that is joined, a device is the host's own, shown again"
            raise ConfigError("show device", path, wrong, hint=hint, origin=where)
        owner = _on_host(device, "uid", mounter.maps[0], where) | _on_host(device, "gid", mounter.maps[1], where) << 32
        mode = kind | device.get("fileMode", 0o666) & 0o7777
        return op(ops.OCI_DEVICE, path, n=mode | mounter.tree(where) << _TREE, a=number, b=owner, origin=where)
    mode = kind | device.get("fileMode", 0o666) & 0o7777
    owner = device.get("uid", 0) | device.get("gid", 0) << 32
    return op(ops.OCI_DEVICE, path, n=mode, a=number, b=owner, origin=where)
