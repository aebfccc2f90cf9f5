"""The interfaces of networks of ours, in the host and in a pod.

bridge   host: bridge with the gateways' addresses          pod: eth0, address/20, default route by the gateway
                 |-- py1234abcd-0 ======== veth ========== eth0
ptp      host: py1234abcd-0, the gateways' addresses alone, a route to the pod
                 ======== veth ========== eth0             pod: the address alone; everything goes by the gateway
"""

from __future__ import annotations

import os

from pyrun.errors import StateError, UsageError
from pyrun.net.addresses import INET6, parse_mac, text_of
from pyrun.net.netlink import ALIAS, Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.net.networks import Network

__all__ = [
    "alias_of",
    "build",
    "check",
    "connect",
    "is_ours",
    "link_local",
    "local_routes",
    "make",
    "open_ports",
    "ready",
    "unfinished",
]

_SETTINGS = "/proc/sys/net/"
_OURS = ("ip", "mac", "mtu", "name")


def alias_of(root: str, network: str) -> str:
    """Return what ip-link(8) shows as the alias of our bridges: whose they are."""
    return f"pyrun {root} {network}"[:255]


def is_ours(fields: dict[int, bytes], root: str, network: str) -> bool:
    """Whether a bridge with these attributes is that network's."""
    return fields.get(ALIAS, b"").rstrip(b"\0").decode(errors="replace") == alias_of(root, network)


def ready(network: Network, link: Netlink) -> bool:
    """Whether the host has what the pods of a network have in common."""
    return network.kind != "bridge" or link.index(network.bridge) != 0


def make(root: str, network: Network, link: Netlink) -> None:
    """Make that, and let the host pass packets on.  The lock is held; StateError for a bridge that is somebody else's."""
    if not network.internal:
        _forward(link)
    if network.kind != "bridge":
        return
    found = link.link(network.bridge)
    if found is not None:
        if not is_ours(found[1], root, network.name):
            hint = f"remove it (ip link del {network.bridge}), or make the network anew with another name for its bridge"
            raise StateError("make bridge", network.bridge, "there is such an interface, and it is not this network's", hint=hint)
        return
    link.delete(unfinished(network))  # of somebody who was killed
    try:
        build(root, network, link, os.urandom(4))
    except BaseException:
        link.delete(unfinished(network))
        raise


def unfinished(network: Network) -> str:
    """Return the name of a bridge until it has all that it needs: who finds one by its own name, finds it whole.

    `gc` takes one for an interface of a pod that has gone.
    """
    return f"py{network.group & 0xFFFF:08x}-new"


def build(root: str, network: Network, link: Netlink, own: bytes) -> None:
    """Make a bridge, with these four bytes as the end of its MAC."""
    name = unfinished(network)
    index = link.new_bridge(name, b"\x06\x72" + own, network.mtu, network.group, alias_of(root, network.name))
    for subnet in network.subnets:
        link.add_address(index, subnet.at(1), subnet.length)
    link.set(local_routes(name), "1")
    link.rename(index, network.bridge)


def _get(name: str) -> str:
    try:
        with open(_SETTINGS + name, encoding="ascii") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def _forward(link: Netlink) -> None:
    if _get("ipv4/ip_forward") == "0":
        link.set("ipv4/ip_forward", "1")
    if _get("ipv6/conf/all/forwarding") != "0":
        return
    for name in os.listdir(_SETTINGS + "ipv6/conf"):  # a host that passes packets on hears no router advertisements, unless told to
        if name not in ("all", "lo") and _get(f"ipv6/conf/{name}/accept_ra") == "1":
            link.set(f"ipv6/conf/{name}/accept_ra", "2")
    link.set("ipv6/conf/all/forwarding", "1")


def check(network: Network, one: dict[str, Any]) -> None:
    """UsageError for options that this network does not have."""
    for argument in one["args"]:
        key = argument.partition("=")[0]
        if key.lower() not in _OURS:
            hint = "options are ip=, mac=, mtu= and name="
            raise UsageError("join network", network.name, f"'{key}' has no meaning here", hint=hint, origin="--net")
    for ip in one["ips"]:
        if not any(subnet.has(ip) for subnet in network.subnets):
            subnets = " and ".join(map(str, network.subnets))
            raise UsageError("join network", network.name, f"{ip} is not one of its addresses", hint=f"they are {subnets}", origin="--net")


def connect(link: Netlink, inside: Netlink, ns: int, network: Network, made: dict[str, Any]) -> None:
    """Make the pair of interfaces and give the pod's end its addresses."""
    master = link.index(network.bridge) if network.kind == "bridge" else 0
    mac = parse_mac(made["mac"])
    assert mac
    link.new_veth(made["link"], master, network.group, made["mtu"], (made["ifname"], mac, ns))
    index = inside.index(made["ifname"])
    inside.up(index)
    outside = 0 if master else link.index(made["link"])
    for address, gateway in zip(made["addresses"], made["gateways"], strict=True):
        bare, _, length = address.partition("/")
        alone = 128 if ":" in bare else 32
        inside.add_address(index, bare, int(length) if master else alone)
        if not master:
            link.add_address(outside, gateway, alone)
            link.add_route(outside, bare, alone)
            inside.add_route(index, gateway, alone)


def open_ports(nets: list[dict[str, Any]], link: Netlink) -> None:
    """Let the pod's forwarded ports be asked from 127.0.0.1 (bridges have that from their making), and by the pod itself."""
    for made in nets:
        if made["kind"] == "ptp":
            link.set(local_routes(made["link"]), "1")
        elif made["kind"] == "bridge":
            link.hairpin(made["link"])


def local_routes(link: str) -> str:
    """Return which setting lets packets from 127.0.0.0/8 leave by a link."""
    return f"ipv4/conf/{link}/route_localnet"


def link_local(mac: str) -> str:
    """Return the address that the kernel gives an interface with this MAC (RFC 4291, appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    words = (bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:]).hex()
    return text_of(INET6, int("fe80" + "0" * 12 + words, 16))
