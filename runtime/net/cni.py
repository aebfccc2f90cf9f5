"""Networks that plug-ins make: configurations in net.d, and Debian's containernetworking-plugins or others (cni.dev, SPEC.md 0.3 to 1.1).

A configuration is looked for in `net.d` of the state directory, /etc/pyrun/net.d and /etc/cni/net.d, by the name in it.  All that
DEL will need, the configuration and the directories of the programs, goes into the pod's record before ADD, and the results
after it: what changes in net.d meanwhile does not matter.  DEL comes when the namespace has gone already, so it is told of none.

What we say of a pod: its UUID is the container; `--net NAME:KEY=VALUE` is CNI_ARGS; ports, addresses, MAC and bandwidth go to
plug-ins that declare the capability.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError, PyrunError
from pyrun.images import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["add", "check", "collect", "delete", "find", "known", "prepare"]

_PLACES = ("/etc/pyrun/net.d", "/etc/cni/net.d")
_PROGRAMS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
_MAX = 1 << 20
_PATIENCE = 60  # seconds
_HINT = "see what its configuration asks for, and that the plug-ins are installed (Debian: containernetworking-plugins)"


def known(root: str) -> list[tuple[str, str, str]]:
    """Return (name, path, what is wrong or "") of every configuration; of a name the first counts."""
    found: dict[str, tuple[str, str, str]] = {}
    for place in (root + "/net.d", *_PLACES):
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        for file in names:
            if file.endswith((".conflist", ".conf", ".json")):
                path = f"{place}/{file}"
                name, wrong = _name_of(path)
                found.setdefault(name or path, (name or file, path, wrong))
    return sorted(found.values())


def _name_of(path: str) -> tuple[str, str]:
    try:
        return str(_load(path)["name"]), ""
    except PyrunError as error:
        return "", error.reason


def find(root: str, name: str) -> str | None:
    """Return the path of the configuration of a network, None when there is none.  ConfigError when only a damaged file can be meant."""
    damaged = ""
    for one, path, wrong in known(root):
        if one == name and not wrong:
            return path
        if wrong and os.path.basename(path).rpartition(".")[0].endswith(name):
            damaged = path
    if damaged:
        _load(damaged)
    return None


def _load(path: str) -> dict[str, Any]:
    """A conflist, or one plug-in's configuration as a list of one; ConfigError for a malformed file."""
    import json

    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MAX))
    except OSError as error:
        raise ConfigError("read network configuration", path, errno=error.errno or 0) from None
    except (ValueError, RecursionError):
        raise ConfigError("read network configuration", path, "not JSON", hint="see cni.dev/docs/spec") from None
    if isinstance(found, dict) and "plugins" not in found and "type" in found:
        found = {"name": found.get("name"), "cniVersion": found.get("cniVersion", "0.3.1"), "plugins": [found]}
    wrong = _wrong(found)
    if wrong:
        raise ConfigError("read network configuration", path, wrong, hint="see cni.dev/docs/spec, network configuration format")
    assert isinstance(found, dict)
    return found


def _wrong(found: object) -> str:
    if not isinstance(found, dict):
        return "not an object"
    name, version, plugins = found.get("name"), found.get("cniVersion"), found.get("plugins")
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "._-" for c in name):
        return "name is missing, or not a name"
    if not isinstance(version, str) or not all(part.isdecimal() for part in version.split(".")):
        return "cniVersion is missing, or not a version"
    if not isinstance(plugins, list) or not plugins:
        return "plugins is missing, or not a list"
    for place, plugin in enumerate(plugins):
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind or kind[0] == ".":
            return f"plugins[{place}].type is missing, or not the name of a program"
        if not isinstance(plugin.get("capabilities") or {}, dict):
            return f"plugins[{place}].capabilities is not an object"
    return ""


def _version(conf: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in conf["cniVersion"].split("."))


def prepare(root: str, one: dict[str, Any], made: dict[str, Any], want: dict[str, Any]) -> None:
    """Put into the record what ADD and DEL need; ConfigError for a plug-in that is not installed."""
    path = find(root, one["network"])
    assert path is not None
    conf = _load(path)
    for plugin in conf["plugins"]:
        _program(plugin["type"], conf["name"])
        ipam = plugin.get("ipam")
        if isinstance(ipam, dict) and isinstance(ipam.get("type"), str) and ipam["type"]:
            _program(ipam["type"], conf["name"])
    declared = {name for plugin in conf["plugins"] for name, on in (plugin.get("capabilities") or {}).items() if on}
    runtime: dict[str, Any] = {}
    if "portMappings" in declared and want["ports"]:
        runtime["portMappings"] = [
            {"hostPort": port, "containerPort": inside, "protocol": protocol, **({"hostIP": address} if address else {})}
            for protocol, address, port, inside in want["ports"]
        ]
        made["portmap"] = True
    if "mac" in declared and one.get("mac"):
        runtime["mac"] = one["mac"]
    if "ips" in declared and one["ips"]:
        runtime["ips"] = one["ips"]
    limit = want.get("bandwidth") or {}
    if "bandwidth" in declared and limit:
        rates = {"in": "ingress", "out": "egress"}
        runtime["bandwidth"] = {f"{rates[way]}{what}": value for way, rate in limit.items() for what, value in _rate(rate)}
    arguments = [f"{argument.partition('=')[0].upper() if argument.startswith(('ip=', 'mac=')) else argument.partition('=')[0]}"
                 f"={argument.partition('=')[2]}" for argument in one["args"] if not argument.startswith("name=")]  # fmt: skip
    made.update(conf=conf, runtime=runtime, args=";".join(["IgnoreUnknown=1", *arguments]), path=":".join(_PROGRAMS))


