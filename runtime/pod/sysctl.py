"""Kernel parameters of a pod: `--sysctl` and the isolator os/unix/sysctl (appc-spec, ACE), which belongs to pods.

Only what the pod's own network and IPC namespaces keep apart from the host's; everything else is refused by name.
"""

from __future__ import annotations

from pyrun.errors import blame
from pyrun.plan import sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.pod.options import Options

    Parameter = tuple[str, str, str]

__all__ = ["ISOLATOR", "beaten", "parameters"]

ISOLATOR = "os/unix/sysctl"
_FLAG = "--sysctl"


def parameters(options: Options, isolators: list[dict[str, Any]]) -> list[Parameter]:
    """Return (path below /proc/sys, value, origin) for each parameter; the option beats the isolator, one by one.

    UsageError and ConfigError for what is no parameter, and for one that is not the pod's own.
    """
    wanted: dict[str, Parameter] = {}
    for item in isolators:
        if item["name"] == ISOLATOR:
            for key, value in item["value"].items():
                name = _path(options, key, value, ISOLATOR)
                wanted[name] = (name, value, ISOLATOR)
    for word in options.sysctl:
        key, _, value = word.partition("=")
        name = _path(options, key, value, _FLAG)
        wanted[name] = (name, value, _FLAG)
    return list(wanted.values())


def beaten(options: Options, value: dict[str, str]) -> bool:
    """Whether an option says otherwise of one of an isolator's parameters."""
    given = {sysctl.path(word.partition("=")[0]) for word in options.sysctl}
    return any(sysctl.path(key) in given for key in value)


def _path(options: Options, key: str, value: str, origin: str) -> str:
    error = blame(origin)
    if not value or not value.isprintable():
        hint = "write it as in net.core.somaxconn=1024"
        raise error("set kernel parameter", key, "it needs a value on one line", hint=hint, origin=origin)
    try:
        name = sysctl.path(key)
    except ValueError as wrong:
        reason, hint = wrong.args
        raise error("set kernel parameter", key, reason, hint=hint, origin=origin) from None
    kind = sysctl.namespace(name)
    if kind == "network" and not _own_network(options):
        hint = "it is that of the host or of another pod: choose another --net"
        raise error("set kernel parameter", key, "the pod has no network of its own", hint=hint, origin=origin)
    if kind == "uts":
        raise error("set kernel parameter", key, "it has an option", hint="use --hostname", origin=origin)
    if kind not in ("ipc", "network"):
        hint = "a pod may set net.*, kernel.msg*, kernel.sem, kernel.shm* and fs.mqueue.*"
        raise error("set kernel parameter", key, "it is not a pod's own, it would change the host", hint=hint, origin=origin)
    return name


def _own_network(options: Options) -> bool:
    nets = [options.net] if isinstance(options.net, str) else options.net
    return options.network != "host" and not any(word.startswith(("container:", "ns:")) for word in nets)
