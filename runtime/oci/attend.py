"""A process in the foreground: signals go to it, its terminal is relayed, its end is waited for.  Cold."""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from select import poll

__all__ = ["wait"]

_KEPT = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP, signal.SIGWINCH)
_CHUNK = 1 << 16


def wait(pid: int, master: int) -> int:
    """Wait for the child `pid`; `master` is its terminal's, -1 for none.  Returns its exit code, 128 + n after signal n."""
    pidfd = os.pidfd_open(pid)

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    for number in signal.valid_signals() - set(_KEPT):
        if number < 32:
            signal.signal(number, forward)
    if master >= 0:
        _relay(pidfd, master)
    _, status = os.waitpid(pid, 0x40000000)  # __WALL
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _relay(pidfd: int, master: int) -> None:
    import select
    import termios
    import tty

    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)
        _size(master)
        signal.signal(signal.SIGWINCH, lambda *_: _size(master))
    try:
        poll = select.poll()
        poll.register(master, select.POLLIN)
        poll.register(0, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while _move(dict(poll.poll()), poll, master, pidfd):
            pass
    finally:
        os.close(master)
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _move(ready: dict[int, int], polled: poll, master: int, pidfd: int) -> bool:
    """Move what is there; False at the end."""
    if 0 in ready:
        data = os.read(0, _CHUNK)
        if data:
            os.write(master, data)
        else:
            polled.unregister(0)
            os.write(master, b"\4")  # end of file, as typed
    if master in ready:
        try:
            data = os.read(master, _CHUNK)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        while data:
            data = data[os.write(1, data) :]
        return True
    return pidfd not in ready


def _size(master: int) -> None:
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return
    import fcntl
    import struct
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("=4H", size.lines, size.columns, 0, 0))
