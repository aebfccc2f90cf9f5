"""config.json against the rules of the runtime specification: each row breaks one rule and says where and why."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from pyrun.errors import ConfigError
from pyrun.oci import spec

GOOD: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "terminal": False,
        "consoleSize": None,
        "cwd": "/",
        "args": ["sh"],
        "env": ["PATH=/bin", "EMPTY="],
        "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [0, 10]},
        "capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "inheritable", "ambient")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1 << 63}],
        "noNewPrivileges": True,
        "apparmorProfile": "",
        "oomScoreAdj": 0,
        "scheduler": {"policy": "SCHED_OTHER", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0-3,7", "final": "1"},
        "something": "new",
    },
    "hostname": "box",
    "domainname": "example.com",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]},
    ],
    "hooks": {"prestart": [{"path": "/bin/hook", "args": ["hook", "-x"], "timeout": 5}]},
    "annotations": {"com.example.key": ""},
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 7}, "boottime": {"secs": 9}},
        "devices": [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
        "netDevices": {"eth9": {"name": "in0"}, "eth8": {}},
        "cgroupsPath": "/a/b",
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "rm"}],
            "memory": {"limit": -1, "swappiness": 60, "disableOOMKiller": False},
            "cpu": {"shares": 0, "quota": -1, "cpus": "0-1", "burst": 1},
            "pids": {"limit": 0},
            "blockIO": {"weight": 0, "weightDevice": [{"major": 8, "minor": 0, "weight": 500}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 3}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3}},
            "unified": {"memory.high": "1"},
        },
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/agent",
            "listenerMetadata": "x",
            "syscalls": [
                {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"},
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": (1 << 64) - 1}],
                },
            ],
        },
        "sysctl": {"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.100/forwarding": "1", "kernel.shmmax": "1", "fs.mqueue.msg_max": "2"},
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "",
        "intelRdt": {"closID": "guaranteed", "l3CacheSchema": "L3:0=7f0", "memBwSchema": "MB:0=20", "enableMonitoring": True},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX32", "flags": []},
    },
}


def deadline(**members: int) -> dict[str, Any]:
    return {"policy": "SCHED_DEADLINE", **members}


def put(config: dict[str, Any], where: str, value: object) -> None:
    """Set `a.b.0.c` of a document; the value "(gone)" removes it."""
    *parents, last = where.split("/")
    holder: Any = config
    for name in parents:
        holder = holder[int(name) if isinstance(holder, list) else name]
    key: Any = int(last) if isinstance(holder, list) else last
    if value == "(gone)":
        del holder[key]
    elif isinstance(holder, list) and key == len(holder):
        holder.append(value)
    else:
        holder[key] = value


def test_a_config_with_every_member_is_good() -> None:
    read = spec.load(json.dumps(GOOD).encode())
    assert read["linux"] == GOOD["linux"]
    assert "consoleSize" not in read["process"], "null is absent"
    assert read["process"]["something"] == "new", "the unknown is ignored, not removed"


NS = "linux/namespaces"
ROWS: list[tuple[str, object, str, str]] = [
    ("ociVersion", "(gone)", "ociVersion", "is required"),
    ("ociVersion", "foo", "ociVersion", "not a version"),
    ("ociVersion", "1.0", "ociVersion", "not a version"),
    ("ociVersion", "1.00.0", "ociVersion", "not a version"),
    ("ociVersion", "1.0.0-", "ociVersion", "not a version"),
    ("ociVersion", "2.0.0", "ociVersion", "not supported"),
    ("ociVersion", "1.4.0", "ociVersion", "not supported"),
    ("ociVersion", 1, "ociVersion", "must be a string, not an integer"),
    ("root", "(gone)", "root", "is required"),
    ("root/path", "(gone)", "root.path", "is required"),
    ("root/path", "", "root.path", "must not be empty"),
    ("root/readonly", "yes", "root.readonly", "must be a boolean"),
    ("root/path", "a\0b", "root.path", "NUL"),
    ("root/path", "\ud800", "root.path", "surrogate"),
    ("process/cwd", "(gone)", "process.cwd", "is required"),
    ("process/cwd", "tmp", "process.cwd", "not an absolute path"),
    ("process/args", [], "process.args", "at least 1 item"),
    ("process/args", [""], "process.args[0]", "must not be empty"),
    ("process/args/0", 5, "process.args[0]", "must be a string, not an integer"),
    ("process/env/1", "NOVALUE", "process.env[1]", "NAME=VALUE"),
    ("process/user/uid", -1, "process.user.uid", "out of range"),
    ("process/user/uid", "(gone)", "process.user.uid", "is required"),
    ("process/user/gid", -1, "process.user.gid", "out of range"),
    ("process/user/uid", 1.0, "process.user.uid", "must be an integer"),
    ("process/user/umask", 512, "process.user.umask", "out of range"),
    ("process/rlimits/0/type", "RLIMIT_FOO", "process.rlimits[0].type", "no resource"),
    ("process/rlimits/0/type", "NOFILE", "process.rlimits[0].type", "no resource"),
    ("process/rlimits/0/hard", 1, "process.rlimits[0].soft", "above the hard limit"),
    ("process/rlimits/0/hard", "(gone)", "process.rlimits[0].hard", "is required"),
    ("process/rlimits/1", {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, "process.rlimits[1].type", "there twice"),
    ("process/oomScoreAdj", 1001, "process.oomScoreAdj", "out of range"),
    ("process/scheduler/policy", "SCHED_NEW", "process.scheduler.policy", "is unknown"),
    ("process/scheduler/policy", "SCHED_ISO", "process.scheduler.policy", "not supported"),
    ("process/scheduler/policy", "SCHED_FIFO", "process.scheduler.priority", "needs a priority"),
    ("process/scheduler/priority", 5, "process.scheduler.priority", "has no priority"),
    ("process/scheduler/runtime", 5, "process.scheduler.runtime", "has no runtime"),
    ("process/scheduler", deadline(deadline=9999), "process.scheduler.runtime", "requires `runtime`"),
    ("process/scheduler", deadline(runtime=9999), "process.scheduler.deadline", "requires `deadline`"),
    ("process/scheduler", deadline(runtime=0, deadline=9999), "process.scheduler.runtime", "greater than 0"),
    ("process/scheduler", deadline(runtime=1023, deadline=9999), "process.scheduler.runtime", "1023 must be between 1024 and"),
    ("process/scheduler", deadline(runtime=1 << 63, deadline=1 << 63), "process.scheduler.runtime", "must be between"),
    ("process/scheduler", deadline(runtime=9999, deadline=9998), "process.scheduler.runtime", "9999 must be <= deadline 9998"),
    ("process/scheduler", deadline(runtime=1024, deadline=9999, period=9998), "process.scheduler.deadline", "<= period 9998"),
    ("process/scheduler", deadline(runtime=1024, deadline=1024), "", ""),
    ("process/scheduler", deadline(runtime=1024, deadline=1025, period=1025), "", ""),
    ("process/scheduler/flags/0", "SCHED_FLAG_X", "process.scheduler.flags[0]", "is unknown"),
    ("process/ioPriority/class", "IOPRIO_CLASS_NONE", "process.ioPriority.class", "is unknown"),
    ("process/ioPriority/priority", 8, "process.ioPriority.priority", "out of range"),
    ("process/execCPUAffinity/initial", "3-1", "process.execCPUAffinity.initial", "not a list"),
    ("process/terminal", 1, "process.terminal", "must be a boolean"),
    ("hostname", "x" * 65, "hostname", "the kernel takes 64"),
    (NS, [{"type": "mount"}], "hostname", "needs a uts namespace"),
    ("mounts/0/destination", "", "mounts[0].destination", "must not be empty"),
    ("mounts/0/options", "ro", "mounts[0].options", "must be an array"),
    ("mounts/1/options", ["bind", "idmap"], "", ""),
    ("mounts/1/uidMappings", [{"containerID": 0, "hostID": 1, "size": 1}], "mounts[1].gidMappings", "required along with"),
    ("hooks/prestart/0/path", "hook", "hooks.prestart[0].path", "not an absolute path"),
    ("hooks/prestart/0/timeout", 0, "hooks.prestart[0].timeout", "out of range"),
    ("hooks/poststop", [{}], "hooks.poststop[0].path", "is required"),
    ("annotations/", "x", "annotations['']", "must not be empty"),
    ("annotations/com.example.key", 5, "annotations['com.example.key']", "must be a string"),
    (f"{NS}/8", {"type": "pid"}, "linux.namespaces[8].type", "there twice"),
    (f"{NS}/8", {"type": "disk"}, "linux.namespaces[8].type", "is unknown"),
    (f"{NS}/2/path", "proc/1/ns/mnt", "linux.namespaces[2].path", "not an absolute path"),
    (f"{NS}/2", "(gone)", "linux.namespaces", "no mount namespace"),
    (f"{NS}/7", "(gone)", "linux.timeOffsets", "needs a time namespace"),
    (f"{NS}/7/path", "/proc/1/ns/time", "linux.timeOffsets", "keeps its clocks"),
    (f"{NS}/5", "(gone)", "linux.uidMappings", "needs a user namespace"),
    ("linux/uidMappings", "(gone)", "linux.uidMappings", "required along with gidMappings"),
    ("process/ioPriority/priority", "(gone)", "", ""),
    ("linux/uidMappings/1/hostID", 100999, "linux.uidMappings[1].hostID", "overlaps with [0]"),
    ("linux/uidMappings/1/size", 0, "linux.uidMappings[1].size", "must not be 0"),
    ("linux/gidMappings/0/size", 4294967295, "linux.gidMappings[0].size", "last id"),
    ("linux/timeOffsets/monotonic/nanosecs", 1000000000, "linux.timeOffsets.monotonic.nanosecs", "out of range"),
    ("linux/devices/0/type", "d", "linux.devices[0].type", "is unknown"),
    ("linux/devices/0/minor", "(gone)", "linux.devices[0].minor", "required unless"),
    ("linux/devices/0/path", "dev/x", "linux.devices[0].path", "not an absolute path"),
    ("linux/netDevices/eth9/name", "a" * 16, "linux.netDevices.eth9.name", "not a name"),
    ("linux/netDevices/eth8/name", "in0", "linux.netDevices.eth8.name", "two devices"),
    ("linux/rootfsPropagation", "sharing", "linux.rootfsPropagation", "is unknown"),
    ("linux/seccomp/defaultAction", "SCMP_ACT_DENY", "linux.seccomp.defaultAction", "is unknown"),
    ("linux/seccomp/defaultAction", "SCMP_ACT_ALLOW", "linux.seccomp.defaultErrnoRet", "returns no errno"),
    ("linux/seccomp/syscalls/0/errnoRet", 1, "linux.seccomp.syscalls[0].errnoRet", "returns no errno"),
    ("linux/seccomp/syscalls/0/names", [], "linux.seccomp.syscalls[0].names", "at least 1 item"),
    ("linux/seccomp/syscalls/2/args/0/op", "==", "linux.seccomp.syscalls[2].args[0].op", "is unknown"),
    ("linux/seccomp/syscalls/2/args/0/index", 6, "linux.seccomp.syscalls[2].args[0].index", "out of range"),
    ("linux/seccomp/listenerPath", "", "linux.seccomp.listenerMetadata", "needs listenerPath"),
    ("linux/seccomp/architectures/0", "x86", "linux.seccomp.architectures[0]", "is unknown"),
    ("linux/seccomp/flags/0", "LOG", "linux.seccomp.flags[0]", "is unknown"),
    ("linux/sysctl/kernel.core_pattern", "|/x", "linux.sysctl['kernel.core_pattern']", "would change the host"),
    ("linux/sysctl/net..x", "1", "linux.sysctl['net..x']", "not the name"),
    ("linux/sysctl/net.ipv4.x+y", "1", "linux.sysctl['net.ipv4.x+y']", "not the name"),
    ("linux/sysctl/kernel.hostname", "1", "linux.sysctl['kernel.hostname']", "same as hostname"),
    ("linux/sysctl/kernel.shmmax", "1\n2", "linux.sysctl['kernel.shmmax']", "line break"),
    ("linux/maskedPaths/0", "proc/kcore", "linux.maskedPaths[0]", "not an absolute path"),
    ("linux/readonlyPaths/0", "proc/sys", "linux.readonlyPaths[0]", "not an absolute path"),
    ("linux/intelRdt/memBwSchema", "L3:0", "linux.intelRdt.memBwSchema", "MB:"),
    ("linux/intelRdt/closID", "../x", "linux.intelRdt.closID", "not the name"),
    ("linux/memoryPolicy/mode", "MPOL_X", "linux.memoryPolicy.mode", "is unknown"),
    ("linux/memoryPolicy/mode", "(gone)", "linux.memoryPolicy.mode", "invalid memory policy mode: is required"),
    ("linux/memoryPolicy/nodes", "0-9876543210", "linux.memoryPolicy.nodes", "invalid memory policy nodes"),
    ("linux/memoryPolicy/flags/0", "MPOL_X", "linux.memoryPolicy.flags[0]", "invalid memory policy flag: 'MPOL_X' is unknown"),
    ("linux/memoryPolicy/nodes", "", "linux.memoryPolicy.nodes", "needs nodes"),
    ("linux/memoryPolicy/mode", "MPOL_LOCAL", "linux.memoryPolicy.nodes", "takes no nodes"),
    ("linux/personality/domain", "BSD", "linux.personality.domain", "is unknown"),
    ("linux/personality/flags", ["x"], "linux.personality.flags", "no flags"),
    ("linux/resources/devices/0/access", "rx", "linux.resources.devices[0].access", "r, w and m"),
    ("linux/resources/unified/a~b", "1", "", ""),
    ("linux/resources/hugepageLimits/0/pageSize", "2M", "linux.resources.hugepageLimits[0].pageSize", "not a page size"),
    ("linux/resources/pids", {}, "linux.resources.pids.limit", "is required"),
    ("linux/resources/memory/limit", "64m", "linux.resources.memory.limit", "must be an integer"),
    ("linux/resources/memory/swappiness", 101, "linux.resources.memory.swappiness", "out of range"),
    ("vm", {"hypervisor": {"path": "/x"}}, "vm", "another platform"),
]


@pytest.mark.parametrize(("where", "value", "path", "reason"), ROWS, ids=[f"{row[0]}-{row[2]}-{n}" for n, row in enumerate(ROWS)])
def test_each_rule_names_its_path(where: str, value: object, path: str, reason: str) -> None:
    config = copy.deepcopy(GOOD)
    put(config, where, value)
    data = json.dumps(config).encode()
    if not reason:
        spec.load(data)
        return
    with pytest.raises(ConfigError) as caught:
        spec.load(data)
    assert (caught.value.subject, caught.value.step) == (path, "read config.json")
    assert reason in caught.value.reason
    assert caught.value.hint


def test_the_host_name_is_not_to_be_had_as_a_parameter() -> None:
    """Not even alone: there is a member for it, which the state and others go by."""
    config = copy.deepcopy(GOOD)
    del config["hostname"]
    config["linux"]["sysctl"] = {"kernel.domainname": "example.com"}
    spec.load(json.dumps(config).encode())
    for key in ("kernel.hostname", "kernel/hostname"):
        config["linux"]["sysctl"] = {key: "box"}
        with pytest.raises(ConfigError, match="the same as hostname"):
            spec.load(json.dumps(config).encode())


def test_the_size_of_pages_in_small_letters() -> None:
    """As runc's reader takes it: a limit that was passed over would be missed."""
    config = copy.deepcopy(GOOD)
    config["linux"]["resources"] = {"hugepageLimits": [{"pagesize": "2MB", "limit": 4 << 20}, {"pageSize": "1GB", "limit": 0}]}
    limits = spec.load(json.dumps(config).encode())["linux"]["resources"]["hugepageLimits"]
    assert limits == [{"pageSize": "2MB", "limit": 4 << 20}, {"pageSize": "1GB", "limit": 0}]
    config["linux"]["resources"]["hugepageLimits"][0]["pagesize"] = "2M"
    with pytest.raises(ConfigError, match="not a page size"):
        spec.load(json.dumps(config).encode())


