"""`pyrun-oci` with systemd as cgroup manager: a container's scope, its limits and properties."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime


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
WANTED = {"memory.max": str(64 << 20), "memory.swap.max": "0", "pids.max": "20", "cpu.max": "50000 100000"}


def values(group: Path) -> dict[str, str]:
    return {name: (group / name).read_text().strip() for name in WANTED}


def group_of(pid: int) -> Path:
    (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup" + line[3:])


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
    for key, value in (("subgroup", ".."), ("subgroup", "../x"), ("subgroup", "a/b"), ("delegate", ".."), ("delegate", "a/../../b")):
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


def test_a_container_in_the_scope_itself(oci: Runtime) -> None:
    """With an empty name, as CRI-O sets it: what is small is exact before the program starts, and stays when systemd reloads."""
    oci.config["linux"]["cgroupsPath"] = "machine.slice:oci:itself"
    oci.config["annotations"] = {"run.oci.systemd.subgroup": ""}
    oci.config["linux"]["resources"] = {
        "memory": {"limit": 20 << 20, "swap": 0},
        "pids": {"limit": 3},
        "cpu": {"quota": 6000, "period": 90000, "shares": 200},
        "unified": {"cpu.max.burst": "3000", "memory.oom.group": "1"},
        "devices": [{"allow": False, "access": "rwm"}],
    }
    oci.config["linux"]["devices"] = [{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]
    oci.command("sh", "-c", "true >/dev/null && ! true >/dev/kmsg && exec sleep 1000")
    oci("--systemd-cgroup", "create", "one")
    scope = Path("/sys/fs/cgroup/machine.slice/oci-itself.scope")
    wanted = {"memory.max": str(20 << 20), "memory.swap.max": "0", "pids.max": "3", "cpu.max": "6300 90000"}  # whole percents
    assert group_of(oci.state("one")["pid"]) == scope and not [path for path in scope.iterdir() if path.is_dir()]
    assert values(scope) == wanted and (scope / "cpu.weight").read_text() == "29\n" and (scope / "memory.oom.group").read_text() == "1\n"
    oci("start", "one")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert values(scope) == wanted and properties("oci-itself.scope", "TasksMax", "MemoryMax") == ["3", str(20 << 20)]
    oci("--systemd-cgroup", "update", "--pids-limit", "4", "--cpu-quota", "-1", "one")
    assert values(scope) == {**wanted, "pids.max": "4", "cpu.max": "max 90000"}
    assert properties("oci-itself.scope", "TasksMax", "CPUQuotaPerSecUSec") == ["4", "infinity"]
    assert oci.state("one")["status"] == "running"
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
