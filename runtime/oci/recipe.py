"""What `create` decided, for the launcher to use again: the format of native/again.h.  Cold: written once for each kind of container.

The launcher makes the key (native/again_key.c) and hands it on when it finds no recipe; here it is decided whether a decision depends
on nothing but the key and the files that are checked.  Whatever is not known to is decided anew each time.
"""

from __future__ import annotations

import os
from struct import Struct

from pyrun import native
from pyrun.host import probe
from pyrun.oci import cgroups, mounts, planner
from pyrun.oci.process import lost_capabilities
from pyrun.plan import ops
from pyrun.pod.cache import CHECK, Strings, keep, own_checks, pack_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.plan.ops import Op, Plan
    from pyrun.pod.recipe import Check

__all__ = ["Key", "save", "take_key"]

_VARIABLE = b"PYRUN_OCI_KEY"
_MAGIC, _VERSION = 0x61676169, 5
_NONE = 0xFFFFFFFF
_KEY = Struct("=6I")
_HEADER = Struct("=18I")
_PATH_SIZE, _JOIN = 4096, 256
_KEPT = 128  # recipes below one root; each is about 30 kB
_DIGITS = frozenset("0123456789abcdef")


class Key:
    """What the launcher made of a config.json: `text` is that, `order` how mounts and variables are sorted, `passwd` None with HOME."""

    __slots__ = ("data", "mounts", "order", "passwd", "text", "variables")

    def __init__(self, block: bytes) -> None:
        _, self.mounts, self.variables, size, passwd, text = _KEY.unpack_from(block)
        at = _KEY.size + 2 * (self.mounts + self.variables)
        self.order = block[_KEY.size : at]
        self.data = block[at : at + size]
        at += size
        self.passwd = None if passwd == _NONE else block[at : at + passwd]
        self.text = block[len(block) - text :]


def take_key() -> Key | None:
    """Return what the launcher has to say about this command line, None for nothing; it can be asked once."""
    import posix

    word = posix.environ.pop(_VARIABLE, b"")
    if not word.isdigit():
        return None
    fd = int(word)
    try:
        with open(fd, "rb") as file:
            file.seek(0)
            block = file.read()
    except OSError:
        return None
    return Key(block) if block[:4] == _MAGIC.to_bytes(4, "little") else None


def save(root: str, key: Key, spec: dict[str, Any], plan: Plan, name: str) -> None:
    """Keep the decision `plan` for containers like `name`; whatever prevents it is no loss, so no error is raised."""
    first = _first_mount(spec, plan)
    if first < 0 or plan.warnings or _names_root(spec, plan) or not _decides_alone(spec) or not _is_home(key, spec, plan):
        return
    try:
        checks = own_checks([])
        if checks:
            keep(root + "/.recipes", _KEPT, key.data, _encode(key, spec, plan, name, first, checks))
    except OSError:
        pass


def _first_mount(spec: dict[str, Any], plan: Plan) -> int:
    """The operation of the first mount, when each has one and they follow each other; else -1."""
    found = [index for index, one in enumerate(plan.ops) if one[0] == ops.OCI_MOUNT and one[7].startswith("mounts[")]
    if len(found) != len(spec.get("mounts", ())) or plan.ops[-1][0] != ops.EXEC:
        return -1
    if any(plan.ops[at][1] & ops.ELSE or plan.ops[at][6] for at in found):
        return -1
    return found[0] if found and found[-1] - found[0] == len(found) - 1 else 0 if not found else -1


def _names_root(spec: dict[str, Any], plan: Plan) -> bool:
    """Whether a destination begins with the path of the root, which is not in the key."""
    root = next(os.path.normpath(str(one[3])) for one in plan.ops if one[0] == ops.OCI_ROOT)
    return any(mounts.below(root, one["destination"]) != mounts.clean(one["destination"]) for one in spec.get("mounts", ()))


