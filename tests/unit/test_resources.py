"""`linux.resources` of the OCI becomes files of a cgroup, or one clear error that names its JSON path."""

from __future__ import annotations

from typing import Any

import pytest

from pyrun.errors import ConfigError
from pyrun.plan.resources import of_resources, weight_of_shares

MIB = 1 << 20


def made(resources: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
    return [(file, text) for file, text, _ in of_resources(resources, **more)]


@pytest.mark.parametrize(
    ("resources", "limits"),
    [
        ({}, []),
        ({"memory": {"limit": 64 * MIB}}, [("memory.max", "67108864")]),
        ({"memory": {"limit": 0, "swap": 0, "reservation": 0, "kernel": 0, "disableOOMKiller": False}, "pids": {"limit": 0}}, []),
        ({"memory": {"swap": 0}}, [("memory.swap.max", "0")]),
        ({"memory": {"limit": MIB, "swap": 0}}, [("memory.max", str(MIB)), ("memory.swap.max", "0")]),
        ({"memory": {"limit": -1, "swap": 0}}, [("memory.swap.max", "0")]),
        ({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1, "burst": 0, "idle": 0}}, []),
        ({"memory": {"limit": 64 * MIB, "swap": 80 * MIB}}, [("memory.max", str(64 * MIB)), ("memory.swap.max", str(16 * MIB))]),
        ({"memory": {"limit": MIB, "swap": MIB}}, [("memory.max", str(MIB)), ("memory.swap.max", "0")]),
        ({"memory": {"limit": 2 * MIB, "reservation": MIB}}, [("memory.max", str(2 * MIB)), ("memory.low", str(MIB))]),
        ({"memory": {"reservation": -1}}, [("memory.low", "max")]),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "100")]),
        ({"cpu": {"shares": 0, "quota": 0, "period": 0}}, []),
        ({"cpu": {"quota": 50000}}, [("cpu.max", "50000 100000")]),
        ({"cpu": {"quota": 5000, "period": 10000, "burst": 2000}}, [("cpu.max", "5000 10000"), ("cpu.max.burst", "2000")]),
        ({"cpu": {"period": 50000}}, [("cpu.max", "max 50000")]),
        ({"cpu": {"idle": 1, "cpus": "0-1", "mems": "0"}}, [("cpu.idle", "1"), ("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        ({"pids": {"limit": 32}}, [("pids.max", "32")]),
        ({"blockIO": {"weight": 10}}, [("io.weight", "default 1")]),
        (
            {"blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 505}]}},
            [("io.weight", "default 10000"), ("io.weight", "8:0 5000")],
        ),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}, []),
        (
            {
                "blockIO": {
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}, {"major": 8, "minor": 16, "rate": 500}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 300}],
                }
            },
            [("io.max", "8:0 rbps=600 wiops=300"), ("io.max", "8:16 rbps=500")],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, [("hugetlb.2MB.max", "0"), ("hugetlb.2MB.rsvd.max", "0")]),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}}}, [("rdma.max", "mlx5_1 hca_handle=3 hca_object=10")]),
        ({"network": {"classID": 0, "priorities": []}}, []),
        ({"unified": {"memory.high": "1048576"}, "memory": {"limit": 2 * MIB}}, [("memory.max", str(2 * MIB)), ("memory.high", "1048576")]),
        ({"unified": {"memory.max": "max"}, "memory": {"limit": 2 * MIB}}, []),
        ({"unified": {"io.max": "8:0 rbps=1\n8:16 wbps=2\n"}}, [("io.max", "8:0 rbps=1"), ("io.max", "8:16 wbps=2")]),
    ],
)
def test_a_new_cgroup(resources: dict[str, Any], limits: list[tuple[str, str]]) -> None:
    assert made(resources) == limits


