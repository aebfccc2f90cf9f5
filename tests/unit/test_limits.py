"""Flags and isolators become files of a cgroup, or one clear error."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pyrun.cli.parse import parse
from pyrun.cli.run import _is_here
from pyrun.errors import ConfigError, PyrunError, UsageError
from pyrun.pod import limits
from pyrun.pod.options import LIMITS, Options


def made(*isolators: dict[str, Any], **wanted: object) -> dict[str, str]:
    options = Options("/root")
    for name, value in wanted.items():
        assert name in LIMITS
        setattr(options, name, value)
    assert options.limited or not wanted or isolators
    return {file: text for file, text, _ in limits.of(options, isolators)}


@pytest.mark.parametrize(
    ("name", "value", "file", "text"),
    [
        ("memory", "64Mi", "memory.max", "67108864"),
        ("memory", "1.5G", "memory.max", "1500000000"),
        ("memory", "4194304B", "memory.max", "4194304"),
        ("memory", 4 << 20, "memory.max", "4194304"),
        ("memory_high", "2000k", "memory.high", "2000000"),
        ("memory_low", "1Mi", "memory.low", "1048576"),
        ("swap", "0", "memory.swap.max", "0"),
        ("swap", 0, "memory.swap.max", "0"),
        ("oom_group", True, "memory.oom.group", "1"),
        ("cpus", "0.5", "cpu.max", "50000 100000"),
        ("cpus", 0.5, "cpu.max", "50000 100000"),
        ("cpus", "250m", "cpu.max", "25000 100000"),
        ("cpus", 2, "cpu.max", "200000 100000"),
        ("cpu_weight", "10000", "cpu.weight", "10000"),
        ("cpu_idle", True, "cpu.idle", "1"),
        ("cpuset_cpus", "0", "cpuset.cpus", "0"),
        ("pids_limit", "20", "pids.max", "20"),
        ("io_weight", "7", "io.weight", "default 7"),
        ("cgroup_set", ["hugetlb.2MB.max=0"], "hugetlb.2MB.max", "0"),
        ("rdma", ["mlx4_0:hca_handle=2,hca_object=max"], "rdma.max", "mlx4_0 hca_handle=2 hca_object=max"),
        ("misc", ["res_a=3"], "misc.max", "res_a 3"),
    ],
)
def test_a_value_and_its_file(name: str, value: object, file: str, text: str) -> None:
    assert made(**{name: value}) == {file: text}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"memory": "16m"}, "16M"),
        ({"memory": "1048576"}, "1048576B"),
        ({"memory": "64MiB"}, "64Mi"),
        ({"memory": "-1"}, "not a size"),
        ({"memory": ""}, "not a size"),
        ({"memory": "1e9"}, "not a size"),
        ({"memory": "0"}, "too little"),
        ({"memory": "9" * 18 + "G"}, "more than there can be"),
        ({"cpus": "0"}, "too little"),
        ({"cpus": "-1"}, "not a number of processors"),
        ({"cpus": "2k"}, "not a number of processors"),
        ({"cpus": "nan"}, "not a number of processors"),
        ({"cpu_weight": "0"}, "1 to 10000"),
        ({"cpu_weight": "10001"}, "1 to 10000"),
        ({"cpu_burst": "20"}, "not a time"),
        ({"cpu_burst": "20ms"}, "--cpus"),
        ({"cpu_burst": "200ms", "cpus": "1"}, "above"),
        ({"cpu_idle": True, "cpu_weight": "5"}, "weight"),
        ({"cpuset_cpus": "99999"}, "not there"),
        ({"cpuset_cpus": "1-"}, "not a list"),
        ({"cpuset_cpus": "a"}, "not a list"),
        ({"pids_limit": "1"}, "2 to"),
        ({"pids_limit": "-1"}, "2 to"),
        ({"pids_limit": "\u0662\u0660"}, "2 to"),
        ({"memory": "64Mi", "memory_high": "65Mi"}, "above memory.max"),
        ({"memory": "64Mi", "memory_low": "65Mi"}, "above memory.max"),
        ({"memory_high": "64Mi", "memory_min": "65Mi"}, "above memory.high"),
        ({"cgroup_set": ["../x=1"]}, "not a file"),
        ({"cgroup_set": ["memory/../x.y=1"]}, "not a file"),
        ({"cgroup_set": ["memory=1"]}, "not a file"),
        ({"cgroup_set": ["memory.pressure=1"]}, "not a limit"),
        ({"cgroup_set": ["memory.max="]}, "FILE=VALUE"),
        ({"cgroup_set": ["memory.max=1\n2"]}, "FILE=VALUE"),
        ({"cgroup_set": ["cgroup.procs=1"]}, "cgroup."),
        ({"cgroup_set": ["memory.max=9"], "memory": "64Mi"}, "twice"),
        ({"io_max": ["/dev/null:rbps=1M"]}, "block device"),
        ({"io_max": ["/missing:rbps=1M"]}, "no such file"),
        ({"io_latency": ["20ms"]}, "PATH:TIME"),
        ({"io_latency": ["/dev/null:20ms"]}, "block device"),
        ({"hugetlb": ["3MB=0"]}, "PAGE=SIZE"),
        ({"hugetlb": ["2MB=10"]}, "unit"),
        ({"hugetlb": ["2MB=0", "2MB=1Mi"]}, "once"),
        ({"rdma": ["mlx4_0"]}, "DEVICE:"),
        ({"rdma": ["mlx4_0:handles=1"]}, "DEVICE:"),
        ({"rdma": ["../x:hca_handle=1"]}, "DEVICE:"),
        ({"misc": ["res_a"]}, "NAME=N"),
        ({"misc": ["res_a=-1"]}, "NAME=N"),
        ({"misc": ["a b=1"]}, "NAME=N"),
        ({"io_max": ["/dev/vda"]}, "RATE=AMOUNT"),
        ({"io_max": ["/dev/vda:speed=1"]}, "RATE=AMOUNT"),
        ({"io_max": ["/dev/vda:rbps=1M,rbps=2M"]}, "RATE=AMOUNT"),
        ({"io_max": ["/dev/vda:rbps=0"]}, "rbps"),
    ],
)
def test_what_makes_no_sense_is_refused(wanted: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**wanted)
    assert says in f"{caught.value} {caught.value.hint}" and caught.value.origin.startswith("--")


def test_isolators() -> None:
    memory = {"name": "resource/memory", "value": {"limit": "64Mi", "request": "8Mi"}}
    cpu = {"name": "resource/cpu", "value": {"limit": "500m", "request": "1"}}
    assert made(memory, cpu) == {"memory.max": "67108864", "memory.low": "8388608", "cpu.max": "50000 100000", "cpu.weight": "100"}
    assert made(memory, memory="100Mi")["memory.max"] == str(100 << 20), "a flag beats it"
    assert made(memory, memory="max", memory_low="0") == made(memory="max") == made(cpus="max", pids_limit="max") == {}, "nothing to write"
    assert made({"name": "os/linux/cpu-shares", "value": 1024}) == {"cpu.weight": "100"}
    assert made({"name": "resource/memory", "value": {"limit": 67108864}}) == {"memory.max": "67108864"}, "a number is one of bytes"
    with pytest.raises(ConfigError) as caught:
        made({"name": "resource/memory", "value": {"limit": "16m"}})
    assert "16M" in caught.value.hint and caught.value.origin == "isolator resource/memory"


def test_a_disk_is_a_whole_one() -> None:
    disks = [entry for entry in os.listdir("/sys/block") if os.path.exists(f"/dev/{entry}")]
    if not disks:
        pytest.fail("there is no disk in /sys/block that has a node in /dev")
    with open(f"/sys/block/{disks[0]}/dev") as file:
        number = file.read().strip()
    assert made(io_max=[f"/dev/{disks[0]}:rbps=1M,wiops=5"]) == {"io.max": f"{number} rbps=1000000 wiops=5"}
    with pytest.raises(PyrunError):
        made(io_max=[f"/dev/{disks[0]}:rbps=1M", f"/dev/{disks[0]}:wbps=1M"])


def test_huge_pages() -> None:
    assert made(hugetlb=["2MB=64Mi", "1GB=max"]) == {
        "hugetlb.2MB.max": "67108864",
        "hugetlb.2MB.rsvd.max": "67108864",
        "hugetlb.1GB.max": "max",
        "hugetlb.1GB.rsvd.max": "max",
    }


def test_ace_81_isolators_of_disks_are_for_all_of_them() -> None:
    """ACE-81: every disk, reading and writing; a flag changes what it names and leaves the rest."""
    disks = limits._disks()
    assert disks, "there is no disk"
    bandwidth = {"name": "resource/block-bandwidth", "value": {"default": True, "limit": "2M"}}
    iops = {"name": "resource/block-iops", "value": {"default": True, "limit": "100"}}
    lines = [text for file, text, _ in limits.of(Options("/root"), [bandwidth, iops]) if file == "io.max"]
    assert sorted(lines) == sorted(f"{disk} rbps=2000000 wbps=2000000 riops=100 wiops=100" for disk in disks)
    for name in os.listdir("/sys/block"):
        with open(f"/sys/block/{name}/dev") as file:
            number = file.read().strip()
        if number in disks and os.path.exists(f"/dev/{name}"):
            options = Options("/root")
            options.io_max = [f"/dev/{name}:wbps=5M"]
            lines = [text for _, text, _ in limits.of(options, [bandwidth]) if text.startswith(number + " ")]
            assert lines == [f"{number} rbps=2000000 wbps=5000000"]
            break
    with pytest.raises(ConfigError):
        limits.of(Options("/root"), [{"name": "resource/block-iops", "value": {"default": True, "limit": "0"}}])


def test_numbers_of_an_rdma_device_are_changed_one_by_one() -> None:
    """The kernel keeps those that are not written (cgroup-v2.rst, "RDMA"), and so does what is remembered for the next start."""
    options = Options("/nowhere")
    options.rdma = ["mlx4_0:hca_handle=3,hca_object=2000"]
    first = next(limit for limit in limits.of(options, []) if limit[0] == "rdma.max")
    changed = limits.with_rates(first, ("rdma.max", "mlx4_0 hca_object=max", "--rdma"))
    assert changed[1].split() == ["mlx4_0", "hca_handle=3", "hca_object=max"]


@pytest.mark.parametrize(
    ("wanted", "files", "directories"),
    [
        ({"memory": "64Mi", "pids_limit": "9", "cpus": "1"}, [], []),
        ({"cgroup_set": ["cpuset.cpus=0"]}, [], []),  # the kernel's to refuse
        ({"cpuset_cpus": "0", "cpuset_mems": "0"}, [], ["/sys/devices/system/cpu/cpu0/topology", "/sys/devices/system/node/node0"]),
        ({"io_max": ["/a/../dev/b:rbps=1M", "c:wbps=1M"], "io_latency": ["/d:1ms"]}, ["/dev/b", "CWD/c", "/d"], []),
    ],
)
def test_what_of_the_host_decides(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], files: list[str], directories: list[str]
) -> None:
    """A processor may be switched off, and a disk have another number after the next boot."""
    monkeypatch.setattr(limits, "_disk", lambda path, origin: str(len(path)))
    monkeypatch.setattr(limits, "read_small", lambda path: b"0")
    options = Options("/root")
    for name, value in wanted.items():
        setattr(options, name, value)
    found = limits.looked_at(options, limits.of(options, []))
    assert found == ([path.replace("CWD", os.getcwd()) for path in files], directories)


def test_every_disk_is_looked_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_disks", lambda: ["8:0"])
    options = Options("/root")
    asked = limits.of(options, [{"name": "resource/block-iops", "value": {"limit": "100"}}])
    assert asked and limits.looked_at(options, asked) is None


@pytest.mark.parametrize(("disk", "here"), [("/dev/a:rbps=1M", False), ("dev/a:rbps=1M", True), ("./x:rbps=1M", True)])
def test_a_relative_path_to_a_disk_means_another_one_elsewhere(disk: str, here: bool) -> None:
    for option, value in (("--io-max", disk), ("--io-latency", disk.replace("rbps=1M", "5ms"))):
        assert _is_here(parse(["run", option, "/b:rbps=1M", option, value, "example.com/x"])) == here
