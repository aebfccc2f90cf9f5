"""From a recipe to a pod that is ready to start: its locked directory, its cgroup, its plan."""

from __future__ import annotations

import os
import time

from pyrun.engine import cgroup
from pyrun.engine.launch import Slots
from pyrun.errors import PyrunError
from pyrun.host import own_cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.recipe import Recipe
    from pyrun.pod.state import Pods

__all__ = ["Pod", "create"]


class Pod:
    """A pod that stands on disk but has not been started; `discard` undoes it.  `block` is its encoded plan."""

    __slots__ = ("block", "pods", "slots", "uuid")

    def __init__(self, uuid: str, block: bytes, pods: Pods, slots: Slots) -> None:
        self.uuid = uuid
        self.block = block
        self.pods = pods
        self.slots = slots

    @property
    def title(self) -> str:
        """What ps(1) shows for the supervisor."""
        return f"pyrun: pod {self.uuid}"

    def discard(self) -> None:
        """Remove the directory and the cgroup of a pod whose supervisor never took over."""
        if self.slots.cgroup_parent >= 0:
            os.rmdir(cgroup.name_of(self.uuid), dir_fd=self.slots.cgroup_parent)
        try:
            self.pods.delete("running", self.uuid)
        except PyrunError:  # of its network; why it is discarded is what is told, and `gc` tries again
            return
        finally:
            self.slots.close()


def create(recipe: Recipe, pods: Pods, uuid: str, above: str | None = None) -> Pod:
    """Make the pod's directory and cgroup and return it, ready for `engine.launch`; on an error nothing is left.

    `above` is what `own_cgroup` says now, where the caller knows that.
    """
    if above is None:
        above = own_cgroup()
    # The record names the cgroup before there is one, so that whoever finds the pod can remove it.
    record = recipe.record_for(uuid, time.time_ns(), f"{above}/{cgroup.name_of(uuid)}" if above else "")
    directory = pods.create(uuid, record)
    parent, own = cgroup.create(above, uuid)
    pod = Pod(uuid, recipe.block_for(uuid), pods, Slots(directory, pods.fd, own, parent))
    if recipe.copies:
        try:
            if recipe.net is not None and not recipe.waits:
                from pyrun.pod.network import connect

                pod.slots.network = connect(pods.root, uuid, directory, recipe.net_of(uuid))
            if recipe.copy or recipe.volumes or recipe.files:
                _fill(recipe, directory, uuid)
        except BaseException:
            pod.discard()
            raise
    return pod


def _fill(recipe: Recipe, directory: int, uuid: str) -> None:
    from pyrun.images.copy import copy_layers, copy_up
    from pyrun.pod.prepare import write

    if recipe.copy:
        copy_layers(recipe.copy, directory, b"rootfs")
    for path, name in recipe.volumes:
        copy_up(recipe.lowers, path, directory, name)
    for name, text in recipe.files.items():
        write(directory, name, recipe.filled(text, uuid).encode("utf-8", "surrogateescape"))
