"""What the options say about a pod's network, as plain values: `--net`, `--port` and those that go with them.

    none | host                        nothing is made
    NAME[:key=value,...]               a network of ours, `default` among them, or one of a conflist in net.d; several with commas
    container:POD | ns:/PATH           the network of another pod, or one that somebody else has made

Keys are ip (twice for both families), mac, mtu and name (of the interface inside).  For a network of a conflist they go to its
plug-ins.  Grammar only, and what the image declares; what there is on the host is for pyrun.net.attach to see.
"""

from __future__ import annotations

from pyrun.errors import UsageError
from pyrun.net.addresses import INET6, family_of, number_of, parse_mac, text_of
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["kind_of", "want_of"]

_KEYS = ("ip", "mac", "mtu", "name")
_PROTOCOLS = ("tcp", "udp", "sctp")
_MOST_PORTS = 4096
_NET = "option --net"
_PORT = "option --port"


def kind_of(nets: Sequence[str], ports: Sequence[str]) -> str:
    """Return none, host or own; with a port that is to be reached the network is `default` where none is named."""
    if not nets:
        return "own" if ports else "none"
    words = ",".join(nets)
    if words in ("none", "host"):
        if ports:
            hint = f"leave out one of them: with --net {words} there is nothing to forward to"
            raise UsageError(_PORT, "", f"excludes --net {words}", hint=hint)
        return words
    return "own"


