"""Smaller promises of the verbs about pods."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from waiting import nothing_kept, status, wait_until

Detach = Callable[..., str]


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    def begin(script: str, *flags: str) -> str:
        return pyrun("run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()

    with nothing_kept(pyrun):
        yield begin


def test_waiting_has_an_end(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    begun = time.monotonic()
    assert pyrun("wait", "--timeout", "1", uuid, code=124).out == ""
    assert pyrun("status", "--wait", "--timeout", "1", uuid, code=124).out == ""
    assert 2 <= time.monotonic() - begun < 60
    waiting = [pyrun.start("status", "--wait", "--format", "json", uuid) for _ in range(3)]
    pyrun("kill", "-s", "ABRT", uuid, code=0)
    for one in waiting:
        out, err = one.communicate(timeout=60)
        assert (one.returncode, err, json.loads(out)["signal"]) == (134, "", signal.SIGABRT)


def test_several_at_once_and_each_error_said(pyrun: Pyrun, detach: Detach) -> None:
    one, other = detach("sleep 1000"), detach("sleep 1000")
    stopped = pyrun("stop", one, "nobody", other, code=125)
    assert stopped.out.split() == [one, other] and stopped.err.startswith("pyrun: find pod nobody: there is none")
    assert "needs a POD" in pyrun("stop", code=2).err
    first = pyrun("rm", one[:1], other[:2] if one[0] != other[0] else other)
    assert first.code in (0, 125), "a beginning that fits several is refused"


def test_a_beginning_that_fits_several(pyrun: Pyrun) -> None:
    folder = pyrun.root / "pods" / "exited"
    pyrun("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    for last in "12":
        (folder / f"aaaaaaaa-2222-4333-8444-55555555555{last}").mkdir()
    refused = pyrun("status", "aaaa", code=125)
    assert "2 pods begin so" in refused.err and "hint: write more of the UUID" in refused.err
    assert "damaged" in pyrun("list", code=0).out
    pyrun("gc", code=0)
    assert os.listdir(folder) == []


def test_rm_spares_what_runs(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    assert "it runs" in pyrun("rm", uuid, code=125).err
    pyrun("rm", "--force", uuid, code=0)
    assert pyrun("list", "--no-legend", code=0).out == ""
    assert "there is none of that name" in pyrun("rm", uuid, code=125).err
    gone = pyrun("rm", "--force", uuid, "nobody", code=0)
    assert (gone.out, gone.err) == ("", "")


def test_mark_only_deletes_nothing(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    run = json.loads((pyrun.root / "pods" / "running" / uuid / "run").read_text())
    os.kill(run["keeper"], signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it has gone already
        held = os.pidfd_open(run["supervisor"])
        poll = select.poll()
        poll.register(held, select.POLLIN)
        assert poll.poll(60_000)
        os.close(held)
    assert pyrun("gc", "--mark-only", code=0).out == f"marked crashed pod {uuid}\n"
    assert os.listdir(pyrun.root / "pods" / "exited") == [uuid]
    assert pyrun("gc", "--mark-only", code=0).out == ""


def test_gc_says_of_a_crashed_pod_whether_it_is_gone(pyrun: Pyrun, busybox: Path) -> None:
    """One of the foreground with --keep only ends: with a grace period it still stands there."""
    for grace, now in (("1h", "exited"), ("0s", "")):
        running = pyrun.start("run", "--keep", busybox, "--exec", "/bin/sleep", "--", "1000")
        wait_until(lambda: any(one["state"] == "running" for one in json.loads(pyrun("list", "--format", "json", code=0).out)))
        (uuid,) = os.listdir(pyrun.root / "pods" / "running")
        running.kill()
        running.communicate(timeout=60)
        words = f"marked crashed pod {uuid}, which is kept" if now else f"removed crashed pod {uuid}"
        assert words in pyrun("gc", "--grace-period", grace, code=0).out.splitlines()
        assert (uuid in os.listdir(pyrun.root / "pods" / "exited")) == bool(now)
    pyrun("gc", code=0)


def test_what_is_no_directory_is_removed(pyrun: Pyrun) -> None:
    """It is listed as damaged; `rm` and `gc` take it away, and nothing that a link leads to."""
    pyrun("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    pods, target = pyrun.root / "pods", pyrun.root / "target"
    target.mkdir()
    (target / "file").touch()
    name = "aaaaaaaa-2222-4333-8444-55555555555"
    for number, phase in enumerate(("preparing", "prepared", "running", "exited", "garbage")):
        (pods / phase / f"{name}{number}").touch()
        (pods / phase / f"link{number}").symlink_to(target)
    assert "damaged" in pyrun("list", code=0).out
    assert pyrun("rm", f"{name}3", code=0).out == f"{name}3\n"
    assert pyrun("rm", "--force", f"{name}2", code=0).out == f"{name}2\n"
    lines = pyrun("gc", code=0).out.splitlines()
    assert len([line for line in lines if line.startswith("removed what is no directory, so no pod: ")]) == 8 == len(lines)
    assert [found for phase in pods.iterdir() if phase.name != "names" for found in phase.iterdir()] == []
    assert (target / "file").exists() and pyrun("gc", code=0).out == ""


def test_the_image_s_own_stop_signal(pyrun: Pyrun, detach: Detach) -> None:
    """OCI image configuration, StopSignal: what `stop` sends unless it is told otherwise."""
    uuid = detach("trap 'exit 7' QUIT; trap 'exit 8' TERM; echo ready; while :; do sleep 0.02; done")
    deadline = time.monotonic() + 60
    while not pyrun("logs", uuid, code=0).out:
        assert time.monotonic() < deadline
    record = pyrun.root / "pods" / "running" / uuid / "pod"
    record.write_text(json.dumps({**json.loads(record.read_text()), "stop_signal": "SIGQUIT"}))
    pyrun("stop", uuid, code=0)
    assert pyrun("wait", uuid, code=7)


def test_a_broken_pipe_that_somebody_sends(pyrun: Pyrun, detach: Detach) -> None:
    """What the kernel says to the keeper of its own pipes is not the app's, what a person sends is."""
    uuid = detach("trap 'echo heard; exit 6' PIPE; echo ready; while :; do sleep 0.05; done")
    wait_until(lambda: pyrun("logs", uuid, code=0).out == "ready\n")
    pyrun("kill", "--signal", "PIPE", uuid, code=0)
    assert pyrun("wait", "--timeout", "20", uuid).code == 6


