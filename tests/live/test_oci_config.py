"""What config.json asks of the process and the kernel, as seen from inside (runtime-spec config.md and config-linux.md)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime

MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def users(oci: Runtime, path: str = "") -> None:
    """A user namespace, and a root that is its root's."""
    oci.config["linux"]["namespaces"].append({"type": "user", **({"path": path} if path else {})})
    if not path:
        oci.config["linux"]["uidMappings"] = oci.config["linux"]["gidMappings"] = MAP
    os.chown(oci.bundle / "rootfs", 100000, 100000)


def report(oci: Runtime, name: str = "one") -> dict[str, Any]:
    oci.command("/probe", "report")
    seen: dict[str, Any] = json.loads(oci("run", name).stdout)
    return seen


def test_the_process_gets_what_it_is_given(oci: Runtime) -> None:
    process = oci.config["process"]
    process["user"] = {"uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5, 6]}
    process["cwd"] = "/made/for it"
    process["env"] = ["PATH=/bin", "A=b c", "EMPTY="]
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    process["oomScoreAdj"] = 500
    script = """id -u; id -g; id -G; umask; pwd; echo "$A|$EMPTY|$HOME"; grep -E 'Max (open|core)' /proc/self/limits
        cat /proc/self/oom_score_adj; grep NoNewPrivs /proc/self/status; stat -c '%a %u' "/made/for it" """
    lines = oci.shell(script).splitlines()
    assert lines[:6] == ["1000", "1001", "1001 5 6", "0027", "/made/for it", "b c||/home/app"]
    assert [line.split()[-3:-1] for line in lines[6:8]] == [["0", "0"], ["100", "200"]]
    assert lines[8:] == ["500", "NoNewPrivs:\t1", "755 0"]


def test_what_is_not_given_stays_as_it_was(oci: Runtime) -> None:
    process = oci.config["process"]
    process["user"] = {"uid": 0, "gid": 0}
    for name in ("rlimits", "capabilities", "noNewPrivileges"):
        process.pop(name, None)
    oci.command("/bin/sh", "-c", "umask; cat /proc/self/oom_score_adj; grep -E 'NoNewPrivs|Cap(Bnd|Prm)' /proc/self/status")
    before = Path("/proc/self/oom_score_adj").read_text().strip()
    lines = oci("run", "one", umask=0o013).stdout.splitlines()
    assert lines == ["0013", before, "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t0"]


def test_five_capability_sets(oci: Runtime) -> None:
    kill, chown = ["CAP_KILL"], ["CAP_KILL", "CAP_CHOWN"]
    process = oci.config["process"]
    process["user"] = {"uid": 1000, "gid": 1000}
    process["capabilities"] = {
        "bounding": [*chown, "CAP_NO_SUCH", "CAP_SYS_RESOURCE"],  # unknown, and one that the caller may not have
        "permitted": chown,
        "inheritable": kill,
        "effective": kill,
        "ambient": [*chown, "CAP_SYS_TIME"],
    }
    oci.command("/bin/grep", "^Cap", "/proc/self/status")
    log = oci.folder / "log"
    words = oci("--log", log, "--log-format", "json", "run", "one").stdout.split()
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert told[0]["level"] == "warning" and told[0]["msg"] == "process.capabilities.bounding[2]: CAP_NO_SUCH cannot be granted"
    assert any(line["msg"].startswith("can't raise ambient capability CAP_CHOWN: ") for line in told)
    for name in ("two", "three"):  # nothing of this is said by a recipe
        shown = oci("run", name).stderr
        assert "CAP_NO_SUCH" in shown and "can't raise ambient capability CAP_CHOWN: " in shown and "capability CAP_KILL" not in shown
    held = {name.rstrip(":"): int(value, 16) for name, value in zip(words[::2], words[1::2], strict=True)}
    assert held["CapBnd"] & ~(1 << 24) == 0x21
    assert (held["CapInh"], held["CapAmb"], held["CapPrm"], held["CapEff"]) == (0x20, 0x20, 0x20, 0x20)
    process["capabilities"]["inheritable"] = []
    oci.command("/bin/true")
    shown = oci("run", "four").stderr
    assert "CAP_NO_SUCH" in shown and "ambient capability" not in shown, "builders ask for such ones at every step"
    oci("--log", log, "run", "five")
    assert "can't raise ambient capability CAP_KILL: " in log.read_text(), "the log has them all (config.md, capabilities)"


def test_names_of_the_host(oci: Runtime) -> None:
    oci.config.update(hostname="here", domainname="example.com")
    oci.config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "77", "kernel/shmmni": "99", "fs.mqueue.msg_max": "11"}
    script = """hostname; cd /proc/sys; cat kernel/domainname net/ipv4/ip_unprivileged_port_start kernel/shmmni fs/mqueue/msg_max"""
    assert oci.shell(script).split() == ["here", "example.com", "77", "99", "11"]
    assert os.uname().nodename != "here" and Path("/proc/sys/kernel/shmmni").read_text().strip() != "99"


