"""Logging in: challenges (RFC 9110 section 11) and tokens (distribution's "Token Authentication Specification").

    registry: 401, WWW-Authenticate: Bearer realm=URL --> URL?service=&scope= --> token --> registry

The registry names the URL, so it is not trusted with secrets: credentials go to it only over https, and only where it
is on the registry's own host, or the credential files have an entry for the URL's host.  It may not be an address
instead of a name, unless it is the registry's own, and it may not redirect.
"""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Callable, Mapping
from typing import NoReturn
from urllib.parse import urlencode

from pyrun.errors import ImageError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.images.registry.credentials import Credential, find
from pyrun.images.registry.reference import HUB, RegistryReference
from pyrun.images.registry.transport import Url

__all__ = ["Login", "parse_challenges"]

MAX_TOKEN = 1 << 20
_HUB_REALM = ("https", "auth.docker.io", 443)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,65536}=*")  # RFC 6750 section 2.1
_CHALLENGE = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?\s*(,?)')
_MAX_HEADER = 8192
_LOGIN = "log in first (podman login, docker login or skopeo login), or name the file: REGISTRY_AUTH_FILE"

Ask = Callable[[Url, dict[str, str]], bytes]  # a GET without redirects and challenges; the body, at most MAX_TOKEN


def parse_challenges(headers: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Challenges as (scheme in lower case, parameters), in order; what cannot be read ends the list."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        text, at = header[:_MAX_HEADER], 0
        while match := _CHALLENGE.match(text, at):
            name, quoted, plain, _ = match.groups()
            at = match.end()
            if quoted is None and plain is None:
                found.append((name.lower(), {}))
            elif found:
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
                found[-1][1].setdefault(name.lower(), value)
    return found


class Login:
    """Answers the challenges of one registry for one repository; threads may share it."""

    def __init__(self, reference: RegistryReference, home: Url, ask: Ask, environ: Mapping[str, str] | None = None) -> None:
        self._reference = reference
        self._home = home
        self._ask = ask
        self._environ = environ
        self._lock = threading.Lock()
        self._header = ""
        self._secrets: set[str] = set()

    @property
    def header(self) -> str:
        """The Authorization header that worked last; "" before the first challenge."""
        return self._header

    def is_told(self, text: str) -> bool:
        """Whether a text holds a secret of ours: what a server repeats to us is not for others to read."""
        return any(secret in text for secret in self._secrets)

    def answer(self, challenges: list[str], sent: str) -> str:
        """The header to try after a 401 that came although `sent` was sent; ImageError when there is nothing to try."""
        with self._lock:
            if self._header and self._header != sent:
                return self._header  # another thread was quicker
            offered = dict(reversed(parse_challenges(challenges)))
            if "bearer" in offered:
                if sent and sent == self._header and not sent.startswith("Bearer "):
                    self._denied("the credentials are not accepted")
                self._header = f"Bearer {self._token(offered['bearer'])}"
            elif "basic" in offered:
                if sent:
                    self._denied("the credentials are not accepted")
                self._header = self._credential().basic()
            else:
                names = printable(", ".join(offered) or "nothing", 80)
                self._denied(f"it wants a login of a kind that is not known ({names})", "pyrun knows Basic and Bearer")
            self._secrets.add(self._header.partition(" ")[2])
            return self._header

    def _credential(self) -> Credential:
        found = None if self._home.scheme != "https" else find(self._reference.registry, self._reference.repository, environ=self._environ)
        if found is None:
            secure = self._home.scheme == "https"
            self._denied("it wants a login", _LOGIN if secure else "passwords are not sent over plain http")
        return self._noted(found)

    def _token(self, challenge: dict[str, str]) -> str:
        realm = self._realm(challenge.get("realm", ""))
        credential = self._credential_for(realm)
        query = {"service": challenge["service"]} if challenge.get("service") else {}
        query["scope"] = f"repository:{self._reference.repository}:pull"  # never what the challenge asks for
        if credential is not None:
            query["account"] = credential.user
        mark = "&" if "?" in realm.target else "?"
        url = Url(f"{realm.text}{mark}{urlencode(query)}", "token server")
        data = self._ask(url, {"Authorization": credential.basic()} if credential is not None else {})
        try:
            answer = strictjson.loads(data, what="token", case_twins="allow", limit=MAX_TOKEN)
        except ImageError:
            self._denied(f"the token server {realm.host} answers nonsense", "ask who runs the registry")
        token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            self._denied(f"the token server {realm.host} sent no token", "ask who runs the registry")
        return token

    def _realm(self, text: str) -> Url:
        realm = Url(text, "realm of the registry's challenge")
        home = self._home
        if realm.scheme != "https" and not (home.scheme == "http" and realm.host == home.host):
            self._denied(f"its token server {realm} is not https", "ask who runs the registry")
        if realm.host != home.host and _is_address(realm.host):
            self._denied(f"its token server {realm} is an address, not a name", "ask who runs the registry")
        return realm

    def _credential_for(self, realm: Url) -> Credential | None:
        """What may be sent to a token server; without it the token is an anonymous one."""
        if realm.scheme != "https" or self._home.scheme != "https":
            return None
        reference = self._reference
        if realm.host == self._home.host or (reference.host == HUB and realm.origin == _HUB_REALM):
            found = find(reference.registry, reference.repository, environ=self._environ)
        else:
            found = find(realm.host if realm.port == 443 else f"{realm.host}:{realm.port}", environ=self._environ)
        return self._noted(found) if found is not None else None

    def _noted(self, credential: Credential) -> Credential:
        """A credential that will be sent."""
        self._secrets |= {credential.secret, credential.basic().partition(" ")[2]}
        return credential

    def _denied(self, reason: str, hint: str = _LOGIN) -> NoReturn:
        raise ImageError("log in to", self._reference.registry, reason, hint=hint)


def _is_address(host: str) -> bool:
    """Whether a host is written as a number, in any of the forms that inet_aton(3) takes."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.rpartition(".")[2][:1].isdigit() or host == "localhost"
    return True
