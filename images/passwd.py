"""Whom an app runs as: names, numbers and paths to ids, by the image's own files (appc spec/aci.md, "app" members user and group).

    "/path"      owner, respectively group, of that file in the image
    anything     looked up in the image's /etc/passwd or /etc/group first, all-digit strings too
    digits       else the number itself, 0 to 2^31-1, in plain decimal

Everything else is an error.  The host's accounts are never asked.  The files are taken apart as bytes:
what does not match exactly does not match, and an entry with ids out of range is an error instead of a
reason to go on, so no spelling ends as id 0 by accident.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
from pyrun.images.printable import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.images.rootfs import RootFS

__all__ = ["Identity", "login_shell", "member_groups", "resolve_user"]

MAX_ID = 2**31 - 1
_DIGITS = frozenset(b"0123456789")
_MAX_FILE = 1 << 20
_EXPECTED = "give a name that the image knows, a number from 0 to 2147483647, or the absolute path of a file in the image"


class Identity:
    """Resolved ids; `name` is the user's name in the image or "", `home` an absolute path."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...], name: str, home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.name = name
        self.home = home

    def __repr__(self) -> str:
        return f"Identity(uid={self.uid}, gid={self.gid}, groups={self.groups}, name={self.name!r}, home={self.home!r})"


def resolve_user(
    rootfs: RootFS, user: str, group: str | None, groups: Sequence[int] = (), *, origin: str = "", group_origin: str = ""
) -> Identity:
    """The identity that `user` and `group` mean in an image; `groups` are the supplementary ids, taken as they are.

    Without `group` it is the user's own from /etc/passwd, else 0, or the file's for a path.  ConfigError (or ImageError
    for files that cannot be read) when anything is unknown, malformed or out of range; `origin`, or `group_origin` for
    what is wrong with `group`, goes into it.
    """
    for number in groups:
        if not 0 <= number <= MAX_ID:
            raise ConfigError("resolve group", str(number), "out of range", hint="use numbers from 0 to 2147483647", origin=origin)
    entries = _entries(rootfs, b"/etc/passwd")
    if user.startswith("/"):
        uid, file_gid = _owner(rootfs, user, "user", origin)
        entry = _by_id(entries, uid)
        gid = _id(entry, 3, "group", origin) if entry else file_gid
    else:
        entry = _by_name(entries, user)
        uid = _id(entry, 2, "user", origin) if entry else _number(user, "user", origin)
        entry = entry or _by_id(entries, uid)
        gid = 0 if group is not None or not entry else _id(entry, 3, "group", origin)
    if group is not None:
        gid = _group(rootfs, group, group_origin or origin)
    return Identity(uid, gid, tuple(groups), _text(entry[0]) if entry else "", _home(entry))


def member_groups(rootfs: RootFS, name: str) -> list[int]:
    """Groups that list a user by name in the image's /etc/group, which Docker's images expect; malformed entries are passed over."""
    found = []
    for entry in _entries(rootfs, b"/etc/group") if name else []:
        gid = _decimal(entry[2]) if len(entry) > 3 else None
        if gid is not None and _bytes(name) in entry[3].split(b","):
            found.append(gid)
    return found


def login_shell(rootfs: RootFS, uid: int) -> str:
    """The last field of the first entry for `uid`, an absolute path, or ""."""
    entry = _by_id(_entries(rootfs, b"/etc/passwd"), uid)
    shell = entry[6] if entry and len(entry) > 6 else b""
    return _text(shell) if shell.startswith(b"/") and b"\0" not in shell and len(shell) < 4096 else ""


def _group(rootfs: RootFS, group: str, origin: str) -> int:
    if group.startswith("/"):
        return _owner(rootfs, group, "group", origin)[1]
    entry = _by_name(_entries(rootfs, b"/etc/group"), group)
    return _id(entry, 2, "group", origin) if entry else _number(group, "group", origin)


def _entries(rootfs: RootFS, path: bytes) -> list[list[bytes]]:
    data = rootfs.read(path, _MAX_FILE)
    return [line.split(b":") for line in data.split(b"\n") if line] if data else []


def _by_name(entries: list[list[bytes]], name: str) -> list[bytes] | None:
    wanted = _bytes(name) or b"\n"  # an empty name matches no entry
    for entry in entries:
        if entry[0] == wanted and len(entry) > 1:
            return entry
    return None


def _by_id(entries: list[list[bytes]], uid: int) -> list[bytes] | None:
    """The first entry of a user id, for its group and home; malformed ones are passed over."""
    wanted = b"%d" % uid
    for entry in entries:
        if len(entry) > 3 and entry[2] == wanted and entry[0]:
            return entry
    return None


def _id(entry: list[bytes], field: int, what: str, origin: str) -> int:
    value = _decimal(entry[field]) if len(entry) > field else None
    if value is None:
        reason = f"the image's entry has no valid {what} id"
        raise ConfigError(f"resolve {what}", printable(entry[0]), reason, hint="name a user and group by number instead", origin=origin)
    return value


def _number(text: str, what: str, origin: str) -> int:
    data = _bytes(text)
    value = _decimal(data)
    if value is not None:
        return value
    if data and _DIGITS.issuperset(data):
        reason = "written with leading zeros" if text.startswith("0") else "out of range"
    else:
        reason = f"the image knows no such {what}"
    raise ConfigError(f"resolve {what}", printable(text) or '""', reason, hint=_EXPECTED, origin=origin)


def _decimal(text: bytes) -> int | None:
    """A plain decimal from 0 to `MAX_ID`; None for anything that int() would also take."""
    if not 0 < len(text) <= 10 or not _DIGITS.issuperset(text) or (text.startswith(b"0") and text != b"0"):
        return None
    value = int(text)
    return value if value <= MAX_ID else None


def _owner(rootfs: RootFS, path: str, what: str, origin: str) -> tuple[int, int]:
    ids = rootfs.owner(_bytes(path))
    if ids is None:
        raise ConfigError(f"resolve {what}", printable(path), "the image has no such file", hint=_EXPECTED, origin=origin)
    if max(ids) > MAX_ID:
        raise ConfigError(f"resolve {what}", printable(path), "its owner is out of range", hint=_EXPECTED, origin=origin)
    return ids


def _home(entry: list[bytes] | None) -> str:
    home = entry[5] if entry and len(entry) > 5 else b""
    return _text(home) if home.startswith(b"/") and b"\0" not in home and len(home) < 4096 else "/"


def _bytes(text: str) -> bytes:
    """The bytes of an argument; half a surrogate pair, which JSON can spell, becomes something no entry holds."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
