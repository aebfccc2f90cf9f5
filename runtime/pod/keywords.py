"""The library's keywords and their types, for type checkers and readers alone: nothing imports this module at run time.

Each is the attribute of that name of `pyrun.pod.options.Options`, and the long flag of that name of `pyrun run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from pyrun.pod.binds import Volume

__all__ = ["Keywords"]

OnFailure = Literal["none", "kill", "restart", "stop"]


class Keywords(TypedDict, total=False):
    """What a caller may ask of a container; docs/usage.md and docs/limits.md say what each means.

    Sizes are bytes or text with a unit ("64Mi"); `cpus` is a number of processors; times are text with a unit ("30s").
    """

    caps_remove: Sequence[str] | None
    caps_retain: Sequence[str] | None
    cgroup_manager: Literal["auto", "cgroupfs", "systemd"] | None
    cgroup_set: Sequence[str]
    config: Sequence[str]
    cpu_burst: str | None
    cpu_idle: bool
    cpu_weight: str | int | None
    cpus: str | float | None
    cpuset_cpus: str | None
    cpuset_mems: str | None
    device: Sequence[str]
    dns: Sequence[str]
    dns_domain: str | None
    dns_opt: Sequence[str]
    dns_search: Sequence[str]
    exec: str | None
    exit_policy: Literal["first-failure", "last-exit", "main-app"]
    group: str | None
    handler_timeout: float | None
    health_cmd: str | None
    health_interval: str | None
    health_on_failure: OnFailure | None
    health_retries: int | None
    health_start_period: str | None
    health_timeout: str | None
    hostname: str | None
    hosts_entry: Sequence[str]
    hugetlb: Sequence[str]
    inherit_env: bool
    insecure_options: Sequence[str]
    io_latency: Sequence[str]
    io_max: Sequence[str]
    io_weight: str | int | None
    keep: bool
    log_driver: Literal["auto", "file", "journald", "none"]
    log_opt: Mapping[str, str]
    mds: bool
    memory: str | int | None
    memory_high: str | int | None
    memory_low: str | int | None
    memory_min: str | int | None
    misc: Sequence[str]
    mount: Sequence[object]
    name: str | None
    net: str | Sequence[str]
    net_ahead: bool
    net_bandwidth: str | None
    net_isolate: bool
    no_handlers: bool
    no_healthcheck: bool
    no_overlay: bool
    notify: Literal["exec", "app", "none"]
    oom_group: bool
    oom_score_adj: int | None
    pid: Literal["app", "pod"]
    pids_limit: str | int | None
    pod_limit: Sequence[str]
    pod_name: str | None
    port: Sequence[str]
    rdma: Sequence[str]
    readonly_rootfs: bool
    restart: str
    rlimit: Sequence[str]
    seccomp: str | None
    security_opt: Sequence[str]
    set_env: Mapping[str, str]
    slice: str | None
    supplementary_gids: Sequence[int]
    swap: str | int | None
    sysctl: Sequence[str]
    take_name: bool
    umask: int | None
    upper: Literal["disk", "tmpfs"]
    user: str | None
    volume: Sequence[str | Volume]
    working_dir: str | None
