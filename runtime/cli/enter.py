"""`pyrun enter` and `pyrun exec`: one more process in a running pod, confined exactly as its app.

This process becomes the helper and waits for the new one, passing on signals and the terminal.  A command line that
asks for nothing but a program is carried out by the launcher alone (native/quick.c); this is the long way.
"""

from __future__ import annotations

import os

from pyrun.cli.explain import explainer
from pyrun.engine.launch import become
from pyrun.errors import PyrunError, UsageError
from pyrun.native.users import is_root
from pyrun.plan import ops
from pyrun.pod.enter import find_enterable, make_plan, open_slots
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Run a program in a running pod; returns only by an exception."""
    shell = args.verb == "enter"
    if not shell and not args.argv:
        raise UsageError("exec", "", "needs a command", hint="name a program: pyrun exec POD /bin/PROGRAM; for a shell: pyrun enter POD")
    tty = args.tty or (shell and os.isatty(0) and os.isatty(1))
    env = args.set_env
    if args.set_env_file:
        from pyrun.cli.specs import merge_env_files

        env = {**merge_env_files(args.set_env_file), **env}
    with find_enterable(Pods(args.root), _pod(args), args.app) as live:
        plan = make_plan(
            live,
            args.argv,
            interactive=shell or args.interactive,
            tty=tty,
            user=args.user,
            group=args.group,
            set_env=env,
            working_dir=args.working_dir,
            term=os.environ.get("TERM", "xterm"),
        )
        plan.explain = explainer(args)
        if live.cgroup and not is_root():
            from pyrun.engine.placement import approach

            approach(live.cgroup)
        end = ""
        if args.format == "json":
            from pyrun.cli.lines import begin_process

            end = begin_process(live.fd, live.uuid, live.app)
        slots = open_slots(live, plan)
        try:
            become(ops.encode(plan), slots, f"pyrun: enter {live.uuid}", args.root, str(live.init), end=end)
        except OSError as error:
            raise PyrunError("start the native helper", errno=error.errno or 0, hint="is the installation complete?") from error


def _pod(args: Args) -> str:
    if not args.uuid_file:
        return args.pod
    from pyrun.cli.references import one_pod  # not for everybody

    return one_pod(args)
