"""What an operation that only OCI plans have is called when it fails, and what to do about it.  Cold."""

from __future__ import annotations

import errno
import os

from pyrun.errors import SetupError
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.plan.ops import Op

__all__ = ["refused"]

_SOURCE, _TARGET, _IDMAP, _OPTION, _IN_PROC = 1, 2, 9, 10, 11  # DETAIL_... of native/plan.h
_AGAIN, _BIND = 16, 1  # OCIM_... of native/oci_plan.h
_ATTRIBUTES = {
    1: "set scheduler",
    2: "set I/O priority",
    3: "set memory policy",
    4: "set personality",
    5: "set CPU affinity",
    6: "set propagation of the root",
}
_STEPS = {
    ops.JOIN: "join namespace",
    ops.CHECKPOINT: "wait for the runtime",
    ops.PARK: "wait for start",
    ops.RAISE: "raise capabilities",
    ops.OCI_ROOT: "use root",
    ops.OCI_COVER: "cover",
    ops.OCI_DEVICE: "make device",
    ops.OCI_LISTENER: "connect to seccomp listener",
}
_HINTS = {
    (ops.JOIN, errno.EINVAL): "the file is not a namespace of that type",
    (ops.JOIN, errno.EPERM): "joining it needs CAP_SYS_ADMIN in the user namespace that it belongs to",
    (ops.OCI_DEVICE, errno.EEXIST): "there is another file already, and it is not the device that is asked for",
    (ops.OCI_DEVICE, errno.EPERM): "nodes can be made with CAP_MKNOD only, and never in a user namespace",
    (ops.OCI_DEVICE, errno.EROFS): "mount a tmpfs on /dev, or make the root writable",
    (ops.OCI_ATTRIBUTE, errno.EPERM): "it takes more privileges than the runtime has (CAP_SYS_NICE, CAP_SYS_ADMIN)",
    (ops.OCI_ATTRIBUTE, errno.EINVAL): "this kernel or host does not take these values together",
    (ops.OCI_ATTRIBUTE, errno.EBUSY): "the processors have no such time to give",
    (ops.OCI_ROOT, errno.EINVAL): "the root is on a mount that cannot be copied (unbindable)",
}


def refused(one: Op, index: int, error: int, detail: int) -> SetupError:
    """Return the exception for an operation that failed with errno `error`."""
    code, _, number, s1, _, how, _, origin = one
    if code in (ops.LABEL, ops.SYSCTL):
        from pyrun.engine.explain import failure

        return failure((one,) * (index + 1), index, error, detail)
    reason, subject = "", s1 if isinstance(s1, str) else ""
    step, hint = _STEPS.get(code, "set up the container"), _HINTS.get((code, error), "")
    if code == ops.OCI_MOUNT:
        assert isinstance(s1, list) and isinstance(how, int)
        step, subject, reason, hint = _mount(s1, how, error, detail)
    elif code == ops.OCI_ATTRIBUTE:
        step = _ATTRIBUTES[number] if isinstance(number, int) else step
        if origin == "process.scheduler" and error == errno.EPERM:  # sched_setattr(2)
            hint = "a deadline takes all processors: process scheduler can't be used together with AllowedCPUs, which cpu.cpus are; "
            hint += "else it takes CAP_SYS_NICE"
    elif code == ops.OCI_COVER:
        step = "make read-only" if number else "hide"
    elif code == ops.OCI_LISTENER:
        reason = f"failed to connect with seccomp agent: {os.strerror(error).lower()}"
    elif code == ops.JOIN and error == errno.EINVAL:
        reason = "not a namespace of this type"
    return SetupError(step, subject, reason or os.strerror(error).lower(), errno=error, hint=hint, origin=origin, op=index)


def _mount(words: list[str], how: int, error: int, detail: int) -> tuple[str, str, str, str]:
    kind, source, target, *_ = words
    step = "mount again" if how & _AGAIN else f"bind {source} on" if how & _BIND else f"mount {kind} on"
    if detail == _IN_PROC:
        return (
            step,
            target,
            "it would hide a part of procfs",
            "mount nothing below /proc; single files such as /proc/meminfo may be covered",
        )
    if detail == _IDMAP:
        return step, target, f"its ids cannot be mapped: {os.strerror(error).lower()}", "the file system must support idmapped mounts"
    if detail == _OPTION:
        return step, target, f"{kind} does not take one of the options {' '.join(words[5:])}: {os.strerror(error)}", "leave it out"
    if error == errno.ELOOP and kind in ("proc", "sysfs"):
        return step, target, f"{kind} must be mounted on ordinary directory, and there is a symbolic link", "remove it from the root"
    if error == errno.ENODEV and not how & _BIND:
        return step, target, f"this kernel has no file system {kind}", "name another type"
    if detail == _SOURCE and error == errno.ENOENT:
        return step, target, f"{source}: no such file or directory", "make the source, or name another one"
    if detail == _TARGET:
        return step, target, os.strerror(error).lower(), "the mount point could not be made or used in the root"
    return step, target, os.strerror(error).lower(), "see the options of this mount"
