"""A runner of CI jobs: every step in a container of its own, one workspace for all, the first failure ends the job.

    python examples/ci_runner.py job.json

    {"name": "build", "workspace": "./checkout",
     "steps": [{"name": "test", "run": "python3 -m unittest", "timeout": 60, "environment": {"CI": "1"}},
               {"name": "package", "image": "registry.example.com/builder:1", "run": "make dist"}]}

A step without an image has the host's programs.  What a step writes is shown as it comes, each line with the step's name; at
the end there is a table of what each took.  The exit code is that of the step that failed; 124 when its time was over, 128+n
when signal n ended it.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from pathlib import Path
from typing import Any

import pyrun


def run_step(step: dict[str, Any], workspace: str) -> tuple[int, float, float]:
    """Run one step and show what it says; return its exit code, its wall time and its processor time in seconds."""
    name = str(step["name"])
    image = step.get("image")
    words = ["-c", str(step["run"])]
    where = {"rootfs": None if image else "host"}
    if not image:
        words = ["/bin/sh", *words]
    begin = time.monotonic()
    with pyrun.start(
        image,
        words,
        rootfs=where["rootfs"],
        exec="/bin/sh" if image else None,
        stdout=pyrun.PIPE,
        stderr=pyrun.STDOUT,
        volume=[f"{workspace}:/workspace"],
        working_dir="/workspace",
        set_env={"HOME": "/tmp", **step.get("environment", {})},
        net=str(step.get("network", "none")),
    ) as app:
        assert app.stdout
        late = show(name, app, begin + float(step.get("timeout", 3600)))
        if late:
            app.kill(9)
        code = app.wait()
        usage = app.usage
    cpu = usage.get("cpu_usec", 0) / 1e6
    return (124 if late else 128 - code if code < 0 else code), time.monotonic() - begin, cpu


def show(name: str, app: pyrun.Container, end: float) -> bool:
    """Print the step's lines as they come, to the end of its output; whether its time was over before."""
    rest = b""
    assert app.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(app.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            piece = os.read(app.stdout.fileno(), 65536)
            *lines, rest = (rest + piece).split(b"\n")
            for line in [*lines, *([rest] if not piece and rest else [])]:
                print(f"[{name}] {line.decode(errors='replace')}", flush=True)
            if not piece:
                return False
    return True


def main() -> int:
    """The command."""
    if len(sys.argv) != 2:
        print("usage: ci_runner.py JOB.json", file=sys.stderr)
        return 2
    job = json.loads(Path(sys.argv[1]).read_text())
    workspace = str((Path(sys.argv[1]).parent / job["workspace"]).resolve())
    took: list[tuple[str, int, float, float]] = []
    for step in job["steps"]:
        try:
            took.append((step["name"], *run_step(step, workspace)))
        except pyrun.PyrunError as error:
            print(f"[{step['name']}] {error}\n[{step['name']}] {error.hint}", file=sys.stderr)
            return 125
        if took[-1][1]:
            break
    print(f"{'STEP':20} {'EXIT':>4} {'SECONDS':>8} {'CPU':>8}")
    for name, code, seconds, cpu in took:
        print(f"{name:20} {code:4} {seconds:8.3f} {cpu:8.3f}")
    pyrun.settle()
    return took[-1][1] if took else 0


if __name__ == "__main__":
    sys.exit(main())
