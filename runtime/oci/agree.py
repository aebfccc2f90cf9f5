"""Rules of config.json that several members make together: what contradicts itself is refused before anything is done."""

from __future__ import annotations

from pyrun.oci.rules import Bad
from pyrun.plan import sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

__all__ = ["agree", "agree_mounts"]

_HOST_NAME_MAX = 64  # uname(2)


def agree(spec: dict[str, Any]) -> None:
    """Look at a config whose members are all right by themselves; Bad names one of those that contradict each other."""
    linux = spec.get("linux", {})
    kinds = {one["type"]: one.get("path", "") for one in linux.get("namespaces", ())}
    for name in ("hostname", "domainname"):
        value = spec.get(name)
        if value and "uts" not in kinds:
            raise Bad("needs a uts namespace, or the host's name would change", "add uts to linux.namespaces", name)
        if value and len(value.encode()) > _HOST_NAME_MAX:
            raise Bad(f"has {len(value.encode())} bytes, and the kernel takes {_HOST_NAME_MAX}", "choose a shorter one", name)
    agree_mounts(spec.get("mounts", ()), linux)
    _users(linux, kinds)
    if linux.get("timeOffsets") and kinds.get("time") != "":
        reason = "a namespace that is joined keeps its clocks" if "time" in kinds else "needs a time namespace"
        raise Bad(reason, "add a time namespace without a path to linux.namespaces", "linux.timeOffsets")
    if linux.get("netDevices") and "network" not in kinds:
        raise Bad("needs a network namespace", "add network to linux.namespaces", "linux.netDevices")
    _net_names(linux.get("netDevices", {}))
    for key in linux.get("sysctl", ()):
        try:
            _sysctl(key, kinds)
        except Bad as bad:
            raise bad.inside(f"linux.sysctl[{key!r}]") from None
        if sysctl.path(key) == "kernel/domainname" and spec.get("domainname", linux["sysctl"][key]) != linux["sysctl"][key]:
            raise Bad("contradicts domainname", "keep one of them", f"linux.sysctl[{key!r}]")
    if "mount" not in kinds:
        _host_mounts(linux, kinds)


def agree_mounts(mounts: Sequence[dict[str, Any]], linux: dict[str, Any]) -> None:
    """Look at mounts that are all right by themselves; Bad names what contradicts itself, or the container's `linux`."""
    joined = any(one["type"] == "user" and one.get("path") for one in linux.get("namespaces", ()))
    for index, mount in enumerate(mounts):
        _mount(mount, bool(linux.get("uidMappings") or joined), f"mounts[{index}]")


def _host_mounts(linux: dict[str, Any], kinds: dict[str, str]) -> None:
    """Without a mount namespace of its own (`pyrun.oci.hostroot`)."""
    if "user" in kinds:  # whose root may mount nothing in the host's
        raise Bad("has a user namespace, but no mount namespace", 'add {"type": "mount"}', "linux.namespaces")
    if linux.get("rootfsPropagation", "") in ("shared", "rshared"):
        raise Bad("would share its mounts with all", 'add {"type": "mount"} to linux.namespaces', "linux.rootfsPropagation")


def _sysctl(key: str, own: Collection[str]) -> None:
    """Refuse a parameter that would change the host; `own` are the types of the container's own namespaces."""
    try:
        name = sysctl.path(key)
    except ValueError as wrong:
        raise Bad(*wrong.args) from None
    kind = sysctl.namespace(name)
    if name == "kernel/hostname":  # as runc and crun have it, whether or not that is there too
        raise Bad("says the same as hostname", "set hostname, at the top of the configuration")
    if not kind:
        raise Bad("is not kept apart by any namespace, it would change the host", "set it on the host if it must be")
    if kind not in own:
        raise Bad(f"would change the host: the container has no {kind} namespace of its own", f"add {kind} to linux.namespaces")


def _mount(mount: dict[str, Any], has_maps: bool, where: str) -> None:
    options = mount.get("options", ())
    mapped = "uidMappings" in mount or "gidMappings" in mount
    for name, other in (("uidMappings", "gidMappings"), ("gidMappings", "uidMappings")):
        if mount.get(name) and not mount.get(other):
            raise Bad(f"is required along with {name}", where=f"{where}.{other}")
    if any(option.startswith(("idmap=", "ridmap=")) for option in options) and mapped:
        raise Bad("idmap= says the same as uidMappings", "keep one of them", f"{where}.options")
    if ("idmap" in options or "ridmap" in options) and not mapped and not has_maps:
        raise Bad("idmap has no mapping", "give uidMappings and gidMappings, or the container a user namespace", f"{where}.options")
    if mapped and not {"bind", "rbind"}.intersection(options) and mount.get("type") != "bind":
        raise Bad("goes with bind mounts", "add bind or rbind to options", f"{where}.uidMappings")


def _users(linux: dict[str, Any], kinds: dict[str, str]) -> None:
    for name, other in (("uidMappings", "gidMappings"), ("gidMappings", "uidMappings")):
        if linux.get(name) and "user" not in kinds:
            raise Bad("needs a user namespace", "add user to linux.namespaces", f"linux.{name}")
        if linux.get(name) and not linux.get(other):
            raise Bad(f"is required along with {name}", where=f"linux.{other}")


def _net_names(devices: dict[str, Any]) -> None:
    seen: set[str] = set()
    for name, device in devices.items():
        final = device.get("name") or name
        if final in seen and "%d" not in final:
            raise Bad(f"two devices would be called {final}", "give them different names", f"linux.netDevices.{name}.name")
        seen.add(final)
