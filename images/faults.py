"""The words for what the native parser and writer of archives refuse; native/untar.h has the codes."""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from pyrun.errors import ArchiveError, ImageError
from pyrun.images.printable import printable
from pyrun.native._unpack import lib

_KINDS = {0x30: "file", 0x31: "hardlink", 0x32: "symlink", 0x33: "char", 0x34: "block", 0x35: "directory", 0x36: "fifo"}
_FIELDS = ("checksum", "size", "mode", "user id", "group id", "time", "device number")  # enum tar_field
_TOOL = "write the archive with tar --format=posix"
_DAMAGED = "the file is damaged: fetch it again"
_SMALLER = "build a smaller image: this quota guards the disk of the host"
_LAST = "the target of a hard link comes before it in the archive"
_TWICE = "readers disagree on which one counts: keep one"

# of the archive as a whole: what, hint
_WHOLE = {
    lib.FAULT_CUT: ("ends in the middle, {where}", "the file was cut short: fetch it again"),
    lib.FAULT_GARBAGE: (
        "holds something that is no POSIX tar header{after}",
        "the file is damaged, or not one tar archive: fetch it again",
    ),
    lib.FAULT_LONE_ZERO: ("holds a lone zero block{after}", "the file is damaged, or not one tar archive: fetch it again"),
    lib.FAULT_AFTER_END: ("goes on after its end", "readers disagree on such files: write one archive only"),
    lib.FAULT_NAMED_TWICE: ("an extended header names the next member twice", _TOOL),
    lib.FAULT_EMPTY_NAME: ("an extended header holds no name", _TOOL),
    lib.FAULT_GLOBAL: ("an extended header sets {detail} for every member", _TOOL),
    lib.FAULT_SECOND: ("an extended header follows another one", _TOOL),
    lib.FAULT_NO_LENGTH: ("an extended header has a record without a length", _TOOL),
    lib.FAULT_LENGTH: ("an extended header has a record of the wrong length", _TOOL),
    lib.FAULT_PAX_NUMBER: ("an extended header has a {detail} that is not a number", _TOOL),
    lib.FAULT_STAR_SPARSE: ("an extended header describes a sparse member of star's form, which is not supported", _TOOL),
}
# of one member
_MEMBER = {
    lib.FAULT_DANGLING: ("the archive ends in an extended header without its member", _TOOL),
    lib.FAULT_CHECKSUM: ("the checksum of its header is wrong", _DAMAGED),
    lib.FAULT_NUMBER: ("its {field} is not a number", _DAMAGED),
    lib.FAULT_MEMBERS: ("more than {a} members", _SMALLER),
    lib.FAULT_EXTENDED_SIZE: ("an extended header of {a} bytes, {b} are allowed", "no image needs names or attributes that long"),
    lib.FAULT_TYPE: ("members of type {flag!r} are not supported", _TOOL),
    lib.FAULT_SLASH: ("a file whose name ends in a slash", _TOOL),
    lib.FAULT_NAME: ("has no usable name", _TOOL),
    lib.FAULT_LONG_NAME: (f"its name has {{a}} bytes, {lib.UNTAR_MAX_NAME} are allowed", _TOOL),
    lib.FAULT_LINK: ("its link has no usable target", _TOOL),
    lib.FAULT_DATA: ("a {kind_b} with {a} bytes of data", _TOOL),
    lib.FAULT_SIZE: ("a size of {a} bytes, {b} are allowed", _SMALLER),
    lib.FAULT_SPARSE: ("a sparse member whose map is wrong", "write the archive with GNU tar, or without --sparse"),
    lib.FAULT_ABSOLUTE: ("an absolute path", "paths in an archive are relative to its root"),
    lib.FAULT_DOTDOT: ("a path through ..", "paths in an archive may not leave its root"),
    lib.FAULT_COMPONENT: ("a file name of {a} bytes", "file systems allow 255 bytes"),
    lib.FAULT_DEPTH: ("{a} directories deep, {b} are allowed", _TOOL),
    lib.FAULT_OWNER: ("owned by {a}:{b}", "ids go from 0 to 4294967294"),
    lib.FAULT_ENTRIES: ("more than {a} files and directories", _SMALLER),
    lib.FAULT_TWICE: ("occurs twice in the archive", _TWICE),
    lib.FAULT_ROOT: ("the root of the tree is a {kind_a}", "it must be a directory"),
    lib.FAULT_LINK_OUTSIDE: ("a hard link to {detail}, outside the tree", "a hard link names another member of the tree"),
    lib.FAULT_LINK_ITSELF: ("a hard link to itself", _TOOL),
    lib.FAULT_LINK_KIND: ("a hard link to {detail}, which is no file", "link to a regular file"),
    lib.FAULT_LINK_MISSING: ("a hard link to {detail}, which is not there", _LAST),
    lib.FAULT_NODE_POLICY: ("a {kind_a} device, which the policy refuses", "build the image without device nodes"),
    lib.FAULT_NODE_NUMBER: ("a device {a}:{b}, which cannot exist", "numbers go to 4095:1048575"),
    lib.FAULT_NODE_WHITEOUT: ("a character device 0:0, which overlayfs takes for a deletion", "build the image without it"),
    lib.FAULT_PRIVATE_KIND: ("a {kind_a} in an archive of images", "get the archive again"),
    lib.FAULT_LISTING: ("the list of all files, which would have more than {a} MiB", _SMALLER),
    lib.FAULT_XATTR_NAME: ("an extended attribute with a name that no kernel takes", _TOOL),
}
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


