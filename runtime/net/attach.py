"""Giving a pod its network before it starts, and taking it back after it has ended.

    attach   lock: networks made, addresses and ports taken -> `net` in the pod's directory says what -> namespace, interfaces,
             rules, names
    detach   the same backwards, from that file; whatever is gone already is passed over

The namespace is a descriptor, and nothing pins it, unless it was made ahead (pyrun.net.pin): it goes to the pod's supervisor, or to its
keeper, which gives it to each supervisor that it starts.  When they and the pod are dead, however that came, the kernel takes it apart
and its interfaces with it.
What it does not take is here: links in `networks`, elements of our table, lines of names, what plug-ins have made.
"""

from __future__ import annotations

import errno
import os
import sys

from pyrun import native
from pyrun.errors import ConfigError, HostError, PyrunError
from pyrun.images import fastjson
from pyrun.net import bridges, elements, leases, names, networks, pin, ports, relay, rules, told
from pyrun.net.addresses import INET6, mac_of, parse_mac
from pyrun.net.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrun.net.addresses import Subnet
    from pyrun.net.networks import Network

__all__ = [
    "attach",
    "blank",
    "cleaner",
    "detach",
    "forwarded",
    "forwards_itself",
    "has_plug_ins",
    "hosts_of",
    "join",
    "limit",
    "make_ready",
    "open_to",
    "own_hosts",
    "read_record",
    "records",
    "routes",
    "standing",
]

_RECORD = "net"


def attach(root: str, uuid: str, pod: int, want: dict[str, Any], held: tuple[int, int] | None = None) -> int:
    """Make the network of a pod whose directory is `pod` and return its namespace, a descriptor; on an error nothing is left.

    ConfigError, UsageError, StateError and HostError for what cannot be had.  `held` is as `pyrun.net.user.attach` has it.
    """
    told.hear()
    detach(root, uuid, pod)  # of an earlier try
    _write(pod, "cleaner", cleaner(root, uuid))
    record = blank(uuid, want)
    ns = sock = -1
    try:
        if want.get("user"):
            from pyrun.net import user

            ns = user.attach(root, uuid, pod, want, record, held)
            own_hosts(root, uuid, pod, want, record)
            return ns
        with Netlink() as link:
            chosen = [_network(root, one, link) for one in want["nets"]]
            with networks.Lock(root):
                _take(root, uuid, chosen, want, record)
                _write(pod, _RECORD, fastjson.dumps(record).encode())
            ns, sock = native.netns()
            with Netlink(sock) as inside:
                sock = -1
                for (network, _), made in zip(chosen, record["nets"], strict=True):
                    if made["kind"] == "cni":
                        from pyrun.net import cni

                        cni.add(uuid, ns, made)
                        _write(pod, _RECORD, fastjson.dumps(record).encode())
                    else:
                        assert network is not None
                        bridges.connect(link, inside, ns, network, made)
                    limit(link, inside, made, want)
                routes(inside, record)
            relay.start(want["ports"], record, link)
            with networks.Lock(root):
                _publish(root, uuid, pod, want, record, link)
    except BaseException as error:
        for fd in (ns, sock):
            if fd >= 0:
                os.close(fd)
        _give_up(root, uuid, pod, record)
        if isinstance(error, OSError) and not isinstance(error, PyrunError):
            raise _refused(error) from error
        raise
    return ns


def blank(uuid: str, want: dict[str, Any]) -> dict[str, Any]:
    """Return what `net` says of a pod that has nothing yet."""
    return {"uuid": uuid, "nets": [], "forwards": [], "claims": [], "alone": [], "names": want.get("names", [])}


def _give_up(root: str, uuid: str, pod: int, record: dict[str, Any]) -> None:
    """The first error is what is told; where this fails too, `gc` tries again."""
    try:
        detach(root, uuid, pod, record)
    except (PyrunError, OSError):
        return


