"""How much an image may ask of this host before it is refused; imports nothing."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30
MAX_LISTING = 512 * MIB  # bytes of the listing of one layer: a million files with paths of 400 bytes


class Limits:
    """Quotas for reading one archive; all sizes in bytes.

    `total` caps the decompressed stream, `ratio` the decompressed bytes for each compressed one (looked at
    only beyond `ratio_floor`, since small files of zeros are honest), `window` what a decoder must remember,
    `entries` the members and `depth` the directories in a path.  `free` is what must stay free on the store.
    """

    __slots__ = ("depth", "entries", "free", "ratio", "ratio_floor", "total", "window")

    def __init__(
        self,
        *,
        total: int = 16 * GIB,
        ratio: int = 100,
        ratio_floor: int = 256 * MIB,
        window: int = 128 * MIB,
        entries: int = 1_000_000,
        depth: int = 256,
        free: int = 64 * MIB,
    ) -> None:
        self.total = total
        self.ratio = ratio
        self.ratio_floor = ratio_floor
        self.window = window
        self.entries = entries
        self.depth = depth
        self.free = free

    def as_dict(self) -> dict[str, int]:
        """The quotas by name, for `Limits(**...)` in the worker."""
        return {name: getattr(self, name) for name in self.__slots__}
