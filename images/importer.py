"""Importing an image file: copy, verify the copy, unpack the copy, commit the copy.

    image file --copy, hash--> tmp/import-.../blob --gpgv--> --worker--> layer/rootfs --commit--> store

The signature is checked before one byte of the archive is parsed, and everything after the copy reads
the copy, so nobody can exchange the file between check and use.  The image's name is known only after
unpacking; that the key may sign for this name is checked then, before anything is committed.  Whatever
goes wrong, the staging directory goes with all it took.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from io import FileIO

from pyrun.errors import ArchiveError, DigestError, ImageError, PyrunError, SignatureError, TrustError
from pyrun.images import aci, commit, dependencies, trust
from pyrun.images.flatten import alone
from pyrun.images.locks import make_room
from pyrun.images.prune import collect_tmp
from pyrun.images.staging import Staging
from pyrun.images.store import Image, Store
from pyrun.images.trust.keyfiles import MAX_SIGNATURE, read_bounded
from pyrun.images.trust.keyring import Keyring, Verdict
from pyrun.images.wanted import Wanted
from pyrun.images.whitelist import write_mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    # dependency, then name, labels and id of what needs it
    Bring: TypeAlias = Callable[[dict[str, Any], str, dict[str, str], str], object]

__all__ = ["Import", "collect_tmp", "explain", "import_file", "open_image", "settle"]

_CHUNK = 1 << 20
_TICK = 20_000_000  # ns; ctime moves in steps of a kernel tick, 10 ms at most


def import_file(
    store: Store,
    path: str,
    *,
    signature_path: str | None = None,
    allow_unsigned: bool = False,
    expect_name: str | None = None,
    keyring: Keyring | None = None,
    bring: Bring | None = None,
) -> Image:
    """The stored image of a file, imported unless that was done before.

    The signature is `signature_path` or else ``<path>.asc``.  With `allow_unsigned` an image without a good
    one is stored too, its `signature` None; a signature that is named explicitly must be good all the same.
    What it depends on and the store lacks, `bring` has to bring.

    Raises NotFoundError, SignatureError, ArchiveError, ManifestError or another ImageError, TrustError for keys, StateError
    for the store; in each case nothing is left behind.
    """
    wanted = Wanted(expect_name)
    work = Import(store, path, signature_path, allow_unsigned, keyring or Keyring(store.root), wanted, bring)
    image = store.find_import(path)
    if image is not None and work.satisfied_by(image):
        wanted.check(image.name, image.labels, image.id, path)
        return image
    try:
        return work.run()
    except OSError as error:
        if isinstance(error, PyrunError):
            raise
        raise explain(store, path, error) from error


class Import:
    """One import; the steps in the order in which they happen.  `path` is the file, or what errors call it."""

    __slots__ = ("allow_unsigned", "bring", "keyring", "path", "place", "signature_path", "store", "wanted")

    def __init__(
        self,
        store: Store,
        path: str,
        signature_path: str | None,
        allow_unsigned: bool,
        keyring: Keyring,
        wanted: Wanted,
        bring: Bring | None,
        place: str = "",
    ) -> None:
        """`place` is where it came from, as `trust.accepts_unsigned` takes it, for what is no file of this host."""
        self.store = store
        self.path = path
        self.place = place
        self.signature_path = signature_path
        self.allow_unsigned = allow_unsigned
        self.keyring = keyring
        self.wanted = wanted
        self.bring = bring

    def satisfied_by(self, image: Image) -> bool:
        """Whether an earlier import of this very file will do: its key is still trusted, or need not be."""
        if self.signature_path is not None or not image.text:
            return False
        return self.allow_unsigned or (self.still_trusted(image) and (image.signature is not None or image.origin == self.origin()))

    def still_trusted(self, image: Image) -> bool:
        """Whether the key of a stored image is trusted for its name today."""
        try:
            self.store.require_trusted(image, self.keyring.system)
        except (SignatureError, TrustError):
            return False
        return True

    def run(self) -> Image:
        """Copies, verifies, unpacks and commits.  No lock of a blob is held while dependencies are brought: those have locks too."""
        store = self.store
        store.ensure()
        with store.lock(exclusive=False), Staging(store.root, "import") as staging:
            info, digest = self.copy(staging)
            with open(f"{staging.path}/blob", "rb", buffering=0) as blob:
                image: Image | None = None
                unpacked: tuple[aci.AciInfo, Verdict | None] | None = None
                lacking: list[dict[str, Any]] = []
                with commit.blob_lock(store, digest):
                    known = self.find_blob(digest)
                    signature = self.signature()
                    signers = self.signers(signature, blob.fileno(), known)
                    if known is not None and known.text:
                        self.wanted.check(known.name, known.labels, known.id, self.path)
                        image = self.renew(staging, known, signers, signature)
                    else:
                        unpacked = self.unpack(staging, blob.fileno(), digest, signers)
                        lacking = dependencies.lacking(store, unpacked[0].manifest) if self.bring else []
                        image = None if lacking else self.keep(staging, *unpacked, signature)
                if image is None:
                    assert unpacked is not None
                    self.complete(unpacked[0], lacking)
                    with commit.blob_lock(store, digest):
                        image = self.keep(staging, *unpacked, signature)
            self.remember(staging, info, image)
        return image

    def complete(self, found: aci.AciInfo, lacking: list[dict[str, Any]]) -> None:
        """Brings the dependencies that the store lacks."""
        assert self.bring is not None
        labels = _labels(found.manifest)
        for dependency in lacking:
            try:
                self.bring(dependency, str(found.manifest["name"]), labels, found.image_id)
            except PyrunError as error:
                error.origin = f"{self.path} needs {dependency['imageName']}" + (f": {error.origin}" if error.origin else "")
                raise

    def remember(self, staging: Staging, info: os.stat_result, image: Image) -> None:
        """Notes what the file holds."""
        commit.remember_import(self.store, staging, info, image.id)

    def copy(self, staging: Staging) -> tuple[os.stat_result, str]:
        """Copies the file to `blob`, synced; its stat and the digest of what was copied.  ImageError when it changes meanwhile."""
        with open_image(self.path) as source:
            info = os.fstat(source.fileno())
            settle(info)
            hasher = hashlib.sha256()
            with open(f"{staging.path}/blob", "xb", buffering=0, opener=_private) as target:
                while piece := source.read(_CHUNK):
                    hasher.update(piece)
                    view = memoryview(piece)
                    while view:
                        view = view[target.write(view) :]
                os.fsync(target.fileno())
            after = os.fstat(source.fileno())
        if (info.st_size, info.st_mtime_ns, info.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
            raise ImageError("read image file", self.path, "it changed while it was read", hint="wait until it is complete")
        return info, f"sha256-{hasher.hexdigest()}"

    def find_blob(self, digest: str) -> Image | None:
        """The complete image whose shipped file has this digest."""
        for image in self.store.images():
            if image.blob == digest and self.store.has_layers(image):
                return image
        return None

    def signature(self) -> bytes | None:
        """The text of the signature file; None when none was named and none lies beside the image."""
        path = self.signature_path or f"{self.path}.asc"
        if self.signature_path is None and not os.path.lexists(path):
            return None
        try:
            return read_bounded(path, MAX_SIGNATURE, "signature")
        except TrustError as error:
            raise SignatureError(error.step, error.subject, error.reason, errno=error.errno, hint=error.hint) from None

    def signers(self, signature: bytes | None, data_fd: int, known: Image | None) -> Sequence[str]:
        """Fingerprints of the trusted keys that signed the copy; empty only where an unsigned image is allowed."""
        if signature is not None:
            try:
                return self.keyring.signers(signature, data_fd, self.path)
            except PyrunError:
                if self.allow_unsigned and self.signature_path is None:
                    return ()
                raise
        if known is not None and known.signature is not None and self.still_trusted(known):
            return (known.signature["fingerprint"],)  # the same bytes were verified before
        if self.allow_unsigned:
            return ()
        raise SignatureError(
            "import",
            self.path,
            f"no signature: {self.path}.asc does not exist",
            hint="sign it (gpg --armor --detach-sign FILE), name its signature (--signature), accept unsigned images from there:"
            f" pyrun trust --unsigned {trust.place(self.path)}, or this one: --insecure-options=image",
        )

    def judge(self, signers: Sequence[str], name: str) -> Verdict | None:
        """The verdict for an image name; None only where an unsigned image is allowed."""
        if not signers:
            return None
        try:
            return self.keyring.judge(signers, name)
        except SignatureError:
            if self.allow_unsigned and self.signature_path is None:
                return None
            raise

    def unpack(self, staging: Staging, data_fd: int, digest: str, signers: Sequence[str]) -> tuple[aci.AciInfo, Verdict | None]:
        """Unpacks the copy in the confined worker; what it is, and what its signature is worth."""
        os.mkdir(f"{staging.path}/layer", 0o700)
        layer_fd = os.open(f"{staging.path}/layer", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            info = aci.unpack_aci(data_fd, layer_fd)
        except PyrunError as error:
            error.origin = f"{self.path}: {error.origin}" if error.origin else self.path
            raise
        finally:
            os.close(layer_fd)
        if info.blob_digest != digest:
            raise DigestError("unpack", self.path, f"its copy changed: {info.blob_digest} instead of {digest}", hint="check the disk")
        name = str(info.manifest["name"])
        self.wanted.check(name, _labels(info.manifest), info.image_id, self.path)
        return info, self.judge(signers, name)

    def keep(self, staging: Staging, info: aci.AciInfo, verdict: Verdict | None, signature: bytes | None) -> Image:
        """Commits what was unpacked, on top of what it depends on."""
        needs = dependencies.resolve(self.store, info.manifest, self.accept, self.path)
        with commit.Undo(staging) as undo:
            layers = dependencies.stack(info.image_id, needs, self.path, lambda need: alone(self.store, staging, undo, need))
            self.add_mask(staging, undo, layers, info)
            with commit.id_lock(self.store, info.image_id):
                return self.record(staging, undo, info, layers, [need.id for need in needs], verdict, signature)

    def record(
        self,
        staging: Staging,
        undo: commit.Undo,
        info: aci.AciInfo,
        layers: list[str],
        needs: list[str],
        verdict: Verdict | None,
        signature: bytes | None,
    ) -> Image:
        """Commits the image's own parts; the caller holds its `commit.id_lock`."""
        shipped = os.stat(f"{staging.path}/blob").st_size
        size = shipped + commit.commit_layer(self.store, staging, undo, info.image_id)
        earlier = commit.existing(self.store, info.image_id)
        if earlier is not None and self.stays(earlier, verdict):
            if not earlier.text:  # older versions kept no manifest as it was shipped
                earlier.text = info.manifest_bytes.decode("utf-8")
                commit.commit_record(self.store, staging, undo, earlier)
            return earlier
        commit.commit_blob(self.store, staging, undo, info.blob_digest, signature if verdict else None)
        image = Image(
            {
                "id": info.image_id,
                "kind": "aci",
                "name": str(info.manifest["name"]),
                "labels": _labels(info.manifest),
                "layers": layers,
                "needs": needs,
                "blob": info.blob_digest,
                "size": size,
                "imported": earlier.imported if earlier else time.time_ns(),
                "signature": _signed(verdict, signature),
                "origin": None if verdict else self.origin(),
                "manifest": info.manifest,
                "text": info.manifest_bytes.decode("utf-8"),
            }
        )
        commit.commit_record(self.store, staging, undo, image)
        return image

    def origin(self) -> dict[str, str] | None:
        """Where it came from, as a record has it; None where nobody could accept it."""
        place = self.place or ("" if "://" in self.path else trust.place(self.path))
        return {"transport": "aci", "place": place, "name": ""} if place else None

    def accept(self, dependency: Image) -> None:
        """Raises SignatureError for a dependency whose own signature is not trusted, unless unsigned images are allowed."""
        if not self.allow_unsigned:
            self.store.require_trusted(dependency, self.keyring.system)

    def add_mask(self, staging: Staging, undo: commit.Undo, layers: list[str], info: aci.AciInfo) -> None:
        """Puts the layer that stands for the pathWhitelist on top of `layers`; before the image's own lock, never under it."""
        whitelist = [str(path) for path in info.manifest.get("pathWhitelist") or []]
        if whitelist:
            mask = dependencies.mask_id(layers, whitelist)
            with commit.id_lock(self.store, mask):
                os.makedirs(f"{staging.path}/mask/rootfs", 0o700)
                below = [self.store.layer_dir(layer) for layer in layers[1:]]
                write_mask([f"{staging.path}/layer/rootfs", *below], whitelist, f"{staging.path}/mask/rootfs")
                commit.commit_layer(self.store, staging, undo, mask, "mask")
            layers.insert(0, mask)

    def stays(self, earlier: Image, verdict: Verdict | None) -> bool:
        """Whether the record of the same tar in another compression says as much as a new one would."""
        if not os.path.exists(self.store.blob_path(earlier.blob)):
            return False
        return verdict is None or (earlier.signature is not None and self.still_trusted(earlier))

    def renew(self, staging: Staging, image: Image, signers: Sequence[str], signature: bytes | None) -> Image:
        """Records the signature under which a stored image was offered again, when that says more than its record."""
        verdict = self.judge(signers, image.name)
        if verdict is None and image.signature is None and image.origin != self.origin() and not self.still_trusted(image):
            return self.move(staging, image)
        if verdict is None or signature is None:
            return image
        new = _signed(verdict, signature)
        if image.signature != new:
            with commit.id_lock(self.store, image.id), commit.Undo(staging) as undo:
                commit.commit_blob(self.store, staging, undo, image.blob, signature)
                image.signature = new
                commit.commit_record(self.store, staging, undo, image)
        return image

    def move(self, staging: Staging, image: Image) -> Image:
        """Records that an unsigned image came from here, which may be accepted where the other place is not."""
        with commit.id_lock(self.store, image.id), commit.Undo(staging) as undo:
            image.origin = self.origin()
            commit.commit_record(self.store, staging, undo, image)
        return image


