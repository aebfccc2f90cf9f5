"""Pages that stay behind: checkpoint serves them until restore, on whatever machine, has taken all (criu(8), --lazy-pages).  Cold.

    checkpoint --lazy-pages --page-server ADDRESS:PORT [--status-fd N]   writes all but the memory, then a NUL to N, and waits
    criu lazy-pages --page-server --address ADDRESS --port PORT          beside the restore, asks for them
    restore --lazy-pages                                                 goes on at once

The files are whole as soon as that NUL comes; the container goes once its last page has been taken, and runs on when nobody came.
"""

from __future__ import annotations

from pyrun.errors import UsageError
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.oci.arguments import Arguments
    from pyrun.oci.criu_rpc import Field

__all__ = ["lazy"]

_LAZY, _SERVER, _STATUS = 48, 11, 49  # fields of criu_opts
_MOST = 1 << 20  # descriptors


def lazy(args: Arguments) -> list[Field]:
    """Return what the options come to; UsageError for those that do not go together."""
    serves, wanted = args.verb == "checkpoint", "lazy-pages" in args.options
    server, status = args.get("page-server"), args.get("status-fd")
    for name in ("page-server", "status-fd"):
        if args.get(name) and not (serves and wanted):
            hint = "memory goes to files, or stays where it was with `checkpoint --lazy-pages`"
            raise UsageError(args.verb, f"--{name}", "is not supported without --lazy-pages", hint=hint, origin=f"--{name}")
    if not wanted:
        return []
    if not serves:
        return [(_LAZY, 1)]
    if "pre-dump" in args.options or "leave-running" in args.options:
        raise UsageError("checkpoint", "--lazy-pages", "goes neither with --pre-dump nor with --leave-running", origin="--lazy-pages")
    address, _, port = server.rpartition(":")
    number = whole(port, 65535)
    if not address or number < 1:
        hint = "--page-server ADDRESS:PORT, such as 127.0.0.1:27000; whoever gets there gets the memory"
        raise UsageError("checkpoint", "--lazy-pages", "needs an address to serve pages at", hint=hint, origin="--page-server")
    found: list[Field] = [(_LAZY, 1), (_SERVER, [(1, address.strip("[]")), (2, number)])]
    if status:
        found.append((_STATUS, descriptor(args)))
    return found


def descriptor(args: Arguments) -> int:
    """Return the number of --status-fd, which criu takes from this process; UsageError when it is none."""
    number = whole(args.get("status-fd"), _MOST)
    if number < 0:
        raise UsageError("checkpoint", "--status-fd", "is not the number of a descriptor", origin="--status-fd")
    return number
