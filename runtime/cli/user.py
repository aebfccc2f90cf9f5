"""What the command does first for who is not root: it becomes root of a user namespace (user_namespaces(7)).

a verb of _OUTSIDE   stays the user: whoever made a namespace has every capability in it, so all pods can be signalled and read
enter, exec, cp      goes into the namespace of the pod
any other            makes a new one (pyrun.engine.userns); the pod that it starts lives in it
"""

from __future__ import annotations

import os

from pyrun import native
from pyrun.errors import PyrunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["settle"]

_OUTSIDE = frozenset(
    "__complete attach completion doctor events generate help inspect kill list logs metadata network pause register rename resume stats"
    " status stop systemd top trust update version wait".split()
)
_INTO = ("cp", "enter", "exec")
_STARTING = ("prepare", "run", "run-prepared")


def settle(args: Args) -> None:
    """Bring this process, an ordinary user's, to where its verb can be carried out; HostError where the host does not let it."""
    if not args.verb or args.verb.partition(" ")[0] in _OUTSIDE:
        return
    if args.verb in _INTO and _join(args):
        return
    from pyrun.engine.userns import become_root, remember

    become_root()
    if args.verb in _STARTING:
        remember(args.root)


def _join(args: Args) -> bool:
    """Go to where the running pod that is meant can be entered, mostly into its user namespace; whether there is one."""
    from pyrun.pod.live import find_live
    from pyrun.pod.names import resolve
    from pyrun.pod.state import Pods

    try:
        pods = Pods(args.root)
        with find_live(pods, resolve(pods, _pod(args))[1], args.app) as live:
            users = os.open(f"/proc/{live.supervisor}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except (PyrunError, OSError):
        return False  # the verb itself says what is wrong with it
    try:
        if os.fstat(users).st_ino == os.stat("/proc/self/ns/user").st_ino:
            return True  # the library started it: it is entered from here
        native.user_namespace(users)
        return True
    finally:
        os.close(users)


def _pod(args: Args) -> str:
    from pyrun.cli.references import of_files

    if args.uuid_file:
        return of_files(args.uuid_file)[0]
    if args.verb != "cp":
        return args.pod
    return next((pod for pod, colon, path in (word.partition(":") for word in args.paths) if colon and "/" not in pod), "")
