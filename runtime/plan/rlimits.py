"""Resource limits (getrlimit(2)): their names, the text form NAME=SOFT[:HARD], and pyrun's default set.

A limit is (resource number, soft, hard); INFINITY stands for no limit, as in the kernel's prlimit64.  Numbers
are those of asm-generic/resource.h, which x86-64 and aarch64 share.
"""

from __future__ import annotations

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Limit = tuple[int, int, int]
    LimitFrom = tuple[int, int, int, str]  # and the flag or rule that asked for it

__all__ = ["DEFAULTS", "DEFAULT_ORIGIN", "INFINITY", "NAMES", "describe", "merge", "parse"]

NAMES = tuple("cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime".split())
INFINITY = (1 << 64) - 1
HIGHEST = {"nice": 40, "rtprio": 99}  # getrlimit(2): nice is 20 minus the limit, sched(7): priorities end at 99
UNLIMITED = ("unlimited", "infinity", "inf")

# No core dumps (they land on the host), few open files (select(2) breaks above 1024, and a huge table makes old daemons
# close a million descriptors), little locked memory, a small message queue.
DEFAULTS: tuple[Limit, ...] = ((4, 0, 0), (7, 1024, 4096), (8, 65536, 65536), (12, 819200, 819200))
DEFAULT_ORIGIN = "default limits"


def parse(text: str, where: str = "--rlimit") -> Limit:
    """Return (resource, soft, hard) of ``NAME=SOFT[:HARD]``; a missing hard limit is the soft one.

    NAME in any case, `RLIMIT_` optional; values are decimal or "unlimited".  UsageError otherwise.
    """
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError("read limit", text, "not of the form NAME=SOFT[:HARD]", hint="for example nofile=1024:4096", origin=where)
    resource = _resource(name, where)
    first, colon, second = value.partition(":")
    soft = _number(first, text, where)
    hard = _number(second, text, where) if colon else soft
    highest = HIGHEST.get(NAMES[resource], INFINITY)
    for number in (soft, hard):
        if highest < number < INFINITY:
            raise UsageError("read limit", text, f"{NAMES[resource]} goes from 0 to {highest}", hint="see getrlimit(2)", origin=where)
    if soft > hard:
        raise UsageError("read limit", text, "the soft limit is above the hard one", hint="write SOFT:HARD with SOFT <= HARD", origin=where)
    return resource, soft, hard


def _resource(name: str, where: str) -> int:
    key = name.strip().lower().removeprefix("rlimit_")
    if key in NAMES:
        return NAMES.index(key)
    import difflib

    found = difflib.get_close_matches(key, NAMES, 1, 0.5)
    hint = f"did you mean {found[0]}?" if found else "known: " + " ".join(NAMES)
    raise UsageError("read limit", name, "no such resource", hint=hint, origin=where)


def _number(text: str, whole: str, where: str) -> int:
    if text.lower() in UNLIMITED:
        return INFINITY
    # isdigit() alone lets other scripts' digits through; 20 digits hold any 64-bit number
    if text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < INFINITY:
        return int(text)
    raise UsageError("read limit", whole, f"{text!r} is not a limit", hint='a number from 0 to 2^64-2, or "unlimited"', origin=where)


def merge(requested: Iterable[LimitFrom]) -> list[LimitFrom]:
    """Return every limit to set, by resource number: the defaults, overridden by `requested`.

    The last item of a limit is its origin.  A default is lowered to the caller's own hard limit when it is set,
    since it must not need CAP_SYS_RESOURCE; a requested one is set as it is or refused by the kernel.
    """
    chosen: dict[int, LimitFrom] = {limit[0]: (*limit, DEFAULT_ORIGIN) for limit in DEFAULTS}
    for limit in requested:
        chosen[limit[0]] = limit
    return [chosen[resource] for resource in sorted(chosen)]


def describe(limit: Limit) -> str:
    """Return the text that `parse` reads back."""
    resource, soft, hard = limit
    return f"{NAMES[resource]}={_show(soft)}:{_show(hard)}"


def _show(value: int) -> str:
    return "unlimited" if value == INFINITY else str(value)
