"""`mounts` of config.json -> operations: what each option means (runtime-spec config.md, "Linux mount options"; mount(8))."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError
from pyrun.host import CGROUP_ROOTS
from pyrun.oci.arguments import program
from pyrun.plan import ops
from pyrun.plan.ops import mount_blob, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyrun.plan.ops import Op

__all__ = ["Mounter", "Wanted", "below", "clean", "extents", "read_only"]

# MOUNT_ATTR_... of mount_setattr(2)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME, _STRICT, _ATIME, _NODIRATIME, _NOSYMFOLLOW = 1, 2, 4, 8, 0x10, 0x20, 0x70, 0x80, 0x200000
# MS_... of mount(2)
_SYNC, _MAND, _DIRSYNC, _SILENT, _REC, _IVERSION, _LAZYTIME = 16, 64, 128, 0x8000, 0x4000, 1 << 23, 1 << 25
_SHARED, _SLAVE, _PRIVATE, _UNBINDABLE = 1 << 20, 1 << 19, 1 << 18, 1 << 17
_MS_ATIME = 1 << 10 | 1 << 21 | 1 << 24

# option: attributes to set and to clear, and the same as MS_ flags
_ATTRIBUTES = {
    "ro": (_RDONLY, 0, 1, 0),
    "rw": (0, _RDONLY, 0, 1),
    "nosuid": (_NOSUID, 0, 2, 0),
    "suid": (0, _NOSUID, 0, 2),
    "nodev": (_NODEV, 0, 4, 0),
    "dev": (0, _NODEV, 0, 4),
    "noexec": (_NOEXEC, 0, 8, 0),
    "exec": (0, _NOEXEC, 0, 8),
    "noatime": (_NOATIME, _ATIME, 1 << 10, _MS_ATIME),
    "atime": (0, _ATIME, 0, 1 << 10),
    "relatime": (0, _ATIME, 1 << 21, _MS_ATIME),
    "norelatime": (0, 0, 0, 1 << 21),
    "strictatime": (_STRICT, _ATIME, 1 << 24, _MS_ATIME),
    "nostrictatime": (0, _ATIME, 0, 1 << 24),
    "nodiratime": (_NODIRATIME, 0, 1 << 11, 0),
    "diratime": (0, _NODIRATIME, 0, 1 << 11),
    "nosymfollow": (_NOSYMFOLLOW, 0, 1 << 8, 0),
    "symfollow": (0, _NOSYMFOLLOW, 0, 1 << 8),
}
# option: flags of the file system to set and to clear
_SUPERBLOCK = {
    "sync": (_SYNC, 0),
    "async": (0, _SYNC),
    "dirsync": (_DIRSYNC, 0),
    "mand": (_MAND, 0),
    "nomand": (0, _MAND),
    "lazytime": (_LAZYTIME, 0),
    "nolazytime": (0, _LAZYTIME),
    "iversion": (_IVERSION, 0),
    "noiversion": (0, _IVERSION),
    "silent": (_SILENT, 0),
    "loud": (0, _SILENT),
    "defaults": (0, 0),
}
_PROPAGATION = {
    "shared": _SHARED,
    "slave": _SLAVE,
    "private": _PRIVATE,
    "unbindable": _UNBINDABLE,
    "rshared": _SHARED | _REC,
    "rslave": _SLAVE | _REC,
    "rprivate": _PRIVATE | _REC,
    "runbindable": _UNBINDABLE | _REC,
}
_HOW = ("bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup", "src-nofollow", "dest-nofollow", "copy-symlink")
_FOR_OTHERS = ("auto", "noauto", "nofail", "_netdev", "nouser")  # mount(8): what concerns fstab and not the kernel
_RECURSIVE = tuple("r" + name for name in _ATTRIBUTES)
_SUPERBLOCK |= {
    "r" + name: _SUPERBLOCK[name] for name in ("sync", "async", "dirsync", "mand", "nomand")
}  # a file system has one, wherever it is
OPTIONS = (*_ATTRIBUTES, *_RECURSIVE, *_SUPERBLOCK, *_PROPAGATION, *_HOW)

# OP_OCI_MOUNT.a of native/plan.h
_BIND, _DEEP, _MAP_DEEP, _COPY_UP, _AGAIN, _CLASSIC, _IN_PROC, _SOURCE_NOFOLLOW, _LABEL, _INSIDE = 1, 2, 4, 8, 16, 32, 64, 128, 256, 512

# file systems of the kernel's own, where read-only is the mount's business alone
_KERNEL = frozenset("proc sysfs cgroup cgroup2 mqueue devpts tmpfs ramfs debugfs tracefs securityfs bpf".split())
_LABELLED = frozenset("proc sysfs cgroup cgroup2 debugfs tracefs securityfs".split())  # by the policy of SELinux, file by file
# what a file system of the container's own is replaced by where its namespace is not (user_namespaces(7))
_INSTEAD = {"proc": ("pid", "/proc"), "sysfs": ("network", "/sys"), "mqueue": ("ipc", "/dev/mqueue")}
# files of procfs that others may stand in for, as lxcfs does
_STAND_INS = frozenset(
    "/proc/" + name
    for name in """
        cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo net/dev sys/kernel/ns_last_pid sys/crypto/fips_enabled
    """.split()
)
_TREES = 255
_LONGEST = 255  # of a value for fsconfig(2)


def clean(path: str) -> str:
    """Return a destination as an absolute path without . and .. and double slashes."""
    return os.path.normpath("/" + path.lstrip("/"))


def below(root: str, path: str) -> str:
    """Return a destination as a path of the container; one that names the root on the host as well is taken to mean what is in there."""
    target = clean(path)
    return target[len(root) :] if root != "/" and target.startswith(root + "/") else target


class Wanted:
    """What the options of one mount come to."""

    __slots__ = ("attributes", "data", "flags", "how", "map", "propagation", "superblock")

    def __init__(self) -> None:
        self.map = ""  # of idmap=
        self.attributes = [0, 0, 0, 0]  # set, clear, and for all below: set, clear
        self.superblock = self.flags = 0
        self.propagation: list[int] = []
        self.how: set[str] = set()
        self.data: list[tuple[int, str]] = []

    def take(self, index: int, option: str) -> None:
        """Add one option; what is unknown is the file system's (config.md)."""
        if option in _ATTRIBUTES:
            self._attribute(option, 0)
        elif option in _SUPERBLOCK:
            on, off = _SUPERBLOCK[option]
            self.superblock = self.superblock & ~off | on
        elif option in _PROPAGATION:
            self.propagation.append(_PROPAGATION[option])
        elif option in _HOW:
            self.how.add(option)
        elif option in _RECURSIVE:
            self._attribute(option[1:], 2)
        elif option.startswith(("idmap=", "ridmap=")):
            name, _, self.map = option.partition("=")
            self.how.add(name)
        elif option and option not in _FOR_OTHERS and not option.startswith(("x-", "X-", "comment=")):
            self.data.append((index, option))

    def _attribute(self, name: str, at: int) -> None:
        on, off, flag_on, flag_off = _ATTRIBUTES[name]
        self.attributes[at] = self.attributes[at] & ~off | on
        self.attributes[at + 1] = self.attributes[at + 1] & ~on | off
        if at == 0:
            self.flags = self.flags & ~flag_off | flag_on


