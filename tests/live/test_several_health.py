"""Health checks in pods of several apps: each app has its own; what becomes of the others when one is unhealthy."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun
from waiting import status, wait_until

LIMIT = 60
QUICK = ("--health-interval", "20ms", "--health-retries", "2")
STAY = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
Words = tuple[str | Path, ...]
Pod = Callable[..., Words]


@pytest.fixture
def pod(pyrun: Pyrun, busybox: Path) -> Iterator[Pod]:
    """The words of a pod: for each app a shell script, and a check unless it is empty."""

    def words(apps: dict[str, tuple[str, str]], own: dict[str, Words] | None = None) -> Words:
        found: list[str | Path] = []
        for name, (script, check) in apps.items():
            checks: Words = ("--health-cmd", check, *QUICK) if check else ()
            more = (own or {}).get(name, ())
            found += [*(("---",) if found else ()), busybox, "--name", name, *checks, *more, "--exec", "/bin/sh", "--", "-c", script]
        return tuple(found)

    yield words
    for uuid in os.listdir(pyrun.root / "pods" / "running"):
        pyrun("rm", "--force", uuid, code=0)
    pyrun("gc", code=0)
    assert [top for top, _, _ in os.walk("/sys/fs/cgroup") if "pyrun-" in top] == []


def health(pyrun: Pyrun, uuid: str) -> dict[str, Any]:
    return {app["name"]: app.get("health") for app in status(pyrun, uuid)["apps"]}


@pytest.mark.parametrize("pid", ["app", "pod"])
def test_each_app_has_its_own(pyrun: Pyrun, pod: Pod, pid: str) -> None:
    """In its own root, by its own user; the pod does as the worst of them."""
    apps = {"a": (STAY, "test -e /tmp/well"), "b": (STAY, "id -u; exit 0"), "c": (STAY, "")}
    uuid = pyrun("run", "--detach", "--pid", pid, *pod(apps, {"b": ("--user", "1000")}), code=0).out.strip()
    pyrun("wait", "--condition", "unhealthy", "--timeout", f"{LIMIT}s", uuid, code=0)
    wait_until(lambda: health(pyrun, uuid) == {"a": "unhealthy", "b": "healthy", "c": None})
    assert status(pyrun, uuid)["health"] == "unhealthy"
    lines = pyrun("list", "--no-legend", code=0).out.splitlines()
    assert "running (unhealthy)" in lines[0] and "running (healthy)" in lines[1] and "health" not in lines[2]
    text = pyrun("status", uuid, code=0).out.splitlines()
    assert {"health=unhealthy", "app.a.health=unhealthy", "app.b.health=healthy"} <= set(text)
    pyrun("exec", "--app", "b", uuid, "/bin/touch", "/tmp/well", code=0)
    pyrun("exec", "--app", "a", uuid, "/bin/touch", "/tmp/well", code=0)
    pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)
    assert health(pyrun, uuid) == {"a": "healthy", "b": "healthy", "c": None}
    seen = json.loads(pyrun("inspect", uuid, code=0).out)[0]
    assert seen["apps"][1]["health"]["output"] == "1000 " and seen["health"] == {"health": "healthy"}
    pyrun("pause", uuid, code=0)
    pyrun("resume", uuid, code=0)
    pyrun("stop", uuid, code=0)
    assert "health" not in status(pyrun, uuid)
    pyrun("restart", uuid, code=0)
    pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)


def test_one_that_is_killed_ends_what_the_policy_says(pyrun: Pyrun, pod: Pod) -> None:
    apps = {"a": (STAY, ""), "b": ("sleep 1000", "exit 1")}
    kill = {"b": ("--health-on-failure", "kill")}
    pyrun("run", *pod(apps, kill), code=137)
    uuid = pyrun("run", "--detach", "--exit-policy", "last-exit", *pod(apps, kill), code=0).out.strip()
    wait_until(lambda: [app["state"] for app in status(pyrun, uuid)["apps"]] == ["running", "exited"])
    found = status(pyrun, uuid)
    assert (found["state"], found["apps"][1]["signal"]) == ("running", 9)


@pytest.mark.parametrize("detach", [True, False])
def test_all_start_again(pyrun: Pyrun, pod: Pod, detach: bool) -> None:
    """Whatever the restart policy; in the foreground under the same process."""
    script = "trap 'touch /tmp/well; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.05; done"
    words = pod({"a": (STAY, ""), "b": (script, "test ! -e /tmp/ready -o -e /tmp/well")}, {"b": ("--health-on-failure", "restart")})
    running = pyrun.root / "pods" / "running"
    with subprocess.Popen([COMMAND, "run", *(["--detach"] if detach else []), *words], env=pyrun.environment()) as process:
        wait_until(lambda: any("pid" in one.read_text() for one in running.glob("*/run")))
        (uuid,) = os.listdir(running)
        wait_until(lambda: status(pyrun, uuid)["restarts"])
        pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)
        assert status(pyrun, uuid)["restarts"] == 1
        assert [app["state"] for app in status(pyrun, uuid)["apps"]] == ["running", "running"]
        pyrun("stop", uuid, code=0)
        assert process.wait(timeout=LIMIT) == 0


def test_one_that_ends_already_does_not_start_again(pyrun: Pyrun, pod: Pod) -> None:
    """Nor does a pod whose policy has ended it: an app that is unhealthy on its way out is none to revive."""
    leaving = "trap 'touch /tmp/ill; sleep 1; exit 0' TERM; while :; do sleep 0.05; done"
    words = pod(
        {"a": ("echo begins; while [ ! -e /tmp/end ]; do sleep 0.05; done", ""), "b": (leaving, "test ! -e /tmp/ill")},
        {"b": ("--health-on-failure", "restart")},
    )
    running = pyrun.root / "pods" / "running"
    ended = ["run", "--exit-policy", "main-app", *words]
    with pyrun.start(*ended) as process:
        assert process.stdout is not None and process.stdout.readline() == "begins\n"
        (uuid,) = os.listdir(running)
        pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)
        pyrun("exec", "--app", "a", uuid, "/bin/touch", "/tmp/end", code=0)
        assert process.communicate(timeout=LIMIT) == ("", "") and process.returncode == 0


def test_all_stop_for_good(pyrun: Pyrun, pod: Pod) -> None:
    apps = {
        "a": ("trap 'exit 3' TERM; while :; do sleep 0.05; done", ""),
        "b": ("trap 'exit 4' TERM; while :; do sleep 0.05; done", "exit 1"),
    }
    words = pod(apps, {"b": ("--health-on-failure", "stop", "--health-start-period", "300ms")})
    for policy, code in (("first-failure", 4), ("main-app", 3)):
        uuid = pyrun("run", "--detach", "--restart", "always", "--exit-policy", policy, *words, code=0).out.strip()
        pyrun("wait", "--timeout", f"{LIMIT}s", uuid, code=code)
        assert [app["exit_code"] for app in status(pyrun, uuid)["apps"]] == [3, 4]


def test_events_name_the_app(pyrun: Pyrun, pod: Pod) -> None:
    watcher = subprocess.Popen([COMMAND, "events", "--format", "json"], env=pyrun.environment(), stdout=subprocess.PIPE, text=True)
    assert watcher.stdout
    try:
        number, told = 0, ""
        os.set_blocking(watcher.stdout.fileno(), False)
        while not told:  # until it watches
            number += 1
            pyrun("prepare", "--pod-name", f"first-{number}", pyrun.probe_image, code=0)
            told = watcher.stdout.readline()
        os.set_blocking(watcher.stdout.fileno(), True)
        uuid = pyrun("run", "--detach", *pod({"a": (STAY, ""), "b": (STAY, "exit 0")}), code=0).out.strip()
        for line in watcher.stdout:
            one = json.loads(line)
            if one["event"] == "health" and one["health"] == "healthy":
                break
        assert (one["uuid"], one["app"]) == (uuid, "b")
    finally:
        watcher.kill()
        watcher.communicate()


def test_checks_of_a_pod_manifest_can_be_left_out_only(pyrun: Pyrun, tmp_path: Path) -> None:
    (tmp_path / "pod.json").write_text("{}")
    refused = pyrun("run", "--pod-manifest", tmp_path / "pod.json", "--health-cmd", "true", code=2)
    assert refused.err.startswith("pyrun: option --health-cmd: belongs to an app, which the pod manifest describes\nhint: ")
    assert "health" not in pyrun("run", "--pod-manifest", tmp_path / "pod.json", "--no-healthcheck").err
