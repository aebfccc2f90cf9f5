"""`linux.resources` for controllers in cgroup version 1: which part goes where, as which files, or one clear error."""

from __future__ import annotations

from typing import Any

import pytest

from pyrun.errors import ConfigError, HostError
from pyrun.plan.resources1 import divided, of_resources_1

MIB = 1 << 20
EVERY = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "hugetlb", "rdma", "net_cls", "net_prio")


def made(resources: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    limits = of_resources_1(resources, **more)
    assert all(controller == file.partition(".")[0] and origin.startswith("linux.resources.") for controller, file, _, origin in limits)
    return [(file, text) for _, file, text, _ in limits]


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({}, []),
        ({"memory": {"limit": 0, "swap": 0, "kernel": 0, "disableOOMKiller": False}, "pids": {"limit": 0}, "network": {"classID": 0}}, []),
        ({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1, "burst": 0, "idle": 0, "shares": 0}}, []),
        (
            {"memory": {"limit": 9, "swap": 12, "reservation": 5, "kernelTCP": 3, "swappiness": 0, "disableOOMKiller": True}},
            [
                ("memory.limit_in_bytes", "9"),
                ("memory.memsw.limit_in_bytes", "12"),
                ("memory.soft_limit_in_bytes", "5"),
                ("memory.kmem.tcp.limit_in_bytes", "3"),
                ("memory.swappiness", "0"),
                ("memory.oom_control", "1"),
            ],
        ),
        (
            {"cpu": {"shares": 512, "quota": 5000, "period": 10000, "burst": 7, "cpus": "0-1", "mems": "0"}},
            [
                *(("cpu.shares", "512"), ("cpu.cfs_period_us", "10000"), ("cpu.cfs_quota_us", "5000"), ("cpu.cfs_burst_us", "7")),
                *(("cpuset.cpus", "0-1"), ("cpuset.mems", "0")),
            ],
        ),
        (
            {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 950000, "idle": 1}},
            [("cpu.idle", "1"), ("cpu.rt_period_us", "1000000"), ("cpu.rt_runtime_us", "950000")],
        ),
        ({"pids": {"limit": 5}}, [("pids.max", "5")]),
        (
            {"blockIO": {"weight": 100, "leafWeight": 20, "weightDevice": [{"major": 8, "minor": 0, "weight": 50}]}},
            [("blkio.weight", "100"), ("blkio.leaf_weight", "20"), ("blkio.weight_device", "8:0 50")],
        ),
        (
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 6}, {"major": 8, "minor": 16, "rate": 0}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 3}],
                }
            },
            [("blkio.throttle.read_bps_device", "8:0 6"), ("blkio.throttle.write_iops_device", "8:0 3")],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]},
            [("hugetlb.2MB.limit_in_bytes", "0"), ("hugetlb.2MB.rsvd.limit_in_bytes", "0")],
        ),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3}}}, [("rdma.max", "mlx5_1 hca_handle=3")]),
        (
            {"network": {"classID": 0x100001, "priorities": [{"name": "lo", "priority": 2}]}},
            [("net_cls.classid", "1048577"), ("net_prio.ifpriomap", "lo 2")],
        ),
        ({"unified": {"memory.max": "9", "io.max": "8:0 rbps=1\n8:16 wbps=2\n"}, "memory": {"limit": 5, "swappiness": 7}}, [
            ("memory.swappiness", "7"), ("memory.limit_in_bytes", "9"),
            ("blkio.throttle.read_bps_device", "8:0 1"), ("blkio.throttle.write_bps_device", "8:16 2"),
        ]),
    ],
)  # fmt: skip
def test_a_new_group(resources: dict[str, Any], limits: list[tuple[str, str]]) -> None:
    assert made(resources) == limits


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({"memory": {"limit": -1}}, [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")]),
        ({"memory": {"swap": 70}}, [("memory.memsw.limit_in_bytes", "70")]),
        ({"cpu": {"quota": -5, "burst": 0}}, [("cpu.cfs_quota_us", "-1"), ("cpu.cfs_burst_us", "0")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")]),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}, [("blkio.throttle.read_bps_device", "8:0 0")]),
    ],
)  # fmt: skip
def test_one_that_is_there(resources: dict[str, Any], limits: list[tuple[str, str]]) -> None:
    assert made(resources, used=50) == limits


@pytest.mark.parametrize(
    ("resources", "where"),
    [
        ({"memory": {"kernel": 5}}, "memory.kernel"),
        ({"memory": {"swap": 5}}, "memory.swap"),
        ({"memory": {"limit": 9, "swap": 5}}, "memory.swap"),
        ({"memory": {"limit": -1, "swap": 5}}, "memory.swap"),
        ({"memory": {"swappiness": 101}}, "memory.swappiness"),
        ({"cpu": {"shares": 5, "idle": 1}}, "cpu.idle"),
        ({"cpu": {"quota": 5}}, "cpu.quota"),
        ({"cpu": {"period": 5}}, "cpu.period"),
        ({"cpu": {"cpus": "a"}}, "cpu.cpus"),
        ({"pids": {"limit": 1 << 40}}, "pids.limit"),
        ({"blockIO": {"leafWeight": 5}}, "blockIO.leafWeight"),
        ({"blockIO": {"weightDevice": [{"weight": 50}]}}, "blockIO.weightDevice[0].major"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 1}]}}, "blockIO.throttleReadBpsDevice[0].rate"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, "hugepageLimits[0].pageSize"),
        ({"hugepageLimits": [{"pageSize": "2MB"}]}, "hugepageLimits[0].limit"),
        ({"unified": {"memory.max": 5}}, "unified.memory.max"),
        ({"unified": {"cgroup.freeze": "1"}}, 'unified."cgroup.freeze"'),
        ({"unified": {"memory.high": "5"}}, 'unified."memory.high"'),
    ],
)
def test_what_is_refused(resources: dict[str, Any], where: str) -> None:
    with pytest.raises((ConfigError, HostError)) as caught:
        of_resources_1(resources)
    assert caught.value.origin == f"linux.resources.{where}" and caught.value.hint


