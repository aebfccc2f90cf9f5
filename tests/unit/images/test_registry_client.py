"""What the client sends to whom: redirects, challenges, certificates, retries; and what it makes of the answers."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from registries import Authority, Reply, Request, Scripted

from pyrun.errors import DigestError, ImageError, ManifestError, NotFoundError
from pyrun.images.registry.client import Client
from pyrun.images.registry.reference import parse
from pyrun.images.registry.transport import Patience, Url

SECRET = "hunter2-very-secret"
BASIC = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
Answer = Callable[[Request], Reply]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.issue("server")
    return made


class Bench:
    """Servers and clients of one test."""

    def __init__(self, authority: Authority, folder: Path, stack: ExitStack) -> None:
        self.authority = authority
        self.folder = folder
        self.stack = stack
        self.waits: list[float] = []

    def serve(self, answer: Answer, *, tls: bool = True) -> Scripted:
        pair = (self.authority.folder / "server.crt", self.authority.folder / "server.key")
        return self.stack.enter_context(Scripted(pair if tls else None, answer))

    def client(
        self, server: Scripted, *, known: tuple[Scripted, ...] = (), login: str = "", http: bool = False, **patience: float
    ) -> Client:
        environ = {"HOME": str(self.folder)}
        if login:
            path = self.folder / "auth.json"
            path.write_text(json.dumps({"auths": {login: {"auth": BASIC.partition(" ")[2]}}}))
            path.chmod(0o600)
            environ["REGISTRY_AUTH_FILE"] = str(path)
        dirs = self.authority.certs_dirs(*(one.place for one in (server, *known)))
        reference = parse(f"docker://{server.place}/app:1")
        quick = Patience(**{"back_off": 0.01, **patience})  # type: ignore[arg-type]
        made = Client(reference, http=http, patience=quick, environ=environ, certs_dirs=dirs, sleep=self.waits.append)
        return self.stack.enter_context(made)


@pytest.fixture
def bench(authority: Authority, tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(authority, tmp_path, stack)


def get(client: Client, limit: int = 1000) -> bytes:
    return client.document("manifests/1", limit).data


def redirect(to: str, status: int = 307) -> Reply:
    return Reply(b"", status, {"Location": to})


def challenge(text: str) -> Reply:
    return Reply(b'{"errors": [{"code": "UNAUTHORIZED", "message": "log in"}]}', 401, {"WWW-Authenticate": text})


def guarded(inner: Answer, want: str = BASIC, text: str = 'Basic realm="x"') -> Answer:
    return lambda request: inner(request) if request.authorization == want else challenge(text)


def test_asks_for_what_it_wants(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"hello", headers={"Content-Type": "A/b; charset=utf-8", "Docker-Content-Digest": "x"}))
    answer = bench.client(server).document("manifests/1", 100, ("a/b", "c/d"))
    assert (answer.data, answer.media_type, answer.claimed) == (b"hello", "a/b", "x")
    assert server.seen[0].path == "/v2/app/manifests/1"
    headers = server.seen[0].headers
    assert (headers["accept"], headers["accept-encoding"]) == ("a/b, c/d", "identity")
    assert "authorization" not in headers and "cookie" not in headers


def test_connections_are_kept(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"x"))
    client = bench.client(server)
    assert [get(client) for _ in range(3)] == [b"x"] * 3
    assert server.connections == 1


def test_environment_is_not_obeyed(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    for name, value in (
        ("https_proxy", "http://127.0.0.1:9"),
        ("ALL_PROXY", "http://127.0.0.1:9"),
        ("SSLKEYLOGFILE", str(tmp_path / "keys")),
        ("HOME", str(tmp_path)),
        ("NETRC", str(tmp_path / ".netrc")),
    ):
        monkeypatch.setenv(name, value)
    server = bench.serve(lambda _: Reply(b"x"))
    assert get(bench.client(server)) == b"x"
    assert server.seen[0].authorization == "" and not (tmp_path / "keys").exists()


def test_basic(bench: Bench) -> None:
    server = bench.serve(guarded(lambda _: Reply(b"x")))
    client = bench.client(server, login=server.place)
    assert get(client) == get(client) == b"x"
    assert [request.authorization for request in server.seen] == ["", BASIC, BASIC]


def test_basic_without_or_with_wrong_credentials(bench: Bench) -> None:
    server = bench.serve(lambda _: challenge('Basic realm="x"'))
    with pytest.raises(ImageError, match="it wants a login") as caught:
        get(bench.client(server))
    assert "podman login" in caught.value.hint
    with pytest.raises(ImageError, match="not accepted") as caught:
        get(bench.client(server, login=server.place))
    assert SECRET not in str(caught.value) + caught.value.hint


def test_no_password_over_plain_http(bench: Bench) -> None:
    server = bench.serve(lambda _: challenge('Basic realm="x"'), tls=False)
    with pytest.raises(ImageError, match="it wants a login") as caught:
        get(bench.client(server, login=server.place, http=True))
    assert "plain http" in caught.value.hint
    assert [request.authorization for request in server.seen] == [""]


def test_token(bench: Bench) -> None:
    tokens = bench.serve(lambda request: Reply(b'{"token": "abc"}' if request.authorization == BASIC else b'{"access_token": "anon"}'))
    text = f'Bearer realm="{tokens.url("/t?x=1")}",service="s&r",scope="repository:other:push,pull registry:catalog:*"'
    server = bench.serve(guarded(lambda _: Reply(b"x"), "Bearer abc", text))
    assert get(bench.client(server, known=(tokens,), login=server.place)) == b"x"
    assert tokens.seen[0].path == "/t?x=1&service=s%26r&scope=repository%3Aapp%3Apull&account=me"
    public = bench.serve(guarded(lambda _: Reply(b"y"), "Bearer anon", text))
    assert get(bench.client(public, known=(tokens,))) == b"y"
    assert "account" not in tokens.seen[1].path and tokens.seen[1].authorization == ""


def test_token_that_expires(bench: Bench) -> None:
    count = iter(range(100))
    tokens = bench.serve(lambda _: Reply(json.dumps({"token": f"t{next(count)}"}).encode()))
    good = ["Bearer t0"]

    def answer(request: Request) -> Reply:
        return Reply(b"x") if request.authorization in good else challenge(f'Bearer realm="{tokens.url()}"')

    server = bench.serve(answer)
    client = bench.client(server, known=(tokens,))
    assert get(client) == b"x"
    good[:] = ["Bearer t1"]
    assert get(client) == b"x"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"{}",
        b"[]",
        b'{"token": 1}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "a b"}',
        b'{"token": "a", "token": "b"}',
    ],
)
def test_tokens_that_are_none(bench: Bench, token: bytes) -> None:
    tokens = bench.serve(lambda _: Reply(token))
    server = bench.serve(lambda _: challenge(f'Bearer realm="{tokens.url()}"'))
    with pytest.raises(ImageError, match=r"no token|nonsense"):
        get(bench.client(server, known=(tokens,)))
    assert len(server.seen) == 1


def test_endless_token(bench: Bench) -> None:
    tokens = bench.serve(lambda _: Reply(b'{"token": "' + b"a" * (2 << 20) + b'"}'))
    server = bench.serve(lambda _: challenge(f'Bearer realm="{tokens.url()}"'))
    with pytest.raises(ImageError, match="more than 1048576 bytes"):
        get(bench.client(server, known=(tokens,)))


def test_realms_that_are_not_asked(bench: Bench) -> None:
    spy = bench.serve(lambda _: Reply(b'{"token": "abc"}'), tls=False)
    port = spy.server_address[1]
    realms = [
        spy.url(),
        f"http://localhost:{port}",
        f"https://localhost:{port}",
        "https://169.254.169.254/latest",
        "https://2852039166/",
        "ftp://x",
        "//x",
    ]
    realms += [
        "https://[::1]/",
        "https://0x7f.1/",
        "",
        "https://me:pw@127.0.0.1/",
        "https://a b/",
        "https://127.0.0.1:x/",
        "file:///etc/passwd",
    ]
    for realm in realms:
        server = bench.serve(lambda _, realm=realm: challenge(f'Bearer realm="{realm}"'))  # type: ignore[misc]
        with pytest.raises(ImageError) as caught:
            get(bench.client(server, login=server.place))
        assert SECRET not in str(caught.value)
    assert spy.connections == 0 and spy.seen == []


def test_token_server_may_not_redirect(bench: Bench) -> None:
    spy = bench.serve(lambda _: Reply(b'{"token": "abc"}'))
    tokens = bench.serve(lambda _: redirect(spy.url()))
    server = bench.serve(lambda _: challenge(f'Bearer realm="{tokens.url()}"'))
    with pytest.raises(ImageError, match="answers 307"):
        get(bench.client(server, known=(tokens, spy), login=server.place))
    assert spy.connections == 0


def test_credentials_stay_at_their_host(bench: Bench) -> None:
    """A token server under another name gets them only where the files have an entry for that name."""
    tokens = bench.serve(lambda _: Reply(b'{"token": "abc"}'))
    realm = f"https://localhost:{tokens.server_address[1]}/"
    client = bench.client(tokens, login=tokens.place)
    client.login._reference = parse("docker://registry.example.com/app")
    client.login._home = Url("https://registry.example.com/v2/", "test")
    assert client.login._credential_for(Url(realm, "test")) is None
    client = bench.client(tokens, login=f"localhost:{tokens.server_address[1]}")
    client.login._home = Url("https://registry.example.com/v2/", "test")
    assert client.login._credential_for(Url(realm, "test")) is not None


def test_redirects_take_no_secret_along(bench: Bench) -> None:
    other = bench.serve(lambda _: Reply(b"x"))
    server = bench.serve(guarded(lambda _: redirect(other.url("/blob?signature=s"))))
    assert get(bench.client(server, known=(other,), login=server.place)) == b"x"
    assert [request.authorization for request in other.seen] == [""]


def test_redirect_at_home_keeps_them_and_a_way_back_does_not(bench: Bench) -> None:
    def at_home(request: Request) -> Reply:
        if request.path.endswith("/manifests/1"):
            return redirect("/elsewhere") if request.authorization == BASIC else challenge('Basic realm="x"')
        return Reply(request.authorization.encode())

    server = bench.serve(at_home)
    assert get(bench.client(server, login=server.place)) == BASIC.encode()
    other = bench.serve(lambda _: redirect(server.url("/elsewhere")))

    def away(request: Request) -> Reply:
        return at_home(request) if request.path == "/elsewhere" else guarded(lambda _: redirect(other.url()))(request)

    server.answer = away
    assert get(bench.client(server, known=(other,), login=server.place)) == b""


@pytest.mark.parametrize(
    "to", ["http://{plain}/", "ftp://{plain}/", "file:///etc/passwd", "https://me:pw@{plain}/", "", "https://", "https://[/"]
)
def test_redirects_that_are_not_followed(bench: Bench, to: str) -> None:
    plain = bench.serve(lambda _: Reply(b"x"), tls=False)
    server = bench.serve(lambda _: redirect(to.format(plain=plain.place)))
    with pytest.raises(ImageError):
        get(bench.client(server))
    assert plain.connections == 0


def test_redirects_end(bench: Bench) -> None:
    server = bench.serve(lambda _: redirect("/again"))
    with pytest.raises(ImageError, match="more than 5 redirects"):
        get(bench.client(server))
    assert len(server.seen) == 6


def test_no_address_of_this_host_unless_the_registry_has_one(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"x"))
    client = bench.client(server)
    away = Url("https://registry.example.com/v2/", "test")
    client.transport.home = away
    for address in ("127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "0.0.0.0", "::ffff:169.254.169.254"):
        with pytest.raises(ImageError, match="an address of this host or link"):
            client.transport._gate(address)
    for address in ("192.0.2.1", "10.0.0.1", "2001:db8::1"):
        client.transport._gate(address)
    with pytest.raises(ImageError, match="an address of this host"):
        get(client)
    assert server.connections == 0


@pytest.mark.parametrize(("status", "kind", "words"), [(404, NotFoundError, "404"), (403, ImageError, "403"), (400, ImageError, "400")])
def test_complaints_are_passed_on_in_one_line(bench: Bench, status: int, kind: type[ImageError], words: str) -> None:
    body = json.dumps({"errors": [{"code": "NAME_UNKNOWN", "message": "no\n\x1b[31mred"}]}).encode()
    server = bench.serve(lambda _: Reply(body, status))
    with pytest.raises(kind, match=words) as caught:
        get(bench.client(server))
    assert "NAME_UNKNOWN, no\\x0a\\x1b[31mred" in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_tries_again(bench: Bench, status: int) -> None:
    replies = iter([Reply(b"", status), Reply(b"", status), Reply(b"x")])
    server = bench.serve(lambda _: next(replies))
    assert get(bench.client(server)) == b"x"
    assert len(bench.waits) == 2 and 0 < bench.waits[0] < 0.02


def test_gives_up(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"", 503))
    with pytest.raises(ImageError, match="503"):
        get(bench.client(server))
    assert len(server.seen) == 5


def test_waits_as_long_as_it_is_told_but_not_for_ever(bench: Bench) -> None:
    replies = iter([Reply(b"", 429, {"Retry-After": "7"}), Reply(b"x")])
    server = bench.serve(lambda _: next(replies))
    assert get(bench.client(server)) == b"x"
    assert 7 <= bench.waits[0] < 8
    server.answer = lambda _: Reply(b"", 429, {"Retry-After": "86400"})
    with pytest.raises(ImageError, match="429") as caught:
        get(bench.client(server))
    assert "86400 seconds" in caught.value.hint


def test_connection_that_breaks(bench: Bench) -> None:
    replies = iter([Reply(b"abcdef", cut=3), Reply(b"abcdef")])
    server = bench.serve(lambda _: next(replies))
    assert get(bench.client(server)) == b"abcdef"


def test_nobody_there(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply())
    client = bench.client(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(ImageError, match="connection refused") as caught:
        get(client)
    assert caught.value.hint
    server.shutdown = lambda: None  # type: ignore[method-assign]


def test_documents_end_at_their_limit(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"x" * 1001))
    with pytest.raises(ManifestError, match="more than 1000 bytes"):
        get(bench.client(server))
    chunk = b"%x\r\n%s\r\n" % (500, b"x" * 500)
    server.answer = lambda _: Reply(chunk * 1000, headers={"Transfer-Encoding": "chunked"})
    with pytest.raises(ManifestError, match="more than 1000 bytes"):
        get(bench.client(server))


def test_encodings_are_refused(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"x", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(DigestError, match="encoded as gzip"):
        get(bench.client(server))


def test_stopped_by_another_thread(bench: Bench) -> None:
    server = bench.serve(lambda _: time.sleep(5) or Reply(b"x"))  # type: ignore[func-returns-value]
    client = bench.client(server)
    timer = threading.Timer(0.3, client.stop)
    timer.start()
    began = time.monotonic()
    with pytest.raises(ImageError):
        get(client)
    assert time.monotonic() - began < 3


def test_slow_answers_end(bench: Bench) -> None:
    server = bench.serve(lambda _: Reply(b"x" * 1000, pause=0.05))
    began = time.monotonic()
    with pytest.raises(ImageError, match="bytes a second"):
        get(bench.client(server, window=0.3, rate=1000))
    with pytest.raises(ImageError, match="too long"):
        get(bench.client(server, document=0.3))
    server.answer = lambda _: time.sleep(1) or Reply(b"x")  # type: ignore[func-returns-value]
    with pytest.raises(ImageError, match="too long"):
        get(bench.client(server, head=0.3))
    assert time.monotonic() - began < 3
