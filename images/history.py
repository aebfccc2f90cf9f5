"""How an image came about: the history in an OCI configuration, or the images that make up an App Container Image.  Cold."""

from __future__ import annotations

from pyrun.errors import ImageError, PyrunError
from pyrun.images import strictjson
from pyrun.images.commit import layer_size
from pyrun.images.lower import chain_ids
from pyrun.images.store import Image, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Step", "history"]

_MAX_CONFIG = 8 << 20


class Step:
    """One step: `layer` is the DiffID of what it made, "" for nothing; `size` the bytes in its files; the rest is as the image says."""

    __slots__ = ("comment", "created", "created_by", "layer", "size")

    def __init__(self, created_by: str, layer: str, size: int, created: str = "", comment: str = "") -> None:
        self.created_by = created_by
        self.layer = layer
        self.size = size
        self.created = created
        self.comment = comment

    def facts(self) -> dict[str, object]:
        """As JSON shows it."""
        return {name: getattr(self, name) for name in self.__slots__}


def history(store: Store, image: Image) -> list[Step]:
    """The steps, the last one first; ImageError when the store has lost what they stand in, OSError."""
    return _of_config(store, image) if image.kind == "oci" else _of_layers(store, image)


def _of_config(store: Store, image: Image) -> list[Step]:
    diff_ids = image.manifest.get("diffIDs")
    todo = [str(diff_id) for diff_id in diff_ids] if isinstance(diff_ids, list) else []
    todo = [chain if chain in image.layers else diff_id for diff_id, chain in zip(todo, chain_ids(todo), strict=True)]
    steps: list[Step] = []
    for entry in _entries(store, image):
        text = {key: str(entry.get(key) or "") for key in ("created_by", "created", "comment", "author")}
        layer = todo.pop(0) if todo and not entry.get("empty_layer") else ""
        steps.append(Step(text["created_by"], layer, _size(store, layer), text["created"], text["comment"] or text["author"]))
    steps += [Step("", layer, _size(store, layer), comment="the history does not mention this layer") for layer in todo]
    known = {step.layer for step in steps}
    own = [layer for layer in image.layers if layer not in known]
    steps += [Step("pyrun", layer, 0, comment="directories as lower layers have them") for layer in own]
    return steps[::-1]


def _entries(store: Store, image: Image) -> list[dict[str, Any]]:
    path = store.blob_path(image.blobs[0]) if image.blobs else ""
    try:
        with open(path, "rb") as file:
            config = strictjson.loads(file.read(_MAX_CONFIG), what="configuration", case_twins="allow")
    except (OSError, PyrunError) as error:
        hint = f"see what is wrong with `pyrun image verify {image.id[:19]}`"
        raise ImageError("read configuration of", image.name, str(error), hint=hint) from None
    found = config.get("history") if isinstance(config, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _of_layers(store: Store, image: Image) -> list[Step]:
    images = {other.id: other for other in store.images()}
    steps = []
    for layer in image.layers:
        owner = images.get(layer)
        if owner is None:
            steps.append(Step("pathWhitelist", layer, _size(store, layer), comment="hides what an image does not list"))
            continue
        version = owner.labels.get("version", "")
        text = f"{owner.name}:{version}" if version else owner.name
        notes = owner.manifest.get("annotations")
        created = [str(note["value"]) for note in notes if note["name"] == "created"] if isinstance(notes, list) else []
        comment = "" if owner.id == image.id else "dependency"
        steps.append(Step(text, layer, _size(store, layer), created[0] if created else "", comment))
    return steps


def _size(store: Store, layer: str) -> int:
    try:
        return layer_size(store, layer) if layer else 0
    except (OSError, ValueError):
        return 0
