"""The rules of all our networks: one table of nf_tables, made whole from what stands on disk, then changed by elements.

    first     a packet for 127.0.0.0/8 from a pod is dropped: route_localnet, which forwarding to localhost takes, would let it in
    ports     forwarded ports, for packets to any address of the host; by (address, protocol, port), then by (protocol, port)
    inward    ... that come from outside or from pods     local    ... that the host itself sends; ::1 is pyrun.net.relay's
    outward   masquerade: what leaves for elsewhere, what was forwarded between pods (the answer must come back this way), localhost
    between   pods of one network reach each other, pods of two do not, internal ones nothing else
    host      what pods with --net-isolate may not: talk to the host itself

Interfaces are known by their group: 0x7079 above, the network below.  The text is nft(8)'s: its JSON (1.0.6) does not know maps
to an address and a port.  Addresses and numbers in it are ours, checked before; nothing that a user wrote is in it as text.
"""

from __future__ import annotations

from binascii import crc32

from pyrun.native.users import is_root
from pyrun.net import elements, nft
from pyrun.net.addresses import INET, mac_of
from pyrun.net.bridges import link_local
from pyrun.net.netlink import has_chains, has_table
from pyrun.net.networks import known, table_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.net.networks import Network

__all__ = ["CHAINS", "Forward", "clear", "ensure", "held", "rebuild", "remove", "stand", "text", "version"]

_OURS = "0x70790000/16"
_FORM = 2  # of what pyrun.net.snapshot writes
_OF_PODS = ("own", "any", "alone")  # sets and maps called so
_TABLE = """add table inet {table}
delete table inet {table}
table inet {table} {{
set near {{ type devgroup . devgroup; {near} }}
set closed {{ type devgroup; {closed} }}
set all4 {{ type ipv4_addr; flags interval; {all4} }}
set all6 {{ type ipv6_addr; flags interval; {all6} }}
set masq4 {{ type ipv4_addr; flags interval; {masq4} }}
set masq6 {{ type ipv6_addr; flags interval; {masq6} }}
set alone4 {{ type ipv4_addr; {alone4} }}
set alone6 {{ type ipv6_addr; {alone6} }}
map own4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {own4} }}
map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; {any4} }}
map own6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; {own6} }}
map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; {any6} }}
chain first {{ type filter hook prerouting priority -310; policy accept;
iifgroup {ours} ip daddr 127.0.0.0/8 drop
}}
chain ports {{
dnat ip to ip daddr . meta l4proto . th dport map @own4
dnat ip to meta l4proto . th dport map @any4
dnat ip6 to ip6 daddr . meta l4proto . th dport map @own6
dnat ip6 to meta l4proto . th dport map @any6
}}
chain inward {{ type nat hook prerouting priority -100; policy accept;
fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump ports
}}
chain local {{ type nat hook output priority -100; policy accept;
ip6 daddr ::1 return
fib daddr type local meta l4proto {{ tcp, udp, sctp }} jump ports
}}
chain outward {{ type nat hook postrouting priority 100; policy accept;
oifgroup {ours} ct status dnat ip saddr @all4 masquerade
oifgroup {ours} ct status dnat ip6 saddr @all6 masquerade
oifgroup {ours} ip saddr 127.0.0.0/8 masquerade
oifgroup != {ours} ip saddr @masq4 masquerade
oifgroup != {ours} ip6 saddr @masq6 masquerade
}}
chain between {{ type filter hook forward priority 0; policy accept;
ct state established,related accept
iifgroup . oifgroup @near accept
iifgroup @closed drop
ct status dnat accept
iifgroup {ours} oifgroup {ours} drop
oifgroup @closed drop
}}
chain host {{ type filter hook input priority 0; policy accept;
iifgroup != {ours} accept
ct state established,related accept
ip saddr @alone4 drop
ip6 saddr @alone6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
ip6 saddr @alone6 drop
}}
}}
"""

# how many rules each has, and jumps to it
CHAINS = {"first": 1, "ports": 6, "inward": 1, "local": 2, "outward": 5, "between": 6, "host": 5}


