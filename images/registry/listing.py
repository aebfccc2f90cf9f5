"""The tags of a repository, page by page (distribution-spec 1.1, "Listing Tags")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyrun.errors import ManifestError, UsageError
from pyrun.images import strictjson
from pyrun.images.oci import MAX_MANIFEST
from pyrun.images.registry import config
from pyrun.images.registry.artifacts import next_page
from pyrun.images.registry.asking import ASK
from pyrun.images.registry.client import Client
from pyrun.images.registry.endpoints import Endpoints
from pyrun.images.registry.reference import RegistryReference, is_tag, parse

__all__ = ["repository", "tags"]

MAX_PAGES = 1000
MAX_TAGS = 200_000
_EACH = 1000  # tags of one page; registries may give fewer


def tags(text: str, *, http: Collection[str] = (), **client: Any) -> list[str]:
    """What a registry says the tags of a repository are, in its order, each once.

    `http` and `client` are as for `Endpoints`.  UsageError for a name that is none or has a version, NotFoundError for a
    repository that is not there, ManifestError for an answer that is no list of tags, ImageError for what else the registry does.
    """
    reference = repository(text)
    with Endpoints(reference, http=http, **client) as asked:
        return asked.first(_all)


def repository(text: str) -> RegistryReference:
    """The repository that a name means; short names as registries.conf has aliases for them."""
    bare = text.removeprefix("docker://")
    found = config.read().alias(text) if "/" not in text else None
    found = found or parse(text)
    if found.digest or ":" in bare[bare.rfind("/") + 1 :]:
        raise UsageError("list tags of", text, "it names one version already", hint="leave the tag or digest out: docker://HOST/REPOSITORY")
    return found


def _all(client: Client) -> list[str]:
    found: dict[str, None] = {}
    path = f"tags/list?n={_EACH}"
    for _ in range(MAX_PAGES):
        answer = client.document(path, MAX_MANIFEST)
        for tag in _listed(client, answer.data):
            found[tag] = None
        if len(found) > MAX_TAGS:
            break
        path = next_page(client, path, answer.following, "list of tags")
        if not path:
            return list(found)
    raise ManifestError("list tags of", client.title, "the list does not end", hint=ASK)


def _listed(client: Client, data: bytes) -> list[str]:
    document = strictjson.loads(data, what=f"tags of {client.title}", case_twins="allow")
    found = document.get("tags") if isinstance(document, dict) else None
    if found is None and isinstance(document, dict) and "tags" in document:
        return []  # as Go writes an empty list
    if not isinstance(found, list) or not all(isinstance(tag, str) and is_tag(tag) for tag in found):
        raise ManifestError("list tags of", client.title, "what the registry sends is no list of tags", hint=ASK)
    return found
