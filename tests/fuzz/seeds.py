"""Writes real plans, one of each shape, as the fuzzer's seeds: seeds.py DIRECTORY.

They are made anew each time, so they can never be of yesterday's wire format.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from pyrun.oci.planner import enter_plan, oci_plan
from pyrun.plan import ops
from pyrun.plan.config import Config, IdMap, Mount
from pyrun.plan.planner import run_plan

RETURN_ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # struct sock_filter: BPF_RET, SECCOMP_RET_ALLOW


def config(layers: int = 1) -> Config:
    made = Config("01234567-89ab-4cde-8f01-23456789abcd", ["/bin/true"], [f"/layers/{n}" for n in range(layers)], stage="/s", pod_dir="/p")
    made.env = ["PATH=/bin:/usr/bin", "EMPTY="]
    made.seccomp = RETURN_ALLOW
    return made


def plans() -> dict[str, Config]:
    """Configurations that together make the planner use every operation."""
    found = {
        name: config()
        for name in ("plain", "readonly", "copy", "copy-readonly", "host-network", "terminal", "user", "volumes", "keep", "bare")
    }
    found["layers"] = config(200)
    found["readonly"].readonly = True
    found["copy"].copy_root = found["copy-readonly"].copy_root = "/copy"
    found["copy-readonly"].readonly = True
    found["host-network"].network = "host"
    found["terminal"].tty = found["terminal"].interactive = True
    user = found["user"]
    user.idmap = IdMap([(0, 100000, 65536)], [(0, 100000, 65536)])
    user.inner = user.no_setgroups = True
    user.uid, user.gid, user.groups = 1000, 1000, (5, 6, 7)
    user.time_offsets = "monotonic 86400 0\n"
    volumes = found["volumes"]
    volumes.mounts = [
        Mount("host", "/data", source="/srv", readonly=True),
        Mount("host", "/etc/a file", source="/etc/passwd", is_dir=False, recursive=False),
        Mount("empty", "/scratch", name="scratch", uid=7, gid=8, mode=0o700),
        Mount("tmpfs", "/memory", size=1 << 20),
    ]
    volumes.hosts, volumes.resolv = "127.0.0.1 localhost\n", "nameserver 127.0.0.1\n"
    keep = found["keep"]
    keep.remove, keep.upper, keep.oom_score_adj = False, "tmpfs", 500
    keep.rlimits = [(7, 1024, 4096, "--rlimit nofile=1024:4096")]
    keep.limits = [("memory.max", "67108864", "--memory"), ("cpu.max", "50000 100000", "--cpus")]
    bare = found["bare"]
    bare.seccomp, bare.no_new_privs, bare.mask_paths, bare.cwd = b"", False, False, "/a/b"
    return found


MAPS = [{"containerID": 0, "hostID": 100000, "size": 10}]
SPACE = [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network", "time", "cgroup")]
HOOK = {"path": "/bin/hook", "args": ["hook"], "env": ["A=b"], "timeout": 5}
PROCESS = {
    "args": ["sh", "-c", "true"],
    "cwd": "/work",
    "env": ["PATH=/bin"],
    "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
    "scheduler": {"policy": "SCHED_BATCH"},
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
    "execCPUAffinity": {"initial": "0-3", "final": "1"},
    "rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 2}],
    "oomScoreAdj": 5,
}
LINUX = {
    "namespaces": SPACE,
    "timeOffsets": {"boottime": {"secs": 5}},
    "devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 3, "uid": 5}],
    "sysctl": {"net.ipv4.ip_forward": "1"},
    "maskedPaths": ["/a"],
    "readonlyPaths": ["/b"],
    "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
    "personality": {"domain": "LINUX32"},
    "rootfsPropagation": "rshared",
    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]},
}
OPTIONS = ["ro", "rnosuid", "lazytime", "shared", "size=1m", "tmpcopyup"]
MOUNTS = [
    {"destination": "/proc", "type": "proc"},
    {"destination": "/t", "type": "tmpfs", "options": OPTIONS},
    {"destination": "/b", "source": "/srv", "options": ["rbind", "ridmap"], "uidMappings": MAPS, "gidMappings": MAPS},
    {"destination": "/t", "options": ["remount", "ro"]},
]
SPEC = {
    "root": {"path": "/root", "readonly": True},
    "process": PROCESS,
    "hostname": "h",
    "domainname": "d",
    "mounts": MOUNTS,
    "linux": LINUX,
    "hooks": {"createContainer": [HOOK], "startContainer": [HOOK]},
}


def bundles() -> dict[str, ops.Plan]:
    """Plans of OCI configurations that together have every operation of theirs."""
    joined = [{"type": "mount"}, {"type": "user"}, {"type": "network", "path": "/proc/self/ns/net"}]
    users = {**LINUX, "namespaces": joined, "uidMappings": MAPS, "gidMappings": MAPS}
    users |= {"seccomp": {}, "timeOffsets": {}, "devices": [], "sysctl": {}}
    return {
        "oci": oci_plan(SPEC, "/bundle", seccomp=RETURN_ALLOW, state=('{"pid":', "}")),
        "oci-users": oci_plan({**SPEC, "linux": users}, "/bundle"),
        "oci-enter": enter_plan(SPEC, {**PROCESS, "terminal": True}),
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, plan in bundles().items():
        (folder / name).write_bytes(ops.encode(plan))
    for name, one in plans().items():
        plan = run_plan(one)
        plan.explain = ["/usr/bin/python3", "-m", "explain"]
        (folder / name).write_bytes(ops.encode(plan))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
