"""One image format to another (`pyrun image convert`): nothing is lost where the formats allow, and else it is said.  Cold.

An image goes by way of a store of its own, so it is verified as at each import; nothing of it is run.

    App Container Image  ->  OCI, Docker     layers as they are, the whole manifest kept in the label appc.io/manifest
    OCI, Docker          ->  App Container   one tree; the manifest from that label, else from the configuration
    OCI                  <-> Docker          the very layers and the very configuration
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib

from pyrun.errors import ConfigError, ImageError, ManifestError, UsageError
from pyrun.images import build, fastjson
from pyrun.images.export import export_aci, export_oci
from pyrun.images.fresh import fresh
from pyrun.images.manifest import parse_image_manifest
from pyrun.images.passwd import resolve_user
from pyrun.images.render import render
from pyrun.images.rootfs import RootFS
from pyrun.images.tarwrite import END, header, padding
from pyrun.images.types import is_identifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from pyrun.images.export import Signed
    from pyrun.images.store import Image, Store

__all__ = ["losses", "renewed", "to_aci", "to_docker", "to_oci"]

_NOT_IN_ACI = ("Healthcheck", "StopSignal", "OnBuild", "Shell", "ArgsEscaped")
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"


def losses(image: Image, target: str) -> list[str]:
    """Return what the format `target`, aci, oci or docker, cannot say of an image, in words."""
    if (image.kind == "aci") is (target == "aci"):
        return []
    found: list[str] = []
    app: Any = image.manifest.get("app") or {}
    if target != "aci":
        for name, words in (("isolators", "isolators"), ("eventHandlers", "event handlers"), ("supplementaryGIDs", "supplementary groups")):
            if app.get(name):
                found.append(words)
        found += [f"that mount point {point['name']} is read-only" for point in app.get("mountPoints") or [] if point.get("readOnly")]
        found += [f"that port {port['name']} is socket-activated" for port in app.get("ports") or [] if port.get("socketActivated")]
        return found
    if _kept(image) is None:
        raw: Any = image.manifest.get("config") or {}
        found += [f"config.{name}" for name in _NOT_IN_ACI if isinstance(raw, dict) and raw.get(name)]
        if app.get("entrypoint") and app.get("cmd"):
            found.append("which arguments replace the image's own (Entrypoint and Cmd become one)")
    return found


def renewed(store: Store, image: Image, target: str) -> list[str]:
    """Return what no other format could keep, in words: what belongs to the very bytes of the old one."""
    if (image.kind == "aci") is (target == "aci"):
        return _annotations(store, image) if target == "docker" else []
    if target != "aci":
        return ["the image id, and signatures of it: an App Container Image that is made of this again has another"]
    kept = _kept(image) or {}
    found = ["the digest of the image, and signatures of it", "its layers, which become one tree", *_annotations(store, image)]
    return found + [f"{name}: the tree has all files" for name in ("dependencies", "pathWhitelist") if kept.get(name)]


def _annotations(store: Store, image: Image) -> list[str]:
    document = fastjson.loads(_read(store.blob_path(image.blob)))
    return ["annotations of the manifest"] if isinstance(document, dict) and document.get("annotations") else []


def _kept(image: Image) -> dict[str, Any] | None:
    """The manifest that an App Container Image had before it became this OCI image."""
    notes: Any = image.manifest.get("annotations") or []
    for note in notes:
        if note["name"] == "appc.io/manifest":
            try:
                found: dict[str, Any] = json.loads(note["value"])
                meant = parse_image_manifest(note["value"].encode()).get("app") or {}
            except (ValueError, RecursionError, ManifestError):
                return None
            return (
                found if _says(meant) == _says(image.manifest.get("app") or {}) else None
            )  # else of an image that this one was built from
    return None


def _says(app: Any) -> tuple[object, ...]:
    variables = {one["name"]: one["value"] for one in app.get("environment") or []}
    return app.get("exec") or [], variables, app.get("workingDirectory") or "/"


def to_aci(store: Store, image: Image, root: str, staging: str, target: str, *, name: str = "", **more: Any) -> str:
    """Write an App Container Image to `target`; return its id.

    `root` is the state directory, `staging` a directory for what is between, `more` is for `build.build`.
    """
    if image.kind == "aci":
        if not target.endswith(build.SUFFIX):
            raise UsageError("build image", target, "its name does not end in .aci", hint=f"call it {target}{build.SUFFIX}")
        export_aci(store, image, target, overwrite=more.get("overwrite", False), sign=build.signer(target, more.get("sign_by", "")))
        return image.id
    manifest = _kept(image) or _manifest(store, image)
    for gone in ("dependencies", "pathWhitelist"):  # the tree has all of it
        manifest.pop(gone, None)
    if name:
        manifest["name"] = name
    if not is_identifier(str(manifest.get("name", ""))):
        reason = "not a name for an App Container Image"
        raise UsageError("convert image", str(manifest.get("name")), reason, hint="give it one: --name example.com/app")
    render(store, image, f"{staging}/rootfs")
    return build.build(root, f"{staging}/rootfs", manifest, target, **more)


def _manifest(store: Store, image: Image) -> dict[str, Any]:
    """Of an image that never was an App Container Image."""
    app: Any = image.manifest.get("app") or {}
    rootfs = RootFS([store.layer_dir(layer) for layer in image.layers])
    try:
        identity = resolve_user(rootfs, str(app.get("user") or "0"), app.get("group"))
    except ConfigError as error:
        raise ImageError("convert to ACI", image.name, str(error), hint=error.hint) from None
    points = [{key: point[key] for key in ("name", "path", "readOnly") if key in point} for point in app.get("mountPoints") or []]
    made = {
        "exec": app.get("exec") or [],
        "user": str(app.get("user") or "0"),
        "group": str(app.get("group") or identity.gid),
        "workingDirectory": app.get("workingDirectory") or "/",
        "environment": app.get("environment") or [],
        "mountPoints": points,
        "ports": app.get("ports") or [],
    }
    labels = [{"name": key, "value": value} for key, value in image.labels.items()]
    notes: Any = image.manifest.get("annotations") or []
    return {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": image.name,
        "labels": labels,
        "app": made,
        "annotations": [note for note in notes if is_identifier(note["name"])],
    }


def to_oci(store: Store, image: Image, target: str, *, overwrite: bool = False, signed: Signed | None = None) -> str:
    """Write an OCI layout, as an archive where `target` ends in .tar; return the digest of the manifest.  `signed` as `export_oci`."""
    return export_oci(store, image, target, overwrite=overwrite, signed=signed)


def to_docker(store: Store, image: Image, staging: str, target: str, *, name: str = "", overwrite: bool = False) -> str:
    """Write what `docker save` would to the new file `target`; return the image's id as Docker has it, the digest of its configuration."""
    layout = f"{staging}/layout"
    digest = export_oci(store, image, layout)
    manifest = fastjson.loads(_blob(layout, digest))
    assert isinstance(manifest, dict)
    config = _blob(layout, manifest["config"]["digest"])
    config_id = hashlib.sha256(config).hexdigest()
    tag = f"{name or image.name}:{image.labels.get('version', 'latest')}"
    with fresh(target, overwrite=overwrite) as new, open(new.path, "xb") as out:
        layers: list[str] = []
        for number, layer in enumerate(manifest["layers"]):
            path = f"{staging}/layer-{number}"
            _plain(f"{layout}/blobs/{layer['digest'].replace(':', '/')}", path)
            with open(path, "rb") as file:
                layer_name = hashlib.file_digest(file, "sha256").hexdigest() + ".tar"
                if layer_name not in layers:
                    _add(out, layer_name, file)
                layers.append(layer_name)
            os.unlink(path)
        listed = [{"Config": f"{config_id}.json", "RepoTags": [tag], "Layers": layers}]
        _add(out, f"{config_id}.json", io.BytesIO(config))
        _add(out, "manifest.json", io.BytesIO(json.dumps(listed).encode()))
        out.write(END)
    return f"sha256:{config_id}"


def _add(out: BinaryIO, name: str, file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    out.write(header(name.encode(), size=size))
    while piece := file.read(_CHUNK):
        out.write(piece)
    out.write(padding(size))


def _blob(layout: str, digest: str) -> bytes:
    return _read(f"{layout}/blobs/{digest.replace(':', '/')}")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _plain(source: str, target: str) -> None:
    """A layer without its compression; it was read and checked when it was imported."""
    with open(source, "rb") as file, open(target, "xb") as out:
        first = file.read(4)
        file.seek(0)
        if first[:2] == _GZIP:
            inflate = zlib.decompressobj(31)
            while piece := file.read(_CHUNK):
                while piece:
                    out.write(inflate.decompress(piece))
                    piece = inflate.unused_data
                    if inflate.eof and piece:
                        inflate = zlib.decompressobj(31)  # one more member
            out.write(inflate.flush())
        elif first == b"\x28\xb5\x2f\xfd":
            import zstandard

            zstandard.ZstdDecompressor().copy_stream(file, out)
        else:
            while piece := file.read(_CHUNK):
                out.write(piece)
