"""Device rules -> the program that the kernel asks before it opens or makes a device node (BPF_PROG_TYPE_CGROUP_DEVICE). Pure.

A rule is (kind, major, minor, access, allow): kind a, b or c, a number of -1 for any, access some of "rwm" (m: mknod).  As in cgroup
version 1 and the OCI's `linux.resources.devices` later rules beat earlier ones, each for the accesses that it names; what no rule
names is denied.  The program walks them from the last to the first and crosses off what is allowed; see `bpf_cgroup_dev_ctx` in
linux/bpf.h.
"""

from __future__ import annotations

from struct import Struct

from pyrun.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Rule = tuple[str, int, int, str, bool]

__all__ = ["OCI_DEFAULT", "POD_DEFAULT", "device_program", "rules_of_oci", "rules_of_text", "text_of"]

MOST = 4096  # instructions, as OP_DEVICES of native/plan.h takes
_HINT = "see config-linux.md of the OCI runtime-spec"
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_
_KIND = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_
_ALL = 7
_ANY_DEVICE = ("a", -1, -1)

# null zero full random urandom tty, the terminals of the pod's own devpts and what makes them
_STANDARD = tuple(("c", major, minor) for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)))
POD_DEFAULT: tuple[Rule, ...] = (
    *((*one, "rwm", True) for one in _STANDARD),
    ("c", 5, 2, "rw", True),
    ("c", 136, -1, "rw", True),
)
# What each OCI runtime allows whatever the rules say: any node may be made, those of every container opened.
OCI_DEFAULT: tuple[Rule, ...] = (
    ("c", -1, -1, "m", True),
    ("b", -1, -1, "m", True),
    *POD_DEFAULT,
    ("c", 5, 1, "rwm", True),
)


def rules_of_oci(devices: object, *, where: str = "linux.resources.devices") -> list[Rule]:
    """Return the rules of `linux.resources.devices` with `OCI_DEFAULT` behind them; ConfigError for a malformed one.

    An absent list allows the defaults only, as an empty one does.
    """
    if devices is None:
        devices = []
    if not isinstance(devices, list):
        raise ConfigError("allow devices", repr(devices)[:80], "not a list", hint=_HINT, origin=where)
    return [*(_of_oci(one, f"{where}[{index}]") for index, one in enumerate(devices)), *OCI_DEFAULT]


def _of_oci(rule: Any, where: str) -> Rule:
    def bad(reason: str) -> ConfigError:
        return ConfigError("allow devices", repr(rule)[:80], reason, hint=_HINT, origin=where)

    if not isinstance(rule, dict) or not isinstance(rule.get("allow"), bool):
        raise bad("needs `allow`, true or false")
    kind = rule.get("type") or "a"
    if kind not in ("a", "b", "c", "u"):
        raise bad("its type is not one of a, b, c, u")
    numbers = []
    for name in ("major", "minor"):
        value = rule.get(name)
        value = -1 if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 1 << 32:
            raise bad(f"its {name} is not a device number")
        numbers.append(value)
    access = rule.get("access") or "rwm"
    if not isinstance(access, str) or not frozenset("rwm").issuperset(access):
        raise bad("its access is not some of rwm")
    return "c" if kind == "u" else kind, numbers[0], numbers[1], access, rule["allow"]


def text_of(rules: Iterable[Rule]) -> str:
    """Return the rules as text, `c 1:3 rwm` each and `!` before what is denied, with commas between; `rules_of_text` reads it."""
    return ", ".join(
        f"{'' if allow else '!'}{kind} {_number(major)}:{_number(minor)} {access}" for kind, major, minor, access, allow in rules
    )


def _number(number: int) -> str:
    return "*" if number < 0 else str(number)


def rules_of_text(text: str) -> list[Rule]:
    """Return the rules that `text_of` wrote; ValueError for anything else."""
    rules: list[Rule] = []
    for part in text.split(", ") if text else []:
        kind, numbers, access = part.removeprefix("!").split(" ")
        major, minor = (-1 if word == "*" else int(word) for word in numbers.split(":"))
        if kind not in ("a", "b", "c") or not frozenset("rwm").issuperset(access) or not -1 <= major < 1 << 32 or not -1 <= minor < 1 << 32:
            raise ValueError(part)
        rules.append((kind, major, minor, access, not part.startswith("!")))
    return rules


