"""Health checks: what the image and the flags ask for, as native/keep_health.c carries it out.

An image of OCI or Docker shape has it in the member Healthcheck of its configuration (Docker image specification 1.3,
"Healthcheck"): Test is NONE, CMD with a program and its arguments, or CMD-SHELL with a line for the shell; times are in
nanoseconds.  Flags beat it one by one.
"""

from __future__ import annotations

import os
from struct import Struct

from pyrun.errors import ConfigError, StateError, UsageError
from pyrun.host import write_all
from pyrun.plan.numbers import duration
from pyrun.pod.live import apps_of
from pyrun.pod.state import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.store import Image
    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

__all__ = ["Health", "asked", "until", "wanted", "write_files"]

MAGIC, VERSION = 0x746C6568, 1
_HEALTH = Struct("=8I")
_ACTIONS = ("none", "kill", "restart", "stop")
_LONGEST = 0x7FFFFFFF  # milliseconds, 24 days
_INTERVAL, _TIMEOUT, _RETRIES = 30_000, 30_000, 3
_FLAGS = ("health_cmd", "health_interval", "health_timeout", "health_retries", "health_start_period")
_CHANGES = 0x80 | 0x400 | 0x800  # IN_MOVED_TO, IN_DELETE_SELF, IN_MOVE_SELF


class Health:
    """`argv` of the check, times in milliseconds, `retries` in a row that make a pod unhealthy, and what is done then."""

    __slots__ = ("argv", "interval", "on_failure", "retries", "start_period", "timeout")

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.interval = _INTERVAL
        self.timeout = _TIMEOUT
        self.start_period = 0
        self.retries = _RETRIES
        self.on_failure = "none"


def asked(options: Options) -> bool:
    """Whether a flag asks for health checks, so that they must not be left out silently."""
    return options.health_on_failure not in (None, _ACTIONS[0]) or any(getattr(options, name) is not None for name in _FLAGS)


def wanted(options: Options, image: Image) -> Health | None:
    """Return the health checks of a pod, None for none; UsageError or ConfigError for what makes no sense."""
    if options.no_healthcheck:
        if asked(options):
            raise UsageError("option --no-healthcheck", "", "excludes the options --health-...", hint="leave one of them out")
        return None
    config = image.manifest.get("config")
    given = config.get("Healthcheck") if isinstance(config, dict) else None
    own: dict[str, object] = given if isinstance(given, dict) else {}
    argv = _own_command(own, config) if options.health_cmd is None else _command(options.health_cmd)
    if not argv:
        if asked(options) and options.health_cmd is None:
            raise UsageError("options --health-...", "", "there is no health check", hint="say what to run: --health-cmd COMMAND")
        return None
    health = Health(argv)
    health.interval = _own_time(own, "Interval") or health.interval
    health.timeout = _own_time(own, "Timeout") or health.timeout
    health.start_period = _own_time(own, "StartPeriod")
    retries = own.get("Retries")
    health.retries = retries if isinstance(retries, int) and 0 < retries < _LONGEST else health.retries
    _flags(options, health)
    return health


def _flags(options: Options, health: Health) -> None:
    if options.health_interval is not None:
        health.interval = _time("--health-interval", options.health_interval, 1)
    if options.health_timeout is not None:
        health.timeout = _time("--health-timeout", options.health_timeout, 1)
    if options.health_start_period is not None:
        health.start_period = _time("--health-start-period", options.health_start_period, 0)
    if options.health_retries is not None:
        health.retries = options.health_retries
    if options.health_on_failure is not None:
        if options.health_on_failure not in _ACTIONS:
            hint = f"write one of {', '.join(_ACTIONS)}"
            raise UsageError("option --health-on-failure", "", f"'{options.health_on_failure}' is no action", hint=hint)
        health.on_failure = options.health_on_failure


def _command(text: str) -> list[str]:
    """A line for the shell, or a JSON array of words; `none` for no check."""
    if text.strip() in ("", "none"):
        return []
    if not text.lstrip().startswith("["):
        return ["/bin/sh", "-c", text]
    from pyrun.images import fastjson

    try:
        words = fastjson.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        raise UsageError("option --health-cmd", "", "is no JSON array of words", hint="""write --health-cmd '["/bin/check", "--fast"]'""")
    return [str(word) for word in words]


