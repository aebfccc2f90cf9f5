"""`pyrun-oci` where every controller of cgroup version 2 is, and systemd is process 1."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import NO_PYTHON, Alone, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    for name in made.leftovers():  # of a test that failed
        made("delete", "--force", name)


LIMITS: dict[str, Any] = {
    "memory": {"limit": 64 << 20, "swap": 64 << 20},
    "pids": {"limit": 20},
    "cpu": {"quota": 50000, "period": 100000, "shares": 512},
}


def values(group: Path) -> dict[str, str]:
    return {name: (group / name).read_text().strip() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}


WANTED = {"memory.max": str(64 << 20), "memory.swap.max": "0", "pids.max": "20", "cpu.max": "50000 100000"}


def group_of(pid: int) -> Path:
    (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup" + line[3:])


def test_limits_hold(oci: Runtime) -> None:
    oci.config["linux"]["cgroupsPath"] = "/above/of/oci-limits"
    oci.config["linux"]["resources"] = LIMITS
    pid = oci.start_sleeping()
    group = group_of(pid)
    assert group == Path("/sys/fs/cgroup/above/of/oci-limits") and values(group) == WANTED
    done = oci(
        "exec",
        "one",
        "sh",
        "-c",
        "for i in $(seq 40 2>/dev/null || echo 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22); do sleep 5 & done",
        code=None,
    )
    assert "fork" in done.stderr or done.returncode, "pids.max"
    oci("update", "--memory", "96m", "--memory-swap", "96m", "--pids-limit", "30", "one")
    assert values(group) == {**WANTED, "memory.max": str(96 << 20), "pids.max": "30"}
    shown = json.loads(oci("events", "--stats", "one").stdout)["data"]
    assert shown["memory"]["usage"]["limit"] == 96 << 20 and shown["pids"]["current"] >= 1
    oci("delete", "--force", "one")
    assert not group.exists()


def test_limits_hold_without_python(oci: Runtime, tmp_path: Path) -> None:
    """By the launcher, once their controllers are enabled where the cgroup is to be."""
    alone = Alone(tmp_path / "alone", oci)
    oci.config["linux"]["resources"] = LIMITS
    oci.command("/bin/sleep", "1000")
    for place in ("/again/one", "/again/two/x", "/again/two/y"):
        name = place.replace("/", "-")[1:]
        oci.config["linux"]["cgroupsPath"] = place
        oci.write()
        if place.endswith("x"):
            alone("create", name, code=NO_PYTHON)
        (alone if place.endswith("y") else oci)("create", name)
        group = Path("/sys/fs/cgroup" + place)
        assert group_of(oci.state(name)["pid"]) == group and values(group) == WANTED
        oci("start", name)
        oci("update", "--pids-limit", "30", name)
        assert values(group)["pids.max"] == "30"
        oci("delete", "--force", name)
        assert not group.exists()
    assert not oci.leftovers()


def test_a_container_without_limits_can_be_measured_and_limited(oci: Runtime, tmp_path: Path) -> None:
    """Every controller is there, as clients expect that ask for figures; also below a cgroup that is new."""
    alone = Alone(tmp_path / "alone", oci)
    oci.command("/bin/sleep", "1000")
    for place in ("/measured/one", "/measured/two", "/measured/new/three"):
        name = place.replace("/", "-")[1:]
        oci.config["linux"]["cgroupsPath"] = place
        oci.write()
        if place == "/measured/new/three":
            alone("create", name, code=NO_PYTHON)
        (alone if place == "/measured/two" else oci)("create", name)
        group = Path("/sys/fs/cgroup" + place)
        oci("start", name)
        assert group_of(oci.state(name)["pid"]) == group and {"memory", "pids", "cpu", "io"} <= {
            *(group / "cgroup.controllers").read_text().split()
        }
        shown = json.loads(oci("events", "--stats", name).stdout)["data"]
        assert shown["memory"]["usage"]["usage"] > 0 and shown["pids"]["current"] == 1
        oci("update", "--memory", "96m", name)
        assert (group / "memory.max").read_text() == f"{96 << 20}\n"
        oci("delete", "--force", name)
    assert not oci.leftovers()


def test_processes_in_a_cgroup_above(oci: Runtime) -> None:
    """cgroups(7): whatever was enabled there, nobody could live below."""
    crowd = Path("/sys/fs/cgroup/crowd")
    crowd.mkdir()
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        try:
            (crowd / "cgroup.procs").write_text(str(sleeper.pid))
            oci.config["linux"]["cgroupsPath"] = "/crowd/one"
            assert group_of(oci.start_sleeping()) == crowd / "one"
            assert (crowd / "cgroup.subtree_control").read_text().split() == []
            oci("delete", "--force", "one")
        finally:
            sleeper.kill()
    crowd.rmdir()


def test_exec_goes_where_processes_may_be(oci: Runtime) -> None:
    """cgroups(7), "no internal processes": with a controller for those below a cgroup, only they may have processes."""
    oci.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
    first = oci.start_sleeping()
    group = group_of(first)
    (group / "own").mkdir()
    (group / "own/cgroup.procs").write_text(str(first))
    for more, wanted in ((), "0::/"), (("--ignore-paused",), "0::/"):  # the second one is Python's
        assert oci("exec", *more, "one", "cat", "/proc/self/cgroup").stdout == wanted + "\n"
    (group / "cgroup.subtree_control").write_text("+memory")
    for words in ((), ("--ignore-paused",), ("--cgroup", "own")):
        assert oci("exec", *words, "one", "cat", "/proc/self/cgroup").stdout == "0::/own\n"
    done = oci("exec", "--cgroup", "/", "one", "true", code=255)
    assert "error adding pid of a new process to cgroups: device or resource busy" in done.stderr and "--cgroup" in done.stderr
    oci("delete", "--force", "one")


def test_events_tell_of_want_of_memory(oci: Runtime) -> None:
    oci.config["linux"]["resources"] = {"memory": {"limit": 32 << 20, "swap": 32 << 20}}
    oci.start_sleeping()
    words = [str(word) for word in (oci.program, "--root", oci.root, "events", "--interval", "200ms", "one")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        first = json.loads(shown.stdout.readline())
        assert first["data"]["cpu"]["psi"]["some"]["total"] >= 0 and first["data"]["memory"]["psi"]["full"]["avg10"] >= 0
        oci("exec", "one", "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=45", code=None)
        told = next(line for line in shown.stdout if '"oom"' in line)
        assert json.loads(told) == {"type": "oom", "id": "one"}
        oci("delete", "--force", "one")
    assert shown.returncode == 0


def test_no_processes_and_memory_that_is_in_use(oci: Runtime) -> None:
    oci.config["linux"]["resources"] = {"pids": {"limit": 0}, "memory": {"limit": 64 << 20}}
    group = group_of(oci.start_sleeping())
    assert (group / "pids.max").read_text() == "1\n"
    oci("update", "--pids-limit", "7", "one")
    oci("update", "--resources", "-", "one", input='{"pids": {"limit": 0}}', stdin=None)
    assert (group / "pids.max").read_text() == "7\n", "Docker writes zeros for what it does not mean"
    oci("update", "--pids-limit", "0", "one")
    assert (group / "pids.max").read_text() == "1\n"
    for limits, words in (({"limit": 1024}, "memory limit 1024"), ({"limit": 1024, "swap": 2048}, "memory+swap limit 2048")):
        given = json.dumps({"memory": {**limits, "checkBeforeUpdate": True}})
        done = oci("update", "--resources", "-", "one", input=given, stdin=None, code=1)
        assert f"rejecting {words}" in done.stderr
    assert (group / "memory.max").read_text() == f"{64 << 20}\n"
    oci("delete", "--force", "one")
