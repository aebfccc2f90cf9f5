"""Containers on disk: one directory each below the root of the runtime's state, which is gone at a reboot.

    ROOT/ID/state     what `state` prints and the verbs need, written once, when the container is created
    ROOT/ID/fast      the same for the launcher (native/oci_verbs.c), which does without Python where it can
    ROOT/ID/group     the directory of its cgroup, and of those in version 1 with a NUL between, before they are made
    ROOT/ID/exec.fifo there while the container's process waits on it to be started (native/oci_start.c)
    ROOT/ID/failure   why it could not be, as the launcher has read it there
    ROOT/ID/config    config.json as it was at create
    ROOT/ID/plan      the plan, which names the operation of a failure

The directory is locked (flock(2)) by whoever changes the container.  One without `state` is being made or, when nobody
holds its lock, was left by a create that was killed.  A process is named by pid and start time, so that another one
with its pid is never taken for it.
"""

from __future__ import annotations

import errno
import os

from pyrun import native
from pyrun.errors import StateError
from pyrun.images import fastjson
from pyrun.native.users import require_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Container", "around_pid", "check_id", "create", "hook_state", "list_ids", "new_record", "pretty", "start_time"]

_MARK = "\0"

_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_MAX = 16 << 20


def check_id(name: str) -> str:
    """Return `name` if it can be a container's; StateError otherwise."""
    foreign = not _ALPHABET.issuperset(name)
    if not name or len(name) > 1024 or name.startswith(".") or foreign:
        reason = "invalid id" + ": invalid character in container ID" * foreign
        raise StateError("find container", repr(name), reason, hint="letters, digits and _ + - . make an id, not starting with a dot")
    return name


def start_time(pid: int) -> int:
    """Return field 22 of /proc/PID/stat (proc(5)), 0 when the process is gone or dead and not yet reaped."""
    try:
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if len(fields) < 20 or fields[0] in (b"Z", b"X") else int(fields[19])


def read(path: str, dir_fd: int | None = None, *, follow: bool = False) -> bytes:
    """Return a whole file; only one that the caller names may be behind a link."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if follow else os.O_NOFOLLOW), dir_fd=dir_fd)
    try:
        if follow and os.fstat(fd).st_mode & 0o170000 == 0o010000:
            from pyrun.images.given import opener

            os.dup2(other := opener(path, os.O_RDONLY), fd, inheritable=False)
            os.close(other)
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
            if len(parts) > _MAX >> 16:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return b"".join(parts)
    finally:
        os.close(fd)


def write(path: str, data: bytes, dir_fd: int | None = None) -> None:
    """Put `data` at `path` in one step, 0600."""
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
    os.rename(path + ".new", path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


class Container:
    """One container: its directory `fd` and what was written at create, `record`."""

    __slots__ = ("fd", "id", "record", "root")

    def __init__(self, root: str, name: str, *, lock: bool = True) -> None:
        self.root = root
        self.id = check_id(name)
        self.record: dict[str, Any] = {}
        try:
            self.fd = os.open(f"{root}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise self._absent() from None
        if lock:
            self.lock()
        self._load()

    def _absent(self) -> StateError:
        hint = "`pyrun-oci list` shows those there are"
        return StateError("find container", self.id, "container does not exist", errno=errno.ENOENT, hint=hint)

    def lock(self) -> None:
        """Wait for the lock; StateError when the container has been deleted meanwhile, or somebody holds it for more than a minute."""
        import fcntl

        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            from pyrun.oci import patience

            patience.wait(self.fd, self.id)
        if os.fstat(self.fd).st_nlink == 0:
            raise self._absent()

    def _load(self) -> None:
        try:
            value = fastjson.loads(read("state", self.fd))
        except FileNotFoundError:
            return
        except ValueError as error:
            raise StateError("read state", f"{self.root}/{self.id}/state", str(error)) from None
        if isinstance(value, dict):
            self.record = value

    @property
    def pid(self) -> int:
        """The process that was created; 0 when it is gone."""
        pid: int = self.record.get("pid", 0)
        return pid if pid and start_time(pid) == self.record.get("startTime") else 0

    @property
    def group(self) -> str:
        """The directory of its cgroup, "" without one; known from before there is one, for a create that was killed."""
        if self.record:
            found: str = self.record.get("cgroup", "")
            return found
        return self._planned()[0]

    @property
    def groups_1(self) -> list[str]:
        """The directories of its groups in hierarchies of cgroup version 1, known likewise."""
        return [*self.record.get("cgroups_1", {}).values()] if self.record else self._planned()[1:]

    def _planned(self) -> list[str]:
        try:
            return os.fsdecode(read("group", self.fd)).split("\0")
        except FileNotFoundError:
            return [""]

    def status(self) -> str:
        """Return creating, created, running, paused or stopped."""
        if not self.record:
            return "creating"
        if not self.pid:
            return "stopped"
        if self.waiting():
            return "created"
        group = self.record.get("cgroup")
        if group and _frozen(group):
            return "paused"
        return "running"

    def waiting(self) -> bool:
        """Whether it has not been started yet."""
        try:
            os.stat("exec.fifo", dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def config(self) -> dict[str, Any]:
        """Return the configuration as it was at create."""
        value = fastjson.strict(read("config", self.fd))
        assert isinstance(value, dict)
        return value

    def state(self, status: str = "") -> dict[str, Any]:
        """Return the state as the specification has it, and what other runtimes add to that."""
        record, status = self.record, status or self.status()
        pid = 0 if status == "stopped" else record.get("pid", 0)
        shown = {"ociVersion": record.get("ociVersion", "1.0.2"), "id": self.id, "pid": pid, "status": status}
        shown.update(
            {name: record[name] for name in ("bundle", "rootfs", "created", "owner", "systemd-scope", "annotations") if name in record}
        )
        return shown

    def rewrite(self, record: dict[str, Any]) -> None:
        """Let `record` be what is known of it, the launcher first; OSError when that does not fit."""
        self.record = record
        write("fast", self.fast(), self.fd)
        write("state", fastjson.dumps(record).encode(), self.fd)

    def fast(self) -> bytes:
        """Return what the file `fast` is to hold."""
        record = self.record
        words = ["cgroups"] * ("cgroups_1" in record) + ["hooks"] * bool(record.get("hooks") or record.get("notify"))
        python = " ".join(words)  # what more there is to be done than the launcher does
        lines = [str(record["pid"]), str(record["startTime"]), record.get("cgroup", ""), python]
        helper = os.fsencode(os.path.abspath(native.HELPER))
        if record.get("hostMounts") or any("\n" in line for line in lines):
            return b""
        text = pretty({**self.state("\0"), "pid": 0})
        head, _, tail = text.partition('0,\n  "status": "\\u0000"')
        return b"\0".join((("".join(line + "\n" for line in lines) + head).encode(), tail.encode(), helper))

    def unmount(self) -> None:
        """Unmount the root of a container that shares the host's mounts."""
        if os.access("mounted", os.F_OK, dir_fd=self.fd):
            from pyrun.oci import hostroot

            hostroot.forget(self)

    def remove(self) -> None:
        """Remove its directory; that it is locked is the caller's affair."""
        clear(self.fd)
        os.rmdir(f"{self.root}/{self.id}")

    def close(self) -> None:
        """Let go of the directory, and of its lock."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def around_pid(shown: dict[str, Any]) -> tuple[str, str]:
    """Return the JSON of a state before and behind a pid that is not known yet."""
    head, tail = fastjson.dumps({**shown, "pid": _MARK}).split(fastjson.dumps(_MARK))
    return head, tail


def hook_state(container: Container, record: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the state that hooks, and a listener of the filter, get to see; without the pid."""
    shown = {"ociVersion": record["ociVersion"], "id": container.id, "status": status, "bundle": record["bundle"]}
    if "annotations" in record:
        shown["annotations"] = record["annotations"]
    return shown


