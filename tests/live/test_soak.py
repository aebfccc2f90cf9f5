"""Many lives and reused pids: nothing grows, nobody else is signalled (F22, F23, F28; SEC-56 and SEC-62 at CI size)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from scale import scaled

import pyrun as library
from pyrun.errors import StateError

pytestmark = pytest.mark.stress


@pytest.fixture
def runtime(pyrun: Pyrun, busybox: Path) -> Iterator[library.Runtime]:
    pyrun("fetch", busybox, code=0)
    made = library.Runtime(str(pyrun.root))
    yield made
    for one in made.list_pods():
        made.pod(str(one["uuid"])).remove(force=True)


def one_life(runtime: library.Runtime, number: int) -> None:
    """In turns: a pod in the background that ends, one that is stopped, one that goes by itself, one in the foreground."""
    image = "example.com/busybox"
    if number % 4 == 0:
        pod = runtime.detach(image, ["-c", "echo x; exit 3"], exec="/bin/sh")
        assert pod.wait() == 3
        pod.remove()
    elif number % 4 == 1:
        pod = runtime.detach(image, ["1000"], exec="/bin/sleep", pod_name="soaked")
        pod.stop()
        pod.remove()
    elif number % 4 == 2:
        pod = runtime.detach(image, exec="/bin/true", keep=False)
        with contextlib.suppress(StateError):  # it is gone already
            pod.wait()
    else:
        assert runtime.call(image, exec="/bin/true") == 0


def sizes(root: Path) -> dict[str, int]:
    """Everything that could grow: descriptors, mounts, control groups, and files of the state."""
    group = "/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().partition("0::")[2].strip()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": Path("/proc/self/mountinfo").read_text().count("\n"),
        "cgroups": sum(len(folders) for _, folders, _ in os.walk(group)),
        "files": sum(len(folders) + len(files) for _, folders, files in os.walk(root)),
    }


def test_nothing_grows(runtime: library.Runtime, pyrun: Pyrun) -> None:
    """SEC-56: as many lives as one likes."""
    for number in range(8):
        one_life(runtime, number)
    runtime.settle()
    before = sizes(pyrun.root)
    for number in range(scaled(40)):
        one_life(runtime, number)
    runtime.settle()
    deadline = time.monotonic() + 60
    while sizes(pyrun.root) != before and time.monotonic() < deadline:  # the last one may still be removing itself
        time.sleep(0.05)
    assert sizes(pyrun.root) == before


def test_a_pid_that_is_somebody_else_s(runtime: library.Runtime, pyrun: Pyrun) -> None:
    """SEC-62: the record names a pid that another process has by now, whatever of it is written down."""
    pod = runtime.detach("example.com/busybox", ["1000"], exec="/bin/sleep")
    own = pyrun.root / "pods" / "running" / pod.uuid
    victims = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    try:
        for number in range(scaled(12)):
            pid = victims[number % 3].pid
            uuid = f"{number:08x}-2222-4333-8444-555555555555"
            copy = own.parent / uuid
            shutil.copytree(own, copy, symlinks=True)
            run = {**json.loads((own / "run").read_text()), "keeper": pid, "pid": pid, "supervisor": pid}
            run["cgroup"] = ""
            if number % 2:
                run["keeper_start"] = run["start"] = 1
            (copy / "run").write_text(json.dumps(run))
            other = runtime.pod(uuid)
            with pytest.raises(StateError):
                other.kill(signal.SIGKILL)
            assert other.stop(seconds=0) is False
            other.remove(force=True)
        assert [victim.poll() for victim in victims] == [None] * 3
        assert pod.status()["state"] == "running"
    finally:
        for victim in victims:
            victim.kill()
            victim.wait()
        pod.remove(force=True)
