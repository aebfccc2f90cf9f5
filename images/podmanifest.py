"""Pod manifests of the App Container specification (spec/pods.md, "Pod Manifest Schema")."""

from __future__ import annotations

from typing import Any

from pyrun.images import schema, strictjson, types
from pyrun.images.isolators import check_isolators
from pyrun.images.manifest import IDENTIFIER
from pyrun.images.manifest_app import ABSOLUTE, NAME, parse_app, parse_port
from pyrun.images.schema import UINT32_IDS, Object, fail, fields, quoted, unique
from pyrun.images.store import is_digest

__all__ = ["parse_pod_manifest"]

_TOP = fields("acKind", "acVersion", "apps", "volumes", "isolators", "annotations", "ports", "userAnnotations", "userLabels")
_APP = fields("name", "image", "app", "readOnlyRootFS", "mounts", "annotations")
_IMAGE = fields("name", "id", "labels")
_PAIR = fields("name", "value")
_PORT = fields("name", "hostPort", "hostIP", "podPort")
_MOUNT = fields("volume", "path", "appVolume")
_VOLUME = fields("name", "kind", "source", "readOnly", "recursive", "mode", "uid", "gid")
_OCTAL = frozenset("01234567")


def parse_pod_manifest(data: bytes) -> dict[str, Any]:
    """The manifest as a plain dict: members in canonical spelling, defaults filled in, `mode` of volumes a number or None.

    ManifestError names the JSON path of the first broken rule (POD-01..17), and of what pyrun cannot do.
    """
    top = Object(strictjson.loads(data, what="pod manifest", case_twins="allow"), "", _TOP)
    kind = top.require("acKind")
    if kind != "PodManifest":
        fail("acKind", f"{quoted(kind)} where PodManifest is required", 'acKind must be exactly "PodManifest"')
    version = types.parse_version(top.string("acVersion"))
    if version is None or version[0] != types.SUPPORTED[0] or version > types.SUPPORTED:
        supported = ".".join(str(number) for number in types.SUPPORTED)
        fail("acVersion", f"{quoted(top.members['acVersion'])} is none up to {supported}", f"write {supported}")
    unique(top.array("volumes", _volume), "volumes", "volume")
    unique(top.array("apps", _app, required=True), "apps", "app")
    if not top.members["apps"]:
        fail("apps", "is empty", "list the apps of the pod")
    check_isolators(top, scope="pod")
    unique(top.array("annotations", _annotation), "annotations", "annotation")
    unique(top.array("ports", _port), "ports", "port")
    top.strings("userAnnotations")
    top.strings("userLabels")
    _refuse(top)
    return top.members


# Limits of all apps together, which the cgroup above theirs has; what each app has that names none itself.
_TOGETHER = (
    *("os/linux/apparmor-profile", "os/linux/selinux-context", "os/unix/sysctl"),
    *("resource/memory", "resource/cpu", "os/linux/cpu-shares", "resource/block-bandwidth", "resource/block-iops"),
)


def _refuse(top: Object) -> None:
    """What would silently not hold."""
    for index, isolator in enumerate(top.members["isolators"]):
        name = isolator["name"]
        if name in _TOGETHER or not name.startswith(("resource/", "os/linux/", "os/unix/")):
            continue  # one that nobody knows may be ignored, and that is told
        fail(
            f"isolators[{index}]",
            f"{quoted(name)} cannot be enforced for a pod",
            "write it for each app where it has a meaning there, or leave it out",
        )
    known = {volume["name"] for volume in top.members["volumes"]}
    for index, app in enumerate(top.members["apps"]):
        for place, mount in enumerate(app["mounts"]):
            if "appVolume" not in mount and mount["volume"] not in known:
                have = ", ".join(sorted(known)) or "none"
                fail(
                    f"apps[{index}].mounts[{place}].volume",
                    f"no volume is named {quoted(mount['volume'])}",
                    f"the pod's volumes are: {have}",
                )


def _app(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _APP)
    item.string("name", check=types.is_name, rule=NAME)
    image = Object(item.require("image"), item.at("image"), _IMAGE)
    image.string("id", check=is_digest, rule="a whole image ID, as `pyrun image list --full` shows it")
    image.optional("name", check=types.is_identifier, rule=IDENTIFIER)
    image.array("labels", _label)
    item.members["image"] = image.members
    if "app" in item.members:
        item.members["app"] = parse_app(item.members["app"], item.at("app"))
    item.boolean("readOnlyRootFS", False)
    item.array("mounts", _mount)
    unique(item.array("annotations", _annotation), item.at("annotations"), "annotation")
    return item.members


def _label(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _PAIR)
    item.string("name", check=types.is_identifier, rule=IDENTIFIER)
    item.string("value", check=lambda _: True, rule="a string")
    return item.members


def _annotation(value: object, path: str) -> dict[str, Any]:
    return _label(value, path)


def _port(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _PORT)
    item.string("name", check=types.is_name, rule=NAME)
    item.integer("hostPort", 1, 65535)
    item.optional("hostIP", check=_is_ipv4, rule="an IPv4 address such as 192.0.2.1")
    if "podPort" in item.members:
        item.members["podPort"] = parse_port(item.members["podPort"], item.at("podPort"))
    return item.members


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(part.isdecimal() and part.isascii() and part == str(int(part)) and int(part) < 256 for part in parts)


def _mount(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _MOUNT)
    item.string("volume", check=types.is_name, rule=NAME)
    item.string("path", check=lambda text: text.startswith("/"), rule=ABSOLUTE)
    if "appVolume" in item.members:
        item.members["appVolume"] = _volume(item.members["appVolume"], item.at("appVolume"))
    return item.members


def _volume(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _VOLUME)
    item.string("name", check=types.is_name, rule=NAME)
    kind = item.string("kind", check=("empty", "host").__contains__, rule="empty or host")
    item.boolean("readOnly", False)
    if kind == "host":
        item.string("source", check=lambda text: text.startswith("/"), rule=ABSOLUTE)
        item.boolean("recursive", True)
        wrong: tuple[str, ...] = ("mode", "uid", "gid")
    else:
        mode = item.optional("mode", check=lambda text: bool(text) and set(text) <= _OCTAL and int(text, 8) <= 0o7777, rule="an octal mode")
        item.members["mode"] = None if mode is None else int(mode, 8)
        for name in ("uid", "gid"):
            item.members[name] = schema.integer(item.members.get(name, 0), item.at(name), 0, UINT32_IDS)
        wrong = ("source", "recursive")
    for name in wrong:
        if name in item.members:
            fail(item.at(name), f"has no meaning for a volume of kind {kind}", "leave it out")
    return item.members
