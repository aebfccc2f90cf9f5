"""Judges system calls by their arguments: a few BPF instructions in front of the tree that libseccomp makes.

    arch is ours? -- no --------------------------------------.
        | yes                                                 |
    number is unknown or in the gap? -- yes --> ENOSYS        |
        | no                                                  |
    one of the calls below? -- bad argument --> EPERM         |
        | no, or the argument is fine                         |
        '---------------------------------------------------> the tree: allow or refuse by number

libseccomp cannot say "this call except for these values", cannot give one call another error than the rest, and
compares whole 64-bit registers, of which the kernel looks only at the lower half for an `int` (CVE-2019-10063:
TIOCSTI with dirt in the upper half).  Spelt out in its rules the same takes 670 instructions more and doubles the time
to install (160 us).  A classic BPF jump reaches 255 instructions, ten times what is needed here.
"""

from __future__ import annotations

from struct import pack

from pyrun.plan import caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    Step = tuple[int, int, str, str]  # code, constant, label when true, label when false; "" is the next one

# linux/bpf_common.h, linux/seccomp.h
LOAD, JEQ, JGT, JGE, JSET, JA, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x05, 0x06
NUMBER, ARCH = 0, 4  # offsets in struct seccomp_data
ERRNO = 0x00050000

EPERM, ENOSYS, EPROTONOSUPPORT = 1, 38, 93
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
X32_BIT = 0x40000000

TIOCSTI, TIOCLINUX = 0x5412, 0x541C  # type into, and paste into, the terminal of the operator
CLONE_NEW = 0x7E020000  # every CLONE_NEW* flag that clone(2) takes
PERSONALITIES = (0, 0xFFFFFFFF)  # Linux as it is, and the question
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
NETLINK_ROUTE, NETLINK_AUDIT = 0, 9

# The capabilities that change a verdict here.
LIFTING = "CAP_SYS_ADMIN CAP_NET_ADMIN CAP_NET_RAW CAP_AUDIT_WRITE CAP_AUDIT_CONTROL"


def gate(machine: str, numbers: Mapping[str, int], caps_mask: int, newest: tuple[int, int, int] | None) -> bytes:
    """Return the instructions for `machine`; execution leaves them at their end.

    `numbers` holds the calls that the tree allows and that are to be judged; `newest` is (first of the gap, last of
    the gap, newest call), or None when unknown numbers are left to the tree.
    """
    steps: list[Step | str] = [(LOAD, ARCH, "", ""), (JEQ, ARCHES[machine], "", "tree"), (LOAD, NUMBER, "", "")]
    if newest is not None:
        steps += [(JGE, newest[0], "new", "")]
    judged = [name for name in CHECKS if name in numbers]
    if judged:
        # on loading, the kernel runs the filter for every number to learn which calls need no filter: be brief for most
        steps += [(JGT, max(numbers[name] for name in judged), "tree", "")]
    steps += [(JEQ, numbers[name], name, "") for name in judged]
    steps += [(JA, 0, "tree", "")]
    if newest is not None:
        steps += _new_numbers(machine, newest)
    for name in judged:
        steps += [name, *CHECKS[name](caps_mask)]
    steps += ["absent", (RETURN, ERRNO | ENOSYS, "", ""), "protocol", (RETURN, ERRNO | EPROTONOSUPPORT, "", "")]
    steps += ["refuse", (RETURN, ERRNO | EPERM, "", ""), "tree"]
    return assemble(steps)


def _new_numbers(machine: str, newest: tuple[int, int, int]) -> list[Step | str]:
    steps: list[Step | str] = ["new", (JGT, newest[1], "", "absent"), (JGT, newest[2], "beyond", "tree"), "beyond"]
    if machine == "x86_64":
        steps += [(JGE, X32_BIT, "tree", "absent")]  # the tree kills x32 like any other foreign ABI
    else:
        steps += [(JA, 0, "absent", "")]
    return steps


def _argument(index: int) -> Step:
    return (LOAD, 16 + 8 * index, "", "")  # the lower half, both machines being little-endian


def _ioctl(caps_mask: int) -> list[Step | str]:
    del caps_mask
    return [_argument(1), (JEQ, TIOCSTI, "refuse", ""), (JEQ, TIOCLINUX, "refuse", "tree")]


def _socket(caps_mask: int) -> list[Step | str]:
    families = [AF_UNIX, AF_INET, AF_INET6]
    if caps_mask & caps.bit("CAP_NET_RAW"):
        families.append(AF_PACKET)
    steps: list[Step | str] = [_argument(0), *[(JEQ, family, "tree", "") for family in families]]
    if caps_mask & caps.bit("CAP_NET_ADMIN"):
        return [*steps, (JEQ, AF_NETLINK, "tree", "refuse")]
    protocols = [NETLINK_ROUTE]
    if caps_mask & (caps.bit("CAP_AUDIT_WRITE") | caps.bit("CAP_AUDIT_CONTROL")):
        protocols.append(NETLINK_AUDIT)
    # "no such protocol" is what a kernel built without it says: PAM then logs in without audit, ss reads /proc
    steps += [(JEQ, AF_NETLINK, "", "refuse"), _argument(2), *[(JEQ, number, "tree", "") for number in protocols]]
    return [*steps, (JA, 0, "protocol", "")]


def _socketpair(caps_mask: int) -> list[Step | str]:
    del caps_mask
    return [_argument(0), (JEQ, AF_UNIX, "tree", "refuse")]


def _clone(caps_mask: int) -> list[Step | str]:
    if caps_mask & caps.bit("CAP_SYS_ADMIN"):
        return [(JA, 0, "tree", "")]
    return [_argument(0), (JSET, CLONE_NEW, "refuse", "tree")]


def _personality(caps_mask: int) -> list[Step | str]:
    del caps_mask
    return [_argument(0), *[(JEQ, value, "tree", "") for value in PERSONALITIES], (JA, 0, "refuse", "")]


def _clone3(caps_mask: int) -> list[Step | str]:
    """A retain set with clone: threads are wanted, so the C library must learn to take the older call."""
    return [(JA, 0, "tree" if caps_mask & caps.bit("CAP_SYS_ADMIN") else "absent", "")]


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
