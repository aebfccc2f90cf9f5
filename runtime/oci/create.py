"""create and run: a bundle becomes a container whose process waits for `start`."""

from __future__ import annotations

import errno
import os

from pyrun.errors import ConfigError, HostError, UsageError
from pyrun.host import probe, read_small
from pyrun.images import fastjson
from pyrun.oci import cgroups, known, planner, spec, state
from pyrun.oci.arguments import program
from pyrun.oci.launch import Launch, launched
from pyrun.oci.main import debug
from pyrun.oci.process import filter_flags, lost_capabilities
from pyrun.oci.streams import announce_sockets, own_streams, send_pidfd, take_terminal, write_pid
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyrun.oci.arguments import Arguments
    from pyrun.oci.resources import Wanted
    from pyrun.oci.state import Container
    from pyrun.oci.systemd import Scope
    from pyrun.plan.ops import Op, Plan

    Maker = Callable[[Arguments, dict[str, Any], bytes, str, "Making"], None]

__all__ = [
    "Making", "create", "early_hooks", "filter_of", "has_own_manager", "is_user", "keeps_groups", "prepare", "root_of", "settle",
]  # fmt: skip


def root_of(args: Arguments) -> str:
    """Return the directory of all containers: `--root`, else /run/pyrun-oci, of a user its run-time directory."""
    root = args.get("root")
    if not root and is_user() and os.environ.get("XDG_RUNTIME_DIR"):
        return os.environ["XDG_RUNTIME_DIR"] + "/pyrun-oci"
    return os.path.abspath(root) if root else "/run/pyrun-oci"


class Making:
    """What a create has made so far, to be undone when it fails."""

    __slots__ = ("after", "container", "group", "groups_1", "launch", "relay", "scope", "wanted")

    def __init__(self, container: Container) -> None:
        self.container = container
        self.group = ""
        self.groups_1: list[str] = []
        self.wanted: Wanted | None = None
        self.scope: Scope | None = None  # of systemd
        self.after: tuple[dict[str, Any], dict[str, Any]] | None = None  # what poststop hooks get, once others may have run
        self.launch: Launch | None = None
        self.relay = -1

    def settle(self) -> None:
        """Do what could not be done before there was a process."""
        if self.wanted:
            self.wanted.settle()
        if self.scope:
            from pyrun.oci.resources import files_of

            self.scope.settle(files_of(self.wanted.rest if self.wanted else {}, self.group))

    def undo(self) -> None:
        if self.launch is not None:
            pid = self.launch.pid
            self.launch.close()
            if pid:
                os.kill(pid, 9)  # a child that nobody has reaped
                os.waitpid(pid, 0x40000000)  # __WALL
        self.container.unmount()
        if self.group and not (self.scope and self.scope.alone and not self.scope.leave()):  # or this process would go, too
            cgroups.remove(self.group, self.groups_1)
        if self.after is not None:
            from pyrun.oci import hooks

            hooks.poststop(*self.after)
        self.container.remove()
        self.container.close()


def create(args: Arguments, make: Maker | None = None) -> tuple[Container, int]:
    """Carry out `create`: returns the container, locked, and the master of its terminal if nobody else took it (else -1).

    `make` does it otherwise: restore has processes already.  PyrunError for whatever fails, and nothing is left then.
    """
    bundle = os.path.realpath(args.get("bundle", "."))
    config, text = _configuration(args, bundle)
    _check_terminal(args, config)
    if not os.path.isdir(os.path.join(bundle, config["root"]["path"])):
        raise ConfigError("use root", config["root"]["path"], "no such file or directory", origin="root.path")
    making = Making(state.create(root_of(args), args.words[0]))
    try:
        if making.container.group:  # of a create that was killed
            cgroups.remove(making.container.group, making.container.groups_1)
        making.container.unmount()
        state.clear(making.container.fd)
        (make or _make)(args, config, text, bundle, making)
    except BaseException:
        making.undo()
        raise
    return making.container, making.relay


