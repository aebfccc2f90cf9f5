"""Health checks of pods in the foreground: the process that was asked stays, makes them, and is otherwise what it is without them."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pexpect
import pytest
from archives import file
from harness import COMMAND, Pyrun
from mkoci import docker_archive, layer
from waiting import gone, run_file, wait_until

LIMIT = 60
QUICK = ("--health-interval", "20ms", "--health-retries", "2")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(pyrun: Pyrun, busybox: Path) -> Iterator[Start]:
    """Runs a shell script in the foreground, with a health check."""
    running: list[subprocess.Popen[str]] = []

    def begin(script: str, check: str, *flags: str, **more: Any) -> subprocess.Popen[str]:
        words = ("run", "--health-cmd", check, *QUICK, *flags, busybox, "--exec", "/bin/sh", "--", "-c", script)
        running.append(pyrun.start(*words, **more))
        return running[-1]

    yield begin
    for process in running:
        with process:
            process.kill()
    pyrun("gc", code=0)
    assert [top for top, _, _ in os.walk("/sys/fs/cgroup") if "pyrun-" in top] == []


def the_pod(pyrun: Pyrun) -> str:
    """The UUID of the only pod that runs, once its app does."""
    running = pyrun.root / "pods" / "running"
    wait_until(lambda: any("pid" in (one / "run").read_text() for one in running.glob("*") if (one / "run").exists()))
    return os.listdir(running)[0]


def test_whoever_was_asked_stays_and_looks(pyrun: Pyrun, start: Start) -> None:
    """With its streams, its pid and its exit code; nothing of ours stays that is larger than a pod in the background has it."""
    process = start("read word; echo got $word; echo said >&2; read end; exit 7", "test -e /tmp/well", "--interactive")
    assert process.stdin and process.stdout
    uuid = the_pod(pyrun)
    run = run_file(pyrun, uuid)
    assert run["keeper"] == process.pid and "front" in Path(f"/proc/{process.pid}/cmdline").read_text()
    pyrun("wait", "--condition", "unhealthy", "--timeout", f"{LIMIT}s", uuid, code=0)
    pyrun("exec", uuid, "/bin/touch", "/tmp/well", code=0)
    pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)
    assert "running (healthy)" in pyrun("list", code=0).out
    ours = [Path(f"/proc/{pid}/smaps_rollup") for pid in (process.pid, run["supervisor"], run["pid"])]

    def pss() -> int:
        return sum(int(size) for one in ours for size in re.findall(r"^Pss: +(\d+) kB", one.read_text(), re.MULTILINE))

    wait_until(lambda: pss() < 150)  # a check that runs shares what it was started from
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == "got hello\n"
    out, err = process.communicate("end\n", timeout=LIMIT)
    assert (process.returncode, out, err) == (7, "", "said\n")
    assert not (pyrun.root / "pods" / "exited" / uuid).exists(), "as without --keep"


def test_signals_reach_the_app_once(pyrun: Pyrun, start: Start) -> None:
    """Also those of a terminal, which come to the whole process group at once; and none reaches a check."""
    script = "n=0; trap 'n=$((n+1)); echo $n' INT; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = start(script, "trap 'touch /tmp/hit' INT; sleep 0.1", start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", the_pod(pyrun), code=0)
    for number in ("1\n", "2\n", "3\n"):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == number
    assert pyrun("exec", the_pod(pyrun), "/bin/ls", "/tmp", code=0).out == ""
    process.terminate()
    assert process.communicate(timeout=LIMIT) == ("", "") and process.returncode == 9


def test_each_signal_counts_once(pyrun: Pyrun) -> None:
    """What comes to the whole process group: signals of this kind are queued one by one (signal(7)), so that none hides another."""
    check, number = '["/probe", "exit", "0"]', signal.SIGRTMIN + 1
    words = ["run", "--health-cmd", check, *QUICK, pyrun.probe_image, "--exec", "/probe", "--", "tally", str(number)]
    with pyrun.start(*words, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for count in range(1, 21):
            os.killpg(process.pid, number)
            assert process.stdout.readline() == f"{count}\n"
        process.terminate()
        assert process.communicate(timeout=LIMIT) == ("", "") and process.returncode == 0


@pytest.mark.parametrize(("action", "code"), [("kill", 137), ("stop", 5)])
def test_an_unhealthy_app_is_ended(start: Start, action: str, code: int) -> None:
    process = start("trap 'exit 5' TERM; while :; do sleep 0.05; done", "exit 1", "--health-on-failure", action)
    assert process.communicate(timeout=LIMIT) == ("", "") and process.returncode == code


def test_an_unhealthy_app_starts_again(pyrun: Pyrun, start: Start) -> None:
    """Under the same process, with its files and its streams."""
    again = "[ -e /tmp/well ] && read word && exit $word"
    script = f"trap 'touch /tmp/well; exit 0' TERM; touch /tmp/ready; {again}; while :; do sleep 0.05; done"
    process = start(script, "test ! -e /tmp/ready -o -e /tmp/well", "--health-on-failure", "restart", "--interactive")
    uuid = the_pod(pyrun)
    wait_until(lambda: run_file(pyrun, uuid)["restarts"])
    pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)
    run = run_file(pyrun, uuid)
    assert (run["keeper"], run["restarts"]) == (process.pid, 1)
    assert process.communicate("6\n", timeout=LIMIT) == ("", "") and process.returncode == 6


def test_it_can_be_kept_and_stopped(pyrun: Pyrun, start: Start) -> None:
    process = start("trap 'exit 4' TERM; while :; do sleep 0.05; done", "exit 0", "--keep")
    uuid = the_pod(pyrun)
    pyrun("stop", uuid, code=0)
    assert process.wait(timeout=LIMIT) == 4
    ended = json.loads(pyrun("status", "--format", "json", uuid, code=0).out)
    assert (ended["state"], ended["exit_code"]) == ("exited", 4)


def test_few_open_files_are_enough(pyrun: Pyrun, busybox: Path, start: Start) -> None:
    """It watches what is open, and not a place for everything that might be."""
    pyrun("fetch", busybox, code=0)
    limits = (resource.RLIMIT_NOFILE, (70, 70))
    process = start("read word; exit 3", "exit 0", "--interactive", preexec_fn=lambda: resource.setrlimit(*limits))
    assert process.communicate("end\n", timeout=LIMIT) == ("", "") and process.returncode == 3
    for most in (12, 16, 20, 24):
        limited = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (most, most))
        told = pyrun("run", "--health-cmd", "true", busybox, "--exec", "/bin/true", preexec_fn=limited)
        assert told.code == 0 or (told.code == 125 and "pyrun: " in told.err and "\nhint: " in told.err), (most, repr(told))


@pytest.mark.parametrize("victim", ["keeper", "supervisor", "pid"])
def test_whoever_is_killed_leaves_nothing(pyrun: Pyrun, start: Start, victim: str) -> None:
    process = start("exec sleep 1000", "sleep 1000", "--health-timeout", "1h")
    run = run_file(pyrun, the_pod(pyrun))
    os.kill(run[victim], signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    assert process.returncode == {"keeper": -9, "supervisor": 125, "pid": 137}[victim]
    for name in ("supervisor", "pid"):
        wait_until(lambda name=name: gone(run[name]))  # type: ignore[misc]


def test_one_that_cannot_start_is_explained(pyrun: Pyrun, busybox: Path) -> None:
    failed = pyrun("run", "--health-cmd", "true", busybox, "--exec", "/missing", code=127)
    assert failed.err.startswith("pyrun: execute /missing: no such file or directory\nhint: ") and "from: --exec" in failed.err
    assert [name for name in ("prepared", "running", "exited") if os.listdir(pyrun.root / "pods" / name)] == []


def test_on_a_terminal(pyrun: Pyrun, busybox: Path) -> None:
    """Its size, its keys, and its mode afterwards."""
    script = "trap 'echo interrupted' INT; trap 'stty size' WINCH; stty size; while ! read word; do :; done; exit $word"
    words = ["run", "-it", "--health-cmd", "true", *QUICK, str(busybox), "--exec", "/bin/sh", "--", "-c", script]
    one = pexpect.spawn(str(COMMAND), words, env=pyrun.environment(), timeout=LIMIT, dimensions=(33, 99), encoding="utf-8")
    try:
        one.expect_exact("33 99")
        uuid = the_pod(pyrun)
        pyrun("wait", "--condition", "healthy", "--timeout", f"{LIMIT}s", uuid, code=0)
        assert not termios.tcgetattr(one.child_fd)[3] & termios.ICANON
        one.send("\x03")
        one.expect_exact("interrupted")
        one.setwinsize(20, 50)
        one.expect_exact("20 50")
        one.send("3\r")
        one.expect(pexpect.EOF)
    finally:
        one.close(force=True)
    assert one.exitstatus == 3


def test_the_mode_of_the_terminal_comes_back(pyrun: Pyrun, busybox: Path) -> None:
    words = f"{COMMAND} run -it --health-cmd true {busybox} --exec /bin/sh -- -c 'exit 2'; stty -a"
    one = pexpect.spawn("/bin/sh", ["-c", words], env=pyrun.environment(), timeout=LIMIT, encoding="utf-8")
    one.expect(pexpect.EOF)
    one.close()
    assert one.before is not None and {"icanon", "isig"} <= set(one.before.split())


def waits_for_signals(pid: int) -> bool:
    """Until then SIGTERM ends a supervisor as it would any program, and the next command finds what is left."""
    found = re.search(r"^SigBlk:\t([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) & 1 << signal.SIGTERM - 1)


def test_the_check_of_an_image(pyrun: Pyrun, tmp_path: Path, probe: Path) -> None:
    """Is made without a word, by `run` and by `run-prepared`; without it the process is the supervisor itself."""
    pyrun("trust", "--yes", "--unsigned", str(tmp_path), code=0)
    check = {"Test": ["CMD", "/probe", "exit", "3"], "Interval": 20_000_000, "Retries": 1}
    blob = layer(file(b"probe", probe.read_bytes(), mode=0o755))
    config = {"Entrypoint": ["/probe", "sleep", "0"], "Healthcheck": check}
    image = (
        f"docker-archive:{docker_archive(tmp_path / 'image.tar', {'layers': [blob], 'tags': ['example.com/checked:1'], 'config': config})}"
    )
    prepared = pyrun("prepare", image, code=0).out.strip()
    for words, code in ((("run", image), 143), (("run-prepared", prepared), 143)):
        with pyrun.start(*words) as process:
            uuid = the_pod(pyrun)
            pyrun("wait", "--condition", "unhealthy", "--timeout", f"{LIMIT}s", uuid, code=0)
            assert json.loads(pyrun("inspect", uuid, code=0).out)[0]["health"]["code"] == 3
            process.terminate()
            assert process.communicate(timeout=LIMIT)[1] == "" and process.returncode == code
    with pyrun.start("run", "--no-healthcheck", image) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/cmdline").read_text().startswith("pyrun: pod ") and waits_for_signals(process.pid))
        process.terminate()
        assert process.communicate(timeout=LIMIT)[1] == "" and process.returncode == 143
