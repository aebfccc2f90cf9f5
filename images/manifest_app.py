"""The `app` section of image manifests; pod manifests override it with an object of the same form."""

from __future__ import annotations

from typing import Any

from pyrun.images import schema, types
from pyrun.images.isolators import check_isolators
from pyrun.images.schema import UINT32_IDS, Object, fail, fields, unique

NAME = "an AC Name (lower-case letters and digits joined by single -)"
ABSOLUTE = "an absolute path"
HANDLERS = ("pre-start", "post-stop")

_APP = fields(
    "exec", "user", "group", "supplementaryGIDs", "eventHandlers", "workingDirectory", "environment",
    "isolators", "mountPoints", "ports", "userAnnotations", "userLabels",
)  # fmt: skip
_HANDLER = fields("name", "exec")
_PAIR = fields("name", "value")
_MOUNT_POINT = fields("name", "path", "readOnly")
_PORT = fields("name", "protocol", "port", "count", "socketActivated")


def parse_app(value: object, path: str) -> dict[str, Any]:
    """The app with canonical member names and every default filled in; ManifestError otherwise (IM-09..31)."""
    app = Object(value, path, _APP)
    app.array("exec", schema.string)
    app.string("user")
    app.string("group")
    app.array("supplementaryGIDs", lambda item, at: schema.integer(item, at, 0, UINT32_IDS))
    unique(app.array("eventHandlers", _event_handler), app.at("eventHandlers"), "event handler")
    app.optional("workingDirectory", check=_is_absolute, rule=ABSOLUTE, default="/")
    unique(app.array("environment", _variable), app.at("environment"), "environment variable")
    check_isolators(app, scope="app")
    app.array("mountPoints", _mount_point)
    app.array("ports", parse_port)
    app.strings("userAnnotations")
    app.strings("userLabels")
    return app.members


def _is_absolute(text: str) -> bool:
    return text.startswith("/")


def _event_handler(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _HANDLER)
    item.string("name", check=HANDLERS.__contains__, rule="pre-start or post-stop")
    if not item.array("exec", schema.string, required=True):
        fail(item.at("exec"), "is empty", "name the program that handles the event, or remove the handler")
    return item.members


def _variable(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _PAIR)
    item.string("name", check=types.is_env_name, rule="a variable name (letters, digits, _ . -, beginning with a letter or _)")
    item.string("value", check=lambda _: True, rule="a string")
    return item.members


def _mount_point(value: object, path: str) -> dict[str, Any]:
    item = Object(value, path, _MOUNT_POINT)
    item.string("name", check=types.is_name, rule=NAME)
    item.string("path", check=_is_absolute, rule=ABSOLUTE)
    item.boolean("readOnly", False)
    return item.members


def parse_port(value: object, path: str) -> dict[str, Any]:
    """One port, with its count; ManifestError otherwise (IM-27)."""
    item = Object(value, path, _PORT)
    item.string("name", check=types.is_name, rule=NAME)
    item.string("protocol", rule="a protocol such as tcp or udp")
    first = item.integer("port", 1, 65535)
    count = item.integer("count", 1, 65535, default=1)
    if first + count - 1 > 65535:
        fail(item.at("count"), f"{count} ports from {first} on end beyond 65535", f"a count of at most {65536 - first} fits")
    item.boolean("socketActivated", False)
    return item.members
