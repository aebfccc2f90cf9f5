"""A host with pods on it and a machine beside it: what tests of networks work with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from harness import Pyrun
from machines import Machine, join

SERVE = "while true; do echo {word} | nc -l -p {port}; done"


class World:
    """The host, with a state directory of its own, and the machine outside."""

    def __init__(self, pyrun: Pyrun, image: Path) -> None:
        self.outside, self.host = Machine(), Machine()
        join(self.outside, self.host)
        self.pyrun, self.image = pyrun, image
        pyrun.within = self.host.within

    def sh(self, script: str, *flags: str, code: int | None = 0) -> str:
        """What a script in a pod writes."""
        done = self.pyrun("run", *flags, self.image, "--exec", "/bin/sh", "--", "-c", script, code=code)
        return done.out if code == 0 else done.err

    def serve(self, name: str, *flags: str, port: int = 80, word: str = "") -> str:
        """A pod in the background that answers each who connects with a word, its name by default; the pod's UUID."""
        script = SERVE.format(word=word or name, port=port)
        words = ["run", "--detach", "--rm", "--pod-name", name, *flags, self.image, "--exec", "/bin/sh", "--", "-c", script]
        return self.pyrun(*words, code=0).out.strip()

    def stop(self, *names: str) -> None:
        self.pyrun("rm", "--force", *names, code=0)

    def status(self, name: str) -> dict[str, Any]:
        """What `pyrun status` knows of a pod."""
        found: dict[str, Any] = json.loads(self.pyrun("status", "--format", "json", name, code=0).out)
        return found

    def relays(self) -> list[str]:
        """Processes of native/relay.c on this host."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                here = (path / "comm").read_text() == "relay\n" and (path / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if here and os.path.samefile(path / "ns" / "net", f"/proc/{self.host.holder.pid}/ns/net"):
                    found.append(path.name)
            except OSError:
                continue
        return found

    def left(self) -> list[str]:
        """What a pod could leave in the host: interfaces, processes, leases, elements of maps and sets."""
        found = [f"link {name}" for name in self.host.pairs()]
        found += [f"relay {pid}" for pid in self.relays()]
        top = self.pyrun.root / "networks"
        found += [f"lease {path}" for path in top.rglob("*") if path.is_symlink() and not path.name.startswith("last")]
        found += [f"names {path}" for path in top.glob("*.hosts") if path.read_text()]
        found += [f"pin {path}" for path in self.pyrun.root.glob("netns/*")]
        found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {self.pyrun.root}/netns/" in line]
        for line in self.host.run("nft", "list", "maps").splitlines():
            if "elements" in line:
                found.append(line)
        return found

    def settled(self) -> list[str]:
        """The same, once what cleans up has had time to."""
        deadline = time.monotonic() + 60
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def close(self) -> None:
        self.pyrun("gc", "--grace-period", "0")
        self.outside.close()
        self.host.close()


def asking(address: str, port: int = 80) -> str:
    """A script for a pod: ask a server in a shell, which is away for a moment after each answer, until it answers."""
    return f"for i in $(seq 50); do nc -w 3 {address} {port} </dev/null && break; sleep 0.2; done"


def get(machine: Machine, address: str, port: int = 80, *, tries: int = 20) -> str:
    """What a server says, asked from a machine; empty when there is none, or no way to it.  One try is enough where that is expected."""
    script = (
        "import socket,sys\n"
        "try:\n s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)\n print(s.recv(99).decode().strip())\n"
        "except OSError as error: print('', end='')"
    )
    for _ in range(tries):  # a server in a shell is away for a moment after each answer
        if said := machine.run("/usr/bin/python3", "-c", script, address, str(port)).strip():
            return said
        time.sleep(0.1)
    return ""
