"""state, list and ps."""

from __future__ import annotations

import os
import sys

from pyrun.errors import StateError, UsageError
from pyrun.images import fastjson
from pyrun.oci import cgroups, state
from pyrun.oci.create import root_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments

__all__ = ["ps", "show_list", "state_verb"]


def state_verb(args: Arguments) -> int:
    """Show the state of a container as JSON."""
    container = state.Container(root_of(args), args.words[0], lock=False)
    if not container.record:
        raise StateError("show state", args.words[0], "container does not exist", hint="it is still being created")
    sys.stdout.write(state.pretty(container.state()))
    return 0


def _format(args: Arguments, default: str = "table") -> str:
    form = args.get("format", default)
    if form not in ("table", "json"):
        raise UsageError("choose format", form, "table or json", origin="--format")
    return form


def show_list(args: Arguments) -> int:
    """List the containers below the root."""
    form = _format(args)
    if args.get("root") and not os.path.isdir(args.get("root")):
        raise StateError("list containers", args.get("root"), "no such directory", hint="create makes it", origin="--root")
    found = []
    for name in state.list_ids(root_of(args)):
        try:
            container = state.Container(root_of(args), name, lock=False)
        except StateError:
            continue
        if container.record:
            found.append(container.state())
        container.close()
    if form == "json":
        sys.stdout.write(fastjson.dumps(found) + "\n")
    elif "quiet" in args.options:
        sys.stdout.write("".join(f"{one['id']}\n" for one in found))
    else:
        rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        rows += [tuple(str(one.get(key, "")) for key in ("id", "pid", "status", "bundle", "created", "owner")) for one in found]
        _table(rows)
    return 0


def _table(rows: list[Any]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() + "\n")


def ps(args: Arguments) -> int:
    """List the processes of a container: their pids in the host as JSON, or what ps(1) says of them."""
    container = state.Container(root_of(args), args.words[0], lock=False)
    group = container.record.get("cgroup")
    pids = cgroups.processes(group) if group else [pid for pid in (container.pid,) if pid]
    if _format(args) == "json":
        sys.stdout.write(fastjson.dumps(pids) + "\n")
        return 0
    import subprocess

    done = subprocess.run(["ps", *(args.words[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StateError("list processes", container.id, done.stderr.strip())
    head, *lines = done.stdout.splitlines()
    column = head.split().index("PID")
    sys.stdout.write("\n".join([head, *(line for line in lines if int(line.split()[column]) in pids)]) + "\n")
    return 0
