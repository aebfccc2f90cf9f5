"""Reading OCI image layouts (image-spec 1.1: image-layout, image-index, manifest, descriptor), and Docker's form of the same.

    oci-layout, index.json --name, platform--> [index -> ...] -> manifest -> config, layers

Every document is read whole, bounded, checked against the size and digest of the descriptor that led to
it, and parsed strictly.  A document means one thing or is refused: its `mediaType` must be the
descriptor's, and nothing can be an index and a manifest at once (CVE-2021-41190).
"""

from __future__ import annotations

import binascii
import errno
import hashlib
import os
import stat
from typing import Any

from pyrun import native
from pyrun.errors import DigestError, ImageError, ManifestError
from pyrun.images import schema, strictjson
from pyrun.images.oci_config import ImageConfig, parse_config, platform_of
from pyrun.images.platform import Platform, rank, wanted
from pyrun.images.printable import printable
from pyrun.images.schema import Object, fields, quoted
from pyrun.images.store import is_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.flow import Flow

__all__ = ["FORMATS", "Found", "Layer", "Tree", "check_digest", "read_layout"]

MAX_MANIFEST = 4 << 20
MAX_CONFIG = 8 << 20
MAX_LAYERS = 500  # OVL_MAX_STACK of overlayfs
MAX_NESTING = 4
_MAX_DOCUMENTS = 128
_MAX_LAYER = 1 << 40
_SMALL = 4096

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
FORMATS = {
    "application/vnd.oci.image.layer.v1.tar": "tar",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}
_EMPTY = "application/vnd.oci.empty.v1+json"
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")  # the first is a whole name

_DESCRIPTOR = fields("mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform")
_DOCUMENT = fields("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations")
_PLATFORM = fields("architecture", "os", "os.version", "os.features", "variant", "features")
_LAYOUT = fields("imageLayoutVersion")
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_BENEATH = native.RESOLVE_BENEATH | native.RESOLVE_NO_MAGICLINKS
_FETCH = "copy it again from where it came"


class Layer:
    """One layer as shipped: where it lies, `digest` and `size` of its bytes, the formats it may have, and its DiffID."""

    __slots__ = ("diff_id", "digest", "formats", "path", "size")

    def __init__(self, path: str, digest: str, size: int, formats: tuple[str, ...], diff_id: str) -> None:
        self.path = path
        self.digest = digest
        self.size = size
        self.formats = formats
        self.diff_id = diff_id


class Found:
    """One image of a source: its documents as shipped, its layers bottom first, and the name it goes by there ("" for none)."""

    __slots__ = ("config", "config_bytes", "config_digest", "layers", "manifest_bytes", "manifest_digest", "name")

    def __init__(self, manifest: bytes, manifest_digest: str, config: ImageConfig, config_bytes: bytes, config_digest: str) -> None:
        self.manifest_bytes = manifest
        self.manifest_digest = manifest_digest
        self.config = config
        self.config_bytes = config_bytes
        self.config_digest = config_digest
        self.layers: list[Layer] = []
        self.name = ""


class Tree:
    """A directory that holds an image; nothing outside of it is ever opened.  `title` is what messages call it."""

    __slots__ = ("fd", "title")

    def __init__(self, fd: int, title: str) -> None:
        self.fd = fd
        self.title = title

    def open(self, path: str) -> int:
        """A descriptor of a regular file; ImageError when there is none."""
        try:
            fd = native.openat2(self.fd, os.fsencode(path), _OPEN, 0, _BENEATH)
        except OSError as error:
            reason = "missing" if error.errno == errno.ENOENT else ""
            reason = "leads out of the image" if error.errno == errno.EXDEV else reason
            raise ImageError("read", f"{self.title}: {printable(path)}", reason, errno=error.errno or 0, hint=_FETCH) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError("read", f"{self.title}: {printable(path)}", "not a regular file", hint=_FETCH)
        return fd

    def flow(self, path: str, size: int) -> Flow | None:
        """Where to read a file from while it comes; None when all of it is here."""
        return None

    def stop(self) -> None:
        """Told that nothing more will be opened; for trees that are filled meanwhile."""

    def exists(self, path: str) -> bool:
        """Whether there is a regular file."""
        try:
            os.close(self.open(path))
        except ImageError:
            return False
        return True

    def read(self, path: str, limit: int) -> bytes:
        """A whole file of at most `limit` bytes; ManifestError when it is larger."""
        fd = self.open(path)
        try:
            data = b""
            while len(data) <= limit and (piece := os.read(fd, limit + 1 - len(data))):
                data += piece
        finally:
            os.close(fd)
        if len(data) > limit:
            raise ManifestError("read", f"{self.title}: {printable(path)}", f"more than {limit} bytes", hint="no real image needs that")
        return data


