"""What an event loop does for containers: starts them, moves their bytes, reaps their supervisors; for pyrun.aio and its pool.

Readiness of pidfds, sockets and pipes is all that is asked of a loop, so any will do: no child watcher, no thread for each container.
What makes a network waits for locks and for answers of the kernel, so it is done by one of a few threads, which end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from functools import partial
from weakref import WeakKeyDictionary

from pyrun.errors import StateError
from pyrun.net.want import kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyrun.api import Runtime
    from pyrun.container import Container
    from pyrun.engine.launch import Supervisor
    from pyrun.pod.keywords import Keywords
    from pyrun.streams import Pump, Streams

_THREADS = 4  # that make networks at the same time, of which each takes one lock anyhow

__all__ = ["Mover", "begin", "begin_at_once", "bury"]


def begin_at_once(
    runtime: Runtime, image: str | None, args: Sequence[str], rootfs: str | None, streams: Streams, options: Keywords, flags: int
) -> Container | None:
    """Start an app as `Runtime._start` does; None where that would wait, for the store or for a network to be made."""
    net = options.get("net") or ()
    if kind_of([net] if isinstance(net, str) else net, options.get("port") or ()) == "own":
        return None
    try:
        return runtime._start(image, args, rootfs, streams, options, flags, wait=False)
    except StateError as error:
        if error.errno != errno.EAGAIN:
            raise  # else somebody deletes from the store just now
    return None


async def begin(
    runtime: Runtime, image: str | None, args: Sequence[str], rootfs: str | None, streams: Streams, options: Keywords, flags: int
) -> Container:
    """Start an app as `Runtime._start` does; where that would wait, a thread does so.

    Cancelled meanwhile, it waits until the app is started, which may take as long as its network does, and gone again.
    """
    at_once = begin_at_once(runtime, image, args, rootfs, streams, options, flags)
    if at_once is not None:
        return at_once
    thread = _in_thread(
        partial(runtime._start, image, args, rootfs, streams, options, flags)
    )  # no task, which who ends the loop would cancel
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if thread.exception() is None:
            await bury(thread.result().release())
        raise


class _Workers:
    """Threads for what waits, of one loop, which end when there is nothing more to wait for."""

    __slots__ = ("busy", "pool")

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.pool = ThreadPoolExecutor(_THREADS, "pyrun-start")
        self.busy = 0


_workers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Workers] = WeakKeyDictionary()


def _in_thread(what: Callable[[], Container]) -> asyncio.Future[Container]:
    loop = asyncio.get_running_loop()
    workers = _workers.get(loop)
    if workers is None:
        workers = _workers[loop] = _Workers()
    workers.busy += 1
    future = loop.run_in_executor(workers.pool, what)
    future.add_done_callback(partial(_idle, loop, workers))
    return future


def _idle(loop: asyncio.AbstractEventLoop, workers: _Workers, _: object) -> None:
    workers.busy -= 1
    if not workers.busy:
        _workers.pop(loop, None)
        workers.pool.shutdown(wait=False)


async def bury(supervisor: Supervisor) -> None:
    """Give a pod up, wait until all of it is gone, and reap its supervisor, however often who waits is cancelled meanwhile.

    By its pidfd alone, whatever the loop, or another library, thinks of SIGCHLD.  Any number of tasks may do so for the same one.
    """
    supervisor.hang_up()
    cancelled = None
    while not supervisor.reap():
        own = os.dup(supervisor.pidfd)  # a loop has one reader for each descriptor, and others may wait too
        try:
            await _readable(own)
        except asyncio.CancelledError as error:  # what is killed ends; to leave now would leave it to nobody
            cancelled = error
        finally:
            os.close(own)
    if cancelled is not None:
        raise cancelled


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    there = loop.create_future()

    def tell() -> None:
        if not there.done():
            there.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await there
    finally:
        loop.remove_reader(fd)


class Mover:
    """A Pump on an event loop."""

    def __init__(self, moving: Pump) -> None:
        self.loop = asyncio.get_running_loop()
        self.moving = moving
        self.done = self.loop.create_future()
        self.ended = False
        self.control = moving.supervisor.control
        self.pidfd = moving.supervisor.pidfd
        self.stdin = moving.streams.stdin.fileno() if moving.feeds and moving.streams.stdin else -1
        self.readers: set[int] = set()

    async def move(self, timeout: float | None) -> None:
        """Until the app has ended and its pipes are read; after `timeout` seconds it is killed."""
        timer = None if timeout is None else self.loop.call_later(timeout, self._time_is_over)
        try:
            self._read(self.control, self._report)
            for fd in self.moving.open:
                self._read(fd, self._take, fd)
            if self.stdin >= 0:
                self.loop.add_writer(self.stdin, self._guarded, self._feed)
            await self.done
        finally:
            if timer:
                timer.cancel()
            for fd in list(self.readers):
                self._forget(fd)
            if self.stdin >= 0:
                self.loop.remove_writer(self.stdin)

    def _read(self, fd: int, what: object, *args: object) -> None:
        self.readers.add(fd)
        self.loop.add_reader(fd, self._guarded, what, *args)

    def _forget(self, fd: int) -> None:
        self.readers.discard(fd)
        self.loop.remove_reader(fd)

    def _guarded(self, what: object, *args: object) -> None:
        try:
            what(*args)  # type: ignore[operator]
        except BaseException as error:
            if not self.done.done():
                self.done.set_exception(error)
            return
        if self.ended and not self.moving.open and not self.done.done():
            self.done.set_result(None)

    def _report(self) -> None:
        supervisor = self.moving.supervisor
        self._forget(self.control)  # a report of a failure closes it
        if supervisor.next_report(linger=False) is not None and supervisor.status is None:
            self._read(self.control, self._report)
            return
        self.ended = True
        if self.moving.open:
            self._read(self.pidfd, self._drain)

    def _take(self, fd: int) -> None:
        if not self.moving.take(fd):
            self._forget(fd)

    def _feed(self) -> None:
        if not self.moving.feed():
            self.loop.remove_writer(self.stdin)
            self.stdin = -1
            self.moving.no_more()

    def _drain(self) -> None:
        for fd in (self.pidfd, *self.moving.open):
            self._forget(fd)
        self.moving.drain()

    def _time_is_over(self) -> None:
        if not self.ended:
            self.moving.give_up("timeout")
