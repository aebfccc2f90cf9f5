"""A decision that can be used again: the encoded plan with a blank where the pod's UUID goes, which is a random UUID of its own.

Working a plan out costs a millisecond, carrying one out costs two.  The same request meets the same
plan as long as what it was made from is unchanged, so a recipe carries `checks`: the stat(2) of every
file that decided, the image's record and its signer's key among them.  What only goes to the app, its
arguments and the values of its variables, may be exchanged.  The library keeps recipes in
memory; `pyrun run` writes them below cache/run, where its launcher finds them (native/recipe.h).
"""

from __future__ import annotations

import os
import time

from pyrun.errors import UsageError
from pyrun.images import fastjson, trust
from pyrun.plan import ops
from pyrun.plan.planner import run_plan
from pyrun.pod.config import app_name, make_config
from pyrun.pod.state import new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrun.engine.installed import Stamp
    from pyrun.host import Host
    from pyrun.images.store import Image, Store
    from pyrun.plan.config import Config
    from pyrun.plan.ops import Plan
    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

    Check = tuple[str, Stamp, int]  # path, stamp, kind of file (stat.S_IFMT) where nothing else of it counts

__all__ = ["ABSENT", "Recipe", "clock", "decide", "given_documents", "make_recipe", "post_stop"]

_COARSE = 5  # CLOCK_REALTIME_COARSE
_HEAD = '{"uuid":"'  # RECIPE_RECORD of native/recipe.h
_ANY = (0, 0, 0, 0, 0)
ABSENT = 1  # a kind of check: nothing may be there
_DIRECTORY, _FILE = 0o040000, 0o100000


class Recipe:
    """What it takes to start one more pod like the last one.

    `block` is the encoded plan and `record` the file `pod` up to its last members, both with `blank` for
    the UUID; `plain` is the plan without what may be exchanged: all arguments of the request but the first `kept`, and the variables
    at `places` of its environment; `copy` are the layers to copy (--no-overlay), `volumes` what to copy of `lowers`, as (path, new
    directory of the pod); `notes` is what the user should be told.
    `net` is what network to make, None where the plan says it all.
    `files` are further ones in the pod's directory, by name.
    `checks` is None for a decision that may not be used again; `controllers` are those of the cgroup that set its limits, and who
    manages it (@systemd, @cgroupfs) where that was said; see `pyrun.engine.placement.take`.
    """

    __slots__ = (
        *("block", "checks", "controllers", "copy", "files", "image", "kept", "lowers", "net", "notes", "places", "plain", "record"),
        *("volumes", "waits"),
    )

    def __init__(self, block: bytes, record: str, copy: list[str], notes: list[str], checks: list[Check] | None) -> None:
        self.block = self.plain = block
        self.kept = 0
        self.places: dict[str, int] = {}
        self.record = record
        self.copy = copy
        self.image: Image | None = None
        self.lowers: list[str] = []
        self.volumes: list[tuple[str, str]] = []
        self.files: dict[str, str] = {}
        self.notes = notes
        self.checks = checks
        self.controllers: list[str] = []
        self.net: dict[str, Any] | None = None
        self.waits = False  # its network can be made only when it has been started

    @property
    def copies(self) -> bool:
        """Whether each pod needs something of its own first: copies of the root or into volumes, a network."""
        return bool(self.copy or self.volumes or self.files or self.net is not None)

    @property
    def blank(self) -> str:
        """What stands for the UUID; the record begins with it."""
        return self.record[len(_HEAD) : len(_HEAD) + 36]

    @property
    def head(self) -> bytes:
        """The record as the native side takes it."""
        return self.record.encode("utf-8", "surrogateescape")

    def fresh(self) -> bool:
        """Whether everything that decided is as it was."""
        return self.checks is not None and all(_stat(path, kind) == then for path, then, kind in self.checks)

    def exchange(self, argv: Sequence[str], variables: Mapping[str, str]) -> bytes:
        """Return the plan for a request that has other arguments and other values of the same variables."""
        return ops.fill(self.plain, argv[self.kept :], {at: f"{name}={variables[name]}" for name, at in self.places.items()})

    def again(self, argv: Sequence[str], variables: Mapping[str, str]) -> Recipe:
        """Return this decision for such a request; the first `kept` arguments are the same."""
        other = Recipe.__new__(Recipe)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.block = self.exchange(argv, variables)
        return other

    def block_for(self, uuid: str) -> bytes:
        """Return the plan of the pod `uuid`."""
        return self.block.replace(self.blank.encode(), uuid.encode())

    def filled(self, text: str, uuid: str) -> str:
        """Return a text of the recipe for the pod `uuid`."""
        return text.replace(self.blank, uuid)

    def net_of(self, uuid: str) -> dict[str, Any]:
        """Return what network the pod `uuid` is to have; there is one."""
        return fastjson.loads(self.filled(fastjson.dumps(self.net), uuid))  # type: ignore[return-value]

    def record_for(self, uuid: str, created: int, cgroup: str, more: str = "") -> str:
        """Return the file `pod` of the pod `uuid`; `created` in nanoseconds since 1970, `cgroup` its directory or "".

        `more` are further members as JSON, each with a comma before it.
        """
        return f'{self.filled(self.record, uuid)}{more},"created":{created},"cgroup":{fastjson.quote(cgroup)}}}'


