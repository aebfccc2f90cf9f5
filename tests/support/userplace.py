"""A host and a machine beside it, and a user on it who has programs that make networks without root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machines import Machine, join
from networld import SERVE
from users import PLAIN, User

UNSIGNED = "--insecure-options=image"
TUN = Path("/dev/net/tun")
PROGRAMS = "awk cat env getopt id ip mkdir mount nsenter setpriv sh umount unshare".split()


class Place:
    """A host whose way out is the machine beside it, and a user on it with one of the two programs, or none."""

    def __init__(self, image: Path, *programs: str) -> None:
        self.program = programs[0] if programs else ""
        self.outside, self.host = Machine(), Machine()
        join(self.outside, self.host)
        self.user = User(PLAIN)
        self.user.within = self.host.within
        folder = self.user.home / "bin"
        folder.mkdir(mode=0o755)
        for name in (*PROGRAMS, *programs):
            found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
            assert found, f"{name} is not there"
            (folder / name).symlink_to(found)
        self.user.env["PATH"] = str(folder)
        copy = self.user.home / "image.aci"
        shutil.copyfile(image, copy)
        copy.chmod(0o644)
        self.user.pyrun("fetch", UNSIGNED, copy)

    def serve(self, name: str, *flags: str, port: int = 80) -> None:
        script = SERVE.format(word=name, port=port)
        words = ["run", "-d", "--rm", UNSIGNED, "--pod-name", name, *flags, "example.com/busybox", "--exec", "/bin/sh", "--", "-c", script]
        self.user.pyrun(*words)

    def helpers(self) -> list[str]:
        """Processes of the two programs that are this user's."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if path.stat().st_uid == self.user.uid and (path / "comm").read_text().startswith(("pasta", "passt", "slirp4netns")):
                    found.append(path.name)
            except OSError:
                continue
        return found

    def relays(self) -> list[str]:
        """Processes of native/relay.c that are this user's."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                named = path.stat().st_uid == self.user.uid and (path / "comm").read_text() == "relay\n"
                if named and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(path.name)
            except OSError:
                continue
        return found

    def left(self) -> list[str]:
        links = [str(path) for path in (self.user.state / "networks").rglob("*") if path.is_symlink()]
        return [*self.helpers(), *self.relays(), *links, *os.listdir(self.user.state / "pods" / "running")]

    def close(self) -> None:
        names = [one["uuid"] for one in json.loads(self.user.pyrun("list", "--format", "json").out)]
        if names:  # of a test that failed
            self.user.pyrun("rm", "--force", *names, code=None)
        self.user.close()
        self.outside.close()
        self.host.close()


def tun_for_everybody() -> Iterator[None]:
    """Debian opens /dev/net/tun for everybody (udev's rules); seen here, in this mount namespace."""
    folder = Path(tempfile.mkdtemp(prefix="pyrun-tun-"))
    os.mknod(folder / "tun", 0o020666, os.makedev(10, 200))
    (folder / "tun").chmod(0o666)
    subprocess.run(["mount", "--bind", folder / "tun", TUN], check=True)
    yield
    subprocess.run(["umount", TUN], check=True)
    shutil.rmtree(folder)
