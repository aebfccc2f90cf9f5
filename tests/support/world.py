"""Debian's docker-registry over TLS, three of them: open to all, with htpasswd, with tokens; and images pushed into them.

with worlds(folder) as world:            world.registries["none" | "htpasswd" | "token"]
    world.push(registry)                 the image team/test:1, pushed by skopeo
    world.environment(registry)          variables in which pyrun knows the authority, and who we are
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from registries import Authority, ImageParts, Reply, Request, Scripted

SECRET = "hunter2-very-secret"
GREETING = "hello from a registry"


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Tokens:
    """A token server as distribution describes it: RS256, the certificate in x5c; it grants what `me` asks for, and nothing to others."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "token.key", folder / "token.crt"
        new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "2"]
        subprocess.run(["openssl", *new, "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)

    def answer(self, request: Request) -> Reply:
        query = parse_qs(urlsplit(request.path).query)
        good = request.authorization == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
        if request.authorization and not good:
            return Reply(b'{"details": "wrong password"}', 401)
        access = []
        for scope in query.get("scope", []) if good else []:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return Reply(json.dumps({"token": self.token(query["service"][0], access)}).encode())

    def token(self, service: str, access: list[dict[str, object]]) -> str:
        der = "".join(self.certificate.read_text().splitlines()[1:-1])
        now = int(time.time())
        claims = {"iss": "tests", "sub": "me", "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1", "access": access}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = ".".join(url64(json.dumps(part).encode()) for part in (head, claims))
        done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=signed.encode(), capture_output=True, check=True)
        return f"{signed}.{url64(done.stdout)}"


class Registry:
    """A running docker-registry; `place` is its HOST:PORT."""

    def __init__(self, folder: Path, authority: Authority, auth: dict[str, object]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.place = f"127.0.0.1:{port}"
        certificate, key = authority.issue(f"registry-{port}")
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.place, "secret": "x", "tls": {"certificate": str(certificate), "key": str(key)}},
            **({"auth": auth} if auth else {}),
        }
        (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


class World:
    """Everything a test of registries needs: `environment` knows the authority, and who we are where `login` is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        command = ["/bin/busybox", "echo", GREETING]
        self.parts = ImageParts({"bin/busybox": Path("/bin/busybox").read_bytes()}, command)
        self.layout = self.parts.write_layout(folder / "layout", "1")
        self.registries: dict[str, Registry] = {}

    def environment(self, registry: Registry | None = None, password: str = SECRET) -> dict[str, str]:
        env = {"SSL_CERT_FILE": str(self.authority.certificate)}
        if registry is not None:
            path = self.folder / f"auth-{password}.json"
            path.write_text(json.dumps({"auths": {registry.place: {"auth": base64.b64encode(f"me:{password}".encode()).decode()}}}))
            path.chmod(0o600)
            env["REGISTRY_AUTH_FILE"] = str(path)
        return env

    def push(self, registry: Registry, *flags: str, source: Path | None = None, name: str = "team/test:1") -> None:
        """Pushes the image 1 of a layout, by skopeo."""
        to = f"docker://{registry.place}/{name}"
        command = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-creds",
            f"me:{SECRET}",
            *flags,
            f"oci:{source or self.layout}:1",
            to,
        ]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **self.environment()}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr + registry.log.read_text()


@contextlib.contextmanager
def worlds(folder: Path) -> Iterator[World]:
    made = World(folder)
    tokens = Tokens(made.folder)
    users = subprocess.run(["htpasswd", "-Bbn", "-C", "5", "me", SECRET], check=True, capture_output=True).stdout
    (made.folder / "users").write_bytes(users)
    with Scripted(made.authority.issue("tokens"), tokens.answer) as server:
        auths: dict[str, dict[str, object]] = {
            "none": {},
            "htpasswd": {"htpasswd": {"realm": "tests", "path": str(made.folder / "users")}},
            "token": {
                "token": {"realm": server.url("/token"), "service": "tests", "issuer": "tests", "rootcertbundle": str(tokens.certificate)}
            },
        }
        try:
            for kind, auth in auths.items():
                folder = made.folder / kind
                folder.mkdir()
                made.registries[kind] = Registry(folder, made.authority, auth)
                made.push(made.registries[kind])
            yield made
        finally:
            for registry in made.registries.values():
                registry.stop()
