"""A process in the foreground: signals go to it, its terminal is relayed, its end is waited for.  Cold."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would cost an import of enum
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from select import poll

__all__ = ["comes_first", "drain", "forward", "hold", "hold_deadly", "release", "wait"]

# SIGKILL, SIGPIPE, SIGCHLD, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH
_KEPT = (9, 13, 17, 19, 20, 21, 22, 28)
_FORWARDED = [number for number in range(1, 32) if number not in _KEPT]
_DEADLY = {1, 2, 3, 15}  # SIGHUP, SIGINT, SIGQUIT, SIGTERM: whoever sends one wants an end, also of what does not run yet
_STEP = 100  # milliseconds
_WINCH = 28
_passed: list[tuple[int, int]] = []  # deadly signals that `forward` has passed on, and the pidfd of whom they were passed on to
_CHUNK = 1 << 16


def hold() -> None:
    """Let signals wait until `wait` can pass them on: a program that is being started may be told of its end at once."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _FORWARDED)


def hold_deadly() -> set[int]:
    """Let those signals wait that would end this process, and return the mask that `release` goes back to."""
    ends = (_signal.SIG_DFL, _signal.default_int_handler)
    mask: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, [number for number in _DEADLY if _signal.getsignal(number) in ends])
    return mask


def release(mask: set[int]) -> None:
    """Undo `hold_deadly`."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def comes_first(fd: int, events: int, seconds: float | None = None) -> bool:
    """Wait for `events` of a descriptor, `seconds` at most or as long as it takes; returns whether they came.

    SystemExit with 128 + n when a deadly signal n comes first: one that is held, or that was passed on to a process which has ended.
    """
    import select
    import time

    poll = select.poll()
    poll.register(fd, events)
    end = None if seconds is None else time.monotonic() + seconds
    while not poll.poll(_STEP if end is None else max(0, min(_STEP, (end - time.monotonic()) * 1000))):
        found = [number for number in _DEADLY & _signal.sigpending() if _signal.getsignal(number) != _signal.SIG_IGN]
        found += [number for number, process in _passed if _has_ended(process)]
        if found and not poll.poll(0):
            raise SystemExit(128 + min(found))
        if end is not None and time.monotonic() >= end:
            return False
    return True


def _has_ended(pidfd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def forward(pid: int) -> int:
    """From now on signals go to the child `pid`, also those that were held; returns its pidfd."""
    pidfd = os.pidfd_open(pid)

    def send(number: int, _: object) -> None:
        if number in _DEADLY:
            _passed.append((number, pidfd))
        try:
            _signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return

    for number in _FORWARDED:
        _signal.signal(number, send)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _FORWARDED)
    return pidfd


def wait(pid: int, pidfd: int, master: int) -> int:
    """Wait for the child `pid`; `master` is its terminal's, -1 for none.  Returns its exit code, 128 + n after signal n."""
    if master >= 0:
        _relay(pidfd, master)
    _, status = os.waitpid(pid, 0x40000000)  # __WALL
    _passed.clear()  # what has ended it asks for no other end; one that comes from now on does
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def drain(master: int) -> None:
    """Show what is left of a terminal whose process has failed to start, -1 for none; it is waited for one second at most."""
    import select
    import time

    poll = select.poll()
    if master >= 0:
        poll.register(master, select.POLLIN)
    deadline = time.monotonic() + 1
    while master >= 0 and poll.poll(max(0, deadline - time.monotonic()) * 1000):
        try:
            os.write(1, os.read(master, _CHUNK))
        except OSError:  # EIO: nobody has the other end open any more
            return


def _relay(pidfd: int, master: int) -> None:
    import select
    import termios
    import tty

    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)
        mode = termios.tcgetattr(0)
        mode[1] |= termios.OPOST  # the other terminal adds no carriage return: see pyrun.oci.streams.keep_lines
        termios.tcsetattr(0, termios.TCSANOW, mode)
        _size(master)
        _signal.signal(_WINCH, lambda *_: _size(master))
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
