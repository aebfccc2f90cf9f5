"""Finding the processes of a running pod, for whoever signals, enters or looks at it (E13, F28)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun

from pyrun.errors import StateError
from pyrun.pod.live import find_live
from pyrun.pod.state import Pods, new_uuid


@pytest.fixture
def one(pyrun: Pyrun) -> Iterator[subprocess.Popen[str]]:
    running = pyrun.start("run", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0")
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    yield running
    running.kill()
    running.communicate()
    pyrun("gc", code=0)


def only(pyrun: Pyrun) -> str:
    (uuid,) = os.listdir(pyrun.root / "pods" / "running")
    return uuid


def test_a_foreground_pod(pyrun: Pyrun, one: subprocess.Popen[str]) -> None:
    with find_live(Pods(str(pyrun.root)), only(pyrun)) as live:
        assert live.supervisor == one.pid and live.keeper == 0
        assert Path(f"/proc/{live.init}/status").read_text().count("NSpid:\t") == 1
        assert f"{live.init}\t1\n" in Path(f"/proc/{live.init}/status").read_text()
        assert str(live.init) in Path(live.cgroup, "cgroup.procs").read_text().split()
        assert live.plan()[:4] == b"yrun" and b"/probe\0" in live.plan()
        signal.pidfd_send_signal(live.init_fd, signal.SIGTERM)
    assert one.wait(20) == 128 + signal.SIGTERM


def test_without_a_cgroup(pyrun: Pyrun, one: subprocess.Popen[str]) -> None:
    record = pyrun.root / "pods" / "running" / only(pyrun) / "pod"
    whole = record.read_text()
    record.write_text("{}")
    try:
        with find_live(Pods(str(pyrun.root)), only(pyrun)) as live:
            assert live.supervisor == one.pid and live.init > 0
    finally:
        record.write_text(whole)


def test_a_record_that_lies(pyrun: Pyrun, one: subprocess.Popen[str]) -> None:
    """A `run` that names somebody else, as after the pid was used again, is not believed."""
    pod = pyrun.root / "pods" / "running" / only(pyrun)
    stranger = subprocess.Popen(["sleep", "100"])
    try:
        start = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        for record in (f'{{"pid":{stranger.pid},"start":{start},"keeper":1}}', f'{{"pid":{one.pid},"start":1,"keeper":1}}', "{", ""):
            (pod / "run").write_text(record)
            with find_live(Pods(str(pyrun.root)), pod.name) as live:
                assert live.supervisor == one.pid and live.init not in (stranger.pid, one.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_pod_that_does_not_run(pyrun: Pyrun) -> None:
    pods = Pods(str(pyrun.root))
    with pytest.raises(StateError, match="does not run"):
        find_live(pods, new_uuid())
    dead = pyrun.root / "pods" / "running" / new_uuid()
    dead.mkdir()
    with pytest.raises(StateError, match="does not run"):
        find_live(pods, dead.name)
    dead.rmdir()
