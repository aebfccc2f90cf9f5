"""What a processor runs."""

from __future__ import annotations

from pyrun.images.platform import amd64_level


def test_levels_of_amd64() -> None:
    two = "fpu sse2 cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
    three = f"{two} abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
    four = f"{three} avx512f avx512bw avx512cd avx512dq avx512vl"
    without = three.replace("popcnt ", "")
    assert [amd64_level(set(flags.split())) for flags in ("fpu", two, three, four, without)] == [1, 2, 3, 4, 1]
