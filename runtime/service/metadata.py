"""The metadata service's answers (App Container spec, "App Container Metadata Service").  Pure, but for the documents it reads.

GET  /TOKEN/acMetadata/v1/pod/annotations             application/json
GET  /TOKEN/acMetadata/v1/pod/manifest                application/json
GET  /TOKEN/acMetadata/v1/pod/uuid                    text/plain; charset=us-ascii
GET  /TOKEN/acMetadata/v1/apps/APP/annotations        application/json
GET  /TOKEN/acMetadata/v1/apps/APP/image/manifest     application/json
GET  /TOKEN/acMetadata/v1/apps/APP/image/id           text/plain; charset=us-ascii
POST /TOKEN/acMetadata/v1/pod/hmac/sign               content=...                       the signature in base64
POST /TOKEN/acMetadata/v1/pod/hmac/verify             content=... signature=... uuid=...       200 or 403
GET  /TOKEN/config/v1                                 the names of the pod's configuration documents, a JSON list
GET  /TOKEN/config/v1/NAME                            one of them, a JSON object; its version is the ETag
GET  /TOKEN/config/v1/NAME/KEY                        one value, text/plain; charset=utf-8
"""

from __future__ import annotations

import binascii
import hmac
import json
import os
from urllib.parse import parse_qsl, unquote

from pyrun.errors import StateError
from pyrun.pod import documents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Answer", "Facts", "answer", "host_key", "sign"]

KEY_BYTES = 64
JSON, TEXT, UTF8 = "application/json", "text/plain; charset=us-ascii", "text/plain; charset=utf-8"
_UUID = 36
_HEX = frozenset("0123456789abcdef-")


