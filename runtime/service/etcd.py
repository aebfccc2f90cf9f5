"""Keys below a prefix in etcd, read by its own JSON form of the gRPC calls Range and Watch (etcd API reference, "gRPC gateway")."""

from __future__ import annotations

import base64
import json

from pyrun.errors import HostError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Etcd"]

_TIMEOUT = 30  # seconds
_MOST = 8 << 20  # bytes of one answer
_HINT = "is that the client URL of an etcd 3.4 or newer, and does it run?"


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Etcd:
    """One prefix of one etcd; `url` is http or https, `cacert` a file of certificates to trust instead of the system's."""

    def __init__(self, url: str, prefix: str, cacert: str | None = None) -> None:
        import urllib3

        if not url.startswith(("http://", "https://")) or "@" in url:
            raise UsageError("option --etcd", url, "not an http or https URL", hint="write https://HOST:2379")
        self._url = url.rstrip("/")
        self._prefix = prefix.encode("utf-8", "surrogateescape")
        self._pool = urllib3.PoolManager(retries=False, cert_reqs="CERT_REQUIRED", ca_certs=cacert)

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
            raise HostError("ask etcd", self._url, str(error).partition("(Caused")[0], hint=_HINT) from None
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
            raise HostError("watch etcd", self._url, str(error), hint=_HINT) from None
