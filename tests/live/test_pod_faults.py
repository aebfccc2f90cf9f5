"""SIGKILL at every kind of step, and storms of signals (F01-F14, SEC-45 and SEC-52 at CI size)."""

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
from scale import scaled

# What changes something outside of the process; the counter of strace(1) is each process's own.
CALLS = "mkdirat,mkdir,renameat,renameat2,rename,unlinkat,unlink,symlinkat,symlink,pwrite64,fsync,syncfs,flock,clone,clone3,vfork"
CALLS += ",execve,execveat,mount,move_mount,pivot_root,sendto,ftruncate,fcntl,dup3"
PHASES = ("preparing", "prepared", "running", "exited", "garbage")


@pytest.fixture
def pods(pyrun: Pyrun) -> Iterator[Pyrun]:
    pyrun("run", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    yield pyrun
    for uuid in os.listdir(pyrun.root / "pods" / "running"):
        pyrun("rm", "--force", uuid)
    pyrun("gc", "--expire-prepared", "0s", code=0)


def left(pyrun: Pyrun) -> dict[str, list[str]]:
    return {name: found for name in PHASES if (found := os.listdir(pyrun.root / "pods" / name))}


def cgroups() -> list[str]:
    return [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("pyrun-")]


def converges(pyrun: Pyrun) -> None:
    """One pass of gc and there is nothing left, a second has nothing to do; every state in between can be listed."""
    assert pyrun("list", "--format", "json", code=0).err == ""
    deadline = time.monotonic() + 60
    while any(one["state"] == "running" for one in json.loads(pyrun("list", "--format", "json", code=0).out)):
        for uuid in os.listdir(pyrun.root / "pods" / "running"):
            pyrun("rm", "--force", uuid)
        assert time.monotonic() < deadline, left(pyrun)
    for half in (pyrun.root / "pods" / "preparing").iterdir():
        os.utime(half, (1, 1))
    pyrun("gc", "--expire-prepared", "0s", code=0)
    assert left(pyrun) == {} and cgroups() == []
    assert pyrun("gc", "--expire-prepared", "0s", code=0).out == ""


def killed(pyrun: Pyrun, when: int, *command: str | Path) -> int:
    inject = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", f"inject={CALLS}:signal=KILL:when={when}"]
    return subprocess.run(
        [*inject, COMMAND, *command], env=pyrun.environment(), capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    ).returncode


@pytest.mark.parametrize("when", [1, 2, 3, 4, 5, 7, 9, 12, 15, 18])
def test_prepare_is_killed(pods: Pyrun, when: int) -> None:
    killed(pods, when, "prepare", "--pod-name", "web", "example.com/probe", "--exec", "/probe", "--", "exit", "0")
    assert set(left(pods)) <= {"preparing", "prepared"}
    converges(pods)
    pods("prepare", "--pod-name", "web", "example.com/probe", code=0)  # the name is free again


@pytest.mark.parametrize("when", [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 25])
def test_a_detached_start_is_killed(pods: Pyrun, when: int) -> None:
    """Front, keeper, supervisor and init each at their own step of that number: the app runs as it should, or not at all."""
    uuid = pods("prepare", "example.com/probe", "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    killed(pods, when, "run-prepared", "--detach", uuid)
    for name, found in left(pods).items():
        assert found == [uuid] and name != "preparing"
    listed = json.loads(pods("list", "--format", "json", code=0).out)
    assert all(one.get("code", 125) != 0 or one.get("signal") for one in listed if one["state"] == "exited"), listed
    converges(pods)


@pytest.mark.parametrize("verb", ["rm", "gc", "stop"])
def test_removal_is_killed(pods: Pyrun, verb: str) -> None:
    for when in (1, 2, 3, 5, 8):
        uuid = pods("run", "--detach", "example.com/probe", "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
        if verb != "stop":
            pods("stop", uuid, code=0)
        killed(pods, when, verb, *([] if verb == "gc" else [uuid]))
        assert pods("list", code=0).err == ""
        converges(pods)


@pytest.mark.stress
def test_a_storm_of_signals(pods: Pyrun) -> None:
    """SEC-52: a thousand of them in a second go to the app, which they do not end; the keeper and the record stay what they are."""
    uuid = pods("run", "--detach", "example.com/probe", "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    run = json.loads((pods.root / "pods" / "running" / uuid / "run").read_text())
    for number in range(scaled(1000)):
        os.kill(run["keeper"], (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT)[number % 4])
    found = json.loads(pods("status", "--format", "json", uuid, code=0).out)
    assert (found["state"], found["pid"]) == ("running", run["pid"])
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):  # gone at the one before
            os.kill(run["keeper"], number)
    assert pods("wait", uuid).out.strip() in ("129", "130", "143")
    assert left(pods) == {"exited": [uuid]}


def test_state_of_another_boot(pods: Pyrun) -> None:
    """F18: the lock died with the boot, the pids are others' by now; the pod has ended, nobody knows how, gc removes it."""
    uuid = pods("run", "--detach", "example.com/probe", "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    pod = pods.root / "pods" / "running" / uuid
    copy = pod.parent / "11111111-2222-4333-8444-555555555555"
    subprocess.run(["cp", "-a", pod, copy], check=True)
    text = (copy / "run").read_text().replace(uuid, copy.name)
    (copy / "run").write_text(text)
    (copy / "pod").write_text((copy / "pod").read_text().replace(uuid, copy.name))
    found = json.loads(pods("status", "--format", "json", copy.name, code=0).out)
    assert (found["state"], found["exit_code"], found["lost"]) == ("exited", 125, True)
    assert pods("stop", copy.name, code=0)
    assert json.loads(pods("status", "--format", "json", uuid, code=0).out)["state"] == "running", "nobody was signalled"
    pods("rm", copy.name, code=0)
    assert json.loads(pods("status", "--format", "json", uuid, code=0).out)["state"] == "running"


def test_several_at_once_that_collect_names(pods: Pyrun) -> None:
    """SEC-54: each finds names that another one frees just now, which is nobody's failure."""
    pods("prepare", "--pod-name", "stays", pods.probe_image, code=0)
    names = pods.root / "pods" / "names"
    for number in range(3000):
        (names / f"n{number}").symlink_to("11111111-2222-4333-8444-555555555555")
    (names / "file").touch()
    for one in [pods.start("gc") for _ in range(4)]:
        _, err = one.communicate(timeout=120)
        assert (one.returncode, err) == (0, "")
    assert {path.name for path in names.iterdir()} == {"stays", "file"}
    (names / "file").unlink()
    pods("rm", "stays", code=0)


def test_a_disk_that_is_nearly_full(pods: Pyrun, tmp_path: Path) -> None:
    """SEC-47: at every page of room a pod is made whole or not at all; a write that finds room for a part of it is an error."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", place], check=True)
    try:
        small = Pyrun(place / "state", pods.probe_image)
        subprocess.run(["cp", "-a", pods.root, place / "state"], check=True)
        filler, failures = place / "filler", set()
        ready = small("prepare", "--upper", "tmpfs", "--pod-name", "old", small.probe_image, "--exec", "/probe", "--", "exit", "4", code=0)
        for room in range(12):
            with filler.open("wb", buffering=0) as file:
                with contextlib.suppress(OSError):
                    while file.write(bytes(4096)):
                        pass
                file.truncate(max(0, file.tell() // 4096 - room) * 4096)
            made = small("prepare", "--upper", "tmpfs", small.probe_image, "--exec", "/probe", "--", "exit", "4")
            renamed = small("rename", "old", "new")
            filler.unlink()
            assert small("status", "old", code=0 if renamed.code else 125)
            small("rename", "new" if renamed.code == 0 else "old", "old", code=0)
            small("status", "new", code=125)
            if made.code == 0:
                small("run-prepared", made.out.strip(), code=4)
                small("rm", made.out.strip(), code=0)
            else:
                failures.add(made.err)
                assert made.code == 125 and f"{place}/state" in made.err and "no space left on device\nhint: " in made.err, made
            left = [path.name for phase in ("preparing", "prepared", "exited") for path in (place / "state/pods" / phase).iterdir()]
            assert left == [ready.out.strip()]
        assert len(failures) > 1
        small("run-prepared", "old", code=4)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_read_only_and_full(pods: Pyrun, tmp_path: Path) -> None:
    """F15: one line with the reason, nothing left, and it works again afterwards."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,nr_inodes=500", "none", place], check=True)
    try:
        small = Pyrun(place / "state", pods.probe_image)
        subprocess.run(["cp", "-a", pods.root, place / "state"], check=True)
        cases: list[tuple[str, Callable[[], object]]] = [
            ("remount,ro", lambda: None),
            ("remount,rw,nr_inodes=1", lambda: None),
        ]
        for option, _ in cases:
            subprocess.run(["mount", "-o", option, place], check=False, capture_output=True)
            for command in (["prepare", "example.com/probe"], ["run", "--detach", "example.com/probe"]):
                failed = small(*command)
                if option.endswith("ro"):
                    assert failed.code == 125 and failed.err.count("\n") <= 3 and "Traceback" not in failed.err, failed
        subprocess.run(["mount", "-o", "remount,rw,nr_inodes=500", place], check=True)
        uuid = small("prepare", "--upper", "tmpfs", "example.com/probe", "--exec", "/probe", "--", "exit", "4", code=0).out.strip()
        small("run-prepared", uuid, code=4)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
