"""Hosts that have controllers in cgroup v1 beside a v2 tree: limits hold there, everything else goes through v2.

In a mount namespace of the test's own, which shows the hierarchies of version 1 as such a host does.  The host's mounts are not touched.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun

CONTROLLERS = ("memory", "cpu", "cpuset", "pids", "blkio")
SHOW = f"""
mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir {" ".join(CONTROLLERS)} unified && mount -t cgroup2 cgroup2 unified
for c in {" ".join(CONTROLLERS)}; do mount -t cgroup -o $c cgroup $c || exit 77; done
cd / && exec "$@"
"""
Call = Callable[..., subprocess.CompletedProcess[str]]


def has_version_1() -> bool:
    """Whether this kernel has its controllers there; one that a v2 tree has cannot be mounted."""
    with open("/proc/self/cgroup") as file:
        return all(f":{name}:" in text for text in [file.read()] for name in CONTROLLERS)


pytestmark = pytest.mark.skipif(not has_version_1(), reason="this host has no controllers in cgroup version 1; tests/vm is for the others")


@pytest.fixture
def hybrid(shared: Pyrun, busybox: Path, shell: Callable[..., str]) -> Iterator[Call]:
    """pyrun on such a host; no cgroup of a pod is there afterwards."""
    shell("true")

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "sh", "-c", SHOW, "sh", COMMAND, "--root", shared.root, *words]
        return subprocess.run([str(word) for word in command], env=shared.environment(), capture_output=True, text=True, timeout=120)

    def groups() -> set[str]:
        find = f"cd /sys/fs/cgroup && find {' '.join(CONTROLLERS)} -name 'pyrun-*'"
        command = ["unshare", "--mount", "sh", "-c", SHOW, "sh", "sh", "-c", find]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    before = groups()
    yield call
    assert groups() - before == set()


def script(hybrid: Call, busybox: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return hybrid("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", text)


def test_memory(hybrid: Call, busybox: Path) -> None:
    eat = "exec dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48"
    assert script(hybrid, busybox, eat, "--memory", "60Mi").returncode == 0
    assert script(hybrid, busybox, eat, "--memory", "24Mi").returncode == 137
    made = hybrid("run", "--detach", "--keep", "--memory", "24Mi", busybox, "--exec", "/bin/sh", "--", "-c", eat)
    uuid = made.stdout.strip()
    hybrid("wait", uuid)
    assert json.loads(hybrid("status", "--format", "json", uuid).stdout)["oom"] is True, "told apart from a mere signal"
    hybrid("rm", uuid)


def test_processes(hybrid: Call, busybox: Path) -> None:
    done = hybrid("run", "--pids-limit", "20", busybox, "--exec", "/probe", "--", "fork", "40")
    assert json.loads(done.stdout) == 18, done


def test_processor_time(hybrid: Call, busybox: Path) -> None:
    text = (
        "end=$(($(cut -d. -f1 /proc/uptime) + 3)); while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do :; done; cat /sys/fs/cgroup/cpu.stat"
    )
    done = script(hybrid, busybox, text, "--cpus", "0.25", "--cpuset-cpus", "0")
    used = dict(line.split() for line in done.stdout.splitlines())
    assert 300_000 < int(used["usage_usec"]) < 1_000_000, done


def test_memory_goes_up_and_down(hybrid: Call, busybox: Path) -> None:
    """Together with memory and swap, which version 1 does not let it exceed at any time."""
    made = hybrid("run", "--detach", "--memory", "48Mi", "--swap", "0", busybox, "--exec", "/bin/sh", "--", "-c", "sleep 1000")
    uuid = made.stdout.strip()
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line).split(":")[2].strip("/")
    group = f"/sys/fs/cgroup/memory/{own}/pyrun-{uuid}"

    def held() -> list[int]:
        names = [f"{group}/memory.{name}limit_in_bytes" for name in ("", "memsw.")]
        command = ["unshare", "--mount", "sh", "-c", SHOW, "sh", "cat", *names]
        return [int(text) >> 20 for text in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]

    assert held() == [48, 48], made
    for memory, swap, both in ((96, 0, 96), (40, 0, 40), (96, 8, 104)):
        done = hybrid("update", "--memory", f"{memory}Mi", "--swap", f"{swap}Mi" if swap else "0", uuid)
        assert (done.returncode, held()) == (0, [memory, both]), done
    assert hybrid("exec", uuid, "/bin/dd", "if=/dev/zero", "of=/dev/shm/eaten", "bs=1M", "count=60").returncode == 0
    for words, expected in (
        (["--memory", "200Mi"], [200, 208]),  # what may be swapped stays the same
        (["--swap", "0"], [200, 200]),
        (["--memory", "240Mi"], [240, 240]),
        (["--memory", "80Mi"], [80, 80]),
    ):
        done = hybrid("update", *words, uuid)
        assert (done.returncode, held()) == (0, expected), done
    refused = hybrid("update", "--memory", "max", uuid)
    assert refused.returncode == 125 and "--swap" in refused.stderr and refused.stderr.count("hint: ") == 1, refused
    refused = hybrid("update", "--memory", "2Mi", uuid)
    assert refused.returncode == 125 and refused.stderr.count("hint: ") == 1, "more than that is in use"
    assert held() == [80, 80], "all or nothing"
    assert hybrid("restart", uuid).returncode == 0 and held() == [80, 80], "its next starts too"
    hybrid("rm", "--force", uuid)


def test_where_the_limits_are(hybrid: Call, busybox: Path, shared: Pyrun) -> None:
    """Which file of which hierarchy; the processes are in all of them, one that enters too; `update` and `stats` know of it."""
    flags = "--memory 64Mi --swap 0 --memory-low 8Mi --pids-limit 30 --cpus 1.5 --cpu-weight 100 --cpuset-cpus 0".split()
    uuid = hybrid("run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", "sleep 1000").stdout.strip()
    pid = json.loads(hybrid("status", "--format", "json", uuid).stdout)["pid"]
    lines = dict(line.split(":")[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    assert all(f"pyrun-{uuid}" in lines[name] for name in ("memory", "pids", "cpu", "cpuset")) and f"pyrun-{uuid}" not in lines["blkio"], (
        lines
    )
    entered = hybrid("exec", uuid, "/bin/cat", "/proc/self/cgroup").stdout
    assert {line.split(":")[2] for line in entered.splitlines()} == {"/"}, "the same, which is the root of the pod's namespace"
    files = [
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.soft_limit_in_bytes",
        "pids.max",
        "cpu.cfs_quota_us",
        "cpu.shares",
    ]
    own = {line.split(":")[1]: line.split(":")[2].strip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()}
    heads = [(name.partition(".")[0], name) for name in (*files, "cpuset.cpus")]
    paths = [f"/sys/fs/cgroup/{head}/{own[head]}/pyrun-{uuid}/{name}" for head, name in heads]

    def held() -> list[str]:
        command = ["unshare", "--mount", "sh", "-c", SHOW, "sh", "cat", *paths]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert held() == ["67108864", "67108864", "8388608", "30", "150000", "1024", "0"]
    done = hybrid("update", "--memory", "48Mi", "--pids-limit", "max", "--cpus", "max", uuid)
    assert done.returncode == 0, done.stderr
    assert held() == ["50331648", "50331648", "8388608", "max", "-1", "1024", "0"], "still no swap"
    (figures,) = json.loads(hybrid("stats", "--format", "json", uuid).stdout)
    assert (
        figures["memory_limit_bytes"] == 48 << 20
        and 0 < figures["memory_bytes"] < 48 << 20
        and figures["pids"] == 2
        and figures["cpu_usec"] > 0
    )
    assert "memory.high" in hybrid("update", "--memory-high", "40Mi", uuid).stderr
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), 9)  # its supervisor
    hybrid("wait", uuid)
    hybrid("rm", "--force", uuid)


def test_what_version_1_cannot_do(hybrid: Call, busybox: Path) -> None:
    for flags in (["--memory-high", "64Mi"], ["--memory-min", "64Mi"], ["--swap", "1Mi"], ["--oom-group"]):
        done = script(hybrid, busybox, "true", *flags)
        assert done.returncode == 125 and "version 1" in done.stderr and done.stderr.count("hint: ") == 1, done
