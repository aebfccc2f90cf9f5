"""Where signatures of images in registries lie, as skopeo and podman are told: containers-registries.d(5).

    default-docker:                                      docker:
      lookaside: https://signatures.example.com            registry.example.com/team:
                                                             lookaside: file:///srv/signatures
                                                             use-sigstore-attachments: true

The name that fits best decides each of the two; `sigstore` is the old word for `lookaside`.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn

from pyrun.errors import TrustError
from pyrun.images.printable import printable
from pyrun.images.trust.identity import Identity
from pyrun.images.trust.keyfiles import read_bounded

__all__ = ["Places", "namespaces", "read"]

SYSTEM = "/etc/containers/registries.d"
BUILTIN = "file:///var/lib/containers/sigstore"  # containers-registries.d(5) does not say so, containers/image does
_MAX_FILE = 1 << 20
_MEMBERS = ("lookaside", "lookaside-staging", "sigstore", "sigstore-staging", "use-sigstore-attachments")


class Places:
    """For one image: the URL below which signatures lie, and whether a registry is asked for what cosign attaches."""

    __slots__ = ("attachments", "lookaside")

    def __init__(self, lookaside: str, attachments: bool) -> None:
        self.lookaside = lookaside
        self.attachments = attachments


def namespaces(asked: Identity) -> list[str]:
    """What a name is looked up as in configuration, best match first: itself, the repository, what is above, wildcards."""
    names = [str(asked)]
    name = asked.name
    while name:
        names.append(name)
        name = name.rpartition("/")[0]
    host = asked.name.partition("/")[0].partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        names.append(f"*.{host}")
    return names


def read(asked: Identity, folder: str = "") -> Places:
    """What the files in `folder` say of an image; TrustError for files that cannot be read as they were meant."""
    default, docker = _merged(folder or _folder())
    found = [docker[name] for name in namespaces(asked) if name in docker] + [default]
    urls = [one.get("lookaside") or one.get("sigstore") for one in found]
    attached = [one["use-sigstore-attachments"] for one in found if one.get("use-sigstore-attachments") is not None]
    return Places(next((url for url in urls if url), BUILTIN), bool(attached and attached[0]))


def _folder() -> str:
    """As containers/image: the user's own folder in place of the system's, where there is one."""
    own = os.path.join(os.environ.get("HOME") or "/", ".config/containers/registries.d")
    return own if os.path.isdir(own) else SYSTEM


def _merged(folder: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    default: dict[str, Any] = {}
    docker: dict[str, dict[str, Any]] = {}
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".yaml"))
    except (FileNotFoundError, NotADirectoryError):
        return default, docker
    except OSError as error:
        raise TrustError("read", folder, errno=error.errno or 0, hint="check its permissions") from None
    for name in names:
        path = f"{folder}/{name}"
        document = _load(path)
        if "default-docker" in document:
            if default:
                _refuse(path, "a second default-docker")
            default = _checked(document["default-docker"], path)
        spaces = document.get("docker") or {}
        for space in spaces if isinstance(spaces, dict) else _refuse(path, "docker is no mapping"):
            if space in docker:
                _refuse(path, f"{printable(str(space), 80)} is in another file too")
            docker[space] = _checked(spaces[space], path)
    return default, docker


def _load(path: str) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(read_bounded(path, _MAX_FILE, "configuration", owned=True))
    except (yaml.YAMLError, RecursionError, ValueError):
        _refuse(path, "not YAML")
    if document is None:
        return {}
    return document if isinstance(document, dict) else _refuse(path, "not a mapping")


def _checked(value: Any, path: str) -> dict[str, Any]:
    value = {} if value is None else value
    if not isinstance(value, dict):
        _refuse(path, "an entry that is no mapping")
    for name in _MEMBERS[:4]:
        if not isinstance(value.get(name, ""), str):
            _refuse(path, f"{name} is not a URL")
    if not isinstance(value.get(_MEMBERS[4], True), bool):
        _refuse(path, f"{_MEMBERS[4]} is neither true nor false")
    return value


def _refuse(path: str, reason: str) -> NoReturn:
    raise TrustError("read signature places from", path, reason, hint="see containers-registries.d(5)")
