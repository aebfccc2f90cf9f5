"""A tiny process-compose: services in containers, started in the order of their needs, restarted, their output side by side.

    python examples/compose.py services.json

    {"services": {"db":  {"args": ["sh", "-c", "echo ready; exec sleep 1000"], "ready": "ready"},
                  "web": {"image": "example.com/web", "args": ["serve"], "needs": ["db"], "restart": 3},
                  "job": {"args": ["sh", "-c", "echo done"], "needs": ["web"], "main": true}}}

A service is ready when it has said its word, else as soon as it runs.  The first interrupt, or the end of a main service, stops
all, the last one started first.  One event loop, no thread, no subprocess.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pyrun
from pyrun import aio


class Service:
    """One service and how it does."""

    def __init__(self, name: str, wanted: dict[str, Any]) -> None:
        self.name = name
        self.wanted = wanted
        self.ready = asyncio.Event()
        self.app: aio.Container | None = None
        self.code: int | None = None

    async def run(self, others: dict[str, Service]) -> int:
        """Wait for what it needs, and run it until it ends for good; its last exit code."""
        for need in self.wanted.get("needs", []):
            await others[need].ready.wait()
        image = self.wanted.get("image")
        for turn in range(int(self.wanted.get("restart", 0)) + 1):
            app = await aio.start(
                image,
                self.wanted.get("args", []),
                rootfs=None if image else "host",
                stdout=pyrun.PIPE,
                stderr=pyrun.STDOUT,
                set_env=self.wanted.get("environment", {}),
                hostname=self.name,
            )
            async with app:
                self.app = app
                await app.wait_running()
                if "ready" not in self.wanted:
                    self.ready.set()
                await self.show(app)
                self.code = await app.wait()
            say(self.name, f"ended with {self.code}" + (", once more" if turn < self.wanted.get("restart", 0) and self.code else ""))
            if not self.code:
                break
        assert self.code is not None
        return self.code

    async def show(self, app: aio.Container) -> None:
        """Print its lines as they come."""
        assert app.stdout
        async for line in app.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            say(self.name, text)
            if text == self.wanted.get("ready"):
                self.ready.set()

    async def stop(self) -> None:
        """Ask it to end; after five seconds it is killed with its task."""
        if self.app is not None and self.app.returncode is None:
            try:
                self.app.kill(signal.SIGTERM)
                await asyncio.wait_for(self.app.wait(), 5)
            except (ProcessLookupError, ChildProcessError, TimeoutError):
                pass


def say(name: str, text: str) -> None:
    """One line of one service."""
    print(f"{name:10} | {text}", flush=True)


async def compose(wanted: dict[str, dict[str, Any]]) -> int:
    """Run all services until a main one ends, all have ended, or somebody interrupts."""
    services = {name: Service(name, one) for name, one in wanted.items()}
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    tasks = {asyncio.create_task(one.run(services)): one for one in services.values()}
    interrupt = asyncio.create_task(stopping.wait())
    waiting: set[asyncio.Task[Any]] = set(tasks)
    code = 0
    while waiting and not stopping.is_set():
        done, _ = await asyncio.wait({*waiting, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        waiting -= done
        for task in done - {interrupt}:
            if tasks[task].wanted.get("main"):
                code = task.result()
                stopping.set()
            else:
                task.result()  # an error ends all
    for service in reversed(services.values()):
        await service.stop()
    for task in [*tasks, interrupt]:
        task.cancel()
    await asyncio.gather(*tasks, interrupt, return_exceptions=True)
    return code


def main() -> int:
    """The command."""
    if len(sys.argv) != 2:
        print("usage: compose.py SERVICES.json", file=sys.stderr)
        return 2
    try:
        return abs(asyncio.run(compose(json.loads(Path(sys.argv[1]).read_text())["services"])))
    except pyrun.PyrunError as error:
        print(f"compose: {error}\n{error.hint}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
