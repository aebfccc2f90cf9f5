"""What `docker save`, `podman save` and skopeo write: a tar archive with manifest.json.

    manifest.json   [{"Config": path, "RepoTags": [...], "Layers": [path, ...]}, ...]

The old form has a directory for each layer, the new one files named by digest, or a whole OCI layout beside
it; all are found by the paths in manifest.json.  No document in it has the digests of all others, so a
manifest is made here, always the same for the same image, and its digest becomes the image's id.
"""

from __future__ import annotations

import hashlib
import os

from pyrun.errors import DigestError, ImageError, ManifestError
from pyrun.images import codec, fastjson, schema, strictjson
from pyrun.images.oci import CONFIGS, FORMATS, MANIFESTS, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST, Found, Layer, Tree
from pyrun.images.oci_config import parse_config
from pyrun.images.printable import printable
from pyrun.images.schema import Object, fields

__all__ = ["read_docker_archive"]

_ENTRY = fields("Config", "RepoTags", "Layers", "Parent", "LayerSources")
_MEDIA = {FORMATS[media]: media for media in FORMATS if media.startswith("application/vnd.oci.image.layer.v1.")}
_CHUNK = 1 << 20
_HUB = ("docker.io/library/", "docker.io/")


class _Entry:
    """One image of manifest.json."""

    __slots__ = ("config", "layers", "tags")

    def __init__(self, value: object, at: str) -> None:
        item = Object(value, at, _ENTRY)
        self.config = item.string("Config")
        self.tags = item.array("RepoTags", schema.string)
        self.layers = item.array("Layers", schema.string)


def read_docker_archive(tree: Tree, ref: str) -> Found:
    """The image that `ref` (name[:tag]) names, the only one if it is empty; ManifestError, DigestError or ImageError else."""
    what = f"{tree.title}: manifest.json"
    document = strictjson.loads(tree.read("manifest.json", MAX_MANIFEST), what=what, case_twins="allow")
    if not isinstance(document, list):
        raise ManifestError("read", what, "not a list of images", hint="save the image again: docker save, podman save")
    entry = _choose([_Entry(value, f"[{index}]") for index, value in enumerate(document)], ref, tree.title)
    config = tree.read(entry.config, MAX_CONFIG)
    config_digest = f"sha256-{hashlib.sha256(config).hexdigest()}"
    _check_name(entry.config, config_digest, tree)
    parsed = parse_config(config)
    if not 0 < len(entry.layers) <= MAX_LAYERS or len(entry.layers) != len(parsed.diff_ids):
        reason = f"{len(entry.layers)} layers, {len(parsed.diff_ids)} diff_ids in the configuration"
        raise ManifestError("read", what, reason, hint=f"an image that can run has as many of both, from 1 to {MAX_LAYERS}")
    layers, descriptors = [], []
    for path, diff_id in zip(entry.layers, parsed.diff_ids, strict=True):
        digest, size, form = _measure(tree, path)
        layers.append(Layer(path, digest, size, (form,), diff_id))
        descriptors.append({"mediaType": _MEDIA[form], "digest": digest.replace("-", ":"), "size": size})
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFESTS[0],
        "config": {"mediaType": CONFIGS[0], "digest": config_digest.replace("-", ":"), "size": len(config)},
        "layers": descriptors,
    }
    data = fastjson.dumps(manifest).encode()
    found = Found(data, f"sha256-{hashlib.sha256(data).hexdigest()}", parsed, config, config_digest)
    found.layers = layers
    found.name = next((tag for tag in entry.tags if not ref or _plain(tag) == _plain(ref)), "")
    return found


def _choose(entries: list[_Entry], ref: str, title: str) -> _Entry:
    names = [tag for entry in entries for tag in entry.tags]
    shown = printable(", ".join(names), 400) or "no names"
    if ref:
        for entry in entries:
            if _plain(ref) in [_plain(tag) for tag in entry.tags]:
                return entry
        raise ImageError("find image in", title, f"none is called {printable(ref)}", hint=f"it has {shown}")
    if len(entries) == 1:
        return entries[0]
    if not entries:
        raise ImageError("find image in", title, "it holds none", hint="save the image again: docker save, podman save")
    hint = f"name one, as in docker-archive:{title}:{printable(names[0])}" if names else "save the image that you want alone"
    raise ImageError("find image in", title, f"it holds several: {shown}", hint=hint)


def _plain(name: str) -> str:
    """A name as it is compared: without Docker's own registry, with a tag."""
    for prefix in _HUB:
        name = name.removeprefix(prefix)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _check_name(path: str, digest: str, tree: Tree) -> None:
    """Where the file is named by a digest, it must be its own."""
    stem = os.path.basename(path).removesuffix(".json")
    if len(stem) == 64 and f"sha256-{stem}" != digest:
        hint = "copy it again from where it came"
        raise DigestError("read", f"{tree.title}: {printable(path)}", "its content has another digest than its name", hint=hint)


def _measure(tree: Tree, path: str) -> tuple[str, int, str]:
    """Digest, size and format of a layer."""
    fd = tree.open(path)
    try:
        hasher, size = hashlib.sha256(), 0
        form = codec.sniff(os.pread(fd, 512, 0))
        while piece := os.read(fd, _CHUNK):
            hasher.update(piece)
            size += len(piece)
    finally:
        os.close(fd)
    if form not in _MEDIA:
        raise ImageError("read", f"{tree.title}: {printable(path)}", "a layer that is no tar archive", hint="save the image again")
    return f"sha256-{hasher.hexdigest()}", size, form
