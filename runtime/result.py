"""How a container ended, and what it used."""

from __future__ import annotations

import os

from pyrun.engine.launch import readable
from pyrun.errors import PyrunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from resource import struct_rusage
    from typing import Literal

    from pyrun.engine.launch import Supervisor

    Reason = Literal["exited", "signal", "timeout", "oom", "output"]
    Victim = Literal["main", "child", "group"]

__all__ = ["ExitError", "Result", "result_of"]


class Result:
    """The end of a container; like a subprocess.CompletedProcess.

    `args` is what was asked for, `uuid` the pod's name; `returncode` the app's exit code, or minus the number of the signal that ended it.
    `stdout` and `stderr` are bytes where they were captured, else None.
    `reason` says why it ended: "exited" by itself; "signal"; "timeout": it was killed when its time was over; "oom": the
    kernel killed some of it for want of memory; "output": it was killed because it wrote more than `output_limit`.
    `oom_victim` says whom the kernel killed for want of memory, whatever the reason is: "main", the app itself, "child", others
    alone, or "group", all of it at once; None where nobody was, or it is not known.
    `seconds` is the time from the call until the end was known.  `usage` are the figures of the pod's cgroup at the end of the app, by the
    names of `Container.stats`: `cpu_usec` wherever there is a cgroup, `memory_peak_bytes`, `oom_kills` and `pids_peak` where the pod was
    limited so that their controllers count.
    """

    __slots__ = ("_supervisor", "args", "oom_victim", "reason", "returncode", "seconds", "stderr", "stdout", "usage", "uuid")

    def __init__(
        self,
        args: Sequence[str],
        uuid: str,
        returncode: int,
        reason: Reason,
        stdout: bytes | None,
        stderr: bytes | None,
        seconds: float,
        usage: dict[str, int],
        supervisor: Supervisor,
    ) -> None:
        self.args = list(args)
        self.uuid = uuid
        self.returncode = returncode
        self.reason: Reason = reason
        self.stdout = stdout
        self.stderr = stderr
        self.seconds = seconds
        self.usage = usage
        self.oom_victim: Victim | None = supervisor.oom_victim or None  # type: ignore[assignment]
        self._supervisor = supervisor

    @property
    def rusage(self) -> struct_rusage | None:
        """What all processes of the pod and its supervisor used together (getrusage(2)); waits until they are gone.

        None where this process ignores SIGCHLD, so that the kernel tells nobody.
        """
        while not self._supervisor.reap():
            if (pidfd := self._supervisor.pidfd) >= 0:  # else another thread has just reaped it
                readable(None, pidfd)
        return self._supervisor.rusage

    @property
    def ok(self) -> bool:
        """Whether it exited by itself with code 0."""
        return self.reason == "exited" and self.returncode == 0

    def check_returncode(self) -> None:
        """ExitError unless it exited by itself with code 0."""
        if not self.ok:
            raise ExitError(self)

    def __repr__(self) -> str:
        return f"<pyrun.Result {self.args} {self.reason} {self.returncode}>"


class ExitError(PyrunError):
    """A container ended otherwise than by exiting with code 0, and `check` was asked for; `result` tells all."""

    def __init__(self, result: Result) -> None:
        how = {
            "exited": f"exit code {result.returncode}",
            "signal": f"ended by signal {-result.returncode}",
            "timeout": f"killed after {result.seconds:.1f} seconds",
            "oom": "out of memory",
            "output": "killed for writing too much",
        }
        super().__init__("run", " ".join(result.args[:8]), how[result.reason])
        self.result = result


def result_of(
    args: Sequence[str], uuid: str, supervisor: Supervisor, outcome: str, output: tuple[bytes | None, bytes | None], seconds: float
) -> Result:
    """Put together what is known of a pod whose end was told."""
    from pyrun.pod.stats import counted

    status = supervisor.wait()
    code = os.waitstatus_to_exitcode(status)
    reason: Reason = "signal" if code < 0 else "exited"
    if outcome == "timeout":
        reason = "timeout"
    elif outcome == "output":
        reason = "output"
    elif supervisor.oom:
        reason = "oom"
    return Result(args, uuid, code, reason, *output, seconds, counted(supervisor.figures), supervisor)
