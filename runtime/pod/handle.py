"""A pod on disk as an object: what the command's verbs do, for a Python process.  It may belong to anybody and outlives its object."""

from __future__ import annotations

import os

from pyrun.errors import StateError, UsageError
from pyrun.pod import again, control
from pyrun.pod.status import exit_code, status
from pyrun.streams import INHERIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import BinaryIO, Unpack

    from pyrun.images.store import Store
    from pyrun.pod.keywords import Keywords
    from pyrun.pod.logs import Line
    from pyrun.pod.pressure import Pressure
    from pyrun.pod.process import Process
    from pyrun.pod.state import Pods
    from pyrun.streams import Stream

__all__ = ["Pod"]


class Pod:
    """One pod by its UUID; nothing is held open, so any number of them may exist, in any thread.

    Every method raises StateError when the pod is gone, or not in a state for it.
    """

    __slots__ = ("_pods", "_store", "uuid")

    def __init__(self, pods: Pods, store: Store, uuid: str) -> None:
        self._pods = pods
        self._store = store
        self.uuid = uuid

    @staticmethod
    def attach(reference: str, *, root: str | None = None) -> Pod:
        """Return the one pod of that UUID, beginning of a UUID, or name, whoever started it; StateError for none or several."""
        from pyrun.images.store import Store
        from pyrun.native.users import state_root
        from pyrun.pod.names import resolve
        from pyrun.pod.state import Pods

        where = os.path.abspath(root or state_root())
        pods = Pods(where)
        return Pod(pods, Store(where), resolve(pods, reference)[1])

    def __repr__(self) -> str:
        return f"<pyrun.Pod {self.uuid}>"

    def __enter__(self) -> Pod:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """It is killed if it runs, and removed, unless it is gone already."""
        try:
            self.remove(force=True)
        except StateError:
            if self.exists():
                raise

    def exists(self) -> bool:
        """Whether there still is such a pod, in whatever state."""
        from pyrun.pod.names import phase_of

        return bool(phase_of(self._pods, self.uuid))

    def status(self) -> dict[str, object]:
        """Return what the pod is and how it does; see `pyrun.pod.status.status` for the members."""
        return status(self._pods, self.uuid)

    def start(self) -> int:
        """Run a prepared pod in the background; the pid of its process 1 on the host, once the app's execve has succeeded.

        SetupError or ExecError when a step failed; the pod is removed then.
        """
        return again.start_prepared(self._pods, self.uuid)

    def stats(self) -> dict[str, object]:
        """Return what the running pod has used; see `pyrun.pod.stats.stats` for the members and their units."""
        from pyrun.pod.stats import stats

        return stats(self._pods, self.uuid)

    def pressure(self, resource: str, *, stall: float, window: float = 2.0, kind: str = "some", app: str | None = None) -> Pressure:
        """Return a trigger for when the running pod waits for `resource`; see `pyrun.pod.pressure.Pressure`."""
        from pyrun.pod.pressure import Pressure

        return Pressure(self._pods, self.uuid, resource, stall=stall, window=window, kind=kind, app=app)

    def on_pressure(
        self,
        callback: Callable[[], object],
        resource: str = "memory",
        *,
        stall: float = 0.1,
        window: float = 2.0,
        kind: str = "some",
        app: str | None = None,
    ) -> Callable[[], None]:
        """Call `callback` in another thread when the pod waited for `resource` for `stall` of `window` seconds; returns what ends that."""
        from pyrun.pod.pressure import on_pressure

        return on_pressure(self.pressure(resource, stall=stall, window=window, kind=kind, app=app), callback)

    def update(self, *, app: str | None = None, device_deny: Sequence[str] = (), **limits: Unpack[Keywords]) -> None:
        """Change limits of the running pod, by the names that `Runtime.run` takes, `device` included; see `pyrun.pod.update.update`."""
        from pyrun.pod.options import LIMITS, Options
        from pyrun.pod.update import update

        wanted = Options(self._pods.root)
        for name, value in limits.items():
            if name not in (*LIMITS, "device"):
                raise UsageError("update pod", name, "no such limit", hint="limits are device, " + ", ".join(LIMITS))
            setattr(wanted, name, value)
        update(self._pods, self.uuid, wanted, deny=device_deny, app=app)

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the end of the pod; the exit code, 128+n for signal n, 125 when nobody knows.  TimeoutError."""
        found = control.wait(self._pods, self.uuid, seconds)
        if found is None:
            raise TimeoutError(f"pod {self.uuid} has not ended within {seconds} seconds")
        return exit_code(found)

    def stop(self, *, signal: int = 0, seconds: float = 10, force: bool = False) -> bool:
        """End the pod for good: `signal` (0: the image's own, or TERM), then SIGKILL, with `force` at once; whether it came to that."""
        return control.stop(self._pods, self.uuid, signal=signal, seconds=seconds, force=force)

    def kill(self, signal: int = 9) -> None:
        """Send a signal (signal(7)) to the app, SIGKILL to the whole pod."""
        control.kill(self._pods, self.uuid, signal)

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        app: str | None = None,
        user: str | None = None,
        group: str | None = None,
        set_env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
    ) -> Process:
        """Start one more program in the running pod, confined exactly as its app, and return at once; see `Container.exec`.

        The process ends with the pod and with this process.
        """
        from pyrun.pod.process import enter

        streams = stdin, stdout, stderr
        return enter(self._pods, self.uuid, argv, streams, app, user=user, group=group, set_env=set_env, working_dir=working_dir)

    def events(self) -> Iterator[dict[str, object]]:
        """Yield what happens to this pod, from now on until it is removed; see `pyrun.pod.events.events`."""
        from pyrun.pod.events import events

        for event in events(self._pods):
            if event.get("uuid") == self.uuid:
                yield event
                if event["event"] == "removed":
                    return

    def pause(self, *, seconds: float = 10) -> None:
        """Stop every process of the pod where it is (cgroup.freeze); StateError, and none is, when that took more than `seconds`."""
        control.pause(self._pods, self.uuid, seconds)

    def resume(self) -> None:
        """Let a paused pod go on."""
        control.resume(self._pods, self.uuid)

    def restart(self, *, signal: int = 0, seconds: float = 10) -> int:
        """End the pod if it runs, and run it once more with the files that it has; its new process 1's pid."""
        return again.start_again(self._pods, self.uuid, signal=signal, seconds=seconds)

    def remove(self, *, force: bool = False) -> None:
        """Delete the pod and its files; with `force` it is killed first if it runs."""
        from pyrun.pod.removing import remove

        remove(self._pods, self.uuid, force=force)

    def rename(self, name: str) -> None:
        """Give the pod another name; UsageError for one that is no name."""
        from pyrun.pod.names import rename

        rename(self._pods, self.uuid, name)

    def logs(self, *, follow: bool = False, tail: int = -1, since: str = "", app: str | None = None) -> Iterator[Line]:
        """Yield (time, stream, text) of each line in its log, all bytes; see `pyrun.pod.logs.read_log`.

        `app`, here and below, says which app of a pod of several; UsageError where it has to be said.
        """
        from pyrun.pod.logs import open_app, open_pod, read_log

        fd = open_pod(self._pods, self.uuid)
        try:
            own = open_app(fd, self.uuid, app)
            try:
                yield from read_log(fd, follow=follow, tail=tail, since=since, own=own)
            finally:
                os.close(own)
        finally:
            os.close(fd)

    def copy_out(self, path: str, target: str, *, app: str | None = None) -> list[str]:
        """Copy a file or directory of the running pod to the host; the paths that were not copied."""
        from pyrun.pod.files import copy_out

        return copy_out(self._pods, self.uuid, path, target, app)

    def copy_in(self, source: str, path: str, *, app: str | None = None) -> list[str]:
        """Copy a file or directory of the host into the running pod; the paths that were not copied."""
        from pyrun.pod.files import copy_in

        return copy_in(self._pods, self.uuid, source, path, app)

    def export(self, out: BinaryIO, *, changes: bool = False, app: str | None = None) -> int:
        """Write the pod's root, or only its changes, as a tar archive; the number of entries."""
        from pyrun.pod.export import export

        return export(self._pods, self._store, self.uuid, out, changes=changes, app=app)
