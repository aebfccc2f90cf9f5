"""restore: a container whose processes come out of files that `checkpoint` has written (docs/design/checkpoint.md).  Cold.

Everything but the processes is made from config.json as `create` makes it: cgroup and limits, state, hooks, terminal.
"""

from __future__ import annotations

import os

from pyrun import native
from pyrun.errors import ConfigError, HostError, UsageError
from pyrun.host import set_file
from pyrun.oci import criu, criu_mounts, criu_rpc, state
from pyrun.oci.create import create, early_hooks, prepare, settle
from pyrun.oci.criu_config import config_file, spaces
from pyrun.oci.start import follow
from pyrun.oci.streams import take_terminal
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments
    from pyrun.oci.create import Making
    from pyrun.oci.criu_rpc import Field, Service, Told
    from pyrun.plan.ops import Plan

__all__ = ["restore"]

# criu's processes stay as it is itself: in the cgroup, in a cgroup namespace of its root, with mounts that nobody else sees, and without
# new privileges, which criu before 3.19 forgets
_AROUND = """
set -e
printf %s "$1" | while read -r group; do echo $$ >"$group/cgroup.procs"; done
exec unshare --mount --propagation slave $2 -- sh -ec 'mount --bind -- "$1" "$1"; shift; exec "$@"' sh "$4" $3 "$5" swrk "$7"
"""
_FIRST = 4  # of the descriptors that the service gets


def restore(args: Arguments) -> int:
    """Bring a container back; unless detached wait for its process and delete it, as `run` does."""
    if args.get("preserve-fds"):
        hint = "restored processes have the descriptors that they had"
        raise UsageError(args.verb, "--preserve-fds", "is not supported", hint=hint, origin="--preserve-fds")
    options = criu.common(args)
    images, work = criu.places(args, make=False)
    note = criu.read_note(images)
    program = criu.available(args, args.verb)

    def make(args: Arguments, config: dict[str, Any], text: bytes, bundle: str, making: Making) -> None:
        _compare(note["shape"], criu.shape(config))
        spaces(config, "restore")
        _Restoring(args, config, text, making).run(program, bundle, note, options, (images, work))

    if "detach" not in args.options:
        from pyrun.oci import attend

        attend.hold()  # the processes run at once
    before = set(os.listdir(images))
    try:
        container, master = create(args, make)
    except BaseException:
        criu.sweep(images, before)
        raise
    return follow(args, container, master)


def _compare(then: dict[str, Any], now: dict[str, Any]) -> None:
    """ConfigError for a configuration that cannot be that of the checkpoint."""
    for name, where in (("mounts", "mounts"), ("namespaces", "linux.namespaces"), ("terminal", "process.terminal")):
        old, new = then[name], now[name]
        if old == new:
            continue
        if isinstance(old, list):
            old, new = (", ".join(sorted(set(one) - set(other))) or "nothing" for one, other in ((old, new), (new, old)))
        hint = "restore with the configuration of the container that was checkpointed"
        raise ConfigError("restore", name, f"differ: the checkpoint has {old}, the configuration {new}", hint=hint, origin=where)


