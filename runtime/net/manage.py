"""Networks as things that people make, look at and remove; starts of pods do without this module."""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import ConfigError, StateError, UsageError
from pyrun.net import bridges, cni, networks, nft, relay, rules, snapshot
from pyrun.net.addresses import INET, Subnet
from pyrun.net.attach import forwarded, records, standing
from pyrun.net.netlink import Netlink, has_table
from pyrun.net.networks import Network
from pyrun.net.want import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["check", "create", "listing", "remove", "show"]

_RESERVED = ("none", "host", "ports", "container", "pod", "ns")
_SMALLEST = {INET: 30, 10: 126}


def create(root: str, name: str, subnets: list[str], *, kind: str = "bridge", bridge: str = "", mtu: int = 0,
           internal: bool = False, masquerade: bool = True, ipv6: bool = True) -> Network:  # fmt: skip
    """Make a network and return it; its bridge is made when its first pod starts.

    UsageError for a name, subnet or bridge that cannot be; ConfigError for a subnet that is in use, StateError for a name that is.
    """
    if not is_name(name) or name in _RESERVED or len(name) > 32 or name.endswith((".json", ".hosts", ".new", snapshot.SUFFIX)):
        raise UsageError("create network", name, "not a name for a network", hint="up to 32 letters, digits, dashes, dots")
    if bridge and (not is_name(bridge) or len(bridge) > 15):
        raise UsageError("create network", name, f"'{bridge}' is not a name of an interface", hint="up to 15 letters and digits")
    parsed = [_subnet(name, text) for text in subnets]
    if len({subnet.family for subnet in parsed}) < len(parsed):
        raise UsageError("create network", name, "two subnets of one family", hint="give one of IPv4, one of IPv6, or both")
    with networks.Lock(root), Netlink() as link:
        if networks.find(root, name) is not None or cni.find(root, name) is not None:
            raise StateError("create network", name, "there is one of that name", hint="see `pyrun network list`")
        for subnet in parsed:
            for other, whose in networks.taken(root, link):
                if subnet.overlaps(other):
                    hint = "choose addresses that nothing else has; see `pyrun network list` and ip-route(8)"
                    raise ConfigError("create network", name, f"{subnet} overlaps {other}, {whose}", hint=hint, origin="--subnet")
        if not parsed:
            parsed = [networks.free_subnet(root, link), *(networks.free_ipv6() if ipv6 else [])]
        network = Network(name, kind, parsed, bridge=bridge)
        network.mtu, network.internal, network.masquerade = mtu, internal, masquerade and not internal
        networks.settle(root, network, link)
        networks.save(root, network)
        if has_table(networks.table_of(root)):
            rules.rebuild(root, *standing(root))
    return network


def _subnet(name: str, text: str) -> Subnet:
    subnet = Subnet.parse(text)
    if subnet is None:
        hint = "write ADDRESS/LENGTH without bits beyond the length, as in 10.5.0.0/24 or fd00:5::/64"
        raise UsageError("create network", name, f"'{text}' is not a subnet", hint=hint, origin="--subnet")
    if subnet.length > _SMALLEST[subnet.family]:
        hint = f"a length of {_SMALLEST[subnet.family]} or less leaves room for the host and a pod"
        raise UsageError("create network", name, f"{subnet} is too small", hint=hint, origin="--subnet")
    return subnet


def remove(root: str, name: str, *, force: bool = False) -> None:
    """Remove a network and its bridge; StateError when there is none, or pods are on it and not `force`."""
    with networks.Lock(root), Netlink() as link:
        path = f"{root}/networks/{name}.json"
        if not is_name(name) or not os.path.exists(path):
            there = is_name(name) and cni.find(root, name)
            hint = f"it stands in {there}: remove it there" if there else "see `pyrun network list`"
            raise StateError("remove network", name, "there is none that pyrun has made", hint=hint)
        users = [uuid for uuid, record in records(root).items() if any(made["network"] == name for made in record["nets"])]
        if users and not force:
            raise StateError("remove network", name, f"{len(users)} pods are on it, {users[0]} for one", hint="remove them first")
        bridge = ""
        with contextlib.suppress(StateError):  # a damaged file can be removed too
            network = networks.find(root, name)
            bridge = network.bridge if network is not None and network.kind == "bridge" else ""
        found = link.link(bridge) if bridge else None
        if found is not None and bridges.is_ours(found[1], root, name):
            link.delete(bridge)
        snapshot.forget(root)
        os.unlink(path)
        _forget(f"{root}/networks/{name}")
        _tables(root)


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + ".hosts")
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(path):
            os.unlink(entry.path)
        os.rmdir(path)


