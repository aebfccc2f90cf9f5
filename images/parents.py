"""How directories beneath an untrusted tree are opened, and what their paths are; imports nothing but the kernel's flags."""

from __future__ import annotations

import os

from pyrun import native

BENEATH = native.RESOLVE_BENEATH | native.RESOLVE_NO_SYMLINKS | native.RESOLVE_NO_MAGICLINKS
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]
