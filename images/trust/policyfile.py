"""Reading containers-policy.json(5): for each transport and scope, what an image must fulfil.

    {"default": [{"type": "reject"}],
     "transports": {"docker": {"registry.example.com/team": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "..."}]}}}

Read as strictly as containers/image does: what is not known, occurs twice or is missing makes the whole file void, and
then no image is accepted.  A requirement that pyrun cannot check (Fulcio, Rekor, PKI, base layers) is not void, but
nothing ever fulfils it: `unsupported` says why.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NoReturn

from pyrun.errors import ImageError, TrustError
from pyrun.images import strictjson
from pyrun.images.printable import printable
from pyrun.images.trust import identity
from pyrun.images.trust.identity import Identity
from pyrun.images.trust.keyfiles import MAX_KEY, read_bounded
from pyrun.images.trust.registriesd import namespaces

__all__ = ["Policy", "Requirement", "Subject", "parse", "read"]

ACCEPT, REJECT, SIGNED_BY, SIGSTORE = "insecureAcceptAnything", "reject", "signedBy", "sigstoreSigned"
BASE_LAYER = "signedBaseLayer"
_KEY_TYPES = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
_MAX_POLICY = 1 << 20
_SEE = "see containers-policy.json(5)"
_UNCHECKED = ("fulcio", "pki", "rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
_KEYS = {SIGNED_BY: ("keyPath", "keyPaths", "keyData"), SIGSTORE: ("keyPath", "keyPaths", "keyData", "keyDatas")}
_KINDS = {
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}  # fmt: skip
_TRANSPORTS = frozenset("docker oci oci-archive docker-archive dir atomic containers-storage docker-daemon tarball sif ostree".split())
_UNSCOPED = ("docker-archive", "tarball")
_BY_PATH = ("oci", "oci-archive", "dir", "sif")


class Subject:
    """What is judged: `transport` and `place` (a path, "" for a registry) are where it comes from, `asked` the name it was asked by.

    `documents` are the manifests that stand for it: its own, and the index that led there.
    """

    __slots__ = ("asked", "documents", "place", "title", "transport")

    def __init__(self, transport: str, place: str, asked: Identity | None, title: str) -> None:
        self.transport = transport
        self.place = place
        self.asked = asked
        self.title = title
        self.documents: list[bytes] = []

    def is_origin(self, origin: dict[str, str] | None) -> bool:
        """Whether the origin that a record has is this one."""
        name = str(self.asked) if self.asked else ""
        return origin is not None and (origin["transport"], origin["place"], origin["name"]) == (self.transport, self.place, name)

    def scopes(self) -> list[str]:
        """Scopes of a policy that may be meant for it, the closest first."""
        if self.transport in _UNSCOPED:
            return [""]
        if self.transport == "docker":
            return [*(namespaces(self.asked) if self.asked else ()), ""]
        parts = self.place.rstrip("/").split("/")
        return ["/".join(parts[:end]) for end in range(len(parts), 1, -1)] + [""]


class Requirement:
    """One requirement; `paths` and `datas` are where its keys are, and `rule` with `values` says which signed name is right.

    With `unsupported`, the reason, nothing fulfils it.
    """

    __slots__ = ("datas", "paths", "rule", "type", "unsupported", "values")

    def __init__(self, item: dict[str, Any], at: str) -> None:
        self.type = str(item.get("type"))
        self.paths: list[str] = []
        self.datas: list[bytes] = []
        self.rule = ""
        self.values: list[str] = []
        self.unsupported = ""
        if self.type in (ACCEPT, REJECT):
            _only(item, at, ("type",))
        elif self.type == SIGNED_BY:
            _only(item, at, ("type", "keyType", *_KEYS[SIGNED_BY], "signedIdentity"))
            if item.get("keyType") not in _KEY_TYPES:
                _refuse(f"{at}.keyType", f"{_shown(item.get('keyType'))} is not known")
            if item["keyType"] != _KEY_TYPES[0]:
                self.unsupported = f"keyType {item['keyType']} is not supported, only {_KEY_TYPES[0]} is"
            self._keys(item, at)
            self._identity(item, at)
        elif self.type == SIGSTORE:
            _only(item, at, ("type", *_KEYS[SIGSTORE], *_UNCHECKED, "signedIdentity"))
            beyond = [name for name in _UNCHECKED if name in item]
            if beyond:
                self.unsupported = f"{beyond[0]}: keyless signing and transparency logs are not supported, only keyPath and keyData are"
            if "fulcio" not in item and "pki" not in item:
                self._keys(item, at)
            self._identity(item, at)
        elif self.type == BASE_LAYER:
            _only(item, at, ("type", "baseLayerIdentity"))
            self.unsupported = f"{BASE_LAYER} is not supported"
        else:
            _refuse(f"{at}.type", f"{_shown(item.get('type'))} is not known")

    def _keys(self, item: dict[str, Any], at: str) -> None:
        given = [name for name in _KEYS[self.type] if name in item]
        if len(given) != 1:
            _refuse(at, f"exactly one of {', '.join(_KEYS[self.type])} is needed, there are {len(given)}")
        name, value = given[0], item[given[0]]
        values = value if name in ("keyPaths", "keyDatas") else [value]
        if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
            _refuse(f"{at}.{name}", "not what names a key")
        if name in ("keyPath", "keyPaths"):
            self.paths = values
            return
        try:
            self.datas = [base64.b64decode(one, validate=True) for one in values]
        except (binascii.Error, ValueError):
            _refuse(f"{at}.{name}", "not base64")

    def _identity(self, item: dict[str, Any], at: str) -> None:
        match = item.get("signedIdentity", {"type": "matchRepoDigestOrExact"})
        at = f"{at}.signedIdentity"
        if not isinstance(match, dict) or match.get("type") not in _KINDS:
            _refuse(at, f"{_shown(match.get('type') if isinstance(match, dict) else None)} is not known")
        self.rule = match["type"]
        _only(match, at, ("type", *_KINDS[self.rule]))
        for name in _KINDS[self.rule]:
            value = match.get(name)
            found = identity.parse(value) if isinstance(value, str) else None
            bare = found is not None and found.is_bare
            good = found is not None and (not bare if name == "dockerReference" else True)
            if name in ("prefix", "signedPrefix"):
                good = isinstance(value, str) and _is_prefix(value)
            if not good:
                _refuse(f"{at}.{name}", f"{_shown(value)} is no name of that kind")
            self.values.append(str(value))

    def accepts(self, asked: Identity | None, reference: str) -> bool:
        """Whether an image that was asked for by one name may be signed under another."""
        signed = identity.parse(reference)
        if self.rule == "matchExact":
            return identity.exact(asked, signed)
        if self.rule == "matchRepository":
            return identity.same_repository(asked, signed)
        if self.rule == "exactReference":
            return identity.exact(identity.parse(self.values[0]), signed)
        if self.rule == "exactRepository":
            return identity.same_repository(identity.parse(self.values[0]), signed)
        if self.rule == "remapIdentity":
            asked = identity.remapped(asked, *self.values)
        return identity.repo_digest_or_exact(asked, signed)

    def keys(self) -> list[bytes]:
        """The content of the key files; TrustError when one cannot be read, or others than root can write it."""
        return self.datas or [read_bounded(path, MAX_KEY, "key", owned=True) for path in self.paths]


class Policy:
    """A policy; `path` is where it was read."""

    __slots__ = ("default", "path", "transports")

    def __init__(self, path: str, default: list[Requirement], transports: dict[str, dict[str, list[Requirement]]]) -> None:
        self.path = path
        self.default = default
        self.transports = transports

    def requirements(self, subject: Subject) -> list[Requirement]:
        """All that an image must fulfil: those of the closest scope of its transport, else the default."""
        scopes = self.transports.get(subject.transport, {})
        return next((scopes[scope] for scope in subject.scopes() if scope in scopes), self.default)


def read(path: str) -> Policy:
    """The policy in a file; TrustError when it cannot be read as it was meant, or others than root can write it."""
    return parse(read_bounded(path, _MAX_POLICY, "policy", owned=True), path)


def parse(data: bytes, path: str) -> Policy:
    """The policy in a document that was read from `path`; TrustError as `read`."""
    try:
        document = strictjson.loads(data, what="policy", case_twins="allow", limit=_MAX_POLICY)
        top = _object(document, "", ("default", "transports"))
        if "default" not in top:
            _refuse("default", "missing")
        transports = {}
        for name, value in _object(top.get("transports", {}), "transports").items():
            if name not in _TRANSPORTS:
                _refuse(f"transports.{name}", "no such transport")
            scopes = _object(value, f"transports.{name}")
            for scope in scopes:
                _check_scope(name, scope)
            transports[name] = {scope: _requirements(scopes[scope], f"transports.{name}[{_shown(scope)}]") for scope in scopes}
        return Policy(path, _requirements(top["default"], "default"), transports)
    except _Wrong as error:
        raise TrustError("read policy", path, str(error), hint=error.hint) from None
    except ImageError as error:
        raise TrustError("read policy", path, error.reason or str(error), hint=_SEE) from None


class _Wrong(Exception):
    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.hint = hint


def _refuse(at: str, reason: str, hint: str = _SEE) -> NoReturn:
    raise _Wrong(f"{printable(at, 200)}: {reason}" if at else reason, hint)


def _requirements(value: Any, at: str) -> list[Requirement]:
    if not isinstance(value, list) or not value:
        _refuse(at, "not a list with one requirement at least")
    found = []
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            _refuse(f"{at}[{index}]", "not an object")
        found.append(Requirement(item, f"{at}[{index}]"))
    return found


def _object(value: Any, at: str, known: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(at, "not an object")
    if known is not None:
        _only(value, at, known, needed=())
    return value


def _only(item: dict[str, Any], at: str, known: tuple[str, ...], needed: tuple[str, ...] = ("type",)) -> None:
    for name in item:
        if name not in known:
            _refuse(f"{at}.{name}" if at else name, "not known")
    for name in needed:
        if name not in item:
            _refuse(f"{at}.{name}", "missing")


def _check_scope(transport: str, scope: str) -> None:
    if not scope:
        return
    if transport in _UNSCOPED:
        _refuse(f"transports.{transport}[{_shown(scope)}]", "this transport has no scopes but the empty one")
    parts = scope.split("/")[1:]
    plain = scope.startswith("/") and scope != "/" and not {"", ".", ".."} & set(parts)
    if transport in _BY_PATH and not plain:
        _refuse(f"transports.{transport}[{_shown(scope)}]", "not an absolute path in its plain form")


def _is_prefix(text: str) -> bool:
    host = text.partition("/")[0]
    found = identity.parse(text if "/" in text else f"{text}/x")
    return found is not None and found.is_bare and found.name == (text if "/" in text else f"{text}/x") and bool(host)


def _shown(value: object) -> str:
    return f'"{printable(value, 100)}"' if isinstance(value, str) else "nothing"
