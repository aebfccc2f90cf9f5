"""What limits do that bound nothing by themselves: protection of memory, swap, shares and sets of processors, shares of a disk.

Most need a rival: apps of one pod, whose cgroups are beside each other.  Each is measured by the app, in its own cgroup,
and by the host.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime
from harness import COMMAND, TOP, Pyrun
from waiting import run_file, wait_until

TREE = Path("/sys/fs/cgroup")
MIB = 1 << 20
SPIN = "while :; do :; done"

pytestmark = pytest.mark.timeout(300)
Scope = Callable[..., str]
Pod = Callable[..., AbstractContextManager[tuple[str, Path]]]


@pytest.fixture(scope="module")
def tools(image: Callable[..., Path]) -> Path:
    return image("example.com/tools", ["/bin/sh"], edit=lambda made: made.busybox(TOP / "build" / "busybox"))


@pytest.fixture
def scope(shared: Pyrun) -> Scope:
    """What `pyrun run` with these words prints, in a scope of its own, as from a login."""

    def run(*words: object, code: int = 0) -> str:
        command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, "run", *words]
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done
        return done.stdout

    return run


@pytest.fixture
def pod(shared: Pyrun, scope: Scope, tools: Path) -> Pod:
    """A pod in the background while the block lasts: its UUID, and its cgroup.  Each app is (name, script, flags...)."""

    @contextmanager
    def started(*apps: tuple[str, ...], flags: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
        words: list[object] = []
        for name, script, *more in apps:
            words += ["---"] if words else []
            words += [tools, "--name", name, *more, "--exec", "/bin/sh", "--", "-c", script]
        uuid = scope("--detach", "--log-driver", "k8s-file", *flags, *words).strip()
        try:
            yield uuid, Path(run_file(shared, uuid)["cgroup"])
        finally:
            shared("rm", "--force", uuid, code=0)

    return started


def figures(group: Path, file: str) -> dict[str, int]:
    """A file of lines with a name and a number."""
    return {name: int(number) for name, number in (line.split() for line in (group / file).read_text().splitlines())}


def logged(shared: Pyrun, uuid: str, app: str = "") -> list[list[int]]:
    """The numbers that an app has told, line by line; without its name the only one's."""
    file = shared.root / "pods/running" / uuid / (f"apps/{app}/log" if app else "log")
    return [[int(word) for word in line.split()[3:]] for line in file.read_text().splitlines()]  # each begins with time, stream and kind


def test_memory_that_is_kept_for_an_app(shared: Pyrun, pod: Pod) -> None:
    """A rival takes files of others out of the cache: first of who has no protection, then of --memory-low, never of --memory-min."""
    hold = "dd if=/dev/zero of=/held bs=1M count=12 conv=fsync 2>/dev/null; "
    hold += "while :; do sed -n 's/^file //p' /sys/fs/cgroup/memory.stat; sleep 1; done"
    eat = "sleep 4; i=0; while :; do dd if=/dev/zero of=/dev/shm/x bs=1M count=1 seek=$i conv=notrunc 2>/dev/null; i=$((i+1)); done"
    apps = [("none", hold), ("low", hold, "--memory-low", "16Mi"), ("min", hold, "--memory-min", "16Mi"), ("rival", eat)]
    with pod(*apps, flags=("--pod-limit", "memory=72Mi")) as (uuid, group):

        def cached() -> dict[str, int]:
            return {name: figures(group / name, "memory.stat")["file"] >> 20 for name in ("none", "low", "min")}

        wait_until(lambda: min(cached().values()) >= 11, lambda: f"{cached()}")
        wait_until(lambda: cached()["none"] < 4, lambda: f"{cached()}")
        assert cached()["low"] >= 10 and cached()["min"] >= 11, cached()
        wait_until(lambda: cached()["low"] < 8, lambda: f"{cached()}")
        (group / "rival" / "cgroup.freeze").write_text("1")  # it would eat on until it is killed for want of memory, and the pod ends
        assert cached()["min"] >= 11 and figures(group / "low", "memory.events")["low"] > 0, cached()
        wait_until(lambda: logged(shared, uuid, "low")[-1][0] < 10 * MIB, "the app does not see it")
        assert logged(shared, uuid, "min")[-1][0] >= 11 * MIB