def _rate(rate: int) -> list[tuple[str, int]]:
    return [("Rate", rate), ("Burst", max(rate // 8, 1 << 16) * 8)]


def _program(kind: str, name: str) -> str:
    for place in _PROGRAMS:
        if os.access(f"{place}/{kind}", os.X_OK):
            return f"{place}/{kind}"
    hint = "install it: Debian has the package containernetworking-plugins"
    raise HostError("join network", name, f"plug-in {kind} is not in {', '.join(_PROGRAMS)}", hint=hint)


def add(uuid: str, ns: int, made: dict[str, Any]) -> None:
    """ADD by every plug-in, in order; what they say goes into `made`.  ConfigError with a plug-in's own words when one fails."""
    result: dict[str, Any] | None = None
    for plugin in made["conf"]["plugins"]:
        result = _call("ADD", uuid, f"/proc/{os.getpid()}/fd/{ns}", plugin, made, result) or result
    made["result"] = result or {}
    try:
        _take(made)
    except (AttributeError, KeyError, TypeError):
        raise ConfigError("join network", made["network"], "the answer of its plug-ins is no result of CNI", origin="--net") from None


def _take(made: dict[str, Any]) -> None:
    addresses = [ip["address"] for ip in made["result"].get("ips") or []]
    addresses += [part["ip"] for key in ("ip4", "ip6") if (part := made["result"].get(key))]
    made["addresses"] = addresses
    routes = made["result"].get("routes") or []
    made["defaults"] = [route["dst"] for route in routes if route.get("dst") in ("0.0.0.0/0", "::/0")]
    macs = [interface.get("mac") for interface in made["result"].get("interfaces") or [] if interface.get("sandbox")]
    made["mac"] = macs[0] if macs else ""


def check(uuid: str, ns: str, made: dict[str, Any]) -> None:
    """CHECK by every plug-in, `ns` is the path of the namespace; ConfigError when one finds something wrong.  From 0.4.0 on."""
    if _version(made["conf"]) < (0, 4, 0) or made["conf"].get("disableCheck"):
        return
    result = dict(made["result"])  # what named the namespace at the start is gone
    result["interfaces"] = [{**one, **({"sandbox": ns} if one.get("sandbox") else {})} for one in result.get("interfaces") or []]
    for plugin in made["conf"]["plugins"]:
        _call("CHECK", uuid, ns, plugin, made, result)


def delete(uuid: str, made: dict[str, Any]) -> None:
    """DEL by every plug-in, in reverse; the first that fails is told once all had their turn."""
    failed: PyrunError | None = None
    for plugin in reversed(made["conf"]["plugins"]):
        try:
            _call("DEL", uuid, "", plugin, made, made.get("result"))
        except PyrunError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def collect(root: str, attachments: dict[str, list[tuple[str, str]]]) -> None:
    """GC: tell the plug-ins of each configuration which (UUID, interface) still are; from 1.1.0 on."""
    for name, path, wrong in known(root):
        if wrong:
            continue
        conf = _load(path)
        if _version(conf) < (1, 1, 0) or conf.get("disableGC"):
            continue
        valid = [{"containerID": uuid, "ifname": ifname} for uuid, ifname in attachments.get(name, [])]
        made = {"conf": conf, "ifname": "", "args": "", "path": ":".join(_PROGRAMS), "runtime": {}}
        for plugin in conf["plugins"]:
            _call("GC", "", "", {**plugin, "cni.dev/valid-attachments": valid}, made, None)


def _call(command: str, uuid: str, ns: str, plugin: dict[str, Any], made: dict[str, Any], result: object) -> dict[str, Any] | None:
    import subprocess

    conf = made["conf"]
    able = [name for name, on in (plugin.get("capabilities") or {}).items() if on]
    runtime = {name: value for name, value in made["runtime"].items() if name in able}
    given = {name: value for name, value in plugin.items() if name != "capabilities"}
    given.update(name=conf["name"], cniVersion=conf["cniVersion"])
    if runtime:
        given["runtimeConfig"] = runtime
    if result and (command != "DEL" or _version(conf) >= (0, 4, 0)):
        given["prevResult"] = result
    environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": uuid, "CNI_NETNS": ns, "CNI_IFNAME": made["ifname"]}
    environment.update(CNI_PATH=made["path"], CNI_ARGS=made["args"], PATH="/usr/sbin:/usr/bin:/sbin:/bin")
    program = _program(plugin["type"], conf["name"])
    step = f"{command} of plug-in {plugin['type']} for network"
    try:
        done = subprocess.run([program], input=fastjson.dumps(given).encode(), capture_output=True, env=environment, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise HostError(step, conf["name"], f"no answer within {_PATIENCE} seconds", hint=_HINT) from None
    except OSError as error:
        raise HostError(step, conf["name"], errno=error.errno or 0, hint=_HINT) from None
    return _answer(step, conf["name"], done.returncode, done.stdout, done.stderr)


def _answer(step: str, name: str, code: int, out: bytes, err: bytes) -> dict[str, Any] | None:
    import json

    try:
        said = json.loads(out) if out.strip() else None
    except (ValueError, RecursionError):
        said = None
    if code:
        message = f"{said.get('msg', '')} {said.get('details', '')}".strip() if isinstance(said, dict) else ""
        lines = (message or err.decode(errors="replace").strip() or f"exit status {code}").splitlines()
        raise ConfigError(step, name, " ".join(lines)[:400], hint=_HINT, origin="--net")
    return said if isinstance(said, dict) else None
