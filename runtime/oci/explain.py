"""Failures in the words that the clients look for: conmon, podman, containerd's shim and dockerd choose exit codes by them.  Cold."""

from __future__ import annotations

import errno
import os

from pyrun.engine.explain import failure as engine_failure
from pyrun.engine.explain import label_hint
from pyrun.errors import ExecError, SetupError
from pyrun.plan import ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.plan.ops import Op

__all__ = ["failure"]

_ENTER = 0xFFFFFFF6  # STEP_ENTER of native/plan.h


def failure(plan: Sequence[Op], index: int, error: int, detail: int) -> SetupError:
    """Return the exception for operation `index` of an OCI plan."""
    one = plan[index] if index < len(plan) else None
    if index == _ENTER and error == errno.EBUSY:
        reason = "error adding pid of a new process to cgroups: device or resource busy"
        hint = "it has controllers enabled for cgroups below, so no process may be in it: choose one of those by --cgroup"
        return SetupError("exec", "", reason, errno=error, hint=hint, op=index)
    if one is not None and one[0] == ops.LIMIT and one[5]:  # of version 1
        from pyrun.oci.hybrid import hint_of

        raised = engine_failure(plan, index, error, detail)
        raised.hint = hint_of(str(one[3]), error) or raised.hint
        return raised
    if one is not None and one[0] in (ops.FIND, ops.EXEC):
        return _program(plan, one, index, error, detail)
    if one is not None and one[0] == ops.HOOK:
        assert isinstance(one[3], list)
        kind, _, number = one[7].removeprefix("hooks.").rstrip("]").partition("[")
        if error == errno.ETIMEDOUT:
            reason = "it took longer than its timeout and was killed"
        elif detail >= ops.DETAIL_STATUS:
            status = detail - ops.DETAIL_STATUS
            how = _ended(status)
            reason = f"{kind} hook {how}"
            if status == 127 << 8:
                reason += " (it could not be executed)"
        else:
            reason = os.strerror(error).lower()
        reason = f"{one[3][0]}: {reason}"
        return SetupError(f"error running {kind} hook", f"#{number}", reason, errno=error, origin=one[7], op=index)
    if one is not None and one[0] == ops.CHDIR and error in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) and not detail:
        hint = "it must be a directory of the container that the process's user may enter"
        return SetupError("chdir to", str(one[3]), errno=error, hint=hint, origin=one[7], op=index)
    if one is not None and one[0] == ops.UNMOUNT and error in (errno.EINVAL, errno.ENOENT):
        hint = "what is mounted in there /proc/self/mountinfo shows to a process of it"
        return SetupError("unmount", str(one[3]), "nothing is mounted there", errno=error, hint=hint, origin=one[7], op=index)
    if one is not None and one[0] >= ops.JOIN:
        from pyrun.oci.refused import refused

        return refused(one, index, error, detail)
    return engine_failure(plan, index, error, detail)


def _program(plan: Sequence[Op], one: Op, index: int, error: int, detail: int) -> SetupError:
    argv = plan[-1][3]
    assert isinstance(argv, list)
    name = argv[0]
    shown = name if one[0] == ops.EXEC else f'"{name}"'
    if not name:
        return ExecError("start container", "process", "is required", errno=error, hint="say what to run", origin="process", op=index)
    if error in (errno.ENOENT, errno.ENOTDIR) and detail != 3:
        reason = "no such file or directory" if "/" in name else "executable file not found in $PATH"
    elif error in (errno.ENOENT, errno.ENOTDIR):
        reason = "no such file or directory: its interpreter or program loader is not in the container"
    elif error == errno.EACCES:
        reason = "permission denied"
    elif error == errno.ENOEXEC:
        reason = "exec format error"
    else:
        return engine_failure(plan, index, error, detail)
    return ExecError("exec", shown, reason, errno=error, hint=label_hint(plan, error), origin=one[7], op=index)


def _ended(status: int) -> str:
    from signal import strsignal

    number = status & 127
    if not number:
        return f"failed with exit code {status >> 8}"
    return f"was killed by signal {number} ({(strsignal(number) or 'unknown').lower()})"
