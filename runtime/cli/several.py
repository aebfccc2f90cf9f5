"""Several images on one command line, or a pod manifest: `run`, `prepare`, `plan`.

    pyrun run IMAGE [options] [-- arguments] --- IMAGE [options] [-- arguments] ...

What stands between two `---` belongs to the image there.  Options of the pod may stand anywhere.
"""

from __future__ import annotations

from pyrun.cli.explain import explainer
from pyrun.cli.options import VERBS
from pyrun.cli.origin import of_this_run
from pyrun.cli.parse import parse
from pyrun.cli.prepare import become_keeper, manner, share_sockets, take_sockets, wanted_sockets
from pyrun.cli.run import find_image, options_of, refuse_log, save_uuid, tell
from pyrun.errors import UsageError
from pyrun.host import probe
from pyrun.images.store import Store
from pyrun.pod.control import remove
from pyrun.pod.keep import restart_policy
from pyrun.pod.place import take_place
from pyrun.pod.several import App, prepare_several
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.options import Option
    from pyrun.cli.parse import Args

__all__ = ["apps_of", "prepare_pod", "run_several", "split"]

_LISTS = ("list", "paths", "ints", "insecure", "volume", "mount")


def split(args: Args, names: dict[str, Option], argv: list[str], place: int) -> list[str]:
    """Read a command line that names several images into `args`, which then holds the first, and `args.apps`; return the first image."""
    verb = args.verb.split()
    args.apps = [parse([*verb, *part]) for part in _parts(names, argv, place)]
    for one in args.apps:
        if one.help:
            args.help = True
            return []
    first = args.apps[0]
    args.__dict__.update((name, value) for name, value in first.__dict__.items() if name not in ("apps", "root"))
    for one in args.apps[1:]:
        for option in VERBS[args.verb][2]:
            if not option[4].startswith("app "):
                _merge(args, one, option)
    if "--root" in names and (given := [one.root for one in args.apps if "root" in one.given]):
        args.root = given[-1]
    return [first.image]


def _merge(args: Args, other: Args, option: Option) -> None:
    """Take over what another part of the command line says of the pod; volumes are told apart later."""
    name = option[0].partition(" ")[0][2:].replace("-", "_")
    if name not in other.given or option[2] == "volume":
        return
    args.given.add(name)
    value = getattr(other, name)
    if option[2] in _LISTS:
        value = [*getattr(args, name), *value]
    elif option[2] == "env":
        value = {**getattr(args, name), **value}
    setattr(args, name, value)


def _parts(names: dict[str, Option], argv: list[str], place: int) -> list[list[str]]:
    """The words between `---`; a part without an image belongs to the one before it, or else to the next."""
    parts: list[tuple[bool, list[str]]] = [(False, [])]
    while place < len(argv):
        word = argv[place]
        end = place + 1
        if word == "---":
            parts.append((False, []))
        elif word == "--":
            end = argv.index("---", place) if "---" in argv[place:] else len(argv)
        elif word[:1] != "-" or word == "-":
            parts[-1] = True, parts[-1][1]
        elif _takes_value(names, word):
            end += 1
        if word != "---":
            parts[-1][1].extend(argv[place:end])
        place = end
    found: list[list[str]] = []
    waiting: list[str] = []
    for has_image, part in parts:
        if has_image:
            found.append([*waiting, *part])
            waiting = []
        elif found:
            found[-1] += ["---", *part]
        else:
            waiting = [*waiting, *part]
    return found


def _takes_value(names: dict[str, Option], word: str) -> bool:
    """Whether the next word is this option's value, as the parser has it."""
    if word[:2] == "--":
        option = names.get(word)
        return option is not None and option[2] != "flag"
    for place, letter in enumerate(word[1:], 1):
        option = names.get("-" + letter)
        if option is None or option[2] != "flag":
            return option is not None and place + 1 == len(word)
    return False


def run_several(args: Args) -> int:
    """Run several apps in one pod, in the foreground or detached; returns only by an exception."""
    refuse_log(args)
    _refuse_input(args)
    sockets = take_sockets()
    uuid, pods = prepare_pod(args, lasting=False), Pods(args.root)
    try:
        shared = share_sockets(sockets, wanted_sockets(pods, uuid))
        take_place(pods, uuid)
    except BaseException:
        remove(pods, uuid)
        raise
    become_keeper(args.root, uuid, manner(args), shared)


def _refuse_input(args: Args) -> None:
    for one in args.apps if args.detach else ():
        if one.interactive and not one.tty:
            hint = "a pod in the background reads /dev/null, or a terminal that one can attach to: add --tty"
            raise UsageError("options --detach and --interactive", "", "exclude each other", hint=hint)


def prepare_pod(args: Args, *, lasting: bool) -> str:
    """Make a pod of several apps that is ready to run; return its UUID."""
    uuid = new_uuid()
    if args.uuid_file_save:
        save_uuid(args.uuid_file_save, uuid)
    restart_policy(args.restart or "no")
    pods = Pods(args.root)
    pods.sweep()
    store = Store(args.root)
    apps = apps_of(args, store)
    keep = args.keep if args.verb == "run" and not args.detach else not args.rm
    for app in apps:
        app.options.keep = keep
    with store.lock(exclusive=False):
        notes = prepare_several(apps, pods, store, probe(), uuid, explain=explainer(args), lasting=lasting, command=of_this_run(args))
    if not args.quiet:
        for note in notes:
            tell(note, args)
    return uuid


def apps_of(args: Args, store: Store) -> list[App]:
    """Return the apps that the command line or the pod manifest names, with their images."""
    if args.pod_manifest:
        from pyrun.cli.podmanifest import apps_of_manifest

        return apps_of_manifest(args, store)
    apps = []
    for one in args.apps:
        one.root = args.root
        for option in VERBS[args.verb][2]:
            name = option[0].partition(" ")[0][2:].replace("-", "_")
            if not option[4].startswith("app ") and option[2] != "volume":
                setattr(one, name, getattr(args, name))
        apps.append(App(options_of(one), find_image(one, store)))
        apps[-1].sockets = one.socket
    return apps