class Descriptor:
    """A checked descriptor; `digest` is ``sha256-<hex>`` or ``sha512-<hex>``, `at` its place in the document."""

    __slots__ = ("artifact", "at", "digest", "media_type", "name", "platform", "size")

    def __init__(self, value: object, at: str, limit: int) -> None:
        item = Object(value, at, _DESCRIPTOR)
        self.at = at
        self.media_type = item.string("mediaType")
        self.digest = check_digest(item.require("digest"), item.at("digest"))
        self.size = item.integer("size", 0, (1 << 63) - 1)
        if self.size > limit:
            schema.fail(item.at("size"), f"{self.size} bytes, {limit} are allowed", "no real image needs that")
        self.artifact = item.string("artifactType") if item.members.get("artifactType") is not None else ""
        self._check_data(item)
        notes = item.strings("annotations")
        self.name = next((notes[key] for key in _NAMES if notes.get(key)), "")
        self.platform = _platform(item)

    def _check_data(self, item: Object) -> None:
        """Embedded content must be what the descriptor says (descriptor.md, "Embedded Content"); it is not used otherwise."""
        if item.members.get("data") is None:
            return
        try:
            data = binascii.a2b_base64(item.string("data"), strict_mode=True)
        except ValueError:
            schema.fail(item.at("data"), "not base64", "leave data out, or embed the content as RFC 4648 says")
        algorithm, _, digits = self.digest.partition("-")
        if len(data) != self.size or hashlib.new(algorithm, data).hexdigest() != digits:
            schema.fail(item.at("data"), "not the content that the digest names", "readers would disagree about what it is")

    @property
    def path(self) -> str:
        """Where a layout keeps what this describes."""
        return f"blobs/{self.digest.replace('-', '/')}"


def check_digest(value: object, at: str) -> str:
    """``sha256:<hex>`` as ``sha256-<hex>``; ManifestError for anything but the exact form of a known algorithm (C04)."""
    if isinstance(value, str):
        algorithm, colon, digits = value.partition(":")
        if colon and is_digest(f"{algorithm}-{digits}") and "-" not in algorithm:
            return f"{algorithm}-{digits}"
    schema.fail(at, f"{quoted(value)} is not a digest", "write sha256: or sha512: and lower-case hexadecimal digits, 64 or 128")


def _platform(item: Object) -> Platform | None:
    value = item.members.get("platform")
    if value is None:
        return None
    return platform_of(Object(value, item.at("platform"), _PLATFORM))


def read_layout(tree: Tree, ref: str, stem: str) -> Found:
    """The image that `ref` names in a layout, the only one if it is empty, as this host would run it.

    `stem` names the source where the layout names nothing.  ManifestError, DigestError or ImageError with the reason else.
    """
    layout = Object(strictjson.loads(tree.read("oci-layout", _SMALL), what=f"{tree.title}: oci-layout"), "", _LAYOUT)
    layout.string("imageLayoutVersion", check=lambda version: version == "1.0.0", rule="1.0.0, the only version there is")
    chosen = _Choice(tree).choose(_named(tree, _document(tree.read("index.json", MAX_MANIFEST), INDEXES[0], tree.title), ref))
    found = read_image(tree, chosen)
    found.name = whole_name(chosen.name, stem)
    return found


