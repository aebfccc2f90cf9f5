"""criu's service protocol: one request to a `criu swrk` of one's own, the messages of rpc.proto of criu's manual.  Cold.

    pyrun-oci                          criu swrk 3
      |--- criu_req (DUMP, RESTORE) ------->|
      |<-- criu_resp (NOTIFY, a script) ----|  as often as something is to be done or known; may carry a descriptor
      |--- criu_req (NOTIFY, success) ----->|
      |<-- criu_resp (DUMP, RESTORE) -------|  how it ended
                                          exits

A message is one packet of a unix(7) socket, in the encoding of protocol buffers, of which two kinds of fields suffice.
"""

from __future__ import annotations

import os

from pyrun.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence

    Field = tuple[int, "int | str | bytes | list[Field]"]
    Told = Callable[[str, int, int], None]

__all__ = ["DUMP", "PRE_DUMP", "RESTORE", "Service", "can_track_memory", "decode", "encode", "first_error", "succeeded", "usable"]

DUMP, RESTORE, PRE_DUMP = 1, 2, 4  # criu_req_type
_CHECK, _NOTIFY, _FEATURES, _VERSION = 3, 6, 9, 10
_OLDEST = (3, 12)  # no earlier one sends the terminals of restored processes
_LARGEST = 1 << 20  # bytes of a message
_SOCKET = 3  # the service's end
_HINT = "Debian: apt-get install criu"


def encode(fields: Sequence[Field]) -> bytes:
    """Return a message: whole numbers as varints, texts and messages with their length."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(value))
        else:
            data = os.fsencode(value) if isinstance(value, (str, bytes)) else encode(value)
            parts.append(_varint(number << 3 | 2) + _varint(len(data)) + data)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    made = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def decode(data: bytes) -> dict[int, int | bytes]:
    """Return the fields of a message by number, of a repeated one the last; ValueError when it is cut off or of other kinds."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if key & 7 == 0:
            found[key >> 3] = value
        elif key & 7 == 2 and at + value <= len(data):
            found[key >> 3] = data[at : at + value]
            at += value
        else:
            raise ValueError("not a message of criu")
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("cut off")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("too long a number")


def _part(fields: dict[int, int | bytes], number: int) -> dict[int, int | bytes]:
    value = fields.get(number, b"")
    return decode(value) if isinstance(value, bytes) else {}


def _number(fields: dict[int, int | bytes], number: int) -> int:
    value = fields.get(number, 0)
    return value if isinstance(value, int) else 0


def succeeded(answer: dict[int, int | bytes]) -> bool:
    """Whether an answer says so."""
    return bool(_number(answer, 2))


def _find(verb: str) -> str:
    """Return the path of criu; HostError when none is on the PATH."""
    for folder in os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").split(":"):
        path = f"{folder}/criu"
        if folder.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise HostError(verb, "", "criu is not installed", hint=f"it writes and reads checkpoints; {_HINT}")


def usable(verb: str) -> str:
    """Return the path of a criu that works here; HostError when there is none, it is too old, or cannot deal with this kernel."""
    program = _find(verb)
    answer = Service([program]).ask(verb, [(1, _VERSION)])
    version = _part(answer, 10)
    found = _number(version, 1), _number(version, 2)
    if found < _OLDEST:
        raise HostError(verb, program, f"version {found[0]}.{found[1]} of criu is too old", hint="3.12 or later is needed")
    _check(verb, program, f"{found[0]}.{found[1]}")
    return program


