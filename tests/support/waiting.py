"""Waiting for what happens in its own time, and what is asked about pods and processes while one waits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import Pyrun

PATIENCE = 120  # seconds, on a slow and busy machine


def wait_until(condition: Callable[[], object], what: str | Callable[[], str] = "did not happen", pause: float = 0.01) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(pause)


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # the second while it is just ending
        return True


def status(pyrun: Pyrun, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pyrun("status", "--format", "json", uuid, code=0).out)
    return found


def run_file(pyrun: Pyrun, uuid: str) -> dict[str, Any]:
    """The record of a running pod."""
    found: dict[str, Any] = json.loads((pyrun.root / "pods" / "running" / uuid / "run").read_text())
    return found


def phase(pyrun: Pyrun, name: str) -> list[str]:
    """The UUIDs of the pods in this phase."""
    return sorted(os.listdir(pyrun.root / "pods" / name))


@contextmanager
def nothing_kept(pyrun: Pyrun) -> Iterator[None]:
    """Whatever still runs afterwards is removed."""
    yield
    for uuid in phase(pyrun, "running"):
        pyrun("rm", "--force", uuid, code=0)
    pyrun("gc", code=0)
