"""`pyrun-oci` where every controller of cgroup version 2 is, and systemd is process 1."""

from __future__ import annotations

import json
import os
import subprocess
import time
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


def test_a_scope_of_systemd(oci: Runtime) -> None:
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:scoped"
    oci.config["linux"]["resources"] = LIMITS
    oci.command("/bin/sleep", "1000")
    oci("--systemd-cgroup", "create", "one")
    oci("--systemd-cgroup", "start", "one")
    group = group_of(oci.state("one")["pid"])
    assert group == Path("/sys/fs/cgroup/machine.slice/oci-scoped.scope/container") and values(group) == WANTED
    assert oci.state("one")["systemd-scope"] == "oci-scoped.scope"
    assert subprocess.run(["systemctl", "is-active", "oci-scoped.scope"], capture_output=True, text=True).stdout == "active\n"
    names = ["MemoryMax", "TasksMax", "CPUWeight", "CPUQuotaPerSecUSec"]
    assert properties("oci-scoped.scope", *names) == [str(64 << 20), "20", "59", "500ms"]
    assert values(group.parent) == WANTED
    done = oci("--systemd-cgroup", "create", "two", code=1)
    assert "oci-scoped.scope: container's cgroup is not empty" in done.stderr and "hint: choose another linux.cgroupsPath" in done.stderr
    oci("--systemd-cgroup", "update", "--memory", "96m", "--memory-swap", "96m", "one")
    assert (group / "memory.max").read_text() == (group.parent / "memory.max").read_text() == f"{96 << 20}\n"
    assert properties("oci-scoped.scope", *names) == [str(96 << 20), "20", "59", "500ms"]
    oci("--systemd-cgroup", "delete", "--force", "one")
    gone(group.parent)


def properties(unit: str, *names: str) -> list[str]:
    """The unit's properties, as systemctl has them, in that order."""
    show = subprocess.run(["systemctl", "show", "--property=" + ",".join(names), unit], capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in show.stdout.splitlines())
    return [found[name] for name in names]


def scoped(oci: Runtime) -> Path:
    """The cgroup of a container that sleeps in a scope."""
    oci.command("/bin/sleep", "1000")
    oci("--systemd-cgroup", "run", "--detach", "one")
    return group_of(oci.state("one")["pid"])


def gone(scope: Path) -> None:
    deadline = time.monotonic() + 30
    while scope.exists():
        assert time.monotonic() < deadline, "systemd keeps the scope"
        time.sleep(0.2)


def test_a_scope_has_what_its_container_has(oci: Runtime) -> None:
    """Shares count among the scopes of a slice; and nobody but the container is in its own, so that small limits are exact too."""
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:all"
    oci.config["linux"]["resources"] = {
        "memory": {"limit": 20 << 20, "reservation": 10 << 20, "swap": 0},
        "pids": {"limit": 3},
        "cpu": {"quota": 6000, "period": 90000, "shares": 200, "cpus": "0", "mems": "0"},
        "unified": {"memory.high": str(16 << 20), "memory.min": "4096", "cpu.max.burst": "3000", "memory.oom.group": "1"},
    }
    group = scoped(oci)
    scope = Path("/sys/fs/cgroup/machine.slice/oci-all.scope")
    assert group == scope / "container" and sorted(path.name for path in scope.iterdir() if path.is_dir()) == ["container"]
    wanted = {
        "memory.max": str(20 << 20), "memory.low": str(10 << 20), "memory.swap.max": "0", "pids.max": "3", "memory.oom.group": "1",
        "cpu.weight": "29", "cpuset.cpus": "0", "cpuset.mems": "0", "memory.high": str(16 << 20), "memory.min": "4096",
    }  # fmt: skip
    for directory in (group, scope):
        assert {name: (directory / name).read_text().strip() for name in wanted} == wanted
        assert (directory / "cpu.max.burst").read_text().strip() in ("3000", "3")  # which older kernels show by the thousand
    assert (group / "cpu.max").read_text() == "6000 90000\n" and (scope / "cpu.max").read_text() == "6300 90000\n"  # whole percents
    names = ["TasksMax", "AllowedCPUs", "AllowedMemoryNodes", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "MemoryLow"]
    assert properties("oci-all.scope", *names) == ["3", "0", "0", "70ms", "90ms", str(10 << 20)]
    oci("--systemd-cgroup", "update", "--pids-limit", "4", "--cpu-quota", "-1", "--cpu-share", "1024", "one")
    assert properties("oci-all.scope", "TasksMax", "CPUQuotaPerSecUSec", "CPUWeight") == ["4", "infinity", "100"]
    for path in (group, scope):
        assert (path / "pids.max").read_text() == "4\n" and (path / "cpu.weight").read_text() == "100\n"
        assert (path / "cpu.max").read_text() == "max 90000\n"
    for text in ("x y", "1000 0"):
        given = json.dumps({"unified": {"cpu.max": text}})
        done = oci("--systemd-cgroup", "update", "--resources", "-", "one", input=given, stdin=None, code=1)
        assert "cpu.max" in done.stderr and "Traceback" not in done.stderr
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert (scope / "pids.max").read_text() == "4\n" and (scope / "cpu.weight").read_text() == "100\n"
    oci("--systemd-cgroup", "delete", "--force", "one")
    gone(scope)


