"""/etc/hosts of the pods of a network, kept current: why there is no resolver says docs/design/networking.md.

Every pod has the file `hosts` in its directory and sees it, read-only, as its /etc/hosts.  It begins with what is the pod's own;
then there is a section for each network, `# network NAME`, with the other pods that have a name there.  Which those are stands
in networks/NAME.hosts, a line each: ADDRESS NAME... # UUID.  A pod without a name is in nobody's file.

A file is changed in place, by one write(2): the pod has this very file mounted.
"""

from __future__ import annotations

import os

from pyrun.host import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["forget", "lines_of", "remember", "write_hosts"]

_SECTION = "# network "


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return ""


def _overwrite(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        data = text.encode("utf-8", "surrogateescape")
        os.fchmod(fd, 0o644)
        write_all(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _lines(root: str, network: str) -> list[str]:
    return _read(f"{root}/networks/{network}.hosts").splitlines()


def remember(root: str, network: str, uuid: str, addresses: Iterable[str], names: list[str]) -> None:
    """A pod joins a network under these names; the lock is held."""
    if names:
        _change(root, network, [*_without(root, network, uuid), *lines_of(uuid, addresses, names)])


def lines_of(uuid: str, addresses: Iterable[str], names: list[str]) -> list[str]:
    """Return what is put down of a pod."""
    words = " ".join(names)
    return [f"{address}\t{words} # {uuid}" for address in addresses]


def forget(root: str, network: str, uuid: str) -> None:
    """A pod leaves a network; the lock is held."""
    before, after = _lines(root, network), _without(root, network, uuid)
    if before != after:
        _change(root, network, after)


def _without(root: str, network: str, uuid: str) -> list[str]:
    return [line for line in _lines(root, network) if not line.endswith(" # " + uuid)]


def _change(root: str, network: str, lines: list[str]) -> None:
    path = f"{root}/networks/{network}.hosts"
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
    os.rename(path + ".new", path)
    section = _section(network, lines, "")
    for uuid in _members(root, network):
        own = _section(network, lines, uuid) if any(line.endswith(uuid) for line in lines) else section
        pod = _directory_of(root, uuid)
        if pod < 0:
            continue  # it has just gone
        try:
            _replace(f"/proc/self/fd/{pod}/hosts", network, own)
        except FileNotFoundError:
            continue
        finally:
            os.close(pod)


def _members(root: str, network: str) -> set[str]:
    """Who has an address on it or, where plug-ins lease them, every pod: who is not on it has no section of it."""
    try:
        return {os.readlink(entry.path) for entry in os.scandir(f"{root}/networks/{network}") if entry.is_symlink()}
    except FileNotFoundError:
        folders = [f"{root}/pods/{phase}" for phase in ("running", "prepared")]
        return {name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)}


def _section(network: str, lines: list[str], uuid: str) -> str:
    """What a pod's file says about a network; it does not name itself."""
    found = [line.rpartition(" # ")[0] for line in lines if not uuid or not line.endswith(" # " + uuid)]
    return f"{_SECTION}{network}\n" + "".join(line + "\n" for line in found)


def _replace(path: str, network: str, section: str) -> None:
    os.stat(path)
    text = _read(path)
    before, mark, rest = text.partition(f"{_SECTION}{network}\n")
    if not mark:
        return
    _, other, after = rest.partition(_SECTION)
    now = before + section + other + after
    if now != text:
        _overwrite(path, now)


def write_hosts(root: str, directory: str, uuid: str, own: str, networks: list[str]) -> None:
    """Write the file of a pod that has joined these networks; `own` is what it begins with.  The lock is held."""
    _overwrite(f"{directory}/hosts", own + "".join(_section(name, _lines(root, name), uuid) for name in networks))


def _directory_of(root: str, uuid: str) -> int:
    """A descriptor, -1 for none: its keeper moves it on, in this order, and asks for no lock of networks."""
    for phase in ("prepared", "running"):
        try:
            return os.open(f"{root}/pods/{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
    return -1