def whole_name(name: str, stem: str) -> str:
    """A reference name as name:version; a mere tag, as most tools write it, gets the name of the source."""
    return name if not name or "/" in name or ":" in name else f"{stem}:{name}"


def _document(data: bytes, media_type: str, what: str) -> Object:
    """Parses an index or manifest that a descriptor called `media_type`."""
    document = Object(strictjson.loads(data, what=what, case_twins="allow"), "", _DOCUMENT)
    document.integer("schemaVersion", 2, 2)
    own = document.members.get("mediaType", media_type)
    if own != media_type:
        _refuse(what, f"it calls itself {quoted(own)}, the descriptor {media_type}")
    if "manifests" in document.members and ("layers" in document.members or "config" in document.members):
        _refuse(what, "it is an index and a manifest at once")
    needed = "manifests" if media_type in INDEXES else "config"
    if needed not in document.members:
        _refuse(what, f"it has no {needed}, which a document of type {media_type} must have")
    return document


_ATTACHED = (".sig", ".att", ".sbom")


def _refuse(what: str, reason: str, hint: str = "readers would disagree about what it is: build the image again") -> Any:
    raise ManifestError("read", what, reason, hint=hint)


def _named(tree: Tree, index: Object, ref: str) -> list[Descriptor]:
    """The entries of index.json that are the image `ref`; without one there must be a single name, or none at all."""
    entries = index.array("manifests", lambda value, at: Descriptor(value, at, MAX_MANIFEST))
    if not ref:  # what cosign puts beside an image is none that could be meant
        entries = [entry for entry in entries if entry.name[:7] != "sha256-" or entry.name[71:] not in _ATTACHED] or entries
    names = sorted({entry.name for entry in entries if entry.name})
    shown = printable(", ".join(names), 400)
    if ref:
        entries = [entry for entry in entries if entry.name in (ref, f"docker.io/library/{ref}", f"docker.io/{ref}")]
        if not entries:
            hint = f"it has {shown}" if names else "its images have no names: leave the name out"
            raise ImageError("find image in", tree.title, f"none is called {printable(ref)}", hint=hint)
    elif len(names) > 1:
        hint = f"name one, as in oci:{tree.title}:{printable(names[0])} (of an archive: oci-archive:)"
        raise ImageError("find image in", tree.title, f"it holds several: {shown}", hint=hint)
    elif names:
        entries = [entry for entry in entries if entry.name]
    return entries


class _Choice:
    """The way from entries of an index to the one manifest for this host."""

    __slots__ = ("refused", "seen", "tree")

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.seen: set[str] = set()
        self.refused: list[str] = []

    def choose(self, entries: list[Descriptor]) -> Descriptor:
        """The best entry; ManifestError that names what is there when none fits."""
        leaves = {leaf.digest: leaf for leaf in self._leaves(entries, 0)}
        host = wanted()
        # of several that suit alike the first counts (image-index.md, "manifests"), unless nothing says whom they suit
        fitting = [(rank(leaf.platform, host), number) for number, leaf in enumerate(leaves.values()) if rank(leaf.platform, host) >= 0]
        fitting.sort()
        if not fitting:
            there = sorted({str(leaf.platform) for leaf in leaves.values() if leaf.platform} | set(self.refused))
            reason = f"holds nothing for {host[0]}"
            hint = f"it has {printable(', '.join(there), 300)}" if there else "it is empty"
            raise ManifestError("choose image from", self.tree.title, reason, hint=hint)
        if len(fitting) > 1 and fitting[0][0] == fitting[1][0] == len(host):
            what = f"{len(fitting)} images that nothing tells apart"
            raise ManifestError("choose image from", self.tree.title, what, hint="give them names or platforms in its index")
        return list(leaves.values())[fitting[0][1]]

    def _leaves(self, entries: list[Descriptor], depth: int) -> list[Descriptor]:
        found = []
        for entry in entries:
            if entry.artifact:
                self.refused.append(entry.artifact)
            elif entry.media_type in MANIFESTS:
                found.append(entry)
            elif entry.media_type in INDEXES:
                found += self._nested(entry, depth + 1)
            else:
                self.refused.append(entry.media_type)
        return found

    def _nested(self, entry: Descriptor, depth: int) -> list[Descriptor]:
        if entry.digest in self.seen:
            return []
        self.seen.add(entry.digest)
        if depth > MAX_NESTING or len(self.seen) > _MAX_DOCUMENTS:
            _refuse(self.tree.title, f"indexes nested deeper than {MAX_NESTING} or more than {_MAX_DOCUMENTS}", "no real image needs that")
        index = _document(fetch(self.tree, entry), entry.media_type, f"index {entry.digest[:19]}")
        inner = index.array("manifests", lambda value, at: Descriptor(value, at, MAX_MANIFEST))
        for one in inner:
            one.name = entry.name
        return self._leaves(inner, depth)