def limit(link: Netlink, inside: Netlink, made: dict[str, Any], want: dict[str, Any]) -> None:
    """Limit the bandwidth of one network of a pod as is wanted; ConfigError where that is for plug-ins to do."""
    if not want.get("bandwidth") or made.get("runtime", {}).get("bandwidth"):
        return
    from pyrun.net import bandwidth

    if made["kind"] == "cni":
        hint = "declare the capability bandwidth in its configuration, for the plug-in bandwidth"
        raise ConfigError("limit the bandwidth of network", made["network"], "it is made by plug-ins", hint=hint, origin="--net-bandwidth")
    bandwidth.limit(link, inside, made, want["bandwidth"])


def _refused(error: OSError) -> HostError:
    hint = "pyrun needs root (CAP_NET_ADMIN), and a kernel with veth, bridge and nf_tables"
    if error.errno == errno.EOPNOTSUPP:
        hint = "this kernel has no such kind of interface: CONFIG_VETH, CONFIG_BRIDGE"
    return HostError("set up the pod's network", str(error.filename or ""), errno=error.errno or 0, hint=hint)


def cleaner(root: str, uuid: str) -> bytes:
    """Return the command that takes back what a pod has, as native/shared.c reads it."""
    import pyrun

    package = os.path.dirname(os.path.dirname(pyrun.__file__ or ""))
    code = f"import sys; sys.path.insert(0, {package!r}); from pyrun.pod.cleaner import clean; clean(sys.argv[1], sys.argv[2])"
    words = [sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", code, root, uuid]
    return b"".join(word.encode() + b"\0" for word in words)


def _write(pod: int, name: str, data: bytes) -> None:
    fd = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=pod)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.rename(name + ".new", name, src_dir_fd=pod, dst_dir_fd=pod)


def has_plug_ins(root: str, name: str) -> bool:
    """Whether a network is made by plug-ins; ConfigError when there is none of that name."""
    if name in (networks.DEFAULT, networks.RESTRICTED) or networks.find(root, name) is not None:
        return False
    from pyrun.net import cni

    if cni.find(root, name) is None:
        raise _unknown(name)
    return True


def _network(root: str, one: dict[str, Any], link: Netlink) -> tuple[Network | None, dict[str, Any]]:
    """The network that is meant, ready in the host; None for one that plug-ins make."""
    name = one["network"]
    network = networks.find(root, name)
    if network is None and has_plug_ins(root, name):
        return None, one
    if network is None:
        with networks.Lock(root):
            network = networks.find(root, name) or networks.make_default(root, name, link)
    if not (bridges.ready(network, link) and rules.stand(root)):
        with networks.Lock(root):
            bridges.make(root, network, link)
            rules.rebuild(root, *standing(root))
    bridges.check(network, one)
    return network, one


def make_ready(root: str, want: dict[str, Any]) -> None:
    """Make what the pods of the wanted networks have in common; what cannot be made is told by whoever starts one."""
    try:
        with Netlink() as link:
            chosen = [_network(root, one, link)[0] for one in want["nets"]]
            if not any(chosen) and forwards_itself(root, want) and not rules.stand(root):
                with networks.Lock(root):
                    rules.rebuild(root, *standing(root))
    except (PyrunError, OSError):
        return


def forwards_itself(root: str, want: dict[str, Any]) -> bool:
    """Whether ports of plug-ins' networks alone are forwarded by rules of ours, as no plug-in does it."""
    from pyrun.net import cni

    return bool(want["ports"]) and not any(cni.declares(root, one["network"], "portMappings") for one in want["nets"])


def _unknown(name: str) -> ConfigError:
    hint = "`pyrun network list` shows all; `pyrun network create` makes one"
    return ConfigError("join network", name, "there is no such network", hint=hint, origin="--net")


def standing(root: str) -> tuple[list[rules.Forward], list[str]]:
    """Return what living pods have in the table: forwarded ports, and addresses that may not reach the host."""
    found = list(records(root).values())
    return [one for record in found for one in forwarded(record)], [address for record in found for address in record["alone"]]


def forwarded(record: dict[str, Any]) -> list[rules.Forward]:
    """Return what rules forward to a pod."""
    return [rules.Forward(*one) for one in record["forwards"] if one[1] != ports.LOOPBACK]


