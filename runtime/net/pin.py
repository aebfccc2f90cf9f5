"""A mount that keeps the network namespace of a prepared pod while no process is in it: `prepare --net-ahead`.

    netns/UUID    below the state directory: a file with the namespace mounted on it (ip-netns(8), nsfs)

Once the pod's keeper has the namespace the mount goes (native/keeper.c); before that whoever removes the pod takes it away.  Both
unmount it and remove the file, and with the file the kernel detaches what other mount namespaces have copied (since Linux 3.18:
vfs_unlink lets go of mounts elsewhere).  A file with nothing on it, after a boot or where somebody unmounted it, is no namespace:
Python makes another.
"""

from __future__ import annotations

import contextlib
import os

from pyrun import native
from pyrun.errors import HostError
from pyrun.images.locks import private_dirs

__all__ = ["is_network", "open_pinned", "orphans", "path_of", "pin", "unpin"]


def path_of(root: str, uuid: str) -> str:
    """Return where the namespace of the prepared pod `uuid` is mounted."""
    return f"{root}/netns/{uuid}"


def pin(root: str, uuid: str, ns: int) -> None:
    """Keep the namespace `ns` for the pod; HostError when it cannot be mounted."""
    path = path_of(root, uuid)
    try:
        private_dirs(os.path.dirname(path))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        native.bind(f"/proc/self/fd/{ns}", path)
    except OSError as error:
        hint = "leave out --net-ahead: the network is then made when the pod starts"
        raise HostError("mount the network namespace", path, errno=error.errno or 0, hint=hint, origin="--net-ahead") from None


def unpin(root: str, uuid: str) -> bool:
    """Let go of it, in every mount namespace; whether there was one."""
    path = path_of(root, uuid)
    if not os.path.lexists(path):
        return False
    with contextlib.suppress(OSError):
        native.unmount(path)  # in this mount namespace it may not be
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return True


def open_pinned(root: str, uuid: str) -> int:
    """Return a descriptor of the namespace that is kept for the pod, -1 without one."""
    try:
        ns = os.open(path_of(root, uuid), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return -1
    if not is_network(ns):
        os.close(ns)
        return -1
    return ns


def is_network(fd: int) -> bool:
    """Whether a descriptor is a network namespace."""
    import fcntl

    try:
        return fcntl.ioctl(fd, 0xB703, 0) == 0x40000000  # NS_GET_NSTYPE of ioctl_ns(2), CLONE_NEWNET
    except OSError:
        return False


def orphans(root: str) -> list[str]:
    """Return the UUIDs for which one is kept, or was, that do not stand prepared: nobody will want it."""
    try:
        return [uuid for uuid in os.listdir(f"{root}/netns") if not os.path.isdir(f"{root}/pods/prepared/{uuid}")]
    except FileNotFoundError:
        return []
