"""Two numbers and an errno from the helper -> the exception that says what went wrong.  Cold.

The helper sends an index; the operation at that index knows its words and its origin; hints come from
one table keyed by operation and errno.
"""

from __future__ import annotations

import errno
import os

from pyrun.errors import ExecError, SetupError
from pyrun.plan import ops
from pyrun.plan.describe import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.plan.ops import Op

__all__ = ["LISTS", "NO_FILE", "failure", "label_hint"]

DETAIL_SOURCE, DETAIL_TARGET, DETAIL_INTERPRETER, DETAIL_OUTSIDE = 1, 2, 3, 4
DETAIL_CONTROLLER, DETAIL_INHABITED, DETAIL_NO_CGROUP = 6, 7, 8
_SUPERVISOR = 0xFFFFFFFA

_STEPS = {
    0xFFFFFFF0: "check the plan",
    0xFFFFFFF1: "clone into new namespaces",
    0xFFFFFFF2: "map user and group ids",
    0xFFFFFFF3: "start the pod's init",
    0xFFFFFFF4: "set the time namespace's offsets",
    0xFFFFFFF5: "open the pod's log",
    0xFFFFFFF6: "enter the pod's cgroup",
    0xFFFFFFF7: "enter the pod's namespaces",
    0xFFFFFFF8: "listen for what the app tells the service manager",
    0xFFFFFFF9: "make the namespaces that the apps share",
    _SUPERVISOR: "run the pod's supervisor",
}

