"""`process` of config.json -> operations of the process itself: limits, scheduling, identity, filter, program."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError
from pyrun.images import fastjson
from pyrun.oci.arguments import program
from pyrun.oci.rules_process import number_list
from pyrun.plan import caps, ops, rlimits
from pyrun.plan.ops import caps_blob, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = [
    "capability_sets",
    "environment",
    "filter_flags",
    "held_capabilities",
    "hooks",
    "is_reset",
    "label_files",
    "listens",
    "lost_capabilities",
    "process_ops",
    "schedule",
    "scheduler",
    "selinux",
    "tells",
]

_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# OP_OCI_ATTRIBUTE.n of native/plan.h
_SCHEDULER, _IO_PRIORITY, _MEMORY_POLICY, _PERSONALITY, _AFFINITY, _PROPAGATION = range(1, 7)
_POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}  # sched(7)
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1,
    "SCHED_FLAG_RECLAIM": 2,
    "SCHED_FLAG_DL_OVERRUN": 4,
    "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}  # ioprio_set(2)
_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # linux/mempolicy.h
_MODE_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_PER_LINUX32 = 8
_FILTER_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_NEW_LISTENER = 8


def hooks(spec: dict[str, Any], kind: str, todo: list[Op], state: tuple[str, str], env: Sequence[str] = ()) -> None:
    """Append the hooks of one kind that run in the container's own process; `env` is what one has that names none."""
    head, tail = state
    joined = any(one["type"] == "mount" and one.get("path") for one in spec.get("linux", {}).get("namespaces", ()))
    in_root = joined or program() != "crun"
    for index, hook in enumerate(spec.get("hooks", {}).get(kind, ())):
        argv = [hook["path"], *(hook.get("args") or [hook["path"]])]
        where = f"hooks.{kind}[{index}]"
        flags = ops.KEEP if in_root else 0
        todo.append(op(ops.HOOK, argv, hook.get("env", [*env]), a=hook.get("timeout", 0), b=[head, tail], flags=flags, origin=where))


def environment(given: list[str], home: Callable[[], str]) -> list[str]:
    """Return the variables of a process: of two of a name the last, and a HOME that is missing or empty is what `home` says."""
    found = {word.partition("=")[0]: word for word in given}
    if len(found) != len(given):
        last = {word.partition("=")[0]: index for index, word in enumerate(given)}
        given = [word for index, word in enumerate(given) if last[word.partition("=")[0]] == index]
    if len(found.get("HOME", "")) > len("HOME="):
        return given
    return [*(word for word in given if word != "HOME="), "HOME=" + home()]


def process_ops(
    spec: dict[str, Any],
    todo: list[Op],
    *,
    seccomp: bytes,
    bounding: int,
    state: tuple[str, str],
    entering: bool = False,
    home: Callable[[], str],
    spread: int = 0,
) -> None:
    """Append what the process itself does: limits, scheduling, identity, filter, program.

    One that enters is visible in the container from SESSION on only, hence with nothing more than it shall have.
    `home` says which directory is the user's own, where the variables do not, `spread` how the root's mounts do, MS_... of mount(2).
    """
    process, linux = spec["process"], spec.get("linux", {})
    _begin(todo, entering, spread)
    blob = _identity(process, linux, entering, bounding, todo)
    argv, env = process.get("args", [""]), environment(process.get("env", []), home)
    paths = _paths(argv[0], env)
    if argv[0]:  # else it is start that fails
        todo.append(op(ops.FIND, b=paths, origin="process.args"))
    locked = process.get("noNewPrivileges", False)
    wanted = linux.get("seccomp") or {}
    session = [op(ops.SESSION, origin="process")] if entering else []
    if seccomp and not locked:
        if entering and listens(wanted):  # its listener is told of a pid, which there is from SESSION on
            _labels(process, todo)
            todo.append(session.pop())
        todo.append(op(ops.RAISE, origin="linux.seccomp"))
        todo.append(_filter(wanted, seccomp, state))
    todo.append(op(ops.CAPS, blob, n=1, origin="process.capabilities"))
    if session or not entering:
        _labels(process, todo)
        todo += session
    if entering and is_reset(process):
        todo.append(op(ops.CHECKPOINT, origin="process.scheduler"))
    if not entering:
        todo.append(op(ops.PARK, origin="process"))
    if locked:
        todo.append(op(ops.NO_NEW_PRIVS, origin="process.noNewPrivileges"))
        if seccomp:
            todo.append(_filter(wanted, seccomp, state))
    if not entering:  # programs of the container, which are no freer than its own
        hooks(spec, "startContainer", todo, (state[0].replace('"creating"', '"created"'), state[1]), env)
    todo.append(op(ops.EXEC, argv, env, b=paths, origin="process.args"))


