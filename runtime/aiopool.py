"""A pool of sandboxes on an event loop: `pyrun.aio.Pool`, of the same shells as `pyrun.Pool`."""

from __future__ import annotations

import asyncio
import contextlib
import time

from pyrun.errors import PyrunError, UsageError
from pyrun.loops import Mover, begin, begin_at_once, bury
from pyrun.plan import ops
from pyrun.pool import Shells, answer, ended_by_themselves, new_streams, not_executed, order_of, tell
from pyrun.streams import DEVNULL, INHERIT, PIPE, Pump, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator, Mapping, Sequence
    from socket import socket
    from types import TracebackType
    from typing import Unpack

    from pyrun.pod.keywords import Keywords
    from pyrun.pool import Shell
    from pyrun.result import Result
    from pyrun.streams import Stream

__all__ = ["Pool"]


@contextlib.contextmanager
def _ends() -> Iterator[tuple[socket, Streams]]:
    """The socket that a shell is told by, closed when none was started, and the streams to start it with."""
    ours, theirs, streams = new_streams()
    try:
        yield ours, streams
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        streams.close()


class Pool:
    """Shells of one kind, as `pyrun.Pool` has them, for the tasks of one event loop; best in an `async with` block.

    Making it starts nothing yet: entering the block does, or `fill`.  `size` shells are kept ready; one that is used is replaced after
    its run, which does not wait for it.  More runs at once than shells are ready start what they lack.
    """

    def __init__(
        self, image: str | None = None, *, rootfs: str | None = None, size: int = 4, root: str | None = None, **options: Unpack[Keywords]
    ) -> None:
        self._kind = Shells(image, rootfs, size, root, options)
        self._filling: asyncio.Task[None] | None = None
        self.size = size

    @property
    def _shells(self) -> deque[Shell]:
        return self._kind.waiting

    @property
    def ready(self) -> int:
        """How many shells wait."""
        return len(self._shells)

    async def fill(self) -> None:
        """Start as many shells as are missing; PyrunError when that is not possible."""
        filling = self._replace()
        if filling is not None:
            await asyncio.wait([filling])
            if not filling.cancelled():  # by `close`
                filling.result()

    def _replace(self) -> asyncio.Task[None] | None:
        """Start what is missing, where that would wait in a task of the pool's own, which it returns."""
        while self._filling is None and self._kind.missing():
            shell = self._at_once()
            if shell is None:
                self._filling = asyncio.create_task(self._start_missing())
                self._filling.add_done_callback(self._filled)
            else:
                self._shells.append(shell)
        return self._filling

    async def _start_missing(self) -> None:
        while self._kind.missing():
            self._shells.append(await self._shell())

    def _filled(self, filling: asyncio.Task[None]) -> None:
        self._filling = None
        if not filling.cancelled():
            filling.exception()  # a run that finds no shell says it

    def _at_once(self) -> Shell | None:
        kind = self._kind
        with _ends() as (ours, streams):
            begun = begin_at_once(kind.runtime, kind.image, (), kind.rootfs, streams, kind.options, ops.ACCOUNT)
            if begun is None:
                ours.close()
                return None
            return begun, ours

    async def _shell(self) -> Shell:
        kind = self._kind
        with _ends() as (ours, streams):
            return await begin(kind.runtime, kind.image, (), kind.rootfs, streams, kind.options, ops.ACCOUNT), ours

    async def run(
        self,
        args: Sequence[str],
        *,
        set_env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        stdin: Stream = None,
        input: bytes | None = None,
        stdout: Stream = INHERIT,
        stderr: Stream = INHERIT,
        capture_output: bool = False,
        timeout: float | None = None,
        output_limit: int | None = None,
        check: bool = False,
    ) -> Result:
        """Run a program in a shell of its own, to its end; see `pyrun.Pool.run`.

        Cancelled, it kills the shell and waits until all of it is gone.  ExecError when the program is not there; StateError when the
        pool is closed.
        """
        if input is not None and stdin is not None:
            raise UsageError("run container", "", "input and stdin exclude each other")
        if capture_output:
            stdout = stderr = PIPE
        started = time.monotonic()
        first = PIPE if input is not None else stdin
        order = order_of(args, set_env or {}, working_dir or "", first is None or first == DEVNULL)
        for _ in range(self.size + 2):
            streams = Streams(first, stdout, stderr)
            try:
                shell = self._kind.take() or await self._shell()
                done = await self._once(shell, order, streams, input, timeout, output_limit, started, args)
            finally:
                streams.close()
            if done is not None:
                break
        else:
            raise ended_by_themselves()
        result, failed = done
        with contextlib.suppress(OSError, PyrunError):  # the next run finds no shell and says why
            self._replace()
        if failed:
            raise not_executed(args[0], failed)
        if check:
            result.check_returncode()
        return result

    async def _once(
        self,
        shell: Shell,
        order: bytes,
        streams: Streams,
        data: bytes | None,
        timeout: float | None,
        limit: int | None,
        started: float,
        args: Sequence[str],
    ) -> tuple[Result, int] | None:
        """The result, and the errno of an execve that failed; None when the shell was killed before it took the order."""
        container, ours = shell
        with ours:
            try:
                if not tell(ours, order, streams):
                    await bury(container.release())
                    return None
                container._streams, container._started, container.args = streams, started, list(args)
                moving = Pump(container.release(), streams, data, limit)
                await Mover(moving).move(timeout)
                taken, failed = answer(ours)
                result = container._result(moving)
            except BaseException:
                streams.close()
                await bury(container.release())
                raise
        self._kind.runtime._later(container)
        return (result, failed) if taken or moving.outcome else None

    async def close(self) -> None:
        """End every shell that waits and wait until it is gone; runs go on to their end."""
        self._kind.closed = True
        ending = []
        waiting = self._shells
        while waiting:
            container, ours = waiting.popleft()
            ours.close()
            container.release().hang_up()  # all of them at once
            ending.append(asyncio.ensure_future(bury(container.release())))
        filling = self._filling
        if filling is not None:
            filling.cancel()
            ending.append(filling)
        await asyncio.gather(*ending, return_exceptions=True)  # until all are gone, also when this is cancelled
        for end in ending:
            if end is not filling and not end.cancelled():
                end.result()

    async def __aenter__(self) -> Pool:
        try:
            await self.fill()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
