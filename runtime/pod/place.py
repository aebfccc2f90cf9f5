"""Where a prepared pod that has limits may run."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["take_place"]


def take_place(pods: Pods, uuid: str) -> None:
    """Bring this process to where the limits of the prepared pod `uuid` can be set; without limits it stays where it is.

    HostError when there is no such place, see `pyrun.engine.placement.take`.
    """
    try:
        file = os.open(f"prepared/{uuid}/controllers", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return
    try:
        controllers = os.read(file, 4096).decode().split()
    finally:
        os.close(file)
    from pyrun.engine.placement import take

    take(uuid, controllers)
