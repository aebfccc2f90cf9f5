"""pyrun: run application containers without a daemon.

Names load on first use (PEP 562), so `import pyrun` costs nothing until one of them is touched.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = [
    "ArchiveError",
    "ConfigError",
    "Container",
    "DigestError",
    "ExecError",
    "HostError",
    "ImageError",
    "ManifestError",
    "NotFoundError",
    "Pod",
    "Process",
    "PyrunError",
    "Runtime",
    "SetupError",
    "SignatureError",
    "StateError",
    "TrustError",
    "UsageError",
    "__version__",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.api import Container, Process, Runtime
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
    from pyrun.pod.handle import Pod

# Public name -> module that defines it.  Every error lives in one module; anything else says where it is.
_HOMES = {"Container": "pyrun.api", "Pod": "pyrun.pod.handle", "Process": "pyrun.api", "Runtime": "pyrun.api"}


def __getattr__(name: str) -> object:
    """Loads a public name from its home; AttributeError for anything not in `__all__`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "pyrun.errors")
    value: object = getattr(__import__(home, fromlist=(name,)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