@pytest.mark.parametrize(
    ("resources", "path", "says"),
    [
        ({"memory": {"limit": -2}}, "memory.limit", "whole number"),
        ({"memory": {"limit": 1 << 63}}, "memory.limit", "whole number"),
        ({"memory": {"limit": True}}, "memory.limit", "whole number"),
        ({"memory": {"limit": "64Mi"}}, "memory.limit", "whole number"),
        ({"memory": {"limit": 1.5}}, "memory.limit", "whole number"),
        ({"memory": []}, "memory", "not an object"),
        ({"memory": {"swap": MIB}}, "memory.swap", "no limit of memory"),
        ({"memory": {"swap": MIB, "limit": -1}}, "memory.swap", "no limit of memory"),
        ({"memory": {"swap": MIB, "limit": 2 * MIB}}, "memory.swap", "below memory.limit"),
        ({"memory": {"reservation": 2 * MIB, "limit": MIB}}, "memory.reservation", "above memory.max"),
        ({"memory": {"kernel": MIB}}, "memory.kernel", "version 2"),
        ({"memory": {"kernelTCP": MIB}}, "memory.kernelTCP", "version 2"),
        ({"memory": {"swappiness": 0}}, "memory.swappiness", "version 2"),
        ({"memory": {"swappiness": 60}}, "memory.swappiness", "version 2"),
        ({"memory": {"disableOOMKiller": True}}, "memory.disableOOMKiller", "version 2"),
        ({"cpu": {"realtimeRuntime": 950000}}, "cpu.realtimeRuntime", "version 2"),
        ({"cpu": {"realtimePeriod": 1000000}}, "cpu.realtimePeriod", "version 2"),
        ({"cpu": {"quota": 999}}, "cpu.quota", "too little"),
        ({"cpu": {"period": 999}}, "cpu.period", "microseconds"),
        ({"cpu": {"period": 1000001}}, "cpu.period", "microseconds"),
        ({"cpu": {"idle": 2}}, "cpu.idle", "0 to 1"),
        ({"cpu": {"idle": 1, "shares": 2}}, "cpu.idle", "no share"),
        ({"cpu": {"shares": -1}}, "cpu.shares", "whole number"),
        ({"cpu": {"quota": 5000, "burst": 6000}}, "cpu.burst", "above cpu.max"),
        ({"cpu": {"cpus": "0;1"}}, "cpu.cpus", "not a list"),
        ({"cpu": {"mems": "0\n1"}}, "cpu.mems", "line of text"),
        ({"pids": {"limit": 4194305}}, "pids.limit", "more than"),
        ({"blockIO": {"weight": 9}}, "blockIO.weight", "10 to 1000"),
        ({"blockIO": {"leafWeight": 10}}, "blockIO.leafWeight", "version 2"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 10}]}}, "blockIO.weightDevice[0].leafWeight", "version 2"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "rate": 1}]}}, "blockIO.throttleReadBpsDevice[0].major", "major and minor"),
        ({"blockIO": {"throttleReadBpsDevice": {"major": 8}}}, "blockIO.throttleReadBpsDevice", "not a list"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, "hugepageLimits[0].pageSize", "size of a page"),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, "hugepageLimits[0].pageSize", "size of a page"),
        ({"hugepageLimits": [{"pageSize": "2MB"}]}, "hugepageLimits[0].limit", "missing"),
        ({"rdma": {"mlx5 1": {"hcaHandles": 3}}}, "rdma.mlx5 1", "not a device"),
        ({"rdma": {"mlx5": {}}}, "rdma.mlx5", "not a device"),
        ({"network": {"classID": 1048577}}, "network.classID", "not to be had"),
        ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "network.priorities", "not to be had"),
        ({"unified": {"../memory.max": "1"}}, 'unified."../memory.max"', "not a file"),
        ({"unified": {"/memory.max": "1"}}, 'unified."/memory.max"', "not a file"),
        ({"unified": {"memory..max": "1"}}, 'unified."memory..max"', "not a file"),
        (
            {"unified": {"memory": "1"}},
            'unified."memory"',
            "not a file of a controller: the specified key has not the form CONTROLLER.VALUE `memory`",
        ),
        ({"unified": {"memory.": "1"}}, 'unified."memory."', "not a file"),
        ({"unified": {"": "1"}}, 'unified.""', "not a file"),
        ({"unified": {"fs.x": "1"}}, 'unified."fs.x"', "not a file"),
        ({"unified": {"foo.max": "1"}}, 'unified."foo.max"', "the requested cgroup controller `foo` is not available"),
        ({"unified": {"cgroup.procs": "1"}}, 'unified."cgroup.procs"', "not a limit"),
        ({"unified": {"memory.pressure": "some 1 2"}}, 'unified."memory.pressure"', "not a limit"),
        ({"unified": {"memory.max": 1}}, 'unified."memory.max"', "not a text"),
        ({"unified": {"memory.max": " \n"}}, 'unified."memory.max"', "not a text"),
    ],
)
def test_what_cannot_hold_is_refused(resources: dict[str, Any], path: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of_resources(resources)
    assert caught.value.origin == "linux.resources." + path and says in str(caught.value) and "\n" not in str(caught.value)


def test_an_update_completes_what_is_given_half() -> None:
    held = {"memory.max": f"{64 * MIB}\n", "memory.current": f"{32 * MIB}\n", "cpu.max": "5000 20000\n"}
    assert made({"cpu": {"quota": 7000}}, held=held) == [("cpu.max", "7000 20000")]
    assert made({"cpu": {"period": 50000}}, held=held) == [("cpu.max", "5000 50000")]
    assert made({"memory": {"swap": 80 * MIB}}, held=held) == [("memory.swap.max", str(16 * MIB))]
    assert made({"memory": {"limit": -1}, "pids": {"limit": -1}}, held=held) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
    ]
    assert made({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}, held={}) == [("io.max", "8:0 rbps=max")]
    small = {"memory": {"limit": 16 * MIB, "checkBeforeUpdate": True}}
    with pytest.raises(ConfigError, match="in use"):
        of_resources(small, held=held)
    assert made({"memory": {"limit": 16 * MIB}}, held=held) == [("memory.max", str(16 * MIB))]


