"""`pyrun run`: find or import the image, decide, make the pod, and become its supervisor.

The process is replaced by the native helper and keeps its pid; when the plan fails the helper becomes
`pyrun.cli.explain`, which renders the error.  Hot: see DESIGN section 8 for what may be imported.
"""

from __future__ import annotations

import os
import sys

from pyrun import native
from pyrun.cli.explain import explainer
from pyrun.errors import PyrunError, UsageError
from pyrun.host import probe
from pyrun.images import resolve
from pyrun.images.store import Store
from pyrun.native.users import is_root
from pyrun.pod.options import Options
from pyrun.pod.recipe import ABSENT, clock, has_check, make_recipe
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pyrun.cli.parse import Args
    from pyrun.host import Host
    from pyrun.images.registry.pull import Progress
    from pyrun.images.store import Image
    from pyrun.pod.recipe import Recipe

__all__ = [
    "BACKGROUND",
    "HEALTH",
    "decide",
    "find_image",
    "may_remember",
    "options_of",
    "refuse_log",
    "refuse_socket",
    "run",
    "save_uuid",
    "sources_of",
    "tell",
]

HEALTH = frozenset("health_cmd health_interval health_timeout health_retries health_start_period health_on_failure".split())
KEPT = HEALTH | {"pod_name", "restart", "take_name"}  # what takes a prepared pod in the foreground, too
BACKGROUND = frozenset(("log_driver", "log_opt"))


def run(args: Args) -> int:
    """Run an image in the foreground, or detached; returns only by an exception."""
    if args.apps or args.pod_manifest:
        from pyrun.cli.several import run_several

        return run_several(args)
    if args.detach:
        from pyrun.cli.prepare import run_detached

        return run_detached(args)
    from pyrun.engine.launch import become  # which `decide` has no use for, and `pyrun.cli.bundling` puts aside
    from pyrun.pod.create import create

    refuse_log(args)
    refuse_socket(args)
    begun = clock()
    uuid = new_uuid()
    if args.uuid_file_save:
        save_uuid(args.uuid_file_save, uuid)
    options = options_of(args)
    pods = Pods(args.root)
    pods.sweep()
    store = Store(args.root)
    image = find_image(args, store)
    if args.given & KEPT or (has_check(image) and not options.no_healthcheck):
        from pyrun.cli.prepare import run_kept

        run_kept(args, uuid, image, begun)
    with store.lock(exclusive=False):
        recipe, host = _recipe(args, options, store, image, pods, begun)
        above: str | None = host.cgroup
        if recipe.controllers:
            from pyrun.engine.placement import take
            from pyrun.pod.place import limits_of

            take(uuid, recipe.controllers, limits_of(recipe.block) if "@systemd" in recipe.controllers else ())
            above = None  # it may be elsewhere now
        if recipe.net is None:
            native.hold_signals()  # what is made now is the supervisor's
        pod = create(recipe, pods, uuid, above)
    for note in () if args.quiet else (*recipe.notes, *(["the image's files were copied: no overlay"] if options.no_overlay else [])):
        tell(note, args)
    _remember(args, recipe)
    # with a network more than others need is here
    before = None if recipe.net or _is_bundled() else lambda: _bundle(args)
    try:
        become(pod.block, pod.slots, pod.title, args.root, before=before, end=_end(args, pods, uuid))
    except OSError as error:
        pod.discard()
        raise PyrunError("start the native helper", errno=error.errno or 0, hint="is the installation complete?") from error


def decide(args: Args) -> bool:
    """Leave a recipe for the command line and return True, or note that there can be none.  The launcher holds the store's lock."""
    begun, options, pods, store = clock(), options_of(args), Pods(args.root), Store(args.root)
    image = find_image(args, store)
    if args.apps or args.given & KEPT or (has_check(image) and not options.no_healthcheck):
        return False
    recipe, _ = _recipe(args, options, store, image, pods, begun)
    if _remember(args, recipe):
        return True
    from pyrun.pod.cache import refuse

    refuse(args.root, sys.argv[1:], recipe, here=_is_here(args))
    return False


def _recipe(args: Args, options: Options, store: Store, image: Image, pods: Pods, begun: int) -> tuple[Recipe, Host]:
    sources, host = sources_of(args, store, image), probe()
    return make_recipe(options, store, image, pods, host, explain=explainer(args), sources=sources, begun=begun), host


def _end(args: Args, pods: Pods, uuid: str) -> str:
    if args.format != "json":
        return ""
    from pyrun.cli.lines import begin

    return begin(pods, "running", uuid)


def may_remember(args: Args, recipe: Recipe) -> bool:
    """Return whether the launcher may do the same again by itself; not where a file with secrets or one of the caller's plays a part."""
    if recipe.checks is None or args.pull_policy == "update" or args.set_env_file or args.debug:
        return False
    if not is_root() and not os.path.exists(args.root + "/users"):  # see native/users.c
        return False
    if args.signature or args.policy or args.format == "json":  # the launcher would not know how the last line begins
        return False
    recipe.checks += [(path, (0, 0, 0, 0, 0), ABSENT) for path in resolve.absent(args.image)]
    return True


