"""Looking closely at a pod: its records, its manifest as run, its processes.  Nothing of the pod is executed."""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import StateError
from pyrun.plan import ops
from pyrun.pod.live import apps_of, find_live
from pyrun.pod.logs import open_pod
from pyrun.pod.metadata import OWN_VARIABLES
from pyrun.pod.state import read_json
from pyrun.pod.status import exit_code, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["inspect", "manifest", "processes", "stuck_process"]

_MAX_PLAN = 4 << 20
_MAX_PIDS = 100_000
_RUNTIME_S = frozenset(("default devices", "default mounts", "name look-ups", "shared memory", "--notify app"))  # mounts, by origin
_COMMAND = 256  # bytes of a command line that are shown


def inspect(pods: Pods, uuid: str) -> dict[str, object]:
    """Return everything that pyrun knows of a pod: its status and, under their names, the files `pod`, `run` and `exit`."""
    found = status(pods, uuid)
    if found["state"] == "exited":
        found["exit_code"] = exit_code(found)
    fd = open_pod(pods, uuid)
    try:
        apps = found.get("apps")
        for app in apps if isinstance(apps, list) else []:
            if "health" in app:
                app["health"] = read_json(fd, f"apps/{app['name']}/health")
        if "health" in found:
            found["health"] = {"health": found["health"]} if apps else read_json(fd, "health")
        for name in ("pod", "run", "exit"):
            found[name] = read_json(fd, name)
        found["files"] = sorted(os.listdir(fd))
    finally:
        os.close(fd)
    return found


