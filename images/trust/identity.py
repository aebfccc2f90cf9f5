"""Names in signatures, and when they are the name that was asked for (containers-policy.json(5), "signedIdentity").

A name is compared in its full form, as docker's: busybox is docker.io/library/busybox.  A tag or digest is never
filled in, since what is signed has to say for itself which version it means.
"""

from __future__ import annotations

from pyrun.errors import PyrunError
from pyrun.images.registry import reference

__all__ = ["Identity", "exact", "parse", "remapped", "repo_digest_or_exact", "same_repository"]


class Identity:
    """``HOST/REPOSITORY[:TAG][@DIGEST]`` taken apart; `digest` is ``sha256-<hex>``."""

    __slots__ = ("digest", "name", "tag")

    def __init__(self, name: str, tag: str = "", digest: str = "") -> None:
        self.name = name
        self.tag = tag
        self.digest = digest

    @property
    def is_bare(self) -> bool:
        """Whether it says nothing of a version."""
        return not (self.tag or self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and (self.name, self.tag, self.digest) == (other.name, other.tag, other.digest)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest.replace('-', ':', 1)}" if self.digest else "")


def parse(text: str) -> Identity | None:
    """A name as people write it, in its full form; None for what is no name."""
    if "://" in text:
        return None
    try:
        found = reference.parse(f"docker://{text}")
    except PyrunError:
        return None
    before = text.partition("@")[0]
    return Identity(found.name, found.tag if ":" in before[before.rfind("/") + 1 :] else "", found.digest)


def exact(asked: Identity | None, signed: Identity | None) -> bool:
    """matchExact and exactReference: the same name and version, which both must have."""
    return asked is not None and signed is not None and not asked.is_bare and not signed.is_bare and asked == signed


def repo_digest_or_exact(asked: Identity | None, signed: Identity | None) -> bool:
    """matchRepoDigestOrExact: the same name and tag; who asks by digest takes any version of the repository."""
    if asked is None or signed is None or signed.is_bare:
        return False
    return asked == signed if asked.tag else bool(asked.digest) and asked.name == signed.name


def same_repository(asked: Identity | None, signed: Identity | None) -> bool:
    """matchRepository and exactRepository: the same name, whatever version."""
    return asked is not None and signed is not None and asked.name == signed.name


def remapped(asked: Identity | None, prefix: str, signed_prefix: str) -> Identity | None:
    """What an image below `prefix` is called where it was signed (remapIdentity); others keep their name."""
    if asked is None or not (asked.name == prefix or asked.name.startswith(prefix + "/")):
        return asked
    return Identity(signed_prefix + asked.name[len(prefix) :], asked.tag, asked.digest)
