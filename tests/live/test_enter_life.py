"""Entering pods that are not there (yet, any more, now), ends of all kinds, signals, and terminals of the pod's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from harness import COMMAND, Pyrun, Result
from waiting import wait_until

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start(shared: Pyrun, busybox: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts busybox with a script that says "ready"; returns the process and the pod's UUID."""
    running: list[subprocess.Popen[str]] = []

    def begin(script: str = "echo ready; exec sleep 1000", *flags: str) -> tuple[subprocess.Popen[str], str]:
        uuid = tmp_path / f"uuid-{len(running)}"
        process = shared.start("run", "--uuid-file-save", uuid, *flags, busybox, "--exec", "/bin/sh", "--", "-c", script)
        running.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process, uuid.read_text().strip()

    yield begin
    for process in running:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def cgroup_of(shared: Pyrun, uuid: str) -> Path:
    return Path(json.loads((shared.root / "pods/running" / uuid / "pod").read_text())["cgroup"])


def inside(shared: Pyrun, uuid: str, word: str) -> bool:
    """Whether a process of the pod has this word in its command line."""
    procs = cgroup_of(shared, uuid) / "cgroup.procs"
    for pid in procs.read_text().split():
        try:
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


@pytest.mark.parametrize("pod", ["nothing", "00000000-0000-4000-8000-000000000001", "../../x", "a"])
def test_no_such_pod(shared: Pyrun, pod: str) -> None:
    refused = shared("exec", pod, "/bin/true", code=125)
    assert refused.err.startswith("pyrun: ") and "hint: " in refused.err and "Traceback" not in refused.err


