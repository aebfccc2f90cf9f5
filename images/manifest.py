"""Image manifests of the App Container specification (spec/aci.md, "Image Manifest Schema")."""

from __future__ import annotations

import os
from typing import Any

from pyrun.errors import ManifestError
from pyrun.images import schema, strictjson, types
from pyrun.images.manifest_app import parse_app
from pyrun.images.schema import Object, fail, fields, quoted, unique

IDENTIFIER = "an AC Identifier (lower-case letters and digits joined by single - . _ ~ /)"

_TOP = fields("acKind", "acVersion", "name", "labels", "app", "dependencies", "pathWhitelist", "annotations")
_PAIR = fields("name", "value")
_DEPENDENCY = fields("imageName", "imageID", "labels", "size")


def parse_image_manifest(data: bytes) -> dict[str, Any]:
    """The manifest as a plain dict: members in canonical spelling, defaults filled in, unknown members kept.

    ManifestError names the JSON path of the first broken rule (ACI-19, TYP-*, IM-*).
    """
    # Case twins are looked for where names mean something; maps with free keys may have them.
    document = strictjson.loads(data, what="manifest", case_twins="allow")
    top = Object(document, "", _TOP)
    _check_kind(top)
    _check_version(top)
    top.string("name", check=types.is_identifier, rule=IDENTIFIER)
    _check_platform_labels(_labels(top))
    if "app" in top.members:
        top.members["app"] = parse_app(top.members["app"], "app")
    top.array("dependencies", _dependency)
    top.array("pathWhitelist", _white_path)
    unique(top.array("annotations", _annotation), "annotations", "annotation")
    return top.members


def check_platform(manifest: dict[str, Any], host: tuple[str, str] | None = None) -> None:
    """Refuses an image that this host cannot execute (IM-05..07); `host` is (system, machine) of uname(2).

    No os label means any platform, and arch has a meaning only beside os.
    """
    if host is None:
        name = os.uname()
        host = (name.sysname, name.machine)
    labels = {label["name"]: label["value"] for label in manifest["labels"]}
    image_os, arch = labels.get("os"), labels.get("arch")
    runs = types.MACHINES.get(host[1], ())
    here = f"{host[0].lower()}/{runs[0] if runs else host[1]}"
    if image_os is None or (image_os == host[0].lower() and (arch is None or arch in runs)):
        return
    wanted = f"{image_os}/{arch}" if arch else image_os
    raise ManifestError("check platform of", manifest["name"], f"built for {wanted}, this host is {here}", hint=f"get the image for {here}")


def _check_kind(top: Object) -> None:
    kind = top.require("acKind")
    if kind != "ImageManifest":
        hint = 'acKind must be exactly "ImageManifest"'
        if kind == "PodManifest":
            hint = "this is a pod manifest, an image archive holds an image manifest"
        fail("acKind", f"{quoted(kind)} where ImageManifest is required", hint)


def _check_version(top: Object) -> None:
    rule = "a SemVer 2.0.0 version such as 0.8.11"
    text = top.string("acVersion", check=lambda v: types.parse_version(v) not in (None, (0, 0, 0)), rule=rule)
    version = types.parse_version(text)
    if version is None or version[0] != types.SUPPORTED[0] or version > types.SUPPORTED:
        supported = ".".join(str(n) for n in types.SUPPORTED)
        fail("acVersion", f"{quoted(text)} is beyond the supported {supported}", f"build the image for specification {supported} or older")


def _label(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _PAIR)
    if item.string("name", check=types.is_identifier, rule=IDENTIFIER) == "name":
        fail(item.at("name"), 'a label may not be called "name"', "the name of an image is the member name of its manifest")
    item.string("value", check=lambda _: True, rule="a string")
    return item.members


def _labels(owner: Object) -> list[dict[str, Any]]:
    labels = owner.array("labels", _label)
    unique(labels, owner.at("labels"), "label")
    return labels


def _check_platform_labels(labels: list[dict[str, Any]]) -> None:
    """IM-06: os and arch come from the table; arch alone is free."""
    where = {label["name"]: index for index, label in enumerate(labels)}
    if "os" not in where:
        return
    image_os = labels[where["os"]]["value"]
    arches = types.PLATFORMS.get(image_os)
    if arches is None:
        fail(f"labels[{where['os']}].value", f"{quoted(image_os)} is not a known os", f"use one of {', '.join(types.PLATFORMS)}")
    if "arch" in where and labels[where["arch"]]["value"] not in arches:
        value = labels[where["arch"]]["value"]
        fail(f"labels[{where['arch']}].value", f"{quoted(value)} is not a known arch of {image_os}", f"use one of {', '.join(arches)}")


def _dependency(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _DEPENDENCY)
    item.string("imageName", check=types.is_identifier, rule=IDENTIFIER)
    item.optional("imageID", check=types.is_image_id, rule="an image ID (sha512- and 128 hexadecimal digits)")
    _labels(item)
    if "size" in item.members:
        item.integer("size", 0, (1 << 63) - 1)
    return item.members


def _white_path(value: object, path: str) -> str:
    return schema.string(value, path, check=lambda v: v.startswith("/"), rule="an absolute path")


def _is_web_url(text: str) -> bool:
    scheme, colon, rest = text.partition("://")
    host = rest.split("/")[0].split("?")[0].split("#")[0]
    return bool(colon) and scheme.lower() in ("http", "https") and bool(host) and text.isprintable() and " " not in text


# Annotations whose form the specification fixes (IM-38)
_WELL_KNOWN = {
    "created": (types.is_timestamp, "an RFC 3339 date and time such as 2014-10-27T19:32:27Z"),
    "homepage": (_is_web_url, "an http or https URL"),
    "documentation": (_is_web_url, "an http or https URL"),
}


def _annotation(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _PAIR)
    name = item.string("name", check=types.is_identifier, rule=IDENTIFIER)
    check, rule = _WELL_KNOWN.get(name, (lambda _: True, "a string"))
    item.string("value", check=check, rule=rule)
    return item.members
