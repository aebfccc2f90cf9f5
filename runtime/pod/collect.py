"""What `gc` removes besides the remains of crashes: pods that ended long ago, prepared ones that nobody ran, free names."""

from __future__ import annotations

import os
import time

from pyrun.errors import PyrunError
from pyrun.pod.names import is_uuid, phase_of, release
from pyrun.pod.state import lock, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.pod.state import Pods

__all__ = ["DAY", "collect"]

DAY = 86400


def collect(pods: Pods, *, grace: float = 0, expire: float = DAY, told: Callable[[str, str], None]) -> None:
    """Remove pods that ended more than `grace` seconds ago and prepared ones older than `expire`; `told` hears (phase, UUID),

    or ("file", name) of what is no directory.  A pod that somebody holds the lock of, who starts it or looks after it, is left alone.
    """
    for phase, age in (("exited", grace), ("prepared", expire)):
        for uuid in pods.uuids(phase):
            if pods.drop(phase, uuid):
                told("file", uuid)
            elif _take(pods, phase, uuid, age):
                told(phase, uuid)
    for name in pods.uuids("names"):
        try:
            uuid = os.readlink(f"{pods.path}/names/{name}")
        except OSError:
            continue  # another gc was first, or it is no name
        if not is_uuid(uuid) or not (phase_of(pods, uuid) or os.path.exists(f"{pods.path}/preparing/{uuid}")):
            release(pods, name, uuid)


def _take(pods: Pods, phase: str, uuid: str, age: float) -> bool:
    try:
        fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return False
    try:
        if (age and _age(fd, phase) < age) or not lock(fd):
            return False  # young ones are not even locked: somebody may be starting one
        try:
            pods.delete(phase, uuid)
        except PyrunError:
            return False  # its network: the next sweep says so
    finally:
        os.close(fd)
    return True


def _age(fd: int, phase: str) -> float:
    """Seconds that a pod has been in its phase: never more than the clock that nobody can set has run since.

    The records hold `uptime`, CLOCK_BOOTTIME in nanoseconds.  One of an earlier boot makes a pod look younger, not older.
    """
    info = os.fstat(fd)
    told = time.time() - (info.st_ctime if phase == "exited" else info.st_mtime)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for name in ("exit", "pod"):
        since = read_json(fd, name).get("uptime")
        if isinstance(since, int) and since <= now:
            sure = (now - since) / 1e9
            return min(told, sure) if told >= 0 else sure
    return told
