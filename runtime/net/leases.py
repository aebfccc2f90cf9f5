"""Who has which address, and which port of the host: a link to the pod's UUID, named by what it has.

A link is made by one system call, with what it says (symlink(2)), so no crash leaves half of one.  It counts as long as its
pod lives, which a lock of the kernel's says (pyrun.pod.state): what a dead pod left is simply taken over, and `gc` removes it.
"""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, UsageError
from pyrun.net.networks import directory
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.net.addresses import Subnet
    from pyrun.net.networks import Network

MOST = 1 << 16  # addresses of a subnet that are given to pods

__all__ = ["MOST", "alive", "claim", "lease", "orphans", "release", "unlink"]


def alive(root: str, uuid: str) -> bool:
    """Whether a pod is running or going to: somebody holds its lock, or it is prepared."""
    import fcntl

    if os.path.isdir(f"{root}/pods/prepared/{uuid}"):
        return True
    for phase in ("running", "preparing"):
        try:
            fd = os.open(f"{root}/pods/{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


def claim(root: str, path: str, uuid: str, dead: list[str]) -> str:
    """Take what `path` stands for; "" when that went well, else the UUID of the living pod that has it.  The lock is held.

    What a dead pod had is put down in `dead`, for `pyrun.net.rules.clear`.
    """
    for _ in range(2):
        try:
            os.symlink(uuid, path)
            return ""
        except FileExistsError:
            owner = owner_of(path)
            if owner == uuid:
                return ""
            if owner and alive(root, owner):
                return owner
            dead.append(path)
            unlink(path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    return claim(root, path, uuid, dead)


def unlink(path: str, dir_fd: int | None = None) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path, dir_fd=dir_fd)
    except FileNotFoundError:
        return


def owner_of(path: str) -> str:
    """Return the UUID in a link, "" when it is gone."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def lease(root: str, network: Network, subnet: Subnet, uuid: str, wanted: str, dead: list[str]) -> str:
    """Take an address of a subnet, `wanted` or the next free one, and return it; the lock is held, `dead` as `claim` has it.

    ConfigError when there is none left, or the wanted one is another pod's; UsageError for one that cannot be had.
    """
    folder = f"{directory(root)}/{network.name}"
    if wanted:
        return _wanted(root, network, subnet, uuid, wanted, dead)
    most = min(subnet.hosts, MOST)
    last = f"{folder}/last{subnet.family}"
    text = owner_of(last)
    start = max(0, whole(text, 1 << 128))
    try:
        there = set(os.listdir(folder))
    except FileNotFoundError:
        os.mkdir(folder, 0o700)
        there = set()
    for round_ in range(2):  # first what nobody has, then what the dead have
        for step in range(most):
            place = (start + step) % most
            address = subnet.at(place + 2)
            if (round_ == 1 or address not in there) and not claim(root, f"{folder}/{address}", uuid, dead):
                _note(last, (place + 1) % most)  # not the same one again: somebody may still mean the old pod
                return address
    hint = f"end pods, or make a larger one: see `pyrun network show {network.name}`"
    raise ConfigError("join network", network.name, f"all {most} addresses of {subnet} are in use", hint=hint)


def _note(path: str, place: int) -> None:
    unlink(path + ".new")  # of somebody who was killed between the next two lines; the lock is held
    os.symlink(str(place), path + ".new")
    os.rename(path + ".new", path)


def _wanted(root: str, network: Network, subnet: Subnet, uuid: str, wanted: str, dead: list[str]) -> str:
    place = _place(subnet, wanted)
    if not 2 <= place < subnet.hosts + 2:
        hint = f"addresses for pods are {subnet.at(2)} to {subnet.at(subnet.hosts + 1)}"
        raise UsageError("join network", network.name, f"a pod cannot have {wanted} there", hint=hint, origin="--net")
    owner = claim(root, f"{directory(root)}/{network.name}/{subnet.at(place)}", uuid, dead)
    if owner:
        raise ConfigError("join network", network.name, f"{wanted} is pod {owner}'s", hint="choose another address", origin="--net")
    return subnet.at(place)


def _place(subnet: Subnet, address: str) -> int:
    from pyrun.net.addresses import number_of

    return number_of(address) - subnet.base


def release(path: str, uuid: str) -> bool:
    """Give up what `path` stands for if it is this pod's; whether it was."""
    if owner_of(path) != uuid:
        return False
    unlink(path)
    return True


def orphans(root: str) -> list[tuple[str, str]]:
    """Return what dead pods have left, as (path, UUID); the lock is held."""
    found = []
    try:
        folders = [entry.path for entry in os.scandir(root + "/networks") if entry.is_dir()]
    except FileNotFoundError:
        return []
    for folder in folders:
        for entry in os.scandir(folder):
            owner = owner_of(entry.path) if not entry.name.startswith("last") else ""
            if owner and not alive(root, owner):
                found.append((entry.path, owner))
    return found
