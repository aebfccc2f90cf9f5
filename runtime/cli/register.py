"""`pyrun register`: a running pod becomes a machine of systemd-machined's."""

from __future__ import annotations

import os

from pyrun.cli.each import each
from pyrun.errors import StateError, UsageError
from pyrun.plan.numbers import whole
from pyrun.pod.live import find_live
from pyrun.pod.state import Pods
from pyrun.pod.status import status
from pyrun.service import machined

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args
    from pyrun.pod.live import Live

__all__ = ["run"]


def run(args: Args) -> int:
    """Register the pods that are meant; without a word that of $MAINPID, which systemd gives to ExecStartPost=."""
    from pyrun.cli.references import of_files

    pods = Pods(args.root)
    words = [*args.pods, *of_files(args.uuid_file)] or [_main()]
    if args.name and len(words) != 1:
        raise UsageError("register", "", "--name is for one pod", hint="register the others by their own names")

    def act(uuid: str) -> str:
        found = status(pods, uuid)
        name = args.name or str(found.get("pod_name") or "") or f"{found.get('app') or 'pod'}-{uuid[:8]}"
        if not machined.is_name(name):
            hint = "letters, digits and inner dots, dashes and underscores, up to 64: choose one with --name"
            raise UsageError("register", name, "cannot be the name of a machine", hint=hint)
        with find_live(pods, uuid) as live:
            _must_be_alone(live)
            machined.register(name, uuid, live.init)
        return name

    return each(args, pods, words, act)


def _must_be_alone(live: Live) -> None:
    """StateError unless the pod has a unit of its own: `machinectl terminate` stops all of the unit that process 1 is in."""
    unit, folder = machined.unit_of(live.init)
    own = [pid for pid in (live.supervisor, live.keeper) if pid]
    if unit and not machined.strangers(unit, folder, own, live.cgroup):
        return
    beside = f"it runs in {unit} beside others, and `machinectl terminate` would stop all of that"
    reason = beside if unit else "it is in no unit of systemd's"
    hint = "give it one of its own: `pyrun generate systemd --machined`, or systemd-run --scope pyrun run --detach ..."
    raise StateError("register pod", live.uuid, reason, hint=hint)


def _main() -> str:
    pid = os.environ.get("MAINPID", "")
    uuid = machined.pod_of_process(int(pid)) if whole(pid, 1 << 22) > 0 else ""
    if not uuid:
        hint = "name it by UUID, the beginning of one, its name, or --uuid-file; in a unit, ExecStartPost= knows it by $MAINPID"
        raise UsageError("register", "", "needs a POD", hint=hint)
    return uuid
