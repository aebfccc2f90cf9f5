"""`pyrun version`: what is running, for bug reports."""

from __future__ import annotations

import posix
import sys

from pyrun import __version__
from pyrun.cli.output import emit_json, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args


def run(args: Args) -> int:
    """Prints the versions of pyrun, Python and the kernel as lines or JSON."""
    return show(args.format)


def show(form: str) -> int:
    """Prints the versions; `form` is "text" or "json"."""
    host = posix.uname()
    facts = {
        "pyrun": __version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "kernel": host.release,
        "machine": host.machine,
    }
    if form == "json":
        emit_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name} {value}")
    return 0