class Answer:
    """What goes back: a status, a body and its type, and further header lines."""

    __slots__ = ("body", "headers", "kind", "status")

    def __init__(self, status: int, body: bytes, kind: str = TEXT, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.body = body
        self.kind = kind
        self.headers = headers or {}


class Facts:
    """What a pod's directory says in its file `metadata`, see `pyrun.pod.metadata`; ValueError where it does not."""

    __slots__ = ("apps", "config", "manifest", "root", "text", "token", "uuid")

    def __init__(self, data: bytes, root: str) -> None:
        found: dict[str, Any] = json.loads(data)
        try:
            self.uuid: str = found["uuid"]
            self.token: str = found["token"]
            self.manifest: dict[str, Any] = found["manifest"]
            self.text: str = found.get("text", "")
            self.apps: dict[str, dict[str, Any]] = found["apps"]
            self.config: list[str] = found["config"]
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from None
        self.root = root


def host_key(root: str) -> bytes:
    """Return the key of this state directory's pods, made when there is none; only root and this service ever read it."""
    path = f"{root}/metadata.key"
    for _ in range(2):
        try:
            with open(path, "rb") as file:
                key = file.read(KEY_BYTES + 1)
        except FileNotFoundError:
            new = f"{path}.{os.getpid()}"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
            with open(fd, "wb") as file:
                file.write(os.urandom(KEY_BYTES))
                file.flush()
                os.fsync(fd)
            try:
                os.link(new, path)  # the first one wins
            except FileExistsError:
                pass
            finally:
                os.unlink(new)
            continue
        if len(key) == KEY_BYTES:
            return key
        break
    raise StateError("read", path, "it does not hold 64 bytes", hint="remove it: signatures made so far become invalid")


def sign(key: bytes, uuid: str, content: bytes) -> str:
    """Return HMAC-SHA512 of the pod's UUID, a NUL byte and `content`, in base64."""
    return binascii.b2a_base64(hmac.digest(key, uuid.encode() + b"\0" + content, "sha512"), newline=False).decode()


def answer(facts: Facts, key: bytes, method: str, target: str, body: bytes, *, known: str = "") -> Answer:
    """Return what a pod gets for a request; `known` is the version that it has already (If-None-Match)."""
    path = target.partition("?")[0].partition("#")[0]
    first, *rest = [unquote(part) for part in path.lstrip("/").split("/")]
    if not hmac.compare_digest(first.encode(), facts.token.encode()):
        return Answer(401, b"the token is not this pod's\n")
    try:
        if rest[:2] == ["acMetadata", "v1"]:
            return _metadata(facts, key, method, rest[2:], body)
        if rest[:2] == ["config", "v1"]:
            return _only("GET", method) or _config(facts, rest[2:], known)
    except UnicodeError:
        pass
    return _missing()


def _missing() -> Answer:
    return Answer(404, b"there is nothing of that name\n")


def _only(wanted: str, method: str) -> Answer | None:
    if method == wanted or (wanted == "GET" and method == "HEAD"):
        return None
    return Answer(405, f"use {wanted}\n".encode(), headers={"Allow": "GET, HEAD" if wanted == "GET" else wanted})


def _as_it_is(text: str, value: object) -> Answer:
    return Answer(200, text.encode(), JSON) if text else _json(value)


def _json(value: object) -> Answer:
    return Answer(200, json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode(), JSON)


def _metadata(facts: Facts, key: bytes, method: str, rest: list[str], body: bytes) -> Answer:
    if rest == ["pod", "hmac", "sign"]:
        return _only("POST", method) or _sign(facts, key, body)
    if rest == ["pod", "hmac", "verify"]:
        return _only("POST", method) or _verify(key, body)
    found: Answer | None = None
    if rest == ["pod", "annotations"]:
        found = _json(facts.manifest.get("annotations", []))
    elif rest == ["pod", "manifest"]:
        found = _as_it_is(facts.text, facts.manifest)
    elif rest == ["pod", "uuid"]:
        found = Answer(200, facts.uuid.encode())
    elif len(rest) > 2 and rest[0] == "apps" and rest[1] in facts.apps:
        app = facts.apps[rest[1]]
        if rest[2:] == ["annotations"]:
            found = _json(app["annotations"])
        elif rest[2:] == ["image", "manifest"]:
            found = _as_it_is(app.get("image_text", ""), app["image_manifest"])
        elif rest[2:] == ["image", "id"]:
            found = Answer(200, str(app["image_id"]).encode())
    return (_only("GET", method) or found) if found else _missing()


def _form(body: bytes, *names: str) -> dict[str, bytes] | None:
    """The fields of application/x-www-form-urlencoded, bytes kept as they are; None unless each of `names` is there once."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, encoding="latin-1", max_num_fields=16)
    except ValueError:
        return None
    found = {name: value.encode("latin-1") for name, value in pairs}
    return found if len(found) == len(pairs) and all(name in found for name in names) else None


def _sign(facts: Facts, key: bytes, body: bytes) -> Answer:
    form = _form(body, "content")
    if form is None:
        return Answer(400, b"the form has no field content\n")
    return Answer(200, sign(key, facts.uuid, form["content"]).encode())


def _verify(key: bytes, body: bytes) -> Answer:
    """Anybody may ask about anybody's signature: to make one takes the key, which stays here."""
    form = _form(body, "content", "signature", "uuid")
    if form is None:
        return Answer(400, b"the form needs the fields content, signature and uuid\n")
    uuid = form["uuid"].decode("latin-1").lower()
    good = (
        len(uuid) == _UUID and _HEX.issuperset(uuid) and hmac.compare_digest(sign(key, uuid, form["content"]).encode(), form["signature"])
    )
    return Answer(200, b"") if good else Answer(403, b"the signature is not that pod's\n")


def _config(facts: Facts, rest: list[str], known: str) -> Answer:
    if not rest or rest == [""]:
        return _json(facts.config)
    if rest[0] not in facts.config or len(rest) > 2:
        return _missing()
    try:
        version, values = documents.read(facts.root, rest[0])
    except StateError:
        return _missing()
    tag = {"ETag": f'"{version}"'}
    if known == tag["ETag"]:
        return Answer(304, b"", headers=tag)
    if len(rest) == 1:
        found = _json(values)
    elif rest[1] in values:
        found = Answer(200, values[rest[1]].encode("utf-8", "surrogateescape"), UTF8)
    else:
        return _missing()
    found.headers = tag
    return found
