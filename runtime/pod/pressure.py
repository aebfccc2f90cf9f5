"""Being told when a pod is short of processors, memory or disks: triggers of pressure stall information (Linux, psi.rst).

The kernel watches; nobody polls.  A trigger is a descriptor that poll(2) reports POLLPRI for, once in each window at most.
"""

from __future__ import annotations

import os

from pyrun.errors import HostError, StateError, UsageError
from pyrun.pod.live import find_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pyrun.pod.state import Pods

__all__ = ["Pressure", "on_pressure"]

RESOURCES = ("cpu", "io", "memory")
KINDS = ("some", "full")
_SHORTEST, _LONGEST = 0.5, 10.0  # seconds; the kernel's bounds of a window


class Pressure:
    """One trigger on a running pod: `wait` in this thread, or `fileno` in a poll(2) for POLLPRI.  Close it, best by `with`."""

    __slots__ = ("fd", "uuid")

    def __init__(
        self, pods: Pods, uuid: str, resource: str, *, stall: float, window: float = 2.0, kind: str = "some", app: str | None = None
    ) -> None:
        """Trigger when tasks of the pod waited for `resource` for `stall` seconds in all within `window` seconds.

        `kind` some is at least one task waiting, full all of them at once.  UsageError for other words or times, StateError when the pod
        does not run, HostError where the kernel has no such trigger (CONFIG_PSI).
        """
        if resource not in RESOURCES or kind not in KINDS:
            raise UsageError("watch pressure", f"{kind} {resource}", "no such pressure", hint="it is some or full, of cpu, io or memory")
        if not _SHORTEST <= window <= _LONGEST or not 0 < stall <= window:
            hint = f"the window is {_SHORTEST} to {_LONGEST} seconds, and the stall no longer than that"
            raise UsageError("watch pressure", f"{stall} of {window} seconds", "cannot be", hint=hint)
        with find_live(pods, uuid, app) as live:
            where = live.cgroup
        if not where:
            raise StateError("watch pressure of pod", uuid, "it has no cgroup", hint="that takes a cgroup2 tree that pyrun may write to")
        self.uuid = uuid
        self.fd = -1
        try:
            self.fd = os.open(f"{where}/{resource}.pressure", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self.fd, f"{kind} {round(stall * 1e6)} {round(window * 1e6)}".encode())
        except OSError as error:
            self.close()
            hint = "the kernel needs CONFIG_PSI, without psi=0; a window that is no multiple of two seconds needs CAP_SYS_RESOURCE"
            raise HostError("watch pressure of pod", uuid, errno=error.errno or 0, hint=hint) from None

    def fileno(self) -> int:
        """The descriptor to poll(2) for POLLPRI; POLLERR says that the pod is gone."""
        return self.fd

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the next time; whether it came, which it did not when `seconds` have passed.  StateError when the pod is gone."""
        import select

        poll = select.poll()
        poll.register(self.fd, select.POLLPRI)
        for _, found in poll.poll(None if seconds is None else seconds * 1000):
            if found & (select.POLLERR | select.POLLNVAL):
                raise StateError("watch pressure of pod", self.uuid, "it has ended", hint="see `pyrun list`")
            return True
        return False

    def close(self) -> None:
        """Give the trigger up."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Pressure:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def on_pressure(trigger: Pressure, callback: Callable[[], object]) -> Callable[[], None]:
    """Call `callback` in a thread of its own each time, until the pod ends or the function that is returned is called.

    That one waits for a callback that runs just now, unless it is called from there, and closes the trigger.
    """
    import select
    from threading import Thread, current_thread

    stop = os.eventfd(0, os.EFD_CLOEXEC)
    given_up: list[bool] = []

    def watch() -> None:
        poll = select.poll()
        poll.register(trigger.fd, select.POLLPRI)
        poll.register(stop, select.POLLIN)
        while not given_up:
            found = dict(poll.poll())
            if stop in found or found.get(trigger.fd, 0) & (select.POLLERR | select.POLLNVAL):
                return
            callback()

    def end() -> None:
        if given_up:
            return
        given_up.append(True)
        if thread is not current_thread():
            os.eventfd_write(stop, 1)
            thread.join()
        os.close(stop)
        trigger.close()

    thread = Thread(target=watch, name=f"pyrun pressure {trigger.uuid[:8]}", daemon=True)
    thread.start()
    return end