@pytest.mark.parametrize("apps", [1, 2])
def test_a_stopped_app_is_not_a_stopped_keeper(pyrun: Pyrun, busybox: Path, apps: int) -> None:
    """SIGSTOP is the app's: who keeps the pod goes on, so that the pod can be continued, and ended in time."""
    words: list[str | Path] = ["run", "--detach", "--pod-name", "w"]
    for number in range(apps):
        words += ["---"] * (number > 0) + [busybox, "--name", f"a{number}", "--exec", "/bin/sleep", "--", "1000"]
    with nothing_kept(pyrun):
        pyrun(*words, code=0)
        pyrun("kill", "--signal", "STOP", "w", code=0)
        (record,) = (pyrun.root / "pods" / "running").glob("*/run")
        pid = json.loads(record.read_text())["keeper"]

        def states() -> list[str]:
            rows = json.loads(pyrun("top", "--format", "json", "w", code=0).out).popitem()[1]
            return [row["state"] for row in rows if row["command"].startswith("/bin/sleep")]

        for wanted in ("T", "S"):
            wait_until(lambda wanted=wanted: states() == [wanted] * apps)  # type: ignore[misc]  # a signal takes its time
            assert Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S"
            pyrun("kill", "--signal", "CONT", "w", code=0)
        begun = time.monotonic()
        pyrun("stop", "--signal", "STOP", "--timeout", "1", "w", code=0)
        assert time.monotonic() - begun < 30
        assert json.loads(pyrun("status", "--format", "json", "w", code=0).out)["exit_code"] == 137


