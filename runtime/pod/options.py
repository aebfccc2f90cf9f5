"""What a caller may ask of a pod; the command line's `Args` has the same attributes, and so do the library's keywords."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any, Protocol

    from pyrun.plan.config import Metadata

    class Volume(Protocol):
        """One volume as written by a flag; `name` and `target` exclude each other."""

        gid: int | None
        kind: str
        mode: int | None
        name: str | None
        origin: str
        read_only: bool
        recursive: bool | None
        size: int | None
        source: str | None
        target: str | None
        uid: int | None

    class Placement(Protocol):
        """Where the app sees a named volume."""

        origin: str
        read_only: bool
        target: str
        volume: str


LIMITS = (
    *("memory", "memory_high", "memory_low", "memory_min", "swap", "oom_group", "cpus", "cpu_weight", "cpu_idle", "cpu_burst"),
    *("cpuset_cpus", "cpuset_mems", "pids_limit", "io_weight", "io_max", "io_latency", "hugetlb", "rdma", "misc", "cgroup_set"),
)
# What only whoever keeps a pod, beside the supervisor, can do: no meaning for an app that ends with the caller.
_BACKGROUND = frozenset(
    (
        *("cgroup_manager", "slice", "log_driver", "log_opt", "net_ahead", "pod_name", "restart", "take_name"),
        *("health_cmd", "health_interval", "health_on_failure", "health_retries", "health_start_period", "health_timeout"),
    )
)


def check_foreground(keywords: Collection[str]) -> None:
    """UsageError for a keyword that means nothing for an app that ends with its caller."""
    if not _BACKGROUND.isdisjoint(keywords):
        from pyrun.errors import UsageError

        hint = "use detach or prepare, or leave it out"
        raise UsageError("start container", min(_BACKGROUND.intersection(keywords)), "is for a pod in the background", hint=hint)


class Options:
    """Everything about one app and its pod, each with the value that means "not asked for"."""

    health_cmd: str | None
    health_interval: str | None
    health_timeout: str | None
    health_retries: int | None
    health_start_period: str | None
    health_on_failure: str | None
    no_healthcheck: bool
    handler_timeout: float | None  # seconds, taken to whole ones
    # no options, but of the pod as well: what its other apps have, of several, and what of a pod manifest has no option
    offer: Metadata | None = None
    described: Mapping[str, Any] = {}

    def __init__(self, root: str) -> None:
        self.root = root
        self.argv: list[str] = []
        self.name: str | None = None
        self.exec: str | None = None
        self.set_env: dict[str, str] = {}
        self.inherit_env = False
        self.user: str | None = None
        self.group: str | None = None
        self.supplementary_gids: list[int] = []
        self.working_dir: str | None = None
        self.umask: int | None = None
        self.rlimit: list[str] = []
        self.oom_score_adj: int | None = None
        # sizes and numbers of these are text, or numbers of bytes, processors and so on
        self.memory: str | int | None = None
        self.memory_high: str | int | None = None
        self.memory_low: str | int | None = None
        self.memory_min: str | int | None = None
        self.swap: str | int | None = None
        self.oom_group = False
        self.cpus: str | float | None = None
        self.cpu_weight: str | int | None = None
        self.cpu_idle = False
        self.cpu_burst: str | None = None
        self.cpuset_cpus: str | None = None
        self.cpuset_mems: str | None = None
        self.pids_limit: str | int | None = None
        self.io_weight: str | int | None = None
        self.io_max: list[str] = []
        self.io_latency: list[str] = []
        self.hugetlb: list[str] = []
        self.rdma: list[str] = []
        self.misc: list[str] = []
        self.cgroup_set: list[str] = []
        self.device: list[str] = []
        self.pod_limit: list[str] = []
        self.cgroup_manager: str | None = None
        self.slice: str | None = None
        self._set_rest()

    def _set_rest(self) -> None:
        """The other half: files, the pod, security."""
        self.interactive = self.tty = False
        self.volume: list[Volume] = []
        self.mount: list[Placement] = []
        self.readonly_rootfs = self.no_overlay = False
        self.upper = "disk"
        self.hostname: str | None = None
        self._network()
        self.keep = self.no_handlers = self.mds = False
        self.config: list[str] = []
        self.notify = "exec"
        self.pid, self.exit_policy = "app", "first-failure"
        self.health_cmd = self.health_interval = self.health_timeout = self.health_start_period = self.health_on_failure = None
        self.health_retries = self.handler_timeout = None
        self.no_healthcheck, self.restart, self.log_driver = False, "no", "auto"
        self.log_opt: dict[str, str] = {}
        self.pod_name: str | None = None
        self.take_name = False
        self.caps_retain: list[str] | None = None
        self.caps_remove: list[str] | None = None
        self.seccomp: str | None = None
        self.security_opt: list[str] = []
        self.sysctl: list[str] = []
        self.insecure_options: list[str] = []

    def _network(self) -> None:
        self.net: Sequence[str] = []
        self.port: Sequence[str] = []
        self.net_ahead = False  # of a prepared pod alone: others have theirs made at once
        self.net_isolate = False
        self.net_bandwidth: str | None = None
        self.dns: list[str] = []
        self.dns_search: list[str] = []
        self.dns_opt: list[str] = []
        self.dns_domain: str | None = None
        self.hosts_entry: list[str] = []

    @property
    def network(self) -> str:
        """Which network: none, host, or own where something has to be made."""
        nets = [self.net] if isinstance(self.net, str) else list(self.net)
        if not nets and not self.port:
            return "none"
        if nets in (["host"], ["none"]) and not self.port:
            return nets[0]
        from pyrun.net.want import kind_of

        return kind_of(nets, self.port)

    @property
    def names_given(self) -> bool:
        """Whether flags say how names are looked up."""
        return bool(self.dns or self.dns_search or self.dns_opt or self.dns_domain or self.hosts_entry)

    @property
    def limited(self) -> bool:
        """Whether the pod's cgroup is to have limits."""
        return any(value is not None and value is not False and value != [] for value in (getattr(self, name) for name in LIMITS))
