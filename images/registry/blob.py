"""Downloading one blob into a file: hashed while it comes, stopped one byte too late, resumed where it was cut.

    200                            from the beginning
    206 for what was asked for     the kept part is hashed again, then what follows (RFC 9110 section 14)
    anything else after a cut      from the beginning

If-Range makes a server that has other bytes by now send all of them.  Whatever it claims, the digest decides.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import urllib3

from pyrun.errors import DigestError, ImageError
from pyrun.images.printable import printable
from pyrun.images.registry.client import Client
from pyrun.images.registry.transport import Again, Url, Watch

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Moved", "download"]

LEAST_TIME = 120  # seconds for any blob, before the rate counts
_READ = 1 << 20
_HINT = "ask who runs the registry"

Moved = Callable[[int], object]  # told of each step, in bytes; negative when some have to come again


def download(client: Client, target: str, digest: str, size: int, moved: Moved = lambda _: None) -> None:
    """Brings the blob `digest` (``sha256-<hex>``) of `size` bytes into the new file `target`; DigestError or ImageError without it."""
    work = _Download(client, target, digest, size, moved)
    try:
        work.run()
    except BaseException:
        os.unlink(target)
        raise
    finally:
        os.close(work.fd)


class _Download:
    """One blob on its way."""

    __slots__ = ("client", "deadline", "digest", "etag", "fd", "have", "hasher", "moved", "resumed", "size")

    def __init__(self, client: Client, target: str, digest: str, size: int, moved: Moved) -> None:
        self.client = client
        self.digest = digest
        self.size = size
        self.moved = moved
        self.have = 0
        self.etag = ""
        self.resumed = False
        self.hasher = self._new_hash()
        self.deadline = time.monotonic() + LEAST_TIME + size / client.patience.rate
        self.fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def run(self) -> None:
        """Downloads until the digest is right; a blob put together from parts gets a second chance as a whole."""
        while True:
            self.client.repeat(self._attempt)
            if self.hasher.hexdigest() == self.digest.partition("-")[2]:
                return
            if not self.resumed:
                self._refuse("what came has another digest")
            self._restart()
            self.resumed = False
            self.etag = ""

    def _attempt(self) -> None:
        before = self.have
        try:
            self._receive()
        except Again as failure:
            if self.have > before:
                raise Again(failure.error, 0.0 if failure.wait is None else failure.wait) from None
            raise

    def _receive(self) -> None:
        headers: dict[str, str] = {}
        if self.have == self.size and self.have:
            return
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if self.etag:
                headers["If-Range"] = self.etag
        with self.client.exchange(f"blobs/{self.digest.replace('-', ':', 1)}", headers) as (url, response, watch):
            self._begin(url, response, watch)
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise ImageError("fetch", self._title(), "it takes too long", hint="try again later; is the network slow?")
            watch.again(left)
            for piece in self.client.pieces(url, response, watch):
                self._take(piece)
            if self.have < self.size:
                reason = f"ends after {self.have} of {self.size} bytes"
                raise Again(DigestError("fetch", self._title(), reason, hint=_HINT))

    def _begin(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> None:
        """Looks at the head: goes on where the kept part ends, or begins anew."""
        etag = response.headers.get("ETag", "")
        if self.have and response.status == 206:
            wanted = f"bytes {self.have}-{self.size - 1}/{self.size}"
            same = not (etag and self.etag) or etag == self.etag
            if same and response.headers.get("Content-Range", "").strip() == wanted:
                self._rehash()
                self.resumed = True
                return
            self._restart()
            raise Again(DigestError("fetch", self._title(), "the registry resumed something else", hint=_HINT))
        if self.have and response.status == 416:
            self._restart()
            raise Again(DigestError("fetch", self._title(), "the registry does not have the rest of it", hint=_HINT))
        if response.status != 200:
            self.client.complain(url, response, watch)
        self._restart()
        self.etag = etag if etag.startswith('"') and etag.isascii() and etag.isprintable() and len(etag) < 256 else ""
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != self.size:
            self._refuse(f"the registry sends {printable(length, 20)} bytes, the manifest says {self.size}")

    def _take(self, piece: bytes) -> None:
        if self.have + len(piece) > self.size:
            self._refuse(f"the registry sends more than the {self.size} bytes that the manifest says")
        self.hasher.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self.fd, view) :]
        self.have += len(piece)
        self.moved(len(piece))

    def _rehash(self) -> None:
        """What is on disk counts, not what was thought to be written there."""
        self.hasher = self._new_hash()
        os.lseek(self.fd, 0, os.SEEK_SET)
        left = self.have
        while left and (piece := os.read(self.fd, min(left, _READ))):
            self.hasher.update(piece)
            left -= len(piece)

    def _restart(self) -> None:
        self.moved(-self.have)
        self.have = 0
        self.hasher = self._new_hash()
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def _new_hash(self) -> _Hash:
        return hashlib.new(self.digest.partition("-")[0])

    def _title(self) -> str:
        return f"{self.client.reference.name}@{self.digest.replace('-', ':', 1)[:19]}"

    def _refuse(self, reason: str) -> None:
        raise DigestError("fetch", self._title(), reason, hint=_HINT)
