"""Keys below a prefix in etcd, read by its own JSON form of the gRPC calls Range and Watch (etcd API reference, "gRPC gateway")."""

from __future__ import annotations

import base64
import json
import os

from pyrun.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Etcd"]

_TIMEOUT = 30  # seconds
_MOST = 8 << 20  # bytes of one answer
_HINT = "is that the client URL of an etcd 3.4 or newer, and does it run?"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _context(cacert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    import ssl

    option, path = "--cacert", cacert or ""
    try:
        context = ssl.create_default_context(cafile=cacert)
        if cert:
            option, path = ("--key", key) if key and not os.access(key, os.R_OK) else ("--cert", cert)
            context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        hint = "give PEM files; a certificate and the private key that belongs to it, unencrypted"
        raise UsageError(f"option {option}", path, (error.reason or str(error)).lower().replace("_", " "), hint=hint) from None
    except OSError as error:
        raise UsageError(f"option {option}", path, errno=error.errno or 0, hint="name a readable file in PEM form") from None
    return context


def _reason(error: Exception) -> str:
    """What urllib3 says, without the objects that it names; of TLS what OpenSSL says."""
    words = str(error).partition("(Caused")[0]
    return words.partition("[SSL: ")[2].partition("]")[0].lower().replace("_", " ") or words


def _no_password() -> str:
    """Instead of asking on the terminal."""
    return ""


class Etcd:
    """One prefix of one etcd; `url` is http or https.

    Files in PEM form: `cacert` has the certificates to trust instead of the system's, `cert` and `key` are the client's own.
    UsageError for a URL of another kind and for files that cannot be used.
    """

    def __init__(self, url: str, prefix: str, *, cacert: str | None = None, cert: str | None = None, key: str | None = None) -> None:
        import urllib3

        if not url.startswith(("http://", "https://")) or "@" in url:
            raise UsageError("option --etcd", url, "not an http or https URL", hint="write https://HOST:2379")
        self._url = url.rstrip("/")
        self._prefix = prefix.encode("utf-8", "surrogateescape")
        if not url.startswith("https://") and (cacert or cert or key):
            raise UsageError("option --etcd", url, "certificates are for https", hint="write https://, or leave them out")
        if key and not cert:
            raise UsageError("option --key", key, "belongs to a certificate", hint="add --cert FILE")
        self._pool = urllib3.PoolManager(retries=False, ssl_context=_context(cacert, cert, key))

    def _range(self) -> dict[str, str]:
        end = bytearray(self._prefix)
        while end and end[-1] == 0xFF:
            end.pop()
        if end:
            end[-1] += 1
        return {"key": _text(self._prefix), "range_end": _text(bytes(end) or b"\0")}

    def _ask(self, path: str, question: dict[str, Any], *, stream: bool = False) -> Any:
        import urllib3

        timeout = urllib3.Timeout(connect=_TIMEOUT, read=None if stream else _TIMEOUT)
        try:
            body = json.dumps(question).encode()
            answer = self._pool.request("POST", self._url + path, body=body, timeout=timeout, preload_content=not stream, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise HostError("ask etcd", self._url, _reason(error), hint=_HINT) from None
        if answer.status != 200:
            raise HostError("ask etcd", self._url, f"it answers {answer.status}", hint=_HINT)
        return answer

    def values(self) -> tuple[int, dict[str, str]]:
        """Return the revision of etcd and the values, by what follows the prefix; HostError when it cannot be asked.

        UsageError where a key has a form that no document may have.
        """
        answer = self._ask("/v3/kv/range", self._range())
        try:
            found = json.loads(answer.data[:_MOST])
            revision = int(found["header"]["revision"])
            pairs = [(base64.b64decode(one["key"]), base64.b64decode(one.get("value", ""))) for one in found.get("kvs", [])]
        except (ValueError, KeyError, TypeError):
            raise HostError("ask etcd", self._url, "its answer makes no sense", hint=_HINT) from None
        return revision, {
            key[len(self._prefix) :].decode("utf-8", "replace"): value.decode("utf-8", "surrogateescape") for key, value in pairs
        }

    def changes(self) -> Iterator[dict[str, str]]:
        """Yield the values now and after each change; HostError when etcd goes away."""
        revision, found = self.values()
        yield found
        watch = {"create_request": {**self._range(), "start_revision": str(revision + 1)}}
        answer = self._ask("/v3/watch", watch, stream=True)
        for _ in self._events(answer):
            yield self.values()[1]
        raise HostError("watch etcd", self._url, "the connection has ended", hint="start it again, as a service with Restart=on-failure")

    def _events(self, answer: Any) -> Iterator[object]:
        """One for each message of the stream that tells of events; messages are JSON objects, a line each."""
        import urllib3

        rest = b""
        try:
            for piece in answer.stream(65536):
                *lines, rest = (rest + piece).split(b"\n")
                if any(b'"events"' in line for line in lines):
                    yield None
                if len(rest) > _MOST:
                    return
        except urllib3.exceptions.HTTPError as error:
            raise HostError("watch etcd", self._url, _reason(error), hint=_HINT) from None
