"""Limits that need more than a pod: huge pages, the share of a processor within a tenth, and what Debian's kernel does not have."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from bundles import Runtime
from harness import COMMAND, Pyrun

TREE = Path("/sys/fs/cgroup")
PAGE = 2 << 20
RESERVED = Path("/proc/sys/vm/nr_hugepages")
SPIN = """
while :; do :; done & while :; do :; done &
while :; do echo $(cut -d ' ' -f 1 /proc/uptime; sed -n 's/usage_usec //p' /sys/fs/cgroup/cpu.stat); sleep 5; done
"""

pytestmark = pytest.mark.timeout(300)  # a processor that is emulated, on a host that has other things to do
Scope = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tools(busybox: Path) -> Path:
    """One image for all files of a machine: to import one takes seconds there."""
    return busybox


@pytest.fixture
def scope(shared: Pyrun) -> Scope:
    """`pyrun run` with these words in a scope of its own, as from a login."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, "run", *words]
        return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)

    return run


def group_of(pyrun: Pyrun, uuid: str) -> Path:
    return Path(json.loads(pyrun("status", "--format", "json", uuid, code=0).out)["cgroup"])


@pytest.fixture(scope="module")
def delegated() -> None:
    """What systemd itself never enables: the slice of pods gets it from whoever runs the machine, and keeps it."""
    subprocess.run(["systemctl", "start", "machine.slice"], check=True)
    for file in (TREE / "cgroup.subtree_control", TREE / "machine.slice/cgroup.subtree_control"):
        file.write_text("+hugetlb +rdma +misc")


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """So many are reserved; a machine whose memory is in pieces may have fewer than it was asked for."""
    for name, text in (("drop_caches", "3"), ("compact_memory", "1"), ("nr_hugepages", "8")):
        RESERVED.with_name(name).write_text(text)
    yield int(RESERVED.read_text())
    RESERVED.write_text("0")


def test_controllers_that_systemd_does_not_enable(scope: Scope, tools: Path) -> None:
    """Before anything here enables them: which one, where, and how."""
    for flag, value in {"hugetlb": "2MB=4Mi", "rdma": "mlx4_0:hca_handle=2", "misc": "res_a=3"}.items():
        done = scope(f"--{flag}", value, tools, "--exec", "/bin/sh", "--", "-c", "true")
        assert done.returncode == 125 and f"limit the pod {flag}: " in done.stderr and "in /sys/fs/cgroup/machine.slice/" in done.stderr, (
            done
        )
        assert f"hint: systemd never delegates it: write +{flag} to cgroup.subtree_control" in done.stderr, done


def test_huge_pages(shared: Pyrun, scope: Scope, delegated: None, huge_pages: int) -> None:
    """Two are allowed: the third cannot be mapped, as the app, the cgroup and the machine's own count say."""
    assert huge_pages > 3

    def mapped(many: int, *flags: str, detach: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return scope(*flags, *detach, shared.probe_image, "--exec", "/probe", "--", "huge", many, *(["stay"] if detach else []))

    assert mapped(3).stdout.split() == ["page"] * 3, "without a limit"
    fits = mapped(2, "--hugetlb", "2MB=4Mi")
    assert fits.stdout.split() == ["page"] * 2, fits
    assert mapped(3, "--hugetlb", "2MB=4Mi").stdout.split() == ["page", "page", "ENOMEM"]
    assert mapped(1, "--hugetlb", "2MB=0").stdout.split() == ["ENOMEM"]
    late = mapped(3, "--cgroup-set", f"hugetlb.2MB.max={2 * PAGE}")
    assert (late.stdout.split(), late.returncode) == (["page"] * 2, 128 + 7), "SIGBUS where reservations have no limit"
    uuid = mapped(3, "--hugetlb", "2MB=4Mi", detach=("--detach",)).stdout.strip()
    deadline = time.monotonic() + 120
    while "ENOMEM" not in shared("logs", uuid, code=0).out:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    group = group_of(shared, uuid)
    held = {name: (group / f"hugetlb.2MB.{name}").read_text().strip() for name in ("max", "current", "rsvd.max", "rsvd.current", "events")}
    assert held == {
        "max": str(2 * PAGE),
        "current": str(2 * PAGE),
        "rsvd.max": str(2 * PAGE),
        "rsvd.current": str(2 * PAGE),
        "events": "max 1",
    }
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("HugePages_Free"))
    assert int(free.split()[1]) == huge_pages - 2
    shared("rm", "--force", uuid, code=0)


