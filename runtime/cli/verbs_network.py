"""Options about a pod's network, for `pyrun.cli.options`; the same kind of table, and nothing but constants either.

`NetworkArgs` are the attributes of `Args` that they bring along.  What they mean is `pyrun.net`'s to say.
"""

from __future__ import annotations

from pyrun.cli.verbs_images import FORMAT_TABLE, FORMAT_TEXT, NO_LEGEND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option, Verb

    Number: TypeAlias = int | None
    Text: TypeAlias = str | None
    Words: TypeAlias = list[str]


class NetworkArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    net: Words
    port: Words
    net_isolate: bool
    net_ahead: bool
    net_bandwidth: Text
    dns: Words
    dns_search: Words
    dns_opt: Words
    dns_domain: Text
    hosts_entry: Words
    names: Words
    network: str
    subnet: Words
    kind: str
    bridge: Text
    mtu: Number
    internal: bool
    no_masquerade: bool
    no_ipv6: bool


NETWORK: tuple[Option, ...] = (
    (
        "--net --network",
        "NET",
        "list",
        "none host default default-restricted",
        "Network",
        "network: none (loopback only, the default), host (the host's own, not isolated), default, NAME[:ip=ADDRESS,mac=MAC,mtu=N,name=IF],"
        " several with commas, container:POD or ns:/PATH",
    ),
    (
        "--port --publish -p",
        "SPEC",
        "list",
        "",
        "Network",
        "forward a port of the host: NAME:[HOSTIP:]PORT for one that the image declares, or [HOSTIP:]PORT:PODPORT[/udp], also ranges",
    ),
    ("--net-isolate", "", "flag", "", "Network", "keep the pod from talking to the host itself"),
    ("--net-bandwidth", "RATE", "str", "", "Network", "bits per second with k, m or g, for both ways, or as in=10m,out=1m"),
    ("--dns", "ADDRESS", "list", "", "Network", "name server; or host for the host's resolv.conf, none to write none"),
    ("--dns-search", "DOMAIN", "list", "", "Network", "domain in which names are looked up"),
    ("--dns-opt", "OPTION", "list", "", "Network", "option of resolv.conf, as in ndots:2"),
    ("--dns-domain", "DOMAIN", "str", "", "Network", "the pod's own domain in resolv.conf"),
    ("--hosts-entry", "ADDRESS=NAME", "list", "", "Network", "a line of /etc/hosts, or host for the host's file"),
)

NET_AHEAD: Option = ("--net-ahead", "", "flag", "", "Network", "make the network now: address and ports are the pod's while it waits")

_CREATE: tuple[Option, ...] = (
    ("--subnet", "ADDRESS/LENGTH", "list", "", "Network", "addresses, once for IPv4 and once for IPv6 (default: some that are free)"),
    ("--kind", "KIND", "str", "bridge ptp", "Network", "pods on one bridge (the default), or each with a link to the host alone (ptp)"),
    ("--bridge", "NAME", "str", "", "Network", "name of the bridge (default pyrunN)"),
    ("--mtu", "BYTES", "int", "68..65535", "Network", "largest packet"),
    ("--internal", "", "flag", "", "Network", "no way out: pods reach each other and the host only"),
    ("--no-masquerade", "", "flag", "", "Network", "let pods reach out with their own addresses; others need a route to them"),
    ("--no-ipv6", "", "flag", "", "Network", "choose no IPv6 addresses"),
)

NETWORKS: dict[str, Verb] = {
    "network list": ("network", "", (FORMAT_TABLE, NO_LEGEND), (), "list networks, those of CNI configurations included"),
    "network show": ("network", "NETWORK", (FORMAT_TEXT,), (), "show a network and who is on it"),
    "network create": ("network", "NETWORK", (*_CREATE, FORMAT_TEXT), (), "make a network"),
    "network rm": (
        "network",
        "NAME...",
        (("--force -f", "", "flag", "", "Network", "even while pods are on it, which then have no way out"),),
        (),
        "remove networks",
    ),
    "network check": ("network", "POD...", (), (), "look whether the networks of running pods are as they were made"),
}
