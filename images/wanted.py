"""What an image has to be for the one who asked for it."""

from __future__ import annotations

from pyrun.errors import DigestError, ImageError

__all__ = ["Wanted"]


class Wanted:
    """What an image has to be for the one who asked for it: its name, labels that it must have, its id; empty ones are free."""

    __slots__ = ("id", "labels", "name")

    def __init__(self, name: str | None = None, labels: dict[str, str] | None = None, image_id: str = "") -> None:
        self.name = name
        self.labels = labels or {}
        self.id = image_id

    def check(self, name: str, labels: dict[str, str], image_id: str, path: str) -> None:
        """Raises ImageError for one that it is not (DISC-11), DigestError for another id (IM-33)."""
        if self.name is not None and name != self.name:
            raise ImageError("import", path, f"it holds {name} instead of {self.name}", hint="check where the file came from")
        for label, value in self.labels.items():
            if labels.get(label) != value:
                held = f"{label} {labels[label]}" if label in labels else f"no label {label}"
                raise ImageError(
                    "import", path, f"it has {held}, {value} was asked for", hint="ask who runs the server for the right image"
                )
        if self.id and image_id != self.id:
            raise DigestError("import", path, f"it is {image_id[:19]}, not {self.id[:19]}", hint="its owner has to offer what is asked for")