def test_huge_pages_of_a_container(tmp_path: Path, probe: Path, delegated: None, huge_pages: int) -> None:
    """By linux.resources.hugepageLimits, and what is left by the host's file; the limit of a running one can be raised."""
    oci = Runtime(tmp_path, probe)
    oci.config["linux"]["cgroupsPath"] = "/machine.slice/pyrun-huge"
    oci.config["linux"]["resources"] = {"hugepageLimits": [{"pageSize": "2MB", "limit": PAGE}]}
    oci.start_sleeping()
    group = TREE / "machine.slice/pyrun-huge"
    assert [(group / f"hugetlb.2MB.{name}").read_text().strip() for name in ("max", "rsvd.max")] == [str(PAGE)] * 2
    assert oci("exec", "one", "/probe", "huge", "2").stdout.split() == ["page", "ENOMEM"]
    assert (group / "hugetlb.2MB.events").read_text() == "max 1\n"
    (tmp_path / "more.json").write_text(json.dumps({"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * PAGE}]}))
    oci("update", "--resources", tmp_path / "more.json", "one")
    assert oci("exec", "one", "/probe", "huge", "3").stdout.split() == ["page", "page", "ENOMEM"]
    oci("delete", "--force", "one")
    assert not group.exists()


def test_the_share_of_a_processor(shared: Pyrun, scope: Scope, tools: Path) -> None:
    """Half of one for two that spin, within a tenth: by the pod's clock and file, and by those of the host.

    The kernel gives nothing for a period that a loaded host lets it miss, so it is one stretch of some that has to agree.
    """
    uuid = scope("--detach", "--cpus", "0.5", tools, "--exec", "/bin/sh", "--", "-c", SPIN).stdout.strip()
    group = group_of(shared, uuid)

    def now() -> tuple[float, int]:
        text = (group / "cpu.stat").read_text()
        return time.monotonic(), int(text.split()[1])

    def agrees(first: tuple[float, int], last: tuple[float, int]) -> bool:
        return last[0] - first[0] >= 3 and 0.45 < (last[1] - first[1]) / 1e6 / (last[0] - first[0]) < 0.55

    deadline = time.monotonic() + 200
    inside = outside = False
    told: list[tuple[float, int]] = []
    while not (inside and outside):
        assert time.monotonic() < deadline, (inside, outside, told)
        first = now()
        time.sleep(4)
        outside |= agrees(first, now())
        told = [(float(line.split()[0]), int(line.split()[1])) for line in shared("logs", uuid, code=0).out.splitlines()]
        inside |= any(agrees(*pair) for pair in pairwise(told))
    counts = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    assert int(counts["nr_throttled"]) > 10, counts
    shared("rm", "--force", uuid, code=0)


def test_what_the_machine_does_not_have(shared: Pyrun, scope: Scope, delegated: None, tools: Path) -> None:
    """Latency of a disk, and numbers of devices and resources that are not there: refused by file and name, nothing is made."""
    cases = {
        ("--io-latency", "/var:20ms"): ("io.latency", "this kernel does not have that file"),
        ("--rdma", "mlx4_0:hca_handle=2"): ("rdma.max mlx4_0", "/sys/class/infiniband"),
        ("--misc", "res_a=3"): ("misc.max res_a", "misc.capacity"),
    }
    assert not (TREE / "system.slice/io.latency").exists() and not (TREE / "misc.capacity").read_text().strip(), "another kernel"
    assert not Path("/sys/class/infiniband").exists() or not list(Path("/sys/class/infiniband").iterdir())
    before = sorted(shared.root.glob("pods/*"))
    for flags, words in cases.items():
        done = scope(*flags, tools, "--exec", "/bin/sh", "--", "-c", "true")
        assert done.returncode == 125 and all(word in done.stderr for word in (*words, flags[0])) and done.stderr.count("hint: ") == 1, done
    assert sorted(shared.root.glob("pods/*")) == before
    uuid = scope("--detach", "--io-weight", "50", tools, "--exec", "/bin/sh", "--", "-c", "sleep 1000").stdout.strip()
    latency, others = ("--io-latency", "/var:20ms"), ("--pids-limit", "20")
    for flags, words in ((latency, cases[latency]), (others, ("pids.max", "does not have the controller pids"))):
        refused = shared("update", *flags, uuid, code=125).err
        assert all(word in refused for word in (*words, flags[0])) and refused.count("hint: ") == 1, refused
    shared("rm", "--force", uuid, code=0)
