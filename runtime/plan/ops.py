"""Operations of a plan: plain tuples, one constructor each, and their encoding.

An operation is `(code, flags, n, s1, s2, a, b, origin)`, the fields of `struct plan_op` in
native/plan.h, where a `str` stands for a pool string, a `list` for a list of them and `bytes` for a
blob.  `origin` is the flag or manifest line that asked for it.  Tuples, because a start builds a
hundred of them and has no time for more; `pyrun.plan.describe` tells what each one means.
"""

from __future__ import annotations

import marshal
from struct import Struct
from struct import error as StructError

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Field = int | str | bytes | list[str]
    Op = tuple[int, int, Field, Field, Field, Field, Field, str]

MAGIC = 0x6E757279
VERSION = 1
MAX_SIZE = 4 << 20  # of a plan
MAX_LIST = 16384  # strings of a list
MAX_OPS = 4096  # of a plan, see native/plan.h

# Codes and flags of native/plan.h; tests/test_house.py holds the two against each other.
PROPAGATION, SCRATCH, HOST_DIR, OVERLAY, ROOT_BIND, UNMOUNT, MKDIR, MKFILE, WRITE, SYMLINK, MKNOD, MOUNT, BIND, MASK = range(1, 15)
READONLY, ROOT_READONLY, HOSTNAME, DOMAINNAME, NETWORK, TTY, OOM_SCORE, PIVOT, KEYRING, APP = range(15, 25)
SESSION, STDIN_NULL, UMASK, RLIMIT, IDS, CAPS, CHDIR, NO_NEW_PRIVS, SECCOMP, EXEC = range(25, 35)
LIMIT, DEVICES, HANDLER, JOIN, CHECKPOINT, HOOK, FIND, PARK, RAISE = range(35, 44)
OCI_ROOT, OCI_MOUNT, OCI_COVER, OCI_DEVICE, SYSCTL, OCI_LISTENER, LABEL, OCI_ATTRIBUTE = range(44, 52)
METADATA = 52

OPTIONAL = 1
ELSE = 2
NOFOLLOW = 16
RECURSIVE = 32
VOLATILE = 64
KEEP = 128
USERXATTR = 256
NOSUID = 512
CLAMP = 1024
POD = 2048

HAS_CONTROL = 1
HAS_POD = 2
HAS_CGROUP = 4
REMOVE = 8
RELAY_STDIN = 16
SETGROUPS_DENY = 32
HAS_EXPLAIN = 64
TELL_RUNNING = 128
ENTER = 256
SHARED = 512
SHARED_PID = 1024
DETAIL_STATUS = 65536
PRE_START, POST_STOP = 1, 2  # HANDLER
OCI = 2048
ENTERED = "the command line"  # origin of what `enter` and `exec` run
BARE = "args, in rootfs "  # the beginning of the origin of a program that needs no image
NOTIFY_APP = 4096
NOTIFY_NONE = 8192
ACCOUNT = 16384
NETNS = 32768
CLONE_NETWORK = 65536
WAIT = 131072
KEEP_GROUPS = 262144
HOST_NETWORK = 524288
TELL_END = 1048576
LISTEN_SHIFT = 24
SLOT_LISTEN = 128
SLOT_LISTEN_MAX = 64

# clone(2), unshare(2)
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# mount(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

# mount_setattr(2)
ATTR_RDONLY = 1
ATTR_NOSUID = 2
ATTR_NODEV = 4
ATTR_NOEXEC = 8

_HEADER = Struct("=14I Q")
_FLAGS = 24  # offset of plan_header.flags
_OP = Struct("=HHIIIQQ")
_CAPS = Struct("=5Q")
_MOUNT = Struct("=4Q4I")
SIZE, S1, S2 = _OP.size, _HEADER.size + 8, _HEADER.size + 12  # of an operation; where these members of the first one are
_IN_POOL = (SECCOMP, EXEC)  # what the notes leave out: a filter is large, and the program's words may be exchanged, see `fill`


