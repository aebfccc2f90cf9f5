"""What the compiled filters say, asked of a small interpreter of classic BPF; `live/test_seccomp.py` asks the kernel."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyrun.plan
from pyrun.plan import caps, seccomp, seccomp_build, seccomp_gate, seccomp_profile

MACHINE = os.uname().machine
ARCH = seccomp_gate.ARCHES[MACHINE]
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
RESOLVE = seccomp_build.Resolver()
CLONE_FLAGS = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]


def run(program: bytes, number: int, *args: int, arch: int = ARCH) -> int:
    """Return the filter's verdict; IndexError when it runs off its end."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *args, *[0] * (6 - len(args)))
    accumulator, at = 0, 0
    code = list(struct.iter_unpack("<HBBI", program))
    while True:
        operation, true, false, constant = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif operation == 0x06:
            return int(constant)
        elif operation == 0x05:
            at += constant
        elif operation == 0x54:
            accumulator &= constant
        else:
            taken = {
                0x15: accumulator == constant,
                0x25: accumulator > constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }[operation]
            at += true if taken else false


def number(name: str) -> int:
    found = RESOLVE(name)
    assert found is not None, name
    return found


def compiled(flag: str = "", mask: int = caps.DEFAULT, early: bool = False) -> bytes:
    spec = seccomp.parse_flag(flag or "mode=remove,@appc.io/empty")
    return seccomp_build.compile_filter(seccomp_build.Wanted(spec.mode, spec.names, spec.errno, spec.where, mask, early), MACHINE)


@pytest.fixture(scope="module")
def default() -> bytes:
    return compiled()


def test_profile_constant_is_the_digest_of_the_sources() -> None:
    folder = Path(pyrun.plan.__file__ or "").parent
    sources = b"".join((folder / f"seccomp_{part}.py").read_bytes() for part in ("profile", "gate", "build"))
    assert hashlib.sha256(sources).hexdigest()[:16] == seccomp.PROFILE, "the filter may have changed: give PROFILE the new value"


def test_sensitive_capabilities() -> None:
    names = {*seccomp_profile.UNLOCK, *seccomp_gate.LIFTING.split()}
    assert caps.parse(names) == seccomp.SENSITIVE


def places() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table in (seccomp_profile.ALLOW, seccomp_profile.UNLOCK, seccomp_profile.DENY):
        for group, names in table.items():
            for name in names.split():
                found.setdefault(name, []).append(group)
    return found


def test_every_call_stands_in_one_place() -> None:
    twice = {name: groups for name, groups in places().items() if len(groups) > 1}
    assert not twice
    unlocked = {name for names in seccomp_profile.UNLOCK.values() for name in names.split()}
    assert not (set(seccomp_profile.ABSENT.split()) & places().keys()) - unlocked


def test_no_call_of_the_kernel_header_is_forgotten() -> None:
    lines = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text(encoding="ascii").splitlines()
    names = {line.split()[1].removeprefix("__NR_") for line in lines if line.startswith("#define __NR_")}
    assert len(names) > 350
    assert not names - places().keys() - set(seccomp_profile.ABSENT.split())


def test_names_are_known_and_numbers_agree_with_libseccomp() -> None:
    for name in seccomp_build.every_name():
        RESOLVE.known(name)
    for name, value in seccomp_profile.NUMBERS.items():
        assert RESOLVE.lib.seccomp_syscall_resolve_name(name.encode()) in (-1, value)
    assert max(RESOLVE.known(name) for name in places()) == seccomp_profile.NEWEST


def test_ace_69_default_by_number(default: bytes) -> None:
    allowed = {number(name) for name in seccomp_build.default_allowed(0) if RESOLVE(name) is not None}
    judged = {number(name) for name in ("socket", "socketpair")}
    absent = {number(name) for name in seccomp_profile.ABSENT.split()}
    low, high = seccomp_profile.GAP[MACHINE]
    for n in range(1200):
        expected = ALLOW if n in allowed - judged else EPERM
        if n in absent or low <= n <= high or n > seccomp_profile.NEWEST:
            expected = ENOSYS
        assert run(default, n) == expected, n


def test_denied_is_at_least_what_others_deny(default: bytes) -> None:
    forbidden = """
        ptrace process_vm_readv process_vm_writev name_to_handle_at open_by_handle_at vmsplice modify_ldt io_uring_setup
        io_uring_enter io_uring_register userfaultfd bpf perf_event_open keyctl add_key request_key unshare setns mount umount2
        pivot_root chroot move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr kexec_load kexec_file_load init_module
        finit_module delete_module reboot swapon swapoff acct quotactl quotactl_fd syslog iopl ioperm vhangup sethostname
        setdomainname settimeofday clock_settime fanotify_init kcmp pidfd_getfd process_madvise get_mempolicy set_mempolicy mbind
        move_pages migrate_pages set_mempolicy_home_node uselib ustat sysfs _sysctl lookup_dcookie nfsservctl create_module
        """
    for name in forbidden.split():
        if RESOLVE(name) is not None:
            assert run(default, number(name)) == EPERM, name


