"""spec: a config.json to start from.  Cold."""

from __future__ import annotations

import json
import os

from pyrun.errors import StateError
from pyrun.plan import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments

__all__ = ["write"]

_BASIC = ["nosuid", "noexec", "nodev"]
_MOUNTS: tuple[tuple[str, str, str, list[str]], ...] = (
    ("/proc", "proc", "proc", []),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/shm", "tmpfs", "shm", [*_BASIC, "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", _BASIC),
    ("/sys", "sysfs", "sysfs", [*_BASIC, "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", [*_BASIC, "relatime", "ro"]),
)


def write(args: Arguments) -> int:
    """Write config.json into the bundle; StateError when there is one."""
    path = args.get("config") or os.path.join(args.get("bundle", "."), "config.json")
    text = json.dumps(_template("rootless" in args.options), indent="\t") + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StateError("write", path, errno=error.errno or 0, hint="remove the old one, or choose another --bundle") from None
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


def _template(rootless: bool) -> dict[str, Any]:
    held = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]  # those of crun and runc, whose users' scripts add what they need
    namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    found: dict[str, Any] = {
        "ociVersion": "1.3.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": held, "effective": held, "permitted": held},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pyrun",
        "mounts": [
            {"destination": target, "type": kind, "source": source, **({"options": options} if options else {})}
            for target, kind, source, options in _MOUNTS
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": [*mounts.PROC_MASKED, "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": list(mounts.READONLY),
        },
    }
    if rootless:
        _without_root(found)
    return found


def _without_root(found: dict[str, Any]) -> None:
    """A user maps itself to root and shares the network of its session; what only root may set is left out."""
    linux = found["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in ("network", "cgroup")] + [{"type": "user"}]
    linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    del linux["resources"]
    kept = [mount for mount in found["mounts"] if mount["destination"] not in ("/sys", "/sys/fs/cgroup")]
    for mount in kept:
        if mount["destination"] == "/dev/pts":
            mount["options"].remove("gid=5")
    sys = {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", *_BASIC, "ro"]}
    found["mounts"] = [*kept, sys]
