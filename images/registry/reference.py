"""Names of images in registries: ``HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`` (distribution-spec 1.1, "Pulling manifests").

After ``docker://`` the rules of docker hold: a first part without dot, colon or port is no host but part of a
repository on docker.io, and one part alone means library/.  Anywhere else the host has to be written.
No regular expressions: `run` comes through here to find a stored image.
"""

from __future__ import annotations

from pyrun.errors import UsageError
from pyrun.images.printable import printable
from pyrun.images.store import is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["RegistryReference", "is_tag", "parse"]

_SCHEME = "docker://"
HUB = "docker.io"
_HUB_SERVER = "registry-1.docker.io"

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ALNUM = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_TAG = _ALNUM | frozenset("_.-")
_SEPARATORS = (".", "_", "__")
_MAX_NAME = 255  # of a whole repository name in docker's grammar
_MAX_TAG = 128
_HINT = "write docker://HOST[:PORT]/REPOSITORY[:TAG] or HOST/REPOSITORY@sha256:DIGEST"


class RegistryReference:
    """A checked reference; `digest` is ``sha256-<hex>``, ``sha512-<hex>`` or "", `tag` is "" only where there is a digest."""

    __slots__ = ("digest", "host", "port", "repository", "tag", "text")

    def __init__(self, text: str, host: str, port: int, repository: str, tag: str, digest: str) -> None:
        self.text = text
        self.host = host
        self.port = port
        self.repository = repository
        self.tag = tag
        self.digest = digest

    @property
    def registry(self) -> str:
        """The registry as people and credential files write it, HOST[:PORT]."""
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def server(self) -> str:
        """The host to connect to."""
        return _HUB_SERVER if self.host == HUB else self.host

    @property
    def name(self) -> str:
        """The name in the store, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def full_name(self) -> str:
        """The name in the store with the tag, where there is one."""
        return f"{self.name}:{self.tag}" if self.tag else self.name

    def meant_by(self, origin: dict[str, str] | None) -> bool:
        """Whether the origin of a stored image is this reference, so that the verdict then is the one on it."""
        if origin is None or origin["transport"] != "docker" or origin["place"] != self.name:
            return False
        return not self.tag or origin["name"] == self.full_name

    def __str__(self) -> str:
        return self.full_name + (f"@{self.digest.replace('-', ':', 1)}" if self.digest else "")


def parse(text: str) -> RegistryReference:
    """Take a reference apart; UsageError when it is none."""
    rest, at, digest = text.removeprefix(_SCHEME).partition("@")
    if at:
        digest = digest.replace(":", "-", 1) if "-" not in digest else ""
        if not is_digest(digest):
            _refuse(text, "what follows @ is no digest", "write @sha256: and 64 lower-case hexadecimal digits")
    colon = rest.find(":", rest.rfind("/") + 1)
    tag = ""
    if colon >= 0:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not is_tag(tag):
            _refuse(text, "the tag is none", "a tag is up to 128 letters, digits, _, . and -")
    place, path = _split(text, rest)
    host, port = _host(text, place)
    if len(path) > _MAX_NAME or not all(map(_is_component, path.split("/"))):
        _refuse(text, "the repository is none", "a repository is lower-case words with / between them, in which . _ __ and - may stand")
    return RegistryReference(text, host, port, path, tag or ("" if digest else "latest"), digest)


def is_tag(text: str) -> bool:
    """Whether `text` can be a tag (distribution-spec, "Pulling manifests")."""
    return 0 < len(text) <= _MAX_TAG and text[0] not in ".-" and _TAG.issuperset(text)


def _split(text: str, rest: str) -> tuple[str, str]:
    first, slash, path = rest.partition("/")
    if slash and (first == "localhost" or not set(".:[").isdisjoint(first)):
        return first, path
    if not text.startswith(_SCHEME):
        _refuse(text, "it names no registry")
    return HUB, rest if slash else f"library/{rest}"


def _host(text: str, place: str) -> tuple[str, int]:
    host, colon, digits = place.rpartition(":")
    if not colon or place.endswith("]"):
        host, colon, digits = place, "", ""
    if colon and not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        _refuse(text, f"{printable(digits)} is no port", "a port is a number from 1 to 65535")
    if host.startswith("["):
        good = host.endswith("]") and len(host) > 3 and frozenset("0123456789abcdefABCDEF:.").issuperset(host[1:-1])
    else:
        good = len(host) <= 253 and all(_is_label(label) for label in host.split("."))
    if not good:
        _refuse(text, f"{printable(host)} is no host", "write a host name or an address")
    host = host.lower()
    return (HUB if host in ("index.docker.io", _HUB_SERVER) and not colon else host), int(digits or 0)


def _is_label(text: str) -> bool:
    return 0 < len(text) < 64 and "-" not in (text[0], text[-1]) and (_ALNUM | {"-"}).issuperset(text)


def _is_component(text: str) -> bool:
    """``[a-z0-9]+`` any number of times, with ``.``, ``_``, ``__`` or dashes in between."""
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER:
        return False
    run = ""
    for char in text:
        if char not in _LOWER:
            run += char
        elif run:
            if run not in _SEPARATORS and run.strip("-"):
                return False
            run = ""
    return True


def _refuse(text: str, reason: str, hint: str = _HINT) -> NoReturn:
    raise UsageError("read reference", printable(text), reason, hint=hint)
