"""How the last line begins that a verb writes to standard error with --format json, where the output is the app's own.

The native side adds how it ended (PLAN_TELL_END of native/plan.h), with the members that `pyrun status --format json` has.
"""

from __future__ import annotations

import json
import os

from pyrun.pod.state import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["begin", "begin_process", "facts"]


def begin(pods: Pods, phase: str, uuid: str) -> str:
    """Return the beginning of a line about a pod of this phase."""
    fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    try:
        return _open({**facts(fd, uuid), "state": "exited"})
    finally:
        os.close(fd)


def begin_process(pod: int, uuid: str, app: str) -> str:
    """Return the beginning of a line about one more process in a pod with the directory `pod`; `app` is "" for the only one."""
    found = facts(pod, uuid)
    return _open({**found, "app": app or found.get("app", "")})


def facts(pod: int, uuid: str) -> dict[str, object]:
    """Return which pod it is, by the record in its directory `pod`, as its status has it."""
    record = read_json(pod, "pod")
    found: dict[str, object] = {"uuid": uuid, "pod_name": record.get("pod_name", "")}
    found.update((name, record[name]) for name in ("app", "name", "image") if name in record)
    return found


def _open(found: dict[str, object]) -> str:
    return json.dumps(found)[:-1] + ", "
