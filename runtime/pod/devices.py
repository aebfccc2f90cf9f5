"""Devices beside the usual ones: nodes of the host that flags name, and which devices the pod may then use at all.

A pod without any has no program: what it could open is what its /dev holds, see docs/design/devices.md.  With one the kernel
asks a program (`pyrun.plan.devices_bpf`), and nothing but the listed devices opens, whatever nodes there are.
"""

from __future__ import annotations

import os
import stat

from pyrun.errors import UsageError
from pyrun.plan.config import Device
from pyrun.plan.devices_bpf import POD_DEFAULT
from pyrun.plan.mounts import DEV_LINKS, DEV_MOUNTS, DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyrun.plan.config import Config, Mount
    from pyrun.plan.devices_bpf import Rule

__all__ = ["add_devices", "read_device", "rule_of"]

_MOST = 100  # /dev of a pod has room for 128 names
_STEP = "use device"


def add_devices(config: Config, words: Iterable[str]) -> None:
    """Give the pod the devices of --device and of volumes that are device nodes; UsageError for what is not one."""
    rules: list[Rule] = []
    for word in words:
        for device, access in read_device(word):
            if any(device.path == other.path for other in config.devices):
                raise UsageError(_STEP, device.path, "is given twice", hint="name each path once", origin=device.origin)
            config.devices.append(device)
            rules.append(rule_of(device.mode, device.number, access))
    if len(config.devices) > _MOST:
        raise UsageError(_STEP, "", f"{len(config.devices)} are too many", hint=f"a pod has up to {_MOST}", origin="--device")
    rules += [rule for mount in config.mounts if mount.kind == "host" for rule in _of_volume(mount)]
    if rules:
        config.device_rules = [*POD_DEFAULT, *rules]


def rule_of(mode: int, number: int, access: str) -> Rule:
    """Return the rule that lets a pod use a node; making it is allowed too, process 1 of the pod does so."""
    return "b" if stat.S_ISBLK(mode) else "c", os.major(number), os.minor(number), access.replace("m", "") + "m", True


def _of_volume(mount: Mount) -> Iterator[Rule]:
    info = os.stat(mount.source)
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        mount.device = True
        yield rule_of(info.st_mode, info.st_rdev, "r" if mount.readonly else "rw")


def read_device(word: str, origin: str = "--device") -> Iterator[tuple[Device, str]]:
    """Return the node, or those below the directory, of HOSTPATH[:PATH[:ACCESS]] and the access; UsageError when there is none."""
    source, *more = word.split(":")
    path, access = source, "rwm"
    if len(more) == 1 and more[0] and frozenset("rwm").issuperset(more[0]):
        access = more[0]
    elif more:
        path, access = more[0], more[1] if len(more) > 1 else access
    if len(more) > 2 or not access or not frozenset("rwm").issuperset(access) or len(set(access)) != len(access):
        hint = "write HOSTPATH, HOSTPATH:PATH or HOSTPATH:PATH:ACCESS, ACCESS being some of r, w and m"
        raise UsageError(_STEP, word, "not HOSTPATH[:PATH[:rwm]]", hint=hint, origin=origin)
    if not source.startswith("/"):
        raise UsageError(_STEP, source, "not an absolute path", hint=f"did you mean /dev/{source}?", origin=origin)
    info = _look(source, origin)
    found = [(source, path, info)]
    if stat.S_ISDIR(info.st_mode):
        found = list(_below(source, path))
        if not found:
            raise UsageError(_STEP, source, "has no device nodes in it", hint="name a device node or a directory of some", origin=origin)
    for host, inside, one in found:
        yield Device(_inside(inside, origin), host, one.st_mode, one.st_rdev, one.st_uid, one.st_gid, origin), access


def _look(source: str, origin: str) -> os.stat_result:
    try:
        info = os.stat(source)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise UsageError(
            _STEP, source, reason, errno=error.errno or 0, hint="see `ls /dev`: is its driver loaded?", origin=origin
        ) from None
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        raise UsageError(_STEP, source, "is not a device", hint="files and directories are volumes: -v SRC:DST", origin=origin)
    return info


def _below(source: str, path: str) -> Iterator[tuple[str, str, os.stat_result]]:
    """The nodes of a directory as /dev/snd, symbolic links apart."""
    for top, names, files in os.walk(source):
        names.sort()
        for name in sorted(files):
            info = os.lstat(f"{top}/{name}")
            if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                yield f"{top}/{name}", path + top[len(source) :] + "/" + name, info


def _inside(path: str, origin: str) -> str:
    """Nodes open below /dev only: all else of a pod is mounted nodev."""
    hint = "choose another path below /dev"
    if not path.startswith("/dev/") or any(part in ("", ".", "..") for part in path.split("/")[1:]) or not path.isprintable():
        raise UsageError(_STEP, path, "its path in the pod is not one below /dev", hint="write HOSTPATH:/dev/NAME", origin=origin)
    own = {"/dev/console", "/dev/pyrun", *("/dev/" + name for name, _, _ in DEVICES), *(name for name, _ in DEV_LINKS)}
    own |= {target for _, target, _, _ in DEV_MOUNTS}
    if any(path == name or path.startswith(name + "/") for name in own):
        raise UsageError(_STEP, path, "the runtime's own place", hint=hint, origin=origin)
    return path