def test_not_below_what_is_in_use() -> None:
    with pytest.raises(ConfigError, match="50 bytes in use"):
        of_resources_1({"memory": {"limit": 40, "checkBeforeUpdate": True}}, used=50)


@pytest.mark.parametrize(
    ("old", "rest", "taken"),
    [
        ((), {}, {}),
        (("memory",), {}, {"memory": {"limit": 1}}),
        (("cpuset",), {}, {"cpu": {"cpus": "0"}}),
        (("cpu", "net_prio"), {}, {"cpu": {"shares": 2}, "network": {"priorities": []}}),
        (EVERY, {"devices": [{"allow": False}]}, None),
    ],
)
def test_what_goes_where(old: tuple[str, ...], rest: dict[str, Any], taken: dict[str, Any] | None) -> None:
    """Nothing is lost, and nothing is on both sides."""
    whole: dict[str, Any] = {
        "devices": [{"allow": False}], "memory": {"limit": 1}, "cpu": {"cpus": "0", "shares": 2}, "pids": {"limit": 3},
        "network": {"classID": 4, "priorities": []}, "unified": {"memory.high": "5", "io.max": "8:0 rbps=1"},
    }  # fmt: skip
    kept, found = divided(whole, old)
    for name, value in whole.items():
        if isinstance(value, dict):
            assert {**kept.get(name, {}), **found.get(name, {})} == value
            assert not set(kept.get(name, {})) & set(found.get(name, {}))
        else:
            assert kept[name] == value
    assert found.get("unified", {}).keys() == {file for file in whole["unified"] if {"io.max": "blkio"}.get(file, "memory") in old}
    if taken is not None:
        assert {name: value for name, value in found.items() if name != "unified"} == taken
    else:
        assert {name: value for name, value in kept.items() if value} == rest
