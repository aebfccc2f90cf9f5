"""The file systems, nodes and paths that every Linux pod has: tables, and nothing but tables.

Paths to hide and to protect are the union of what the other runtimes do (OCI runtime-spec
config-linux, masked and readonly paths) with rkt's; the devices are those of appc's OS-SPEC.
"""

from __future__ import annotations

from pyrun.plan.ops import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

# (type, target, mount(2) flags, options)
KERNEL_MOUNTS = (
    ("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("tmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k,nr_inodes=128"),
)
# Shows the network of whoever mounts it, hence after that has been entered.
SYS_MOUNTS = (
    ("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, ""),
    ("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, ""),
)
DEV_MOUNTS = (
    ("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"),
    ("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m"),
    ("mqueue", "/dev/mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
)

NOTIFY = "/dev/pyrun/notify"  # the app's NOTIFY_SOCKET, sd_notify(3)

# (name, major, minor) of character devices, all 0666
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)

DEV_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
)

PROC_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
)
SYS_MASKED = (
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/hypervisor",
    "/sys/module",
    "/sys/power",
)
# Mount points for other file systems: those of the host are not mounted in a pod's own sysfs, so nothing has to hide them.
SYS_EMPTY = (
    "/sys/fs/bpf",
    "/sys/fs/selinux",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
)
MASKED = PROC_MASKED + SYS_MASKED + SYS_EMPTY

READONLY = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

# A volume there would hide what the runtime and the app rely on, or unhide what is masked.
RESERVED = ("/", "/dev", "/proc", "/sys")
