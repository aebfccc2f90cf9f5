"""A seccomp filter for the unpack worker: system calls that reading an archive never needs.

Small and written by hand, because the compiled profiles of containers are made above this layer, with a library
that would have to be loaded here.  A refused call fails with EPERM, clone3(2) with ENOSYS so that libc starts
threads through clone(2), whose flags a filter can see.  Landlock leaves UDP and user namespaces open; this does not.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pyrun.errors import HostError

# linux/filter.h, linux/seccomp.h, linux/audit.h
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_SET_SECCOMP, _MODE_FILTER = 22, 2
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_CLONE3 = 435

# machine -> (audit architecture, clone, refused calls)
_MACHINES: dict[str, tuple[int, int, dict[str, int]]] = {
    "x86_64": (0xC000003E, 56, {
        "socket": 41, "connect": 42, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "ptrace": 101, "pivot_root": 155,
        "chroot": 161, "mount": 165, "umount2": 166, "init_module": 175, "kexec_load": 246, "add_key": 248, "request_key": 249,
        "keyctl": 250, "unshare": 272, "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "finit_module": 313, "bpf": 321, "execveat": 322, "userfaultfd": 323, "io_uring_setup": 425,
        "move_mount": 429, "fsopen": 430, "pidfd_getfd": 438,
    }),
    "aarch64": (0xC00000B7, 220, {
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "unshare": 97, "kexec_load": 104, "init_module": 105, "ptrace": 117,
        "socket": 198, "socketpair": 199, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221,
        "perf_event_open": 241, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "finit_module": 273, "bpf": 280, "execveat": 281, "userfaultfd": 282, "io_uring_setup": 425, "move_mount": 429, "fsopen": 430,
        "pidfd_getfd": 438,
    }),
}  # fmt: skip


def install(libc: ctypes.CDLL) -> None:
    """Filters this thread and the ones it starts, for good; no_new_privs must be set.  Unknown machines go without."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return
    program = _program(*machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    descriptor = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, descriptor, 0, 0):
        raise HostError("filter system calls of", "unpack worker", errno=ctypes.get_errno(), hint="the kernel needs CONFIG_SECCOMP_FILTER")


def _program(architecture: int, clone: int, refused: dict[str, int]) -> bytes:
    """The filter as an array of struct sock_filter: code, jumps when true and false, operand."""
    numbers = [*refused.values()]
    # Jumps count from the next instruction; the last three are where they lead.
    code = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, len(numbers) + 6, 0, _X32),
        *((_EQUAL, len(numbers) - index + 5, 0, number) for index, number in enumerate(numbers)),
        (_EQUAL, 4, 0, _CLONE3),
        (_EQUAL, 0, 2, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_ANY_BIT, 2, 0, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
