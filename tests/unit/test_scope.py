"""Limits become properties of a systemd unit."""

from __future__ import annotations

import pytest

from pyrun.errors import UsageError
from pyrun.plan.scope import properties_of, quota_of
from pyrun.pod.options import Options
from pyrun.pod.place import manager_of


@pytest.mark.parametrize(
    ("file", "text", "properties"),
    [
        ("memory.max", "67108864", [["MemoryMax", "t", str((64 + 16) << 20)]]),
        ("memory.max", "max", [["MemoryMax", "t", str((1 << 64) - 1)]]),
        ("memory.swap.max", "0", [["MemorySwapMax", "t", "0"]]),
        ("pids.max", "30", [["TasksMax", "t", "46"]]),
        ("cpu.weight", "50", [["CPUWeight", "t", "50"]]),
        ("io.weight", "default 20", [["IOWeight", "t", "20"]]),
        ("cpu.max", "150000 100000", [["CPUQuotaPerSecUSec", "t", "1500000"], ["CPUQuotaPeriodUSec", "t", "100000"]]),
        ("cpu.max", "600000 900000", [["CPUQuotaPerSecUSec", "t", "670000"], ["CPUQuotaPeriodUSec", "t", "900000"]]),
        ("cpu.max", "max 100000", [["CPUQuotaPerSecUSec", "t", str((1 << 64) - 1)], ["CPUQuotaPeriodUSec", "t", "100000"]]),
        ("cpuset.cpus", "0-2,9", [["AllowedCPUs", "ay", "2", "7", "2"]]),
        ("cpuset.cpus", "99999999999", []),
        ("cpuset.mems", "0-99999999999", []),
        ("io.max", "8:0 rbps=1", []),
    ],
)
def test_properties(file: str, text: str, properties: list[list[str]]) -> None:
    assert properties_of([(file, text)]) == properties


def test_a_quota_is_in_whole_percents_of_a_processor() -> None:
    """Which is what systemd keeps of it; never less than was asked for."""
    assert [quota_of(text) for text in ("600000 900000", "1 100000", "50000", "max 100000", "max")] == [
        "603000 900000", "1000 100000", "50000 100000", "max 100000", "max 100000",
    ]  # fmt: skip
    for text in ("x", "1000 0", "", "1000 x"):
        with pytest.raises(ValueError):
            quota_of(text)
        assert properties_of([("cpu.max", text)]) == []


def test_a_unit_that_is_bounded_as_exactly_as_what_is_in_it() -> None:
    assert properties_of([("memory.max", "67108864"), ("pids.max", "30")], more={}) == [
        ["MemoryMax", "t", "67108864"],
        ["TasksMax", "t", "30"],
    ]


def options(**given: object) -> Options:
    made = Options("/nowhere")
    vars(made).update(given)
    return made


@pytest.mark.parametrize("name", ["batch.slice", "batch-night.slice", "-.slice", "a_b:c.d.slice", r"a\x2db.slice"])
def test_a_slice_makes_systemd_the_manager(name: str) -> None:
    for manager in (None, "auto", "systemd"):
        assert manager_of(options(slice=name, cgroup_manager=manager)) == ["@systemd", f"@slice={name}"]
    with pytest.raises(UsageError, match="only systemd has slices"):
        manager_of(options(slice=name, cgroup_manager="cgroupfs"))


@pytest.mark.parametrize(
    "name", ["", "batch", "x.scope", "a/b.slice", "../x.slice", "a b.slice", "-a.slice", "a-.slice", "a--b.slice", "x" * 250 + ".slice"]
)
def test_what_is_no_slice(name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a slice"):
        manager_of(options(slice=name))


def test_nobody_is_asked_for_nothing() -> None:
    assert manager_of(options()) == manager_of(options(cgroup_manager="auto")) == []
    assert manager_of(options(cgroup_manager="cgroupfs")) == ["@cgroupfs"]
