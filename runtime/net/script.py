"""What a start does for its pod's network, written down: native/net_script.c does it again for other pods, without Python.

Nothing is decided here that pyrun.net.attach would not decide: its own functions are called, with a socket that takes messages down
(`Recorder`), and with placeholders for what only a start knows: addresses, numbers of links.  Where these are in the messages and
texts the launcher puts what it took.  What it cannot have, finds changed or is refused it gives back, and leaves the start to Python.
"""

from __future__ import annotations

import _socket
import os

from pyrun.errors import ConfigError, PyrunError
from pyrun.images import fastjson
from pyrun.native import RELAY
from pyrun.native.users import which
from pyrun.net import attach, bridges, elements, leases, names, networks, ops, ports, relay, rules, snapshot
from pyrun.net.addresses import INET, INET6, OF_INET6, Subnet, number_of
from pyrun.net.netlink import Netlink, chain_request, delete_request, link_request, transaction
from pyrun.net.ops import Recorder, UnableError, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.net.networks import Network

__all__ = ["FILE", "write_down"]

FILE = "net.script"
_NS, _TOLD = 8, 9  # the descriptors that such a program gets
_PLAIN = 1 << 112  # addresses below are written in more than one way (RFC 5952, section 5)


def write_down(root: str, uuid: str, want: dict[str, Any], *, lasting: bool = False) -> bytes:
    """Return the script for pods that want what the pod `uuid` does; nothing where Python has to do it each time.

    With `lasting` that is an error: a prepared pod starts without Python.
    """
    if want.get("join"):
        return b""
    try:
        networks.directory(root)
        script = _Script(root, uuid)
        script.of_user(want) if want.get("user") else script.of_root(want)
        return script.whole()
    except UnableError as error:
        if not lasting:
            return b""
        raise ConfigError(
            "write down the network of pod", uuid, str(error) or "it is too large", hint="start it with `pyrun run`"
        ) from None
    except (PyrunError, OSError):
        if lasting:
            raise
        return b""  # whoever starts such a pod is told


