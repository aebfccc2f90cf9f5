"""Pods as machines of systemd-machined's: what `machinectl terminate` stops is the pod and nobody else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import waiting
from harness import Pyrun

SCOPE = "alone-pod.scope"


def call(*words: str) -> str:
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180).stdout


wait_until = partial(waiting.wait_until, what=lambda: call("machinectl", "list") + call("systemctl", "status", SCOPE), pause=0.2)


def state() -> str:
    return call("systemctl", "show", "--property=ActiveState", "--value", SCOPE).strip()


@pytest.fixture
def detach(shared: Pyrun, busybox: Path) -> Iterator[Pyrun]:
    yield shared
    shared.within = []
    shared("rm", "--force", "beside", "alone")
    call("systemctl", "stop", SCOPE, "systemd-machined.service")  # the second was started by the registration


def test_a_pod_beside_others_is_refused_and_one_in_a_scope_ends_alone(detach: Pyrun, busybox: Path) -> None:
    """The first is in the unit of this test itself, which terminating its machine would end."""
    command = [busybox, "--exec", "/bin/sleep", "--", "600"]
    detach("run", "--detach", "--pod-name", "beside", *command, code=0)
    refused = detach("register", "beside", code=125)
    assert "beside others" in refused.err and "systemd-run --scope" in refused.err
    assert "beside" not in call("machinectl", "list", "--no-legend")
    detach.within = ["systemd-run", "--quiet", "--scope", f"--unit={SCOPE}"]
    detach("run", "--detach", "--pod-name", "alone", *command, code=0)
    detach.within = []
    assert state() == "active"
    detach("register", "alone", code=0)
    assert call("machinectl", "show", "alone", "--property=Unit", "--value").strip() == SCOPE
    call("machinectl", "terminate", "alone")
    wait_until(lambda: state() == "inactive")
    running = detach("list", "--no-legend", code=0).out
    assert "beside" in running and "alone" not in [line.split()[-1] for line in running.splitlines() if "running" in line]
    assert '"running"' in detach("status", "--format", "json", "beside", code=0).out, "the other pod goes on"
