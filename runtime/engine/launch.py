"""Handing a plan to the native helper, and its reports back as values and exceptions.

    become()   this very process turns into the supervisor: `pyrun run`, an ExecStart=
    start()    the supervisor is a child: the library; start_recipe() does it in one native call, pod and all

The helper's descriptors are the SLOT_ numbers of native/plan.h.
"""

from __future__ import annotations

import os
import posix
import sys
from _thread import allocate_lock
from struct import Struct

from pyrun import native
from pyrun.errors import HostError, StateError, UsageError
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage
    from typing import NoReturn

__all__ = ["Report", "Slots", "Supervisor", "become", "readable", "start", "start_recipe", "take_sockets"]

_REPORT = Struct("=IIiIiiQ")
_MESSAGE = 4096
_SIGNALS = 64
FAILED, RUNNING, EXITED, FIGURES = 1, 2, 3, 6
_VICTIMS = {2: "group", 4: "main", 8: "child"}  # OOM_KILL_ bits of native/plan.h, less the one that says that there was one


class Slots:
    """Descriptors that the supervisor gets, -1 for none: the pod's directory (locked), the directory of all
    pods, the pod's cgroup and that one's parent, its network namespace.  `close` gives up this process's copies."""

    __slots__ = ("cgroup", "cgroup_parent", "network", "pod", "pods")

    def __init__(self, pod: int = -1, pods: int = -1, cgroup: int = -1, cgroup_parent: int = -1) -> None:
        self.network = -1
        self.pod = pod
        self.pods = pods
        self.cgroup = cgroup
        self.cgroup_parent = cgroup_parent

    def close(self) -> None:
        """Close what belongs to this pod alone; the directory of all pods is its `Pods`' to close."""
        for fd in (self.pod, self.cgroup, self.cgroup_parent, self.network):
            if fd >= 0:
                os.close(fd)
        self.pod = self.pods = self.cgroup = self.cgroup_parent = self.network = -1


class Report:
    """One message of the supervisor, `struct plan_report`: a step that failed, the start, or the end."""

    __slots__ = ("detail", "errno", "kind", "op", "pid", "status", "time_ns")
    kind: int
    op: int
    errno: int
    detail: int
    status: int
    pid: int
    time_ns: int

    def __init__(self, data: bytes) -> None:
        self.kind, self.op, self.errno, self.detail, self.status, self.pid, self.time_ns = _REPORT.unpack_from(data)


def _with_flags(block: bytes, slots: Slots, flags: int) -> bytes:
    """Return the plan with what only the start knows: which descriptors come with it."""
    if slots.pod >= 0:
        flags |= ops.HAS_POD
    if slots.cgroup >= 0:
        flags |= ops.HAS_CGROUP
    return ops.add_flags(block, flags)


def become(
    block: bytes, slots: Slots, title: str, directory: str, *more: str, before: Callable[[], None] | None = None, end: str = ""
) -> NoReturn:
    """Turn this process into the supervisor of an encoded plan; only an OSError comes back.

    `title` is what ps(1) shows, `more` are further arguments of the helper (SLOT_INIT in native/plan.h); `directory` takes
    the helper's nameless copy where memfds cannot be executed; `before` is called when nothing else is left to do.  With `end`
    standard error gets JSON: what fails, or a line that begins so and says how it ended.
    """
    native.helper(directory)
    if native.helper_note:
        sys.stderr.write(f'{{"note": "{native.helper_note}"}}\n' if end else f"pyrun: note: {native.helper_note}\n")
    flags = take_sockets() << ops.LISTEN_SHIFT | (ops.TELL_END if end else 0)
    plan = native.memfd_sealed("pyrun-plan", _with_flags(block, slots, flags))
    environment = {name: value for name, value in posix.environ.items() if name}
    if end:
        environment[b"PYRUN_END"] = end.encode()
    fds = [0, 1, 2, plan, -1, slots.pod, slots.pods, slots.cgroup, slots.cgroup_parent, slots.network]
    if before is not None:
        before()
    native.become([word.encode() for word in (title, *more)], environment, fds, directory)
    raise AssertionError("execveat came back")


def take_sockets() -> int:
    """Move the sockets that the service manager passed to this very process to where the helper looks for them.

    sd_listen_fds(3): they stand at 3 and above, where the helper has its own.  Returns how many there are.
    """
    if posix.environ.get(b"LISTEN_PID") != b"%d" % os.getpid():  # `os.environ` would cost a start the real `os` (pyrun.cli.bundle)
        return 0
    text = posix.environ.get(b"LISTEN_FDS", b"").decode("utf-8", "surrogateescape")
    if not text.isdigit() or int(text) > ops.SLOT_LISTEN_MAX:
        raise HostError("take sockets", f"LISTEN_FDS={text}", f"not a number up to {ops.SLOT_LISTEN_MAX}")
    for number in range(int(text)):
        try:
            os.dup2(3 + number, ops.SLOT_LISTEN + number)
        except OSError as error:
            hint = "LISTEN_FDS says how many there are from descriptor 3 on"
            raise HostError("take socket", f"descriptor {3 + number}", errno=error.errno or 0, hint=hint) from None
    return int(text)


