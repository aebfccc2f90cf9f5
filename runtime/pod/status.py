"""What a pod is and how it does, read without any lock but a look at the pod's own.

A pod that moves to its next phase meanwhile is found there: phases are read in their order.
"""

from __future__ import annotations

import os

from pyrun.errors import StateError
from pyrun.pod.live import apps_of
from pyrun.pod.names import phase_of
from pyrun.pod.state import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["ALIVE", "COPIED", "ENDED", "PHASES", "exit_code", "listing", "status"]

PHASES = ("preparing", "prepared", "running", "exited")
# What a pod of one app tells the launcher knows too, in this order: native/list_text.c
COPIED = ("app", "name", "image", "created", "restart", "log", "exit_policy", "pid_namespace", "isolators")
ALIVE = ("cgroup", "started", "restarts", "pid", "health", "failing")
ENDED = ("code", "signal", "started", "finished", "restarts", "oom", "oom_group", "oom_victim", "lost", "log_dropped")
_OF_APP = ("pid", "code", "signal", "started", "finished", "oom", "oom_group", "oom_victim", "lost")


def listing(pods: Pods) -> list[dict[str, object]]:
    """Return the status of every pod, oldest first.  One that is damaged is listed with what can be read of it."""
    found: dict[str, dict[str, object]] = {}
    for phase in PHASES:
        for uuid in pods.uuids(phase):
            one = _status(pods, phase, uuid)
            if one:
                found[uuid] = one
    return sorted(found.values(), key=lambda one: (_number(one.get("created")), str(one["uuid"])))


def status(pods: Pods, uuid: str) -> dict[str, object]:
    """Return the status of one pod; StateError when there is none.

    `uuid`; `state`: preparing, prepared, running, paused, restarting or exited; `pod_name`, `app`, `name` and `image` (the
    image's name and id); `created`, `started`, `finished` in nanoseconds since 1970; `pid` of its process 1 and `cgroup`
    while it runs; `code`, `signal` and `restarts` once it ended; `oom` when the kernel killed some of it for want of memory,
    `oom_group` when all of it at once, `oom_victim` who that was where it is known: "main", the app itself, "child", others
    alone, or "group";
    `health` (starting, healthy, unhealthy) and `failing` checks in a row, of a running pod that has them; of several apps each has
    these, and the pod's `health` is the worst of theirs;
    `isolators` of the image: the names of those `enforced` and `ignored`, and those `changed`, each with what is stronger;
    `networks` (network, ifname, addresses, gateways, mac) and forwarded `ports` (protocol, host_address, "" for all,
    host_port, address, port) of a running pod that has its own, and of a prepared one that has it ahead;
    `lost` when nobody can say how it ended; `damaged` when its record cannot be read.  What is not known is not there.

    Of a pod of several apps `apps` tells each: `name`, `image`, `image_name`, its own `state` and times, `pid`, or `code` and
    `signal`; `app`, `name`, `image` and `pid` are the first one's, `code` and `signal` those that its `exit_policy` makes the
    pod's.
    """
    for _ in range(3):  # it moved while it was read
        phase = phase_of(pods, uuid)
        found = _status(pods, phase, uuid) if phase else None
        if found:
            if found["state"] == "running" and "pid" not in found and "apps" not in found:
                _find_pid(pods, uuid, found)
            return found
    raise StateError("find pod", uuid, "there is none of that name", hint="see `pyrun list`")


def _find_pid(pods: Pods, uuid: str, found: dict[str, object]) -> None:
    """Of a pod in the foreground, which keeps no file about it."""
    from pyrun.pod.live import find_live

    try:
        with find_live(pods, uuid) as live:
            found["pid"] = live.init
    except StateError:
        pass  # it ends just now


def exit_code(found: dict[str, object]) -> int:
    """Return the exit code that a status stands for: the app's own, 128+n for signal n, 125 when it is not known."""
    code, signal = found.get("code"), found.get("signal")
    if not isinstance(code, int) or not isinstance(signal, int) or found.get("lost"):
        return 125
    return 128 + signal if signal else code


