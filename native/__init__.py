"""The thin door to the kernel: spawn the helper, and the calls that `os` lacks.

Everything here either returns a value or raises `OSError` with the kernel's errno.  The helper is
loaded once per process into a sealed memfd (memfd_create(2)), so that what runs inside a container is
never a file of the host (CVE-2019-5736) and an upgrade on disk cannot mix versions.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "become",
    "device_program",
    "helper",
    "hold_signals",
    "inotify",
    "memfd_sealed",
    "netns",
    "openat2",
    "root_of",
    "shut_down",
    "spawn",
    "start",
    "syncfs",
    "user_namespace",
]

RESOLVE_NO_XDEV = 1
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16

F_ADD_SEALS = 1033
ALL_SEALS = 15  # SEAL, SHRINK, GROW, WRITE
MFD_EXEC = 16
_MOST = 1 << 22
_FAULTS = {4, 7, 8, 11}  # SIGILL, SIGBUS, SIGFPE, SIGSEGV
_ABOVE_SLOTS = 16  # SLOT_COUNT of plan.h, and some

HELPER = os.path.dirname(__file__) + "/helper"
KEEPER = os.path.dirname(__file__) + "/keeper"
RELAY = os.path.dirname(__file__) + "/relay"
_helper = -1
helper_note = ""  # why the helper does not run from a sealed memfd, for the CLI to say


def _check(result: int, subject: str | bytes | None = None) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), subject)
    return result


def openat2(dirfd: int, path: bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below `dirfd` with the RESOLVE_ flags of openat2(2); the descriptor is close-on-exec."""
    from pyrun.native._native import lib

    return _check(lib.pyrun_openat2(dirfd, path, flags, mode, resolve), path)


def bind(source: str, target: str) -> None:
    """Mount the file `source` on the file `target` too (mount(2), MS_BIND)."""
    from pyrun.native._native import lib

    _check(lib.pyrun_bind(os.fsencode(source), os.fsencode(target)), target)


def unmount(path: str) -> None:
    """Detach what is mounted on `path` (umount2(2), MNT_DETACH), which no link leads to."""
    from pyrun.native._native import lib

    _check(lib.pyrun_unmount(os.fsencode(path)), path)


def syncfs(fd: int) -> None:
    """Write the file system that holds `fd` to its device (syncfs(2))."""
    from pyrun.native._native import lib

    _check(lib.pyrun_syncfs(fd))


def device_program(cgroup: int, program: bytes) -> None:
    """Let `program` (of `pyrun.plan.devices_bpf`) decide about the devices of the cgroup, a descriptor, in place of what did so far.

    With b"" nothing of this cgroup's own does any more; those above it still do (bpf(2), BPF_CGROUP_DEVICE).
    """
    from pyrun.native._native import lib

    _check(lib.pyrun_device_program(cgroup, program, len(program)))


def shut_down(fd: int) -> None:
    """End a socket for every process that has it (shutdown(2), SHUT_RDWR); one whose other end is gone is at its end already."""
    from pyrun.native._native import lib

    lib.pyrun_shut_down(fd)


def inotify(path: bytes, mask: int, fd: int = -1) -> tuple[int, int]:
    """Watch `path` for the IN_ events of inotify(7) and return (descriptor, watch); with `fd` one more path by the same descriptor."""
    from pyrun.native._native import lib

    made = _check(lib.pyrun_inotify()) if fd < 0 else fd
    try:
        return made, _check(lib.pyrun_inotify_add(made, path, mask), path)
    except OSError:
        if fd < 0:
            os.close(made)
        raise


def memfd_sealed(name: str, data: bytes | int, *, executable: bool = False) -> int:
    """Return a sealed memfd with `data`, or what the open file `data` holds: nobody can change it any more, this process included."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | MFD_EXEC) if executable else os.memfd_create(name, flags)
    except OSError as error:
        if not executable or error.errno != 22:  # EINVAL: Linux before 6.3, where every memfd may be executed
            raise
        fd = os.memfd_create(name, flags)
    try:
        _fill(fd, data)
        import fcntl

        fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fill(fd: int, data: bytes | int) -> None:
    """Write `data`, or what a file holds, which then need not come into this process's memory."""
    if isinstance(data, int):
        try:
            while os.sendfile(fd, data, None, _MOST):
                pass
            return
        except OSError:  # not from every file system (sendfile(2))
            data = os.pread(data, _MOST, 0)
            os.lseek(fd, 0, 0)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _unlinked_copy(directory: str, data: bytes | int) -> int:
    """The fallback where vm.memfd_noexec=2 or a security module forbids to execute a memfd: a nameless file.

    It is private to this process and read-only once reopened, but a tmpfs or disk inode instead of sealed memory.
    """
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o500)
    try:
        _fill(fd, data)
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


