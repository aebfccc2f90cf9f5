"""Ending, pausing and waiting for pods.  Whoever is signalled is held by a pidfd; nothing sleeps and looks again.

Signals go to the keeper of a pod, or to the supervisor of one in the foreground; both pass them on to the app.  What does
not end in time is killed by its cgroup (cgroup.kill), which spares nobody inside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal as signals
import time

from pyrun.errors import StateError, UsageError
from pyrun.plan.numbers import whole
from pyrun.pod.live import apps_of, find_live, start_time, stop_apps
from pyrun.pod.names import phase_of, release
from pyrun.pod.state import lock, read_json
from pyrun.pod.status import frozen, is_locked, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["kill", "pause", "remove", "resume", "signal_number", "stop", "stop_signal", "wait"]

_CHANGES = 0x80 | 0x400 | 0x800  # IN_MOVED_TO, IN_DELETE_SELF, IN_MOVE_SELF
_LAST = 64  # SIGNAL_LAST of native/plan.h
_FREEZE_SECONDS = 10.0
_TEARDOWN_SECONDS = 10.0
_GRACE = 10  # seconds that the kernel may take over a SIGKILL
_BOUND = 2  # ... where a process of the pod waits for something that may never come


class Held:
    """A running pod's directory and a pidfd of the process that answers for it; `keeper` says that it is a keeper."""

    __slots__ = ("cgroup", "fd", "keeper", "pidfd", "pods", "uuid")

    def __init__(self, pods: Pods, uuid: str) -> None:
        self.pods, self.uuid = pods, uuid
        self.pidfd = -1
        self.keeper = False
        self.fd = os.open("running/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
        try:
            run = read_json(self.fd, "run")
            where = run.get("cgroup") or read_json(self.fd, "pod").get("cgroup")
            self.cgroup = where if isinstance(where, str) else ""
            self._hold(pods, run)
            if not is_locked(self.fd):  # what its files say is of the past
                raise StateError("find the processes of pod", uuid, "it does not run", hint="see `pyrun list`")
        except BaseException:
            self.close()
            raise

    def _hold(self, pods: Pods, run: dict[str, object]) -> None:
        pid, start = run.get("keeper"), run.get("keeper_start")
        if isinstance(pid, int) and start_time(pid) == start:
            self.pidfd = os.pidfd_open(pid)
            self.keeper = "keep" in os.listdir(self.fd)
            if start_time(pid) == start:
                return
            os.close(self.pidfd)
            self.pidfd = -1
        if apps_of(read_json(self.fd, "pod")):  # they always have a keeper: it was killed, or has not come to it yet
            raise StateError("find the processes of pod", self.uuid, "its keeper does not run", hint="see `pyrun list`")
        with find_live(pods, self.uuid) as live:
            self.pidfd = os.pidfd_open(live.supervisor)
            signals.pidfd_send_signal(live.init_fd, 0)  # init lives, so that was its supervisor

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end of the pod; whether it came."""
        import select

        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, int(seconds * 1000))))

    def send(self, number: int) -> None:
        """Send a signal; nothing happens when the pod has just ended.  With SIGSTOP whoever answers for it would stand still."""
        if number == signals.SIGSTOP:
            return stop_apps(self.pods, self.uuid, self.fd)
        with contextlib.suppress(ProcessLookupError):
            signals.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.fd, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.pidfd = -1

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(pods: Pods, uuid: str) -> Held | None:
    """Return the running pod, None when it does not run (any more)."""
    for _ in range(25):
        try:
            return Held(pods, uuid)
        except (OSError, StateError):
            if phase_of(pods, uuid) != "running" or not _alive(pods, uuid):
                return None
        _next_change(pods, uuid)
    raise StateError("find the processes of pod", uuid, "it is just starting or ending", hint="try again")


def _next_change(pods: Pods, uuid: str) -> None:
    """A pod has no keeper yet, or none any more: a fifth of a second, or until its directory changes."""
    import select

    from pyrun import native

    try:
        fd, _ = native.inotify(os.fsencode(f"{pods.path}/running/{uuid}"), _CHANGES)
    except OSError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(200)
    finally:
        os.close(fd)


def _alive(pods: Pods, uuid: str) -> bool:
    try:
        fd = os.open("running/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return False
    try:
        return is_locked(fd)
    finally:
        os.close(fd)


def wait(pods: Pods, uuid: str, seconds: float | None = None) -> dict[str, object] | None:
    """Wait until a pod has ended and return its status; None when it had not after `seconds`.

    Of a pod that was removed at its end only the exit code can be known, and that from Linux 6.15 on: else it is `lost`.
    StateError for a pod that was not started.
    """
    if phase_of(pods, uuid) == "prepared":
        raise StateError("wait for pod", uuid, "it was not started", hint="start it with `pyrun run-prepared`")
    held = hold(pods, uuid)
    if held is None:
        return status(pods, uuid)
    with held:
        if not held.wait(seconds):
            return None
        try:
            return status(pods, uuid)
        except StateError:
            return {"uuid": uuid, "state": "removed", **_exit_of(held.pidfd)}


def _exit_of(pidfd: int) -> dict[str, object]:
    """How a process ended that somebody else reaps (ioctl_pidfd(2), PIDFD_GET_INFO)."""
    import fcntl
    import select
    import struct

    poll = select.poll()
    poll.register(pidfd, 0)  # POLLHUP: it was reaped
    poll.poll(1000)
    info = bytearray(struct.pack("=Q56x", 1 << 3))  # PIDFD_INFO_EXIT
    try:
        fcntl.ioctl(pidfd, 0xC040FF0B, info)
    except OSError:
        return {"lost": True}
    mask, code = struct.unpack_from("=Q52xi", info)
    return {"code": os.waitstatus_to_exitcode(code), "signal": 0} if mask & 1 << 3 and code & 0x7F == 0 else {"lost": True}


def signal_number(text: str, what: str) -> int:
    """Return the number of a signal by name, with or without SIG, or by number; UsageError naming `what` for anything else."""
    name = text.upper().removeprefix("SIG")
    if whole(text, 64) > 0:
        return whole(text, 64)
    if name.startswith("RTMIN+") and whole(name[6:], 30) >= 0:
        return int(signals.SIGRTMIN) + whole(name[6:], 30)
    found = getattr(signals.Signals, "SIG" + name, None)
    if found is None:
        raise UsageError(what, "", f"'{text}' is not a signal", hint="write a name or a number, as in TERM or 15")
    return int(found)


def stop_signal(fd: int) -> int:
    """What the image asks for (OCI image configuration, StopSignal), else TERM."""
    wanted = read_json(fd, "pod").get("stop_signal")
    try:
        return signal_number(wanted, "") if isinstance(wanted, str) else signals.SIGTERM
    except UsageError:
        return signals.SIGTERM


def stop(pods: Pods, uuid: str, *, signal: int = 0, seconds: float = 10, force: bool = False) -> bool:
    """End a pod for good: `signal`, and what still runs after `seconds`, or at once with `force`, is killed.

    Signal 0 is the image's own stop signal, else TERM.

    Whether it had to be killed.  Nothing is done about a pod that has ended.  StateError when it was not started, or when even
    SIGKILL does not end it: after two seconds where a process is in an uninterruptible wait, as for a disk, else ten.
    """
    if phase_of(pods, uuid) == "prepared":
        raise StateError("stop pod", uuid, "it was not started", hint="remove it with `pyrun rm`")
    held = hold(pods, uuid)
    if held is None:
        return False
    with held:
        _mark(held)
        if not force:
            held.send(signal or stop_signal(held.fd))
            thaw(held.cgroup)
            if held.wait(seconds):
                return False
        if not force and (rest := read_json(held.fd, "pod").get("post_stop")):  # the app alone: its handler has its time
            held.send(_LAST)
            if held.wait(float(str(rest)) + _GRACE):
                return True
        _kill_all(pods, held)
        if held.wait(_BOUND):
            return True
        from pyrun.pod.inspect import stuck_process

        stuck = stuck_process(held.cgroup)
        if not stuck and held.wait(_GRACE - _BOUND):
            return True
        who = f"process {stuck} waits for a disk or a network file system" if stuck else "it is killed, but does not end"
        hint = f"see /proc/{stuck or 'PID'}/stack for what it waits for; the pod ends when that is over"
        raise StateError("kill pod", uuid, who, errno=errno.EBUSY, hint=hint)


def _mark(held: Held) -> None:
    """Say that it is not to come back, before its keeper can see it go."""
    with contextlib.suppress(OSError):  # it has ended meanwhile, or the disk is full: then the signal alone has to do
        os.close(os.open("stop", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=held.fd))


def _kill_all(pods: Pods, held: Held) -> None:
    if held.cgroup and _write(held.cgroup + "/cgroup.kill", b"1"):
        held.send(signals.SIGURG)  # wakes a keeper that waits before a restart
        return
    names = [one["name"] for one in apps_of(read_json(held.fd, "pod"))]
    for name in names or [""]:
        try:
            with find_live(pods, held.uuid, name) as live:
                signals.pidfd_send_signal(live.init_fd, signals.SIGKILL)
        except (StateError, ProcessLookupError):
            held.send(signals.SIGTERM)  # a keeper whose app does not run ends by that


def kill(pods: Pods, uuid: str, number: int) -> None:
    """Send a signal to a pod's app, SIGKILL to all of the pod; StateError when it does not run, UsageError for no signal's number."""
    if number not in signals.valid_signals():
        raise UsageError("signal pod", str(number), "not the number of a signal", hint="see signal(7)")
    held = hold(pods, uuid)
    if held is None:
        raise StateError("signal pod", uuid, "it does not run", hint="see `pyrun list`")
    with held:
        several = bool(apps_of(read_json(held.fd, "pod")))
        if number != signals.SIGKILL:
            held.send(number)
        elif several:
            _kill_all(pods, held)
        else:
            with find_live(pods, uuid) as live:
                signals.pidfd_send_signal(live.init_fd, number)


def pause(pods: Pods, uuid: str, seconds: float = _FREEZE_SECONDS) -> None:
    """Stop every process of a pod where it is (cgroup.freeze); StateError when that took more than `seconds`: then none is stopped."""
    _freeze(pods, uuid, True, seconds)


def resume(pods: Pods, uuid: str) -> None:
    """Let a paused pod go on."""
    _freeze(pods, uuid, False, _FREEZE_SECONDS)


def _freeze(pods: Pods, uuid: str, on: bool, seconds: float) -> None:
    import select

    what = "pause pod" if on else "resume pod"
    held = hold(pods, uuid)
    if held is None:
        raise StateError(what, uuid, "it does not run", hint="see `pyrun list`")
    with held:
        try:
            events = os.open(held.cgroup + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise StateError(what, uuid, "it has no cgroup", hint="that takes a cgroup2 tree that pyrun may write to") from None
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            end = time.monotonic() + seconds
            if not _write(held.cgroup + "/cgroup.freeze", b"1" if on else b"0"):
                raise StateError(what, uuid, "the kernel refuses it", hint="is the cgroup tree mounted read-only?")
            while (b"frozen 1" in os.pread(events, 256, 0)) != on:
                if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                    if on:
                        _write(held.cgroup + "/cgroup.freeze", b"0")  # not half of it
                    hint = "a process waits for a disk: try again, with a longer --timeout"
                    raise StateError(what, uuid, f"it took more than {seconds:g} seconds", hint=hint)
        finally:
            os.close(events)


def thaw(cgroup: str) -> None:
    """Let frozen processes hear of a signal."""
    if frozen(cgroup):
        _write(cgroup + "/cgroup.freeze", b"0")


def _write(path: str, data: bytes) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(fd, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(fd)


def remove(pods: Pods, uuid: str, *, force: bool = False) -> None:
    """Delete a pod that does not run; with `force` one that runs is killed first.  StateError when it runs or is in use.

    Whoever takes back the network of one that has just ended is waited for, ten seconds at most.
    """
    end = time.monotonic() + _TEARDOWN_SECONDS
    while not _remove(pods, uuid, force, patient=time.monotonic() < end):
        time.sleep(0.02)


def _remove(pods: Pods, uuid: str, force: bool, *, patient: bool) -> bool:
    """One attempt; whether there is nothing left to do."""
    if force and phase_of(pods, uuid) == "running":
        stop(pods, uuid, force=True)
    phase = phase_of(pods, uuid)
    if not phase:
        if force:
            return True
        raise StateError("remove pod", uuid, "there is none of that name", hint="see `pyrun list`")
    try:
        fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except FileNotFoundError:
        return False  # it has just moved on
    except NotADirectoryError:  # no pod, but listed as a damaged one
        return pods.drop(phase, uuid)
    try:
        if not lock(fd):
            if patient and (force or phase == "exited"):
                return False
            hint = "stop it first: pyrun stop, or give --force" if phase == "running" and not force else "try again"
            reason = "it runs" if phase == "running" else "somebody else is using it"
            raise StateError("remove pod", uuid, reason, hint=hint)
        if phase_of(pods, uuid) != phase:
            return False
        name = read_json(fd, "pod").get("pod_name")
        if phase == "running":
            try:
                pods.bury(fd, uuid)
            except FileNotFoundError:  # its keeper lets go of it a moment before that moves it on
                return False
            phase = "exited"
        pods.delete(phase, uuid)
    finally:
        os.close(fd)
    if isinstance(name, str) and name:
        release(pods, name, uuid)
    return True
