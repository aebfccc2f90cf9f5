"""`pyrun doctor`: what this host can and cannot do, and how to mend it."""

from __future__ import annotations

from pyrun.cli.output import colour, emit_json, escape, say
from pyrun.doctor import examine
from pyrun.errors import EXIT_FAILED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]

_COLOURS = {"ok": "32", "limited": "33", "missing": "31"}


def run(args: Args) -> int:
    """Print every finding; the exit code is 125 when something is missing without which nothing runs."""
    import sys

    findings = examine(args.root)
    failed = any(one.state == "missing" for one in findings)
    if args.format == "json":
        listed = [{"name": f.name, "state": f.state, "found": f.found, "needed": f.needed, "mend": f.mend} for f in findings]
        emit_json({"ok": not failed, "findings": listed})
        return EXIT_FAILED if failed else 0
    width = max(len(one.name) for one in findings)
    for one in findings:
        mark = colour(f"{one.state:7}", _COLOURS[one.state], sys.stdout)
        say(f"{mark}  {one.name:{width}}  {escape(one.found)}")
        if one.mend:
            say(f"{'':7}  {'':{width}}  for {one.needed}: {escape(one.mend)}")
    return EXIT_FAILED if failed else 0
