"""Networks of root's containers on an event loop: it goes on while they are made, and no thread is left of that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from networld import World

BEGIN = """
import asyncio, fcntl, json, os, sys, threading, time, uvloop
import pyrun
from pyrun import aio

ROOT, IMAGE, KIND = sys.argv[1:]
WORDS = ["-c", "ls /sys/class/net | sort"]
MORE = {"root": ROOT, "exec": "/bin/sh", "net": "default", "capture_output": True}

def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if KIND == "uvloop" else None) as runner:
        found = runner.run(main())
    pyrun.settle(root=ROOT)
    print(json.dumps([found, threading.active_count()]))

"""
HELD = """
async def main():
    await aio.run(IMAGE, WORDS, **MORE)  # and there is a network
    with open(ROOT + "/networks/lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        task = asyncio.create_task(aio.run(IMAGE, WORDS, **MORE))
        turns = 0
        while turns < 50:
            await asyncio.sleep(0.005)
            assert not task.done()
            turns += 1
    done = await task
    return [turns, done.returncode, done.stdout.decode().split()]

run(main)
"""
MANY = """
async def main():
    done = await asyncio.gather(*[aio.run(IMAGE, WORDS, **MORE) for _ in range(12)])
    after = threading.active_count()
    for _ in range(3000):
        if after == 1:
            break
        await asyncio.sleep(0.02)
        after = threading.active_count()
    tasks = [asyncio.create_task(aio.run(IMAGE, ["-c", "exec sleep 1000"], **MORE)) for _ in range(4)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    ends = [type(end).__name__ for end in await asyncio.gather(*tasks, return_exceptions=True)]
    async with aio.Pool(IMAGE, size=2, root=ROOT, net="default") as pool:
        pooled = (await pool.run(["/bin/sh", *WORDS], capture_output=True)).stdout.decode().split()
    return [[one.stdout.decode().split() for one in done], after, ends, pooled]

run(main)
"""


@pytest.fixture(autouse=True)
def nothing_stays(world: World) -> Iterator[None]:
    yield
    assert world.settled() == []


@pytest.fixture
def stored(world: World, busybox: Path) -> str:
    world.pyrun("fetch", busybox, code=0)
    return "example.com/busybox"


def python(world: World, script: str, *words: str) -> list[object]:
    found, threads = json.loads(world.host.run(sys.executable, "-c", BEGIN + script, str(world.pyrun.root), *words))
    assert threads == 1, "a thread has stayed"
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_the_loop_goes_on_while_a_network_is_made(world: World, stored: str, kind: str) -> None:
    """Somebody else holds what it takes for as long as he likes."""
    assert python(world, HELD, stored, kind) == [50, 0, ["eth0", "lo"]]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_many_cancelled_and_pooled(world: World, stored: str, kind: str) -> None:
    done, after, ends, pooled = python(world, MANY, stored, kind)
    assert done == [["eth0", "lo"]] * 12 and after == 1 and ends == ["CancelledError"] * 4 and pooled == ["eth0", "lo"]
