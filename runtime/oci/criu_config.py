"""What a configuration asks of criu, and what of it no checkpoint can have.  Cold."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, StateError
from pyrun.oci import cgroups
from pyrun.oci.arguments import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.criu_rpc import Field
    from pyrun.oci.state import Container

__all__ = ["check", "config_file", "spaces"]

_CONFIG = "org.criu.config"  # of annotations


def config_file(config: dict[str, Any]) -> list[Field]:
    """Return the option that names a file of more options for criu (criu(8), "CONFIGURATION FILES"), which count for more than ours.

    It is the one of the annotation, else the runtime's own, by the name by which it has been called, or one that who used crun or runc
    before has written.
    """
    said = (config.get("annotations") or {}).get(_CONFIG)
    if said is None:
        names = ("runc",) if program() == "runc" else dict.fromkeys((program(), "crun", "runc"))
        said = next((path for path in (f"/etc/criu/{name}.conf" for name in names) if os.path.isfile(path)), "")
    return [(51, said)] if said else []


def check(container: Container, config: dict[str, Any]) -> str:
    """Return the path of a network namespace that is not the container's own; ConfigError or StateError for what a restore would lose."""
    if "mount" not in {one["type"] for one in config.get("linux", {}).get("namespaces", ())}:
        raise ConfigError("checkpoint", "the host's mount namespace", "would be restored too", origin="linux.namespaces")
    path = spaces(config, "checkpoint")
    for name in ("netDevices", "intelRdt"):  # devices stay in a network namespace that is somebody else's
        if config.get("linux", {}).get(name) and (name == "intelRdt" or not path):
            raise ConfigError("checkpoint", name, "cannot be restored", origin=f"linux.{name}")
    group = container.group
    if group and any(cgroups.processes(below.path) for below in os.scandir(group) if below.is_dir(follow_symlinks=False)):
        reason = "there are processes in cgroups of the container's own making, which a restore would not make"
        raise StateError("checkpoint container", container.id, reason)
    return path


def spaces(config: dict[str, Any], verb: str) -> str:
    """Return the path of the network namespace, "" for one of the container's own; ConfigError for namespaces that cannot be restored."""
    path = ""
    for index, one in enumerate(config.get("linux", {}).get("namespaces", ())):
        where = f"linux.namespaces[{index}]"
        if one["type"] == "user":
            raise ConfigError(verb, "user namespace", "could not read the files that root has written", origin=where)
        if one.get("path") and one["type"] != "network" and not _is_own(one["type"], one["path"]):
            raise ConfigError(verb, f"{one['type']} namespace", "is shared, and a restore would make another one", origin=where)
        path = one["path"] if one.get("path") and one["type"] == "network" else path
    return path


def _is_own(kind: str, path: str) -> bool:
    """Whether a namespace by path is this process's own, hence criu's, which leaves those as they are; a mount namespace never is."""
    try:
        return kind in ("ipc", "pid", "uts") and os.path.samefile(path, f"/proc/self/ns/{kind}")
    except OSError:
        return False
