"""Asking a registry: log in when told to, follow redirects by hand, try again when that may help.

    Client.ask --> exchange --> 200, 206 ...   the caller's
                             +-> 401           log in, once more for a token that has expired
                             +-> 3xx           five at most, never from https to http
                             +-> 408 429 5xx   wait, begin again
                             +-> else          ImageError with what the registry says of it

Secrets go to the registry's own origin only: the header is left out from the first redirect to another
scheme, host or port on, even if a later one leads back.
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, TypeVar
from urllib.parse import urljoin

import urllib3

from pyrun.errors import DigestError, ImageError, ManifestError, NotFoundError, PyrunError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.images.registry.auth import MAX_TOKEN, Login
from pyrun.images.registry.reference import RegistryReference
from pyrun.images.registry.transport import CERTS_DIRS, Again, Patience, Transport, Url, Watch, failures

__all__ = ["Answer", "Client"]

MAX_REDIRECTS = 5
MAX_LOGINS = 2
_MAX_COMPLAINT = 64 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 429, 500, 502, 503, 504)
_PIECE = 256 << 10
_JITTER = random.SystemRandom()

T = TypeVar("T")


class Answer:
    """A document: its bytes, its media type without parameters, and the digest that the registry claims or ""."""

    __slots__ = ("claimed", "data", "media_type")

    def __init__(self, data: bytes, media_type: str, claimed: str) -> None:
        self.data = data
        self.media_type = media_type
        self.claimed = claimed


class Client:
    """Asks one registry about one repository; threads may share it.  Use it in a `with`.

    With `http` the registry is asked over plain http, without a password.
    """

    def __init__(
        self,
        reference: RegistryReference,
        *,
        http: bool = False,
        patience: Patience | None = None,
        environ: Mapping[str, str] | None = None,
        certs_dirs: tuple[str, ...] = CERTS_DIRS,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.reference = reference
        self.patience = patience or Patience()
        port = f":{reference.port}" if reference.port else ""
        self.home = Url(f"{'http' if http else 'https'}://{reference.server}{port}/v2/", "registry")
        self.transport = Transport(self.home, self.patience, certs_dirs)
        self.login = Login(reference, self.home, self._token, environ)
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.transport.close()

    def stop(self) -> None:
        """Ends what other threads download; they get an ImageError."""
        self._stopped.set()
        self.transport.stop()

    def document(self, path: str, limit: int, accept: tuple[str, ...] = ()) -> Answer:
        """A document of the repository, at most `limit` bytes: ``manifests/TAG`` or ``blobs/DIGEST``."""

        def once() -> Answer:
            with self.exchange(path, {"Accept": ", ".join(accept)} if accept else {}) as (url, response, watch):
                if response.status != 200:
                    self.complain(url, response, watch)
                watch.again(self.patience.document)
                data = self._whole(url, response, watch, limit)
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                return Answer(data, media_type, response.headers.get("Docker-Content-Digest", ""))

        return self.repeat(once)

    def repeat(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns, tried as often as patience lasts; the last error else."""
        number = 0
        while True:
            try:
                return attempt()
            except Again as failure:
                number += 1
                wait = self.patience.back_off * 2 ** (number - 1) * _JITTER.uniform(0.5, 1.5)
                if failure.wait is not None:
                    wait = max(failure.wait, wait / 4)
                if wait > self.patience.longest_wait and failure.wait is not None:
                    failure.error.hint = f"it wants us to wait for {int(wait)} seconds"
                    raise failure.error from None
                if number >= self.patience.attempts or self._stopped.is_set():
                    raise failure.error from None
                self._sleep(min(wait, self.patience.longest_wait))

    @contextlib.contextmanager
    def exchange(self, path: str, headers: dict[str, str]) -> Iterator[tuple[Url, urllib3.BaseHTTPResponse, Watch]]:
        """The head of the registry's own answer, logged in and redirects followed; closed, not kept, unless read to its end."""
        url = Url(f"{self.home.text}{self.reference.repository}/{path}", "registry")
        hops = logins = 0
        at_home = True
        while True:
            sent = self.login.header if at_home else ""
            with self.transport.watch(url) as watch:
                response = self.transport.send(url, headers | ({"Authorization": sent} if sent else {}), watch)
                with _closed(response):
                    if response.status == 401 and at_home and logins < MAX_LOGINS:
                        logins += 1
                        challenges = response.headers.getlist("WWW-Authenticate")
                    elif response.status in _REDIRECTS:
                        hops += 1
                        url = self._follow(url, response, hops)
                        at_home = at_home and url.origin == self.home.origin
                        continue
                    else:
                        self._refuse_encoding(url, response)
                        yield url, response, watch
                        return
            self.login.answer(challenges, sent)

    def complain(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> NoReturn:
        """Raises what a status other than success means, in the registry's own words where it has some."""
        status = response.status
        words = self._words(url, response, watch)
        reason = f"{status} {printable(response.reason or '', 60).lower()}".rstrip() + (f": {words}" if words else "")
        place = "" if url.origin == self.home.origin else f" from {url.host}:{url.port}"
        subject = f"{self.reference}{place}"
        if status in _AGAIN:
            raise Again(ImageError("fetch", subject, reason, hint="try again later"), _retry_after(response.headers.get("Retry-After")))
        if status == 404:
            raise NotFoundError("fetch", subject, reason, hint=f"check how it is spelled; is it public? {self.home.host} may hide the rest")
        if status in (401, 403):
            user = "the account that you logged in with may not read it" if self.login.header.startswith("Basic ") else "log in, or check"
            hint = f"{user}: podman login {self.reference.registry} writes what is read here; the name may be wrong as well"
            raise ImageError("fetch", subject, reason, hint=hint)
        raise ImageError("fetch", subject, reason, hint="ask who runs the registry")

    def pieces(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> Iterator[bytes]:
        """The body as it comes, never decoded; `Again` when it breaks off, ImageError below the least rate (C13)."""
        patience = self.patience
        began, count = time.monotonic(), 0
        while True:
            if self._stopped.is_set():
                raise ImageError("fetch", str(self.reference), "stopped", hint="see the first error")
            with failures(url, watch):
                piece = response.read1(_PIECE, decode_content=False)
            if not piece:
                return
            count += len(piece)
            yield piece
            now = time.monotonic()
            if now - began >= patience.window:
                if count < patience.rate * (now - began):
                    reason = f"it sends {int(count / (now - began))} bytes a second"
                    hint = f"less than {patience.rate} are not waited for: try again later"
                    raise ImageError("fetch", f"{self.reference} from {url.host}:{url.port}", reason, hint=hint)
                began, count = now, 0

    def _whole(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch, limit: int) -> bytes:
        length = response.headers.get("Content-Length", "")
        data = bytearray()
        if not (length.isdigit() and int(length) > limit):
            for piece in self.pieces(url, response, watch):
                data += piece
                if len(data) > limit:
                    break
            else:
                return bytes(data)
        raise ManifestError("fetch", str(self.reference), f"the registry sends more than {limit} bytes", hint="no real image needs that")

    def _token(self, url: Url, headers: dict[str, str]) -> bytes:
        """The answer of a token server, which may not send us elsewhere."""

        def once() -> bytes:
            with self.transport.watch(url) as watch, _closed(self.transport.send(url, headers, watch)) as response:
                if response.status != 200:
                    if response.status in _AGAIN:
                        self.complain(url, response, watch)
                    self._refuse_token(url, response, watch, bool(headers))
                self._refuse_encoding(url, response)
                watch.again(self.patience.document)
                return self._whole(url, response, watch, MAX_TOKEN)

        return self.repeat(once)

    def _refuse_token(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch, known: bool) -> NoReturn:
        words = self._words(url, response, watch)
        reason = f"its token server {url.host} answers {response.status}" + (f": {words}" if words else "")
        hint = "are the credentials right? log in again (podman login)" if known else "log in first (podman login, docker login)"
        raise ImageError("log in to", self.reference.registry, reason, hint=hint)

    def _follow(self, url: Url, response: urllib3.BaseHTTPResponse, hops: int) -> Url:
        place = response.headers.get("Location", "")
        if hops > MAX_REDIRECTS:
            raise ImageError("fetch", str(self.reference), f"more than {MAX_REDIRECTS} redirects", hint="ask who runs the registry")
        try:
            joined = urljoin(url.text, place)
        except ValueError:
            joined = ""
        following = Url(joined if place else "", "redirect of the registry")
        if following.scheme != "https" and (url.scheme == "https" or following.origin != self.home.origin):
            reason = f"redirected to {following}, which is not https"
            raise ImageError("fetch", str(self.reference), reason, hint="ask who runs the registry")
        return following

    def _refuse_encoding(self, url: Url, response: urllib3.BaseHTTPResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if response.status < 300 and encoding not in ("", "identity"):
            reason = f"{url.host}:{url.port} sends it encoded as {printable(encoding, 40)}, which was not asked for"
            raise DigestError("fetch", str(self.reference), reason, hint="its digest would mean something else: ask who runs the registry")

    def _words(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> str:
        """The first of errors[] in the body (distribution-spec, "Error Codes"), on one line."""
        data = b""
        try:
            watch.again(self.patience.head)
            for piece in self.pieces(url, response, watch):
                data += piece
                if len(data) > _MAX_COMPLAINT:
                    return ""
            document = strictjson.loads(data, what="complaint", case_twins="allow", limit=_MAX_COMPLAINT)
        except (PyrunError, Again):
            return ""
        errors = document.get("errors") if isinstance(document, dict) else None
        first = errors[0] if isinstance(errors, list) and errors else None
        if not isinstance(first, dict):
            return ""
        parts = [first.get(name) for name in ("code", "message")]
        return printable(", ".join(part for part in parts if isinstance(part, str) and part), 200)


@contextlib.contextmanager
def _closed(response: urllib3.BaseHTTPResponse) -> Iterator[urllib3.BaseHTTPResponse]:
    """A body that was not read to its end takes its connection with it."""
    try:
        yield response
    finally:
        if getattr(response, "length_remaining", None) == 0:
            response.drain_conn()  # http.client calls an empty body read only when somebody has read it
        else:
            response.close()
        response.release_conn()


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of them or a date (RFC 9110 section 10.2.3); None for anything else."""
    value = (value or "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
