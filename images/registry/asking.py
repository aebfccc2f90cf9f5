"""One request to a server on the network: redirects followed by hand, tried again when that may help.

    Asker.document --> exchange --> 200, 206 ...   the caller's
                                +-> 401            log in, once more for a token that has expired
                                +-> 3xx            five at most, never from https to http
                                +-> 408 429 5xx    wait, begin again
                                +-> else           ImageError with what the server says of it

Secrets go to the server's own origin only: the header is left out from the first redirect to another
scheme, host or port on, even if a later one leads back.
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol, Self, TypeVar
from urllib.parse import urljoin

import urllib3

from pyrun.errors import DigestError, ImageError, ManifestError, NotFoundError, PyrunError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.images.registry.transport import CERTS_DIRS, Again, Patience, Transport, Url, Watch, failures

__all__ = ["Answer", "Asker", "closed"]

MAX_REDIRECTS = 5
MAX_LOGINS = 2
_MAX_COMPLAINT = 64 << 10
_REDIRECTS = (301, 302, 303, 307, 308)
AGAIN = (408, 429, 500, 502, 503, 504)
_PIECE = 256 << 10
_JITTER = random.SystemRandom()
ASK = "ask who runs the server"

T = TypeVar("T")


class Answer:
    """A document: its bytes, its media type without parameters, the digest that the server claims or "", and where more is (Link)."""

    __slots__ = ("claimed", "data", "following", "media_type")

    def __init__(self, data: bytes, media_type: str, claimed: str, following: str = "") -> None:
        self.data = data
        self.media_type = media_type
        self.claimed = claimed
        self.following = following


class Challenged(Protocol):
    """What answers a server that wants a login, see `auth.Login`."""

    @property
    def header(self) -> str: ...

    def answer(self, challenges: list[str], sent: str) -> str: ...


class Asker:
    """Asks the server of the URL `home`; threads may share it.  Use it in a `with`.  `title` is what messages name.

    `near` as for `Transport`, where it was not the user who named the server.
    """

    def __init__(
        self,
        home: Url,
        title: str,
        *,
        patience: Patience | None = None,
        certs_dirs: tuple[str, ...] = CERTS_DIRS,
        sleep: Callable[[float], object] | None = None,
        near: bool | None = None,
    ) -> None:
        self.home = home
        self.title = title
        self.patience = patience or Patience()
        self.attempts = self.patience.attempts
        self.transport = Transport(home, self.patience, certs_dirs, near)
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.transport.close()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Ends what other threads download; they get an ImageError."""
        self._stopped.set()
        self.transport.stop()

    def document(self, path: str, limit: int, accept: tuple[str, ...] = (), *, method: str = "GET") -> Answer:
        """A document at `path` (see `url`), at most `limit` bytes; with the method HEAD only what is said of it."""

        def once() -> Answer:
            with self.exchange(path, {"Accept": ", ".join(accept)} if accept else {}, method) as (url, response, watch):
                if response.status != 200:
                    self.complain(url, response, watch)
                watch.again(self.patience.document)
                data = self._whole(url, response, watch, limit) if method == "GET" else b""
                media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                more = response.headers.get("Link", "")
                return Answer(data, media_type, response.headers.get("Docker-Content-Digest", ""), more)

        return self.repeat(once)

    def url(self, path: str) -> Url:
        """What `path` means: an absolute URL, or something below `home`."""
        return Url(path if "://" in path else self.home.text + path, "address")

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
                if number >= self.attempts or self._stopped.is_set():
                    raise failure.error from None
                self._sleep(min(wait, self.patience.longest_wait))

    @contextlib.contextmanager
    def exchange(self, path: str, headers: dict[str, str], method: str = "GET") -> Iterator[tuple[Url, urllib3.BaseHTTPResponse, Watch]]:
        """The head of the server's own answer, logged in and redirects followed; closed, not kept, unless read to its end."""
        url = self.url(path)
        hops = logins = 0
        at_home = url.origin == self.home.origin
        while True:
            login = self.logging_in() if at_home else None
            sent = login.header if login else ""
            with self.transport.watch(url) as watch:
                response = self.transport.send(url, headers | ({"Authorization": sent} if sent else {}), watch, method)
                with closed(response):
                    if response.status == 401 and login and logins < MAX_LOGINS:
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
            login.answer(challenges, sent)

    def complain(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> NoReturn:
        """Raises what a status other than success means, in the registry's own words where it has some."""
        status = response.status
        words = self._words(url, response, watch)
        reason = f"{status} {printable(response.reason or '', 60).lower()}".rstrip() + (f": {words}" if words else "")
        place = "" if url.origin == self.home.origin else f" from {url.host}:{url.port}"
        subject = f"{self.title}{place}"
        if status in AGAIN:
            raise Again(ImageError("fetch", subject, reason, hint="try again later"), _retry_after(response.headers.get("Retry-After")))
        if status == 404:
            raise NotFoundError("fetch", subject, reason, hint=f"check how it is spelled; is it public? {self.home.host} may hide the rest")
        raise ImageError("fetch", subject, reason, hint=self.advice(status))

    def logging_in(self) -> Challenged | None:
        """What answers when the server wants a login; None where there is no login."""
        return None

    def advice(self, status: int) -> str:
        """A hint for a status that nothing can be done about."""
        return "it is not public" if status in (401, 403) else ASK

    def pieces(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> Iterator[bytes]:
        """The body as it comes, never decoded; `Again` when it breaks off, ImageError below the least rate (C13)."""
        patience = self.patience
        began, count = time.monotonic(), 0
        while True:
            if self._stopped.is_set():
                raise ImageError("fetch", self.title, "stopped", hint="see the first error")
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
                    raise ImageError("fetch", f"{self.title} from {url.host}:{url.port}", reason, hint=hint)
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
        raise ManifestError("fetch", self.title, f"the server sends more than {limit} bytes", hint="no real image needs that")

    def _follow(self, url: Url, response: urllib3.BaseHTTPResponse, hops: int) -> Url:
        place = response.headers.get("Location", "")
        if hops > MAX_REDIRECTS:
            raise ImageError("fetch", self.title, f"more than {MAX_REDIRECTS} redirects", hint=ASK)
        try:
            joined = urljoin(url.text, place)
        except ValueError:
            joined = ""
        following = Url(joined if place else "", "redirect")
        if following.scheme != "https" and (url.scheme == "https" or following.origin != self.home.origin):
            reason = f"redirected to {following}, which is not https"
            raise ImageError("fetch", self.title, reason, hint=ASK)
        return following

    def _refuse_encoding(self, url: Url, response: urllib3.BaseHTTPResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if response.status < 300 and encoding not in ("", "identity"):
            reason = f"{url.host}:{url.port} sends it encoded as {printable(encoding, 40)}, which was not asked for"
            raise DigestError("fetch", self.title, reason, hint=f"its digest would mean something else: {ASK}")

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
def closed(response: urllib3.BaseHTTPResponse) -> Iterator[urllib3.BaseHTTPResponse]:
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
