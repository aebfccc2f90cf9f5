"""Images fetched from Debian's docker-registry over TLS and run: pushed by skopeo, without a login, with htpasswd, with tokens."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from harness import COMMAND, Pyrun
from registries import Authority, ImageParts, Reply, Request, Scripted

SECRET = "hunter2-very-secret"
GREETING = "hello from a registry"
KINDS = ("none", "htpasswd", "token")
ALLOW = "--insecure-options=image"


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
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


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

    def push(self, registry: Registry, *flags: str) -> None:
        to = f"docker://{registry.place}/team/test:1"
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-creds", f"me:{SECRET}", *flags, f"oci:{self.layout}:1", to]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **self.environment()}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr + registry.log.read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
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


@pytest.mark.parametrize("kind", KINDS)
def test_fetch_and_run(pyrun: Pyrun, world: World, kind: str) -> None:
    registry = world.registries[kind]
    env = world.environment(registry if kind != "none" else None)
    name = f"docker://{registry.place}/team/test:1"
    fetched = pyrun("fetch", name, ALLOW, env=env, code=0)
    assert "pyrun: fetched sha256:" in fetched.err and SECRET not in fetched.err
    assert pyrun("run", name, ALLOW, env=env, code=0).out == f"{GREETING}\n"
    listed = json.loads(pyrun("image", "list", "--format", "json", code=0).out)
    assert [(image["name"], image["id"]) for image in listed] == [(f"{registry.place}/team/test", fetched.out.strip())]
    again = pyrun("fetch", name, ALLOW, env=env, code=0)
    assert again.out == fetched.out and "fetched" not in again.err
    assert "fetched" not in pyrun("fetch", "--quiet", name, ALLOW, env=env, code=0).err


@pytest.mark.parametrize("kind", ["htpasswd", "token"])
def test_without_or_with_a_wrong_login(pyrun: Pyrun, world: World, kind: str) -> None:
    registry = world.registries[kind]
    name = f"docker://{registry.place}/team/test:1"
    nobody = pyrun("fetch", name, ALLOW, env=world.environment(), code=125)
    assert "log in" in nobody.err and nobody.out == ""
    wrong = pyrun("fetch", name, ALLOW, env=world.environment(registry, "wrong-secret"), code=125)
    assert registry.place in wrong.err and "hint:" in wrong.err and "wrong-secret" not in wrong.err
    assert pyrun("image", "list", "--no-legend", code=0).out == ""


def test_run_fetches_what_is_missing_and_asks_nobody_else(pyrun: Pyrun, world: World) -> None:
    registry = world.registries["none"]
    name = f"docker://{registry.place}/team/test:1"
    assert "cannot be checked yet" in pyrun("run", name, env=world.environment(), code=125).err
    assert "not in the store yet" in pyrun("plan", name, ALLOW, env=world.environment(), code=125).err
    assert pyrun("run", name, ALLOW, env=world.environment(), code=0).out == f"{GREETING}\n"
    stored = json.loads(pyrun("image", "list", "--format", "json", code=0).out)[0]["id"]
    by_digest = f"{registry.place}/team/test@{stored.replace('-', ':')}"
    # without the authority nothing could be asked any more
    assert pyrun("run", name, ALLOW, code=0).out == f"{GREETING}\n"
    assert pyrun("run", f"{registry.place}/team/test:1", ALLOW, code=0).out == f"{GREETING}\n"
    assert pyrun("run", by_digest, ALLOW, code=0).out == f"{GREETING}\n"
    assert "cannot be checked yet" in pyrun("run", by_digest, code=125).err


def test_authority_in_certs_d(pyrun: Pyrun, world: World, tmp_path: Path) -> None:
    registry = world.registries["none"]
    name = f"docker://{registry.place}/team/test:1"
    refused = pyrun("fetch", name, ALLOW, code=125)
    assert f"/etc/containers/certs.d/{registry.place}/ca.crt" in refused.err
    world.authority.certs_dirs(registry.place)
    script = f"""
        mount -t tmpfs none /etc/containers 2>/dev/null || {{ mkdir -p /etc/containers; mount -t tmpfs none /etc/containers; }}
        cp -r {world.folder}/certs.d /etc/containers/ && exec "$@"
    """
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh"]
    done = subprocess.run([*command, COMMAND, "--root", tmp_path / "root", "fetch", name, ALLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rest", ["nothing:1", "team/test:2", "team/test@sha256:" + "0" * 64])
def test_what_is_not_there(pyrun: Pyrun, world: World, rest: str) -> None:
    registry = world.registries["none"]
    missing = pyrun("fetch", f"docker://{registry.place}/{rest}", ALLOW, env=world.environment(), code=125)
    assert "404 not found" in missing.err and "UNKNOWN" in missing.err and "hint:" in missing.err


@pytest.mark.parametrize("flags", [("--format", "v2s2"), ("--dest-compress-format", "zstd"), ("--dest-decompress",)])
def test_formats_of_skopeo(pyrun: Pyrun, world: World, flags: tuple[str, ...]) -> None:
    registry = world.registries["none"]
    world.push(registry, *flags)
    name = f"docker://{registry.place}/team/test:1"
    assert pyrun("run", name, ALLOW, env=world.environment(), code=0).out == f"{GREETING}\n"


def test_many_at_once(pyrun: Pyrun, world: World) -> None:
    registry = world.registries["none"]
    name = f"docker://{registry.place}/team/test:1"
    started = [pyrun.start("fetch", "--quiet", name, ALLOW, env=world.environment()) for _ in range(6)]
    results = [(process.communicate(timeout=60), process.returncode) for process in started]
    assert [code for _, code in results] == [0] * 6, results
    assert len({out for (out, _), _ in results}) == 1
    pyrun("image", "verify", "--all", code=0)


def test_killed_download_leaves_nothing(pyrun: Pyrun, world: World) -> None:
    def slow(request: Request) -> Reply:
        reply = world.parts.answer(Request(request.path.replace("/team/test/", "/app/"), request.headers))
        reply.pause = 0.001 if len(reply.body) > 100_000 else 0
        return reply

    with Scripted(world.authority.issue("slow"), slow) as server:
        process = pyrun.start("fetch", f"docker://{server.place}/team/test:1", ALLOW, env=world.environment())
        deadline = time.monotonic() + 20
        while not any(len(request.path) > 80 for request in server.seen[2:]) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=20)
    pyrun("gc", code=0)
    assert list((pyrun.root / "tmp").iterdir()) == []
    assert list((pyrun.root / "blobs" / "sha256").iterdir()) == []


def test_progress_on_a_terminal(pyrun: Pyrun, world: World, shown_on_terminal: Callable[[list[str], dict[str, str]], str]) -> None:
    name = f"docker://{world.registries['none'].place}/team/test:1"
    seen = shown_on_terminal(["fetch", name, ALLOW], pyrun.environment(world.environment()))
    assert "fetched sha256:" in seen and "[" in seen and "MiB" in seen


@pytest.fixture
def shown_on_terminal() -> Callable[[list[str], dict[str, str]], str]:
    """What pyrun shows on a terminal."""
    import pexpect

    def run(words: list[str], env: dict[str, str]) -> str:
        child = pexpect.spawn(str(COMMAND), words, env={**env, "TERM": "xterm"}, encoding="utf-8", timeout=30)  # type: ignore[arg-type]
        seen = child.read()
        child.close()
        assert child.exitstatus == 0, seen
        return str(seen)

    return run