class Mounter:
    """Turns mounts into operations; `trees` counts those that the helper makes before it clones."""

    def __init__(self, bundle: str, kinds: dict[str, str], maps: tuple[str, str], *, group: str, user: bool, root: str = "/") -> None:
        """`kinds` are the types of the container's own namespaces with their paths, `maps` its id maps, `group` its cgroup's directory.

        `root` is root.path, which destinations may begin with (see `below`).
        `user` says that the caller has no rights outside of a user namespace, so that there is nothing to be done before the clone.
        """
        self.bundle = bundle
        self.root = os.path.normpath(os.path.join(bundle, root))
        self.kinds = kinds
        self.maps = maps
        self.users = user or "user" in kinds
        self.early = not user and ("user" in kinds or kinds.get("mount") != "")  # sources are out of reach later, or not slaves
        self.group = group
        self.label = ""
        self.warnings: list[str] = []  # of what cannot be had and does no harm
        self.late: list[Op] = []  # for when devices are there
        self.targets: list[str] = []  # of those so far
        self.trees = 0
        self.shares = False  # the root with other mount namespaces
        self.private = False  # the root, so that nothing from outside comes in
        self.spread = 0  # how mounts spread that say nothing of it, MS_... of mount(2)

    def mount(self, mount: dict[str, Any], where: str) -> list[Op]:
        """Return the operations for one entry of `mounts`; ConfigError for what contradicts itself."""
        wanted = Wanted()
        for index, option in enumerate(mount.get("options", ())):
            wanted.take(index, option)
        kind, target = mount.get("type", ""), below(self.root, mount["destination"])
        if len(wanted.propagation) > 2:
            raise ConfigError("read mount", target, "more than two kinds of propagation", hint="keep one", origin=f"{where}.options")
        self.targets.append(target)
        binds = kind == "bind" or not wanted.how.isdisjoint(("bind", "rbind"))
        if target == "/" and "remount" not in wanted.how and (binds or kind not in ("", "none")) and not self._may_cover_root():
            hint = "say so in root.path, or make it the first of mounts; remount mounts again what is there"
            raise ConfigError("mount on", "/", "it is the root itself", hint=hint, origin=f"{where}.destination")
        if binds:
            return [self._bind(mount, wanted, target, where)]
        for name in ("idmap", "ridmap"):
            if name in wanted.how:
                raise ConfigError(
                    "read mount", target, f"{name} goes with bind mounts", hint="add bind or rbind", origin=f"{where}.options"
                )
        if "remount" in wanted.how or (kind in ("", "none") and wanted.propagation):
            return [self._again(wanted, target, where)]
        if kind in ("", "none"):
            raise ConfigError("read mount", target, "has no type", hint="name a file system, or add bind", origin=f"{where}.type")
        if kind in ("cgroup", "cgroup2"):
            return self._cgroup(wanted, target, where)
        if target == "/proc" and kind != "proc":
            raise self._hides_proc(where)
        return self._file_system(kind, mount.get("source") or kind, wanted, target, where)

    def spreads(self, spec: dict[str, Any]) -> int:
        """Return what `linux.rootfsPropagation` comes to, MS_... of mount(2), and know it from then on.

        What is recursive is set on all mounts at once, but where one of them says something itself on each that says nothing.
        """
        value = _PROPAGATION.get(spec.get("linux", {}).get("rootfsPropagation", ""), 0)
        self.private = bool(value & (_PRIVATE | _UNBINDABLE))
        if value & _REC and any(option in _PROPAGATION for one in spec.get("mounts", ()) for option in one.get("options", ())):
            self.spread = value
            value &= ~_REC
        return value

    def _may_cover_root(self) -> bool:
        """Before anything is mounted in it, and where no other namespace sees that."""
        return self.kinds.get("mount") == "" and not self.shares and self.targets.count("/") == len(self.targets)

    @staticmethod
    def _hides_proc(where: str) -> ConfigError:
        hint = "mount type proc there; only single files of it may be covered"
        return ConfigError("mount on", "/proc", "only procfs may be there", hint=hint, origin=f"{where}.destination")

    def _file_system(self, kind: str, source: str, wanted: Wanted, target: str, where: str) -> list[Op]:
        how = _COPY_UP if "tmpcopyup" in wanted.how and kind == "tmpfs" else 0
        if "tmpcopyup" in wanted.how and not how:
            raise ConfigError("read mount", target, "tmpcopyup goes with tmpfs", hint="use type tmpfs", origin=f"{where}.options")
        if kind not in _KERNEL and wanted.attributes[0] & _RDONLY:
            wanted.superblock |= 1
        if target == "/dev" and wanted.attributes[0] & _RDONLY:  # devices are to be made there first
            self.late.append(read_only(target, where))
            wanted.take(0, "rw")
        options = [option for _, option in wanted.data]
        if self.label and kind == "mqueue":
            how |= _LABEL
            options.append(self.label)
        elif self.label and kind not in _LABELLED and not any(option.startswith("context=") for option in options):
            options.append(f"context={self.label}")
        if wanted.superblock & _IVERSION or any(len(option.partition("=")[2]) > _LONGEST for option in options):
            how |= _CLASSIC
        flags = ops.NOFOLLOW if kind in ("proc", "sysfs") or "dest-nofollow" in wanted.how else 0
        one = self._op([kind, source, target, "", "", *options], wanted, how, flags=flags, where=where)
        if self.users and kind in _INSTEAD and self.kinds.get(_INSTEAD[kind][0]) != "":
            # not this user namespace's to mount: then what the host shows of it, and what is mounted below that no more freely
            wanted.attributes[2] |= wanted.attributes[0] & (_RDONLY | _NOSUID | _NODEV | _NOEXEC)
            instead = self._shown(["", _INSTEAD[kind][1], target, "", ""], wanted, _BIND | _DEEP, where)
            return [(one[0], one[1] | ops.ELSE, *one[2:]), instead]
        return [one]

    def _bind(self, mount: dict[str, Any], wanted: Wanted, target: str, where: str) -> Op:
        self._without_data(wanted, target, where)
        source = mount.get("source", "")
        if not source:
            raise ConfigError("bind", target, "has no source", hint="name a path of the host", origin=f"{where}.source")
        how = _BIND | (_DEEP if "rbind" in wanted.how else 0) | (_SOURCE_NOFOLLOW if "src-nofollow" in wanted.how else 0)
        source = os.path.join(self.bundle, source)
        if "copy-symlink" in wanted.how and os.path.islink(source):
            return op(ops.SYMLINK, target, os.readlink(source), origin=where)
        if target in _STAND_INS:
            how |= _IN_PROC
        elif target == "/proc" and not _is_proc(source):
            raise self._hides_proc(where)
        elif target.startswith("/proc/"):
            hint = "leave it out; single files such as /proc/meminfo may be covered"
            raise ConfigError("mount on", target, "would hide a part of procfs", hint=hint, origin=f"{where}.destination")
        if "remount" in wanted.how:
            return self._again(wanted, target, where, how | _AGAIN)
        if program() == "runc":
            from pyrun.oci.asrunc import bind_flags

            bind_flags(wanted, source, target, where, locked="user" in self.kinds)
        self._defaults(wanted)
        maps = self._maps(mount, wanted, where)
        if "ridmap" in wanted.how:
            how |= _MAP_DEEP
        words = ["", source, target, *maps]
        flags = ops.NOFOLLOW if "dest-nofollow" in wanted.how else 0
        inside = self._changed(source)
        if inside:  # by its path on the host it may be out of reach by then
            words[1], how = inside, how | _INSIDE
        elif self.early or maps[0] or self._spreads_alone(wanted):
            return self._tree(words, wanted, how, where, flags)
        return self._op(words, wanted, how, flags=flags, where=where)

    def _spreads_alone(self, wanted: Wanted) -> bool:
        """Whether a bind goes with its source where all else does not: that is lost in here (mount_namespaces(7))."""
        alone = _SHARED | (_SLAVE if self.private else 0)
        return not self.users and not self.shares and any(one & alone for one in wanted.propagation)

    def _without_data(self, wanted: Wanted, target: str, where: str) -> None:
        for index, option in wanted.data:
            if "=" not in option:
                hint = "bind mounts take no options of a file system"
                raise ConfigError("read mount", target, f"unknown option {option!r}", hint=hint, origin=f"{where}.options[{index}]")
            # of a file system: the kernel passes over them here, and who sends them relies on that
            self.warnings.append(f"{where}.options[{index}]: {option} means nothing to a bind mount")
        wanted.data.clear()

    def _defaults(self, wanted: Wanted) -> None:
        """Once an option names a flag the others are those of a new mount, rw, suid, dev and exec, as clients of crun and runc expect.

        In a user namespace what the kernel locks there stays (mount_namespaces(7)), unless it is named.
        """
        on, off = wanted.attributes[:2]
        if on or off:
            plain = _NOSYMFOLLOW if self.users else _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOSYMFOLLOW
            wanted.attributes[1] = off | plain & ~on

    def _changed(self, source: str) -> str:
        """The path in the root of a source where an earlier mount shows something else by the time of this one, else ""."""
        path = os.path.normpath(source)
        if not path.startswith(self.root + "/"):
            return ""
        inside = path[len(self.root) :]
        return inside if any(f"{inside}/".startswith(f"{one}/") or one.startswith(f"{inside}/") for one in self.targets[:-1]) else ""

    def _maps(self, mount: dict[str, Any], wanted: Wanted, where: str) -> tuple[str, str]:
        if mount.get("uidMappings"):
            return extents(mount["uidMappings"]), extents(mount["gidMappings"])
        if wanted.map:
            from pyrun.oci.idmaps import option_maps

            return option_maps(wanted.map, self.maps, f"{where}.options")
        joined = self.kinds.get("user", "")
        return ("", "") if wanted.how.isdisjoint(("idmap", "ridmap")) else (joined, joined) if joined else self.maps

    def _again(self, wanted: Wanted, target: str, where: str, how: int = 0) -> Op:
        if "remount" not in wanted.how:
            how = _BIND  # nothing but its propagation
        return self._op(["", "", target, "", "", *[option for _, option in wanted.data]], wanted, how | _AGAIN, where=where)

    def _cgroup(self, wanted: Wanted, target: str, where: str) -> list[Op]:
        """The tree as the container's namespace shows it, else its own part of the host's; runc shows all (cgroup_namespaces(7))."""
        base = next((path for path in CGROUP_ROOTS if os.path.exists(path + "/cgroup.controllers")), "")
        if not base:
            hint = "mount a cgroup2 tree on /sys/fs/cgroup, or leave the mount out"
            raise ConfigError("mount cgroup on", target, "the host has no cgroup2 tree", hint=hint, origin=where)
        if "cgroup" in self.kinds or (program() == "runc" and not self.early):
            return [self._op(["cgroup2", "cgroup", target, "", "", *(option for _, option in wanted.data)], wanted, 0, where=where)]
        self._without_data(wanted, target, where)
        source = self.group or base
        return [self._shown(["", source, target, "", ""], wanted, _BIND, where)]

    def bound_device(self, path: str, where: str) -> Op:
        """Return the operation that shows a node of the host at `path`, which no user namespace may make."""
        wanted = Wanted()
        for option in ("nosuid", "noexec"):
            wanted.take(0, option)
        return self._shown(["", path, path, "", ""], wanted, _BIND, where)

    def _shown(self, words: list[str], wanted: Wanted, how: int, where: str) -> Op:
        return self._tree(words, wanted, how, where) if self.early else self._op(words, wanted, how, where=where)

    def tree(self, where: str) -> int:
        """Return the number of one more tree that the helper makes before it clones."""
        self.trees += 1
        if self.trees > _TREES:
            raise ConfigError("read mounts", where, f"more than {_TREES} sources from before the clone", hint="use fewer", origin=where)
        return self.trees

    def _tree(self, words: list[str], wanted: Wanted, how: int, where: str, flags: int = 0) -> Op:
        return self._op(words, wanted, how, tree=self.tree(where), flags=flags, where=where)

    def _op(self, words: list[str], wanted: Wanted, how: int, *, tree: int = 0, flags: int = 0, where: str = "") -> Op:
        spread = [] if wanted.propagation or how & _AGAIN else [self.spread]
        return _mount(words, wanted, how, (*wanted.propagation, *spread, 0, 0), tree=tree, flags=flags, where=where)


def _mount(words: list[str], wanted: Wanted, how: int, spread: Sequence[int], *, tree: int = 0, flags: int = 0, where: str = "") -> Op:
    first, second, below_first, below_second = wanted.attributes
    blob = mount_blob(
        (first, second, below_first, below_second), (spread[0], spread[1]), wanted.superblock, wanted.flags | wanted.superblock
    )
    return op(ops.OCI_MOUNT, words, blob, n=len(words), a=how, b=tree, flags=flags, origin=where)


def read_only(target: str, where: str) -> Op:
    """Return the operation that makes what is mounted on `target` read-only, and what is mounted below it not."""
    wanted = Wanted()
    wanted.take(0, "ro")
    return _mount(["", "", target, "", ""], wanted, _BIND | _AGAIN, (0, 0), where=where)


def extents(ranges: list[dict[str, int]]) -> str:
    """Return id mappings as /proc/PID/uid_map takes them."""
    return "".join([f"{one['containerID']} {one['hostID']} {one['size']}\n" for one in ranges])


def _is_proc(source: str) -> bool:
    return os.path.exists(source + "/self/stat") and os.path.exists(source + "/sys/kernel")
