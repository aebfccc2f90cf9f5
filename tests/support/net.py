"""Scripted registries and pulls from them in this process, with a store, an authority, logins and a registries.conf of their own.

with ExitStack() as stack:
    net = Net(authority, store, folder, stack)
    server = net.serve(parts.answer)             # its certificate is accepted where net.known(server) was said
    net.pull(f"{server.place}/app:1", logins={server.place: "main"})
    net.secrets("main")                          # every form in which a request could give that login away
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from registries import Authority, Reply, Request, Scripted

from pyrun.images.registry.pull import pull
from pyrun.images.registry.transport import Patience
from pyrun.images.store import Image, Store
from pyrun.images.trust.gate import Gate

Answer = Callable[[Request], Reply]


def basic(name: str) -> str:
    """The Authorization header of the login `name`."""
    return "Basic " + base64.b64encode(f"{name}:secret-of-{name}".encode()).decode()


def challenge(text: str) -> Reply:
    return Reply(b"", 401, {"WWW-Authenticate": text})


def guarded(name: str, inner: Answer) -> Answer:
    """`inner` for who has the login `name`."""
    return lambda request: inner(request) if request.authorization == basic(name) else challenge('Basic realm="x"')


def tells(request: Request, name: str) -> bool:
    """Whether a request holds the login `name` or anything made of it."""
    text = " ".join([request.path, *request.headers.values()])
    return any(word in text for word in (f"secret-of-{name}", basic(name).partition(" ")[2], f"token-of-{name}"))


class Net:
    """Servers, and pulls that know them."""

    def __init__(self, authority: Authority, store: Store, folder: Path, stack: ExitStack) -> None:
        self.authority = authority
        self.store = store
        self.folder = folder
        self.stack = stack
        self.patience: dict[str, Any] = {"back_off": 0.001}
        if not (authority.folder / "server.crt").exists():
            authority.issue("server", "IP:127.0.0.1,IP:127.0.0.2,IP:192.0.2.1,DNS:localhost")

    def serve(self, answer: Answer, *, tls: bool = True, **more: Any) -> Scripted:
        pair = (self.authority.folder / "server.crt", self.authority.folder / "server.key")
        return self.stack.enter_context(Scripted(pair if tls else None, answer, **more))

    def known(self, *servers: Scripted) -> None:
        self.authority.certs_dirs(*(server.place for server in servers))

    def options(self, conf: str = "", logins: dict[str, str] | None = None) -> dict[str, Any]:
        """What `pull` is told: `conf` is the registries.conf, `logins` who we are at HOST:PORT."""
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc" / "registries.conf").write_text(conf)
        environ = {}
        if logins:
            path = self.folder / "auth.json"
            path.write_text(json.dumps({"auths": {place: {"auth": basic(who).partition(" ")[2]} for place, who in logins.items()}}))
            path.chmod(0o600)
            environ["REGISTRY_AUTH_FILE"] = str(path)
        return {
            "environ": environ,
            "system": str(self.folder / "etc"),
            "patience": Patience(**self.patience),
            "certs_dirs": (str(self.authority.folder / "certs.d"),),
            "sleep": lambda _: None,
        }

    def pull(
        self, name: str, conf: str = "", *, logins: dict[str, str] | None = None, http: tuple[str, ...] = (), unsigned: bool = True
    ) -> Image:
        return pull(self.store, f"docker://{name}", Gate(self.store, unsigned=unsigned), http=http, **self.options(conf, logins))
