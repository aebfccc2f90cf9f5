"""What a link named crun does as crun does, beside its name: what `features` says by names that only crun's callers know.  Cold."""

from __future__ import annotations

from pyrun import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


__all__ = ["commit_of", "features_of"]

_VERSION = "1.28"


def features_of(found: dict[str, Any]) -> None:
    """Say by crun's names, too, what is said already; all the rest is as true by this name as by ours."""
    said: dict[str, str] = found["annotations"]
    said["run.oci.crun.checkpoint.enabled"] = said["org.opencontainers.runc.checkpoint.enabled"]
    said |= {"run.oci.crun.commit": commit_of(), "run.oci.crun.version": _VERSION, "run.oci.crun.wasm": "false"}


def commit_of() -> str:
    """Return a name for just this build in the place of a commit, which what is installed does not know: the hash of the helper."""
    import hashlib

    with open(native.HELPER, "rb") as file:
        return hashlib.sha1(file.read(), usedforsecurity=False).hexdigest()
