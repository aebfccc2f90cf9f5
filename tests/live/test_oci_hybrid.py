"""`pyrun-oci` on hosts that have controllers in cgroup v1 beside a v2 tree: limits hold there, everything else goes through v2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Alone, recipes
from hybrids import (
    CONTROLLERS,
    ONE,
    REASON,
    TAG,
    Hybrid,
    at,
    files,
    groups,
    has_version_1,
    inside,
    limit,
    own_groups,
    places,
    refused,
    seen,
    tree,
    wrapped,
)
from waiting import wait_until

pytestmark = pytest.mark.skipif(not has_version_1(), reason=REASON)

MIB = 1 << 20
EAT = "dd if=/dev/zero of=/eaten/file bs=1M count=48"


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Hybrid]:
    """The runtime as it is started on such a host; no group is there afterwards."""
    made = Hybrid(tmp_path, probe)
    yield made
    made.check_that_nothing_is_left()


def test_where_the_limits_are(oci: Hybrid) -> None:
    """Which file of which hierarchy; the process is in all of them, also in those without a limit, and so is one that enters."""
    memory = {"limit": 64 * MIB, "swap": 80 * MIB, "reservation": 8 * MIB, "swappiness": 10, "kernelTCP": MIB, "disableOOMKiller": True}
    cpu = {"shares": 500, "quota": 150000, "period": 50000, "burst": 1000, "cpus": "0", "mems": "0"}
    limit(oci, memory=memory, cpu=cpu, pids={"limit": 30})
    pid = oci.start_sleeping()
    held = {
        "memory.limit_in_bytes": str(64 * MIB),
        "memory.memsw.limit_in_bytes": str(80 * MIB),
        "memory.soft_limit_in_bytes": str(8 * MIB),
        "memory.swappiness": "10",
        "memory.kmem.tcp.limit_in_bytes": str(MIB),
        "memory.oom_control": "oom_kill_disable 1",
        "cpu.shares": "500",
        "cpu.cfs_quota_us": "150000",
        "cpu.cfs_period_us": "50000",
        "cpu.cfs_burst_us": "1000",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "pids.max": "30",
    }
    assert files(*held) == [*held.values()]
    assert all(str(pid) in (seen(f"{at(name)}/cgroup.procs") or "") for name in CONTROLLERS)
    assert {name for name, path in places(pid).items() if path.endswith(f"/{ONE}")} == {"", *CONTROLLERS}
    assert (Path(f"/sys/fs/cgroup/{ONE}/cgroup.procs").read_text()) == f"{pid}\n"
    assert {path for name, path in of(oci("exec", "one", "cat", "/proc/self/cgroup").stdout).items() if name in CONTROLLERS} == {"/"}
    oci("exec", "--detach", "--pid-file", oci.folder / "pid", "one", "sleep", "1000")
    entered = (oci.folder / "pid").read_text()
    assert places(entered) == places(pid)
    assert sorted(json.loads(oci("ps", "--format", "json", "one").stdout)) == sorted([pid, int(entered)])
    oci("pause", "one")
    assert oci.state("one")["status"] == "paused"
    oci("resume", "one")
    oci("kill", "--all", "one", "KILL")
    wait_until(lambda: oci.state("one")["status"] == "stopped")
    oci("delete", "one")


def of(text: str) -> dict[str, str]:
    return {name: path for _, name, path in (line.split(":", 2) for line in text.splitlines())}


@pytest.mark.parametrize(("size", "code"), [(60, 0), (24, 137)])
def test_memory(oci: Hybrid, size: int, code: int) -> None:
    oci.config["mounts"].append({"destination": "/eaten", "type": "tmpfs", "source": "tmpfs"})
    limit(oci, memory={"limit": size * MIB, "swap": size * MIB})
    oci.command("/bin/sh", "-c", f"exec {EAT}")
    assert oci("run", "one", code=code).returncode == code


def test_who_enters_counts_too(oci: Hybrid) -> None:
    oci.config["mounts"].append({"destination": "/eaten", "type": "tmpfs", "source": "tmpfs"})
    limit(oci, memory={"limit": 24 * MIB, "swap": 24 * MIB}, pids={"limit": 12})
    oci.start_sleeping()
    assert json.loads(oci("exec", "one", "/probe", "fork", "40").stdout) <= 10
    oci("exec", "one", "/bin/sh", "-c", f"exec {EAT}", code=137)
    assert oci.state("one")["status"] == "running", "the largest one is killed"
    oci("update", "--memory", "60m", "--memory-swap", "60m", "one")
    oci("exec", "one", "/bin/sh", "-c", f"exec {EAT}")
    oci("delete", "--force", "one")


@pytest.mark.parametrize(("number", "forked"), [(20, 19), (2, 1)])
def test_processes(oci: Hybrid, number: int, forked: int) -> None:
    limit(oci, pids={"limit": number})
    oci.command("/probe", "fork", "40")
    assert json.loads(oci("run", "one").stdout) == forked


@pytest.mark.parametrize("number", [0, 1])
def test_one_process(oci: Hybrid, number: int) -> None:
    """0 is that as well since version 1.3 of the specification; whoever clones it is not in its way."""
    limit(oci, pids={"limit": number})
    oci.command("/probe", "fork", "40")
    assert json.loads(oci("run", "one").stdout) == 0
    oci("create", "one")
    assert files("pids.max") == ["1"]
    oci("delete", "one")


def test_processor_time(oci: Hybrid) -> None:
    limit(oci, cpu={"quota": 25000, "period": 100000})
    oci.command("/bin/sh", "-c", "while true; do true; done")
    oci("run", "--detach", "one")
    begun, first = time.monotonic(), used(oci)
    wait_until(lambda: used(oci) - first > 300_000_000)
    assert (used(oci) - first) / 1e9 < (time.monotonic() - begun) * 0.4
    stats = json.loads(oci("events", "--stats", "one").stdout)["data"]
    assert stats["cpu"]["throttling"]["throttledTime"] > 0 and stats["pids"]["current"] == 1
    oci("delete", "--force", "one")


def used(oci: Hybrid) -> int:
    """Nanoseconds of processor time."""
    return int(json.loads(oci("events", "--stats", "one").stdout)["data"]["cpu"]["usage"]["total"])


@pytest.mark.parametrize("path", ["/TAG-above/deep/one", "TAG-above/one", ""])
def test_where_the_groups_are(oci: Hybrid, path: str) -> None:
    """At the same path as the v2 cgroup; the processors and nodes of a cpuset above are filled in.  Those above stay, as in v2."""
    path = path.replace("TAG", TAG)
    name = "one" if path else f"{TAG}-id"
    oci.config["linux"]["cgroupsPath"] = path
    limit(oci, pids={"limit": 30}, cpu={"mems": "0"})
    oci.command("/bin/sleep", "1000")
    oci("run", "--detach", name)
    where = path.lstrip("/") or name
    own = own_groups() if path and path[0] != "/" else {one: f"/sys/fs/cgroup/{one}" for one in CONTROLLERS}
    pid = oci.state(name)["pid"]
    for one in CONTROLLERS:
        assert str(pid) in (seen(f"{own[one]}/{where}/cgroup.procs") or ""), one
    assert seen(f"{own['cpuset']}/{where}/cpuset.cpus") == seen(f"{own['cpuset']}/{where.partition('/')[0]}/cpuset.cpus")
    oci("delete", "--force", name)
    assert {one for one in groups("*one") if f"{TAG}-above" in one} == set()
    rest = [f"{own[one]}/{above}" for one in CONTROLLERS for above in (f"{TAG}-above/deep", f"{TAG}-above")]
    subprocess.run(inside("rmdir", *rest), stderr=subprocess.DEVNULL)
    for above in sorted(tree(), reverse=True):
        for top, _, _ in os.walk(above, topdown=False):
            os.rmdir(top)


def test_user_namespaces(oci: Hybrid) -> None:
    """The container's own one, and one that it joins, where nobody may write to the host's groups."""
    oci.config["linux"]["namespaces"].append({"type": "user"})
    oci.config["linux"].update({kind: [{"containerID": 0, "hostID": 100000, "size": 65536}] for kind in ("uidMappings", "gidMappings")})
    subprocess.run(["chown", "-R", "100000:100000", oci.bundle / "rootfs"], check=True)
    for path in (oci.folder, *oci.folder.parents):
        path.chmod(path.stat().st_mode | 0o111)
    limit(oci, pids={"limit": 30})
    pid = oci.start_sleeping()
    assert places(pid)["pids"].endswith(f"/{ONE}")
    first = next(one for one in oci.config["linux"]["namespaces"] if one["type"] == "user")
    first["path"] = f"/proc/{pid}/ns/user"
    for kind in ("uidMappings", "gidMappings"):
        del oci.config["linux"][kind]
    oci.config["linux"]["cgroupsPath"] = f"/{TAG}-two"
    other = oci.start_sleeping("two")
    assert places(other)["pids"].endswith(f"/{TAG}-two") and places(other)[""].endswith(f"/{TAG}-two")
    assert os.readlink(f"/proc/{other}/ns/user") == os.readlink(f"/proc/{pid}/ns/user")
    oci("delete", "--force", "two")
    oci("delete", "--force", "one")


def test_limits_in_the_words_of_version_2(oci: Hybrid) -> None:
    """Beat the others."""
    limit(oci, unified={"memory.max": str(64 * MIB), "pids.max": "20", "cpu.weight": "100"}, pids={"limit": 30}, cpu={"shares": 2})
    oci.start_sleeping()
    assert files("memory.limit_in_bytes", "pids.max", "cpu.shares") == [str(64 * MIB), "20", "1024"]
    oci("delete", "--force", "one")


def test_rates_of_disks(oci: Hybrid) -> None:
    disks = [Path(f"/sys/block/{name}/dev").read_text().strip() for name in sorted(os.listdir("/sys/block"))]
    major, minor = map(int, next(one for one in disks).split(":"))
    rates = {name: [{"major": major, "minor": minor, "rate": 5000}] for name in ("throttleReadBpsDevice", "throttleWriteIOPSDevice")}
    limit(oci, blockIO=rates)
    oci.start_sleeping()
    names = ("blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device")
    assert files(*names) == [f"{major}:{minor} 5000"] * 2
    none = [{"major": major, "minor": minor, "rate": 0}]
    oci("update", "--resources", told_in_a_file(oci, {"blockIO": {**rates, "throttleReadBpsDevice": none}}), "one")
    assert files(*names) == [f"{major}:{minor} 5000"]
    oci("delete", "--force", "one")


def test_update(oci: Hybrid) -> None:
    """Each way up and down, in one step; only what was done is said to be."""
    limit(oci, memory={"limit": 48 * MIB, "swap": 48 * MIB})
    pid = oci.start_sleeping()
    sizes = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    for memory, both in ((96, 104), (40, 40), (200, 220), (100, 120)):
        oci("update", "--memory", f"{memory}m", "--memory-swap", f"{both}m", "one")
        assert files(*sizes) == [str(memory * MIB), str(both * MIB)]
    refused(oci, "--memory", "130m", "one", verb="update", told=("memory.limit_in_bytes", at("memory"), "memory and swap"))
    refused(oci, "--memory-swap", "90m", "one", verb="update", told=("memory.memsw.limit_in_bytes", at("memory")))
    refused(oci, "--cpuset-cpus", "9999", "one", verb="update", told=("cpuset.cpus", at("cpuset")))
    assert files(*sizes) == [str(100 * MIB), str(120 * MIB)]
    words = "--pids-limit 9 --cpu-quota 20000 --cpu-period 50000 --cpu-share 300 --cpuset-cpus 0 --memory-reservation 9m".split()
    oci("update", *words, "one")
    names = ("pids.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares", "cpuset.cpus", "memory.soft_limit_in_bytes")
    assert files(*names) == ["9", "20000", "50000", "300", "0", str(9 * MIB)]
    oci("update", "--cpu-period", "10000", "--cpu-quota", "5000", "--cpu-burst", "2000", "one")
    oci("update", "--cpu-period", "100000", "--cpu-quota", "1000", "--cpu-burst", "0", "one")
    assert files("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us") == ["1000", "100000", "0"]
    oci("update", "--memory", "-1", "--pids-limit", "-1", "--cpu-quota", "-1", "one")
    assert files("pids.max", "cpu.cfs_quota_us") == ["max", "-1"] and all(int(one) > 1 << 62 for one in files(*sizes))
    stats = json.loads(oci("events", "--stats", "one").stdout)["data"]
    assert stats["memory"]["usage"]["usage"] == int(files("memory.usage_in_bytes")[0]) > 0
    assert stats["pids"] == {"current": 1, "limit": (1 << 64) - 1} and stats["cpu"]["usage"]["total"] > 0, pid
    less = told_in_a_file(oci, {"memory": {"limit": 4096, "checkBeforeUpdate": True}})
    refused(oci, "--resources", less, "one", verb="update", told=("in use",))
    oci("delete", "--force", "one")


def told_in_a_file(oci: Hybrid, resources: dict[str, Any]) -> Path:
    (oci.folder / "resources").write_text(json.dumps(resources))
    return oci.folder / "resources"


def test_kills_are_told(oci: Hybrid) -> None:
    oci.config["mounts"].append({"destination": "/eaten", "type": "tmpfs", "source": "tmpfs"})
    limit(oci, memory={"limit": 24 * MIB, "swap": 24 * MIB})
    oci.command("/bin/sh", "-c", f"while ! test -e /go; do sleep 0.1; done; ({EAT} 2>/dev/null); sleep 1000")
    oci("run", "--detach", "one")
    words = [str(word) for word in (oci.program, "--root", oci.root, "events", "--interval", "100ms", "one")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["type"] == "stats"
        (oci.bundle / "rootfs" / "go").touch()
        while json.loads(watching.stdout.readline())["type"] != "oom":
            pass
        watching.send_signal(signal.SIGTERM)
    oci("delete", "--force", "one")


def test_without_limits_there_are_no_groups(oci: Hybrid, tmp_path: Path) -> None:
    """Nor Python, the second time; unless a client has chosen the cgroup, which will look there."""
    alone = Alone(tmp_path / "alone", oci)
    oci.program = wrapped(tmp_path / "hybrid", alone.program)
    without = {"env": {**os.environ, "ALONE": "1"}}
    path = oci.config["linux"].pop("cgroupsPath")
    limit(oci, memory={"limit": 0, "swap": -1}, pids={"limit": -1}, cpu={"shares": 0, "quota": -1})
    oci.config["process"]["env"].append("HOME=/")
    oci.command("/bin/sleep", "1000")
    oci("run", "--detach", ONE)
    assert groups(ONE) == set() and len(recipes(oci)) == 1
    oci("exec", ONE, "true", **without)
    oci("kill", ONE, "KILL", **without)
    wait_until(lambda: oci.state(ONE)["status"] == "stopped")
    oci("delete", ONE, **without)
    oci("create", ONE, **without)
    oci("delete", ONE, **without)
    oci.config["linux"]["cgroupsPath"] = path
    for more in ({"pids": {"limit": 5}}, {}):
        limit(oci, **more)
        oci.command("/bin/sleep", "1000")
        oci("create", "one")
        oci("start", "one", **without)
        assert len(recipes(oci)) == 1 and groups(ONE) == {f"{name}/{ONE}" for name in CONTROLLERS}
        assert json.loads(oci("events", "--stats", "one").stdout)["data"]["memory"]["usage"]["usage"] < MIB
        oci("update", "--memory", "50m", "--memory-swap", "50m", "one")
        assert files("memory.limit_in_bytes") == [str(50 * MIB)]
        oci("delete", "--force", "one")


def test_limits_that_come_later(oci: Hybrid) -> None:
    """What was made without any is taken into groups then, all of it; but for memory, what is in use already would not count."""
    del oci.config["linux"]["cgroupsPath"]
    pid = oci.start_sleeping(ONE)
    oci("update", "--memory", "-1", "--pids-limit", "-1", ONE)
    assert groups(ONE) == set(), "that is how it is"
    oci("exec", "--detach", "--pid-file", oci.folder / "pid", ONE, "/bin/sh", "-c", "sleep 1000 & sleep 1000")
    others = [int((oci.folder / "pid").read_text())]
    wait_until(lambda: len(json.loads(oci("ps", "--format", "json", ONE).stdout)) == 3)
    refused(oci, "--memory", "50m", ONE, verb="update", told=("memory.limit_in_bytes", "version 1", "when it is created"))
    refused(oci, "--cpuset-cpus", "9999", ONE, verb="update", told=("cpuset.cpus", at("cpuset")))
    oci("update", "--pids-limit", "9", "--cpu-share", "77", ONE)
    assert files("pids.max", "cpu.shares", "cpuset.cpus")[:2] == ["9", "77"]
    for one in (pid, *others, *json.loads(oci("ps", "--format", "json", ONE).stdout)):
        assert {name for name, path in places(one).items() if path.endswith(f"/{ONE}")} == {"", "pids", "cpu", "cpuset", "blkio"}
    assert json.loads(oci("exec", ONE, "/probe", "fork", "40").stdout) <= 4
    refused(oci, "--memory", "50m", ONE, verb="update", told=("memory.limit_in_bytes", "version 1", "when it is created"))
    oci("update", "--pids-limit", "8", ONE)
    assert files("pids.max") == ["8"]
    oci("kill", ONE, "KILL")
    wait_until(lambda: oci.state(ONE)["status"] == "stopped")
    oci("delete", ONE)
