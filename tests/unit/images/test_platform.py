"""What a processor runs."""

from __future__ import annotations

import pytest

from pyrun.images.platform import Platform, amd64_level, appc_arch, rank, runs


def test_levels_of_amd64() -> None:
    two = "fpu sse2 cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
    three = f"{two} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
    four = f"{three} avx512f avx512bw avx512cd avx512dq avx512vl"
    without = three.replace("popcnt ", "")
    assert [amd64_level(set(flags.split())) for flags in ("fpu", two, three, four, without)] == [1, 2, 3, 4, 1]


# machine -> platforms in an index as they would be taken, one after the other; what is not there is not
TAKEN = {
    "armv7l": ["arm/v7", "arm/v6", "arm/v5"],
    "armv6l": ["arm/v6", "arm/v5"],
    "aarch64": ["arm64"],
    "x86_64": ["amd64", "386"],
    "riscv64": ["riscv64"],
}
ALL = ["amd64", "amd64/v2", "386", "arm/v5", "arm/v6", "arm/v7", "arm/v8", "arm64", "arm64/v9", "riscv64", "s390x"]


def platform(text: str, *features: str) -> Platform:
    architecture, _, variant = text.partition("/")
    return Platform("linux", architecture, variant, features)


@pytest.mark.parametrize("machine", TAKEN)
def test_fallbacks(machine: str) -> None:
    host = runs("linux", machine, set())
    ranks = {text: rank(platform(text), host) for text in ALL}
    assert sorted((text for text in ALL if ranks[text] >= 0), key=lambda text: ranks[text]) == TAKEN[machine]


@pytest.mark.parametrize(
    ("one", "other"), [("arm64", "arm64/v8"), ("arm64/8", "arm64/v8"), ("arm", "arm/v7"), ("arm/6", "arm/v6"), ("amd64/v1", "amd64")]
)
def test_two_spellings_are_one(one: str, other: str) -> None:
    assert str(platform(one)) == str(platform(other)) and platform(one).agrees(platform(other))


def test_unknown_features_do_not_run() -> None:
    host = runs("linux", "x86_64", set())
    assert rank(platform("amd64", "teleport"), host) == -1
    assert platform("amd64", "teleport").lacks(host) == "the OS feature teleport"
    assert platform("amd64/v3").lacks(host) == "a processor of linux/amd64/v3" and not platform("arm64").lacks(host)


def test_words_of_appc() -> None:
    assert [appc_arch(platform(text)) for text in ("arm64/v8", "arm", "arm/v6", "arm/v5", "386")] == [
        "aarch64", "armv7l", "armv6l", "armv6l", "i386",
    ]  # fmt: skip
