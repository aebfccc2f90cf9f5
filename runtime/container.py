"""One app that this process started and that ends with it."""

from __future__ import annotations

import os
import time

from pyrun.engine.launch import RUNNING
from pyrun.pod.process import Process, entrance
from pyrun.result import result_of
from pyrun.streams import INHERIT, Piped, Pump, pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Unpack

    from pyrun.engine.launch import Supervisor
    from pyrun.images.store import Store
    from pyrun.pod.handle import Pod
    from pyrun.pod.keywords import Keywords
    from pyrun.pod.process import Entrance
    from pyrun.pod.state import Pods
    from pyrun.result import Result
    from pyrun.streams import Stream, Streams

__all__ = ["Container"]


class Container(Piped):
    """One app that was started; its pod ends with it, and with this process.

    Use it in one thread at a time, best in a `with` block, which kills what still runs.  A process that is forked from this one has
    no part in it: there every method raises StateError.
    `args` and `uuid` say what and who it is, `notes` what the user should be told although it is no error; `stdin`, `stdout` and `stderr`
    are this process's ends of the streams that are PIPE, unbuffered binary files, else None.
    """

    __slots__ = ("_entrance", "_pods", "_started", "_store", "_supervisor", "args", "notes", "uuid")

    def __init__(
        self, uuid: str, supervisor: Supervisor, notes: list[str], pods: Pods, store: Store, streams: Streams, args: Sequence[str]
    ) -> None:
        super().__init__(streams)
        self.uuid = uuid
        self.args = list(args)
        self.notes = notes
        self._pods = pods
        self._store = store
        self._supervisor = supervisor
        self._started = time.monotonic()
        self._entrance: Entrance | None = None

    def __repr__(self) -> str:
        return f"<pyrun.Container {self.uuid}>"

    @staticmethod
    def attach(reference: str, *, root: str | None = None) -> Pod:
        """Return the one pod of that UUID, beginning of a UUID, or name, whoever started it; StateError for none or several.

        It is a Pod: a pod on disk, which knows what any process may do with it, but not the streams.
        """
        from pyrun.pod.handle import Pod

        return Pod.attach(reference, root=root)

    @property
    def pid(self) -> int:
        """Pid 1 of the pod as the host sees it; 0 before `wait_running` came back."""
        return self._supervisor.init_pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal number, once `wait`, `poll` or `communicate` has seen the end."""
        status = self._supervisor.status
        return None if status is None else os.waitstatus_to_exitcode(status)

    @property
    def usage(self) -> dict[str, int]:
        """The figures of its cgroup at the end of the app, as `Result.usage`; {} before its end is known."""
        from pyrun.pod.stats import counted

        return counted(self._supervisor.figures)

    def fileno(self) -> int:
        """A pidfd of the supervisor: readable, for poll(2), once everything has ended and is cleaned up; -1 afterwards."""
        return self._supervisor.pidfd

    def wait_running(self) -> None:
        """Wait until the app's execve has succeeded; SetupError, ExecError when a step before it failed."""
        supervisor = self._supervisor
        while not supervisor.init_pid and supervisor.status is None:
            report = supervisor.next_report()
            if report is None or report.kind != RUNNING:
                return

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the exit code, or minus the signal number, as in subprocess.Popen.wait.

        Nothing is read from pipes meanwhile; `communicate` does so.
        TimeoutError when it has not ended within `timeout` seconds, SetupError or ExecError when the app never ran.
        """
        status = self._supervisor.wait(timeout)
        self._leave()
        return os.waitstatus_to_exitcode(status)

    def poll(self) -> int | None:
        """As `wait`, but None at once while it runs."""
        while self._supervisor.status is None and self._supervisor.ended():
            if self._supervisor.next_report() is None:
                return self.wait()
        code = self.returncode
        if code is not None:
            self._leave()
        return code

    def communicate(self, data: bytes | None = None, *, timeout: float | None = None, output_limit: int | None = None) -> Result:
        """Write `data` to its standard input, read its pipes until it ends, and return how it ended; once in its life.

        After `timeout` seconds, or when it has written more than `output_limit` bytes to its pipes, it is killed: see `Result.reason`.
        """
        moving = Pump(self._supervisor, self._streams, data, output_limit)
        try:
            pump(moving, timeout)
        except BaseException:
            self.close()
            raise
        return self._result(moving)

    def _result(self, moving: Pump) -> Result:
        output = moving.output()
        self._streams.close()
        self._leave()
        return result_of(self.args, self.uuid, self._supervisor, moving.outcome, output, time.monotonic() - self._started)

    def kill(self, signal: int = 15) -> None:
        """Send a signal (signal(7)) to the app, SIGKILL to the whole pod; ProcessLookupError when it has ended."""
        self._supervisor.kill(signal)

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        user: str | None = None,
        group: str | None = None,
        set_env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
    ) -> Process:
        """Start one more program in the pod, confined exactly as its app, and return at once.

        `argv` is the program, looked up in the app's PATH where it has no slash, and its arguments; empty means a shell.
        The streams are as those of `pyrun.start`, standard input /dev/null if None; the rest is what shall differ from the app's.
        StateError when the pod has ended, ConfigError for an unknown user; what fails later is raised by `Process.wait`.
        """
        self.wait_running()
        if self._entrance is None or self.returncode is not None or self._supervisor.control < 0:
            self._entrance = entrance(self._pods, self.uuid)
        streams = stdin, stdout, stderr
        return self._entrance.enter(argv, streams, user=user, group=group, set_env=set_env, working_dir=working_dir)

    @property
    def pod(self) -> Pod:
        """The same as any other process sees it: `status`, `stats`, `update`, `pause`, `resume`, `copy_in`, `copy_out`, `export`."""
        from pyrun.pod.handle import Pod

        return Pod(self._pods, self._store, self.uuid)

    def stats(self) -> dict[str, object]:
        """Return what it has used; see `pyrun.pod.stats.stats` for the members and their units.  StateError when it has ended."""
        return self.pod.stats()

    def update(self, *, device_deny: Sequence[str] = (), **limits: Unpack[Keywords]) -> None:
        """Change its limits, by the keywords that it was started with; see `Pod.update`."""
        self.pod.update(device_deny=device_deny, **limits)

    def close(self) -> None:
        """Kill what still runs and wait until everything of the pod is gone."""
        self._streams.close()
        self._supervisor.close()
        self._leave()

    def _leave(self) -> None:
        """Let go of what `exec` enters by."""
        entrance, self._entrance = self._entrance, None
        if entrance is not None:
            entrance.close()

    def release(self) -> Supervisor:
        """Hand the supervisor over to whoever reaps it."""
        return self._supervisor

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