def test_a_scope_without_a_limit_of_processes(oci: Runtime) -> None:
    """Where nothing is said systemd's default holds."""
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:many"
    for resources, wanted in (({"pids": {"limit": -1}}, True), ({"unified": {"pids.max": "max"}}, True), ({}, False)):
        oci.config["linux"]["resources"] = resources
        group = scoped(oci)
        assert (group / "pids.max").read_text() == "max\n"
        assert ((group.parent / "pids.max").read_text() == "max\n", properties("oci-many.scope", "TasksMax") == ["infinity"]) == (
            wanted,
            wanted,
        )
        oci("--systemd-cgroup", "delete", "--force", "one")
        gone(group.parent)


def test_a_scope_among_the_idle(oci: Runtime) -> None:
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:idle"
    oci.config["linux"]["resources"] = {"cpu": {"idle": 1}}
    group = scoped(oci)
    both = group / "cpu.idle", group.parent / "cpu.idle"
    assert [path.read_text() for path in both] == ["1\n", "1\n"] and properties("oci-idle.scope", "CPUWeight") == ["idle"]
    oci("--systemd-cgroup", "update", "--cpu-idle", "0", "one")
    assert [path.read_text() for path in both] == ["0\n", "0\n"]
    oci("--systemd-cgroup", "update", "--cpu-idle", "1", "one")
    assert [path.read_text() for path in both] == ["1\n", "1\n"]
    oci("--systemd-cgroup", "update", "--cpu-share", "200", "one")  # which is to be out of there
    assert [path.read_text() for path in both] == ["0\n", "0\n"]
    assert (group / "cpu.weight").read_text() == (group.parent / "cpu.weight").read_text() == "29\n"
    oci("--systemd-cgroup", "delete", "--force", "one")
    gone(group.parent)


def test_whoever_makes_a_scope_goes_back(oci: Runtime) -> None:
    """`run` waits where it was called, so that the container is all that its scope is there for."""
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:waited"
    oci.command("/bin/sleep", "1000")
    words = [str(word) for word in (oci.program, "--root", oci.root, "--systemd-cgroup", "run", "--bundle", oci.bundle, "one")]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as waiting:
        deadline = time.monotonic() + 60
        while oci("state", "one", code=None).returncode or oci.state("one")["status"] != "running":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert group_of(waiting.pid) == group_of(os.getpid())
        scope = group_of(oci.state("one")["pid"]).parent
        assert scope.name == "oci-waited.scope"
        oci("kill", "one", "KILL")
    assert waiting.returncode == 137
    gone(scope)


