"""Ending a pod whose app waits where no signal reaches it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from waiting import gone, status, wait_until


@pytest.fixture
def frozen_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own to which nobody can write: whoever tries waits where no signal reaches it (fsfreeze(8))."""
    image, place = tmp_path / "disk", tmp_path / "frozen"
    place.mkdir()
    image.touch()
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        subprocess.run(["fsfreeze", "--freeze", place], check=True)
        yield place
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", place])
        subprocess.run(["umount", place], check=True)


def test_a_stop_does_not_wait_for_a_disk(pyrun: Pyrun, busybox: Path, frozen_disk: Path) -> None:
    """SEC-59 for what even SIGKILL does not end: it is told who waits, and the pod ends as soon as that does."""
    shell = ["--exec", "/bin/sh", "--", "-c", "echo text >/data/file"]
    uuid = pyrun("run", "--detach", "--volume", f"{frozen_disk}:/data", busybox, *shell, code=0).out.strip()
    held = status(pyrun, uuid)
    writer = Path(f"/proc/{held['pid']}/task/{held['pid']}/children")
    wait_until(lambda: writer.read_text() and "State:\tD" in Path(f"/proc/{writer.read_text().split()[0]}/status").read_text())
    pid = writer.read_text().split()[0]
    begun = time.monotonic()
    refused = pyrun("stop", "--timeout", "1", uuid, code=125)
    assert time.monotonic() - begun < 8, "three seconds and what a busy machine takes"
    assert f"process {pid} waits for a disk" in refused.err and f"hint: see /proc/{pid}/stack" in refused.err
    assert status(pyrun, uuid)["state"] == "running"
    subprocess.run(["fsfreeze", "--unfreeze", frozen_disk], check=True)
    assert pyrun("wait", uuid).out == "137\n"
    assert gone(held["pid"]) and not Path(held["cgroup"]).exists()
