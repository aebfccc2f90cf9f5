"""A registry seen as the directory of an image: what is opened there is brought first, so that import and download overlap.

    tag --GET manifests/TAG--> bytes --sha256--> the digest, pinned: nothing is asked by tag again
    index.json with that one entry --> the reader of layouts --> opens manifest, config, layers --> brought by digest

Everything is checked twice: size and digest as it comes, and again by the reader, which knows nothing of networks.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Collection
from typing import Any, Protocol

from pyrun.errors import ImageError, ManifestError, PyrunError
from pyrun.images import commit, strictjson
from pyrun.images.flow import Flow
from pyrun.images.importer import explain
from pyrun.images.layered import import_tree, normal_name
from pyrun.images.oci import INDEXES, MANIFESTS, MAX_MANIFEST, Tree
from pyrun.images.parents import DIRECTORY
from pyrun.images.printable import printable
from pyrun.images.pulled import recall, remember
from pyrun.images.registry.artifacts import check_claims
from pyrun.images.registry.asking import Answer
from pyrun.images.registry.blob import download
from pyrun.images.registry.client import Client
from pyrun.images.registry.endpoints import Endpoints
from pyrun.images.registry.parts import Parts
from pyrun.images.registry.reference import parse
from pyrun.images.registry.transport import UnreachableError
from pyrun.images.resolve import Reference
from pyrun.images.staging import Staging, write_file
from pyrun.images.store import Image, Store, is_digest
from pyrun.images.trust.collect import Gathering
from pyrun.images.trust.gate import Gate, registry_subject

__all__ = ["Progress", "RemoteTree", "pull"]

_NAME = "io.containerd.image.name"
_FOLDER = "pulled"


class Progress(Protocol):
    """Told how far a download is, from several threads; `pyrun.cli.progress` shows it."""

    def begin(self, key: str, size: int) -> None:
        """The download of `key`, a blob's digest or a URL, begins: `size` bytes, 0 where nobody knows."""

    def moved(self, key: str, count: int) -> None:
        """So many more bytes are here; negative when some have to come again."""

    def end(self, key: str, size: int, digest: str) -> None:
        """It is complete, `size` bytes with that digest."""


def pull(store: Store, text: str, gate: Gate, *, http: Collection[str] = (), progress: Progress | None = None, **client: Any) -> Image:
    """The image that a reference means in its registry now, stored; what the store has of it is not downloaded.

    `http` names registries that may be asked over plain http, see `Endpoints`.  SignatureError when `gate` does not accept
    the image, before anything is asked where that is clear before.  UsageError for the reference, ImageError and its kin for
    everything that the registry does, StateError for the store; nothing is left behind.  `client` goes to `Endpoints`.
    """
    reference = parse(text)
    subject = registry_subject(reference)
    gate.begin(subject)
    store.ensure()
    began = time.time_ns()
    try:
        with store.lock(exclusive=False), Endpoints(reference, http=http, **client) as asked:
            known = recall(store, reference)
            if known is not None and asked.first(lambda one: _digest_now(one) == known[1]) and gate.lets(known[0], reference):
                return known[0]
            with Staging(store.root, "pull") as staging:
                tree = RemoteTree(asked, store, staging, progress)
                try:
                    digest = tree.resolve()
                    subject.documents.append(tree.document(digest))
                    with commit.fetch_lock(store, digest):
                        gather = Gathering(asked, subject, gate)
                        image = import_tree(store, staging, tree, Reference(text, "registry"), gate, subject, gather)
                finally:
                    tree.close()
                if image.imported < began and (image.name, image.labels.get("version", "")) == normal_name(reference.full_name):
                    _renew(store, staging, image)
                remember(store, staging, reference, image.id, digest)
                return image
    except OSError as error:
        if isinstance(error, PyrunError):
            raise
        raise explain(store, str(reference), error) from error