ANY = -1
NO_FILE = "this kernel does not have that file in a cgroup: see its controllers"
_GENERAL = "`pyrun plan` with the same arguments shows this step and those before it"
_HINTS = {
    (0xFFFFFFF1, errno.EPERM): "pyrun needs root (CAP_SYS_ADMIN) to make namespaces",
    (0xFFFFFFF1, errno.ENOSPC): "a limit on namespaces is reached: see /proc/sys/user/max_*_namespaces",
    (0xFFFFFFF1, errno.EAGAIN): "a limit on processes is reached: see ulimit -u and pids.max of the cgroup",
    (0xFFFFFFF1, errno.EBUSY): "the cgroup that pyrun runs in has controllers enabled for its children: start pyrun in a leaf cgroup",
    (0xFFFFFFF1, errno.EOPNOTSUPP): "the cgroup that pyrun runs in is threaded: start pyrun in another one",
    (0xFFFFFFF6, errno.ETIMEDOUT): "the pod seems to be paused: resume it first",
    (0xFFFFFFF6, errno.EACCES): "enter it from below your own systemd, as the pod is: systemd-run --user --scope pyrun exec ...",
    (0xFFFFFFF6, errno.EBUSY): "the app has moved itself into a cgroup below the pod's",
    (0xFFFFFFF6, errno.ENODEV): "the pod has ended meanwhile",
    (0xFFFFFFF6, errno.ESRCH): "the pod has ended meanwhile",
    (0xFFFFFFF7, errno.ESRCH): "the pod has ended meanwhile",
    (0xFFFFFFF7, errno.ENOMEM): "the pod has ended meanwhile",
    (0xFFFFFFF7, errno.EAGAIN): "the pod is still being prepared: try again in a moment",
    (0xFFFFFFF7, errno.EPERM): "pyrun needs root, with CAP_SYS_ADMIN and CAP_SYS_PTRACE",
    (0xFFFFFFF9, errno.EPERM): "pyrun needs root (CAP_SYS_ADMIN) to make namespaces",
    (0xFFFFFFF9, errno.ENOSPC): "a limit on namespaces is reached: see /proc/sys/user/max_*_namespaces",
    (0xFFFFFFF5, errno.EIO): "is journald there for --log-driver journald, and room for a file otherwise?",
    (0xFFFFFFF2, errno.EPERM): "the ranges must belong to the caller: see /etc/subuid and /etc/subgid",
    (ops.PROPAGATION, errno.EINVAL): "/ is not a mount point here, as in a plain chroot: bind it on itself first (mount --bind / /)",
    (ops.OVERLAY, errno.ENODEV): "this kernel has no overlay file system: use --no-overlay",
    (ops.OVERLAY, errno.EINVAL): "overlay cannot work on this file system: use --upper tmpfs, --no-overlay, or --root on another one",
    (ops.OVERLAY, errno.ELOOP): "a layer's path leads in circles: import the image again",
    (ops.OVERLAY, errno.ENOENT): "a layer was removed meanwhile: import the image again with `pyrun fetch`",
    (ops.OVERLAY, errno.EPERM): "overlay is forbidden here: use --no-overlay",
    (ops.MKDIR, errno.ELOOP): "the image has a symbolic link there: the runtime's own mount points must be directories",
    (ops.MKDIR, errno.ENOTDIR): "the image has something else than a directory there",
    (ops.MKDIR, errno.EEXIST): "the image has a dangling symbolic link there",
    (ops.MKFILE, errno.EEXIST): "the image has a dangling symbolic link on the way there",
    (ops.MKFILE, errno.ENOTDIR): "the image has something else than a directory on the way there",
    (ops.WRITE, errno.EEXIST): "the image has a dangling symbolic link on the way there",
    (ops.WRITE, errno.ENOTDIR): "the image has something else than a directory on the way there",
    (ops.MOUNT, errno.ELOOP): "the image has a symbolic link there: the runtime's own mount points must be directories",
    (ops.MOUNT, errno.ENODEV): "this kernel lacks the file system",
    (ops.MOUNT, errno.EPERM): "mounting is forbidden here: is pyrun itself in a container without CAP_SYS_ADMIN?",
    (ops.MOUNT, errno.ENOSPC): "the mount namespace is full: see /proc/sys/fs/mount-max",
    (ops.BIND, errno.ELOOP): "the source leads through a symbolic link: name the real path",
    (ops.BIND, errno.ENOENT): "the source vanished after it was checked",
    (ops.BIND, errno.EINVAL): "source and target must both be directories or both be files",
    (ops.BIND, errno.ENOTDIR): "source and target must both be directories or both be files",
    (ops.CHDIR, errno.ENOENT): "the directory must exist in the image or in a volume: choose another with --working-dir",
    (ops.CHDIR, errno.ENOTDIR): "choose a directory with --working-dir",
    (ops.CHDIR, errno.EACCES): "the app's user may not enter it: choose another with --working-dir, or another --user",
    (ops.CAPS, errno.EPERM): "pyrun itself lacks one of these capabilities: retain fewer",
    (ops.RLIMIT, errno.EPERM): "the hard limit is above pyrun's own and it lacks CAP_SYS_RESOURCE, or nofile is above /proc/sys/fs/nr_open",
    (ops.OOM_SCORE, errno.EACCES): "lowering it needs CAP_SYS_RESOURCE",
    (ops.SECCOMP, errno.EINVAL): "the system call filter is not valid for this kernel",
    (ops.METADATA, errno.ENOENT): "it could not be started: try `pyrun metadata` by hand",
    (ops.METADATA, errno.ECONNREFUSED): "it could not be started: try `pyrun metadata` by hand",
    (ops.METADATA, errno.ECONNRESET): "it ended, or does not know this pod: try `pyrun metadata` by hand",
    (ops.METADATA, errno.EADDRINUSE): "another program of the host listens there: start the pod again",
    (ops.METADATA, errno.ENAMETOOLONG): "a unix socket has a path of up to 107 bytes: use a shorter --root",
    (ops.SYSCTL, errno.ENOENT): "this kernel has no such parameter, or the namespace has none of its own",
    (ops.SYSCTL, errno.EINVAL): "the kernel does not take this value",
    (ops.SYSCTL, errno.EACCES): "it belongs to another user namespace",
    (ops.LABEL, errno.ENOENT): "load it first: apparmor_parser -r FILE; aa-status lists those that are loaded",
    (ops.LABEL, errno.EINVAL): "the policy that is loaded knows no such context",
    (ops.LABEL, errno.EACCES): "the policy does not let pyrun change to it",
    (ops.LABEL, errno.EPERM): "the policy does not let pyrun change to it",
    (ops.LIMIT, errno.EINVAL): "the kernel does not take this value: see cgroups(7)",
    (ops.LIMIT, errno.ERANGE): "the kernel does not take this value: see cgroups(7)",
    (ops.LIMIT, errno.ENODEV): "the disk cannot be limited: name a whole disk, as in /dev/vda",
    (ops.LIMIT, errno.ENOENT): NO_FILE,
    (ops.LIMIT, errno.EOPNOTSUPP): "this kernel cannot do that",
    (ops.DEVICES, errno.EPERM): "loading the program that decides needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN",
    (ops.DEVICES, errno.EINVAL): "this kernel has no device programs for cgroups (CONFIG_CGROUP_BPF)",
    (ops.EXEC, errno.ENOENT): "the image has no such file, nor its PATH where the name has no slash: see `pyrun image show`, or use --exec",
    (ops.EXEC, errno.ENOTDIR): "a part of the path is not a directory in the image",
    (ops.EXEC, errno.EACCES): "the file is not executable for the app's user, or it is a directory",
    (ops.EXEC, errno.ENOEXEC): "the file is not a program of this machine's architecture, nor a script with a #! line",
    (ops.EXEC, errno.ELOOP): "its symbolic links lead in circles: choose another program with --exec",
    (ops.EXEC, errno.ENAMETOOLONG): "a name in a path has up to 255 bytes, a path up to 4095: choose another program with --exec",
    (ops.EXEC, errno.ETXTBSY): "somebody is still writing to the file: wait until it is closed",
    (ops.EXEC, errno.E2BIG): "arguments and environment are too long together",
    (ANY, errno.ENOSPC): "no space left: free some, or use another --root",
    (ANY, errno.ENOMEM): "the host is out of memory",
    (ANY, errno.EMFILE): "too many open files: raise ulimit -n",
    (ANY, errno.ENOSYS): "this kernel is too old for pyrun: it needs Linux 5.12 or newer",
}

