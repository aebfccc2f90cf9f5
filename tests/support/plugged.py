"""Pods on networks of plug-ins, and plug-ins that are scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from networld import World
from plugins import OWN, opt, scripted

BY_PYTHON = ["pyrun", "python3"]
LOG = "pyrun-test-log"
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


@contextmanager
def nothing_kept_of_plug_ins(world: World) -> Iterator[None]:
    """Whatever was configured or installed is removed, and no pod has left anything."""
    world.pyrun("fetch", world.image, code=0)
    with opt():
        yield
        for path in OWN.glob("pyrun-test-*"):
            path.unlink()
    for path in (world.pyrun.root / "net.d").glob("*"):
        path.unlink()
    assert world.settled() == []


def prepare(world: World, *words: str) -> str:
    return world.pyrun("prepare", *words, code=0).out.strip()


def record(world: World, uuid: str, phase: str = "running") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.pyrun.root / "pods" / phase / uuid / "net").read_text())
    return found


def logging(world: World, then: str) -> Path:
    """A plug-in that writes down what it is asked, and does something."""
    log = world.pyrun.root / "log"
    log.unlink(missing_ok=True)
    scripted(LOG, f"echo $CNI_COMMAND >>{log}\n{then}\n")
    return log
