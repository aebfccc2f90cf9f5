"""System call filters: which one an app gets, as the bytes that the helper hands to seccomp(2).

Without a spec an app gets the default profile (`pyrun.plan.seccomp_profile`).  A retain set allows what it lists and the
little that starting a program takes; a remove set is the default profile minus what it lists (appc-spec,
"os/linux/seccomp-retain-set" and "-remove-set"): so an image can narrow the default by a remove set, never widen it.
What needs its arguments looked at is checked in every mode (`pyrun.plan.seccomp_gate`).

Compiling takes 15 ms, so filters are kept in the store, named by a hash of everything that they depend on.
"""

from __future__ import annotations

import os
from binascii import crc32

from pyrun.errors import ConfigError, PyrunError, UsageError
from pyrun.native.users import root_or_self

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["PROFILE", "SeccompSpec", "cache_path", "from_isolator", "from_isolators", "load", "parse_flag"]

PROFILE = "c3c913e6a346d5e2"  # first 16 digits of the SHA-256 of seccomp_{profile,gate,build}.py
SENSITIVE = 0xC466FF3004  # the capabilities that change a filter (a test keeps it so)

RETAIN, REMOVE = "os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set"
ALL, EMPTY = "@appc.io/all", "@appc.io/empty"
MAGIC = b"bpf1"
MAX_SIZE = 8 * 4096 + 8


class SeccompSpec:
    """A retain or remove set: `mode`, sorted `names` (calls and @groups), `errno` (0: SIGSYS kills), `where` it came from."""

    __slots__ = ("errno", "mode", "names", "where")

    def __init__(self, mode: str, names: Iterable[str], errno: int, where: str) -> None:
        self.mode = mode
        self.names = tuple(sorted(set(names)))
        self.errno = errno
        self.where = where

    @property
    def off(self) -> bool:
        """True when the spec asks for no filter at all: @appc.io/all in a retain set."""
        return self.mode == "retain" and ALL in self.names

    def describe(self) -> str:
        """Return one line for `pyrun plan` and status output."""
        if self.off:
            return "no filter"
        import errno

        verdict = f"errno {errno.errorcode[self.errno]}" if self.errno else "SIGSYS"
        what = "allow only" if self.mode == "retain" else "default, also refuse"
        return f"{what} {' '.join(self.names)}; {verdict}" if self.names else "default"


def parse_flag(text: str, where: str = "--seccomp") -> SeccompSpec:
    """Return the spec of ``mode=retain|remove[,errno=NAME],call,@group,...``; UsageError when it is malformed.

    Whether calls and groups exist turns out in `load`.
    """
    options: dict[str, str] = {}
    names = []
    for word in text.split(","):
        key, equals, value = word.partition("=")
        if not equals:
            names.append(word)
        elif key not in ("mode", "errno") or key in options:
            reason = "given twice" if key in options else "no such option"
            raise UsageError("read seccomp filter", key, reason, hint="options are mode=retain|remove and errno=NAME", origin=where)
        else:
            options[key] = value
    mode = options.get("mode", "")
    if mode not in ("retain", "remove"):
        reason = f"mode {mode!r} is not retain or remove" if mode else "the mode is missing"
        raise UsageError("read seccomp filter", text, reason, hint="for example mode=remove,errno=EPERM,sync,syncfs", origin=where)
    return _spec(mode, names, options.get("errno", ""), where, UsageError)


def from_isolator(name: str, value: object, where: str) -> SeccompSpec:
    """Return the spec of one seccomp isolator of an image or pod manifest; ConfigError when its value is wrong."""
    if name not in (RETAIN, REMOVE):
        raise ConfigError("read isolator", name, "not a seccomp isolator", hint=f"use {RETAIN} or {REMOVE}", origin=where)
    names = value.get("set") if isinstance(value, dict) else None
    number = value.get("errno") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(item, str) for item in names) or not isinstance(number or "", str):
        hint = 'the value is {"set": ["name", ...], "errno": "NAME"}'
        raise ConfigError("read isolator", name, "the value is malformed", hint=hint, origin=where)
    return _spec("retain" if name == RETAIN else "remove", names, str(number or ""), where, ConfigError)


