"""Images that an App Container Image depends on, found in the store and stacked in rendering order.

    A -> [B, C], C -> [D]      written B, D, C, A: later replaces earlier; as overlay layers, top first, A C D B

A stored image's layers already include those of its own dependencies, so one level is enough here, and
no cycle can be stored: what an image needs is imported before it.  A layer that is reached twice
(B -> D and C -> D) counts where it comes last in rendering order, which is where the spec lets it win.
Which images were meant is settled at import and kept in the record.
"""

from __future__ import annotations

import hashlib

from pyrun.errors import DigestError, ImageError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrun.images.store import Image, Store

__all__ = ["MAX_LAYERS", "lacking", "mask_id", "resolve", "stack"]

MAX_LAYERS = 200  # lower directories of one overlay that pyrun is tested with


def resolve(store: Store, manifest: dict[str, Any], check: Callable[[Image], None], what: str) -> list[Image]:
    """Return the images that `manifest` depends on, in its order; each has passed `check` (its signature).

    NotFoundError when one has not been imported, DigestError when it has another id than the manifest says.
    """
    found = []
    for number, dependency in enumerate(manifest.get("dependencies") or []):
        origin = f"{what}: dependencies[{number}]"
        try:
            image = store.find(_reference(dependency))
        except NotFoundError:
            hint = f"import {dependency['imageName']} first: pyrun fetch FILE"
            raise NotFoundError("find dependency", _reference(dependency), "not in the store", hint=hint, origin=origin) from None
        wanted = dependency.get("imageID")
        if wanted and image.id != wanted:
            hint = "import the image that the manifest names by its id"
            raise DigestError("use dependency", image.name, f"it is {image.id[:19]}, not {wanted[:19]}", hint=hint, origin=origin)
        try:
            check(image)
        except ImageError as error:
            error.origin = origin
            raise
        found.append(image)
    return found


def lacking(store: Store, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the dependencies of `manifest` that the store has no image for, in its order."""
    found = []
    for dependency in manifest.get("dependencies") or []:
        try:
            store.find_id(_reference(dependency))
        except NotFoundError:
            found.append(dependency)
    return found


def _reference(dependency: dict[str, Any]) -> str:
    """name[:version][,label=value]; an id alone where the manifest gives one, since it says more than labels."""
    if dependency.get("imageID"):
        return str(dependency["imageID"])
    labels = {str(label["name"]): str(label["value"]) for label in dependency.get("labels") or []}
    version = labels.pop("version", "")
    reference = str(dependency["imageName"]) + (f":{version}" if version else "")
    return reference + "".join(f",{name}={value}" for name, value in sorted(labels.items()))


def stack(own: str, dependencies: list[Image], what: str, alone: Callable[[Image], list[str]] | None = None) -> list[str]:
    """Return the layers of an image, top first: its own, then those of its dependencies, the last one on top.

    `alone` says what stands for one that has others below it, see `flatten`; without it, its layers.
    """
    layers = [own]
    for image in reversed(dependencies):
        layers += alone(image) if alone and image is not dependencies[0] else image.layers
    layers = list(dict.fromkeys(layers))
    if len(layers) > MAX_LAYERS:
        reason = f"it has {len(layers)} layers with its dependencies, {MAX_LAYERS} at most can be stacked"
        raise ImageError("import", what, reason, hint="build the image on fewer dependencies")
    return layers


def mask_id(layers: list[str], whitelist: list[str]) -> str:
    """Return the name of the layer that leaves only `whitelist` of `layers`: a digest of both."""
    text = "\n".join(["pathWhitelist 1", *layers, "", *sorted(whitelist)])
    return "sha512-" + hashlib.sha512(text.encode("utf-8", "surrogateescape")).hexdigest()
