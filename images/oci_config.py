"""Image configurations (image-spec 1.1 config.md, and Docker's) as the app that `run` understands.

The result has the shape of a parsed ACI manifest, with three members more: app.entrypoint and app.cmd, because
arguments on the command line replace only the second, and `config`, the execution parameters as shipped.
"""

from __future__ import annotations

import posixpath
from typing import Any

from pyrun.images import schema, strictjson
from pyrun.images.platform import Platform, appc_arch
from pyrun.images.schema import Object, fail, fields, quoted
from pyrun.images.store import is_digest

__all__ = ["ImageConfig", "app_manifest", "parse_config"]

_MAX = 8 << 20
_TOP = fields("architecture", "os", "os.version", "os.features", "variant", "config", "rootfs", "history", "created", "author")
_ROOTFS = fields("type", "diff_ids")
_CONFIG = fields(
    "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "ArgsEscaped",
    "Healthcheck", "OnBuild", "Shell",
)  # fmt: skip
_PROTOCOLS = ("tcp", "udp", "sctp")


class ImageConfig:
    """A checked configuration: `diff_ids` (``sha256-<hex>``, bottom first), the `platform`, and `app` in appc's shape."""

    __slots__ = ("app", "diff_ids", "labels", "platform", "raw")

    def __init__(self, diff_ids: list[str], platform: Platform, app: dict[str, Any], labels: dict[str, str], raw: dict[str, Any]) -> None:
        self.diff_ids = diff_ids
        self.platform = platform
        self.app = app
        self.labels = labels
        self.raw = raw


def parse_config(data: bytes) -> ImageConfig:
    """Parses and checks a configuration; ManifestError names the member at fault."""
    top = Object(strictjson.loads(data, what="image configuration", case_twins="allow", limit=_MAX), "", _TOP)
    platform = platform_of(top)
    rootfs = Object(top.require("rootfs"), "rootfs", _ROOTFS)
    rootfs.string("type", check=lambda kind: kind == "layers", rule='"layers"')
    diff_ids = rootfs.array("diff_ids", _diff_id)
    raw = _given(top, "config", {})
    config = Object(raw, "config", _CONFIG)
    labels = config.strings("Labels")
    return ImageConfig(diff_ids, platform, _app(config), labels, raw)


def platform_of(owner: Object) -> Platform:
    """The platform in an entry of an index, or in a configuration."""
    variant = _given(owner, "variant", "")
    if not isinstance(variant, str):
        fail(owner.at("variant"), f"must be a string, not {quoted(variant)}", "write it as a JSON string")
    features = _given(owner, "os.features", [])
    if not isinstance(features, list) or not all(isinstance(one, str) for one in features):
        fail(owner.at("os.features"), "must be a list of strings", "leave it out, or write the names of features")
    return Platform(owner.string("os"), owner.string("architecture"), variant, tuple(features))


def _given(owner: Object, name: str, absent: Any) -> Any:
    """A member, or what its absence and null mean; other empty values are of the wrong type for everybody (SEC-35)."""
    value = owner.members.get(name)
    return absent if value is None else value


def app_manifest(config: ImageConfig, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """The manifest that the record of an image keeps."""
    return {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": name,
        "labels": [{"name": key, "value": value} for key, value in labels.items()],
        "app": config.app,
        "annotations": [{"name": key, "value": value} for key, value in sorted(config.labels.items())],
        "config": config.raw,
    }


def platform_labels(config: ImageConfig) -> dict[str, str]:
    """The labels os and arch."""
    return {"os": config.platform.os, "arch": appc_arch(config.platform)}


def _diff_id(value: object, at: str) -> str:
    """Only sha256: a tree named by sha512 in the store is that of an ACI, which is unpacked otherwise."""
    if isinstance(value, str) and value.startswith("sha256:") and is_digest(value.replace(":", "-", 1)):
        return value.replace(":", "-", 1)
    fail(at, f"{quoted(value)} is not a DiffID", "write sha256: and 64 lower-case hexadecimal digits")


def _app(config: Object) -> dict[str, Any]:
    entrypoint, cmd = config.array("Entrypoint", schema.string), config.array("Cmd", schema.string)
    user, group = _user(config)
    app: dict[str, Any] = {
        "exec": entrypoint + cmd,
        "entrypoint": entrypoint,
        "cmd": cmd,
        "user": user,
        "workingDirectory": _absolute(config.members.get("WorkingDir", "/"), "config.WorkingDir"),
        "environment": _environment(config),
        "mountPoints": _mount_points(config),
        "ports": _ports(config),
        "isolators": [],
    }
    if group:
        app["group"] = group
    return app


def _user(config: Object) -> tuple[str, str]:
    """``user``, ``user:group``, either a name or a number; nothing is root, of whatever group it is there."""
    text = schema.string(config.members.get("User", ""), "config.User")
    user, colon, group = text.partition(":")
    if text.startswith("/") or group.startswith("/") or ":" in group or (colon and not (user and group)):
        fail("config.User", f"{quoted(text)} is neither a user nor user:group", "write names or numbers, as in app:app or 1000:1000")
    return user or "0", group


def _absolute(value: object, at: str) -> str:
    text = schema.string(value, at)
    return posixpath.normpath("/" + text.lstrip("/"))


def _environment(config: Object) -> list[dict[str, str]]:
    """The last value of a name counts, in the place of the first."""
    values: dict[str, str] = {}
    for index, item in enumerate(config.array("Env", schema.string)):
        name, equals, value = item.partition("=")
        if not name or not equals:
            fail(f"config.Env[{index}]", f"{quoted(item)} is not NAME=VALUE", "give the variable a value")
        values[name] = value
    return [{"name": name, "value": value} for name, value in values.items()]


def _keys(config: Object, member: str) -> list[str]:
    """A set, which Go writes as an object with empty values."""
    value = _given(config, member, {})
    if not isinstance(value, dict):
        fail(f"config.{member}", f"must be an object, not {quoted(value)}", "write a set as an object with empty values")
    return [schema.string(key, f"config.{member}") for key in value]


def _mount_points(config: Object) -> list[dict[str, Any]]:
    """Volumes with names made of their paths, as rkt's converter made them: /var/lib/x is volume-var-lib-x."""
    points: dict[str, dict[str, Any]] = {}
    for path in sorted({_absolute(key, "config.Volumes") for key in _keys(config, "Volumes")}):
        plain = "".join(char if char.isascii() and char.isalnum() else "-" for char in path.lower())
        name = "-".join(word for word in ("volume", *plain.split("-")) if word)
        while name in points:
            name += "-x"
        points[name] = {"name": name, "path": path, "readOnly": False, "copyUp": True}
    return list(points.values())


def _ports(config: Object) -> list[dict[str, Any]]:
    """``80``, ``80/udp`` or ``8000-8010/tcp``; a single one is called 80-tcp."""
    found = []
    for key in sorted(_keys(config, "ExposedPorts")):
        numbers, _, protocol = key.partition("/")
        low, _, high = numbers.partition("-")
        first, last = _port(low, key), _port(high or low, key)
        protocol = protocol.lower() or "tcp"
        if protocol not in _PROTOCOLS or last < first:
            fail("config.ExposedPorts", f"{quoted(key)} is not a port", "write them as in 80/tcp or 8000-8010/udp")
        name = f"{numbers}-{protocol}"
        found.append({"name": name, "protocol": protocol, "port": first, "count": last - first + 1, "socketActivated": False})
    return found


def _port(text: str, key: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        fail("config.ExposedPorts", f"{quoted(key)} is not a port", "write them as in 80/tcp or 8000-8010/udp")
    return int(text)
