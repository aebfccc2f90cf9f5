"""What URLs held when they were asked last: ``imports/url+URL`` holds an image's id and how to ask whether it changed.

Only what a server answered is noted here, under the URL that was asked.  Hot: `run` of a stored image by URL reads one.
"""

from __future__ import annotations

import os
import time

from pyrun.errors import NotFoundError, StateError
from pyrun.images import fastjson, trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyrun.images.staging import Staging
    from pyrun.images.store import Image, Store

__all__ = ["Note", "recall", "sources"]

_MAX_NOTE = 64 << 10
_MAX_VALIDATOR = 256
_LONGEST = 1 << 31  # seconds, what RFC 9111 section 1.2.2 has for more
_PREFIX = "url+"
_MEMBERS = ("url", "name", "signature", "etag", "modified", "cacheControl")


class Note:
    """What one URL held: `etag` and `modified` as the server sent them, `fetched`, `asked` and `fresh_until` in nanoseconds since 1970."""

    __slots__ = ("asked", "cache_control", "etag", "fetched", "fresh_until", "image_id", "modified", "name", "signature", "url")

    def __init__(self, url: str, image_id: str, name: str = "", signature: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.url = url
        self.image_id = image_id
        self.name = name  # what was discovered there
        self.signature = signature
        headers = headers or {}
        self.etag, self.modified, self.cache_control = (_plain(headers.get(key, "")) for key in ("ETag", "Last-Modified", "Cache-Control"))
        self.fetched = self.asked = time.time_ns()
        self.fresh_until = self.asked + _lifetime(self.cache_control, headers.get("Age", "")) * 10**9

    def confirm(self, headers: Mapping[str, str]) -> None:
        """Notes that the server found it unchanged, and for how long that is good now (RFC 9111 section 4.3.4)."""
        self.cache_control = _plain(headers.get("Cache-Control", "")) or self.cache_control
        self.asked = time.time_ns()
        self.fresh_until = self.asked + _lifetime(self.cache_control, headers.get("Age", "")) * 10**9

    def is_fresh(self) -> bool:
        """Whether the server need not be asked yet: `max-age` is not over, and the clock did not go back (RFC 9111 section 4.2)."""
        return self.asked <= time.time_ns() < self.fresh_until

    def conditions(self) -> dict[str, str]:
        """Headers for "only if it has changed" (RFC 9110 section 13); none where the server forbids to keep its answer."""
        if "no-store" in self.cache_control.lower():
            return {}
        both = {"If-None-Match": self.etag, "If-Modified-Since": self.modified}
        return {name: value for name, value in both.items() if value}

    def facts(self) -> dict[str, object]:
        """What `image show` says of it."""
        return {
            "url": self.url.partition("?")[0],  # a query may hold what opens the door
            "name": self.name,
            "signature": self.signature.partition("?")[0],
            "etag": self.etag,
            "lastModified": self.modified,
            "cacheControl": self.cache_control,
            "fetched": self.fetched,
            "asked": self.asked,
            "freshUntil": self.fresh_until,
        }

    def save(self, store: Store, staging: Staging) -> None:
        """Replaces what was noted of the URL; OSError."""
        from pyrun.images.commit import replace_file

        texts = dict(zip(_MEMBERS, (self.url, self.name, self.signature, self.etag, self.modified, self.cache_control), strict=True))
        document = fastjson.dumps({**texts, "fetched": self.fetched, "asked": self.asked, "freshUntil": self.fresh_until})
        replace_file(staging, "note", f"{self.image_id} {document}".encode(), _path(store, self.url))


def recall(store: Store, url: str) -> tuple[Note, Image] | None:
    """What a URL held, and the stored image; None where it has to be asked."""
    note = _read(_path(store, url))
    if note is None or note.url != url:
        return None
    try:
        image = store.load(note.image_id)
    except (NotFoundError, StateError):
        return None
    return (note, image) if store.has_layers(image) else None


def sources(store: Store, image_id: str) -> list[Note]:
    """The notes on URLs that held an image, the one that was asked last first."""
    folder = f"{store.root}/imports"
    try:
        names = [name for name in os.listdir(folder) if name.startswith(_PREFIX)]
    except OSError:
        return []
    notes = [note for note in (_read(f"{folder}/{name}") for name in names) if note is not None and note.image_id == image_id]
    return sorted(notes, key=lambda note: (-note.asked, note.url))


def _path(store: Store, url: str) -> str:
    return f"{store.root}/imports/{_PREFIX}{trust.quote(url)}"


def _read(path: str) -> Note | None:
    try:
        with open(path, "rb") as file:
            image_id, _, text = file.read(_MAX_NOTE).partition(b" ")
        document = fastjson.loads(text)
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or not all(isinstance(document.get(member), str) for member in _MEMBERS):
        return None
    note = Note(document["url"], image_id.decode("ascii", "replace"), document["name"], document["signature"])
    note.etag, note.modified, note.cache_control = document["etag"], document["modified"], document["cacheControl"]
    note.fetched, note.asked, note.fresh_until = (
        value if isinstance(value := document.get(member), int) else 0 for member in ("fetched", "asked", "freshUntil")
    )
    return note


def _lifetime(cache_control: str, age: str) -> int:
    """Seconds for which an answer is good (RFC 9111 sections 4.2.1 and 5.2.2); 0 where it does not say, or wants to be asked."""
    found = {}
    for part in cache_control.lower().split(","):
        name, _, value = part.strip().partition("=")
        found[name] = value.strip('"')
    seconds = found.get("max-age", "")
    if "no-cache" in found or "no-store" in found or not (seconds.isascii() and seconds.isdigit()):
        return 0
    passed = int(age) if age.isascii() and age.isdigit() and len(age) < 10 else 0
    return max(0, min(int(seconds[:10]), _LONGEST) - passed)


def _plain(value: str) -> str:
    """A header as it may be sent back; "" for one that no honest server sends."""
    return value if value.isascii() and value.isprintable() and len(value) <= _MAX_VALIDATOR else ""
