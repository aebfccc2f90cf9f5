"""Ordinary users of this machine who run the installed command, with a home of their own and ranges of ids or none."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from harness import COMMAND, LIMIT, Result
from waiting import wait_until

RANGE = 200_000  # the first id of ranged()'s range
COUNT = 65_536
PLAIN, RANGED = "games", "daemon"  # accounts that every Debian has and nobody uses


class User:
    """One account; `home` is a new directory of its own, `pyrun` the command as that user runs it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uid = pwd.getpwnam(name).pw_uid
        self.home = Path(tempfile.mkdtemp(prefix=f"pyrun-{name}-"))
        os.chown(self.home, self.uid, -1)
        self.within: list[str] = []  # a command that runs others somewhere else, as nsenter(1)
        self.env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"}

    @property
    def state(self) -> Path:
        return self.home / ".local" / "share" / "pyrun"

    def command(self, *words: str | Path) -> list[str]:
        return [*self.within, "setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--clear-groups", *map(str, words)]

    def run(self, *words: str | Path, code: int | None = 0, env: dict[str, str] | None = None, **more: Any) -> Result:
        """Runs a program to its end; `code` is the exit code that it must have, None for any."""
        given = {"stdin": subprocess.DEVNULL, "cwd": "/", **more}
        done = subprocess.run(self.command(*words), env={**self.env, **(env or {})}, capture_output=True, text=True, timeout=LIMIT, **given)
        result = Result([str(word) for word in words], done.returncode, done.stdout, done.stderr)
        assert code is None or result.code == code, repr(result)
        return result

    def pyrun(self, *words: str | Path, **more: Any) -> Result:
        return self.run(COMMAND, *words, **more)

    def shell(self, script: str, *flags: str | Path, image: str = "example.com/busybox", **more: Any) -> str:
        """What a script writes in a pod of the user's, without the last line's end."""
        return self.pyrun("run", *flags, image, "--exec", "/bin/sh", "--", "-c", script, **more).out.rstrip("\n")

    def start(self, *words: str | Path, **more: Any) -> subprocess.Popen[str]:
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": "/", **more}
        return subprocess.Popen(self.command(COMMAND, *words), env=self.env, text=True, **given)

    def close(self) -> None:
        self.pyrun("gc", code=None)
        wait_until(self._removed, f"{self.home} cannot be removed")

    def _removed(self) -> bool:
        """A pod's cleaner may be at it too, for a moment."""
        shutil.rmtree(self.home, ignore_errors=True)
        return not self.home.exists()


class Ranges:
    """/etc/subuid and /etc/subgid that give RANGED a range, seen in this mount namespace; `close` takes them away."""

    def __init__(self) -> None:
        self._file = Path(tempfile.mkstemp(prefix="pyrun-subid-")[1])
        self._file.write_text(f"{RANGED}:{RANGE}:{COUNT}\n")
        self._file.chmod(0o644)
        for path in ("/etc/subuid", "/etc/subgid"):
            Path(path).touch()
            subprocess.run(["mount", "--bind", self._file, path], check=True)

    def close(self) -> None:
        for path in ("/etc/subuid", "/etc/subgid"):
            subprocess.run(["umount", path], check=True)
        self._file.unlink()
