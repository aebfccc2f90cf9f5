"""Platforms as OCI images name them (Go's GOOS and GOARCH), what this host runs, and what appc calls the same."""

from __future__ import annotations

import os

__all__ = ["Platform", "amd64_level", "appc_arch", "rank", "runs", "wanted"]

# machine of uname(2) -> (architecture, variant) that it runs, best first; amd64 has the levels of `amd64_level` before that
_RUNS = {
    "x86_64": (("amd64", ""), ("386", "")),
    "i686": (("386", ""),),
    "i386": (("386", ""),),
    "aarch64": (("arm64", ""),),
    "armv7l": (("arm", "v7"), ("arm", "v6"), ("arm", "v5")),
    "armv6l": (("arm", "v6"), ("arm", "v5")),
}
# (architecture, variant as written) -> the same as everybody else writes it
_SAME = {
    ("amd64", "v1"): "",
    ("arm64", "v8"): "",
    ("arm64", "8"): "",
    ("arm", ""): "v7",
    ("arm", "7"): "v7",
    ("arm", "6"): "v6",
    ("arm", "5"): "v5",
}
# image-index.md "Platform Variants": what the x86-64 psABI asks of each level above the one before, in Linux's words
_AMD64_LEVELS = (
    "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3",
    "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "avx512f avx512bw avx512cd avx512dq avx512vl",
)
_APPC = {"386": "i386", "arm64": "aarch64", "arm64be": "aarch64_be"}
_APPC_ARM = {"v5": "armv6l", "v6": "armv6l"}


class Platform:
    """What one image needs: operating system, features of that, architecture, and variant in one spelling (arm64 means arm64/v8)."""

    __slots__ = ("architecture", "features", "os", "variant")

    def __init__(self, os: str, architecture: str, variant: str = "", features: tuple[str, ...] = ()) -> None:
        self.os = os
        self.architecture = architecture
        self.variant = _SAME.get((architecture, variant), variant)
        self.features = features

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part) + "".join(f"+{one}" for one in self.features)

    def agrees(self, other: Platform) -> bool:
        """Whether both can describe one image; a variant that one of them leaves out is no difference."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        return not self.variant or not other.variant or self.variant == other.variant

    def lacks(self, host: list[Platform]) -> str:
        """What this host does not have of a platform whose architecture it runs; "" where nothing is missing."""
        if self.features:
            return f"the OS feature {self.features[0]}"
        same = [one.variant for one in host if (one.os, one.architecture) == (self.os, self.architecture)]
        return f"a processor of {self}" if same and self.variant not in same else ""


def wanted() -> list[Platform]:
    """What this host runs, best first; never empty."""
    name = os.uname()
    return runs(name.sysname.lower(), name.machine, _flags() if name.machine == "x86_64" else set())


def runs(system: str, machine: str, flags: set[str]) -> list[Platform]:
    """What a machine of uname(2) runs, best first; `flags` are those of an x86-64 processor.  None of it has an OS feature."""
    found = _RUNS.get(machine, ((machine, ""),))
    if machine == "x86_64":
        found = (*(("amd64", f"v{level}") for level in range(amd64_level(flags), 1, -1)), *found)
    return [Platform(system, architecture, variant) for architecture, variant in found]


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
    """How well an image suits, 0 best; -1 when it does not run here, or needs what is not known.  What has no platform is taken last."""
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
