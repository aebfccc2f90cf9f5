"""Prepared pods with limits, or somebody's network: the launcher finds what they need, or leaves it to Python to say why that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun
from launched import programs, traced
from places import ENTER, LIMITS, processes

NOBODY = "ffffffff-ffff-4fff-8fff-ffffffffffff"


def prepare(pyrun: Pyrun, controller: str) -> str:
    return pyrun("prepare", *LIMITS[controller][:2], pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()


def run(pyrun: Pyrun, place: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, "sh", "-c", ENTER, str(place), str(COMMAND), "run-prepared", *words]
    return subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("several", [False, True])
def test_a_pod_with_limits_starts_without_python(pyrun: Pyrun, place: Path, controller: str, tmp_path: Path, several: bool) -> None:
    """The limit holds before the app runs, in a cgroup of its own, and whoever started it has made room for that."""
    more = ["---", pyrun.probe_image, "--name", "two", "--exec", "/probe", "--", "sleep", "0"] if several else []
    words = ["--name", "one", "--exec", "/probe", "--", "sleep", "0", *more]
    flag, value, file, content = LIMITS[controller]
    uuid = pyrun("prepare", flag, value, pyrun.probe_image, *words, code=0).out.strip()
    done = run(pyrun, place, "--detach", uuid, before=traced(tmp_path))
    assert (done.returncode, done.stdout) == (0, f"{uuid}\n"), done.stderr
    assert programs(tmp_path) == ["sh", "pyrun", "keeper"]
    group = place / f"pyrun-{uuid}" / ("one" if several else "")
    assert (group / file).read_text().strip() == content and processes(group)
    assert processes(place) == [] and processes(place / "pyrun-supervisor")
    pyrun("rm", "--force", uuid, code=0)
    assert not group.exists()


def test_a_place_that_is_ready_is_left_as_it_is(pyrun: Pyrun, place: Path, controller: str) -> None:
    """Who starts in the leaf beside enabled controllers needs nothing more, and so does the next pod."""
    first, second = prepare(pyrun, controller), prepare(pyrun, controller)
    assert run(pyrun, place, "--detach", first).returncode == 0
    assert run(pyrun, place / "pyrun-supervisor", "--detach", second).returncode == 0
    assert all(processes(place / f"pyrun-{uuid}") for uuid in (first, second))
    for uuid in (first, second):
        pyrun("rm", "--force", uuid, code=0)


def test_a_place_where_others_are_is_refused(pyrun: Pyrun, place: Path, controller: str, tmp_path: Path) -> None:
    """Nobody else's processes are moved, and the pod stays prepared."""
    uuid = prepare(pyrun, controller)
    with subprocess.Popen(["sh", "-c", ENTER, str(place), "sleep", "1000"]) as other:
        try:
            while str(other.pid) not in processes(place):
                assert other.poll() is None
            refused = run(pyrun, place, uuid, before=traced(tmp_path))
            assert refused.returncode == 125 and programs(tmp_path) == ["sh", "pyrun"]
            assert refused.stderr.startswith(
                f"pyrun: limit the pod {controller}: the controller cannot be enabled in {place}\nhint: other processes"
            )
            assert processes(place) == [str(other.pid)]
            python = ["sh", "-c", ENTER, str(place), sys.executable, "-m", "pyrun", "run-prepared", uuid]
            done = subprocess.run(python, env=pyrun.environment(), capture_output=True, text=True, timeout=120)
            assert done.stderr == refused.stderr
        finally:
            other.kill()
    assert (pyrun.root / "pods" / "prepared" / uuid).is_dir()
    pyrun("rm", uuid, code=0)


