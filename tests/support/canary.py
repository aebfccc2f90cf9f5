"""A host directory that no container may touch, and proof that none did."""

from __future__ import annotations

import os
from pathlib import Path

NAMES = "file null zero full tty console ptmx hosts resolv.conf hostname mtab passwd group probe".split()


class Canary:
    """Files named like what a runtime makes, below a directory that hostile images point to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in (path, path / "dir", path / "dir" / "inner"):
            folder.mkdir(mode=0o750)
        for name in NAMES:
            (path / name).write_text(f"canary {name}\n")
            (path / "dir" / name).write_text(f"canary dir {name}\n")
        self.before = self.look()

    def look(self) -> dict[str, tuple[object, ...]]:
        """Everything that the kernel tells of each file but the time of its last reading."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted([self.path, *self.path.rglob("*")]):
            st = os.lstat(path)
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_mtime_ns, st.st_ctime_ns, content)
        return found

    def assert_untouched(self) -> None:
        after = self.look()
        changed = [path for path in {*self.before, *after} if self.before.get(path) != after.get(path)]
        assert not changed, f"touched: {changed}"