def test_weights_of_the_bfq_scheduler() -> None:
    both = {"blockIO": {"weight": 505, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}, {"major": 8, "minor": 16, "weight": 20}]}}
    files = {"default": ("io.weight", "io.bfq.weight"), "8:0": ("io.weight",), "8:16": ("io.bfq.weight",)}
    assert made({"blockIO": {"weight": 500}}, weighed=lambda _: ("io.bfq.weight",)) == [("io.bfq.weight", "default 500")]
    assert made(both, weighed=files.__getitem__) == [
        ("io.weight", "default 5000"),
        ("io.bfq.weight", "default 505"),
        ("io.weight", "8:0 1"),
        ("io.bfq.weight", "8:16 20"),
    ]


@pytest.mark.parametrize(
    ("shares", "weight"), [(0, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262144, 10000), (1 << 40, 10000)]
)
def test_shares_of_version_1(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_weights_rise_with_shares() -> None:
    weights = [weight_of_shares(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights) and weights[0] == 1


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        ({"limit": 1024}, "rejecting memory limit 1024"),
        ({"limit": 1024, "swap": 2048}, r"rejecting memory\+swap limit 2048"),
        ({"swap": 2048}, "swap"),
    ],
)
def test_memory_that_is_in_use_is_not_taken_away_on_demand(memory: dict[str, int], words: str) -> None:
    held = {"memory.max": "max", "memory.current": "4096"}
    with pytest.raises(ConfigError, match=words):
        of_resources({"memory": {**memory, "checkBeforeUpdate": True}}, held=held)
    assert made({"memory": {"limit": 8192, "checkBeforeUpdate": True}}, held=held) == [("memory.max", "8192")]
