"""Names that the owner of the store gives to images, beside those that the images bring.  Cold.

    tags/<quoted NAME[:VERSION]>     JSON: the name, the id of the image, when the tag was made, and a digest of all that

A name that an image brings is always asked for first, so no tag can take its place; and where keys are trusted for
a prefix, the names below it are theirs: a tag there may only mean an image that one of them signed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time

from pyrun.errors import ImageError, NotFoundError, StateError, UsageError
from pyrun.images import fastjson, trust
from pyrun.images.commit import replace_file
from pyrun.images.locks import Lock, make_room, private_dirs
from pyrun.images.staging import Staging, fsync_dir
from pyrun.images.store import Image, Store, is_digest

__all__ = ["Tag", "by_image", "check_text", "drop", "find", "make", "remove", "stored"]

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._~/")
_VERSION = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_HEX = frozenset("0123456789abcdef")
_LONGEST = 200


class Tag:
    """One tag: `text` is NAME or NAME:VERSION, `created` in nanoseconds since 1970; `path` its file."""

    __slots__ = ("created", "id", "path", "text")

    def __init__(self, path: str, value: object) -> None:
        """Takes a parsed file; ValueError when it is damaged."""
        if not isinstance(value, dict) or set(value) != {"name", "id", "created", "check"}:
            raise ValueError("members")
        if value.pop("check") != _check(value):
            raise ValueError("check")
        text, image_id, created = value["name"], value["id"], value["created"]
        if not isinstance(text, str) or not isinstance(image_id, str) or not is_digest(image_id) or not isinstance(created, int):
            raise ValueError("types")
        if trust.quote(text) != os.path.basename(path):
            raise ValueError("name")
        self.path = path
        self.text = text
        self.id = image_id
        self.created = created

    @property
    def name(self) -> str:
        """The part before the version."""
        return self.text.partition(":")[0]

    @property
    def version(self) -> str:
        """The part behind the colon; "" for none."""
        return self.text.partition(":")[2]


def stored(store: Store, broken: list[str] | None = None) -> list[Tag]:
    """All tags, by name; paths of damaged ones go to `broken`.  StateError when the directory cannot be read."""
    directory = f"{store.root}/tags"
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError("read", directory, errno=error.errno or 0, hint=make_room(error)) from None
    found: list[Tag] = []
    for name in names:
        try:
            tag = _read(f"{directory}/{name}")
        except ValueError:
            if broken is not None:
                broken.append(f"{directory}/{name}")
        else:
            found += [tag] if tag else []
    return found


def find(store: Store, text: str) -> Tag | None:
    """The tag of this very text, or for a name without version the newest of its versions; None when there is none."""
    if not text or "," in text:
        return None
    with contextlib.suppress(ValueError):
        exact = _read(f"{store.root}/tags/{trust.quote(text)}")
        if exact:
            return exact
    if ":" in text:
        return None
    return max((tag for tag in stored(store) if tag.name == text), key=lambda tag: (tag.created, tag.text), default=None)


def make(store: Store, image_id: str, text: str) -> str:
    """Lets `text` mean a stored image; returns the id that it meant before, "" for none.

    UsageError for what cannot be a name, ImageError when the name is another image's own or belongs to trusted keys
    that did not sign this one, NotFoundError without the image, OSError from the kernel.
    """
    check_text(text)
    store.ensure()
    private_dirs(f"{store.root}/tags")
    with store.lock(exclusive=False), Lock(f"{store.root}/locks/tags", exclusive=True), Staging(store.root, "tag") as staging:
        image = store.load(image_id)
        _check_free(store, image, text)
        path = f"{store.root}/tags/{trust.quote(text)}"
        before = find(store, text)
        facts: dict[str, object] = {"name": text, "id": image.id, "created": time.time_ns()}
        facts["check"] = _check(facts)
        replace_file(staging, "tag", fastjson.dumps(facts).encode(), path)
    return before.id if before and before.text == text else ""


def remove(store: Store, tag: Tag) -> None:
    """Removes one tag; the image stays.  OSError."""
    with store.lock(exclusive=False), Lock(f"{store.root}/locks/tags", exclusive=True):
        drop(tag)


def drop(tag: Tag) -> None:
    """Removes the file of a tag; the caller holds the store's lock alone, or that of the tags.  OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(tag.path)
        fsync_dir(os.path.dirname(tag.path))


def check_text(text: str) -> None:
    """Raises UsageError for what is no NAME[:VERSION], or could be taken for an id, a file or another source."""
    name, colon, version = text.partition(":")
    hint = "write NAME[:VERSION] in lower case letters, digits and -._~/"
    if not name or not _NAME.issuperset(name) or name[0] in "./-~_" or name[-1] in "./-~_" or "//" in name:
        raise UsageError("tag", text, "not a name", hint=hint)
    if colon and (not version or not _VERSION.issuperset(version)):
        raise UsageError("tag", text, f"'{version}' is not a version", hint=hint)
    if len(text) > _LONGEST:
        raise UsageError("tag", text[:40], f"more than {_LONGEST} characters", hint="choose a shorter name")
    if (len(name) >= 6 and _HEX.issuperset(name)) or name.startswith(("sha256-", "sha512-")):
        raise UsageError("tag", text, "could be taken for the beginning of an id", hint="choose a name with other letters in it")
    if name.endswith(".aci") or text.endswith(".aci") or (colon and name in ("oci", "oci-archive", "docker-archive", "docker")):
        raise UsageError("tag", text, "would be taken for a file", hint="choose a name that is no file name and no source")


def _check_free(store: Store, image: Image, text: str) -> None:
    """Raises ImageError where the name is not the caller's to give."""
    name = text.partition(":")[0]
    try:
        own = store.load(store.find_id(text, tags=False))
    except NotFoundError:
        own = None
    if own is not None and own.id != image.id:
        hint = f"choose another name, or remove that image first: pyrun image rm {own.id[:19]}"
        raise ImageError("tag", text, f"image {own.id[:19]} brought this name, which always comes first", hint=hint)
    owners = [scope for scope in trust.scopes_of(name) if scope and _has_keys(store.root, scope)]
    if owners and image.signature is None:
        hint = "choose a name that lies outside"
        raise ImageError("tag", text, f"names below {owners[-1]} are for images that its trusted keys signed", hint=hint)
    if owners and image.signature is not None:
        trust.require(store.root, name, image.signature["fingerprint"])


def _check(facts: dict[str, object]) -> str:
    return hashlib.sha256(fastjson.dumps(facts).encode()).hexdigest()


def _has_keys(root: str, scope: str) -> bool:
    for base in (f"{root}/trust", trust.SYSTEM_DIR):
        with contextlib.suppress(OSError):
            if os.listdir(trust.scope_dir(base, scope)):
                return True
    return False


def _read(path: str) -> Tag | None:
    """A tag's file; None when there is none, ValueError when it is damaged."""
    try:
        with open(path, "rb") as file:
            return Tag(path, fastjson.loads(file.read(1 << 16)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(str(error)) from None


def by_image(store: Store) -> dict[str, list[str]]:
    """The texts of the tags by the id of the image that they mean."""
    found: dict[str, list[str]] = {}
    for tag in stored(store):
        found.setdefault(tag.id, []).append(tag.text)
    return found