def _signed(verdict: Verdict | None, signature: bytes | None) -> dict[str, str] | None:
    """What a record says of a signature; its digest, since not every bit of an armoured text is part of what it signs."""
    if verdict is None:
        return None
    return {"fingerprint": verdict.fingerprint, "prefix": verdict.prefix, "sha256": hashlib.sha256(signature or b"").hexdigest()}


def open_image(path: str) -> FileIO:
    """The image file, opened without waiting for anybody; ImageError unless it is a regular file with something in it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ImageError("open image file", path, errno=error.errno or 0, hint="check the path and its permissions") from None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_size:
        return FileIO(fd, "rb")
    os.close(fd)
    if stat.S_ISREG(info.st_mode):
        raise ArchiveError("read image file", path, "empty", hint="get the file again")
    raise ImageError("open image file", path, "not a regular file", hint="give the path of an .aci file")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def settle(info: os.stat_result) -> None:
    """Waits until a write after our last look at the file must show in its ctime, so that imports/ never vouches for other bytes."""
    age = time.time_ns() - max(info.st_ctime_ns, info.st_mtime_ns)
    if 0 <= age < _TICK:
        time.sleep((_TICK - age) / 1e9)


def _labels(manifest: dict[str, object]) -> dict[str, str]:
    labels = manifest.get("labels") or []
    assert isinstance(labels, list)
    return {str(label["name"]): str(label["value"]) for label in labels}


def explain(store: Store, path: str, error: OSError) -> ImageError:
    """An ImageError for a kernel error on the way into the store."""
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else store.root
    hint = {
        errno.ENOSPC: f"free some space below {store.root} (pyrun gc, pyrun image rm), or choose another directory with --root",
        errno.EDQUOT: f"raise the quota below {store.root}, or choose another directory with --root",
        errno.EROFS: "choose a writable directory with --root",
        errno.EACCES: make_room(error),
        errno.EPERM: make_room(error),
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.EIO: "check the disk",
    }.get(error.errno or 0, "")
    return ImageError("import", path, f"{os.strerror(error.errno or 0).lower()} ({where})", errno=error.errno or 0, hint=hint)
