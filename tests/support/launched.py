"""What becomes of a process that was pyrun: by its system calls it is seen that no Python was started."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from harness import COMMAND, Pyrun


def launch(pyrun: Pyrun, folder: Path, *words: str | Path, **more: Any) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run it by `run-prepared` with these words; what it said, and the programs that the process has become."""
    command = [*pyrun.within, *traced(folder), str(COMMAND), "run-prepared", *map(str, words)]
    done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120, **more)
    return done, programs(folder)


def traced(folder: Path) -> tuple[str, ...]:
    return ("strace", "-qq", "-e", "trace=execve", "-o", str(folder / "trace"))


def programs(folder: Path) -> list[str]:
    """What the traced process, and none that it started, has become."""
    lines = (folder / "trace").read_text().splitlines()
    return [line.split('"')[1].rpartition("/")[2] for line in lines if line.endswith(" = 0")]
