"""`pyrun prepare`, `pyrun run-prepared` and `pyrun run --detach`: a pod on disk, and the program that runs it.

Running is native (native/keeper.c).  The launcher finds a prepared pod without Python (native/prepared.c); what it cannot find, or not
start, ends up here.
"""

from __future__ import annotations

import os
import sys

from pyrun import native
from pyrun.cli.explain import explainer
from pyrun.cli.origin import of_this_run
from pyrun.cli.references import references
from pyrun.cli.run import find_image, may_remember, options_of, refuse_socket, save_uuid, sources_of, tell
from pyrun.errors import PyrunError, StateError, UsageError
from pyrun.host import probe
from pyrun.images.store import Store
from pyrun.pod.control import remove
from pyrun.pod.keep import restart_policy
from pyrun.pod.names import resolve
from pyrun.pod.place import take_place
from pyrun.pod.prepare import prepare
from pyrun.pod.recipe import clock, make_recipe
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from pyrun.cli.parse import Args
    from pyrun.images.store import Image
    from pyrun.pod.recipe import Recipe

__all__ = [
    "become_keeper",
    "manner",
    "run",
    "run_detached",
    "run_kept",
    "share_sockets",
    "take_sockets",
    "wanted_sockets",
]


def run(args: Args) -> int:
    """Carry out the verb."""
    if args.verb == "run-prepared":
        return _run_prepared(args)
    if args.apps or args.pod_manifest:
        from pyrun.cli.several import prepare_pod

        uuid = prepare_pod(args, lasting=True)
    else:
        uuid = _prepare(args, lasting=True, keep=not args.rm)
    try:
        _tell(args, uuid)
    except BaseException:  # nobody would know of it
        remove(Pods(args.root), uuid)
        raise
    return 0


def _tell(args: Args, uuid: str) -> None:
    from pyrun.cli.main import flush
    from pyrun.cli.output import emit, emit_json

    if args.format == "json":
        emit_json({"uuid": uuid, "state": "prepared"})
    else:
        emit(uuid + "\n")
    flush()


def run_detached(args: Args) -> int:
    """Prepare a pod and run it in the background; does not come back."""
    if args.interactive and not args.tty:
        hint = "a pod in the background reads /dev/null, or a terminal that one can attach to: add --tty"
        raise UsageError("options --detach and --interactive", "", "exclude each other", hint=hint)
    sockets = take_sockets()
    _start(args, _prepare(args, lasting=False, keep=not args.rm), sockets)


def run_kept(args: Args, uuid: str, image: Image, begun: int) -> NoReturn:
    """Run an app in the foreground that has a name, or that somebody has to look after: by way of a prepared pod and its keeper."""
    sockets = take_sockets()
    _start(args, _prepare(args, lasting=False, keep=args.keep, uuid=uuid, image=image, begun=begun), sockets)


def _start(args: Args, uuid: str, sockets: int) -> NoReturn:
    pods = Pods(args.root)
    try:
        take_place(pods, uuid)
        become_keeper(args.root, uuid, manner(args), [sockets])
    except BaseException:
        remove(pods, uuid)
        raise


def _prepare(args: Args, *, lasting: bool, keep: bool, uuid: str = "", image: Image | None = None, begun: int = 0) -> str:
    if not uuid:
        uuid = new_uuid()
        if args.uuid_file_save:
            save_uuid(args.uuid_file_save, uuid)
    refuse_socket(args)
    begun = begun or clock()
    options = options_of(args)
    options.keep = keep
    restart_policy(options.restart or "no")
    pods = Pods(args.root)
    pods.sweep()
    store = Store(args.root)
    image = image or find_image(args, store)
    with store.lock(exclusive=False):
        sources = sources_of(args, store, image)
        recipe = make_recipe(options, store, image, pods, probe(), explain=explainer(args), sources=sources, begun=begun)
        prepare(recipe, options, pods, uuid, lasting=lasting, command=of_this_run(args))
    if args.verb == "run":
        _remember(args, recipe, pods, uuid)
    if not args.quiet:
        for note in recipe.notes:
            tell(note, args)
    return uuid


