"""`pyrun image tags`: what a registry has of a repository."""

from __future__ import annotations

from pyrun.cli.output import emit_json, say
from pyrun.cli.run import plain_http

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Prints one tag a line, in the registry's order, or all as JSON; nothing is fetched."""
    from pyrun.images.registry.listing import tags

    found = tags(args.name or "", http=plain_http(args))
    if args.format == "json":
        emit_json(found)
        return 0
    for tag in found:
        say(tag)
    return 0
