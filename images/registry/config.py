"""Where registries are asked, from the file that podman and skopeo read: containers-registries.conf(5), version 2.

    $CONTAINERS_REGISTRIES_CONF                         alone, when it is set
    ~/.config/containers/registries.conf, else /etc/containers/registries.conf
    /etc/containers/registries.conf.d/*.conf, then ~/.config/containers/registries.conf.d/*.conf

A later [[registry]] of the same prefix takes the place of an earlier one; the longest prefix of a reference counts.
`insecure = true` allows plain http where https is not spoken; certificates are checked all the same.  Short names mean
something only where [aliases] says what: a list of registries to try would let whoever is first answer for the others.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from pyrun.errors import ImageError, UsageError
from pyrun.images.printable import printable
from pyrun.images.registry.reference import RegistryReference, parse
from pyrun.native.users import root_or_self

__all__ = ["Place", "Registries", "read"]

SYSTEM = "/etc/containers"
_MAX_FILE = 1 << 20
_MIRROR = {"location": str, "insecure": bool, "pull-from-mirror": str}
_REGISTRY = {"prefix": str, "location": str, "insecure": bool, "blocked": bool, "mirror-by-digest-only": bool, "mirror": list}
_PULLS = ("all", "digest-only", "tag-only")
_HINT = "see containers-registries.conf(5)"


class Place:
    """One place to ask for an image: the reference as it is spelled there; `insecure` where plain http will do."""

    __slots__ = ("insecure", "mirror", "reference")

    def __init__(self, reference: RegistryReference, insecure: bool, mirror: bool) -> None:
        self.reference = reference
        self.insecure = insecure
        self.mirror = mirror


class Registries:
    """What the files say together; `tables` by prefix, each with the file that it stands in."""

    __slots__ = ("aliases", "search", "tables")

    def __init__(self) -> None:
        self.tables: dict[str, tuple[dict[str, Any], str]] = {}
        self.aliases: dict[str, str] = {}
        self.search: list[str] = []

    def places(self, reference: RegistryReference) -> list[Place]:
        """Where to ask, best first: mirrors, then the registry itself; ImageError for one that is blocked."""
        prefix = max((prefix for prefix in self.tables if _matched(reference, prefix)), key=len, default="")
        if not prefix:
            return [Place(reference, False, False)]
        table, path = self.tables[prefix]
        if table.get("blocked"):
            raise ImageError("fetch", str(reference), "its registry is blocked", hint=f"{path} says so, for {prefix}", origin=path)
        matched = _matched(reference, prefix)
        found = []
        for mirror in table.get("mirror", []):
            pulls = mirror.get("pull-from-mirror", "digest-only" if table.get("mirror-by-digest-only") else "all")
            if pulls == "all" or pulls == ("digest-only" if reference.digest else "tag-only"):
                found.append(Place(_moved(reference, matched, mirror["location"], path), bool(mirror.get("insecure")), True))
        location = table.get("location", "")
        own = _moved(reference, matched, location, path) if location else reference
        return [*found, Place(own, bool(table.get("insecure")), False)]

    def alias(self, text: str) -> RegistryReference | None:
        """What a short name, with a tag or digest behind it, is an alias of; None where no file says so."""
        end = min((at for at in (text.find(":"), text.find("@")) if at >= 0), default=len(text))
        full = self.aliases.get(text[:end], "")
        return parse(f"docker://{full}{text[end:]}") if full else None


def read(environ: Mapping[str, str] | None = None, system: str = SYSTEM) -> Registries:
    """What is configured on this host; ImageError for a file that cannot be used, so that nothing in it is passed over."""
    environ = os.environ if environ is None else environ
    found = Registries()
    for path in _files(environ, system):
        document = _read(path, missing_ok=path != environ.get("CONTAINERS_REGISTRIES_CONF"))
        if document is not None:
            _take(found, document, path)
    return found


def _files(environ: Mapping[str, str], system: str) -> Iterator[str]:
    if environ.get("CONTAINERS_REGISTRIES_CONF"):
        yield environ["CONTAINERS_REGISTRIES_CONF"]
        return
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    own = f"{home}/containers" if home else ""
    yield f"{own}/registries.conf" if own and os.path.exists(f"{own}/registries.conf") else f"{system}/registries.conf"
    for folder in filter(None, (system, own)):
        try:
            names = sorted(os.listdir(f"{folder}/registries.conf.d"))
        except OSError:
            continue
        yield from (f"{folder}/registries.conf.d/{name}" for name in names if name.endswith(".conf"))


def _read(path: str, *, missing_ok: bool) -> dict[str, Any] | None:
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                _refuse(path, "not a regular file")
            if info.st_mode & 0o022 or not root_or_self(info.st_uid, path):
                _refuse(path, "others may change it", f"chown root and chmod go-w {path}")
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            _refuse(path, f"more than {_MAX_FILE} bytes")
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        if missing_ok:
            return None
        _refuse(path, "it does not exist", "CONTAINERS_REGISTRIES_CONF names it: unset the variable")
    except (ValueError, RecursionError) as error:
        _refuse(path, f"not TOML: {printable(str(error), 200).lower()}")
    except OSError as error:
        raise ImageError("read registries", path, errno=error.errno or 0, hint="check its permissions") from None


def _take(found: Registries, document: dict[str, Any], path: str) -> None:
    """Adds what one file says, checked."""
    if "registries" in document:
        _refuse(path, "it is of version 1", "write [[registry]] tables: containers-registries.conf(5)")
    tables = document.get("registry", [])
    if not isinstance(tables, list):
        _refuse(path, "registry is not a list of tables")
    for table in tables:
        _check(table, _REGISTRY, "registry", path)
        prefix = table.get("prefix") or table.get("location") or ""
        if not _is_prefix(prefix):
            _refuse(path, f"{printable(prefix) or 'nothing'} is no prefix of an image's name")
        for mirror in table.get("mirror", []):
            _check(mirror, _MIRROR, "registry.mirror", path)
            if not mirror.get("location") or mirror.get("pull-from-mirror", "all") not in _PULLS:
                _refuse(path, f"a mirror of {prefix} has no location, or pull-from-mirror is none of {', '.join(_PULLS)}")
            if "pull-from-mirror" in mirror and table.get("mirror-by-digest-only"):
                _refuse(path, f"both mirror-by-digest-only and pull-from-mirror for {prefix}")
        found.tables[prefix] = (table, path)
    aliases = document.get("aliases", {})
    if not isinstance(aliases, dict) or not all(isinstance(value, str) for value in aliases.values()):
        _refuse(path, "aliases is not a table of names")
    found.aliases |= aliases
    search = document.get("unqualified-search-registries", found.search)
    found.search = [printable(str(one)) for one in search] if isinstance(search, list) else []


def _check(table: Any, kinds: dict[str, type], what: str, path: str) -> None:
    """A word that is not known might have been meant to forbid something."""
    if not isinstance(table, dict):
        _refuse(path, f"{what} is not a table")
    for name, value in table.items():
        if name not in kinds or not isinstance(value, kinds[name]):
            _refuse(path, f"{printable(name)} in [[{what}]] is not known or no {getattr(kinds.get(name), '__name__', 'word')}")


def _is_prefix(text: str) -> bool:
    body = text.removeprefix("*.")
    plain = bool(body) and body[0] not in "/:@" and "*" not in body and "//" not in body and body.isascii() and body.isprintable()
    return plain and (body is text or not {"/", ":"} & set(body))


def _matched(reference: RegistryReference, prefix: str) -> str:
    """The part of a reference's name that a prefix stands for, "" where it does not: whole components only."""
    if prefix.startswith("*."):
        return reference.host if reference.host.endswith(prefix[1:]) else ""
    name = str(reference)
    return prefix if name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in ("", "/", ":", "@") else ""


def _moved(reference: RegistryReference, matched: str, location: str, path: str) -> RegistryReference:
    """The reference with another beginning."""
    try:
        return parse(f"docker://{location.rstrip('/')}{str(reference)[len(matched) :]}")
    except UsageError:
        _refuse(path, f"{printable(location)} makes no reference of {reference}")


def _refuse(path: str, reason: str, hint: str = _HINT) -> NoReturn:
    raise ImageError("read registries", path, reason, hint=hint)
