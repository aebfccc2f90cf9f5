"""Rules of config.json's `process` (runtime-spec config.md, "Process"), which is also what `exec --process` reads."""

from __future__ import annotations

from pyrun.oci.rules import UINT64, Bad, absolute, array, boolean, choice, filled, integer, record, text
from pyrun.plan import rlimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["PROCESS", "number_list"]

_ID = integer(0, (1 << 31) - 1)
_REALTIME = ("SCHED_FIFO", "SCHED_RR")
_SHORTEST, _LONGEST = 1024, (1 << 63) - 1  # runtime of SCHED_DEADLINE


def _variable(value: Any) -> None:
    text(value)
    if value.find("=") < 1:
        raise Bad(f"{value!r} is not of the form NAME=VALUE")


def _args(value: Any) -> None:
    if not value[0]:
        raise Bad("must not be empty", "name the program", "[0]")


def _resource(value: Any) -> None:
    filled(value)
    if not value.startswith("RLIMIT_") or value[7:].lower() not in rlimits.NAMES:
        raise Bad(f"{value!r} is no resource that the kernel limits", "see getrlimit(2)")


def _group(value: Any) -> None:
    """The specification's own schema does not ask for it, and to its Go types none is 0."""
    value.setdefault("gid", 0)


def _limit(value: Any) -> None:
    if value["soft"] > value["hard"]:
        raise Bad(f"{value['soft']} is above the hard limit {value['hard']}", "write soft <= hard", "soft")


def _limits(value: Any) -> None:
    seen: set[str] = set()
    for at, limit in enumerate(value):
        if limit["type"] in seen:
            raise Bad(f"{limit['type']} is there twice", "keep one of them", f"[{at}].type")
        seen.add(limit["type"])


def _scheduler(value: Any) -> None:
    """sched(7): which members mean something under which policy."""
    policy = value["policy"]
    priority = value.get("priority", 0)
    if policy in _REALTIME and not 1 <= priority <= 99:
        raise Bad(f"{policy} needs a priority from 1 to 99", where="priority")
    if policy not in _REALTIME and priority:
        raise Bad(f"{policy} has no priority", "leave it out, or use SCHED_FIFO or SCHED_RR", "priority")
    for name in ("runtime", "deadline", "period"):
        if policy != "SCHED_DEADLINE" and value.get(name):
            raise Bad(f"{policy} has no {name}", "leave it out, or use SCHED_DEADLINE", name)
    if policy == "SCHED_DEADLINE":
        _deadline(value)


def _deadline(value: Any) -> None:
    """sched_setattr(2), in nanoseconds: 1024 <= runtime <= deadline <= period, which is the deadline when it is 0."""

    def bad(reason: str, where: str) -> Bad:
        return Bad(f"sched_setattr: `SCHED_DEADLINE` {reason}", "in nanoseconds, see sched(7)", where)

    for name in ("runtime", "deadline"):
        if name not in value:
            raise bad(f"requires `{name}`", name)
    runtime, deadline, period = value["runtime"], value["deadline"], value.get("period", 0)
    if not runtime:
        raise bad("runtime must be greater than 0", "runtime")
    if not _SHORTEST <= runtime <= _LONGEST:
        raise bad(f"runtime {runtime} must be between {_SHORTEST} and {_LONGEST}", "runtime")
    if runtime > deadline:
        raise bad(f"runtime {runtime} must be <= deadline {deadline}", "runtime")
    if period and deadline > period:
        raise bad(f"deadline {deadline} must be <= period {period}", "deadline")


_UINT64 = integer(*UINT64)
_CAPABILITIES = array(text)

_FIELDS = {
    "terminal": boolean,
    "cwd": absolute,
    "args": array(text, least=1, also=_args),
    "env": array(_variable),
    "user": record(
        {"uid": _ID, "gid": _ID, "umask": integer(0, 0o777), "additionalGids": array(_ID), "username": text}, "uid", also=_group
    ),
    "capabilities": record(dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _CAPABILITIES)),
    "rlimits": array(record({"type": _resource, "soft": _UINT64, "hard": _UINT64}, "type", "soft", "hard", also=_limit), also=_limits),
    "noNewPrivileges": boolean,
    "apparmorProfile": text,
    "selinuxLabel": text,
    "oomScoreAdj": integer(-1000, 1000),
    "scheduler": record(
        {
            "policy": choice("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_IDLE", "SCHED_DEADLINE", absent="SCHED_ISO"),
            "nice": integer(-20, 19),
            "priority": integer(0, 99),
            "flags": array(
                choice(
                    "SCHED_FLAG_RESET_ON_FORK",
                    "SCHED_FLAG_RECLAIM",
                    "SCHED_FLAG_DL_OVERRUN",
                    "SCHED_FLAG_KEEP_POLICY",
                    "SCHED_FLAG_KEEP_PARAMS",
                    "SCHED_FLAG_UTIL_CLAMP_MIN",
                    "SCHED_FLAG_UTIL_CLAMP_MAX",
                )
            ),
            "runtime": _UINT64,
            "deadline": _UINT64,
            "period": _UINT64,
        },
        "policy",
        also=_scheduler,
    ),
    "ioPriority": record({"class": choice("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"), "priority": integer(0, 7)}, "class"),
    "execCPUAffinity": record({"initial": text, "final": text}),
}

_SIDE = integer(0, 0xFFFF)  # ioctl_tty(2), struct winsize
_SIZE = record({"height": _SIDE, "width": _SIDE}, "height", "width")


def _process(value: Any) -> None:
    if value.get("terminal") and "consoleSize" in value:  # ignored without a terminal, as the spec demands
        try:
            _SIZE(value["consoleSize"])
        except Bad as bad:
            raise bad.inside("consoleSize") from None
    for name in ("initial", "final"):
        cpus = value.get("execCPUAffinity", {}).get(name)
        if cpus and number_list(cpus) is None:
            raise Bad(f"{cpus!r} is not a list of processors", "for example 0-3,7", f"execCPUAffinity.{name}")


def number_list(value: str) -> list[int] | None:
    """Return the numbers of a list as in cpuset(7), "0-3,7", or None when it is malformed."""
    found: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(first) < 5 and len(last) < 5):
            return None
        if int(first) > int(last):
            return None
        found += range(int(first), int(last) + 1)
    return found


PROCESS = record(_FIELDS, "cwd", also=_process)
