"""`pyrun.aio.Pool`: shells that wait for their app, for the tasks of an event loop, asyncio's own and uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from waiting import wait_until

import pyrun as library
from pyrun import aio
from pyrun.calls import runtime_of

Go = Callable[[Awaitable[object]], object]
LOOK = "id; grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; ls /proc/self/fd; echo $$; env | sort; pwd; ulimit -n; ls /dev"


def pods(root: str) -> list[str]:
    return [name for phase in ("preparing", "running", "garbage") for name in os.listdir(f"{root}/pods/{phase}")]


@pytest.fixture(params=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Go]:
    """Runs a coroutine to its end; no pod, child, descriptor or thread is left then, and every handler is as it was."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    threads, state = threading.active_count(), str(tmp_path / "state")
    library.run(None, ["true"], rootfs="host", root=state)
    library.settle(root=state)

    def run(what: Awaitable[object]) -> object:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
            return runner.run(what)  # type: ignore[arg-type]

    run(asyncio.sleep(0))  # the first loop of a kind keeps what it makes for the process
    before = len(os.listdir("/proc/self/fd"))
    yield run
    library.settle(root=state)
    assert not pods(state) and Path("/proc/thread-self/children").read_text().split() == []
    assert len(os.listdir("/proc/self/fd")) == before
    wait_until(lambda: threading.active_count() == threads)  # asyncio has one for each child of its own
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers


@pytest.fixture
def pool(tmp_path: Path) -> aio.Pool:
    return aio.Pool(rootfs="host", size=3, root=str(tmp_path / "state"), hostname="web", rlimit=["nofile=99"])


async def shell(pool: aio.Pool, script: str, **more: object) -> library.Result:
    return await pool.run(["sh", "-c", script], capture_output=True, **more)  # type: ignore[arg-type]


def test_it_is_as_any_other_run(go: Go, pool: aio.Pool, tmp_path: Path) -> None:
    async def main() -> None:
        env = {"A": "b c", "HOME": "/tmp"}
        assert pool.ready == 0  # nothing runs before the block
        async with pool:
            assert pool.ready == 3
            done = await shell(pool, LOOK, set_env=env, working_dir="/usr")
            with library.Pool(rootfs="host", size=1, root=str(tmp_path / "state"), hostname="web", rlimit=["nofile=99"]) as other:
                assert other.run(["sh", "-c", LOOK], capture_output=True, set_env=env, working_dir="/usr").stdout == done.stdout
            assert done.ok and b"NoNewPrivs:\t1" in (done.stdout or b"")
            assert (await shell(pool, "cat; exit 3", input=b"x" * 200_000)).returncode == 3
            assert (await shell(pool, "kill -9 $$")).returncode == -9 and (await shell(pool, "echo e >&2")).stderr == b"e\n"
            assert (await shell(pool, "trap '' TERM; sleep 100 & sleep 100", timeout=0.3)).reason == "timeout"
            done = await shell(pool, "yes", output_limit=1000)
            assert done.reason == "output" and done.usage["cpu_usec"] > 0
            with pytest.raises(library.ExitError):
                await shell(pool, "exit 1", check=True)
        assert pool.ready == 0
        with pytest.raises(library.StateError, match="the pool is closed"):
            await pool.run(["true"])

    go(main())


def test_each_shell_is_used_once(go: Go, pool: aio.Pool) -> None:
    """More tasks than shells: what one run leaves no other finds, and what was killed while it waited is passed over."""

    async def main() -> None:
        async with pool:
            leave = "[ -e /tmp/x ] && echo found; touch /tmp/x /dev/shm/x; mkdir /new; sleep 1000 & cat"
            words = [str(number).encode() for number in range(12)]
            seen = await asyncio.gather(*[shell(pool, leave, input=word) for word in words])
            assert [done.stdout for done in seen] == words and all(done.stderr == b"" for done in seen)
            assert len({done.uuid for done in seen}) == 12
            killed, _ = pool._shells[0]
            killed.kill(9)
            killed.wait()
            assert (await shell(pool, "exit 4")).returncode == 4 and pool.ready == 3

    go(main())


def test_cancelled(go: Go, pool: aio.Pool, tmp_path: Path) -> None:
    """The shell is gone by the time that the cancellation is felt, also when it comes twice; its neighbours go on."""

    async def main() -> None:
        async with pool:
            tasks = [asyncio.create_task(shell(pool, "echo up; exec sleep 1000")) for _ in range(5)]
            other = asyncio.create_task(shell(pool, "read x; echo $x", stdin=read))
            while len(pods(str(tmp_path / "state"))) < 6:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)  # they begin to wait for the end of their shells
            for task in tasks:
                task.cancel()
            assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True))
            assert len(pods(str(tmp_path / "state"))) == 1 + pool.ready
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await shell(pool, "sleep 1000")
            os.write(write, b"word\n")
            assert (await other).stdout == b"word\n"
            assert (await shell(pool, "exit 2")).returncode == 2 and pool.ready == 3

    read, write = os.pipe()
    go(main())
    os.close(read)
    os.close(write)


