"""Importing images that come in parts, OCI's and Docker's: every part checked, every layer unpacked once, then the record.

    directory ----------------------------\\
    archive --worker, private copy--> box --> documents --> layers, two at a time --> commit
                                                            copy, hash --> worker --> rootfs, DiffID

Nothing becomes visible before every digest, size and DiffID was found right.  Layers are kept by DiffID, so
images share them; a layer that a stored image made of the same blob is not even read again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from pyrun import native
from pyrun.errors import ArchiveError, ImageError, PyrunError
from pyrun.images import commit, implied, trust, worker
from pyrun.images.docker_archive import read_docker_archive
from pyrun.images.importer import explain, open_image, settle
from pyrun.images.layers import OPAQUE, Layers
from pyrun.images.limits import Limits
from pyrun.images.lower import LIST, chain_ids, link_lower
from pyrun.images.oci import Found, Layer, Tree, read_layout, whole_name
from pyrun.images.oci_config import app_manifest, platform_labels
from pyrun.images.parents import DIRECTORY
from pyrun.images.prune import collect_tmp
from pyrun.images.staging import Staging, write_file
from pyrun.images.store import Image, Store
from pyrun.images.trust import vouching
from pyrun.images.trust.attached import from_layout
from pyrun.images.trust.gate import Gate
from pyrun.images.trust.identity import parse as parse_identity
from pyrun.images.trust.policyfile import Subject
from pyrun.images.unpack import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.images.resolve import Reference
    from pyrun.images.trust.evidence import Collection

__all__ = ["import_layered", "import_tree", "normal_name", "recognise"]

_AT_ONCE = 2  # layers
_AT_ONCE_REMOTE = 3  # some of them wait for the network
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._~/:")
_ANY_CASE = _PLAIN | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")  # tags differ in it
_SUFFIXES = (".gz", ".tgz", ".zst", ".xz", ".bz2", ".tar", ".oci", ".docker")


def recognise(store: Store, path: str) -> str:
    """What kind of image a file holds: aci, oci-archive or docker-archive; told by names in it, in the confined worker."""
    store.ensure()
    with open_image(path) as source, Staging(store.root, "look") as staging:
        try:
            return str(worker.run("recognise", source.fileno(), staging.fd, Limits(), Policy())["kind"])
        except PyrunError:
            return "aci"  # whose reader says what is wrong


def import_layered(store: Store, reference: Reference, gate: Gate, *, kind: str = "", place: str = "") -> Image:
    """The stored image of an OCI layout, an archive of one, or a Docker archive, imported unless that was done before.

    `kind` says what a plain file was recognised as, `place` where it came from if that is not its path.
    SignatureError when `gate` does not accept it, ManifestError,
    DigestError, ArchiveError, another ImageError, or StateError for the store; nothing is left behind.
    """
    kind = kind or (reference.kind if reference.kind != "file" else "oci")
    asked = parse_identity(reference.ref) if kind == "docker-archive" and reference.ref else None
    subject = Subject(kind, place or trust.place(reference.path), asked, reference.text)
    known = store.find_import(reference.path, reference.variant)
    if known is not None and gate.lets(known) and (not gate.strict or subject.is_origin(known.origin)):
        return known
    gate.begin(subject)
    work = _Import(store, reference, kind, gate, subject, lambda tree, into: from_layout(tree, subject, into))
    try:
        return work.run()
    except OSError as error:
        if isinstance(error, PyrunError):
            raise
        with contextlib.suppress(PyrunError, OSError):
            collect_tmp(store)  # what was in place already, unless others are at work: then `gc` finds it
        raise explain(store, reference.path, error) from error


def import_tree(
    store: Store, staging: Staging, tree: Tree, reference: Reference, gate: Gate, subject: Subject, gather: Callable[[Collection], None]
) -> Image:
    """The stored image of a private layout in `staging`, whose parts may come only when they are opened.

    The caller holds the store's lock.  `gather` brings its signatures.  Raises as `import_layered`, what opening raises,
    and OSError.
    """
    return _Import(store, reference, reference.kind, gate, subject, lambda _, into: gather(into)).bring(staging, tree)


def normal_name(text: str) -> tuple[str, str]:
    """A reference name as (name, version), both in characters that look-ups take; the version is "" where there is none."""
    text = text.partition("@")[0]
    text = "".join(char if char in _ANY_CASE else "-" for char in text)
    colon = text.find(":", text.rfind("/") + 1)
    name, version = (text[:colon].lower(), text[colon + 1 :]) if colon >= 0 else (text.lower(), "")
    return name.strip("-._~/:") or "image", version.strip("/:")


class _Import:
    """One import."""

    __slots__ = ("gate", "gather", "kind", "limits", "reference", "store", "subject")

    def __init__(
        self, store: Store, reference: Reference, kind: str, gate: Gate, subject: Subject, gather: Callable[[Tree, Collection], None]
    ) -> None:
        self.gate = gate
        self.subject = subject
        self.gather = gather
        self.store = store
        self.reference = reference
        self.kind = kind
        self.limits = Limits()

    def run(self) -> Image:
        """Reads, checks, unpacks and commits."""
        store = self.store
        store.ensure()
        with store.lock(exclusive=False), Staging(store.root, "import") as staging:
            info, fd = self.open(staging)
            try:
                image = self.bring(staging, Tree(fd, self.reference.path))
            finally:
                os.close(fd)
            commit.remember_import(store, staging, info, image.id, self.reference.variant)
        return image

    def open(self, staging: Staging) -> tuple[os.stat_result, int]:
        """The directory that holds the image, an archive's private copy for one, and the stat that stands for its content."""
        path = self.reference.path
        if self.kind == "oci":
            try:
                fd = os.open(path, DIRECTORY & ~os.O_NOFOLLOW)
            except OSError as error:
                hint = "oci: wants a directory, oci-archive: a file; check the path and its permissions"
                raise ImageError("open image layout", path, errno=error.errno or 0, hint=hint) from None
            try:
                info = os.stat("index.json", dir_fd=fd)
                settle(info)
                return info, fd
            except OSError as error:
                os.close(fd)
                hint = "an OCI layout holds oci-layout, index.json and blobs/"
                raise ImageError("open image layout", path, "holds no index.json", errno=error.errno or 0, hint=hint) from None
        with open_image(path) as source:
            info = os.fstat(source.fileno())
            settle(info)
            worker.run("box", source.fileno(), staging.fd, self.limits, Policy())
            after = os.fstat(source.fileno())
        if (info.st_size, info.st_mtime_ns, info.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
            raise ImageError("read image file", path, "it changed while it was read", hint="wait until it is complete")
        return info, os.open("box", DIRECTORY, dir_fd=staging.fd)

    def read(self, tree: Tree) -> Found:
        """The documents of the image that is meant."""
        if self.kind == "docker-archive" or (self.kind != "oci" and self.reference.kind == "file" and not tree.exists("oci-layout")):
            found = read_docker_archive(tree, self.reference.ref)
            found.name = whole_name(found.name, self.stem())
            return found
        return read_layout(tree, self.reference.ref, self.stem())

    def stem(self) -> str:
        """A name for what names nothing: the file's own, without what says its format."""
        stem = os.path.basename(os.path.abspath(self.reference.path))
        while (short := stem.rpartition(".")[0]) and stem[len(short) :] in _SUFFIXES:
            stem = short
        return stem

    def bring(self, staging: Staging, tree: Tree) -> Image:
        """The image of a directory, in the store."""
        found = self.read(tree)
        store = self.store
        self.subject.documents[:] = [found.manifest_bytes, *(one for one in self.subject.documents if one != found.manifest_bytes)]
        verdict = self.gate.judge(self.subject, lambda into: self.gather(tree, into))
        naming = vouching.Naming(store, self.subject, verdict, found.manifest_digest, *normal_name(found.name or self.stem()))
        known = commit.existing(store, found.manifest_digest)
        if known is not None and store.has_layers(known) and all(os.path.exists(store.blob_path(b)) for b in (known.blob, *known.blobs)):
            return vouching.renew(store, staging, known, naming, self.gate)
        made = {pair for image in store.images() for pair in self.pairs(image)}
        todo: dict[tuple[str, str], Layer] = {}
        for layer in found.layers:
            if (layer.digest, layer.diff_id) not in made:
                todo.setdefault((layer.digest, layer.diff_id), layer)
        work = Layers(staging, tree, self.limits, self.reference.path or self.reference.text, private=self.kind != "oci")
        largest = sorted(enumerate(todo.values()), key=lambda entry: -entry[1].size)  # so that none is left alone at the end
        at_once = _AT_ONCE_REMOTE if self.kind == "registry" else _AT_ONCE
        with ThreadPoolExecutor(1, "sync") as disk, ThreadPoolExecutor(at_once, "layer") as pool:
            try:
                unpacking = [pool.submit(work.unpack, number, layer) for number, layer in largest]
                writing = []
                for future in as_completed(unpacking):
                    future.result()
                    writing.append(disk.submit(native.syncfs, staging.fd))  # while others are unpacked: the commit then waits for little
                for future in writing:
                    future.result()
            except BaseException:
                tree.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        unpacked = list(todo.values())
        return self.commit(staging, found, unpacked, self.complete(staging, found, unpacked, work.title), naming)

    def complete(self, staging: Staging, found: Found, unpacked: list[Layer], title: str) -> list[str]:
        """Gives layers what they link to in those below; the names under which the store keeps the layers, bottom first."""
        names = [layer.diff_id for layer in found.layers]
        chain = chain_ids(names)
        staged = {layer.diff_id: f"{staging.path}/layer-{number}" for number, layer in enumerate(unpacked)}
        roots: list[str] = []
        limits = Limits(total=self.limits.total)
        for place, diff_id in enumerate(list(names)):
            folder = staged.get(diff_id, "")
            if folder and os.path.exists(f"{folder}/{LIST}"):
                if names.count(diff_id) > 1:
                    reason = "it links to files of layers below, and occurs twice"
                    raise ArchiveError("unpack layer", diff_id[:19], reason, hint="build the image again without it", origin=title)
                limits.total -= link_lower(folder, self.stack(roots), limits, f"{title}: layer {diff_id[:19]}")
                commit.measure_layer(staging, os.path.basename(folder))
                names[place] = chain[place]
            roots.append(f"{folder}/rootfs" if folder else self.store.layer_dir(diff_id))
        return names

    def pairs(self, image: Image) -> list[tuple[str, str]]:
        """Blobs of a stored image with the DiffIDs that were found in them, where both are still there."""
        config = image.manifest.get("diffIDs")
        if image.kind != "oci" or not isinstance(config, list) or len(config) + 1 != len(image.blobs):
            return []
        return [
            (blob, diff_id)
            for blob, diff_id in zip(image.blobs[1:], config, strict=True)
            if os.path.exists(self.store.blob_path(blob)) and os.path.exists(f"{self.store.layer_path(diff_id)}/complete")
        ]

    def commit(self, staging: Staging, found: Found, unpacked: list[Layer], names: list[str], naming: vouching.Naming) -> Image:
        """Moves everything into the store, the record last.  What a failure leaves no record names: `gc` removes it."""
        store = self.store
        write_file(f"{staging.path}/manifest", found.manifest_bytes)
        write_file(f"{staging.path}/config", found.config_bytes)
        blobs = {found.manifest_digest: "manifest", found.config_digest: "config"}
        blobs |= {layer.digest: f"blob-{number}" for number, layer in enumerate(unpacked)}
        native.syncfs(staging.fd)  # everything that is staged, at once
        for digest, name in blobs.items():
            commit.place_blob(store, staging, digest, name)
        kept = {layer.diff_id: name for layer, name in zip(found.layers, names, strict=True)}
        for number, layer in enumerate(unpacked):
            with commit.id_lock(store, kept[layer.diff_id]):
                commit.commit_layer(store, staging, None, kept[layer.diff_id], f"layer-{number}", synced=True)
        labels = ({"version": naming.version} if naming.version else {}) | platform_labels(found.config)
        diff_ids = [layer.diff_id for layer in found.layers]
        parts = [found.config_digest, *(layer.digest for layer in found.layers)]
        named = {store.layer_dir(name): name for name in names}
        layers = implied.with_parents(store, staging, [named[root] for root in self.stack([store.layer_dir(name) for name in names])])
        image = Image(
            {
                "id": found.manifest_digest,
                "kind": "oci",
                "name": naming.name,
                "labels": labels,
                "layers": layers,
                "blob": found.manifest_digest,
                "blobs": parts,
                "size": self.size({found.manifest_digest, *parts}, layers),
                "imported": time.time_ns(),
                "signature": naming.signature,
                "origin": naming.origin,
                "judged": naming.verdict.files or None,
                "manifest": {**app_manifest(found.config, naming.name, labels), "diffIDs": diff_ids},
            }
        )
        naming.keep_evidence(staging, image.blob)
        with commit.id_lock(store, image.id), commit.Undo(staging) as undo:
            commit.commit_record(store, staging, undo, image)
        return image

    def stack(self, roots: list[str]) -> list[str]:
        """The trees to lay over each other, top first, given those of all layers, bottom first.

        A layer that occurs twice counts where it is higher, since overlayfs takes none twice; and it does not ask
        whether the root of a layer is opaque, so what that would hide is left out.
        """
        layers: list[str] = []
        for root in reversed(roots):
            if root not in layers:
                layers.append(root)
            try:
                if os.getxattr(root, OPAQUE) == b"y":
                    break
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                    raise
        return layers

    def size(self, blobs: set[str], layers: list[str]) -> int:
        """Bytes of the image in the store, whoever else uses them too."""
        shipped = sum(os.stat(self.store.blob_path(blob)).st_size for blob in blobs)
        return shipped + sum(commit.layer_size(self.store, layer) for layer in layers)
