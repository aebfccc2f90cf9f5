"""pyrun: run application containers without a daemon.

Names load on first use (PEP 562), so `import pyrun` costs nothing until one of them is touched.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022, as sorted() has it
    "App",
    "ArchiveError",
    "ConfigError",
    "Container",
    "DEVNULL",
    "DigestError",
    "ExecError",
    "ExitError",
    "HostError",
    "INHERIT",
    "ImageError",
    "ManifestError",
    "NotFoundError",
    "Operation",
    "PIPE",
    "Plan",
    "Pod",
    "Pool",
    "Process",
    "PyrunError",
    "Result",
    "Runtime",
    "STDOUT",
    "SetupError",
    "SignatureError",
    "StateError",
    "TrustError",
    "UsageError",
    "Volume",
    "__version__",
    "aio",
    "allow_limits",
    "attach",
    "create",
    "create_pod",
    "detach",
    "events",
    "list_pods",
    "plan_of",
    "run",
    "settle",
    "start",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun import aio
    from pyrun.api import App, Runtime
    from pyrun.calls import allow_limits, attach, create, create_pod, detach, events, list_pods, plan_of, run, settle, start
    from pyrun.container import Container
    from pyrun.errors import (
        ArchiveError,
        ConfigError,
        DigestError,
        ExecError,
        HostError,
        ImageError,
        ManifestError,
        NotFoundError,
        PyrunError,
        SetupError,
        SignatureError,
        StateError,
        TrustError,
        UsageError,
    )
    from pyrun.planning import Operation, Plan
    from pyrun.pod.binds import Volume
    from pyrun.pod.handle import Pod
    from pyrun.pod.process import Process
    from pyrun.pool import Pool
    from pyrun.result import ExitError, Result
    from pyrun.streams import DEVNULL, INHERIT, PIPE, STDOUT

# Module -> public names that it defines.  Every other one is an error.
_HOMES = {
    "pyrun.api": ("App", "Runtime"),
    "pyrun.calls": ("allow_limits", "attach", "create", "create_pod", "detach", "events", "list_pods", "plan_of", "run", "settle", "start"),
    "pyrun.container": ("Container",),
    "pyrun.planning": ("Operation", "Plan"),
    "pyrun.pod.binds": ("Volume",),
    "pyrun.pod.handle": ("Pod",),
    "pyrun.pod.process": ("Process",),
    "pyrun.pool": ("Pool",),
    "pyrun.result": ("ExitError", "Result"),
    "pyrun.streams": ("DEVNULL", "INHERIT", "PIPE", "STDOUT"),
}


if not TYPE_CHECKING:  # else every name would be one

    def __getattr__(name: str) -> object:
        """Loads a public name from its home; AttributeError for anything not in `__all__`."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "aio":
            return __import__("pyrun.aio", fromlist=("run",))
        home = next((module for module, names in _HOMES.items() if name in names), "pyrun.errors")
        value: object = getattr(__import__(home, fromlist=(name,)), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