class _Script(Writer):
    __slots__ = ("_plugged",)

    def of_root(self, want: dict[str, Any]) -> None:
        """Take down what pyrun.net.attach does."""
        self._table = self._string(networks.table_of(self._root))
        chosen = [self._network(one) for one in want["nets"]]
        host, inside = Recorder(self, ops.HOST), Recorder(self, ops.INSIDE)
        self._plugged: list[tuple[int, dict[str, Any]]] = []
        for network, _ in chosen:
            if network:
                self._check(f"{self._root}/networks/{network.name}.json", counts=True)
        self._make_ready([(network, one) for network, one in chosen if network], host, want)
        for network, one in chosen:
            if network:
                bridges.check(network, one)
                if network.kind == "bridge":
                    host.index(network.bridge)
        record = attach.blank(self._uuid, want)
        self._op(ops.LOCK)
        for network, one in chosen:
            self._check(f"{self._root}/networks/{one['network']}.json", counts=network is not None)
            attach.join(self._root, network, (one, want), record, self._lease)
        self._claim(want, record)
        self._file(record)
        self._op(ops.UNLOCK)
        ns = self.number()
        self._op(ops.NAMESPACE, self.last)
        inside.up(1)  # lo
        for (network, _), made in zip(chosen, record["nets"], strict=True):
            if network:
                bridges.connect(host, inside, ns, network, made)
            else:
                self._plug_in(made, record)
            attach.limit(host, inside, made, want)
        self._routes(inside, record)
        if words := relay.words(want["ports"], record, host):
            self._relay(words, record)
        if want.get("isolate"):
            for made in record["nets"]:
                self._link_local(made)
        for made in record["nets"] if self._plugged and want["ports"] else ():
            if made["kind"] == "bridge":
                host.index(made["link"])  # before what is done in some cases only
        self._finish(want, record, host)

    def _finish(self, want: dict[str, Any], record: dict[str, Any], host: Netlink) -> None:
        """What others see of it, for whatever addresses the plug-ins of its networks give."""
        if not (self._plugged and want["ports"]):
            self._show(want, record, host, record["nets"])
            return
        told, found = self._pick({INET: self._sources(record, INET), INET6: self._sources(record, INET6)})
        for has in ((), (INET,), (INET6,), (INET, INET6)):
            with self._when(told, 0, bytes((INET in has, INET6 in has))):
                self._show(want, record, host, [{"addresses": [found[family] for family in has]}])

    def _sources(self, record: dict[str, Any], family: int) -> list[int]:
        """Where an address of this family may come from, in order."""
        found = []
        for made in record["nets"]:
            plugged = self._number(made)
            if plugged >= 0:
                found.append(ops.IS_PLUGGED | plugged)
            for address in made["addresses"] if plugged < 0 else ():
                if (":" in address) == (family == INET6):
                    raw = _socket.inet_pton(family, address.partition("/")[0])
                    found.append(next(number for held, number in self._raw if held == raw))
        return found

    def _number(self, made: dict[str, Any]) -> int:
        """Which network of plug-ins that is, -1 for one of ours."""
        return next((number for number, (_, one) in enumerate(self._plugged) if one is made), -1)

    def _show(self, want: dict[str, Any], record: dict[str, Any], host: Netlink, reached: list[dict[str, Any]]) -> None:
        try:
            attach.open_to(want, record, reached)
        except (ConfigError, KeyError) as error:  # the pod has no address of that family, or none
            if not self._plugged:
                raise
            self._op(ops.FAIL, self._string(error.subject if isinstance(error, ConfigError) else f"[{ports.LOOPBACK}]"))
            return
        self._op(ops.LOCK)
        self._file(record)
        self._publish(want, record, host)
        self._op(ops.UNLOCK)

    def _plug_in(self, made: dict[str, Any], record: dict[str, Any]) -> None:
        """Take down what pyrun.net.cni does."""
        from pyrun.net import cni

        first, more = self._result(len(self._plugged))
        environment = [f"{name}={value}" for name, value in cni.environment(self._uuid, made).items()]
        words = self._put(b"".join(os.fsencode(word) + b"\0" for word in environment))
        size = sum(len(os.fsencode(word)) + 1 for word in environment)
        turn = len(self._plugged) * ops.NETWORK | (ops.WITH_RESULT if cni.is_told_result(made) else 0)
        plugins = made["conf"]["plugins"]
        for plugin in plugins:
            given = fastjson.dumps(cni.given(plugin, made)).encode()[:-1]
            names = "\0".join([made["conf"]["name"], plugin["type"], *cni.places(plugin["type"]), ""])
            last = ops.LAST if plugin is plugins[-1] else 0
            self._op(ops.PLUGIN, self._string(names), words, size, self._put(given), len(given), turn | last, first)
        made.update(more)
        self._plugged.append((first, made))
        self._file(record)

    def _routes(self, inside: Netlink, record: dict[str, Any]) -> None:
        """As pyrun.net.attach has it; what default routes plug-ins make is known when they have made them."""
        done: set[bool] = set()
        before: list[int] = []
        for made in record["nets"]:
            before += [first + 1 for first, plugged in self._plugged if plugged is made]
            for gateway in [] if made["kind"] == "cni" or made.get("internal") else made["gateways"]:
                if (":" in gateway) not in done:
                    self._default_route(inside, inside.index(made["ifname"]), gateway, before)
                    done.add(":" in gateway)

    def _default_route(self, inside: Netlink, index: int, gateway: str, before: list[int]) -> None:
        if not before:
            inside.add_route(index, "", 0, gateway)
            return
        with self._when(before[0], ":" in gateway, b"\0"):
            self._default_route(inside, index, gateway, before[1:])

    def of_user(self, want: dict[str, Any]) -> None:
        """Take down what pyrun.net.user does."""
        from pyrun.net import user

        record = attach.blank(self._uuid, want)
        program = user.begin(want, record)
        self._op(ops.LOCK)
        self._claim(want, record)
        self._file(record)
        self._op(ops.UNLOCK)
        self.number()
        self._op(ops.NAMESPACE, self.last)
        Recorder(self, ops.INSIDE).up(1)  # lo
        path = os.environ.get("PATH", os.defpath)
        words = [f"PATH={path}", *user.command(program, _NS, _TOLD)]
        words[1] = which(words[1], path.split(":"))
        record["process"] = [self.number(), self.number()]
        self._op(ops.PROGRAM, *self._words(words), self._values - 2, program == "slirp4netns")
        if want["ports"]:
            self._relay(relay.inward(want["ports"]), record, inward=True)
        record["forwards"] = user.forwards(want)
        self._file(record)
        self._hosts(want, record)

    def _claim(self, want: dict[str, Any], record: dict[str, Any]) -> None:
        for wanted in want["ports"]:
            record["claims"].append(self._port(*wanted))
        self._op(ops.FILE, self._string("cleaner"), *self._text(attach.cleaner(self._root, self._uuid)))

    def _relay(self, words: list[str], record: dict[str, Any], *, inward: bool = False) -> None:
        record["relay"] = [self.number(), self.number()]
        self._op(ops.RELAY, *self._words([RELAY, *words]), self._values - 2, inward)

    def _make_ready(self, chosen: list[tuple[Network, dict[str, Any]]], host: Recorder, want: dict[str, Any]) -> None:
        """What the pods of a network have in common, where it is not there: after a boot, or where somebody has removed it."""
        outward = any(not network.internal for network, _ in chosen)
        if chosen or attach.forwards_itself(self._root, want):
            table = [chain_request(networks.table_of(self._root), chain) for chain in rules.CHAINS], bytes(rules.CHAINS.values())
            with self._unless_intact(*table):
                self._op(ops.LOCK)
                with self._unless_intact(*table):  # by somebody else meanwhile
                    self._forward(outward)
                    self._op(ops.RULES, self._string(rules.version() + snapshot.SUFFIX))
                self._op(ops.UNLOCK)
        for network in {network.name: network for network, _ in chosen if network.kind == "bridge"}.values():
            with self._unless(ops.HOST, *link_request(network.bridge)):
                self._op(ops.LOCK)
                with self._unless(ops.HOST, *link_request(network.bridge)):
                    self._forward(not network.internal)
                    with self._unless(ops.HOST, *delete_request(bridges.unfinished(network))):
                        pass  # of somebody who was killed
                    bridges.build(self._root, network, host, self._random())
                self._op(ops.UNLOCK)

    def _forward(self, outward: bool) -> None:
        if outward:
            self._op(ops.FORWARD)

    def _random(self) -> bytes:
        raw = os.urandom(4)  # as mac_of() of pyrun.net.addresses has it
        self._value(raw, raw.hex("."))
        self._op(ops.RANDOM, self.last)
        return raw

    def _publish(self, want: dict[str, Any], record: dict[str, Any], host: Netlink) -> None:
        forwards = attach.forwarded(record)
        bodies = elements.bodies(networks.table_of(self._root), forwards, record["alone"])
        if not bodies:
            self._op(ops.FILE, self._string(elements.FILE), self._put(b""), 0)
        else:
            self._message(ops.FILTER, transaction(elements.NEW, elements.CREATE, bodies, 1), len(bodies))
        if forwards:
            bridges.open_ports(record["nets"], host)
        if record["names"]:
            for made in record["nets"]:
                begin, this, end = self._each(plugged) if (plugged := self._number(made)) >= 0 else ("", "", "")
                addresses = [this] if this else [address.partition("/")[0] for address in made["addresses"]]
                lines = begin + "".join(line + "\n" for line in names.lines_of(self._uuid, addresses, record["names"])) + end
                self._op(ops.NAME, self._string(made["network"]), *self._text(lines.encode()))
        self._hosts(want, record)

    def _hosts(self, want: dict[str, Any], record: dict[str, Any]) -> None:
        if "hosts" not in want:
            return
        plugged = self._number(record["nets"][0]) if record["nets"] else -1
        if plugged < 0:
            self._write_hosts(attach.hosts_of(want, record), record)
            return
        begin, this, end = self._each(plugged)
        line = attach.hosts_of({**want, "hosts": ""}, {"nets": [{"addresses": [this]}]})
        texts = [attach.hosts_of(want, {"nets": [{"addresses": []}]}), str(want["hosts"]) + begin + line + end]
        for any_address, text in enumerate(texts):
            with self._when(self._plugged[plugged][0], 2, bytes((any_address,))):
                self._write_hosts(text, record)

    def _write_hosts(self, text: str, record: dict[str, Any]) -> None:
        joined = b"".join(made["network"].encode() + b"\0" for made in record["nets"])
        self._op(ops.HOSTS, *self._text(text.encode("utf-8", "surrogateescape")), self._put(joined + b"\0"))

    def _network(self, one: dict[str, Any]) -> tuple[Network | None, dict[str, Any]]:
        """Return a network and what is asked of it; None for one that plug-ins make."""
        network = networks.find(self._root, one["network"])
        if network is None:
            if not attach.has_plug_ins(self._root, one["network"]):
                raise UnableError  # it is made when it is first asked for
            self._of_plug_ins(one["network"])
            return None, one
        if one.get("mac") or any(subnet.family == INET for subnet in network.subnets):
            return network, one
        return network, {**one, "mac": (OF_INET6 + self._random()).hex(":")}

    def _of_plug_ins(self, name: str) -> None:
        """What decides which configuration that is."""
        from pyrun.net import cni

        counts = cni.find(self._root, name)
        for path in cni.looked_at(self._root, name):
            self._check(path, counts=path == counts)

    def _lease(self, network: Network, subnet: Subnet, wanted: str) -> str:
        """Return what stands for the address."""
        size = 4 if subnet.family == INET else 16
        if size == 16 and subnet.base < _PLAIN:
            raise UnableError
        fixed = 0
        if wanted:
            if not 2 <= number_of(wanted) - subnet.base < subnet.hosts + 2:
                raise UnableError
            fixed = self._put(number_of(wanted).to_bytes(size, "big"))
        address = self._address(subnet.family)
        base = self._put(subnet.base.to_bytes(size, "big"))
        most = min(subnet.hosts, leases.MOST)
        name = self._string(f"{network.name}\0{subnet}")
        self._op(ops.LEASE, name, self._string(f"last{subnet.family}"), base, size, most, fixed, self.last)
        return address

    def _link_local(self, made: dict[str, Any]) -> None:
        raw = bytes.fromhex(made["mac"].replace(":", ""))[2:]
        source = next((number for held, number in self._raw if held == raw), None)
        if source is not None:  # else the MAC was asked for, and its address is known
            address = bridges.link_local(made["mac"])
            self._value(_socket.inet_pton(10, address), address)
            self._op(ops.LINK_LOCAL, source, self.last, bytes.fromhex(made["mac"].replace(":", ""))[1])

    def _port(self, protocol: str, address: str, port: int, _: int) -> str:
        path = ports.path_of(protocol, address, port)
        probes = [
            _sockaddr(family, address, port) for family in ([10 if ":" in address else 2] if address else (2, 10))
        ]  # as pyrun.net.ports asks
        kind, number = ports.SOCKETS[protocol]
        self._op(ops.PORT, self._string(path.partition("/")[2]), self._put(b"".join(probes)), len(probes), kind, number)
        return path

    def _file(self, record: dict[str, Any]) -> None:
        self._op(ops.FILE, self._string("net"), *self._text(fastjson.dumps(record).encode()))


def _sockaddr(family: int, address: str, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6, in 32 bytes."""
    raw = _socket.inet_pton(family, address or ("::" if family == 10 else "0.0.0.0"))
    return (family.to_bytes(2, "little") + port.to_bytes(2, "big") + (bytes(4) if family == 10 else b"") + raw).ljust(32, b"\0")
