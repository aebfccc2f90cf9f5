"""The library's pods in the background: without root a child makes them, which is root of a user namespace (`pyrun.pod.inside`)."""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import PyrunError, UsageError
from pyrun.host import probe
from pyrun.pod.binds import volumes
from pyrun.pod.inside import call
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pyrun.api import App, Runtime
    from pyrun.pod.keywords import Keywords

__all__ = ["make", "make_below", "make_several", "make_several_below", "start", "take_back"]

_PODS = frozenset(  # keywords of a pod, which no app of several has for itself
    (
        *("cgroup_manager", "config", "dns", "dns_domain", "dns_opt", "dns_search", "exit_policy", "hostname", "hosts_entry", "keep"),
        *("log_driver", "log_opt", "mds", "net", "net_ahead", "net_bandwidth", "net_isolate", "pid", "pod_limit", "pod_name", "port"),
        *("restart", "slice", "sysctl", "take_name"),
    )
)
_OBJECTS = {
    "volume": "gid kind mode name origin read_only recursive size source target uid".split(),
    "mount": "origin read_only target volume".split(),
}


def make(root: str, image: str | None, args: Sequence[str], rootfs: str | None, options: Mapping[str, Any], *, start: bool) -> str:
    """Make a pod, with `start` a running one, as `pyrun.Runtime.prepare` and `detach` do; its UUID."""
    words = [_plain("image", image), _plain("args", args), _plain("rootfs", rootfs), _options(options)]
    return str(call("pyrun.background", "make_below", root, *words, start))


def make_below(root: str, image: str | None, args: Sequence[str], rootfs: str | None, options: dict[str, Any], start: bool) -> str:
    """Be the child of `make`; it may be moved to where the pod can be limited."""
    from pyrun.api import Runtime

    return Runtime(root)._prepare(image, args, rootfs, _given(options), start=start, movable=True).uuid  # type: ignore[arg-type]


def start(pods: Pods, uuid: str, *, movable: bool) -> None:
    """Start a prepared pod that nobody knows of yet, so none is left where that fails; see `pyrun.pod.again.start_prepared`."""
    from pyrun.pod.again import start_prepared
    from pyrun.pod.removing import remove

    try:
        start_prepared(pods, uuid, movable=movable)
    except BaseException:
        with contextlib.suppress(PyrunError, OSError):
            remove(pods, uuid, force=True)
        raise


def make_several(runtime: Runtime, apps: Sequence[App], options: Keywords) -> str:
    """Make a pod of several apps, as `pyrun.Runtime.prepare_pod` does; its UUID."""
    from pyrun.pod import several

    if not apps:
        raise UsageError("make a pod", "", "it has no app")
    for name in sorted(name for app in apps for name in _PODS.intersection(app.options)):
        raise UsageError("make a pod", f"an app's {name}", "it is the pod's", hint="give it beside the list of apps")
    if os.geteuid():
        plain = [(_plain("image", app.image), _plain("args", app.args), _options(app.options)) for app in apps]
        return str(call("pyrun.background", "make_several_below", runtime.root, plain, _options(options)))
    pod: Keywords = {"keep": True, **options}
    uuid = new_uuid()
    made = []
    shared = list(volumes(pod.get("volume", ())))
    with runtime.store.lock(exclusive=False):
        for app in apps:
            own: Keywords = {**pod, **app.options, "volume": [*shared, *volumes(app.options.get("volume", ()))]}
            wanted = runtime._wanted(app.args, False, own)
            made.append(several.App(wanted, runtime._trusted(app.image, wanted)))
        several.prepare_several(made, runtime.pods, runtime.store, probe(), uuid, explain=[])
    return uuid


def make_several_below(root: str, apps: Sequence[tuple[str, list[str], dict[str, Any]]], options: dict[str, Any]) -> str:
    """Be the child of `make_several`."""
    from pyrun.api import App, Runtime

    made = [App(image, args, **_given(own)) for image, args, own in apps]
    return Runtime(root).prepare_pod(made, **_given(options)).uuid


def take_back(root: str, name: str, made: object) -> None:
    """Remove the pod that a child has made and that nobody hears of any more; `name` is what it was asked for."""
    from pyrun.pod.removing import remove

    if name in ("make_below", "make_several_below"):
        remove(Pods(root), str(made), force=True)


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords as plain values; a volume is its attributes, with its source found from this directory."""
    given = dict(options)
    if given.get("volume"):
        given["volume"] = volumes(given["volume"])
    for name, attributes in _OBJECTS.items():
        if given.get(name):
            given[name] = [{each: getattr(one, each) for each in attributes} for one in given[name]]
    return {name: _plain(name, value) for name, value in given.items()}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    from types import SimpleNamespace

    for name in _OBJECTS:
        if options.get(name):
            options[name] = [SimpleNamespace(**one) for one in options[name]]
    return options


def _plain(name: str, value: object) -> object:
    """What marshal takes; it takes no sub-classes."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {_plain(name, key): _plain(name, one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(name, one) for one in value]
    raise UsageError("start container", name, f"{type(value).__name__} is no kind of value for it", hint="see pyrun.pod.keywords.Keywords")