def want_of(nets: Sequence[str], ports: Sequence[str], declared: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return {nets, join, ports}; `declared` are the ports of the images' manifests.  UsageError for what has no meaning."""
    found, join = _nets(nets or ["default"])
    forwards = [one for text in ports for one in _port(text, declared)]
    if join and forwards:
        raise UsageError(_PORT, "", f"excludes --net {join}", hint="forward it to the pod, or the namespace, that the network belongs to")
    seen: dict[tuple[str, int], list[str]] = {}
    for protocol, address, port, _ in forwards:
        others = seen.setdefault((protocol, port), [])
        if address in others or (others and ("" in others or not address)):
            raise UsageError(_PORT, "", f"port {port}/{protocol} of the host is asked for twice", hint="give each its own port")
        others.append(address)
    return {"nets": found, "join": join, "ports": forwards}


def _nets(nets: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    found: list[dict[str, Any]] = []
    join = ""
    for piece in ",".join(nets).replace(";", ",").split(","):
        before, equals, value = piece.partition("=")
        if equals and ":" not in before:
            if not found:
                raise _bad(f"'{piece}' stands before any network", "write NAME:key=value,...")
            _option(found[-1], before, value)
            continue
        if piece.startswith(("container:", "pod:", "ns:")):
            join = piece
            continue
        name, colon, rest = piece.partition(":")
        if not is_name(name):
            raise _bad(
                f"'{name}' is not a name of a network", "use letters, digits, dashes, dots and underscores; `pyrun network list` shows all"
            )
        if name in ("none", "host"):
            raise _bad(f"{name} goes with no other network", f"write --net {name} alone")
        if any(one["network"] == name for one in found):
            raise _bad(f"network {name} is named twice", "name each once")
        found.append({"network": name, "ips": [], "args": []})
        if colon:
            before, equals, value = rest.partition("=")
            if not equals:
                raise _bad(f"'{rest}' is not key=value", f"write --net {name}:ip=ADDRESS")
            _option(found[-1], before, value)
    if join and found:
        raise _bad(f"{join} goes with no other network", "the network of another pod is taken as it is")
    return found, join


def _option(net: dict[str, Any], key: str, value: str) -> None:
    net["args"].append(f"{key}={value}")
    key = key.lower()
    if key not in _KEYS:
        return  # for plug-ins; a network of ours refuses it
    if key == "ip":
        if not family_of(value) or any(family_of(value) == family_of(other) for other in net["ips"]):
            raise _bad(f"ip={value} is not an address, or the second of its family", "write ip=ADDRESS, once for IPv4 and once for IPv6")
        net["ips"].append(value)
        return
    if key in net:
        raise _bad(f"{key} is written twice", "write each once")
    if key == "mac" and parse_mac(value) is None:
        raise _bad(f"mac={value} is not the MAC of an interface", "write it as in mac=06:00:ac:1c:00:02, with an even first byte")
    if key == "mtu" and whole(value, 65535) < 68:
        raise _bad(f"mtu={value} is not a size from 68 to 65535", "write mtu=1400")
    if key == "name" and (not is_name(value) or len(value) > 15 or value == "lo"):
        raise _bad(f"name={value} is not a name of an interface", "use up to 15 letters and digits, as in name=eth1")
    net[key] = int(value) if key == "mtu" else value


def is_name(text: str) -> bool:
    """Whether a network, or an interface, can be called that."""
    bare = text.replace("-", "a").replace("_", "a").replace(".", "a")
    return 0 < len(text) <= 63 and bare.isascii() and bare.isalnum() and text[0] not in "-."


def _port(text: str, declared: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, int]]:
    """(protocol, address of the host or "", its port, the pod's port) for each port that is meant."""
    body, slash, protocol = text.rpartition("/") if "/" in text else (text, "", "")
    first, colon, rest = body.partition(":")
    named = colon and first and not first[0].isdigit() and first[0] != "["
    if slash and (protocol not in _PROTOCOLS or named):
        raise _wrong(text, f"'{protocol}' is not a protocol" if protocol not in _PROTOCOLS else "the image says which protocol it is")
    if named:
        return _named(text, first, rest, declared)
    address, outer, inner = _split(text, body)
    if inner is None:
        raise _wrong(text, "no port of the pod is named")
    low, high = _range(text, outer)
    to_low, to_high = _range(text, inner)
    if high - low != to_high - to_low:
        raise _wrong(text, "the two ranges differ in length")
    return [(protocol or "tcp", address, low + step, to_low + step) for step in range(high - low + 1)]


def _split(text: str, body: str) -> tuple[str, str, str | None]:
    """[HOSTIP:]OUTER[:INNER]; a HOSTIP of IPv6 stands in brackets."""
    address = ""
    if body.startswith("["):
        address, bracket, body = body[1:].partition("]:")
        if not bracket or family_of(address) != 10:
            raise _wrong(text, "the address in brackets is none")
        address = text_of(INET6, number_of(address))  # one form, by which a clash is seen
    parts = body.split(":")
    if not address and len(parts) > 1 and "." in parts[0]:
        address = parts.pop(0)
        if family_of(address) != 2:
            raise _wrong(text, f"'{address}' is not an address")
    if len(parts) > 2:
        raise _wrong(text, "there are too many parts")
    return "" if address in ("0.0.0.0", "::") else address, parts[0], parts[1] if len(parts) == 2 else None


def _named(text: str, name: str, rest: str, declared: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, int]]:
    address, outer, more = _split(text, rest)
    if more is not None:
        raise _wrong(text, "there are too many parts")
    port, end = _range(text, outer)
    matching = [one for one in declared if one["name"] == name]
    if len(matching) != 1:
        names = ", ".join(sorted(one["name"] for one in declared)) or "none"
        reason = f"no image declares port '{name}'" if not matching else f"two images declare port '{name}'"
        raise UsageError(_PORT, "", reason, hint=f"declared are: {names}; a number can be forwarded too: -p {port}:PORT")
    count = int(matching[0].get("count", 1))
    if end != port or port + count > 65536:
        raise _wrong(text, "only the first port of the host is written" if end != port else f"{count} ports from {port} on are too many")
    inside = int(matching[0]["port"])
    return [(matching[0]["protocol"], address, port + step, inside + step) for step in range(count)]


def _range(text: str, ports: str) -> tuple[int, int]:
    low, dash, high = ports.partition("-")
    first, last = whole(low, 65535), whole(high if dash else low, 65535)
    if not 0 < first <= last:
        raise _wrong(text, f"'{ports}' is not a port from 1 to 65535, or a range of them")
    if last - first >= _MOST_PORTS:
        raise _wrong(text, f"more than {_MOST_PORTS} ports")
    return first, last


def _wrong(text: str, reason: str) -> UsageError:
    hint = "write NAME:[HOSTIP:]PORT for a port that the image declares, or [HOSTIP:]PORT:PODPORT[/udp]"
    return UsageError(_PORT, text, reason, hint=hint)


def _bad(reason: str, hint: str) -> UsageError:
    return UsageError(_NET, "", reason, hint=hint)
