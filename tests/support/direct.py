"""Plans without a store: a hand-made `Config`, carried out by the helper as a child of the test."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pyrun.engine.launch import Slots, Supervisor, start
from pyrun.plan import ops
from pyrun.plan.config import Config
from pyrun.plan.ops import Plan
from pyrun.plan.planner import run_plan
from pyrun.pod.state import new_uuid


class Direct:
    """A directory with one layer that holds the probe (and busybox), and a place to mount."""

    def __init__(self, base: Path, probe: Path) -> None:
        self.base = base
        self.layer = base / "layer"
        self.stage = base / "stage"
        self.out = base / "out"
        for folder in (self.layer / "bin", self.stage):
            folder.mkdir(parents=True)
        shutil.copy(probe, self.layer / "probe")
        shutil.copy("/bin/busybox", self.layer / "bin" / "busybox")

    def config(self, *argv: str, lowers: list[Path] | None = None) -> Config:
        """The probe with these arguments; change what you like before `start`."""
        uuid = new_uuid()
        pod_dir = self.base / uuid
        pod_dir.mkdir()
        return Config(uuid, ["/probe", *argv], [str(path) for path in lowers or [self.layer]], stage=str(self.stage), pod_dir=str(pod_dir))

    def shell(self, script: str, **more: Any) -> Config:
        config = self.config(**more)
        config.argv = ["/bin/busybox", "sh", "-c", script]
        config.paths = config.argv[:1]
        return config

    def start(self, what: Config | Plan | bytes) -> Supervisor:
        """Starts it with its output in `self.out`."""
        plan = run_plan(what) if isinstance(what, Config) else what
        block = plan if isinstance(plan, bytes) else ops.encode(plan)
        with open(os.devnull, "rb") as null, self.out.open("wb") as out:
            return start(block, Slots(), (null.fileno(), out.fileno(), out.fileno()), "pyrun: test", str(self.base))

    def run(self, what: Config | Plan | bytes) -> int:
        """Runs it to its end; the exit code as subprocess gives it."""
        supervisor = self.start(what)
        try:
            return os.waitstatus_to_exitcode(supervisor.wait())
        finally:
            supervisor.close()

    def said(self) -> str:
        return self.out.read_text()

    def report(self, config: Config) -> dict[str, Any]:
        assert self.run(config) == 0, self.said()
        seen: dict[str, Any] = json.loads(self.said())
        return seen


def root_mount(seen: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Mount flags and file system options of the root."""
    (line,) = [line for line in seen["mounts"] if line.split()[4] == "/"]
    head, tail = line.split(" - ")
    return head.split()[5].split(","), tail.split(" ", 2)[2].split(",")
