"""Web servers for tests of URLs and discovery: one server on loopback that is every host which a test wants.

site = Site(authority, server, monkeypatch)       names lead to it, on whatever port, and to nothing else
site.files["example.com/app.aci"] = data          what it answers, by host and path; bytes, or a Reply
site.meta("example.com/app", "example.com T")     a page with such a tag
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registries import Authority, Reply, Request, Scripted

from pyrun.images.registry.transport import Patience
from pyrun.images.store import Image, Store
from pyrun.images.trust import Keyring
from pyrun.images.web.fetch import Fetcher
from pyrun.images.web.names import parse

HOSTS = ("example.com", "storage.example.com", "keys.example.com", "other.org", "localhost")
SAN = "IP:127.0.0.1," + ",".join(f"DNS:{name}" for name in HOSTS)
URL = "https://example.com/images/app.aci"
NAME = "example.com/app"
TEMPLATE = "https://storage.example.com/{name}-{version}.{ext}"


def page(*contents: str, name: str = "ac-discovery", around: str = "") -> bytes:
    """A page whose head has these tags."""
    tags = "".join(f'<meta name="{name}" content="{content}">' for content in contents)
    return f"<!DOCTYPE html><html><head><title>x</title>{tags}</head><body>{around}</body>".encode()


class Site:
    """What the server holds; `seen` are the requests as HOST/PATH."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Reply | Callable[[Request], Reply]] = {}
        self.cache = "max-age=0"  # what it says of how long its answers are good
        self.seen: list[str] = []
        self.requests: list[Request] = []
        self.real_look_up = socket.getaddrinfo
        self._guard = threading.Lock()

    def answer(self, request: Request) -> Reply:
        place = request.headers["host"].partition(":")[0] + request.path
        with self._guard:
            self.seen.append(place)
            self.requests.append(request)
        found = self.files.get(place)
        if callable(found):
            return found(request)
        if isinstance(found, Reply):
            return found
        return Reply(b"nothing here", 404) if found is None else self.conditional(request, found)

    def conditional(self, request: Request, data: bytes) -> Reply:
        tag = f'"{hash(data) & 0xFFFFFFFF:x}"'
        if request.headers.get("if-none-match") == tag:
            return Reply(b"", 304, {"ETag": tag, "Cache-Control": self.cache})
        return Reply(data, headers={"ETag": tag, "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT", "Cache-Control": self.cache})

    def meta(self, place: str, *contents: str, **more: str) -> None:
        """Puts a page for discovery."""
        slash = "" if "/" in place else "/"
        self.files[f"{place}{slash}?ac-discovery=1"] = page(*contents, **more)

    def offer(self, place: str, image: Path, *, signed: bool = True) -> None:
        """Puts an image, and its signature beside it."""
        self.files[place] = image.read_bytes()
        if signed:
            self.files[f"{place}.asc"] = Path(f"{image}.asc").read_bytes()

    def lead_here(self, monkeypatch: Any, server: Scripted, hosts: tuple[str, ...] = HOSTS) -> None:
        """Makes the hosts, and no others, lead to the server, whatever port is asked for."""

        def look_up(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            if host not in hosts and host != "127.0.0.1":
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.server_address[1]))]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)


def certificate(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("site", SAN)


class Bench:
    """A store that trusts the test key for example.com, and fetchers for it."""

    def __init__(self, store: Store, keyring: Keyring, authority: Authority, folder: Path) -> None:
        self.store = store
        self.keyring = keyring
        self.environ = {"HOME": str(folder)}
        self.fetch_certs: tuple[str, ...] = (str(authority.folder / "certs.d"),)

    def fetcher(self, patience: Patience | None = None, **more: Any) -> Fetcher:
        return Fetcher(
            self.store,
            keyring=self.keyring,
            patience=patience or Patience(back_off=0.01),
            certs_dirs=self.fetch_certs,
            environ=self.environ,
            **more,
        )

    def url(self, text: str = URL, signature: str | None = None, **more: Any) -> Image:
        return self.fetcher(**more).url(text, signature)

    def name(self, text: str = NAME, **more: Any) -> Image:
        return self.fetcher(**more).name(parse(text))

    def forget_key(self) -> None:
        """Stops trusting the key of the image that was fetched."""
        signature = self.store.find(NAME).signature
        assert signature is not None
        self.keyring.remove(signature["fingerprint"])
