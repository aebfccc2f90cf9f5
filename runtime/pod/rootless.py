"""A pod of somebody who is not root: in a user namespace in which its root is that user (user_namespaces(7)).

One user and one group can be mapped without help, so those are all that there are inside.  What needs more is refused here, before
anything is made.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
from pyrun.plan.config import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.host import Host
    from pyrun.plan.config import Config

__all__ = ["lower"]

_HINT = "run it as root"


def lower(config: Config, host: Host) -> None:
    """Have `config` run in a user namespace of the caller's own; ConfigError for what that cannot have."""
    config.idmap = IdMap([(0, host.uid, 1)], [(0, host.gid, 1)], setgroups=False)
    if (config.uid, config.gid) != (0, 0):
        reason = "without root there is one user inside, root, which stands for the caller"
        raise ConfigError("run as", f"{config.uid}:{config.gid}", reason, hint=_HINT, origin=config.origin("user"))
    if config.groups:
        raise ConfigError("use supplementary groups", str(list(config.groups)), "without root there are none", hint=_HINT)
    if config.network != "none":
        raise ConfigError("use network", config.network, "without root there is none but lo", hint=_HINT, origin="--net")
    if config.limits:
        reason = "without root it takes a cgroup of the caller's own"
        hint = "in a unit with Delegate=yes, and call pyrun.allow_limits() first"
        if not host.cgroup:
            raise ConfigError("limit the pod", config.limits[0][0], reason, hint=hint, origin=config.limits[0][2])
    for mount in config.mounts:
        if mount.uid or mount.gid:
            raise ConfigError("give volume to", f"{mount.uid}:{mount.gid}", "there is no such user inside", hint=_HINT, origin=mount.origin)
