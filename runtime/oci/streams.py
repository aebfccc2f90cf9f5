"""What a container gets of its caller's descriptors: streams, sockets, kept ones, and a terminal that goes to somebody."""

from __future__ import annotations

import os

from pyrun.errors import HostError
from pyrun.oci.arguments import listening
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyrun.oci.arguments import Arguments

__all__ = ["announce_sockets", "keep_descriptors", "keep_lines", "own_streams", "send_pidfd", "size_terminal", "take_terminal", "write_pid"]

_LISTENER = 0.5  # seconds for the socket of a terminal to be there


def keep_descriptors(args: Arguments) -> int:
    """Move the caller's sockets (LISTEN_FDS) and descriptors (--preserve-fds) to where the helper looks; returns how many.

    To be called before anything else is opened: some may not be there, for whoever means all that he has names a large number, and
    what would stand in their place by then is not the container's to have.
    """
    count = args.number("preserve-fds") + listening(os.environ.get("LISTEN_FDS", ""))
    while count > 0 and not _is_open(2 + count):
        count -= 1
    if count > ops.SLOT_LISTEN_MAX:
        raise HostError("keep descriptors", str(count), f"at most {ops.SLOT_LISTEN_MAX} can be", origin="--preserve-fds")
    for number in range(count):
        if _is_open(3 + number):
            os.dup2(3 + number, ops.SLOT_LISTEN + number)
    return count


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def announce_sockets(process: dict[str, Any], pid: str = "") -> dict[str, str]:
    """sd_listen_fds(3): the program is to find the sockets that come from the caller, and its own pid beside them.

    Whatever `process` says of them gives way.  Without `pid` the helper adds them and the pid: returned is what it is to find in its own
    environment for that.  Other descriptors (--preserve-fds) are not announced.
    """
    count, names = listening(os.environ.get("LISTEN_FDS", "")), os.environ.get("LISTEN_FDNAMES", "")
    if not count:
        return {}
    found = {"LISTEN_FDS": str(count), **({"LISTEN_FDNAMES": names} if names else {})}
    process["env"] = [word for word in process.get("env") or () if word.partition("=")[0] not in (*found, "LISTEN_PID")]
    if not pid:
        return found
    process["env"] += [f"{name}={value}" for name, value in {**found, "LISTEN_PID": pid}.items()]
    return {}


def own_streams(process: dict[str, Any], config: dict[str, Any]) -> None:
    """Give pipes and terminals among the standard streams to the program's user, who may want to open /dev/stdout.

    What others share is left alone: files, sockets' names, /dev/null.
    """
    user, linux = process.get("user", {}), config.get("linux", {})
    if not user.get("uid") or process.get("terminal"):
        return
    uid, gid = _on_host(user["uid"], linux.get("uidMappings", ())), _on_host(user.get("gid", 0), linux.get("gidMappings", ()))
    null = os.stat("/dev/null").st_rdev
    for fd in (0, 1, 2):
        found = os.fstat(fd)
        kind = found.st_mode & 0o170000
        if kind in (0o010000, 0o140000) or (kind == 0o020000 and found.st_rdev != null):
            try:
                os.fchown(fd, uid, -1 if kind == 0o020000 else gid)  # the group of a terminal says who else may write to it
            except OSError:  # of another user namespace, or read-only
                return


def _on_host(number: int, mappings: Sequence[dict[str, int]]) -> int:
    for row in mappings:
        if row["containerID"] <= number < row["containerID"] + row["size"]:
            return row["hostID"] + number - row["containerID"]
    return number


def size_terminal(process: dict[str, Any], master: int) -> None:
    """Give a new terminal the size that `process` asks for."""
    size = process.get("consoleSize") or {}
    if size.get("height") or size.get("width"):
        import fcntl
        import struct

        fcntl.ioctl(master, 0x5414, struct.pack("=4H", size.get("height", 0), size.get("width", 0), 0, 0))  # TIOCSWINSZ


def send_pidfd(args: Arguments, pid: int) -> None:
    """Send a descriptor of a process (pidfd_open(2)) to whoever listens at --pidfd-socket; HostError when nobody does."""
    path = args.get("pidfd-socket")
    if not path:
        return
    import _socket

    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    pidfd = os.pidfd_open(pid)
    try:
        _connect(client, path)
        client.sendmsg([b"pidfd"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pidfd.to_bytes(4, "little"))])
    except OSError as error:
        raise HostError("connect to pidfd socket", path, errno=error.errno or 0, origin="--pidfd-socket") from None
    finally:
        client.close()
        os.close(pidfd)


def keep_lines(master: int) -> None:
    """Let a new terminal, which is relayed here, end lines as the program does: a carriage return is the caller's own terminal's to add."""
    import termios

    mode = termios.tcgetattr(master)
    mode[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, mode)


def take_terminal(args: Arguments, process: dict[str, Any], master: int) -> int:
    """Give the master of a new terminal its size and hand it to whoever listens at --console-socket; returns it when nobody does."""
    size_terminal(process, master)
    path = args.get("console-socket")
    if not path:
        keep_lines(master)
        return master
    import _socket
    import fcntl

    number = fcntl.ioctl(master, 0x80045430, bytes(4))  # TIOCGPTN
    name = f"/dev/pts/{int.from_bytes(number, 'little')}"
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        _connect(client, path)
        client.sendmsg([name.encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, master.to_bytes(4, "little"))])
    except OSError as error:
        raise HostError("connect to console socket", path, errno=error.errno or 0, origin="--console-socket") from None
    finally:
        client.close()
        os.close(master)
    return -1


def _connect(client: Any, path: str) -> None:
    """Wait a moment for one that is not there yet: its listener may have been started just before this process."""
    import time

    end = time.monotonic() + _LISTENER
    while True:
        try:
            client.connect(path)
            return
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end:
                raise
        time.sleep(0.005)


def write_pid(path: str, pid: int) -> None:
    """Write a pid file in one step: digits and nothing else."""
    temporary = f"{os.path.dirname(path) or '.'}/.{os.path.basename(path)}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        os.write(fd, str(pid).encode())
        os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        import contextlib

        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise HostError("write pid file", path, errno=error.errno or 0, origin="--pid-file") from None
