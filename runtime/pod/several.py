"""A pod of several apps: what they share, what each has for itself, and how that stands on disk.

    pod                     the record; its member `apps` lists them in the order of the command line
    keep, apps.keep         how it is run (native/keep.h)
    shm                     where /dev/shm of all apps is mounted while it runs
    volume-NAME             an empty volume, for whoever mounts it
    apps/NAME               of one app: plan, log, upper, work, rootfs, volume-NAME, what its health checks are

The network, host name and System V memory are the pod's, and so are the process numbers with --pid pod.  Root file system,
user, variables, mounts, limits, capabilities and filter are each app's own;
--pod-limit is for all of them together, by the cgroup above theirs.
"""

from __future__ import annotations

import os
import time

from pyrun.engine.cgroup import name_of
from pyrun.errors import ConfigError, PyrunError, UsageError
from pyrun.images import fastjson
from pyrun.plan import ops
from pyrun.plan.planner import run_plan
from pyrun.pod import limits
from pyrun.pod.config import app_name, make_config
from pyrun.pod.control import signal_number
from pyrun.pod.keep import HEALTH, MOST_APPS, SEVERAL, SHARE_NET, SHARE_PID, encode, encode_apps, streams
from pyrun.pod.metadata import describe, offer
from pyrun.pod.names import check_name
from pyrun.pod.place import manager_of, scope_of
from pyrun.pod.prepare import copies, health_of, more_of, stand, uptime, write
from pyrun.pod.recipe import Recipe, given_documents, post_stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.host import Host
    from pyrun.images.store import Image, Store
    from pyrun.plan.config import Config
    from pyrun.plan.ops import Plan
    from pyrun.pod.health import Health
    from pyrun.pod.options import Options, Volume
    from pyrun.pod.state import Pods

    Together = tuple[list[tuple[str, str, str]], list[tuple[str, str, str, str]]]

__all__ = ["App", "decide_several", "prepare_several"]

_CAP_SYS_PTRACE = 1 << 19
_LONGEST_NAME = 63
_TERM = 15


class App:
    """One app of a pod: its image, and options of which those that belong to the pod are the same for all.

    `isolators` are those of all apps together, of a pod manifest, at the first one;
    `sockets` are the names of those of the service manager that it gets, None where none were named.
    """

    __slots__ = ("image", "isolators", "name", "options", "sockets")

    def __init__(self, options: Options, image: Image) -> None:
        self.options = options
        self.image = image
        self.name = app_name(options, image)
        self.isolators: list[dict[str, Any]] = []
        self.sockets: list[str] | None = None


def prepare_several(
    apps: list[App], pods: Pods, store: Store, host: Host, uuid: str, *, explain: list[str], lasting: bool = True, command: bytes = b""
) -> list[str]:
    """Make a pod of these apps that is ready for the keeper, and return notes for the user; on an error nothing is left.

    `command` is kept for `generate systemd`.  UsageError and ConfigError for what does not go together.
    """
    pod = apps[0].options
    if pod.pod_name:
        check_name(pod.pod_name, "--pod-name")
    notes: list[str] = []
    made = [(config, _recipe(config, plan)) for config, plan in decide_several(apps, pods, store, host, uuid, notes, explain)]
    health = [health_of(app.options, app.image) for app in apps]
    identifiers = [f"{pod.pod_name or uuid[:8]}-{app.name}" for app in apps]
    more = HEALTH if any(health) else 0
    files = _files(apps, [config for config, _ in made], identifiers, uuid, more) | ({"command": command} if command else {})

    want = None
    if pod.network == "own":
        from pyrun.pod.network import wanted

        want = wanted(pod, [app.image for app in apps], made[0][0])

    def fill(directory: int) -> None:
        for name, data in files.items():
            write(directory, name, data)
        if want is not None:
            from pyrun.pod.network import prepare_network

            prepare_network(pods.root, uuid, directory, want, lasting=lasting)
        os.mkdir("shm", 0o700, dir_fd=directory)
        os.mkdir("apps", 0o700, dir_fd=directory)
        for config, _ in made:
            _make_volumes(config, directory)
        for app, (_, recipe), checks in zip(apps, made, health, strict=True):
            _fill_app(directory, app, recipe, checks)

    last = max([int(str(n)) for config, _ in made for n in post_stop(config).values()], default=0)
    record = _record(apps, identifiers, uuid, last, [config for config, _ in made])
    stand(pods, uuid, record, pod.pod_name or "", fill, want, take=pod.take_name, lasting=lasting)
    return notes