def _configuration(args: Arguments, bundle: str) -> tuple[dict[str, Any], bytes]:
    path = args.get("config") or bundle + "/config.json"
    try:
        text = state.read(path, follow=True)
    except OSError as error:
        hint = "a bundle is a directory with config.json; `pyrun-oci spec` writes one"
        raise ConfigError("read", path, errno=error.errno or 0, hint=hint, origin="--bundle") from None
    try:
        config = spec.load(text)
    except ConfigError:
        if spec.wants_terminal(text):  # what the command line lacks is told first
            _check_terminal(args, {"process": {"terminal": True}})
        raise
    if "process" not in config:  # which only start needs (runtime-spec, "Process")
        config["process"] = {"cwd": "/"}
        text = fastjson.dumps(config).encode()
    linux = config.setdefault("linux", {})
    users = next((one for one in linux.setdefault("namespaces", []) if one["type"] == "user"), None)  # without any all are the runtime's
    if os.geteuid() if users is None else not users.get("path") and not linux.get("uidMappings"):
        from pyrun.oci.idmaps import give_users

        _warn(args, give_users(linux))
    return config, text


def _check_terminal(args: Arguments, config: dict[str, Any]) -> None:
    terminal = (config.get("process") or {}).get("terminal", False)
    detached = args.verb == "create" or "detach" in args.options
    if terminal and detached and not args.get("console-socket"):
        hint = "use --console-socket: a detached container hands its terminal over by a socket"
        raise ConfigError("make terminal", "", "it needs --console-socket", hint=hint, origin="process.terminal")
    if not terminal and args.get("console-socket"):
        raise ConfigError("make terminal", "", "--console-socket without process.terminal", origin="--console-socket")


def _warn(args: Arguments, texts: Iterable[str]) -> None:
    for text in texts:
        from pyrun.oci.main import warn

        warn(args, text)


def prepare(args: Arguments, config: dict[str, Any], bundle: str, making: Making) -> tuple[dict[str, Any], Plan]:
    """Make the cgroup, and return what `state` is to know and the plan."""
    container = making.container
    record = state.new_record(container.id, config, bundle)
    user = is_user(args.get("rootless", "auto"))
    resources, path = (config.get("linux", {}).get(name) for name in ("resources", "cgroupsPath"))
    if resources or (path and cgroups.is_hybrid()):
        from pyrun.oci.resources import Wanted, as_meant

        making.wanted = Wanted(as_meant(resources or {}, config["ociVersion"]), counted=bool(path))
    group, relative = _group(args, config, making)
    if group:
        old = making.wanted.place(group, relative) if making.wanted else {}
        state.write("group", os.fsencode("\0".join((group, *old.values()))), container.fd)
        if not (making.scope and making.scope.alone):  # which has been made, with this process in it
            group = _make_group(config, group, user)
        making.group = record["cgroup"] = group
        if group and making.wanted and making.wanted.make():
            record["cgroups_1"] = old
            making.groups_1 = [*old.values()]
        if making.scope:
            record["systemd-scope"] = making.scope.unit  # crun's word for it
    return record, _plan(args, config, bundle, making, record)


def early_hooks(config: dict[str, Any], record: dict[str, Any], making: Making, pid: int) -> None:
    """Run the hooks that come once there are namespaces; from then on the poststop hooks belong to a failure."""
    if config.get("hooks"):
        from pyrun.oci import hooks

        making.after = config, {**state.hook_state(making.container, record, "stopped"), "pid": 0}
        # by the numbers of runtime-spec's "Lifecycle" both are behind what is `creating`, but to a createRuntime hook runc says so
        for kind, status in (("prestart", "created"), ("createRuntime", "creating")):
            hooks.run(config, kind, {**state.hook_state(making.container, record, status), "pid": pid})


