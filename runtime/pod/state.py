"""A pod on disk: the directory it stands in is its phase, a kernel lock on it says whether it lives.

    pods/preparing/UUID   being made; no lock: the maker died
    pods/prepared/UUID    waits for `run-prepared`; whoever locks it and renames it first runs it
    pods/running/UUID     locked by its supervisor; no lock: the supervisor was killed
    pods/exited/UUID      kept after its end, with the record `exit`
    pods/garbage/UUID     to be deleted
    pods/names/NAME       a link to the UUID of the pod of that name; it counts only while there is such a pod

Each transition is one rename(2).  flock(2) is held on the pod's directory itself; the supervisor inherits it, and the
kernel frees it however the supervisor ends.  Inside:

    pod       who it is, JSON
    plan      the encoded plan (native/plan.h), where somebody may need it again: of a prepared or a detached pod.  A pod
              that `pyrun run` started has none; its plan is SLOT_PLAN of its supervisor
    keep      how a prepared pod is to be run: restart policy, logs (native/keep.h)
    run       written by the keeper of a detached pod each time the app runs, JSON: `pid` and `start` of init (pid 1 of the
              pod as the host sees it; start time in clock ticks, field 22 of /proc/PID/stat), `keeper` and `keeper_start`
              likewise, `cgroup`, `started` (ns since 1970), `restarts`
    exit      how it ended, JSON
    stop      somebody wants it to end: it is not started again
    log       what the app wrote, in the format of the Kubernetes CRI; log.1, log.2, ... are older
    net       the network that it has: addresses, ports, interfaces, what plug-ins said (pyrun.net.attach); `hosts` is its
              /etc/hosts, `cleaner` the command that takes all of it back, `net.elements` what it has in the table (pyrun.net.elements)
    net.join  of a prepared pod: which network it joins without Python, by a path, or another pod's; ROOT/netns/UUID is its own
    net.relay of one that has its own already: the process that relays to its ports, with when it started
    net.want  of a prepared or a detached pod: what network to make whenever it starts; `net.by` who is making it
    upper, work, volume-NAME, rootfs    changes of the app, empty volumes, the copied root of --no-overlay

`pyrun.pod.live.find_live` gives the plan, init's pid and a pidfd of a running pod, whoever started it.
"""

from __future__ import annotations

import os

from pyrun.errors import PyrunError, StateError
from pyrun.host import write_all
from pyrun.native.users import require_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pods", "lock", "new_uuid", "read_json"]

PHASES = ("preparing", "prepared", "running", "exited", "garbage")
_SWEEP_LIMIT = 64  # of running pods looked at by a start; `pyrun gc` looks at all
_MAX_RECORD = 1 << 20
_CHUNK = 8192
_SETTLE = 10  # seconds that a directory may be between mkdir and flock


