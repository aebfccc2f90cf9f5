"""linux.netDevices: links of the host that become the container's (runtime-spec config-linux.md, "Network Devices").  Cold.

A link loses its addresses when it changes its namespace; those that are global and permanent are given back inside, by
ip(8), since a socket of the other namespace takes a process in it.
"""

from __future__ import annotations

import socket
from struct import Struct

from pyrun.errors import ConfigError, HostError
from pyrun.net.netlink import GETADDR, IFF_UP, IFNAME, SETLINK, Netlink, attributes, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["move"]

_LINK, _ADDRESS = Struct("=BxHiII"), Struct("=BBBBI")
_ACK, _DUMP = 4, 0x300
_NET_NS_PID, _IFA_ADDRESS, _IFA_LOCAL, _PERMANENT, _GLOBAL = 19, 1, 2, 0x80, 0


def move(wanted: dict[str, Any], pid: int) -> None:
    """Move links into the network namespace of the process `pid`, under their new names, with their addresses, and up."""
    lines: list[str] = []
    with Netlink() as link:
        for name, settings in wanted.items():
            where = f"linux.netDevices.{name}"
            index = link.index(name)
            if not index:
                raise ConfigError("move network device", name, "there is no such device", hint="`ip link` lists them", origin=where)
            new = settings.get("name") or name
            lines += [f"address add {one} dev {new}" for one in _addresses(link, index)]
            try:
                link.ask(SETLINK, _ACK, _LINK.pack(0, 0, index, 0, IFF_UP))
                moved = pack(_NET_NS_PID, pid.to_bytes(4, "little")) + pack(IFNAME, new.encode() + b"\0")
                link.ask(SETLINK, _ACK, _LINK.pack(0, 0, index, 0, 0) + moved, name)
            except OSError as error:
                raise HostError("move network device", name, errno=error.errno or 0, origin=where) from None
            lines.append(f"link set dev {new} up")
    _inside(lines, pid)


def _addresses(link: Netlink, index: int) -> list[str]:
    found = []
    for _, body in link.ask(GETADDR, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0)):
        family, length, flags, scope, of = _ADDRESS.unpack_from(body)
        if of == index and scope == _GLOBAL and flags & _PERMANENT:
            known = attributes(body[8:])
            raw = known.get(_IFA_LOCAL) or known[_IFA_ADDRESS]
            found.append(f"{socket.inet_ntop(family, raw)}/{length}")
    return found


def _inside(lines: list[str], pid: int) -> None:
    import subprocess

    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-"]
    try:
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError("set up network devices", "", str(error), hint="install iproute2", origin="linux.netDevices") from None
    if done.returncode:
        raise HostError("set up network devices", "", done.stderr.strip(), origin="linux.netDevices")
