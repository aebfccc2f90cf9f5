"""Flags and an image manifest -> `Config`: who wins, what is looked up in the image, what is refused.

Precedence is rkt's: a flag beats the manifest, the manifest beats the default.  The environment, weakest
first: the caller's (--inherit-env), the image's, the flags'; then what the App Container
spec reserves for the executor.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, UsageError, blame
from pyrun.images.passwd import member_groups, resolve_user
from pyrun.images.rootfs import RootFS
from pyrun.plan import caps, ops, rlimits, seccomp
from pyrun.plan.config import Config
from pyrun.plan.mounts import NOTIFY
from pyrun.pod.volumes import mounts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.host import Host
    from pyrun.images.passwd import Identity
    from pyrun.images.store import Image
    from pyrun.plan.seccomp import SeccompSpec
    from pyrun.pod.options import Options

__all__ = ["app_name", "make_config"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "aarch64"}  # uname(2) -> appc
_HANDLER_SECONDS, _DAY = 60, 86400
_HOST_NAME_MAX = 64  # sethostname(2)
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
_APP_NAME = _NAME | {"_"}


def make_config(
    options: Options, image: Image, lowers: list[str], host: Host, uuid: str, *, stage: str, pod_dir: str, notes: list[str]
) -> Config:
    """Return the pod that `options` and the image's manifest describe; ConfigError when they do not fit.

    `notes` collects what the user should be told although it is no error.
    """
    app: dict[str, Any] = image.manifest.get("app") or {}  # type: ignore[assignment]
    rootfs = RootFS(lowers)
    config = Config(uuid, _argv(options, app, image), lowers, stage=stage, pod_dir=pod_dir)
    own = f"{ops.BARE}{image.name}" if image.kind == "rootfs" else f"app.exec of {image.name}"
    config.origins["argv"] = "--exec" if options.exec else own
    _refuse_foreign(image)
    identity = _identity(options, app, rootfs, config)
    _told(options, image, app, config, notes)
    _environment(options, app, identity, image, config)
    config.cwd = options.working_dir or app.get("workingDirectory") or "/"
    config.origins["cwd"] = "--working-dir" if options.working_dir else "app.workingDirectory"
    config.make_cwd = "entrypoint" in app  # Docker's images may name a directory that is not there
    if not config.cwd.startswith("/"):
        raise blame(config.origin("cwd"))(
            "use working directory", config.cwd, "not an absolute path", hint="begin it with /", origin=config.origin("cwd")
        )
    _security(options, app, host, config)
    _handlers(options, app, config)
    config.rlimits = rlimits.merge([(*rlimits.parse(text, f"--rlimit {text}"), f"--rlimit {text}") for text in options.rlimit])
    if options.umask is not None:
        config.umask = options.umask
        config.origins["umask"] = "--umask"
    _hostname(options, config)
    config.readonly = options.readonly_rootfs
    config.origins["readonly"] = "--readonly-rootfs"
    config.upper = "tmpfs" if options.upper == "tmpfs" else "disk"
    if options.no_overlay and config.upper == "tmpfs":
        hint = "a copy of the image's files is on disk: leave one of the two out"
        raise UsageError("options --no-overlay and --upper tmpfs", "", "exclude each other", hint=hint)
    config.remove = not options.keep
    config.again = (options.restart or "no") != "no" or options.health_on_failure == "restart"
    config.mounts = mounts_of(options, app, notes)
    if options.device or any(mount.kind == "host" and not mount.is_dir for mount in config.mounts):
        from pyrun.pod.devices import add_devices

        config.origins["devices"] = "--device"
        add_devices(config, options.device)
    _network(options, app, config)
    config.notify = options.notify
    config.interactive = options.interactive
    config.tty = options.tty
    _names(options, config, rootfs)
    return config


def app_name(options: Options, image: Image) -> str:
    """Return the app's name: --name, else the last part of the image's name as an AC Name."""
    if options.name:
        return options.name
    last = image.name.rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() else "-" for c in last.lower()).strip("-") or "app"


def _refuse_foreign(image: Image) -> None:
    """An image for another system or processor is refused here, before anything is made (appc-spec, "os" and "arch")."""
    machine = _ARCHITECTURES.get(os.uname().machine)
    if image.labels.get("os", "linux") != "linux" or image.labels.get("arch", machine) != machine:
        from pyrun.images.manifest import check_platform

        check_platform(image.manifest)


def _argv(options: Options, app: dict[str, Any], image: Image) -> list[str]:
    if options.exec:
        return [options.exec, *options.argv]
    own: list[str] = list(app.get("exec") or [])
    if options.argv and "entrypoint" in app:  # Docker's rule: arguments replace the image's own
        return [*app["entrypoint"], *options.argv]
    if not own:
        what = "its manifest has no app section" if not app else "app.exec is empty"
        raise ConfigError("run image", image.name, what, hint="name the program: --exec /bin/PROGRAM, its arguments after --")
    return own + options.argv


def _identity(options: Options, app: dict[str, Any], rootfs: RootFS, config: Config) -> Identity:
    user = options.user or app.get("user") or "0"
    group = options.group or (app.get("group") if not options.user else None)
    origin = config.origins["user"] = "--user" if options.user else "app.user"
    identity = resolve_user(rootfs, user, group, origin=origin, group_origin="--group" if options.group else "app.group")
    config.uid, config.gid = identity.uid, identity.gid
    extra = options.supplementary_gids or app.get("supplementaryGIDs") or []
    if "entrypoint" in app and group is None and not extra:  # as Docker does where no group is named
        extra = member_groups(rootfs, identity.name)
    config.groups = tuple(dict.fromkeys([*identity.groups, *extra]))
    if len(config.groups) > ops.MAX_LIST:
        where = "--supplementary-gids" if options.supplementary_gids else "app.supplementaryGIDs"
        hint = f"a process has no more than {ops.MAX_LIST} here"
        raise blame(where)("use supplementary groups", "", f"{len(config.groups)} are too many", hint=hint, origin=where)
    return identity


def _told(options: Options, image: Image, app: dict[str, Any], config: Config, notes: list[str]) -> None:
    of_pod = (options.described.get("pod") or {}).get("isolators")
    if app.get("isolators") or of_pod or options.security_opt or options.sysctl:
        from pyrun.pod.isolators import judge
        from pyrun.pod.labels import inherited, labels_of
        from pyrun.pod.sysctl import parameters

        isolators = inherited(app.get("isolators") or [], of_pod or [], notes)
        config.labels = labels_of(options, isolators)
        config.sysctls = parameters(options, isolators)
        config.isolators = judge(options, isolators, notes) if isolators else {}
    config.app = app_name(options, image)
    if options.name and not _is_plain(options.name, _APP_NAME):
        hint = "use up to 64 letters, digits, dashes, dots and underscores, as in web-1"
        raise UsageError("name app", options.name, "not a name for an app", hint=hint, origin="--name")
    if options.mds:
        from pyrun.pod.metadata import offer

        config.metadata = options.offer or offer(options.root)


def _environment(options: Options, app: dict[str, Any], identity: Identity, image: Image, config: Config) -> None:
    env: dict[str, str] = {}
    if options.inherit_env:
        env.update(os.environ)
    env.update((item["name"], item["value"]) for item in app.get("environment") or [])
    env.update(options.set_env)
    env.setdefault("PATH", PATH)
    env.setdefault("HOME", identity.home or "/")
    if identity.name:
        env.setdefault("USER", identity.name)
        env.setdefault("LOGNAME", identity.name)
    if options.tty:
        env.setdefault("TERM", os.environ.get("TERM", "xterm"))
    own = {"AC_APP_NAME": config.app, "container": "pyrun"}
    env.pop("AC_METADATA_URL", None)
    if config.metadata:
        own["AC_METADATA_URL"] = config.metadata.url
    if options.notify == "app":
        own["NOTIFY_SOCKET"] = NOTIFY
    env.update(own)
    config.env = [f"{name}={value}" for name, value in env.items()]
    for what, count in (("arguments", len(config.argv)), ("variables", len(env))):
        if count > ops.MAX_LIST:
            raise ops.too_many(f"{count} {what}")
    given = options.set_env.keys() - own.keys() - {"PATH"}
    config.variables = {name: place for place, name in enumerate(env) if name in given} if given else {}
    config.paths = _paths(config.argv[0], config.env)


def _handlers(options: Options, app: dict[str, Any], config: Config) -> None:
    """The programs for the app's start and end; they get the app's own variables (appc-spec, "Execution Environment")."""
    handlers: list[dict[str, Any]] = [] if options.no_handlers else app.get("eventHandlers") or []
    seconds = _HANDLER_SECONDS if options.handler_timeout is None else options.handler_timeout
    if not handlers:
        return
    if not 1 <= seconds <= _DAY:
        raise UsageError("option --handler-timeout", str(seconds), "not between a second and a day", hint="write it as in 30 or 5m")
    for handler in handlers:
        argv = handler["exec"]
        config.handlers.append((handler["name"], argv, _paths(argv[0], config.env), int(-(-seconds // 1))))


def _paths(program: str, env: list[str]) -> list[str]:
    """What to try for a program: as execvp(3), with the image's PATH, never the host's."""
    if "/" in program:
        return [program]
    path = next(word[5:] for word in env if word.startswith("PATH="))
    return [f"{directory or '.'}/{program}" for directory in path.split(":")]


def _security(options: Options, app: dict[str, Any], host: Host, config: Config) -> None:
    isolators: list[dict[str, Any]] = app.get("isolators") or []
    config.mask_paths = "paths" not in options.insecure_options
    wanted = any(item["name"] == "os/linux/no-new-privileges" and item["value"] for item in isolators)
    config.no_new_privs = wanted or "new-privs" not in options.insecure_options
    _capabilities(options, isolators, host, config)
    config.oom_score_adj = options.oom_score_adj
    config.origins["oom_score_adj"] = "--oom-score-adj"
    for item in isolators:
        if item["name"] == "os/linux/oom-score-adj" and options.oom_score_adj is None:
            config.oom_score_adj = item["value"]
            config.origins["oom_score_adj"] = "isolator os/linux/oom-score-adj"
    if any(item["name"] in _LIMITS for item in isolators) or options.limited:
        from pyrun.pod import limits

        config.limits, config.limits_1 = limits.placed(limits.of(options, isolators), host.cgroup, config.group)
    if "seccomp" in options.insecure_options and not options.seccomp:
        return
    if options.seccomp:
        spec: SeccompSpec | None = seccomp.parse_flag(options.seccomp)
        config.origins["seccomp"] = "--seccomp"
    else:
        spec = seccomp.from_isolators(isolators, "app.isolators")
        config.origins["seccomp"] = spec.where if spec else "default system call filter"
    config.seccomp = seccomp.load(options.root, spec, config.bounding, early=not config.no_new_privs)


def _capabilities(options: Options, isolators: list[dict[str, Any]], host: Host, config: Config) -> None:
    """Flags beat isolators; both kinds of set at once are refused by `caps.select` wherever they come from.

    Who gives up the protection and names a set means the set.
    """
    retain = None if options.caps_retain is None else caps.expand(options.caps_retain)
    remove = None if options.caps_remove is None else caps.expand(options.caps_remove)
    if "capabilities" in options.insecure_options and retain is None and remove is None:
        config.bounding, config.permitted = host.bounding, 0 if config.uid else host.bounding
        config.origins["caps"] = "--insecure-options"
        return
    where = "--caps-remove" if retain is None else "--caps-retain"
    if retain is None and remove is None:
        where = "default capabilities"
        for item in isolators:
            if item["name"] in ("os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"):
                where = f"isolator {item['name']}"
                if item["name"].endswith("retain-set"):
                    retain = [*(retain or []), *item["value"]["set"]]
                else:
                    remove = [*(remove or []), *item["value"]["set"]]
    config.origins["caps"] = where
    config.bounding, config.permitted = caps.select(retain=retain, remove=remove, uid=config.uid, where=where)


def _network(options: Options, app: dict[str, Any], config: Config) -> None:
    config.network = options.network
    if options.net_bandwidth or any(item["name"] == _BANDWIDTH for item in app.get("isolators") or []):
        _bandwidth(options, app, config)
    if config.network != "own" and (options.net_isolate or options.net_bandwidth or options.net_ahead):
        option = "--net-isolate" if options.net_isolate else "--net-bandwidth" if options.net_bandwidth else "--net-ahead"
        raise UsageError(f"option {option}", "", f"has no meaning with --net {config.network}", hint="add --net default, or leave it out")


def _bandwidth(options: Options, app: dict[str, Any], config: Config) -> None:
    """The flag beats the isolator (appc-spec, "resource/network-bandwidth": bits per second); an error with the host's network."""
    from pyrun.net import bandwidth

    if options.net_bandwidth:
        where, config.bandwidth = "--net-bandwidth", bandwidth.parse(options.net_bandwidth)
    else:
        where = f"isolator {_BANDWIDTH}"
        for item in app["isolators"]:
            if item["name"] == _BANDWIDTH:
                config.bandwidth = dict.fromkeys(("in", "out"), bandwidth.rate(str(item["value"]["limit"]), where))
    if config.network == "host":
        hint = "choose a network of the pod's own, as in --net default"
        raise blame(where)("limit bandwidth", "", "with the host's network that is not possible", hint=hint, origin=where)