def test_a_domain_name_is_said_once_or_twice_the_same() -> None:
    config = copy.deepcopy(GOOD)
    config["domainname"] = "example.com"
    config["linux"]["sysctl"] = {"kernel.domainname": "example.com"}
    spec.load(json.dumps(config).encode())
    for key in ("kernel.domainname", "kernel/domainname"):
        config["linux"]["sysctl"] = {key: "example.org"}
        with pytest.raises(ConfigError, match="contradicts domainname") as caught:
            spec.load(json.dumps(config).encode())
        assert caught.value.origin == f"linux.sysctl[{key!r}]"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no JSON value"),
        (b"[]", "must be an object"),
        (b"{", "not valid JSON"),
        (b'{"a": 1, "a": null}', "occurs twice"),
        (b'{"a": NaN}', "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a":' + b"[" * 100000, "nests too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"{} x", "text after"),
    ],
)
def test_what_is_no_json_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec.load(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0+dev", "1.2.1", "1.3.0", "1.0.0-rc5"])
def test_versions_that_are_read(version: str) -> None:
    spec.load(json.dumps({**GOOD, "ociVersion": version}).encode())


def test_console_size_is_ignored_without_a_terminal() -> None:
    config = copy.deepcopy(GOOD)
    config["process"]["consoleSize"] = {"height": "x"}
    spec.load(json.dumps(config).encode())
    config["process"]["terminal"] = True
    for height in ("x", 65536):  # struct winsize has 16 bits
        config["process"]["consoleSize"] = {"height": height, "width": 80}
        with pytest.raises(ConfigError, match=r"process.consoleSize.height"):
            spec.load(json.dumps(config).encode())


@pytest.mark.parametrize(("read", "member"), [(spec.load_process, "cwd"), (spec.load_resources, "memory")])
def test_parts_are_read_alone(read: Callable[[bytes], dict[str, Any]], member: str) -> None:
    part = GOOD["process"] if member == "cwd" else GOOD["linux"]["resources"]
    assert read(json.dumps(part).encode())[member] == part[member]
    with pytest.raises(ConfigError, match=f" {member}: must be"):
        read(json.dumps({**part, member: 5}).encode())


@pytest.mark.parametrize(("version", "limit"), [("1.0.2-dev", 0), ("1.2.1", 0), ("1.3.0", 1), ("1.10.0", 1)])
def test_no_processes_at_all_are_meant_since_version_1_3(version: str, limit: int) -> None:
    from pyrun.oci.resources import as_meant

    assert as_meant({"pids": {"limit": 0}}, version) == {"pids": {"limit": limit}}
    assert as_meant({"pids": {"limit": 5}, "cpu": {}}, version) == {"pids": {"limit": 5}, "cpu": {}}