def test_memory_above_the_mark_is_reclaimed(shared: Pyrun, pod: Pod) -> None:
    """--memory-high: three times as much as it is written, what is held stays about there, nobody is killed; the wait counts (PSI)."""
    script = "dd if=/dev/zero of=/x bs=1M count=48 conv=fsync 2>/dev/null; cat /sys/fs/cgroup/memory.current; sleep 1000"
    with pod(("one", script, "--memory-high", "16Mi")) as (uuid, group):
        wait_until(lambda: logged(shared, uuid), "it does not get through", pause=0.2)
        assert 4 * MIB < logged(shared, uuid)[0][0] < 20 * MIB
        events = figures(group, "memory.events")
        assert events["high"] > 0 and events["oom_kill"] == 0 and figures(group, "memory.stat")["file"] < 20 * MIB
        (used,) = json.loads(shared("stats", "--format", "json", uuid, code=0).out)
        assert used["pressure"]["memory"]["some"]["total"] > 0 and used["memory_high_events"] > 0, used


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    """Room for it, which the machine has not."""
    file = tmp_path / "swap"
    with file.open("wb") as out:
        out.write(bytes(64 * MIB))
    file.chmod(0o600)
    subprocess.run(["mkswap", "--quiet", file], check=True)
    subprocess.run(["swapon", file], check=True)
    yield
    subprocess.run(["swapoff", file], check=True)


def free_swap() -> int:
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("SwapFree:")]
    return int(line.split()[1]) << 10


def test_memory_that_may_go_to_the_disk(shared: Pyrun, pod: Pod, scope: Scope, tools: Path, swap: None) -> None:
    """28 MiB with 16 of memory fit when 24 may be swapped, and do not with 8."""
    eat = "dd if=/dev/zero of=/dev/shm/x bs=1M count=28 2>/dev/null"
    before = free_swap()
    with pod(("one", f"{eat}; cat /sys/fs/cgroup/memory.swap.current; sleep 1000", "--memory", "16Mi", "--swap", "24Mi")) as (uuid, group):
        wait_until(lambda: logged(shared, uuid), "it was killed", pause=0.2)
        held = int((group / "memory.swap.current").read_text())
        assert 11 * MIB < held <= 24 * MIB and 11 * MIB < logged(shared, uuid)[0][0] <= 24 * MIB
        assert before - free_swap() > 11 * MIB, "the machine's own count"
    scope("--memory", "16Mi", "--swap", "8Mi", tools, "--exec", "/bin/sh", "--", "-c", f"exec {eat}", code=137)


def test_shares_of_one_processor(shared: Pyrun, pod: Pod) -> None:
    """--cpu-weight, --cpu-idle and --cpuset-cpus: three that spin have one of two processors, and part it three to one to nothing."""
    tell = "sed -n 's/usage_usec //p' /sys/fs/cgroup/cpu.stat"
    begin = "while [ ! -e /dev/shm/go ]; do sleep 0.1; done"  # /dev/shm is the pod's; an idle app could not even start beside the others
    script = f"grep -c ^processor /proc/cpuinfo; nproc; {begin}; {SPIN} & {begin}; while :; do {tell}; sleep 2; done"
    idle = f"sleep 1; touch /dev/shm/go; {SPIN}"
    apps = [("small", script, "--cpu-weight", "100"), ("big", script, "--cpu-weight", "300"), ("idle", idle, "--cpu-idle")]
    with pod(*apps, flags=("--pod-limit", "cpuset-cpus=1")) as (uuid, group):
        names = ("small", "big", "idle")

        def used() -> tuple[float, list[float]]:
            return time.monotonic(), [int((group / name / "cpu.stat").read_text().split()[1]) / 1e6 for name in names]

        wait_until(lambda: used()[1][1] > 1, "nobody spins")
        begun, first = used()
        time.sleep(5)
        ended, last = used()
        small, big, none = (new - old for old, new in zip(first, last, strict=True))
        assert 2 < big / small < 4 and none < small / 3, (small, big, none)
        assert small + big + none < (ended - begun) * 1.1, "more than one processor"
        assert (group / "idle/cpu.idle").read_text() == "1\n"
        wait_until(lambda: min(len(logged(shared, uuid, name)) for name in names[:2]) >= 5, "they do not tell", pause=0.2)
        told = {name: [line[0] for line in logged(shared, uuid, name)] for name in names[:2]}
        assert told["small"][:2] == told["big"][:2] == [os.cpu_count(), 1] and os.cpu_count() != 1
        many = min(len(numbers) for numbers in told.values())
        inside = [told[name][many - 1] - told[name][2] for name in names[:2]]
        assert 1.7 < inside[1] / inside[0] < 5, told
        for pid in (group / "big/cgroup.procs").read_text().split():
            assert "Cpus_allowed_list:\t1\n" in Path(f"/proc/{pid}/status").read_text()


