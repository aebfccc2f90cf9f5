"""Downloading one blob, or any other file, into a file: hashed while it comes, stopped one byte too late, resumed where it was cut.

    200                            from the beginning
    206 for what was asked for     the kept part is hashed again, then what follows (RFC 9110 section 14)
    anything else after a cut      from the beginning

If-Range makes a server that has other bytes by now send all of them.  Whatever it claims, the digest decides.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

import urllib3

from pyrun.errors import DigestError, ImageError
from pyrun.images.printable import printable
from pyrun.images.registry.asking import ASK, Asker
from pyrun.images.registry.client import Client
from pyrun.images.registry.transport import Again, Url, Watch

__all__ = ["Download", "Moved", "download"]

LEAST_TIME = 120  # seconds for any blob, before the rate counts
_READ = 1 << 20

Moved = Callable[[int], object]  # told of each step, in bytes; negative when some have to come again


def download(client: Client, target: str, digest: str, size: int, moved: Moved = lambda _: None) -> None:
    """Brings the blob `digest` (``sha256-<hex>``) of `size` bytes into the new file `target`; DigestError or ImageError without it."""
    algorithm, _, digits = digest.partition("-")
    spelled = f"{algorithm}:{digits}"
    title = f"{client.reference.name}@{spelled[:19]}"
    work = Download(client, f"blobs/{spelled}", target, title, size=size, digest=digest, moved=moved)
    with work:
        while True:
            work.run()
            if work.hasher.hexdigest() == digits:
                return
            if not work.resumed:
                work.refuse("what came has another digest")
            work.forget()  # one put together from parts gets a second chance as a whole


class Download:
    """One file on its way into the new file `target`, which is there no longer when the `with` block fails.

    Without a `size` it is whatever the server says, up to `limit` bytes; without a `digest` what was cut goes on only where
    the server vouches with an ETag that it still has the same.  `headers` of the answer are kept.
    """

    __slots__ = (
        "algorithm", "asker", "deadline", "digest", "etag", "fd", "have", "hasher", "headers", "limit", "moved", "path",
        "pinned", "resumed", "size", "target", "title", "unchanged",
    )  # fmt: skip

    def __init__(
        self,
        asker: Asker,
        path: str,
        target: str,
        title: str,
        *,
        size: int | None = None,
        limit: int = 0,
        digest: str = "",
        moved: Moved = lambda _: None,
    ) -> None:
        self.asker = asker
        self.path = path
        self.target = target
        self.title = title
        self.size = size
        self.pinned = size is not None
        self.limit = limit if size is None else size
        self.digest = digest
        self.algorithm = digest.partition("-")[0] or "sha256"
        self.moved = moved
        self.have = 0
        self.etag = ""
        self.headers: Mapping[str, str] = {}
        self.resumed = self.unchanged = False
        self.hasher = hashlib.new(self.algorithm)
        self.deadline = 0.0
        self.fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def __enter__(self) -> Download:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        os.close(self.fd)
        if kind is not None:
            os.unlink(self.target)

    def run(self, conditions: Mapping[str, str] | None = None) -> None:
        """Downloads all of it, unless the server finds that with these `conditions` (RFC 9110 section 13) it is `unchanged`."""
        self.asker.repeat(lambda: self._attempt(conditions or {}))

    def forget(self) -> None:
        """Begins anew, as if nothing had come yet."""
        self._restart()
        self.resumed = False
        self.etag = ""

    def refuse(self, reason: str) -> NoReturn:
        """Raises DigestError."""
        raise DigestError("fetch", self.title, reason, hint=ASK)

    def _attempt(self, conditions: Mapping[str, str]) -> None:
        before = self.have
        try:
            self._receive(conditions)
        except Again as failure:
            if self.have > before:
                raise Again(failure.error, 0.0 if failure.wait is None else failure.wait) from None
            raise

    def _receive(self, conditions: Mapping[str, str]) -> None:
        if self.have and self.have == self.size:
            return
        if self.have and (self.size is None or not (self.digest or self.etag)):
            self._restart()
        headers = dict(conditions)
        if self.have:
            headers = {"Range": f"bytes={self.have}-"}
            if self.etag:
                headers["If-Range"] = self.etag
        with self.asker.exchange(self.path, headers) as (url, response, watch):
            if response.status == 304 and conditions and not self.have:
                self.unchanged = True
                self.headers = response.headers
                return
            self._begin(url, response, watch)
            watch.again(self._time_left())
            for piece in self.asker.pieces(url, response, watch):
                self._take(piece)
            if self.size is not None and self.have < self.size:
                reason = f"ends after {self.have} of {self.size} bytes"
                raise Again(DigestError("fetch", self.title, reason, hint=ASK))

    def _time_left(self) -> float:
        """Seconds until the whole download has taken too long."""
        now = time.monotonic()
        self.deadline = self.deadline or now + LEAST_TIME + (self.limit if self.size is None else self.size) / self.asker.patience.rate
        if self.deadline <= now:
            raise ImageError("fetch", self.title, "it takes too long", hint="try again later; is the network slow?")
        return self.deadline - now

    def _begin(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> None:
        """Looks at the head: goes on where the kept part ends, or begins anew."""
        etag = response.headers.get("ETag", "")
        if self.have and response.status == 206:
            wanted = f"bytes {self.have}-{(self.size or 0) - 1}/{self.size}"
            same = not (etag and self.etag) or etag == self.etag
            if same and response.headers.get("Content-Range", "").strip() == wanted:
                self._rehash()
                self.resumed = True
                return
            self._restart()
            raise Again(DigestError("fetch", self.title, "the server resumed something else", hint=ASK))
        if self.have and response.status == 416:
            self._restart()
            raise Again(DigestError("fetch", self.title, "the server does not have the rest of it", hint=ASK))
        if response.status != 200:
            self.asker.complain(url, response, watch)
        self._restart()
        self.headers = response.headers
        self.etag = etag if etag.startswith('"') and etag.isascii() and etag.isprintable() and len(etag) < 256 else ""
        length = response.headers.get("Content-Length", "")
        if self.pinned and length.isdigit() and int(length) != self.size:
            self.refuse(f"the server sends {printable(length, 20)} bytes, the manifest says {self.size}")
        if not self.pinned:
            self.size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
            if self.size is not None and self.size > self.limit:
                self.refuse(f"the server sends {self.size} bytes, more than the {self.limit} that it may have")

    def _take(self, piece: bytes) -> None:
        if self.have + len(piece) > self.limit:
            self.refuse(f"the server sends more than the {self.limit} bytes that {'the manifest says' if self.pinned else 'it may have'}")
        self.hasher.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self.fd, view) :]
        self.have += len(piece)
        self.moved(len(piece))

    def _rehash(self) -> None:
        """What is on disk counts, not what was thought to be written there."""
        self.hasher = hashlib.new(self.algorithm)
        os.lseek(self.fd, 0, os.SEEK_SET)
        left = self.have
        while left and (piece := os.read(self.fd, min(left, _READ))):
            self.hasher.update(piece)
            left -= len(piece)

    def _restart(self) -> None:
        self.moved(-self.have)
        self.have = 0
        self.hasher = hashlib.new(self.algorithm)
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
