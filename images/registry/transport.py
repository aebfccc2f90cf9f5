"""Connections: certificates always checked, every wait bounded, addresses looked at before they are connected to.

A timeout of a socket starts again with every byte, so that a server which sends one byte now and then never
meets it.  Each exchange therefore has a `Watch`, which shuts the connection down when its time is over,
whatever it waits for: handshake, head or body.

No proxy is used, no .netrc read, no session key logged, whatever the environment says.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import NoReturn
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.exceptions import SSLError as WrappedSSLError

from pyrun.errors import ImageError
from pyrun.images.printable import printable

__all__ = ["Again", "Patience", "Transport", "UnreachableError", "Url", "Watch"]

CERTS_DIRS = ("/etc/containers/certs.d", "/etc/docker/certs.d")  # containers-certs.d(5)
_FATAL_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE", "ALERT")
_MAX_URL = 16 << 10


class Patience:
    """How long things may take, in seconds: `head` until the answer begins, `idle` between two bytes, `document` for a whole
    document; `rate`, bytes a second, is what a download must reach over each `window`.  `attempts` with waits from `back_off`
    on, doubled each time, up to `longest_wait`.
    """

    __slots__ = ("attempts", "back_off", "connect", "document", "head", "idle", "longest_wait", "rate", "window")

    def __init__(
        self,
        *,
        connect: float = 15,
        head: float = 30,
        idle: float = 20,
        document: float = 60,
        window: float = 30,
        rate: int = 4096,
        attempts: int = 5,
        back_off: float = 0.5,
        longest_wait: float = 60,
    ) -> None:
        self.connect = connect
        self.head = head
        self.idle = idle
        self.document = document
        self.window = window
        self.rate = rate
        self.attempts = attempts
        self.back_off = back_off
        self.longest_wait = longest_wait


class Again(Exception):
    """A failure that another attempt may not meet; `error` is what to say when there is none, `wait` what the server asked for."""

    def __init__(self, error: ImageError, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait = wait


class UnreachableError(ImageError):
    """Nobody answers there, or not in TLS: another way in may exist."""


class Url:
    """An absolute http or https URL without user, fragment or control characters; ImageError for anything else."""

    __slots__ = ("host", "port", "scheme", "target", "text")

    def __init__(self, text: str, what: str) -> None:
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            _refuse(what, f"{printable(text, 80)} is no URL")
        if len(text) > _MAX_URL or not (text.isascii() and text.isprintable()) or " " in text or "\\" in text:
            _refuse(what, f"{printable(text, 80)} is no URL")
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            _refuse(what, f"{printable(text.partition('?')[0].rpartition('@')[2], 80)} is no URL that may be followed")
        self.text = text.partition("#")[0]
        self.scheme = parts.scheme
        self.host = host.lower()
        self.port = port or (443 if parts.scheme == "https" else 80)
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what secrets are bound to (RFC 6454)."""
        return (self.scheme, self.host, self.port)

    def __str__(self) -> str:
        """Without the query, which may hold a signature that opens the door."""
        return printable(self.text.partition("?")[0])


class Watch:
    """The time of one exchange: `fired` once it is over, and then the connection is shut down.  Use it in a `with`."""

    __slots__ = ("__weakref__", "_line", "_timer", "address", "fired", "gate")

    def __init__(self, seconds: float, gate: Callable[[str], None]) -> None:
        self.gate = gate
        self.address = ""
        self.fired = False
        self._line: socket.socket | None = None
        self._timer = self._start(seconds)

    def _start(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self.fire)
        timer.daemon = True
        timer.start()
        return timer

    def again(self, seconds: float) -> None:
        """Starts the time anew, unless it is over."""
        self._timer.cancel()
        if not self.fired:
            self._timer = self._start(seconds)

    def look_at(self, line: socket.socket) -> None:
        """From now on this is the connection to shut down."""
        self._line = line
        if self.fired:
            self.fire()

    def fire(self) -> None:
        """Ends the exchange at once."""
        self.fired = True
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Watch:
        _current.watch = self
        return self

    def __exit__(self, *_exc: object) -> None:
        _current.watch = None
        self._timer.cancel()


