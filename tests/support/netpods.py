"""Pods with a network whose start is looked at: what they run, what they show, and what their process became."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

from networld import World
from waiting import wait_until

HELPER = "memfd:pyrun-hel"
NATIVE, PYTHON = ["pyrun", HELPER], ["pyrun", "python3", HELPER]
KEPT, KEPT_BY_PYTHON = ["pyrun", "keeper"], ["pyrun", "python3", "keeper"]
IMAGE = "example.com/busybox"
SHOW = "ip -o addr show eth0; ip route; ip -6 route; cat /sys/class/net/eth0/address /etc/hosts"


def script(text: str) -> tuple[str, ...]:
    return IMAGE, "--exec", "/bin/sh", "--", "-c", text


def by_python(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """`run-prepared` with these words, without the launcher."""
    command = [*world.host.within, sys.executable, "-m", "pyrun", "run-prepared", *words]
    return subprocess.run(command, env=world.pyrun.environment(), capture_output=True, text=True, timeout=120)


def gone(world: World) -> None:
    """Nothing is left of pods in the host, nor anything that Python would have to sweep."""
    wait_until(lambda: world.left() == [] and swept(world))


def address(world: World, host: int) -> str:
    """That of the network `default` with this number."""
    subnet = json.loads((world.pyrun.root / "networks/default.json").read_text())["subnets"][0]
    return f"{subnet.rpartition('.')[0]}.{host}"


def swept(world: World) -> bool:
    return not [path for one in ("garbage", "preparing") for path in (world.pyrun.root / "pods" / one).glob("*")]


def shown(text: str) -> tuple[list[str], str]:
    """What a pod sees of its network without what is its own: address of each family and MAC, which must fit together."""
    words = text.split()
    addresses = [word.partition("/")[0] for place, word in enumerate(words) if words[place - 1] in ("inet", "inet6")]
    mac = next(line for line in text.splitlines() if line.count(":") == 5 and len(line) == 17)
    four = next(one for one in addresses if "." in one)
    assert mac == "06:70:" + socket.inet_aton(four).hex(":")
    for place, one in enumerate(addresses):
        text = text.replace(one, f"ADDRESS{place}")
    return addresses, re.sub(r"pyrun-[0-9a-f-]{36}", "HOSTNAME", text.replace(mac, "MAC"))
