"""`pyrun plan`: every kernel operation that `run` with the same arguments would do, in order; none is done."""

from __future__ import annotations

from pyrun import host
from pyrun.cli.output import emit_json, escape
from pyrun.cli.run import find_image, options_of, tell
from pyrun.errors import UsageError
from pyrun.images.store import Store
from pyrun.plan.describe import describe, namespaces
from pyrun.planning import Plan as View
from pyrun.pod.recipe import decide
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args
    from pyrun.plan.ops import Plan

__all__ = ["refuse_several", "run"]


def run(args: Args) -> int:
    """Print the plan as text or JSON."""
    refuse_several(args)
    store = Store(args.root)
    notes: list[str] = []
    image = find_image(args, store)
    _, plan = decide(options_of(args), store, image, Pods(args.root), host.probe(), new_uuid(), notes)
    for note in notes:
        tell(note)
    if args.format == "json":
        emit_json(View(plan, notes).to_json())
    else:
        print(_text(plan))
    return 0


def refuse_several(args: Args) -> None:
    """UsageError for a pod of several apps, of which only one would be seen."""
    if args.apps or args.pod_manifest:
        hint = "ask for each image by itself; `pyrun cat-manifest` tells what a pod of several runs"
        raise UsageError(args.verb, "", "takes one image", hint=hint)


def _text(plan: Plan) -> str:
    lines = [f"  0  clone into new namespaces: {' '.join(namespaces(plan))}"]
    width = max(len(describe(one)) for one in plan.ops if len(describe(one)) < 90)
    for number, one in enumerate(plan.ops, 1):
        origin = f"[{one[7]}]" if one[7] else ""
        lines.append(f"{number:3}  {escape(describe(one)):{width}}  {escape(origin)}".rstrip())
    return "\n".join(lines)
