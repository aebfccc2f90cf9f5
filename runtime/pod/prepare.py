"""A pod that is ready to run and stands on disk: everything is decided, `run-prepared` needs no Python any more.

    pod, plan, keep, keeper     the record, the encoded plan, how it is to be kept, a link to the program that runs it
    controllers                 with limits: a place for them has to be found first, by native/place.c or pyrun.engine.placement
    scope                       the same: how systemd is asked for a scope, native/scope.c
    sockets                     of several apps that name some of the service manager's: a line for each app
    net.want, net.join          with a network: Python has to make it first, see pyrun.pod.network, unless it joins this one, which with
                                --net-ahead is its own

The plan names the pod's directory below running/, where it will stand when it runs.
"""

from __future__ import annotations

import os
import time

from pyrun import native
from pyrun.host import write_all
from pyrun.images import fastjson
from pyrun.images.locks import private_dirs
from pyrun.pod.keep import HEALTH, encode
from pyrun.pod.names import check_name, claim, release
from pyrun.pod.place import scope_of
from pyrun.pod.state import new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrun.images.store import Image
    from pyrun.pod.health import Health
    from pyrun.pod.options import Options
    from pyrun.pod.recipe import Recipe
    from pyrun.pod.state import Pods

__all__ = ["copies", "health_of", "more_of", "prepare", "stand", "uptime", "write"]


def prepare(recipe: Recipe, options: Options, pods: Pods, uuid: str = "", *, lasting: bool = True, command: bytes = b"") -> str:
    """Make the pod that `recipe` and `options` describe and return its UUID; on an error nothing is left.

    `command` is kept for `generate systemd`, see pyrun.cli.origin.  With `lasting` it survives a power cut; that is of no use to
    one that is started at once.  StateError when another pod has its name.
    """
    if options.pod_name:
        check_name(options.pod_name, "--pod-name")
    uuid = uuid or new_uuid()
    identifier = options.pod_name or f"{fastjson.loads(recipe.record + '}')['app']}-{uuid[:8]}"  # type: ignore[index]
    health = health_of(options, recipe.image)
    keep = encode(options, identifier, 0 if health is None else HEALTH)
    more = "".join(f',"{name}":{fastjson.quote(value)}' for name, value in more_of(options, identifier) if value)
    more += f',"uptime":{uptime()}'

    def fill(directory: int) -> None:
        write(directory, "plan", recipe.block_for(uuid))
        if command:
            write(directory, "command", command)
        if health is not None:
            _write_health(directory, health, recipe, uuid)
        write(directory, "keep", keep)
        for name, text in recipe.files.items():
            write(directory, name, recipe.filled(text, uuid).encode("utf-8", "surrogateescape"))
        if recipe.controllers:
            write(directory, "controllers", " ".join(recipe.controllers).encode())
            for file, data in scope_of(uuid, recipe.controllers, recipe.block_for(uuid)).items():
                write(directory, file, data)
        if recipe.net is not None:
            from pyrun.pod.network import prepare_network

            prepare_network(pods.root, uuid, directory, recipe.net_of(uuid), lasting=lasting)
        copies(recipe, directory)

    net = recipe.net_of(uuid) if recipe.net is not None else {}
    record = recipe.record_for(uuid, time.time_ns(), "", more)
    stand(pods, uuid, record, options.pod_name or "", fill, net, take=options.take_name, lasting=lasting)
    return uuid


def stand(
    pods: Pods,
    uuid: str,
    record: str,
    name: str,
    fill: Callable[[int], None],
    net: dict[str, Any] | None = None,
    *,
    take: bool,
    lasting: bool,
) -> None:
    """Make the directory of a prepared pod, with `record`, the name `name` if any (see `claim`), and what `fill` puts into it.

    A network that is wanted at once, `net` says so, comes last: those who look for leases, rules and names find the pod prepared.
    """
    directory = pods.begin(uuid, record)
    try:
        os.symlink(native.KEEPER, "keeper", dir_fd=directory)
        fill(directory)
        if lasting:
            native.syncfs(directory)
        if name:
            claim(pods, name, uuid, take=take)
        private_dirs(pods.path + "/prepared")
        pods.commit(uuid, "prepared")
        if net:
            from pyrun.pod.network import connect_ahead

            connect_ahead(pods.root, uuid, directory, net)
    except BaseException:
        for phase in ("preparing", "prepared"):
            pods.delete(phase, uuid)
        if name:
            release(pods, name, uuid)
        raise
    finally:
        os.close(directory)


def uptime() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds, which no change of the date moves."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def more_of(options: Options, identifier: str) -> list[tuple[str, str]]:
    """Further members of the record; a journal knows the pod's lines by `journal`, whatever its name becomes."""
    restart = options.restart or "no"
    return [("pod_name", options.pod_name or ""), ("restart", restart), ("log", options.log_driver), ("journal", identifier[:63])]


def health_of(options: Options, image: Image | None) -> Health | None:
    """Return the health checks that options and image ask for, None for none; UsageError or ConfigError for what makes no sense."""
    from pyrun.pod.health import asked, wanted

    config = image.manifest.get("config") if image is not None else None
    if image is None or (not (isinstance(config, dict) and config.get("Healthcheck")) and not asked(options)):
        return None
    return wanted(options, image)


def _write_health(directory: int, health: Health, recipe: Recipe, uuid: str) -> None:
    from pyrun.pod.control import stop_signal
    from pyrun.pod.health import write_files

    write_files(directory, health, recipe.block_for(uuid), stop_signal(directory))


def copies(recipe: Recipe, directory: int) -> None:
    """Copy what each pod has for itself, into its directory."""
    if not recipe.copy and not recipe.volumes:
        return
    from pyrun.images.copy import copy_layers, copy_up

    if recipe.copy:
        copy_layers(recipe.copy, directory, b"rootfs")
    for path, name in recipe.volumes:
        copy_up(recipe.lowers, path, directory, name)


def write(directory: int, name: str, data: bytes) -> None:
    """Make a file that only its owner may read."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        write_all(file, data)
    finally:
        os.close(file)
