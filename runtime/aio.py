"""The same for asyncio: containers as awaitables, on pidfds, sockets and pipes; no thread, no signal handler, any event loop.

    done = await aio.run("example.com/app", timeout=5, capture_output=True)
    async with await aio.start("example.com/app", stdout=pyrun.PIPE) as app:
        async for line in app.stdout: ...

Whoever is cancelled while it awaits `run` has its pod killed and removed before the cancellation goes on.  Starting a container takes
the loop about a millisecond; images are fetched and pods prepared by the functions of `pyrun`, in `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import os
import time

from pyrun.aiopool import Pool
from pyrun.calls import runtime_of
from pyrun.errors import UsageError
from pyrun.loops import Mover, begin, bury
from pyrun.plan import ops
from pyrun.streams import INHERIT, PIPE, Pump, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import BinaryIO, Self, Unpack

    from pyrun import container as sync
    from pyrun.engine.launch import Supervisor
    from pyrun.pod.handle import Pod
    from pyrun.pod.keywords import Keywords
    from pyrun.result import Result
    from pyrun.streams import Stream

__all__ = ["Container", "Pool", "Process", "run", "start"]


async def run(
    image: str | None = None,
    args: Sequence[str] = (),
    *,
    root: str | None = None,
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
    """Run an app to its end and return how it ended; see `pyrun.run`.  Cancelled, it kills the pod and waits until all of it is gone."""
    if input is not None and stdin is not None:
        raise UsageError("run container", "", "input and stdin exclude each other")
    if capture_output:
        stdout = stderr = PIPE
    runtime = runtime_of(root)
    started = time.monotonic()
    streams = Streams(PIPE if input is not None else stdin, stdout, stderr)
    container = None
    try:
        container = await begin(runtime, image, args, rootfs, streams, options, ops.ACCOUNT)
        container._started = started
        moving = Pump(container.release(), streams, input, output_limit)
        await Mover(moving).move(timeout)
        result = container._result(moving)
    except BaseException:
        streams.close()
        if container is not None:
            await bury(container.release())
        raise
    streams.close()
    runtime._later(container)
    if check:
        result.check_returncode()
    return result


async def start(
    image: str | None = None,
    args: Sequence[str] = (),
    *,
    root: str | None = None,
    rootfs: str | None = None,
    stdin: Stream = None,
    stdout: Stream = INHERIT,
    stderr: Stream = INHERIT,
    **options: Unpack[Keywords],
) -> Container:
    """Start an app that ends with this process; see `pyrun.start`.  Streams that are PIPE become asyncio's."""
    streams = Streams(stdin, stdout, stderr)
    try:
        begun = await begin(runtime_of(root), image, args, rootfs, streams, options, ops.ACCOUNT | ops.TELL_RUNNING)
    except BaseException:
        streams.close()
        raise
    return await Container(begun, streams)._connected()


