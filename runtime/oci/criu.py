"""checkpoint and restore, which are refused: no container of this runtime has been seen to survive them.

Clients ask by the exit status of `checkpoint --help` whether there is anything to be had.
"""

from __future__ import annotations

from pyrun.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyrun.oci.arguments import Arguments

__all__ = ["checkpoint", "refuse", "restore"]


def refuse(verb: str) -> NoReturn:
    """Raise the HostError that says so."""
    raise HostError(verb, "", "checkpoint and restore are not supported", hint="stop the container and start it again")


def checkpoint(args: Arguments) -> int:
    """Refuse."""
    refuse(args.verb)


def restore(args: Arguments) -> int:
    """Refuse."""
    refuse(args.verb)
