"""Asking web servers for one image: a page, a signature, the file; and the walk of discovery up the paths of a name.

    https://example.com/a/b?ac-discovery=1 --4xx, 5xx or no tag--> https://example.com/a?... --> https://example.com?...

Each server is asked for what it was named for.  Passwords go to their own origin only, and over https only.  Plain http
is spoken with servers that the user names for it.  A server that another one named, by a tag or a redirect, is not
asked where its address is one of this host or link, unless the one that named it is there as well (C11).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

from pyrun.errors import ImageError, NotFoundError, PyrunError
from pyrun.images.registry.asking import AGAIN, ASK, Asker
from pyrun.images.registry.auth import parse_challenges
from pyrun.images.registry.credentials import find
from pyrun.images.registry.transport import Url
from pyrun.images.web.meta import MAX_PAGE, meta_tags
from pyrun.images.web.names import AppName

__all__ = ["Web", "address", "walk"]

_ATTEMPTS = 2  # for pages; where one cannot be had, the next one may do
_LOGIN = "log in first (podman login, docker login or skopeo login write what is read here), or name the file: REGISTRY_AUTH_FILE"

T = TypeVar("T")


def address(text: str, http: Collection[str], what: str = "address of the image") -> Url:
    """A URL that may be asked; ImageError for one that is none, or http where `http` does not hold its HOST[:PORT]."""
    url = Url(text, what)
    if url.scheme == "http" and place(url) not in http:
        hint = f"plain http is accepted with --insecure-options=http:{place(url)}"
        raise ImageError("fetch", str(url), "it is not https", hint=hint)
    return url


def place(url: Url) -> str:
    """HOST, or HOST:PORT where the port is not the usual one: how credential files and options write it."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port == (443 if url.scheme == "https" else 80) else f"{host}:{url.port}"


class Web(Asker):
    """Asks the server of `home`, and through `at` the others that it leads to.  Use it in a `with`.

    `http` holds places that may be asked over plain http, `near` is as for `Transport`; the rest goes to `Asker`.
    """

    def __init__(
        self,
        home: Url,
        title: str,
        *,
        http: Collection[str] = (),
        near: bool | None = None,
        environ: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(home, title, near=near, **more)
        self.http = http
        self._environ = environ
        self._more = more
        self._login = _Basic(home, environ)
        self._others: dict[tuple[str, str, int], Web] = {}

    def __exit__(self, *_exc: object) -> None:
        for other in self._others.values():
            other.__exit__()
        super().__exit__()

    def at(self, url: Url, *, named: bool = False) -> Web:
        """What asks the server of `url`; `named` says that the user wrote it."""
        if url.origin == self.home.origin:
            return self
        if url.origin not in self._others:
            near = None if named else self.transport.near
            self._others[url.origin] = Web(url, self.title, http=self.http, near=near, environ=self._environ, **self._more)
        return self._others[url.origin]

    def logging_in(self) -> _Basic:
        """The login of the home server."""
        return self._login

    def page(self, url: str) -> tuple[int, bytes]:
        """Status and beginning of a page; nothing of it where the status is not 200.  ImageError when no answer comes."""
        status = 0

        def once() -> bytes:
            nonlocal status
            with self.exchange(url, {"Accept": "text/html"}) as (final, response, watch):
                status = response.status
                if status in AGAIN:
                    self.complain(final, response, watch)
                data = bytearray()
                if status == 200:
                    watch.again(self.patience.document)
                    for piece in self.pieces(final, response, watch):
                        data += piece
                        if len(data) >= MAX_PAGE:
                            break
                return bytes(data)

        try:
            data = self.repeat(once)
        except ImageError:
            if status in AGAIN:
                return status, b""
            raise
        return status, data


class _Basic:
    """Answers a server that wants a password (RFC 7617) from the credential files; see `registry.credentials`."""

    def __init__(self, home: Url, environ: Mapping[str, str] | None) -> None:
        self._home = home
        self._environ = environ
        self.header = ""

    def answer(self, challenges: list[str], sent: str) -> str:
        """The header to try next; ImageError when there is none."""
        if sent:
            self._denied("the credentials are not accepted")
        if "basic" not in dict(parse_challenges(challenges)):
            self._denied("it wants a login of a kind that is not known")
        if self._home.scheme != "https":
            self._denied("passwords are not sent over plain http")
        found = find(place(self._home), self._home.target.partition("?")[0].strip("/"), environ=self._environ)
        if found is None:
            self._denied("it wants a login")
        self.header = found.basic()
        return self.header

    def _denied(self, reason: str) -> NoReturn:
        raise ImageError("log in to", place(self._home), reason, hint=_LOGIN)


def walk(
    app: AppName,
    pick: Callable[[list[tuple[str, str]], AppName], list[T]],
    what: str,
    *,
    http: Collection[str] = (),
    near: bool | None = None,
    **more: Any,
) -> tuple[list[T], Web]:
    """What `pick` finds in the tags of the first page that has some of it, and who was asked, to be closed by the caller.

    NotFoundError when no level has `what`, ImageError when the server gives no answer.
    """
    scheme = "http" if app.host in http else "https"
    web = Web(Url(f"{scheme}://{app.host}/", "name"), str(app), http=http, near=near, **more)
    web.attempts = _ATTEMPTS
    tried = []
    try:
        for level in app.levels():
            status, page = web.page(f"{scheme}://{level}?ac-discovery=1")
            found = pick(meta_tags(page), app)
            if found:
                web.attempts = web.patience.attempts
                return found, web
            tried.append(f"{level} {f'answers {status}' if status != 200 else f'names no {what}'}")
        raise NotFoundError("discover", str(app), "; ".join(tried), hint=f"check how it is spelled, or {ASK}")
    except BaseException as error:
        web.__exit__()
        if isinstance(error, PyrunError):
            error.origin = error.origin or f"discovery of {app}"
        raise
