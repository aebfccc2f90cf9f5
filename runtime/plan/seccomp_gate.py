"""Lays a system call filter out: the number decides, and for a few calls their arguments after it.

    arch is ours? -- no --> what libseccomp's program says (SIGSYS)
        | yes
    the number's run, found in a tree --> allow, an errno, SIGSYS
        | a call that is judged
    its arguments --> allow, or an errno

The verdicts by number are libseccomp's: its program is asked, and neighbours with the same answer become one run.  The
kernel goes through a filter twice when it is installed, once to translate it and once for every number to learn which
calls need no filter, so the shape counts: a tree of runs takes 55 us to install where libseccomp's takes 120.

Arguments are judged here because libseccomp cannot say "this call except for these values", cannot give one call
another error than the rest, and compares whole 64-bit registers, of which the kernel looks only at the lower half for an
`int` (CVE-2019-10063: TIOCSTI with dirt in the upper half).  A classic BPF jump reaches 255 instructions.
"""

from __future__ import annotations

from struct import iter_unpack, pack

from pyrun.plan import caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Code = Sequence[tuple[int, int, int, int]]
    Runs = Sequence[tuple[int, int | str]]  # first number; its action, or the name of the call that is judged
    Step = tuple[int, int, str, str]  # code, constant, label when true, label when false; "" is the next one

# linux/bpf_common.h, linux/seccomp.h
LOAD, JEQ, JGT, JGE, JSET, JA, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x05, 0x06
NUMBER, ARCH = 0, 4  # offsets in struct seccomp_data
ERRNO, ALLOW = 0x00050000, 0x7FFF0000

EPERM, ENOSYS, EPROTONOSUPPORT = 1, 38, 93
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
X32_BIT, LAST = 0x40000000, 0xFFFFFFFF
BLOCK = 128  # runs whose search lets every jump reach its verdict

TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # type into, and paste into, the terminal of the operator
CLONE_NEW = 0x7E020000  # every CLONE_NEW* flag that clone(2) takes
PERSONALITIES = (0, 0xFFFFFFFF)  # Linux as it is, and the question
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
NETLINK_ROUTE, NETLINK_AUDIT = 0, 9

# The capabilities that change a verdict here.
LIFTING = "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_AUDIT_WRITE CAP_AUDIT_CONTROL"


def layout(machine: str, judged: Mapping[str, int], caps_mask: int, newest: tuple[int, int, int] | None, program: bytes) -> bytes:
    """Return the filter for `machine` that answers as libseccomp's `program` does, but judges some calls.

    `judged` holds the numbers of calls that are allowed with the right arguments; `newest` is (first of the gap, last of
    the gap, newest call), or None when unknown numbers are left to `program`.  ValueError for a program that looks at arguments.
    """
    code: Code = list(iter_unpack("<HBBI", program))
    steps: list[Step | str] = [(LOAD, ARCH, "", ""), (JEQ, ARCHES[machine], "ours", ""), (RETURN, _answer(code, 0, 0), "", "")]
    steps += ["ours", (LOAD, NUMBER, "", "")]
    _tree(_runs(machine, judged, newest, code), steps)
    for name in judged:
        steps += [name, *CHECKS[name](caps_mask)]
    steps += ["absent", (RETURN, ERRNO | ENOSYS, "", ""), "protocol", (RETURN, ERRNO | EPROTONOSUPPORT, "", "")]
    steps += ["refuse", (RETURN, ERRNO | EPERM, "", ""), "allow", (RETURN, ALLOW, "", "")]
    return assemble(steps)


def _answer(code: Code, number: int, arch: int) -> int:
    """Return what a program says that looks at the number and the architecture only."""
    at = value = 0
    while True:
        operation, true, false, constant = code[at]
        at += 1
        if operation == RETURN:
            return constant
        if operation == LOAD and constant in (NUMBER, ARCH):
            value = arch if constant == ARCH else number
        elif operation == JA:
            at += constant
        elif operation in (JEQ, JGT, JGE):
            at += true if _holds(operation, value, constant) else false
        else:
            raise ValueError(f"instruction {operation:#x} {constant:#x}")


def _holds(operation: int, value: int, constant: int) -> bool:
    return value == constant if operation == JEQ else value > constant if operation == JGT else value >= constant


def _runs(machine: str, judged: Mapping[str, int], newest: tuple[int, int, int] | None, code: Code) -> Runs:
    """Return where the verdict changes: only where the program, or one of the rules here, names a number."""
    names = {number: name for name, number in judged.items()}
    absent = []  # (first, last) of numbers that are newer than the profile
    if newest is not None:
        # the program kills x32 like any other foreign ABI
        absent = [newest[:2], (newest[2] + 1, X32_BIT - 1 if machine == "x86_64" else LAST)]
    edges = {0, *names, *[edge for pair in absent for edge in pair]}
    edges |= {constant for operation, _, _, constant in code if operation in (JEQ, JGT, JGE)}
    found: list[tuple[int, int | str]] = []
    for first in sorted(edges | {edge + 1 for edge in edges if edge < LAST}):
        verdict: int | str = names.get(first, "")
        if not verdict and any(low <= first <= high for low, high in absent):
            verdict = ERRNO | ENOSYS
        verdict = verdict or _answer(code, first, ARCHES[machine])
        if not found or found[-1][1] != verdict:
            found.append((first, verdict))
    return found


