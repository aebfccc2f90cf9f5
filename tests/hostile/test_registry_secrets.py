"""SEC-30, 31, 32, 33: where secrets and connections go when a registry would like them to go elsewhere."""

from __future__ import annotations

import ctypes
import os
import ssl
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from net import Answer, Net, basic, challenge, guarded, tells
from registries import LAYER, Authority, ImageParts, Reply, Request, Scripted

from pyrun.errors import ImageError, PyrunError
from pyrun.images.registry.artifacts import referrers
from pyrun.images.registry.client import Client
from pyrun.images.registry.reference import parse
from pyrun.images.store import Store

PARTS = ImageParts({"hello": b"world"})
CLONE_NEWNET = 0x40000000

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def net(authority: Authority, tmp_path: Path) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(authority, Store(str(tmp_path / "store")), tmp_path, stack)


def moved(to: str, status: int = 307) -> Reply:
    return Reply(b"", status, {"Location": to})


def only(word: str, reply: Callable[[Request], Reply], inner: Answer = PARTS.answer) -> Answer:
    """`reply` to what has `word` in its path, else as `inner`."""
    return lambda request: reply(request) if word in request.path else inner(request)


def login(inner: Answer) -> Callable[[Scripted], Answer]:
    return lambda _: guarded("main", inner)


def token(realm: str, **more: str) -> Callable[[Scripted], Answer]:
    extra = "".join(f',{name}="{value}"' for name, value in more.items())
    return lambda _: lambda request: challenge(f'Bearer realm="{realm}",service="x"{extra}')


def tokens(give: Callable[[Request], Reply], inner: Answer) -> Callable[[Scripted], Answer]:
    """The registry is its own token server."""

    def start(me: Scripted) -> Answer:
        def answer(request: Request) -> Reply:
            if request.path.startswith("/token"):
                return give(request)
            if request.authorization == "Bearer token-of-main":
                return inner(request)
            return challenge(f'Bearer realm="{me.url("/token")}",service="x"')

        return answer

    return start


def shapes(spy: Scripted, plain: Scripted, far: Scripted) -> dict[str, Callable[[Scripted], Answer]]:
    """Registries that have the login "main", each of which would like another server to have it."""

    good = lambda request: Reply(b'{"token": "token-of-main"}' if request.authorization == basic("main") else b"{}")  # noqa: E731
    elsewhere = {"spy": spy.url("/x"), "plain": plain.url("/x"), "far": far.url("/x"), "user": f"https://main:x@{spy.place}/x"}
    found: dict[str, Callable[[Scripted], Answer]] = {}
    for name, url in elsewhere.items():
        for what in ("manifests", "blobs"):
            found[f"login, {what} at {name}"] = login(only(what, lambda _, url=url: moved(url)))  # type: ignore[misc]
            found[f"token, {what} at {name}"] = tokens(good, only(what, lambda _, url=url: moved(url)))  # type: ignore[misc]
        found[f"token server at {name} by redirect"] = tokens(lambda _, url=url: moved(url), PARTS.answer)  # type: ignore[misc]
    return found | sending_realms(spy, plain, far) | odd_ways(spy)


def sending_realms(spy: Scripted, plain: Scripted, far: Scripted) -> dict[str, Callable[[Scripted], Answer]]:
    """Registries whose token server is one that must not have the login."""
    found: dict[str, Callable[[Scripted], Answer]] = {}
    for name, realm in {
        "plain": plain.url("/t"), "far": far.url("/t"), "user": f"https://main:x@{spy.place}/t", "file": "file:///etc/passwd",
        "localhost": f"https://localhost:{spy.server_address[1]}/t", "number": f"https://2130706434:{far.server_address[1]}/t",
    }.items():  # fmt: skip
        found[f"realm {name}"] = token(realm)
        found[f"realm {name}, basic too"] = lambda _, realm=realm: (
            lambda request: Reply(  # type: ignore[misc]
                b"", 401, {"WWW-Authenticate": f'Bearer realm="{realm}", Basic realm="y"'}
            )
        )
    return found


