"""What comes between while `pyrun-oci` makes or starts something: signals, and failures behind the execve of the program."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import NO_PYTHON, OCI, Alone, Runtime
from waiting import wait_until

PYTHONS = "--ignore-paused"  # of exec, which the launcher does not know


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    made("delete", "--force", "one")


@pytest.fixture
def alone(tmp_path: Path, oci: Runtime) -> Alone:
    return Alone(tmp_path / "alone", oci)


def group_is_gone() -> bool:
    return not Path("/sys/fs/cgroup/one").exists()


@pytest.mark.parametrize("options", [[], [PYTHONS]], ids=["launcher", "python"])
def test_no_program_is_executed_twice(oci: Runtime, options: list[str]) -> None:
    """Nobody listens at the console socket, which shows when the program runs; or the pid file has become impossible."""
    oci.start_sleeping()
    path, log, trace = oci.folder / "socket", oci.bundle / "rootfs" / "log", oci.folder / "trace"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    program = ["one", "/bin/sh", "-c", "echo x >> /log"]
    for injected, words, told in (
        ([], ["-t", "-d", "--console-socket", path], f"connect to console socket {path}: connection refused (from --console-socket)"),
        (
            ["-e", "inject=renameat,rename:error=EROFS"],
            ["-d", "--pid-file", "pid"],
            "write pid file pid: read-only file system (from --pid-file)",
        ),
    ):
        command = ["strace", "-f", "-qq", "-o", trace, "-e", "trace=execve,renameat,rename", *injected, OCI, "--root", oci.root, "exec"]
        command += [*words, *options, *program]
        done = subprocess.run(
            [str(word) for word in command], cwd=oci.bundle, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 255 and done.stderr.count("\n") == 1 and told in done.stderr, done
        assert trace.read_text().count('execve("/bin/sh"') == 1, trace.read_text()
        assert (log.read_text() if log.exists() else "") in ("", "x\n")
        log.unlink(missing_ok=True)
    assert not [name for name in os.listdir(oci.bundle) if "pid" in name]


def test_a_word_of_the_caller_is_no_failure(oci: Runtime) -> None:
    oci.start_sleeping()
    env = {**os.environ, "PYRUN_OCI_FAILED": "--pid-file 13"}
    oci("exec", PYTHONS, "one", "true", env=env)


def frozen(pid: int) -> Path:
    """A frozen cgroup that a container's process was moved to; its own is gone, so who enters goes there as well."""
    group = Path("/sys/fs/cgroup") / Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("0::/")[2]
    other = group.with_name(f"{group.name}-elsewhere")
    other.mkdir()
    (other / "cgroup.procs").write_text(str(pid))
    group.rmdir()
    (other / "cgroup.freeze").write_text("1")
    wait_until(lambda: "frozen 1" in (other / "cgroup.events").read_text())
    return other


@pytest.mark.parametrize("options", [[], [PYTHONS]], ids=["launcher", "python"])
def test_an_exec_that_does_not_come_to_its_program_can_be_ended(oci: Runtime, options: list[str]) -> None:
    """It enters a cgroup that is frozen, where nothing runs; what joins the namespaces is given up after ten seconds."""
    pid = oci.start_sleeping()
    other = frozen(pid)
    command = [str(word) for word in (OCI, "--root", oci.root, "exec", *options, "--pid-file", "pid", "one", "true")]
    with subprocess.Popen(command, cwd=oci.bundle, stdin=subprocess.DEVNULL) as client:
        try:
            wait_until(lambda: len((other / "cgroup.procs").read_text().split()) == 2)
            client.send_signal(signal.SIGTERM)
            assert client.wait(timeout=60) in (-signal.SIGTERM, 128 + signal.SIGTERM)
        finally:
            (other / "cgroup.freeze").write_text("0")
            client.kill()
    assert (other / "cgroup.procs").read_text().split() == [str(pid)]
    oci("delete", "--force", "one")
    wait_until(lambda: not (other / "cgroup.procs").read_text())
    other.rmdir()
    assert not [name for name in os.listdir(oci.bundle) if "pid" in name]


