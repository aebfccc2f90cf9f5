"""What becomes of a process that was pyrun: by the programs that it executes it is seen that no Python was started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from harness import COMMAND, TOP, Pyrun


def launch(pyrun: Pyrun, folder: Path, *words: str | Path, **more: Any) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run it by `run-prepared` with these words; what it said, and the programs that the process has become."""
    command = [*pyrun.within, *traced(folder), str(COMMAND), "run-prepared", *map(str, words)]
    done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120, **more)
    return done, programs(folder)


def traced(folder: Path) -> tuple[str, ...]:
    return (str(TOP / "build" / "probe"), "trace", str(folder / "trace"))


def programs(folder: Path) -> list[str]:
    """What the traced process, and none that it started, has become."""
    return (folder / "trace").read_text().splitlines()


def recipes(pyrun: Pyrun) -> list[str]:
    """The names of the recipes that were left; a decision in a child leaves one."""
    folder = pyrun.root / "cache" / "run"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
