"""Writes archive members beneath one directory, by file descriptor only.

The kernel, not string handling, keeps writes inside: every parent is opened with openat2(2) RESOLVE_BENEATH and
RESOLVE_NO_SYMLINKS, the last component is created with O_EXCL or its equal, and owner, mode, times and extended
attributes go to the descriptor of what was just created.  No member can therefore touch a file that the archive
did not make, whatever links it plants first.

    member -> components -> parent descriptor (kept for the next members) -> create -> write -> metadata by fd
    finish -> times of directories, which creating their entries has changed
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Callable
from typing import NoReturn, Self

from pyrun import native
from pyrun.errors import ArchiveError, ImageError, PyrunError
from pyrun.images import tar
from pyrun.images.limits import Limits
from pyrun.images.parents import BENEATH, DIRECTORY, Parents, Parts
from pyrun.images.printable import printable
from pyrun.images.remove import remove_tree
from pyrun.images.tar import Member

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_ID = (1 << 32) - 2  # chown(2): (uid_t) -1 leaves an id unchanged
_MAX_TIME = (1 << 63) - 1  # nanoseconds, the year 2262
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1
_FREE_EVERY = 64 << 20
_DEVICE_BITS = {tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}


class Policy:
    """What an archive may create.

    `conflicts`: "refuse" a second member of one path, or "replace" what is there (last one wins, for layers of
    other formats).  `nodes`: "create" device nodes (harmless below a nodev mount) or "refuse" them; fifos are
    always made.  `capabilities`: "keep" or "strip" security.capability.
    """

    __slots__ = ("capabilities", "conflicts", "nodes")

    def __init__(self, *, conflicts: str = "refuse", nodes: str = "create", capabilities: str = "keep") -> None:
        self.conflicts = conflicts
        self.nodes = nodes
        self.capabilities = capabilities

    def keeps(self, xattr: bytes) -> bool:
        """Whether an extended attribute is applied: overlay's and the host's own labels never are (B08, B09)."""
        if xattr.startswith(b"user."):
            return not xattr.startswith(b"user.overlay.")
        return xattr == b"security.capability" and self.capabilities == "keep"


class Unpacker:
    """Adds members beneath `rootfd`, a directory that nobody else writes to; `close` or use as context manager.

    `prefix` is taken off every path and off the targets of hard links.
    ArchiveError for what the archive may not do, ImageError with an errno when the kernel refuses (full disk,
    ids that are not mapped, file system without extended attributes).
    """

    def __init__(self, rootfd: int, limits: Limits | None = None, policy: Policy | None = None, *, prefix: Parts = ()) -> None:
        self._parents = Parents(os.open(".", DIRECTORY, dir_fd=rootfd), self._count)
        self._limits = limits or Limits()
        self._policy = policy or Policy()
        self._prefix = prefix
        self._unread: list[tuple[Parts, int]] = []  # directories that their final mode would lock us out of
        self._times = array("q")
        self._timed = bytearray()  # paths of self._times, each followed by NUL
        self._ids = (os.geteuid(), os.getegid())
        self._entries = 0
        self._written = 0
        self._makers: dict[str, Callable[[int, Parts, Member], None]] = {
            tar.FILE: self._file,
            tar.HARDLINK: self._hardlink,
            tar.SYMLINK: self._symlink,
            tar.DIRECTORY: self._directory,
            tar.CHAR: self._node,
            tar.BLOCK_DEVICE: self._node,
            tar.FIFO: self._node,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptors; what was written stays."""
        self._parents.forget()
        if self._parents.root >= 0:
            os.close(self._parents.root)
            self._parents.root = -1

    def add(self, member: Member) -> None:
        """Creates one member; its path begins with the prefix, which is left out."""
        parts = tar.clean(member.path)[len(self._prefix) :]
        if len(parts) > self._limits.depth:
            tar.refuse(member.path, f"{len(parts)} directories deep, {self._limits.depth} are allowed")
        if not 0 <= member.uid <= _MAX_ID or not 0 <= member.gid <= _MAX_ID:
            tar.refuse(member.path, f"owned by {member.uid}:{member.gid}", f"ids go from 0 to {_MAX_ID}")
        self._count(member.path)
        try:
            if not parts:
                self._root_directory(member)
                return
            parent = self._parents.get(parts[:-1])
            self._makers[member.kind](parent, parts, member)
        except OSError as exc:
            if isinstance(exc, PyrunError):
                raise
            failed(member.path, exc)

    def finish(self) -> None:
        """Applies the times and the locked modes of directories; call once, after the last member (ACI-07)."""
        paths = bytes(self._timed).split(b"\0")
        for path, mtime in zip(paths, self._times, strict=False):
            self._apply(path, lambda fd, mtime=mtime: os.utime(fd, ns=(mtime, mtime)))  # type: ignore[misc]
        for parts, mode in reversed(self._unread):
            self._apply(b"/".join(parts), lambda fd, mode=mode: os.fchmod(fd, mode))  # type: ignore[misc]

    def _apply(self, path: bytes, change: Callable[[int], None]) -> None:
        try:
            fd = native.openat2(self._parents.root, path or b".", DIRECTORY, 0, BENEATH)
        except OSError as exc:
            if self._policy.conflicts == "replace" and exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # a later member took its place
            failed(path, exc)
        try:
            change(fd)
        except OSError as exc:
            failed(path, exc)
        finally:
            os.close(fd)

    def _count(self, path: bytes) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            tar.refuse(
                path,
                f"more than {self._limits.entries} files and directories",
                "build a smaller image: this quota guards the disk of the host",
            )

    def _vacate(self, parent: int, parts: Parts, path: bytes) -> None:
        """Makes room where a second member of one path wants to be, if the policy lets it."""
        if self._policy.conflicts == "refuse":
            tar.refuse(path, "occurs twice in the archive", "readers disagree on which one counts: keep one")
        self._parents.forget()  # some of these may be about to go
        parent = self._parents.get(parts[:-1])
        remove_tree(parent, parts[-1])

    def _make(self, parent: int, parts: Parts, path: bytes, make: Callable[[int], int | None]) -> int | None:
        try:
            return make(parent)
        except FileExistsError:
            self._vacate(parent, parts, path)
        return make(self._parents.get(parts[:-1]))

    # one method for each kind

    def _file(self, parent: int, parts: Parts, member: Member) -> None:
        name = parts[-1]
        fd = self._make(parent, parts, member.path, lambda at: os.open(name, _CREATE, 0o600, dir_fd=at))
        assert fd is not None
        try:
            while data := member.read(1 << 20):
                self._write(fd, data)
            self._stamp(fd, member, self._parents.inherits_group(parts[:-1]))
        finally:
            os.close(fd)

    def _write(self, fd: int, data: bytes) -> None:
        self._written += len(data)
        if self._written >= _FREE_EVERY:
            self._written = 0
            self._check_free(fd)
        done = os.write(fd, data)
        while done < len(data):
            done += os.write(fd, memoryview(data)[done:])

    def _check_free(self, fd: int) -> None:
        room = os.fstatvfs(fd)
        if room.f_bavail * room.f_frsize < self._limits.free:
            hint = "remove images that are no longer needed, or use a larger file system for the store"
            raise ImageError(
                "unpack", "archive", f"less than {self._limits.free >> 20} MiB left on the store", errno=errno.ENOSPC, hint=hint
            )

    def _stamp(self, fd: int, member: Member, setgid: bool) -> None:
        """Owner, mode, attributes and times of what `fd` names, in the order that lets each survive the next."""
        if setgid or (member.uid, member.gid) != self._ids:
            os.fchown(fd, member.uid, member.gid)
        for name, value in member.xattrs.items():  # while the mode still lets the owner write, which user.* needs
            if self._policy.keeps(name):
                os.setxattr(fd, name, value)
        os.fchmod(fd, member.mode)
        if member.kind != tar.DIRECTORY:
            mtime = _clamp(member.mtime_ns)
            os.utime(fd, ns=(mtime, mtime))

    def _directory(self, parent: int, parts: Parts, member: Member) -> None:
        name = parts[-1]
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            parent = self._revisit(parent, parts, member)
        fd = native.openat2(parent, name, DIRECTORY, 0, BENEATH)
        try:
            self._dress(fd, parts, member)
        except BaseException:
            os.close(fd)
            raise
        self._parents.remember(parts, fd)

    def _revisit(self, parent: int, parts: Parts, member: Member) -> int:
        """An existing name: fine when it is a directory that only its children implied, or when layers merge."""
        existing = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
        is_directory = stat.S_ISDIR(existing.st_mode)
        path = b"/".join(parts)
        if is_directory and path in self._parents.implied:
            self._parents.implied.discard(path)
        elif not is_directory or self._policy.conflicts == "refuse":
            self._vacate(parent, parts, member.path)
            parent = self._parents.get(parts[:-1])
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        return parent

    def _dress(self, fd: int, parts: Parts, member: Member) -> None:
        self._stamp(fd, member, True)
        if member.mode & 0o700 != 0o700 and self._ids[0] != 0:
            os.fchmod(fd, member.mode | 0o700)
            self._unread.append((parts, member.mode))
        self._times.append(_clamp(member.mtime_ns))
        self._timed += b"/".join(parts) + b"\0"

    def _root_directory(self, member: Member) -> None:
        if member.kind != tar.DIRECTORY:
            tar.refuse(member.path, f"the root of the tree is a {member.kind}", "it must be a directory")
        if b"" not in self._parents.implied and self._policy.conflicts == "refuse":
            tar.refuse(member.path, "occurs twice in the archive", "readers disagree on which one counts: keep one")
        self._parents.implied.discard(b"")
        self._parents.forget()  # the root's set-group-id bit may change
        self._dress(self._parents.root, (), member)

    def _symlink(self, parent: int, parts: Parts, member: Member) -> None:
        name, target = parts[-1], member.linkname
        self._make(parent, parts, member.path, lambda at: os.symlink(target, name, dir_fd=at))
        parent = self._parents.get(parts[:-1])
        if self._parents.inherits_group(parts[:-1]) or (member.uid, member.gid) != self._ids:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        mtime = _clamp(member.mtime_ns)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _link_target(self, member: Member) -> Parts:
        target, prefix = tar.clean(member.linkname), self._prefix
        if target[: len(prefix)] != prefix or len(target) <= len(prefix):
            hint = f"a hard link names another member below {printable(prefix[-1])}/" if prefix else "a hard link names another member"
            tar.refuse(member.path, f"a hard link to {printable(member.linkname, 80)}, outside the tree", hint)
        return target[len(prefix) :]

    def _hardlink(self, parent: int, parts: Parts, member: Member) -> None:
        name, target = parts[-1], self._link_target(member)
        if target == parts:
            tar.refuse(member.path, "a hard link to itself")
        try:
            source = os.dup(self._parents.existing(target[:-1]))
        except FileNotFoundError:
            self._missing(member)
        try:
            existing = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
            if not (stat.S_ISREG(existing.st_mode) or stat.S_ISLNK(existing.st_mode)):
                tar.refuse(member.path, f"a hard link to {printable(member.linkname, 80)}, which is no file", "link to a regular file")
            parent = self._parents.get(parts[:-1])
            self._make(
                parent, parts, member.path, lambda at: os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
            )
        except FileNotFoundError:
            self._missing(member)
        finally:
            os.close(source)

    def _missing(self, member: Member) -> NoReturn:
        hint = "the target of a hard link comes before it in the archive"
        tar.refuse(member.path, f"a hard link to {printable(member.linkname, 80)}, which is not there", hint)

    def _node(self, parent: int, parts: Parts, member: Member) -> None:
        device = 0
        if member.kind != tar.FIFO:
            device = self._device(member)
        name, mode = parts[-1], _DEVICE_BITS[member.kind] | 0o600
        self._make(parent, parts, member.path, lambda at: os.mknod(name, mode, device, dir_fd=at))
        parent = self._parents.get(parts[:-1])
        # Opening a device can wake its driver; O_PATH does not, but only a path accepts its descriptor for chmod.
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            path = f"/proc/self/fd/{fd}"
            os.chown(path, member.uid, member.gid)
            os.chmod(path, member.mode)
            mtime = _clamp(member.mtime_ns)
            os.utime(path, ns=(mtime, mtime))
        finally:
            os.close(fd)

    def _device(self, member: Member) -> int:
        if self._policy.nodes == "refuse":
            tar.refuse(member.path, f"a {member.kind} device, which the policy refuses", "build the image without device nodes")
        major, minor = member.devmajor, member.devminor
        if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
            tar.refuse(member.path, f"a device {major}:{minor}, which cannot exist", f"numbers go to {_MAX_MAJOR}:{_MAX_MINOR}")
        if member.kind == tar.CHAR and major == minor == 0:
            tar.refuse(member.path, "a character device 0:0, which overlayfs takes for a deletion", "build the image without it")
        return os.makedev(major, minor)


