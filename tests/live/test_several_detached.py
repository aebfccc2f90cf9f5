"""Pods of several apps in the background: how each is told, reached, kept apart, and what becomes of it when somebody is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun
from waiting import gone, run_file, status, wait_until

SHELL = ("--exec", "/bin/sh", "--", "-c")
PHASES = ("preparing", "prepared", "running", "exited", "garbage")
STAY = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
Detach = Callable[..., str]


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    """Runs a shell script for each app of a pod in the background; returns the pod's UUID."""

    def begin(scripts: dict[str, str], *flags: str, users: tuple[str, ...] = (), verb: tuple[str, ...] = ("run", "--detach")) -> str:
        words: list[str | Path] = []
        for number, (name, script) in enumerate(scripts.items()):
            user = users[number] if users else "0"
            words += [*(("---",) if words else ()), busybox, "--name", name, "--user", user, *SHELL, script]
        return pyrun(*verb, "--log-driver", "k8s-file", *flags, *words, code=0).out.strip()

    yield begin
    for uuid in os.listdir(pyrun.root / "pods" / "running"):
        pyrun("rm", "--force", uuid, code=0)
    pyrun("gc", "--expire-prepared", "0s", code=0)
    assert [name for name in PHASES if os.listdir(pyrun.root / "pods" / name)] == []
    assert [top for top, _, _ in os.walk("/sys/fs/cgroup") if "pyrun-" in top] == []


def apps(pyrun: Pyrun, uuid: str) -> dict[str, dict[str, Any]]:
    return {app["name"]: app for app in status(pyrun, uuid)["apps"]}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_each_app_is_told_and_logged_for_itself(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach({"a": "echo out of a; echo err of a >&2; sleep 0.3; exit 0", "b": f"echo out of b; {STAY}"}, "--pod-name", "web")
    listed = [line.split() for line in pyrun("list", "--no-legend", code=0).out.splitlines()]
    assert [listed[0][:3], listed[1][0]] == [[uuid[:8], "web", "a"], "b"]
    wait_until(lambda: apps(pyrun, uuid)["a"]["state"] == "exited")
    found = apps(pyrun, uuid)
    assert (found["a"]["code"], found["a"]["exit_code"], found["b"]["state"]) == (0, 0, "running")
    assert Path(f"/proc/{found['b']['pid']}/root").exists() and status(pyrun, uuid)["state"] == "running"
    assert pyrun("logs", "--app", "a", "web", code=0).out == "out of a\n" and "err of a" in pyrun("logs", "--app", "a", "web").err
    assert pyrun("logs", "--app", "b", "web", code=0).out == "out of b\n"
    lines = (pyrun.root / "pods" / "running" / uuid / "apps" / "a" / "log").read_text().splitlines()
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err of a", "stdout F out of a"]
    follow = pyrun.start("logs", "--follow", "--app", "b", uuid)
    pyrun("stop", "web", code=0)
    assert follow.communicate(timeout=60)[0] == "out of b\n" and follow.returncode == 0
    ended = status(pyrun, uuid)
    assert (ended["state"], ended["exit_code"], [app["code"] for app in ended["apps"]]) == ("exited", 0, [0, 0])
    text = pyrun("status", "web", code=0).out.splitlines()
    assert "app.a.exit_code=0" in text and "app.b.state=exited" in text and "exit_policy=first-failure" in text


def test_one_app_is_chosen_where_there_are_several(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    uuid = detach({"a": f"echo a >/tmp/who; {STAY}", "b": f"echo b >/tmp/who; {STAY}"}, users=("0", "1000"))
    wait_until(lambda: pyrun("exec", "--app", "b", uuid, "cat", "/tmp/who").out == "b\n")
    for words in (
        ("enter", uuid, "id"),
        ("logs", uuid),
        ("cp", f"{uuid}:/tmp/who", tmp_path),
        ("export", "--output", tmp_path / "x", uuid),
    ):
        refused = pyrun(*words, code=2)
        assert refused.err == f"pyrun: choose an app of pod {uuid}: it has several: a, b\nhint: name one: --app a\n"
    assert "it has no 'c'\nhint: its apps are a, b" in pyrun("exec", "--app", "c", uuid, "id", code=2).err
    assert pyrun("exec", "--app", "b", uuid, "id", "-u", code=0).out == "1000\n"
    mine = pyrun(
        "exec", "--app", "a", uuid, "sh", "-c", "id -u; readlink /proc/self/ns/net; readlink /proc/self/ns/mnt", code=0
    ).out.split()
    init = apps(pyrun, uuid)["a"]["pid"]
    assert mine == ["0", os.readlink(f"/proc/{init}/ns/net"), os.readlink(f"/proc/{init}/ns/mnt")]
    pyrun("cp", "--app", "b", f"{uuid}:/tmp/who", tmp_path / "out", code=0)
    assert (tmp_path / "out").read_text() == "b\n"
    pyrun("cp", "--app", "a", tmp_path / "out", f"{uuid}:/tmp/new", code=0)
    assert pyrun("exec", "--app", "a", uuid, "cat", "/tmp/new", code=0).out == "b\n"
    assert pyrun("exec", "--app", "b", uuid, "cat", "/tmp/new").code == 1
    pyrun("export", "--app", "a", "--changes", "--output", tmp_path / "a.tar", uuid, code=0)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "a.tar").read_bytes())) as archive:
        assert {"tmp/who", "tmp/new"} <= set(archive.getnames())
    top = [line.split() for line in pyrun("top", uuid, code=0).out.splitlines()]
    assert top[0][0] == "APP" and {line[0] for line in top[1:]} == {"a", "b"}
    assert "sh" in pyrun("top", "--app", "b", uuid, code=0).out
    pyrun("pause", uuid, code=0)
    assert "it is paused" in pyrun("exec", "--app", "a", uuid, "id", code=125).err
    pyrun("resume", uuid, code=0)
    pyrun("kill", "--signal", "USR1", uuid, code=0)
    wait_until(lambda: status(pyrun, uuid)["state"] == "exited")
    assert status(pyrun, uuid)["exit_code"] == 138