@pytest.mark.parametrize("flag", ["", "mode=remove,sync", "mode=retain,read", "mode=retain,errno=EPERM,@pyrun/default"])
def test_ace_70_foreign_abis_die(flag: str) -> None:
    program = compiled(flag)
    for n in (0, 1, 16, 41, 102, 359, 435, 1000):
        assert run(program, n, arch=0x40000003) == KILL  # i386
        assert run(program, n, arch=0x40000028) == KILL  # arm
        if MACHINE == "x86_64":
            assert run(program, n | 0x40000000) == KILL  # x32 (ACE-70)
            assert run(program, n | 0xC0000000) == KILL


def test_every_family(default: bytes) -> None:
    for dirt in (0, 0xDEAD00000000):
        for family in [*range(64), 0x7FFFFFFF, 0xFFFFFFFF, 0x10001]:
            expected = ALLOW if family in (1, 2, 10, 16) else EPERM
            assert run(default, number("socket"), family | dirt) == expected, family
            assert run(default, number("socketpair"), family | dirt) == (ALLOW if family == 1 else EPERM)


def test_netlink_is_for_routing() -> None:
    missing = 0x50000 | errno.EPROTONOSUPPORT
    for names, protocols in (("KILL", {0}), ("AUDIT_WRITE", {0, 9}), ("NET_ADMIN", set(range(24)))):
        program = compiled(mask=caps.bit(names))
        for protocol in range(24):
            verdict = ALLOW if protocol in protocols else missing
            assert run(program, number("socket"), 16, 3, protocol | 0xF00000000) == verdict, (names, protocol)


def test_packet_sockets_need_net_raw() -> None:
    assert run(compiled(mask=caps.bit("NET_RAW")), number("socket"), 17) == ALLOW
    assert run(compiled(mask=caps.bit("NET_RAW")), number("socket"), 40) == EPERM


@pytest.mark.parametrize("dirt", [0, 1 << 32, 0xFFFFFFFF00000000])
def test_ioctls_that_type_for_the_operator(default: bytes, dirt: int) -> None:
    for program in (default, compiled("mode=retain,errno=EIO,ioctl"), compiled("mode=remove,sync")):
        for request, expected in ((0x5412, EPERM), (0x541C, EPERM), (0x5401, ALLOW), (0x5413, ALLOW), (0x541B, ALLOW), (0, ALLOW)):
            assert run(program, number("ioctl"), 0, request | dirt) == expected


def test_clone_makes_no_namespaces(default: bytes) -> None:
    for flag in CLONE_FLAGS:
        for rest in (0, 17, 0x1200011, 1 << 63):
            assert run(default, number("clone"), flag | rest) == EPERM
    assert run(default, number("clone"), 0x3D0F00) == ALLOW  # what pthread_create asks for
    assert run(default, number("clone"), 0x1200011) == ALLOW  # fork
    admin = compiled(mask=caps.bit("SYS_ADMIN"))
    assert run(admin, number("clone"), 0x10000000) == run(admin, number("clone3")) == run(admin, number("unshare")) == ALLOW


@given(st.integers(0, 2**64 - 1))
def test_personality(value: int) -> None:
    expected = ALLOW if value & 0xFFFFFFFF in (0, 0xFFFFFFFF) else EPERM
    assert run(DEFAULT, number("personality"), value) == expected


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_no_input_falls_off_the_end(n: int, args: list[int]) -> None:
    verdict = run(DEFAULT, n, *args)
    assert verdict in (ALLOW, EPERM, ENOSYS, KILL, 0x50000 | errno.EPROTONOSUPPORT)
    if n > seccomp_profile.NEWEST:
        assert verdict != ALLOW


DEFAULT = compiled()


@pytest.mark.parametrize(("cap", "names"), seccomp_profile.UNLOCK.items())
def test_capabilities_unlock_their_calls_only(default: bytes, cap: str, names: str) -> None:
    program = compiled(mask=caps.bit(cap))
    unlocked = {number(name) for name in names.split() if RESOLVE(name) is not None}
    for n in range(500):
        if n in unlocked:
            assert run(program, n) == ALLOW
        else:
            assert run(program, n) == run(default, n)


def test_remove_set_takes_from_the_default(default: bytes) -> None:
    program = compiled("mode=remove,errno=EIO,sync,mount,statmount,clone3")
    listed = {number(name) for name in ("sync", "mount", "statmount", "clone3")}
    for n in range(600):
        assert run(program, n) == (0x50000 | errno.EIO if n in listed else run(default, n))
    assert run(compiled("mode=remove,sync"), number("sync")) == KILL
    assert run(compiled("mode=remove,@pyrun/sockets"), number("socket"), 40) == KILL