def records(root: str) -> dict[str, dict[str, Any]]:
    """Return what the network of each living pod is, by UUID, of those that have one of their own."""
    found: dict[str, dict[str, Any]] = {}
    for phase in ("prepared", "running"):  # in the order in which pods move on, so that none is missed
        if not os.path.isdir(f"{root}/pods/{phase}"):
            continue
        for entry in os.scandir(f"{root}/pods/{phase}"):
            record = _read(entry.path + "/" + _RECORD)
            if record and leases.alive(root, entry.name):
                found[entry.name] = record
    return found


def _take(root: str, uuid: str, chosen: list[tuple[Network | None, dict[str, Any]]], want: dict[str, Any], record: dict[str, Any]) -> None:
    """Take addresses and ports; what is taken is in the record, so that it is given back when the next step fails."""
    dead: list[str] = []

    def lease(network: Network, subnet: Subnet, address: str) -> str:
        return leases.lease(root, network, subnet, uuid, address, dead)

    try:
        for network, one in chosen:
            if network is not None and networks.find(root, network.name) is None:
                raise _unknown(network.name)  # any more
            join(root, network, (one, want), record, lease)
        ports.claim(root, uuid, want["ports"], record, dead)
    finally:
        rules.clear(root, dead)


def join(root: str, network: Network | None, asked: tuple[dict[str, Any], dict[str, Any]], record: dict[str, Any],
         lease: Callable[[Network, Subnet, str], str]) -> None:  # fmt: skip
    """Add one more network to a pod's record: what is asked of it, and of all; `lease` takes an address, the one that is wanted if any.

    ConfigError for what cannot be had.
    """
    one, want = asked
    if network is None and want.get("isolate"):
        hint = "join a network of pyrun's, or isolate it by a plug-in (firewall)"
        raise ConfigError("isolate from the host on network", one["network"], "it is made by plug-ins", hint=hint, origin="--net-isolate")
    place = len(record["nets"])
    made: dict[str, Any] = {
        "network": one["network"],
        "ifname": one.get("name") or f"eth{place}",
        "link": f"py{record['uuid'][:8]}-{place}",
    }
    if any(other["ifname"] == made["ifname"] for other in record["nets"]):
        raise ConfigError(
            "join network", one["network"], f"there are two interfaces {made['ifname']}", hint="give one name=", origin="--net"
        )
    record["nets"].append(made)
    if network is None:
        from pyrun.net import cni

        made.update(kind="cni", addresses=[], gateways=[], mtu=0)
        cni.prepare(root, one, made, want)
        return
    found = []
    for subnet in network.subnets:
        wanted = next((ip for ip in one["ips"] if (":" in ip) == (subnet.family == INET6)), "")
        address = lease(network, subnet, wanted)
        record["claims"].append(f"{network.name}/{address}")
        found.append(f"{address}/{subnet.length}")
    mac = one.get("mac") or mac_of(found[0].partition("/")[0])
    mtu = one.get("mtu") or network.mtu
    made.update(kind=network.kind, addresses=found, gateways=network.gateways, mac=mac, mtu=mtu, internal=network.internal)
    assert parse_mac(mac)


def routes(inside: Netlink, record: dict[str, Any]) -> None:
    """Make the routes of a pod: the first network that leads out has the default routes, one for each family."""
    done: set[bool] = set()
    for made in record["nets"]:
        if made["kind"] == "cni" or made.get("internal"):
            done |= {":" in target for target in made.get("defaults", [])}
            continue
        index = inside.index(made["ifname"])
        for gateway in made["gateways"]:
            if (":" in gateway) not in done:
                inside.add_route(index, "", 0, gateway)
                done.add(":" in gateway)


def open_to(want: dict[str, Any], record: dict[str, Any], reached: list[dict[str, Any]] | None = None) -> None:
    """Put down which ports lead to a pod, by the addresses of `reached` or of all its networks, and what keeps it from the host.

    ConfigError for one that cannot.
    """
    if want.get("isolate"):
        record["alone"] = [address.partition("/")[0] for made in record["nets"] for address in made["addresses"]]
        record["alone"] += [bridges.link_local(made["mac"]) for made in record["nets"] if made.get("mac")]
    mapped = any(made.get("portmap") for made in record["nets"])  # by a plug-in
    record["forwards"] = [] if mapped else ports.forwards(want["ports"], record["nets"] if reached is None else reached)