def test_a_pod_that_has_ended(shared: Pyrun, tmp_path: Path, probe_image: Path) -> None:
    uuid = tmp_path / "uuid"
    shared("run", "--keep", "--uuid-file-save", uuid, probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    refused = shared("exec", uuid.read_text().strip(), "/probe", "exit", "0", code=125)
    assert "it has ended" in refused.err and "hint: only a running pod" in refused.err
    shared("gc", code=0)


def test_a_pod_that_does_not_run_yet(shared: Pyrun, probe_image: Path) -> None:
    uuid = shared("prepare", probe_image, code=0).out.strip()
    refused = shared("exec", uuid, "/probe", "exit", "0", code=125)
    assert "it does not run yet" in refused.err and "hint: only a running pod" in refused.err
    shared("rm", uuid, code=0)


def test_a_detached_pod_by_its_name(shared: Pyrun, probe_image: Path) -> None:
    """Its keeper has written the plan to disk; the supervisor below it is entered all the same."""
    uuid = shared("run", "--detach", "--pod-name", "entered", probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    for pod in ("entered", uuid, uuid[:8]):
        for flags in ((), ("--env", "A=B")):
            seen = json.loads(shared("exec", *flags, pod, "/probe", "report", code=0).out)
            assert seen["hostname"] == f"pyrun-{uuid}" and seen["cgroup"][-1] == "0::/"
    shared("rm", "--force", "entered", code=0)


def test_a_pod_whose_supervisor_was_killed(shared: Pyrun, start: Start) -> None:
    process, uuid = start()
    process.kill()
    process.wait(10)
    refused = shared("exec", uuid, "/bin/true", code=125)
    assert "Traceback" not in refused.err and "hint: " in refused.err
    shared("gc", code=0)


def test_a_pod_that_has_not_pivoted(shared: Pyrun, start: Start, busybox: Path, tmp_path: Path) -> None:
    """The root of its mount namespace is still the host's: whoever entered would be on the host."""
    uuid = tmp_path / "uuid"
    slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pivot_root", "-e", "inject=pivot_root:delay_enter=3000000"]
    words = [str(COMMAND), "run", "--uuid-file-save", str(uuid), str(busybox), "--exec", "/bin/true"]
    process = subprocess.Popen([*slow, *words], env=shared.environment(), stdin=subprocess.DEVNULL)
    wait_until(lambda: uuid.exists() and uuid.read_text().strip(), "a UUID")
    name = uuid.read_text().strip()
    wait_until((shared.root / "pods/running" / name).exists, "a directory")
    wait_until((cgroup_of(shared, name) / "cgroup.procs").exists, "a cgroup")
    wait_until(lambda: len((cgroup_of(shared, name) / "cgroup.procs").read_text().split()) > 0, "an init")
    for flags in ((), ("--env", "A=B")):
        refused = shared("exec", *flags, name, "/bin/hostname", code=125)
        assert "still being prepared" in refused.err, refused
    assert process.wait(30) == 0


@pytest.mark.parametrize("flags", [(), ("--env", "A=B")], ids=["quick", "long"])
def test_a_paused_pod(shared: Pyrun, start: Start, flags: tuple[str, ...]) -> None:
    _, uuid = start()
    freeze = cgroup_of(shared, uuid) / "cgroup.freeze"
    freeze.write_text("1")
    try:
        refused = shared("exec", *flags, uuid, "/bin/true", code=125)
    finally:
        freeze.write_text("0")
    assert "it is paused" in refused.err and "hint: resume" in refused.err
    shared("exec", *flags, uuid, "/bin/true", code=0)


def test_two_enter_while_the_pod_ends(shared: Pyrun, start: Start) -> None:
    """Whatever comes first: an exit code, a death with the pod, or an error; never a hang, a trace, or a process left."""
    for delay in (0, 0.002, 0.004, 0.008, 0.02):
        process, uuid = start()
        begun = threading.Barrier(3)
        results: list[Result] = []

        def enter(name: str, barrier: threading.Barrier, results: list[Result]) -> None:
            barrier.wait()
            results.append(shared("exec", name, "/bin/sleep", "1000"))

        threads = [threading.Thread(target=enter, args=(uuid, begun, results)) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(delay)
        process.terminate()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert len(results) == 2 and {done.code for done in results} <= {125, 137}, results
        assert all("Traceback" not in done.err for done in results)
        assert all(done.err.startswith("pyrun: ") for done in results if done.code == 125), results


def test_the_end_of_the_pod_is_the_end_of_all(shared: Pyrun, start: Start) -> None:
    process, uuid = start()
    client = shared.start("exec", uuid, "/bin/sleep", "1357")
    wait_until(lambda: inside(shared, uuid, "sleep\0" + "1357"), "the process")
    process.terminate()
    assert process.wait(10) == 143
    assert client.wait(10) == 137
    client.communicate()


@pytest.mark.parametrize("flags", [(), ("--env", "A=B")], ids=["quick", "long"])
def test_a_killed_client_takes_its_process_along(shared: Pyrun, start: Start, flags: tuple[str, ...]) -> None:
    _, uuid = start()
    client = shared.start("exec", *flags, uuid, "/bin/sleep", "1234")
    wait_until(lambda: inside(shared, uuid, "1234"), "the process")
    client.kill()
    client.communicate()
    wait_until(lambda: not inside(shared, uuid, "1234"), "its end")
    shared("exec", uuid, "/bin/true", code=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN])
def test_signals_are_forwarded(shared: Pyrun, start: Start, number: int) -> None:
    _, uuid = start()
    client = shared.start("exec", uuid, "/probe", "trap", str(int(number)))
    assert client.stdout is not None and client.stdout.readline() == "ready\n"
    client.send_signal(number)
    out, err = client.communicate(timeout=60)
    assert (out, err, client.returncode) == (f"{int(number)}\n", "", int(number))


def test_default_actions(shared: Pyrun, start: Start) -> None:
    _, uuid = start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        client = shared.start("exec", uuid, "/probe", "sleep", "0")
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
        client.send_signal(number)
        assert client.wait(10) == 128 + number
        client.communicate()


def test_streams_are_the_callers(shared: Pyrun, start: Start) -> None:
    _, uuid = start()
    done = shared("exec", "-i", uuid, "/bin/sh", "-c", "tr a-z A-Z; echo oops >&2", input="some words\n" * 1000, code=0)
    assert (done.out, done.err) == ("SOME WORDS\n" * 1000, "oops\n")


def test_a_pid_of_somebody_else_is_not_entered(shared: Pyrun, start: Start, tmp_path: Path) -> None:
    """A record that names another cgroup, with another process 1 in it (SEC-62)."""
    _, one = start()
    _, other = start()
    record = shared.root / "pods/running" / one / "pod"
    held = record.read_text()
    try:
        record.write_text(held.replace(one, other))
        for flags in ((), ("--env", "A=B")):
            done = shared("exec", *flags, one, "/bin/hostname")
            assert done.code == 125 or done.out == f"pyrun-{one}\n", done
    finally:
        record.write_text(held)


def spawn(shared: Pyrun, *words: str, size: tuple[int, int] = (33, 99)) -> pexpect.spawn[str]:
    return pexpect.spawn(
        str(COMMAND), list(words), env=shared.environment({"TERM": "vt220"}), timeout=60, dimensions=size, encoding="utf-8"
    )


def test_a_terminal_of_the_pods(shared: Pyrun, start: Start) -> None:
    _, uuid = start()
    script = (
        "tty; stty size; stat -c '%a %u' $(tty); echo $TERM; for fd in 0 1 2; do test -t $fd && echo t$fd; done; echo x >/dev/tty; exit 42"
    )
    one = spawn(shared, "exec", "-it", uuid, "/bin/sh", "-c", script)
    one.expect(pexpect.EOF)
    one.close()
    assert one.exitstatus == 42 and one.before is not None
    assert one.before.split("\r\n")[:8] == ["/dev/pts/0", "33 99", "620 0", "vt220", "t0", "t1", "t2", "x"]


def test_enter_on_a_terminal_is_a_shell_on_one(shared: Pyrun, start: Start) -> None:
    _, uuid = start()
    one = spawn(shared, "enter", uuid)
    one.expect("# ")
    one.sendline("stty size")
    one.expect("33 99")
    one.setwinsize(40, 120)
    one.sendline("while test \"$(stty size)\" != '40 120'; do sleep 0.01; done; exit 5")
    one.expect(pexpect.EOF)
    one.close()
    assert one.exitstatus == 5


def test_interrupt_key(shared: Pyrun, start: Start) -> None:
    _, uuid = start()
    one = spawn(shared, "exec", "-it", uuid, "/bin/sh", "-c", "trap 'echo caught; exit 3' INT; echo on; while :; do sleep 0.1; done")
    one.expect("on\r\n")
    one.send("\x03")
    one.expect("caught")
    one.expect(pexpect.EOF)
    one.close()
    assert one.exitstatus == 3


def test_a_terminal_that_hangs_up_ends_the_session(shared: Pyrun, start: Start) -> None:
    _, uuid = start()
    one = spawn(shared, "exec", "-it", uuid, "/bin/sh", "-c", "echo on; sleep 4321; :")
    one.expect("on\r\n")
    one.close(force=True)
    wait_until(lambda: not inside(shared, uuid, "4321"), "the end of the session")
    assert os.path.exists(shared.root / "pods/running" / uuid), "the pod goes on"


def test_the_apps_own_terminal_is_another(shared: Pyrun, busybox: Path, tmp_path: Path) -> None:
    uuid = tmp_path / "uuid"
    app = spawn(shared, "run", "-it", "--uuid-file-save", str(uuid), str(busybox), "--exec", "/bin/sh", "--", "-c", "echo on; sleep 1000")
    app.expect("on\r\n")
    one = spawn(shared, "exec", "-it", uuid.read_text().strip(), "/bin/sh", "-c", "tty; stat -c %t /dev/console")
    one.expect(pexpect.EOF)
    one.close()
    assert one.exitstatus == 0 and one.before is not None and one.before.startswith("/dev/pts/1\r\n88\r\n"), one.before
    app.close(force=True)
    shared("gc", code=0)
