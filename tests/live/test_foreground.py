"""What a pod in the foreground can have that pods in the background have: a name, a restart policy; and what it cannot."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pexpect
import pytest
from harness import COMMAND, Pyrun
from waiting import run_file, wait_until

LIMIT = 60


def shell(busybox: Path, script: str) -> tuple[str | Path, ...]:
    return busybox, "--exec", "/bin/sh", "--", "-c", script


def left(pyrun: Pyrun) -> list[str]:
    phases = ("preparing", "prepared", "running", "exited", "garbage")
    return [
        f"{phase}/{name}" for phase in phases if (pyrun.root / "pods" / phase).exists() for name in os.listdir(pyrun.root / "pods" / phase)
    ]


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def the_pod(pyrun: Pyrun) -> str:
    """The UUID of the only pod that runs, once that is written down."""
    running = pyrun.root / "pods" / "running"
    wait_until(lambda: any((one / "run").exists() for one in running.glob("*")))
    return os.listdir(running)[0]


def test_a_name(pyrun: Pyrun, busybox: Path) -> None:
    """Every verb finds it; the pid stays, the exit code is the app's, and when it has ended the name is free."""
    words = ("run", "--pod-name", "web", "--interactive", *shell(busybox, "read word; echo got $word; exit 7"))
    with pyrun.start(*words) as process:
        uuid = the_pod(pyrun)
        assert run_file(pyrun, uuid)["keeper"] == process.pid
        assert "web" in pyrun("list", code=0).out and pyrun("status", "web", code=0).out
        assert f"pod {uuid[:8]} has that name" in pyrun("run", "--pod-name", "web", busybox, code=125).err
        assert process.communicate("hello\n", timeout=LIMIT) == ("got hello\n", "") and process.returncode == 7
    assert pyrun("run", "--pod-name", "web", *shell(busybox, "exit 6"), code=6).out == "" and left(pyrun) == []
    assert "not a name for a pod" in pyrun("run", "--pod-name", "We b", busybox, code=2).err


def test_a_name_of_one_that_was_killed(pyrun: Pyrun, busybox: Path) -> None:
    """As a unit's next start finds it."""
    with pyrun.start("run", "--pod-name", "web", *shell(busybox, "echo up; sleep 1000")) as process:
        assert line(process) == "up\n"
        process.kill()
    pyrun("run", "--pod-name", "web", *shell(busybox, "exit 6"), code=6)
    pyrun("gc", code=0)
    assert left(pyrun) == []


def test_a_name_that_is_kept(pyrun: Pyrun, busybox: Path) -> None:
    pyrun("run", "--keep", "--pod-name", "web", *shell(busybox, "exit 3"), code=3)
    assert "has that name" in pyrun("run", "--pod-name", "web", *shell(busybox, "exit 3"), code=125).err
    pyrun("rm", "web", code=0)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("prepared", [False, True])
def test_it_starts_again(pyrun: Pyrun, busybox: Path, several: bool, prepared: bool) -> None:
    """Under the same process, with the same streams and files, as often as was said."""
    script = "echo -n x >>/tmp/count; cat /tmp/count; echo; exit 3"
    other = ("---", busybox, "--name", "other", "--exec", "/bin/sleep", "--", "1000") if several else ()
    words = ("--restart", "on-failure:2", busybox, "--name", "one", *shell(busybox, script)[1:], *other)
    if prepared:
        uuid = pyrun("prepare", "--rm", *words, code=0).out.strip()
        done = pyrun("run-prepared", uuid, code=3)
    else:
        done = pyrun("run", *words, code=3)
    assert (done.out, done.err) == ("x\nxx\nxxx\n", "") and left(pyrun) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_it_to_end_ends_it(pyrun: Pyrun, busybox: Path, number: int) -> None:
    with pyrun.start("run", "--interactive", "--restart", "always", *shell(busybox, "echo up; read word; exit 0")) as process:
        assert process.stdin is not None and line(process) == "up\n"
        uuid = the_pod(pyrun)
        process.stdin.write("again\n")
        process.stdin.flush()
        assert line(process) == "up\n" and run_file(pyrun, uuid)["keeper"] == process.pid
        process.send_signal(number)
        assert process.wait(timeout=LIMIT) == 128 + number  # before the end of its input could end it
        assert process.communicate() == ("", "")
    assert left(pyrun) == []


