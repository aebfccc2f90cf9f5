"""Takes from the unpack worker what it does not need; the only module that imports python-prctl.

Called once, in a child that has nothing else to do, after every import: from then on it can read no file that it
has not open, write only below the staging directory, open no socket, execute nothing, enter or make no namespace,
and holds six capabilities at most.  Landlock is absent from some kernels and is then left out (landlock(7)).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

import prctl

import pyrun.native._native  # noqa: F401  # what openat2 needs, while it can still be read
from pyrun.errors import HostError
from pyrun.images import callfilter

_KEPT = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP")
_OPEN_FILES = 128

# linux/landlock.h; the three system calls have the same numbers on every architecture
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI -> number of rights from it on: REFER, TRUNCATE, IOCTL_DEV
_FS_EXECUTE = 1
_NET_ABI, _NET_RIGHTS = 4, 0b11  # bind and connect of TCP
_SCOPE_ABI, _SCOPES = 6, 0b11  # abstract unix sockets and signals

_libc = ctypes.CDLL(None, use_errno=True)


def confine(staging_dirfd: int, *, parent: int, memory: int) -> None:
    """Confines this process for good; HostError when the kernel refuses a step, exits if `parent` is gone.

    `memory` is the limit of its address space in bytes.
    """
    prctl.set_name("pyrun-unpack")
    prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above
    os.umask(0o077)
    for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _OPEN_FILES)):
        hard = resource.getrlimit(kind)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))
    prctl.set_dumpable(0)
    prctl.set_no_new_privs(1)
    _restrict_files(staging_dirfd)
    if os.geteuid() == 0:
        _drop_capabilities()
    callfilter.install(_libc)


def _drop_capabilities() -> None:
    keep = [getattr(prctl, f"CAP_{name}") for name in _KEPT]
    for capability in range(64):
        if capability in keep:
            continue
        try:
            prctl.capbset_drop(capability)
        except (OSError, ValueError):
            break  # beyond the last one that this kernel has
    prctl.cap_inheritable.limit()
    prctl.cap_effective.limit(*keep)
    prctl.cap_permitted.limit(*keep)


def _restrict_files(staging_dirfd: int) -> None:
    abi = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)
    if abi < 1:
        return
    count = max(number for since, number in _FS_RIGHTS.items() if since <= abi)
    rights = (1 << count) - 1
    net = _NET_RIGHTS if abi >= _NET_ABI else 0
    scopes = _SCOPES if abi >= _SCOPE_ABI else 0
    attributes = struct.pack("=QQQ", rights, net, scopes)
    length = 24 if scopes else 16 if net else 8
    ruleset = _call("create a landlock ruleset", _CREATE_RULESET, attributes, ctypes.c_size_t(length), 0)
    try:
        rule = struct.pack("=Qi", rights & ~_FS_EXECUTE, staging_dirfd)
        _call("add a landlock rule", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
        _call("restrict file access", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _call(step: str, number: int, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        raise HostError(
            step, "unpack worker", errno=ctypes.get_errno(), hint="look for a seccomp filter around pyrun that blocks landlock(7)"
        )
    return result
