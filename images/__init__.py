"""Container images: reading archives, the store, trust.

For programs: `Store`, with `Image`, `Download` and `Removed`, what its methods return.  Nothing is imported before it is asked for:
`run` of a stored image must not pay for the code that unpacks one.
"""

from __future__ import annotations

__all__ = ["Download", "Image", "Removed", "Store"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.prune import Removed
    from pyrun.images.store import Image
    from pyrun.images.verbs import Download, Store

_HOMES = {"Download": "verbs", "Image": "store", "Removed": "prune", "Store": "verbs"}


if not TYPE_CHECKING:  # else every name would be one

    def __getattr__(name: str) -> object:
        """Loads a public name from its home (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(__import__(f"{__name__}.{_HOMES[name]}", fromlist=(name,)), name)