def clear(fd: int) -> None:
    """Remove all that is in a directory."""
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            try:
                clear(below)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=fd)


def pretty(shown: dict[str, Any]) -> str:
    """Return a state as indented JSON."""
    rows = ",\n".join([f"  {fastjson.quote(name)}: {fastjson.dumps(value)}" for name, value in shown.items()])
    return f"{{\n{rows}\n}}\n"


def _frozen(group: str) -> bool:
    try:
        return b"frozen 1" in read(group + "/cgroup.events")
    except OSError:
        return False


def new_record(name: str, config: dict[str, Any], bundle: str) -> dict[str, Any]:
    """Return what `state` is to know of a container that is being made, but for its process and its cgroup."""
    import time

    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    record = {
        "ociVersion": config["ociVersion"],
        "id": name,
        "bundle": bundle,
        "rootfs": os.path.join(bundle, config["root"]["path"]),
        "created": f"{stamp}.{int(now * 1e9) % 10**9:09d}Z",
        "owner": _owner(),
    }
    if config.get("annotations"):
        record["annotations"] = config["annotations"]
    kinds = [kind for kind in ("poststart", "poststop") if (config.get("hooks") or {}).get(kind)]
    if kinds:
        record["hooks"] = kinds
    return record


def _owner() -> str:
    uid = os.geteuid()
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def create(root: str, name: str) -> Container:
    """Make the directory of a new container, locked; StateError when there is one of that name."""
    check_id(name)
    require_own(root)
    os.makedirs(root, 0o700, exist_ok=True)
    try:
        os.mkdir(f"{root}/{name}", 0o700)
    except FileExistsError:
        if not _abandoned(root, name):
            raise _exists(name) from None
    container = Container(root, name)
    if container.record:  # another create was faster
        container.close()
        raise _exists(name)
    return container


def _exists(name: str) -> StateError:
    hint = "choose another id, or delete that one first"
    return StateError("create container", name, "container with given ID already exists", errno=errno.EEXIST, hint=hint)


def _abandoned(root: str, name: str) -> bool:
    """Whether there is a directory without a state whose maker is dead."""
    import fcntl

    fd = os.open(f"{root}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "state" not in os.listdir(fd)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def list_ids(root: str) -> list[str]:
    """Return the names of all containers."""
    try:
        return sorted(name for name in os.listdir(root) if not name.startswith("."))
    except FileNotFoundError:
        return []