def op(code: int, s1: Field = 0, s2: Field = 0, *, n: Field = 0, a: Field = 0, b: Field = 0, flags: int = 0, origin: str = "") -> Op:
    """Return one operation; see the comments of `enum plan_code` in native/plan.h for its fields."""
    return (code, flags, n, s1, s2, a, b, origin)


def caps_blob(bounding: int, effective: int, permitted: int, inheritable: int = 0, ambient: int = 0) -> bytes:
    """Return `struct plan_caps`, five capability sets of capabilities(7)."""
    return _CAPS.pack(bounding, effective, permitted, inheritable, ambient)


def mount_blob(attributes: tuple[int, int, int, int], propagation: tuple[int, int], superblock: int, flags: int) -> bytes:
    """Return `struct plan_oci_mount`; the attributes are to set and to clear on the mount, then on all below it."""
    return _MOUNT.pack(*attributes, *propagation, superblock, flags)


class Plan:
    """Everything that the helper needs, as values; `encode` makes the block of native/plan.h of it."""

    __slots__ = ("cgroup_name", "clone_flags", "explain", "flags", "gid_map", "ops", "pod_name", "timens", "uid_map", "warnings")

    def __init__(self, ops: Sequence[Op], *, clone_flags: int, flags: int = 0) -> None:
        self.ops = ops
        self.clone_flags = clone_flags
        self.flags = flags
        self.uid_map = self.gid_map = self.timens = self.pod_name = self.cgroup_name = ""
        self.explain: list[str] = []
        self.warnings: list[str] = []  # for whoever asked for it; the helper never sees them


class _Pool:
    """The pool while it grows; equal strings share a place."""

    __slots__ = ("data", "known")

    def __init__(self) -> None:
        self.data = bytearray(1)
        self.known: dict[str, int] = {"": 0}

    def string(self, text: str) -> int:
        at = self.known.get(text)
        if at is None:
            at = self.known[text] = len(self.data)
            self.data += text.encode("utf-8", "surrogateescape")
            self.data.append(0)
        return at

    def strings(self, words: Iterable[str]) -> int:
        at = len(self.data)
        for word in words:
            self.data += word.encode("utf-8", "surrogateescape")
            self.data.append(0)
        return at

    def blob(self, data: bytes) -> int:
        self.data += bytes(-len(self.data) % 8)
        at = len(self.data)
        self.data += data
        self.data.append(0)
        return at

    def place(self, field: Field) -> int:
        if type(field) is int:
            return field
        if type(field) is str:
            return self.string(field)
        return self.blob(field) if type(field) is bytes else self.strings(field)  # type: ignore[arg-type]


def _pack(pool: _Pool, one: Op) -> bytes:
    code, flags, n, s1, s2, a, b, _ = one
    if code == EXEC:
        assert isinstance(s1, list) and isinstance(s2, list) and isinstance(b, list)
        return _OP.pack(code, flags, len(s1), pool.strings(s1), pool.strings(s2), len(s2), pool.strings(b) | len(b) << 32)
    if code == HOOK:  # a: (variables, seconds), b: the state before and behind the pid
        assert isinstance(s1, list) and isinstance(s2, list) and isinstance(a, int) and isinstance(b, list)
        head, tail = [pool.string(text) for text in b]
        return _OP.pack(code, flags, len(s1), pool.strings(s1), pool.strings(s2), len(s2) | a << 32, head | tail << 32)
    if code == FIND:
        assert isinstance(b, list)
        return _OP.pack(code, flags, 0, 0, 0, 0, pool.strings(b) | len(b) << 32)
    if code == OVERLAY:
        assert isinstance(s2, list)
        n = len(s2)
    elif code in (SECCOMP, DEVICES):
        assert isinstance(s1, bytes)
        n = len(s1)
    place = pool.place
    return _OP.pack(
        code,
        flags,
        (n if type(n) is int else place(n)) & 0xFFFFFFFF,
        s1 if type(s1) is int else place(s1),
        s2 if type(s2) is int else place(s2),
        a if type(a) is int else place(a),
        b if type(b) is int else place(b),
    )


