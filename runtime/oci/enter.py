"""exec: one more process in a container, with the confinement that its own description asks for."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, HostError, StateError, UsageError
from pyrun.host import read_small
from pyrun.oci import cgroups, planner, spec, state
from pyrun.oci.arguments import program
from pyrun.oci.create import filter_of, keeps_groups, root_of
from pyrun.oci.launch import Launch
from pyrun.oci.main import debug
from pyrun.oci.process import schedule
from pyrun.oci.rules_process import number_list
from pyrun.oci.streams import announce_sockets, keep_lines, own_streams, send_pidfd, size_terminal, take_terminal, write_pid
from pyrun.plan import caps, ops
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments
    from pyrun.oci.state import Container
    from pyrun.plan.ops import Op, Plan

__all__ = ["execute", "namespaces_of"]

_LARGEST_ID = (1 << 31) - 1
# as /proc/PID/ns calls them
_NAMESPACES = {
    "cgroup": ops.CLONE_NEWCGROUP, "ipc": ops.CLONE_NEWIPC, "mnt": ops.CLONE_NEWNS, "net": ops.CLONE_NEWNET, "pid": ops.CLONE_NEWPID,
    "time": ops.CLONE_NEWTIME, "user": ops.CLONE_NEWUSER, "uts": ops.CLONE_NEWUTS,
}  # fmt: skip


def execute(args: Arguments) -> int:
    """Run a process in a container; unless detached wait for it and return its exit code."""
    _raise_failure(args)
    container = state.Container(root_of(args), args.words[0], lock=False)
    status = container.status()
    if status not in ("running", "created"):
        hint = "resume it first" if status == "paused" else "start it first"
        reason = f"cannot exec in a {status} container" + (": container not running" if status == "stopped" else "")
        if status != "paused" or "ignore-paused" not in args.options:
            raise StateError("exec", container.id, reason, hint=hint)
    config = container.config()
    process = _process(args, config)
    if process.get("terminal") and "detach" in args.options and not args.get("console-socket"):
        raise ConfigError("make terminal", "", "it needs --console-socket", hint="or leave out --detach", origin="--tty")
    from pyrun.oci import attend

    if "detach" not in args.options:
        attend.hold()
    launch, master = _start(args, container, config, process)
    launch.close()
    try:
        if master >= 0:
            master = take_terminal(args, process, master)
        send_pidfd(args, launch.pid)
        if args.get("pid-file"):
            write_pid(args.get("pid-file"), launch.pid)
    except HostError:
        os.kill(launch.pid, 9)  # a child that nobody has reaped
        os.waitpid(launch.pid, 0x40000000)  # __WALL
        raise
    if "detach" in args.options:
        return 0
    return attend.wait(launch.pid, attend.forward(launch.pid), master)


def _raise_failure(args: Arguments) -> None:
    """Tell what the launcher could not do once the program had been executed, which is not to happen again (native/oci_exec_run.c)."""
    import posix

    option, _, error = posix.environ.pop(b"PYRUN_OCI_FAILED", b"").decode().partition(" ")
    if option:
        what = {"--console-socket": "connect to console socket", "--pid-file": "write pid file"}[option]
        raise HostError(what, args.get(option[2:]), errno=int(error), origin=option)


def _start(args: Arguments, container: Container, config: dict[str, Any], process: dict[str, Any]) -> tuple[Launch, int]:
    from pyrun.host import probe

    pid = container.pid
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        raise StateError("exec", container.id, "container not running") from None
    own_streams(process, config)
    announced = announce_sockets(process)
    kept = keeps_groups(config, process)
    shown = state.around_pid(state.hook_state(container, container.record, container.status()))
    plan = planner.enter_plan(config, process, seccomp=filter_of(config), bounding=probe().bounding, state=shown, root=f"/proc/{pid}/root")
    plan.clone_flags = namespaces_of(pid)
    if read_small(f"/proc/{pid}/setgroups") == b"deny\n":
        plan.flags |= ops.SETGROUPS_DENY
    plan.flags |= ops.KEEP_GROUPS if kept else 0
    plan.ops = [*_groups_1(container), *plan.ops]
    relay = -1

    def terminal(fd: int) -> None:
        nonlocal relay
        relay = fd
        size_terminal(process, fd)
        if not args.get("console-socket"):  # before the program writes
            keep_lines(fd)

    debug(args, "nsexec container setup: the helper joins namespaces")
    before = _keep_to(args, process)
    try:
        launch = _launch(args, container, plan, pid, pidfd, announced)
    finally:
        if before:
            os.sched_setaffinity(0, before)
    try:
        launch.run(terminal=terminal, checkpoint=lambda pid: schedule(pid, process["scheduler"]), held="detach" not in args.options)
    except (SystemExit, HostError):  # for a signal, or at the checkpoint
        if launch.pid:
            os.kill(launch.pid, 9)
            os.waitpid(launch.pid, 0x40000000)  # __WALL
        launch.close()
        raise
    debug(args, f"child process in init(): {launch.pid}; setns_init: about to exec, and done")
    return launch, relay


def _launch(args: Arguments, container: Container, plan: Plan, pid: int, pidfd: int, announced: dict[str, str]) -> Launch:
    fds = {6: pidfd}
    try:
        if group := _group(args, container, pid):
            fds[7] = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return Launch(plan, fds, args.kept, str(pid), environment=announced)
    except OSError as error:
        step = "exec in cgroup" if error.filename else "exec in"
        raise HostError(step, str(error.filename or container.id), errno=error.errno or 0) from None
    finally:
        for fd in fds.values():
            os.close(fd)


def _keep_to(args: Arguments, process: dict[str, Any]) -> set[int]:
    """Let what goes to the container's cgroup do so on the processors for that; returns those of this process before, none for no change.

    The process itself is rid of the caller's once it is there (native/oci_start.c), and has these again unless `final` says others.
    """
    cpus = number_list((process.get("execCPUAffinity") or {}).get("initial") or "x")
    if cpus is None:
        return set()
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        text = process["execCPUAffinity"]["initial"]
        raise HostError("set CPU affinity", text, errno=error.errno or 0, origin="process.execCPUAffinity.initial") from None
    mask = sum(1 << number for number in os.sched_getaffinity(0))
    debug(args, f"nsexec[{os.getpid()}]: affinity: {mask:#x}")
    return before


def _groups_1(container: Container) -> list[Op]:
    """What takes it into the container's groups of cgroup version 1."""
    if not container.groups_1:
        return []
    from pyrun.oci.hybrid import enter_ops

    return enter_ops(path for path in container.groups_1 if os.path.isdir(path))


