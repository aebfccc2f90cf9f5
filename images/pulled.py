"""What names in registries meant when they were asked last: ``imports/pulled+NAME`` holds an image's id and the digest of the tag.

Only a registry's own answer is noted here, so nothing that an archive calls itself can stand for an image of a registry
(C20).  The digest is that of what the tag names, an index perhaps, so that one HEAD request tells whether it moved.

Hot: `run` of a stored image comes through here.
"""

from __future__ import annotations

from pyrun.errors import NotFoundError, StateError
from pyrun.images import trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.registry.reference import RegistryReference
    from pyrun.images.staging import Staging
    from pyrun.images.store import Image, Store

__all__ = ["recall", "remember"]


def recall(store: Store, reference: RegistryReference) -> tuple[Image, str] | None:
    """The stored image that a name meant, or whose id it is, and the digest of its tag; None where it has to be asked."""
    try:
        with open(_path(store, str(reference)), "rb") as file:
            image_id, _, digest = file.read(512).decode("ascii", "replace").partition(" ")
    except OSError:
        image_id = digest = reference.digest
    try:
        image = store.load(image_id) if image_id else None
    except (NotFoundError, StateError):
        return None
    return (image, digest) if image is not None and store.has_layers(image) else None


def remember(store: Store, staging: Staging, reference: RegistryReference, image_id: str, digest: str) -> None:
    """Notes what a name means now; OSError."""
    from pyrun.images.commit import replace_file

    replace_file(staging, "meaning", f"{image_id} {digest}".encode(), _path(store, str(reference)))


def _path(store: Store, name: str) -> str:
    return f"{store.root}/imports/pulled+{trust.quote(name)}"