def clock() -> int:
    """Return the time as files get it, in nanoseconds since 1970."""
    return time.clock_gettime_ns(_COARSE)


def _stat(path: str, kind: int = 0) -> Stamp | None:
    try:
        info = os.stat(path)
    except OSError:
        return _ANY if kind == ABSENT else None
    if kind:
        return _ANY if info.st_mode & 0o170000 == kind else None
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def decide(
    options: Options, store: Store, image: Image, pods: Pods, host: Host, uuid: str, notes: list[str], lowers: list[str] | None = None
) -> tuple[Config, Plan]:
    """Return what would be done for these options; nothing is.  `lowers` are directories in the place of the image's layers."""
    if lowers is None:
        lowers = [store.layer_dir(layer) for layer in image.layers]
    pod_dir = pods.running(uuid)
    config = make_config(options, image, lowers, host, uuid, stage=pods.stage, pod_dir=pod_dir, notes=notes)
    if options.no_overlay:
        config.copy_root = pod_dir + "/rootfs"
    if host.uid or host.inner:
        from pyrun.pod.rootless import lower

        lower(config, host)
    return config, run_plan(config)


def has_check(image: Image) -> bool:
    """Whether the image has a health check of its own (see `pyrun.pod.health`)."""
    config = image.manifest.get("config")
    check = config.get("Healthcheck") if isinstance(config, dict) else None
    test = check.get("Test") if isinstance(check, dict) else None
    return isinstance(test, list) and len(test) > 1


def make_recipe(
    options: Options,
    store: Store,
    image: Image,
    pods: Pods,
    host: Host,
    *,
    explain: list[str] | None = None,
    sources: list[str] | None = None,
    lowers: list[str] | None = None,
    begun: int = 0,
) -> Recipe:
    """Decide and encode; `explain` is the command that explains a failure, `sources` are further files that decided.

    `begun` is the `clock` before the first of them was read: where one changed since, the decision may not be used again.
    With `lowers` those directories take the place of the image's layers, and the caller knows whether they changed.
    """
    notes: list[str] = []
    if options.pod_limit:
        raise UsageError("option --pod-limit", "", "is for a pod of several apps", hint="limit the only app, for example with --memory")
    blank = new_uuid()  # so that nothing of the caller's is taken for it
    config, plan = decide(options, store, image, pods, host, blank, notes, lowers)
    plan.explain = explain or []
    looked = _looked_at(options, config) if not notes and _repeatable(options) else None
    checks = None if looked is None else _checks(store, image, config, [*(sources or ()), *looked[0]], begun)
    if checks and looked:
        checks += [(path, _ANY, _DIRECTORY) for path in looked[1]]
    kept = _take_out(plan, config, options)
    recipe = Recipe(ops.encode(plan), _record(options, image, config, blank), config.lowers if config.copy_root else [], notes, checks)
    recipe.kept, recipe.places = kept, config.variables
    recipe.block = recipe.exchange(options.argv, options.set_env)
    recipe.image = image
    recipe.lowers = config.lowers
    if options.cgroup_manager not in (None, "auto") or options.slice is not None:
        from pyrun.pod.place import manager_of

        recipe.controllers = manager_of(options)
    recipe.controllers += sorted({file.partition(".")[0] for file, _, _ in config.limits})
    recipe.volumes = [(mount.target, f"volume-{mount.name}") for mount in config.mounts if mount.copy_up]
    recipe.files = _files(options, image, config, blank)
    if config.network == "own":
        from pyrun.pod.network import wanted

        recipe.net = wanted(options, [image], config)
        recipe.waits = config.idmap is not None
    if recipe.copy or recipe.volumes or recipe.files or recipe.waits or options.names_given or config.limits_1:
        recipe.checks = None  # each pod needs something of its own; others may be elsewhere in the cgroup hierarchies of version 1
    return recipe


def _record(options: Options, image: Image, config: Config, blank: str) -> str:
    """The first members of the file `pod`."""
    record = fastjson.dumps(
        {
            "uuid": blank,
            "app": app_name(options, image),
            "image": image.id,
            "name": image.name,
            "keep": bool(options.keep),
            "insecure": list(options.insecure_options),
            **_stop_signal(image),
            **_more(options, config),
        }
    )
    return record[:-1]


def _take_out(plan: Plan, config: Config, options: Options) -> int:
    """Take what may be exchanged out of the plan; return how many of the arguments are left: where the first is the program, it decides."""
    kept = 1 if options.argv and len(config.argv) == len(options.argv) else 0
    argv = config.argv[: len(config.argv) - len(options.argv) + kept]
    names = {at: f"{name}=" for name, at in config.variables.items()}
    env = [names.get(at, word) for at, word in enumerate(config.env)]
    plan.ops = [one if one[0] != ops.EXEC else (*one[:3], argv if one[3] is config.argv else one[3], env, *one[5:]) for one in plan.ops]
    return kept


