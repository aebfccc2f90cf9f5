"""`pyrun gc`: remove what ended, died or was left half-made."""

from __future__ import annotations

from pyrun.cli.output import escape
from pyrun.images.importer import collect_tmp
from pyrun.images.store import Store
from pyrun.pod.collect import DAY, collect
from pyrun.pod.names import phase_of
from pyrun.pod.state import Pods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]

_WORDS = {
    "garbage": "removed the rest of pod",
    "preparing": "removed unfinished pod",
    "running": "removed crashed pod",
    "exited": "removed ended pod",
    "prepared": "removed expired pod",
    "file": "removed what is no directory, so no pod:",
}


def run(args: Args) -> int:
    """Remove dead pods, kept ones that ended more than --grace-period seconds ago, and leftovers of broken imports."""
    removed: list[tuple[str, str]] = []
    pods = Pods(args.root)

    def told(phase: str, uuid: str) -> None:
        if all(known != uuid for _, known in removed):  # a crashed pod is an ended one first, and then gone
            removed.append((phase, uuid))

    pods.sweep(told, thorough=True, mark=args.mark_only)
    files = rest = 0
    if not args.mark_only:
        expire = DAY if args.expire_prepared is None else args.expire_prepared
        collect(pods, grace=args.grace_period or 0, expire=expire, told=told)
        files = collect_tmp(Store(args.root))
        from pyrun.net.sweep import sweep

        rest = sweep(args.root)
    if args.format == "json":
        import json

        told_of = [{"uuid": uuid, "was": phase, "now": phase_of(pods, uuid)} for phase, uuid in removed]
        print(json.dumps({"pods": told_of, "imports": files, "networks": rest}))
        return 0
    for phase, uuid in removed:
        kept = phase == "running" and not args.mark_only and phase_of(pods, uuid) == "exited"  # by --keep, and younger than the grace
        print("marked crashed pod" if args.mark_only or kept else _WORDS[phase], escape(uuid) + (", which is kept" if kept else ""))
    if files:
        print(f"removed {files} unfinished import{'s' if files != 1 else ''}")
    if rest:
        print(f"took back {rest} of what dead pods had in networks: addresses, ports, interfaces, rules")
    return 0
