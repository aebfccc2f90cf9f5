"""Registration of running pods with systemd-machined, org.freedesktop.machine1(5), so that machinectl(1) shows them.

Off every hot path and by systemd's own busctl(1): who is registered, its process 1, is known only once the pod runs.
"""

from __future__ import annotations

import os

from pyrun.errors import StateError

__all__ = ["is_name", "pod_of_process", "register"]

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


def register(name: str, uuid: str, leader: int) -> None:
    """Make the pod whose process 1 is `leader` a machine of the class container; one of that name is forgotten first.

    machined puts it under the unit that its processes belong to and forgets it with them.  StateError when it refuses.
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
