"""What the supervisor, or the keeper, starts at the end of a pod that had a network (native/shared.c): nobody waits for it."""

from __future__ import annotations

import fcntl
import os

from pyrun.pod.state import Pods

__all__ = ["clean"]


def clean(root: str, uuid: str) -> None:
    """Take back the network of a pod that has ended, and remove what was not to be kept.

    Killed half-way, or started too late, it leaves the rest to `gc` and to the next start.
    """
    pods = Pods(root)
    for phase in ("garbage", "exited"):
        try:
            pod = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
        except OSError:
            continue
        try:
            fcntl.flock(pod, fcntl.LOCK_EX)  # the supervisor is about to end
            if not _same(pods, f"{phase}/{uuid}", pod):
                return  # somebody else was quicker
            if phase == "garbage":
                pods.delete(phase, uuid)
            else:
                pods.disconnect(pod, uuid)
        finally:
            os.close(pod)


def _same(pods: Pods, path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, dir_fd=pods.fd), os.fstat(fd))
    except OSError:
        return False
