"""features: what this runtime can do on this host (runtime-spec features.md and features-linux.md).  Cold."""

from __future__ import annotations

import os
import sys

from pyrun.errors import PyrunError
from pyrun.host import read_small
from pyrun.oci import cgroups, hybrid, mounts, seccomp, spec
from pyrun.oci.arguments import program
from pyrun.plan import caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments

__all__ = ["features", "words"]

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
# kind: its name in /proc/self/ns
NAMESPACES = {
    "cgroup": "cgroup", "ipc": "ipc", "mount": "mnt", "network": "net", "pid": "pid", "time": "time", "user": "user", "uts": "uts",
}  # fmt: skip
ACTIONS = ("ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "KILL_THREAD", "LOG", "NOTIFY", "TRACE", "TRAP")
OPERATORS = ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
FILTER_FLAGS = ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")
MODES = ("BIND", "DEFAULT", "INTERLEAVE", "LOCAL", "PREFERRED", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE")
MODE_FLAGS = ("NUMA_BALANCING", "RELATIVE_NODES", "STATIC_NODES")


def features(args: Arguments) -> int:
    """Print what this runtime can do, as JSON."""
    import json

    found = _features(args)
    if program() == "crun":
        from pyrun.oci.ascrun import features_of

        features_of(found)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


def words(args: Arguments) -> str:
    """Return what this program makes use of where the host has it, as `crun --version` writes it, for who greps there."""
    return "+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF" + (" +CRIU" if _checkpoint(args) == "true" else "")


def _features(args: Arguments) -> dict[str, Any]:
    from pyrun import __version__

    return {
        "ociVersionMin": spec.VERSION_MIN,
        "ociVersionMax": spec.VERSION_MAX,
        "hooks": list(HOOKS),
        "mountOptions": sorted(mounts.OPTIONS),
        "linux": _linux(),
        "annotations": {
            "io.github.seccomp.libseccomp.version": _libseccomp(),
            "org.opencontainers.runc.checkpoint.enabled": _checkpoint(args),
            "pyrun.version": __version__,
        },
        "potentiallyUnsafeConfigAnnotations": ["org.criu.", "org.systemd.property.", "run.oci."],
    }


def _checkpoint(args: Arguments) -> str:
    """By runc's name and in its words, for clients that look there."""
    from pyrun.oci.criu import available

    try:
        available(args, "checkpoint")
    except PyrunError:
        return "false"
    return "true"


def _libseccomp() -> str:
    from pyrun.native._seccomp import lib

    version = lib.seccomp_version()
    return f"{version.major}.{version.minor}.{version.micro}"


def _linux() -> dict[str, Any]:
    highest = int(read_small("/proc/sys/kernel/cap_last_cap") or b"40")
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in FILTER_FLAGS]
    return {
        "namespaces": [kind for kind, file in NAMESPACES.items() if os.path.exists(f"/proc/self/ns/{file}")],
        "capabilities": list(caps.NAMES[: highest + 1]),
        "cgroup": {"v1": bool(cgroups.tree() and hybrid.hierarchies()), "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": {
            "enabled": os.path.exists("/proc/sys/kernel/seccomp/actions_avail"),
            "actions": [f"SCMP_ACT_{name}" for name in ACTIONS],
            "operators": [f"SCMP_CMP_{name}" for name in OPERATORS],
            "archs": sorted(seccomp.ARCHES),
            "knownFlags": flags,
            "supportedFlags": flags,
        },
        "apparmor": {"enabled": os.path.isdir("/sys/kernel/security/apparmor")},
        "selinux": {"enabled": os.path.exists("/sys/fs/selinux/enforce")},
        "intelRdt": {"enabled": False},
        "memoryPolicy": {"modes": [f"MPOL_{name}" for name in MODES], "flags": [f"MPOL_F_{name}" for name in MODE_FLAGS]},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }
