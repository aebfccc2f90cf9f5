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
from pyrun.net.addresses import INET, family_of
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "add",
    "check",
    "collect",
    "declares",
    "delete_all",
    "environment",
    "failed",
    "find",
    "given",
    "is_told_result",
    "known",
    "looked_at",
    "places",
    "prepare",
    "take",
]

_PLACES = ("/etc/pyrun/net.d", "/etc/cni/net.d")
_PROGRAMS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
_MAX = 1 << 20  # bytes of a configuration, and of what a plug-in may say
_PATIENCE = 60  # seconds
_NO_RESULT = "the answer of its plug-ins is no result of CNI"
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


def looked_at(root: str, name: str) -> list[str]:
    """Return the directories and files that decide which configuration `find` returns, and the one itself."""
    found = []
    wanted = find(root, name)
    for place in (root + "/net.d", *_PLACES):
        found.append(place)
        names = sorted(os.listdir(place)) if os.path.isdir(place) else []
        for path in [f"{place}/{file}" for file in names if file.endswith((".conflist", ".conf", ".json"))]:
            found.append(path)
            if path == wanted:
                return found
    return found


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
    declared = _declared(conf)
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


def _declared(conf: dict[str, Any]) -> set[str]:
    return {name for plugin in conf["plugins"] for name, on in (plugin.get("capabilities") or {}).items() if on}


def declares(root: str, name: str, capability: str) -> bool:
    """Whether a plug-in of that network has a capability."""
    path = find(root, name)
    return path is not None and capability in _declared(_load(path))