def _decides_alone(spec: dict[str, Any]) -> bool:
    """Whether nothing of the host decided that is neither in the key nor looked at again by the launcher or the helper."""
    process, linux = spec["process"], spec.get("linux", {})
    spaces = {one["type"]: one.get("path", "") for one in linux.get("namespaces", ())}
    resources = linux.get("resources") or {}
    if any(name.startswith("run.oci.") for name in spec.get("annotations", ())):  # whose values are not in the key
        return False
    if "user" in spaces or spaces.get("mount") != "" or any((spec.get("hooks") or {}).values()) or process.get("terminal"):
        return False
    if cgroups.owner(spec):
        return False
    if any(process.get(name) for name in ("apparmorProfile", "selinuxLabel")) or any(
        linux.get(name) for name in ("mountLabel", "netDevices")
    ):
        return False
    if lost_capabilities(spec, probe().bounding, ambient=False):  # of which somebody has to be told each time
        return False
    if linux.get("seccomp", {}).get("listenerPath") or any(name not in _RESOURCES for name, value in resources.items() if value):
        return False
    targets = [mounts.clean(one["destination"]) for one in spec.get("mounts", ())]
    if targets.count("/dev") > 1 or targets.count("/proc") > 1:
        return False
    for one, target in zip(spec.get("mounts", ()), targets, strict=True):
        options = one.get("options", ())
        if "copy-symlink" in options:  # whether the source is a link
            return False
        binds = one.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(options)
        if binds and any("atime" in option for option in options):  # by the name of the program: pyrun.oci.asrunc
            return False
        if target == "/proc" and (one.get("type") != "proc" or not {"bind", "rbind"}.isdisjoint(one.get("options", ()))):
            return False
        if one.get("type") in ("cgroup", "cgroup2") and "cgroup" not in spaces:
            return False
    env: list[str] = process.get("env", [])
    return len({word.partition("=")[0] for word in env}) == len(env) and "HOME=" not in env


_RESOURCES = ("devices", "memory", "cpu", "pids", "unified")


def _is_home(key: Key, spec: dict[str, Any], plan: Plan) -> bool:
    """Whether HOME comes from the very /etc/passwd that is in the key."""
    given: list[str] = spec["process"].get("env", [])
    had = plan.ops[-1][4]
    assert isinstance(had, list)
    if key.passwd is None:
        return len(had) == len(given)
    home: str = "HOME=" + planner.home_of(key.passwd, spec["process"].get("user", {}).get("uid", 0))
    return had == [*given, home]


def _encode(key: Key, spec: dict[str, Any], plan: Plan, name: str, first: int, checks: list[Check]) -> bytes:
    block, root = _block(plan)
    parts = [key.data, bytes(-len(key.data) % 8), key.order, bytes(-len(key.order) % 8), block]
    start = _HEADER.size + len(checks) * CHECK.size
    order = start + len(parts[0]) + len(parts[1])
    tail = Strings(start + sum(map(len, parts)))
    packed = [pack_check(one, tail) for one in checks]
    helper, marked = tail.add(native.HELPER), tail.add(name)
    user = spec["process"].get("user", {})
    head = _HEADER.pack(
        _MAGIC, _VERSION, tail.start + len(tail.data), len(checks), start, len(key.data), tail.start - len(block), len(block),
        order, key.mounts, key.variables, first, root, helper,
        marked if len(name) == 64 and _DIGITS.issuperset(name) else 0, user.get("uid", 0), user.get("gid", 0), 0,
    )  # fmt: skip
    return b"".join((head, *packed, *parts, tail.data))


def _block(plan: Plan) -> tuple[bytes, int]:
    """The encoded plan with room for any path of a root, and where that is; likewise for namespaces."""
    todo: list[Op] = []
    marked = ""
    for one in plan.ops:
        if one[0] == ops.OCI_ROOT:
            assert isinstance(one[3], str)
            marked = one[3] + "\0" * (_PATH_SIZE - 1 - len(os.fsencode(one[3])))
            one = (*one[:3], marked, *one[4:])
        elif one[0] == ops.JOIN:
            assert isinstance(one[3], str)
            one = (*one[:3], one[3] + "\0" * (_JOIN + len(todo)), *one[4:])  # each another one, so that they share no place
        todo.append(one)
    whole = plan.ops
    plan.ops = todo
    try:
        block = ops.encode(plan)
    finally:
        plan.ops = whole
    return block, block.index(os.fsencode(marked))
