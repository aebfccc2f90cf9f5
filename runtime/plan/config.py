"""What a pod is to be: flags and manifest merged, looked up and checked; the planner's only input.

Every name is resolved (ids are numbers, paths are absolute), every default is filled in, and each
value that came from a flag or a manifest line has an origin for error messages.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pyrun.plan.devices_bpf import Rule

    MountKind = Literal["host", "empty", "tmpfs"]
    ShareKind = Literal["", "app", "pod"]
    UpperKind = Literal["disk", "tmpfs"]

__all__ = ["Config", "Device", "IdMap", "Metadata", "Mount"]


class Mount:
    """One volume on one path of the app.

    `kind` host binds `source`, empty makes a directory that lives as long as the pod, tmpfs keeps it
    in memory (`size` bytes, 0 for the kernel's default of half the memory).  `is_dir` tells what kind
    of mount point a host source needs; `copy_up` that an empty one is made beforehand, of what the image holds there.
    `device` that the source is a device node, which is to open; `volume` is the name by which all apps of a pod know it,
    "" for one of this app alone.
    """

    __slots__ = (
        "copy_up", "device", "gid", "is_dir", "kind", "mode", "name", "origin", "readonly", "recursive", "size", "source", "target", "uid",
        "volume",
    )  # fmt: skip

    def __init__(
        self,
        kind: MountKind,
        target: str,
        *,
        source: str = "",
        name: str = "",
        readonly: bool = False,
        recursive: bool = True,
        mode: int = 0o755,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        is_dir: bool = True,
        origin: str = "",
    ) -> None:
        self.kind: MountKind = kind
        self.target = target
        self.source = source
        self.name = name
        self.readonly = readonly
        self.recursive = recursive
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.is_dir = is_dir
        self.copy_up = self.device = False
        self.volume = ""
        self.origin = origin


class Device:
    """A device node: `path` inside, `source` on the host, st_mode with its type, `number` of makedev(3), owner; `origin` is for errors."""

    __slots__ = ("gid", "mode", "number", "origin", "path", "source", "uid")

    def __init__(self, path: str, source: str, mode: int, number: int, uid: int, gid: int, origin: str) -> None:
        self.path = path
        self.source = source
        self.mode = mode
        self.number = number
        self.uid = uid
        self.gid = gid
        self.origin = origin


class Metadata:
    """The metadata service for one pod: the unix `socket` of the service and the `command` that starts it;

    the IPv4 `address` in host byte order and the `port` that the pod asks, and the `token` that stands in its URL.
    """

    __slots__ = ("address", "command", "port", "socket", "token")

    def __init__(self, socket: str, command: list[str], address: int, port: int, token: str) -> None:
        self.socket = socket
        self.command = command
        self.address = address
        self.port = port
        self.token = token

    @property
    def url(self) -> str:
        """What apps know as AC_METADATA_URL."""
        return f"http://{'.'.join([str(self.address >> shift & 255) for shift in (24, 16, 8, 0)])}:{self.port}/{self.token}"


class IdMap:
    """Ranges of a user namespace: (inside, outside, count) each, as user_namespaces(7) writes them."""

    __slots__ = ("gids", "uids")

    def __init__(self, uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]) -> None:
        self.uids = uids
        self.gids = gids

    @staticmethod
    def text(ranges: list[tuple[int, int, int]]) -> str:
        """Return the ranges as /proc/PID/uid_map takes them."""
        return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in ranges)


class Config:
    """One app in one pod, ready to be planned.

    Attributes are plain values: `app` the app's name, `argv`, `paths` (what to try for argv[0], in order), `env` (NAME=VALUE),
    `variables` (the places in it of those whose value is the caller's and decides nothing),
    `cwd`, `umask`, `uid`, `gid`, `groups`; `bounding` and `permitted` capability masks; `seccomp` the BPF
    program or b""; `rlimits` (resource, soft, hard, origin); `limits` (file of the cgroup, content, origin),
    `limits_1` (directory of version 1, file, content, origin), `limits_pod` and `limits_pod_1` those of all apps together;
    `devices` nodes beside the usual ones and `device_rules` what may be opened, all rules, none where the list is closed anyway;
    `isolators` which of the image's are enforced, changed or ignored; `labels` of security modules (file of /proc/self/attr, content,
    origin); `sysctls` (path below /proc/sys, value, origin); `metadata` where its service is to be had, None without one;
    `handlers` of the app's start and end (name, argv, what to try for argv[0], seconds);
    `lowers` the layer directories, top first;
    `upper` where changes go; `stage` an empty host directory to mount on; `pod_dir` the pod's own
    directory, `app_dir` the app's, the same unless it is one of several; `share` of several apps: "" for the only one,
    else whether each has a pid namespace (app) or all have one together (pod); `group` the name of its cgroup;
    `remove` when it has ended; `again` it may be started more than once;
    `network` none, host or own, a namespace that comes with the start; `hosts_bound` its /etc/hosts is a file of the pod's,
    `hosts_keep` and `resolv_keep` that an image's own beats the one here; `bandwidth` {in, out} in bits per second;
    `notify` who tells the service manager that the pod is ready, exec, app or none; `idmap` of a user namespace or None for the caller's;
    `inner` that it is in a user namespace, its own or the caller's, where the kernel grants less, `no_setgroups` not even setgroups(2).
    """

    __slots__ = (
        "again",
        "app",
        "app_dir",
        "argv",
        "bandwidth",
        "bounding",
        "copy_root",
        "cwd",
        "device_rules",
        "devices",
        "env",
        "gid",
        "group",
        "groups",
        "handlers",
        "hostname",
        "hosts",
        "hosts_bound",
        "hosts_keep",
        "idmap",
        "inner",
        "interactive",
        "isolators",
        "labels",
        "limits",
        "limits_1",
        "limits_pod",
        "limits_pod_1",
        "lowers",
        "make_cwd",
        "mask_paths",
        "metadata",
        "mounts",
        "network",
        "no_new_privs",
        "no_setgroups",
        "notify",
        "oom_score_adj",
        "origins",
        "paths",
        "permitted",
        "pod_dir",
        "readonly",
        "remove",
        "resolv",
        "resolv_keep",
        "rlimits",
        "seccomp",
        "share",
        "stage",
        "sysctls",
        "time_offsets",
        "tty",
        "uid",
        "umask",
        "upper",
        "uuid",
        "variables",
    )

    def __init__(self, uuid: str, argv: list[str], lowers: list[str], *, stage: str, pod_dir: str) -> None:
        self.uuid = uuid
        self.app = ""
        self.argv = argv
        self.paths = [argv[0]]
        self.env: list[str] = []
        self.variables: dict[str, int] = {}
        self.cwd = "/"
        self.make_cwd = self.hosts_bound = False
        self.umask = 0o022
        self.uid = self.gid = 0
        self.groups: tuple[int, ...] = ()
        self.bounding = self.permitted = 0
        self.no_new_privs = True
        self.seccomp = b""
        self.rlimits: list[tuple[int, int, int, str]] = []
        self.limits: list[tuple[str, str, str]] = []
        self.limits_pod: list[tuple[str, str, str]] = []
        self.limits_1: list[tuple[str, str, str, str]] = []
        self.limits_pod_1: list[tuple[str, str, str, str]] = []
        self.devices: list[Device] = []
        self.device_rules: list[Rule] = []
        self.metadata: Metadata | None = None
        self.isolators: dict[str, object] = {}
        self.labels: list[tuple[str, str, str]] = []
        self.sysctls: list[tuple[str, str, str]] = []
        self.handlers: list[tuple[str, list[str], list[str], int]] = []
        self.oom_score_adj: int | None = None
        self.hostname = "pyrun-" + uuid
        self.hosts = self.resolv = ""
        self.lowers = lowers
        self.upper: UpperKind = "disk"
        self.copy_root = ""
        self.readonly = False
        self.stage = stage
        self.pod_dir = self.app_dir = pod_dir
        self.share: ShareKind = ""
        self.group = "pyrun-" + uuid
        self.remove = True
        self.again = False
        self.mounts: list[Mount] = []
        self.mask_paths = True
        self.network = "none"
        self.bandwidth: dict[str, int] = {}
        self.hosts_keep = self.resolv_keep = True
        self.notify = "exec"
        self.idmap: IdMap | None = None
        self.time_offsets = ""
        self.interactive = self.tty = self.inner = self.no_setgroups = False
        self.origins: dict[str, str] = {}

    def origin(self, what: str) -> str:
        """Return which flag or manifest line set `what`, or the empty string for a default."""
        return self.origins.get(what, "")