LISTS = {  # of what there is by name: the kernel only says that it does not take a line
    "rdma.max": "name a device that is there, see /sys/class/infiniband, and numbers as in rdma.max of cgroup-v2.rst",
    "misc.max": "name a resource that this host has: see misc.capacity in the root cgroup",
}


def label_hint(plan: Sequence[Op], error: int) -> str:
    """Return what to look at when a program could not be executed by the label that `plan` gives it, or the empty string."""
    label = next((str(one[4]) for one in plan if one[0] == ops.LABEL and one[2]), "")
    if not label or error not in (errno.EACCES, errno.EPERM):
        return ""
    text = label.removeprefix("exec ")
    return f"the file is not executable for its user, or the policy does not let it run as {text}: see the audit messages in dmesg"


def failure(plan: Sequence[Op], index: int, error: int, detail: int) -> SetupError:
    """Return the exception for operation `index` of `plan` that failed with errno `error`."""
    if index == _SUPERVISOR:
        return _cut_off(detail)
    if index >= len(plan):
        words, subject, code, origin = _STEPS.get(index, "start the pod"), "", index, ""
    else:
        one = plan[index]
        words, subject = step(one)
        code, origin = one[0], one[7]
    hint = _HINTS.get((code, error)) or _HINTS.get((ANY, error), _GENERAL)
    reason = ""
    if code == ops.EXEC and error == errno.ENOENT and origin == ops.ENTERED:
        hint = "the pod has no such file, nor the PATH of its app where the name has no slash"
    elif code == ops.EXEC and error == errno.ENOENT and origin.startswith(ops.BARE):
        hint = "it has no such file, nor in PATH where the name has no slash"
    if code == ops.EXEC and detail == DETAIL_INTERPRETER:
        reason = "its interpreter or program loader is not in the image"
        hint = "a script needs the program of its #! line, a dynamic program its loader: check the image, or run a static program"
    elif code == ops.EXEC:
        hint = label_hint(plan, error) or hint
    elif code == ops.CHDIR and detail == DETAIL_OUTSIDE:
        reason = "the directory is not inside the pod"
        hint = "a working directory may not lead out of the root file system"
    elif code == ops.DEVICES and detail == DETAIL_NO_CGROUP:
        reason, hint = "the pod has no cgroup", "mount a cgroup2 tree that pyrun may write to on /sys/fs/cgroup"
    elif code == ops.LIMIT and detail in (DETAIL_CONTROLLER, DETAIL_INHABITED, DETAIL_NO_CGROUP):
        reason, hint = _no_controller(str(plan[index][3]).partition(".")[0])
    elif code == ops.LIMIT and plan[index][3] in LISTS:
        hint = LISTS[str(plan[index][3])]
    elif code == ops.LABEL and error == errno.ENOENT:
        reason = "no such profile is loaded"
    elif code == ops.HANDLER:
        reason, hint = _handler(error, detail)
    elif code == ops.BIND and detail == DETAIL_TARGET:
        hint = "the place for it could not be made in the image"
    kind = ExecError if code == ops.EXEC else SetupError
    if not reason:
        reason = os.strerror(error).lower()
    return kind(words, subject, reason, errno=error, hint=hint, origin=origin, op=index)


def _cut_off(status: int) -> SetupError:
    """The supervisor ended before the app ran and said nothing, but for its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        reason, error = f"signal {-code} killed it before the app ran", errno.ECHILD
        hint = "nothing is left of that start: try again; `dmesg` tells whether memory ran out"
    else:  # of a program that was never executed it is the errno
        reason, error = os.strerror(code).lower(), code
        hint = _HINTS.get((ANY, code), "is the installation complete?")
    return SetupError(_STEPS[_SUPERVISOR], "", reason, errno=error, hint=hint, op=_SUPERVISOR)


def _handler(error: int, detail: int) -> tuple[str, str]:
    hint = "what it wrote stands above, or in the pod's log; without the handler: --no-handlers"
    if error == errno.ETIMEDOUT:
        return "it took too long and was killed", "give it more time: --handler-timeout SECONDS"
    if detail & ops.DETAIL_STATUS:
        code = os.waitstatus_to_exitcode(detail & 0xFFFF)
        return (f"it ended with code {code}" if code >= 0 else f"signal {-code} killed it"), hint
    return os.strerror(error).lower(), hint


def _no_controller(name: str) -> tuple[str, str]:
    from pyrun.engine.placement import advice
    from pyrun.host import own_cgroup

    above = own_cgroup()
    if not above:
        return "the pod has no cgroup", "mount a cgroup2 tree that pyrun may write to on /sys/fs/cgroup"
    return f"the controller {name} cannot be enabled in {above}", advice(above, name)
