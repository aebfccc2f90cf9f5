"""Pods on disk from a live Python process."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from scale import scaled

import pyrun as library
from pyrun.errors import ExecError, StateError, UsageError

# Without those that stop, continue or do nothing (signal(7)).
SIGNALS = sorted({*range(1, 32)} - {signal.SIGCHLD, signal.SIGCONT, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, 23, 28})


@pytest.fixture
def runtime(pyrun: Pyrun, busybox: Path) -> Iterator[library.Runtime]:
    pyrun("fetch", busybox, code=0)
    made = library.Runtime(str(pyrun.root))
    yield made
    for one in made.list_pods():
        made.pod(str(one["uuid"])).remove(force=True)


def shell(runtime: library.Runtime, script: str, **options: object) -> library.Pod:
    return runtime.detach("example.com/busybox", ["-c", script], exec="/bin/sh", **options)


def test_a_pod_from_birth_to_burial(runtime: library.Runtime, tmp_path: Path) -> None:
    pod = runtime.prepare(
        "example.com/busybox", ["-c", "trap 'exit 4' TERM; echo hi; while :; do sleep 0.02; done"], exec="/bin/sh", pod_name="web"
    )
    assert pod.status()["state"] == "prepared"
    init = pod.start()
    assert pod.status()["pid"] == init and runtime.pod("web").uuid == pod.uuid
    assert next(pod.logs(follow=True))[1:] == (b"stdout", b"hi\n")
    with pytest.raises(TimeoutError):
        pod.wait(0.05)
    pod.pause()
    assert pod.status()["state"] == "paused"
    pod.resume()
    (tmp_path / "file").write_text("x")
    assert pod.copy_in(str(tmp_path / "file"), "/in") == [] and pod.copy_out("/in", str(tmp_path / "out")) == []
    assert (tmp_path / "out").read_text() == "x"
    assert pod.restart() != init
    assert sum(1 for _, line in zip(range(2), pod.logs(follow=True), strict=False)) == 2, "it has set its trap"
    assert pod.stop() is False and pod.wait() == 4
    out = io.BytesIO()
    assert pod.export(out, changes=True) >= 1
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        assert "in" in archive.getnames()
    pod.rename("other")
    assert [(one["pod_name"], one["code"]) for one in runtime.list_pods()] == [("other", 4)]
    pod.remove()
    with pytest.raises(StateError, match="none of that name"):
        pod.status()


def test_errors_are_those_of_start(runtime: library.Runtime) -> None:
    with pytest.raises(ExecError, match="execute /missing: no such file"):
        runtime.detach("example.com/busybox", exec="/missing")
    assert runtime.list_pods() == []
    with pytest.raises(UsageError, match="not a restart policy"):
        shell(runtime, "true", restart="often")
    with pytest.raises(StateError, match="not prepared"):
        shell(runtime, "sleep 100").start()


def test_a_caller_that_ignores_its_children(runtime: library.Runtime) -> None:
    """F30: SIGCHLD ignored, which a child inherits; the exit code is still the app's."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        pod = shell(runtime, "true & exit 9")
        assert pod.wait() == 9
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.stress
def test_every_exit_code_and_signal(runtime: library.Runtime) -> None:
    """SEC-60: 256 codes and 31 signals, a sample of them in CI; by the record, and through `wait`."""
    cases = [*(("exit", code, code) for code in range(256)), *(("kill", number, 128 + number) for number in SIGNALS)]
    step = max(1, len(cases) // scaled(40))
    for kind, number, code in cases[::step]:
        pod = runtime.detach("example.com/busybox", [kind, str(number)], exec="/probe")
        assert pod.wait() == code, (kind, number)
        pod.remove()


@pytest.mark.stress
def test_two_hundred_pods(runtime: library.Runtime, pyrun: Pyrun) -> None:
    """F22, SEC-55: all of them start, are listed as what they are, and leave nothing; how quick that is `make bench` tells."""
    count = min(1000, scaled(200))
    pods = [runtime.detach("example.com/busybox", ["1000"], exec="/bin/sleep") for _ in range(count)]
    listed = json.loads(pyrun("list", "--format", "json", code=0).out)
    assert {one["uuid"] for one in listed} == {pod.uuid for pod in pods} and len(listed) == count
    assert {one["state"] for one in listed} == {"running"} and len({one["pid"] for one in listed}) == count
    assert sorted(pyrun("stop", "--force", *[pod.uuid for pod in pods], code=0).out.split()) == sorted(pod.uuid for pod in pods)
    pyrun("gc", code=0)
    assert runtime.list_pods() == []


def test_descriptors_do_not_grow(runtime: library.Runtime) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        pod = shell(runtime, "echo x; exit 3")
        assert pod.wait() == 3 and list(pod.logs())
        runtime.list_pods()
        pod.remove()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