class Forward:
    """One forwarded port: what comes to `port` of the host, at `address` or anywhere (""), goes to `to`, at `inside`."""

    __slots__ = ("address", "inside", "port", "protocol", "to")

    def __init__(self, protocol: str, address: str, port: int, to: str, inside: int) -> None:
        self.protocol = protocol
        self.address = address
        self.port = port
        self.to = to
        self.inside = inside

    @property
    def map(self) -> str:
        """The map that it belongs to."""
        return ("own" if self.address else "any") + ("6" if ":" in self.to else "4")

    @property
    def key(self) -> str:
        """Its key there."""
        return f"{self.address} . {self.protocol} . {self.port}" if self.address else f"{self.protocol} . {self.port}"

    def __str__(self) -> str:
        return f"{self.key} : {self.to} . {self.inside}"


def _elements(words: list[str]) -> str:
    return f"elements = {{ {', '.join(words)} }};" if words else ""


def text(table: str, networks: list[Network], forwards: list[Forward], alone: list[str]) -> str:
    """Return the whole table as nft(8) reads it."""
    subnets = [subnet for network in networks for subnet in network.subnets]
    masquerade = [subnet for network in networks if network.masquerade for subnet in network.subnets]
    maps: dict[str, list[str]] = {"own4": [], "any4": [], "own6": [], "any6": []}
    for one in forwards:
        maps[one.map].append(str(one))
    return _TABLE.format(
        table=table,
        ours=_OURS,
        near=_elements([f"{network.group} . {network.group}" for network in networks]),
        closed=_elements([str(network.group) for network in networks if network.internal]),
        all4=_elements([str(subnet) for subnet in subnets if subnet.family == INET]),
        all6=_elements([str(subnet) for subnet in subnets if subnet.family != INET]),
        masq4=_elements([str(subnet) for subnet in masquerade if subnet.family == INET]),
        masq6=_elements([str(subnet) for subnet in masquerade if subnet.family != INET]),
        alone4=_elements([address for address in alone if ":" not in address]),
        alone6=_elements([address for address in alone if ":" in address]),
        **{name: _elements(words) for name, words in maps.items()},
    )


def rebuild(root: str, forwards: list[Forward], alone: list[str]) -> None:
    """Make the table anew, in one transaction: of every network, and of what living pods have.  The lock is held."""
    from pyrun.net import snapshot

    nft.run(text(table_of(root), known(root), forwards, alone))
    snapshot.take(root, table_of(root), version(), without=_OF_PODS)


def version() -> str:
    """Return what tells these rules from those of another pyrun."""
    return f"{crc32(_TABLE.encode(), _FORM):08x}"


def stand(root: str) -> bool:
    """Whether all of them are there."""
    return has_chains(table_of(root), CHAINS)


def ensure(root: str, forwards: list[Forward], alone: list[str]) -> None:
    """Add what one pod has, to the table that is there."""
    table = table_of(root)
    try:
        elements.add(table, forwards, alone)
    except OSError:  # of a dead pod, whose port or address this one has taken over, something is there still
        remove(root, forwards, alone)
        elements.add(table, forwards, alone)


def held(table: str) -> set[tuple[str, str]]:
    """Return what pods have in the table: (set or map, element)."""
    return {(name, element) for name, element in nft.elements(table) if name.startswith(_OF_PODS)}


def clear(root: str, claims: list[str]) -> None:
    """Take away what dead pods have by claims that others take over (paths of links: pyrun.net.leases), whether these start or fail.

    That is what is about those ports, and what leads to those addresses or keeps them from the host.  The lock is held.
    """
    table = table_of(root)
    if not claims or not is_root() or not has_table(table):
        return
    meant: set[str] = set()
    for path in claims:
        folder, name = path.split("/")[-2:]
        if folder == "ports":
            protocol, port, address = name.split("-", 2)
            meant.add(("" if address == "any" else f"{address} . ") + f"{protocol} . {port}")
        else:
            meant |= {name, *([] if ":" in name else [link_local(mac_of(name))])}
    commands = []
    for name, element in held(table):
        key, _, to = element.partition(" : ")
        if key in meant or to.partition(" . ")[0] in meant:
            commands.append(f"delete element inet {table} {name} {{ {key} }}")
    if commands:
        nft.run("\n".join(commands))


def remove(root: str, forwards: list[Forward], alone: list[str]) -> None:
    """Take away what one pod has; what is gone already is passed over."""
    elements.remove(table_of(root), forwards, alone)
