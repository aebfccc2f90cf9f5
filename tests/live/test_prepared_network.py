"""Prepared pods in the network of another pod: the launcher finds it, or says why that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from launched import launch
from waiting import wait_until

SLEEP = ("--exec", "/probe", "--", "sleep", "0")


def running(pyrun: Pyrun, uuid: str) -> Path:
    return pyrun.root / "pods" / "running" / uuid


def network_of(pyrun: Pyrun, uuid: str) -> str:
    """That of the app of a pod in the background."""
    return os.readlink(f"/proc/{json.loads((running(pyrun, uuid) / 'run').read_text())['pid']}/ns/net")


@pytest.fixture
def other(pyrun: Pyrun) -> Iterator[str]:
    """A pod in the background, called `other`."""
    uuid = pyrun("run", "--detach", "--pod-name", "other", pyrun.probe_image, *SLEEP, code=0).out.strip()
    yield uuid
    pyrun("rm", "--force", uuid)


def joining(pyrun: Pyrun, reference: str) -> str:
    return pyrun("prepare", "--net", reference, pyrun.probe_image, *SLEEP, code=0).out.strip()


@pytest.mark.parametrize("form", ["container:{}", "container:other", "pod:{:.9}"])
def test_the_network_of_another_pod_needs_no_python(pyrun: Pyrun, other: str, tmp_path: Path, form: str) -> None:
    uuid = joining(pyrun, form.format(other))
    said, became = launch(pyrun, tmp_path, "--detach", uuid)
    assert (said.returncode, said.stdout, became) == (0, f"{uuid}\n", ["pyrun", "keeper"]), said.stderr
    assert network_of(pyrun, uuid) == network_of(pyrun, other) != os.readlink("/proc/self/ns/net")
    assert "127.0.1.1\t" in (running(pyrun, uuid) / "hosts").read_text()
    pyrun("rm", "--force", other, code=0)
    assert running(pyrun, uuid).is_dir(), "it keeps the network"
    pyrun("rm", "--force", uuid, code=0)


@pytest.mark.parametrize("cgroup", [True, False])
def test_the_other_one_may_be_in_the_foreground(pyrun: Pyrun, tmp_path: Path, cgroup: bool) -> None:
    """No keeper says who its processes are: its cgroup does or, where it has none, the supervisor's title and descriptor."""
    process = pyrun.start("run", "--uuid-file-save", tmp_path / "uuid", pyrun.probe_image, *SLEEP)
    try:
        wait_until(lambda: (tmp_path / "uuid").exists() and pyrun("exec", (tmp_path / "uuid").read_text().strip(), "/probe").code == 0)
        other = (tmp_path / "uuid").read_text().strip()
        if not cgroup:
            record = json.loads((running(pyrun, other) / "pod").read_text())
            (running(pyrun, other) / "pod").write_text(json.dumps({**record, "cgroup": ""}, separators=(",", ":")))
        uuid = joining(pyrun, f"container:{other}")
        said, became = launch(pyrun, tmp_path, "--detach", uuid)
        assert (said.returncode, became) == (0, ["pyrun", "keeper"]), said.stderr
        child = next(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() for _ in "1")[0]
        assert network_of(pyrun, uuid) == os.readlink(f"/proc/{child}/ns/net")
        pyrun("rm", "--force", uuid, code=0)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def refused(pyrun: Pyrun, folder: Path, uuid: str, code: int = 125) -> str:
    """The launcher says it, in Python's words, and the pod stays prepared."""
    said, became = launch(pyrun, folder, "--detach", uuid)
    assert (said.returncode, became) == (code, ["pyrun"])
    python = [*pyrun.within, sys.executable, "-m", "pyrun", "run-prepared", "--detach", uuid]
    assert subprocess.run(python, env=pyrun.environment(), capture_output=True, text=True, timeout=120).stderr == said.stderr
    assert (pyrun.root / "pods" / "prepared" / uuid).is_dir()
    return said.stderr


def test_what_cannot_be_joined_is_explained(pyrun: Pyrun, other: str, tmp_path: Path) -> None:
    """One that ended, one that never ran, one whose network is the host's, and one of several apps."""
    uuid = joining(pyrun, "container:other")
    waits = joining(pyrun, f"container:{uuid}")
    assert refused(pyrun, tmp_path, waits).startswith(f"pyrun: share the network of pod {uuid}: it is prepared\nhint: ")
    pyrun("stop", "--timeout", "0", other)
    assert refused(pyrun, tmp_path, uuid).startswith(f"pyrun: share the network of pod {other}: it is exited\nhint: ")
    pyrun("rm", "--force", other, code=0)
    assert refused(pyrun, tmp_path, uuid).startswith("pyrun: find pod other: there is none of that name\nhint: ")
    host = pyrun("run", "--detach", "--pod-name", "other", "--net", "host", pyrun.probe_image, *SLEEP, code=0).out.strip()
    assert refused(pyrun, tmp_path, uuid).startswith(f"pyrun: share the network of pod {host}: it has the host's\nhint: ")
    pyrun("rm", "--force", host, code=0)
    apps = ("--name", "one", *SLEEP, "---", pyrun.probe_image, "--name", "two", *SLEEP)
    several = pyrun("run", "--detach", "--pod-name", "other", pyrun.probe_image, *apps, code=0).out.strip()
    assert f"choose an app of pod {several}: it has several: one, two" in refused(pyrun, tmp_path, uuid, code=2)
    pyrun("rm", "--force", several, uuid, waits, code=0)


def test_somebody_elses_number_is_not_joined(pyrun: Pyrun, other: str, tmp_path: Path) -> None:
    """A record that names another process, as one of an earlier boot may: what counts is who its parent is, and what that one holds."""
    file = running(pyrun, other) / "run"
    record = json.loads(file.read_text())
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo made; exec sleep 1000"], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "made\n"
            start = int(Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[19])
            file.write_text(json.dumps({**record, "pid": holder.pid, "start": start}, separators=(",", ":")))
            uuid = joining(pyrun, "container:other")
            said, _ = launch(pyrun, tmp_path, "--detach", uuid)
            assert said.returncode == 0, said.stderr
            assert network_of(pyrun, uuid) == os.readlink(f"/proc/{record['pid']}/ns/net")
            pyrun("rm", "--force", uuid, code=0)
        finally:
            holder.kill()
            file.write_text(json.dumps(record, separators=(",", ":")))
