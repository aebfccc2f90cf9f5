"""Options that limit a pod, for `pyrun.cli.options`; the same kind of table, and nothing but constants either.

`LimitArgs` are the attributes of `Args` that they bring along.  What they mean is `pyrun.pod.limits`' to say.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option

    Text: TypeAlias = str | None
    Words: TypeAlias = list[str]


class LimitArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    memory: Text
    memory_high: Text
    memory_low: Text
    memory_min: Text
    swap: Text
    oom_group: bool
    cpus: Text
    cpu_weight: Text
    cpu_idle: bool
    cpu_burst: Text
    cpuset_cpus: Text
    cpuset_mems: Text
    pids_limit: Text
    io_weight: Text
    io_max: Words
    io_latency: Words
    hugetlb: Words
    rdma: Words
    misc: Words
    cgroup_set: Words
    device: Words
    pod_limit: Words
    cgroup_manager: str
    slice: Text
    device_deny: Words


LIMITS: tuple[Option, ...] = (
    (
        "--memory -m",
        "SIZE",
        "str",
        "",
        "app Limits",
        "no more memory than SIZE, as in 64Mi or 1.5G; beyond it the kernel kills (memory.max)",
    ),
    ("--memory-high", "SIZE", "str", "", "app Limits", "slow the pod down above SIZE (memory.high)"),
    ("--memory-low", "SIZE", "str", "", "app Limits", "leave the pod SIZE as long as others have something to give (memory.low)"),
    ("--memory-min", "SIZE", "str", "", "app Limits", "leave the pod SIZE whatever happens (memory.min)"),
    ("--swap", "SIZE", "str", "", "app Limits", "no more swap space than SIZE, beside the memory; 0 for none (memory.swap.max)"),
    ("--oom-group", "", "flag", "", "app Limits", "when memory runs out kill the whole pod, not one process of it (memory.oom.group)"),
    ("--cpus", "N", "str", "", "app Limits", "no more time than N processors have, as in 0.5, 500m or 2 (cpu.max)"),
    ("--cpu-weight", "N", "str", "", "app Limits", "share of the processors beside others', 1 to 10000, 100 being usual (cpu.weight)"),
    ("--cpu-idle", "", "flag", "", "app Limits", "run only when nobody else wants to (cpu.idle)"),
    (
        "--cpu-burst",
        "TIME",
        "str",
        "",
        "app Limits",
        "save up to TIME of what --cpus gives, as in 20ms, and use it at once (cpu.max.burst)",
    ),
    ("--cpuset-cpus", "LIST", "str", "", "app Limits", "run on these processors only, as in 0-2,5 (cpuset.cpus)"),
    ("--cpuset-mems", "LIST", "str", "", "app Limits", "use memory of these nodes only (cpuset.mems)"),
    ("--pids-limit", "N", "str", "", "app Limits", "no more processes and threads than N, the pod's process 1 being one (pids.max)"),
    ("--io-weight", "N", "str", "", "app Limits", "share of the disks beside others', 1 to 10000, 100 being usual (io.weight)"),
    (
        "--io-max",
        "PATH:RATE=N,...",
        "list",
        "",
        "app Limits",
        "limit a disk, named by itself or by a path on it: rbps, wbps (bytes), riops, wiops a second, as in /dev/vda:wbps=10M (io.max)",
    ),
    ("--io-latency", "PATH:TIME", "list", "", "app Limits", "aim at answers of a disk within TIME, as in /dev/vda:20ms (io.latency)"),
    ("--hugetlb", "PAGE=SIZE", "list", "", "app Limits", "no more memory in huge pages of one size, as in 2MB=64Mi (hugetlb.2MB.max)"),
    ("--rdma", "DEVICE:KEY=N,...", "list", "", "app Limits", "limit hca_handle and hca_object of an RDMA device (rdma.max)"),
    ("--misc", "NAME=N", "list", "", "app Limits", "no more than N of a resource that misc.capacity names (misc.max)"),
    ("--cgroup-set", "FILE=VALUE", "list", "", "app Limits", "write VALUE to any other file of the pod's cgroup, as in hugetlb.2MB.max=0"),
)

DEVICE: Option = (
    "--device",
    "HOSTPATH[:PATH[:rwm]]",
    "list",
    "",
    "app Security",
    "let the app use a device of the host, or those of a directory, as in /dev/fuse or /dev/snd; what is not named stays closed",
)
DEVICE_DENY: Option = ("--device-deny", "HOSTPATH", "list", "", "Security", "close a device again that was given to the pod")
POD_LIMIT: Option = (
    "--pod-limit",
    "NAME=VALUE",
    "list",
    "",
    "Limits",
    "limit all apps of a pod together, beside what each has: NAME is that of a limit's flag, as in memory=1Gi or pids-limit=200",
)
CGROUP_MANAGER: Option = (
    "--cgroup-manager",
    "WHO",
    "str",
    "auto cgroupfs systemd",
    "Limits",
    "who makes the pod's cgroup: pyrun, below its own (cgroupfs), systemd, a scope with the limits as properties, or who has to (auto)",
)
SLICE: Option = ("--slice", "NAME", "str", "", "Limits", "have systemd make the pod's cgroup, a scope in the slice NAME, as in batch.slice")
