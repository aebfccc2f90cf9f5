"""What a link named runc does as runc does, beside its name: words of errors, what it refuses of binds, what it overlooks.  Cold."""

from __future__ import annotations

import errno
import os

from pyrun.errors import ConfigError, PyrunError, SetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.mounts import Wanted

__all__ = ["bind_flags", "front", "known_access"]

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8  # of MOUNT_ATTR_... and of statvfs(3) alike
_OPTIONS = {_RDONLY: "rw", _NOSUID: "suid", _NODEV: "dev", _NOEXEC: "exec"}
_NOATIME, _STRICT, _ATIME, _NODIRATIME, _NOSYMFOLLOW = 0x10, 0x20, 0x70, 0x80, 0x200000  # MOUNT_ATTR_...
_MS_NOATIME, _MS_NODIRATIME, _MS_RELATIME, _MS_STRICT = 1 << 10, 1 << 11, 1 << 21, 1 << 24
_ST_NOATIME, _ST_NODIRATIME, _ST_RELATIME = 1 << 10, 1 << 11, 1 << 12


def front(verb: str, error: PyrunError) -> str:
    """Return what goes before an error, by which runc's callers tell the kinds apart."""
    if verb in ("create", "run", "restore", "exec") and (isinstance(error, SetupError) or error.step == "error mounting"):
        return f"runc {verb} failed: unable to start container process: error during container init: "
    return f"runc {verb} failed: " if verb else "runc: "


def known_access(config: Any) -> None:
    """Take out of the rules for devices what no kind of access is; what is wrong otherwise is told by who reads them next."""
    try:
        rules = [rule for rule in config["linux"]["resources"]["devices"] if isinstance(rule.get("access"), str)]
    except (AttributeError, KeyError, TypeError):
        return
    for rule in rules:
        rule["access"] = "".join(letter for letter in rule["access"] if letter in "rwm") or rule["access"]


def bind_flags(wanted: Wanted, source: str, target: str, where: str, *, locked: bool) -> None:
    """Take the times of a bind as mount(2) does when it mounts again, and with `locked` refuse what the kernel would.

    Times are replaced all together, or stay as they are where an option only takes one away.  Where a user namespace locks the
    source's flags (mount_namespaces(7)) none of them can be taken off; our trees are from before the clone, so nobody else says so.
    """
    on, off = wanted.attributes[:2]
    times = wanted.flags & (_MS_NOATIME | _MS_NODIRATIME | _MS_RELATIME | _MS_STRICT)
    set_to = _STRICT if times & _MS_STRICT else _NOATIME if times & _MS_NOATIME else 0
    set_to |= _NODIRATIME if times & _MS_NODIRATIME else 0
    if locked and (on or off):
        _refuse(source, target, off, set_to if times else -1, where)
    on, off = on & ~(_ATIME | _NODIRATIME), off & ~(_ATIME | _NODIRATIME)
    if times:
        on, off = on | set_to, off | _ATIME | (_NODIRATIME & ~set_to)
    if (on, off) == (0, 0) and any(wanted.attributes[:2]):  # an option has been named all the same
        off = _NOSYMFOLLOW if locked else _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOSYMFOLLOW
    wanted.attributes[:2] = on, off


def _refuse(source: str, target: str, off: int, times: int, where: str) -> None:
    try:
        have = os.statvfs(source).f_flag
    except OSError:  # whoever binds it will tell
        return
    words = [word for flag, word in _OPTIONS.items() if off & have & flag]
    if times >= 0 and times != _times(have):
        words.append("another atime")
    if words:
        reason = f"operation not permitted: a user namespace keeps the flags of its source, and {', '.join(words)} is asked for"
        hint = "leave the option out, or mount the source so on the host"
        raise ConfigError("error mounting", f"{source} on {target}", reason, errno=errno.EPERM, hint=hint, origin=f"{where}.options")


def _times(have: int) -> int:
    access = _NOATIME if have & _ST_NOATIME else 0 if have & _ST_RELATIME else _STRICT
    return access | (_NODIRATIME if have & _ST_NODIRATIME else 0)