_BANDWIDTH = "resource/network-bandwidth"
_LIMITS = (
    "resource/memory",
    "resource/cpu",
    "os/linux/cpu-shares",
    "resource/block-bandwidth",
    "resource/block-iops",
)  # see pyrun.pod.limits


def _is_plain(name: str, letters: frozenset[str]) -> bool:
    known = 0 < len(name) <= _HOST_NAME_MAX and letters.issuperset(name)
    return known and name[0] not in "-." and name[-1] not in "-." and ".." not in name


def _hostname(options: Options, config: Config) -> None:
    if options.hostname is None:
        return
    name = options.hostname
    if not _is_plain(name, _NAME):
        hint = "use up to 64 letters, digits, dashes and dots, as in web-1"
        raise UsageError("use host name", name, "not a host name", hint=hint, origin="--hostname")
    config.hostname = name
    config.origins["hostname"] = "--hostname"


def _names(options: Options, config: Config, rootfs: RootFS) -> None:
    """Files for name look-ups, for images that ship none: rkt's rule is flag, volume, image, generated."""
    if options.names_given or config.network == "own":
        from pyrun.pod.lookups import fill

        fill(options, config, rootfs)
        return
    if config.network == "host":
        from pyrun.host import read_small

        config.hosts = read_small("/etc/hosts").decode("utf-8", "replace").replace("\0", "")
        config.resolv = read_small("/etc/resolv.conf").decode("utf-8", "replace").replace("\0", "")
    if not config.hosts:
        config.hosts = f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{config.hostname}\n"