def _remember(args: Args, recipe: Recipe, pods: Pods, uuid: str) -> None:
    """Let the launcher make such a pod by itself next time."""
    if may_remember(args, recipe) and not args.uuid_file_save:
        from pyrun.pod.kept import save

        save(pods, uuid, sys.argv[1:], recipe.checks or [], args.pod_name or "", detach=args.detach)


def _run_prepared(args: Args) -> int:
    sockets = take_sockets()
    words = references(args)
    if len(words) != 1:
        raise UsageError(args.verb, "", "takes one pod", hint=f"`pyrun {args.verb} --help` shows how")
    pods = Pods(args.root)
    phase, uuid = resolve(pods, words[0])
    if phase != "prepared":
        raise StateError("start pod", uuid, f"it is {phase}", hint="a prepared pod runs once: see `pyrun prepare`")
    shared = share_sockets(sockets, wanted_sockets(pods, uuid))
    take_place(pods, uuid)
    become_keeper(args.root, uuid, manner(args), shared)


def manner(args: Args) -> str:
    """Return where the keeper is to run the pod, and how it is to tell of it."""
    if args.detach:
        return "json" if args.format == "json" else "detach"
    return "told" if args.format == "json" else "front"


def take_sockets() -> int:
    """Move the service manager's sockets to where a keeper has them; a number with a bit for each."""
    from pyrun.engine.launch import take_sockets as take

    count = take()
    os.closerange(3, 3 + count)
    return (1 << count) - 1


def wanted_sockets(pods: Pods, uuid: str) -> list[list[str] | None]:
    """Return which of the service manager's sockets each app of a prepared pod asks for, None for none by name."""
    from pyrun.pod.live import apps_of
    from pyrun.pod.state import read_json

    fd = os.open(f"prepared/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    try:
        return [one.get("sockets") for one in apps_of(read_json(fd, "pod"))] or [None]
    finally:
        os.close(fd)


def share_sockets(sockets: int, wanted: Sequence[list[str] | None]) -> list[int]:
    """Which app gets which of the service manager's sockets, each a number as `take_sockets` returns it.

    `wanted` are the names that each app asks for; where none does the first one gets all.  UsageError for a name that no socket
    has, and for a socket that no app gets.
    """
    if not sockets or all(names is None for names in wanted):
        return [sockets, *[0] * (len(wanted) - 1)]
    have = os.environ.get("LISTEN_FDNAMES", "").split(":")[: sockets.bit_length()]
    named = {name for names in wanted for name in names or ()}
    known = f"the service manager's sockets are {', '.join(have)}"
    if missing := sorted(named.difference(have)):
        raise UsageError("option --socket", missing[0], "no socket has that name", hint=known)
    if idle := [name for name in have if name not in named]:
        raise UsageError("option --socket", idle[0], "no app gets this socket", hint=f"{known}; give each to an app")
    return [sum(1 << at for at, name in enumerate(have) if name in (names or ())) for names in wanted]


def become_keeper(root: str, uuid: str, how: str, sockets: Sequence[int] = ()) -> NoReturn:
    """Turn this process into the keeper of a prepared pod; `how` and which apps get which `sockets` as native/keeper.c has it."""
    pods = Pods(root)
    environment = dict(os.environ)
    if how == "told":
        from pyrun.cli.lines import begin

        environment["PYRUN_END"] = begin(pods, "prepared", uuid)
    if os.path.exists(f"{pods.path}/prepared/{uuid}/net.want"):
        from pyrun.pod.network import SLOT, take_network

        os.dup2(take_network(pods, uuid), SLOT)
        os.set_inheritable(SLOT, True)
    sys.stdout.flush()
    try:
        more = [",".join(map(str, sockets))] if any(sockets) else []
        os.execve(native.KEEPER, ["pyrun: keeper", root, uuid, how, *more], environment)
    except OSError as error:
        raise PyrunError("start the native keeper", errno=error.errno or 0, hint="is the installation complete?") from error
