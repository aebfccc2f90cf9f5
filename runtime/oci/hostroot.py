"""Containers without a mount namespace of their own: the root is mounted at its path on the host, and taken away with the container.

All that is mounted for the container is below that one mount, so its end is the end of everything.  What was mounted on the path
before is not touched: the mount is known by its id (proc_pid_fdinfo(5)), which is kept in the container's directory.
"""

from __future__ import annotations

import os

from pyrun.host import read_small
from pyrun.oci import state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.state import Container

__all__ = ["forget", "remember"]

_FILE = "mounted"


def remember(container: Container, config: dict[str, Any], bundle: str) -> None:
    """Write down what is mounted on the root: before the process is made, and again once it has mounted."""
    path = os.path.realpath(os.path.join(bundle, config["root"]["path"]))
    before, _, _ = _known(container.fd)
    now = _mount_of(path)
    state.write(_FILE, b"%d %d %s" % (before or now, now if before else 0, os.fsencode(path)), container.fd)


def forget(container: Container) -> None:
    """Unmount what `remember` has seen mounted, if it is still there."""
    before, ours, path = _known(container.fd)
    if not path:
        return
    now = _mount_of(path)
    if now not in (0, before) and ours in (0, now):  # 0: the process has not come to say so
        from pyrun.native._native import lib

        lib.pyrun_unmount(os.fsencode(path))  # what has gone meanwhile is no error


def _known(fd: int) -> tuple[int, int, str]:
    try:
        before, ours, path = state.read(_FILE, fd).split(b" ", 2)
    except FileNotFoundError:
        return 0, 0, ""
    return int(before), int(ours), os.fsdecode(path)


def _mount_of(path: str) -> int:
    """The id of the mount that `path` shows, 0 when it is gone."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        lines = read_small(f"/proc/self/fdinfo/{fd}").splitlines()
    finally:
        os.close(fd)
    return next((int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:")), 0)