def decide_several(
    apps: list[App], pods: Pods, store: Store, host: Host, uuid: str, notes: list[str], explain: list[str]
) -> list[tuple[Config, Plan]]:
    """Return what would be done for each app; nothing is.  UsageError and ConfigError for what does not go together."""
    pod = apps[0].options
    _check(apps)
    _hand_out_volumes(apps)
    again = any(app.options.health_on_failure == "restart" for app in apps)
    notes += _unknown(pod)
    for app in apps if pod.mds else ():
        app.options.offer = pod.offer or offer(pod.root)
    together = _together(apps, host, pods.root, uuid)
    made = [_decide(app, pods, store, host, uuid, explain, notes, together, again=again, several=len(apps) > 1) for app in apps]
    _check_memory([config for config, _ in made])
    return made


def _fill_app(directory: int, app: App, recipe: Recipe, health: Health | None) -> None:
    os.mkdir(f"apps/{app.name}", 0o700, dir_fd=directory)
    own = os.open(f"apps/{app.name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        write(own, "plan", recipe.block)
        if health is not None:
            from pyrun.pod.health import write_files

            write_files(own, health, recipe.block, _stop_signal(app.image))
        copies(recipe, own)
    finally:
        os.close(own)


def _files(apps: list[App], made: list[Config], identifiers: list[str], uuid: str, more: int) -> dict[str, bytes]:
    """What stands in the pod's directory, by name."""
    pod, files = apps[0].options, {}
    signals = [_stop_signal(app.image) for app in apps]
    if pod.mds:
        decided = [(app.options, app.image, one) for app, one in zip(apps, made, strict=True)]
        files["metadata"] = describe(uuid, decided, pod.described, given_documents(pod)).encode("utf-8", "surrogateescape")
    more |= next((streams(one.interactive, one.tty) for one in made if one.interactive or one.tty), 0)
    flags = more | SEVERAL | (SHARE_PID if pod.pid == "pod" else 0) | (SHARE_NET if pod.network == "none" else 0)
    files["keep"] = encode(pod, identifiers[0], flags)
    files["apps.keep"] = encode_apps(
        pod.exit_policy,
        [
            (app.name, identifier, signal, one.interactive, one.tty)
            for app, identifier, signal, one in zip(apps, identifiers, signals, made, strict=True)
        ],
    )
    controllers = manager_of(pod)
    controllers += sorted({file.partition(".")[0] for config in made for file, _, _ in (*config.limits, *config.limits_pod)})
    if controllers:
        files["controllers"] = " ".join(controllers).encode()
        files.update(scope_of(uuid, controllers))
    if groups := _groups(made):
        files["groups"] = "".join(where + "\0" for where in groups).encode("utf-8", "surrogateescape")
    if any(app.sockets is not None for app in apps):
        files["sockets"] = _sockets([app.sockets or [] for app in apps])
    return files


def _groups(made: list[Config]) -> list[str]:
    """Those of the pod in hierarchies of version 1; the apps' lie below them."""
    return sorted({where for config in made for where, *_ in config.limits_pod_1})


def _sockets(wanted: list[list[str]]) -> bytes:
    """For native/prepared.c; empty, which leaves it to Python, where a name can be none of the service manager's."""
    if any(set(name) & {":", "\n", "\0"} for names in wanted for name in names):
        return b""
    return "".join(":".join(names) + "\n" for names in wanted).encode("utf-8", "surrogateescape")


def _together(apps: list[App], host: Host, root: str, uuid: str) -> Together:
    """The limits of all apps together; those of version 1 apart, with their directories."""
    known = [one for one in apps[0].isolators if one["name"].startswith("resource/") or one["name"] == "os/linux/cpu-shares"]
    return limits.placed(limits.of_pod(apps[0].options.pod_limit, known, root), host.cgroup, name_of(uuid))


def _unknown(pod: Options) -> list[str]:
    """Notes about isolators of a pod manifest that nobody knows."""
    names = [one["name"] for one in (pod.described.get("pod") or {}).get("isolators") or []]
    return [f"isolator {name} of the pod is unknown and has no effect" for name in names if not name.startswith(("resource/", "os/"))]


def _check(apps: list[App]) -> None:
    """What of the pod cannot be, whatever the images say."""
    if len(apps) > MOST_APPS:
        raise UsageError("make a pod", "", f"{len(apps)} apps are too many", hint=f"a pod has up to {MOST_APPS}")
    typed = [app for app in apps if app.options.interactive or app.options.tty]
    if len(typed) > 1:
        hint = "leave it to one of them; the others read /dev/null, and `pyrun enter --app NAME` leads into each"
        option = "--tty" if typed[1].options.tty else "--interactive"
        raise UsageError(f"option {option}", "", f"{typed[0].name} and {typed[1].name} cannot both have the caller's input", hint=hint)
    _check_notify(apps)
    seen: set[str] = set()
    for app in apps:
        if not is_app_name(app.name):
            hint = f"up to {_LONGEST_NAME} lower case letters and digits, with single dashes inside"
            raise UsageError("name app", app.name, "not a name for an app of several", hint=hint, origin="--name")
        if app.name in seen:
            raise UsageError("name app", app.name, "two apps have that name", hint="give one of them another: --name NAME after its image")
        seen.add(app.name)


def _check_notify(apps: list[App]) -> None:
    """Each app may tell the service manager that it is ready; nobody does where one says that nobody shall."""
    who = {app.options.notify for app in apps}
    if who >= {"app", "none"}:
        hint = "the pod is ready when each app with --notify app has said so; leave one of the two out"
        raise UsageError("option --notify", "", "app and none exclude each other", hint=hint)
    for app in apps if "none" in who else ():
        app.options.notify = "none"


def is_app_name(name: str) -> bool:
    """Whether this is an AC Name (App Container spec, "Types") of up to 63 bytes."""
    return 0 < len(name) <= _LONGEST_NAME and all(part.isalnum() and part.isascii() for part in name.split("-")) and name == name.lower()


def _hand_out_volumes(apps: list[App]) -> None:
    """Named volumes are the pod's: each app gets those that it mounts.  ConfigError for one that no app does."""
    named: dict[str, Volume] = {}
    for app in apps:
        for volume in app.options.volume:
            if volume.name and named.setdefault(volume.name, volume) is not volume:
                hint = "give each volume a name of its own; apps share one by mounting it under the same name"
                raise ConfigError("use volume", volume.name, "there are two of that name", hint=hint, origin=volume.origin)
    used: set[str] = set()
    for app in apps:
        manifest = app.image.manifest.get("app")
        points = manifest.get("mountPoints") or [] if isinstance(manifest, dict) else []
        wanted = {spec.volume for spec in app.options.mount} | {point["name"] for point in points}
        own = [volume for volume in app.options.volume if not volume.name]
        app.options.volume = own + [volume for name, volume in named.items() if name in wanted]
        used |= wanted
    for name, volume in named.items():
        if name not in used:
            hint = f"place it in an app: --mount volume={name},target=/PATH after its image"
            raise ConfigError("use volume", name, "no app mounts it", hint=hint, origin=volume.origin)


def _decide(
    app: App,
    pods: Pods,
    store: Store,
    host: Host,
    uuid: str,
    explain: list[str],
    notes: list[str],
    together: Together,
    *,
    again: bool,
    several: bool,
) -> tuple[Config, Plan]:
    """One app's plan.  Errors and notes say whose they are.  `again`: the pod may start more than once for the health of an app."""
    lowers = [store.layer_dir(layer) for layer in app.image.layers]
    own: list[str] = []
    app.options.name = app.name
    pod_dir = pods.running(uuid)
    try:
        config = make_config(app.options, app.image, lowers, host, uuid, stage=pods.stage, pod_dir=pod_dir, notes=own)
    except PyrunError as error:
        from pyrun.pod.sysctl import ISOLATOR

        if several and error.origin != ISOLATOR:  # which is the pod's, and no app's
            error.of_app(app.name)
        raise
    config.app_dir, config.group = f"{pod_dir}/apps/{app.name}", app.name
    config.again |= again
    config.share = "pod" if app.options.pid == "pod" else "app"
    if config.share == "pod" and config.bounding & _CAP_SYS_PTRACE:
        hint = "let each app have its own process numbers, --pid app, or take it away: --caps-remove CAP_SYS_PTRACE"
        reason = "it may trace (CAP_SYS_PTRACE), so it could take over others while they start"
        raise ConfigError("share process numbers with app", app.name, reason, hint=hint, origin=config.origin("caps"))
    config.limits_pod = together[0]
    if config.limits_1 or together[1]:
        from pyrun.plan.version1 import nested

        config.limits_pod_1, config.limits_1 = nested(together[1], config.limits_1, app.name, limits.cpuset_above())
    if app.options.no_overlay:
        config.copy_root = config.app_dir + "/rootfs"
    if host.uid or host.inner:
        from pyrun.pod.rootless import lower

        lower(config, host)
    plan = run_plan(config)
    plan.explain = [*explain, app.name] if explain and several else explain
    notes += [f"{app.name}: {note}" for note in own]
    return config, plan


def _recipe(config: Config, plan: Plan) -> Recipe:
    recipe = Recipe(ops.encode(plan), "", config.lowers if config.copy_root else [], [], None)
    recipe.lowers = config.lowers
    recipe.volumes = [(mount.target, f"volume-{mount.name}") for mount in config.mounts if mount.copy_up]
    return recipe


def _check_memory(made: list[Config]) -> None:
    """Each app mounts a file system in memory for itself; to call that a shared volume would be a lie."""
    seen: set[str] = set()
    for config in made:
        for name in {mount.volume: mount for mount in config.mounts if mount.kind == "tmpfs" and mount.volume}:
            if name in seen:
                hint = "use kind=empty, which is on disk, or files in /dev/shm, which is the pod's"
                raise ConfigError("share volume", name, "it is kept in memory, by each app for itself", hint=hint)
            seen.add(name)


def _make_volumes(config: Config, directory: int) -> None:
    """Shared empty volumes, before two apps at once could make them."""
    for mount in config.mounts:
        if mount.kind == "empty" and mount.volume and not mount.copy_up:
            name = f"volume-{mount.volume}"
            try:
                os.mkdir(name, 0o700, dir_fd=directory)
            except FileExistsError:
                continue
            os.chown(name, mount.uid, mount.gid, dir_fd=directory)
            os.chmod(name, mount.mode, dir_fd=directory)


def _stop_signal(image: Image) -> int:
    """The image's own (OCI image configuration, StopSignal), else TERM."""
    config = image.manifest.get("config")
    wanted = config.get("StopSignal") if isinstance(config, dict) else None
    try:
        return signal_number(wanted, "") if isinstance(wanted, str) else _TERM
    except UsageError:
        return _TERM


def _record(apps: list[App], identifiers: list[str], uuid: str, last: int, made: list[Config]) -> str:
    pod = apps[0].options
    groups = _groups(made)
    listed = [
        {
            "name": app.name,
            "image": app.image.id,
            "image_name": app.image.name,
            "journal": identifier[:63],
            **({"isolators": config.isolators} if config.isolators else {}),
            **({"sockets": app.sockets} if app.sockets is not None else {}),
        }
        for app, identifier, config in zip(apps, identifiers, made, strict=True)
    ]
    return fastjson.dumps(
        {
            "uuid": uuid,
            "app": apps[0].name,
            "image": apps[0].image.id,
            "name": apps[0].image.name,
            "apps": listed,
            "exit_policy": pod.exit_policy,
            "pid_namespace": pod.pid,
            "keep": bool(pod.keep),
            "insecure": list(pod.insecure_options),
            **({"post_stop": last} if last else {}),
            **({"cgroups_1": groups} if groups else {}),
            **({"config": given_documents(pod)} if pod.config else {}),
            **{name: value for name, value in more_of(pod, identifiers[0]) if value},
            "created": time.time_ns(),
            "uptime": uptime(),
            "cgroup": "",
        }
    )