def encode(plan: Plan) -> bytes:
    """Return the plan as the helper reads it, with the operations once more behind it for `notes`."""
    pool = _Pool()
    packed = b"".join([_pack(pool, one) for one in plan.ops])
    names = [pool.string(text) for text in (plan.uid_map, plan.gid_map, plan.pod_name, plan.cgroup_name)]
    explain = pool.strings(plan.explain)
    timens = pool.string(plan.timens)
    flags = plan.flags | (HAS_EXPLAIN if plan.explain else 0)
    if not pool.data.endswith(b"\0"):
        pool.data.append(0)
    start = _HEADER.size + len(packed)
    notes = marshal.dumps([one if one[0] not in _IN_POOL else (one[0], one[1], 0, 0, 0, 0, 0, one[7]) for one in plan.ops])
    size = start + len(pool.data) + len(notes)
    if len(plan.ops) > MAX_OPS:
        hint = "mount fewer volumes: a directory can hold many of them"
        raise UsageError("start app", "", f"it takes {len(plan.ops)} steps, and {MAX_OPS} are the most", hint=hint)
    if size > MAX_SIZE:
        raise too_many(f"{len(pool.data)} bytes of arguments and variables")
    head = _HEADER.pack(
        MAGIC, VERSION, size, len(plan.ops), start, len(pool.data), flags, *names, explain, len(plan.explain), timens, plan.clone_flags
    )
    return b"".join((head, packed, pool.data, notes))


def add_flags(block: bytes, flags: int) -> bytes:
    """Return an encoded plan with more header flags set."""
    held = int.from_bytes(block[_FLAGS : _FLAGS + 4], "little")
    return b"".join((block[:_FLAGS], (held | flags).to_bytes(4, "little"), block[_FLAGS + 4 :]))


def has_flag(block: bytes, flag: int) -> bool:
    """Return whether an encoded plan has a header flag."""
    return bool(int.from_bytes(block[_FLAGS : _FLAGS + 4], "little") & flag)


def fill(block: bytes, words: Sequence[str], variables: Mapping[int, str]) -> bytes:
    """Return an encoded plan with `words` behind the app's arguments and other `variables`: place in its environment -> NAME=VALUE.

    The launcher does the same (native/words.c), byte for byte.  UsageError where the helper would not take that many,
    or for a NUL byte in one.
    """
    if not words and not variables:
        return block
    fields = list(_HEADER.unpack_from(block))
    end = fields[4] + fields[5]
    head, pool, strings = bytearray(block[: fields[4]]), block[fields[4] : end], _Pool()
    strings.data = bytearray()
    env = count = 0
    for at in range(_HEADER.size, fields[4], _OP.size):
        code, flags, n, s1, s2, a, b = _OP.unpack_from(block, at)
        if code != EXEC:
            continue
        if words:
            if n + len(words) > MAX_LIST:
                raise too_many(f"{n + len(words)} arguments")
            count += n + len(words)
            s1, n = len(pool) + strings.strings([*_words(pool, s1, n), *words]), n + len(words)
            words = ()  # the programs behind the first are event handlers
        if variables:
            count += 0 if env else a
            env = env or len(pool) + strings.strings([variables.get(i, word) for i, word in enumerate(_words(pool, s2, a))])
            s2 = env
        _OP.pack_into(head, at, code, flags, n, s1, s2, a, b)
    if strings.data.count(0) != count:
        raise UsageError("start app", "", "an argument or a variable has a NUL byte in it", hint="the kernel takes none")
    fields[2] += len(strings.data)
    fields[5] += len(strings.data)
    if fields[2] > MAX_SIZE:
        raise too_many(f"{len(strings.data)} bytes of arguments and variables")
    _HEADER.pack_into(head, 0, *fields)
    return b"".join((head, pool, strings.data, block[end:]))


