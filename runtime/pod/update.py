"""Other limits and devices for a running pod, at once and for its next starts.

What the kernel holds is changed first, all or nothing.  Then the pod's plan on disk is replaced, so that its keeper, or `pyrun restart`,
starts it with what holds now.  A pod in the foreground has no plan on disk and no next start.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from pyrun import native
from pyrun.engine.placement import adjust
from pyrun.errors import HostError, PyrunError, StateError, UsageError
from pyrun.host import read_small
from pyrun.plan import ops
from pyrun.plan.devices_bpf import POD_DEFAULT, device_program, rules_of_text, text_of
from pyrun.plan.resources import KEYED, UNLIMITED
from pyrun.pod import limits
from pyrun.pod.devices import read_device, rule_of
from pyrun.pod.live import find_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.plan.config import Device
    from pyrun.plan.devices_bpf import Rule
    from pyrun.plan.ops import Op, Plan
    from pyrun.pod.live import Live
    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

    Placed = tuple[str, str, str, str]  # directory of version 1 or "", file, text, origin

__all__ = ["update"]

_DENY = "--device-deny"
_NO_LINE = {"io.max": "rbps=max wbps=max riops=max wiops=max", "io.latency": "target=max"}  # a disk without a limit has none
_FILE = "devices"  # of a pod without a plan on disk: the rules that hold
_MODE = 0o600
_STEP = "use device"


def update(pods: Pods, uuid: str, options: Options, *, deny: Sequence[str] = (), app: str | None = None) -> None:
    """Set the limits of `options` for the running pod, open its devices and close those of `deny`, all or none.

    UsageError for what makes no sense; HostError where the pod's cgroup does not have the controller, or the kernel refuses a
    value: what was set before holds then.  `app` says which app of several.
    """
    asked = limits.of(options, [], fresh=False)
    added = [one for word in options.device for one in read_device(word)]
    closed = [_closed(path) for path in deny]
    for one, access in added:
        if rule_of(one.mode, one.number, access)[:3] in closed:
            raise UsageError(_STEP, one.source, "is given and denied at once", hint="keep one of --device and --device-deny", origin=_DENY)
    with find_live(pods, uuid, app) as live:
        if not live.cgroup:
            raise StateError("update pod", uuid, "it has no cgroup", hint="that takes a cgroup2 tree that pyrun may write to")
        plan = _plan_of(live)
        wanted = _placed(plan, asked)
        before = _rules(live, plan)
        rules: list[Rule] = []
        if added or closed:
            rules = [rule for rule in before or POD_DEFAULT if rule[:3] not in closed]
            rules += [rule_of(one.mode, one.number, access) for one, access in added]
        with contextlib.ExitStack() as held, contextlib.ExitStack() as undo:
            for limit in wanted:
                _set(live.cgroup, limit, undo)
            if rules:
                _make_nodes(live, plan, [one for one, _ in added], held, undo)
                origin = added[0][0].origin if added else _DENY
                _attach(live, device_program(rules), origin)
                undo.callback(_attach, live, device_program(before) if before else b"", origin)
            if asked:
                adjust(live.cgroup, [limit[:2] for limit in asked])
            _keep(live, plan, wanted, [one for one, _ in added], rules)
            undo.pop_all()


def _placed(plan: Plan, asked: Sequence[tuple[str, str, str]]) -> list[Placed]:
    """Where each limit goes: a cgroup of version 1 that the pod has for its controller, or its cgroup in the tree."""
    from pyrun.plan.version1 import controller_of, raised, version_1, with_swap

    groups = {controller_of(str(one[3])): str(one[5]) for one in plan.ops if one[0] == ops.LIMIT and one[5] and not _of_all(one)}
    old = [limit for limit in asked if controller_of(limit[0]) in groups]
    memory, together = [
        int(read_small(f"{groups.get('memory', '')}/memory.{name}limit_in_bytes").strip() or 1 << 63)  # none without accounting of swap
        for name in ("", "memsw.")
    ]
    found = raised(version_1(with_swap(old, memory, together), None), together)
    return [("", *limit) for limit in asked if limit not in old] + [
        (groups[name], file, text, origin) for name, file, text, origin in found
    ]


def _of_all(one: Op) -> bool:
    """Whether it is a limit of several apps together."""
    assert isinstance(one[1], int)
    return bool(one[1] & ops.POD)


def _closed(path: str) -> tuple[str, int, int]:
    try:
        info = os.stat(path)
    except OSError as error:
        raise UsageError(_STEP, path, (error.strerror or "").lower(), hint="name a device node of the host", origin=_DENY) from None
    if not (stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        raise UsageError(_STEP, path, "is not a device", hint="name a device node of the host", origin=_DENY)
    kind, major, minor, _, _ = rule_of(info.st_mode, info.st_rdev, "")
    if any(rule[:2] == (kind, major) and rule[2] in (-1, minor) for rule in POD_DEFAULT):
        raise UsageError(_STEP, path, "is one that every pod has", hint="deny those that were given with --device", origin=_DENY)
    return kind, major, minor


def _plan_of(live: Live) -> Plan:
    try:
        return ops.decode(live.plan())
    except ValueError as error:
        hint = "it was started by another version of pyrun: start it again"
        raise StateError("read the plan of pod", live.uuid, str(error), hint=hint) from None


def _rules(live: Live, plan: Plan) -> list[Rule]:
    """What holds now; [] for a pod whose list is closed without a program."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=live.fd)
        with open(fd, encoding="ascii") as file:
            return rules_of_text(file.read())
    for one in plan.ops:
        if one[0] == ops.DEVICES:
            assert isinstance(one[4], str)
            return rules_of_text(one[4])
    return []