class Supervisor:
    """A running supervisor as seen by the process that started it.  Not thread-safe; one user at a time.

    `pid` and `pidfd` are the supervisor's, `init_pid` is pid 1 of the pod seen from the host, known once
    running.  Closing `control` kills the pod, and so does the death of this process; a child that it forked has no part in it.
    `status` is the app's wait status once its end was told, `oom` whether the kernel killed some of the pod for want of
    memory, `oom_victim` who that was, "" where it is not known, `figures` what its cgroup had counted by then (with
    PLAN_ACCOUNT), `rusage` what all of the pod used, once it is reaped.
    """

    __slots__ = ("_block", "_control", "_owner", "figures", "init_pid", "oom", "oom_victim", "pid", "pidfd", "rusage", "status")

    def __init__(self, pid: int, pidfd: int, control: int, block: bytes) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.init_pid = 0
        self.status: int | None = None
        self.oom = False
        self.oom_victim = ""
        self.figures = b""
        self.rusage: struct_rusage | None = None
        self._control = control
        self._block = block
        self._owner = os.getpid()
        _remember(control, pidfd)

    @property
    def control(self) -> int:
        """The socket on which reports come, for poll(2); -1 when it is closed."""
        return self._control

    def _mine(self) -> None:
        if self._owner != os.getpid():
            hint = "start one there, or look it up by its UUID if it is a pod in the background"
            raise StateError("use container", "", "it belongs to the process that this one was forked from", hint=hint)

    def next_report(self, *, linger: bool = True) -> Report | None:
        """Wait for the next message; None when the supervisor has said its last.

        SetupError for a failed step, with `linger` once what was made is removed, else `reap` tells when that is.
        """
        self._mine()
        while True:
            try:
                data = os.read(self._control, _MESSAGE) if self._control >= 0 else b""
            except (BlockingIOError, ConnectionResetError):
                # An event loop has made it non-blocking; or it went before it had read a signal: what it said is there all the same.
                readable(None, self._control)
                continue
            if len(data) < _REPORT.size:
                return None
            if int.from_bytes(data[:4], sys.byteorder) != FIGURES:
                break
            self.figures = data[4:]
        report = Report(data)
        if report.kind == FAILED:
            from pyrun.engine.explain import failure

            self.hang_up()
            if linger:
                self.close()
            raise failure(ops.notes(self._block), report.op, report.errno, report.detail)
        if report.kind == RUNNING:
            self.init_pid = report.pid
        elif report.kind == EXITED:
            self.status, self.oom, self.oom_victim = report.status, bool(report.detail), _VICTIMS.get(report.detail & ~1, "")
        return report

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the app's end and return its wait status (os.waitstatus_to_exitcode decodes it).

        The supervisor may still be cleaning up; `close` waits for that.

        TimeoutError when it has not ended within `seconds`, SetupError when it never started, ChildProcessError when the
        supervisor was killed before it could tell.
        """
        if seconds is not None:
            import time

            end = time.monotonic() + seconds
            while self.status is None and self._control >= 0:
                if not readable(max(0.0, end - time.monotonic()), self._control):
                    raise TimeoutError(f"the container has not ended within {seconds} seconds")
                if self.next_report() is None:
                    break
        while self.status is None:
            if self.next_report() is None:
                break
        if self.status is None:
            self.close()
            raise ChildProcessError("the supervisor ended without an exit report")
        return self.status

    def __del__(self) -> None:
        """A pod that nobody waits for any more is given up, as by the death of this process."""
        if self._owner == os.getpid():
            if self._control >= 0:
                _open.pop(self._control, None)
                os.close(self._control)
            if self.pidfd >= 0:
                _abandoned.append((self.pid, self.pidfd))

    def kill(self, signal: int) -> None:
        """Send a signal (signal(7)) to the app, SIGKILL to the whole pod; ProcessLookupError when it has ended.

        UsageError for what is not the number of a signal.
        """
        self._mine()
        if not 1 <= signal <= _SIGNALS:
            raise UsageError("signal pod", str(signal), "not the number of a signal", hint=f"1 to {_SIGNALS}, see signal(7)")
        try:
            os.write(self._control, bytes((signal,)))  # a packet: without SIGPIPE where nobody takes it
        except OSError:
            raise ProcessLookupError("the pod has ended") from None

    def go_on(self) -> None:
        """Let a supervisor that was started with WAIT and has told of its checkpoint go on; its next report tells what becomes of it."""
        self._mine()
        try:
            os.write(self._control, b"G")
        except OSError:
            return

    def hang_up(self) -> None:
        """The life-line ends here, also where a process that was forked meanwhile has a copy of the descriptor."""
        if self._control < 0:
            return
        control, self._control = self._control, -1
        _open.pop(control, None)
        try:
            native.shut_down(control)
        finally:
            os.close(control)

    def close(self) -> None:
        """Give the pod up (it is killed if it still runs) and wait until the supervisor has cleaned up."""
        self._mine()
        self.hang_up()
        while not self.reap():
            readable(None, self.pidfd)

    def ended(self) -> bool:
        """Whether its last report is there or the supervisor itself is gone, so that `wait` would not wait."""
        return self.status is not None or self._control < 0 or readable(0, *[fd for fd in (self._control, self.pidfd) if fd >= 0])

    def reap(self) -> bool:
        """Whether the supervisor has ended; if so it is reaped.  Never waits."""
        with _reaping:
            if self.pidfd < 0:
                return True
            try:
                pid, _, rusage = os.wait4(self.pid, os.WNOHANG)
            except ChildProcessError:  # SIGCHLD is ignored in this process: the kernel reaps (wait(2))
                if not readable(0, self.pidfd):
                    return False
            else:
                if pid == 0:
                    return False
                self.rusage = rusage
            pidfd, self.pidfd = self.pidfd, -1
            if self._control in _open:
                _open[self._control] = -1  # whoever forks now must not close what has this number next
            os.close(pidfd)
        self.hang_up()
        return True


_reaping = allocate_lock()
_open: dict[int, int] = {}  # control sockets of this process's supervisors, and their pidfds


def _remember(control: int, pidfd: int) -> None:
    """A child that this process forks must not hold the life-lines: they would outlive this process's death."""
    if not _open:
        _forget_in_children()
    if _abandoned:
        _reap_abandoned()
    _open[control] = pidfd