class _Current(threading.local):
    """The watch of this thread's exchange: urllib3 makes and picks connections itself."""

    watch: Watch | None = None


_current = _Current()


class _Line(HTTPConnection):
    """A connection that tells the watch which socket it uses; a duplicate, since TLS takes the first one over."""

    _twin: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        watch = _current.watch
        assert watch is not None
        failure: OSError = OSError("no address")
        timeout = self.timeout if isinstance(self.timeout, int | float) else None
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host.strip("[]"), self.port, type=socket.SOCK_STREAM):
            watch.gate(str(address[0]))
            line = socket.socket(family, kind, protocol)
            self._forget()
            try:
                self._twin = line.dup()
                watch.look_at(self._twin)
                line.settimeout(timeout)
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line.connect(address)
                watch.address = str(address[0])
                return line
            except OSError as error:
                failure = error
                line.close()
        self._forget()
        raise failure

    def request(self, *arguments: object, **more: object) -> None:
        """As urllib3's; a kept connection comes under the watch of the new exchange."""
        if _current.watch is not None and self._twin is not None:
            _current.watch.look_at(self._twin)
        super().request(*arguments, **more)  # type: ignore[arg-type]  # handed through

    def close(self) -> None:
        """Closes both descriptors."""
        self._forget()
        super().close()

    def _forget(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            twin.close()


class _SecureLine(_Line, HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Line  # pyright: ignore[reportAssignmentType]  # the protocol is narrower than urllib3's own classes


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureLine  # pyright: ignore[reportAssignmentType]


class Transport:
    """Connections to one server and to where it sends us; threads may share it.  `near`: another one named it, which is on this host."""

    def __init__(self, home: Url, patience: Patience, certs_dirs: tuple[str, ...] = CERTS_DIRS, near: bool | None = None) -> None:
        self.home = home
        self.patience = patience
        self.certs_dirs = certs_dirs
        self._pools: dict[tuple[str, str, int], urllib3.HTTPConnectionPool] = {}
        self._lock = threading.Lock()
        self._named = near is None
        self.near = bool(near)  # whether what we were sent by has an address of this host itself
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()

    def watch(self, url: Url) -> Watch:
        """The watch for an exchange with `url`, its time that of the head of an answer."""
        made = Watch(self.patience.head, _anywhere if self._named and url.host == self.home.host else self._gate)
        with self._lock:
            self._watches.add(made)
        return made

    def stop(self) -> None:
        """Ends the exchanges of all threads."""
        with self._lock:
            for watch in self._watches:
                watch.fire()

    def send(self, url: Url, headers: dict[str, str], watch: Watch, method: str = "GET") -> urllib3.BaseHTTPResponse:
        """The head of the answer to a request without a body, its own body unread; `Again` or ImageError when there is none."""
        with failures(url, watch):
            response = self._pool(url).urlopen(
                method,
                url.target,
                headers={"Accept-Encoding": "identity", "User-Agent": "pyrun", **headers},
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self.patience.connect, read=self.patience.idle),
            )
        if url.origin == self.home.origin and watch.address:
            # where it answered, not all that its name may mean; nor more than what the one that named it may
            self.near = _is_near(watch.address) and (self._named or self.near)
        return response

    def close(self) -> None:
        """Closes what is open."""
        with self._lock:
            for pool in self._pools.values():
                pool.close()
            self._pools.clear()

    def _pool(self, url: Url) -> urllib3.HTTPConnectionPool:
        with self._lock:
            pool = self._pools.get(url.origin)
            if pool is None:
                host = f"[{url.host}]" if ":" in url.host else url.host
                if url.scheme == "http":
                    pool = _Pool(host, url.port, maxsize=4)
                else:
                    pool = _SecurePool(host, url.port, maxsize=4, ssl_context=context(url, self.certs_dirs))
                self._pools[url.origin] = pool
            return pool

    def _gate(self, address: str) -> None:
        """Refuses addresses that only this host sees, its cloud's metadata among them, unless the server has one too (C08, C11)."""
        if _is_near(address) and not self.near:
            reason = f"the server sends us to {address}, an address of this host or link"
            raise ImageError("connect to", address, reason, hint=f"only a server on this host may do that; ask who runs {self.home.host}")


def _anywhere(_address: str) -> None:
    """The gate for the server that the user named."""


def context(url: Url, certs_dirs: tuple[str, ...]) -> ssl.SSLContext:
    """Checks certificates against the system's authorities ($SSL_CERT_FILE, $SSL_CERT_DIR) and those of certs.d/HOST[:PORT]."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not create_default_context: that obeys SSLKEYLOGFILE
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.load_default_certs()
    names = [f"{url.host}:{url.port}"] + ([url.host] if url.port == 443 else [])
    for folder in [f"{top}/{name}" for top in certs_dirs for name in names]:
        try:
            files = sorted(name for name in os.listdir(folder) if name.endswith(".crt"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ImageError("read certificates", folder, errno=error.errno or 0, hint="check its permissions") from None
        for name in files:
            try:
                made.load_verify_locations(f"{folder}/{name}")
            except OSError:  # ssl.SSLError is one
                raise ImageError("read certificate", f"{folder}/{name}", "not a certificate in PEM form", hint="replace it") from None
        _show_ourselves(made, folder)
    return made


def _show_ourselves(made: ssl.SSLContext, folder: str) -> None:
    """Loads the pair NAME.cert and NAME.key that the registry of `folder`, and nobody else, may ask for."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".cert"):
            continue
        path = f"{folder}/{name}"
        key = f"{path.removesuffix('.cert')}.key"
        try:
            info = os.stat(key)
            if info.st_mode & 0o077 or info.st_uid not in (0, os.geteuid()):
                hint = f"chmod 600 {key}, and get a new one"
                raise ImageError("read key", key, "others than its owner may read it", hint=hint)
            made.load_cert_chain(path, key, password="")  # none is asked for on the terminal
        except OSError as error:  # ssl.SSLError is one
            missing = isinstance(error, FileNotFoundError)
            reason = "it is missing" if missing else "not a certificate and its key in PEM form"
            raise ImageError("read certificate", key if missing else path, reason, hint="replace both, or remove them") from None


def _is_near(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast


@contextlib.contextmanager
def failures(url: Url, watch: Watch) -> Iterator[None]:
    """Turns what urllib3 raises into `Again` or, where nothing would change, ImageError."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        what = _root(error)
        if watch.fired:
            raise _error(url, "it takes too long", "try again later; is the network slow?") from None
        if isinstance(what, ssl.SSLCertVerificationError):
            reason = f"its certificate is not accepted: {printable(what.verify_message or 'unknown reason')}"
            place = f"{CERTS_DIRS[0]}/{url.host}:{url.port}/ca.crt"
            raise _error(url, reason, f"put the authority's certificate into {place}") from None
        if isinstance(what, ssl.SSLError) and any(word in (what.reason or "") for word in _FATAL_TLS):
            plain = (what.reason or "") in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")
            reason = "it does not speak TLS" if plain else f"TLS: {printable((what.reason or '').lower().replace('_', ' '))}"
            hint = "check the port; plain http is accepted with --insecure-options=http" if plain else "TLS 1.2 is the least"
            raise _error(url, reason, hint, UnreachableError if plain else ImageError) from None
        if isinstance(what, socket.gaierror) and what.errno != socket.EAI_AGAIN:
            raise _error(url, "no such host", "check how it is spelled", UnreachableError) from None
        kind = UnreachableError if isinstance(what, ConnectionRefusedError) else ImageError
        raise Again(_error(url, _words(what), "is the server running, and the port right?", kind)) from None


def _root(error: BaseException) -> BaseException:
    while isinstance(error, (ProtocolError, WrappedSSLError)):
        inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        if inner is None:
            break
        error = inner
    return error


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno).lower() if error.errno > 0 else printable(str(error.strerror)).lower()
    return "the connection broke"


def _error(url: Url, reason: str, hint: str, kind: type[ImageError] = ImageError) -> ImageError:
    return kind("ask", f"{url.host}:{url.port}", reason, hint=hint)


def _refuse(what: str, reason: str) -> NoReturn:
    raise ImageError("read", what, reason, hint="ask who runs the registry")
