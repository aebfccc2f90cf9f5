"""Limits of version 2 become files of version 1, or one clear error."""

from __future__ import annotations

import pytest

from pyrun.errors import HostError
from pyrun.plan.resources import weight_of_shares
from pyrun.plan.version1 import nested, raised, shares_of_weight, split, version_1, with_swap


@pytest.mark.parametrize(
    ("limits", "files"),
    [
        ([("memory.max", "1048576")], ["memory.limit_in_bytes=1048576"]),
        ([("memory.max", "max")], ["memory.limit_in_bytes=-1"]),
        ([("memory.low", "4096")], ["memory.soft_limit_in_bytes=4096"]),
        (
            [("memory.max", "100"), ("memory.swap.max", "20")],
            ["memory.limit_in_bytes=100", "memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=120"],
        ),
        ([("memory.swap.max", "max")], ["memory.memsw.limit_in_bytes=-1"]),
        ([("cpu.max", "50000 100000")], ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"]),
        ([("cpu.max", "max 20000")], ["cpu.cfs_period_us=20000", "cpu.cfs_quota_us=-1"]),
        ([("cpu.max.burst", "2000")], ["cpu.cfs_burst_us=2000"]),
        ([("cpu.weight", "100")], ["cpu.shares=1024"]),
        ([("cpu.idle", "1")], ["cpu.idle=1"]),
        ([("cpuset.cpus", "0-1")], ["cpuset.cpus=0-1", "cpuset.mems=0-3"]),
        ([("cpuset.mems", "0")], ["cpuset.mems=0", "cpuset.cpus=0-7"]),
        ([("pids.max", "max")], ["pids.max=max"]),
        ([("io.max", "8:0 rbps=600 wiops=max")], ["blkio.throttle.read_bps_device=8:0 600", "blkio.throttle.write_iops_device=8:0 0"]),
        ([("io.weight", "default 10000")], ["blkio.bfq.weight=1000"]),
        ([("io.weight", "8:0 1")], ["blkio.bfq.weight_device=8:0 10"]),
        (
            [("hugetlb.2MB.max", "0"), ("hugetlb.2MB.rsvd.max", "max")],
            ["hugetlb.2MB.limit_in_bytes=0", "hugetlb.2MB.rsvd.limit_in_bytes=-1"],
        ),
    ],
)
def test_files(limits: list[tuple[str, str]], files: list[str]) -> None:
    made = version_1([(file, text, "x") for file, text in limits], {"cpuset.cpus": "0-7", "cpuset.mems": "0-3"})
    assert [f"{file}={text}" for _, file, text, _ in made] == files
    assert all(file.startswith(controller) and origin == "x" for controller, file, _, origin in made)


@pytest.mark.parametrize("file", ["memory.high", "memory.min", "memory.oom.group", "io.latency", "misc.max", "memory.swap.max"])
def test_what_it_cannot_do(file: str) -> None:
    with pytest.raises(HostError) as caught:
        version_1([(file, "1", "--flag")], {})
    assert "version 1" in str(caught.value) and caught.value.origin == "--flag" and caught.value.hint


def test_memory_and_swap_together_go_up_first() -> None:
    memory, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    made = version_1([("memory.max", "100", "--memory"), ("memory.swap.max", "20", "--swap")], None)
    assert [one[1] for one in raised(made, 99)] == [both, memory, memory]
    assert [one[1] for one in raised(made, 100)] == [memory, memory, both]
    forever = version_1([("memory.max", "max", "--memory"), ("memory.swap.max", "max", "--swap")], None)
    assert [one[1] for one in raised(forever, 1 << 40)] == [both, memory]
    assert raised(made[:1], 100) == made[:1] and raised(forever[:1], (1 << 63) - 4096) == forever[:1]
    with pytest.raises(HostError) as caught:
        raised(made[:1], 99)
    assert caught.value.origin == "--memory" and "99" in str(caught.value) and "--swap" in caught.value.hint


@pytest.mark.parametrize(
    ("asked", "memory", "together", "files"),
    [
        ({"memory.max": "200"}, 100, 100, ["memsw=200", "=200", "=200"]),  # no swap stays none
        ({"memory.max": "200"}, 100, 130, ["memsw=230", "=200", "=200"]),
        ({"memory.max": "50"}, 100, 100, ["=50", "=50", "memsw=50"]),  # down: that of both last
        ({"memory.max": "120"}, 100, 130, ["=120", "=120", "memsw=150"]),
        ({"memory.max": "200"}, 100, 1 << 62, ["=200"]),  # never limited
        ({"memory.swap.max": "40"}, 100, 100, ["=100", "=100", "memsw=140"]),
        ({"memory.swap.max": "max"}, 100, 100, ["memsw=-1"]),
        ({"pids.max": "9"}, 100, 100, ["pids.max=9"]),
    ],
)
def test_what_may_be_swapped_stays(asked: dict[str, str], memory: int, together: int, files: list[str]) -> None:
    made = version_1(with_swap([(file, text, "x") for file, text in asked.items()], memory, together), None)
    told = [f"{file}={text}" for _, file, text, _ in raised(made, together)]
    assert [one.replace("memory.", "").replace(".limit_in_bytes", "").replace("limit_in_bytes", "") for one in told] == files


def test_no_limit_of_memory_with_one_of_both() -> None:
    with pytest.raises(HostError) as caught:
        raised(version_1(with_swap([("memory.max", "max", "--memory")], 100, 100), None), 100)
    assert "--swap" in caught.value.hint
    with pytest.raises(HostError):
        version_1(with_swap([("memory.swap.max", "1", "--swap")], 1 << 62, 1 << 62), None)


def test_groups_of_several_apps() -> None:
    """Each hierarchy that is used has both groups, the upper one first; a cpuset is filled from the one above."""
    held = {"cpuset.cpus": "0-7", "cpuset.mems": "0-1"}
    pod = [("/m/p", "memory.limit_in_bytes", "9", "P"), ("/s/p", "cpuset.cpus", "0-3", "P"), ("/s/p", "cpuset.mems", "0-1", "P")]
    app = [("/i/p", "pids.max", "5", "A"), ("/b/p", "blkio.throttle.read_bps_device", "8:0 1", "A")]
    above, below = nested(pod, app, "a", held)
    assert above == [*pod, ("/i/p", "pids.max", "max", "A"), ("/b/p", "notify_on_release", "0", "A")]
    assert below == [
        ("/i/p/a", "pids.max", "5", "A"),
        ("/b/p/a", "blkio.throttle.read_bps_device", "8:0 1", "A"),
        ("/m/p/a", "memory.limit_in_bytes", "-1", "P"),
        ("/s/p/a", "cpuset.cpus", "0-3", "P"),
        ("/s/p/a", "cpuset.mems", "0-1", "P"),
    ]
    own = version_1([("cpuset.mems", "0", "A")], held)
    above, below = nested(pod[1:], [("/s/p", *one[1:]) for one in own], "a", held)
    assert (above, [one[2] for one in below]) == (pod[1:], ["0", "0-3"]), "what the app does not limit is what the pod has"
    above, below = nested([], [("/s/p", *one[1:]) for one in own], "a", held)
    assert [one[1:3] for one in above] == [("cpuset.cpus", "0-7"), ("cpuset.mems", "0-1")] and below[0][2] == "0"
    assert nested([], [], "a", held) == ([], [])


def test_each_controller_is_in_one_place() -> None:
    limits = [("memory.max", "1", ""), ("io.max", "8:0 rbps=1", ""), ("hugetlb.2MB.max", "0", ""), ("misc.max", "1", "")]
    new, old = split(limits, ["hugetlb"], {"memory": "/m", "blkio": "/b", "hugetlb": "/h"})
    assert [one[0] for one in new] == ["hugetlb.2MB.max", "misc.max"] and [one[0] for one in old] == ["memory.max", "io.max"]


def test_weights_there_and_back() -> None:
    assert shares_of_weight(1) == 2 and shares_of_weight(10000) == 262144
    for weight in range(1, 10001, 7):
        assert abs(weight_of_shares(shares_of_weight(weight)) - weight) <= 1