def too_many(what: str) -> UsageError:
    """Return the error for an app that would get more than fits into a plan."""
    return UsageError("start app", "", f"it would get {what}, which is too many", hint="hand over a file with them, in a volume")


def _words(pool: bytes, at: int, count: int) -> list[str]:
    return [word.decode("utf-8", "surrogateescape") for word in pool[at:].split(b"\0", count)[:count]]


def notes(block: bytes) -> list[Op]:
    """Return the operations of an encoded plan, for naming the one that failed; of a filter only that it is there."""
    fields = _HEADER.unpack_from(block)
    found: list[Op] = marshal.loads(block[fields[4] + fields[5] :])
    return _entered(block, fields, found) if fields[6] & ENTER else _with_words(block, fields, found)


def _with_words(block: bytes, fields: tuple[int, ...], found: list[Op]) -> list[Op]:
    pool = block[fields[4] : fields[4] + fields[5]]
    for index, one in enumerate(found):
        if one[0] == EXEC:
            _, _, n, s1, s2, a, b = _OP.unpack_from(block, _HEADER.size + index * _OP.size)
            paths = _words(pool, b & 0xFFFFFFFF, b >> 32)
            found[index] = op(EXEC, _words(pool, s1, n), _words(pool, s2, a), b=paths, flags=one[1], origin=one[7])
        elif one[0] in (HOSTNAME, WRITE):  # the launcher may have exchanged the host name
            _, _, _, s1, s2, _, _ = _OP.unpack_from(block, _HEADER.size + index * _OP.size)
            strings = [_words(pool, at, 1)[0] if type(old) is str else old for at, old in ((s1, one[3]), (s2, one[4]))]
            found[index] = (one[0], one[1], one[2], strings[0], strings[1], one[5], one[6], one[7])
    return found


def _entered(block: bytes, fields: tuple[int, ...], pod: list[Op]) -> list[Op]:
    """The launcher takes some operations of the pod's plan, in another order, and puts another program into the last one."""
    known: dict[int, list[Op]] = {}
    for one in pod:
        known.setdefault(one[0], []).append(one)
    packed = [_OP.unpack_from(block, _HEADER.size + index * _OP.size) for index in range(fields[3])]
    _, _, count, at, *_ = packed[-1]
    words = _words(block, fields[4] + at, count)
    return [known[one[0]].pop(0) for one in packed[:-1]] + [op(EXEC, words, [], origin=ENTERED)]


def decode(block: bytes) -> Plan:
    """Return the plan of an encoded pod as values again, what `encode` was given; ValueError for anything else."""
    try:
        fields = _HEADER.unpack_from(block)
        if fields[0] != MAGIC or fields[1] != VERSION or fields[2] != len(block):
            raise ValueError("no plan of this version")
        found: list[Op] = marshal.loads(block[fields[4] + fields[5] :])
        found = _with_words(block, fields, found)
        for index, one in enumerate(found):
            if one[0] == SECCOMP:
                _, _, size, at, *_ = _OP.unpack_from(block, _HEADER.size + index * _OP.size)
                found[index] = op(SECCOMP, block[fields[4] + at : fields[4] + at + size], origin=one[7])
    except (StructError, EOFError, TypeError, IndexError) as error:
        raise ValueError(str(error)) from None
    pool = block[fields[4] : fields[4] + fields[5]]
    plan = Plan(found, clone_flags=fields[-1], flags=fields[6] & ~HAS_EXPLAIN)
    (plan.uid_map,), (plan.gid_map,), (plan.pod_name,), (plan.cgroup_name,) = (_words(pool, at, 1) for at in fields[7:11])
    (plan.timens,) = _words(pool, fields[13], 1)
    plan.explain = _words(pool, fields[11], fields[12])
    return plan