@pytest.mark.parametrize("several", [False, True])
def test_a_network_with_a_path_needs_no_python(pyrun: Pyrun, tmp_path: Path, several: bool) -> None:
    """All apps are in it; a path that leads nowhere any more is refused, and the pod stays prepared."""
    more = ["---", pyrun.probe_image, "--name", "two", "--exec", "/probe", "--", "sleep", "0"] if several else []
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo made; exec sleep 1000"], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "made\n"
            path = f"/proc/{holder.pid}/ns/net"
            words = ["prepare", "--net", f"ns:{path}", pyrun.probe_image, "--name", "one", "--exec", "/probe", "--", "sleep", "0", *more]
            first, second = (pyrun(*words, code=0).out.strip() for _ in range(2))
            command = [*traced(tmp_path), str(COMMAND), "run-prepared", "--detach", first]
            done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120)
            assert (done.returncode, done.stdout) == (0, f"{first}\n"), done.stderr
            assert programs(tmp_path) == ["pyrun", "keeper"]
            record = json.loads((pyrun.root / "pods" / "running" / first / "run").read_text())
            inside = [one["pid"] for one in record.get("apps", [record])]
            assert {os.readlink(f"/proc/{pid}/ns/net") for pid in inside} == {os.readlink(path)} != {os.readlink("/proc/self/ns/net")}
            assert len(inside) == 1 + several
            hosts = (pyrun.root / "pods" / "running" / first / "hosts").read_text()
            assert "127.0.1.1\t" in hosts and len(hosts.splitlines()) > 1
        finally:
            holder.kill()
    pyrun("rm", "--force", first, code=0)
    assert pyrun("run-prepared", second, code=125).err.startswith(
        f"pyrun: join the network namespace {path}: no such file or directory\nhint: "
    )
    assert (pyrun.root / "pods" / "prepared" / second).is_dir()
    pyrun("rm", second, code=0)


def test_who_is_refused_hears_it_without_python(pyrun: Pyrun, tmp_path: Path) -> None:
    """In Python's own words; --debug shows before that where it was said."""
    uuid = pyrun("prepare", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
    ended = pyrun("prepare", "--pod-name", "ended", pyrun.probe_image, "--exec", "/probe", code=0).out.strip()
    pyrun("run-prepared", ended, code=0)
    pyrun("run-prepared", "--detach", uuid, code=0)
    once = "hint: a prepared pod runs once: see `pyrun prepare`\n"
    for reference, words in {
        uuid: f"pyrun: start pod {uuid}: it is running\n{once}",
        "ended": f"pyrun: start pod {ended}: it is exited\n{once}",
        **{word: f"pyrun: find pod {word}: there is none of that name\nhint: see `pyrun list`\n" for word in ("No-such_1", NOBODY)},
    }.items():
        for more in ((), ("--debug",)):
            command = [*traced(tmp_path), str(COMMAND), "run-prepared", *more, reference]
            done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120)
            assert (done.returncode, done.stdout, programs(tmp_path)) == (125, "", ["pyrun"]), done.stderr
            first, _, rest = done.stderr.partition("\n")
            assert done.stderr == words or (more and first.startswith("the launcher: native/") and rest == words)
    pyrun("rm", "--force", uuid, "ended", code=0)


def test_a_network_that_cannot_be_joined_is_refused_without_python(pyrun: Pyrun, tmp_path: Path) -> None:
    """One that is gone, something else, that of a pod which does not run: in Python's own words, and the pod stays prepared."""
    words = (pyrun.probe_image, "--exec", "/probe")
    other = pyrun("prepare", "--pod-name", "other", *words, code=0).out.strip()
    path = tmp_path / "namespace"
    path.touch()
    with subprocess.Popen(["unshare", "--net", "sleep", "1000"]) as holder:
        try:
            subprocess.run(["mount", "--bind", f"/proc/{holder.pid}/ns/net", str(path)], check=True)
        finally:
            holder.kill()
    pods = [pyrun("prepare", "--net", net, *words, code=0).out.strip() for net in (f"ns:{path}", f"ns:{path}", "container:other")]
    subprocess.run(["umount", str(path)], check=True)
    for uuid, why in zip(
        pods,
        [
            f"pyrun: join the network namespace {path}: that is something else\nhint: ",
            f"pyrun: join the network namespace {path}: no such file or directory\nhint: ",
            f"pyrun: share the network of pod {other}: it is prepared\nhint: start it first\n",
        ],
        strict=True,
    ):
        said = {}
        for more in ((), ("--debug",)):
            command = [*traced(tmp_path), str(COMMAND), "run-prepared", *more, uuid]
            done = subprocess.run(command, env=pyrun.environment(), capture_output=True, text=True, timeout=120)
            assert (done.returncode, done.stdout) == (125, "")
            said[more] = done.stderr
            assert programs(tmp_path) == ["pyrun"], done.stderr
        python = [*pyrun.within, sys.executable, "-m", "pyrun", "run-prepared", uuid]
        assert subprocess.run(python, env=pyrun.environment(), capture_output=True, text=True, timeout=120).stderr == said[()]
        assert said[()].startswith(why) and said[("--debug",)].endswith(said[()])
        assert (pyrun.root / "pods" / "prepared" / uuid).is_dir()
        path.unlink(missing_ok=True)
    pyrun("rm", *pods, "other", code=0)