def from_isolators(isolators: Iterable[Mapping[str, object]], where: str = "isolators") -> SeccompSpec | None:
    """Return the one seccomp spec among an app's isolators, None without one; ConfigError when there are two."""
    found: SeccompSpec | None = None
    for index, isolator in enumerate(isolators):
        name = isolator.get("name")
        if name in (RETAIN, REMOVE):
            origin = f"{where}[{index}]"
            if found is not None:
                hint = "merge the sets into one isolator"
                raise ConfigError("read isolator", str(name), f"a second seccomp set, beside {found.where}", hint=hint, origin=origin)
            found = from_isolator(str(name), isolator.get("value"), origin)
    return found


def _spec(mode: str, names: list[str], errno_name: str, where: str, error: type[PyrunError]) -> SeccompSpec:
    if not names:
        raise error("read seccomp filter", where, "the set is empty", hint="list at least one system call or @group", origin=where)
    for name in names:
        if not name.removeprefix("@").replace("/", "").replace("_", "").replace(".", "").replace("-", "").isalnum() or not name.isascii():
            raise error("read seccomp filter", repr(name), "not a name of a system call", hint="syscalls(2) lists the names", origin=where)
        if name.startswith("@appc.io/") and name != (ALL if mode == "retain" else EMPTY):
            hint = f"{ALL} belongs in a retain set, {EMPTY} in a remove set"
            raise error("read seccomp filter", name, f"has no meaning in a {mode} set", hint=hint, origin=where)
    number = 0
    if errno_name:
        import errno

        number = getattr(errno, errno_name, 0) if errno_name[0] == "E" and errno_name.isupper() and errno_name.isalnum() else 0
        if not number:
            raise error("read seccomp filter", errno_name, "no such error", hint="errno(3) lists the names, such as EPERM", origin=where)
    if mode == "remove" and EMPTY in names:  # masks everything else: the default profile, untouched
        names = []
    return SeccompSpec(mode, names, number, where)


def cache_path(store_root: str, spec: SeccompSpec | None, caps_mask: int, machine: str, early: bool = False) -> str:
    """Return where the filter for these inputs is kept."""
    what = f"default-{PROFILE}-{machine}-{caps_mask & SENSITIVE:x}"
    if spec is not None and spec.names:
        what = _digest(f"{PROFILE} {machine} {caps_mask & SENSITIVE:x} {early:d} {spec.mode} {spec.errno} {' '.join(spec.names)}")
    return f"{store_root}/cache/seccomp/{what}.bpf"


def _digest(text: str) -> str:
    try:  # hashlib would load OpenSSL
        from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        try:
            from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # Python 3.12
        except ImportError:
            from hashlib import sha256
    digest: str = sha256(text.encode()).hexdigest()
    return digest


def load(store_root: str, spec: SeccompSpec | None, caps_mask: int, *, early: bool = False) -> bytes:
    """Return the filter as an array of struct sock_filter for SECCOMP_SET_MODE_FILTER; b"" when `spec` asks for none.

    `spec` None is the default profile; `caps_mask` the bounding set, some capabilities unlocking the calls that need
    them.  `early` says that the filter goes in before identity and capabilities are dropped (no_new_privs off), so
    that a retain set has to allow that too.  ConfigError for names that do not exist, HostError without libseccomp.
    """
    if spec is not None and spec.off:
        return b""
    machine = os.uname().machine
    path = cache_path(store_root, spec, caps_mask, machine, early)
    program = _cached(path)
    if not program:
        from pyrun.plan import seccomp_build

        parts = (spec.mode, spec.names, spec.errno, spec.where) if spec is not None else ("remove", (), 0, "")
        program = seccomp_build.compile_filter(seccomp_build.Wanted(*parts, caps_mask, early), machine)
        seccomp_build.save(store_root, path, MAGIC + crc32(program).to_bytes(4, "little") + program)
    return program


def _cached(path: str) -> bytes:
    """Return the program in `path`; b"" when it is absent, damaged or not to be trusted, and then compiled anew."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        state = os.fstat(fd)
        if state.st_mode & 0o170022 != 0o100000 or not root_or_self(state.st_uid, path):
            return b""
        data = os.read(fd, MAX_SIZE + 1)
    except OSError:
        return b""
    finally:
        os.close(fd)
    # written without fsync: after a power cut the file may be short or full of zeros
    if not 8 < len(data) <= MAX_SIZE or len(data) % 8 or data[:4] != MAGIC:
        return b""
    program = data[8:]
    return program if crc32(program) == int.from_bytes(data[4:8], "little") else b""
