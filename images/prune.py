"""Deleting from the store: images on request, and what crashed imports and deletions left behind.

    record -> references -> tags -> imports -> marker of the layer -> layer renamed into tmp/ -> blob -> tmp/ removed

Each step alone leaves a store that works: an image without its record does not exist, a layer without
its marker is not used.  All but the last step happen under the exclusive store lock.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pyrun.errors import StateError
from pyrun.images import staging, tags, tree
from pyrun.images.locks import make_room
from pyrun.images.pods import users
from pyrun.images.remove import remove_tree
from pyrun.images.staging import Staging, fsync_dir
from pyrun.images.store import Image, Store, is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyrun.images.pods import Users

_FULL = (errno.ENOSPC, errno.EDQUOT)

__all__ = ["Removed", "collect", "collect_tmp", "pods_using", "remove_image"]


class Removed:
    """What a deletion took: full ids of images, DiffIDs, digests of blobs, how many other files, and the bytes that are free now.

    `spared` says why something was left that nothing seems to need.
    """

    __slots__ = ("blobs", "bytes", "images", "layers", "other", "spared")

    def __init__(self) -> None:
        self.images: list[str] = []
        self.layers: list[str] = []
        self.blobs: list[str] = []
        self.other = 0
        self.bytes = 0
        self.spared: list[str] = []

    @property
    def count(self) -> int:
        """Things that went, whatever they were."""
        return len(self.images) + len(self.layers) + len(self.blobs) + self.other


def remove_image(store: Store, image_id: str) -> int:
    """Removes one image, its tags, and what only it used; the bytes of the blobs and layers that went.

    StateError when a pod uses it or its record cannot be removed, NotFoundError when it does not exist.
    A damaged record is removed as well.
    """
    with _Grave(store.root, "remove") as grave, store.lock(exclusive=True):
        image = _load(store, image_id)
        pods = pods_using(store, image_id)
        if pods:
            more = f", and {len(pods) - 1} more do" if len(pods) > 1 else ""
            raise StateError("remove image", image_id[:19], f"pod {pods[0]} uses it{more}", hint="stop the pod, then remove it: pyrun gc")
        dependent = next((other.name for other in store.images() if image_id in other.needs), "")
        if dependent:
            raise StateError(
                "remove image", image_id[:19], f"image {dependent} depends on it", hint=f"remove that one first: pyrun image rm {dependent}"
            )
        work = _Work(store, grave)
        try:
            work.image(image_id, image)
        except OSError as error:
            hint = f"{make_room(error)}; `pyrun gc` finishes what was begun"
            raise StateError("remove image", image_id[:19], errno=error.errno or 0, hint=hint) from None
        return work.removed.bytes


def collect_tmp(store: Store) -> int:
    """Removes what no living process and no record needs; the number of things removed.

    These are staging directories of dead processes and, when nobody is using the store at the moment,
    blobs, layers, references, tags and import notes that no record names.
    """
    try:
        return collect(store, wait=False).count
    except StateError as error:
        if not error.errno or error.step != "lock":
            raise
        return staging.sweep(store.root)


def collect(store: Store, *, wait: bool = True, wanted: Callable[[Image], bool] | None = None, dry: bool = False) -> Removed:
    """As `collect_tmp`, and the images that are `wanted` gone, unless a pod uses them or an image that stays depends on them.

    With `dry` nothing is removed, only told.  StateError when the store is busy and not to be waited for, or cannot be
    changed: a second call goes on.
    """
    swept = 0 if dry else staging.sweep(store.root)
    with _Grave(store.root, "gc") as grave, store.lock(exclusive=True, wait=wait):
        work = _Work(store, grave, dry=dry)
        work.removed.other += swept
        try:
            work.unwanted(wanted)
            work.orphans()
        except OSError as error:
            where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else store.root
            hint = f"{make_room(error)}; another `pyrun gc` goes on from here"
            raise StateError("remove", where, errno=error.errno or 0, hint=hint) from None
        return work.removed


def pods_using(store: Store, image_id: str) -> list[str]:
    """UUIDs of the pods whose `pod` file names an image or layer, in any phase but garbage."""
    return users(store.root).names(image_id)


def _load(store: Store, image_id: str) -> Image | None:
    """The image to remove; None when its record is damaged.  NotFoundError when there is none."""
    try:
        return store.load(image_id)
    except StateError:
        return None


class _Grave:
    """Where removed things go, so that deleting what may be large happens after the lock is free; in place where a full disk leaves
    no room even for that."""

    __slots__ = ("_count", "_staging")

    def __init__(self, root: str, kind: str) -> None:
        self._staging: Staging | None = Staging(root, kind)
        self._count = 0

    def __enter__(self) -> _Grave:
        assert self._staging is not None
        try:
            self._staging.__enter__()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._staging = None
        return self

    def __exit__(self, *exc: object) -> None:
        if self._staging is not None:
            self._staging.__exit__(*exc)

    def take(self, path: str) -> None:
        """Removes a file or directory from where it is, durably; OSError, StateError."""
        self._count += 1
        directory, _, name = path.rpartition("/")
        try:
            if self._staging is None:
                raise OSError(errno.ENOSPC, "")
            self._staging.take(path, str(self._count))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            with staging.open_dir(directory) as fd:
                remove_tree(fd, os.fsencode(name))
        fsync_dir(directory)


class _Work:
    """One deletion under the exclusive lock; with `dry` it only counts."""

    __slots__ = ("_dry", "_grave", "_gone", "_store", "removed")

    def __init__(self, store: Store, grave: _Grave, *, dry: bool = False) -> None:
        self._store = store
        self._grave = grave
        self._dry = dry
        self._gone: set[str] = set()  # images that a dry run only counts
        self.removed = Removed()

    def image(self, image_id: str, image: Image | None) -> None:
        """Removes a record and what only it named."""
        store = self._store
        os.unlink(store.image_path(image_id))
        fsync_dir(f"{store.root}/images")
        self.removed.images.append(image_id)
        if image is None:
            self.orphans()  # nobody knows what it used: everything that no record names goes with it
            return
        self.removed.other += _drop_refs(store, image)
        for tag in tags.stored(store):
            if tag.id == image_id:
                tags.drop(tag)
                self.removed.other += 1
        self.removed.other += _drop_imports(store, image_id)
        others = store.images()
        for layer in dict.fromkeys(image.layers):
            if not any(layer in other.layers for other in others):
                self._layer(layer)
        kept = {blob for other in others for blob in (other.blob, *other.blobs)}
        for blob in dict.fromkeys((image.blob, *image.blobs)):
            if blob not in kept:
                self._blob(blob)

    def unwanted(self, wanted: Callable[[Image], bool] | None) -> None:
        """Removes the images that are wanted gone and that nothing needs, those on top of others first."""
        left = self._store.images()
        used = users(self._store.root)
        again = wanted is not None
        while again:
            again = False
            for image in list(left):
                assert wanted is not None
                if not wanted(image) or used.of(image.id) or any(image.id in other.needs for other in left):
                    continue
                left.remove(image)
                again = True
                if self._dry:
                    self._gone.add(image.id)
                    self.removed.images.append(image.id)
                else:
                    self.image(image.id, image)

    def orphans(self) -> None:
        """Removes what no record names."""
        store = self._store
        broken: list[str] = []
        images = [image for image in store.images(broken) if image.id not in self._gone]
        if broken:
            # a record that cannot be read may name anything: its files stay until it is removed
            self.removed.spared += [f"the record of {image_id} is damaged: `pyrun image rm {image_id[:19]}`" for image_id in broken]
            return
        ids = {image.id for image in images}
        layers = {layer for image in images for layer in image.layers}
        blobs = {blob for image in images for blob in (image.blob, *image.blobs)}
        self._stray_layers(layers, users(store.root), ids)
        for algorithm in ("sha256", "sha512"):
            for name in _listdir(f"{store.root}/blobs/{algorithm}"):
                digest = f"{algorithm}-{name.removesuffix('.asc')}"
                if digest not in blobs:
                    self._stray(f"{store.root}/blobs/{algorithm}/{name}", digest if is_digest(digest) and not name.endswith(".asc") else "")
        self._stray_refs(ids)
        self._stray_tags(ids)
        for path, image_id in _imports(store):
            if image_id not in ids:
                self._stray(path)

    def _stray_layers(self, named: set[str], used: Users, ids: set[str]) -> None:
        unclear = used.unclear(ids | named)
        for layer in _listdir(f"{self._store.root}/layers"):
            if layer in named:
                continue
            if unclear:
                self.removed.spared.append(f"layer {layer[:19]}: pod {unclear} uses an image without record and may need it: `pyrun gc`")
            else:
                self._layer(layer)

    def _stray_refs(self, ids: set[str]) -> None:
        for name in _listdir(f"{self._store.root}/refs"):
            directory = f"{self._store.root}/refs/{name}"
            if not os.path.isdir(directory) or os.path.islink(directory):
                self._stray(directory)
                continue
            for image_id in _listdir(directory):
                if image_id not in ids:
                    self._stray(f"{directory}/{image_id}")
            if not self._dry:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def _stray_tags(self, ids: set[str]) -> None:
        damaged: list[str] = []
        for tag in tags.stored(self._store, damaged):
            if tag.id not in ids:
                self._stray(tag.path)
        for path in damaged:
            self._stray(path)

    def _layer(self, layer: str) -> None:
        path = self._store.layer_path(layer)
        if not os.path.lexists(path):
            return
        self.removed.bytes += _layer_bytes(path)
        self.removed.layers.append(layer)
        if self._dry:
            return
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(f"{path}/complete")
            fsync_dir(path)
        self._grave.take(path)

    def _blob(self, digest: str) -> None:
        path = self._store.blob_path(digest)
        for name in (path, f"{path}.asc"):
            if os.path.lexists(name):
                self._stray(name, digest if name == path else "")

    def _stray(self, path: str, digest: str = "") -> None:
        """Removes one file, or whatever else stands where a file should."""
        with contextlib.suppress(FileNotFoundError):
            self.removed.bytes += os.lstat(path).st_size if digest else 0
            if not self._dry:
                self._grave.take(path)
            if digest:
                self.removed.blobs.append(digest)
            else:
                self.removed.other += 1


def _layer_bytes(path: str) -> int:
    try:
        with open(f"{path}/tree", "rb") as file:
            return tree.total(file.read())
    except (OSError, ValueError, IndexError):
        return 0  # never complete, or damaged


def _drop_refs(store: Store, image: Image) -> int:
    """Removes the reference to an image; how many there were."""
    directory = store.ref_dir(image.name)
    found = 0
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{image.id}")
        found = 1
        fsync_dir(directory)
    with contextlib.suppress(OSError):  # not empty: other images have that name
        os.rmdir(directory)
    return found


def _drop_imports(store: Store, image_id: str) -> int:
    """Removes the notes that name an image; how many there were."""
    found = 0
    for path, named in _imports(store):
        if named == image_id:
            os.unlink(path)
            found += 1
    return found


def _imports(store: Store) -> Iterator[tuple[str, str]]:
    for name in _listdir(f"{store.root}/imports"):
        path = f"{store.root}/imports/{name}"
        image_id = ""  # what cannot be read names no image
        with contextlib.suppress(OSError), open(path, "rb", opener=_plain) as file:
            image_id = file.read(512).decode("ascii", "replace").partition(" ")[0]
        yield path, image_id


def _plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StateError("read", path, errno=error.errno or 0, hint=make_room(error)) from None
