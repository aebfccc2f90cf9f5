"""What a reference to an image means: the one place where `run`, `plan` and `fetch` ask.

    oci:PATH[:REF]                     an OCI image layout, REF being the name of one of its images
    oci-archive:PATH[:REF]             a tar archive of such a layout
    docker-archive:PATH[:NAME[:TAG]]   what `docker save` and `podman save` write
    docker://HOST/REPO[:TAG]           an image in a registry; also HOST/REPO@DIGEST, see `registry.reference`
    https://HOST/PATH                  an image file on a web server
    /PATH ./PATH ../PATH *.aci, or anything that is there: a file or directory, recognised by its content
    everything else                    a name or id of the store; or a short name that registries.conf has an alias for, or
                                       HOST/NAME[:VERSION][,LABEL=VALUE], for which App Container discovery asks HOST

What the store lacks is fetched as the policy says:

    never    only what is stored counts
    new      what is not stored is fetched
    update   a registry is asked whether the tag moved, a server or file whether it changed; what is as before is not fetched again

Hot: a stored image is found without anything being loaded that only an import needs.
"""

from __future__ import annotations

import os

from pyrun.errors import ImageError, NotFoundError, SignatureError, TrustError, UsageError
from pyrun.images import trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from typing import Any, Literal

    from pyrun.images.importer import Bring
    from pyrun.images.registry.pull import Progress
    from pyrun.images.store import Image, Store
    from pyrun.images.trust.gate import Gate

    Kind = Literal["name", "file", "oci", "oci-archive", "docker-archive", "registry", "url", "discovery"]

__all__ = ["Reference", "absent", "fetch", "find", "parse"]

_SCHEMES: tuple[Kind, ...] = ("oci", "oci-archive", "docker-archive")
_REMOTE: tuple[Kind, ...] = ("registry", "url", "discovery")


class Reference:
    """A reference taken apart: `path` is empty for a name of the store, `ref` where no image of several is named."""

    __slots__ = ("kind", "path", "ref", "text")

    def __init__(self, text: str, kind: Kind, path: str = "", ref: str = "") -> None:
        self.text = text
        self.kind: Kind = kind
        self.path = path
        self.ref = ref

    @property
    def variant(self) -> str:
        """What tells this reading of the file at `path` from others, for `Store.find_import`."""
        return "" if self.kind == "file" else f"{self.kind}:{self.ref}"


def parse(text: str) -> Reference:
    """Take a reference apart; UsageError when it names no path, or no image that a registry could have.

    A path may hold colons: what is there as a whole is the path, else the first colon ends it.
    """
    for scheme in _SCHEMES:
        if text.startswith(scheme + ":"):
            rest = text[len(scheme) + 1 :]
            path, _, ref = (rest, "", "") if os.path.lexists(rest) else rest.partition(":")
            if not path:
                raise UsageError("read reference", text, "no path", hint=f"write {scheme}:PATH, or {scheme}:PATH:NAME for one of several")
            return Reference(text, scheme, path, ref)
    if text.startswith(("https://", "http://")):
        return Reference(text, "url")
    if text.startswith(("/", "./", "../")) or text.endswith(".aci") or os.path.isfile(text) or os.path.isfile(f"{text}/oci-layout"):
        return Reference(text, "file", text)
    if text.startswith("docker://") or "@sha256:" in text or "@sha512:" in text:
        from pyrun.images.registry import reference

        reference.parse(text)
        return Reference(text, "registry")
    return Reference(text, "name")


def absent(text: str) -> list[str]:
    """Return paths at which nothing is, and by which `parse` would read the reference in another way if something were.

    They are relative as the reference is.
    """
    if text.startswith(("https://", "http://")):
        return []
    path = text
    for scheme in _SCHEMES:
        if text.startswith(scheme + ":"):
            path = text[len(scheme) + 1 :]
    if not os.path.lexists(path):
        return [path]
    return [] if parse(text).path else [f"{path}/oci-layout"]


def find(
    store: Store,
    text: str,
    *,
    signature: str | None = None,
    unsigned: bool = False,
    policy: str = "new",
    trust_policy: str = "",
    http: Collection[str] = (),
    progress: Callable[[], AbstractContextManager[Progress | None]] | None = None,
    no_cache: bool = False,
    beside: Store | None = None,
) -> Image:
    """The image that a reference means, fetched first as the `policy` says; SignatureError unless it is trusted today or `unsigned`.

    `trust_policy` is the path of a containers policy to obey in place of the store's own; what a file depends on is looked for in the
    store `beside` before it is fetched.  NotFoundError when there is none or
    it may not be fetched; else as `fetch`.
    """
    reference = parse(text)
    image: Image | None = None
    if reference.kind == "name":
        image, reference = _named(store, reference, policy)
    if image is None:
        if signature is None and (policy != "update" or reference.kind not in _REMOTE):
            image = _known(store, reference, unsigned, trust_policy)
        if image is not None and not unsigned and not _trusted(store, image, trust_policy):
            image = None  # a signature or a key may have come later
        if image is None and policy == "never":
            raise NotFoundError("find image", text, "not in the store yet", hint=f"fetch it first: pyrun fetch {text}")
        if image is None:
            try:
                more: dict[str, Any] = {"http": http, "progress": progress, "no_cache": no_cache, "beside": beside}
                image = fetch(store, reference, signature=signature, unsigned=unsigned, trust_policy=trust_policy, **more)
            except ImageError as error:
                if reference.kind == "discovery" and policy == "new" and error.origin:
                    error.origin += ", as there is nothing in the store of that name"
                raise
    if not unsigned:
        store.require_trusted(image, policy=trust_policy)
    return image


