"""Id maps that a configuration does not spell out: of a user namespace without any, and of the mount option idmap=.  Cold."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["give_users", "inside", "option_maps", "outside"]

_LARGEST = (1 << 32) - 1
_HINT = "as in idmap=uids=0-1000-1#1-2000-10;gids=@0-0-100: ids of the file system, of the host or (@) of the container, how many"


def give_users(linux: dict[str, Any]) -> list[str]:
    """Let root of a user namespace be the caller, and nobody else be anybody; returns a warning when there is to be none.

    Without one a caller who is not root could make no other namespace; crun adds it likewise.
    """
    told = []
    if all(one["type"] != "user" for one in linux["namespaces"]):
        linux["namespaces"] = [*linux["namespaces"], {"type": "user"}]
        told.append("linux.namespaces: a caller who is not root gets a user namespace")
    for name, own in (("uidMappings", os.geteuid()), ("gidMappings", os.getegid())):
        linux[name] = [{"containerID": 0, "hostID": own, "size": 1}]
    return told


def option_maps(text: str, container: tuple[str, str], where: str) -> tuple[str, str]:
    """Return both id maps, as /proc/PID/uid_map takes them, of the value of a mount's option idmap= as crun and podman write it.

    `container` are the maps of the container's user namespace.  ConfigError, with `where`, for what is malformed or not mapped.
    """
    parts = [part.partition("=") for part in text.split(";")]
    given = {name: ranges for name, _, ranges in parts}
    if sorted(part[0] for part in parts) != ["gids", "uids"]:
        raise ConfigError("read mount option", f"idmap={text}", "has not uids and gids, once each", hint=_HINT, origin=where)
    return _ranges(given["uids"], container[0], where), _ranges(given["gids"], container[1], where)


def _ranges(text: str, container: str, where: str) -> str:
    rows = ""
    for part in text.split("#"):
        numbers = [whole(word, _LARGEST) for word in part.removeprefix("@").split("-")]
        if len(numbers) != 3 or min(numbers) < 0 or numbers[2] == 0:
            raise ConfigError("read mount option", part, "not of the form ID-ID-COUNT", hint=_HINT, origin=where)
        first, second, count = numbers
        if part.startswith("@"):
            second = _on_host(second, count, container, where)
        rows += f"{first} {second} {count}\n"
    return rows


def outside(first: int, maps: str, count: int = 1) -> int:
    """Return the host's id of the first of `count` ids of a container, by its map; -1 when they are not all in one range of it."""
    for line in maps.splitlines():
        start, host, size = map(int, line.split())
        if start <= first and first + count <= start + size:
            return host + first - start
    return -1


def inside(number: int, maps: str) -> int:
    """Return the container's id of one of the host's, -1 for none."""
    for line in maps.splitlines():
        start, host, size = map(int, line.split())
        if host <= number < host + size:
            return start + number - host
    return -1


def _on_host(first: int, count: int, container: str, where: str) -> int:
    found = outside(first, container, count)
    if found >= 0:
        return found
    reason = "not within one range of the container's user namespace"
    raise ConfigError("map ids", f"{first} to {first + count - 1}", reason, hint=_HINT, origin=where)
