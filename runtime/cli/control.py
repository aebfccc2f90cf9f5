"""Verbs that change pods: `stop`, `kill`, `pause`, `resume`, `restart`, `rm`, `rename`."""

from __future__ import annotations

import signal

from pyrun.cli.each import each
from pyrun.cli.output import emit_json
from pyrun.cli.references import of_files, references
from pyrun.errors import UsageError
from pyrun.pod import control
from pyrun.pod.names import rename, resolve
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]

_TIMEOUT = 10  # seconds between the signal and the kill


def run(args: Args) -> int:
    """Carry out the verb on each pod that is meant."""
    pods = Pods(args.root)
    if args.verb == "rename":
        words = [*of_files(args.uuid_file), *args.pods]
        if len(words) != 2:
            raise UsageError("rename", "", "takes a pod and its new name", hint="pyrun rename POD NAME")
        uuid = resolve(pods, words[0])[1]
        rename(pods, uuid, words[1])
        if args.format == "json":
            emit_json({"uuid": uuid, "pod_name": words[1]})
        return 0
    absent = args.verb == "rm" and args.force
    return each(args, pods, references(args), lambda uuid: _one(args, pods, uuid), absent=absent)


def _signal(args: Args) -> int:
    return control.signal_number(args.signal, "option --signal") if args.signal else 0


def _one(args: Args, pods: Pods, uuid: str) -> None:
    if args.verb == "stop":
        seconds = _TIMEOUT if args.timeout is None else args.timeout
        control.stop(pods, uuid, signal=_signal(args), seconds=seconds, force=args.force)
    elif args.verb == "kill":
        control.kill(pods, uuid, _signal(args) or signal.SIGKILL)
    elif args.verb == "pause":
        control.pause(pods, uuid, *(() if args.timeout is None else (args.timeout,)))
    elif args.verb == "resume":
        control.resume(pods, uuid)
    elif args.verb == "restart":
        from pyrun.pod.again import start_again

        seconds = _TIMEOUT if args.timeout is None else args.timeout
        start_again(pods, uuid, signal=_signal(args), seconds=seconds, movable=True)
    else:
        control.remove(pods, uuid, force=args.force)
