"""Names of kernel parameters, and the namespace that keeps each apart from the host's (sysctl(8), namespaces(7))."""

from __future__ import annotations

__all__ = ["UTS", "namespace", "path"]

_IPC = frozenset(
    """
    kernel/msgmax kernel/msgmnb kernel/msgmni kernel/sem kernel/shmall kernel/shmmax kernel/shmmni kernel/shm_rmid_forced
    kernel/msg_next_id kernel/sem_next_id kernel/shm_next_id
    """.split()
)
UTS = frozenset(("kernel/hostname", "kernel/domainname"))
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@")


def path(key: str) -> str:
    """Return the path below /proc/sys, "net/ipv4/ip_forward"; ValueError of a reason and a hint when the key is not one.

    As in sysctl(8) the separator is whichever of . and / comes first, and the other one is then part of a name:
    net/ipv4/conf/eth0.100/forwarding and net.ipv4.conf.eth0/100.forwarding are the same.
    """
    if not _LETTERS.issuperset(key):
        raise ValueError(f"{key!r} is not the name of a kernel parameter", "letters, digits and _ - . / : @")
    dot, slash = key.find("."), key.find("/")
    name = key.translate({ord("."): "/", ord("/"): "."}) if dot >= 0 and (slash < 0 or dot < slash) else key
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(f"{key!r} is not the name of a kernel parameter", "for example net.ipv4.ip_forward")
    return name


def namespace(name: str) -> str:
    """Return which namespace has a parameter of its own, by its path: ipc, network, uts, user, or the empty string for none."""
    if name in _IPC or name.startswith("fs/mqueue/"):
        return "ipc"
    if name in UTS:
        return "uts"
    return "network" if name.startswith("net/") else "user" if name.startswith("user/") else ""