def fetch(
    store: Store,
    reference: Reference,
    *,
    signature: str | None = None,
    unsigned: bool = False,
    trust_policy: str = "",
    http: Collection[str] = (),
    progress: Callable[[], AbstractContextManager[Progress | None]] | None = None,
    no_cache: bool = False,
    beside: Store | None = None,
) -> Image:
    """The stored image of a file or directory, imported unless that was done before; a name is taken for a file's or an alias.

    A registry is always asked; `http` names those (HOST[:PORT]) that may be asked over plain http, "" the one of the
    reference itself; `progress` opens what is told of a download; with `no_cache` a web server is asked even where it has said
    for how long its answer is good.  Raises what `importer.import_file`,
    `layered.import_layered` and `registry.pull.pull` raise.
    """
    if reference.kind == "name" and not os.path.lexists(reference.text):
        reference = elsewhere(reference.text) or reference
    if reference.kind in ("url", "discovery"):
        return _ask_web(store, reference, signature, unsigned=unsigned, http=http, progress=progress, no_cache=no_cache)
    if reference.kind == "registry":
        from pyrun.images.registry.pull import pull

        gate = _gate(store, signature, unsigned, trust_policy)
        if progress is None:
            image = pull(store, reference.text, gate, http=http)
        else:
            with progress() as line:
                image = pull(store, reference.text, gate, http=http, progress=line)
        return image if unsigned else _as_named(store, image, reference.text, trust_policy)
    return _local(store, reference, signature, unsigned, trust_policy, _bringer(store, unsigned, http, progress, beside))


def _local(store: Store, reference: Reference, signature: str | None, unsigned: bool, trust_policy: str, bring: Bring) -> Image:
    """The image of a file or directory of this host."""
    path = reference.path or reference.text
    if reference.kind in _SCHEMES or os.path.isdir(path):
        known = store.find_import(path, reference.variant) if unsigned and signature is None and not trust_policy else None
        if known is not None:
            return known
        from pyrun.images.layered import import_layered

        return import_layered(store, reference, _gate(store, signature, unsigned, trust_policy))
    accepted = unsigned or trust.accepts_unsigned(store.root, trust.place(path)) is not None
    may_look = bool(accepted or trust_policy or signature or trust.has_policy(store.root))
    detached = _is_detached(signature or path + ".asc")
    if may_look and not detached and not path.endswith(".aci") and os.path.isfile(path):
        known = store.find_import(path) if unsigned and signature is None else None
        if known is not None:
            return known
        from pyrun.images import layered

        kind = layered.recognise(store, path)
        if kind != "aci":
            return layered.import_layered(store, reference, _gate(store, signature, unsigned, trust_policy), kind=kind)
    from pyrun.images.importer import import_file

    return import_file(store, path, signature_path=signature, allow_unsigned=accepted, bring=bring)


def _bringer(
    store: Store,
    unsigned: bool,
    http: Collection[str],
    progress: Callable[[], AbstractContextManager[Progress | None]] | None,
    beside: Store | None,
) -> Bring:
    """What fetches the dependencies of a file; what that takes is loaded for the first one."""

    def bring(dependency: dict[str, Any], name: str, labels: dict[str, str], image_id: str) -> object:
        if beside is not None and (path := _blob_of(beside, dependency)):
            from pyrun.images.importer import import_file

            return import_file(store, path, allow_unsigned=unsigned, bring=bring)
        from pyrun.images.web.fetch import Fetcher

        fetcher = Fetcher(store, unsigned=unsigned, http=http, progress=progress)
        return fetcher.bringer(near=True)(dependency, name, labels, image_id)

    return bring


def _blob_of(store: Store, dependency: dict[str, Any]) -> str:
    """The file of a stored App Container Image that another depends on, "" without one."""
    from pyrun.images import dependencies

    if dependencies.lacking(store, {"dependencies": [dependency]}):
        return ""
    (found,) = dependencies.resolve(store, {"dependencies": [dependency]}, lambda _: None, "")
    return store.blob_path(found.blob) if found.kind == "aci" else ""


