"""From options to a pod that is ready to start: its plan, its locked directory, its cgroup."""

from __future__ import annotations

import time

from pyrun import host as hosts
from pyrun.engine import cgroup
from pyrun.engine.launch import Slots
from pyrun.images import fastjson
from pyrun.plan.planner import run_plan
from pyrun.pod.config import app_name, make_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.host import Host
    from pyrun.images.store import Image, Store
    from pyrun.plan.config import Config
    from pyrun.plan.ops import Plan
    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

__all__ = ["Pod", "create", "decide"]


class Pod:
    """A pod that stands on disk but has not been started; `discard` undoes it."""

    __slots__ = ("config", "plan", "pods", "slots", "uuid")

    def __init__(self, uuid: str, config: Config, plan: Plan, pods: Pods, slots: Slots) -> None:
        self.uuid = uuid
        self.config = config
        self.plan = plan
        self.pods = pods
        self.slots = slots

    @property
    def title(self) -> str:
        """What ps(1) shows for the supervisor."""
        return f"pyrun: pod {self.uuid}"

    def discard(self) -> None:
        """Remove the directory and the cgroup of a pod whose supervisor never took over."""
        import os

        if self.slots.cgroup_parent >= 0:
            os.rmdir(cgroup.name_of(self.uuid), dir_fd=self.slots.cgroup_parent)
        self.pods.delete("running", self.uuid)
        self.slots.close()


def decide(options: Options, store: Store, image: Image, pods: Pods, host: Host, uuid: str, notes: list[str]) -> tuple[Config, Plan]:
    """Return what would be done for these options; nothing is."""
    lowers = [store.layer_dir(layer) for layer in image.layers]
    pod_dir = pods.running(uuid)
    config = make_config(options, image, lowers, host, uuid, stage=pods.stage, pod_dir=pod_dir, notes=notes)
    if options.no_overlay:
        config.copy_root = pod_dir + "/rootfs"
    return config, run_plan(config)


def create(options: Options, store: Store, image: Image, pods: Pods, uuid: str, notes: list[str]) -> Pod:
    """Make the pod's directory and cgroup and return it, ready for `engine.launch`; on an error nothing is left."""
    host = hosts.probe()
    config, plan = decide(options, store, image, pods, host, uuid, notes)
    parent, own = cgroup.create(host, uuid)
    try:
        directory = pods.create(uuid, _record(options, image, uuid, f"{host.cgroup}/{plan.cgroup_name}" if own >= 0 else ""))
    except BaseException:
        Slots(cgroup=own, cgroup_parent=parent).close()
        if own >= 0:
            cgroup.remove(f"{host.cgroup}/{plan.cgroup_name}")
        raise
    pod = Pod(uuid, config, plan, pods, Slots(directory, pods.fd, own, parent))
    if config.copy_root:
        try:
            _copy_root(config, directory)
        except BaseException:
            pod.discard()
            raise
    return pod


def _record(options: Options, image: Image, uuid: str, cgroup_path: str) -> str:
    """The file `pod`: who this is, for whoever finds the directory later."""
    return fastjson.dumps(
        {
            "uuid": uuid,
            "app": app_name(options, image),
            "image": image.id,
            "name": image.name,
            "created": time.time_ns(),
            "cgroup": cgroup_path,
            "keep": bool(options.keep),
            "insecure": list(options.insecure_options),
        }
    )


def _copy_root(config: Config, directory: int) -> None:
    from pyrun.images.copy import copy_layers

    copy_layers(config.lowers, directory, b"rootfs")
