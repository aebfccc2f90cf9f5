"""Whose process this is: the host's root, root of a user namespace only, or an ordinary user (user_namespaces(7))."""

from __future__ import annotations

import os

__all__ = [
    "SYSTEM_ROOT",
    "TOOLS",
    "has_one_user",
    "id_tools",
    "is_root",
    "mapped_ids",
    "require_own",
    "root_or_self",
    "state_root",
    "subordinate_ids",
    "which",
]

SYSTEM_ROOT = "/var/lib/pyrun"
TOOLS = ("newuidmap", "newgidmap")

_OVERFLOW = 65534  # overflowuid of proc(5), which nobody changes
_INITIAL = "user:[4026531837]"  # PROC_USER_INIT_INO of linux/proc_ns.h: the user namespace that the host booted with


def is_root() -> bool:
    """Whether this process is the host's root; root of a user namespace is not (user_namespaces(7))."""
    return os.geteuid() == 0 and not _inner()


def _inner() -> bool:
    try:
        return os.readlink("/proc/self/ns/user") != _INITIAL
    except OSError:
        return False  # a kernel without user namespaces, or no /proc


def mapped_ids(kind: str) -> list[tuple[int, int, int]]:
    """Return the ids that exist in this user namespace, as (id, id outside, count); `kind` is "uid" or "gid"."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        lines = file.read().splitlines()
    return [(int(first), int(outside), int(count)) for first, outside, count in (line.split() for line in lines)]


def has_one_user() -> bool:
    """Whether this process can give files to nobody but itself."""
    if os.geteuid():
        return True
    return _inner() and len(mapped_ids("uid")) == 1 and mapped_ids("uid")[0][2] == 1


def root_or_self(uid: int, path: str) -> bool:
    """Whether the owner of a file is the host's root or this user.

    In a user namespace the host's root has no id, so stat(2) shows the overflow id of everybody who has none (user_namespaces(7));
    in /etc and /usr, below directories that nobody but their owner can write to, that is taken for root.
    """
    if uid in (0, os.geteuid()):
        return True
    return uid == _OVERFLOW and os.geteuid() == 0 and _inner() and _of_system(os.path.realpath(path))


def _of_system(path: str) -> bool:
    try:
        while (above := os.path.dirname(path)) != "/":
            if os.stat(above).st_mode & 0o022:
                return False
            path = above
    except OSError:
        return False
    return path in ("/etc", "/usr")


def require_own(root: str, places: tuple[str, ...] = ("tmp", "pods", "images", "layers")) -> None:
    """StateError when a state directory belongs to somebody else, or everybody may write to it: who can put things there, decides.

    Likewise where one of `places` below it is others', as in / or /var.  One that is not there yet is right: it will be made.
    """
    try:
        info = os.stat(root)
    except OSError:
        return
    ours = info.st_uid in (0, os.geteuid())
    foreign = [name for name in places if _is_shared(f"{root}/{name}")]
    if ours and not info.st_mode & 0o002 and not foreign:
        return
    from pyrun.errors import StateError

    reason = "everybody may write to it" if ours else f"it belongs to another user ({info.st_uid})"
    if ours and not info.st_mode & 0o002:
        reason = f"it holds a directory {foreign[0]} of others, which pyrun would believe, and empty"
    raise StateError("use root", root, reason, hint="name a directory that is yours alone, or a new one, which is made: --root DIR")


def _is_shared(path: str) -> bool:
    """Whether a directory is somebody else's, or others get into it: pyrun makes its own for itself alone."""
    try:
        info = os.stat(path)
    except OSError:
        return False
    return bool(info.st_mode & 0o077) or info.st_uid not in (0, os.geteuid())


def state_root() -> str:
    """Return where state is kept when nobody says: $PYRUN_ROOT, else /var/lib/pyrun or, for whoever is not root, $XDG_DATA_HOME/pyrun."""
    given = os.environ.get("PYRUN_ROOT")
    if given or is_root():
        return given or SYSTEM_ROOT
    data = os.environ.get("XDG_DATA_HOME", "")
    return f"{data if data.startswith('/') else os.path.expanduser('~/.local/share')}/pyrun"


def subordinate_ids(kind: str, uid: int) -> list[tuple[int, int]]:
    """Return the (first, count) that /etc/subuid or, with the `kind` "gid", /etc/subgid gives a user, by name or number (subuid(5)).

    One that has the caller's own id or shares ids with an earlier one is left out: the kernel maps each id once.
    """
    import contextlib
    import pwd

    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    own = uid if kind == "uid" else os.getegid()
    found: list[tuple[int, int]] = []
    try:
        with open(f"/etc/sub{kind}", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in names and first.isdecimal() and count.isdecimal() and int(count) > 0:
            start, end = int(first), int(first) + int(count)
            if not any(start < other + more and other < end for other, more in [(own, 1), *found]):
                found.append((start, int(count)))
    return found


def id_tools() -> bool:
    """Whether newuidmap(1) and newgidmap(1) are there, which map subordinate ids."""
    folders = os.environ.get("PATH", os.defpath).split(":")
    return all(which(name, folders) for name in TOOLS)


def which(name: str, folders: list[str]) -> str:
    """Return the path of a program in the first of these directories that has it, "" where none has."""
    return next((path for folder in folders if os.access(path := f"{folder}/{name}", os.X_OK)), "")