_abandoned: list[tuple[int, int]] = []  # supervisors that are to be reaped when they have ended: pid and pidfd


def _reap_abandoned() -> None:
    """Never waits; who starts containers and drops them leaves no more of them behind than end before the next one starts."""
    for _ in range(len(_abandoned)):
        try:
            pid, pidfd = _abandoned.pop()
        except IndexError:  # another thread does the same
            return
        if not readable(0, pidfd):
            _abandoned.insert(0, (pid, pidfd))
            continue
        os.close(pidfd)
        _wait(pid)


def _wait(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # who ignores SIGCHLD has nothing to wait for


_forgets = False


def _forget_in_children() -> None:
    global _forgets
    if not _forgets:
        _forgets = True
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    global _reaping
    _reaping = allocate_lock()  # somebody may have held it
    for fd in [*_open, *_open.values(), *[pidfd for _, pidfd in _abandoned]]:
        _shut(fd)
    _open.clear()
    _abandoned.clear()


def _shut(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        return  # another thread was closing it


def readable(seconds: float | None, *fds: int) -> bool:
    """Whether one of these descriptors can be read, or has come to its end, within that time (None: for ever); poll(2)."""
    import select

    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def start(
    block: bytes, slots: Slots, stdio: tuple[int, int, int], title: str, directory: str, *more: str, flags: int = ops.TELL_RUNNING
) -> Supervisor:
    """Start the supervisor of an encoded plan as a child with `stdio` for the app, and return at once.

    `flags` are further ones of the plan: without TELL_RUNNING its first report is the end, or a failure, which spares two
    processes from waking up; with ACCOUNT the end comes with the cgroup's figures.
    """
    import _socket

    flags |= ops.HAS_CONTROL
    plan = native.memfd_sealed("pyrun-plan", _with_flags(block, slots, flags))
    try:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            fds = [*stdio, plan, theirs.fileno(), slots.pod, slots.pods, slots.cgroup, slots.cgroup_parent, slots.network]
            pid, pidfd = native.spawn([word.encode() for word in (title, *more)], [], fds, directory)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
    finally:
        os.close(plan)
    return Supervisor(pid, pidfd, ours.detach(), block)


def start_recipe(
    block: bytes, record: bytes, pods: int, stdio: tuple[int, int, int], directory: str, *, flags: int = ops.TELL_RUNNING
) -> tuple[str, Supervisor]:
    """Make a pod below the directory `pods` (a descriptor) and start it; return its UUID and its supervisor.

    Both blocks have `RECIPE_BLANK` (native/recipe.h) for the UUID.  The helper loads while the pod is made.  OSError leaves nothing.
    """
    uuid, pid, pidfd, control = native.start(pods, stdio, record, block, ops.HAS_CONTROL | flags, directory)
    return uuid, Supervisor(pid, pidfd, control, block)
