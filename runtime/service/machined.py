"""Registration of running pods with systemd-machined, org.freedesktop.machine1(5), so that machinectl(1) shows them.

Off every hot path and by systemd's own busctl(1): who is registered, its process 1, is known only once the pod runs.
"""

from __future__ import annotations

import os

from pyrun.errors import StateError
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["is_name", "pod_of_process", "register", "strangers", "unit_of"]

_MANAGER = ("org.freedesktop.machine1", "/org/freedesktop/machine1", "org.freedesktop.machine1.Manager")
_TITLE = b"pyrun: pod "
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")
_LIMIT = 30  # seconds for the answer of the bus


def pod_of_process(pid: int) -> str:
    """Return the UUID of the pod that a process supervises, by its title (proc(5), cmdline); "" when it is no supervisor."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read(64)
    except OSError:
        return ""
    return title.removeprefix(_TITLE).rstrip(b"\0").decode("ascii", "replace") if title.startswith(_TITLE) else ""


def is_name(text: str) -> bool:
    """Whether machined would take this as the name of a machine: that of a host, up to 64 characters."""
    return 0 < len(text) <= 64 and _NAME.issuperset(text) and text[0].isalnum() and text[-1].isalnum() and ".." not in text


def unit_of(pid: int) -> tuple[str, str]:
    """Return the unit of the system's manager that a process belongs to and the directory of its control group, ("", "") for none.

    As machined decides it: slices nest, what is below the first that is none belongs to that one.
    """
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return "", ""
    path = next((where for _, name, where in lines if name == "name=systemd"), "")
    top = "/sys/fs/cgroup" + ("/systemd" if path else "")
    path = path or next((where for _, name, where in lines if not name), "")
    for word in path.strip("/").split("/"):
        top += "/" + word
        if not word.endswith(".slice"):
            return (word, top) if word.endswith((".service", ".scope")) else ("", "")
    return "", ""


def strangers(unit: str, folder: str, own: Iterable[int], group: str) -> bool:
    """Whether stopping a unit would stop more than a pod: what descends from the pids `own` is the pod's, as is all in the group `group`.

    Whoever asks does not count: that is ExecStartPost= of the unit.
    """
    if _main_of(unit) in own:
        return False
    known = {*own, os.getpid()}
    for where, _, files in os.walk(folder):
        if "cgroup.procs" not in files or (group and f"{where}/".startswith(f"{group}/")):
            continue
        try:
            with open(f"{where}/cgroup.procs", encoding="ascii") as file:
                pids = [int(line) for line in file]
        except OSError:
            continue  # it has just been removed
        if not all(_descends(pid, known) for pid in pids):
            return True
    return False


def _main_of(unit: str) -> int:
    """The main process of a service, 0 for none."""
    import subprocess

    command = ["systemctl", "--system", "show", "--property=MainPID", "--value", "--", unit]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 0
    return max(whole(done.stdout.strip(), 1 << 22), 0)


def _descends(pid: int, known: set[int]) -> bool:
    """Whether a process, or one above it, is known; one that has ended meanwhile harms nobody."""
    while pid > 1 and pid not in known:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return True
    return pid in known


def register(name: str, uuid: str, leader: int) -> None:
    """Make the pod whose process 1 is `leader` a machine of the class container; one of that name is forgotten first.

    machined puts it under the unit that its processes belong to, which `machinectl terminate` stops, and forgets it with them.
    StateError when it refuses.
    """
    _call(["UnregisterMachine", "s", name])  # of the unit's last run; that there is none is no error
    identity = [str(byte) for byte in bytes.fromhex(uuid.replace("-", ""))]
    words = ["RegisterMachine", "sayssus", name, str(len(identity)), *identity, "pyrun", "container", str(leader), ""]
    refused = _call(words)
    if refused:
        raise StateError("register pod", uuid, refused, hint="is systemd-machined there (package systemd-container), and is this root?")


def _call(words: list[str]) -> str:
    """What the manager said against it, "" when it did it."""
    import subprocess

    command = ["busctl", "--system", "--quiet", "call", *_MANAGER, *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        return "there is no busctl"
    except subprocess.TimeoutExpired:
        return "the system bus does not answer"
    return "" if done.returncode == 0 else (done.stderr.strip() or f"busctl exits with {done.returncode}")
