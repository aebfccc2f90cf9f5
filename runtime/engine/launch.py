"""Handing a plan to the native helper, and its reports back as values and exceptions.

    become()   this very process turns into the supervisor: `pyrun run`, an ExecStart=
    start()    the supervisor is a child: the library; start_recipe() does it in one native call, pod and all

The helper's descriptors are the SLOT_ numbers of native/plan.h.
"""

from __future__ import annotations

import os
import posix
import sys
from struct import Struct

from pyrun import native
from pyrun.errors import HostError
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["Report", "Slots", "Supervisor", "become", "start", "start_recipe"]

_REPORT = Struct("=IIiIiiQ")
FAILED, RUNNING, EXITED = 1, 2, 3


class Slots:
    """Descriptors that the supervisor gets, -1 for none: the pod's directory (locked), the directory of all
    pods, the pod's cgroup and that one's parent.  `close` gives up this process's copies."""

    __slots__ = ("cgroup", "cgroup_parent", "pod", "pods")

    def __init__(self, pod: int = -1, pods: int = -1, cgroup: int = -1, cgroup_parent: int = -1) -> None:
        self.pod = pod
        self.pods = pods
        self.cgroup = cgroup
        self.cgroup_parent = cgroup_parent

    def close(self) -> None:
        """Close what belongs to this pod alone; the directory of all pods is its `Pods`' to close."""
        for fd in (self.pod, self.cgroup, self.cgroup_parent):
            if fd >= 0:
                os.close(fd)
        self.pod = self.pods = self.cgroup = self.cgroup_parent = -1


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
        self.kind, self.op, self.errno, self.detail, self.status, self.pid, self.time_ns = _REPORT.unpack(data)


def _with_flags(block: bytes, slots: Slots, flags: int) -> bytes:
    """Return the plan with what only the start knows: which descriptors come with it."""
    if slots.pod >= 0:
        flags |= ops.HAS_POD
    if slots.cgroup >= 0:
        flags |= ops.HAS_CGROUP
    return ops.add_flags(block, flags)


def become(block: bytes, slots: Slots, title: str, directory: str, *more: str) -> NoReturn:
    """Turn this process into the supervisor of an encoded plan; only an OSError comes back.

    `title` is what ps(1) shows, `more` are further arguments of the helper (SLOT_INIT in native/plan.h); `directory` takes
    the helper's nameless copy where memfds cannot be executed.
    """
    native.helper(directory)
    if native.helper_note:
        sys.stderr.write(f"pyrun: note: {native.helper_note}\n")
    flags = _take_sockets() << ops.LISTEN_SHIFT
    plan = native.memfd_sealed("pyrun-plan", _with_flags(block, slots, flags))
    environment = {name: value for name, value in posix.environ.items() if name}
    fds = [0, 1, 2, plan, -1, slots.pod, slots.pods, slots.cgroup, slots.cgroup_parent]
    native.become([word.encode() for word in (title, *more)], environment, fds, directory)
    raise AssertionError("execveat came back")


def _take_sockets() -> int:
    """Move the sockets that the service manager passed to this very process to where the helper looks for them.

    sd_listen_fds(3): they stand at 3 and above, where the helper has its own.  Returns how many there are.
    """
    if os.environ.get("LISTEN_PID", "") != str(os.getpid()):
        return 0
    text = os.environ.get("LISTEN_FDS", "")
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
    running.  Closing `control` kills the pod, and so does the death of this process.
    """

    __slots__ = ("_block", "_control", "init_pid", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, control: int, block: bytes) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.init_pid = 0
        self._control = control
        self._block = block

    def next_report(self) -> Report | None:
        """Wait for the next message; None when the supervisor has said its last.  SetupError for a failed step."""
        data = os.read(self._control, _REPORT.size)
        if len(data) != _REPORT.size:
            return None
        report = Report(data)
        if report.kind == FAILED:
            from pyrun.engine.explain import failure

            self.close()
            raise failure(ops.notes(self._block), report.op, report.errno, report.detail)
        if report.kind == RUNNING:
            self.init_pid = report.pid
        return report

    def wait(self) -> int:
        """Wait for the app's end and return its wait status (os.waitstatus_to_exitcode decodes it).

        The supervisor may still be cleaning up; `close` waits for that.

        SetupError when it never started, ChildProcessError when the supervisor was killed before it could tell.
        """
        status: int | None = None
        while status is None:
            report = self.next_report()
            if report is None:
                break
            if report.kind == EXITED:
                status = report.status
        if status is None:
            self.close()
            raise ChildProcessError("the supervisor ended without an exit report")
        return status

    def __del__(self) -> None:
        """A pod that nobody waits for any more is given up, as by the death of this process."""
        for fd in (self._control, self.pidfd):
            if fd >= 0:
                os.close(fd)

    def kill(self, signal: int) -> None:
        """Send a signal (signal(7)) to the app, SIGKILL to the whole pod; ProcessLookupError when it has ended."""
        try:
            os.write(self._control, bytes((signal,)))
        except OSError:
            raise ProcessLookupError("the pod has ended") from None

    def close(self) -> None:
        """Give the pod up (it is killed if it still runs) and wait until the supervisor has cleaned up."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        if self.pidfd >= 0:
            os.waitpid(self.pid, 0)
            os.close(self.pidfd)
            self.pidfd = -1

    def ended(self) -> bool:
        """Whether its last report is there or the supervisor itself is gone, so that `wait` would not wait."""
        import select

        poll = select.poll()
        for fd in (self._control, self.pidfd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        return self._control < 0 or bool(poll.poll(0))

    def reap(self) -> bool:
        """Whether the supervisor has ended; if so it is reaped.  Never waits."""
        if self.pidfd < 0:
            return True
        if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            return False
        os.close(self.pidfd)
        self.pidfd = -1
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        return True


def start(
    block: bytes, slots: Slots, stdio: tuple[int, int, int], title: str, directory: str, *more: str, tell_running: bool = True
) -> Supervisor:
    """Start the supervisor of an encoded plan as a child with `stdio` for the app, and return at once.

    Without `tell_running` its first report is the end, or a failure; that spares two processes from waking up.
    """
    import _socket

    flags = ops.HAS_CONTROL | (ops.TELL_RUNNING if tell_running else 0)
    plan = native.memfd_sealed("pyrun-plan", _with_flags(block, slots, flags))
    try:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            fds = [*stdio, plan, theirs.fileno(), slots.pod, slots.pods, slots.cgroup, slots.cgroup_parent]
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
    block: bytes, record: bytes, pods: int, stdio: tuple[int, int, int], directory: str, *, tell_running: bool = True
) -> tuple[str, Supervisor]:
    """Make a pod below the directory `pods` (a descriptor) and start it; return its UUID and its supervisor.

    Both blocks have `RECIPE_BLANK` (native/recipe.h) for the UUID.  The helper loads while the pod is made.  OSError leaves nothing.
    """
    flags = ops.HAS_CONTROL | (ops.TELL_RUNNING if tell_running else 0)
    uuid, pid, pidfd, control = native.start(pods, stdio, record, block, flags, directory)
    return uuid, Supervisor(pid, pidfd, control, block)
