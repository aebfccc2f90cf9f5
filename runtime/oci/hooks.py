"""Hooks that run in the host's namespaces: prestart, createRuntime, poststart, poststop (runtime-spec, "POSIX-platform Hooks").  Cold."""

from __future__ import annotations

import os

from pyrun.errors import HostError, PyrunError
from pyrun.images import fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["poststop", "run"]


def run(config: dict[str, Any], kind: str, state: dict[str, Any]) -> None:
    """Run all hooks of a kind in their order, with `state` on standard input; HostError for the first that fails."""
    for index, hook in enumerate((config.get("hooks") or {}).get(kind) or []):
        _one(hook, f"hooks.{kind}[{index}]", fastjson.dumps(state).encode())


def poststop(config: dict[str, Any], state: dict[str, Any]) -> None:
    """Run the poststop hooks, all of them, whatever becomes of one (runtime-spec, "Lifecycle", step 13)."""
    import sys

    for hook in (config.get("hooks") or {}).get("poststop") or []:
        try:
            run({"hooks": {"poststop": [hook]}}, "poststop", state)
        except PyrunError as error:
            sys.stderr.write(f"pyrun-oci: warning: {error}\n")


def _one(hook: dict[str, Any], where: str, data: bytes) -> None:
    import select

    path = hook["path"]
    memfd = os.memfd_create("state", os.MFD_CLOEXEC)
    try:
        os.write(memfd, data)
        os.lseek(memfd, 0, os.SEEK_SET)
        env = dict(word.split("=", 1) for word in hook.get("env") or [] if "=" in word)
        pid = os.posix_spawn(path, hook.get("args") or [path], env, file_actions=[(os.POSIX_SPAWN_DUP2, memfd, 0)], setsigmask=[])
    except OSError as error:
        raise HostError("run hook", path, errno=error.errno or 0, origin=where) from None
    finally:
        os.close(memfd)
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        timeout = hook.get("timeout")
        late = not poll.poll(timeout * 1000 if timeout else None)
        if late:
            os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    if late:
        raise HostError("run hook", path, f"it took longer than {timeout} s and was killed", origin=where)
    if status:
        code = os.waitstatus_to_exitcode(status)
        reason = f"its exit status was {code}" if code > 0 else f"it was killed by signal {-code}"
        raise HostError("run hook", path, reason, origin=where)