def _more(options: Options, config: Config) -> dict[str, object]:
    """What only some records have."""
    isolators: dict[str, object] = {"isolators": config.isolators} if config.isolators else {}
    documents: dict[str, object] = {"config": given_documents(options)} if options.config else {}
    old: dict[str, object] = {"cgroups_1": _version_1(config)} if config.limits_1 else {}
    return {**post_stop(config), **isolators, **documents, **old}


def _files(options: Options, image: Image, config: Config, blank: str) -> dict[str, str]:
    old = {"groups": "".join(where + "\0" for where in _version_1(config))} if config.limits_1 else {}
    if not config.metadata:
        return old
    from pyrun.pod.metadata import describe

    return {"metadata": describe(blank, [(options, image, config)], options.described, given_documents(options)), **old}


def _version_1(config: Config) -> list[str]:
    """The pod's cgroups of version 1, for whoever finds them when its supervisor was killed."""
    return sorted({where for where, *_ in config.limits_1})


def given_documents(options: Options) -> list[str]:
    """Return the names of the configuration documents that a pod is given."""
    return list(dict.fromkeys([text.partition(":")[0] for text in options.config]))


def post_stop(config: Config) -> dict[str, object]:
    """Return how many seconds a handler for the app's end may take, as a member of the record, or nothing."""
    seconds = [handler[3] for handler in config.handlers if handler[0] == "post-stop"]
    return {"post_stop": seconds[0]} if seconds else {}


def _stop_signal(image: Image) -> dict[str, object]:
    """Of an OCI image; an ACI has no such thing."""
    config = image.manifest.get("config")
    wanted = config.get("StopSignal") if isinstance(config, dict) else None
    return {"stop_signal": wanted} if wanted else {}


def _repeatable(options: Options) -> bool:
    """Not what the environment or the kernel's drivers decide, nor a protection given up, nor a root that has to be copied each time."""
    return not (options.inherit_env or options.insecure_options or options.tty or options.no_overlay or options.device)


def _looked_at(options: Options, config: Config) -> tuple[list[str], list[str]] | None:
    """What of the host limits were decided by, see `pyrun.pod.limits.looked_at`; None also where it is not there to be looked at again."""
    if not config.limits:
        return [], []
    from pyrun.pod.limits import looked_at

    found = looked_at(options, config.limits)
    return found if found is not None and all(map(os.path.isdir, found[1])) else None


def _deciding(store: Store, image: Image) -> list[str] | None:
    """The files by which an image is trusted; None where one that is not there yet could change that."""
    tree = [store.root + "/trust"] if image.kind == "oci" else []  # where a policy would appear
    if image.judged is not None:
        return [*image.judged, *tree]
    if image.signature is not None:
        key = trust.find_key(store.root, image.signature["prefix"], image.signature["fingerprint"])
    elif image.origin is not None:
        key = trust.accepts_unsigned(store.root, image.origin["place"])
        if key is None or trust.has_narrower(store.root, image.origin["place"], key):
            return None
        tree += [store.root + "/trust/prefix.d", trust.SYSTEM_DIR + "/prefix.d"]  # a key of a narrower scope would take the mark back
    else:
        key = None
    if key is None or not key.startswith(store.root + "/"):
        return None  # a key of the system's, which a file that is not there yet could mask
    return [key, *tree]


def _checks(store: Store, image: Image, config: Config, sources: list[str], begun: int) -> list[Check] | None:
    """The files that decided, as they are now; None when one cannot be pinned down that way."""
    found: list[Check] = []
    paths = [store.layer_path(layer) + "/complete" for layer in image.layers]  # these are named by what is in them
    others = [*sources]
    for one in [image, *[store.load(need) for need in image.needs]] if image.layers else []:
        deciding = _deciding(store, one)
        if deciding is None:
            return None
        paths.append(store.image_path(one.id))
        others += deciding
    missing: tuple[str, ...] = (trust.SYSTEM_DIR,)
    if config.network == "host":
        others += ["/etc/hosts", "/etc/resolv.conf"]
    elif config.network == "own":
        from pyrun.pod.lookups import STUB

        others += ["/etc/resolv.conf", STUB]
        missing += ("/etc/resolv.conf", STUB)
    for path in [*paths, *others]:
        now = _stat(path)
        if now is None and not path.startswith(missing):
            return None
        if now is not None and now[4] >= begun and path in others:
            return None  # what was read may be what it was before
        found.append((path, now, 0) if now else (path, _ANY, ABSENT))
    # the place of the mount is of the source's kind
    found += [(mount.source, _ANY, _DIRECTORY if mount.is_dir else _FILE) for mount in config.mounts if mount.kind == "host"]
    return found
