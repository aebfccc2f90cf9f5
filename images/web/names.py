"""Names of images for discovery: ``name[:version][,label=value...]`` (appc spec, discovery.md; DISC-14).

As in the reference tools the colon stands at most once and before the first comma, and values may be
percent-encoded.  As in Go, whose remote import paths the procedure comes from, a name without a dot in
its first part is no name of a server: such words are looked for in the store only.
"""

from __future__ import annotations

import os
from typing import NoReturn
from urllib.parse import unquote

from pyrun.errors import UsageError
from pyrun.images import types
from pyrun.images.printable import printable

__all__ = ["AppName", "is_discoverable", "parse"]

MAX_LEVELS = 16  # parts of a name; each may cost a request
_HINT = "write HOST/NAME[:VERSION][,LABEL=VALUE...]"


class AppName:
    """A name and the labels that were asked for; the manifest that comes must have them all (DISC-11)."""

    __slots__ = ("labels", "name")

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name = name
        self.labels = labels

    @property
    def host(self) -> str:
        """The server that is asked about it."""
        return self.name.partition("/")[0]

    def variables(self) -> dict[str, str]:
        """What templates may name: the labels, with the newest version and this host's platform where none is asked for."""
        name = os.uname()
        runs = types.MACHINES.get(name.machine, (name.machine,))
        defaults = {"version": "latest", "os": name.sysname.lower(), "arch": runs[0]}
        return {**defaults, **self.labels, "name": self.name}

    def levels(self) -> list[str]:
        """The name and its parents up to the bare host; UsageError for one with too many parts."""
        parts = self.name.split("/")
        if len(parts) > MAX_LEVELS:
            _refuse(self.name, f"it has more than {MAX_LEVELS} parts")
        return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]

    def __str__(self) -> str:
        labels = dict(self.labels)
        version = labels.pop("version", "")
        return self.name + (f":{version}" if version else "") + "".join(f",{name}={value}" for name, value in labels.items())


def is_discoverable(text: str) -> bool:
    """Whether `text` begins like the name of a server: a dot in its first part, or localhost."""
    host = text.partition(",")[0].partition(":")[0].partition("/")[0]
    return "." in host or host == "localhost"


def parse(text: str) -> AppName:
    """Take a name apart; UsageError when it is none that discovery could find."""
    head, *pairs = text.split(",")
    name, colon, version = head.partition(":")
    if text.count(":") > bool(colon):
        _refuse(text, "a colon stands only before the version")
    if not types.is_identifier(name) or not is_discoverable(name):
        _refuse(text, f"{printable(name, 80)} is no name of an image that a server could have")
    if "/" in version:  # HOST:PORT/NAME, most likely
        _refuse(
            text, "a name for discovery has no port", "images in registries are written docker://HOST:PORT/NAME, a slash in a version %2F"
        )
    labels = {"version": _value(text, version)} if colon else {}
    for pair in pairs:
        label, equals, value = pair.partition("=")
        if not equals or not types.is_identifier(label) or label == "name":
            _refuse(text, f"{printable(pair, 80)} is not label=value")
        if label in labels:
            _refuse(text, f"the label {label} stands there twice")
        labels[label] = _value(text, value)
    return AppName(name, labels)


def _value(text: str, written: str) -> str:
    try:
        value = unquote(written, errors="strict")
    except UnicodeDecodeError:
        value = ""
    if not value or not value.isprintable():
        _refuse(text, f"{printable(written, 80) or 'nothing'} is no value of a label")
    return value


def _refuse(text: str, reason: str, hint: str = _HINT) -> NoReturn:
    raise UsageError("read name", printable(text, 120), reason, hint=hint)
