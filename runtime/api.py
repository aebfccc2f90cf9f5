"""The library's front door: start and run apps from a live Python process.

No daemon, no subprocess of the interpreter, no fork: the native helper is spawned with the caller's
memory shared until it is exec'd, so a large, threaded process starts a pod as fast as a small one.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from pyrun import host as hosts
from pyrun.engine.launch import RUNNING, start_recipe
from pyrun.engine.launch import start as launch
from pyrun.errors import UsageError
from pyrun.images.store import Store
from pyrun.pod.create import create
from pyrun.pod.options import Options
from pyrun.pod.process import Process, enter
from pyrun.pod.recipe import make_recipe
from pyrun.pod.state import Pods, new_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pyrun.engine.launch import Supervisor
    from pyrun.pod.handle import Pod
    from pyrun.pod.recipe import Recipe

__all__ = ["Container", "Process", "Runtime"]

_DEFAULT_ROOT = "/var/lib/pyrun"
_REMEMBERED = 256  # recipes; about 15 kB each


class Container:
    """One app that was started; its pod ends with it, and with this process.

    Use it in one thread at a time, best in a `with` block, which kills what still runs.
    """

    __slots__ = ("_pods", "_supervisor", "notes", "uuid")

    def __init__(self, uuid: str, supervisor: Supervisor, notes: list[str], pods: Pods) -> None:
        self.uuid = uuid
        self.notes = notes
        self._pods = pods
        self._supervisor = supervisor

    @property
    def pid(self) -> int:
        """Pid 1 of the pod as the host sees it; 0 before `wait_running` came back."""
        return self._supervisor.init_pid

    def fileno(self) -> int:
        """A pidfd of the supervisor: readable, for poll(2), once everything has ended and is cleaned up."""
        return self._supervisor.pidfd

    def wait_running(self) -> None:
        """Wait until the app's execve has succeeded; SetupError, ExecError when a step before it failed."""
        while not self._supervisor.init_pid:
            report = self._supervisor.next_report()
            if report is None or report.kind != RUNNING:
                return

    def wait(self) -> int:
        """Wait for the end; the exit code, or minus the signal number, as in subprocess.Popen.wait.

        SetupError or ExecError when the app never ran.
        """
        return os.waitstatus_to_exitcode(self._supervisor.wait())

    def kill(self, signal: int = 15) -> None:
        """Send a signal (signal(7)) to the app, SIGKILL to the whole pod; ProcessLookupError when it has ended."""
        self._supervisor.kill(signal)

    def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int = 1,
        stderr: int = 2,
        user: str | None = None,
        group: str | None = None,
        set_env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
    ) -> Process:
        """Start one more program in the pod, confined exactly as its app, and return at once.

        `argv` is the program, looked up in the app's PATH where it has no slash, and its arguments; empty means a shell.
        The streams are descriptors, as for `Runtime.start`; the rest is what shall differ from the app's.
        StateError when the pod has ended, ConfigError for an unknown user; what fails later is raised by `Process.wait`.
        """
        self.wait_running()
        wanted = {"user": user, "group": group, "set_env": set_env, "working_dir": working_dir}
        return enter(self._pods, self.uuid, argv, (stdin, stdout, stderr), **wanted)

    def close(self) -> None:
        """Kill what still runs and wait until everything of the pod is gone."""
        self._supervisor.close()

    def release(self) -> Supervisor:
        """Hand the supervisor over to whoever reaps it."""
        return self._supervisor

    def __enter__(self) -> Container:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Runtime:
    """Images and pods below one state directory (default $PYRUN_ROOT, else /var/lib/pyrun).  Threads may share it.

    Remembers what it decided: starting the same image with the same options again costs a few stat(2) calls.
    """

    __slots__ = ("_ending", "_lock", "_recipes", "pods", "root", "store")

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root or os.environ.get("PYRUN_ROOT") or _DEFAULT_ROOT)
        self.store = Store(self.root)
        self.pods = Pods(self.root)
        self._recipes: dict[str, Recipe] = {}
        self._ending: list[Supervisor] = []
        self._lock = allocate_lock()

    def start(
        self,
        image: str,
        *argv: str,
        stdin: int | None = None,
        stdout: int = 1,
        stderr: int = 2,
        **options: object,
    ) -> Container:
        """Start an app of a stored image and return at once.

        `argv` is appended to the image's program or, with `exec=PATH`, are that program's arguments.
        `stdin`, `stdout`, `stderr` are descriptors; without a stdin the app reads /dev/null.  `options`
        are those of `pyrun.pod.options.Options`: the command line's long flags with underscores.
        Raises a PyrunError: NotFoundError, SignatureError, ConfigError, UsageError for an unknown option.
        """
        return self._start(image, list(argv), (stdin, stdout, stderr), options, tell_running=True)

    def run(self, image: str, *argv: str, stdin: int | None = None, stdout: int = 1, stderr: int = 2, **options: object) -> int:
        """Start an app as `start` does and return its exit code, or minus the signal number, as soon as it has ended.

        What it leaves is being removed by then; `settle` waits for that.
        """
        container = self._start(image, list(argv), (stdin, stdout, stderr), options, tell_running=False)
        try:
            code = container.wait()
        except BaseException:
            container.close()
            raise
        with self._lock:
            self._ending.append(container.release())
        return code

    def _start(
        self, image: str, argv: list[str], stdio: tuple[int | None, int, int], options: dict[str, object], *, tell_running: bool
    ) -> Container:
        with self._lock:
            self._ending = [supervisor for supervisor in self._ending if not supervisor.reap()]
        stdin, stdout, stderr = stdio
        streams = (stdout if stdin is None else stdin, stdout, stderr)
        with self.store.lock(exclusive=False):
            recipe = self._recipe(image, argv, stdin is not None, options)
            if not recipe.copies:
                try:
                    uuid, supervisor = start_recipe(recipe.block, recipe.head, self.pods.fd, streams, self.root, tell_running=tell_running)
                    return Container(uuid, supervisor, recipe.notes, self.pods)
                except OSError:
                    pass  # nothing is left of it; step by step it either works or says which step did not
            pod = create(recipe, self.pods, new_uuid())
        try:
            supervisor = launch(pod.block, pod.slots, streams, pod.title, self.root, tell_running=tell_running)
        except BaseException:
            pod.discard()
            raise
        pod.slots.close()
        return Container(pod.uuid, supervisor, recipe.notes, self.pods)

    def prepare(self, image: str, *argv: str, **options: object) -> Pod:
        """Make a pod of a stored image that is ready to run, in this process or in any other; see `start` for the arguments.

        `pod_name`, `restart`, `log_driver` and `log_opt` belong to pods in the background; `keep=False` removes it at its end.
        """
        return self._prepare(image, list(argv), options, lasting=True)

    def detach(self, image: str, *argv: str, **options: object) -> Pod:
        """Run an app in the background, independent of this process, and return as soon as it runs."""
        pod = self._prepare(image, list(argv), options, lasting=False)
        pod.start()
        return pod

    def _prepare(self, image: str, argv: list[str], options: dict[str, object], *, lasting: bool) -> Pod:
        from pyrun.pod.handle import Pod
        from pyrun.pod.prepare import prepare

        options = {"keep": True, **options}
        with self.store.lock(exclusive=False):
            recipe = self._recipe(image, argv, False, options)
            uuid = prepare(recipe, self._wanted(argv, False, options), self.pods, lasting=lasting)
        return Pod(self.pods, self.store, uuid)

    def pod(self, reference: str) -> Pod:
        """Return the one pod of that UUID, beginning of a UUID, or name; StateError for none or several."""
        from pyrun.pod.handle import Pod
        from pyrun.pod.names import resolve

        return Pod(self.pods, self.store, resolve(self.pods, reference)[1])

    def list_pods(self) -> list[dict[str, object]]:
        """Return the status of every pod, oldest first; see `pyrun.pod.status`."""
        from pyrun.pod.status import listing

        return listing(self.pods)

    def settle(self) -> None:
        """Wait until everything that ended `run`s made is gone."""
        with self._lock:
            ending, self._ending = self._ending, []
        for supervisor in ending:
            supervisor.close()

    def _wanted(self, argv: list[str], interactive: bool, options: dict[str, object]) -> Options:
        wanted = Options(self.root)
        wanted.argv = argv
        wanted.interactive = interactive
        for name, value in options.items():
            if name not in wanted.__dict__ or name in ("root", "argv", "interactive", "tty"):
                raise UsageError("start container", name, "no such option", hint="options are the attributes of pyrun.pod.options.Options")
            setattr(wanted, name, value)
        return wanted

    def _recipe(self, image: str, argv: list[str], interactive: bool, options: dict[str, object]) -> Recipe:
        key = repr((image, argv, interactive, sorted(options.items())))
        known = self._recipes.get(key)
        if known is not None and known.fresh():
            return known
        wanted = self._wanted(argv, interactive, options)
        found = self.store.find(image)
        if "image" not in wanted.insecure_options:
            self.store.require_trusted(found)
        sources = [self.store.ref_dir(found.name), self.root + "/images"]
        recipe = make_recipe(wanted, self.store, found, self.pods, hosts.probe(), sources=sources)
        if recipe.checks is not None:
            if len(self._recipes) >= _REMEMBERED:
                self._recipes.clear()
            self._recipes[key] = recipe
        return recipe
