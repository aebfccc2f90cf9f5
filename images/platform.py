"""Platforms as OCI images name them (Go's GOOS and GOARCH), what this host runs, and what appc calls the same."""

from __future__ import annotations

import os

__all__ = ["Platform", "amd64_level", "appc_arch", "rank", "wanted"]

# machine of uname(2) -> (architecture, variant) that it runs, best first
_RUNS = {
    "x86_64": (("amd64", ""), ("amd64", "v1"), ("386", "")),  # and the levels of `amd64_level` before them
    "i686": (("386", ""),),
    "i386": (("386", ""),),
    "aarch64": (("arm64", "v8"), ("arm64", "")),
    "armv7l": (("arm", "v7"), ("arm", "v6"), ("arm", "v5"), ("arm", "")),
    "armv6l": (("arm", "v6"), ("arm", "v5"), ("arm", "")),
}
# image-index.md "Platform Variants": what the x86-64 psABI asks of each level above the one before, in Linux's words
_AMD64_LEVELS = (
    "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "avx512f avx512bw avx512cd avx512dq avx512vl",
)
_APPC = {"386": "i386", "arm64": "aarch64", "arm64be": "aarch64_be"}
_APPC_ARM = {"v5": "armv6l", "v6": "armv6l", "": "armv6l"}


class Platform:
    """Operating system, architecture and variant of one image."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, os: str, architecture: str, variant: str = "") -> None:
        self.os = os
        self.architecture = architecture
        self.variant = variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def agrees(self, other: Platform) -> bool:
        """Whether both can describe one image; a variant that one of them leaves out is no difference."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        return not self.variant or not other.variant or self.variant == other.variant


def wanted() -> list[Platform]:
    """What this host runs, best first; never empty."""
    name = os.uname()
    runs = _RUNS.get(name.machine, ((name.machine, ""),))
    if name.machine == "x86_64":
        runs = (*(("amd64", f"v{level}") for level in range(amd64_level(_flags()), 1, -1)), *runs)
    return [Platform(name.sysname.lower(), *one) for one in runs]


def amd64_level(flags: set[str]) -> int:
    """The level of the x86-64 psABI, 1 to 4, of a processor with these flags (proc(5), /proc/cpuinfo)."""
    level = 1
    for needed in _AMD64_LEVELS:
        if not flags.issuperset(needed.split()):
            break
        level += 1
    return level


def _flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    except OSError:
        pass  # level 1 then, which runs everywhere
    return set()


def rank(platform: Platform | None, host: list[Platform]) -> int:
    """How well an image suits, 0 best; -1 when it does not run here.  What has no platform is taken last."""
    if platform is None:
        return len(host)
    for number, one in enumerate(host):
        if str(one) == str(platform):
            return number
    return -1


def appc_arch(platform: Platform) -> str:
    """The value of appc's label arch, which is what `run` compares."""
    if platform.architecture == "arm":
        return _APPC_ARM.get(platform.variant, "armv7l")
    return _APPC.get(platform.architecture, platform.architecture)
