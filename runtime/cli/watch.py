"""`pyrun events`: what happens to pods, until somebody interrupts."""

from __future__ import annotations

import sys
import time

from pyrun.cli.output import emit, escape
from pyrun.cli.references import references
from pyrun.images import fastjson
from pyrun.pod.events import events
from pyrun.pod.names import resolve
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Print one line for each event: of all pods, or of those that are named until the last of them is removed."""
    pods = Pods(args.root)
    chosen = {resolve(pods, word)[1] for word in references(args)} if args.pods or args.uuid_file else set()
    wanted = set(chosen)
    for one in events(pods):
        if chosen and one.get("uuid", "") not in {"", *wanted}:
            continue
        if args.format == "json":
            emit(fastjson.dumps(one) + "\n")
        else:
            rest = " ".join(f"{name}={escape(value)}" for name, value in one.items() if name not in ("time", "event", "uuid"))
            when = one["time"]
            assert isinstance(when, int)
            clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when // 10**9)) + f".{when % 10**9 // 10**6:03d}Z"
            emit(f"{clock} {one.get('uuid', '-')} {one['event']}{' ' + rest if rest else ''}\n")
        sys.stdout.flush()
        if one["event"] == "removed":
            wanted.discard(str(one["uuid"]))
            if chosen and not wanted:
                break
    return 0