class _Watched:
    """A supervisor whose reports the loop reads: any number of tasks may wait for what they say."""

    def __init__(self, supervisor: Supervisor, streams: Streams) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._streams = streams
        self._transports: list[asyncio.BaseTransport] = []
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._running: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._running.add_done_callback(_seen)
        self._ended.add_done_callback(_seen)
        self._loop.add_reader(supervisor.control, self._on_report, supervisor.control)

    async def _connected(self) -> Self:
        """The same, with its pipes; closed when that fails."""
        try:
            await self._connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def _connect(self) -> None:
        self.stdout = await self._reader(self._streams.stdout)
        self.stderr = await self._reader(self._streams.stderr)
        if self._streams.stdin is not None:
            reader = asyncio.StreamReader()
            made = asyncio.StreamReaderProtocol(reader)  # it has the flow control that a writer's `drain` asks
            transport, protocol = await self._loop.connect_write_pipe(lambda: made, self._streams.stdin)
            self.stdin = asyncio.StreamWriter(transport, protocol, None, self._loop)
            self._transports.append(transport)

    async def _reader(self, file: BinaryIO | None) -> asyncio.StreamReader | None:
        if file is None:
            return None
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        self._transports.append(transport)
        return reader

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal number, once its end is known."""
        status = self._supervisor.status
        return None if status is None else os.waitstatus_to_exitcode(status)

    async def wait_running(self) -> None:
        """Wait until the program's execve has succeeded; SetupError, ExecError when a step before it failed."""
        await asyncio.shield(self._running)

    async def wait(self) -> int:
        """Wait for the end; the exit code, or minus the signal number.  Cancelling only ends the waiting.

        SetupError or ExecError when the program never ran, ChildProcessError when its supervisor was killed.
        """
        return await asyncio.shield(self._ended)

    def _on_report(self, control: int) -> None:
        self._loop.remove_reader(control)  # a report of a failure closes it
        supervisor = self._supervisor
        try:
            report = supervisor.next_report(linger=False)
        except BaseException as error:
            self._settle(error)
            return
        if report is None and supervisor.status is None:
            self._settle(ChildProcessError("the supervisor ended without an exit report"))
            return
        self._settle(None)
        if supervisor.status is None:
            self._loop.add_reader(control, self._on_report, control)

    def _settle(self, error: BaseException | None) -> None:
        """Tell who waits what is known."""
        code = self.returncode
        if not self._running.done():
            if error is None or code is not None:
                self._running.set_result(None)
            else:
                self._running.set_exception(error)
        if self._ended.done():
            return
        if code is not None:
            self._ended.set_result(code)
        elif error is not None:
            self._ended.set_exception(error)

    def kill(self, signal: int = 15) -> None:
        """Send a signal (signal(7)) to the program, SIGKILL of a container to the whole pod; ProcessLookupError when it has ended."""
        self._supervisor.kill(signal)

    async def close(self) -> None:
        """Kill what still runs and wait until everything of it is gone."""
        for transport in self._transports:
            transport.close()
        await self._end()
        await asyncio.sleep(0)  # the transports close what they have in the loop's next turn
        self._streams.close()

    async def _end(self) -> None:
        if self._supervisor.control >= 0:
            self._loop.remove_reader(self._supervisor.control)
        await bury(self._supervisor)
        self._settle(ChildProcessError("it was closed"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def _seen(future: asyncio.Future[None] | asyncio.Future[int]) -> None:
    """Nobody has to ask."""
    if not future.cancelled():
        future.exception()


class Process(_Watched):
    """One more process in a running pod, started by `Container.exec`; it ends with the pod and with this process.

    `stdin` is a StreamWriter, `stdout` and `stderr` are StreamReaders, where they were PIPE.
    """

    async def wait(self) -> int:
        """Wait for the end; the exit code, or minus the signal number.  Cancelling only ends the waiting.

        SetupError or ExecError when the program never ran, ChildProcessError when its supervisor was killed.
        """
        try:
            return await super().wait()
        finally:
            if self._ended.done():
                await self._end()  # what it has written is there to be read


class Container(_Watched):
    """One app that was started; its pod ends with it, and with this process.  Best in an `async with` block.

    `uuid` and `args` say who and what it is; `stdin` is a StreamWriter, `stdout` and `stderr` are StreamReaders, where they were PIPE.
    """

    def __init__(self, begun: sync.Container, streams: Streams) -> None:
        self._begun = begun
        self.uuid = begun.uuid
        self.args = begun.args
        self.notes = begun.notes
        super().__init__(begun.release(), streams)
        self._ended.add_done_callback(lambda _: begun._leave())

    def __repr__(self) -> str:
        return f"<pyrun.aio.Container {self.uuid}>"

    @property
    def pid(self) -> int:
        """Pid 1 of the pod as the host sees it; 0 before `wait_running` came back."""
        return self._supervisor.init_pid

    @property
    def pod(self) -> Pod:
        """The same as any other process sees it; its methods may wait, so call those that do in `asyncio.to_thread`."""
        return self._begun.pod

    async def exec(
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
        """Start one more program in the pod, confined exactly as its app; see `pyrun.Container.exec`.

        Streams that are PIPE become asyncio's.
        """
        await self.wait_running()
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        begun = self._begun.exec(argv, **streams, user=user, group=group, set_env=set_env, working_dir=working_dir)
        return await Process(begun.release(), begun._streams)._connected()

    async def close(self) -> None:
        """Kill what still runs and wait until everything of the pod is gone."""
        try:
            await super().close()
        finally:
            self._begun._leave()
