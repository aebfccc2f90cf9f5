"""What names in registries meant when they were asked last: ``imports/pulled+NAME`` holds an image's id and the digest of the tag.

Only a registry's own answer is noted here, so nothing that an archive calls itself can stand for an image of a registry
(C20).  The digest is that of what the tag names, an index perhaps, so that one HEAD request tells whether it moved.

Hot: `run` of a stored image comes through here.
"""

from __future__ import annotations

import contextlib

from pyrun.errors import NotFoundError, StateError
from pyrun.images import trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.registry.reference import RegistryReference
    from pyrun.images.staging import Staging
    from pyrun.images.store import Image, Store

__all__ = ["by_image", "find_id", "forget", "recall", "remember"]

_PREFIX = "pulled+"


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


def by_image(store: Store) -> dict[str, list[str]]:
    """The names that meant each image, by its id; without those that are digests, or too long to be told."""
    import os

    found: dict[str, list[str]] = {}
    try:
        files = sorted(name for name in os.listdir(f"{store.root}/imports") if name.startswith(_PREFIX))
    except OSError:
        return found
    for file in files:
        with contextlib.suppress(ValueError):
            name = trust.unquote(file.removeprefix(_PREFIX))
            image_id = _meaning(store, name)
            if image_id and "@" not in name:
                found.setdefault(image_id, []).append(name)
    return found


def find_id(store: Store, ref: str) -> str:
    """The id of the image that a reference means, also one by which a registry gave it; raises as `Store.find_id`.

    For verbs that look at images: how an image that is run is judged depends on what it was called by, see `resolve`.
    """
    try:
        return store.find_id(ref)
    except NotFoundError:
        image_id = _meaning(store, ref)
        if not image_id:
            raise
        return image_id


def forget(store: Store, ref: str) -> bool:
    """Removes the note on one name; the image stays.  Whether there was one; OSError."""
    import os

    with store.lock(exclusive=False):
        try:
            os.unlink(_path(store, ref))
        except FileNotFoundError:
            return False
    return True


def _meaning(store: Store, name: str) -> str:
    try:
        with open(_path(store, name), "rb") as file:
            return file.read(512).decode("ascii", "replace").partition(" ")[0]
    except OSError:
        return ""


def _path(store: Store, name: str) -> str:
    return f"{store.root}/imports/{_PREFIX}{trust.quote(name)}"
