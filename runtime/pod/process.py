"""One more process in a running pod, as the library sees it."""

from __future__ import annotations

import os

from pyrun.engine.launch import start
from pyrun.errors import StateError, UsageError
from pyrun.plan import ops
from pyrun.pod.enter import find_enterable, make_plan, open_slots, pod_plan
from pyrun.streams import Piped, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pyrun.engine.launch import Supervisor
    from pyrun.plan.ops import Plan
    from pyrun.pod.live import Live
    from pyrun.pod.state import Pods
    from pyrun.streams import Stream

__all__ = ["Entrance", "Process", "enter", "entrance"]


class Process(Piped):
    """A process that was started in a running pod, confined as its app; used like a subprocess.Popen, by one thread at a time.

    It ends with the pod and with this process.  In a `with` block it is killed at the end if it still runs.
    `returncode` is None until `wait` or `poll` has seen the end; `stdin`, `stdout` and `stderr` are this process's ends of what was PIPE.
    """

    __slots__ = ("_supervisor", "returncode")

    def __init__(self, supervisor: Supervisor, streams: Streams) -> None:
        super().__init__(streams)
        self._supervisor = supervisor
        self.returncode: int | None = None

    def fileno(self) -> int:
        """A pidfd, readable for poll(2) once the process has ended; -1 after `wait`."""
        return self._supervisor.pidfd

    def wait(self) -> int:
        """Wait for the end; the exit code, or minus the signal number.  Nothing is read from pipes meanwhile.

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
        self._streams.close()
        self._supervisor.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Entrance:
    """A running pod as whoever enters it found it, kept for the next time: its process 1 is held by a pidfd, and nobody else is entered."""

    __slots__ = ("_live", "_plan", "_pods")

    def __init__(self, pods: Pods, live: Live, plan: Plan) -> None:
        self._pods = pods
        self._live = live
        self._plan = plan

    def enter(self, argv: Sequence[str], stdio: tuple[Stream, Stream, Stream], **wanted: object) -> Process:
        """Start `argv` with these streams, and what is `wanted` of `pyrun.pod.enter.make_plan`; a stdin of None is /dev/null."""
        live = self._live
        _check_words(argv, wanted.get("set_env"))  # type: ignore[arg-type]
        if not live.lives():
            raise StateError("enter pod", live.uuid, "it has ended", hint="only a running pod can be entered")
        streams = Streams(*stdio)
        try:
            stdin, stdout, stderr = streams.app
            plan = make_plan(live, argv, interactive=stdin is not None, known=self._plan, **wanted)  # type: ignore[arg-type]
            slots = open_slots(live, plan)
            fds = (stdout if stdin is None else stdin, stdout, stderr)
            try:
                supervisor = start(ops.encode(plan), slots, fds, f"pyrun: enter {live.uuid}", self._pods.root, str(live.init))
            finally:
                slots.close()
        except BaseException:
            streams.close()
            raise
        streams.sent()
        return Process(supervisor, streams)

    def close(self) -> None:
        """Let go of the pod."""
        self._live.close()

    __del__ = close


def _check_words(argv: Sequence[str], variables: Mapping[str, str] | None) -> None:
    """UsageError for what execve(2) would cut off, or take for something else."""
    if isinstance(argv, str):
        raise UsageError("enter pod", argv, "argv is one text", hint="it is a list of words")
    for name in variables or ():
        if not name or "=" in name:
            raise UsageError("enter pod", f"set_env {name!r}", "no variable can be named that", hint="a name is not empty and has no =")
    for word in (*argv, *(variables or ()), *(variables or {}).values()):
        if "\0" in word:
            raise UsageError("enter pod", repr(word), "a word contains NUL")


def entrance(pods: Pods, uuid: str, app: str | None = None) -> Entrance:
    """Look a running pod up, as its `app` if it has several; StateError when there is no such pod or it cannot be entered now."""
    live = find_enterable(pods, uuid, app)
    try:
        return Entrance(pods, live, pod_plan(live))
    except BaseException:
        live.close()
        raise


def enter(
    pods: Pods, uuid: str, argv: Sequence[str], stdio: tuple[Stream, Stream, Stream], app: str | None = None, **wanted: object
) -> Process:
    """Start `argv` in a running pod, once; see `entrance` and `Entrance.enter`."""
    found = entrance(pods, uuid, app)
    try:
        return found.enter(argv, stdio, **wanted)
    finally:
        found.close()
