"""Asking a registry about one repository (distribution-spec 1.1): what `asking` does, logged in where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import urllib3

from pyrun.errors import ImageError
from pyrun.images.registry.asking import AGAIN, ASK, Asker, closed
from pyrun.images.registry.auth import MAX_TOKEN, Login
from pyrun.images.registry.reference import RegistryReference
from pyrun.images.registry.transport import CERTS_DIRS, Patience, Url, Watch

__all__ = ["Client"]


class Client(Asker):
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
        port = f":{reference.port}" if reference.port else ""
        home = Url(f"{'http' if http else 'https'}://{reference.server}{port}/v2/", "registry")
        super().__init__(home, str(reference), patience=patience, certs_dirs=certs_dirs, sleep=sleep)
        self.reference = reference
        self.login = Login(reference, home, self._token, environ)

    def url(self, path: str) -> Url:
        """What `path` means: ``manifests/TAG`` or ``blobs/DIGEST`` of the repository, or a whole URL."""
        return Url(path if "://" in path else f"{self.home.text}{self.reference.repository}/{path}", "registry")

    def logging_in(self) -> Login:
        """The login of the registry."""
        return self.login

    def advice(self, status: int) -> str:
        """A hint for a status that nothing can be done about; for a refused login, where logins come from."""
        if status not in (401, 403):
            return ASK
        user = "the account that you logged in with may not read it" if self.login.header.startswith("Basic ") else "log in, or check"
        return f"{user}: podman login {self.reference.registry} writes what is read here; the name may be wrong as well"

    def _words(self, url: Url, response: urllib3.BaseHTTPResponse, watch: Watch) -> str:
        words = super()._words(url, response, watch)
        return "" if self.login.is_told(words) else words

    def _token(self, url: Url, headers: dict[str, str]) -> bytes:
        """The answer of a token server, which may not send us elsewhere."""

        def once() -> bytes:
            with self.transport.watch(url) as watch, closed(self.transport.send(url, headers, watch)) as response:
                if response.status != 200:
                    if response.status in AGAIN:
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
