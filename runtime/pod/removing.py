"""Removing a pod, whoever its files belong to: those of ids of a user's range only root of a user namespace removes."""

from __future__ import annotations

import os

from pyrun.pod import control
from pyrun.pod.names import phase_of
from pyrun.pod.state import Pods

__all__ = ["remove", "remove_below"]


def remove(pods: Pods, uuid: str, *, force: bool = False) -> None:
    """Do as `pyrun.pod.control.remove`; where without root there may be files of other ids a child does it (`pyrun.pod.inside`)."""
    if os.geteuid():
        from pyrun.engine.userns import has_ranges

        if has_ranges():
            from pyrun.pod.inside import call

            if force and phase_of(pods, uuid) == "running":
                control.stop(pods, uuid, force=True)
            call("pyrun.pod.removing", "remove_below", pods.root, uuid, force)
            return
    control.remove(pods, uuid, force=force)


def remove_below(root: str, uuid: str, force: bool) -> None:
    """Be that child."""
    control.remove(Pods(root), uuid, force=force)
