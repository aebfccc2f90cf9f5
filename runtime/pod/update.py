"""New limits for a running pod."""

from __future__ import annotations

import errno
import os

from pyrun.errors import HostError, StateError
from pyrun.pod import limits
from pyrun.pod.live import find_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

__all__ = ["update"]


def update(pods: Pods, uuid: str, options: Options) -> None:
    """Set the limits of `options` for the running pod, all or none; UsageError for what makes no sense.

    HostError where the pod's cgroup does not have the controller, or the kernel refuses a value: what was set before holds
    then.  They last until the pod is started again.
    """
    wanted = limits.of(options, [], fresh=False)
    with find_live(pods, uuid) as live:
        where = live.cgroup
    if not where:
        raise StateError("update pod", uuid, "it has no cgroup", hint="that takes a cgroup2 tree that pyrun may write to")
    before: list[tuple[str, str]] = []
    for file, text, origin in wanted:
        path = f"{where}/{file}"
        try:
            with open(path, encoding="utf-8") as held:
                old = held.read()
            _write(path, text)
            before.append((path, old))
        except OSError as error:
            _restore(before)
            hint = "see cgroups(7)"
            reason = os.strerror(error.errno or 0).lower()
            if error.errno == errno.ENOENT:
                reason = f"the pod's cgroup does not have the controller {file.partition('.')[0]}"
                hint = "start the pod with a limit of that kind: then pyrun enables the controller for it"
            raise HostError("set limit", f"{file} {text}", reason, errno=error.errno or 0, hint=hint, origin=origin) from None


def _restore(before: list[tuple[str, str]]) -> None:
    for path, text in reversed(before):
        for line in text.splitlines():  # io.max has one for each disk
            _write(path, line)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