def test_a_loop_that_ends_first(go: Go, pool: aio.Pool) -> None:
    """Who runs the loop cancels what is left in it: the shells of runs are reaped even so, those that wait by closing the pool."""

    async def main() -> None:
        await pool.fill()
        for _ in range(2):
            asyncio.create_task(shell(pool, "exec sleep 1000"))  # noqa: RUF006
        while pool.ready > 1:
            await asyncio.sleep(0.01)

    go(main())
    assert len(Path("/proc/thread-self/children").read_text().split()) == 1 == pool.ready
    go(pool.close())


def test_beside_other_children_of_the_loop(go: Go, pool: aio.Pool) -> None:
    """Neither takes the other's end away."""

    async def other(code: int) -> int:
        process = await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")
        return await process.wait()

    async def main() -> None:
        async with pool:
            for turn in range(5):
                mine = asyncio.gather(*[shell(pool, f"exit {code}") for code in range(4)])
                assert await asyncio.gather(*[other(10 + code + turn) for code in range(4)]) == [10 + code + turn for code in range(4)]
                assert [done.returncode for done in await mine] == [0, 1, 2, 3]

    handler = signal.getsignal(signal.SIGCHLD)
    go(main())
    signal.signal(signal.SIGCHLD, handler)


def test_while_somebody_deletes_from_the_store(go: Go, pool: aio.Pool, tmp_path: Path) -> None:
    """The loop goes on meanwhile; who is cancelled then leaves nothing."""

    async def main() -> None:
        state = str(tmp_path / "state")
        with runtime_of(state).store.lock(exclusive=True):
            filling, running = asyncio.create_task(pool.fill()), asyncio.create_task(shell(pool, "exit 5"))
            await asyncio.sleep(0.1)
            assert not filling.done() and not running.done() and not pods(state)
            filling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await filling
        assert (await running).returncode == 5
        await pool.close()

    go(main())


def test_a_run_does_not_wait_for_the_next_shell(go: Go, pool: aio.Pool, tmp_path: Path) -> None:
    """However long that takes; the pool is full again later, and whoever closes it meanwhile leaves nothing."""

    async def main() -> None:
        async with pool:
            with runtime_of(str(tmp_path / "state")).store.lock(exclusive=True):  # no shell starts
                runs = [asyncio.create_task(shell(pool, f"exit {code}")) for code in (5, 6)]
                await asyncio.wait(runs, timeout=60)
                assert [run.done() and run.result().returncode for run in runs] == [5, 6] and pool.ready == 1
            await pool.fill()
            assert pool.ready == 3
            with runtime_of(str(tmp_path / "state")).store.lock(exclusive=True):
                await shell(pool, "true")
                closing = asyncio.create_task(pool.close())
                await asyncio.sleep(0)
                assert pool.ready == 0 and not closing.done()
            await closing
            await pool.fill()
            assert pool.ready == 0

    go(main())


def test_what_is_not_there(go: Go, pool: aio.Pool, tmp_path: Path) -> None:
    async def main() -> None:
        async with pool:
            for program, code in (("/nope", errno.ENOENT), ("nope", errno.ENOENT), ("/etc/passwd", errno.EACCES)):
                with pytest.raises(library.ExecError) as caught:
                    await pool.run([program])
                assert caught.value.errno == code
            with pytest.raises(library.UsageError):
                await pool.run([])
            with pytest.raises(library.UsageError):
                await pool.run(["true"], input=b"x", stdin=library.DEVNULL)
        with pytest.raises(library.ConfigError):
            async with aio.Pool(rootfs="/missing", root=str(tmp_path / "state")):
                pass
        with pytest.raises(library.UsageError):
            aio.Pool(rootfs="host", size=0, root=str(tmp_path / "state"))

    go(main())


def test_it_fails_as_a_whole_or_not_at_all(go: Go, pool: aio.Pool) -> None:
    """A pool that cannot be filled leaves none of its shells; a run that lacks its shell says why."""
    real, left = pool._kind.runtime._start, [2]

    def fails(*words: object, **more: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise library.SetupError("make", "nothing", errno=errno.ENOSPC)
        return real(*words, **more)  # type: ignore[arg-type]

    async def main() -> None:
        with pytest.raises(library.SetupError):
            async with pool:
                pass

    kind = type(pool._kind.runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_start", lambda _, *words, **more: fails(*words, **more))
        go(main())
    wait_until(lambda: Path("/proc/thread-self/children").read_text().split() == [])