def _make(args: Arguments, config: dict[str, Any], text: bytes, bundle: str, making: Making) -> None:
    record, plan = prepare(args, config, bundle, making)
    container = making.container
    own = "mount" in {one["type"] for one in config["linux"]["namespaces"]}
    if not own:
        _warn(args, ["linux.namespaces: without a mount namespace the mounts are the host's, and CAP_SYS_CHROOT leads out of the root"])
        record["hostMounts"] = True
        _remember(container, config, bundle)
    fds = _descriptors(container, making.group)
    debug(args, "nsexec container setup: the helper makes namespaces and the process")
    try:
        making.launch = launch = launched(plan, fds, args.kept, bundle if config.get("hooks") and program() == "crun" else "")
    finally:
        for fd in fds.values():
            os.close(fd)

    def checkpoint(pid: int) -> None:
        if not own:
            _remember(container, config, bundle)
        if making.scope:
            from pyrun.oci.systemd import delegate

            delegate(making.group, config.get("annotations") or {}, pid, config.get("linux", {}))
        links = config.get("linux", {}).get("netDevices")
        if links:
            from pyrun.oci.links import move

            move(links, pid)
        debug(args, f"child process in init(): {pid} waits for hooks, then enters its root")
        early_hooks(config, record, making, pid)

    def terminal(fd: int) -> None:
        making.relay = take_terminal(args, config["process"], fd)

    if not launch.run(terminal=terminal, checkpoint=checkpoint):
        raise HostError("create container", container.id, "its process ended before it was ready")
    making.settle()
    settle(args, container, record, text, launch.pid, launch.block)
    launch.go_on()
    launch.close()
    debug(args, "init: closing the pipe to signal completion: the process waits for its start")
    if args.key is not None and args.key.text == text and not making.groups_1:
        from pyrun.oci import recipe

        recipe.save(container.root, args.key, config, plan, container.id)


def _remember(container: Container, config: dict[str, Any], bundle: str) -> None:
    from pyrun.oci import hostroot

    hostroot.remember(container, config, bundle)


def _plan(args: Arguments, config: dict[str, Any], bundle: str, making: Making, record: dict[str, Any]) -> Plan:
    container = making.container
    group, user = record.get("cgroup", ""), is_user(args.get("rootless", "auto"))
    if (config.get("linux") or {}).get("seccomp"):
        debug(args, f"seccomp filter flags: {filter_flags(config['linux']['seccomp']) & ~1}")  # TSYNC is for threads, and there are none
    if "process" in config:
        announce_sockets(config["process"], "1")
    notify = ("", "")
    if os.environ.get("NOTIFY_SOCKET"):
        from pyrun.oci.notify import arrange

        notify = arrange(container, config)
        record["notify"] = bool(notify[0])
    if config.get("hooks"):
        from pyrun.oci import hooks

        hooks.inherit(config)
    own_streams(config.get("process") or {}, config)
    kept, bounding = keeps_groups(config, config.get("process") or {}), probe().bounding
    told = bool(args.get("log")) or program() == "runc"  # crun says nothing, and a builder's user would read it at each step
    _warn(args, lost_capabilities(config, bounding, ambient=told))  # which are asked for and not to be had (config.md)
    plan = planner.oci_plan(
        config,
        bundle,
        seccomp=filter_of(config),
        bounding=bounding,
        state=state.around_pid(state.hook_state(container, record, "creating")),
        pivot="no-pivot" not in args.options,
        group=group,
        user=user,
        notify=notify,
    )
    _warn(args, plan.warnings)
    if plan.uid_map and os.geteuid():
        from pyrun.oci import rootless

        rootless.map_ids(plan)
    if user and read_small("/proc/self/setgroups") == b"deny\n":
        plan.flags |= ops.SETGROUPS_DENY
    if kept:
        plan.flags |= ops.KEEP_GROUPS
    if group:
        cgroups.furnish(group, 0 if user else cgroups.owner(config))  # a user's own is his already
    limits: list[Op] = []
    if making.wanted:
        from pyrun.oci.resources import limits_of

        limits = limits_of(args, making.wanted, group, user, shared=bool(making.scope and making.scope.alone))
    plan.ops = [*limits, *(one for one in plan.ops if one[0] != ops.KEYRING or "no-new-keyring" not in args.options)]
    return plan


def _manager(args: Arguments) -> str:
    return args.get("cgroup-manager") or ("systemd" if "systemd-cgroup" in args.options else "cgroupfs")


