"""Compiles system call filters: profile and spec -> numbers -> libseccomp -> BPF, and writes them to the cache.

Cold: `pyrun.plan.seccomp` comes here only when a filter is not cached.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pyrun.errors import HostError, PyrunError, blame
from pyrun.plan import caps, seccomp_gate, seccomp_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
NO_SUCH_CALL = -1  # __NR_SCMP_ERROR; other negative numbers are calls that this machine lacks


class Wanted:
    """What to compile: the parts of a spec, the capabilities, and whether the filter goes in before they are dropped.

    The default profile is a remove set without names.
    """

    __slots__ = ("caps_mask", "early", "errno", "mode", "names", "where")

    def __init__(self, mode: str, names: Iterable[str], errno: int, where: str, caps_mask: int, early: bool) -> None:
        self.mode = mode
        self.names = tuple(names)
        self.errno = errno
        self.where = where
        self.caps_mask = caps_mask
        self.early = early


def compile_filter(wanted: Wanted, machine: str) -> bytes:
    """Return the BPF program for seccomp(2) on `machine`, which is this one.

    ConfigError names an unknown call, group or a set under which no app could start; HostError says that libseccomp is missing or refuses.
    """
    if machine not in seccomp_gate.ARCHES:
        raise _broken(f"no filter is known for {machine}", "run on x86_64 or aarch64, or switch the filter off")
    resolve = Resolver()
    if resolve.lib.seccomp_arch_native() != seccomp_gate.ARCHES[machine]:
        raise _broken(f"this Python is not a {machine} program", "use a native Python")
    default, actions = rules(wanted, resolve)
    numbers = {}
    for name, action in actions.items():
        number = resolve(name)
        if number is not None:
            numbers[number] = action
    judged = {name: resolve.known(name) for name in seccomp_gate.CHECKS if actions.get(name, default) == resolve.allow}
    newest = None
    if wanted.mode == "remove":
        newest = (*seccomp_profile.GAP[machine], seccomp_profile.NEWEST)
    elif "clone" in judged and not wanted.caps_mask & caps.bit("CAP_SYS_ADMIN"):
        judged["clone3"] = resolve.known("clone3")
    try:
        program = seccomp_gate.layout(machine, judged, wanted.caps_mask, newest, _by_number(resolve, default, numbers))
    except ValueError as error:
        raise _broken(f"libseccomp's program is of a new kind: {error}", "switch the filter off, or use libseccomp 2.5") from None
    if len(program) > 8 * MAX_INSTRUCTIONS:
        raise _broken(f"{len(program) // 8} instructions", "list fewer calls")
    return program


def rules(wanted: Wanted, resolve: Resolver) -> tuple[int, dict[str, int]]:
    """Return (action for every other call, action by name)."""
    names = expand(wanted, resolve)
    block = seccomp_gate.ERRNO | wanted.errno if wanted.errno else resolve.kill
    if wanted.mode == "retain":
        return block, dict.fromkeys(names | minimum(wanted.early), resolve.allow)
    actions: dict[str, int] = {}
    actions.update(dict.fromkeys(seccomp_profile.ABSENT.split(), seccomp_gate.ERRNO | seccomp_gate.ENOSYS))
    actions.update(dict.fromkeys(default_allowed(wanted.caps_mask), resolve.allow))
    actions.update(dict.fromkeys(names, block))
    refuse = seccomp_gate.ERRNO | seccomp_gate.EPERM
    return refuse, {name: action for name, action in actions.items() if action != refuse}


def default_allowed(caps_mask: int) -> set[str]:
    """Return the calls that the default profile allows to holders of `caps_mask`."""
    groups = list(seccomp_profile.ALLOW.values())
    groups += [names for cap, names in seccomp_profile.UNLOCK.items() if caps_mask & caps.bit(cap)]
    return {name for names in groups for name in names.split()}


def minimum(early: bool) -> set[str]:
    """Return what every retain set allows, so that the helper can start the app."""
    return {*seccomp_profile.MINIMUM.split(), *(seccomp_profile.MINIMUM_EARLY.split() if early else ())}


def expand(wanted: Wanted, resolve: Resolver) -> set[str]:
    """Return the wanted names with groups replaced; ConfigError for what does not exist."""
    result: set[str] = set()
    for name in wanted.names:
        if not name.startswith("@"):
            resolve.known(name, wanted.where)
            result.add(name)
        elif name == "@pyrun/default":
            result |= default_allowed(wanted.caps_mask)
        elif name.startswith("@pyrun/") and name[7:] in seccomp_profile.ALLOW:
            result.update(seccomp_profile.ALLOW[name[7:]].split())
        else:
            groups = ["@pyrun/default", *[f"@pyrun/{group}" for group in seccomp_profile.ALLOW]]
            raise _unknown("no such group", name, groups, wanted.where, "groups: " + " ".join(groups))
    if wanted.mode == "remove":
        vital = {*seccomp_profile.START.split(), *(seccomp_profile.MINIMUM_EARLY.split() if wanted.early else ())} & result
        if vital:
            hint = "leave it out" + (", or keep no-new-privileges on" if wanted.early else "")
            raise blame(wanted.where)("build seccomp filter", min(vital), "no app can start without it", hint=hint, origin=wanted.where)
    return result


class Resolver:
    """Call names to numbers of this machine, by the profile's own table first and then by libseccomp's."""

    def __init__(self) -> None:
        try:
            from pyrun.native._seccomp import ffi, lib
        except ImportError as error:
            raise _broken(str(error), "install libseccomp2 (the extension pyrun.native._seccomp needs it)") from error
        self.ffi = ffi
        self.lib = lib
        self.allow: int = lib.SCMP_ACT_ALLOW
        self.kill: int = lib.SCMP_ACT_KILL_PROCESS

    def __call__(self, name: str) -> int | None:
        """Return the number, or None when this machine has no such call."""
        number = self.known(name)
        return number if number >= 0 else None

    def known(self, name: str, where: str = "") -> int:
        """Return the number, negative when only other machines have it; ConfigError when nobody knows the name."""
        number = seccomp_profile.NUMBERS.get(name)
        if number is None:
            number = self.lib.seccomp_syscall_resolve_name(name.encode("ascii", "replace"))
        if number == NO_SUCH_CALL:
            raise _unknown("no such system call", name, every_name(), where, "syscalls(2) lists the names")
        return int(number)


def every_name() -> set[str]:
    """Return all call names that the profile mentions."""
    groups = [*seccomp_profile.ALLOW.values(), *seccomp_profile.UNLOCK.values(), *seccomp_profile.DENY.values(), seccomp_profile.ABSENT]
    return {name for names in groups for name in names.split()} | seccomp_profile.NUMBERS.keys()


def _unknown(reason: str, name: str, candidates: Iterable[str], where: str, otherwise: str) -> PyrunError:
    import difflib

    found = difflib.get_close_matches(name, candidates, 1, 0.6)
    hint = f"did you mean {found[0]}?" if found else otherwise
    return blame(where)("build seccomp filter", name, reason, hint=hint, origin=where)


def _broken(reason: str, hint: str) -> HostError:
    return HostError("build seccomp filter", "", reason, hint=hint)


def _by_number(resolve: Resolver, default: int, numbers: Mapping[int, int]) -> bytes:
    """Return libseccomp's program, a binary tree over `numbers`; other architectures and x32 die by SIGSYS."""
    lib, ffi = resolve.lib, resolve.ffi
    context = lib.seccomp_init(default)
    if context == ffi.NULL:
        raise _broken("libseccomp refused the default action", "libseccomp 2.5 or newer is needed")
    try:
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_ACT_BADARCH, lib.SCMP_ACT_KILL_PROCESS), "bad arch action")
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_NNP, 0), "no_new_privs is the helper's")
        _check(lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_OPTIMIZE, 2), "binary tree")
        for number in sorted(numbers):
            if numbers[number] != default:  # libseccomp answers EACCES to a rule that says what the default says
                _check(lib.seccomp_rule_add_array(context, numbers[number], number, 0, ffi.NULL), f"call {number}")
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(lib.seccomp_export_bpf(context, fd), "export")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
    finally:
        lib.seccomp_release(context)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise HostError("build seccomp filter", what, errno=-result, hint="libseccomp 2.5 or newer is needed")


def save(store_root: str, path: str, content: bytes) -> bool:
    """Put `content` at `path` in one step, 0600; False when the store cannot be written, which costs only time."""
    temporary = f"{store_root}/tmp/{os.getpid()}.{os.urandom(6).hex()}.seccomp"
    try:
        for directory in (os.path.dirname(temporary), os.path.dirname(os.path.dirname(path)), os.path.dirname(path)):
            if not os.path.isdir(directory):
                _mkdir(directory)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(content)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return False
    return True


def _mkdir(path: str) -> None:
    with suppress(FileExistsError):  # someone else was faster
        os.mkdir(path, 0o700)
