"""mounts: more of them in a container that runs, from a file with an array as `mounts` of config.json is one (crun(1)).  Cold."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError, StateError, UsageError
from pyrun.oci import planner, spec, state
from pyrun.oci.create import is_user, root_of
from pyrun.oci.enter import namespaces_of
from pyrun.oci.launch import Launch
from pyrun.oci.main import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments

__all__ = ["change_mounts"]


def change_mounts(args: Arguments) -> int:
    """Mount what the file names in a container, all or up to the first that fails, or unmount what is on its destinations.

    It is the runtime that mounts, from paths of the host; what the container may do does not change.
    """
    how, name, path = args.words
    if how not in ("add", "remove"):
        raise UsageError("mounts", how, "neither add nor remove", hint="pyrun-oci mounts add CONTAINER FILE")
    container = state.Container(root_of(args), name)
    status = container.status()
    if status not in ("created", "running", "paused"):
        raise StateError("mounts", container.id, f"cannot {how} mounts of a {status} container", hint="start it first")
    config = container.config()
    if not any(one["type"] == "mount" for one in config.get("linux", {}).get("namespaces", ())):
        hint = "mount them on the host, below its root"
        raise StateError("mounts", container.id, "it has the host's mounts, and none of its own", hint=hint)
    wanted = _read(path, config)
    record = container.record
    user = is_user(args.get("rootless", "auto"))
    plan = planner.mounts_plan(config, record["bundle"], wanted, group=record.get("cgroup", ""), user=user, remove=how == "remove")
    for text in plan.warnings:
        warn(args, text)
    plan.clone_flags = namespaces_of(container.pid)
    try:
        pidfd = os.pidfd_open(container.pid)
    except OSError:
        raise StateError("mounts", container.id, "container not running") from None
    try:
        launch = Launch(plan, {6: pidfd}, 0, str(container.pid))
    except OSError as error:
        raise HostError("change mounts of", container.id, errno=error.errno or 0) from None
    finally:
        os.close(pidfd)
    launch.settle()
    container.close()
    return 0


def _read(path: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        data = state.read(path, follow=True)
    except OSError as error:
        hint = 'a file with an array, as in [{"destination": "/data", "type": "tmpfs", "source": "tmpfs"}]'
        raise ConfigError("read mounts", path, errno=error.errno or 0, hint=hint, origin="FILE") from None
    return spec.load_mounts(data, config.get("linux", {}))
