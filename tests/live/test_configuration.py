"""Configuration documents as pods see them, and taken from a real etcd."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun

SHELL = ("--exec", "/bin/sh", "--", "-c")
V1 = "$AC_METADATA_URL/config/v1"


@contextlib.contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """So that a failed test does not wait for it."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_verbs(pyrun: Pyrun) -> None:
    pyrun("config", "set", "shop", "a=1", "b=x=y", code=0)
    assert pyrun("config", "set", "shop", "c=3", "--unset", "a", code=0).out == "2\n"
    assert json.loads(pyrun("config", "get", "shop", code=0).out) == {"name": "shop", "version": 2, "values": {"b": "x=y", "c": "3"}}
    assert pyrun("config", "get", "shop", "b", code=0).out == "x=y"
    assert pyrun("config", "list", code=0).out == "shop\n"
    for words, code, error in (
        (("set", "Shop", "a=1"), 2, "use configuration Shop: not a name for one"),
        (("set", "shop", "a/b=1"), 2, "use configuration key a/b: not a name for one"),
        (("set", "shop", "a"), 2, "config set a: not KEY=VALUE"),
        (("set", "shop"), 2, "config set shop: nothing to set"),
        (("get", "other"), 125, "find configuration other: there is none of that name"),
        (("get", "shop", "z"), 125, "find configuration key z: shop has no such key"),
        (("rm", "other"), 125, "find configuration other: there is none of that name"),
        (("pull", "shop"), 2, "config pull shop: --etcd and --key-prefix are needed"),
        (("pull", "shop", "--etcd", "http://127.0.0.1:1", "--key-prefix", "/x"), 125, "ask etcd http://127.0.0.1:1: "),
    ):
        refused = pyrun("config", *words, code=code)
        assert refused.err.startswith(f"pyrun: {error}") and "\nhint: " in refused.err, repr(refused)
    pyrun("config", "rm", "shop", code=0)
    assert pyrun("config", "list", code=0).out == ""
    refused = pyrun("run", "--config", "shop", pyrun.probe_image, code=125)
    assert refused.err.startswith("pyrun: find configuration shop: there is none") and "from: --config shop" in refused.err


def test_a_pod_sees_each_change_as_a_whole(pyrun: Pyrun, busybox: Path) -> None:
    """As files and by the metadata service; read-only; any user."""
    pyrun("config", "set", "shop", "a=1", "b=1", code=0)
    script = (
        "cat /etc/shop/a /etc/shop/b; touch /etc/shop/x; id -u; echo; echo ready; read x; "
        f"cat /etc/shop/a /etc/shop/b /etc/shop/c; ls /etc/shop/; wget -qO- {V1}/shop"
    )
    words = ("run", "-i", "--mds", "--config", "shop:/etc/shop", "--user", "1000", busybox, *SHELL, script)
    with ending(pyrun.start(*words)) as pod:
        assert pod.stdout is not None and pod.stdin is not None and pod.stderr is not None
        assert pod.stdout.readline() == "111000\n"
        assert [pod.stdout.readline(), pod.stdout.readline()] == ["\n", "ready\n"]
        refused = pyrun("config", "rm", "shop", code=125)
        assert refused.err.startswith("pyrun: remove configuration shop: pod ")
        pyrun("config", "set", "shop", "a=2", "b=2", "c=3", code=0)
        out, err = pod.communicate("\n", timeout=60)
    assert out == '223a\nb\nc\n{"a":"2","b":"2","c":"3"}' and "Read-only file system" in err


def test_several_apps_have_it(pyrun: Pyrun, busybox: Path) -> None:
    pyrun("config", "set", "shop", "a=1\n", code=0)
    one = (busybox, "--name", "a", *SHELL, "cat /run/config/shop/a")
    other = (busybox, "--name", "b", *SHELL, "cat /run/config/shop/a")
    assert pyrun("run", "--config", "shop", *one, "---", *other, code=0).out == "1\n1\n"


def test_watch_prints_a_line_for_each_change(pyrun: Pyrun) -> None:
    pyrun("config", "set", "shop", "a=1", code=0)
    with ending(pyrun.start("config", "watch", "shop")) as watch:
        assert watch.stdout is not None
        assert json.loads(watch.stdout.readline()) == {"name": "shop", "version": 1, "values": {"a": "1"}}
        pyrun("config", "set", "shop", "a=2", code=0)
        assert json.loads(watch.stdout.readline())["values"] == {"a": "2"}
        pyrun("config", "rm", "shop", code=0)
        assert watch.wait(timeout=60) == 0


@contextlib.contextmanager
def running_etcd(tmp_path: Path, *more: str | Path, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The client URL of a real etcd of Debian's, with further flags; `tls` says how to ask it whether it is ready."""
    assert shutil.which("etcd"), "apt-get install etcd-server"
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        client, peer = (f"127.0.0.1:{server.getsockname()[1]}" for server in (one, other))
    client, peer = f"http{'s' if tls else ''}://{client}", f"http://{peer}"
    flags: list[str | Path] = ["--data-dir", tmp_path / "etcd", "--listen-client-urls", client, "--advertise-client-urls", client]
    flags += [
        "--listen-peer-urls",
        peer,
        "--initial-advertise-peer-urls",
        peer,
        "--initial-cluster",
        f"default={peer}",
        "--log-level",
        "error",
    ]
    with subprocess.Popen(["etcd", *flags, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    put(client, "/ready", "1", tls)
                    break
                except OSError:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.1)
            yield client
        finally:
            server.terminate()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[str]:
    with running_etcd(tmp_path) as url:
        yield url


def put(url: str, key: str, value: str, tls: ssl.SSLContext | None = None) -> None:
    body = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value.encode()).decode()}
    request = urllib.request.Request(url + "/v3/kv/put", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10, context=tls) as answer:
        answer.read()


