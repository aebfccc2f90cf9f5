"""What `gc` removes of networks, whatever killed whom: everything in the host that belongs to no living pod."""

from __future__ import annotations

import contextlib
import os
import time

from pyrun.errors import PyrunError
from pyrun.native.users import is_root
from pyrun.net import cni, leases, names, networks, pin, rules
from pyrun.net.attach import detach, read_record, records, standing
from pyrun.net.netlink import Netlink, has_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["sweep"]

_UUID = 36
_START = 60  # seconds


def sweep(root: str) -> int:
    """Remove links in `networks`, interfaces, elements of our table and names of dead pods; return how many."""
    if not os.path.isdir(root + "/networks"):
        return 0
    count, failed = _ended(root)
    count += sum(pin.unpin(root, uuid) for uuid in pin.orphans(root))
    with networks.Lock(root):
        alive = records(root)
        for path, uuid in leases.orphans(root):
            count += leases.release(path, uuid)
        for path in _host_files(root):
            count += _names(root, path, set(alive))
        if is_root():  # pods of others have none
            count += _interfaces(root, alive)
            count += _elements(root)
    valid: dict[str, list[tuple[str, str]]] = {}
    for uuid, record in alive.items():
        for made in record["nets"]:
            if made["kind"] == "cni":
                valid.setdefault(made["network"], []).append((uuid, made["ifname"]))
    with contextlib.suppress(PyrunError):
        cni.collect(root, valid)
    if failed is not None:
        raise failed  # the rest had its turn
    return count


def _ended(root: str) -> tuple[int, PyrunError | None]:
    """Pods that are kept, and whose cleaner was killed: plug-ins have to be asked, where links and rules would go anyway."""
    import fcntl

    count = 0
    failed: PyrunError | None = None
    exited = os.listdir(root + "/pods/exited") if os.path.isdir(root + "/pods/exited") else []
    for path in [*(f"{root}/pods/exited/{uuid}" for uuid in exited), *_not_started(root)]:
        uuid = os.path.basename(path)
        if not os.path.exists(path + "/net"):
            continue
        try:
            pod = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it has just gone
        try:
            fcntl.flock(pod, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if "/prepared/" in path and read_record(pod).get("kind") != "user":
                continue
            detach(root, uuid, pod)
            count += 1
        except BlockingIOError:
            continue  # somebody is at it
        except PyrunError as error:
            failed = failed or error
        finally:
            os.close(pod)
    return count, failed


def _not_started(root: str) -> Iterator[str]:
    """Prepared pods of users whose start was killed when it had made the network; a start that is still at it gets a minute."""
    for uuid in os.listdir(root + "/pods/prepared") if os.path.isdir(root + "/pods/prepared") else []:
        path = f"{root}/pods/prepared/{uuid}"
        with contextlib.suppress(FileNotFoundError):
            if time.time() - os.stat(path + "/net").st_mtime > _START:
                yield path


def _host_files(root: str) -> list[str]:
    return [name[:-6] for name in os.listdir(root + "/networks") if name.endswith(".hosts")]


def _names(root: str, network: str, alive: set[str]) -> int:
    with open(f"{root}/networks/{network}.hosts", encoding="utf-8") as file:
        owners = {line.rstrip("\n")[-_UUID:] for line in file} - alive
    for uuid in owners:
        names.forget(root, network, uuid)
    return len(owners)


def _interfaces(root: str, alive: dict[str, dict[str, Any]]) -> int:
    """The kernel takes them apart with their namespace; somebody who holds that open keeps them, with their address."""
    from pyroute2.iproute.linux import IPRoute

    groups = {network.group for network in networks.known(root)}
    living = {made["link"] for record in alive.values() for made in record["nets"]}
    with IPRoute() as kernel:
        found = [one.get("ifname") for one in kernel.get_links() if one.get("group") in groups]
    with Netlink() as link:
        return sum(link.delete(name) for name in found if name[:2] == "py" and name[10:11] == "-" and name not in living)


def _elements(root: str) -> int:
    """Compare the table with what living pods have, and make it anew where it has more, or less."""
    table = networks.table_of(root)
    if not has_table(table):
        return 0
    forwards, alone = standing(root)
    wanted = {(one.map, f"{one.key} : {one.to} . {one.inside}") for one in forwards}
    wanted |= {("alone6" if ":" in address else "alone4", address) for address in alone}
    found = rules.held(table)
    if found != wanted:
        rules.rebuild(root, forwards, alone)
    return len(found - wanted)