def plan_of(pods: Pods, uuid: str, app: str = "") -> list[ops.Op]:
    """Return the operations that a pod, or one app of several, runs by; StateError when they are not known any more."""
    fd = open_pod(pods, uuid)
    try:
        file = os.open(f"apps/{app}/plan" if app else "plan", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        with find_live(pods, uuid) as live:
            return ops.notes(live.plan())
    finally:
        os.close(fd)
    try:
        return ops.notes(os.read(file, _MAX_PLAN))
    except (ValueError, EOFError, TypeError):
        raise StateError("read the plan of pod", uuid, "it is damaged", hint="remove the pod: pyrun rm") from None
    finally:
        os.close(file)


def manifest(pods: Pods, uuid: str) -> dict[str, object]:
    """Return the pod manifest as run (App Container spec, "Pod Manifest"): what image and flags came to.

    StateError when the pod ended and was no prepared or detached one, whose plan is kept.
    """
    fd = open_pod(pods, uuid)
    record = read_json(fd, "pod")
    os.close(fd)
    volumes = _Volumes(f"{pods.running(uuid)}/")
    image = {"id": record.get("image", ""), "name": record.get("name", "")}
    apps = [_runtime_app(plan_of(pods, uuid), record.get("app", ""), image, volumes)] if not apps_of(record) else []
    for one in apps_of(record):
        image = {"id": one.get("image", ""), "name": one.get("image_name", "")}
        apps.append(_runtime_app(plan_of(pods, uuid, one["name"]), one["name"], image, volumes))
    return {"acVersion": "0.8.11", "acKind": "PodManifest", "apps": apps, "volumes": volumes.listed}


class _Volumes:
    """The volumes of a pod's apps, each under a name of its own; what lies in the pod's directory `own` is an empty one.

    Of the runtime's own mounts there is none: each pod gets those anew, and --pod-manifest refuses them.
    """

    def __init__(self, own: str) -> None:
        self.listed: list[dict[str, object]] = []
        self._own = own
        self._made: dict[str, dict[str, object]] = {}  # by where it lies: how it was made
        self._shared: dict[str, str] = {}

    def made(self, path: str, mode: int, uid: int, gid: int) -> None:
        """Hear how a directory of the pod is made, which comes before it is mounted."""
        self._made[path] = {"mode": f"{mode:04o}", "uid": uid, "gid": gid}

    def mounted(self, source: str, target: object, *, readonly: bool, recursive: bool) -> dict[str, object]:
        """Return the mount that an app's manifest is to have."""
        if source in self._shared:  # by several apps, or at several places
            return {"volume": self._shared[source], "path": target}
        name = f"volume-{len(self.listed)}"
        volume: dict[str, object] = {"name": name, "kind": "host", "source": source, "recursive": recursive}
        if source.startswith(self._own):
            self._shared[source] = name
            volume = {"name": name, "kind": "empty", **self._made.get(source, {})}
        self.listed.append({**volume, "readOnly": readonly})
        return {"volume": name, "path": target}


def _runtime_app(plan: list[ops.Op], name: object, image: dict[str, object], volumes: _Volumes) -> dict[str, object]:
    """One app as its plan has it; its volumes are added."""
    app: dict[str, object] = {}
    mounts: list[dict[str, object]] = []
    readonly = False
    for code, flags, n, s1, s2, a, b, origin in plan:
        if code == ops.HANDLER:
            break  # from here on they are of event handlers
        if code == ops.EXEC:
            app["exec"] = s1
            assert isinstance(s2, list)
            pairs = [word.partition("=") for word in s2]
            app["environment"] = [{"name": variable, "value": value} for variable, _, value in pairs if variable not in OWN_VARIABLES]
        elif code == ops.IDS:
            app.update(user=str(a), group=str(b))
            if isinstance(s1, bytes) and n:
                app["supplementaryGIDs"] = [int.from_bytes(s1[i : i + 4], "little") for i in range(0, len(s1), 4)]
        elif code == ops.CHDIR:
            app["workingDirectory"] = s1
        elif code in (ops.ROOT_READONLY, ops.UNMOUNT):  # a copy, or an overlay that is mounted once more without a layer for changes
            readonly = True
        elif code == ops.HOST_DIR and all(isinstance(number, int) for number in (n, a, b)):
            volumes.made(str(s1), int(str(n)), int(str(a)), int(str(b)))
        elif code == ops.BIND and origin not in _RUNTIME_S and not str(s1).startswith("/dev/"):
            protected = isinstance(a, int) and bool(a & ops.ATTR_RDONLY)
            mounts.append(volumes.mounted(str(s1), s2, readonly=protected, recursive=bool(flags & ops.RECURSIVE)))
    return {"name": name, "image": image, "app": app, "readOnlyRootFS": readonly, "mounts": mounts}


def processes(pods: Pods, uuid: str, app: str | None = None) -> list[dict[str, object]]:
    """Return the processes in a running pod's cgroup, as the kernel tells them to the host (proc(5)).

    Of several apps those of `app`, or of all, each with the name of its `app`.  `pid` on the host and `inside`, `uid` on the
    host, `state`, `cpu_ticks` (_SC_CLK_TCK), `rss_kib`, `command`.
    """
    fd = open_pod(pods, uuid)
    apps = [one["name"] for one in apps_of(read_json(fd, "pod"))]
    os.close(fd)
    if apps and not app:
        return [found for name in apps for found in _of_app(pods, uuid, name)]
    with find_live(pods, uuid, app) as live:
        if not live.cgroup:
            raise StateError(
                "list the processes of pod", uuid, "it has no cgroup", hint="look at the children of process " + str(live.init)
            )
        pids = _pids(live.cgroup)
    return [found for pid in pids if (found := _process(pid))]


def _of_app(pods: Pods, uuid: str, app: str) -> list[dict[str, object]]:
    """None when this one of several has ended."""
    try:
        found = processes(pods, uuid, app)
    except StateError:
        return []
    return [{"app": app, **one} for one in found]


def _pids(cgroup: str) -> list[int]:
    found: list[int] = []
    for top, _, _ in os.walk(cgroup):
        try:
            with open(top + "/cgroup.procs", "rb") as file:
                found += [int(line) for line in file]
        except OSError:
            continue
        if len(found) > _MAX_PIDS:
            break
    return found


def stuck_process(cgroup: str) -> int:
    """Return a process below a cgroup of which a thread is in an uninterruptible wait (state D of proc_pid_stat(5)), 0 for none."""
    for pid in _pids(cgroup) if cgroup else ():
        with contextlib.suppress(OSError):  # it ends
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                    if file.read().rpartition(b") ")[2][:1] == b"D":
                        return pid
    return 0


def _process(pid: int) -> dict[str, object] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
        with open(f"/proc/{pid}/status", "rb") as file:
            facts = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(_COMMAND).rstrip(b"\0").replace(b"\0", b" ")
    except OSError:
        return None
    fields = tail.split()
    return {
        "pid": pid,
        "inside": int(facts[b"NSpid"].split()[-1]),
        "uid": int(facts[b"Uid"].split()[1]),
        "state": fields[0].decode(),
        "cpu_ticks": int(fields[11]) + int(fields[12]),
        "rss_kib": int(facts.get(b"VmRSS", b"0 kB").split()[0]),
        "command": (words or b"[" + head.partition(b"(")[2] + b"]").decode("utf-8", "replace"),
    }
