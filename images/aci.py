"""App Container Images: a tar of `manifest` and `rootfs/`, possibly compressed (spec/aci.md, "Image Layout").

    shipped file --sha256--> decompress --sha512 = image ID--> members --> manifest (kept), rootfs/ (written)

All of it is one pass over the file in the confined process of `pyrun.images.worker`; `unpack_aci` is the
caller's side, `read_aci` the other.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from contextlib import suppress
from typing import Any, NoReturn

from pyrun.errors import ArchiveError
from pyrun.images import codec, tar
from pyrun.images.limits import Limits
from pyrun.images.manifest import parse_image_manifest
from pyrun.images.printable import printable
from pyrun.images.strictjson import MAX_BYTES
from pyrun.images.unpack import Policy, Unpacker

_QUEUED = 16
FORMATS = ("tar", "gzip", "bzip2", "xz")  # spec/aci.md: no others

_LAYOUT_HINT = "an image holds exactly a file `manifest` and a directory `rootfs` (actool build writes it so)"


class AciInfo:
    """What one pass over an image file found out.

    `image_id` is ``sha512-`` and the digest of the decompressed stream, `blob_digest` ``sha256-`` and that of the
    `size` bytes of the file as shipped; `manifest` is `manifest_bytes` parsed and validated.
    """

    __slots__ = ("blob_digest", "image_id", "manifest", "manifest_bytes", "size")

    def __init__(self, manifest: dict[str, Any], manifest_bytes: bytes, image_id: str, blob_digest: str, size: int) -> None:
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self.image_id = image_id
        self.blob_digest = blob_digest
        self.size = size


def unpack_aci(src_fd: int, staging_dirfd: int, *, limits: Limits | None = None, policy: Policy | None = None) -> AciInfo:
    """Unpacks the image file `src_fd` (from its first byte) into a new `rootfs/` below `staging_dirfd`, its listing beside it as `tree`.

    Everything that touches the file's bytes happens in a confined child.  ArchiveError, ManifestError or
    ImageError as the child met them; staging then holds what was written so far and is the caller's to remove.
    """
    from pyrun.images import worker

    found = worker.run("aci", src_fd, staging_dirfd, limits or Limits(), policy or Policy())
    data = found["manifest"]
    # Parsed here once more: what the confined process says about the bytes is not taken on trust.
    return AciInfo(parse_image_manifest(data), data, found["image_id"], found["blob_digest"], found["size"])


class Plain:
    """A file; a seekable one is read from the start, without moving the offset that others share."""

    __slots__ = ("_fd", "_seekable", "size")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = 0
        try:
            os.lseek(fd, 0, os.SEEK_CUR)
        except OSError:
            self._seekable = False
        else:
            self._seekable = True

    def read(self, n: int) -> bytes:
        """Up to `n` bytes."""
        data = os.pread(self._fd, n, self.size) if self._seekable else os.read(self._fd, n)
        self.size += len(data)
        return data


class Hashed(Plain):
    """A file read through a hash."""

    __slots__ = ("digest",)

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.digest = hashlib.sha256()

    def read(self, n: int) -> bytes:
        """Up to `n` bytes."""
        data = super().read(n)
        self.digest.update(data)
        return data


class Ahead:
    """Chunks decompressed by a second thread while this one hashes (into `digest`), parses and writes.

    Reading, both hashes and inflation let go of the interpreter lock, so two cores share the work; at most
    `_QUEUED` chunks wait.
    """

    __slots__ = ("_closing", "_queue", "_reader", "_thread", "digest")

    def __init__(self, reader: codec.Reader, algorithm: str = "sha512") -> None:
        self._reader = reader
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUED)
        self._closing = False
        self.digest = hashlib.new(algorithm)
        self._thread = threading.Thread(target=self._run, name="decompress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            data = b"more"
            while data and not self._closing:
                data = self._reader.chunk()
                self._queue.put(data)
        except BaseException as exc:  # raised again by chunk()
            self._queue.put(exc)

    def chunk(self) -> bytes:
        """The next piece of the stream; raises what decompression raised."""
        data = self._queue.get()
        if isinstance(data, BaseException):
            raise data
        if data:
            self.digest.update(data)
        else:
            self._queue.put(data)  # still the end when asked again
        return data

    def close(self) -> None:
        """Ends the thread, whether or not the stream was read to its end."""
        self._closing = True
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._queue.get(timeout=0.01)
        self._thread.join()


def read_aci(src_fd: int, staging_dirfd: int, limits: Limits, policy: Policy) -> dict[str, Any]:
    """Does the work of `unpack_aci` in this process; returns its findings with the manifest as bytes."""
    shipped = Hashed(src_fd)
    reader = codec.reader(shipped, limits=limits, allow=FORMATS)
    os.mkdir("rootfs", 0o700, dir_fd=staging_dirfd)
    root = os.open("rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging_dirfd)
    stream = Ahead(reader)
    try:
        with Unpacker(root, limits, policy, prefix=b"rootfs", listed=True) as unpacker:
            manifest = _members(tar.Members(stream, limits), unpacker)
            unpacker.finish()
            unpacker.list(staging_dirfd)
    finally:
        stream.close()
        os.close(root)
    return {
        "manifest": manifest,
        "image_id": f"sha512-{stream.digest.hexdigest()}",
        "blob_digest": f"sha256-{shipped.digest.hexdigest()}",
        "size": shipped.size,
    }


def _members(members: tar.Members, unpacker: Unpacker) -> bytes:
    """Sorts the members of the two top-level names; returns the bytes of the manifest."""
    manifest: bytes | None = None
    seen_dot = seen_rootfs = False
    for member in unpacker.others(members):
        parts = tar.clean(member.path)
        if not parts:
            if member.kind != tar.DIRECTORY or seen_dot:
                _layout(member, "occurs twice" if seen_dot else f"the top of the archive is a {member.kind}")
            seen_dot = True
        elif parts == (b"rootfs",):  # what is below is written already
            if member.kind != tar.DIRECTORY:
                _layout(member, f"is a {member.kind} and should be a directory")
            seen_rootfs = True
            unpacker.add(member)
        elif parts == (b"manifest",):
            if manifest is not None or member.kind != tar.FILE:
                _layout(member, "occurs twice" if member.kind == tar.FILE else f"is a {member.kind} and should be a file")
            manifest = _manifest(member)
        else:
            _layout(member, "does not belong in an image")
    if manifest is None or not seen_rootfs:
        missing = "a manifest" if manifest is None else "a member for the directory rootfs"
        raise ArchiveError("unpack", "archive", f"has no {missing[2:]}", hint=_LAYOUT_HINT)
    return manifest


def _manifest(member: tar.Member) -> bytes:
    if member.sparse:
        _layout(member, "is sparse")
    if member.size > MAX_BYTES:
        _layout(member, f"has {member.size} bytes, {MAX_BYTES} are allowed")
    data = b""
    while piece := member.read(MAX_BYTES):
        data += piece
    parse_image_manifest(data)  # before gigabytes are unpacked for nothing
    return data


def _layout(member: tar.Member, reason: str) -> NoReturn:
    raise ArchiveError("unpack", printable(member.path), reason, hint=_LAYOUT_HINT)