def test_etcd_is_taken_over_and_followed(pyrun: Pyrun, busybox: Path, etcd: str) -> None:
    put(etcd, "/shop/a", "1")
    put(etcd, "/shop/b", "two\n")
    put(etcd, "/shopping", "not below the prefix")
    words = ("config", "pull", "shop", "--etcd", etcd, "--key-prefix", "/shop/")
    assert pyrun(*words, code=0).out == "1\n"
    assert json.loads(pyrun("config", "get", "shop", code=0).out)["values"] == {"a": "1", "b": "two\n"}
    script = "until grep -q 2 /run/config/shop/a; do sleep 0.05; done; cat /run/config/shop/b"
    with (
        ending(pyrun.start(*words, "--follow")) as follower,
        ending(pyrun.start("run", "--config", "shop", busybox, *SHELL, script)) as pod,
    ):
        assert follower.stdout is not None and follower.stdout.readline() == "1\n"
        put(etcd, "/shop/a", "2")
        assert pod.communicate(timeout=60) == ("two\n", "")
        put(etcd, "/shop/bad/key", "x")
        assert follower.wait(timeout=60) == 2, "a key that no document may have is an error, and said"
    assert json.loads(pyrun("config", "get", "shop", code=0).out)["values"] == {"a": "2", "b": "two\n"}


def certificate(folder: Path, name: str, issuer: str = "") -> None:
    """NAME.crt and NAME.key in the folder, by openssl; without an issuer they are an authority's own."""
    subject: list[str | Path] = [
        "-subj",
        f"/CN={name}",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-keyout",
        folder / f"{name}.key",
    ]
    uses = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "extendedKeyUsage=serverAuth,clientAuth"]
    signed: list[str | Path] = ["-CA", folder / f"{issuer}.crt", "-CAkey", folder / f"{issuer}.key", *uses] if issuer else []
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "30", *subject, *signed, "-out", folder / f"{name}.crt"], check=True, capture_output=True
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An etcd that answers whoever shows a certificate of its own authority, and the folder of the certificates."""
    for name, issuer in (("authority", ""), ("stranger", ""), ("server", "authority"), ("client", "authority"), ("outsider", "stranger")):
        certificate(tmp_path, name, issuer)
    files = {name: tmp_path / f"{name}.crt" for name in ("authority", "server", "client")}
    tls = ssl.create_default_context(cafile=files["authority"])
    tls.load_cert_chain(files["client"], tmp_path / "client.key")
    flags = ["--cert-file", files["server"], "--key-file", tmp_path / "server.key", "--client-cert-auth"]
    with running_etcd(tmp_path, *flags, "--trusted-ca-file", files["authority"], tls=tls) as url:
        put(url, "/shop/a", "secret", tls)
        yield url, tmp_path


def test_etcd_over_tls_with_a_certificate_of_ones_own(pyrun: Pyrun, guarded: tuple[str, Path]) -> None:
    url, folder = guarded
    words = ("config", "pull", "shop", "--etcd", url, "--key-prefix", "/shop/")
    trust = ("--cacert", folder / "authority.crt")
    whole = folder / "whole.pem"
    whole.write_text((folder / "client.crt").read_text() + (folder / "client.key").read_text())
    for own in (("--cert", folder / "client.crt", "--key", folder / "client.key"), ("--cert", whole)):
        pyrun(*words, *trust, *own, code=0)
        assert json.loads(pyrun("config", "get", "shop", code=0).out)["values"] == {"a": "secret"}
        pyrun("config", "rm", "shop", code=0)
    stranger = ("--cert", folder / "outsider.crt", "--key", folder / "outsider.key")
    for refused in (
        pyrun(*words, *trust, code=125),  # no certificate, and one of somebody else's authority
        pyrun(*words, *trust, *stranger, code=125),
        pyrun(*words, "--cacert", folder / "stranger.crt", *own, code=125),  # a server that nobody vouches for
        pyrun(*words, *own, code=125),
    ):
        assert refused.err.startswith(f"pyrun: ask etcd {url}: ") and "\nhint: " in refused.err and len(refused.err.splitlines()) == 2
    assert "certificate verify failed" in refused.err
    pyrun("config", "get", "shop", code=125)


def test_etcd_files_that_cannot_be_used(pyrun: Pyrun, tmp_path: Path) -> None:
    for name in ("one", "other"):
        certificate(tmp_path, name)
    (tmp_path / "bad").write_text("x")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", tmp_path / "one.key", "-out", locked], check=True, capture_output=True
    )
    one, missing = tmp_path / "one.crt", tmp_path / "missing"
    cases: list[tuple[list[str | Path], str]] = [
        (["--cacert", missing], "option --cacert"),
        (["--cacert", tmp_path / "bad"], "option --cacert"),
        (["--cert", missing], "option --cert"),
        (["--cert", one, "--key", missing], "option --key"),
        (["--cert", one, "--key", tmp_path / "other.key"], "option --cert"),
        (["--cert", one, "--key", locked], "option --cert"),
        (["--cert", one], "option --cert"),
        (["--key", tmp_path / "one.key"], "option --key"),
    ]
    for flags, said in cases:
        refused = pyrun("config", "pull", "shop", "--etcd", "https://127.0.0.1:1", "--key-prefix", "/", *flags, code=2)
        assert refused.err.startswith(f"pyrun: {said} /") and "\nhint: " in refused.err and len(refused.err.splitlines()) == 2, repr(
            refused
        )
    refused = pyrun("config", "pull", "shop", "--etcd", "http://127.0.0.1:1", "--key-prefix", "/", "--cacert", one, code=2)
    assert "certificates are for https" in refused.err
