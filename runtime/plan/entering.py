"""The plan of a running pod -> the plan of one more process in it.  Pure.

What the app got is in the operations behind the pivot, so they are kept as they are, in their order, and only what the
caller asks for is put in place of the app's own: program, variables, user, directory, terminal.
"""

from __future__ import annotations

from pyrun.plan import ops
from pyrun.plan.ops import Plan, op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.plan.ops import Op

__all__ = ["Request", "entering", "environment", "exposed", "user_id"]

_LAST = (ops.LABEL, ops.NO_NEW_PRIVS, ops.SECCOMP, ops.EXEC)
_CAP_SYS_PTRACE = 1 << 19


class Request:
    """What to run, and what of it shall differ from the app's.

    `argv` and `paths` (what to try for argv[0], in order); `env` NAME=VALUE, all of it; `cwd` None for the app's;
    `ids` (uid, gid, supplementary gids) or None for the app's; `interactive` keeps standard input, `tty` makes a terminal.
    """

    __slots__ = ("argv", "cwd", "env", "ids", "interactive", "paths", "tty")

    def __init__(self) -> None:
        self.argv: list[str] = []
        self.paths: list[str] = []
        self.env: list[str] = []
        self.cwd: str | None = None
        self.ids: tuple[int, int, tuple[int, ...]] | None = None
        self.interactive = self.tty = False


def entering(pod: Plan, request: Request, more: int = 0) -> Plan:
    """Return the plan for `request` in the pod that was started by `pod`; native/enter.c says who runs which part of it.

    `more` are further namespaces to join: CLONE_NEWUSER for whoever is outside of the one in which the pod is as all of the user's.
    """
    start, end = _own(pod)
    uid = user_id(pod) if request.ids is None else request.ids[0]
    todo: list[Op] = [one for one in pod.ops if one[0] == ops.LIMIT and one[5]]  # cgroups of version 1 have to be entered too
    todo += [op(ops.TTY, a=uid, origin="--tty")] if request.tty else []
    visible = [op(ops.SESSION, origin=ops.ENTERED)]
    if not request.interactive and not request.tty:
        visible.append(op(ops.STDIN_NULL, origin=ops.ENTERED))
    for one in pod.ops[start:end]:
        if one[0] in _LAST:
            todo += visible
            visible = []
        if one[0] not in (ops.SESSION, ops.STDIN_NULL):
            todo.append(_changed(one, request, uid))
    kept = (
        pod.clone_flags if pod.clone_flags & ops.CLONE_NEWUSER else pod.clone_flags & ops.CLONE_NEWTIME
    )  # else the others are always joined
    flags = pod.flags & (ops.SETGROUPS_DENY | ops.HOST_NETWORK) | ops.ENTER | (ops.RELAY_STDIN if request.interactive else 0)
    return Plan(todo, clone_flags=kept | more, flags=flags)


def _own(pod: Plan) -> tuple[int, int]:
    """Where the app's own operations begin and end; event handlers follow them."""
    codes = [one[0] for one in pod.ops]
    return codes.index(ops.PIVOT), codes.index(ops.EXEC) + 1


def _changed(one: Op, request: Request, uid: int) -> Op:
    code, origin = one[0], one[7]
    if code == ops.EXEC:
        return op(ops.EXEC, request.argv, request.env, b=request.paths, origin=ops.ENTERED)
    if code == ops.CHDIR and request.cwd is not None:
        return op(ops.CHDIR, request.cwd, origin="--working-dir")
    if code == ops.IDS and request.ids is not None:
        _, gid, groups = request.ids
        return op(ops.IDS, b"".join([g.to_bytes(4, "little") for g in groups]), n=len(groups), a=uid, b=gid, origin="--user")
    if code == ops.CAPS and request.ids is not None:
        assert isinstance(one[3], bytes) and isinstance(one[2], int)
        bounding = int.from_bytes(one[3][:8], "little")
        held = 0 if uid else bounding  # as `pyrun.plan.caps.select` has it
        return op(ops.CAPS, ops.caps_blob(bounding, held, held), n=one[2], origin=origin)
    return one


def user_id(pod: Plan) -> int:
    """Return the uid of the pod's app."""
    found = next(one[5] for one in pod.ops if one[0] == ops.IDS)
    assert isinstance(found, int)
    return found


def environment(pod: Plan) -> dict[str, str]:
    """Return the variables that the pod's app got."""
    words = next(one[4] for one in pod.ops if one[0] == ops.EXEC)
    assert isinstance(words, list)
    return dict(word.split("=", 1) for word in words)


def exposed(pod: Plan) -> bool:
    """Whether the app could trace whoever enters while that one still has more privileges than itself.

    Without no_new_privs the filter goes in before the privileges go, and both happen where the app can see it.
    """
    codes = [one[0] for one in pod.ops]
    caps = pod.ops[codes.index(ops.CAPS)][3]
    assert isinstance(caps, bytes)
    early = ops.SECCOMP in codes and codes.index(ops.SECCOMP) < codes.index(ops.IDS)
    return early and bool(int.from_bytes(caps[:8], "little") & _CAP_SYS_PTRACE)