def namespaces_of(pid: int) -> int:
    """Return the namespaces of the process that are not this one's: to enter one's own again takes rights over it (setns(2))."""
    found = 0
    for name, flag in _NAMESPACES.items():
        try:
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                found |= flag
        except FileNotFoundError:  # a kernel without them
            pass
    return found


def _group(args: Arguments, container: Container, pid: int) -> str:
    """The container's cgroup, but where its own process is now if that is gone, or has controllers enabled for those below.

    Such a one takes nobody (cgroups(7), "no internal processes"): a service manager has moved what was there.
    """
    group: str = container.record.get("cgroup", "")
    below = args.get("cgroup")
    if ".." in below.split("/"):
        hint = "name one below the container's own"
        raise UsageError("choose cgroup", below, "bad sub cgroup path: `..` components are not allowed", hint=hint, origin="--cgroup")
    if group and below:
        return f"{group}/{below.strip('/')}".rstrip("/")
    if not group:  # it lives where its starter did
        return ""
    if os.path.isdir(group) and not read_small(group + "/cgroup.subtree_control").strip():
        return group
    base = cgroups.tree()
    for line in read_small(f"/proc/{pid}/cgroup").decode().splitlines():
        if base and line.startswith("0::/") and os.path.isdir(base + line[3:]):
            return base + line[3:]
    return group


def _process(args: Arguments, config: dict[str, Any]) -> dict[str, Any]:
    if args.get("process"):
        if len(args.words) > 1:
            raise UsageError("exec", args.words[1], "a command beside --process", hint="the file names the command")
        return _read(args.get("process"))
    if len(args.words) < 2:
        raise UsageError("exec", "", "needs a command", hint=f"usage: {program()} [OPTION...] exec CONTAINER cmd [ARG...]")
    process = {**(config.get("process") or {}), "args": args.words[1:], "terminal": "tty" in args.options}
    process.pop("consoleSize", None)
    if args.get("cwd"):
        process["cwd"] = args.get("cwd")
    process["env"] = _environment(process.get("env") or [], args.lists.get("env", []))
    process["user"] = _user(args, process.get("user") or {"uid": 0, "gid": 0})
    if "no-new-privs" in args.options or program() == "crun":  # which asks for it anew
        process["noNewPrivileges"] = "no-new-privs" in args.options
    for option, member in (("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if args.get(option):
            process[member] = args.get(option)
    if args.lists.get("cap"):
        process["capabilities"] = _capabilities(process.get("capabilities") or {}, args.lists["cap"])
    return process


def _capabilities(sets: dict[str, list[str] | None], extra: list[str]) -> dict[str, list[str]]:
    """Inheritable ones would come back in a program with file capabilities (capabilities(7)): what is asked for is not made one."""
    for name in extra:
        if name not in caps.NAMES:
            hint = "a name as in capabilities(7), such as CAP_NET_ADMIN"
            raise UsageError("add capability", name, "no such capability", hint=hint, origin="--cap")
    more = {name: [*(sets.get(name) or []), *extra] for name in ("bounding", "effective", "permitted", "ambient")}
    return {**more, "inheritable": sets.get("inheritable") or []}


def _environment(old: list[str], new: list[str]) -> list[str]:
    names = {word.partition("=")[0] for word in new}
    return [word for word in old if word.partition("=")[0] not in names] + new


def _user(args: Arguments, user: dict[str, Any]) -> dict[str, Any]:
    text = args.get("user")
    groups = args.lists.get("additional-gids", [])
    if text:
        uid, _, gid = text.partition(":")
        numbers = whole(uid, _LARGEST_ID), whole(gid or "0", _LARGEST_ID)
        if min(numbers) < 0:
            raise UsageError("choose user", text, "not UID[:GID]", hint="numbers, as in 1000:1000", origin="--user")
        user = {"uid": numbers[0], "gid": numbers[1], "umask": user.get("umask", 0o022)}
    if groups:
        more = [whole(word, _LARGEST_ID) for word in groups]
        if min(more) < 0:
            raise UsageError("choose groups", ",".join(groups), "not numbers", origin="--additional-gids")
        user = {**user, "additionalGids": [*(user.get("additionalGids") or []), *more]}
    return user


def _read(path: str) -> dict[str, Any]:
    try:
        data = state.read(path, follow=True)
    except OSError as error:
        raise ConfigError("read process", path, errno=error.errno or 0, origin="--process") from None
    return spec.load_process(data)
