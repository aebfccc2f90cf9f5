"""A UUID that standard output does not take, and whose error it is in a pod of several apps; a state directory that is read-only."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from waiting import nothing_kept, status

import pyrun as library

APP = ("--exec", "/bin/sleep", "--", "1000")


def full(pyrun: Pyrun, *words: str | Path, out: str = "/dev/full") -> subprocess.CompletedProcess[str]:
    with open(out, "w") as taken:
        return subprocess.run(
            [COMMAND, *words],
            env=pyrun.environment(),
            stdin=subprocess.DEVNULL,
            stdout=taken,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )


def stand(pyrun: Pyrun, phase: str) -> list[str]:
    return os.listdir(pyrun.root / "pods" / phase)


@pytest.mark.parametrize("more", [(), ("--format", "json")])
def test_a_pod_in_the_background_whose_uuid_is_lost_is_named(pyrun: Pyrun, busybox: Path, more: tuple[str, ...]) -> None:
    with nothing_kept(pyrun):
        prepared = pyrun("prepare", busybox, *APP, code=0).out.strip()
        for words in (("run", "--detach", *more, busybox, *APP), ("run-prepared", "--detach", *more, prepared)):
            done = full(pyrun, *words)
            first, hint, *rest = done.stderr.splitlines()
            (uuid,) = stand(pyrun, "running")
            assert (done.returncode, first, rest) == (125, f"pyrun: tell of pod {uuid}: it runs, but standard output takes no more", [])
            assert hint.startswith("hint: ") and status(pyrun, uuid)["state"] == "running"
            pyrun("rm", "--force", uuid, code=0)


def test_nobody_who_closed_it_wants_to_hear_of_it(pyrun: Pyrun, busybox: Path) -> None:
    with nothing_kept(pyrun):
        words = [str(COMMAND), "run", "--detach", str(busybox), *APP]
        done = subprocess.run(
            ["sh", "-c", '"$@" >&-', "sh", *words], env=pyrun.environment(), stderr=subprocess.PIPE, text=True, timeout=60
        )
        assert (done.returncode, done.stderr, len(stand(pyrun, "running"))) == (0, "", 1)


@pytest.mark.parametrize("more", [(), ("--format", "json")])
@pytest.mark.parametrize("several", [False, True])
def test_a_prepared_pod_whose_uuid_is_lost_does_not_stay(pyrun: Pyrun, busybox: Path, more: tuple[str, ...], several: bool) -> None:
    pyrun("fetch", busybox, code=0)
    apps = (busybox, "--name", "a", *APP, *(("---", busybox, "--name", "b", *APP) if several else ()))
    done = full(pyrun, "prepare", "--pod-name", "web", *more, *apps)
    assert (done.returncode, done.stderr.splitlines()[0]) == (125, "pyrun: write standard output: no space left on device")
    assert stand(pyrun, "prepared") == stand(pyrun, "garbage") == stand(pyrun, "names") == []


def test_errors_of_several_apps_say_whose_they_are(pyrun: Pyrun, busybox: Path) -> None:
    apps = (busybox, "--name", "good", *APP, "---", busybox, "--name", "bad", "--exec", "/nope")
    for how in ((), ("--detach",)):
        failed = pyrun("run", *how, *apps, code=127)
        assert failed.err.startswith("pyrun: app bad: execute /nope: no such file or directory\n"), failed.err
    uuid = pyrun("prepare", *apps, code=0).out.strip()
    failed = pyrun("run-prepared", "--detach", uuid, code=127)
    assert failed.err.startswith("pyrun: app bad: execute /nope: "), failed.err
    for verb in ("run", "plan"):
        failed = pyrun(verb, busybox, "--name", "good", "---", busybox, "--name", "bad", "--user", "nobody-of-that-name")
        assert failed.err.startswith("pyrun: app bad: ") and "nobody-of-that-name" in failed.err, failed.err
    alone = pyrun("run", busybox, "--exec", "/nope", code=127)
    assert alone.err.startswith("pyrun: execute /nope: ")
    assert json.loads(pyrun("list", "--format", "json", code=0).out) == []


def test_root_is_not_told_to_be_root(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """Nobody can write to a state directory that is mounted read-only."""
    (tmp_path / "bare").mkdir(mode=0o755)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$0" list --root "$1"'
    words = ["unshare", "--mount", "sh", "-c", script, COMMAND, str(tmp_path / "bare")]
    done = subprocess.run(words, env=pyrun.environment(), capture_output=True, text=True, timeout=60)
    first, hint = done.stderr.splitlines()
    assert done.returncode == 125 and "read-only file system" in first
    assert hint == "hint: the file system is read-only: mount it writable, or choose another directory with --root"


def test_the_library_says_it_too(shared: Pyrun, busybox: Path) -> None:
    shared("fetch", busybox, code=0)
    image, root = "example.com/busybox", str(shared.root)
    apps = [library.App(image, ["1000"], exec="/bin/sleep", name="good"), library.App(image, exec="/nope", name="bad")]
    with library.create_pod(apps, root=root) as pod, pytest.raises(library.ExecError, match=r"^app bad: execute /nope: ") as caught:
        pod.start()
    assert caught.value.exit_code == 127
