"""`pyrun network`: make, list, show, check and remove networks."""

from __future__ import annotations

from pyrun.cli.output import emit_json, say, table
from pyrun.errors import StateError, UsageError
from pyrun.net import manage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]


def run(args: Args) -> int:
    """Carry out the verb."""
    what = args.verb.partition(" ")[2]
    if what == "list":
        return _list(args)
    if what == "show":
        return _show(args)
    if what == "create":
        return _create(args)
    if what == "check":
        return _check(args)
    for name in args.names:
        manage.remove(args.root, name, force=args.force)
        say(name)
    return 0


def _list(args: Args) -> int:
    found = manage.listing(args.root)
    if args.format == "json":
        emit_json(found)
        return 0
    rows = [[one["name"], one["kind"], _subnets(one), one["pods"]] for one in found]
    table(["name", "kind", "subnets", "pods"], rows, legend=not args.no_legend)
    return 0


def _subnets(one: dict[str, object]) -> str:
    subnets = one.get("subnets")
    return str(one.get("wrong") or "") or ", ".join(subnets if isinstance(subnets, list) else []) or str(one.get("path") or "-")


def _show(args: Args) -> int:
    found = manage.show(args.root, args.network)
    if args.format == "json":
        emit_json(found)
        return 0
    members = found.pop("members")
    for name, value in found.items():
        words = ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else value
        if words not in ("", None):
            say(f"{name}={words}")
    rows = [[one["uuid"], ", ".join(one["names"]) or "-", ", ".join(one["addresses"]), one["mac"], one["link"]] for one in members]
    if rows:
        say()
        table(["pod", "names", "addresses", "mac", "interface"], rows)
    return 0


def _create(args: Args) -> int:
    if args.subnet and args.no_ipv6:
        raise UsageError("option --no-ipv6", "", "goes with no --subnet", hint="a network has the subnets that are named")
    network = manage.create(
        args.root,
        args.network,
        args.subnet,
        kind=args.kind,
        bridge=args.bridge or "",
        mtu=args.mtu or 0,
        internal=args.internal,
        masquerade=not args.no_masquerade,
        ipv6=not args.no_ipv6,
    )
    if args.format == "json":
        emit_json(network.document())
    else:
        say(f"{network.name} {', '.join(map(str, network.subnets))}")
    return 0


def _check(args: Args) -> int:
    from pyrun.pod.live import find_live
    from pyrun.pod.names import resolve
    from pyrun.pod.state import Pods

    pods = Pods(args.root)
    code = 0
    for word in args.pods:
        phase, uuid = resolve(pods, word)
        if phase != "running":
            raise StateError("check the network of pod", uuid, f"it is {phase}", hint="only running pods have one")
        with find_live(pods, uuid) as live:
            wrong = manage.check(args.root, uuid, f"/proc/{live.init}/ns/net")
        for words in wrong:
            say(f"{uuid} {words}")
            code = 1
    return code