def _ask_web(store: Store, reference: Reference, signature: str | None, **more: Any) -> Image:
    """The image that a URL holds, or discovery finds, now; `more` is for the fetcher."""
    from pyrun.images.web.fetch import Fetcher
    from pyrun.images.web.names import parse as parse_name

    fetcher = Fetcher(store, **more)
    if reference.kind == "url":
        return fetcher.url(reference.text, signature, reference.ref or None)
    return fetcher.name(parse_name(reference.text), signature)


def _is_detached(path: str) -> bool:
    """Whether a file is a detached signature, as App Container Images have them; then nobody looks into the image before."""
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:  # no fifo is waited for
            return (file.read(64) or b"").lstrip().startswith(b"-----BEGIN PGP SIGNATURE-----")
    except OSError:
        return False


def _gate(store: Store, signature: str | None, unsigned: bool, policy: str) -> Gate:
    from pyrun.images.trust.gate import Gate

    return Gate(store, unsigned=unsigned, policy=policy, signature=signature)


def elsewhere(text: str) -> Reference | None:
    """Where a name may be fetched from that is neither stored nor a file: an alias of registries.conf, or discovery."""
    if not text.isascii() or not text.isprintable():
        return None
    from pyrun.images.registry import config
    from pyrun.images.web import names

    found = config.read().alias(text)
    if found is not None:
        return Reference(f"docker://{found}", "registry")
    try:
        names.parse(text)
    except UsageError:
        return None
    return Reference(text, "discovery")


def _another_name(store: Store, text: str) -> Reference | None:
    """A name under which a registry gave an image that has another one in its record, so that the store knows both."""
    from pyrun.images import pulled
    from pyrun.images.registry.reference import parse as parse_registry

    try:
        return Reference(text, "registry") if pulled.recall(store, parse_registry(text)) is not None else None
    except UsageError:
        return None


def _named(store: Store, reference: Reference, policy: str) -> tuple[Image | None, Reference]:
    """The stored image of a name or id, or where to fetch it from."""
    text = reference.text
    try:
        image = store.find(text)
    except NotFoundError as error:
        other = _another_name(store, text) or elsewhere(text)
        if other is None or (other.kind == "discovery" and policy == "never"):
            if not {"/", "-", "="} & set(text):
                error.hint += f"; from a registry: docker://HOST/{text}, short names being fetched only where registries.conf has an alias"
            raise
        return None, other
    if policy != "update" or image.id.startswith(text.lower()) or image.id.partition("-")[2].startswith(text.lower()):
        return image, reference
    from pyrun.images.web.notes import sources

    came = sources(store, image.id)
    if came and not came[0].name:  # not found by discovery, but named as a URL
        return None, Reference(came[0].url, "url", ref=image.name)
    other = elsewhere(text)
    if other is None:
        reason = "a name of the store, which does not say where to ask"
        raise UsageError("update image", text, reason, hint="write docker://HOST/REPOSITORY:TAG, or leave --pull-policy=update out")
    return None, other


def _known(store: Store, reference: Reference, unsigned: bool, trust_policy: str) -> Image | None:
    """The stored image of a file that was imported before, of a URL, or of a name or digest in a registry."""
    if reference.kind == "discovery":
        return None  # the store was asked for that name
    if reference.kind == "url":
        from pyrun.images.web import notes

        found = notes.recall(store, reference.text.partition("#")[0])
        if found is None or unsigned or found[1].signature is not None or found[1].origin is None:
            return found[1] if found is not None else None
        return found[1] if found[1].origin["place"] == trust.web_place(reference.text) else None  # else accepted as one from elsewhere
    if reference.kind != "registry":
        image = store.find_import(reference.path, reference.variant)
        if image is None or unsigned or image.origin is None or image.origin["place"] == trust.place(reference.path):
            return image
        return None  # it was vouched for as an image from elsewhere
    from pyrun.images.pulled import recall
    from pyrun.images.registry.reference import parse as parse_registry

    wanted = parse_registry(reference.text)
    known = recall(store, wanted)
    if known is None or unsigned:
        return known[0] if known is not None else None
    try:
        return _as_named(store, known[0], reference.text, trust_policy)
    except (SignatureError, TrustError):
        return None


def _as_named(store: Store, image: Image, name: str, trust_policy: str) -> Image:
    """A stored image as it is judged by its name in a registry, which may be another one than that in its record; SignatureError."""
    from pyrun.images.registry.reference import parse as parse_registry

    wanted = parse_registry(name)
    if wanted.meant_by(image.origin):
        return image
    from pyrun.images.trust.gate import seen_as

    return seen_as(store, image, wanted, trust_policy)


def _trusted(store: Store, image: Image, policy: str) -> bool:
    try:
        store.require_trusted(image, policy=policy)
    except (SignatureError, TrustError):
        return False
    return True