def test_a_burst_above_the_quota(shared: Pyrun, pod: Pod) -> None:
    """--cpu-burst: what was saved while it slept."""
    tell = "sed -n 's/nr_bursts //p' /sys/fs/cgroup/cpu.stat"
    script = f"while :; do i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done; {tell}; sleep 0.5; done"
    with pod(("one", script, "--cpus", "0.3", "--cpu-burst", "30ms")) as (uuid, group):
        wait_until(lambda: figures(group, "cpu.stat")["nr_bursts"] >= 2, (group / "cpu.stat").read_text, pause=0.1)
        assert figures(group, "cpu.stat")["burst_usec"] > 0
        wait_until(lambda: (logged(shared, uuid) or [[0]])[-1][0] >= 2, "the app does not see it", pause=0.2)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A disk of 4 MiB a second by the model that the kernel shares it out by (io.cost of cgroup-v2.rst)."""
    file = tmp_path / "disk"
    with file.open("wb") as out:
        out.truncate(64 * MIB)
    name = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True).stdout.strip()
    number = os.stat(name).st_rdev
    place = f"{os.major(number)}:{os.minor(number)}"
    rates = " ".join(f"{way}{unit}={value}" for way in "rw" for unit, value in (("bps", 4 * MIB), ("seqiops", 1000), ("randiops", 1000)))
    (TREE / "io.cost.model").write_text(f"{place} ctrl=user model=linear {rates}")
    (TREE / "io.cost.qos").write_text(f"{place} enable=1 ctrl=user min=100.00 max=100.00")
    yield name
    (TREE / "io.cost.qos").write_text(f"{place} enable=0")
    subprocess.run(["losetup", "--detach", name], check=True)


def test_shares_of_a_disk(shared: Pyrun, pod: Pod, disk: str) -> None:
    """--io-weight: two that read all they can get, as one to four."""
    tell = "sed -n 's/^7:.* rbytes=\\([0-9]*\\).*/\\1/p' /sys/fs/cgroup/io.stat"
    script = f"while :; do dd if={disk} of=/dev/null bs=16k count=4000 iflag=direct 2>/dev/null; done & while :; do {tell}; sleep 1; done"
    apps = [(name, script, "--io-weight", weight, "--device", f"{disk}:{disk}:r") for name, weight in (("small", "100"), ("big", "400"))]
    with pod(*apps) as (uuid, group):

        def read() -> list[int]:
            lines = [(group / name / "io.stat").read_text() for name in ("small", "big")]
            return [int(text.partition("7:")[2].partition("rbytes=")[2].partition(" ")[0] or 0) for text in lines]

        wait_until(lambda: min(read()) > MIB, lambda: f"{read()}")
        first = read()
        time.sleep(5)
        small, big = (new - old for old, new in zip(first, read(), strict=True))
        assert 2.5 < big / small < 6 and small + big < 40 * MIB, (small, big)
        told = [[line[0] for line in logged(shared, uuid, name)] for name in ("small", "big")]
        many = min(map(len, told))
        inside = [numbers[many - 1] - numbers[0] for numbers in told]
        assert 2.5 < inside[1] / inside[0] < 6, told


def test_operations_of_a_disk(shared: Pyrun, pod: Pod) -> None:
    """--io-max by the path of the device, in operations a second."""
    disk = next(path for path in ("/dev/vda", "/dev/sda") if os.path.exists(path))
    number = os.stat(disk).st_rdev
    clock = "cut -d ' ' -f 1 /proc/uptime | tr -d ."
    write, read = "if=/dev/zero of=/x bs=4k count=60 oflag=direct", "if=/x of=/dev/null bs=4k count=50 iflag=direct"
    script = f"{clock}; dd {write} 2>/dev/null; {clock}; dd {read} 2>/dev/null; {clock}; sleep 1000"
    begun = time.monotonic()
    with pod(("one", script, "--io-max", f"{disk}:wiops=20,riops=25")) as (uuid, group):
        assert f"{os.major(number)}:{os.minor(number)} rbps=max wbps=max riops=25 wiops=20\n" == (group / "io.max").read_text()
        wait_until(lambda: len(logged(shared, uuid)) == 3, "it does not get through", pause=0.3)
        (first,), (written,), (last,) = logged(shared, uuid)
        assert written - first > 200 and time.monotonic() - begun > 3, "60 at 20 a second, in hundredths of one"
        assert last - written > 150, "50 at 25 a second"


def test_bandwidth_of_a_network(scope: Scope, tools: Path, image: Callable[..., Path]) -> None:
    """Two megabit at one a second, by the clocks of who sends and who receives: by the flag, and by the image's isolator."""
    isolator = {"name": "resource/network-bandwidth", "value": {"default": True, "limit": "1M"}}
    slow = image("example.com/slow", ["/bin/sh"], app={"isolators": [isolator]}, edit=lambda made: made.busybox(TOP / "build" / "busybox"))
    took = []

    def receive(server: socket.socket) -> None:
        caller, _ = server.accept()
        with caller:
            begun, size = time.monotonic(), 0
            while data := caller.recv(1 << 16):
                size += len(data)
            took.append((size, time.monotonic() - begun))

    for flags, which in ((["--net-bandwidth", "out=1m"], tools), ([], slow)):
        with socket.create_server(("0.0.0.0", 0)) as server:
            thread = threading.Thread(target=receive, args=(server,))
            thread.start()
            clock = "cut -d ' ' -f 1 /proc/uptime | tr -d ."
            gateway = "$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')"
            send = f"dd if=/dev/zero bs=1k count=250 2>/dev/null | nc {gateway} {server.getsockname()[1]}"
            words = ["--net", "default", *flags, which, "--exec", "/bin/sh", "--", "-c", f"{clock}; {send}; {clock}"]
            first, last = map(int, scope(*words).split())
            thread.join(60)
        assert took[-1][0] == 250 << 10 and took[-1][1] > 1.2 and last - first > 120, (flags, took, first, last)
    assert len(took) == 2