def _own_command(own: dict[str, object], config: object) -> list[str]:
    test = own.get("Test")
    words = [word for word in test if isinstance(word, str)] if isinstance(test, list) else []
    if not words or words[0] == "NONE" or (words[0] in ("CMD", "CMD-SHELL") and len(words) == 1):
        return []
    if words[0] == "CMD":
        return words[1:]
    if words[0] == "CMD-SHELL":
        shell = config.get("Shell") if isinstance(config, dict) else None
        return [*[str(word) for word in shell or ("/bin/sh", "-c")], words[1]]
    raise ConfigError(
        "read the health check of the image", words[0], "is none of NONE, CMD, CMD-SHELL", hint="give another one with --health-cmd"
    )


def _own_time(own: dict[str, object], name: str) -> int:
    """Milliseconds of a number of nanoseconds; 0 when it is not there, as Docker has it."""
    value = own.get(name)
    return min(_LONGEST, -(-value // 1_000_000)) if isinstance(value, int) and value > 0 else 0


def _time(option: str, text: str, least: int) -> int:
    """Milliseconds in a text such as 30s or 500ms, see `duration`."""
    total = int(duration(text, f"option {option}") * 1000)
    if not least <= total <= _LONGEST:
        raise UsageError(f"option {option}", "", f"'{text}' is out of range", hint="from a millisecond to 24 days")
    return total


def write_files(directory: int, health: Health, block: bytes, signal: int) -> None:
    """Write the settings and the plan of the check beside the pod's own plan `block`; `signal` is what ends its app.

    ConfigError when nobody may enter such a pod.
    """
    from pyrun.plan import ops
    from pyrun.plan.entering import Request, entering, environment, exposed

    pod = ops.decode(block)
    if exposed(pod):
        reason = "it gives up no_new_privs, and its app may trace whoever enters (CAP_SYS_PTRACE)"
        raise ConfigError("check the health of the pod", "", reason, hint="leave that capability out, or say --no-healthcheck")
    env = environment(pod)
    request = Request()
    request.argv = health.argv
    program = health.argv[0]
    request.paths = [program] if "/" in program else [f"{one or '.'}/{program}" for one in env.get("PATH", "").split(":")]
    request.env = [f"{name}={value}" for name, value in env.items()]
    settings = (health.interval, health.timeout, health.start_period, health.retries, _ACTIONS.index(health.on_failure), signal)
    for name, data in (("health.plan", ops.encode(entering(pod, request))), ("health.keep", _HEALTH.pack(MAGIC, VERSION, *settings))):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            write_all(file, data)
        finally:
            os.close(file)


def until(pods: Pods, uuid: str, state: str, seconds: float | None = None) -> bool:
    """Wait until a running pod is healthy, which all of its apps that have checks are then, or unhealthy, which one of them is.

    Whether it came to that within `seconds`.  StateError when it has no health checks, or has ended.
    """
    import select
    import time

    from pyrun import native

    end = None if seconds is None else time.monotonic() + seconds
    fd = watch = -1
    try:
        fd = os.open("running/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
        dirs = [f"/apps/{one['name']}" for one in apps_of(read_json(fd, "pod"))] or [""]
        dirs = [one for one in dirs if os.access(f".{one}/health.keep", os.F_OK, dir_fd=fd)]
        if not dirs:
            raise StateError("wait for pod", uuid, "it has no health checks", hint="start it with --health-cmd")
        for where in ["", *dirs]:
            watch, _ = native.inotify(f"/proc/self/fd/{fd}{where}".encode(), _CHANGES, watch)
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        matters = any if state == "unhealthy" else all
        while not matters(read_json(fd, f".{one}/health").get("health") == state for one in dirs):
            os.stat("running/" + uuid, dir_fd=pods.fd, follow_symlinks=False)
            left = None if end is None else (end - time.monotonic()) * 1000
            if (left is not None and left <= 0) or not poll.poll(left):
                return False
            os.read(watch, 65536)
        return True
    except FileNotFoundError:
        raise StateError("wait for pod", uuid, f"it does not run, so it will not be {state}", hint="see `pyrun status`") from None
    finally:
        for held in (fd, watch):
            if held >= 0:
                os.close(held)
