"""Machines that are network namespaces: a host that pods run on, and a second one beside it; nothing touches the real host's network.

outside 192.0.2.1/24, 2001:db8::1/64  ====  192.0.2.2/24, 2001:db8::2/64 host -- pods
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

OUTSIDE, HOST = ("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2")


class Machine:
    """A network namespace that lives as long as a process of ours in it."""

    def __init__(self) -> None:
        # sysfs shows the network of who mounts it; the shell says when it is there
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep infinity"], stdout=subprocess.PIPE, text=True
        )
        assert self.holder.stdout and self.holder.stdout.readline() == "up\n"
        self.within = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]

    def run(self, *command: str, check: bool = True, **more: Any) -> str:
        """Run a command there; what it wrote to standard output."""
        done = subprocess.run([*self.within, *command], capture_output=True, text=True, timeout=120, **more)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*self.within, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def links(self) -> list[dict[str, Any]]:
        """Every interface but lo, as ip-link(8) has it."""
        return [one for one in json.loads(self.run("ip", "-json", "link")) if one["ifname"] != "lo"]

    def pairs(self) -> list[str]:
        """The host's ends of pods' interfaces."""
        return [one["ifname"] for one in self.links() if one["ifname"].startswith("py") and "-" in one["ifname"]]

    def rules(self) -> str:
        """All rules, without handles and counters."""
        return self.run("nft", "list", "ruleset")

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()
        if self.holder.stdout:
            self.holder.stdout.close()


def join(outside: Machine, host: Machine) -> None:
    """A cable between the two, and the way out by the first."""
    outside.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", f"/proc/{host.holder.pid}/ns/net")
    for machine, addresses in ((outside, OUTSIDE), (host, HOST)):
        machine.run("ip", "address", "add", addresses[0] + "/24", "dev", "wire")
        machine.run("ip", "address", "add", addresses[1] + "/64", "dev", "wire", "nodad")
        machine.run("ip", "link", "set", "wire", "up")
    host.run("ip", "route", "add", "default", "via", OUTSIDE[0])
    host.run("ip", "-6", "route", "add", "default", "via", OUTSIDE[1])


_SERVER = """
import socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=200)
print("up", flush=True)
while True:
    peer, address = server.accept()
    peer.sendall(address[0].removeprefix("::ffff:").encode() + b"\\n")
    peer.close()
"""


class Server:
    """On a machine: answers each who connects with the address that it sees."""

    def __init__(self, machine: Machine, port: int) -> None:
        self.process = machine.start("/usr/bin/python3", "-c", _SERVER, str(port))
        assert self.process.stdout and self.process.stdout.readline() == "up\n"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


_SINK = """
import socket, sys, time
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("up", flush=True)
peer, _ = server.accept()
begun = time.monotonic()
while peer.recv(65536):
    pass
print(time.monotonic() - begun, flush=True)
"""


class Sink:
    """On a machine: reads what one client sends, and knows how long that took."""

    def __init__(self, machine: Machine, port: int) -> None:
        self.process = machine.start("/usr/bin/python3", "-c", _SINK, str(port))
        assert self.process.stdout and self.process.stdout.readline() == "up\n"

    def seconds(self) -> float:
        assert self.process.stdout
        return float(self.process.stdout.readline())

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
