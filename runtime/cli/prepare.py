"""`pyrun prepare`, `pyrun run-prepared` and `pyrun run --detach`: a pod on disk, and the program that runs it.

Running is native (native/keeper.c).  The launcher finds a prepared pod by UUID or name without Python; what it cannot find,
a beginning of a UUID or a --uuid-file, ends up here.
"""

from __future__ import annotations

import os
import sys

from pyrun import native
from pyrun.cli.explain import explainer
from pyrun.cli.origin import of_this_run
from pyrun.cli.references import references
from pyrun.cli.run import BACKGROUND, find_image, options_of, save_uuid, tell
from pyrun.errors import PyrunError, StateError, UsageError
from pyrun.host import probe
from pyrun.images.store import Store
from pyrun.pod.control import remove
from pyrun.pod.keep import restart_policy
from pyrun.pod.names import resolve
from pyrun.pod.place import take_place
from pyrun.pod.prepare import prepare
from pyrun.pod.recipe import make_recipe
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyrun.cli.parse import Args

__all__ = ["become_keeper", "refuse_foreground", "refuse_sockets", "run", "run_detached"]


def run(args: Args) -> int:
    """Carry out the verb."""
    if args.verb == "run-prepared":
        return _run_prepared(args)
    if args.apps or args.pod_manifest:
        from pyrun.cli.several import prepare_pod

        print(prepare_pod(args, lasting=True))
        return 0
    print(_prepare(args, lasting=True))
    return 0


def run_detached(args: Args) -> int:
    """Prepare a pod and run it in the background; does not come back."""
    refuse_sockets("run --detach")
    refuse_foreground(args)
    if args.interactive and not args.tty:
        hint = "a pod in the background reads /dev/null, or a terminal that one can attach to: add --tty"
        raise UsageError("options --detach and --interactive", "", "exclude each other", hint=hint)
    pods, uuid = Pods(args.root), _prepare(args, lasting=False)
    try:
        take_place(pods, uuid)
    except BaseException:
        remove(pods, uuid)
        raise
    become_keeper(args.root, uuid, "detach")


def refuse_foreground(args: Args) -> None:
    """UsageError where something is asked for that only a pod in the background has."""
    given = args.given & BACKGROUND
    if given and not args.detach:
        option = "--" + min(given).replace("_", "-")
        raise UsageError(f"option {option}", "", "is for a pod in the background", hint="add --detach, or use `pyrun prepare`")


def _prepare(args: Args, *, lasting: bool) -> str:
    uuid = new_uuid()
    if args.uuid_file_save:
        save_uuid(args.uuid_file_save, uuid)
    options = options_of(args)
    options.keep = not args.rm
    restart_policy(options.restart or "no")
    pods = Pods(args.root)
    pods.sweep()
    store = Store(args.root)
    image = find_image(args, store)
    with store.lock(exclusive=False):
        recipe = make_recipe(options, store, image, pods, probe(), explain=explainer(args))
        prepare(recipe, options, pods, uuid, lasting=lasting, command=of_this_run(args))
    if not args.quiet:
        for note in recipe.notes:
            tell(note)
    return uuid


def refuse_sockets(verb: str) -> None:
    """The keeper passes no sockets on: better to say so than to let the app miss them."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        hint = "sockets of the service manager go to pods that `pyrun run` starts in the foreground"
        raise UsageError(verb, "", "takes no sockets", hint=hint)


def _run_prepared(args: Args) -> int:
    refuse_sockets(args.verb)
    words = references(args)
    if len(words) != 1:
        raise UsageError(args.verb, "", "takes one pod", hint=f"`pyrun {args.verb} --help` shows how")
    pods = Pods(args.root)
    phase, uuid = resolve(pods, words[0])
    if phase != "prepared":
        raise StateError("start pod", uuid, f"it is {phase}", hint="a prepared pod runs once: see `pyrun prepare`")
    take_place(pods, uuid)
    become_keeper(args.root, uuid, "detach" if args.detach else "front")


def become_keeper(root: str, uuid: str, how: str) -> NoReturn:
    """Turn this process into the keeper of a prepared pod; `how` as native/keeper.c has it."""
    pods = Pods(root)
    if os.path.exists(f"{pods.path}/prepared/{uuid}/net.want"):
        from pyrun.pod.network import SLOT, take_network

        os.dup2(take_network(pods, uuid), SLOT)
        os.set_inheritable(SLOT, True)
    sys.stdout.flush()
    try:
        os.execve(native.KEEPER, ["pyrun: keeper", root, uuid, how], os.environ)
    except OSError as error:
        raise PyrunError("start the native keeper", errno=error.errno or 0, hint="is the installation complete?") from error