def refuse(subject: bytes, reason: str, hint: str = _TOOL) -> NoReturn:
    """Raises the ArchiveError of a member."""
    raise ArchiveError("unpack", printable(subject), reason, hint=hint)


def raise_fault(fault: Any) -> NoReturn:
    """Raises what a `struct untar_fault_info` says: ArchiveError, ImageError for the kernel's, MemoryError."""
    from pyrun.native._unpack import ffi

    subject, detail = bytes(ffi.buffer(fault.subject, fault.subject_size)), bytes(ffi.buffer(fault.detail, fault.detail_size))
    code, a, b = fault.code, fault.a, fault.b
    if code == lib.FAULT_MEMORY:
        raise MemoryError
    if code == lib.FAULT_SYSTEM:
        failed(subject, OSError(fault.error, os.strerror(fault.error)))
    if code == lib.FAULT_FREE:
        hint = "remove images that are no longer needed, or use a larger file system for the store"
        raise ImageError("unpack", "archive", f"less than {a} MiB left on the store", errno=errno.ENOSPC, hint=hint)
    words = {"a": a, "b": b, "detail": printable(detail, 80), "kind_a": _KINDS.get(a, ""), "kind_b": _KINDS.get(b, "")}
    if code in _WHOLE:
        reason, hint = _WHOLE[code]
        after = printable(subject)
        where = f"after {after}" if subject else "in its first member"
        raise ArchiveError("unpack", "archive", reason.format(where=where, after=f" after {after}" if subject else "", **words), hint=hint)
    reason, hint = _MEMBER[code]
    words |= {"field": _FIELDS[a] if code == lib.FAULT_NUMBER else "", "flag": printable(bytes((a & 0xFF,)))}
    refuse(subject, reason.format(**words), hint)


def failed(path: bytes, exc: OSError) -> NoReturn:
    """Maps an errno to the archive's fault or the host's."""
    code = exc.errno or 0
    if code in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
        raise ArchiveError(
            "unpack", printable(path), "its path passes through something that is not a directory", errno=code,
            hint="a member may not be written through a symbolic link",
        ) from None  # fmt: skip
    raise ImageError("unpack", printable(path), errno=code, hint=_HINTS.get(code, "look at errno(3) and the kernel log")) from exc
