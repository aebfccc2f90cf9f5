"""The store of images for programs: fetch, look, verify, name, delete, with progress told to a function.

`pyrun.images.Store` is this one; `pyrun.images.store` has what a start needs.
"""

from __future__ import annotations

import contextlib
import time
from threading import Lock

from pyrun.errors import NotFoundError
from pyrun.images import resolve
from pyrun.images.store import Store as Inner
from pyrun.native.users import state_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Literal

    from pyrun.images.prune import Removed
    from pyrun.images.store import Image
    from pyrun.images.usage import Usage

__all__ = ["Download", "Store"]


class Download:
    """How far one download is: `key` a blob's digest or a URL, `have` of `size` bytes (0: nobody knows), `done` when it is complete."""

    __slots__ = ("done", "have", "key", "size")

    def __init__(self, key: str, have: int, size: int, done: bool) -> None:
        self.key = key
        self.have = have
        self.size = size
        self.done = done

    def __repr__(self) -> str:
        return f"<pyrun.images.Download {self.key} {self.have} of {self.size}>"


class _Teller:
    """Turns what downloads say, in several threads, into calls of one function, one at a time."""

    def __init__(self, tell: Callable[[Download], object]) -> None:
        self._tell = tell
        self._lock = Lock()
        self._sizes: dict[str, int] = {}
        self._have: dict[str, int] = {}

    def begin(self, key: str, size: int) -> None:
        with self._lock:
            self._sizes[key], self._have[key] = size, 0
            self._tell(Download(key, 0, size, False))

    def moved(self, key: str, count: int) -> None:
        with self._lock:
            self._have[key] = self._have.get(key, 0) + count
            self._tell(Download(key, self._have[key], self._sizes.get(key, 0), False))

    def end(self, key: str, size: int, digest: str) -> None:
        with self._lock:
            self._have[key] = size
            self._tell(Download(key, size, size, True))


class Store:
    """The images below one state directory (default: see `pyrun.native.users.state_root`).  Threads and processes may share it.

    A reference (`ref`) is what the command line takes: a name, an id or its beginning, a tag.  ImageError and its kin for images,
    StateError for the store, TrustError for keys.
    """

    __slots__ = ("_inner",)

    def __init__(self, root: str | None = None) -> None:
        self._inner = Inner(root or state_root())

    @property
    def root(self) -> str:
        """The state directory."""
        return self._inner.root

    def pull(
        self,
        reference: str,
        *,
        policy: Literal["never", "new", "update"] = "new",
        signature: str | None = None,
        unsigned: bool = False,
        trust_policy: str = "",
        http: Collection[str] = (),
        no_cache: bool = False,
        progress: Callable[[Download], object] | None = None,
    ) -> Image:
        """Return the image that a reference means, fetched and verified first as `policy` says, as `pyrun fetch` does.

        `reference` is a file, a URL, a registry's name, or any that `pyrun run` takes.  `unsigned` accepts an image that nobody
        trusted has signed; it then runs only with insecure_options=["image"].  `http` names registries that may be asked without
        TLS.  `progress` is called from other threads, one call at a time; what it raises ends the download.
        SignatureError, DigestError, ArchiveError, NotFoundError, UsageError for the reference.
        """

        @contextlib.contextmanager
        def told() -> Iterator[_Teller | None]:
            yield _Teller(progress) if progress else None

        more = {"signature": signature, "unsigned": unsigned, "trust_policy": trust_policy}
        parsed = resolve.parse(reference)
        if policy == "update" and parsed.kind != "name":
            return resolve.fetch(self._inner, parsed, http=http, progress=told, no_cache=no_cache, **more)  # type: ignore[arg-type]
        return resolve.find(self._inner, reference, policy=policy, http=http, progress=told, no_cache=no_cache, **more)  # type: ignore[arg-type]

    def images(self) -> list[Image]:
        """Return every image, the oldest import first."""
        return sorted(self._inner.images(), key=lambda image: image.imported)

    def get(self, ref: str) -> Image:
        """Return one image; NotFoundError when there is none."""
        return self._inner.find(ref)

    def verify(self, *refs: str, progress: Callable[[str, list[str]], object] | None = None) -> dict[str, list[str]]:
        """Check images, or all of them, bit by bit against their digests and signatures; return what is wrong by id, [] for a sound one.

        `progress` hears each (id, problems) as soon as it is known.  Without `refs` what belongs to no image is told under "".
        """
        from pyrun.images.trust.keyring import Keyring
        from pyrun.images.verify import verify_image, verify_store

        keyring = Keyring(self.root)
        found: dict[str, list[str]] = {}
        with self._inner.lock(exclusive=False):
            for ref in refs or self._inner.ids():
                image_id = self._inner.find_id(ref)
                found[image_id] = verify_image(self._inner, image_id, keyring)
                if progress:
                    progress(image_id, found[image_id])
            if not refs and (strays := verify_store(self._inner)):
                found[""] = strays
        return found

    def build(
        self,
        source: str,
        manifest: Mapping[str, object],
        target: str,
        *,
        compression: Literal["gzip", "xz", "bzip2", "none"] = "gzip",
        latest: int | None = None,
        overwrite: bool = False,
        sign_by: str | None = None,
    ) -> str:
        """Write an App Container Image of a directory, or of an archive of one, to the new file `target`; return its id.

        The store does not hold it: `pull(target)` does that.  Times later than `latest`, in seconds since 1970, become that.
        `sign_by` names a secret key of the caller's gpg, by which `target`.asc is made.  ManifestError and ImageError for what no
        image can be made of, TrustError when gpg does not sign.
        """
        from pyrun.images import build

        more = {"latest": latest, "overwrite": overwrite, "sign_by": sign_by or ""}
        return build.build(self.root, source, dict(manifest), target, compression=compression, **more)  # type: ignore[arg-type]

    def tag(self, ref: str, name: str) -> str:
        """Give an image a further name; return the id that had it before, "" for none."""
        from pyrun.images.tags import make

        return make(self._inner, self._inner.find_id(ref), name)

    def remove(self, ref: str) -> int:
        """Remove an image, with all that no other one needs, or a tag alone, where `ref` is one; return the bytes that are free now."""
        from pyrun.images import tags
        from pyrun.images.prune import remove_image

        try:
            image_id = self._inner.find_id(ref, tags=False)
        except NotFoundError:
            tag = tags.find(self._inner, ref)
            if tag is None:
                raise
            tags.remove(self._inner, tag)
            return 0
        return remove_image(self._inner, image_id)

    def gc(self, *, older_than: float | None = None, dry_run: bool = False, progress: Callable[[str], object] | None = None) -> Removed:
        """Remove what no image needs, and, with `older_than`, images that are older than so many seconds and that no pod uses.

        With `dry_run` nothing is removed.  `progress` hears the id of each image that goes.
        """
        from pyrun.images.prune import collect

        before = time.time_ns() - int((older_than or 0) * 1e9)
        removed = collect(self._inner, wanted=None if older_than is None else (lambda image: image.imported <= before), dry=dry_run)
        if progress:
            for image_id in removed.images:
                progress(image_id)
        return removed

    def usage(self) -> list[Usage]:
        """Return what each image takes on the disk; see `pyrun.images.usage.Usage`."""
        from pyrun.images.usage import measure

        return measure(self._inner)[0]
