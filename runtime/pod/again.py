"""Starting pods in the background from a live Python process, once or again; the keeper does the work."""

from __future__ import annotations

import contextlib
import errno
import os
from struct import Struct

from pyrun import native
from pyrun.errors import PyrunError, StateError
from pyrun.plan import ops
from pyrun.pod.control import stop
from pyrun.pod.live import apps_of, start_time
from pyrun.pod.names import phase_of
from pyrun.pod.place import take_place
from pyrun.pod.state import Pods, lock, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["start", "start_again", "start_prepared"]

_REPORT = Struct("=IIiIiiQ")
_RUNNING, _FAILED = 2, 1
SLOT = 9  # SLOT_NETWORK of native/plan.h
_PATIENCE = 60  # seconds for the files of the last run to reach the disk


def start_prepared(pods: Pods, uuid: str, *, movable: bool = False) -> int:
    """Run a prepared pod in the background, return the pid of its process 1 as soon as its app runs.

    With `movable` this process may be moved in the cgroup tree to where the pod's limits can be set.  Without root a child starts it.
    SetupError or ExecError for a step that failed, StateError when the pod is not prepared or somebody else started it.
    """
    names, blocks = _plans(pods, uuid)
    if os.geteuid():
        from pyrun.pod.inside import call

        return int(call("pyrun.pod.again", "start", pods.root, uuid))
    take_place(pods, uuid, movable=movable)
    read, write = os.pipe2(os.O_CLOEXEC)
    network = _network(pods, uuid)
    try:
        actions: list[Any] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, write, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ]
        if network >= 0:
            actions.append((os.POSIX_SPAWN_DUP2, network, SLOT))
        pid = os.posix_spawn(native.KEEPER, ["pyrun: keeper", pods.root, uuid, "report"], {}, file_actions=actions)
    except OSError as error:
        os.close(read)
        _give_back(pods, uuid, network)
        raise StateError("start the native keeper", "", errno=error.errno or 0, hint="is the installation complete?") from None
    finally:
        os.close(write)
        if network >= 0:
            os.close(network)
    try:
        data = os.read(read, _REPORT.size)
    finally:
        os.close(read)
        with contextlib.suppress(ChildProcessError):  # a caller that ignores SIGCHLD has none left to wait for
            os.waitpid(pid, 0)
    if len(data) != _REPORT.size:
        _give_back(pods, uuid, network)
        hint = "somebody else may be starting or removing it: see `pyrun list`"
        raise StateError("start pod", uuid, "its keeper could not take it", errno=errno.EBUSY, hint=hint)
    kind, op, error_number, detail, app, init, _ = _REPORT.unpack(data)
    if kind == _FAILED:
        from pyrun.engine.explain import failure

        failed = failure(ops.notes(blocks[app]), op, error_number, detail)
        raise failed.of_app(names[app]) if len(names) > 1 else failed
    return int(init)


def start(root: str, uuid: str) -> int:
    """Do as `start_prepared` below the state directory `root`, in a process that may be moved."""
    return start_prepared(Pods(root), uuid, movable=True)


def start_again(pods: Pods, uuid: str, *, signal: int = 0, seconds: float = 10, movable: bool = False) -> int:
    """End a pod that runs in the background, as `stop` does, and run it once more with the files it has; its new init's pid.

    StateError for a pod that cannot run again: one in the foreground, or one that is removed at its end.
    """
    phase = phase_of(pods, uuid)
    fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    try:
        if "keep" not in os.listdir(fd) or read_json(fd, "pod").get("keep") is not True:
            hint = "only pods of `run --detach` or `prepare`, without --rm, keep what that takes"
            raise StateError("restart pod", uuid, "it runs only once", hint=hint)
        if read_json(fd, "run").get("sockets"):
            hint = "start it as the service manager did, which has the sockets: systemctl restart UNIT"
            raise StateError("restart pod", uuid, "it was started with sockets of the service manager", hint=hint)
        if phase == "running":
            stop(pods, uuid, signal=signal, seconds=seconds)
        _unmounted(fd, uuid)
        if phase != "prepared":
            _back(pods, fd, uuid)
    finally:
        os.close(fd)
    return start_prepared(pods, uuid, movable=movable)


