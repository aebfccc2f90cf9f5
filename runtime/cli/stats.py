"""`pyrun stats` and `pyrun update`: what running pods use, and what they may."""

from __future__ import annotations

import sys
import time

from pyrun.cli.output import emit_json, size, table
from pyrun.cli.references import references
from pyrun.errors import StateError, UsageError
from pyrun.pod.names import resolve
from pyrun.pod.options import LIMITS, Options
from pyrun.pod.state import Pods
from pyrun.pod.stats import metrics, stats
from pyrun.pod.status import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

    Figures = dict[str, object]

__all__ = ["run"]

_PAUSE = 2.0  # seconds between two looks
_HEADS = ["uuid", "name", "cpu", "memory", "limit", "peak", "pids", "read", "written", "throttled"]


def run(args: Args) -> int:
    """Carry out the verb."""
    pods = Pods(args.root)
    if args.verb == "update":
        return _update(args, pods)
    chosen = [resolve(pods, word)[1] for word in references(args)] if args.pods or args.uuid_file else []
    first = _look(pods, chosen)
    if args.format in ("json", "openmetrics"):
        figures, names = first
        if args.format == "json":
            emit_json(figures)
        else:
            sys.stdout.write(metrics(figures, names))
        return 0
    time.sleep(_PAUSE / 4)  # a share of the processors takes two looks
    while True:
        second = _look(pods, chosen)
        table(_HEADS, [row for one in second[0] for row in _rows(one, first[0], second[1])], legend=True)
        if args.no_stream or not sys.stdout.isatty():
            return 0
        first = second
        time.sleep(_PAUSE)
        sys.stdout.write("\x1b[H\x1b[2J")


def _look(pods: Pods, chosen: list[str]) -> tuple[list[Figures], dict[str, str]]:
    running = [one for one in listing(pods) if one["state"] in ("running", "paused")]
    names = {str(one["uuid"]): str(one["pod_name"] or "") for one in running}
    found = []
    for uuid in chosen or names:
        try:
            found.append(stats(pods, uuid))
        except StateError:
            if chosen:
                raise
    return found, names


def _rows(one: Figures, before: list[Figures], names: dict[str, str]) -> list[list[str]]:
    """One of the pod, and one of each of several apps."""
    uuid = str(one["uuid"])
    earlier: Figures = next((found for found in before if found["uuid"] == uuid), {})
    passed = _number(one, "time") - _number(earlier, "time") if earlier else 0
    name = names.get(uuid) or "-"
    rows = [_row(uuid, name, one, earlier, passed)]
    then = {app["name"]: app for app in _apps(earlier)}
    rows += [_row("", f"{name}/{app['name']}", app, then.get(app["name"], {}), passed) for app in _apps(one)]
    return rows


def _apps(one: Figures) -> list[Figures]:
    apps = one.get("apps")
    return apps if isinstance(apps, list) else []


def _row(uuid: str, name: str, one: Figures, earlier: Figures, passed: int) -> list[str]:
    used = _number(one, "cpu_usec") - _number(earlier, "cpu_usec")
    share = f"{used * 1e5 / passed:.1f}%" if passed > 0 and earlier else "-"
    sizes = [_size(one, name) for name in ("memory_bytes", "memory_limit_bytes", "memory_peak_bytes")]
    moved = [_size(one, name) for name in ("io_read_bytes", "io_written_bytes")]
    throttled = f"{_number(one, 'cpu_throttled_usec') / 1e6:.1f}s" if "cpu_throttled_usec" in one else "-"
    return [uuid[:8], name, share, *sizes, str(one.get("pids", "-")), *moved, throttled]


def _number(one: Figures, name: str) -> int:
    value = one.get(name, 0)
    assert isinstance(value, int)
    return value


def _size(one: Figures, name: str) -> str:
    return size(_number(one, name)) if name in one else "-"


def _update(args: Args, pods: Pods) -> int:
    from pyrun.pod.update import update

    options = Options(args.root)
    for name in (*LIMITS, "device"):
        setattr(options, name, getattr(args, name))
    if not options.limited and not args.device and not args.device_deny:
        raise UsageError("update", "", "needs a limit", hint="give for example --memory 64Mi; `pyrun update --help` shows all")
    from pyrun.cli.each import each

    def act(uuid: str) -> None:
        update(pods, uuid, options, deny=args.device_deny, app=args.app)

    return each(args, pods, references(args), act, silent=True)