def test_one_app_has_a_terminal_that_one_can_attach_to(pyrun: Pyrun, busybox: Path, detach: Detach) -> None:
    words: list[str | Path] = [
        busybox,
        "--name",
        "a",
        *SHELL,
        STAY,
        "---",
        busybox,
        "--name",
        "b",
        "-it",
        *SHELL,
        "read x; echo got $x; exit 4",
    ]
    uuid = pyrun("run", "--detach", "--log-driver", "k8s-file", *words, code=0).out.strip()
    with pyrun.start("attach", uuid) as attached:
        assert attached.stdout is not None and attached.stdin is not None
        attached.stdin.write("word\r")
        attached.stdin.flush()
        seen = attached.stdout.readline()
        while "got" not in seen:
            seen = attached.stdout.readline()
        assert seen == "got word\n" and attached.wait(timeout=60) == 4
        attached.communicate()
    assert pyrun("wait", uuid, code=4).out == "4\n"
    assert "got word" in pyrun("logs", "--app", "b", uuid, code=0).out and pyrun("logs", "--app", "a", uuid, code=0).out == ""


def test_what_runs_is_told_as_a_pod_manifest(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach({"a": STAY, "b": STAY}, users=("0", "1000"))
    found = json.loads(pyrun("cat-manifest", uuid, code=0).out)
    assert [(app["name"], app["app"]["user"]) for app in found["apps"]] == [("a", "0"), ("b", "1000")]
    assert all(app["image"]["id"].startswith("sha512-") and app["app"]["exec"][0] == "/bin/sh" for app in found["apps"])
    seen = json.loads(pyrun("inspect", uuid, code=0).out)[0]
    assert [app["name"] for app in seen["run"]["apps"]] == ["a", "b"] and "apps.keep" in seen["files"]
    assert "uses it" in pyrun("image", "rm", "example.com/busybox", code=125).err


def test_a_prepared_pod_is_run_once_in_either_way(pyrun: Pyrun, detach: Detach) -> None:
    for how, code in (("--detach", 0), ("--quiet", 6)):
        uuid = detach({"a": "echo hi; exit 6", "b": STAY}, verb=("prepare",))
        done = pyrun("run-prepared", how, uuid, code=code)
        assert pyrun("wait", uuid, code=6).out == "6\n" and (how == "--detach" or done.out == "hi\n")
        first, second = (app["exit_code"] for app in status(pyrun, uuid)["apps"])
        assert first == 6 and second in (0, 143)  # TERM may come before the trap
        assert pyrun("run-prepared", uuid, code=125).err.startswith(f"pyrun: start pod {uuid}: ")


def test_the_pod_is_started_again_as_a_whole(pyrun: Pyrun, detach: Detach) -> None:
    """Into new namespaces, with the files that it had."""
    count = "n=$(cat /n 2>/dev/null || echo 0); echo $((n+1)) >/n; readlink /proc/self/ns/net; ls /dev/shm; echo >/dev/shm/x; [ $n = 2 ]"
    uuid = detach({"a": f"{count} || exit 1; sleep 0.1; exit 0", "b": STAY}, "--restart", "on-failure", "--exit-policy", "main-app")
    assert pyrun("wait", uuid, code=0).out == "0\n"
    assert status(pyrun, uuid)["restarts"] == 2
    spaces = pyrun("logs", "--app", "a", uuid, code=0).out.splitlines()
    assert len(spaces) == 3 and all(space.startswith("net:") for space in spaces)
    pyrun("restart", uuid, code=0)
    assert pyrun("logs", "--app", "b", uuid, code=0).out == ""
    pyrun("stop", uuid, code=0)


def test_what_ignores_the_end_is_killed(pyrun: Pyrun, detach: Detach) -> None:
    deaf = "trap '' TERM; while :; do sleep 0.05; done"
    uuid = detach({"a": STAY, "b": deaf}, "--exit-policy", "last-exit")
    pyrun("stop", "--timeout", "0", uuid, code=0)
    ended = apps(pyrun, uuid)
    assert ended["b"]["signal"] == 9 and status(pyrun, uuid)["exit_code"] == 137
    uuid = detach({"a": STAY, "b": deaf})
    pyrun("kill", uuid, code=0)
    wait_until(lambda: status(pyrun, uuid)["state"] == "exited")


@pytest.mark.parametrize("pid", ["app", "pod"])
@pytest.mark.parametrize("victim", ["keeper", "supervisor", "init", "app", "holder"])
def test_whoever_is_killed_leaves_nothing(pyrun: Pyrun, detach: Detach, victim: str, pid: str) -> None:
    """And the end never looks like a success.  With own process numbers the holder's death harms nobody who is there already."""
    uuid = detach({"a": "sleep 1000 & wait", "b": "sleep 1000 & wait"}, "--pid", pid)
    run = run_file(pyrun, uuid)
    inits = [app["pid"] for app in run["apps"]]
    supervisors = [app["supervisor"] for app in run["apps"]]
    (holder,) = set(children(run["keeper"])) - set(supervisors)
    programs = [children(init)[0] for init in inits]
    chosen = {"keeper": run["keeper"], "supervisor": supervisors[1], "init": inits[1], "app": programs[1], "holder": holder}[victim]
    os.kill(chosen, signal.SIGKILL)
    if victim == "holder" and pid == "app":
        wait_until(lambda: gone(holder))
        assert status(pyrun, uuid)["state"] == "running" and pyrun("exec", "--app", "a", uuid, "id", "-u", code=0).out == "0\n"
        pyrun("stop", uuid, code=0)
    for process in (run["keeper"], holder, *supervisors, *inits, *programs):
        wait_until(lambda process=process: gone(process))  # type: ignore[misc]
    ended = status(pyrun, uuid)
    assert ended["state"] == "exited" and (ended.get("lost") or ended["exit_code"] != 0)
    assert ended["apps"][0]["state"] == ended["apps"][1]["state"] == "exited"
    assert "0" not in pyrun("wait", uuid).out.split()


def test_the_holder_shows_nothing_of_the_host(pyrun: Pyrun, detach: Detach) -> None:
    """Whoever could look into the process that holds the shared namespaces finds an empty root, no descriptors, no privileges."""
    uuid = detach({"a": STAY, "b": STAY}, "--pid", "pod")
    run = run_file(pyrun, uuid)
    (holder,) = set(children(run["keeper"])) - {app["supervisor"] for app in run["apps"]}
    assert os.listdir(f"/proc/{holder}/root") == [] and os.listdir(f"/proc/{holder}/fd") == []
    facts = dict(line.split(":\t", 1) for line in Path(f"/proc/{holder}/status").read_text().splitlines())
    assert int(facts["CapPrm"], 16) == 1 << 5 and facts["Seccomp"] == "2" and facts["NSpid"].split()[-1] == "1"
    assert "memfd:" in os.readlink(f"/proc/{holder}/exe")
    assert "/shm" not in Path("/proc/self/mountinfo").read_text().replace("/dev/shm", "")


def test_a_pod_of_which_files_were_damaged_is_not_started(pyrun: Pyrun, detach: Detach) -> None:
    for name, data in (("apps.keep", b""), ("apps.keep", b"\xff" * 300), ("apps/b/plan", b"x"), ("apps/b/plan", None)):
        uuid = detach({"a": "true", "b": "true"}, verb=("prepare",))
        path = pyrun.root / "pods" / "prepared" / uuid / name
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        refused = pyrun("run-prepared", uuid, code=125)
        assert "hint: " in refused.err and refused.err.count("\n") == 2 and os.listdir(pyrun.root / "pods" / "running") == []
        pyrun("rm", uuid, code=0)
