"""kill, delete, pause and resume."""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import StateError, UsageError
from pyrun.host import read_small
from pyrun.oci import cgroups, state
from pyrun.oci.create import root_of
from pyrun.plan.numbers import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.oci.arguments import Arguments
    from pyrun.oci.state import Container

__all__ = ["delete", "destroy", "kill", "pause", "resume"]


def _signal(text: str) -> int:
    import signal

    number = whole(text, 64)
    if number >= 0:
        return number
    name = text.upper().removeprefix("SIG")
    for one in signal.Signals:
        if one.name == "SIG" + name:
            return int(one)
    for base, sign in (("RTMIN", 1), ("RTMAX", -1)):
        if name.startswith(base) and whole(name[len(base) + 1 :], 30) >= 0:
            return int(getattr(signal, "SIG" + base)) + sign * whole(name[len(base) + 1 :], 30)
    raise UsageError("send signal", text, "no such signal", hint="a name such as TERM or SIGTERM, or a number")


def _chosen(args: Arguments) -> list[str]:
    if "regex" not in args.options:
        return [args.words[0]]
    import re

    try:
        wanted = re.compile(args.words[0])
    except re.error as error:
        raise UsageError("find containers", args.words[0], str(error), origin="--regex") from None
    return [name for name in state.list_ids(root_of(args)) if wanted.search(name)]


def kill(args: Arguments) -> int:
    """Send a signal to the container's process, with --all to every process in its cgroup.

    SIGKILL goes to all where the end of that one process ends no other: it shares a pid namespace, or is gone already.
    """
    number = _signal(args.words[1] if len(args.words) > 1 else "TERM")
    for name in _chosen(args):
        container = state.Container(root_of(args), name, lock=False)
        _kill(container, number, everybody="all" in args.options)
        container.close()
    return 0


def _kill(container: Container, number: int, *, everybody: bool) -> None:
    group = container.record.get("cgroup")
    if group and number == 9 and not everybody:
        everybody = not _ends_others(container.pid) if container.pid else bool(cgroups.processes(group))
    if everybody and group:
        if number == 9 and cgroups.kill(group):
            return
        for pid in cgroups.processes(group):
            _send(pid, number)
        return
    pid = container.pid
    if not pid:
        raise StateError("kill container", container.id, "container not running", hint="`pyrun-oci state` shows that it has stopped")
    _send(pid, number)


def _ends_others(pid: int) -> bool:
    """Whether the kernel ends all others of its pid namespace with it, for it is the first one there (pid_namespaces(7))."""
    lines = read_small(f"/proc/{pid}/status").splitlines()
    return any(line.startswith(b"NSpid:") and line.split()[-1] == b"1" for line in lines)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def delete(args: Arguments) -> int:
    """Remove a stopped container, with --force any; with --force none at all is no error, for clients ask twice."""
    force = "force" in args.options
    for name in _chosen(args):
        try:
            container = state.Container(root_of(args), name)
        except StateError as error:
            if force and error.errno:
                continue
            raise
        destroy(container, force=force)
    return 0


def destroy(container: Container, *, force: bool) -> None:
    """Remove a locked container and what it was made of, and run its poststop hooks; StateError when it still runs."""
    status = container.status()
    if status not in ("stopped", "creating", "created") and not force:
        hint = "kill it first, or use --force"
        raise StateError("delete container", container.id, f"cannot delete container that is not stopped: it is {status}", hint=hint)
    group = container.group
    _end(container.pid)
    container.unmount()
    if group:
        cgroups.remove(group, container.groups_1)
    if "poststop" in container.record.get("hooks", ()):
        from pyrun.oci import hooks

        hooks.poststop(container.config(), container.state("stopped"))
    container.remove()
    container.close()


def _end(pid: int) -> None:
    """Kill the process and wait until it is gone, which whoever started it may have to be told first."""
    if not pid:
        return
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        _send(pid, 9)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(500):
            cgroups.thaw(pid)
        poll.poll(10000)
    finally:
        os.close(pidfd)


def _freeze(args: Arguments, on: bool) -> int:
    container = state.Container(root_of(args), args.words[0])
    status, group = container.status(), container.record.get("cgroup")
    if status not in (("running", "created") if on else ("paused",)):
        verb = "pause" if on else "resume"
        raise StateError(f"{verb} container", container.id, f"cannot {verb} a container that is {status}")
    if not group:
        raise StateError("pause container", container.id, "it has no cgroup")
    cgroups.freeze(group, on)
    container.close()
    return 0


def pause(args: Arguments) -> int:
    """Freeze the container's processes."""
    return _freeze(args, True)


def resume(args: Arguments) -> int:
    """Let frozen processes go on."""
    return _freeze(args, False)
