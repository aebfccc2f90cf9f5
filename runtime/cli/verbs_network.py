"""Options about a pod's network, for `pyrun.cli.options`; the same kind of table, and nothing but constants either.

`NetworkArgs` are the attributes of `Args` that they bring along.  What they mean is `pyrun.net`'s to say.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option

    Text: TypeAlias = str | None
    Words: TypeAlias = list[str]


class NetworkArgs:
    """Attributes of `pyrun.cli.parse.Args`."""

    net: Words
    port: Words
    net_isolate: bool
    net_bandwidth: Text
    dns: Words
    dns_search: Words
    dns_opt: Words
    dns_domain: Text
    hosts_entry: Words


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
