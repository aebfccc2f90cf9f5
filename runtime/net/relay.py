"""The way to ports that no rule of the kernel goes: from [::1] of the host, and to pods of users.

A process for each pod that has such a port, native/relay.c, which says why.  It ends by itself when the kernel has taken the pod's
interface apart, however that came, or a user's pod has lost the program that makes its network; the teardown of the pod ends it before.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError
from pyrun.native import RELAY
from pyrun.net.ports import LOOPBACK
from pyrun.net.processes import end, started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.net.netlink import Netlink

    Port = tuple[str, str, int, int]

__all__ = ["enter", "inward", "lives", "start", "stop", "words"]

_IN_USE, _TOO_MANY = 98, 7  # EADDRINUSE, E2BIG
_TERM = 15
_EVERY, _ABOVE = "::", 16


def _check(wanted: list[Port]) -> None:
    for protocol, address, port, _ in wanted:
        if address == LOOPBACK and protocol == "sctp":
            hint = f"use 127.0.0.1:{port}, or another address of the host"
            reason = "sctp is not relayed from there, it would lose its streams"
            raise ConfigError("forward port", f"[::1]:{port}/sctp", reason, hint=hint, origin="--port")


def start(wanted: list[Port], record: dict[str, Any], link: Netlink) -> None:
    """Start the process for a pod whose interfaces are there, if a port of its takes one, and put it down in the record.

    ConfigError for a port that is in use, one of sctp, or where no network is of ours; HostError when it does not start.
    """
    if found := words(wanted, record, link):
        _start(found, record, ())


def words(wanted: list[Port], record: dict[str, Any], link: Netlink) -> list[str]:
    """Return the arguments of that process, none where no port takes one; ConfigError as `start`."""
    _check(wanted)
    asked = [one for one in wanted if one[1] == LOOPBACK]
    ours = [made for made in record["nets"] if made["kind"] != "cni"]
    mapped = any(made.get("portmap") for made in record["nets"])
    if not ours or mapped:
        if asked:
            hint = "leave out the address, or name another one of the host"
            raise ConfigError("forward port", f"[::1]:{asked[0][2]}", "plug-ins do not forward from there", hint=hint, origin="--port")
        return []
    if wanted and _there():
        asked += [(protocol, LOOPBACK, port, inside) for protocol, address, port, inside in wanted if not address and protocol != "sctp"]
    if not asked:
        return []
    addresses = [address.partition("/")[0] for made in ours for address in made["addresses"]]
    targets = [next((_hex(one) for one in addresses if (":" in one) == six), "") for six in (True, False)]
    return [str(link.index(ours[0]["link"])), ",".join(filter(None, targets)), *_ranges(asked)]


def enter(wanted: list[Port], record: dict[str, Any], process: int, ns: int, users: int = -1) -> None:
    """Likewise for a user's pod, of whose network `ns` is a descriptor: all its ports.  Its network is made by `process`.

    `users` is a descriptor of the user namespace that the network belongs to, -1 when that is this process's own.
    """
    if not wanted:
        return
    held = os.pidfd_open(process)
    try:
        arguments = inward(wanted) if users < 0 else ["inside", *inward(wanted)[1:]]
        _start(arguments, record, (held, ns, users) if users >= 0 else (held, ns))
    finally:
        os.close(held)


def inward(wanted: list[Port]) -> list[str]:
    """Return the arguments of that process where it is in the user namespace that the network belongs to."""
    return ["in", "-", *_ranges(wanted)]


def _start(arguments: list[str], record: dict[str, Any], fds: tuple[int, ...]) -> None:
    said = _spawn(["relay", *arguments], fds).split()
    if len(said) == 1:
        record["relay"] = [int(said[0]), started(int(said[0]))]
        return
    raise _failed(int(said[1]) if len(said) > 2 else 0, int(said[2]) if len(said) > 2 else 0)


def lives(record: dict[str, Any]) -> bool:
    """Whether it does, where there is to be one; it may have been killed with the session or the unit in which it was started."""
    pid, when = record.get("relay", (0, 0))
    return bool(started(pid) == when)


def stop(record: dict[str, Any]) -> None:
    """End it."""
    pid, when = record["relay"]
    try:
        end(pid, lambda: started(pid) == when)
    except (ProcessLookupError, PermissionError):
        return  # the number is nobody's, or somebody else's by now


def _hex(address: str) -> str:
    import _socket

    raw = _socket.inet_pton(10 if ":" in address else 2, address).hex()
    return raw if ":" in address else "0" * 20 + "ffff" + raw


def _there() -> bool:
    """Whether this host has ::1: where IPv6 is switched off nobody misses it."""
    import _socket

    try:
        probe = _socket.socket(10, 2 | _socket.SOCK_CLOEXEC, 0)
    except OSError:
        return False
    try:
        probe.bind((LOOPBACK, 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _ranges(wanted: list[Port]) -> list[str]:
    """Ports as native/relay.c reads them, neighbours together."""
    found: list[tuple[str, int, int, int, str]] = []
    for protocol, address, port, inside in sorted(wanted, key=lambda one: (one[0], one[1], one[2])):
        kind, first, to, count, at = found[-1] if found else ("", 0, 0, 0, "")
        if (kind, first + count, to + count, at) == (protocol[0], port, inside, address):
            found[-1] = (kind, first, to, count + 1, at)
        else:
            found.append((protocol[0], port, inside, 1, address))
    return [f"{kind}{port}:{inside}:{count}:{_hex(at or _EVERY)}" for kind, port, inside, count, at in found]


def _spawn(arguments: list[str], fds: tuple[int, ...]) -> str:
    """Start it and return what it says; `fds` become descriptors 3, 4 and 5."""
    import fcntl

    ready, told = os.pipe()
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in fds]  # out of the way of each other
    actions: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, told, 1),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
        *((os.POSIX_SPAWN_DUP2, fd, 3 + place) for place, fd in enumerate(away)),
    ]
    try:
        try:
            pid = os.posix_spawn(RELAY, arguments, {}, file_actions=actions, setsigmask=(), setsigdef=(_TERM,))
        except OSError as error:
            raise HostError("forward ports", RELAY, errno=error.errno or 0, hint="install pyrun again") from None
        finally:
            for fd in (told, *away):
                os.close(fd)
        with open(ready, "rb", closefd=False) as file:
            said = file.read(64).decode()
    finally:
        os.close(ready)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:  # a program of whose library this is part has all its children reaped
        return said
    return said


def _failed(errno: int, port: int) -> ConfigError | HostError:
    if errno == _IN_USE:
        hint = "choose another port of the host"
        return ConfigError("forward port", str(port), "a program of the host uses it", errno=errno, hint=hint, origin="--port")
    if errno == _TOO_MANY:
        hint = "forward fewer; from the host's 127.0.0.1 alone, as in 127.0.0.1:80:80, root's pods have any number"
        return ConfigError("forward port", str(port), "more than 8192 ports", hint=hint, origin="--port")
    reason = "" if errno else "the relay ended"
    return HostError("forward port", str(port or ""), reason, errno=errno, hint="name another address or port of the host")
