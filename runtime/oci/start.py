"""create, start and run."""

from __future__ import annotations

import errno
import os

from pyrun.errors import PyrunError, StateError
from pyrun.oci import known, state
from pyrun.oci.create import create as make
from pyrun.oci.create import root_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrun.oci.arguments import Arguments
    from pyrun.oci.notify import Relay
    from pyrun.oci.state import Container

__all__ = ["create", "follow", "let_go", "poststart", "run", "start"]


def create(args: Arguments) -> int:
    """Make a container whose program waits."""
    container, _ = make(args)
    container.close()
    return 0


def start(args: Arguments) -> int:
    """Start the program of a created container, and run its poststart hooks."""
    container = state.Container(root_of(args), args.words[0])
    relay = _listen(container)
    let_go(container)
    try:
        poststart(container)
    except (PyrunError, SystemExit):
        from pyrun.oci.control import destroy

        destroy(container, force=True)
        raise
    if relay is not None:
        container.close()
        relay.until_ready()
    return 0


def _listen(container: Container) -> Relay | None:
    """From before the program runs there is somebody to hear it, if there is to be."""
    if not container.record.get("notify") or not container.pid or not os.environ.get("NOTIFY_SOCKET"):
        return None  # who starts it has nobody to tell, and so nothing to wait for
    from pyrun.oci.notify import Relay

    return Relay(container)


def let_go(container: Container) -> None:
    """Start the program of a locked container; PyrunError when it was started already, is gone or cannot be executed.

    SystemExit when signals are held and one that ends this process comes first.
    """
    status = container.status()
    if status == "stopped" and container.waiting():
        _raise_failure(container, _seen(container))  # the launcher leaves the telling to us
    if status != "created":
        hint = "create makes a new one" if status == "stopped" else ""
        raise StateError("start container", container.id, f"cannot start a container that is {status}", hint=hint)
    try:
        fifo = os.open("exec.fifo", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=container.fd)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        _raise_failure(container, _seen(container))  # as above, by a process that is about to end
        raise StateError("start container", container.id, "its process is gone: container not running") from None
    try:
        os.write(fifo, b"S")
        _wait_for_exec(fifo)
        data = _left(container)
    finally:
        os.close(fifo)
    os.unlink("exec.fifo", dir_fd=container.fd)
    _raise_failure(container, data)


def _seen(container: Container) -> bytes:
    try:
        return state.read("failure", container.fd)
    except FileNotFoundError:
        return b""


def _left(container: Container) -> bytes:
    """What the process has left in the fifo; there is something only if it has ended without its program."""
    fifo = os.open("exec.fifo", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=container.fd)
    try:
        return os.read(fifo, 4096)
    except BlockingIOError:
        return b""
    finally:
        os.close(fifo)


def _raise_failure(container: Container, data: bytes) -> None:
    if data == b"S":
        raise StateError("start container", container.id, "its process is gone: container not running")
    if data:
        from pyrun.oci.launch import failure_of
        from pyrun.plan import ops

        failed = failure_of(data, ops.notes(state.read("plan", container.fd)))
        if failed is not None:
            raise failed


def _wait_for_exec(fifo: int) -> None:
    """The process closes its end by execve(2), or by its end."""
    from pyrun.oci import attend

    attend.comes_first(fifo, 0)  # POLLERR: nobody reads any more


def poststart(container: Container) -> None:
    """Run the poststart hooks; one that fails ends the container, which is to be destroyed then (runtime-spec 1.3, "Lifecycle", step 9)."""
    if "poststart" not in container.record.get("hooks", ()):
        return
    from pyrun.oci import hooks

    try:
        hooks.run(container.config(), "poststart", container.state("running"))
    except (PyrunError, SystemExit):
        pid = container.pid
        if pid:
            os.kill(pid, 9)
        raise


def run(args: Arguments) -> int:
    """create and start; unless detached wait for the program and delete the container."""
    return follow(args, *make(args), begin=_begin)


def _begin(container: Container) -> None:
    let_go(container)
    known.publish(container)


def follow(args: Arguments, container: Container, master: int, begin: Callable[[Container], None] | None = None) -> int:
    """Let a locked container `begin`, whose process is a child, and unless detached wait for it and delete the container.

    Returns the process's exit code, 0 when detached.
    """
    pid = container.record["pid"]
    if "detach" in args.options:
        return _leave(container, pid, begin)
    from pyrun.oci import attend

    try:
        relay = _listen(container)
        attend.hold()
        if begin is not None:
            try:
                begin(container)
            except PyrunError:  # its hooks may have said why
                attend.drain(master)
                raise
        if relay is not None:
            relay.stay()  # while signals are held: the new thread is to get none
        pidfd = attend.forward(pid)
        poststart(container)
        _unlock(container)
        code = attend.wait(pid, pidfd, master)
        if relay is not None:
            relay.drain()
    except BaseException:
        _end(container, pid)
        raise
    if "keep" not in args.options:
        _end(container, pid)
    return code


def _leave(container: Container, pid: int, begin: Callable[[Container], None] | None) -> int:
    try:
        relay = _listen(container)
        if begin is not None:
            begin(container)
        poststart(container)
        container.close()
    except BaseException:
        _end(container, pid)
        raise
    if relay is not None:
        relay.until_ready()
    return 0


def _unlock(container: Container) -> None:
    import fcntl

    fcntl.flock(container.fd, fcntl.LOCK_UN)


def _end(container: Container, pid: int) -> None:
    from pyrun.oci.control import destroy

    try:
        container.lock()
    except StateError:  # somebody else has deleted it
        return
    try:
        if os.waitpid(pid, 0x40000000 | os.WNOHANG)[0] == 0:  # it has not ended, so the pid is still its own
            os.kill(pid, 9)
            os.waitpid(pid, 0x40000000)
    except (ProcessLookupError, ChildProcessError):
        pass
    destroy(container, force=True)
