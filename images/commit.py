"""Writing into the store, in the one order that survives a crash at any instruction.

    blob     staged -> fsync, or the same syncfs -> rename -> fsync of the directory
    layer    staged -> listing of its digests -> syncfs, once for an image -> `complete` -> rename -> fsync of the directory
    ref      the same way; a reference by name without a record counts for nothing
    record   the same way: from here on the image exists
    imports  last: the file's stat key, which lets the next run skip all of this

So a record names only what is complete, and what no record names is garbage that `prune` finds.  An
error, unlike a crash, does not even leave that: `Undo` takes back what was already renamed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os

from pyrun import native
from pyrun.errors import ArchiveError, NotFoundError, StateError
from pyrun.images import fastjson, tree
from pyrun.images.limits import MAX_LISTING
from pyrun.images.locks import Lock, private_dirs
from pyrun.images.staging import Staging, fsync_dir, open_dir, read_file, write_file
from pyrun.images.store import Image, Store, file_key, import_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = [
    "LISTS", "Undo", "blob_lock", "commit_blob", "commit_layer", "commit_record", "encode_record", "existing", "fetch_lock",
    "id_lock", "layer_size", "marker", "measure_layer", "part_lock", "place_blob", "remember_import", "replace_file",
]  # fmt: skip


LISTS = ("tree", "implied")  # what a layer holds beside its files and its marker


def blob_lock(store: Store, digest: str) -> Lock:
    """The lock under which files of (nearly) this digest are imported."""
    return Lock(f"{store.root}/locks/blob-{digest.partition('-')[2][:2]}", exclusive=True)


def fetch_lock(store: Store, digest: str) -> Lock:
    """The lock under which images of (nearly) this digest are brought from registries; taken before all others but the store's."""
    return Lock(f"{store.root}/locks/fetch-{digest.partition('-')[2][:2]}", exclusive=True)


def part_lock(store: Store, digest: str) -> Lock:
    """The lock under which blobs of (nearly) this digest come from registries; not waited for, and nothing is locked under it."""
    return Lock(f"{store.root}/locks/part-{digest.partition('-')[2][:2]}", exclusive=True, wait=False)


def id_lock(store: Store, image_id: str) -> Lock:
    """The lock under which images of (nearly) this id are committed; taken after `blob_lock`, never before."""
    return Lock(f"{store.root}/locks/id-{image_id.partition('-')[2][:2]}", exclusive=True)


class Undo:
    """Collects what a commit has renamed into place, and moves it back into staging if the `with` block fails."""

    __slots__ = ("_staging", "paths")

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self.paths: list[str] = []

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is not None:
            for number, path in enumerate(reversed(self.paths)):
                with contextlib.suppress(OSError):  # `gc` will find it
                    self._staging.take(path, f"undone{number}")
                    if "/refs/" in path:
                        os.rmdir(os.path.dirname(path))


def commit_blob(store: Store, staging: Staging, undo: Undo, digest: str, signature: bytes | None) -> None:
    """Moves the staged file `blob`, already synced, under its digest, its armoured signature beside it; OSError."""
    target = store.blob_path(digest)
    if signature is not None:
        known = os.path.exists(f"{target}.asc")
        write_file(f"{staging.path}/blob.asc", signature)
        os.rename(f"{staging.path}/blob.asc", f"{target}.asc")
        if not known:
            undo.paths.append(f"{target}.asc")
    if not os.path.exists(target):
        os.rename(f"{staging.path}/blob", target)
        undo.paths.append(target)
    fsync_dir(os.path.dirname(target))


def place_blob(store: Store, staging: Staging, digest: str, name: str) -> None:
    """Moves a staged file, already synced, under its digest, where none is yet; OSError."""
    target = store.blob_path(digest)
    if not os.path.exists(target):
        os.rename(f"{staging.path}/{name}", target)
        fsync_dir(os.path.dirname(target))


def layer_size(store: Store, diffid: str) -> int:
    """The bytes in the files of a committed layer, as its marker says; OSError, ValueError when that is damaged."""
    with open(f"{store.layer_path(diffid)}/complete", "rb") as file:
        return int(file.read().rpartition(b" ")[2])


def measure_layer(staging: Staging, name: str, changed: dict[bytes, bytes] | None = None) -> bytes:
    """Writes the listing of a staged layer, `tree`, and returns it; OSError.

    Where the confined worker has written one, it takes the lines that have `changed` since.  ArchiveError when it is none.
    """
    path = f"{staging.path}/{name}/tree"
    try:
        listing = read_file(path, MAX_LISTING)
        if not changed:
            return listing
        listing = tree.replace(listing, changed)
        os.unlink(path)
    except FileNotFoundError:
        listing = b"".join(tree.lines(f"{staging.path}/{name}/rootfs"))
    except ValueError:
        _no_listing()
    write_file(path, listing)
    return listing