def _tree(runs: Runs, steps: list[Step | str]) -> None:
    """Add a search for the run of the loaded number; every block of it has verdicts of its own within its jumps' reach."""
    if len(runs) > BLOCK:
        half = len(runs) // 2
        high = f"from {runs[half][0]}"
        steps += [(JGE, runs[half][0], "", f"below {runs[half][0]}"), (JA, 0, high, ""), f"below {runs[half][0]}"]
        _tree(runs[:half], steps)
        steps.append(high)
        _tree(runs[half:], steps)
        return
    block = f"@{runs[0][0]}"
    if len(runs) == 1:
        steps.append((JA, 0, f"{runs[0][1]}{block}", ""))
    else:
        _search(runs, block, steps)
    for verdict in dict.fromkeys(verdict for _, verdict in runs):
        steps += [f"{verdict}{block}", (JA, 0, verdict, "") if isinstance(verdict, str) else (RETURN, verdict, "", "")]


def _search(runs: Runs, block: str, steps: list[Step | str]) -> None:
    half = len(runs) // 2
    low, high = runs[:half], runs[half:]
    right = f"{high[0][1]}{block}" if len(high) == 1 else f"from {high[0][0]}"
    steps.append((JGE, high[0][0], right, f"{low[0][1]}{block}" if len(low) == 1 else ""))
    if len(low) > 1:
        _search(low, block, steps)
    if len(high) > 1:
        steps.append(right)
        _search(high, block, steps)


def _argument(index: int) -> Step:
    return (LOAD, 16 + 8 * index, "", "")  # the lower half, both machines being little-endian


def _ioctl(caps_mask: int) -> list[Step | str]:
    del caps_mask
    return [_argument(1), (JEQ, TIOCSTI, "refuse", ""), (JEQ, TIOCLINUX, "refuse", "allow")]


def _socket(caps_mask: int) -> list[Step | str]:
    families = [AF_UNIX, AF_INET, AF_INET6]
    if caps_mask & caps.bit("CAP_NET_RAW"):
        families.append(AF_PACKET)
    steps: list[Step | str] = [_argument(0), *[(JEQ, family, "allow", "") for family in families]]
    if caps_mask & caps.bit("CAP_NET_ADMIN"):
        return [*steps, (JEQ, AF_NETLINK, "allow", "refuse")]
    protocols = [NETLINK_ROUTE]
    if caps_mask & (caps.bit("CAP_AUDIT_WRITE") | caps.bit("CAP_AUDIT_CONTROL")):
        protocols.append(NETLINK_AUDIT)
    # "no such protocol" is what a kernel built without it says: PAM then logs in without audit, ss reads /proc
    steps += [(JEQ, AF_NETLINK, "", "refuse"), _argument(2), *[(JEQ, number, "allow", "") for number in protocols]]
    return [*steps, (JA, 0, "protocol", "")]


def _socketpair(caps_mask: int) -> list[Step | str]:
    del caps_mask
    return [_argument(0), (JEQ, AF_UNIX, "allow", "refuse")]


def _clone(caps_mask: int) -> list[Step | str]:
    if caps_mask & caps.bit("CAP_SYS_ADMIN"):
        return [(JA, 0, "allow", "")]
    return [_argument(0), (JSET, CLONE_NEW, "refuse", "allow")]


def _personality(caps_mask: int) -> list[Step | str]:
    del caps_mask
    return [_argument(0), *[(JEQ, value, "allow", "") for value in PERSONALITIES], (JA, 0, "refuse", "")]


def _clone3(caps_mask: int) -> list[Step | str]:
    """A retain set with clone: threads are wanted, so the C library must learn to take the older call."""
    return [(JA, 0, "allow" if caps_mask & caps.bit("CAP_SYS_ADMIN") else "absent", "")]


CHECKS = {
    "ioctl": _ioctl,
    "socket": _socket,
    "socketpair": _socketpair,
    "clone": _clone,
    "personality": _personality,
    "clone3": _clone3,
}


def assemble(steps: list[Step | str]) -> bytes:
    """Return `steps` as struct sock_filter: a string labels the instruction after it, the last one the end."""
    places: dict[str, int] = {}
    code: list[Step] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(code)
        else:
            code.append(step)
    result = b""
    for at, (operation, constant, true, false) in enumerate(code, 1):
        jumps = [places[label] - at if label else 0 for label in (true, false)]
        if operation == JA:
            jumps, constant = [0, 0], jumps[0]
        result += pack("<HBBI", operation, *jumps, constant)
    return result