def _clamp(nanoseconds: int) -> int:
    return max(-_MAX_TIME, min(nanoseconds, _MAX_TIME))


_HINTS = {
    errno.ENOSPC: "free space on the file system of the store",
    errno.EDQUOT: "raise the disk quota of the store",
    errno.EPERM: "unpacking owners and device nodes needs root",
    errno.EACCES: "unpacking owners and device nodes needs root",
    errno.EINVAL: "the file system or user namespace of the store does not take this owner, time or attribute",
    errno.ENOTSUP: "put the store on a file system with extended attributes, such as ext4, xfs or btrfs",
    errno.EMLINK: "the file system of the store takes no more hard links to one file",
    errno.EIO: "look at the kernel log: the disk of the store fails",
    errno.EROFS: "the file system of the store is read-only: choose another with --root",
}


def failed(path: bytes, exc: OSError) -> NoReturn:
    """Maps an errno to the archive's fault or the host's."""
    code = exc.errno or 0
    if code in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
        raise ArchiveError(
            "unpack", printable(path), "its path passes through something that is not a directory", errno=code,
            hint="a member may not be written through a symbolic link",
        ) from None  # fmt: skip
    raise ImageError("unpack", printable(path), errno=code, hint=_HINTS.get(code, "look at errno(3) and the kernel log")) from exc