def new_uuid() -> str:
    """Return a random UUID (RFC 4122, version 4)."""
    digits = bytearray(os.urandom(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Pods:
    """The pods below one state root; `fd` is the directory of all of them."""

    __slots__ = ("fd", "path", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        self.path = root + "/pods"
        require_own(root)
        try:
            try:
                self.fd = self._open()
            except FileNotFoundError:
                self._make()
                self.fd = self._open()
        except OSError as error:
            from pyrun.images.locks import make_room

            raise StateError("open the pods' directory", self.path, errno=error.errno or 0, hint=make_room(error)) from None

    def _open(self) -> int:
        """By way of the phase that is made last: what another process is still making is not there yet."""
        return os.open(f"{self.path}/{PHASES[-1]}/..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _make(self) -> None:
        from pyrun.images.locks import private_dirs

        for name in ("stage", *["pods/" + phase for phase in PHASES]):
            private_dirs(f"{self.root}/{name}")

    @property
    def stage(self) -> str:
        """An empty directory that every pod mounts its root on, in its own mount namespace."""
        return self.root + "/stage"

    def running(self, uuid: str) -> str:
        """Return the path of a running pod's directory."""
        return f"{self.path}/running/{uuid}"

    def uuids(self, phase: str) -> list[str]:
        """Return the UUIDs of the pods in a phase, in no order."""
        try:
            return os.listdir(f"{self.path}/{phase}")
        except FileNotFoundError:  # made by an older version
            return []

    def create(self, uuid: str, record: str) -> int:
        """Make the directory of a running pod with `record` in its file `pod`; return its locked descriptor."""
        fd = self.begin(uuid, record)
        try:
            self.commit(uuid, "running")
        except BaseException:
            os.close(fd)
            self.delete("preparing", uuid)
            raise
        return fd

    def commit(self, uuid: str, phase: str) -> None:
        """Move a pod that is being made to its first phase."""
        os.rename("preparing/" + uuid, f"{phase}/{uuid}", src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def begin(self, uuid: str, record: str) -> int:
        """Make the directory of a pod that is being prepared; return its locked descriptor."""
        import fcntl

        name = "preparing/" + uuid
        os.mkdir(name, 0o700, dir_fd=self.fd)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            file = os.open("pod", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
            try:
                write_all(file, record.encode("utf-8", "surrogateescape"))
            finally:
                os.close(file)
        except BaseException:
            os.close(fd)
            self.delete("preparing", uuid)
            raise
        return fd

    def delete(self, phase: str, uuid: str) -> None:
        """Remove a pod's directory with everything below it; its mounts died with its mount namespace."""
        from pyrun.images.remove import remove_tree

        if phase != "garbage":
            try:
                os.rename(f"{phase}/{uuid}", "garbage/" + uuid, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            except FileNotFoundError:
                return  # somebody else won
        self._disconnect("garbage/" + uuid, uuid)
        garbage = os.open("garbage", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            _remove_version_1(garbage, uuid)
            remove_tree(garbage, os.fsencode(uuid))
        except FileNotFoundError:
            pass
        finally:
            os.close(garbage)

    def drop(self, phase: str, name: str) -> bool:
        """Remove what stands there and is no directory, so no pod; whether it was so.  StateError when it cannot be removed."""
        import stat

        path = f"{phase}/{name}"
        try:
            if stat.S_ISDIR(os.stat(path, dir_fd=self.fd, follow_symlinks=False).st_mode):
                return False
            os.unlink(path, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            hint = "it is no directory, so no pod: remove it by hand"
            raise StateError("remove", f"{self.path}/{path}", errno=error.errno or 0, hint=hint) from None
        return True

    def _disconnect(self, path: str, uuid: str) -> None:
        try:
            os.stat(path + "/net", dir_fd=self.fd)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return
        try:
            self.disconnect(fd, uuid)
        finally:
            os.close(fd)

    def disconnect(self, fd: int, uuid: str) -> None:
        """Take back what the network of the pod whose directory is `fd` has in the host; does nothing where there is none."""
        from pyrun.pod.network import release

        release(self.root, uuid, fd)

    def sweep(self, told: Callable[[str, str], None] | None = None, *, thorough: bool = False, mark: bool = False) -> int:
        """Remove what dead supervisors and makers left; returns how many pods.  Never waits for a live one.

        A start looks at a bounded number of running pods and passes over what cannot be removed, which is StateError
        with `thorough`, after a look at all.  With `mark` nothing is deleted: running pods whose supervisor died only move on.
        `told` hears (phase, uuid), or ("file", name) of what is no directory, which only `thorough` looks for.
        """
        count = 0
        stuck: list[tuple[str, OSError | PyrunError]] = []
        for phase in ("running",) if mark else ("garbage", "preparing", "running"):
            names = self.uuids(phase)
            for uuid in names if thorough else names[:_SWEEP_LIMIT]:
                if thorough and not mark and self.drop(phase, uuid):
                    if told:
                        told("file", uuid)
                    count += 1
                    continue
                try:
                    found = self._collect(phase, uuid, mark, patient=thorough)
                except (OSError, PyrunError) as error:
                    stuck.append((uuid, error))
                    continue
                count += found
                if found and told:
                    told(phase, uuid)
        if stuck and thorough:
            uuid, first = stuck[0]
            hint = f"see what is below {self.path} and in the pod's cgroup"
            reason = str(first) if isinstance(first, PyrunError) else ""
            raise StateError("remove the remains of pod", uuid, reason, errno=first.errno or 0, hint=hint)
        return count

    def _collect(self, phase: str, uuid: str, mark: bool, *, patient: bool) -> bool:
        try:
            fd = os.open(f"{phase}/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return False
        try:
            if not lock(fd):
                return False
            if phase == "preparing" and not self._settled(fd):
                return False
            if phase == "garbage" and not patient and self._cleaned(fd):
                return False
            if phase == "running":
                self.bury(fd, uuid, mark=mark)
            else:
                self.delete(phase, uuid)
        except OSError as error:
            import errno

            if error.errno == errno.ENOENT:
                return False
            raise
        finally:
            os.close(fd)
        return True

    def _cleaned(self, fd: int) -> bool:
        """Whether somebody has just been started to do it (pyrun.pod.cleaner), whom a start should not anticipate."""
        import time

        try:
            return time.time() - os.fstat(fd).st_ctime < _SETTLE and os.access("cleaner", os.F_OK, dir_fd=fd)
        except OSError:
            return False

    def _settled(self, fd: int) -> bool:
        import time

        return abs(time.time() - os.fstat(fd).st_mtime) > _SETTLE  # in the future, where the clock was set back

    def bury(self, fd: int, uuid: str, *, mark: bool = False) -> None:
        """A pod whose supervisor was killed: its cgroup goes, and its directory unless it was to be kept.

        The caller holds its lock.  With `mark` its directory only becomes garbage.
        """
        from pyrun.engine import cgroup

        record = read_json(fd, "pod")
        path = read_json(fd, "run").get("cgroup") or record.get("cgroup")
        if isinstance(path, str) and path.endswith("/" + cgroup.name_of(uuid)) and not cgroup.remove(path):
            import errno

            raise OSError(errno.EBUSY, "cgroup " + path)
        if record.get("keep") is True or mark:
            phase = "exited" if record.get("keep") is True else "garbage"
            os.rename("running/" + uuid, f"{phase}/{uuid}", src_dir_fd=self.fd, dst_dir_fd=self.fd)
            if not mark:
                self._disconnect(f"{phase}/{uuid}", uuid)
        else:
            self.delete("running", uuid)


def _remove_version_1(directory: int, uuid: str) -> None:
    """A pod's cgroups in hierarchies of version 1, which its supervisor has removed unless it was killed."""
    try:
        fd = os.open(uuid, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return
    try:
        groups = read_json(fd, "pod").get("cgroups_1")
    finally:
        os.close(fd)
    if isinstance(groups, list):
        from pyrun.engine import cgroup

        for path in groups:
            if str(path).endswith("/" + cgroup.name_of(uuid)):
                cgroup.remove_version_1(str(path))


def lock(fd: int) -> bool:
    """Lock a pod's directory that no supervisor and no keeper holds; whether that was so.  flock(2).

    Whoever only looks whether a pod lives holds a shared lock for a moment: that is waited for.
    """
    import fcntl

    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        if kind == fcntl.LOCK_SH:
            fcntl.flock(fd, fcntl.LOCK_EX)
        return True
    return False


def read_json(fd: int, name: str) -> dict[str, object]:
    """Return the JSON object in the file `name` of a pod's directory, {} when there is none or it is damaged."""
    from pyrun.images import fastjson

    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)
    except OSError:
        return {}
    try:
        data = os.read(file, _CHUNK)  # a buffer of the largest size would cost more than the rest
        if len(data) == _CHUNK:
            data += os.read(file, _MAX_RECORD)
        found = fastjson.loads(data)
    except (ValueError, OSError):
        return {}
    finally:
        os.close(file)
    return found if isinstance(found, dict) else {}
