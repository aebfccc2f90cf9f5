"""A pod of somebody who is not root: in a user namespace (user_namespaces(7)).

The library makes one for each pod that ends with its program, in which its root is the caller: one user and one group can be mapped
without help, so those are all that there are inside.  The command line has become root of one before it begins (pyrun.cli.user), and
so has what makes the library's pods in the background (pyrun.pod.inside), with all the ids that the caller may use, and pods are in
that.  What needs more is refused here, before anything is made.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
from pyrun.host import read_small
from pyrun.native.users import mapped_ids
from pyrun.plan.config import IdMap
from pyrun.plan.devices_bpf import POD_DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.host import Host
    from pyrun.plan.config import Config

    Ids = list[tuple[int, int, int]]

__all__ = ["lower"]

_HINT = "give yourself more in /etc/subuid and /etc/subgid, with newuidmap (Debian: uidmap), and use the command line; or run it as root"


def lower(config: Config, host: Host) -> None:
    """Have `config` run in a user namespace; ConfigError for what it cannot have there."""
    config.inner = True
    _check_devices(config)
    config.device_rules = []  # nobody can make nodes here, and those that are bound open as their owner and mode say
    if host.inner:
        uids, gids = mapped_ids("uid"), mapped_ids("gid")
        config.no_setgroups = read_small("/proc/self/setgroups").strip() == b"deny"
    else:
        uids, gids = [(0, host.uid, 1)], [(0, host.gid, 1)]
        config.idmap = IdMap(uids, gids)
        config.no_setgroups = True
    _check_ids(config, uids, gids)
    if config.limits and not host.inner:
        reason = "without root it takes a cgroup of the caller's own"
        hint = "in a unit with Delegate=yes, and call pyrun.allow_limits() first"
        if not host.cgroup:
            raise ConfigError("limit the pod", config.limits[0][0], reason, hint=hint, origin=config.limits[0][2])


def _check_devices(config: Config) -> None:
    usual = {rule[:3] for rule in POD_DEFAULT}
    for rule in config.device_rules:
        if rule[:3] not in usual and not {"r", "w"}.issubset(rule[3]):
            what = f"{rule[0]} {rule[1]}:{rule[2]}"
            reason = "which access a device has cannot be decided without root"
            hint = "leave out :r, :w or :ro, or run it as root"
            raise ConfigError("limit the access to device", what, reason, hint=hint, origin="--device")


def _check_ids(config: Config, uids: Ids, gids: Ids) -> None:
    if not _has(uids, config.uid) or not _has(gids, config.gid):
        raise ConfigError("run as", f"{config.uid}:{config.gid}", _reason(uids, gids), hint=_HINT, origin=config.origin("user"))
    if config.groups and (config.no_setgroups or not all(_has(gids, gid) for gid in config.groups)):
        reason = "without root there are none" if config.no_setgroups else _reason(uids, gids)
        raise ConfigError("use supplementary groups", str(list(config.groups)), reason, hint=_HINT)
    for mount in config.mounts:
        if not _has(uids, mount.uid) or not _has(gids, mount.gid):
            raise ConfigError("give volume to", f"{mount.uid}:{mount.gid}", _reason(uids, gids), hint=_HINT, origin=mount.origin)


def _has(ids: Ids, number: int) -> bool:
    return any(first <= number < first + count for first, _, count in ids)


def _reason(uids: Ids, gids: Ids) -> str:
    if _has(uids, 1) and _has(gids, 1):
        return f"the highest ids here are {uids[-1][0] + uids[-1][2] - 1} and {gids[-1][0] + gids[-1][2] - 1}"
    return "without root there is one user inside, root, which stands for the caller"
