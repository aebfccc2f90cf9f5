"""The processes of a running pod: init, its supervisor and, of a detached pod, its keeper; each held by a pidfd.

A pid from a file may be somebody else's by now.  So it counts only together with a fact that another process cannot
have: init's and the keeper's start time in the file `run`, or the supervisor's descriptor of the pod's own directory.
"""

from __future__ import annotations

import os

from pyrun.errors import StateError, UsageError
from pyrun.native._native import lib
from pyrun.pod.state import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.pod.state import Pods

__all__ = ["Live", "apps_of", "choose_app", "find_live", "start_time", "stop_apps"]

_MAX_PLAN = 4 << 20  # PLAN_MAX_SIZE


class Live:
    """A running pod: `fd` its directory, `init` the pid of its pid 1 and `init_fd` a pidfd of it, `supervisor` the pid
    above it, `keeper` that of a detached pod's keeper (else 0), `cgroup` its directory or "".  Of a pod of several apps
    all but `fd` and `keeper` are those of one of them, `app`, which is "" for the only one.

    `close`, or a `with` block, gives the descriptors back.
    """

    __slots__ = ("app", "cgroup", "fd", "init", "init_fd", "keeper", "supervisor", "uuid")

    def __init__(self, uuid: str, fd: int) -> None:
        self.uuid = uuid
        self.app = ""
        self.fd = fd
        self.init = self.supervisor = self.keeper = 0
        self.init_fd = -1
        self.cgroup = ""

    def plan(self) -> bytes:
        """Return the encoded plan that the pod runs by (native/plan.h); StateError when it ended meanwhile."""
        path = f"/proc/{self.supervisor}/fd/{lib.SLOT_PLAN}"
        try:
            try:
                name = f"apps/{self.app}/plan" if self.app else "plan"
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            except FileNotFoundError:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError("read the plan of pod", self.uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None
        try:
            return os.read(file, _MAX_PLAN)
        finally:
            os.close(file)

    def lives(self) -> bool:
        """Whether its process 1 is still there."""
        import signal

        try:
            signal.pidfd_send_signal(self.init_fd, 0)
        except ProcessLookupError:
            return False
        return True

    def open_supervisor(self) -> int:
        """Return a descriptor of the supervisor's own directory in proc(5); StateError when it ended meanwhile."""
        try:
            fd = os.open(f"/proc/{self.supervisor}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            fd = -1
        if fd < 0 or not _holds(self, f"fd/{lib.SLOT_POD}", fd):  # looked at by the descriptor, so it is nobody else's number
            if fd >= 0:
                os.close(fd)
            raise StateError("find the supervisor of pod", self.uuid, "it has just ended", hint="see `pyrun list`")
        return fd

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.fd, self.init_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.init_fd = -1

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_live(pods: Pods, uuid: str, app: str | None = None) -> Live:
    """Return the running pod `uuid` (in full), seen as its app `app`, which only one of several needs.

    StateError when it does not run, or that app does not; UsageError when it has no such app or none is named of several.
    """
    try:
        fd = os.open("running/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        raise StateError("find the processes of pod", uuid, "it does not run", hint="see `pyrun list`") from None
    live = Live(uuid, fd)
    try:
        live.app = choose_app(fd, uuid, app)
        if live.app:
            _one_of_several(live)
            return live
        if not _by_record(live) and not _by_cgroup(live) and not _by_title(live):
            raise StateError("find the processes of pod", uuid, "its app does not run", hint="it starts or ends just now: try again")
    except BaseException:
        live.close()
        raise
    return live


def stop_apps(pods: Pods, uuid: str, fd: int) -> None:
    """Send SIGSTOP, which no process can pass on, to the apps of the pod whose directory is `fd`, each the oldest child of its init."""
    for one in apps_of(read_json(fd, "pod")) or [{"name": None}]:
        try:
            with find_live(pods, uuid, one["name"]) as live:
                _stop(live)
        except StateError:
            pass  # this one has ended


def _stop(live: Live) -> None:
    import signal

    children = [int(child) for child in _read(f"/proc/{live.init}/task/{live.init}/children").split()]
    for pid in sorted(children, key=lambda pid: (start_time(pid), pid))[:1]:
        try:
            held = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if _parent(pid) == live.init and live.lives():  # so it is nobody else's number
                signal.pidfd_send_signal(held, signal.SIGSTOP)
        except ProcessLookupError:
            pass
        finally:
            os.close(held)


def choose_app(fd: int, uuid: str, app: str | None) -> str:
    """Return the app that is meant in the pod whose directory is `fd`: "" for the only one.

    UsageError for a name that none has, or no name where there are several; it lists them.
    """
    record = read_json(fd, "pod")
    names = [one["name"] for one in apps_of(record)]
    if names:
        known = ", ".join(names)
        if not app and len(names) == 1:  # of a pod manifest
            return str(names[0])
        if not app:
            raise UsageError("choose an app of pod", uuid, f"it has several: {known}", hint=f"name one: --app {names[0]}")
        if app not in names:
            raise UsageError("choose an app of pod", uuid, f"it has no '{app}'", hint=f"its apps are {known}", origin="--app")
        return app
    if app and app != record.get("app"):
        raise UsageError("choose an app of pod", uuid, f"it has no '{app}'", hint=f"its only app is {record.get('app')}", origin="--app")
    return ""


def apps_of(record: dict[str, object]) -> list[dict[str, Any]]:
    """Return what a pod's record, or one of its files `run` and `exit`, says of each of several apps, [] for a pod of one."""
    apps = record.get("apps")
    return [one for one in apps if isinstance(one, dict) and isinstance(one.get("name"), str)] if isinstance(apps, list) else []


def _one_of_several(live: Live) -> None:
    """By the keeper's own word; whoever is asked for may have ended before the others."""
    run = read_json(live.fd, "run")
    keeper, where = run.get("keeper"), run.get("cgroup")
    live.keeper = keeper if isinstance(keeper, int) else 0
    live.cgroup = f"{where}/{live.app}" if isinstance(where, str) and where else ""
    for one in apps_of(run):
        init = one.get("pid")
        if one["name"] == live.app and isinstance(init, int) and start_time(init) == one.get("start") and _take(live, init, _parent(init)):
            return
    reason = f"its app {live.app} does not run"
    raise StateError("find the processes of pod", live.uuid, reason, hint="see `pyrun status`: it starts just now, or has ended")


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since the boot (proc(5), field 22 of stat); -1 when it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return -1
    finally:
        os.close(fd)


def _take(live: Live, init: int, supervisor: int) -> bool:
    """Hold init; whether it is still the child of the pod's own supervisor, hence nobody else's pid."""
    try:
        pidfd = os.pidfd_open(init)
    except OSError:
        return False
    if _parent(init) != supervisor or not _supervises(live, supervisor):
        os.close(pidfd)
        return False
    live.init, live.init_fd, live.supervisor = init, pidfd, supervisor
    return True


def _by_record(live: Live) -> bool:
    """The keeper's own word, of a detached pod."""
    run = read_json(live.fd, "run")
    init, keeper, where = run.get("pid"), run.get("keeper"), run.get("cgroup")
    live.cgroup = where if isinstance(where, str) else ""
    if not isinstance(init, int) or not isinstance(keeper, int):
        return False
    live.keeper = keeper
    return start_time(init) == run.get("start") and _take(live, init, _parent(init))


def _by_cgroup(live: Live) -> bool:
    """The pod's cgroup holds its processes, init mostly first."""
    if not live.cgroup:
        where = read_json(live.fd, "pod").get("cgroup")
        live.cgroup = where if isinstance(where, str) else ""
    try:
        with open(live.cgroup + "/cgroup.procs", "rb") as file:
            pids = [int(line) for line in file]
    except OSError:
        return False
    return any(pid > 0 and _is_init(pid) and _take(live, pid, _parent(pid)) for pid in pids)


def _by_title(live: Live) -> bool:
    """Where there is no cgroup: the supervisor's argument names the pod, and its descriptor proves it."""
    title = f"pyrun: pod {live.uuid}\0".encode()
    for name in os.listdir("/proc"):
        if name.isdecimal() and _read(f"/proc/{name}/cmdline") == title and _supervises(live, int(name)):
            children = _read(f"/proc/{name}/task/{name}/children").split()
            if any(_take(live, int(child), int(name)) for child in children):
                return True
    return False


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _field(pid: int, name: bytes) -> list[bytes]:
    for line in _read(f"/proc/{pid}/status").split(b"\n"):
        if line.startswith(name):
            return line.split()[1:]
    return []


def _parent(pid: int) -> int:
    found = _field(pid, b"PPid:")
    return int(found[0]) if found else 0


def _is_init(pid: int) -> bool:
    found = _field(pid, b"NSpid:")
    return len(found) > 1 and found[-1] == b"1"


def _supervises(live: Live, pid: int) -> bool:
    """Whether this process holds the pod's directory, or of several apps its app's, where a supervisor does (native/plan.h, SLOT_POD)."""
    return _holds(live, f"/proc/{pid}/fd/{lib.SLOT_POD}", None)


def _holds(live: Live, path: str, below: int | None) -> bool:
    try:
        held = os.stat(path, dir_fd=below)
        own = os.stat(f"apps/{live.app}", dir_fd=live.fd) if live.app else os.fstat(live.fd)
    except OSError:
        return False
    return (held.st_dev, held.st_ino) == (own.st_dev, own.st_ino)