def _no_listing() -> NoReturn:
    hint = "the image may be made to crash its reader: do not use it, and report it"
    raise ArchiveError("unpack", "layer", "the process that reads it left a listing that is none", hint=hint) from None


def commit_layer(store: Store, staging: Staging, undo: Undo | None, diffid: str, name: str = "layer", *, synced: bool = False) -> int:
    """Moves the staged directory `name` (with its ``rootfs``) under its DiffID; the bytes in its files; OSError, ArchiveError.

    The caller holds `id_lock`, and may have `synced` all staged files.  A complete layer of the same DiffID stays; an
    incomplete one is replaced.
    """
    target = store.layer_path(diffid)
    staged = f"{staging.path}/{name}"
    if os.path.exists(f"{target}/complete"):
        return layer_size(store, diffid)
    with contextlib.suppress(FileNotFoundError):
        staging.take(target, f"incomplete-{name}")
    listing = measure_layer(staging, name)
    try:
        mark = marker(staged, listing)
    except ValueError:
        _no_listing()
    with open_dir(staged) as fd:
        if not synced:
            native.syncfs(fd)
        write_file(f"{staged}/complete", mark)
        os.fsync(fd)
    os.rename(staged, target)
    if undo is not None:
        undo.paths.append(target)
    fsync_dir(f"{store.root}/layers")
    return int(mark.rpartition(b" ")[2])


def marker(layer: str, listing: bytes) -> bytes:
    """What the marker of the layer in the directory `layer` says: the digest of its listing, that of the list of implied
    directories where there is one, and the bytes in its files.  OSError, ValueError for what is no listing."""
    digests = [hashlib.sha256(listing).hexdigest()]
    with contextlib.suppress(FileNotFoundError), open(f"{layer}/implied", "rb") as file:
        digests.append(hashlib.sha256(file.read()).hexdigest())
    return "\n".join((*digests, f"bytes {tree.total(listing)}\n")).encode()


def encode_record(image: Image) -> bytes:
    """An image's record as it is on disk; its member `check` is the digest of all others, for `image verify`."""
    record = image.record()
    record["check"] = hashlib.sha256(fastjson.dumps(record).encode()).hexdigest()
    return fastjson.dumps(record).encode()


def commit_record(store: Store, staging: Staging, undo: Undo, image: Image) -> None:
    """Writes or replaces an image's reference by name and then its record; OSError.  The caller holds `id_lock`."""
    directory = store.ref_dir(image.name)
    if not os.path.isdir(directory):
        private_dirs(directory)
        fsync_dir(os.path.dirname(directory))
    reference, record = f"{directory}/{image.id}", store.image_path(image.id)
    known = os.path.exists(record)
    if not known:
        undo.paths += [reference, record]
    replace_file(staging, "ref", fastjson.dumps(image.labels).encode(), reference)
    replace_file(staging, "record", encode_record(image), record)


def remember_import(store: Store, staging: Staging, info: os.stat_result, image_id: str, variant: str = "") -> None:
    """Notes that the file with this stat, read as `variant`, holds an image, and forgets what the inode held before.

    The image is in the store by now, and a note only saves time: whatever prevents it, a full disk for one, is no error.
    """
    key = file_key(info)
    name = import_key(info, variant)
    directory = f"{store.root}/imports"
    same_inode = f"{info.st_dev:x}-{info.st_ino:x}-"
    with contextlib.suppress(OSError, StateError):
        for other in os.listdir(directory):
            if other.startswith(same_inode) and other.partition("+")[0] != key:
                os.unlink(f"{directory}/{other}")
        if name:
            replace_file(staging, "import", image_id.encode(), f"{directory}/{name}")


def existing(store: Store, image_id: str) -> Image | None:
    """The stored image of an id; None when there is none or its record is damaged."""
    try:
        return store.load(image_id)
    except (NotFoundError, StateError):
        return None


def replace_file(staging: Staging, name: str, data: bytes, target: str) -> None:
    """Writes a file as `name` in staging and moves it to `target`, in the place of what is there; StateError or OSError."""
    temporary = f"{staging.path}/{name}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    write_file(temporary, data)
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno != errno.EISDIR:
            raise
        raise StateError("write", target, "a directory is in the way", hint="remove it") from None
    fsync_dir(os.path.dirname(target))