def odd_ways(spy: Scripted) -> dict[str, Callable[[Scripted], Answer]]:
    """Redirects with other statuses, spellings and moments, and a manifest with urls."""
    found: dict[str, Callable[[Scripted], Answer]] = {}
    for status in (301, 302, 303, 308):
        found[f"login, {status}"] = login(only("blobs", lambda _, status=status: moved(spy.url("/x"), status)))  # type: ignore[misc]
    found["there and back"] = lambda me: guarded("main", only("manifests/1", lambda _: moved(spy.url(f"/back?{me.place}"))))
    found["there before the login"] = lambda _: only("manifests", lambda _: moved(spy.url("/login")))
    found["host in another case"] = login(only("blobs", lambda _: moved(spy.url("/x").replace("https", "HTTPS"))))
    found["two slashes"] = login(only("blobs", lambda _: moved(f"//{spy.place}/x")))
    found["layer with urls"] = login(manifest_with_urls(spy))
    return found


def manifest_with_urls(spy: Scripted) -> Answer:
    data = PARTS.manifest.replace(b'"mediaType": "' + LAYER.encode(), f'"urls": ["{spy.url("/x")}"], "mediaType": "{LAYER}'.encode())
    return only("manifests/1", lambda _: Reply(data, headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"}))


def test_sec_30_secrets_go_to_their_origin_only(net: Net) -> None:
    """40 and more registries that send us, or our login, elsewhere: no other server ever sees a secret; mirrors and pages neither."""

    def watching(request: Request) -> Reply:
        if request.path.startswith("/back"):
            return moved(f"https://{request.path.partition('?')[2]}/v2/app/manifests/1?again")
        if request.path.startswith("/login"):
            return challenge('Basic realm="give it to me"')
        return Reply(b'{"token": "a"}')

    spy, plain, far = net.serve(watching), net.serve(watching, tls=False), net.serve(watching, address=("127.0.0.2", 0))
    net.known(spy, far)
    scenarios = shapes(spy, plain, far)
    assert len(scenarios) >= 36
    sent = 0
    for name, start in scenarios.items():
        main = net.serve(PARTS.answer)
        main.answer = start(main)
        net.known(main)
        try:
            net.pull(f"{main.place}/app:1", logins={main.place: "main"})
        except ImageError as error:
            assert "secret" not in str(error) + error.hint + error.origin, name
        sent += any(tells(request, "main") for request in main.seen)
        for other in (spy, plain, far):
            assert not [request.path for request in other.seen if tells(request, "main")], name
    assert sent > 25  # they did have the login; it stayed with them
    assert spy.seen and far.seen

    for other in (spy, far):  # mirrors, and pages of a list
        main = net.serve(guarded("main", PARTS.answer))
        net.known(main)
        conf = f'[[registry]]\nlocation = "{main.place}"\n[[registry.mirror]]\nlocation = "{other.place}"\n'
        other.answer = lambda _: challenge('Basic realm="x"')
        net.pull(f"{main.place}/app:1", conf, logins={main.place: "main"})
        assert any(tells(request, "main") for request in main.seen)
        page = Reply(b'{"manifests": []}', headers={"Content-Type": "application/vnd.oci.image.index.v1+json"})
        page.headers["Link"] = f'<{other.url("/next")}>; rel="next"'
        main.answer = guarded("main", lambda _, page=page: page)  # type: ignore[misc]
        options = net.options(logins={main.place: "main"})
        del options["system"]
        with Client(parse(f"docker://{main.place}/app:1"), **options) as client, pytest.raises(ImageError):
            referrers(client, "sha256-" + "0" * 64)
        assert not any(tells(request, "main") for request in other.seen)


def far_away(action: Callable[[], None]) -> None:
    """Runs something in a network of its own, where 192.0.2.1 is an address like any other, and others are of this host or link."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            for words in (
                "link set lo up",
                "addr add 192.0.2.1/32 dev lo",
                "addr add 169.254.169.254/32 dev lo",
                "addr add fe80::1/128 dev lo",
            ):
                subprocess.run(["ip", *words.split()], check=True)
            action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_sec_31_a_registry_cannot_send_us_to_this_host(net: Net) -> None:
    """Redirects, realms, layers' urls and mirrors that name this host or its link: nobody there is connected to."""

    def check() -> None:
        inside = [net.serve(lambda _: Reply(b"{}"), tls=False, address=(address, 0)) for address in ("127.0.0.1", "169.254.169.254")]
        ports = {server.server_address[0]: server.server_address[1] for server in inside}
        near = ports["127.0.0.1"]
        targets = [f"127.0.0.1:{near}", f"localhost:{near}", f"127.1:{near}", f"2130706433:{near}", f"0x7f.1:{near}", f"0:{near}",
                   f"[::1]:{near}", f"[::ffff:127.0.0.1]:{near}", f"0.0.0.0:{near}", f"[::]:{near}",
                   f"169.254.169.254:{ports['169.254.169.254']}"]  # fmt: skip
        main = net.serve(PARTS.answer, address=("192.0.2.1", 0))
        net.known(main)
        tried = 0
        for target in targets:
            for start in (
                only("blobs", lambda _, target=target: moved(f"https://{target}/x")),  # type: ignore[misc]
                only("manifests", lambda _, target=target: moved(f"https://{target}/x")),  # type: ignore[misc]
                lambda _, target=target: challenge(f'Bearer realm="https://{target}/t",service="x"'),  # type: ignore[misc]
            ):
                main.answer = start
                with pytest.raises(ImageError) as caught:
                    net.pull(f"{main.place}/app:1", logins={main.place: "main"})
                assert caught.value.hint
                tried += 1
        for url in ("file:///etc/passwd", "unix:///run/docker.sock", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x", "https:///x", "data:,x"):
            main.answer = only("blobs", lambda _, url=url: moved(url))  # type: ignore[misc]
            with pytest.raises(ImageError):
                net.pull(f"{main.place}/app:1")
            tried += 1
        assert tried >= 20 and [server.connections for server in inside] == [0, 0]
        main.answer = PARTS.answer
        assert net.pull(f"{main.place}/app:1").name == f"{main.place}/app"

    far_away(check)


BAD_TLS: dict[str, list[str]] = {
    "of another address": ["subjectAltName=IP:192.0.2.7"],
    "of another name": ["subjectAltName=DNS:example.com"],
    "of a wildcard": ["subjectAltName=DNS:*"],
    "without names": ["basicConstraints=CA:FALSE"],
    "for clients": ["subjectAltName=IP:127.0.0.1", "extendedKeyUsage=clientAuth"],
}


def bad_servers(net: Net, authority: Authority) -> dict[str, Callable[[], Scripted]]:
    """Servers with which nobody should speak, and that a careless client speaks with."""

    def serve(pair: tuple[Path, Path], **more: Any) -> Callable[[], Scripted]:
        return lambda: net.stack.enter_context(Scripted(pair, PARTS.answer, **more))

    found = {name: serve(authority.issue(name.replace(" ", "-"), extensions="\n".join(lines))) for name, lines in BAD_TLS.items()}
    found["expired"] = serve(authority.issue("expired", days=-1))
    folder = net.folder / "other"
    folder.mkdir()
    other = Authority(folder)
    found["of another authority"] = serve(other.issue("good"))
    found["signed by itself"] = serve((other.certificate, folder / "ca.key"))
    leaf = authority.issue("leaf")
    deeper = Authority(folder)
    deeper.certificate, deeper._key = leaf
    found["signed by a certificate that may not"] = serve(deeper.issue("below"))
    found["weak key"] = serve(authority.issue("weak", new=["-newkey", "rsa:1024", "-nodes"]), weak=True)
    good = authority.issue("good")
    found["TLS 1.0"] = serve(good, maximum=ssl.TLSVersion.TLSv1)
    found["TLS 1.1"] = serve(good, maximum=ssl.TLSVersion.TLSv1_1)
    found["plain http"] = lambda: net.serve(PARTS.answer, tls=False)
    return found


def test_sec_32_bad_tls_is_refused(net: Net, authority: Authority) -> None:
    """12 and more, on this very host: each refused before anything is asked; http is spoken only with who was named."""
    servers = bad_servers(net, authority)
    assert len(servers) >= 12
    for name, start in servers.items():
        server = start()
        net.known(server)
        for place in (server.place, server.place.replace("127.0.0.1", "localhost")):
            with pytest.raises(ImageError) as caught:
                net.pull(f"{place}/app:1", logins={place: "main"})
            assert caught.value.hint and server.seen == [], name
        conf = f'[[registry]]\nlocation = "{server.place}"\ninsecure = true\n'
        if name != "plain http":  # the leave to speak http is none to believe a certificate
            with pytest.raises(ImageError):
                net.pull(f"{server.place}/app:1", conf)
            assert server.seen == [], name
            continue
        with pytest.raises(ImageError, match="does not speak TLS"):
            net.pull(f"{server.place}/app:1", http=("127.0.0.1", "other.example"))
        with pytest.raises(ImageError, match="does not speak TLS"):
            net.pull(f"{server.place}/app:1", conf.replace(server.place, "other.example"))
        assert server.seen == []
        assert net.pull(f"{server.place}/app:1", conf).id and net.pull(f"{server.place}/app:1", http=("",)).id


def failing(number: int) -> Answer:
    """30 ways to fail with a login."""
    echo = lambda request: Reply(f'{{"errors": [{{"code": "X", "message": "{request.authorization} secret-of-main"}}]}}'.encode(), 400)  # noqa: E731
    kinds: list[Answer] = [
        lambda _: challenge('Basic realm="x"'),
        guarded("main", lambda _: Reply(b"", 403)),
        guarded("main", lambda _: Reply(b"", 500)),
        guarded("main", lambda _: Reply(b"{", headers={"Content-Type": "application/json"})),
        guarded("main", lambda _: Reply(b"x" * (5 << 20))),
        guarded("main", lambda _: Reply(b"x", cut=0)),
        guarded("main", lambda _: moved("http://127.0.0.1:1/x")),
        guarded("main", lambda _: moved("https://main:secret-of-main@127.0.0.1:1/x")),
        guarded("main", only("blobs", lambda _: Reply(b"wrong"))),
        guarded("main", only("blobs", lambda _: Reply(b"", 404))),
        lambda _: challenge('Bearer realm="https://127.0.0.1:1/t?secret",service="x"'),
        lambda _: challenge('Bearer realm="http://127.0.0.1:1/t",service="x"'),
        lambda _: challenge("Digest realm=x"),
        lambda _: challenge(""),
        guarded("main", echo),
    ]
    return kinds[number % len(kinds)]


def test_sec_33_secrets_are_in_no_message_and_no_file(net: Net, capfd: pytest.CaptureFixture[str]) -> None:
    """30 failures with a login: not in the error, a traceback, the standard streams, nor any file but the one that it is from."""
    for number in range(30):
        main = net.serve(failing(number))
        net.known(main)
        try:
            net.pull(f"{main.place}/app:1", logins={main.place: "main"})
        except PyrunError as error:
            shown = f"{error} {error.hint} {error.origin} {''.join(traceback.format_exception(error))}"
            assert basic("main").partition(" ")[2] not in shown and "secret-of-main" not in shown, number
    out, err = capfd.readouterr()
    assert "secret-of-main" not in out + err
    held = [path for path in net.folder.rglob("*") if path.is_file() and path.name != "auth.json"]
    assert not [path for path in held if b"secret-of-main" in path.read_bytes()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in held if "store" in path.parts)
