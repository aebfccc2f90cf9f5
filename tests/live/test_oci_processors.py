"""On which processors a container's processes may be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def test_processors_are_not_the_callers(oci: Runtime, tmp_path: Path) -> None:
    """Who starts it may be kept to some, as services of a host often are; execCPUAffinity says others for one process (config.md)."""
    every, first = os.sched_getaffinity(0), min(os.sched_getaffinity(0))
    kept: dict[str, Any] = {"preexec_fn": lambda: os.sched_setaffinity(0, {first})}
    look = ("/bin/sh", "-c", "awk '/Cpus_allowed:/ { print $2 }' /proc/self/status")

    def seen(text: str) -> set[int]:
        mask = int(text.replace(",", ""), 16)
        return {number for number in range(mask.bit_length()) if mask >> number & 1}

    for _ in range(2):
        oci.command(*look)
        assert seen(oci("run", "one", **kept).stdout) == every
    oci.command("/bin/sleep", "1000")
    oci("run", "--detach", "one", **kept)
    for more in ((), ("--ignore-paused",)):  # the second one is Python's
        assert seen(oci("exec", *more, "one", *look, **kept).stdout) == every
    process = {"args": [*look], "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": {"initial": str(first)}}
    (tmp_path / "process").write_text(json.dumps(process))
    done = oci("--debug", "exec", "--process", tmp_path / "process", "one")
    assert seen(done.stdout) == {first} and f": affinity: {1 << first:#x}" in done.stderr
    process["execCPUAffinity"] = {"initial": str(first), "final": ",".join(map(str, every))}
    (tmp_path / "process").write_text(json.dumps(process))
    assert seen(oci("exec", "--process", tmp_path / "process", "one", **kept).stdout) == every
    process["execCPUAffinity"] = {"initial": "1022"}
    (tmp_path / "process").write_text(json.dumps(process))
    assert "execCPUAffinity.initial" in oci("exec", "--process", tmp_path / "process", "one", code=255).stderr
    oci("delete", "--force", "one")