def _begin(todo: list[Op], entering: bool, spread: int) -> None:
    todo.append(op(ops.APP, origin="process"))
    if not entering:
        todo.append(op(ops.SESSION, origin="process"))
    if spread:
        todo.append(_attribute(_PROPAGATION, b"", "linux.rootfsPropagation", value=spread))


def _identity(process: dict[str, Any], linux: dict[str, Any], entering: bool, bounding: int, todo: list[Op]) -> bytes:
    """Limits first, while there are capabilities; returns the sets to hold in the end."""
    user = process.get("user", {"uid": 0, "gid": 0})
    todo.append(op(ops.UMASK, n=user.get("umask", _umask()), origin="process.user.umask"))
    _attributes(process, linux, entering, todo)
    for index, limit in enumerate(process.get("rlimits", ())):
        number = rlimits.NAMES.index(limit["type"].removeprefix("RLIMIT_").lower())
        todo.append(op(ops.RLIMIT, n=number, a=limit["soft"], b=limit["hard"], origin=f"process.rlimits[{index}]"))
    blob = caps_blob(*capability_sets(process.get("capabilities", {}), bounding)[0])
    todo.append(op(ops.CAPS, blob, n=0, origin="process.capabilities"))
    groups = user.get("additionalGids", ())
    ids = b"".join([gid.to_bytes(4, "little") for gid in groups])
    todo.append(op(ops.IDS, ids, n=len(groups), a=user["uid"], b=user["gid"], origin="process.user"))
    todo.append(op(ops.CHDIR, process["cwd"], origin="process.cwd"))
    return blob


def _umask() -> int:
    """The caller's own, which stays as it is when the configuration has none."""
    own = os.umask(0o022)
    os.umask(own)
    return own


def _mask(numbers: list[int], words: int = 0) -> bytes:
    value = sum(1 << number for number in set(numbers))
    size = max(words, value.bit_length() + 63 >> 6) or 1
    return value.to_bytes(8 * size, "little")


def _attribute(kind: int, blob: bytes, origin: str, *, value: int = 0, size: int = -1) -> Op:
    return op(ops.OCI_ATTRIBUTE, blob, n=kind, a=value, b=len(blob) if size < 0 else size, origin=origin)