def _network(pods: Pods, uuid: str) -> int:
    if not os.path.exists(f"{pods.path}/prepared/{uuid}/net.want"):
        return -1
    from pyrun.pod.network import take_network

    return take_network(pods, uuid)


def _give_back(pods: Pods, uuid: str, network: int) -> None:
    """Take back the network that was made for a start that failed before a keeper had the pod; the first error is what is told."""
    if network < 0:
        return
    from pyrun.pod.network import release
    from pyrun.pod.starter import give_up

    with contextlib.suppress(PyrunError, OSError):
        fd = os.open(f"prepared/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
        try:
            if lock(fd) and os.path.isdir(f"{pods.path}/prepared/{uuid}"):
                release(pods.root, uuid, fd)
                give_up(fd)
        finally:
            os.close(fd)


def _unmounted(fd: int, uuid: str) -> None:
    """Wait for whoever still holds the root of the last run: two mounts of the same files would not know of each other."""
    run = read_json(fd, "run")
    for one in (run, *apps_of(run)):
        pid = one.get("supervisor")
        if isinstance(pid, int):
            _ended(pid, one.get("supervisor_start"), uuid)


def _ended(pid: int, start: object, uuid: str) -> None:
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if start_time(pid) == start and not poll.poll(_PATIENCE * 1000):
            hint = "the disk is slow, or a file system does not answer: try again"
            raise StateError("restart pod", uuid, "its files are still being written", errno=errno.EBUSY, hint=hint)
    finally:
        os.close(pidfd)


def _back(pods: Pods, fd: int, uuid: str) -> None:
    """From exited to prepared, under the lock; the files of the last run go, but for its log."""
    import fcntl

    if not _locked(fd):
        raise StateError("restart pod", uuid, "somebody else is using it", hint="try again")
    if phase_of(pods, uuid) == "running":
        with contextlib.suppress(FileNotFoundError):  # its keeper lets go of it a moment before that moves it on
            pods.bury(fd, uuid)
    apps = [f"apps/{one['name']}/health" for one in apps_of(read_json(fd, "pod"))]
    for name in ("exit", "run", "stop", "health", "net.by", *apps):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=fd)
    os.rename("exited/" + uuid, "prepared/" + uuid, src_dir_fd=pods.fd, dst_dir_fd=pods.fd)
    fcntl.flock(fd, fcntl.LOCK_UN)


def _locked(fd: int) -> bool:
    """Whoever takes back the network of the last run holds the lock for a moment."""
    import time

    tries = 100 if "cleaner" in os.listdir(fd) else 1
    for _ in range(tries - 1):
        if lock(fd):
            return True
        time.sleep(0.05)
    return lock(fd)


def _plans(pods: Pods, uuid: str) -> tuple[list[str], list[bytes]]:
    """The names of the apps of a prepared pod of several, and the plans of all, in the order in which the keeper numbers them."""
    try:
        fd = os.open("prepared/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        raise StateError("start pod", uuid, "it is not prepared", hint="see `pyrun list`") from None
    try:
        names = [str(one["name"]) for one in apps_of(read_json(fd, "pod"))]
        return names, [_plan(fd, uuid, f"apps/{name}/plan") for name in names] or [_plan(fd, uuid, "plan")]
    finally:
        os.close(fd)


def _plan(fd: int, uuid: str, name: str) -> bytes:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except OSError:
        raise StateError("start pod", uuid, "its plan is gone", hint="remove it with `pyrun rm` and prepare it again") from None
    try:
        return os.read(file, 4 << 20)
    finally:
        os.close(file)