def _digest_now(client: Client) -> str:
    """What the registry says of the tag in a mere HEAD, which registries that count requests do not count; "" where it says nothing.

    An error is left to the GET that follows: that one has words.
    """
    reference = client.reference
    if reference.digest:
        return reference.digest
    try:
        claimed = client.document(f"manifests/{reference.tag}", 0, (*MANIFESTS, *INDEXES), method="HEAD").claimed
    except UnreachableError:
        raise
    except ImageError:
        return ""
    return claimed.replace(":", "-", 1)


def _renew(store: Store, staging: Staging, image: Image) -> None:
    """Makes an image that was stored before the newest of its name, since it is the one that the tag means now."""
    with commit.id_lock(store, image.id), commit.Undo(staging) as undo:
        image.imported = time.time_ns()
        commit.commit_record(store, staging, undo, image)


class _Silent:
    """Nobody looks."""

    def begin(self, key: str, size: int) -> None:
        pass

    def moved(self, key: str, count: int) -> None:
        pass

    def end(self, key: str, size: int, digest: str) -> None:
        pass


class RemoteTree(Tree):
    """An image layout in `staging` that fills itself from a registry; what the store has is linked, not brought.

    Opening raises ImageError, DigestError or ManifestError of the download.
    """

    __slots__ = ("_asked", "_flows", "_guard", "_known", "_locks", "_parts", "_progress", "_store", "path")

    def __init__(self, asked: Endpoints, store: Store, staging: Staging, progress: Progress | None = None) -> None:
        self.path = f"{staging.path}/{_FOLDER}"
        for folder in ("", "/blobs", "/blobs/sha256", "/blobs/sha512"):
            os.mkdir(self.path + folder, 0o700)
        super().__init__(os.open(self.path, DIRECTORY), str(asked.reference))
        self._asked = asked
        self._store = store
        self._progress = progress or _Silent()
        self._known: dict[str, tuple[int, str]] = {}  # size, and the media type of what is a manifest
        self._flows: dict[str, Flow] = {}
        self._parts = Parts(store)
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def flow(self, path: str, size: int) -> Flow | None:
        """What hands on the bytes of a blob that `open` will download; None where it is here or in the store."""
        digest = path.removeprefix("blobs/").replace("/", "-", 1)
        with self._guard:
            if digest in self._flows or os.path.exists(f"{self.path}/{path}") or os.path.exists(self._store.blob_path(digest)):
                return None
            self._flows[digest] = Flow(size)
            return self._flows[digest]

    def stop(self) -> None:
        """Ends the downloads that go on in other threads."""
        self._asked.stop()
        self._parts.stop()

    def close(self) -> None:
        """Closes the directory, and offers nothing to others any more."""
        self._parts.close()
        os.close(self.fd)

    def resolve(self) -> str:
        """Asks what the reference means, once; the digest (``sha256-<hex>``) that everything hangs on from now on."""
        reference = self._asked.reference
        digest, answer = self._manifest(reference.digest, reference.tag)
        if answer.media_type not in (*MANIFESTS, *INDEXES):
            reason = f"the registry calls it {printable(answer.media_type or 'nothing', 100)}, which is no image"
            raise ManifestError("fetch", str(reference), reason, hint="pyrun takes OCI images and Docker images of schema 2")
        self._keep(digest, answer.data)
        entry = {
            "mediaType": answer.media_type,
            "digest": digest.replace("-", ":", 1),
            "size": len(answer.data),
            "annotations": {_NAME: reference.full_name},
        }
        index = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [entry]}
        write_file(f"{self.path}/oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        write_file(f"{self.path}/index.json", json.dumps(index).encode())
        return digest

    def document(self, digest: str) -> bytes:
        """The manifest or index of a digest."""
        return self.read(f"blobs/{digest.replace('-', '/', 1)}", MAX_MANIFEST)

    def open(self, path: str) -> int:
        """A descriptor of a file of the layout, brought first where it is a blob that is not here."""
        algorithm, _, digits = path.removeprefix("blobs/").partition("/")
        digest = f"{algorithm}-{digits}"
        if path.startswith("blobs/") and is_digest(digest):
            with self._guard:
                lock = self._locks.setdefault(digest, threading.Lock())
            with lock:
                if not os.path.exists(f"{self.path}/{path}"):
                    self._bring(digest, f"{self.path}/{path}")
        return super().open(path)

    def _bring(self, digest: str, target: str) -> None:
        if digest not in self._known:
            raise ManifestError("fetch", self.title, f"{digest[:19]} is not described in plain spelling", hint="build the image again")
        size, media_type = self._known[digest]
        if self._link(digest, size, target):
            if media_type:
                self._learn(target, min(size, MAX_MANIFEST))
        elif media_type:
            _, answer = self._manifest(digest, "", min(size, MAX_MANIFEST))
            if answer.media_type != media_type:
                reason = f"the registry calls it {printable(answer.media_type or 'nothing', 100)}, the index {printable(media_type, 100)}"
                raise ManifestError(
                    "fetch", f"{self.title}, manifest {digest[:19]}", reason, hint="readers would disagree about what it is"
                )
            self._keep(digest, answer.data)
        else:
            with self._parts.turn(digest):
                if not self._parts.take(digest, size, target):
                    self._progress.begin(digest, size)
                    self._asked.first(lambda client: self._download(client, f"{target}.part", digest, size))
                    os.rename(f"{target}.part", target)
                    self._parts.offer(digest, target)
                    self._progress.end(digest, size, digest)
                elif digest in self._flows:
                    self._flows[digest].begin()
                    self._flows[digest].advance(target, size)

    def _download(self, client: Client, target: str, digest: str, size: int) -> None:
        flow = self._flows.get(digest)
        if flow is not None:
            flow.begin()

        def moved(count: int) -> None:
            self._progress.moved(digest, count)
            if flow is not None:
                flow.advance(target, count)

        download(client, target, digest, size, moved)

    def _manifest(self, digest: str, tag: str, limit: int = MAX_MANIFEST) -> tuple[str, Answer]:
        """A manifest or index by digest or else by tag, checked; with its digest."""

        def ask(client: Client) -> tuple[str, Answer]:
            answer = client.document(f"manifests/{digest.replace('-', ':', 1) or tag}", limit, (*MANIFESTS, *INDEXES))
            return check_claims(client, answer.data, digest, answer.claimed), answer

        return self._asked.first(ask)

    def _link(self, digest: str, size: int, target: str) -> bool:
        """Whether the store has the blob; its content is checked by the reader like any other."""
        blob = self._store.blob_path(digest)
        try:
            if os.stat(blob).st_size != size:
                return False
            os.link(blob, target)
        except OSError:
            return False
        return True

    def _keep(self, digest: str, data: bytes) -> None:
        write_file(f"{self.path}/blobs/{digest.replace('-', '/', 1)}", data)
        self._remember(data)

    def _learn(self, path: str, size: int) -> None:
        with open(path, "rb") as file:
            self._remember(file.read(size))

    def _remember(self, data: bytes) -> None:
        """Notes size and kind of everything that a manifest or index names; whether it is right, the reader says."""
        try:
            document = strictjson.loads(data, what=self.title, case_twins="allow")
        except PyrunError:
            return
        if not isinstance(document, dict):
            return
        self._note(document.get("config"))
        for member in ("layers", "manifests"):
            entries = document.get(member)
            for entry in entries if isinstance(entries, list) else []:
                self._note(entry, is_manifest=member == "manifests")

    def _note(self, entry: Any, *, is_manifest: bool = False) -> None:
        if not isinstance(entry, dict):
            return
        digest, size = entry.get("digest"), entry.get("size")
        media_type = str(entry.get("mediaType", "")).lower() or "nothing" if is_manifest else ""
        if isinstance(digest, str) and isinstance(size, int) and size >= 0 and is_digest(digest.replace(":", "-", 1)):
            self._known.setdefault(digest.replace(":", "-", 1), (size, media_type))