def _attributes(process: dict[str, Any], linux: dict[str, Any], entering: bool, todo: list[Op]) -> None:
    said = process.get("execCPUAffinity", {})
    name = "final" if said.get("final") else "initial"  # which stays without the other
    cpus = number_list(said.get(name) or "x")
    if cpus is not None and entering:
        todo.append(_attribute(_AFFINITY, _mask(cpus), f"process.execCPUAffinity.{name}"))
    if "scheduler" in process and not (entering and is_reset(process)):
        todo.append(_attribute(_SCHEDULER, scheduler(process["scheduler"]), "process.scheduler"))
    if "ioPriority" in process:
        wanted = process["ioPriority"]
        value = _IO_CLASSES[wanted["class"]] << 13 | wanted.get("priority", 0)
        todo.append(_attribute(_IO_PRIORITY, b"", "process.ioPriority", value=value))
    policy = linux.get("memoryPolicy")
    if policy:
        value = _MODES[policy["mode"]] | sum({_MODE_FLAGS[flag] for flag in policy.get("flags", ())})
        nodes = number_list(policy.get("nodes") or "x")
        blob = _mask(nodes, 16) if nodes is not None else b""  # MAX_NUMNODES of the kernel is 1024
        todo.append(_attribute(_MEMORY_POLICY, blob, "linux.memoryPolicy", value=value, size=len(blob) // 8))
    if "personality" in linux:
        value = _PER_LINUX32 if linux["personality"]["domain"] == "LINUX32" else 0
        todo.append(_attribute(_PERSONALITY, b"", "linux.personality", value=value))


def is_reset(process: dict[str, Any]) -> bool:
    """Whether a fork takes the process's scheduling away (sched(7)): one that enters is forked once more, so others set it then."""
    wanted = process.get("scheduler") or {}
    return wanted.get("policy") == "SCHED_DEADLINE" or "SCHED_FLAG_RESET_ON_FORK" in wanted.get("flags", ())


def schedule(pid: int, wanted: dict[str, Any]) -> None:
    """Give another process its `scheduler`; HostError when the kernel refuses."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    blob = scheduler(wanted)
    if libc.syscall(_SCHED_SETATTR[os.uname().machine], pid, blob, 0):
        raise HostError("set scheduler of", wanted["policy"], errno=ctypes.get_errno(), origin="process.scheduler")


_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}


def scheduler(wanted: dict[str, Any]) -> bytes:
    """struct sched_attr of sched_setattr(2), in the size that every kernel knows."""
    from struct import pack

    flags = sum({_SCHED_FLAGS[flag] for flag in wanted.get("flags", ())})
    times = [wanted.get(name, 0) for name in ("runtime", "deadline", "period")]
    head = pack("=IIQiI3Q", 48, _POLICIES[wanted["policy"]], flags, wanted.get("nice", 0), wanted.get("priority", 0), *times)
    return head + bytes(64 - len(head))


def capability_sets(wanted: dict[str, list[str]], bounding: int) -> tuple[tuple[int, int, int, int, int], list[str]]:
    """Return the five sets in the order of capset(2), and warnings for what cannot be granted.

    A capability that the kernel does not know or the caller does not hold is left out, as the spec wants it (config.md,
    "capabilities"); so is one that capabilities(7) allows in a set only when it is in another one.
    """
    warnings: list[str] = []
    masks: dict[str, int] = {}
    for name in _SETS:
        masks[name] = 0
        for index, word in enumerate(wanted.get(name, ())):
            number = caps.NAMES.index(word) if word in caps.NAMES else 64
            if bounding >> number & 1:
                masks[name] |= 1 << number
            else:
                warnings.append(f"process.capabilities.{name}[{index}]: {word} cannot be granted")
    masks["inheritable"] &= masks["bounding"]
    masks["effective"] &= masks["permitted"]
    raised = masks["permitted"] & masks["inheritable"]
    for number, word in enumerate(caps.NAMES):
        if masks["ambient"] >> number & 1 and not raised >> number & 1:
            warnings.append(f"can't raise ambient capability {word}: it is not in the permitted and inheritable sets")
    masks["ambient"] &= raised
    return (masks["bounding"], masks["effective"], masks["permitted"], masks["inheritable"], masks["ambient"]), warnings


def held_capabilities(spec: dict[str, Any], bounding: int) -> int:
    """Return what can be granted: in a user namespace all there is, else what the caller holds."""
    users = any(one["type"] == "user" for one in spec.get("linux", {}).get("namespaces", ()))
    return caps.ALL if users else bounding


def lost_capabilities(spec: dict[str, Any], bounding: int, *, ambient: bool) -> list[str]:
    """Return a warning for each capability that the process is not given, though the configuration asks for it.

    With `ambient` also for those that another set rules out, as without it where anything is inheritable: tools such as buildah
    ask for all of them, and make none inheritable, in every step of a build.
    """
    wanted = spec.get("process", {}).get("capabilities", {})
    for name in _SETS if program() == "crun" else ():  # which refuses what no kernel has, since 1.29
        for index, word in enumerate(wanted.get(name, ())):
            if word not in caps.NAMES:
                hint = "see capabilities(7)"
                raise ConfigError("read capability", word, "unknown cap", hint=hint, origin=f"process.capabilities.{name}[{index}]")
    lost = capability_sets(wanted, held_capabilities(spec, bounding))[1] if wanted else []
    ambient = ambient or bool(wanted.get("inheritable"))
    return [text for text in lost if ambient or text.startswith("process.")]


def listens(wanted: dict[str, Any]) -> bool:
    """Whether somebody is asked by a filter of `linux.seccomp` (seccomp_unotify(2))."""
    return bool(wanted.get("listenerPath")) and any(call["action"] == "SCMP_ACT_NOTIFY" for call in wanted.get("syscalls") or ())


def tells(wanted: dict[str, Any]) -> bool:
    """Whether who listens gets the filter's descriptor, as with crun also that of one which asks nobody; runc looks for nobody then."""
    return listens(wanted) or (bool(wanted.get("listenerPath")) and program() != "runc")


def filter_flags(wanted: dict[str, Any]) -> int:
    """Return the flags of seccomp(2): where the profile says nothing SPEC_ALLOW, as with crun and runc.

    Linux has that as its default since 5.16: what such a filter cost otherwise bought nothing (x86, spec_store_bypass_disable).
    """
    flags = sum({_FILTER_FLAGS[flag] for flag in wanted.get("flags", ("SECCOMP_FILTER_FLAG_SPEC_ALLOW",))})
    return flags | _NEW_LISTENER if tells(wanted) else flags


def _filter(wanted: dict[str, Any], code: bytes, state: tuple[str, str]) -> Op:
    flags = filter_flags(wanted)
    around: list[str] = []
    if tells(wanted):
        metadata = f',"metadata":{fastjson.quote(wanted["listenerMetadata"])}' if wanted.get("listenerMetadata") else ""
        version = "0.2.0" if program() == "crun" else "1.3.0"  # of the message, as it calls itself
        around = [f'{{"ociVersion":"{version}","fds":["seccompFd"],"pid":', f'{metadata},"state":{state[0]}', state[1] + "}"]
    elif flags & 32:
        reason = "goes with a listener"
        raise ConfigError(
            "read seccomp filter", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", reason, hint="leave it out", origin="linux.seccomp.flags"
        )
    kept = ops.KEEP if around and not listens(wanted) else 0  # nobody need listen
    return op(ops.SECCOMP, code, around, a=flags, flags=kept, origin="linux.seccomp")


def selinux(label: str, where: str) -> None:
    """Refuse a label where the kernel or its policy has none."""
    from pyrun.pod.labels import context_unknown, module_off

    reason = module_off("label") or context_unknown(label)
    if reason:
        raise ConfigError("use SELinux context", label, reason, hint="leave it out, or load a policy that has it", origin=where)


def label_files(process: dict[str, Any]) -> list[Op]:
    """Return the operation that opens /proc/self/attr while it can be reached, if a label is wanted, and labels keys made from then on."""
    if process.get("selinuxLabel"):
        return [op(ops.LABEL, "keycreate", process["selinuxLabel"], n=0, origin="process.selinuxLabel")]
    return [op(ops.LABEL, n=0, origin="process")] if process.get("apparmorProfile") else []


def _labels(process: dict[str, Any], todo: list[Op]) -> None:
    if process.get("apparmorProfile"):
        where = "process.apparmorProfile"
        from pyrun.pod.labels import module_off, profile_file

        reason = module_off("apparmor")
        if reason:
            raise ConfigError("use AppArmor profile", process["apparmorProfile"], reason, hint="leave it out", origin=where)
        todo.append(op(ops.LABEL, profile_file(), "exec " + process["apparmorProfile"], n=1, origin=where))
    if process.get("selinuxLabel"):
        where = "process.selinuxLabel"
        selinux(process["selinuxLabel"], where)
        todo.append(op(ops.LABEL, "exec", process["selinuxLabel"], n=1, origin=where))


def _paths(name: str, env: list[str]) -> list[str]:
    if "/" in name:
        return [name]
    path = next((one[5:] for one in env if one.startswith("PATH=")), _PATH)
    return [f"{folder or '.'}/{name}" for folder in path.split(":")]
