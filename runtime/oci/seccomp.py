"""linux.seccomp -> the program for seccomp(2), by libseccomp; compiled once, for a client sends the same profile with every container."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError
from pyrun.images import fastjson

try:  # hashlib would load OpenSSL
    from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    try:
        from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # Python 3.12
    except ImportError:
        from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ARCHES", "compile_filter", "load", "refuse_unknown"]

_CACHE = "/var/cache/pyrun-oci"
_REVISION = "3\0"  # of what is made of a profile, beside libseccomp's part
_ERRNO, _TRACE = 0x00050000, 0x7FF00000
_ACTIONS = {
    "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_THREAD": 0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": _ERRNO, "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": _TRACE, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
_COMPARE = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
# AUDIT_ARCH_... of linux/audit.h; that of X32 is libseccomp's own
ARCHES = {
    "SCMP_ARCH_AARCH64": 0xC00000B7, "SCMP_ARCH_ARM": 0x40000028, "SCMP_ARCH_LOONGARCH64": 0xC0000102, "SCMP_ARCH_M68K": 0x4,
    "SCMP_ARCH_MIPS": 0x8, "SCMP_ARCH_MIPS64": 0x80000008, "SCMP_ARCH_MIPS64N32": 0xA0000008, "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008, "SCMP_ARCH_MIPSEL64N32": 0xE0000008, "SCMP_ARCH_PARISC": 0xF, "SCMP_ARCH_PARISC64": 0x8000000F,
    "SCMP_ARCH_PPC": 0x14, "SCMP_ARCH_PPC64": 0x80000015, "SCMP_ARCH_PPC64LE": 0xC0000015, "SCMP_ARCH_RISCV64": 0xC00000F3,
    "SCMP_ARCH_S390": 0x16, "SCMP_ARCH_S390X": 0x80000016, "SCMP_ARCH_SH": 0x4000002A, "SCMP_ARCH_SHEB": 0x2A,
    "SCMP_ARCH_X32": 0x4000003E, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X86_64": 0xC000003E,
}  # fmt: skip


def load(wanted: dict[str, Any]) -> bytes:
    """Return the filter for `linux.seccomp`, from the cache or compiled; ConfigError names what libseccomp does not know."""
    name = sha256((_REVISION + fastjson.dumps(wanted)).encode()).hexdigest()
    path = f"{_CACHE}/{name}.bpf"
    program = _cached(path)
    if not program:
        program = compile_filter(wanted)
        _save(path, program)
    return program


def refuse_unknown(wanted: dict[str, Any]) -> None:
    """ConfigError for a system call that libseccomp does not know, and `load` would pass over."""
    from pyrun.native._seccomp import lib

    for index, rule in enumerate(wanted.get("syscalls") or []):
        for at, name in enumerate(rule["names"]):
            if lib.seccomp_syscall_resolve_name(name.encode()) == -1:
                hint = "leave it out, or the annotation run.oci.seccomp_fail_unknown_syscall"
                where = f"linux.seccomp.syscalls[{index}].names[{at}]"
                raise ConfigError("read seccomp filter", name, "no such system call", hint=hint, origin=where)


def _cached(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022 or found.st_size % 8 or found.st_size < 8:
            return b""
        return os.read(fd, found.st_size)
    finally:
        os.close(fd)


def _save(path: str, program: bytes) -> None:
    """By a rename, so that no reader sees half of it; a cache that cannot be written only costs time."""
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(_CACHE, 0o700, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, program)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        pass


def _action(name: str, errno: int | None, where: str) -> int:
    if name not in _ACTIONS:
        raise ConfigError("read seccomp filter", name, "no such action", origin=where)
    value = _ACTIONS[name]
    return value | ((1 if errno is None else errno) & 0xFFFF) if value in (_ERRNO, _TRACE) else value


def _check(result: int, what: str, where: str) -> None:
    if result < 0:
        raise HostError("build seccomp filter", what, errno=-result, origin=where)


def compile_filter(wanted: dict[str, Any]) -> bytes:
    """Return the program as an array of struct sock_filter."""
    from pyrun.native._seccomp import ffi, lib

    default = _action(wanted["defaultAction"], wanted.get("defaultErrnoRet"), "linux.seccomp.defaultAction")
    context = lib.seccomp_init(default)
    if context == ffi.NULL:
        raise HostError("build seccomp filter", wanted["defaultAction"], "libseccomp refused the default action")
    try:
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_NNP, 0), "no_new_privs", "linux.seccomp")
        lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_OPTIMIZE, 2)
        for index, arch in enumerate(wanted.get("architectures") or []):
            where = f"linux.seccomp.architectures[{index}]"
            if arch not in ARCHES:
                raise ConfigError("read seccomp filter", arch, "no such architecture", origin=where)
            result = lib.seccomp_arch_add(context, ARCHES[arch])
            _check(0 if result == -17 else result, arch, where)
        for index, rule in enumerate(wanted.get("syscalls") or []):
            _rule(context, rule, default, f"linux.seccomp.syscalls[{index}]")
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(lib.seccomp_export_bpf(context, fd), "export", "linux.seccomp")
            return _newer(wanted) + os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
    finally:
        lib.seccomp_release(context)


def _rule(context: Any, rule: dict[str, Any], default: int, where: str) -> None:
    from pyrun.native._seccomp import ffi, lib

    action = _action(rule["action"], rule.get("errnoRet"), f"{where}.action")
    if action == default:
        return  # libseccomp answers EACCES to a rule that says what the default says
    tests = [
        {"arg": one["index"], "op": _COMPARE[one["op"]], "datum_a": one["value"], "datum_b": one.get("valueTwo", 0)}
        for one in rule.get("args") or []
    ]
    # several conditions on one argument mean any of them, on different ones all of them
    groups = [tests] if len({test["arg"] for test in tests}) == len(tests) else [[test] for test in tests]
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number == -1:
            continue  # of another kernel: all runtimes pass over it
        for group in groups:
            array = ffi.new("struct scmp_arg_cmp[]", group) if group else ffi.NULL
            result = lib.seccomp_rule_add_array(context, action, number, len(group), array)
            _check(0 if result == -17 else result, name, where)


_X32_BIT, _NEVER = 0x40000000, 0xFFFFFFFF
_LOAD, _EQUAL, _ABOVE, _FROM, _JUMP, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x05, 0x06  # linux/bpf_common.h: BPF_LD | BPF_W | BPF_ABS and so on
_NUMBER, _ARCH = 0, 4  # members of struct seccomp_data (seccomp(2))
_EPERM, _ENOSYS = 1, 38


def _newer(wanted: dict[str, Any]) -> bytes:
    """Return what goes in front of a filter that refuses by EPERM: ENOSYS for system calls that its author cannot have known.

    C libraries try a new call and take the old one at ENOSYS, at nothing else; runc tells them so too.  Newer is what has a higher
    number than all that the profile names, and than setns, the last one of Linux 3.0.  EPERM by name is the same, as Docker's profile
    has it; whoever sets another defaultErrnoRet has that everywhere.
    """
    from pyrun.native._seccomp import lib

    if wanted["defaultAction"] != "SCMP_ACT_ERRNO" or wanted.get("defaultErrnoRet") not in (None, _EPERM):
        return b""
    names = [b"setns", *(name.encode() for rule in wanted.get("syscalls") or [] for name in rule["names"])]
    arches = {lib.seccomp_arch_native(), *(ARCHES[one] for one in wanted.get("architectures") or [])}
    last = {arch: max(lib.seccomp_syscall_resolve_name_arch(arch, name) for name in names) for arch in arches}
    x32 = last.pop(ARCHES["SCMP_ARCH_X32"], _NEVER)
    found = b""
    for arch in sorted(arch for arch in last if last[arch] > 0):
        found = _newer_of(arch, last[arch], x32, len(found) // 8) + found
    return found


def _newer_of(arch: int, last: int, x32: int, behind: int) -> bytes:
    """The part for one architecture, which has `behind` instructions of others between it and the filter."""
    from struct import pack

    todo = [(_ABOVE, 0, 1, last)]
    if arch == ARCHES["SCMP_ARCH_X86_64"]:  # x32 is the same to the kernel, but for a bit of its numbers
        todo = [(_FROM, 1, 0, _X32_BIT), (_ABOVE, 1, 2, last), (_ABOVE, 0, 1, x32)]
    todo = [(_LOAD, 0, 0, _NUMBER), *todo, (_RETURN, 0, 0, _ERRNO | _ENOSYS), (_JUMP, 0, 0, behind)]
    return b"".join([pack("=HBBI", *one) for one in ((_LOAD, 0, 0, _ARCH), (_EQUAL, 0, len(todo), arch), *todo)])