def fetch(tree: Tree, descriptor: Descriptor) -> bytes:
    """The bytes of a document, which are what its descriptor says; DigestError else."""
    data = tree.read(descriptor.path, descriptor.size)
    if len(data) != descriptor.size:
        raise DigestError("read", f"{tree.title}: {descriptor.path}", f"{len(data)} bytes instead of {descriptor.size}", hint=_FETCH)
    algorithm, _, digits = descriptor.digest.partition("-")
    if hashlib.new(algorithm, data).hexdigest() != digits:
        raise DigestError("read", f"{tree.title}: {descriptor.path}", "its content has another digest", hint=_FETCH)
    return data


def read_image(tree: Tree, descriptor: Descriptor) -> Found:
    """The image whose manifest a descriptor names; ManifestError for what is none, artifacts among them."""
    data = fetch(tree, descriptor)
    what = f"manifest {descriptor.digest[:19]}"
    manifest = _document(data, descriptor.media_type, what)
    config = Descriptor(manifest.require("config"), "config", MAX_CONFIG)
    artifact = manifest.members.get("artifactType")
    if artifact or config.media_type == _EMPTY or config.media_type not in CONFIGS:
        kind = quoted(artifact) if artifact else config.media_type
        _refuse(what, f"it is an artifact of type {kind}, not an image", "only images can be run: look for the one that it belongs to")
    layers = manifest.array("layers", lambda value, at: Descriptor(value, at, _MAX_LAYER))
    for layer in layers:
        _check_layer(layer)
    config_bytes = fetch(tree, config)
    parsed = parse_config(config_bytes)
    if descriptor.platform is not None and not descriptor.platform.agrees(parsed.platform):
        _refuse(what, f"the index says it is for {descriptor.platform}, its configuration for {parsed.platform}")
    if lacking := parsed.platform.lacks(wanted()):
        _refuse(what, f"it needs {lacking}", "get the image for another platform, or run it elsewhere")
    if not 0 < len(layers) <= MAX_LAYERS:
        _refuse(what, f"it has {len(layers) or 'no'} layers", f"an image that can run has from 1 to {MAX_LAYERS}")
    if len(layers) != len(parsed.diff_ids):
        _refuse(what, f"it has {len(layers)} layers, its configuration {len(parsed.diff_ids)} diff_ids")
    found = Found(data, descriptor.digest, parsed, config_bytes, config.digest)
    for layer, diff_id in zip(layers, parsed.diff_ids, strict=True):
        found.layers.append(Layer(layer.path, layer.digest, layer.size, (FORMATS[layer.media_type],), diff_id))
    return found


def _check_layer(layer: Descriptor) -> None:
    """Non-distributable layers are layers where they are there; their `urls` are never followed (C11)."""
    if layer.media_type not in FORMATS:
        hint = f"known are {', '.join(sorted({media.rpartition('.')[2] for media in FORMATS}))} layers of OCI and Docker"
        schema.fail(layer.at, f"a layer of type {quoted(layer.media_type)}", hint)
