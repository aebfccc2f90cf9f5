"""Resource limits: text form, ranges, defaults and what the host allows."""

from __future__ import annotations

import resource

import pytest

from pyrun.errors import UsageError
from pyrun.plan import rlimits

INF = rlimits.INFINITY


def test_numbers_are_those_of_this_kernel() -> None:
    for number, name in enumerate(rlimits.NAMES):
        if name != "locks":  # the resource module does not know it
            assert getattr(resource, f"RLIMIT_{name.upper()}") == number
    assert len(rlimits.NAMES) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nofile=1024:4096", (7, 1024, 4096)),
        ("core=0", (4, 0, 0)),
        ("RLIMIT_NPROC=5:unlimited", (6, 5, INF)),
        ("Stack=infinity", (3, INF, INF)),
        ("nice=40", (13, 40, 40)),
        ("rtprio=99:unlimited", (14, 99, INF)),
        ("as=18446744073709551614", (9, INF - 1, INF - 1)),
    ],
)
def test_parse(text: str, expected: tuple[int, int, int]) -> None:
    assert rlimits.parse(text) == expected
    assert rlimits.parse(rlimits.describe(expected)) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("nofile", "for example nofile=1024:4096"),
        ("nofile=", "for example nofile=1024:4096"),
        ("nofil=1", "did you mean nofile?"),
        ("xyzzy=1", "known: cpu"),
        ("nofile=2:1", "SOFT <= HARD"),
        ("nofile=unlimited:5", "SOFT <= HARD"),
        ("nofile=-1", "unlimited"),
        ("nofile=1:", "2^64-2"),
        ("nofile=1:2:3", "2^64-2"),
        ("nofile= 1", "2^64-2"),
        ("nofile=0x10", "2^64-2"),
        ("nofile=\u0661", "2^64-2"),
        ("nofile=18446744073709551615", "2^64-2"),
        ("nofile=" + "9" * 5000, "2^64-2"),
        ("nice=41", "getrlimit(2)"),
        ("rtprio=1:100", "getrlimit(2)"),
    ],
)
def test_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        rlimits.parse(text, "--rlimit 3")
    assert hint in caught.value.hint
    assert caught.value.origin == "--rlimit 3"


def test_defaults() -> None:
    assert [rlimits.describe(limit) for limit in rlimits.DEFAULTS] == [
        "core=0:0",
        "nofile=1024:4096",
        "memlock=65536:65536",
        "msgqueue=819200:819200",
    ]


def test_merge_prefers_what_was_asked_for() -> None:
    limits = rlimits.merge([(7, 10, 2048, "--rlimit nofile=10:2048"), (0, 1, 2, "--rlimit cpu=1:2")])
    assert limits == [
        (0, 1, 2, "--rlimit cpu=1:2"),
        (4, 0, 0, rlimits.DEFAULT_ORIGIN),
        (7, 10, 2048, "--rlimit nofile=10:2048"),
        (8, 65536, 65536, rlimits.DEFAULT_ORIGIN),
        (12, 819200, 819200, rlimits.DEFAULT_ORIGIN),
    ]
