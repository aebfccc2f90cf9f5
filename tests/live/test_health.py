"""Health checks of pods in the background: what a check is, when a pod is healthy, what becomes of one that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import file
from harness import COMMAND, Pyrun
from mkoci import docker_archive, layer
from waiting import nothing_kept, status, wait_until

Detach = Callable[..., str]
QUICK = ("--health-interval", "20ms", "--health-retries", "2")


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    """Runs a shell script in the background, with a health check."""

    def begin(script: str, check: str, *flags: str, code: int = 0) -> str:
        words = ["run", "--detach", "--health-cmd", check, *QUICK, *flags, busybox, "--exec", "/bin/sh", "--", "-c", script]
        return pyrun(*words, code=code).out.strip()

    with nothing_kept(pyrun):
        yield begin


def health(pyrun: Pyrun, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pyrun("inspect", uuid, code=0).out)[0]["health"]
    return found


def test_healthy_when_the_check_says_so(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000", "echo 'looks \"well\"'; test -e /tmp/well")
    pyrun("wait", "--condition", "unhealthy", "--timeout", "60s", uuid, code=0)
    found = status(pyrun, uuid)
    assert (found["state"], found["health"]) == ("running", "unhealthy") and found["failing"] >= 2
    assert "running (unhealthy)" in pyrun("list", code=0).out
    pyrun("exec", uuid, "/bin/touch", "/tmp/well", code=0)
    pyrun("wait", "--condition", "healthy", "--timeout", "60s", uuid, code=0)
    last = health(pyrun, uuid)
    assert (last["health"], last["failing"], last["code"], last["output"]) == ("healthy", 0, 0, 'looks "well" ')
    assert last["started"] < last["finished"] <= time.time_ns()


def test_the_check_is_confined_as_the_app(pyrun: Pyrun, detach: Detach) -> None:
    script = "grep -e ^Cap -e ^NoNew -e ^Seccomp: -e ^Uid /proc/self/status | sort >/tmp/{0}; cat /proc/self/cgroup >>/tmp/{0}"
    uuid = detach(script.format("app") + "; sleep 1000", script.format("check.new") + "; mv /tmp/check.new /tmp/check", "--user", "app")
    pyrun("wait", "--condition", "healthy", "--timeout", "60s", uuid, code=0)
    root = pyrun.root / "pods" / "running" / uuid / "upper" / "tmp"
    wait_until(lambda: (root / "app").read_text() == (root / "check").read_text() != "")


def test_a_check_that_takes_too_long_is_ended(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000", "echo begun; sleep 1000", "--health-timeout", "50ms")
    pyrun("wait", "--condition", "unhealthy", "--timeout", "60s", uuid, code=0)
    last = health(pyrun, uuid)
    assert (last["code"], last["output"]) == (124, "begun ")

    def checks() -> int:
        running = [row["command"] for row in json.loads(pyrun("top", "--format", "json", uuid, code=0).out)[uuid]]
        return sum("begun" in command for command in running)

    wait_until(lambda: checks() <= 1)  # the one that runs now; the last one may be ending


def test_failures_do_not_count_in_the_start_period(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000", "echo x >>/tmp/checks; exit 1", "--health-start-period", "1h")
    checks = pyrun.root / "pods" / "running" / uuid / "upper" / "tmp" / "checks"
    wait_until(lambda: checks.exists() and len(checks.read_text()) > 8)
    assert (status(pyrun, uuid)["health"], status(pyrun, uuid)["failing"]) == ("starting", 0)


@pytest.mark.parametrize(("action", "code"), [("kill", 137), ("stop", 7)])
def test_an_unhealthy_pod_is_ended(pyrun: Pyrun, detach: Detach, action: str, code: int) -> None:
    restart = ("--restart", "always") if action == "stop" else ()
    uuid = detach("trap 'exit 7' TERM; while :; do sleep 0.1; done", "exit 1", "--health-on-failure", action, *restart)
    pyrun("wait", "--timeout", "60s", uuid, code=code)
    assert "health" not in status(pyrun, uuid)


def test_an_unhealthy_pod_starts_again(pyrun: Pyrun, detach: Detach) -> None:
    """Whatever its restart policy; it is well the second time."""
    script = "trap 'touch /tmp/well; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.05; done"
    uuid = detach(script, "test ! -e /tmp/ready -o -e /tmp/well", "--health-on-failure", "restart")
    wait_until(lambda: status(pyrun, uuid)["restarts"])
    pyrun("wait", "--condition", "healthy", "--timeout", "60s", uuid, code=0)
    assert status(pyrun, uuid)["restarts"] == 1


def test_a_paused_pod_is_left_alone(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000", "echo x >>/tmp/checks", "--health-on-failure", "kill", "--health-timeout", "1s")
    pyrun("wait", "--condition", "healthy", "--timeout", "60s", uuid, code=0)
    pyrun("pause", uuid, code=0)
    time.sleep(0.2)
    pyrun("resume", uuid, code=0)
    checks = pyrun.root / "pods" / "running" / uuid / "upper" / "tmp" / "checks"
    seen = len(checks.read_text())
    wait_until(lambda: len(checks.read_text()) > seen)
    assert status(pyrun, uuid)["state"] == "running"


def test_events_tell_of_health(pyrun: Pyrun, detach: Detach) -> None:
    watcher = subprocess.Popen(
        [COMMAND, "events", "--format", "json"], env=pyrun.environment(), stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    assert watcher.stdout
    try:
        told: list[dict[str, Any]] = []
        number = 0
        while not told:  # until it watches
            number += 1
            pyrun("prepare", "--pod-name", f"first-{number}", pyrun.probe_image, code=0)
            os.set_blocking(watcher.stdout.fileno(), False)
            told += [json.loads(line) for line in watcher.stdout.readlines()]
        os.set_blocking(watcher.stdout.fileno(), True)
        uuid = detach("sleep 1000", "exit 0")
        states = []
        while "healthy" not in states:
            one = json.loads(watcher.stdout.readline())
            states += [one["health"]] if one["event"] == "health" and one["uuid"] == uuid else []
        assert states in (["starting", "healthy"], ["healthy"])
    finally:
        watcher.kill()
        watcher.communicate()


def test_the_check_of_the_image(pyrun: Pyrun, tmp_path: Path, probe: Path) -> None:
    """Healthcheck of the configuration is used, changed by flags, or left out."""
    pyrun("trust", "--yes", "--unsigned", str(tmp_path), code=0)
    config = {
        "Entrypoint": ["/probe", "sleep", "0"],
        "Healthcheck": {"Test": ["CMD", "/probe", "exit", "3"], "Interval": 20_000_000, "Timeout": 10_000_000_000, "Retries": 1},
    }
    blob = layer(file(b"probe", probe.read_bytes(), mode=0o755))
    archive = docker_archive(tmp_path / "image.tar", {"layers": [blob], "tags": ["example.com/checked:1"], "config": config})
    image = f"docker-archive:{archive}"
    uuid = pyrun("run", "--detach", image, code=0).out.strip()
    pyrun("wait", "--condition", "unhealthy", "--timeout", "60s", uuid, code=0)
    assert health(pyrun, uuid)["code"] == 3
    other = pyrun("run", "--detach", "--health-cmd", '["/probe", "exit", "0"]', image, code=0).out.strip()
    pyrun("wait", "--condition", "healthy", "--timeout", "60s", other, code=0)
    none = pyrun("run", "--detach", "--no-healthcheck", image, code=0).out.strip()
    assert "health" not in status(pyrun, none)
    assert "no health checks" in pyrun("wait", "--condition", "healthy", none, code=125).err
    pyrun("rm", "--force", uuid, other, none, code=0)
    pyrun("gc", code=0)


def test_a_caller_that_ignores_its_children(pyrun: Pyrun, busybox: Path) -> None:
    """The disposition survives execve(2), and such a process hears of no exit code."""
    words: list[str | Path] = [COMMAND, "run", "--detach", "--health-cmd", "exit 3", *QUICK, busybox, "--exec", "/bin/sleep", "--", "1000"]
    script = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    begun = subprocess.run(
        [sys.executable, "-c", script, *words], env=pyrun.environment(), stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    uuid = begun.stdout.strip()
    pyrun("wait", "--condition", "unhealthy", "--timeout", "60s", uuid, code=0)
    assert health(pyrun, uuid)["code"] == 3
    pyrun("rm", "--force", uuid, code=0)
    pyrun("gc", code=0)


def test_nothing_more_stays_beside_a_pod_that_is_checked(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000", "exit 0", "--health-interval", "1h")
    run = json.loads((pyrun.root / "pods" / "running" / uuid / "run").read_text())

    def total() -> int:
        rollups = [Path(f"/proc/{run[name]}/smaps_rollup").read_text() for name in ("keeper", "supervisor", "pid")]
        return sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:"))

    wait_until(lambda: total() < 150, lambda: f"{total()} KiB stay")  # they give back what the start took after telling of it


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--health-interval", "5s"], "--health-cmd"),
        (["--health-cmd", "true", "--health-interval", "5x"], "5x"),
        (["--health-cmd", "true", "--health-timeout", "0"], "range"),
        (["--health-cmd", "true", "--health-on-failure", "weep"], "weep"),
        (["--health-cmd", "[1]"], "JSON"),
        (["--health-cmd", "true", "--no-healthcheck"], "excludes"),
    ],
)
def test_what_makes_no_sense_is_refused(pyrun: Pyrun, flags: list[str], word: str) -> None:
    for detach in ([], ["--detach"]):
        refused = pyrun("run", *detach, *flags, pyrun.probe_image, code=2).err
        assert word in refused and "hint:" in refused and "Traceback" not in refused
    assert [path for phase in ("prepared", "preparing") for path in (pyrun.root / "pods" / phase).glob("*")] == []