NAMESPACES = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "time": "time", "user": "user"}


@pytest.fixture
def elsewhere(tmp_path: Path, probe: Path) -> Iterator[Path]:
    """Namespaces of another container; its /proc/PID/ns."""
    other = Runtime(tmp_path / "other", probe)
    users(other)
    other.config["hostname"] = "joined"
    other.config["linux"]["namespaces"].append({"type": "time"})
    other.config["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000}}
    yield Path(f"/proc/{other.start_sleeping('other')}/ns")
    other("delete", "--force", "other")


def test_namespaces_are_new_inherited_or_joined(oci: Runtime, elsewhere: Path) -> None:
    linux = oci.config["linux"]
    show = "for i in pid net ipc uts cgroup time user mnt; do readlink /proc/self/ns/$i; done"
    new = oci.shell(show, "new").split()
    host = [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net", "ipc", "uts", "cgroup", "time", "user", "mnt")]
    assert [a == b for a, b in zip(new, host, strict=True)] == [False, False, False, False, False, True, True, False]
    linux["namespaces"] = [{"type": "mount"}]
    for name in ("hostname", "domainname"):
        oci.config.pop(name, None)
    assert oci.shell(show, "inherited").split()[:-1] == host[:-1]
    linux["namespaces"] += [{"type": kind, "path": str(elsewhere / name)} for kind, name in NAMESPACES.items()]
    os.chown(oci.bundle / "rootfs", 100000, 100000)
    joined = oci.shell(f"{show}; hostname; id -u; cut -d. -f1 /proc/uptime", "joined").split()
    assert joined[:7] == [os.readlink(elsewhere / name) for name in ("pid", "net", "ipc", "uts", "cgroup", "time", "user")]
    assert joined[8:10] == ["joined", "0"]
    assert int(joined[10]) >= 1000000


@pytest.mark.parametrize(
    ("kind", "path", "reason"),
    [
        ("network", "/no/such/ns", "no such file or directory"),
        ("network", "/proc/self/ns/uts", "not a namespace of this type"),
        ("network", "/etc/passwd", "not a namespace of this type"),
        ("mount", "/proc/self/ns/mnt", "the root of the host would change"),
    ],
)
def test_a_path_must_be_a_namespace_of_the_type(oci: Runtime, kind: str, path: str, reason: str) -> None:
    spaces = oci.config["linux"]["namespaces"]
    index = next(at for at, one in enumerate(spaces) if one["type"] == kind)
    spaces[index]["path"] = path
    oci.command("/bin/true")
    done = oci("run", "one", code=1)
    assert reason in done.stderr and f"linux.namespaces[{index}]" in done.stderr, done.stderr
    assert not oci.leftovers()


def test_a_user_namespace_has_its_ids_mapped(oci: Runtime) -> None:
    linux = oci.config["linux"]
    users(oci)
    linux["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 1000, "hostID": 200000, "size": 5}]
    oci.config["process"]["user"] = {"uid": 1000, "gid": 7, "additionalGids": [8]}
    script = "id -u; id -G; cat /proc/self/uid_map /proc/self/gid_map; echo > /dev/null; touch /tmp/x; ls -n /dev/full | cut -c1-10"
    os.chmod(oci.bundle / "rootfs/tmp", 0o1777)
    words = oci.shell(script).split()
    assert words == "1000 7 8 0 100000 10 1000 200000 5 0 100000 65536 crw-rw-rw-".split()
    assert os.stat(oci.bundle / "rootfs/tmp/x").st_uid == 200000
    oci.config["process"]["capabilities"]["bounding"] = ["CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"]
    assert oci.shell("grep CapBnd /proc/self/status", "two") == "CapBnd:\t0000000001200000\n", "root of a namespace of its own has them all"


def test_clocks_have_offsets(oci: Runtime) -> None:
    oci.config["linux"]["namespaces"].append({"type": "time"})
    oci.config["linux"]["timeOffsets"] = {"monotonic": {"secs": 7, "nanosecs": 5}, "boottime": {"secs": 1000000}}
    words = oci.shell("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime").split()
    assert words[:6] == ["monotonic", "7", "5", "boottime", "1000000", "0"]
    assert int(words[6]) >= 1000000


def test_devices_are_made_as_asked(oci: Runtime) -> None:
    oci.config["linux"]["devices"] = [
        {"type": "c", "path": "/dev/mine/null", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"type": "b", "path": "/dev/disk", "major": 254, "minor": 300},
        {"type": "u", "path": "/dev/raw", "major": 1, "minor": 9, "fileMode": 0o600},
        {"type": "p", "path": "/dev/pipe", "fileMode": 0o600},
        {"type": "c", "path": "/dev/full", "major": 1, "minor": 7, "fileMode": 0o600},
    ]
    script = "stat -c '%F %a %u %g %t:%T' /dev/mine/null /dev/disk /dev/raw /dev/pipe /dev/full /dev/null; cd /dev; "
    script += "ls -d null zero full random urandom tty ptmx fd stdin stdout stderr | wc -l; readlink ptmx"
    assert oci.shell(script).splitlines() == [
        "character special file 640 5 6 1:3",
        "block special file 666 0 0 fe:12c",
        "character special file 600 0 0 1:9",
        "fifo 600 0 0 0:0",
        "character special file 600 0 0 1:7",
        "character special file 666 0 0 1:3",
        "11",
        "pts/ptmx",
    ]


def test_a_device_never_takes_the_place_of_another_file(oci: Runtime) -> None:
    (oci.bundle / "rootfs/there").write_text("")
    os.mknod(oci.bundle / "rootfs/null", 0o020600, os.makedev(1, 3))
    device = {"type": "c", "path": "/null", "major": 1, "minor": 3}
    oci.config["linux"]["devices"] = [device]
    assert oci.shell("echo fine") == "fine\n", "what is the device already is left alone"
    device["path"] = "/there"
    done = oci("run", "one", code=None, cwd=oci.write() or oci.bundle)
    assert done.returncode == 1 and "linux.devices[0]" in done.stderr and "another file" in done.stderr
    assert not oci.leftovers()


def test_scheduling_memory_and_personality(oci: Runtime) -> None:
    process, linux = oci.config["process"], oci.config["linux"]
    process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 3}
    linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    linux["personality"] = {"domain": "LINUX32"}
    pid = oci.start_sleeping()
    try:
        assert os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_BATCH
        assert os.sched_getscheduler(pid) & os.SCHED_RESET_ON_FORK
        assert os.getpriority(os.PRIO_PROCESS, pid) == 5
        assert "idle" in subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
        assert " bind=static:0 " in Path(f"/proc/{pid}/numa_maps").read_text().splitlines()[0] + " "
        assert Path(f"/proc/{pid}/personality").read_text() == "00000008\n"
    finally:
        oci("delete", "--force", "one")


def test_what_enters_has_its_own_scheduling(oci: Runtime, tmp_path: Path) -> None:
    """execCPUAffinity is for exec alone (config.md); what is the container's holds for it, too."""
    oci.config["process"]["execCPUAffinity"] = {"initial": "0", "final": "0"}
    oci.config["linux"]["personality"] = {"domain": "LINUX32"}
    pid = oci.start_sleeping()
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    script = "grep Cpus_allowed_list /proc/self/status; grep ^policy /proc/self/sched; uname -m; id -u; pwd"
    process = {
        "args": ["/bin/sh", "-c", script],
        "cwd": "/tmp",
        "env": ["PATH=/bin"],
        "user": {"uid": 1000, "gid": 1000},
        "execCPUAffinity": {"final": "1"},
        "scheduler": {"policy": "SCHED_BATCH"},
    }
    (tmp_path / "process").write_text(json.dumps(process))
    lines = oci("exec", "--process", tmp_path / "process", "one").stdout.split()
    assert (lines[1], lines[4], lines[5:]) == ("1", "3", ["i686", "1000", "/tmp"])
    process["cwd"] = "tmp"
    (tmp_path / "process").write_text(json.dumps(process))
    assert "cwd: 'tmp' is not an absolute path" in oci("exec", "--process", tmp_path / "process", "one", code=255).stderr
    oci("delete", "--force", "one")


def test_realtime_and_deadline(oci: Runtime) -> None:
    oci.config["process"]["scheduler"] = {"policy": "SCHED_RR", "priority": 7}
    pid = oci.start_sleeping()
    assert (os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority) == (os.SCHED_RR, 7)
    oci("delete", "--force", "one")
    oci.config["process"]["scheduler"] = {"policy": "SCHED_DEADLINE", "runtime": 1000000, "deadline": 20000000, "period": 20000000}
    pid = oci.start_sleeping()
    assert os.sched_getscheduler(pid) == 6
    oci("delete", "--force", "one")


def test_paths_are_hidden_and_protected(oci: Runtime, tmp_path: Path) -> None:
    root = oci.bundle / "rootfs"
    (root / "secret/dir").mkdir(parents=True)
    (root / "secret/dir/file").write_text("x")
    (root / "secret/file").write_text("x")
    (root / "link").symlink_to("/secret/file")
    (root / "kept").mkdir()
    linux = oci.config["linux"]
    linux["maskedPaths"] = ["/secret/dir", "/link", "/no/such", "/etc/passwd/x", "/proc/kcore"]
    linux["readonlyPaths"] = ["/kept", "/proc/sys", "/no/such"]
    oci.config["mounts"].append({"destination": "/kept/below", "type": "tmpfs", "source": "x"})
    script = """ls /secret/dir | wc -l; wc -c < /secret/file; touch /secret/dir/x || echo 1; touch /kept/x || echo 2
        touch /kept/below/x || echo 3; echo 1 > /proc/sys/net/ipv4/ip_forward || echo 4"""
    assert oci.shell(script).split() == ["0", "0", "1", "2", "3", "4"]


def test_a_joined_host_namespace_keeps_its_parameters(oci: Runtime) -> None:
    space = next(one for one in oci.config["linux"]["namespaces"] if one["type"] == "network")
    space["path"] = "/proc/1/ns/net"
    oci.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    oci.command("/bin/true")
    done = oci("run", "one", code=None)
    if os.stat("/proc/1/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:
        assert done.returncode == 1 and "would change the host" in done.stderr


@pytest.mark.parametrize("missing", [("process",), ("process", "args")], ids=".".join)
def test_only_start_needs_a_program(oci: Runtime, missing: tuple[str, ...]) -> None:
    """runtime-spec config.md, "Process": it is required when start is called, which fails and ends the container without it."""
    oci.command("/bin/true")
    (oci.config if len(missing) == 1 else oci.config["process"]).pop(missing[-1])
    oci.write()
    oci("create", "one")
    assert oci.state("one")["status"] == "created"
    assert oci("exec", "one", "/bin/echo", "here").stdout == "here\n"
    assert "process: is required" in oci("start", "one", code=1).stderr
    assert oci.state("one")["status"] == "stopped"
    oci("delete", "one")
    assert not oci.leftovers()


@pytest.mark.skipif(
    os.path.exists("/sys/fs/selinux/enforce"), reason="this kernel has SELinux, so the label counts: tests/vm/full/test_selinux.py"
)
def test_without_selinux_a_mount_label_is_warned_of(oci: Runtime) -> None:
    """Every time, so nothing of it is remembered for containers alike."""
    oci.config["linux"]["mountLabel"] = "a:b:c:d"
    oci.command("/bin/echo", "here")
    for _ in range(3):
        done = oci("run", "one")
        assert done.stdout == "here\n" and "warning: linux.mountLabel: this kernel has no SELinux" in done.stderr


REFUSED: list[tuple[str, object, str, str]] = [
    ("linux/netDevices", {"eth9": {}}, "linux.netDevices.eth9", "no such device"),
    ("linux/intelRdt", {"closID": "x"}, "linux.intelRdt", "not"),
    ("process/apparmorProfile", "none-such", "process.apparmorProfile", "AppArmor"),
    ("process/selinuxLabel", "a:b:c:d", "process.selinuxLabel", "SELinux"),
    ("linux/sysctl", {"net.ipv4.no_such": "1"}, "linux.sysctl", "no such file"),
    ("linux/sysctl", {"net.ipv4.ip_forward": "maybe"}, "linux.sysctl", "invalid argument"),
    ("linux/memoryPolicy", {"mode": "MPOL_BIND", "nodes": "900"}, "linux.memoryPolicy", "invalid argument"),
    ("process/rlimits", [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 << 40}], "process.rlimits[0]", "not permitted"),
    ("process", None, "start container process", "is required"),
]


@pytest.mark.parametrize(("where", "value", "path", "reason"), REFUSED, ids=[f"{row[0]}-{row[3]}" for row in REFUSED])
def test_what_cannot_be_done_is_refused_with_its_path(oci: Runtime, where: str, value: object, path: str, reason: str) -> None:
    oci.command("/bin/true")
    holder: Any = oci.config
    *parents, last = where.split("/")
    for name in parents:
        holder = holder[name]
    holder[last] = value
    oci.write()
    done = oci("run", "one", code=1)
    assert path in done.stderr and reason in done.stderr, done.stderr
    assert re.search(r"^hint: .", done.stderr, re.M)
    assert not oci.leftovers()


def test_a_mount_namespace_is_joined_and_taken_over(oci: Runtime) -> None:
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(b"x\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"x\n"
        space = next(one for one in oci.config["linux"]["namespaces"] if one["type"] == "mount")
        space["path"] = f"/proc/{other.pid}/ns/mnt"
        before = Path("/proc/self/mountinfo").read_text()
        seen = oci.shell("readlink /proc/self/ns/mnt; ls /probe; cat /proc/1/comm; true").split()
        assert seen == [os.readlink(space["path"]), "/probe", "sh"]
        assert Path("/proc/self/mountinfo").read_text() == before
        other.stdin.close()


def test_network_devices_move_in(oci: Runtime) -> None:
    """With their addresses and up, under the name that is asked for; the runtime's network is one of the test's own here."""
    oci.config["linux"]["netDevices"] = {"one0": {"name": "in0"}, "two0": {"name": "net%d"}, "three0": {}}
    oci.command("/bin/sh", "-c", "ls /sys/class/net; cat /proc/net/fib_trie /proc/net/if_inet6; cat /sys/class/net/in0/flags")
    make = """ip link set lo up; for i in one two three; do ip link add ${i}0 type veth peer name ${i}1; done
        ip addr add 10.9.8.7/24 dev one0; ip addr add fd00:9::7/64 dev one0 nodad; ip link set one0 address 02:00:00:00:00:07"""
    run = f"{OCI} --root {oci.root} run"
    script = f"{make}\n{run} one || exit 1; ip -o link | grep -c one0@"
    command = ["unshare", "--net", "sh", "-c", script]
    done = subprocess.run(command, cwd=oci.bundle, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[:4] == ["in0", "lo", "net0", "three0"], done.stderr
    assert "10.9.8.7" in done.stdout and "fd000009000000000000000000000007" in done.stdout
    assert int(done.stdout.split()[-2], 16) & 1, "up"
    assert done.stdout.split()[-1] == "0", "gone from where it was"
    for devices, reason in (({"one0": {"name": "lo"}}, "has a device lo"), ({"none": {}}, "no such device")):
        oci.config["linux"]["netDevices"] = devices
        oci.write()
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", f"{make}\n{run} one"], cwd=oci.bundle, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and reason in done.stderr and "linux.netDevices." in done.stderr
    assert not oci.leftovers()
