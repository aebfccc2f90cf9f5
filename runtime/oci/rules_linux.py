"""Rules of config.json's `linux` (runtime-spec config-linux.md), one member at a time; `pyrun.oci.agree` looks at several together."""

from __future__ import annotations

from pyrun.oci.rules import INT64, UINT32, UINT64, Bad, absolute, array, boolean, choice, filled, integer, mapping, record, text
from pyrun.oci.rules_process import number_list
from pyrun.oci.rules_resources import RESOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ID_MAPPINGS", "LINUX"]

_UINT32 = integer(*UINT32)
_MAX_EXTENTS = 340  # user_namespaces(7)


def _extents(value: Any) -> None:
    """user_namespaces(7): ranges of the right size that overlap on neither side."""
    if len(value) > _MAX_EXTENTS:
        raise Bad(f"has {len(value)} ranges, and the kernel takes {_MAX_EXTENTS}")
    for side in ("containerID", "hostID"):
        taken = sorted((one[side], one[side] + one["size"], at) for at, one in enumerate(value))
        for at, (first, end, index) in enumerate(taken):
            if end - first == 0:
                raise Bad("must not be 0", where=f"[{index}].size")
            if end > UINT32[1]:
                raise Bad("leads beyond the last id, 4294967294", where=f"[{index}].size")
            if at and taken[at - 1][1] > first:
                raise Bad(f"overlaps with [{taken[at - 1][2]}]", where=f"[{index}].{side}")


ID_MAPPINGS = array(record({"containerID": _UINT32, "hostID": _UINT32, "size": _UINT32}, "containerID", "hostID", "size"), also=_extents)


def _namespaces(value: Any) -> None:
    seen: set[str] = set()
    for at, one in enumerate(value):
        if one["type"] in seen:
            raise Bad(f"{one['type']} is there twice", "keep one of them", f"[{at}].type")
        seen.add(one["type"])


def _namespace_path(value: Any) -> None:
    text(value)
    if value:  # Docker and podman write "" for none
        absolute(value)


def _device(value: Any) -> None:
    if value["type"] == "p":
        return
    for name in ("major", "minor"):
        if name not in value:
            raise Bad("is required unless type is p", where=name)


def _interface(value: Any) -> None:
    filled(value)
    if len(value.encode()) > 15 or value in (".", "..") or any(letter in "/:" or letter.isspace() for letter in value):
        raise Bad(f"{value!r} is not a name that a network device can have", "up to 15 bytes, without / : and blanks")


_ACTION = choice(
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_ARCHITECTURES = """
    X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X
    SH SHEB PARISC PARISC64 RISCV64
""".split()


def _call(value: Any) -> None:
    if "errnoRet" in value and value["action"] not in _WITH_ERRNO:
        raise Bad(f"{value['action']} returns no errno", "leave it out, or use SCMP_ACT_ERRNO or SCMP_ACT_TRACE", "errnoRet")


def _seccomp(value: Any) -> None:
    if "defaultErrnoRet" in value and value["defaultAction"] not in _WITH_ERRNO:
        hint = "leave it out, or use SCMP_ACT_ERRNO or SCMP_ACT_TRACE"
        raise Bad(f"{value['defaultAction']} returns no errno", hint, "defaultErrnoRet")
    if value["defaultAction"] == "SCMP_ACT_NOTIFY":
        raise Bad("SCMP_ACT_NOTIFY cannot be the default", "name the system calls to be told of in syscalls", "defaultAction")
    for at, call in enumerate(value.get("syscalls", ())):
        if call["action"] == "SCMP_ACT_NOTIFY" and "write" in call["names"]:
            hint = "take it out: by it the process tells of a failure behind the filter, before anybody may listen"
            raise Bad("SCMP_ACT_NOTIFY cannot be used for the write syscall", hint, f"syscalls[{at}].names")
    if not value.get("listenerPath"):
        if value.get("listenerMetadata"):
            raise Bad("needs listenerPath", where="listenerMetadata")
        for at, call in enumerate(value.get("syscalls", ())):
            if call["action"] == "SCMP_ACT_NOTIFY":
                raise Bad("SCMP_ACT_NOTIFY needs somebody to notify", "set linux.seccomp.listenerPath", f"syscalls[{at}].action")


SECCOMP = record(
    {
        "defaultAction": _ACTION,
        "defaultErrnoRet": integer(0, 4095),
        "architectures": array(choice(*(f"SCMP_ARCH_{name}" for name in _ARCHITECTURES))),
        "flags": array(
            choice(
                "SECCOMP_FILTER_FLAG_TSYNC",
                "SECCOMP_FILTER_FLAG_LOG",
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
                "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
            )
        ),
        "listenerPath": text,
        "listenerMetadata": text,
        "syscalls": array(
            record(
                {
                    "names": array(filled, least=1),
                    "action": _ACTION,
                    "errnoRet": integer(0, 4095),
                    "args": array(
                        record(
                            {
                                "index": integer(0, 5),
                                "value": integer(*UINT64),
                                "valueTwo": integer(*UINT64),
                                "op": choice(*(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))),
                            },
                            "index",
                            "value",
                            "op",
                        )
                    ),
                },
                "names",
                "action",
                also=_call,
            )
        ),
    },
    "defaultAction",
    also=_seccomp,
)


