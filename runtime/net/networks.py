"""What networks there are: a file for each, below `networks` of the state directory.

    networks/lock           held by whoever makes or removes something that all pods have in common
    networks/NAME.json      what the network is; `default` is made when it is first asked for
    networks/NAME/ADDRESS   a link to the UUID of the pod that has the address: see pyrun.net.leases
    networks/ports/...      likewise of ports of the host
    networks/SUM.rules      how the launcher makes the rules again: see pyrun.net.snapshot

A network is a bridge that the host has an address on, or pairs of interfaces without one (ptp).  It is made when its first pod
starts, and again after a reboot.  Its interfaces are in a group (ip-link(8)) of their own, by which the rules know them.
"""

from __future__ import annotations

import os
from binascii import crc32

from pyrun.errors import ConfigError, StateError
from pyrun.images import fastjson
from pyrun.net.addresses import INET, Subnet
from pyrun.net.netlink import ALIAS, GROUP, Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["DEFAULT", "GROUPS", "Lock", "Network", "damaged", "directory", "find", "known", "make_default", "table_of"]

DEFAULT, RESTRICTED = "default", "default-restricted"
GROUPS = 0x70790000  # "py"; the lower half tells networks apart
_RESERVED = ("ports",)
_POOL = [(172 << 24) + (28 << 16) + (place << 12) for place in range(64)]  # 172.28.0.0/20 and so on, up to 172.31.240.0/20
_LENGTH = 20


class Network:
    """One network.  `kind` is bridge or ptp; `subnets` one or two of different families; `mtu` 0 for the kernel's.

    `masquerade` lets pods reach out with the host's address; `internal` keeps them from anything but each other and the host.
    """

    __slots__ = ("bridge", "group", "internal", "kind", "masquerade", "mtu", "name", "subnets")

    def __init__(self, name: str, kind: str, subnets: list[Subnet], *, bridge: str = "", group: int = 0) -> None:
        self.name = name
        self.kind = kind
        self.subnets = subnets
        self.bridge = bridge
        self.group = group
        self.mtu = 0
        self.masquerade = True
        self.internal = False

    @property
    def gateways(self) -> list[str]:
        """The host's addresses there."""
        return [subnet.at(1) for subnet in self.subnets]

    def document(self) -> dict[str, object]:
        """Return what stands in its file."""
        found: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        return {**found, "subnets": [str(subnet) for subnet in self.subnets]}


def table_of(root: str) -> str:
    """Return the name of our table of nf_tables: each state directory has one of its own."""
    return "pyrun" if root == "/var/lib/pyrun" else f"pyrun_{crc32(os.fsencode(root)):08x}"


def directory(root: str) -> str:
    """Return the directory of networks, made if need be."""
    path = root + "/networks"
    if not os.path.isdir(path):
        from pyrun.images.locks import private_dirs

        private_dirs(path)
    return path


class Lock:
    """Held in a `with` block by whoever makes or removes what pods have in common."""

    __slots__ = ("_fd", "_root")

    def __init__(self, root: str) -> None:
        self._root = root
        self._fd = -1

    def __enter__(self) -> None:
        import fcntl

        self._fd = os.open(directory(self._root) + "/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)


def find(root: str, name: str) -> Network | None:
    """Return the network of that name, None when there is none; StateError for a damaged file."""
    path = f"{root}/networks/{name}.json"
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 16)
    except OSError:
        return None
    try:
        found = fastjson.loads(data)
        if not isinstance(found, dict):
            raise ValueError
        subnets = [subnet for text in found["subnets"] if (subnet := Subnet.parse(text))]
        network = Network(name, str(found["kind"]), subnets)
        for field in ("bridge", "group", "internal", "masquerade", "mtu"):
            value = found[field]
            if type(value) is not type(getattr(network, field)):
                raise ValueError
            setattr(network, field, value)
    except (ValueError, KeyError, TypeError):
        raise StateError("read network", path, "damaged", hint=f"remove it: `pyrun network rm {name}`") from None
    return network


def known(root: str) -> list[Network]:
    """Return every network that has a file, by name; those that are damaged are left out."""
    try:
        names = sorted(name[:-5] for name in os.listdir(root + "/networks") if name.endswith(".json"))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        try:
            network = find(root, name)
        except StateError:
            continue
        if network is not None:
            found.append(network)
    return found


def damaged(root: str) -> list[str]:
    """Return the names of networks whose file cannot be read."""
    found = []
    for file in sorted(os.listdir(directory(root))):
        try:
            if file.endswith(".json"):
                find(root, file[:-5])
        except StateError:
            found.append(file[:-5])
    return found


def save(root: str, network: Network) -> None:
    """Write a network's file, whole or not at all; the lock is held."""
    from pyrun.net import snapshot

    path = f"{directory(root)}/{network.name}.json"
    snapshot.forget(root)
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(fastjson.dumps(network.document()))
    os.rename(path + ".new", path)


def make_default(root: str, name: str, link: Netlink) -> Network:
    """Make and save the network `default`, or `default-restricted`, which cannot reach out; the lock is held."""
    network = Network(name, "bridge", [free_subnet(root, link), *free_ipv6()])
    network.internal = name == RESTRICTED
    network.masquerade = not network.internal
    settle(root, network, link)
    save(root, network)
    return network


def taken(root: str, link: Netlink) -> list[tuple[Subnet, str]]:
    """Return what a subnet must not overlap: other networks, and what the host has routes to; each with whose it is."""
    found = [(subnet, f"network {network.name}") for network in known(root) for subnet in network.subnets]
    names = dict(link.links())
    for target, length, index in link.routes():
        subnet = Subnet.parse(f"{target}/{length}")
        known_link = names.get(index, {})
        if subnet is not None and int.from_bytes(known_link.get(GROUP, b""), "little") & 0xFFFF0000 != GROUPS:
            found.append((subnet, "a route of the host"))
        elif subnet is not None and not known_link.get(ALIAS, b"").startswith(f"pyrun {root} ".encode()):
            found.append((subnet, "another state directory's network"))
    return found


def free_subnet(root: str, link: Netlink) -> Subnet:
    """Return the first of our subnets that nothing else uses; ConfigError when there is none."""
    others = [subnet for subnet, _ in taken(root, link)]
    for base in _POOL:
        subnet = Subnet(INET, base, _LENGTH)
        if not any(subnet.overlaps(other) for other in others):
            return subnet
    raise ConfigError(
        "make network", "", "172.28.0.0/14 is all in use", hint="choose addresses: pyrun network create --subnet ADDRESS/LENGTH"
    )


def free_ipv6() -> list[Subnet]:
    """Return a random subnet of RFC 4193, or none where the host has no IPv6."""
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", encoding="ascii") as file:
            if file.read().strip() != "0":
                return []
    except OSError:
        return []
    return [Subnet(10, int.from_bytes(b"\xfd" + os.urandom(5) + bytes(10), "big"), 64)]


def settle(root: str, network: Network, link: Netlink) -> None:
    """Choose a group, and a name for the bridge, that no other network and no link of the host has; the lock is held."""
    others = known(root)
    links = [fields for _, fields in link.links()]
    names = {fields.get(3, b"").rstrip(b"\0").decode() for fields in links} | {other.bridge for other in others}
    groups = {int.from_bytes(fields.get(GROUP, b""), "little") for fields in links} | {other.group for other in others}
    network.group = next(group for place in range(1, 1 << 16) if (group := GROUPS + place) not in groups)
    if network.kind == "bridge" and not network.bridge:
        network.bridge = next(name for place in range(1 << 16) if (name := f"pyrun{place}") not in names)
