"""One more process in a running pod, as the library sees it."""

from __future__ import annotations

import os

from pyrun.engine.launch import start
from pyrun.plan import ops
from pyrun.pod.enter import find_enterable, make_plan, open_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pyrun.engine.launch import Supervisor
    from pyrun.pod.state import Pods

__all__ = ["Process", "enter"]


class Process:
    """A process that was started in a running pod, confined as its app; used like a subprocess.Popen, by one thread at a time.

    It ends with the pod and with this process.  In a `with` block it is killed at the end if it still runs.
    `returncode` is None until `wait` or `poll` has seen the end.
    """

    __slots__ = ("_supervisor", "returncode")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.returncode: int | None = None

    def fileno(self) -> int:
        """A pidfd, readable for poll(2) once the process has ended; -1 after `wait`."""
        return self._supervisor.pidfd

    def wait(self) -> int:
        """Wait for the end; the exit code, or minus the signal number.

        ExecError when the program is not there or cannot be executed, SetupError when another step failed before that.
        """
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(self._supervisor.wait())
            self._supervisor.close()
        return self.returncode

    def poll(self) -> int | None:
        """As `wait`, but None at once while the process runs."""
        if self.returncode is None and self._supervisor.ended():
            self.wait()
        return self.returncode

    def kill(self, signal: int = 9) -> None:
        """Send a signal (signal(7)) to the process; ProcessLookupError when it has ended."""
        self._supervisor.kill(signal)

    def release(self) -> Supervisor:
        """Hand the supervisor over to whoever waits for it."""
        return self._supervisor

    def close(self) -> None:
        """Kill it if it still runs, and wait until it is gone."""
        self._supervisor.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def enter(
    pods: Pods, uuid: str, argv: Sequence[str], stdio: tuple[int | None, int, int], app: str | None = None, **wanted: object
) -> Process:
    """Start `argv` in a running pod with these descriptors, and what is `wanted` of `pyrun.pod.enter.make_plan`; `app` is one of several.

    A stdin of None is /dev/null.  StateError when there is no such pod or it cannot be entered now.
    """
    stdin, stdout, stderr = stdio
    with find_enterable(pods, uuid, app) as live:
        plan = make_plan(live, argv, interactive=stdin is not None, **wanted)  # type: ignore[arg-type]
        slots = open_slots(live, plan)
        streams = (stdout if stdin is None else stdin, stdout, stderr)
        try:
            return Process(start(ops.encode(plan), slots, streams, f"pyrun: enter {live.uuid}", pods.root, str(live.init)))
        finally:
            slots.close()