def _group(args: Arguments, config: dict[str, Any], making: Making) -> tuple[str, str]:
    """The directory of the container's cgroup by the manager asked for, "" without one; and its path below the caller's, or ""."""
    manager, name = _manager(args), making.container.id
    path = config.get("linux", {}).get("cgroupsPath", "")
    if manager == "disabled":
        return "", ""
    if manager == "systemd":
        from pyrun.oci.systemd import scope

        resources = making.wanted.rest if making.wanted else {}
        making.scope = scope(path, name, resources, config.get("annotations") or {}, user=has_own_manager(args))
        return making.scope.group, ""
    if manager != "cgroupfs":
        hint = "cgroupfs, systemd or disabled"
        raise UsageError("choose cgroup manager", manager, "no such manager", hint=hint, origin="--cgroup-manager")
    if not path and not is_user(args.get("rootless", "auto")):
        path = "/" + name  # where the caller lives there are processes, and hence no controllers for a cgroup below
    return cgroups.directory(path, name), "" if path.startswith("/") else cgroups.clean(path or name)


def is_user(said: str = "auto") -> bool:
    """Whether this process has not the rights of the host's root; `--rootless` true or false decides instead."""
    if said != "auto":
        return said in ("true", "1")
    return os.geteuid() != 0 or read_small("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]


def has_own_manager(args: Arguments) -> bool:
    """Whether it is a user's own systemd that makes scopes; not in a container that was booted in a user namespace."""
    return is_user(args.get("rootless", "auto")) and bool(os.environ.get("XDG_RUNTIME_DIR"))


def _make_group(config: dict[str, Any], group: str, user: bool) -> str:
    """Make the cgroup; a user who has no part of the tree goes without one, as long as nothing is to be limited in it."""
    try:
        cgroups.make(group)
    except HostError as error:
        wanted = dict(config.get("linux", {}).get("resources") or {})
        wanted.pop("devices", None)
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or any(wanted.values()) or not user:
            raise
        return ""
    return group


def settle(args: Arguments, container: Container, record: dict[str, Any], text: bytes, pid: int, block: bytes) -> None:
    """All is done but the execve: pid file and state are complete before anybody can start it.  `block` is the encoded plan."""
    record["pid"] = pid
    record["startTime"] = state.start_time(pid)
    state.write("config", text, container.fd)
    send_pidfd(args, pid)
    if args.get("pid-file"):
        write_pid(args.get("pid-file"), pid)
    container.record = record
    state.write("state", fastjson.dumps(record).encode(), container.fd)
    state.write("plan", block, container.fd)
    state.write("fast", container.fast(), container.fd)
    known.draft(container, record, detached=args.verb == "create" or "detach" in args.options)
    if args.verb != "run":
        known.publish(container)


def keeps_groups(config: dict[str, Any], process: dict[str, Any]) -> bool:
    """Whether the process keeps its caller's groups, instead of those of `process`, which are taken out then."""
    kept = spec.asks(config, "keep_original_groups")
    if kept:
        process.get("user", {}).pop("additionalGids", None)
    return kept


def filter_of(config: dict[str, Any]) -> bytes:
    """Return the compiled `linux.seccomp`, b"" without one."""
    wanted = (config.get("linux") or {}).get("seccomp")
    if not wanted:
        return b""
    from pyrun.oci import seccomp

    if spec.asks(config, "seccomp_fail_unknown_syscall"):
        seccomp.refuse_unknown(wanted)
    return seccomp.load(wanted)


def _descriptors(container: Container, group: str) -> dict[int, int]:
    """The fifo, and the cgroup with the one above it, by slot."""
    fds: dict[int, int] = {}
    try:
        try:
            os.mkfifo("exec.fifo", 0o600, dir_fd=container.fd)
        except FileExistsError:  # of a create that was killed
            os.unlink("exec.fifo", dir_fd=container.fd)
            os.mkfifo("exec.fifo", 0o600, dir_fd=container.fd)
        fds[5] = os.open("exec.fifo", os.O_RDWR | os.O_CLOEXEC, dir_fd=container.fd)
        if group:
            fds[7] = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fds[8] = os.open(os.path.dirname(group), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        for fd in fds.values():
            os.close(fd)
        raise HostError("prepare", container.id, errno=error.errno or 0) from None
    return fds