class _Restoring:
    """One restore: what criu is asked, and what it tells meanwhile."""

    __slots__ = ("args", "config", "making", "plan", "record", "terminal", "text")

    def __init__(self, args: Arguments, config: dict[str, Any], text: bytes, making: Making) -> None:
        self.args, self.config, self.text, self.making = args, config, text, making
        self.record: dict[str, Any] = {}
        self.plan: Plan
        self.terminal = bool((config.get("process") or {}).get("terminal"))  # which is yet to come

    def run(self, program: str, bundle: str, note: dict[str, Any], options: list[Field], folders: tuple[str, str]) -> None:
        self.record, self.plan = prepare(self.args, self.config, bundle, self.making)
        group, rootfs = self.making.group, self.record["rootfs"]
        _limit(group, self.plan)
        groups = "".join(f"{one}\n" for one in (group, *dict.fromkeys(self.making.groups_1)) if one)
        mounts = criu_mounts.sources(note["external"], self.config, bundle, group)
        criu_mounts.make_targets(rootfs, mounts, self.config)
        own = {one["type"] for one in self.config.get("linux", {}).get("namespaces", ())}
        alone = "setpriv --no-new-privs" if (self.config.get("process") or {}).get("noNewPrivileges") else ""
        around = ["/bin/sh", "-c", _AROUND, "sh", groups, "--cgroup" if "cgroup" in own else "", alone, rootfs, program]
        fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in folders]
        try:
            inherited = _inherited(self.config, note["streams"], fds)
            wanted: list[Field] = [(1, fds[0]), (17, fds[1]), (10, "restore.log"), (13, rootfs), (26, 1), *options]
            wanted += config_file(self.config)
            wanted += [(37, f"mnt[{point}]:{source}") for point, source in mounts]
            wanted += [(27, [(1, key), (2, number)]) for number, (key, _) in enumerate(inherited, _FIRST)]
            service = criu_rpc.Service(around, [fd for _, fd in inherited])
            answer = _ask(service, wanted, self.told)
        finally:
            for fd in fds:
                os.close(fd)
        if not criu_rpc.succeeded(answer):
            raise criu.failed(self.args, f"{folders[1]}/restore.log", service.said)

    def told(self, what: str, pid: int, fd: int) -> None:
        """Do what is due at a stage of the restore."""
        if what == "setup-namespaces":
            early_hooks(self.config, self.record, self.making, pid)
        elif what == "orphan-pts-master" and self.terminal:  # not that of an exec
            self.terminal = False
            self.making.relay = take_terminal(self.args, self.config["process"], fd)
            return
        elif what == "post-restore":
            self.making.settle()
            settle(self.args, self.making.container, self.record, self.text, pid, ops.encode(self.plan))
        if fd >= 0:
            os.close(fd)


def _ask(service: Service, wanted: list[Field], told: Told) -> dict[int, int | bytes]:
    """Let criu restore; what it leaves of processes when it dies over that is ended, which a cgroup does not always see to."""
    import ctypes

    others, prctl = _children(), ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: whose parent ends is this one's child
    try:
        return service.ask("restore", [(1, criu_rpc.RESTORE), (2, wanted)], told)
    except BaseException:
        while left := _children() - others:
            for pid in left:
                os.kill(pid, 9)
                os.waitpid(pid, 0x40000000)  # __WALL
        raise
    finally:
        prctl(36, 0, 0, 0, 0)


def _children() -> set[int]:
    return {int(pid) for pid in state.read("/proc/thread-self/children", follow=True).split()}


def _limit(group: str, plan: Plan) -> None:
    """Write the limits before anybody lives there, which the helper does for a create."""
    for one in plan.ops:
        if one[0] not in (ops.LIMIT, ops.DEVICES):
            continue
        try:
            if one[0] == ops.DEVICES:
                fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    native.device_program(fd, one[3] if isinstance(one[3], bytes) else b"")
                finally:
                    os.close(fd)
            else:
                set_file(f"{one[5]!s}/{one[3]!s}" if one[5] else f"{group}/{one[3]!s}", str(one[4]))
        except OSError as error:
            raise HostError("limit", str(one[3]) if one[0] == ops.LIMIT else "devices", errno=error.errno or 0, origin=one[7]) from None


def _seekable(fd: int) -> bool:
    try:
        os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return False
    return True


def _inherited(config: dict[str, Any], streams: list[str], fds: list[int]) -> list[tuple[str, int]]:
    """What criu puts in the place of things that were not the container's: (its name, descriptor); what is opened goes to `fds`."""
    found = {key: fd for fd, key in reversed(list(enumerate(streams))) if key}
    for key, fd in found.items():
        if key.startswith("file[") and not _seekable(fd):  # criu sets the position of what was /dev/null, be it a number without meaning
            found[key] = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            fds.append(found[key])
    for index, one in enumerate(config.get("linux", {}).get("namespaces", ())):
        if one["type"] == "network" and one.get("path"):
            try:
                fds.append(os.open(one["path"], os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                where = f"linux.namespaces[{index}].path"
                raise ConfigError("join network namespace", one["path"], errno=error.errno or 0, origin=where) from None
            found[criu.NETWORK] = fds[-1]
    return list(found.items())