def _status(pods: Pods, phase: str, uuid: str) -> dict[str, object] | None:
    try:
        fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except NotADirectoryError:
        return {"uuid": uuid, "pod_name": "", "state": phase, "damaged": True}
    except OSError:
        return None
    try:
        record = read_json(fd, "pod")
        found: dict[str, object] = {"uuid": uuid, "pod_name": record.get("pod_name", ""), "state": phase}
        found.update((name, record[name]) for name in COPIED if name in record)
        if not record:
            found["damaged"] = True
        if apps_of(record):
            found["apps"] = [{name: value for name, value in one.items() if name != "journal"} for one in apps_of(record)]
        if phase == "running":
            _running(fd, record, found)
        elif phase == "exited":
            _ended(fd, found)
        elif phase == "prepared":
            _apps(found, {})
            _network(read_json(fd, "net"), found)
        return found
    finally:
        os.close(fd)


def _running(fd: int, record: dict[str, object], found: dict[str, object]) -> None:
    if not is_locked(fd):
        found["state"] = "exited"
        _ended(fd, found)
        return
    run = read_json(fd, "run")
    found["cgroup"] = run.get("cgroup") or record.get("cgroup") or ""
    for name in ALIVE[1:4]:
        if name in run:
            found[name] = run[name]
    _apps(found, run)
    if "keeper" not in run:
        found.setdefault("started", record.get("created"))
    elif "pid" not in found and read_json(fd, "exit"):
        found["state"] = "restarting"
    _network(read_json(fd, "net"), found)
    _health(fd, run, found)
    if frozen(str(found["cgroup"])):
        found["state"] = "paused"


def _health(fd: int, run: dict[str, object], found: dict[str, object]) -> None:
    """Of several apps each its own; the pod does as the worst of them."""
    if "pid" in run:
        known = read_json(fd, "health")
        found.update((name, known[name]) for name in ALIVE[4:] if name in known)
    apps = found.get("apps")
    for app in apps if isinstance(apps, list) else []:
        known = read_json(fd, f"apps/{app['name']}/health") if app["state"] == "running" else {}
        app.update((name, known[name]) for name in ALIVE[4:] if name in known)
    states = [app.get("health") for app in apps] if isinstance(apps, list) else []
    found.update(("health", one) for one in ("healthy", "starting", "unhealthy") if one in states)


def _network(record: dict[str, object], found: dict[str, object]) -> None:
    """Of a pod with networks of its own: its addresses and forwarded ports, as pyrun.net wrote them."""
    nets, ports = record.get("nets"), record.get("forwards")
    if isinstance(nets, list) and isinstance(ports, list):
        known = ("network", "ifname", "addresses", "gateways", "mac")
        found["networks"] = [{name: one.get(name) for name in known} for one in nets]
        found["ports"] = [dict(zip(("protocol", "host_address", "host_port", "address", "port"), one, strict=True)) for one in ports]


def _ended(fd: int, found: dict[str, object]) -> None:
    end = read_json(fd, "exit")
    _apps(found, end)
    for name in ENDED:
        if name in end:
            found[name] = end[name]
    if "code" not in end:
        found["lost"] = True


def _apps(found: dict[str, object], known: dict[str, object]) -> None:
    """How each of several apps does, as the keeper wrote it."""
    apps = found.get("apps")
    if not isinstance(apps, list):
        return
    told = {one["name"]: one for one in apps_of(known)}
    for app in apps:
        more = told.get(app["name"], {})
        app.update((name, more[name]) for name in _OF_APP if name in more)
        app["state"] = "exited" if "code" in more else "running" if "pid" in more else found["state"]
        if found["state"] == "exited" and "code" not in more:
            app.pop("pid", None)
            app.update(state="exited", lost=True)
        if "pid" in app:
            found.setdefault("pid", app["pid"])
            found.setdefault("started", app["started"])


def is_locked(fd: int) -> bool:
    """Whether somebody holds the lock of the pod's directory `fd`, which its supervisor does as long as it lives."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def frozen(cgroup: str) -> bool:
    """Whether a cgroup's processes are all stopped by cgroup.freeze (cgroups(7))."""
    if not cgroup:
        return False
    try:
        file = os.open(cgroup + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return b"frozen 1" in os.read(file, 256)
    except OSError:
        return False
    finally:
        os.close(file)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
