"""Bundles for `pyrun-oci`: a root with busybox and the probe, and a config.json that a test changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import TOP

OCI = TOP / ".venv" / "bin" / "pyrun-oci"
BUSYBOXES = (TOP / "build" / "busybox", Path("/bin/busybox"))  # the first is the virtual machine's
NO_PYTHON = 99  # what `Alone` ends with when it needs an interpreter
APPLETS = "cat chmod chown cp echo env false grep head hostname id kill ls mkdir mount nc ps rm sh sleep stat test touch tr true".split()
APPLETS += ["tty", "wc"]


def make_root(root: Path, probe: Path) -> Path:
    """A root file system for containers."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(next(path for path in BUSYBOXES if path.exists()), root / "bin" / "busybox")
    shutil.copy(probe, root / "probe")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    return root


class Runtime:
    """`pyrun-oci` with a state root and bundles of its own."""

    patience = 120  # seconds for a command, on a busy machine or an emulated one

    def __init__(self, folder: Path, probe: Path) -> None:
        self.folder = folder
        self.program = OCI
        self.root = folder / "containers"
        self.bundle = folder / "bundle"
        self.bundle.mkdir(parents=True)
        make_root(self.bundle / "rootfs", probe)
        subprocess.run([OCI, "spec", "--bundle", self.bundle], check=True)
        self.config: dict[str, Any] = json.loads((self.bundle / "config.json").read_text())
        self.config["process"]["terminal"] = False
        self.config["root"]["readonly"] = False
        del self.config["linux"]["resources"]
        held = [f"CAP_{name}" for name in "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID NET_BIND_SERVICE".split()]
        self.config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), held)

    def write(self) -> None:
        (self.bundle / "config.json").write_text(json.dumps(self.config))

    def command(self, *words: str) -> None:
        """Sets the program, and writes config.json."""
        self.config["process"]["args"] = list(words)
        self.write()

    def __call__(self, *arguments: str | Path, code: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in (self.program, "--root", self.root, *arguments)]
        more = {"stdin": subprocess.DEVNULL, "cwd": self.bundle, **more}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # not pipes: a container would hold them open
            code_seen = subprocess.run(words, stdout=out, stderr=err, text=True, timeout=self.patience, **more).returncode
            out.seek(0), err.seek(0)
            done = subprocess.CompletedProcess(words, code_seen, out.read(), err.read())
        if code is not None:
            assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def shell(self, script: str, name: str = "one", **more: Any) -> str:
        """What a shell script prints in a container of its own."""
        self.command("/bin/sh", "-c", script)
        return self("run", name, **more).stdout

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", name).stdout)
        return found

    def start_sleeping(self, name: str = "one") -> int:
        """A container that runs until it is killed; its pid."""
        self.command("/bin/sleep", "1000")
        self("run", "--detach", name)
        return int(self.state(name)["pid"])

    def leftovers(self) -> list[str]:
        """State directories and cgroups that are left."""
        left = os.listdir(self.root) if self.root.exists() else []
        return [name for name in left if name != ".recipes"]


class Alone:
    """A launcher that `oci` uses from now on, and beside it an interpreter that, for who calls this, only tells that it was wanted."""

    def __init__(self, folder: Path, oci: Runtime) -> None:
        folder.mkdir()
        self.oci = oci
        self.program = oci.program = folder / "pyrun-oci"
        shutil.copy(OCI, self.program)
        script = f'#!/bin/sh\n[ -z "$ALONE" ] || exit {NO_PYTHON}\nexec {OCI.parent}/python3 "$@"\n'
        (folder / "python3").write_text(script)
        (folder / "python3").chmod(0o755)

    def __call__(self, *words: str | Path, code: int = 0, env: Mapping[str, str] = os.environ, **more: Any) -> str:
        more = {"stdin": subprocess.DEVNULL, "cwd": self.oci.bundle, "env": {**env, "ALONE": "1"}, **more}
        command = [str(word) for word in (self.program, "--root", self.oci.root, *words)]
        with (self.oci.folder / "out").open("w+") as out:  # not a pipe: a container would hold it open
            seen = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=60, **more).returncode
            out.seek(0)
            text = out.read()
        assert seen == code, f"{command}: exit {seen}\n{text}"
        return text


class Told:
    """The launcher, and beside it the interpreter by way of a script that writes down what it is asked for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.program = folder / "pyrun-oci"
        self.log = folder / "log"
        self.log.touch()
        shutil.copy(OCI, self.program)
        script = f'#!/bin/sh\nprintf "%s " "$@" | tr "\\n" " " >> {self.log}\necho >> {self.log}\nexec {OCI.parent}/python3 "$@"\n'
        (folder / "python3").write_text(script)
        (folder / "python3").chmod(0o755)

    def creates(self) -> int:
        """How many containers Python has created."""
        return self.log.read_text().count(" create ")


def recipes(oci: Runtime) -> list[Path]:
    """What has been decided for further containers below its root."""
    folder = oci.root / ".recipes"
    return sorted(folder.iterdir()) if folder.exists() else []