def test_a_signal_that_is_ignored_ends_nothing(oci: Runtime) -> None:
    """As nohup(1) has it: it is pending while it is blocked, all the same."""
    oci.config["hooks"] = {"startContainer": [hook("touch /tmp/hook; until [ -e /tmp/go ]; do sleep 0.05; done")]}
    oci.command("/bin/true")
    command, inside = ["nohup", str(OCI), "--root", str(oci.root), "run", "one"], oci.bundle / "rootfs/tmp"
    with subprocess.Popen(
        command, cwd=oci.bundle, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as client:
        wait_until((inside / "hook").exists)
        client.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(timeout=1)
        (inside / "go").touch()
        assert client.wait(timeout=60) == 0


def test_a_program_that_runs_is_not_started_again(oci: Runtime, alone: Alone) -> None:
    """Whatever becomes of the fifo by which it was."""
    oci.command("/bin/sh", "-c", "echo x >> /log")
    oci("run", "one")
    words = ["strace", "-o", "/dev/null", "-e", "inject=unlinkat:error=EROFS:when=1", str(alone.program), "--root", str(oci.root)]
    done = subprocess.run([*words, "run", "two"], cwd=oci.bundle, stdin=subprocess.DEVNULL, timeout=60, env={**os.environ, "ALONE": "1"})
    assert done.returncode == 0 and (oci.bundle / "rootfs/log").read_text() == "x\nx\n"
    assert not oci.leftovers()


def hook(script: str) -> dict[str, object]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_does_not_come_to_its_program_can_be_ended(oci: Runtime, number: signal.Signals) -> None:
    oci.config["hooks"] = {"startContainer": [hook("touch /tmp/hook; sleep 1000")]}
    oci.command("/bin/true")
    with subprocess.Popen([OCI, "--root", oci.root, "run", "one"], cwd=oci.bundle, stdin=subprocess.DEVNULL) as client:
        wait_until((oci.bundle / "rootfs/tmp/hook").exists)
        client.send_signal(number)
        try:
            assert client.wait(timeout=60) == 128 + number
        finally:
            client.kill()
    assert not oci.leftovers() and group_is_gone()


def test_signals_go_to_the_program_while_poststart_hooks_run(oci: Runtime) -> None:
    seen = oci.bundle / "rootfs/tmp"
    oci.config["hooks"] = {
        "poststart": [hook(f"echo $$ >{seen}/new; mv {seen}/new {seen}/hook; until [ -e {seen}/told ]; do sleep 0.05; done")]
    }
    oci.command("/bin/sh", "-c", "trap 'touch /tmp/told' TERM; touch /tmp/ready; until [ -e /tmp/end ]; do sleep 0.1; done; exit 9")
    with subprocess.Popen([OCI, "--root", oci.root, "run", "one"], cwd=oci.bundle, stdin=subprocess.DEVNULL) as client:
        wait_until(lambda: (seen / "hook").exists() and (seen / "ready").exists())
        client.send_signal(signal.SIGTERM)
        try:
            wait_until((seen / "told").exists)
            wait_until(
                lambda: not os.path.exists(f"/proc/{(seen / 'hook').read_text().strip()}")
            )  # a program that ends first ends the hook too
            (seen / "end").touch()
            assert client.wait(timeout=60) == 9
        finally:
            (seen / "told").touch()
            client.kill()
    assert not oci.leftovers() and group_is_gone()


CALLS = ["mkdirat:1", "flock:1", "mkdirat:2", "mknodat:1", "socketpair:1", "clone:1", "renameat:1", "renameat:2", "renameat:3", "sendto:1"]


@pytest.mark.parametrize("call", CALLS)
def test_a_create_is_done_whole_or_not_at_all(oci: Runtime, alone: Alone, call: str) -> None:
    """Whatever the launcher is at when the signal comes."""
    oci.command("/bin/sleep", "1000")
    for name in ("zero", "one"):
        (alone if name == "one" else oci)("create", name)
        oci("delete", "--force", name)
    kind, number = call.split(":")
    words = ["strace", "-o", "/dev/null", "-e", f"inject={kind}:signal=TERM:when={number}"]
    words += [str(alone.program), "--root", str(oci.root), "create", "one"]
    code = subprocess.run(words, cwd=oci.bundle, stdin=subprocess.DEVNULL, timeout=60, env={**os.environ, "ALONE": "1"}).returncode
    if code == 0:
        assert oci.state("one")["status"] == "created"
        oci("delete", "--force", "one")
    else:
        assert code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert not oci.leftovers() and group_is_gone()


@pytest.mark.parametrize("number", range(1, 5))
def test_nothing_is_left_of_a_create_that_cannot_write(oci: Runtime, alone: Alone, number: int) -> None:
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    oci("delete", "--force", "one")
    words = ["strace", "-o", "/dev/null", "-e", f"inject=renameat:error=EROFS:when={number}"]
    words += [str(alone.program), "--root", str(oci.root), "create", "--pid-file", "pid", "one"]
    assert (
        subprocess.run(words, cwd=oci.bundle, stdin=subprocess.DEVNULL, timeout=60, env={**os.environ, "ALONE": "1"}).returncode
        == NO_PYTHON
    )
    assert not oci.leftovers() and group_is_gone()
    assert not [name for name in os.listdir(oci.bundle) if name.startswith(".")]


def test_signals_reach_a_program_that_was_started_without_python(oci: Runtime, alone: Alone) -> None:
    oci.command("/bin/grep", "SigBlk", "/proc/self/status")
    assert oci("run", "one").stdout == alone("run", "two") == "SigBlk:\t0000000000000000\n"


def test_a_root_behind_a_link_is_the_one_that_python_means(oci: Runtime, alone: Alone) -> None:
    """`..` is taken out of a path before anything is looked up."""
    oci.start_sleeping()
    (oci.folder / "far" / "deep").mkdir(parents=True)
    (oci.folder / "far" / "containers").symlink_to(oci.root)
    (oci.folder / "link").symlink_to("far/deep")
    for words in (["state", "one"], ["create", "two"]):
        alone("--root", oci.folder / "link" / ".." / "containers", *words, code=NO_PYTHON)
    assert json.loads(oci("--root", oci.folder / "link" / ".." / "containers", "state", "one").stdout)["id"] == "one"