def test_interrupting_a_waiter_harms_nobody(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("sleep 1000")
    for verb in ("wait", "logs"):
        one = pyrun.start(verb, *(["-f"] if verb == "logs" else []), uuid)
        deadline = time.monotonic() + 60
        while (
            b"do_sys_poll" not in Path(f"/proc/{one.pid}/stack").read_bytes() and b"poll" not in Path(f"/proc/{one.pid}/wchan").read_bytes()
        ):
            assert time.monotonic() < deadline
        one.send_signal(signal.SIGINT)
        out, err = one.communicate(timeout=60)
        assert (one.returncode, out, err) == (130, "", "")
    assert json.loads(pyrun("status", "--format", "json", uuid, code=0).out)["state"] == "running"


def test_a_file_names_the_pod_to_enter(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    file = tmp_path / "uuid"
    detach("sleep 1000", "--uuid-file-save", str(file))
    for words in (["exec", "--uuid-file", file, "/bin/echo", "--x"], ["exec", f"--uuid-file={file}", "--", "/bin/echo", "--x"]):
        assert pyrun(*words, code=0).out == "--x\n"
    assert pyrun("enter", "--uuid-file", file, input="echo $0\n", code=0).out == "/bin/sh\n"
    assert "needs a command" in pyrun("exec", "--uuid-file", file, code=2).err
    assert "no such file" in pyrun("exec", "--uuid-file", tmp_path / "none", "/bin/true", code=2).err
    assert "no terminal" in pyrun("attach", "--uuid-file", file, code=125).err
    assert "takes one pod" in pyrun("attach", "--uuid-file", file, "x", code=2).err


def test_a_name_is_taken_from_a_pod_that_has_ended(pyrun: Pyrun, busybox: Path) -> None:
    """Which has its UUID in its name then; from one that runs nobody takes it."""
    words = ("--pod-name", "web", "--keep", busybox, "--exec", "/bin/true")
    pyrun("run", *words, code=0)
    first = status(pyrun, "web")["uuid"]
    assert "--take-name" in pyrun("run", *words, code=125).err and status(pyrun, "web")["uuid"] == first
    second = pyrun("run", "--detach", "--take-name", *words[:2], busybox, "--exec", "/bin/sleep", "--", "100", code=0).out.strip()
    assert status(pyrun, "web")["uuid"] == second and status(pyrun, f"web.{first[:8]}")["pod_name"] == f"web.{first[:8]}"
    assert "has that name" in pyrun("run", "--take-name", *words, code=125).err
    pyrun("stop", "web", code=0)
    pyrun("run", "--take-name", *words, code=0)
    assert [status(pyrun, f"web.{uuid[:8]}")["uuid"] for uuid in (first, second)] == [first, second]
    pyrun("rm", "web", first, second, code=0)


def test_a_unit_for_a_pod_does_what_made_it(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """Without what only the background has; its ExecStart run by hand does the same as the pod did."""
    (tmp_path / "file").write_text("content")
    script = "cat /file; echo $X; test ! -t 0"
    words = ["-de", "X=a b", "--restart=always", "--pod-name", "maker", "-v./file:/file:ro", "-qw", "/tmp", busybox, "--exec", "/bin/sh"]
    uuid = pyrun("run", *words, "--", "-c", script, cwd=tmp_path, code=0).out.strip()
    made = {name: pyrun("generate", "systemd", name, code=0) for name in ("maker", uuid)}
    (tmp_path / "uuid").write_text(uuid + "\n")
    assert pyrun("generate", "systemd", "--uuid-file", tmp_path / "uuid", code=0).out == made["maker"].out
    assert "hint: " in pyrun("generate", "systemd", "--uuid-file", tmp_path / "uuid", "maker", code=2).err
    names = ("--uuid-file", tmp_path / "uuid", "example.com/busybox")
    several = pyrun("generate", "systemd", *names, "--into", tmp_path / "units", code=0).out
    assert several.splitlines() == [f"{tmp_path}/units/maker.service", f"{tmp_path}/units/busybox.service"]
    assert (tmp_path / "units" / "maker.service").read_text() == made["maker"].out
    lines = made["maker"].out.splitlines()
    assert f"WorkingDirectory={tmp_path}" in lines and f"RequiresMountsFor={tmp_path}/file" in lines and "SyslogIdentifier=maker" in lines
    assert [line for line in lines if line.startswith("Restart=")] == ["Restart=always"]
    start = shlex.split(next(line for line in lines if line.startswith("ExecStart=")).removeprefix("ExecStart=").replace("$$", "$"))
    kept = ["-e", "X=a b", "-v./file:/file:ro", "-w", "/tmp", *map(str, words[-3:]), "--", "-c", script]
    assert start[1:] == ["--root", str(pyrun.root), "run", "--pod-name=maker", *kept]
    pyrun("rm", "--force", uuid, code=0)  # the name is its until then
    done = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "contenta b\n", "")
    tagged = pyrun("prepare", "--tty", "--pod-name", "both", "--health-cmd", "true", busybox, code=0).out.strip()
    made = {"both": pyrun("generate", "systemd", "both", code=0)}
    assert "left out" in (told := made["both"].err) and "--tty" in told and "--health-cmd" not in told
    assert " --health-cmd true " in made["both"].out, "the unit's process makes the checks itself"
    pyrun("image", "tag", "example.com/busybox", "both", code=0)
    refused = pyrun("generate", "systemd", "both", code=2).err
    assert "is a pod and an image" in refused and tagged in refused
    assert pyrun("generate", "systemd", tagged, code=0).out
    pyrun("rm", tagged, code=0)
