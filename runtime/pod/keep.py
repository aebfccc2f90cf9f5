"""How a pod is run in the background: restart policy and logs, parsed and encoded as native/keep.h has them."""

from __future__ import annotations

from struct import Struct

from pyrun.errors import UsageError
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.options import Options

__all__ = ["encode", "encode_apps", "restart_policy", "streams"]

MAGIC = 0x7065656B
VERSION = 2
REMOVE, FOREGROUND, TTY, SEVERAL, SHARE_PID, SHARE_NET = 1, 2, 4, 32, 64, 128
HEALTH = 8
APP_INPUT, APP_TTY = 1, 2
MOST_APPS = 64
EXITS = ("first-failure", "last-exit", "main-app")
_APPS, _APP = Struct("=2I"), Struct("=64s64s2I")
_KEEP = Struct("=6IQ2I64s")
_RESTARTS = ("no", "on-failure", "always")
_LOGS = ("auto", "k8s-file", "journald", "none", "passthrough")
_SIZE, _FILES = 10 << 20, 3  # of a log by default: bytes, and how many files
_BACKOFF = 100  # milliseconds before the first restart
_UNITS = {"k": 10, "m": 20, "g": 30}


def encode(options: Options, identifier: str, more: int = 0) -> bytes:
    """Return `struct keep` for these options; UsageError for a value that has no meaning.  `identifier` names it in a journal.

    `more` are further flags.
    """
    policy, most = restart_policy(options.restart or "no")
    size, files = _log_options(options.log_opt)
    name = identifier.encode()[:63]
    log = _LOGS.index(options.log_driver)
    flags = more | (0 if options.keep else REMOVE) | streams(options.interactive, options.tty)
    return _KEEP.pack(MAGIC, VERSION, _RESTARTS.index(policy), most, log, files, size, flags, _BACKOFF, name)


def streams(interactive: bool, tty: bool) -> int:
    """Return the flags that say where standard input comes from."""
    return TTY if tty else FOREGROUND if interactive else 0


def encode_apps(exit_policy: str, apps: list[tuple[str, str, int, bool, bool]]) -> bytes:
    """Return `struct keep_apps` and a `struct keep_app` for each (name, name in a journal, stop signal, standard input, terminal)."""
    head, found = _APPS.pack(len(apps), EXITS.index(exit_policy)), b""
    for name, identifier, signal, interactive, tty in apps:
        flags = (APP_INPUT if interactive or tty else 0) | (APP_TTY if tty else 0)
        found += _APP.pack(name.encode(), identifier.encode()[:63], signal, flags)
    return head + found


def restart_policy(text: str) -> tuple[str, int]:
    """Return (policy, most restarts; 0 without end) of no, always or on-failure[:N]."""
    policy, colon, count = text.partition(":")
    if policy not in _RESTARTS or (colon and (policy != "on-failure" or whole(count, (1 << 31) - 1) < 1)):
        hint = "write no, always, on-failure, or on-failure:5 for no more than five times"
        raise UsageError("option --restart", "", f"'{text}' is not a restart policy", hint=hint)
    return policy, int(count) if colon else 0


def _log_options(given: dict[str, str]) -> tuple[int, int]:
    size, files = _SIZE, _FILES
    for name, value in given.items():
        if name == "max-size":
            number = value[:-1] if value[-1:].lower() in _UNITS else value
            if whole(number, 10**12 - 1) < 0:
                raise _bad(f"max-size={value} is not a size", "write bytes, or a number with k, m or g, as in max-size=10m; 0 is no limit")
            size = int(number) << _UNITS.get(value[-1:].lower(), 0)
        elif name in ("max-files", "max-file"):
            if whole(value, 1000) < 1:
                raise _bad(f"{name}={value} is not a number from 1 to 1000", "write how many files are kept, as in max-files=3")
            files = int(value)
        else:
            raise _bad(f"'{name}' has no meaning here", "what can be said is max-size and max-files")
    return size, files


def _bad(reason: str, hint: str) -> UsageError:
    return UsageError("option --log-opt", "", reason, hint=hint)
