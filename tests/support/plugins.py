"""Networks of CNI configurations for tests: Debian's plug-ins, and scripted ones."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from networld import World

OWN = Path("/opt/cni/bin")  # what a test puts there, or makes of it, goes with the test


@contextlib.contextmanager
def opt() -> Iterator[None]:
    """Removes the directories again that were not there."""
    missing = [folder for folder in (OWN, OWN.parent) if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            if folder.exists():
                folder.rmdir()


def configure(world: World, name: str, *plugins: dict[str, Any], version: str = "1.0.0", raw: str = "") -> Path:
    folder = world.pyrun.root / "net.d"
    folder.mkdir(exist_ok=True)
    path = folder / f"10-{name}.conflist"
    path.write_text(raw or json.dumps({"cniVersion": version, "name": name, "plugins": list(plugins)}))
    return path


def bridge(world: World, name: str, *subnets: str) -> dict[str, Any]:
    """Debian's, with a gateway; the subnets are IPv4's and IPv6's."""
    ipam = {
        "type": "host-local",
        "dataDir": str(world.pyrun.root / "cni"),
        "ranges": [[{"subnet": subnet}] for subnet in subnets],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets],
    }
    return {"type": "bridge", "bridge": name, "isGateway": True, "ipam": ipam, "capabilities": {"mac": True}}


def leases(world: World, name: str) -> list[str]:
    folder = world.pyrun.root / "cni" / name
    return sorted(path.name for path in folder.iterdir() if path.name[0].isdigit()) if folder.exists() else []


def wait_empty(world: World, name: str) -> bool:
    deadline = time.monotonic() + 60
    while leases(world, name) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not leases(world, name)


def scripted(name: str, script: str) -> Path:
    """A plug-in of our own, where administrators put theirs."""
    path = OWN / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return path
