"""What takes root of a user namespace, in a child that becomes it: a program that has threads can't (user_namespaces(7)).

    caller   --- memfd: what to call -----> child   becomes root of a new namespace, with all ids of its user, or goes into that of
             <-- pipe: result or error ---          a pod; calls; ends

The child is an interpreter of its own, so it is safe in any process, and a pod that it starts lives in its namespace, as one of the
command line does: nothing has to stay behind to hold that.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys

from pyrun import errors, native
from pyrun.errors import HostError, PyrunError, SetupError, StateError
from pyrun.native._native import lib
from pyrun.pod.live import find_live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from pyrun.pod.live import Live
    from pyrun.pod.state import Pods

__all__ = ["call", "call_in", "enter_root", "serve"]

_CODE = "import sys; sys.path[:0] = %r; sys.path += %r; from pyrun.pod.inside import serve; serve(%d, %d)"
_CHUNK = 1 << 20
_PATIENCE = 20.0  # seconds for a child that is to give up


def call(module: str, name: str, *args: object, out: BinaryIO | None = None) -> Any:
    """Return what the function `name` of `module` returns in a child that is root of a user namespace, or raise what it raises.

    `args` and the result are plain values (marshal).  With `out` the function gets the descriptor of a pipe as its last argument, and
    what it writes there is written to `out`.  HostError where no user namespace can be made.
    """
    return _call(("", "", None), module, name, args, out)


def call_in(pods: Pods, uuid: str, app: str | None, module: str, name: str, *args: object) -> Any:
    """The same in the user namespace of a running pod; the first argument is a descriptor of the root directory of that `app`."""
    return _call((pods.root, uuid, app), module, name, args, None)


def _call(where: tuple[str, str, str | None], module: str, name: str, args: tuple[object, ...], out: BinaryIO | None) -> Any:
    import subprocess

    request = os.memfd_create("pyrun-call", os.MFD_CLOEXEC)
    pipes = [os.pipe()]
    if out is not None:
        pipes.append(os.pipe())
    theirs = [write for _, write in pipes]
    try:
        asked: Any = where, module, name, args
        os.write(request, marshal.dumps(asked))
        os.lseek(request, 0, os.SEEK_SET)
        words = [sys.executable, "-I", "-S", "-E", "-X", "utf8", "-c", _code(theirs)]
        null = subprocess.DEVNULL
        try:
            child = subprocess.Popen(words, stdin=request, stdout=null, stderr=null, pass_fds=theirs, start_new_session=True)
        except OSError as error:
            raise HostError("start", sys.executable, errno=error.errno or 0, hint="is sys.executable a Python?") from None
        while theirs:
            os.close(theirs.pop())
        try:
            if out is not None:
                for data in iter(lambda: os.read(pipes[1][0], _CHUNK), b""):
                    out.write(data)
            said = b"".join(iter(lambda: os.read(pipes[0][0], _CHUNK), b""))
        except BaseException:
            _give_up(child)
            raise
        child.wait()
    finally:
        for fd in (request, *theirs, *[read for read, _ in pipes]):
            os.close(fd)
    if not said:
        raise StateError("ask a child in a user namespace", name, "it was killed", hint="run `pyrun gc` and try again")
    kind, value = marshal.loads(said)
    if kind == "result":
        return value
    raise _error(kind, value)


def _code(fds: list[int]) -> str:
    import pyrun

    own = os.path.dirname(os.path.dirname(pyrun.__file__ or ""))
    return _CODE % ([own], [path for path in sys.path if path.startswith("/")], fds[0], fds[1] if len(fds) > 1 else -1)


def _give_up(child: Any) -> None:
    """As a key of the terminal would end it: what is half made is taken back."""
    import subprocess

    child.send_signal(signal.SIGINT)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def serve(result: int, out: int) -> None:
    """Be the child: do what is asked on standard input."""
    for fd in (result, out):
        if fd >= 0:
            os.set_inheritable(fd, False)  # else what is started here would hold the pipe open
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(0, "rb", closefd=False) as file:
        (root, uuid, app), module, name, args = marshal.loads(file.read())
    try:
        if uuid:
            from pyrun.pod.state import Pods

            args = (enter_root(Pods(root), uuid, app), *args)
        else:
            from pyrun.engine.userns import become_root

            become_root()
        more = (out,) if out >= 0 else ()
        said: Any = "result", getattr(__import__(module, fromlist=(name,)), name)(*args, *more)
    except BaseException as error:
        said = _told(error)
    view = memoryview(marshal.dumps(said))
    try:
        while view:
            view = view[os.write(result, view) :]
    except BrokenPipeError:  # who asked was interrupted, or killed, before he knew of this process
        take_back = getattr(sys.modules.get(module), "take_back", None)
        if said[0] == "result" and take_back is not None:
            take_back(args[0], name, said[1])


def _told(error: BaseException) -> Any:
    if isinstance(error, PyrunError):
        op = error.op if isinstance(error, SetupError) else -1
        return type(error).__name__, (error.step, error.subject, error.reason, error.errno, error.hint, error.origin, op)
    if isinstance(error, OSError) and error.errno:
        return "OSError", (error.errno, error.strerror, error.filename)
    import traceback

    return "RuntimeError", "".join(traceback.format_exception(error))


def _error(kind: str, value: Any) -> Exception:
    if kind == "OSError":
        return OSError(*value)
    made = getattr(errors, kind, None)
    if made is None:
        return RuntimeError(value)
    step, subject, reason, number, hint, origin, op = value
    more = {"op": op} if issubclass(made, SetupError) else {}
    found: Exception = made(step, subject, reason, errno=number, hint=hint, origin=origin, **more)
    return found


def enter_root(pods: Pods, uuid: str, app: str | None) -> int:
    """Take this process, an ordinary user's, into the user namespace of a running pod; return a descriptor of its root directory.

    StateError when the pod does not run.
    """
    with find_live(pods, uuid, app) as live:
        users, mounts = _namespaces(live)
        try:
            native.user_namespace(users)
            fd = native.root_of(mounts)
        except OSError as error:
            raise StateError("open the root of pod", uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None
        finally:
            os.close(users)
            os.close(mounts)
        if not live.lives() or os.path.samestat(os.fstat(fd), os.stat("/")):  # else those were its namespaces, and it has pivoted
            os.close(fd)
            raise StateError("open the root of pod", uuid, "it starts or ends just now", hint="try again; see `pyrun list`")
    return fd


def _namespaces(live: Live) -> tuple[int, int]:
    """User and mount namespace: of a pod of the library's, where its supervisor holds them, of any other, where its processes are."""
    held = lib.SLOT_NAMESPACES + lib.NAMESPACE_USER, lib.SLOT_NAMESPACES + lib.NAMESPACE_MOUNT
    supervisor = live.open_supervisor()
    fds: list[int] = []
    try:
        own = _is_held(supervisor, held[0])
        names = (f"fd/{held[0]}", f"fd/{held[1]}") if own else ("ns/user", f"/proc/{live.init}/ns/mnt")
        for name in names:
            fds.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=supervisor))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise StateError("open the root of pod", live.uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None
    finally:
        os.close(supervisor)
    return fds[0], fds[1]


def _is_held(supervisor: int, number: int) -> bool:
    try:
        return os.readlink(f"fd/{number}", dir_fd=supervisor).startswith("user:")
    except FileNotFoundError:
        return False
