"""`pyrun plan`: every kernel operation that `run` with the same arguments would do, in order; none is done."""

from __future__ import annotations

from pyrun import host
from pyrun.cli.output import emit_json, escape
from pyrun.cli.run import find_image, options_of, refuse_socket, tell
from pyrun.images.store import Store
from pyrun.plan.describe import describe, namespaces
from pyrun.planning import Plan as View
from pyrun.pod.recipe import decide
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.cli.parse import Args
    from pyrun.images.store import Image
    from pyrun.plan.config import Config
    from pyrun.plan.ops import Plan
    from pyrun.pod.options import Options

__all__ = ["run"]


def run(args: Args) -> int:
    """Print the plan as text or JSON."""
    if args.apps or args.pod_manifest:
        return _several(args)
    refuse_socket(args)
    store = Store(args.root)
    notes: list[str] = []
    image = find_image(args, store)
    options = options_of(args)
    config, plan = decide(options, store, image, Pods(args.root), host.probe(), new_uuid(), notes)
    network = _network(options, [image], config)
    for note in notes:
        tell(note)
    if args.format == "json":
        emit_json({**View(plan, notes).to_json(), **network})
    else:
        print("\n".join([*_words(network), _text(plan)]))
    return 0


def _several(args: Args) -> int:
    """What is done for all apps, then what is done for each, in the order in which they start."""
    from pyrun.cli.several import apps_of
    from pyrun.pod.several import decide_several

    store, notes = Store(args.root), list[str]()
    apps = apps_of(args, store)
    made = decide_several(apps, Pods(args.root), store, host.probe(), new_uuid(), notes, [])
    pod = apps[0].options
    shared = ["mount", "ipc", "uts", *(["net"] if pod.network == "none" else []), *(["pid"] if pod.pid == "pod" else [])]
    network = _network(pod, [app.image for app in apps], made[0][0])
    for note in notes:
        tell(note)
    if args.format == "json":
        listed = [{"name": app.name, **View(plan, notes).to_json()} for app, (_, plan) in zip(apps, made, strict=True)]
        emit_json({"namespaces": shared, "apps": listed, **network})
        return 0
    print("\n".join([*_words(network), f"  -  clone the pod's holder into new namespaces: {' '.join(shared)}"]))
    for app, (_, plan) in zip(apps, made, strict=True):
        print(f"app {app.name}, which joins the holder's namespaces\n{_text(plan)}")
    return 0


def _text(plan: Plan) -> str:
    lines = [f"  0  clone into new namespaces: {' '.join(namespaces(plan))}"]
    width = max(len(describe(one)) for one in plan.ops if len(describe(one)) < 90)
    for number, one in enumerate(plan.ops, 1):
        origin = f"[{one[7]}]" if one[7] else ""
        lines.append(f"{number:3}  {escape(describe(one)):{width}}  {escape(origin)}".rstrip())
    return "\n".join(lines)


def _network(options: Options, images: list[Image], config: Config) -> dict[str, list[dict[str, Any]]]:
    """What is made in the host before the plan: networks that are joined, ports that are forwarded."""
    if config.network != "own":
        return {"networks": [], "ports": []}
    from pyrun.pod.network import wanted

    want = wanted(options, images, config)
    for one in want["nets"]:
        from pyrun.net.attach import has_plug_ins

        has_plug_ins(options.root, one["network"])  # whether there is one of that name
    networks = [{"network": want["join"]}] if want["join"] else want["nets"]
    names = ("protocol", "host_address", "host_port", "port")  # as `pyrun status` calls them
    return {"networks": networks, "ports": [dict(zip(names, one, strict=True)) for one in want["ports"]]}


def _words(network: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = []
    for one in network["networks"]:
        if ":" in one["network"]:
            lines.append(f"join the network of {one['network']}")
        else:
            lines.append(f"join network {one['network']}{' with ' + ', '.join(one['args']) if one['args'] else ''}")
    for one in network["ports"]:
        address = f"{one['host_address']}:" if one["host_address"] else ""
        lines.append(f"forward {address}{one['host_port']}/{one['protocol']} of the host to port {one['port']}")
    return [f"  -  {escape(line)}" for line in lines]
