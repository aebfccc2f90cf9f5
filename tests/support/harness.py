"""What live tests work with: the installed command, a signing key, a look at the machine before and after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

TOP = Path(__file__).resolve().parent.parent.parent
COMMAND = TOP / ".venv" / "bin" / "pyrun"
LIMIT = 60  # seconds, of one pyrun


def compile_probe(target: Path) -> Path:
    """Makes the static probe program, unless `target` is one newer than its sources."""
    sources = [TOP / "tests" / name for name in ("probe.c", "probe_report.c", "probe_spy.c", "probe_trace.c")]
    if not target.exists() or any(source.exists() and source.stat().st_mtime > target.stat().st_mtime for source in sources):
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-std=gnu11", "-O1", "-static", "-s", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", target, *sources], check=True)
    return target


def copy_of_sources(target: Path) -> Path:
    """A copy of the checkout without anything that was built in it."""
    made = (".git", ".venv", "build", "dist", "helper", "__pycache__", "*.so", "*.o", "*.egg-info")
    return Path(shutil.copytree(TOP, target, ignore=shutil.ignore_patterns(*made)))


class Result:
    """What one run of pyrun came to."""

    def __init__(self, arguments: list[str], code: int, out: str, err: str) -> None:
        self.arguments = arguments
        self.code = code
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"pyrun {' '.join(self.arguments)}: exit {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


class Started(subprocess.Popen[str]):
    """As a context manager it does not wait for a process that nobody ends, since the test has failed: it would be for ever."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)


class Pyrun:
    """The `pyrun` command with a state directory of its own."""

    def __init__(self, root: Path, probe_image: Path) -> None:
        self.root = root
        self.probe_image = probe_image
        self.within: list[str] = []  # a command that runs it somewhere else, as nsenter(1)

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.root), "LANG": "C.UTF-8", "PYRUN_ROOT": str(self.root), **(env or {})}

    def __call__(
        self,
        *arguments: str | Path,
        code: int | None = None,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Result:
        """Runs pyrun to its end; `code` is the exit code that it must have, None for any."""
        words = [str(argument) for argument in arguments]
        data = input.encode() if isinstance(input, str) else input
        stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
        done = subprocess.run(
            [*self.within, COMMAND, *words], env=self.environment(env), capture_output=True, timeout=LIMIT, **stdin, **more
        )
        result = Result(words, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if code is not None:
            assert result.code == code, repr(result)
        return result

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        """Starts pyrun with pipes for its three streams; the caller ends it."""
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return Started([*self.within, COMMAND, *map(str, arguments)], env=self.environment(env), text=True, **streams)

    def probe(self, *command: str, flags: tuple[str | Path, ...] = (), **more: Any) -> Result:
        """Runs the probe image with another command than `report`."""
        return self("run", *flags, self.probe_image, "--exec", "/probe", "--", *command, **more)

    def report(self, *flags: str | Path, **more: Any) -> dict[str, Any]:
        """What the probe sees inside, with these flags of `pyrun run`."""
        seen: dict[str, Any] = json.loads(self("run", *flags, self.probe_image, code=0, **more).out)
        return seen

    def attempt(self, *call: str, flags: tuple[str | Path, ...] = ()) -> str:
        """The errno name of one system call tried inside (`probe try`), empty when it succeeded."""
        name: str = json.loads(self.probe("try", *call, flags=flags, code=0).out)["errno"]
        return name


class Signer:
    """A throw-away OpenPGP key in a keyring of its own."""

    def __init__(self, home: Path, user: str) -> None:
        self.home = home
        self.gpg("--passphrase", "", "--quick-generate-key", user, "ed25519", "sign", "never")
        self.public = home / "key.asc"
        self.gpg("--armor", "--output", str(self.public), "--export")

    def gpg(self, *arguments: str) -> None:
        subprocess.run(["gpg", "--batch", "--quiet", "--homedir", self.home, *arguments], check=True, stdin=subprocess.DEVNULL)

    def sign(self, path: Path) -> Path:
        """Writes the detached armoured signature beside the file."""
        signature = path.with_name(path.name + ".asc")
        self.gpg("--yes", "--armor", "--output", str(signature), "--detach-sign", str(path))
        return signature

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=True)


class Surroundings:
    """What a run could leave behind: mounts, control groups, run-time files, processes."""

    def __init__(self) -> None:
        # mount and parent ids change without anything being left, and so may the order
        self.mounts = sorted(line.split(" ", 2)[2] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        # os.walk, since groups of others may go while it looks
        self.cgroups = sorted(top for top, _, _ in os.walk("/sys/fs/cgroup") if "pyrun" in top)  # bears with what vanishes
        self.files = sorted(map(str, Path("/run/pyrun").rglob("*")))
        self.processes = sorted(filter(None, map(self.describe, Path("/proc").glob("[0-9]*"))))

    @staticmethod
    def describe(process: Path) -> str:
        """Its number and command line; empty for gpg's agent and the kernel's threads, which have no command line."""
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if command:
                return "" if command.startswith("gpg-agent") else f"{process.name} {command}"
            return f"{process.name} zombie" if ") Z " in (process / "stat").read_text() else ""
        except OSError:
            return ""

    def difference(self, before: Surroundings) -> list[str]:
        found = []
        for kind in ("mounts", "cgroups", "files", "processes"):
            old, new = getattr(before, kind), getattr(self, kind)
            found += [f"{kind}: + {line}" for line in new if line not in old]
            found += [f"{kind}: - {line}" for line in old if line not in new and kind in ("mounts", "files")]
        return [line for line in found if not (line.startswith("mounts: -") and self.place_removed(line))]

    @staticmethod
    def place_removed(line: str) -> bool:
        """A mount goes from every namespace once somebody outside removes the directory that it is on."""
        return not os.path.lexists(line.split(" ")[4].encode().decode("unicode_escape"))
