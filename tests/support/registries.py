"""Registries for tests: certificates of an authority of our own, a server that answers as it is told, images in documents.

ca = Authority(folder)                      ca.certs_dirs("127.0.0.1:5000") is a certs.d that knows it
with Scripted(ca, answer) as server:        answer(Request) -> Reply; server.seen is every request
"""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import platform
import ssl
import subprocess
import tarfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class Authority:
    """A certificate authority; `certificate` is its own, in PEM form."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"
        make = ["req", "-x509", *self._new(self._key), "-subj", "/CN=authority of tests", "-days", "2", "-out", str(self.certificate)]
        self._openssl(*make)

    def issue(
        self, name: str, san: str = "IP:127.0.0.1,DNS:localhost", days: int = 2, *, extensions: str = "", new: list[str] | None = None
    ) -> tuple[Path, Path]:
        """A server's certificate and key; `extensions` in place of the names, `new` makes another kind of key."""
        key, request, certificate = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
        file = self.folder / f"{name}.ext"
        file.write_text(f"{extensions or f'subjectAltName={san}'}\n")
        self._openssl("req", *([*new, "-keyout", str(key)] if new else self._new(key)), "-subj", f"/CN={name}", "-out", str(request))
        sign = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-set_serial", str(time.time_ns()), "-days", str(days)]
        self._openssl("x509", "-req", "-in", str(request), *sign, "-extfile", str(file), "-out", str(certificate))
        return certificate, key

    def certs_dirs(self, *registries: str) -> tuple[str, ...]:
        """A certs.d in which the registries have this authority."""
        top = self.folder / "certs.d"
        for name in registries:
            (top / name).mkdir(parents=True, exist_ok=True)
            (top / name / "ca.crt").write_bytes(self.certificate.read_bytes())
        return (str(top),)

    @staticmethod
    def _new(key: Path) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class Request:
    """What was asked: path with query, and headers by lower-case name."""

    def __init__(self, path: str, headers: dict[str, str], method: str = "GET") -> None:
        self.path = path
        self.headers = headers
        self.method = method

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


class Reply:
    """What to answer: `cut` sends so many bytes of the body and hangs up, `pause` waits before each byte, `length` lies.

    `hold`, (bytes, function), calls the function when so many bytes of the body have been sent.
    """

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
        *,
        cut: int | None = None,
        pause: float = 0,
        length: int | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}
        self.cut = cut
        self.pause = pause
        self.hold: tuple[int, Callable[[], object]] | None = None
        self.length = len(body) if length is None else length


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_GET(self) -> None:
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, self.command)
        self.server.seen.append(request)
        reply = self.server.answer(request)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in reply.headers:
            self.send_header("Content-Length", str(reply.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        if reply.pause:
            for byte in body:
                time.sleep(reply.pause)
                self.wfile.write(bytes([byte]))
        elif reply.hold:
            self.wfile.write(body[: reply.hold[0]])
            reply.hold[1]()
            self.wfile.write(body[reply.hold[0] :])
        else:
            self.wfile.write(body)
        if reply.cut is not None or reply.length != len(body):
            self.close_connection = True

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Scripted(http.server.ThreadingHTTPServer):
    """A server, on 127.0.0.1 unless told otherwise; without a certificate it speaks plain http.  Use it in a `with`."""

    daemon_threads = True

    def __init__(
        self,
        certificate: tuple[Path, Path] | None,
        answer: Callable[[Request], Reply],
        maximum: ssl.TLSVersion | None = None,
        client_authority: Path | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
        weak: bool = False,
    ) -> None:
        super().__init__(address, _Handler)
        self.answer = answer
        self.seen: list[Request] = []
        self.connections = 0
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            if weak:
                self._context.set_ciphers("DEFAULT@SECLEVEL=0")
            self._context.load_cert_chain(*certificate)
            if client_authority:
                self._context.verify_mode = ssl.CERT_REQUIRED
                self._context.load_verify_locations(client_authority)
            if maximum:
                self._context.set_ciphers("DEFAULT@SECLEVEL=0")
                with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                    self._context.minimum_version = self._context.maximum_version = maximum
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def place(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def url(self, path: str = "") -> str:
        return f"{'https' if self._context else 'http'}://{self.place}{path}"

    def get_request(self) -> tuple[Any, Any]:
        line, address = super().get_request()
        self.connections += 1
        line.settimeout(10)
        if self._context:
            line = self._context.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        return line, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what these tests are about

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


class ImageParts:
    """An image of one layer for this machine: `blobs` by digest, `manifest`, `config`, `layer` as bytes."""

    def __init__(self, files: dict[str, bytes], cmd: list[str] | None = None, mode: int = 0o755, pad: bytes = b"") -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, data in {**files, **({"pad": pad} if pad else {})}.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), mode
                archive.addfile(member, io.BytesIO(data))
        self.layer = stream.getvalue()
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
        self.platform = {"os": "linux", "architecture": machine}
        rootfs = {"type": "layers", "diff_ids": [digest_of(self.layer)]}
        self.config = json.dumps({**self.platform, "config": {"Cmd": cmd or ["/bin/true"]}, "rootfs": rootfs}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, self.config),
            "layers": [descriptor(LAYER, self.layer)],
        }
        self.manifest = json.dumps(document).encode()
        self.blobs = {digest_of(data): data for data in (self.config, self.layer)}

    def index(self) -> bytes:
        """An index of this image and of one for another machine."""
        other = {**descriptor(MANIFEST, b"{}"), "platform": {"os": "plan9", "architecture": "mips"}}
        ours = {**descriptor(MANIFEST, self.manifest), "platform": self.platform}
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, ours]}).encode()

    def answer(self, request: Request) -> Reply:
        """What an honest registry says, of the tag 1, the tag all for the index, and digests."""
        kind, _, name = request.path.removeprefix("/v2/app/").partition("/")
        manifests = {"1": self.manifest, digest_of(self.manifest): self.manifest}
        if kind == "manifests" and name in manifests:
            return Reply(manifests[name], headers={"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(manifests[name])})
        if kind == "manifests" and name == "all":
            return Reply(self.index(), headers={"Content-Type": INDEX})
        if kind == "blobs" and name in self.blobs:
            return Reply(self.blobs[name], headers={"Content-Type": "application/octet-stream"})
        complaint = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest\x1b[31m unknown"}]}
        return Reply(json.dumps(complaint).encode(), 404, {"Content-Type": "application/json"})

    def write_layout(self, folder: Path, name: str) -> Path:
        """Writes an OCI image layout for other tools to push."""
        (folder / "blobs" / "sha256").mkdir(parents=True)
        for data in (self.manifest, *self.blobs.values()):
            (folder / "blobs" / "sha256" / digest_of(data)[7:]).write_bytes(data)
        entry = descriptor(MANIFEST, self.manifest, annotations={"org.opencontainers.image.ref.name": name})
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return folder