def test_a_scope_without_a_prefix(oci: Runtime) -> None:
    for path in ("machine.slice:oci-plain", "machine.slice:oci-plain.scope"):
        oci.config["linux"]["cgroupsPath"] = path
        oci.command("/bin/sleep", "1000")
        oci("--systemd-cgroup", "run", "--detach", "one")
        group = group_of(oci.state("one")["pid"])
        oci("--systemd-cgroup", "delete", "--force", "one")
        assert group == Path("/sys/fs/cgroup/machine.slice/oci-plain.scope/container")
        gone(group.parent)


def test_cgroups_of_crun_in_a_scope(oci: Runtime) -> None:
    """run.oci.systemd.subgroup is the container's own, run.oci.delegate-cgroup one below it that it manages."""
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:below"
    oci.config["linux"]["resources"] = LIMITS
    scope = Path("/sys/fs/cgroup/machine.slice/oci-below.scope")
    for key, value in (("subgroup", ""), ("subgroup", "../x"), ("subgroup", "a/b"), ("delegate", ".."), ("delegate", "a/../../b")):
        key = {"subgroup": "run.oci.systemd.subgroup", "delegate": "run.oci.delegate-cgroup"}[key]
        oci.config["annotations"] = {"run.oci.systemd.subgroup": "mine", key: value}
        oci.command("/bin/true")
        assert key in oci("--systemd-cgroup", "create", "one", code=1).stderr and not oci.leftovers() and not scope.exists()
    for more, below in (({}, "mine"), ({"run.oci.delegate-cgroup": "theirs"}, "mine/theirs")):
        oci.config["annotations"] = {"run.oci.systemd.subgroup": "mine", **more}
        oci.command("/bin/sleep", "1000")
        oci("--systemd-cgroup", "run", "--detach", "one")
        assert group_of(oci.state("one")["pid"]) == scope / below and values(scope / "mine") == WANTED
        told = oci("exec", "one", "cat", "/proc/self/cgroup").stdout
        assert told == f"0::{'/theirs' if more else '/'}\n"
        oci("--systemd-cgroup", "update", "--pids-limit", "30", "one")
        assert values(scope / "mine")["pids.max"] == values(scope)["pids.max"] == "30"
        if more:
            assert {"memory", "pids"} <= set((scope / below / "cgroup.controllers").read_text().split())
        oci("--systemd-cgroup", "delete", "--force", "one")
        gone(scope)
    del oci.config["annotations"]


def test_properties_of_a_scope(oci: Runtime) -> None:
    """Annotations in the text form of GVariant, as crun and runc take them."""
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:told"
    values = {
        "TimeoutStopUSec": "uint64 12000000",
        "RuntimeMaxSec": "3600",
        "Description": "'told -- by \\'annotation\\''",
        "CPUWeight": "@t 77",
        "DevicePolicy": '"closed"',
        "After": "['basic.target', 'sysinit.target']",
        "OOMScoreAdjust": "",
        "MemoryAccounting": "true",
    }
    bad = {"OOMScoreAdjust": values.pop("OOMScoreAdjust"), "MemoryMax": "uint64 -1", "Slice": "'x.slice'", "X": "true"}
    bad["IOWeight"] = "uint64 5 6"
    oci.command("/bin/sleep", "1000")
    for name, value in bad.items():
        key = f"org.systemd.property.{name}"
        oci.config["annotations"] = {key: value}
        oci.write()
        assert key in oci("--systemd-cgroup", "create", "one", code=1).stderr and not oci.leftovers()
    oci.config["annotations"] = {f"org.systemd.property.{name}": value for name, value in values.items()}
    oci.write()
    oci("--systemd-cgroup", "run", "--detach", "one")
    names = "TimeoutStopUSec RuntimeMaxUSec Description CPUWeight DevicePolicy MemoryAccounting After".split()
    found = dict(zip(names, properties("oci-told.scope", *names), strict=True))
    assert {"basic.target", "sysinit.target"} <= set(found.pop("After").split())
    assert found == {
        "TimeoutStopUSec": "12s",
        "RuntimeMaxUSec": "1h",
        "Description": "told -- by 'annotation'",
        "CPUWeight": "77",
        "DevicePolicy": "closed",
        "MemoryAccounting": "yes",
    }
    oci("--systemd-cgroup", "delete", "--force", "one")


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
