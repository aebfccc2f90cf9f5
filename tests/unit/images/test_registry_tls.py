"""Certificates: always checked, on this host too; plain http only where it was accepted."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from registries import Authority, Reply, Scripted

from pyrun.errors import ImageError
from pyrun.images.registry.client import Client
from pyrun.images.registry.reference import parse
from pyrun.images.registry.transport import Patience


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def ask(server: Scripted, certs_dirs: tuple[str, ...], http: bool = False) -> bytes:
    reference = parse(f"docker://{server.place}/app:1")
    with Client(reference, http=http, patience=Patience(back_off=0.01), environ={}, certs_dirs=certs_dirs) as client:
        return client.document("manifests/1", 100).data


def hello(_: object) -> Reply:
    return Reply(b"hello")


def test_good(authority: Authority) -> None:
    with Scripted(authority.issue("good"), hello) as server:
        assert ask(server, authority.certs_dirs(server.place)) == b"hello"


def test_authority_of_the_environment(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with Scripted(authority.issue("good"), hello) as server:
        assert ask(server, ()) == b"hello"


@pytest.mark.parametrize(
    ("san", "days", "reason"), [("DNS:example.com", 2, "IP address mismatch"), ("IP:127.0.0.1", -1, "certificate has expired")]
)
def test_bad_certificates(authority: Authority, san: str, days: int, reason: str) -> None:
    name = f"bad{days}"
    with Scripted(authority.issue(name, san, days), hello) as server:
        with pytest.raises(ImageError, match=reason) as caught:
            ask(server, authority.certs_dirs(server.place))
        assert f"certs.d/{server.place}" in caught.value.hint
        assert server.seen == [] and server.connections == 1  # nothing asked, and not again


def test_unknown_authority(authority: Authority, tmp_path: Path) -> None:
    with Scripted(authority.issue("good"), hello) as server:
        with pytest.raises(ImageError, match="certificate is not accepted"):
            ask(server, (str(tmp_path),))
        other = authority.certs_dirs("127.0.0.1:1", "127.0.0.1")
        with pytest.raises(ImageError, match="certificate is not accepted"):
            ask(server, tuple(f"{folder}/nothing" for folder in other))


def test_old_protocols(authority: Authority) -> None:
    with Scripted(authority.issue("good"), hello, ssl.TLSVersion.TLSv1_1) as server:
        with pytest.raises(ImageError, match="TLS"):
            ask(server, authority.certs_dirs(server.place))
        assert server.seen == []


def test_plain_http_only_where_accepted(authority: Authority) -> None:
    with Scripted(None, hello) as server:
        with pytest.raises(ImageError, match="does not speak TLS") as caught:
            ask(server, ())
        assert "--insecure-options=http" in caught.value.hint and server.seen == []
        assert ask(server, (), http=True) == b"hello"


def test_what_is_no_certificate(authority: Authority, tmp_path: Path) -> None:
    with Scripted(authority.issue("good"), hello) as server:
        (tmp_path / server.place).mkdir()
        (tmp_path / server.place / "x.crt").write_text("nonsense")
        with pytest.raises(ImageError, match="not a certificate in PEM form"):
            ask(server, (str(tmp_path),))


def test_who_we_are(authority: Authority, tmp_path: Path) -> None:
    """A certificate of ours goes to the registry that it lies by, and a key that others may read is not used."""
    certificate, key = authority.issue("client")
    folder = authority.certs_dirs()[0]
    with Scripted(authority.issue("good"), hello, client_authority=authority.certificate) as server:
        dirs = authority.certs_dirs(server.place)
        with pytest.raises(ImageError):
            ask(server, dirs)
        place = Path(folder) / server.place
        (place / "me.cert").write_bytes(certificate.read_bytes())
        with pytest.raises(ImageError, match="missing"):
            ask(server, dirs)
        (place / "me.key").write_bytes(key.read_bytes())
        (place / "me.key").chmod(0o644)
        with pytest.raises(ImageError, match="others than its owner may read it"):
            ask(server, dirs)
        (place / "me.key").chmod(0o600)
        assert ask(server, dirs) == b"hello"