def helper(directory: str = "/run") -> int:
    """Return the descriptor of the helper program, loaded on first use.

    `directory` is where a nameless copy goes when the kernel forbids to execute a memfd; `helper_note`
    then says so.  Raises OSError when neither works.
    """
    global _helper, helper_note
    if _helper < 0:
        fd = os.open(HELPER, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _helper = memfd_sealed("pyrun-helper", fd, executable=True)
        except OSError as error:
            if error.errno != 13:  # EACCES: memfd_create(2) under vm.memfd_noexec=2
                raise
            _helper = _unlinked_copy(directory, fd)
            helper_note = f"this kernel forbids to execute a memfd (vm.memfd_noexec): the helper runs from a nameless file in {directory}"
        finally:
            os.close(fd)
    return _helper


def _vector(words: Sequence[bytes]) -> tuple[object, list[object]]:
    from pyrun.native._native import ffi

    keep: list[object] = [ffi.new("char[]", word) for word in words]
    return ffi.new("char *[]", [*keep, ffi.NULL]), keep


def spawn(argv: Sequence[bytes], envp: Sequence[bytes], slots: Sequence[int], directory: str = "/run") -> tuple[int, int]:
    """Start the helper with `slots[i]` on descriptor i (-1: closed) and return (pid, pidfd).

    Does not copy the caller's memory, whatever its size and number of threads (clone(2), CLONE_VFORK).
    """
    from pyrun.native._native import ffi, lib

    pidfd = ffi.new("int *", -1)
    arguments, keep = _vector(argv)
    environment, keep2 = _vector(envp)
    pid = _check(lib.pyrun_spawn(helper(directory), arguments, environment, slots, len(slots), pidfd), "pyrun-helper")
    del keep, keep2
    return pid, pidfd[0]


def start(pods: int, stdio: Sequence[int], record: bytes, plan: bytes, flags: int, directory: str = "/run") -> tuple[str, int, int, int]:
    """Make a pod below the directory `pods` and start it; return (uuid, pid, pidfd, control socket) of its supervisor.

    `record` and `plan` are those of a recipe, `flags` PLAN_ flags of native/plan.h.  On OSError nothing is left.
    """
    from pyrun.native._native import ffi, lib

    started = ffi.new("struct pyrun_started *")
    _check(lib.pyrun_start(helper(directory), pods, stdio, record, len(record), plan, len(plan), flags, started), "pyrun-helper")
    return ffi.string(started.uuid).decode(), started.pid, started.pidfd, started.control


def netns(from_fd: int = -1, family: int = 0) -> tuple[int, int]:
    """Return (network namespace, netlink socket in it): of a new one with lo up, or of the open one `from_fd`.

    Both are descriptors; this process and its threads stay in their own network.  `family` is netlink(7)'s, 0 for routing.
    """
    from pyrun.native._native import ffi, lib

    made = ffi.new("int *", -1)
    return _check(lib.pyrun_netns(from_fd, family, made), "network namespace"), made[0]


def root_of(mounts: int) -> int:
    """Return a descriptor of the root directory of an open mount namespace; this process stays in its own.  OSError when it may not."""
    from pyrun.native._native import lib

    return _check(lib.pyrun_root_of(mounts), "mount namespace")


def user_namespace(fd: int = -1) -> None:
    """Take this process, which may have no other thread, into a new user namespace or the open one `fd`; OSError when it may not."""
    from pyrun.native._native import lib

    _check(lib.pyrun_user_namespace(fd), "user namespace")


def hold_signals() -> Callable[[], None]:
    """Block what ends a process until the supervisor that this one becomes waits for it; returns what undoes that.

    One that came before would end it as any program, and leave the pod to whoever sweeps.
    """
    import _signal  # type: ignore[import-not-found]  # `signal` would cost an import of enum

    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals() - _FAULTS)
    return lambda: _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def become(argv: list[bytes], envp: Mapping[bytes, bytes], slots: Sequence[int], directory: str = "/run") -> None:
    """Turn this process into the helper, same pid, with `slots[i]` on descriptor i (-1: closed); returns only by OSError.

    By Python's own calls: the extension and cffi cost more than all that is done here.
    """
    import fcntl

    program = fcntl.fcntl(helper(directory), fcntl.F_DUPFD_CLOEXEC, _ABOVE_SLOTS)
    sys.stdout.flush()
    sys.stderr.flush()
    # Every descriptor is copied out of the way first, so that no copy lands on one still needed.
    copies = [fd if fd < 0 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_SLOTS) for fd in slots]
    for slot, fd in enumerate(copies):
        if fd < 0:
            os.closerange(slot, slot + 1)
        else:
            os.dup2(fd, slot)
    give_back = hold_signals()
    try:
        os.execve(program, argv, envp)
    except OSError:
        give_back()
        for fd, copy in zip(slots, copies, strict=True):  # where the caller has them, to undo what was for this program
            if fd > 2:
                os.dup2(copy, fd, inheritable=False)
        raise
