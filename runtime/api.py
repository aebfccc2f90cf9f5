"""Images and pods of one state directory, from a live Python process.

No daemon, no subprocess of the interpreter, no fork: the native helper is spawned with the caller's
memory shared until it is exec'd, so a large, threaded process starts a pod as fast as a small one.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from pyrun import host as hosts
from pyrun.container import Container
from pyrun.engine.launch import start as launch
from pyrun.engine.launch import start_recipe
from pyrun.errors import UsageError
from pyrun.images.store import Store
from pyrun.native.users import state_root
from pyrun.plan import ops
from pyrun.pod.binds import volumes
from pyrun.pod.create import create
from pyrun.pod.options import Options, check_foreground
from pyrun.pod.recipe import clock, decide, make_recipe
from pyrun.pod.state import Pods, new_uuid
from pyrun.streams import INHERIT, PIPE, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Unpack

    from pyrun.engine.launch import Supervisor
    from pyrun.images.store import Image
    from pyrun.planning import Plan
    from pyrun.pod.create import Pod as Made
    from pyrun.pod.handle import Pod
    from pyrun.pod.keywords import Keywords
    from pyrun.pod.recipe import Recipe
    from pyrun.result import Result
    from pyrun.streams import Stream

__all__ = ["App", "Runtime"]

_REMEMBERED = 256  # recipes; about 15 kB each
_LISTS = frozenset(
    "rlimit io_max io_latency hugetlb rdma misc cgroup_set device pod_limit volume mount port config supplementary_gids".split()
)
_LISTS |= {"dns", "dns_search", "dns_opt", "caps_retain", "caps_remove", "security_opt", "sysctl", "insecure_options"}
_OWN = ("root", "argv", "interactive", "tty")  # options that have another form here


def _list(args: Sequence[str]) -> list[str]:
    if isinstance(args, str):
        raise UsageError("start container", args, "args is one text", hint="it is a list of words")
    for word in args:
        if not isinstance(word, str):
            raise UsageError("start container", repr(word), "a word of args is no text", hint="os.fsdecode makes one of bytes")
    return list(args)


def _check_names(variables: Mapping[str, str]) -> None:
    for name in variables:
        if not name or "=" in name:
            raise UsageError(
                "start container", f"set_env {name!r}", "no variable can be named that", hint="a name is not empty and has no ="
            )


class App:
    """One app of a pod of several: a stored image, arguments, and the keywords that are its own; see `Runtime.prepare_pod`."""

    __slots__ = ("args", "image", "options")

    def __init__(self, image: str, args: Sequence[str] = (), **options: Unpack[Keywords]) -> None:
        self.image = image
        self.args = list(args)
        self.options = options


class Runtime:
    """Images and pods below one state directory (default: see `pyrun.native.users.state_root`).  Threads may share it.

    Remembers what it decided: starting the same image with the same options again costs a few stat(2) calls.

    Its methods start a stored image (`image`: a name, an id or its beginning) or, without an image, `rootfs`: a directory of
    the host, which stays as it is, or "host" for the host's own /usr, read-only.  `args` are added to the image's program or, with
    the keyword `exec`, are that program's arguments; without an image the first is the program.  Streams are descriptors, files,
    PIPE, DEVNULL or INHERIT; without a stdin the app reads /dev/null.  Keywords are those of `pyrun.pod.keywords.Keywords`: the
    command line's long flags.

    Errors: NotFoundError for an image that is not stored, SignatureError for one that is not trusted, ConfigError for what does not go
    together or is not on this host, UsageError for a malformed keyword, SetupError when the kernel refused a step, ExecError when
    the program is not there; all of them are PyrunError.
    """

    __slots__ = ("_ending", "_lock", "_owner", "_recipes", "pods", "root", "store")

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root or state_root())
        self.store = Store(self.root)
        self.pods = Pods(self.root)
        self._recipes: dict[str, Recipe] = {}
        self._ending: list[Supervisor] = []
        self._lock = allocate_lock()
        self._owner = os.getpid()

    def run(
        self,
        image: str | None = None,
        args: Sequence[str] = (),
        *,
        rootfs: str | None = None,
        stdin: Stream = None,
        input: bytes | None = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        capture_output: bool = False,
        timeout: float | None = None,
        output_limit: int | None = None,
        check: bool = False,
        **options: Unpack[Keywords],
    ) -> Result:
        """Run an app to its end and return how it ended, as soon as that is known; like subprocess.run.

        `input` are bytes for its standard input; `capture_output` stands for stdout=PIPE and stderr=PIPE.  After `timeout` seconds,
        or when it has written more than `output_limit` bytes into pipes, all of the pod is killed and `Result.reason` says so.  With
        `check` anything but an exit code of 0 is an ExitError.  What the pod leaves is being removed by then; `settle` waits for that.
        """
        if input is not None and stdin is not None:
            raise UsageError("run container", "", "input and stdin exclude each other")
        if capture_output:
            stdout = stderr = PIPE
        started = time.monotonic()
        streams = Streams(PIPE if input is not None else stdin, stdout, stderr)
        try:
            container = self._start(image, args, rootfs, streams, options, ops.ACCOUNT)
            container._started = started
            result = container.communicate(input, timeout=timeout, output_limit=output_limit)
        finally:
            streams.close()
        self._later(container)
        if check:
            result.check_returncode()
        return result

    def call(
        self,
        image: str | None = None,
        args: Sequence[str] = (),
        *,
        rootfs: str | None = None,
        stdin: Stream = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        **options: Unpack[Keywords],
    ) -> int:
        """Run an app to its end and return its exit code, or minus the signal number, and nothing else; the quickest way."""
        streams = Streams(stdin, stdout, stderr)
        try:
            container = self._start(image, args, rootfs, streams, options, 0)
        finally:
            streams.close()
        try:
            code = container.wait()
        except BaseException:
            container.close()
            raise
        self._later(container)
        return code

    def start(
        self,
        image: str | None = None,
        args: Sequence[str] = (),
        *,
        rootfs: str | None = None,
        stdin: Stream = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        **options: Unpack[Keywords],
    ) -> Container:
        """Start an app and return at once; it ends with this process."""
        streams = Streams(stdin, stdout, stderr)
        try:
            return self._start(image, args, rootfs, streams, options, ops.ACCOUNT | ops.TELL_RUNNING)
        except BaseException:
            streams.close()
            raise

    def _later(self, container: Container) -> None:
        with self._lock:
            self._ending.append(container.release())

    def _start(
        self, image: str | None, args: Sequence[str], rootfs: str | None, streams: Streams, options: Keywords, flags: int, wait: bool = True
    ) -> Container:
        """With `wait` false StateError (EAGAIN) while somebody deletes from the store, instead of waiting for that."""
        check_foreground(options)
        self._tidy()
        first, stdout, stderr = streams.app
        fds = (stdout if first is None else first, stdout, stderr)
        with self.store.lock(exclusive=False, wait=wait):
            recipe = self._recipe(image, args, rootfs, first is not None, options)
            found = None if recipe.copies else self._at_once(recipe, fds, flags)
            pod = create(recipe, self.pods, new_uuid()) if found is None else None
        if pod is not None:
            try:
                flags |= ops.WAIT if recipe.waits else 0
                found = pod.uuid, launch(pod.block, pod.slots, fds, pod.title, self.root, flags=flags)
            except BaseException:
                pod.discard()
                raise
            self._go_on(recipe, pod, found[1])
        assert found is not None
        streams.sent()
        words = [word for word in (image, *args) if word is not None]
        return Container(*found, recipe.notes, self.pods, self.store, streams, words)

    def _go_on(self, recipe: Recipe, pod: Made, supervisor: Supervisor) -> None:
        """The supervisor has what it needs, but for a network that waits for its namespaces."""
        try:
            if recipe.waits:
                from pyrun.pod.network import connect_waiting

                connect_waiting(self.pods, pod.uuid, pod.slots.pod, recipe.net_of(pod.uuid), supervisor)
        finally:
            pod.slots.close()

    def _at_once(self, recipe: Recipe, fds: tuple[int, int, int], flags: int) -> tuple[str, Supervisor] | None:
        try:
            return start_recipe(recipe.block, recipe.head, self.pods.fd, fds, self.root, flags=flags)
        except OSError:
            return None  # nothing is left of it; step by step it either works or says which step did not

    def _tidy(self) -> None:
        """Reap what has ended meanwhile; in a process that was forked from the one that made this, begin anew."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._lock = allocate_lock()  # another thread may have held it
            self._ending = []
        with self._lock:
            self._ending = [supervisor for supervisor in self._ending if not supervisor.reap()]

    def plan(
        self,
        image: str | None = None,
        args: Sequence[str] = (),
        *,
        rootfs: str | None = None,
        stdin: bool = False,
        **options: Unpack[Keywords],
    ) -> Plan:
        """Return what `start` with the same arguments would ask of the kernel; nothing is done.  `stdin`: the app has a standard input."""
        from pyrun.planning import Plan

        wanted, found, lowers = self._decided(image, args, rootfs, stdin, options)
        notes: list[str] = []
        _, plan = decide(wanted, self.store, found, self.pods, hosts.probe(), new_uuid(), notes, lowers)
        return Plan(plan, notes)

    def prepare(self, image: str | None = None, args: Sequence[str] = (), *, rootfs: str | None = None, **options: Unpack[Keywords]) -> Pod:
        """Make a pod that is ready to run, in this process or in any other.

        `pod_name`, `restart`, `log_driver` and `log_opt` belong to pods in the background; `keep=False` removes it at its end.
        """
        return self._prepare(image, args, rootfs, options, start=False)

    def detach(self, image: str | None = None, args: Sequence[str] = (), *, rootfs: str | None = None, **options: Unpack[Keywords]) -> Pod:
        """Run an app in the background, independent of this process, and return as soon as it runs."""
        return self._prepare(image, args, rootfs, options, start=True)

    def _prepare(
        self, image: str | None, args: Sequence[str], rootfs: str | None, options: Keywords, *, start: bool, movable: bool = False
    ) -> Pod:
        from pyrun import background
        from pyrun.pod.prepare import prepare

        wanted: Keywords = {"keep": True, **options}
        if os.geteuid():
            return self._pod(background.make(self.root, image, args, rootfs, wanted, start=start))
        with self.store.lock(exclusive=False):
            recipe = self._recipe(image, args, rootfs, False, wanted)
            uuid = prepare(recipe, self._wanted(args, False, wanted), self.pods, lasting=not start)
        if start:
            background.start(self.pods, uuid, movable=movable)
        return self._pod(uuid)

    def prepare_pod(self, apps: Sequence[App], **options: Unpack[Keywords]) -> Pod:
        """Make a pod of several apps of stored images that is ready to run; `options` are the pod's, an App has its own.

        They share network, host name, System V IPC and /dev/shm, with pid="pod" process numbers too, and the volumes of the pod
        that they mount by name; see docs/pods.md.  UsageError and ConfigError for what does not go together.
        """
        from pyrun import background

        return self._pod(background.make_several(self, apps, options))

    def _pod(self, uuid: str) -> Pod:
        from pyrun.pod.handle import Pod

        return Pod(self.pods, self.store, uuid)

    def pod(self, reference: str) -> Pod:
        """Return the one pod of that UUID, beginning of a UUID, or name; StateError for none or several."""
        from pyrun.pod.names import resolve

        return self._pod(resolve(self.pods, reference)[1])

    def list_pods(self) -> list[dict[str, object]]:
        """Return the status of every pod, oldest first; see `pyrun.pod.status.status` for the members."""
        from pyrun.pod.status import listing

        return listing(self.pods)

    def events(self) -> Iterator[dict[str, object]]:
        """Yield what happens to pods, from now on and for ever; see `pyrun.pod.events.events`."""
        from pyrun.pod.events import events

        return events(self.pods)

    def settle(self) -> None:
        """Wait until everything that ended `run`s and `call`s made is gone."""
        with self._lock:
            ending, self._ending = self._ending, []
        for supervisor in ending:
            supervisor.close()

    def _wanted(self, args: Sequence[str], interactive: bool, options: Keywords) -> Options:
        wanted = Options(self.root)
        wanted.argv = _list(args)
        wanted.interactive = interactive
        for name, value in options.items():
            if name not in wanted.__dict__ or name in _OWN:
                raise UsageError("start container", name, "no such option", hint="options are those of pyrun.pod.keywords.Keywords")
            if isinstance(value, str) and name in _LISTS:
                raise UsageError("start container", f"{name} {value!r}", "is one text", hint=f"it is a list: {name}=[{value!r}]")
            setattr(wanted, name, value)
        wanted.volume = list(volumes(wanted.volume))
        return wanted

    def _recipe(self, image: str | None, args: Sequence[str], rootfs: str | None, interactive: bool, options: Keywords) -> Recipe:
        stamp = None
        if rootfs is not None:
            from pyrun.pod.bare import stamp as stamp_of

            stamp = stamp_of(rootfs)
        env = options.get("set_env", {})
        more = sorted(option for option in options.items() if option[0] != "set_env")
        _check_names(env)
        place = os.getcwd() if options.get("volume") else ""  # a short volume's source may be below it
        deciding = (image, rootfs, stamp, interactive, more, list(env), env.get("PATH"), place)
        own = 1 if rootfs is not None and not options.get("exec") else 0  # the program is the first of `args`
        args = _list(args)
        keys = [repr((kept, args[: own + kept], len(args) > own, deciding)) for kept in (0, 1)]
        for key in keys:
            known = self._recipes.get(key)
            if known is not None and known.fresh():
                return known.again(args[own:], env)
        begun = clock()
        wanted, found, lowers = self._decided(image, args, rootfs, interactive, options)
        sources = [] if lowers else [self.store.ref_dir(found.name), self.root + "/images"]
        recipe = make_recipe(wanted, self.store, found, self.pods, hosts.probe(), sources=sources, lowers=lowers, begun=begun)
        return self._remember(keys[recipe.kept], recipe)

    def _decided(
        self, image: str | None, args: Sequence[str], rootfs: str | None, interactive: bool, options: Keywords
    ) -> tuple[Options, Image, list[str] | None]:
        """Return options, image and, without an image, the lower directories."""
        wanted = self._wanted(args, interactive, options)
        if image is not None and rootfs is None:
            return wanted, self._trusted(image, wanted), None
        if image is not None or rootfs is None:
            raise UsageError("start container", image or "", "it takes either an image or a rootfs")
        if not wanted.exec and not args:
            raise UsageError("start container", rootfs, "no program is named", hint='args begins with it: ["/bin/sh", "-c", ...]')
        from pyrun.pod.bare import HOST, bare_image, host_root

        if not wanted.exec:
            wanted.argv, args = wanted.argv[1:], wanted.argv[:1]
        found = bare_image(rootfs, args)
        if rootfs != HOST:
            return wanted, found, [rootfs]
        around, more = host_root(self.root)
        wanted.volume = [*more, *wanted.volume]
        return wanted, found, [around]

    def _trusted(self, image: str, wanted: Options) -> Image:
        found = self.store.find(image)
        if "image" not in wanted.insecure_options:
            self.store.require_trusted(found)
        return found

    def _remember(self, key: str, recipe: Recipe) -> Recipe:
        if recipe.checks is not None:
            if len(self._recipes) >= _REMEMBERED:
                self._recipes.clear()
            self._recipes[key] = recipe
        return recipe
