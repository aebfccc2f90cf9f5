"""Which pod is meant: a whole UUID, a name, or the beginning of a UUID."""

from __future__ import annotations

import os

from pyrun.errors import StateError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.pod.state import Pods

__all__ = ["check_name", "claim", "find", "is_uuid", "phase_of", "release", "rename", "resolve", "uuid_of_name"]

ALIVE = ("prepared", "running", "exited")
_HEX = frozenset("0123456789abcdef-")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")
_LONGEST = 63
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN = 8  # characters of a UUID in tables


def check_name(name: str, origin: str) -> str:
    """Return a pod's name; UsageError unless it is lower case letters, digits and inner dots, dashes and underscores.

    Nor may it look like the beginning of a UUID, as `list` shows it: a name counts first, so who copies that would reach another pod.
    """
    if not name or len(name) > _LONGEST or not set(name) <= _NAME or not (name[0] + name[-1]).isalnum() or is_uuid(name):
        hint = f"up to {_LONGEST} lower case letters, digits, and dots, dashes and underscores inside"
        raise UsageError("name a pod", name, "not a name for a pod", hint=hint, origin=origin)
    if _begins_uuid(name):
        hint = "put a letter from g to z, or a dash, a dot or an underscore, into its first eight characters"
        raise UsageError("name a pod", name, "it looks like the beginning of a UUID, and so of another pod's", hint=hint, origin=origin)
    return name


def _begins_uuid(text: str) -> bool:
    """Whether this could be the beginning of a UUID, of eight characters or more: fewer are never shown."""
    return len(text) >= _SHOWN and is_uuid(text + "00000000-0000-0000-0000-000000000000"[len(text) :])


def is_uuid(text: str) -> bool:
    """Whether this is a whole UUID."""
    return len(text) == 36 and set(text) <= _HEX and [i for i, c in enumerate(text) if c == "-"] == [8, 13, 18, 23]


def phase_of(pods: Pods, uuid: str) -> str:
    """Return where a pod stands now, "" when it is gone.  A pod moves forward only, so looking in that order finds it."""
    for phase in (*ALIVE, *ALIVE):
        if _stands(pods, phase, uuid):
            return phase
    return ""


def uuid_of_name(pods: Pods, name: str) -> str:
    """Return the UUID of the pod of that name, "" when there is none."""
    if not name or "/" in name or "\0" in name or name[0] == ".":
        return ""
    try:
        uuid = os.readlink("names/" + name, dir_fd=pods.fd)
    except OSError:
        return ""
    return uuid if is_uuid(uuid) and phase_of(pods, uuid) else ""


def claim(pods: Pods, name: str, uuid: str, *, take: bool = False) -> None:
    """Give a pod its name; StateError when another one has it.  A name of a pod that is gone is free.

    With `take` so is that of one that has ended, which is then called NAME.UUID, by the beginning of its UUID.
    """
    held = uuid_of_name(pods, name) if take else ""
    if held and phase_of(pods, held) == "exited":
        rename(pods, held, f"{name[: _LONGEST - _SHOWN - 1]}.{held[:_SHOWN]}")
    lock = _lock(pods)
    try:
        try:
            os.symlink(uuid, "names/" + name, dir_fd=pods.fd)
            return
        except FileExistsError:
            pass
        holder = os.readlink("names/" + name, dir_fd=pods.fd)
        if is_uuid(holder) and (phase_of(pods, holder) or _is_being_made(pods, holder)):
            hint = f"choose another name, or remove that pod: pyrun rm {name}; --take-name takes it from one that has ended"
            raise StateError("name a pod", name, f"pod {holder[:8]} has that name", hint=hint)
        os.unlink("names/" + name, dir_fd=pods.fd)
        os.symlink(uuid, "names/" + name, dir_fd=pods.fd)
    finally:
        os.close(lock)


def _is_being_made(pods: Pods, uuid: str) -> bool:
    """Whether somebody prepares that pod.  Who has taken a name holds the lock: one that is free is of somebody who was killed."""
    import fcntl

    try:
        fd = os.open("preparing/" + uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return phase_of(pods, uuid) != ""  # it has moved on, or is gone
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return phase_of(pods, uuid) != ""


def release(pods: Pods, name: str, uuid: str) -> None:
    """Take a pod's name away, if it is its own."""
    lock = _lock(pods)
    try:
        if os.readlink("names/" + name, dir_fd=pods.fd) == uuid:
            os.unlink("names/" + name, dir_fd=pods.fd)
    except OSError:
        pass
    finally:
        os.close(lock)


def rename(pods: Pods, uuid: str, name: str) -> None:
    """Give a pod another name; UsageError for a bad one, StateError when another pod has it."""
    from pyrun.host import write_all
    from pyrun.images import fastjson
    from pyrun.pod.state import read_json

    check_name(name, "")
    phase = phase_of(pods, uuid)
    fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    try:
        record = read_json(fd, "pod")
        old = record.get("pod_name")
        if old == name:
            return
        claim(pods, name, uuid)
        try:
            with open("pod.new", "wb", 0, opener=lambda path, _: os.open(path, _NEW, 0o600, dir_fd=fd)) as file:
                write_all(file.fileno(), fastjson.dumps({**record, "pod_name": name}).encode("utf-8", "surrogateescape"))
                os.fsync(file)
            os.rename("pod.new", "pod", src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            release(pods, name, uuid)
            raise
    finally:
        os.close(fd)
    if isinstance(old, str) and old:
        release(pods, old, uuid)


def _lock(pods: Pods) -> int:
    import fcntl

    from pyrun.images.locks import private_dirs

    private_dirs(pods.path + "/names")
    fd = os.open("names", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=pods.fd)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _stands(pods: Pods, phase: str, uuid: str) -> bool:
    try:
        os.stat(f"{phase}/{uuid}", dir_fd=pods.fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def find(pods: Pods, reference: str) -> tuple[str, str]:
    """Return (phase, UUID) of the one pod that is meant, ("", "") for none; StateError for several."""
    lower = reference.lower()
    uuid = lower if is_uuid(lower) else uuid_of_name(pods, reference)
    if not uuid and lower and set(lower) <= _HEX:
        found = sorted({name for phase in ALIVE for name in pods.uuids(phase) if name.startswith(lower)})
        if len(found) > 1:
            some = ", ".join(name[:13] for name in found[:4])
            raise StateError("find pod", reference, f"{len(found)} pods begin so: {some}", hint="write more of the UUID")
        uuid = found[0] if found else ""
    phase = phase_of(pods, uuid) if uuid else ""
    return (phase, uuid) if phase else ("", "")


def resolve(pods: Pods, reference: str) -> tuple[str, str]:
    """Return (phase, UUID) of the one pod that is meant; StateError for none or several."""
    phase, uuid = find(pods, reference)
    if not phase:
        raise StateError("find pod", reference, "there is none of that name", hint="see `pyrun list`")
    return phase, uuid
