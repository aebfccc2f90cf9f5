"""`linux.netDevices`: network devices of the runtime that move into the container's network (runtime-spec config-linux.md).  Cold."""

from __future__ import annotations

import os
from struct import Struct

from pyrun.errors import ConfigError, SetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.net.netlink import Netlink

__all__ = ["move"]

_LINK, _ADDRESS = Struct("=BxHiII"), Struct("=BBBBI")  # struct ifinfomsg, struct ifaddrmsg of rtnetlink(7)
_ACK, _CREATE, _DUMP = 4, 0x400, 0x300
_IFNAME, _NS_FD, _LABEL, _CACHE = 3, 28, 3, 6
_PERMANENT, _GLOBAL, _FLAGS = 0x80, 0, 8


def move(devices: dict[str, dict[str, Any]], pid: int) -> None:
    """Move each device into the network of the process `pid`, with its new name and its permanent global addresses, and bring it up.

    ConfigError when there is no such device or its name is taken there, SetupError for what the kernel refuses.
    """
    from pyrun import native
    from pyrun.net.netlink import Netlink

    target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        ns, sock = native.netns(target)
        with Netlink() as outside, Netlink(sock) as inside:
            for name, device in devices.items():
                _move(outside, inside, ns, name, device.get("name") or name)
        os.close(ns)
    finally:
        os.close(target)


def _move(outside: Netlink, inside: Netlink, ns: int, name: str, final: str) -> None:
    from pyrun.net import netlink

    where = f"linux.netDevices.{name}"
    found = outside.link(name)
    if found is None:
        raise ConfigError(
            "move network device", name, "no such device", hint="`ip link` lists those of the runtime's network", origin=where
        )
    index = found[0]
    kept = [body for _, body in outside.ask(netlink.GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)) if _is_kept(body, index)]
    before = {number for number, _ in inside.links()}
    if "%d" not in final and inside.link(final) is not None:
        hint = "give it another name, or one with %d in it"
        raise ConfigError("move network device", name, f"the container's network has a device {final}", hint=hint, origin=f"{where}.name")
    try:
        body = (
            _LINK.pack(0, 0, index, 0, 0) + netlink.pack(_NS_FD, ns.to_bytes(4, "little")) + netlink.pack(_IFNAME, final.encode() + b"\0")
        )
        outside.ask(netlink.SETLINK, _ACK, body, name)
        index = next(number for number, _ in inside.links() if number not in before)
        for body in kept:
            family, length, flags, scope, _ = _ADDRESS.unpack_from(body)
            values = {kind: value for kind, value in netlink.attributes(body[8:]).items() if kind not in (_LABEL, _CACHE, _FLAGS)}
            more = b"".join([netlink.pack(kind, value) for kind, value in values.items()])
            inside.ask(netlink.NEWADDR, _ACK | _CREATE, _ADDRESS.pack(family, length, flags, scope, index) + more, name)
        inside.up(index)
    except OSError as error:
        hint = "some devices are bound to their network: see `ip -details link`"
        raise SetupError("move network device", name, errno=error.errno or 0, hint=hint, origin=where) from None


def _is_kept(body: bytes, index: int) -> bool:
    """Addresses that somebody has set for good, and that others can reach."""
    _, _, flags, scope, number = _ADDRESS.unpack_from(body)
    return number == index and bool(flags & _PERMANENT) and scope == _GLOBAL
