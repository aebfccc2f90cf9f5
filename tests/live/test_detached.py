"""Pods in the background: start, logs, exit records, restarts, ending them, and what happens when somebody is killed.

Goals of the security notes that are tested here at CI size: SEC-51 (the monitor killed), SEC-59 (a bounded stop), SEC-60 (exit
codes and signals), SEC-61 (damaged state).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from waiting import gone, nothing_kept, phase, run_file, status, wait_until

Detach = Callable[..., str]


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    """Runs a shell script in the background; returns the pod's UUID."""

    def begin(script: str, *flags: str, code: int = 0) -> str:
        return pyrun("run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=code).out.strip()

    with nothing_kept(pyrun):
        yield begin


def test_life_of_a_pod(pyrun: Pyrun, detach: Detach) -> None:
    before = time.time_ns()
    uuid = detach("echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 1; done", "--pod-name", "web")
    running = status(pyrun, "web")
    assert (running["state"], running["uuid"], running["pod_name"], running["restarts"]) == ("running", uuid, "web", 0)
    assert before < running["created"] <= running["started"] <= time.time_ns()
    assert Path(f"/proc/{running['pid']}/status").exists() and Path(running["cgroup"]).is_dir()
    wait_until(lambda: "err" in pyrun("logs", "web", code=0).err)
    assert pyrun("logs", "web", code=0).out == "out\n"
    assert pyrun("stop", "web", code=0).out == uuid + "\n"
    ended = status(pyrun, uuid)
    assert (ended["state"], ended["code"], ended["signal"], ended["exit_code"]) == ("exited", 7, 0, 7)
    assert running["started"] == ended["started"] < ended["finished"] <= time.time_ns()
    assert pyrun("wait", "web", code=7).out == "7\n"
    assert pyrun("stop", "web", code=0).out == uuid + "\n", "a second time is no error"
    assert pyrun("rm", "web", code=0).out == uuid + "\n"
    assert pyrun("status", "web", code=125).err.startswith("pyrun: find pod web: there is none")


def test_it_is_no_child_of_anybody(pyrun: Pyrun, detach: Detach) -> None:
    """A session of its own, no terminal, no descriptor and no directory of the caller's; a caller need not wait for it."""
    uuid = detach("sleep 100")
    keeper = run_file(pyrun, uuid)["keeper"]
    stat = Path(f"/proc/{keeper}/stat").read_text().rpartition(")")[2].split()
    assert stat[3] == str(keeper) and stat[4] == "0", "leads a session without a terminal"
    assert os.readlink(f"/proc/{keeper}/cwd") == "/"
    assert {os.readlink(f"/proc/{keeper}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
    app = int(Path(f"/proc/{status(pyrun, uuid)['pid']}/task/{status(pyrun, uuid)['pid']}/children").read_text())
    assert sorted(os.listdir(f"/proc/{app}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{app}/fd/0") == "/dev/null"


def test_a_start_that_fails_says_why(pyrun: Pyrun, detach: Detach, busybox: Path) -> None:
    failed = pyrun("run", "--detach", busybox, "--exec", "/missing", code=127)
    assert failed.err.startswith("pyrun: execute /missing: no such file or directory\nhint: ") and failed.out == ""
    refused = pyrun("run", "--detach", "--interactive", busybox, code=2)
    assert "exclude each other" in refused.err
    assert "add --detach" in pyrun("run", "--log-driver", "k8s-file", busybox, code=2).err
    for flags in (("--restart", "often"), ("--restart", "on-failure:0"), ("--log-opt", "max-size=x"), ("--log-opt", "colour=red")):
        assert "hint: " in pyrun("run", "--detach", *flags, busybox, code=2).err
    assert [name for name in ("preparing", "prepared", "running", "exited", "garbage") if phase(pyrun, name)] == []


def test_exit_codes_and_signals(pyrun: Pyrun) -> None:
    """SEC-60, a sample; each by its record and by `wait`, which asks a pod that is removed at its end too."""
    cases = [("exit", str(code)) for code in (0, 1, 42, 125, 126, 127, 128, 255)] + [
        ("kill", str(number)) for number in (1, 6, 9, 11, 15, 31)
    ]
    image = pyrun.probe_image
    uuids = [pyrun("run", "--detach", image, "--exec", "/probe", "--", *case, code=0).out.strip() for case in cases]
    for uuid, (kind, value) in zip(uuids, cases, strict=True):
        expected = int(value) if kind == "exit" else 128 + int(value)
        assert pyrun("wait", uuid, code=expected).out == f"{expected}\n"
        record = json.loads((pyrun.root / "pods" / "exited" / uuid / "exit").read_text())
        assert (record["code"], record["signal"]) == ((int(value), 0) if kind == "exit" else (0, int(value)))
        assert "lost" not in record


def watches(pid: int) -> bool:
    """Whether a process has a pidfd open, as `wait` of a pod has."""
    try:
        return any("pidfd" in os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_rm_removes_everything_at_the_end(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    script = "mkdir -p /a/b/c; echo x >/a/b/c/d; while ! [ -e /flag/go ]; do sleep 0.05; done; exit 5"
    uuid = detach(script, "--rm", "-v", f"{tmp_path}:/flag:ro")
    waiting = pyrun.start("wait", uuid)
    deadline = time.monotonic() + 60
    while not watches(waiting.pid):
        assert waiting.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    (tmp_path / "go").touch()
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out) in ((5, "5\n"), (125, "125\n")), err  # before Linux 6.15 nobody can know
    assert phase(pyrun, "exited") == phase(pyrun, "garbage") == phase(pyrun, "running") == []


@pytest.mark.parametrize(("policy", "code", "runs"), [("no", 1, 1), ("on-failure:2", 3, 3), ("on-failure", 0, 1)])
def test_restart_policy(pyrun: Pyrun, detach: Detach, policy: str, code: int, runs: int) -> None:
    uuid = detach(f"echo run >>/count; cat /count; exit {code}", "--restart", policy)
    assert pyrun("wait", uuid, code=code)
    assert pyrun("logs", uuid, code=0).out.count("run\n") == runs * (runs + 1) // 2, "the files are those of the run before"
    assert status(pyrun, uuid)["restarts"] == runs - 1


def test_always_means_until_it_is_stopped(pyrun: Pyrun, detach: Detach) -> None:
    """A stop holds, whether the app runs or waits for its next start."""
    uuid = detach("echo run; sleep 0.05", "--restart", "always")
    wait_until(lambda: status(pyrun, uuid).get("restarts", 0) >= 3)
    begun = time.monotonic()
    wait_until(lambda: status(pyrun, uuid)["state"] == "restarting")
    pyrun("stop", uuid, code=0)
    assert time.monotonic() - begun < 20
    assert status(pyrun, uuid)["state"] == "exited" and phase(pyrun, "running") == []


def test_restart_verb(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("echo run >>/count; cat /count; trap 'exit 0' TERM; while :; do sleep 0.05; done")
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "run\n")
    first = status(pyrun, uuid)["pid"]
    assert pyrun("restart", uuid, code=0).out == uuid + "\n"
    again = status(pyrun, uuid)
    assert again["state"] == "running" and again["pid"] != first
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "run\nrun\nrun\n")
    pyrun("stop", uuid, code=0)
    assert pyrun("restart", uuid, code=0).out == uuid + "\n", "one that has ended starts again too"
    assert status(pyrun, uuid)["state"] == "running"
    once = detach("sleep 100", "--rm")
    assert "runs only once" in pyrun("restart", once, code=125).err
    assert status(pyrun, once)["state"] == "running"


@pytest.mark.parametrize("how", ["deaf", "frozen", "paused", "traced", "forced"])
def test_a_stop_is_bounded(pyrun: Pyrun, detach: Detach, how: str) -> None:
    """SEC-59: whatever the app does, it ends within the time and two seconds."""
    uuid = detach(
        "trap '' TERM; echo ready; while :; do sleep 0.1; done"
        if how != "paused"
        else "trap 'exit 3' TERM; echo ready; sleep 0.1; while :; do sleep 0.1; done"
    )
    wait_until(lambda: pyrun("logs", uuid, code=0).out)
    found = status(pyrun, uuid)
    tracer = None
    if how == "frozen":
        Path(found["cgroup"], "cgroup.freeze").write_text("1")
    elif how == "paused":
        pyrun("pause", uuid, code=0)
        assert status(pyrun, uuid)["state"] == "paused"
    elif how == "traced":
        app = Path(f"/proc/{found['pid']}/task/{found['pid']}/children").read_text().split()[0]
        tracer = subprocess.Popen(["strace", "-qq", "-o", "/dev/null", "-p", app], stderr=subprocess.DEVNULL)
        wait_until(lambda: "TracerPid:\t0" not in Path(f"/proc/{app}/status").read_text())
    begun = time.monotonic()
    pyrun("stop", "--timeout", "1", *(["--force"] if how == "forced" else []), uuid, code=0)
    assert time.monotonic() - begun < 10
    if tracer:
        tracer.kill()
        tracer.wait()
    assert status(pyrun, uuid)["exit_code"] == (3 if how == "paused" else 137)
    assert gone(found["pid"]) and not Path(found["cgroup"]).exists()


def test_pause_and_resume(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("while :; do echo tick; sleep 0.02; done")
    pyrun("pause", uuid, code=0)
    assert status(pyrun, uuid)["state"] == "paused"
    before = pyrun("logs", uuid, code=0).out
    assert pyrun("logs", uuid, code=0).out == before
    pyrun("resume", uuid, code=0)
    wait_until(lambda: len(pyrun("logs", uuid, code=0).out) > len(before))
    pyrun("kill", uuid, code=0)
    assert pyrun("wait", uuid).out == "137\n"
    assert "does not run" in pyrun("pause", uuid, code=125).err


def test_kill_sends_any_signal(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("trap 'echo hup' HUP; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.02; done")
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "ready\n")
    pyrun("kill", "--signal", "HUP", uuid, code=0)
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "ready\nhup\n")
    pyrun("kill", "-s", "10", uuid, code=0)
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "ready\nhup\nusr1\n")
    assert "not a signal" in pyrun("kill", "-s", "FOO", uuid, code=2).err


def test_a_willing_app_is_gone_at_once(pyrun: Pyrun, detach: Detach) -> None:
    """From the signal to the end of everything that is ours: no sleep in between (the goal is 5 ms on a quiet machine)."""
    times = []
    for _ in range(5):
        uuid = pyrun("run", "--detach", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
        keeper = run_file(pyrun, uuid)["keeper"]
        held = os.pidfd_open(keeper)
        begun = time.monotonic()
        signal.pidfd_send_signal(held, signal.SIGTERM)
        import select

        poll = select.poll()
        poll.register(held, select.POLLIN)
        assert poll.poll(20_000)
        times.append(time.monotonic() - begun)
        os.close(held)
        assert status(pyrun, uuid)["exit_code"] == 143
    print("stop to gone, ms:", sorted(round(one * 1000, 2) for one in times))
    assert min(times) < 0.1


VICTIMS = ("keeper", "supervisor", "pid", "app", "keeper and supervisor", "all")


@pytest.mark.parametrize("victim", VICTIMS)
def test_whoever_is_killed_the_exit_never_looks_like_success(pyrun: Pyrun, detach: Detach, victim: str) -> None:
    """SEC-51, F11, F12: every process of the pod dies, the state is in one defined phase, the pod can be removed at once."""
    uuid = detach("trap 'exit 0' TERM INT HUP; echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: pyrun("logs", uuid, code=0).out)
    run = run_file(pyrun, uuid)
    app = int(Path(f"/proc/{run['pid']}/task/{run['pid']}/children").read_text().split()[0])
    pids = {**run, "app": app}
    names = ["keeper", "supervisor", "pid", "app"] if victim == "all" else victim.split(" and ")
    for name in names:
        with contextlib.suppress(ProcessLookupError):  # gone with the one before
            os.kill(pids[name], signal.SIGKILL)
    for pid in (run["keeper"], run["supervisor"], run["pid"], app):
        wait_until(lambda pid=pid: gone(pid))  # type: ignore[misc]
    found = status(pyrun, uuid)
    assert found["state"] == "exited" and found["exit_code"] != 0
    if victim in ("pid", "app"):
        assert (found["signal"], found["exit_code"]) == (9, 137)
    else:
        assert found["lost"] and found["exit_code"] == 125
    pyrun("rm", uuid, code=0)
    assert not Path(run["cgroup"]).exists()
    assert [name for name in ("running", "exited", "garbage") if phase(pyrun, name)] == []


def test_a_killed_supervisor_is_a_failure_to_start_again_after(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("echo run; sleep 100", "--restart", "on-failure")
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "run\n")
    os.kill(run_file(pyrun, uuid)["supervisor"], signal.SIGKILL)
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "run\nrun\n")
    assert status(pyrun, uuid)["restarts"] == 1


def test_who_asked_is_killed_before_the_app_runs(pyrun: Pyrun, busybox: Path) -> None:
    """F12: nobody would know of the pod, so there is none; or it had started already."""
    pyrun("run", busybox, "--exec", "/bin/true", code=0)
    for number in range(12):
        one = subprocess.Popen(
            [COMMAND, "run", "--detach", busybox, "--exec", "/bin/sleep", "--", "100"], env=pyrun.environment(), stdout=subprocess.PIPE
        )
        time.sleep(0.003 * number)
        one.kill()
        one.communicate()
    wait_until(lambda: pyrun("gc", "--expire-prepared", "0s", code=0) and not phase(pyrun, "prepared"))

    def settled(uuid: str) -> bool:
        done = pyrun("status", "--format", "json", uuid)
        return "none of that name" in done.err or json.loads(done.out)["state"] in ("running", "exited")

    for uuid in phase(pyrun, "running"):
        wait_until(lambda uuid=uuid: settled(uuid))  # type: ignore[misc]
        pyrun("rm", "--force", uuid, code=0)
    os.utime(pyrun.root / "pods" / "preparing", (1, 1))
    for half in (pyrun.root / "pods" / "preparing").iterdir():
        os.utime(half, (1, 1))
    pyrun("gc", code=0)
    assert [name for name in ("preparing", "prepared", "running", "exited", "garbage") if phase(pyrun, name)] == []


@pytest.mark.parametrize("file", ["pod", "run", "exit", "plan", "keep"])
def test_damaged_state(pyrun: Pyrun, detach: Detach, file: str) -> None:
    """SEC-61: cut at every length, the other pod is listed, this one is named and can be removed; nothing else is."""
    healthy = detach("exit 0")
    broken = detach("exit 3")
    for uuid in (healthy, broken):
        pyrun("wait", uuid)
    path = pyrun.root / "pods" / "exited" / broken / file
    whole = path.read_bytes()
    from pyrun.pod.state import Pods
    from pyrun.pod.status import exit_code, listing

    pods = Pods(str(pyrun.root))
    for size in sorted({*range(min(len(whole), 400)), len(whole) // 2}):
        path.write_bytes(whole[:size])
        listed = {str(one["uuid"]): one for one in listing(pods)}
        assert set(listed) == {healthy, broken} and exit_code(listed[healthy]) == 0
        assert exit_code(listed[broken]) in ((3,) if file != "exit" or size >= len(whole) - 1 else (125,))
    path.write_bytes(b"\xff" * len(whole))
    assert "Traceback" not in pyrun("list", code=0).err + pyrun("inspect", broken).err + pyrun("cat-manifest", broken).err
    pyrun("rm", broken, code=0)
    assert phase(pyrun, "exited") == [healthy]


def test_names_follow_the_pod(pyrun: Pyrun, detach: Detach) -> None:
    one, other = detach("sleep 100", "--pod-name", "one"), detach("sleep 100", "--pod-name", "other")
    pyrun("rename", "one", "web", code=0)
    assert status(pyrun, "web")["uuid"] == one and status(pyrun, one)["pod_name"] == "web"
    assert "has that name" in pyrun("rename", "web", "other", code=125).err
    assert status(pyrun, "other")["uuid"] == other
    assert pyrun("list", "--no-legend", code=0).out.count("running") == 2
    assert sorted(pyrun("list", "--quiet", code=0).out.split()) == sorted([one, other])


def test_top_and_manifest(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 100", "--user", "app", "-e", "A=B")
    rows = json.loads(pyrun("top", "--format", "json", uuid, code=0).out)[uuid]
    assert [row["inside"] for row in rows][:1] == [1] and any("sleep" in row["command"] and row["uid"] == 1000 for row in rows)
    found = json.loads(pyrun("cat-manifest", uuid, code=0).out)
    (app,) = found["apps"]
    assert found["acKind"] == "PodManifest" and app["app"]["exec"][:2] == ["/bin/sh", "-c"] and app["app"]["user"] == "1000"
    assert {"name": "A", "value": "B"} in app["app"]["environment"]
    whole = json.loads(pyrun("inspect", uuid, code=0).out)[0]
    assert whole["run"]["pid"] == whole["pid"] and whole["pod"]["uuid"] == uuid


def test_a_pod_starts_again_on_its_own_files_at_once(pyrun: Pyrun, detach: Detach) -> None:
    """The root of the last run is unmounted after the pod is gone: never two mounts of one upper directory."""
    uuid = detach("echo x >>/tmp/times; exec sleep 600", "--pod-name", "again")
    for _ in range(3):
        pyrun("restart", "again", code=0)
    pyrun("stop", "again", code=0)
    assert (pyrun.root / "pods" / "exited" / uuid / "upper" / "tmp" / "times").read_text() == "x\n" * 4
    pyrun("rm", "again", code=0)
    wait_until(lambda: not any(f"pod {uuid}" in line for line in command_lines()))


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text()