def _line(value: Any) -> None:
    text(value)
    if "\n" in value:
        raise Bad("holds a line break")


def _bandwidth(value: Any) -> None:
    _line(value)
    if value and not value.startswith("MB:"):
        raise Bad(f"{value!r} does not begin with MB:")


def _clos(value: Any) -> None:
    text(value)
    if value in (".", "..") or "\n" in value or ("/" in value and value != "/"):
        raise Bad(f"{value!r} is not the name of a directory in resctrl")


def _policy(value: Any) -> None:
    """set_mempolicy(2): which modes want nodes."""
    if "mode" not in value:
        raise Bad("invalid memory policy mode: is required", where="mode")
    mode, nodes = value["mode"], value.get("nodes", "")
    if nodes and number_list(nodes) is None:
        raise Bad(f"invalid memory policy nodes: {nodes!r} is not a list of nodes", "for example 0-1", "nodes")
    if nodes and mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        given = len(set(number_list(nodes) or ()))
        raise Bad(f"{mode} takes no nodes: mode requires 0 nodes but got {given}", "leave it empty", "nodes")
    if not nodes and mode not in ("MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"):
        raise Bad(f"{mode} needs nodes", "for example 0-1", "nodes")
    flags = set(value.get("flags", ()))
    if {"MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"} <= flags:
        raise Bad("MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other", "keep one of them", "flags")
    if "MPOL_F_NUMA_BALANCING" in flags and mode not in ("MPOL_BIND", "MPOL_PREFERRED_MANY"):
        raise Bad("MPOL_F_NUMA_BALANCING goes with MPOL_BIND and MPOL_PREFERRED_MANY", where="flags")


def _no_flags(value: Any) -> None:
    if value:
        raise Bad("the spec defines no flags", "leave it out")


_OFFSET = record({"secs": integer(*INT64), "nanosecs": integer(0, 999_999_999)})

LINUX = record(
    {
        "namespaces": array(
            record(
                {
                    "type": choice("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"),
                    "path": _namespace_path,
                },
                "type",
            ),
            also=_namespaces,
        ),
        "uidMappings": ID_MAPPINGS,
        "gidMappings": ID_MAPPINGS,
        "timeOffsets": record({"boottime": _OFFSET, "monotonic": _OFFSET}),
        "devices": array(
            record(
                {
                    "type": choice("c", "b", "u", "p"),
                    "path": absolute,
                    "major": integer(0, (1 << 12) - 1),
                    "minor": integer(0, (1 << 20) - 1),
                    "fileMode": integer(0, 0o177777),  # with the type bits of stat(2) as Docker once wrote it
                    "uid": _UINT32,
                    "gid": _UINT32,
                },
                "type",
                "path",
                also=_device,
            )
        ),
        "netDevices": mapping(record({"name": _interface}), _interface),
        "cgroupsPath": text,
        "resources": RESOURCES,
        "rootfsPropagation": choice("", "private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable"),
        "seccomp": SECCOMP,
        "sysctl": mapping(_line),
        "maskedPaths": array(absolute),
        "readonlyPaths": array(absolute),
        "mountLabel": text,
        "intelRdt": record(
            {
                "closID": _clos,
                "l3CacheSchema": _line,
                "memBwSchema": _bandwidth,
                "schemata": array(_line),
                "enableMonitoring": boolean,
            }
        ),
        "memoryPolicy": record(
            {
                "mode": choice(
                    "MPOL_DEFAULT",
                    "MPOL_BIND",
                    "MPOL_INTERLEAVE",
                    "MPOL_WEIGHTED_INTERLEAVE",
                    "MPOL_PREFERRED",
                    "MPOL_PREFERRED_MANY",
                    "MPOL_LOCAL",
                    what="invalid memory policy mode: ",
                ),
                "nodes": text,
                "flags": array(
                    choice("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES", what="invalid memory policy flag: ")
                ),
            },
            also=_policy,
        ),
        "personality": record({"domain": choice("LINUX", "LINUX32"), "flags": array(text, also=_no_flags)}, "domain"),
    }
)
