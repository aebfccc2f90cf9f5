"""Resource limits (getrlimit(2)): their names, the text form NAME=SOFT[:HARD], and pyrun's default set.

A limit is (resource number, soft, hard); INFINITY stands for no limit, as in the kernel's prlimit64.  Numbers
are those of asm-generic/resource.h, which x86-64 and aarch64 share.
"""

from __future__ import annotations

from pyrun.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Limit = tuple[int, int, int]
    LimitFrom = tuple[int, int, int, str]  # and the flag or rule that asked for it

__all__ = ["DEFAULTS", "INFINITY", "NAMES", "clamp", "current", "describe", "effective", "parse"]

NAMES = tuple("cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime".split())
INFINITY = (1 << 64) - 1
HIGHEST = {"nice": 40, "rtprio": 99}  # getrlimit(2): nice is 20 minus the limit, sched(7): priorities end at 99
UNLIMITED = ("unlimited", "infinity", "inf")

# No core dumps (they land on the host), few open files (select(2) breaks above 1024, and a huge table makes old daemons
# close a million descriptors), little locked memory, a small message queue.
DEFAULTS: tuple[Limit, ...] = ((4, 0, 0), (7, 1024, 4096), (8, 65536, 65536), (12, 819200, 819200))


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


def current() -> dict[int, tuple[int, int]]:
    """Return this process's own (soft, hard) for every resource."""
    import resource

    return {n: (_unsigned(soft), _unsigned(hard)) for n in range(len(NAMES)) for soft, hard in [resource.getrlimit(n)]}


def _unsigned(value: int) -> int:
    return value & INFINITY  # the resource module says -1 for no limit


def clamp(limits: Iterable[Limit], host: Mapping[int, tuple[int, int]]) -> list[Limit]:
    """Lower `limits` to the hard limits of `host`: a default must not need CAP_SYS_RESOURCE."""
    result = []
    for resource, soft, hard in limits:
        top = min(hard, host.get(resource, (INFINITY, INFINITY))[1])
        result.append((resource, min(soft, top), top))
    return result


def effective(requested: Iterable[LimitFrom], host: Mapping[int, tuple[int, int]], *, can_raise: bool) -> list[LimitFrom]:
    """Return every limit to set, by resource number: the defaults clamped to `host`, overridden by `requested`.

    The last item of a limit is its origin.  `can_raise` says that pyrun holds CAP_SYS_RESOURCE; HostError when a
    requested limit would need it and it does not.
    """
    chosen: dict[int, LimitFrom] = {limit[0]: (*limit, "default limits") for limit in clamp(DEFAULTS, host)}
    for resource, soft, hard, origin in requested:
        own = host.get(resource, (INFINITY, INFINITY))[1]
        if hard > own and not can_raise:
            raise HostError(
                "set limit",
                NAMES[resource],
                f"{_show(hard)} is above pyrun's own hard limit of {_show(own)}",
                hint="raise the limit of the process that starts pyrun, or give pyrun CAP_SYS_RESOURCE",
                origin=origin,
            )
        chosen[resource] = (resource, soft, hard, origin)
    return [chosen[resource] for resource in sorted(chosen)]


def describe(limit: Limit) -> str:
    """Return the text that `parse` reads back."""
    resource, soft, hard = limit
    return f"{NAMES[resource]}={_show(soft)}:{_show(hard)}"


def _show(value: int) -> str:
    return "unlimited" if value == INFINITY else str(value)