def _rate(rate: int) -> list[tuple[str, int]]:
    return [("Rate", rate), ("Burst", max(rate // 8, 1 << 16) * 8)]


def places(kind: str) -> list[str]:
    """Return where a plug-in may be; the first counts."""
    return [f"{place}/{kind}" for place in _PROGRAMS]


def _program(kind: str, name: str) -> str:
    for path in places(kind):
        if os.access(path, os.X_OK):
            return path
    hint = "install it: Debian has the package containernetworking-plugins"
    raise HostError("join network", name, f"plug-in {kind} is not in {', '.join(_PROGRAMS)}", hint=hint)


def add(uuid: str, ns: int, made: dict[str, Any]) -> None:
    """ADD by every plug-in, in order; what they say goes into `made`.  ConfigError with a plug-in's own words when one fails."""
    result: dict[str, Any] | None = None
    for plugin in made["conf"]["plugins"]:
        result = _call("ADD", uuid, f"/proc/{os.getpid()}/fd/{ns}", plugin, made, result) or result
    made["result"] = result or {}
    take(made)


def take(made: dict[str, Any]) -> None:
    """Put down what counts of the result; ConfigError for what is none."""
    try:
        _take(made)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError("join network", made["network"], _NO_RESULT, origin="--net") from None


def _take(made: dict[str, Any]) -> None:
    addresses = [ip["address"] for ip in made["result"].get("ips") or []]
    addresses += [part["ip"] for key in ("ip4", "ip6") if (part := made["result"].get(key))]
    for address in addresses:
        bare, slash, length = address.partition("/")
        family = family_of(bare)
        if not family or (slash and whole(length, 32 if family == INET else 128) < 0):
            raise ValueError(address)  # lines of hosts files are made of them
    made["addresses"] = addresses
    routes = made["result"].get("routes") or []
    made["defaults"] = [route["dst"] for route in routes if route.get("dst") in ("0.0.0.0/0", "::/0")]
    macs = [interface.get("mac") for interface in made["result"].get("interfaces") or [] if interface.get("sandbox")]
    made["mac"] = (macs[0] if macs else "") or ""


def check(uuid: str, ns: str, made: dict[str, Any]) -> None:
    """CHECK by every plug-in, `ns` is the path of the namespace; ConfigError when one finds something wrong.  From 0.4.0 on."""
    if _version(made["conf"]) < (0, 4, 0) or made["conf"].get("disableCheck"):
        return
    result = dict(made["result"])  # what named the namespace at the start is gone
    result["interfaces"] = [{**one, **({"sandbox": ns} if one.get("sandbox") else {})} for one in result.get("interfaces") or []]
    for plugin in made["conf"]["plugins"]:
        _call("CHECK", uuid, ns, plugin, made, result)


def delete_all(uuid: str, record: dict[str, Any]) -> PyrunError | None:
    """DEL by every plug-in of a pod, in reverse; the first that fails is returned once all had their turn."""
    failed: PyrunError | None = None
    for made in record["nets"]:
        for plugin in reversed(made["conf"]["plugins"]) if "conf" in made else ():
            try:
                _call("DEL", uuid, "", plugin, made, made.get("result"))
            except PyrunError as error:
                failed = failed or error
    return failed


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


def given(plugin: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Return what a plug-in reads, but for what the others have said."""
    conf = made["conf"]
    able = [name for name, on in (plugin.get("capabilities") or {}).items() if on]
    runtime = {name: value for name, value in made["runtime"].items() if name in able}
    found = {name: value for name, value in plugin.items() if name != "capabilities"}
    found.update(name=conf["name"], cniVersion=conf["cniVersion"])
    if runtime:
        found["runtimeConfig"] = runtime
    return found


def environment(uuid: str, made: dict[str, Any]) -> dict[str, str]:
    """Return its environment, but for the command and the namespace."""
    found = {"CNI_CONTAINERID": uuid, "CNI_IFNAME": made["ifname"], "CNI_PATH": made["path"], "CNI_ARGS": made["args"]}
    return {**found, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def is_told_result(made: dict[str, Any]) -> bool:
    """Whether DEL gets the result of ADD."""
    return _version(made["conf"]) >= (0, 4, 0)


def _call(command: str, uuid: str, ns: str, plugin: dict[str, Any], made: dict[str, Any], result: object) -> dict[str, Any] | None:
    conf = made["conf"]
    asked = given(plugin, made)
    if result and (command != "DEL" or is_told_result(made)):
        asked["prevResult"] = result
    words = {"CNI_COMMAND": command, "CNI_NETNS": ns, **environment(uuid, made)}
    program = _program(plugin["type"], conf["name"])
    step = f"{command} of plug-in {plugin['type']} for network"
    try:
        code, out, err = _run(program, fastjson.dumps(asked).encode(), words)
    except OSError as error:
        raise HostError(step, conf["name"], errno=error.errno or 0, hint=_HINT) from None
    return _answer(step, conf["name"], code, out, err)


def _run(program: str, asked: bytes, words: dict[str, str]) -> tuple[int | None, bytes, bytes]:
    """Exit status and what was said, on both outputs; None and what there is when that takes too long, or never ends."""
    import select
    import subprocess
    import time

    end = time.monotonic() + _PATIENCE
    said = {"out": b"", "err": b""}
    with open(os.memfd_create("pyrun-cni"), "w+b") as file:  # who does not read it keeps nobody waiting
        file.write(asked)
        file.seek(0)
        child = subprocess.Popen([program], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=words)
    assert child.stdout and child.stderr
    with child.stdout, child.stderr:
        waiting = {child.stdout.fileno(): "out", child.stderr.fileno(): "err"}
        poll = select.poll()
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        while waiting and len(said["out"]) <= _MAX:
            ready = poll.poll(max(0.0, end - time.monotonic()) * 1000)
            for fd, _ in ready:
                if data := os.read(fd, 1 << 16):
                    said[waiting[fd]] = (said[waiting[fd]] + data)[: _MAX + 1]
                else:
                    poll.unregister(fd)
                    del waiting[fd]
            if not ready:
                break
        try:
            code: int | None = child.wait(0 if waiting else max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = None
            child.kill()
            child.wait()
    return code, said["out"], said["err"]


def failed(network: str, kind: str, code: int | None, out: bytes, err: bytes) -> None:
    """Raise what ADD by a plug-in would raise that has answered so; return where it would go on."""
    _answer(f"ADD of plug-in {kind} for network", network, code, out, err)


def _answer(step: str, name: str, code: int | None, out: bytes, err: bytes) -> dict[str, Any] | None:
    import json

    if len(out) > _MAX:
        raise HostError(step, name, f"its answer is longer than {_MAX >> 20} MiB", hint=_HINT)
    if code is None:
        raise HostError(step, name, f"no answer within {_PATIENCE} seconds", hint=_HINT)
    try:
        said = json.loads(out) if out.strip() else None
    except (ValueError, RecursionError):
        said = out
    if code:
        message = f"{said.get('msg', '')} {said.get('details', '')}".strip() if isinstance(said, dict) else ""
        lines = (message or err.decode(errors="replace").strip() or f"exit status {code}").splitlines()
        raise ConfigError(step, name, " ".join(lines)[:400], hint=_HINT, origin="--net")
    if step.startswith("ADD") and not isinstance(said, dict | None):
        raise ConfigError(step, name, "its answer is no result of CNI", hint=_HINT, origin="--net")
    return said if isinstance(said, dict) else None
