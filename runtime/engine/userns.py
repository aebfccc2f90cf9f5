"""Becoming root of a user namespace (user_namespaces(7)), which a process that has no other thread may do.

In it are the user, as root, and the ranges of /etc/subuid and /etc/subgid (subuid(5)), which newuidmap(1) writes down; without those
nobody else.  All namespaces of a user have the same ids, so a file that a pod has left can be removed from any of them.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pyrun import native
from pyrun.errors import HostError
from pyrun.host import read_small
from pyrun.native.users import TOOLS, id_tools, mapped_ids, subordinate_ids, which

__all__ = ["become_root", "has_ranges", "remember"]

# The tools want to be run by the user who is mapped, from outside: this shell is started before and waits.
_SCRIPT = 'read -r go && newuidmap "$1" $2 && newgidmap "$1" $3'


def has_ranges() -> bool:
    """Whether this process, an ordinary user's, can have more ids than its own in a user namespace."""
    return bool(id_tools() and subordinate_ids("uid", os.geteuid()) and subordinate_ids("gid", os.geteuid()))


def become_root() -> None:
    """Take this process into a new user namespace with all ids that its user may have; HostError where the host does not let it."""
    uid, gid = os.geteuid(), os.getegid()
    uids, gids = subordinate_ids("uid", uid), subordinate_ids("gid", uid)
    mapper = _Mapper(_text(uid, uids), _text(gid, gids)) if uids and gids and id_tools() else None
    try:
        native.user_namespace()
    except OSError as error:
        raise HostError("make a user namespace", "", errno=error.errno or 0, hint=_mend(error.errno or 0)) from None
    if mapper is not None:
        mapper.write()
        return
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        fd = os.open(f"/proc/self/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise HostError("map ids by", f"/proc/self/{file}", errno=error.errno or 0, hint=_mend(error.errno or 0)) from None
        finally:
            os.close(fd)


def remember(root: str) -> None:
    """Write into the state directory how this namespace is mapped, and what decided it: native/users.c makes another like it."""
    maps = [mapped_ids(kind) for kind in ("uid", "gid")]
    folders = os.environ.get("PATH", os.defpath).split(":")
    tools = [which(name, folders) if len(maps[0]) > 1 else "" for name in TOOLS]
    lines = [f"{maps[0][0][1]} {maps[1][0][1]}", *(" ".join(f"{a} {b} {c}" for a, b, c in one) for one in maps), *tools]
    lines += [_stamp("/etc/subuid"), _stamp("/etc/subgid")]
    text = "".join(line + "\n" for line in lines).encode()
    path = root + "/users"
    if read_small(path) == text or not os.path.isdir(root):
        return
    with contextlib.suppress(OSError):  # then Python is started the next time, too
        with open(path + ".new", "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text)
        os.rename(path + ".new", path)


def _stamp(path: str) -> str:
    try:
        info = os.stat(path)
    except OSError:
        return "-"
    return f"{info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"


class _Mapper:
    """The tools that write id maps of several ranges, waiting for the namespace that they are for."""

    def __init__(self, uids: str, gids: str) -> None:
        self._go, self._said = os.pipe(), os.pipe()
        moves = [(os.POSIX_SPAWN_DUP2, self._go[0], 0), (os.POSIX_SPAWN_DUP2, self._said[1], 1), (os.POSIX_SPAWN_DUP2, self._said[1], 2)]
        words = ["sh", "-c", _SCRIPT, "sh", str(os.getpid()), uids, gids]
        self._pid = os.posix_spawn("/bin/sh", words, {"PATH": os.environ.get("PATH", os.defpath)}, file_actions=moves)
        os.close(self._go[0])
        os.close(self._said[1])

    def write(self) -> None:
        """Let them go on and wait for them; HostError with what they say."""
        with contextlib.suppress(BrokenPipeError):  # what it says is told below
            os.write(self._go[1], b"go\n")
        os.close(self._go[1])
        with open(self._said[0], encoding="utf-8", errors="replace") as file:
            said = " ".join(file.read().split())
        if os.waitpid(self._pid, 0)[1] != 0:
            hint = "see /etc/subuid and /etc/subgid; without a range of yours there, your pods have one user"
            if "different user" in said:  # newuidmap(1) compares the group too, with that of passwd(5)
                hint = "run it with your own primary group, not from newgrp or sg"
            raise HostError("map ids by", "newuidmap", said or "it failed", hint=hint)


def _text(own: int, ranges: list[tuple[int, int]]) -> str:
    """As newuidmap(1) takes it: root is the caller, the others follow without a gap."""
    words, inside = [f"0 {own} 1"], 1
    for first, count in ranges:
        words.append(f"{inside} {first} {count}")
        inside += count
    return " ".join(words)


def _mend(code: int) -> str:
    if code == errno.ENOSPC:
        return "sysctl user.max_user_namespaces=10000"
    if read_small("/proc/sys/kernel/unprivileged_userns_clone").strip() == b"0":
        return "sysctl kernel.unprivileged_userns_clone=1"
    if read_small("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == b"1":
        return "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile of AppArmor's that allows userns"
    return "this host does not let users make user namespaces: run it as root; `pyrun doctor` may say more"
