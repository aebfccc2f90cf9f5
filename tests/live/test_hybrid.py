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
from hybrids import CONTROLLERS, REASON, groups, has_version_1, inside, own_groups, seen
from waiting import wait_until

Call = Callable[..., subprocess.CompletedProcess[str]]


pytestmark = pytest.mark.skipif(not has_version_1(), reason=REASON)


@pytest.fixture
def hybrid(shared: Pyrun, busybox: Path, shell: Callable[..., str]) -> Iterator[Call]:
    """pyrun on such a host; no cgroup of a pod is there afterwards."""
    shell("true")

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = inside(COMMAND, "--root", shared.root, *words)
        return subprocess.run(command, env=shared.environment(), capture_output=True, text=True, timeout=120)

    before = groups("pyrun-*")
    yield call
    assert groups("pyrun-*") - before == set()


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


@pytest.mark.parametrize("flags", [(), ("--restart", "on-failure:1")], ids=["by the supervisor", "by the keeper"])
def test_the_record_of_the_end_tells_it(hybrid: Call, busybox: Path, flags: tuple[str, ...]) -> None:
    eat = "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48 2>/dev/null"
    for text, code, killed in ((f"exec {eat}", 137, True), (f"{eat}; exit 3", 3, True), ("kill -9 $$", 137, False), ("exit 3", 3, False)):
        done = script(hybrid, busybox, text, "--format", "json", "--memory", "24Mi", *flags)
        told = json.loads(done.stderr.splitlines()[-1])
        assert (done.returncode, told["exit_code"], told.get("oom", False)) == (code, code, killed), (text, done)


def test_processes(hybrid: Call, busybox: Path) -> None:
    done = hybrid("run", "--pids-limit", "20", busybox, "--exec", "/probe", "--", "fork", "40")
    assert json.loads(done.stdout) == 18, done


def test_processor_time(hybrid: Call, busybox: Path) -> None:
    """A quarter of one for who spins until it has had 0.3 seconds, however long a busy host takes for that."""
    used = "sed -n 's/usage_usec //p' /sys/fs/cgroup/cpu.stat"
    spin = "i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done"
    text = f"cat /proc/uptime; {used}; while [ $({used}) -lt 300000 ]; do {spin}; done; cat /proc/uptime; {used}"
    done = script(hybrid, busybox, text, "--cpus", "0.25", "--cpuset-cpus", "0")
    begun, first, ended, last = (float(line.split()[0]) for line in done.stdout.splitlines())
    assert last >= 300_000 and (last - first) / 1e6 < (ended - begun) * 0.33, done


def test_memory_goes_up_and_down(hybrid: Call, busybox: Path) -> None:
    """Together with memory and swap, which version 1 does not let it exceed at any time."""
    made = hybrid("run", "--detach", "--memory", "48Mi", "--swap", "0", busybox, "--exec", "/bin/sh", "--", "-c", "sleep 1000")
    uuid = made.stdout.strip()
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line).split(":")[2].strip("/")
    group = f"/sys/fs/cgroup/memory/{own}/pyrun-{uuid}"

    def held() -> list[int]:
        names = [f"{group}/memory.{name}limit_in_bytes" for name in ("", "memsw.")]
        found = subprocess.run(inside("cat", *names), capture_output=True, text=True, check=True).stdout
        return [int(text) >> 20 for text in found.split()]

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


def watches(pid: int) -> int:
    """How many of inotify(7) a process has."""
    try:
        return sum(path.read_text().count("inotify wd:") for path in Path(f"/proc/{pid}/fdinfo").iterdir())
    except OSError:  # closed meanwhile
        return 0