def _remember(args: Args, recipe: Recipe) -> bool:
    """Leave it for the launcher, if that may do the same again; return whether it is there."""
    if not may_remember(args, recipe):
        return False
    from pyrun import native
    from pyrun.pod.cache import save

    return save(args.root, sys.argv[1:], recipe, native.HELPER, args.set_env, here=_is_here(args))


def _is_here(args: Args) -> bool:
    """Whether the current directory decides; what a name would mean if there were a file of it there is checked (`resolve.absent`)."""
    path = resolve.parse(args.image).path
    disks = (*args.io_max, *args.io_latency)
    return path[:1] not in ("", "/") or any(volume.relative for volume in args.volume) or any(disk[:1] != "/" for disk in disks)


def _is_bundled() -> bool:
    """Return whether all modules come from one file, or will in the next run that has to decide."""
    import pyrun

    if pyrun.__spec__.loader is None:  # this one's do
        return True
    from pyrun.cli import bundle

    return os.path.exists(bundle.path(os.path.dirname(pyrun.__file__ or "")))


def _bundle(args: Args) -> None:
    """Write that file, or let the next run do it: the pod is made by now, and its image may be gone.

    What it has to begin with is what `decide` calls, so that is watched: it leaves the same recipe again.
    """
    from pyrun.cli.bundling import called, save
    from pyrun.cli.parse import parse

    found = called()
    try:
        parse(sys.argv[1:])
        left = decide(args)
    except Exception:
        return
    finally:
        sys.setprofile(None)
    if left:
        save("run", found)


def refuse_log(args: Args) -> None:
    """UsageError where the output is the caller's, so that nobody keeps it; that may be said."""
    given = args.given & BACKGROUND
    if given and not args.detach and (given != {"log_driver"} or args.log_driver != "passthrough"):
        option = "--" + min(given).replace("_", "-")
        hint = "in the foreground the output goes where the caller's goes: redirect that, or add --detach, or use `pyrun prepare`"
        raise UsageError(f"option {option}", "", "is for a pod in the background", hint=hint)


def refuse_socket(args: Args) -> None:
    """UsageError where there is nothing to choose."""
    if args.socket is not None:
        raise UsageError("option --socket", "", "is for a pod of several apps", hint="leave it out: the only app gets every socket")


def tell(note: str, args: Args | None = None) -> None:
    """Write a note to standard error, as JSON where `args` ask for that."""
    from pyrun.cli.output import escape, has_lines, say_line

    if has_lines(args):
        say_line({"note": note})
        return
    sys.stderr.write(f"pyrun: note: {escape(note)}\n")


def options_of(args: Args) -> Options:
    """Return what the command line asks of the pod."""
    options = Options(args.root)
    for name in options.__dict__:
        if name in args.__dict__:
            setattr(options, name, getattr(args, name))
    if args.set_env_file:
        from pyrun.cli.specs import merge_env_files

        options.set_env = {**merge_env_files(args.set_env_file), **options.set_env}
    return options


def find_image(args: Args, store: Store) -> Image:
    """Return the image that the command line names, fetched as --pull-policy says; see `pyrun.images.resolve`."""
    return resolve.find(
        store,
        args.image,
        signature=args.signature,
        unsigned="image" in args.insecure_options,
        policy=args.pull_policy,
        trust_policy=args.policy or "",
        http=plain_http(args),
        progress=progress_of(args),
        no_cache=args.no_cache,
    )


def plain_http(args: Args) -> list[str]:
    """Return the registries that may be asked over plain http, "" standing for the one that is named as the image."""
    return [word[5:].lower() for word in args.insecure_options if word == "http" or word.startswith("http:")]


def progress_of(args: Args) -> Callable[[], AbstractContextManager[Progress | None]]:
    """Return what shows a download, once there is one."""

    def show() -> AbstractContextManager[Progress | None]:
        from pyrun.cli.output import has_lines
        from pyrun.cli.progress import shown

        return shown(args.quiet or has_lines(args))

    return show


def sources_of(args: Args, store: Store, image: Image) -> list[str]:
    """Files besides the image's that decided: the one that was named, or what a name or a prefix is looked up in."""
    reference = resolve.parse(args.image)
    if reference.path:
        path = os.path.abspath(reference.path)
        index = [path + "/index.json"] if os.path.isdir(path) else []  # of a layout, which may be written to in place
        return [path, *index]
    more = [f"{store.root}/imports"] if reference.kind in ("registry", "url") else []
    if os.path.isdir(f"{store.root}/tags"):  # where there are none, no tag was meant
        more.append(f"{store.root}/tags")
    return [store.ref_dir(image.name), store.root + "/images", *more]


def save_uuid(path: str, uuid: str) -> None:
    """Early, so that whoever cleans up can do so whatever happens next."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with open(fd, "w", encoding="ascii") as file:
            file.write(uuid + "\n")
    except OSError as error:
        hint = "name a writable file that is no symbolic link"
        raise PyrunError("save the pod's UUID in", path, errno=error.errno or 0, hint=hint, origin="--uuid-file-save") from None