def _check(verb: str, program: str, version: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pyrun-criu-") as folder:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            answer = Service([program]).ask(verb, [(1, _CHECK), (2, [(1, fd), (9, 1), (10, "check.log"), (17, fd)])])
        finally:
            os.close(fd)
        if not succeeded(answer):
            why = first_error(f"{folder}/check.log")
            reason = f"criu {version} does not work here{f': {why}' if why else ''}"
            raise HostError(verb, program, reason, hint="see `criu check`, and whether there is a newer one")


def first_error(log: str) -> str:
    """Return what the log of criu gives as the reason, "" when there is none: the first error that is not only about its own limits."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [line.partition("Error (")[2].partition("): ")[2].strip() for line in file if "Error (" in line]
    except OSError:
        return ""
    return next((line for line in lines if line and not line.startswith("rlimit:")), "")


def can_track_memory(verb: str, program: str) -> bool:
    """Whether the kernel tells which pages were written since an earlier dump."""
    answer = Service([program]).ask(verb, [(1, _FEATURES), (5, [(1, 1)])])
    return bool(_number(_part(answer, 8), 1))


class Service:
    """A `criu swrk` that is yet to be started, by `command` with "swrk" and the number of its socket behind.

    `inherited` are descriptors for it, from 4 on.  `apart` keeps the keys of a terminal from it, which would break it off in the
    middle of a process.  `said` is the last of what it wrote to standard error.
    """

    def __init__(self, command: list[str], inherited: Sequence[int] = (), *, apart: bool = False) -> None:
        self._apart = apart
        self._command = [*command, "swrk", str(_SOCKET)]
        self._inherited = list(inherited)
        self.said = ""

    def ask(self, verb: str, request: Sequence[Field], told: Told | None = None) -> dict[int, int | bytes]:
        """Send a request and return the answer to it; the service has ended then.

        `told` gets the name of each notification, its pid or 0, and its descriptor or -1, which is its own from then on; what it
        raises ends the request, and is raised once the service has undone what it began.  HostError when the service cannot
        be had or goes away.
        """
        import _socket

        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        noise = os.memfd_create("criu", os.MFD_CLOEXEC)
        pid = 0
        try:
            pid = self._spawn(verb, theirs.fileno(), noise)
            theirs.close()  # else its end would not be seen
            answer = _converse(ours, encode(request), told)
        finally:
            theirs.close()
            ours.close()
            if pid:
                os.waitpid(pid, 0)
            self.said = _last_line(noise)
            os.close(noise)
        if not answer:
            raise HostError(verb, self._command[0], f"criu ended without an answer{f': {self.said}' if self.said else ''}")
        return answer

    def _spawn(self, verb: str, socket: int, noise: int) -> int:
        import fcntl

        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        wanted = [null, noise, noise, socket, *self._inherited]
        # none stands where another is to go
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(wanted)) for fd in wanted]
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(copies)]
        try:
            return os.posix_spawn(self._command[0], self._command, os.environ, file_actions=actions, setsigmask=[], setsid=self._apart)
        except OSError as error:
            raise HostError(verb, self._command[0], errno=error.errno or 0) from None
        finally:
            for fd in (null, *copies):
                os.close(fd)


def _converse(socket: _socket.socket, request: bytes, told: Told | None) -> dict[int, int | bytes]:
    failure: BaseException | None = None
    answer: dict[int, int | bytes] = {}
    try:
        socket.send(request)
        while True:
            data, ancillary, _, _ = socket.recvmsg(_LARGEST, 64, 0x40000000)  # MSG_CMSG_CLOEXEC
            answer = decode(data)
            if _number(answer, 1) != _NOTIFY:
                break
            fd = int.from_bytes(ancillary[0][2][:4], "little") if ancillary else -1
            try:
                if failure is not None or told is None:
                    _drop(fd)
                else:
                    told(*_notice(answer), fd)
            except BaseException as error:
                failure = error
            socket.send(encode([(1, _NOTIFY), (3, int(failure is None))]))
    except (OSError, ValueError):  # it is gone, or says what nobody understands
        answer = {}
    if failure is not None:
        raise failure
    return answer


def _notice(answer: dict[int, int | bytes]) -> tuple[str, int]:
    notice = _part(answer, 5)
    name = notice.get(1, b"")
    return name.decode() if isinstance(name, bytes) else "", _number(notice, 2)


def _drop(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _last_line(fd: int) -> str:
    text = os.pread(fd, 1 << 16, 0).decode("utf-8", "replace").strip()
    return text.splitlines()[-1] if text else ""