@pytest.mark.parametrize(("flag", "block"), [("", KILL), ("errno=EACCES,", 0x50000 | errno.EACCES), ("errno=EPERM,", EPERM)])
def test_retain_set_is_exact(flag: str, block: int) -> None:
    program = compiled(f"mode=retain,{flag}read,@pyrun/time,mseal,ptrace")
    names = ["read", "mseal", "ptrace", *seccomp_profile.ALLOW["time"].split(), *seccomp_profile.MINIMUM.split()]
    listed = {number(name) for name in names if RESOLVE(name) is not None}
    for n in [*range(600), 0x3FFFFFFF]:
        assert run(program, n) == (ALLOW if n in listed else block), n


def test_retain_set_before_the_drop_of_privileges() -> None:
    late, early = compiled("mode=retain,read"), compiled("mode=retain,read", early=True)
    for name in seccomp_profile.MINIMUM_EARLY.split():
        assert run(late, number(name)) == KILL
        assert run(early, number(name)) == ALLOW


def test_threads_work_under_a_retain_set_with_clone() -> None:
    assert run(compiled("mode=retain,clone"), number("clone3")) == ENOSYS
    assert run(compiled("mode=retain,clone,clone3"), number("clone3")) == ENOSYS
    assert run(compiled("mode=retain,read"), number("clone3")) == KILL
    assert run(compiled("mode=retain,clone,clone3", caps.bit("SYS_ADMIN")), number("clone3")) == ALLOW
    assert run(compiled("mode=retain,clone"), number("clone"), 0x10000000) == EPERM


def test_size_stays_small(default: bytes) -> None:
    assert len(default) // 8 < 150
    assert len(compiled("mode=retain,@pyrun/default", caps.ALL)) // 8 < 150


def test_layout_on_both_machines() -> None:
    for machine, arch in seccomp_gate.ARCHES.items():
        numbers = {name: 10 + i for i, name in enumerate(seccomp_gate.CHECKS)}
        by_number = seccomp_gate.assemble([(0x20, 4, "", ""), (0x15, arch, "", "kill"), (0x06, 7, "", ""), "kill", (0x06, KILL, "", "")])
        program = seccomp_gate.layout(machine, numbers, 0, (*seccomp_profile.GAP[machine], seccomp_profile.NEWEST), by_number)
        assert run(program, 9, arch=arch) == run(program, 424, arch=arch) == 7
        assert run(program, numbers["clone"], arch=arch) == ALLOW
        assert run(program, 400, arch=arch) == run(program, 467, arch=arch) == ENOSYS
        assert run(program, 0x40000000, arch=arch) == (7 if machine == "x86_64" else ENOSYS)
        assert run(program, numbers["clone"], 0x10000000, arch=arch) == EPERM
        assert run(program, numbers["clone"], 0x10000000, arch=0x40000003) == KILL


def test_a_program_that_looks_at_arguments_is_no_base() -> None:
    with pytest.raises(ValueError):
        seccomp_gate.layout(MACHINE, {}, 0, None, seccomp_gate.assemble([(0x20, 16, "", ""), (0x06, 7, "", "")]))


@given(st.sets(st.integers(0, 470)), st.sampled_from(["", "errno=EIO,"]))
def test_any_set_by_number(numbers: set[int], verdict: str) -> None:
    """Worst cases too: where every other number is allowed, verdicts are out of reach of one jump."""
    block = 0x50000 | errno.EIO if verdict else KILL
    by_number = seccomp_build._by_number(RESOLVE, block, dict.fromkeys(numbers, ALLOW))
    program = seccomp_gate.layout(MACHINE, {}, 0, None, by_number)
    for n in [*range(480), 0x3FFFFFFF]:
        assert run(program, n) == (ALLOW if n in numbers else block), n


def test_every_other_number() -> None:
    by_number = seccomp_build._by_number(RESOLVE, KILL, dict.fromkeys(range(0, 462, 2), ALLOW))
    program = seccomp_gate.layout(MACHINE, {}, 0, None, by_number)
    assert [run(program, n) for n in range(480)] == [ALLOW if n % 2 == 0 and n < 462 else KILL for n in range(480)]


@pytest.mark.parametrize("flag", ["", "mode=retain,@pyrun/default", "mode=remove,errno=EIO,sync,read,write"])
def test_verdicts_are_those_of_libseccomp(flag: str) -> None:
    spec = seccomp.parse_flag(flag or "mode=remove,@appc.io/empty")
    wanted = seccomp_build.Wanted(spec.mode, spec.names, spec.errno, "", caps.DEFAULT, False)
    default, actions = seccomp_build.rules(wanted, RESOLVE)
    numbers = {number(name): action for name, action in actions.items() if RESOLVE(name) is not None}
    theirs, ours = seccomp_build._by_number(RESOLVE, default, numbers), compiled(flag)
    judged = {number(name) for name in seccomp_gate.CHECKS}
    low, high = seccomp_profile.GAP[MACHINE]
    for n in [*range(seccomp_profile.NEWEST + 1), 0x40000000, 0x40000010, 0xFFFFFFFF]:
        if n not in judged and not (spec.mode == "remove" and low <= n <= high):
            assert run(ours, n) == run(theirs, n), n