def device_program(rules: Iterable[Rule]) -> bytes:
    """Return the instructions (struct bpf_insn, 8 bytes each) for OP_DEVICES; b"" when every device may be used.

    ConfigError when there are too many rules for one program.
    """
    wanted = _effective(rules)
    if wanted and wanted[0][:4] == (*_ANY_DEVICE, _ALL) and all(allow for *_, allow in wanted):
        return b""
    code = [
        _insn(_LOAD, 2, 1, 0, 0),  # r2: kind in the lower half, access in the upper
        _insn(_LOAD, 4, 1, 4, 0),  # r4: major
        _insn(_LOAD, 5, 1, 8, 0),  # r5: minor
        _insn(_MOVE_REG, 3, 2, 0, 0),
        _insn(_SHIFT, 3, 0, 0, 16),  # r3: what of the access is not decided yet
        _insn(_AND, 2, 0, 0, 0xFFFF),
    ]
    for rule in reversed(wanted):
        code += _check(*rule)
        if rule[:4] == (*_ANY_DEVICE, _ALL):
            break  # the verifier takes no instruction that nothing leads to
    else:
        code += _return(0)
    if len(code) > MOST:
        raise ConfigError(
            "allow devices", f"{len(wanted)} rules", "are too many for one program", hint="allow ranges: leave minor numbers out"
        )
    return b"".join(code)


def _effective(rules: Iterable[Rule]) -> list[tuple[str, int, int, int, bool]]:
    """The rules that can still decide something, in their order, with access as a mask: none that later ones about the same device hide."""
    found: list[tuple[str, int, int, int, bool]] = []
    decided: dict[tuple[str, int, int], int] = {}
    for kind, major, minor, access, allow in reversed(list(rules)):
        mask = 0
        for letter in access:
            mask |= _ACCESS[letter]
        key = (kind, major, minor)
        mask &= ~(decided.get(key, 0) | decided.get(_ANY_DEVICE, 0))
        decided[key] = decided.get(key, 0) | mask
        if mask:
            found.append((kind, major, minor, mask, allow))
        if decided.get(_ANY_DEVICE) == _ALL:
            break
    return found[::-1]


_INSN = Struct("=BBhI")
_LOAD = 0x61  # 32 bit words, BPF_LDX | BPF_MEM | BPF_W
_MOVE, _MOVE_REG = 0xB4, 0xBC  # BPF_ALU: 32 bit halves
_SHIFT, _AND = 0x74, 0x54
_JUMP_UNLESS_EQUAL, _JUMP_IF_EQUAL, _EXIT = 0x56, 0x16, 0x95  # BPF_JMP32


def _insn(code: int, to: int, source: int, jump: int, value: int) -> bytes:
    return _INSN.pack(code, to | source << 4, jump, value)


def _return(value: int) -> list[bytes]:
    return [_insn(_MOVE, 0, 0, 0, value), _insn(_EXIT, 0, 0, 0, 0)]


def _check(kind: str, major: int, minor: int, mask: int, allow: bool) -> list[bytes]:
    """One rule; what it does not match jumps behind it."""
    body: list[bytes] = []
    if mask == _ALL:
        body = _return(int(allow))
    elif allow:
        body = [_insn(_AND, 3, 0, 0, _ALL & ~mask), _insn(_JUMP_UNLESS_EQUAL, 3, 0, 2, 0), *_return(1)]
    else:
        body = [_insn(_MOVE_REG, 6, 3, 0, 0), _insn(_AND, 6, 0, 0, mask), _insn(_JUMP_IF_EQUAL, 6, 0, 2, 0), *_return(0)]
    tests = [(2, _KIND[kind])] if kind != "a" else []
    tests += [(register, number) for register, number in ((4, major), (5, minor)) if number >= 0]
    for register, value in reversed(tests):
        body.insert(0, _insn(_JUMP_UNLESS_EQUAL, register, 0, len(body), value))
    return body
