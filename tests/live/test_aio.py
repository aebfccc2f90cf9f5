"""`pyrun.aio`: the same on an event loop, asyncio's own and uvloop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

import pyrun as library
from pyrun import aio
from pyrun.errors import ExecError

ROOT: list[str] = []
BARE = {"rootfs": "host"}


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Awaitable[object]], object]]:
    """Runs a coroutine to its end; afterwards nothing of any pod is left, no thread was there, every handler is as it was."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    ROOT[:] = [str(tmp_path / "state")]

    def go(what: Awaitable[object]) -> object:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(what)  # type: ignore[arg-type]

    yield go
    library.settle(root=ROOT[0])
    assert not [name for phase in ("preparing", "running", "garbage") for name in os.listdir(f"{ROOT[0]}/pods/{phase}")]
    assert Path("/proc/thread-self/children").read_text().split() == []
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers


async def sh(script: str, **more: object) -> library.Result:
    return await aio.run(None, ["sh", "-c", script], root=ROOT[0], **{**BARE, "capture_output": True, **more})  # type: ignore[arg-type]


async def started(script: str, **more: object) -> aio.Container:
    return await aio.start(None, ["sh", "-c", script], root=ROOT[0], **{**BARE, **more})  # type: ignore[arg-type]


def test_ends(loop: Callable[[Awaitable[object]], object]) -> None:
    async def main() -> None:
        done = await sh("cat; echo bad >&2; exit 3", input=b"hello")
        assert (done.returncode, done.stdout, done.stderr, done.reason) == (3, b"hello", b"bad\n", "exited")
        assert done.usage["cpu_usec"] > 0 and done.rusage
        data = os.urandom(2_000_000)
        assert (await sh("cat", input=data)).stdout == data and (await sh("true", input=data)).ok
        done = await sh("trap '' TERM; echo first; sleep 1000 & sleep 1000", timeout=0.3)
        assert (done.reason, done.stdout) == ("timeout", b"first\n")
        done = await sh("yes", output_limit=1000)
        assert (done.reason, len(done.stdout or b"")) == ("output", 1000)
        with pytest.raises(library.ExitError):
            await sh("exit 1", check=True)
        with pytest.raises(ExecError, match="execute /nope"):
            await aio.run(None, ["/nope"], root=ROOT[0], rootfs="host")

    loop(main())


def test_many_at_once_take_no_thread(loop: Callable[[Awaitable[object]], object]) -> None:
    """And one loop waits for all: twenty that sleep take as long as one."""

    async def main() -> None:
        begin, threads = time.monotonic(), threading.active_count()
        results = await asyncio.gather(*[sh(f"sleep 1; exit {number}") for number in range(20)])
        assert [done.returncode for done in results] == list(range(20))
        assert time.monotonic() - begin < 15 and threading.active_count() == threads

    loop(main())


def test_cancelled(loop: Callable[[Awaitable[object]], object]) -> None:
    """The pod is gone by the time that the cancellation is felt; also one of many, also by a time-out of asyncio's."""

    async def main() -> None:
        task = asyncio.create_task(sh("sleep 1000"))
        await asyncio.sleep(0.3)
        assert len(os.listdir(f"{ROOT[0]}/pods/running")) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert os.listdir(f"{ROOT[0]}/pods/running") == []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await sh("sleep 1000")
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(sh("sleep 0.5; echo x")) for _ in range(3)]
            await asyncio.sleep(0.1)
            others[1].cancel()
        assert [task.cancelled() or (task.result().stdout) for task in others] == [b"x\n", True, b"x\n"]

    loop(main())


def test_closed_by_several_at_once(loop: Callable[[Awaitable[object]], object]) -> None:
    async def main() -> None:
        app = await started("sleep 1000")
        await app.wait_running()
        await asyncio.wait_for(asyncio.gather(app.close(), app.close(), app.close()), 20)
        assert not os.path.exists(f"/proc/{app.pid}")

    loop(main())


def test_what_exec_enters_by_is_let_go(loop: Callable[[Awaitable[object]], object]) -> None:
    """At the end, and by `close`, also while somebody keeps the container."""

    def fds() -> list[str]:
        links = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return [os.readlink(link) for link in links if link.is_symlink()]

    async def main() -> None:
        await sh("true")
        library.settle(root=ROOT[0])
        before, kept = len(fds()), []
        for _ in range(3):
            async with await started("sleep 1000") as app:
                assert await (await app.exec(["true"])).wait() == 0
            kept.append(app)
            assert len(fds()) == before
        async with await started("read x", stdin=library.PIPE) as app:
            assert app.stdin and await (await app.exec(["true"])).wait() == 0
            assert any(app.uuid in name for name in fds())
            app.stdin.close()
            await app.wait()
            await asyncio.sleep(0)
            assert not any(app.uuid in name for name in fds())

    loop(main())


def test_a_container(loop: Callable[[Awaitable[object]], object]) -> None:
    async def main() -> None:
        script = 'trap "exit 5" TERM; echo up; while read x; do echo "<$x>"; done; echo end; sleep 1000 & wait'
        async with await started(script, stdin=library.PIPE, stdout=library.PIPE) as app:
            assert app.stdin and app.stdout
            waits = [asyncio.create_task(app.wait()) for _ in range(3)]
            assert await app.stdout.readline() == b"up\n" and app.returncode is None
            await app.wait_running()
            assert os.path.exists(f"/proc/{app.pid}") and app.pod.status()["state"] == "running"
            app.stdin.write(b"a\nb\n")
            await app.stdin.drain()
            assert [await app.stdout.readline() for _ in range(2)] == [b"<a>\n", b"<b>\n"]
            process = await app.exec(["sh", "-c", "exit 6"])
            assert await process.wait() == 6
            await process.close()
            async with await app.exec(["cat"], stdin=library.PIPE, stdout=library.PIPE, set_env={"A": "b"}) as cat:
                assert cat.stdin and cat.stdout
                cat.stdin.write(b"question")
                cat.stdin.close()
                assert await cat.wait() == 0 and await cat.stdout.read() == b"question"
            async with await app.exec(["sleep", "1000"]) as other:
                other.kill(9)
                assert await other.wait() == -9
            waits[0].cancel()  # only the waiting ends
            app.stdin.close()
            assert await app.stdout.readline() == b"end\n"
            app.kill()
            assert await asyncio.gather(*waits[1:]) == [5, 5] and app.returncode == 5
        with pytest.raises(ExecError):
            async with await aio.start(None, ["/nope"], root=ROOT[0], rootfs="host") as app:
                await app.wait()
        async with await started("sleep 1000") as app:
            waiting = asyncio.create_task(app.wait())
            await app.wait_running()
        with pytest.raises(ChildProcessError):
            await waiting

    loop(main())