def _publish(root: str, uuid: str, pod: int, want: dict[str, Any], record: dict[str, Any], link: Netlink) -> None:
    """What others see of it: rules, names.  The lock is held."""
    open_to(want, record)
    _write(pod, _RECORD, fastjson.dumps(record).encode())
    forwards = forwarded(record)
    _write(pod, elements.FILE, elements.sent(networks.table_of(root), forwards, record["alone"]))
    if (forwards or record["alone"]) and not rules.stand(root):
        rules.rebuild(root, *standing(root))
    rules.ensure(root, forwards, record["alone"])
    if forwards:
        bridges.open_ports(record["nets"], link)
    for made in record["nets"]:
        addresses = [address.partition("/")[0] for address in made["addresses"]]
        names.remember(root, made["network"], uuid, addresses, record["names"])
    own_hosts(root, uuid, pod, want, record)


def own_hosts(root: str, uuid: str, pod: int, want: dict[str, Any], record: dict[str, Any]) -> None:
    """Write the pod's /etc/hosts, unless it has another."""
    if "hosts" in want:
        names.write_hosts(root, f"/proc/self/fd/{pod}", uuid, hosts_of(want, record), [made["network"] for made in record["nets"]])


def hosts_of(want: dict[str, Any], record: dict[str, Any]) -> str:
    """Return what a pod's /etc/hosts begins with."""
    first = [address.partition("/")[0] for made in record["nets"][:1] for address in made["addresses"]] or ["127.0.1.1"]
    return str(want["hosts"]) + "".join(f"{address}\t{want['hostname']}\n" for address in first)


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = fastjson.loads(file.read(1 << 22))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_record(pod: int) -> dict[str, Any]:
    """Return what a pod's network is, {} when it has none of its own."""
    return _read(f"/proc/self/fd/{pod}/{_RECORD}")


def detach(root: str, uuid: str, pod: int, record: dict[str, Any] | None = None) -> None:
    """Take back what a pod's network has in the host; does nothing the second time.  `record` is what `net` would say."""
    record = record or read_record(pod)
    pin.unpin(root, uuid)
    if not record:
        return
    if record.get("kind") == "user":
        from pyrun.net import user

        user.detach(root, uuid, pod, record)
        return
    if "relay" in record:
        relay.stop(record)
    failed: PyrunError | None = None
    if any(made.get("kind") == "cni" for made in record["nets"]):
        from pyrun.net import cni

        failed = cni.delete_all(uuid, record)
    with networks.Lock(root):
        held = {claim for claim in record["claims"] if leases.owner_of(f"{root}/networks/{claim}") == uuid}
        mine = [one for one in forwarded(record) if ports.path_of(one.protocol, one.address, one.port) in held]
        rules.remove(root, mine, _alone_here(root, uuid, record))
        leases.unlink(elements.FILE, dir_fd=pod)
        for made in record["nets"]:
            names.forget(root, made["network"], uuid)
        if any(made.get("kind") in ("bridge", "ptp") for made in record["nets"]):
            with Netlink() as link:  # the kernel does it too, when the last process of the namespace has gone
                for made in record["nets"]:
                    link.delete(made["link"])
        for claim in held:
            leases.release(f"{root}/networks/{claim}", uuid)
    if failed is not None:
        raise failed  # the record stays, so that `gc` asks again
    leases.unlink(_RECORD, dir_fd=pod)


def _alone_here(root: str, uuid: str, record: dict[str, Any]) -> list[str]:
    """The addresses that may not reach the host, without those that another pod has by now."""
    if not record["alone"]:
        return []
    others = {address for other, theirs in records(root).items() if other != uuid for address in theirs["alone"]}
    return [address for address in record["alone"] if address not in others]
