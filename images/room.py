"""What to do about a state directory that takes nothing.  Cold."""

from __future__ import annotations

import errno
import os

__all__ = ["hint"]

_ELSEWHERE = "choose another directory with --root"
_FULL = "free some space, or " + _ELSEWHERE
_MENDS = {
    errno.EROFS: "the file system is read-only: mount it writable, or " + _ELSEWHERE,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


def hint(error: OSError) -> str:
    """Return a hint: to be root only to whom that helps."""
    if error.errno not in (errno.EACCES, errno.EPERM):
        return _MENDS.get(error.errno or 0, _ELSEWHERE)
    if not os.geteuid():
        return _ELSEWHERE + ": root may not write there either"
    if _is_own(error.filename):
        return f"it is yours: let yourself write to it (chmod u+rwx), or {_ELSEWHERE}"
    return "run as root, or " + _ELSEWHERE


def _is_own(path: object) -> bool:
    """Whether a path, or what there is of it, belongs to this user."""
    while isinstance(path, str) and path not in ("", "/"):
        try:
            return os.stat(path).st_uid == os.geteuid()
        except OSError:
            path = os.path.dirname(path)
    return False