def resources(disk: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Members of linux.resources, and what the files of the cgroup then have."""
    number = os.stat(disk).st_rdev
    place = {"major": os.major(number), "minor": os.minor(number)}
    block: dict[str, Any] = {"weight": 500, "weightDevice": [{**place, "weight": 200}]}
    for name, rate in (("ReadBps", MIB), ("WriteBps", 2 * MIB), ("ReadIOPS", 900), ("WriteIOPS", 800)):
        block[f"throttle{name}Device"] = [{**place, "rate": rate}]
    disks = f"{place['major']}:{place['minor']}"
    return {
        "memory": {"limit": 40 * MIB, "swap": 42 * MIB, "reservation": 16 * MIB},
        "cpu": {"shares": 2048, "quota": 80000, "period": 100000, "burst": 20000, "cpus": "1", "mems": "0"},
        "pids": {"limit": 30},
        "blockIO": block,
        "unified": {"memory.high": "max", "memory.min": f"{4 * MIB}", "memory.oom.group": "1"},
        "devices": [{"allow": True, "type": "b", **place, "access": "r"}],
    }, {
        "memory.max": f"{40 * MIB}",
        "memory.swap.max": f"{2 * MIB}",
        "memory.low": f"{16 * MIB}",
        "memory.high": "max",
        "memory.min": f"{4 * MIB}",
        "memory.oom.group": "1",
        "cpu.weight": "174",
        "cpu.max": "80000 100000",
        "cpu.max.burst": "20000",
        "cpuset.cpus": "1",
        "cpuset.mems": "0",
        "pids.max": "30",
        "io.weight": f"default 4950\n{disks} 1920",
        "io.max": f"{disks} rbps={MIB} wbps={2 * MIB} riops=900 wiops=800",
    }


def test_of_a_container(tmp_path: Path, probe: Path, disk: str) -> None:
    """linux.resources in the files inside and outside, and felt: by who counts processors, reads a disk, takes memory."""
    oci = Runtime(tmp_path, probe)
    oci.config["linux"]["resources"], wanted = resources(disk)
    place = {key: value for key, value in oci.config["linux"]["resources"]["devices"][0].items() if key in ("type", "major", "minor")}
    oci.config["linux"]["devices"] = [{**place, "path": disk, "fileMode": 0o666}]
    oci.config["linux"]["cgroupsPath"] = "/felt/one"
    pid = oci.start_sleeping()
    group = TREE / "felt/one"
    assert {name: (group / name).read_text().strip() for name in wanted} == wanted
    inside = oci("exec", "one", "/bin/sh", "-c", f"cd /sys/fs/cgroup; for f in {' '.join(wanted)}; do cat $f; done").stdout
    assert inside.splitlines() == "\n".join(wanted.values()).splitlines()
    clock = "cat /proc/uptime"
    script = f"/bin/busybox nproc; {clock}; /bin/busybox dd if={disk} of=/dev/null bs=64k count=48 iflag=direct 2>/dev/null; {clock}"
    processors, before, after = (float(line.split()[0]) for line in oci("exec", "one", "/bin/sh", "-c", script).stdout.splitlines())
    assert processors == 1 and after - before > 1.9, "three mebibytes at one a second"
    assert "rbytes=3145728" in (group / "io.stat").read_text()
    (tmp_path / "idle.json").write_text('{"cpu": {"idle": 1}}')
    oci("update", "--resources", tmp_path / "idle.json", "one")
    assert (group / "cpu.idle").read_text() == "1\n"
    eat = "/bin/busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60"
    assert oci("exec", "one", "/bin/sh", "-c", eat, code=None).returncode == 128 + 9
    wait_until(lambda: oci.state("one")["status"] == "stopped", "it was not killed as a whole")
    assert not Path(f"/proc/{pid}").exists()
    oci("delete", "one")
    assert not group.exists()


def test_a_container_has_the_processors_of_its_cgroup(tmp_path: Path, probe: Path) -> None:
    """Not those of its caller; and a deadline wants all of them (sched_setattr(2))."""
    oci = Runtime(tmp_path, probe)
    first, second = sorted(os.sched_getaffinity(0))[:2]
    oci.config["linux"]["resources"] = {"cpu": {"cpus": str(second)}}
    try:
        oci.command("/bin/sleep", "1000")
        oci("run", "--detach", "one", preexec_fn=lambda: os.sched_setaffinity(0, {first}))
        look = ("grep", "Cpus_allowed_list", "/proc/self/status")
        for more in ((), ("--ignore-paused",)):  # the second one is Python's
            assert oci("exec", *more, "one", *look, preexec_fn=lambda: os.sched_setaffinity(0, {first})).stdout.split()[1] == str(second)
        oci("delete", "--force", "one")
        oci.config["process"]["scheduler"] = {"policy": "SCHED_DEADLINE", "runtime": 42000, "deadline": 1000000, "period": 1000000}
        oci.command("/bin/true")
        done = oci("create", "one", code=1)
        assert "can't be used together with AllowedCPUs" in done.stderr and "process.scheduler" in done.stderr
    finally:
        oci("delete", "--force", "one")
