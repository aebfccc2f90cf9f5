"""`pyrun metadata`: serves the pods of one state directory; what `--mds` starts by itself, and a unit of systemd's may start."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Serves until no pod is left."""
    from pyrun.service.metaserver import main

    main(args.root, told=False)
    return 0
