"""Which kernel parameters a container may set: those that one of its own namespaces keeps apart (sysctl(8), namespaces(7))."""

from __future__ import annotations

from pyrun.oci.rules import Bad

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["UTS", "check", "path"]

_IPC = frozenset(
    """
    kernel/msgmax kernel/msgmnb kernel/msgmni kernel/sem kernel/shmall kernel/shmmax kernel/shmmni kernel/shm_rmid_forced
    kernel/msg_next_id kernel/sem_next_id kernel/shm_next_id
    """.split()
)
UTS = frozenset(("kernel/hostname", "kernel/domainname"))
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@")


def path(key: str) -> str:
    """Return the path below /proc/sys, "net/ipv4/ip_forward"; Bad when the key is not one.

    As in sysctl(8) the separator is whichever of . and / comes first, and the other one is then part of a name:
    net/ipv4/conf/eth0.100/forwarding and net.ipv4.conf.eth0/100.forwarding are the same.
    """
    if not _LETTERS.issuperset(key):
        raise Bad(f"{key!r} is not the name of a kernel parameter", "letters, digits and _ - . / : @")
    dot, slash = key.find("."), key.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        key = key.translate({ord("."): "/", ord("/"): "."})
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise Bad(f"{key!r} is not the name of a kernel parameter", "for example net.ipv4.ip_forward")
    return key


def check(key: str, own: Collection[str], hostname: str) -> None:
    """Refuse a parameter that would change the host; `own` are the types of the container's own namespaces."""
    name = path(key)
    if name in _IPC or name.startswith("fs/mqueue/"):
        kind = "ipc"
    elif name.startswith("net/"):
        kind = "network"
    elif name in UTS:
        kind = "uts"
        if name == "kernel/hostname" and hostname:
            raise Bad("says the same as hostname", "keep one of them")
    elif name.startswith("user/"):
        kind = "user"
    else:
        raise Bad("is not kept apart by any namespace, it would change the host", "set it on the host if it must be")
    if kind not in own:
        raise Bad(f"would change the host: the container has no {kind} namespace of its own", f"add {kind} to linux.namespaces")
