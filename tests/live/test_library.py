"""The library from a live process: `Runtime` starts pods by one native call, beside which the helper loads."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun

import pyrun
from pyrun import native
from pyrun.api import Runtime
from pyrun.container import Container
from pyrun.errors import ExecError, UsageError

NAME = "example.com/probe"


@pytest.fixture
def runtime(shared: Pyrun) -> Iterator[Runtime]:
    shared("fetch", shared.probe_image, code=0)
    made = Runtime(str(shared.root))
    yield made
    made.settle()


def run(runtime: Runtime, *words: str, **more: object) -> int:
    return runtime.call(NAME, words, exec="/probe", **more)  # type: ignore[arg-type]


def start(runtime: Runtime, *words: str, **more: object) -> Container:
    return runtime.start(NAME, words, exec="/probe", **more)  # type: ignore[arg-type]


def pods(runtime: Runtime) -> list[str]:
    return [name for phase in ("preparing", "running", "garbage") for name in os.listdir(f"{runtime.root}/pods/{phase}")]


def descriptors() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def children() -> list[str]:
    return Path("/proc/thread-self/children").read_text().split()


def test_exit_codes_and_nothing_left(runtime: Runtime) -> None:
    assert [run(runtime, "exit", str(code)) for code in (0, 1, 7, 255)] == [0, 1, 7, 255]
    runtime.settle()
    before, alive = descriptors(), children()
    assert run(runtime, "kill", "9") == -9
    runtime.settle()
    assert (descriptors(), children(), pods(runtime)) == (before, alive, [])


def test_streams(runtime: Runtime, tmp_path: Path) -> None:
    for name in ("one", "two"):  # decided, and repeated
        with (tmp_path / name).open("wb") as out:
            assert run(runtime, "report", stdout=out.fileno()) == 0
    assert b'"pid"' in (tmp_path / "one").read_bytes()


def test_a_container_and_its_end(runtime: Runtime) -> None:
    with start(runtime, "sleep", "0") as container:
        container.wait_running()
        assert Path(f"/proc/{container.pid}/status").read_text().count("NSpid")
        title = Path(f"/proc/{children()[-1]}/cmdline").read_bytes()
        assert title == f"pyrun: pod {container.uuid}\0".encode()
        assert pods(runtime) == [container.uuid]
        for wrong in (0, 65, 300, -9):
            with pytest.raises(UsageError, match="not the number of a signal"):
                container.kill(wrong)
        container.kill(signal.SIGKILL)
        assert container.wait() == -9
    assert pods(runtime) == []


def test_a_signal_to_what_has_ended_is_no_broken_pipe(runtime: Runtime) -> None:
    """Nor does it end a program that has SIGPIPE as the kernel gives it."""
    handler = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with start(runtime, "exit", "0") as container:
            select.select([container], [], [])
            os.waitid(os.P_PIDFD, container.fileno(), os.WEXITED | os.WNOWAIT)
            with pytest.raises(ProcessLookupError):
                container.kill(signal.SIGTERM)
            assert container.wait() == 0
    finally:
        signal.signal(signal.SIGPIPE, handler)


def test_what_cannot_be_executed(runtime: Runtime) -> None:
    for _ in range(2):
        with pytest.raises(ExecError) as caught:
            runtime.call(NAME, exec="/nope")
        assert caught.value.errno == errno.ENOENT
        assert pods(runtime) == []
    with pytest.raises(UsageError):
        runtime.call(NAME, nonsense=1)  # type: ignore[call-arg]


def test_the_environment_is_not_the_callers(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "canary")
    os.set_inheritable(stray := os.open("/", os.O_RDONLY | os.O_CLOEXEC), True)
    try:
        with (tmp_path / "out").open("wb") as out:
            assert run(runtime, "report", stdout=out.fileno()) == 0
    finally:
        os.close(stray)
    seen = json.loads((tmp_path / "out").read_text())
    assert sorted(seen["fds"]) == ["0", "1", "2"]
    assert "canary" not in " ".join(seen["env"])


def test_threads_share_a_runtime(runtime: Runtime) -> None:
    """Also ones with the smallest stack that Python gives."""
    codes: list[int] = []
    old = threading.stack_size(64 << 10)
    try:
        workers = [threading.Thread(target=lambda n=n: codes.extend(run(runtime, "exit", str(n)) for _ in range(5))) for n in range(4)]
        for worker in workers:
            worker.start()
    finally:
        threading.stack_size(old)
    for worker in workers:
        worker.join()
    runtime.settle()
    assert sorted(codes) == sorted(list(range(4)) * 5)
    assert pods(runtime) == []


def test_another_child_is_not_reaped(runtime: Runtime) -> None:
    other = subprocess.Popen(["true"])
    assert run(runtime, "exit", "3") == 3
    runtime.settle()
    assert other.wait() == 0


@pytest.mark.parametrize("broken", ["pods", "memfd"])
def test_a_start_that_fails_leaves_nothing(runtime: Runtime, broken: str) -> None:
    """Whatever step it is: no process, no descriptor, no directory, no cgroup; the error names what was wrong."""
    run(runtime, "exit", "0")
    runtime.settle()
    before, alive, groups = descriptors(), children(), set(os.listdir("/sys/fs/cgroup"))
    recipe = next(iter(runtime._recipes.values()))
    if broken == "pods":
        held = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        with pytest.raises(OSError):
            native.start(held, (0, 1, 2), recipe.head, recipe.block, 0)
        os.close(held)
    else:  # the plan does not fit where files may not grow
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            with pytest.raises(OSError) as caught:
                run(runtime, "exit", "0")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, ignored)
        assert caught.value.errno == errno.EFBIG
    runtime.settle()
    assert (descriptors(), children(), pods(runtime)) == (before, alive, [])
    assert set(os.listdir("/sys/fs/cgroup")) == groups


def test_a_callers_death_ends_the_pod(runtime: Runtime, shared: Pyrun) -> None:
    """SIGKILL of the process at a random moment: the supervisor goes and cleans up, or the next command does."""
    package = str(Path(pyrun.__file__ or "").parent.parent)
    code = """if True:
        import sys; sys.path[:0] = sys.argv[2].split(":")
        from pyrun.api import Runtime
        runtime = Runtime(sys.argv[1])
        print("ready", flush=True)
        while True: runtime.call("example.com/probe", ["exit", "0"], exec="/probe")"""
    for delay in (0.02, 0.025, 0.03, 0.035, 0.04):
        words = [sys.executable, "-c", code, runtime.root, package]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdout.readline() == "ready\n"
            time.sleep(delay)  # any moment will do
            process.kill()
    deadline = time.monotonic() + 30
    while any(line.startswith("pyrun: pod") for line in commands()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shared("gc", code=0)
    assert set(os.listdir(f"{runtime.root}/pods/running")) == set()


def commands() -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append(Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def test_other_arguments_meet_the_same_decision(runtime: Runtime) -> None:
    assert [run(runtime, "exit", code) for code in ("3", "4")] == [3, 4]
    kept = set(runtime._recipes)
    assert len(kept) == 1
    for value in ("one", "two"):
        done = runtime.run(NAME, exec="/probe", set_env={"A": value, "container": value}, capture_output=True)
        seen = json.loads(done.stdout)["env"]
        assert f"A={value}" in seen and "container=pyrun" in seen
    assert len(set(runtime._recipes) - kept) == 1, "no arguments, and these variables"
    assert json.loads(runtime.run(NAME, exec="/probe", set_env={"B": "one"}, capture_output=True).stdout)["env"].count("B=one") == 1
    for path, code in (("/", 5), ("/nowhere", None), ("/", 5)):
        if code is None:
            with pytest.raises(ExecError):
                runtime.call(NAME, ["exit", "5"], exec="probe", set_env={"PATH": path})
        else:
            assert runtime.call(NAME, ["exit", "5"], exec="probe", set_env={"PATH": path}) == code
    with pytest.raises(UsageError):
        runtime.call(NAME, "exit", exec="/probe")
    for _ in range(2):
        with pytest.raises(UsageError, match="NUL"):
            runtime.call(NAME, ["exit", "0\0", "x"], exec="/probe")
        with pytest.raises(UsageError, match="NUL"):
            runtime.call(NAME, ["exit", "0"], exec="/probe", set_env={"A": "1\0B=2"})
        assert run(runtime, "exit", "0") == 0
    for name in ("", "A=B"):
        with pytest.raises(UsageError, match="no variable can be named that"):
            runtime.call(NAME, ["exit", "3"], exec="/probe", set_env={name: "x"})


def test_the_directory_decides_where_a_source_is_below_it(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "data").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        done = runtime.run(NAME, exec="/probe", volume=["./data:/data"], capture_output=True)
        assert f"/{name}/data" in str(done.stdout)


def test_without_an_image_the_program_decides(runtime: Runtime, tmp_path: Path, probe: Path) -> None:
    (tmp_path / "probe").write_bytes(probe.read_bytes())
    (tmp_path / "probe").chmod(0o755)
    for code in ("3", "4"):
        assert runtime.call(None, ["/probe", "exit", code], rootfs=str(tmp_path)) == int(code)
    assert len(runtime._recipes) == 1
    with pytest.raises(ExecError):
        runtime.call(None, ["/other", "exit", "3"], rootfs=str(tmp_path))
    assert runtime.call(None, ["exit", "6"], rootfs=str(tmp_path), exec="/probe") == 6