def _set(cgroup: str, limit: Placed, undo: contextlib.ExitStack) -> None:
    where, file, text, origin = limit
    path = f"{where or cgroup}/{file}"
    try:
        with open(path, encoding="utf-8") as held:
            old = held.read()
        _write(path, text)
    except OSError as error:
        from pyrun.engine.explain import LISTS, NO_FILE

        hint = LISTS.get(file, "see cgroups(7)")
        reason = os.strerror(error.errno or 0).lower()
        controller = file.partition(".")[0]
        if error.errno == errno.ENOENT and controller in read_small(f"{cgroup}/cgroup.controllers").decode().split():
            hint = NO_FILE
        elif error.errno == errno.ENOENT:
            reason = f"the pod's cgroup does not have the controller {controller}"
            hint = "start the pod with a limit of that kind: then pyrun enables the controller for it"
        raise HostError("set limit", f"{file} {text}", reason, errno=error.errno or 0, hint=hint, origin=origin) from None
    undo.callback(_restore, path, old)
    if file in _NO_LINE and not any(line.split()[:1] == text.split()[:1] for line in old.splitlines()):
        undo.callback(_write, path, f"{text.split()[0]} {_NO_LINE[file]}")


def _restore(path: str, text: str) -> None:
    for line in text.splitlines():  # io.max has one for each disk
        _write(path, line)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _make_nodes(live: Live, plan: Plan, devices: Sequence[Device], held: contextlib.ExitStack, undo: contextlib.ExitStack) -> None:
    """In the pod's own /dev, from outside; below its root no name may lead through a link.  StateError where nodes do not open."""
    if not devices:
        return
    if not any(one[0] == ops.MKNOD for one in plan.ops):
        hint = "start the pod with --device: then a program decides, also about nodes that the app makes"
        raise StateError(_STEP, devices[0].path, "this pod's /dev is nodev, for its app may make nodes", hint=hint)
    try:
        root = os.open(f"/proc/{live.init}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, root)
        for device in devices:
            _make_node(root, device, held, undo)
    except OSError as error:
        raise HostError("make", devices[0].path, errno=error.errno or 0, hint="see `pyrun enter`: ls -l /dev", origin="--device") from None


def _make_node(root: int, device: Device, held: contextlib.ExitStack, undo: contextlib.ExitStack) -> None:
    """What the app puts in the node's place meanwhile is not touched: owner and mode are set by a descriptor of the node."""
    inside = native.RESOLVE_IN_ROOT | native.RESOLVE_NO_SYMLINKS
    folder = native.openat2(root, b"/dev", os.O_PATH | os.O_DIRECTORY, 0, inside)
    held.callback(os.close, folder)
    *above, name = device.path.split("/")[2:]
    for part in above:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=folder)
        folder = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        held.callback(os.close, folder)
    try:
        os.mknod(name, device.mode, device.number, dir_fd=folder)
        undo.callback(os.unlink, name, dir_fd=folder)
    except FileExistsError:
        pass
    node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    held.callback(os.close, node)
    there = os.fstat(node)
    if there.st_rdev != device.number or stat.S_IFMT(there.st_mode) != stat.S_IFMT(device.mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.chown(f"/proc/self/fd/{node}", device.uid, device.gid)
    os.chmod(f"/proc/self/fd/{node}", stat.S_IMODE(device.mode))


def _attach(live: Live, program: bytes, origin: str) -> None:
    try:
        fd = os.open(live.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            native.device_program(fd, program)
        finally:
            os.close(fd)
    except OSError as error:
        hint = "that takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, and CONFIG_CGROUP_BPF"
        raise HostError("limit the devices of pod", live.uuid, errno=error.errno or 0, hint=hint, origin=origin) from None


def _keep(live: Live, plan: Plan, wanted: Sequence[Placed], devices: Sequence[Device], rules: Sequence[Rule]) -> None:
    """For the next start."""
    folder = f"apps/{live.app}/" if live.app else ""
    if "plan" not in os.listdir(live.fd if not folder else os.path.join(f"/proc/self/fd/{live.fd}", folder)):
        if rules:
            _replace(live, _FILE, text_of(rules).encode())
        return
    plan.ops = _changed(plan.ops, wanted, devices, rules)
    controllers = sorted({str(one[3]).partition(".")[0] for one in plan.ops if one[0] == ops.LIMIT and not one[5]})
    _replace(live, folder + "plan", ops.encode(plan))
    with (
        contextlib.suppress(FileNotFoundError),
        open(os.open("controllers", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=live.fd), encoding="ascii") as file,
    ):
        controllers = [*(word for word in file.read().split() if word[0] == "@"), *controllers]
    if controllers and not folder:
        _replace(live, "controllers", " ".join(controllers).encode())  # see pyrun.pod.prepare


def _changed(held: Sequence[Op], wanted: Sequence[Placed], devices: Sequence[Device], rules: Sequence[Rule]) -> list[Op]:
    def key(where: object, file: object, text: object, of_all: bool = False) -> tuple[object, object, str, bool]:
        one_of_many = file in KEYED or str(file).startswith(("blkio.throttle.", "blkio.bfq.weight_device"))
        return where or 0, file, str(text).partition(" ")[0] if one_of_many else "", of_all

    told = {key(one[5], one[3], one[4], _of_all(one)): one for one in held if one[0] == ops.LIMIT}
    for where, file, text, origin in wanted:
        old = told.get(key(where, file, text))
        if old is not None:  # rates of a disk that are not named stay, as in the kernel
            text = limits.with_rates((file, str(old[4]), ""), (file, text, origin))[1]
        told[key(where, file, text)] = ops.op(ops.LIMIT, file, text, a=where or 0, origin=origin)
    found = [one for one in told.values() if one[5] or (one[3], one[4]) not in UNLIMITED]
    program = device_program(rules) if rules else b""
    found += [ops.op(ops.DEVICES, program, text_of(rules), origin="pyrun update")] if program else []
    listed = {rule[:3] for rule in rules}
    for one in held:
        closed = one[0] == ops.MKNOD and rules and _which(one) not in listed  # process 1 may not make it either
        if one[0] != ops.LIMIT and not (one[0] == ops.DEVICES and rules) and not closed:
            found.append(one)
    last = max((index for index, one in enumerate(found) if one[0] == ops.MKNOD), default=0)
    there = {str(one[3]) for one in found if one[0] == ops.MKNOD}
    nodes = [
        ops.op(ops.MKNOD, one.path, n=one.mode, a=one.number, b=one.uid | one.gid << 32, origin=one.origin)
        for one in devices
        if one.path not in there
    ]
    return [*found[: last + 1], *nodes, *found[last + 1 :]]


def _which(node: Op) -> tuple[str, int, int]:
    assert isinstance(node[2], int) and isinstance(node[5], int)
    return rule_of(node[2], node[5], "")[:3]


def _replace(live: Live, name: str, data: bytes) -> None:
    """Beside the file and renamed: who starts the pod meanwhile reads the one or the other."""
    try:
        fd = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, dir_fd=live.fd)
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(name + ".new", name, src_dir_fd=live.fd, dst_dir_fd=live.fd)
    except OSError as error:
        raise PyrunError("keep the limits of pod", live.uuid, errno=error.errno or 0, hint="is there space left?") from None
