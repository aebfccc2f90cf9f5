"""`--format json` of every verb about pods: one document with the same members each time; which verbs there are says the table."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from harness import Pyrun

from pyrun.cli.options import VERBS
from pyrun.cli.verbs_pods import POD_VERBS

# The output is the app's own: tests/live/test_format_lines.py
OWN = {"attach", "enter", "exec"}
ABOUT_PODS = {*POD_VERBS, "run", "prepare", "plan", "gc", *OWN}
EACH = {"pod", "uuid", "done", "error"}


def speaks_json(verb: str) -> bool:
    return any(option[0].split()[0] == "--format" and "json" in option[3].split() for option in VERBS[verb][2])


def test_every_verb_has_it() -> None:
    assert [verb for verb in ABOUT_PODS if not speaks_json(verb)] == []


class Asked:
    """Runs verbs and keeps in mind which."""

    def __init__(self, pyrun: Pyrun) -> None:
        self.pyrun = pyrun
        self.verbs: set[str] = set()

    def __call__(self, verb: str, *words: str | Path, code: int | None = 0) -> Any:
        self.verbs.add(verb)
        return json.loads(self.pyrun(verb, "--format", "json", *words, code=code).out)


def first_event(pyrun: Pyrun, image: Path) -> dict[str, Any]:
    """One of pods that are prepared until it watches."""
    with pyrun.start("events", "--format", "json") as watching:
        assert watching.stdout is not None
        os.set_blocking(watching.stdout.fileno(), False)
        line, number, deadline = "", 0, time.monotonic() + 60
        while not line:
            assert time.monotonic() < deadline, "nothing is told"
            number += 1
            pyrun("prepare", "--pod-name", f"pod-{number}", image, code=0)
            line = watching.stdout.readline()
        watching.terminate()
        watching.communicate()
    found: dict[str, Any] = json.loads(line)
    return found


def test_each_verb_prints_one_document(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    asked = Asked(pyrun)
    sleep = (busybox, "--exec", "/bin/sh", "--", "-c", "echo word; exec sleep 1000")
    pyrun("fetch", busybox, code=0)
    assert {"namespaces", "operations", "networks", "ports"} == set(asked("plan", busybox))
    made = asked("run", "--detach", "--pod-name", "web", "--log-driver", "k8s-file", "--health-cmd", "true", *sleep)
    uuid = made["uuid"]
    assert made == {"uuid": uuid, "state": "running"}
    prepared = asked("prepare", "--pod-name", "later", *sleep)
    assert set(prepared) == {"uuid", "state"} and prepared["state"] == "prepared"
    assert asked("run-prepared", "--detach", "later") == {"uuid": prepared["uuid"], "state": "running"}
    assert {one["uuid"] for one in asked("list")} == set(asked("list", "--quiet")) == {uuid, prepared["uuid"]}
    assert asked("status", "web")["uuid"] == uuid
    assert asked("wait", "--condition", "healthy", "--timeout", "60s", "web") == [{"uuid": uuid, "health": "healthy"}]
    assert asked("wait", "--timeout", "0s", "web", code=124) == [{"uuid": uuid, "exit_code": None, "oom": False}]
    assert set(asked("top", "web")) == {uuid}
    assert asked("stats", "web")[0]["uuid"] == uuid
    assert set(asked("inspect", "web")[0]) >= {"uuid", "state", "pod", "run"}
    assert asked("cat-manifest", "web")["acKind"] == "PodManifest" and len(asked("cat-manifest", "web", "later")) == 2
    copied = {"uuid": uuid, "source": "/bin/busybox", "target": f"{tmp_path}/busybox", "into": False, "left_out": []}
    assert asked("cp", "web:/bin/busybox", tmp_path / "busybox") == copied and (tmp_path / "busybox").exists()
    exported = asked("export", "--output", tmp_path / "web.tar", "web")
    assert exported == {"uuid": uuid, "output": f"{tmp_path}/web.tar", "bytes": os.stat(tmp_path / "web.tar").st_size}
    for verb in ("pause", "resume", "restart"):
        assert asked(verb, "web") == [{"pod": "web", "uuid": uuid, "done": True, "error": ""}]
    done = asked("stop", "nobody", "later", code=125)
    assert [set(one) for one in done] == [EACH, EACH] and [one["done"] for one in done] == [False, True]
    assert done[0]["uuid"] == "" and done[0]["error"].startswith("find pod nobody: ")
    for verb, words in (("update", ("--memory", "1Pi")), ("register", ())):
        (one,) = asked(verb, *words, "nobody", code=125)
        assert set(one) == EACH and not one["done"]
    assert asked("rename", "web", "other") == {"uuid": uuid, "pod_name": "other"}
    assert asked("kill", "other")[0]["done"]
    assert asked("wait", "other", code=137) == [{"uuid": uuid, "exit_code": 137, "oom": False}]
    assert set(asked("logs", "--tail", "1", "other")) == {"time", "stream", "text"}  # one for each line
    assert asked("rm", "other")[0]["done"]
    assert set(asked("gc")) >= {"pods", "imports", "networks"}
    asked.verbs.add("events")
    assert set(first_event(pyrun, busybox)) >= {"time", "event", "uuid"}
    assert asked.verbs == ABOUT_PODS - OWN, "a new verb about pods belongs in here"


def test_several_apps_print_the_same(pyrun: Pyrun, busybox: Path) -> None:
    words: tuple[str | Path, ...] = (busybox, "--name", "a", "--exec", "/bin/sleep", "--", "1000", "---", busybox, "--name", "b")
    words = (*words, "--exec", "/bin/sleep", "--", "1000")
    asked = Asked(pyrun)
    made = asked("run", "--detach", *words)
    assert set(made) == {"uuid", "state"}
    prepared = asked("prepare", *words)
    assert (set(prepared), prepared["state"]) == ({"uuid", "state"}, "prepared")
    pyrun("rm", "--force", made["uuid"], prepared["uuid"], code=0)


def test_an_archive_is_no_json(pyrun: Pyrun, busybox: Path) -> None:
    uuid = pyrun("run", "--detach", busybox, "--exec", "/bin/sleep", "--", "1000", code=0).out.strip()
    refused = pyrun("export", "--format", "json", uuid, code=2)
    assert refused.out == "" and "hint: " in refused.err and refused.err.count("\n") == 2
    pyrun("rm", "--force", uuid, code=0)


def test_a_unit_of_a_pod_prints_no_json(pyrun: Pyrun, busybox: Path) -> None:
    pyrun("prepare", "--format", "json", "--pod-name", "web", busybox, code=0)
    assert "--format" not in pyrun("generate", "systemd", "web", code=0).out
