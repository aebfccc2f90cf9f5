"""Verbs that look at pods: `list`, `status`, `wait`, `inspect`, `cat-manifest`, `top`."""

from __future__ import annotations

import os
import time

from pyrun.cli.output import age, emit_json, say, table
from pyrun.cli.references import references
from pyrun.pod.names import resolve
from pyrun.pod.state import Pods
from pyrun.pod.status import exit_code, listing, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

__all__ = ["run"]

_TIMED_OUT = 124  # as of timeout(1)


def run(args: Args) -> int:
    """Carry out the verb; `wait` and `status --wait` exit as the app did, 124 when the time is up."""
    pods = Pods(args.root)
    if args.verb == "list":
        return _list(args, pods)
    uuids = [resolve(pods, word)[1] for word in references(args)]
    if args.verb == "wait" and args.condition != "stopped":
        return _until(args, pods, uuids)
    if args.verb == "wait" or (args.verb == "status" and args.wait):
        return _wait(args, pods, uuids)
    if args.verb == "status":
        _show(args, [status(pods, uuid) for uuid in uuids])
    elif args.verb == "inspect":
        from pyrun.pod.inspect import inspect

        emit_json([inspect(pods, uuid) for uuid in uuids])
    elif args.verb == "cat-manifest":
        from pyrun.pod.inspect import manifest

        manifests = [manifest(pods, uuid) for uuid in uuids]
        if args.format == "json" and len(manifests) != 1:
            emit_json(manifests)
            return 0
        for one in manifests:
            emit_json(one)
    else:
        _top(args, pods, uuids)
    return 0


def _list(args: Args, pods: Pods) -> int:
    found = listing(pods)
    if args.quiet and args.format == "json":
        emit_json([one["uuid"] for one in found])
        return 0
    if args.quiet:
        for one in found:
            say(one["uuid"])
        return 0
    if args.format == "json":
        emit_json([{**one, "exit_code": exit_code(one)} if one["state"] == "exited" else one for one in found])
        return 0
    rows = []
    for one in found:
        names = one.get("app", "-"), one.get("name", "-")
        rows.append([_short(one, args.full), one["pod_name"] or "-", *names, _state(one), *_times(one)])
        rows += _rows_of_apps(one)
    table(["uuid", "name", "app", "image", "state", "created", "started"], rows, legend=not args.no_legend)
    return 0


def _rows_of_apps(pod: dict[str, object]) -> list[list[object]]:
    """Of several apps: below the pod's own row one for each further, as rkt has it; the first row tells how the pod does."""
    apps = pod.get("apps")
    further = apps[1:] if isinstance(apps, list) else []
    return [["", "", one["name"], one["image_name"], _state(one), "", _ago(one.get("started"))] for one in further]


def _short(one: dict[str, object], full: bool) -> str:
    return str(one["uuid"]) if full else str(one["uuid"])[:8]


def _state(one: dict[str, object]) -> str:
    if one.get("damaged"):
        return f"{one['state']} (damaged)"
    if one["state"] != "exited":
        return f"{one['state']} ({one['health']})" if one.get("health") else str(one["state"])
    return "exited (unknown)" if one.get("lost") else f"exited ({exit_code(one)}{', oom' if one.get('oom') else ''})"


def _times(one: dict[str, object]) -> list[str]:
    return [_ago(one.get("created")), _ago(one.get("started"))]


def _ago(when: object) -> str:
    return age(time.time() - when / 1e9) + " ago" if isinstance(when, int) else "-"


def _show(args: Args, found: list[dict[str, object]]) -> None:
    for one in found:
        if one["state"] in ("exited", "removed"):
            one["exit_code"] = exit_code(one)
        apps = one.get("apps")
        for app in apps if isinstance(apps, list) else []:
            if app["state"] == "exited":
                app["exit_code"] = exit_code(app)
    if args.format == "json":
        emit_json(found if len(found) != 1 else found[0])
        return
    for one in found:
        apps = one.pop("apps", [])
        _say_all(one, "")
        for app in apps if isinstance(apps, list) else []:
            _say_all(app, f"app.{app.pop('name')}.")


def _say_all(facts: dict[str, object], before: str) -> None:
    for name, value in facts.items():
        if value not in ("", None, []):
            say(f"{before}{name}={_value(name, value)}")


def _value(name: str, value: object) -> object:
    if name == "networks" and isinstance(value, list):
        return " ".join(f"{one['network']}:{','.join(one['addresses'])}" for one in value)
    if name == "ports" and isinstance(value, list):
        return " ".join(f"{_host_port(one)}->{one['address']}:{one['port']}/{one['protocol']}" for one in value)
    if name in ("created", "started", "finished") and isinstance(value, int):
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(value // 10**9)) + f".{value % 10**9:09d}Z"
    return str(value).lower() if isinstance(value, bool) else value


def _host_port(one: dict[str, object]) -> str:
    return f"{one['host_address']}:{one['host_port']}" if one["host_address"] else str(one["host_port"])


def _wait(args: Args, pods: Pods, uuids: list[str]) -> int:
    from pyrun.pod.control import wait

    end = None if args.timeout is None else time.monotonic() + args.timeout
    found = []
    for uuid in uuids:
        one = wait(pods, uuid, _left(end))
        if one is None:
            break
        found.append(one)
    late = uuids[len(found) :]
    if args.format == "json" and args.verb == "wait":
        told = [{"uuid": one["uuid"], "exit_code": exit_code(one), "oom": bool(one.get("oom"))} for one in found]
        emit_json(told + [{"uuid": uuid, "exit_code": None, "oom": False} for uuid in late])
    elif args.format == "json":
        _show(args, found + [status(pods, uuid) for uuid in late])
    elif args.verb == "status" and not late:
        _show(args, found)
    elif not late:
        for one in found:
            say(exit_code(one))
    return _TIMED_OUT if late else exit_code(found[-1])


def _until(args: Args, pods: Pods, uuids: list[str]) -> int:
    from pyrun.pod.health import until

    end = None if args.timeout is None else time.monotonic() + args.timeout
    late = next((uuid for uuid in uuids if not until(pods, uuid, str(args.condition), _left(end))), "")
    if args.format == "json":
        emit_json([{"uuid": uuid, "health": status(pods, uuid).get("health")} for uuid in uuids])
    return _TIMED_OUT if late else 0


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


def _top(args: Args, pods: Pods, uuids: list[str]) -> None:
    from pyrun.pod.inspect import processes

    found = {uuid: processes(pods, uuid, args.app) for uuid in uuids}
    if args.format == "json":
        emit_json(found)
        return
    ticks = os.sysconf("SC_CLK_TCK")
    for uuid, some in found.items():
        if len(found) > 1:
            say(f"pod {uuid}")
        rows = [[one["pid"], one["inside"], one["uid"], one["state"], _cpu(one, ticks), one["rss_kib"], one["command"]] for one in some]
        if any("app" in one for one in some):
            rows = [[one["app"], *row] for one, row in zip(some, rows, strict=True)]
        table([*(["app"] if rows and len(rows[0]) > 7 else []), "host pid", "pid", "uid", "s", "cpu", "rss kib", "command"], rows)


def _cpu(one: dict[str, object], ticks: int) -> str:
    value = one["cpu_ticks"]
    return f"{value / ticks:.2f}s" if isinstance(value, int) else "-"
