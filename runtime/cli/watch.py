"""`pyrun events`: what happens to pods, until somebody interrupts."""

from __future__ import annotations

import sys
import time

from pyrun.cli.output import emit, escape
from pyrun.images import fastjson
from pyrun.pod.events import events
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Print one line for each event."""
    for one in events(Pods(args.root)):
        if args.format == "json":
            emit(fastjson.dumps(one) + "\n")
        else:
            rest = " ".join(f"{name}={escape(value)}" for name, value in one.items() if name not in ("time", "event", "uuid"))
            when = one["time"]
            assert isinstance(when, int)
            clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when // 10**9)) + f".{when % 10**9 // 10**6:03d}Z"
            emit(f"{clock} {one.get('uuid', '-')} {one['event']}{' ' + rest if rest else ''}\n")
        sys.stdout.flush()
    return 0