def mind() -> None:
    """Whatever whoever runs the tests ignores."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_terminal_that_is_gone_ends_it(pyrun: Pyrun, busybox: Path) -> None:
    """There is nobody to start it for again; a hang-up that was sent by hand is the app's alone."""
    script = "[ -e /n ] || trap 'echo hup; trap - HUP' HUP; touch /n; echo up; while :; do sleep 0.05; done"
    words = ["run", "-it", "--restart", "always", *map(str, shell(busybox, script))]
    process = pexpect.spawn(str(COMMAND), words, env=pyrun.environment(), timeout=LIMIT, encoding="utf-8", preexec_fn=mind)
    try:
        process.expect("up\r\n")
        process.kill(signal.SIGHUP)
        process.expect("hup\r\n")
        process.kill(signal.SIGHUP)
        process.expect("up\r\n")
        process.ptyproc.fileobj.close()  # type: ignore[attr-defined]  # its stubs lack that
        wait_until(lambda: left(pyrun) == [])
    finally:
        process.close(force=True)


COUNT = "echo up >>/data/ups; while ! rm /data/go 2>/dev/null; do sleep 0.05; done"


def counting(pyrun: Pyrun, busybox: Path, folder: Path) -> list[str]:
    """The command line of a pod that writes down each start, and starts again when the file `go` appears."""
    return [str(COMMAND), "run", "--restart", "always", "-v", f"{folder}:/data", *map(str, shell(busybox, COUNT))]


def starts(folder: Path, number: int) -> bool:
    return (folder / "ups").exists() and (folder / "ups").read_text() == "up\n" * number


def test_nohup_keeps_it(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """The kernel sends the hang-up all the same, and what is ignored is queued while it is blocked."""
    folder = tmp_path / "data"
    folder.mkdir()
    words = counting(pyrun, busybox, folder)
    process = pexpect.spawn("nohup", words, env=pyrun.environment(), cwd=str(tmp_path), timeout=LIMIT, preexec_fn=mind)
    try:
        wait_until(lambda: starts(folder, 1))
        uuid = the_pod(pyrun)
        process.ptyproc.fileobj.close()  # type: ignore[attr-defined]  # its stubs lack that
        (folder / "go").touch()
        wait_until(lambda: starts(folder, 2))
        assert run_file(pyrun, uuid)["keeper"] == process.pid
        os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: left(pyrun) == [])
    finally:
        process.close(force=True)


def test_a_job_of_a_shell_whose_terminal_is_gone(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """The shell passes the hang-up on, by kill(2): that is the app's, but there is nobody to start it for again."""
    folder = tmp_path / "data"
    folder.mkdir()
    job = 'job=$!; trap "kill -HUP $job; exit" HUP; while :; do wait; done'
    script = f"{shlex.join(counting(pyrun, busybox, folder))} & {job}"
    process = pexpect.spawn("/bin/sh", ["-mc", script], env=pyrun.environment(), timeout=LIMIT, preexec_fn=mind)
    try:
        wait_until(lambda: starts(folder, 1))
        process.ptyproc.fileobj.close()  # type: ignore[attr-defined]  # its stubs lack that
        wait_until(lambda: left(pyrun) == [])
        assert starts(folder, 1)
    finally:
        process.close(force=True)


@pytest.mark.parametrize("flags", [("--log-driver", "none"), ("--log-driver", "k8s-file"), ("--log-opt", "max-files=2")])
def test_nobody_keeps_its_output(pyrun: Pyrun, busybox: Path, flags: tuple[str, str]) -> None:
    for more in ((), ("---", busybox, "--name", "two")):
        refused = pyrun("run", *flags, busybox, "--name", "one", *more, code=2)
        assert refused.err.startswith(f"pyrun: option {flags[0]}: is for a pod in the background\nhint: ") and "redirect" in refused.err
    assert pyrun("run", "--log-driver", "passthrough", *shell(busybox, "echo out"), code=0).out == "out\n"


def test_children_of_a_shell_that_became_it_are_reaped(shared: Pyrun, busybox: Path) -> None:
    """`exec pyrun run`: who started something before is their parent for as long as the pod runs."""
    script = f"sleep 0.2 & sleep 30 & exec {COMMAND} run {busybox} --exec /bin/sh -- -c 'echo up; exec sleep 30'"
    run = subprocess.Popen(["sh", "-c", script], env=shared.environment(), stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "up\n"

    def children() -> dict[int, str]:
        pids = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        return {int(pid): Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids}

    wait_until(lambda: len(children()) == 2 and "Z" not in children().values(), lambda: f"{children()}")
    other = next(pid for pid in children() if Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    run.terminate()
    assert run.wait(timeout=30) == 143
    run.stdout.close()
    os.kill(other, signal.SIGKILL)