def test_events_while_it_runs(hybrid: Call, busybox: Path, shared: Pyrun) -> None:
    """Of one app and of several, whose groups count their own; `died` comes after the kill that it was."""
    eat = "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48 2>/dev/null; rm -f /dev/shm/eaten"
    command = inside(COMMAND, "--root", shared.root, "events", "--format", "json")
    with subprocess.Popen(command, env=shared.environment(), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            wait_until(lambda: watches(watching.pid) >= 4)  # one for each phase
            text = f"{eat}; /probe fork 40; sleep 1000"
            words = ["--memory", "24Mi", "--pids-limit", "20", busybox, "--exec", "/bin/sh", "--", "-c", text]
            one = hybrid("run", "--detach", "--rm", *words).stdout.strip()
            apps = {"a": ("sleep 1000", []), "b": (f"{eat}; sleep 1000", ["--memory", "24Mi"])}
            two = several(hybrid, busybox, ["--rm", "--pod-limit", "pids-limit=20"], apps)
            told: list[tuple[str, str]] = []
            while not {(one, "oom"), (one, "pids-max"), (two, "oom")} <= set(told):
                event = json.loads(watching.stdout.readline())
                assert event["event"] != "oom" or event["kills"] == 1, event
                told.append((event["uuid"], event["event"]))
        finally:
            watching.terminate()
    assert told.count((one, "oom")) == told.count((two, "oom")) == 1 and (two, "pids-max") not in told, told
    hybrid("rm", "--force", one, two)


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
        return subprocess.run(inside("cat", *paths), capture_output=True, text=True, check=True).stdout.split()

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


def several(hybrid: Call, busybox: Path, flags: list[str], apps: dict[str, tuple[str, list[str]]]) -> str:
    """A pod in the background; `apps`: script and options of each."""
    words: list[object] = []
    for name, (text, options) in apps.items():
        words += [*(["---"] if words else []), busybox, "--name", name, *options, "--exec", "/bin/sh", "--", "-c", text]
    made = hybrid("run", "--detach", *flags, *words)
    assert made.returncode == 0, made
    return made.stdout.strip()


def test_several_apps(hybrid: Call, busybox: Path) -> None:
    """Limits of each app in a group of its own, those of all above it, processes in both; `exec`, `stats` and `update` know them."""
    wait = "sleep 1000"
    flags = ["--pod-limit", "memory=96Mi", "--pod-limit", "pids-limit=40", "--pod-limit", "cpuset-cpus=0"]
    uuid = several(hybrid, busybox, flags, {"a": (wait, ["--memory", "48Mi", "--swap", "0", "--cpus", "1.5"]), "b": (wait, [])})
    own = {name: f"{path}/pyrun-{uuid}" for name, path in own_groups().items()}
    held = {
        "memory": ("memory.limit_in_bytes", str(96 << 20), str(48 << 20)),
        "pids": ("pids.max", "40", "max"),
        "cpuset": ("cpuset.cpus", "0", "0"),
        "cpu": ("cpu.cfs_quota_us", "-1", "150000"),
    }
    for name, (file, of_pod, of_app) in held.items():
        assert (seen(f"{own[name]}/{file}"), seen(f"{own[name]}/a/{file}")) == (of_pod, of_app), name
    assert seen(f"{own['memory']}/a/memory.memsw.limit_in_bytes") == str(48 << 20)
    assert seen(f"{own['cpu']}/b/cpu.cfs_quota_us") is None, "nobody limits it there"
    apps = {one["name"]: one["pid"] for one in json.loads(hybrid("status", "--format", "json", uuid).stdout)["apps"]}
    for app, names in (("a", ("memory", "pids", "cpuset", "cpu")), ("b", ("memory", "pids", "cpuset"))):
        lines = dict(line.split(":")[1:] for line in Path(f"/proc/{apps[app]}/cgroup").read_text().splitlines())
        assert {name for name in CONTROLLERS if lines[name].endswith(f"/pyrun-{uuid}/{app}")} == set(names), lines
        supervisor = Path(f"/proc/{apps[app]}/stat").read_text().rpartition(")")[2].split()[1]
        assert f"pyrun-{uuid}" not in Path(f"/proc/{supervisor}/cgroup").read_text(), "who starts an app goes back all the way"
        entered = hybrid("exec", "--app", app, uuid, "/bin/cat", "/proc/self/cgroup").stdout
        assert {line.split(":")[2] for line in entered.splitlines()} == {"/"}, entered
    done = hybrid("update", "--app", "a", "--memory", "64Mi", uuid)
    assert done.returncode == 0, done
    files = [f"memory.{name}limit_in_bytes" for name in ("", "memsw.")]
    assert [seen(f"{own['memory']}/a/{file}") for file in files] == [str(64 << 20)] * 2
    assert hybrid("update", "--app", "b", "--pids-limit", "12", uuid).returncode == 0
    assert (seen(f"{own['pids']}/pids.max"), seen(f"{own['pids']}/b/pids.max")) == ("40", "12")
    (figures,) = json.loads(hybrid("stats", "--format", "json", uuid).stdout)
    assert figures["memory_limit_bytes"] == 96 << 20 and figures["pids_limit"] == 40 and figures["pids"] == 4 and figures["cpu_usec"] > 0
    assert [(one.get("memory_limit_bytes"), one["pids"]) for one in figures["apps"]] == [(64 << 20, 2), (None, 2)]
    assert 0 < figures["apps"][0]["memory_bytes"] < figures["memory_bytes"] < 96 << 20, "that of the pod is that of all"
    assert hybrid("pause", uuid).returncode == 0
    assert json.loads(hybrid("status", "--format", "json", uuid).stdout)["state"] == "paused"
    assert hybrid("resume", uuid).returncode == 0
    assert hybrid("restart", uuid).returncode == 0
    assert [seen(f"{own['memory']}/{file}") for file in ("memory.limit_in_bytes", "a/memory.limit_in_bytes")] == [
        str(96 << 20),
        str(64 << 20),
    ], "for its next starts too, and what all have together stays"
    assert seen(f"{own['pids']}/b/pids.max") == "12"
    hybrid("stop", "--timeout", "1", uuid)
    assert seen(f"{own['memory']}/memory.limit_in_bytes") is None
    hybrid("rm", uuid)


@pytest.mark.parametrize(
    ("flags", "a", "b", "killed"),
    [
        (["--pod-limit", "memory=40Mi"], [], ["--memory", "100Mi"], {True}),  # 24 and 24 are more than that
        (["--pod-limit", "memory=100Mi"], [], [], {False}),
        ([], ["--memory", "16Mi"], ["--memory", "60Mi"], {"a"}),
    ],
)
def test_memory_of_several(hybrid: Call, busybox: Path, flags: list[str], a: list[str], b: list[str], killed: set[object]) -> None:
    """Each has what is its own, together they have what the pod has; a kill is told of the app that it hit."""
    eat = "dd if=/dev/zero of=/dev/shm/{} bs=1M count=24 2>/dev/null; sleep 3; exit 0"
    apps = {"a": (eat.format("a"), a), "b": ("sleep 1; " + eat.format("b"), b)}
    uuid = several(hybrid, busybox, ["--keep", "--exit-policy", "last-exit", *flags], apps)
    hybrid("wait", uuid)
    found = {one["name"]: one.get("oom", False) for one in json.loads(hybrid("status", "--format", "json", uuid).stdout)["apps"]}
    hybrid("rm", uuid)
    assert {any(found.values())} == killed or {name for name in found if found[name]} == killed, found


@pytest.mark.parametrize(("own", "forked"), [([], 10), (["--pids-limit", "8"], 5)])
def test_processes_of_several(hybrid: Call, busybox: Path, own: list[str], forked: int) -> None:
    """Up to the limit of all, less the two of the other app, or up to the app's own; less process 1, shell and probe."""
    apps = {"a": ("sleep 2; /probe fork 40; sleep 1000", own), "b": ("exec sleep 1000", [])}
    uuid = several(hybrid, busybox, ["--pod-limit", "pids-limit=15"], apps)
    wait_until(lambda: hybrid("logs", "--app", "a", uuid).stdout)
    told = hybrid("logs", "--app", "a", uuid).stdout
    (figures,) = json.loads(hybrid("stats", "--format", "json", uuid).stdout)
    hybrid("rm", "--force", uuid)
    assert json.loads(told) == forked and figures["pids"] <= 15, (told, figures)
    assert figures["pids"] == sum(one["pids"] for one in figures["apps"]), figures


@pytest.mark.parametrize("who", ["keeper", "supervisor", "all"])
def test_several_that_were_killed(hybrid: Call, busybox: Path, shared: Pyrun, who: str) -> None:
    """SIGKILL at whoever looks after it: no process is left, and no group after the next `gc`."""
    flags = ["--rm"] if who == "supervisor" else []
    uuid = several(hybrid, busybox, flags, {"a": ("sleep 1000", ["--memory", "48Mi"]), "b": ("sleep 1000", ["--pids-limit", "20"])})
    run = json.loads((shared.root / "pods" / "running" / uuid / "run").read_text())
    pids = [one["pid"] for one in run["apps"]]
    supervisors = [one["supervisor"] for one in run["apps"]]
    for pid in {"keeper": [run["keeper"]], "supervisor": supervisors, "all": [run["keeper"], *supervisors]}[who]:
        os.kill(pid, 9)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    if who == "supervisor":
        wait_until(lambda: seen(f"{own_groups()['memory']}/pyrun-{uuid}/memory.limit_in_bytes") is None)
        wait_until(lambda: not (shared.root / "pods" / "running" / uuid).exists())
    wait_until(lambda: uuid not in os.listdir(shared.root / "pods" / "running") or hybrid("gc").returncode == 0)
    hybrid("gc")
    hybrid("rm", "--force", uuid)
    for name, path in own_groups().items():
        assert seen(f"{path}/pyrun-{uuid}/cgroup.procs") is None, name


def test_one_app_whose_supervisor_was_killed(hybrid: Call, busybox: Path, shared: Pyrun) -> None:
    """Nothing is kept of it, so nobody will look for its groups later: the keeper removes them."""
    words = ["run", "--detach", "--rm", "--memory", "48Mi", busybox, "--exec", "/bin/sh", "--", "-c", "sleep 1000"]
    uuid = hybrid(*words).stdout.strip()
    run = json.loads((shared.root / "pods" / "running" / uuid / "run").read_text())
    assert seen(f"{own_groups()['memory']}/pyrun-{uuid}/memory.limit_in_bytes") == str(48 << 20)
    os.kill(run["supervisor"], 9)
    wait_until(lambda: not (shared.root / "pods" / "running" / uuid).exists())
    assert seen(f"{own_groups()['memory']}/pyrun-{uuid}/memory.limit_in_bytes") is None


def test_what_apps_of_version_1_cannot_have(hybrid: Call, busybox: Path) -> None:
    """More than the pod has is refused by the kernel there; nothing is left, which the fixture looks at."""
    for limit, option in (
        ("cpus=0.5", ["--cpus", "1"]),
        ("cpuset-cpus=0", ["--cpuset-cpus", "1"]),
        ("memory=64Mi", ["--memory-high", "9Mi"]),
    ):
        words = ["run", "--pod-limit", limit, busybox, "--name", "a", "--exec", "/bin/true", "---", busybox, "--name", "b", *option]
        done = hybrid(*words, "--exec", "/bin/true")
        assert done.returncode == 125 and done.stderr.count("hint: ") == 1 and option[0] in done.stderr, done
        assert "Traceback" not in done.stderr


def told_by_the_log() -> bool:
    """The kernel's log has numbers of the initial pid namespace, and the lane of these tests is another one."""
    return os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC and subprocess.run(["dmesg"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("text", "signal", "victim"),
    [
        ("exec EAT", 9, "main"),
        ("EAT; rm /dev/shm/eaten; exec EAT", 9, "main"),
        ("EAT; exit 3", 0, "child"),
        ("EAT; kill -9 $$", 9, "child"),
        ("EAT; rm /dev/shm/eaten; EAT; kill -9 $$", 9, "child"),
    ],
)
def test_who_was_killed(hybrid: Call, busybox: Path, text: str, signal: int, victim: str) -> None:
    """Exact where the kernel's log can be read; where it cannot, an end by signal 9 leaves it open."""
    text = text.replace("EAT", "dd if=/dev/zero of=/dev/shm/eaten bs=1M count=48 2>/dev/null")
    uuid = hybrid("run", "--detach", "--keep", "--memory", "24Mi", busybox, "--exec", "/bin/sh", "--", "-c", text).stdout.strip()
    hybrid("wait", uuid)
    found = json.loads(hybrid("status", "--format", "json", uuid).stdout)
    hybrid("rm", uuid)
    expected = victim if signal == 0 or told_by_the_log() else None
    assert (found["signal"], found["oom"], found.get("oom_victim")) == (signal, True, expected), found
