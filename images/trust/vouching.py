"""What a verdict on an OCI image does to its record: the name it goes by, its origin, its signature, and what proved it."""

from __future__ import annotations

import contextlib
import hashlib
import os

from pyrun.images import commit
from pyrun.images.staging import Staging, fsync_dir, write_file
from pyrun.images.store import Image, Store
from pyrun.images.trust import evidence
from pyrun.images.trust.gate import Gate, Verdict, origin_of
from pyrun.images.trust.policyfile import Subject

__all__ = ["Naming", "renew"]


class Naming:
    """The name and version under which an image is stored, and who says so.

    A registry's image has the name that it was asked by.  One out of a file that somebody signed has the name in the
    signature; else the file says what it is called, and it does not get that name when another image has it (C20).
    """

    __slots__ = ("_store", "name", "origin", "signature", "verdict", "version")

    def __init__(self, store: Store, subject: Subject, verdict: Verdict, image_id: str, name: str, version: str) -> None:
        self._store = store
        self.verdict = verdict
        self.name = name
        self.version = version
        self.origin = origin_of(subject)
        self.signature = verdict.signature
        if verdict.evidence and verdict.signature is not None:
            digest = hashlib.sha256(evidence.encode(verdict.evidence)).hexdigest()
            self.signature = {**verdict.signature, "sha256": digest}
        if subject.transport == "docker":
            return
        if verdict.signature is not None and verdict.identity is not None:
            self.name, self.version = verdict.identity.name, verdict.identity.tag
        elif any(self._taken(image, subject.place) for image in store.images() if image.id != image_id):
            self.origin["named"] = "no"

    def _taken(self, image: Image, place: str) -> bool:
        """Whether an image from elsewhere has the name and version."""
        origin = image.origin or {"place": ""}
        same = image.name == self.name and image.labels.get("version", "") == self.version
        return same and origin["place"] != place and origin.get("named") != "no"

    def keep_evidence(self, staging: Staging, blob: str) -> None:
        """Puts the signatures beside the manifest, to be judged again when keys or policies change; OSError."""
        if not self.verdict.evidence:
            return
        target = f"{self._store.blob_path(blob)}.asc"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{staging.path}/evidence")
        write_file(f"{staging.path}/evidence", evidence.encode(self.verdict.evidence))
        os.rename(f"{staging.path}/evidence", target)
        fsync_dir(os.path.dirname(target))

    def add_evidence(self, staging: Staging, image: Image) -> None:
        """Keeps the signatures beside those that are kept already, as many as there may be; OSError."""
        path = f"{self._store.blob_path(image.blob)}.asc"
        try:
            with open(path, "rb") as file:
                kept = evidence.decode(file.read(2 * evidence.MAX_BYTES))
        except (FileNotFoundError, ValueError):
            kept = []
        joined = evidence.join(kept, self.verdict.evidence)
        if len(joined) == len(kept):
            return
        self.verdict.evidence = joined
        with commit.id_lock(self._store, image.id), commit.Undo(staging) as undo:
            self.keep_evidence(staging, image.blob)
            if image.signature is not None:
                image.signature = {**image.signature, "sha256": hashlib.sha256(evidence.encode(joined)).hexdigest()}
            commit.commit_record(self._store, staging, undo, image)


def renew(store: Store, staging: Staging, image: Image, naming: Naming, gate: Gate) -> Image:
    """Records what the new verdict on a stored image says, if that is more than its record says today; OSError.

    Whoever was vouched for keeps the name under which that happened; one that nobody vouches for takes the new name.  What
    vouches for it under a further name is kept as well, so that each name can be judged without asking anybody.
    """
    if not gate.strict:
        return image
    if gate.lets(image) and image.origin != naming.origin:
        naming.add_evidence(staging, image)
        return image
    with commit.id_lock(store, image.id), commit.Undo(staging) as undo:
        naming.keep_evidence(staging, image.blob)
        if (image.name, image.labels.get("version", "")) != (naming.name, naming.version):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{store.ref_dir(image.name)}/{image.id}")
            image.name = naming.name
            image.labels = {**({"version": naming.version} if naming.version else {}), **_others(image)}
        image.origin, image.signature, image.judged = naming.origin, naming.signature, naming.verdict.files or None
        commit.commit_record(store, staging, undo, image)
    return image


def _others(image: Image) -> dict[str, str]:
    return {label: value for label, value in image.labels.items() if label != "version"}
