"""Hooks that run in the host's namespaces: prestart, createRuntime, poststart, poststop (runtime-spec, "POSIX-platform Hooks").  Cold."""

from __future__ import annotations

import contextlib
import os

from pyrun.errors import ConfigError, HostError, PyrunError
from pyrun.images import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["InBundle", "inherit", "poststop", "run"]

_OUTPUT = ((1, "run.oci.hooks.stdout"), (2, "run.oci.hooks.stderr"))


def run(config: dict[str, Any], kind: str, state: dict[str, Any]) -> None:
    """Run all hooks of a kind in their order, with `state` on standard input; PyrunError for the first that fails."""
    for index, hook in enumerate((config.get("hooks") or {}).get(kind) or []):
        _one(hook, kind, index, state)


def poststop(config: dict[str, Any], state: dict[str, Any]) -> None:
    """Run the poststop hooks, all of them, whatever becomes of one (runtime-spec, "Lifecycle", step 13).

    What comes after them is to be done as well: a signal that asks for an end ends the hook that runs, and those behind it.
    """
    import sys

    for index, hook in enumerate((config.get("hooks") or {}).get("poststop") or []):
        try:
            _one(hook, "poststop", index, state)
        except PyrunError as error:
            sys.stderr.write(f"pyrun-oci: warning: {error} (from {error.origin})\n")
        except SystemExit:
            sys.stderr.write(f"pyrun-oci: warning: run hook {hook['path']}: killed, as this process was asked to end\n")


def inherit(config: dict[str, Any]) -> None:
    """Give createContainer hooks that name no environment this process's own, as those that are run here have it."""
    for hook in config["hooks"].get("createContainer", ()):
        hook.setdefault("env", [f"{name}={value}" for name, value in os.environ.items()])


class InBundle:
    """A `with` block whose working directory is the bundle, where crun and runc run hooks; the caller's if the bundle is gone."""

    __slots__ = ("_back", "_bundle")

    def __init__(self, bundle: str) -> None:
        self._bundle = bundle

    def __enter__(self) -> None:
        self._back = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            os.chdir(self._bundle)

    def __exit__(self, *_: object) -> None:
        try:
            os.fchdir(self._back)
        finally:
            os.close(self._back)


def _outputs(annotations: dict[str, str]) -> list[tuple[int, int]]:
    """The descriptors that are not this process's own, and what goes there: files that are there, for annotations may be anybody's."""
    found: list[tuple[int, int]] = []
    try:
        for number, name in _OUTPUT:
            if annotations.get(name):
                found.append((number, _append_to(annotations[name], f"annotations.{name}")))
    except BaseException:
        for _, fd in found:
            os.close(fd)
        raise
    return found


def _append_to(path: str, where: str) -> int:
    try:
        held = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(held).st_mode & 0o170000 != 0o100000:
                raise ConfigError("write hook output to", path, "not a regular file", origin=where)
            return os.open(f"/proc/self/fd/{held}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        finally:
            os.close(held)
    except OSError as error:
        raise ConfigError("write hook output to", path, errno=error.errno or 0, hint="make the file first", origin=where) from None


def _spawn(hook: dict[str, Any], state: dict[str, Any]) -> int:
    memfd = os.memfd_create("state", os.MFD_CLOEXEC)
    outputs: list[tuple[int, int]] = []
    try:
        os.write(memfd, fastjson.dumps(state).encode())
        os.lseek(memfd, 0, os.SEEK_SET)
        outputs = _outputs(state.get("annotations") or {})
        actions = [(os.POSIX_SPAWN_DUP2, memfd, 0), *((os.POSIX_SPAWN_DUP2, fd, number) for number, fd in outputs)]
        env = os.environ if hook.get("env") is None else dict(word.split("=", 1) for word in hook["env"] if "=" in word)
        with InBundle(state["bundle"]):
            return os.posix_spawn(hook["path"], hook.get("args") or [hook["path"]], env, file_actions=actions, setsigmask=[])
    finally:
        for fd in (memfd, *(fd for _, fd in outputs)):
            os.close(fd)


def _one(hook: dict[str, Any], kind: str, index: int, state: dict[str, Any]) -> None:
    """SystemExit, and the hook is killed, when a signal comes first that ends this process; such signals are held from then on."""
    from pyrun.oci import attend

    path, step, where = hook["path"], f"error running {kind} hook", f"hooks.{kind}[{index}]"
    mask = attend.hold_deadly()
    try:
        pid = _spawn(hook, state)
    except OSError as error:
        reason = f"{path}: {os.strerror(error.errno or 0).lower()}"
        raise HostError(step, f"#{index}", reason, errno=error.errno or 0, origin=where) from None
    pidfd = os.pidfd_open(pid)
    timeout, late = hook.get("timeout"), True
    try:
        late = not attend.comes_first(pidfd, 1, timeout or None)  # POLLIN
    finally:
        if late:
            os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
    attend.release(mask)
    if late:
        raise HostError(step, f"#{index}", f"{path}: it took longer than {timeout} s and was killed", origin=where)
    if status:
        code = os.waitstatus_to_exitcode(status)
        how = f"failed with exit code {code}" if code > 0 else f"was killed by signal {-code}"
        raise HostError(step, f"#{index}", f"{path}: {kind} hook {how}", origin=where)
