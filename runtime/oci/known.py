"""The file `status` of a container, in the form of crun's, for tools that read there what they know a container by."""

from __future__ import annotations

import os

from pyrun.images import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.state import Container

__all__ = ["draft", "publish"]

_DRAFT = "status.new"


def draft(container: Container, record: dict[str, Any], *, detached: bool) -> None:
    """Write down what is known of a container whose process waits; nobody sees it before `publish` (native/again_state.c does the same)."""
    streams = []
    for number in range(3):
        try:
            streams.append(os.readlink(f"/proc/{record['pid']}/fd/{number}"))
        except OSError:  # of another user's by now
            streams.append("/dev/null")
    scope = record.get("systemd-scope", "")
    group = record.get("cgroup", "")
    known = {
        "pid": record["pid"],
        "process-start-time": record["startTime"],
        "cgroup-path": _below_tree(group) if group else "",
        "scope": scope,
        "rootfs": record["rootfs"],
        "systemd-cgroup": bool(scope),
        "bundle": record["bundle"],
        "created": record["created"],
        "owner": record["owner"],
        "detached": detached,
        "external_descriptors": fastjson.dumps(streams),
    }
    fd = os.open(_DRAFT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=container.fd)
    try:
        os.write(fd, fastjson.dumps(known).encode())
    finally:
        os.close(fd)


def publish(container: Container) -> None:
    """Let it be seen: whoever finds the file of a `run` may count on the program to run."""
    os.rename(_DRAFT, "status", src_dir_fd=container.fd, dst_dir_fd=container.fd)


def _below_tree(group: str) -> str:
    from pyrun.oci import cgroups

    tree = cgroups.tree()
    return group[len(tree) :] if tree and group.startswith(tree + "/") else group
