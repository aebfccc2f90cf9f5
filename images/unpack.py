"""Writes the members of an archive beneath one directory; the work is done by native/tree.c.

No member can touch a file that the archive did not make, whatever links it plants first: see there.

    members --> native: for the tree? create it  --> finish: times of directories, which creating entries has changed
                        if not, it is yielded here
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self

from pyrun import native
from pyrun.images.faults import failed, raise_fault
from pyrun.images.limits import MAX_LISTING, Limits
from pyrun.images.parents import BENEATH, DIRECTORY, Parts
from pyrun.images.remove import remove_tree
from pyrun.images.tar import Member, Members
from pyrun.native._unpack import ffi, lib
from pyrun.native.users import has_one_user, is_root

__all__ = ["Policy", "Unpacker", "failed"]


class Policy:
    """What an archive may create.

    `conflicts`: "refuse" a second member of one path, or "replace" what is there (last one wins, for layers of
    other formats).  `nodes`: "create" device nodes (harmless below a nodev mount), "skip" or "refuse" them; fifos are
    always made.  `capabilities`: "keep" or "strip" security.capability.  Of other extended attributes only user.* are
    applied, without user.overlay.*: overlay's and the host's own labels never are (B08, B09).  `owners`: those of the
    archive, "all", or the caller alone, "one".  Without root the defaults are what the kernel allows: nodes are skipped, and
    where this user namespace has one user that one owns everything.
    """

    __slots__ = ("capabilities", "conflicts", "nodes", "owners")

    def __init__(self, *, conflicts: str = "refuse", nodes: str = "", capabilities: str = "keep", owners: str = "") -> None:
        self.conflicts = conflicts
        self.nodes = nodes or ("create" if is_root() else "skip")
        self.capabilities = capabilities if os.geteuid() == 0 else "strip"
        self.owners = owners or ("one" if has_one_user() else "all")

    def keeps(self, xattr: bytes) -> bool:
        """Whether an extended attribute is one that the native writer applies, for who reads a tree again."""
        if xattr.startswith(b"user."):
            return not xattr.startswith(b"user.overlay.")
        return xattr == b"security.capability" and self.capabilities == "keep"

    def flags(self) -> int:
        """As the native writer wants it."""
        return int(
            lib.TREE_REPLACE * (self.conflicts == "replace")
            | lib.TREE_NO_NODES * (self.nodes == "refuse")
            | lib.TREE_SKIP_NODES * (self.nodes == "skip")
            | lib.TREE_NO_CAPS * (self.capabilities == "strip")
            | lib.TREE_ONE_OWNER * (self.owners == "one")
        )


class Unpacker:
    """Adds members beneath `rootfd`, a directory that nobody else writes to; `close` or use as context manager.

    `prefix` is taken off every path and off the targets of hard links; `private` makes everything the caller's own,
    for nobody else; `listed` hashes what is written, for `list`.  ArchiveError for what the archive may not do,
    ImageError with an errno when the kernel refuses (full disk, ids that are not mapped, file system without extended
    attributes).
    """

    flags = 0  # of a subclass

    def __init__(
        self,
        rootfd: int,
        limits: Limits | None = None,
        policy: Policy | None = None,
        *,
        prefix: bytes = b"",
        private: bool = False,
        listed: bool = False,
    ) -> None:
        limits = limits or Limits()
        self.root = os.open(".", DIRECTORY, dir_fd=rootfd)
        flags = (policy or Policy()).flags() | self.flags | lib.TREE_PRIVATE * private | lib.TREE_DIGESTS * listed
        tree = lib.tree_new(self.root, flags, limits.entries, limits.depth, limits.free, prefix)
        if tree == ffi.NULL:
            os.close(self.root)
            raise MemoryError
        self.tree = tree
        self.fault = ffi.new("struct untar_fault_info *")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptors; what was written stays."""
        if self.root >= 0:
            lib.tree_free(self.tree)
            os.close(self.root)
            self.tree, self.root = ffi.NULL, -1

    def add(self, member: Member) -> None:
        """Creates one member; its path begins with the prefix, which is left out."""
        members = member.members
        while (result := lib.tree_add(self.tree, members.parser, self.fault)) != lib.UNTAR_DONE:
            self._go_on(result, members)

    def others(self, members: Members) -> Iterator[Member]:
        """Creates all members, but yields those not below the prefix, and of a layer whiteouts and hard links to what is not there."""
        while (result := lib.tree_pump(self.tree, members.parser, self.fault)) != lib.UNTAR_END:
            if result == lib.UNTAR_MEMBER:
                yield members.member()
            else:
                self._go_on(result, members)

    def _go_on(self, result: int, members: Members) -> None:
        if result == lib.UNTAR_MORE:
            members.feed()
        elif result == lib.UNTAR_OCCUPIED:
            self.vacate()
        else:
            raise_fault(self.fault)

    def vacate(self) -> None:
        """Makes room where a second member of one path wants to be."""
        size = ffi.new("size_t *")
        path = bytes(ffi.buffer(lib.tree_path(self.tree, size), size[0]))
        above, _, name = path.rpartition(b"/")
        try:
            parent = native.openat2(self.root, above or b".", DIRECTORY, 0, BENEATH)
            try:
                remove_tree(parent, name)
            finally:
                os.close(parent)
        except OSError as exc:
            failed(path, exc)

    def count(self, path: bytes) -> None:
        """Counts something that is made here; ArchiveError when it is one too many."""
        if lib.tree_count(self.tree, path, len(path), self.fault) < 0:
            raise_fault(self.fault)

    def directory(self, parts: Parts) -> int:
        """A descriptor of a directory, made where it is missing."""
        path = b"/".join(parts)
        fd = int(lib.tree_open(self.tree, path, len(path), self.fault))
        if fd < 0:
            raise_fault(self.fault)
        return fd

    def implied(self) -> list[bytes]:
        """Directories that were made for their children, without a member of their own, sorted."""
        size = ffi.new("size_t *")
        data = lib.tree_implied(self.tree, size)
        if data == ffi.NULL:
            raise MemoryError
        try:
            return sorted(bytes(ffi.buffer(data, size[0])).split(b"\0")[:-1])
        finally:
            lib.free(data)

    def finish(self) -> None:
        """Applies the times and the locked modes of directories; call once, after the last member (ACI-07)."""
        if lib.tree_finish(self.tree, self.fault) < 0:
            raise_fault(self.fault)

    def list(self, dirfd: int) -> None:
        """Writes the listing of the finished tree to the new file `tree` below `dirfd`, see `images.tree`; only sparse files are read."""
        fd = os.open("tree", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dirfd)
        try:
            if lib.tree_list(self.tree, fd, MAX_LISTING, self.fault) < 0:
                raise_fault(self.fault)
        finally:
            os.close(fd)