def _tables(root: str) -> None:
    """The last one takes the rules with it."""
    table = networks.table_of(root)
    if has_table(table):
        if networks.known(root):
            rules.rebuild(root, *standing(root))
        else:
            nft.run(f"delete table inet {table}")


def listing(root: str) -> list[dict[str, Any]]:
    """Return every network, ours and those of configurations for plug-ins: name, kind, subnets, pods, and what is wrong with it."""
    users: dict[str, int] = {}
    for record in records(root).values():
        for made in record["nets"]:
            users[made["network"]] = users.get(made["network"], 0) + 1
    found: list[dict[str, Any]] = []
    for network in networks.known(root):
        document = {**network.document(), "pods": users.get(network.name, 0)}
        found.append(document)
    for name in networks.damaged(root):
        found.append({"name": name, "kind": "-", "subnets": [], "pods": users.get(name, 0), "wrong": "its file is damaged"})
    ours = {one["name"] for one in found}
    for name, path, wrong in cni.known(root):
        if name not in ours:
            more = {"wrong": wrong} if wrong else {}
            found.append({"name": name, "kind": "cni", "subnets": [], "pods": users.get(name, 0), "path": path, **more})
    return sorted(found, key=lambda one: str(one["name"]))


def show(root: str, name: str) -> dict[str, Any]:
    """Return all that is known of one network, who has which address on it included; StateError when there is none."""
    found = next((one for one in listing(root) if one["name"] == name), None)
    if found is None:
        raise StateError("show network", name, "there is no such network", hint="see `pyrun network list`")
    members = []
    for uuid, record in sorted(records(root).items()):
        for made in record["nets"]:
            if made["network"] == name:
                known = {key: made[key] for key in ("addresses", "mac", "ifname", "link")}
                members.append({"uuid": uuid, "names": record["names"], **known})
    if found["kind"] == "bridge":
        with Netlink() as link:
            found["up"] = bool(link.index(found["bridge"]))
    return {**found, "members": members}


def _lost(root: str, record: dict[str, Any]) -> list[str]:
    """Ports whose rules somebody has removed."""
    held = rules.held(networks.table_of(root))
    ports = {f"{one.port}/{one.protocol}" for one in forwarded(record) if (one.map, str(one)) not in held}
    return [f"port {port}: its rule is gone: `pyrun gc` makes it anew" for port in sorted(ports)]


def check(root: str, uuid: str, namespace: str) -> list[str]:
    """Look whether a running pod's network is as it was made; what is not, in words.  `namespace` is the path of its own.

    Plug-ins are asked by CHECK.
    """
    from pyroute2.iproute.linux import IPRoute

    from pyrun import native
    from pyrun.errors import PyrunError

    record = records(root).get(uuid, {"nets": [], "forwards": []})
    wrong = [] if record.get("kind") == "user" else _lost(root, record)
    if not relay.lives(record):
        wrong.append("ports: the process that relays to them has ended: restart the pod")
    ns = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        other, sock = native.netns(ns)
    finally:
        os.close(ns)
    os.close(other)
    with IPRoute() as host, IPRoute(fileno=sock) as inside:
        for made in record["nets"]:
            if made["kind"] == "cni":
                try:
                    cni.check(uuid, namespace, made)
                except PyrunError as error:
                    wrong.append(str(error))
                continue
            if not host.link_lookup(ifname=made["link"]):
                wrong.append(f"network {made['network']}: the host's interface {made['link']} is gone")
            index = set(inside.link_lookup(ifname=made["ifname"]))
            there = {one.get("address") for one in inside.get_addr() if one["index"] in index}
            wrong += [
                f"network {made['network']}: address {one} is gone" for one in made["addresses"] if one.partition("/")[0] not in there
            ]
    return wrong
