"""The plan of one more process: the pod's own last operations, and what the caller asked for."""

from __future__ import annotations

import pytest

from pyrun.plan import ops
from pyrun.plan.config import Config, IdMap
from pyrun.plan.entering import Request, entering, environment, exposed, user_id
from pyrun.plan.ops import Plan
from pyrun.plan.planner import run_plan

FILTER = bytes(range(16))


def pod(**changes: object) -> Plan:
    config = Config("uuid", ["/app"], ["/layer"], stage="/stage", pod_dir="/pod")
    config.env = ["A=1", "PATH=/bin"]
    config.uid, config.gid, config.groups = 7, 8, (9, 10)
    config.seccomp = FILTER
    config.bounding = 0x20
    for name, value in changes.items():
        setattr(config, name, value)
    return run_plan(config)


def request(*argv: str) -> Request:
    made = Request()
    made.argv, made.paths, made.env = list(argv), [argv[0]], ["A=1"]
    return made


def codes(plan: Plan) -> list[int]:
    return [one[0] for one in plan.ops]


def test_decoding_gives_back_what_was_encoded() -> None:
    plan = pod()
    again = ops.decode(ops.encode(plan))
    assert (list(again.ops), again.clone_flags, again.flags) == (list(plan.ops), plan.clone_flags, plan.flags)


@pytest.mark.parametrize("block", [b"", b"x" * 64, b"x" * 4096])
def test_decoding_refuses_anything_else(block: bytes) -> None:
    with pytest.raises(ValueError):
        ops.decode(block)


def test_every_operation_of_the_app_is_there() -> None:
    plan = pod()
    made = entering(plan, request("/probe"))
    app = codes(plan)[codes(plan).index(ops.APP) :]
    assert sorted(codes(made)) == sorted([ops.PIVOT, ops.KEYRING, *app])
    kept = [one for one in made.ops if one[0] not in (ops.SESSION, ops.STDIN_NULL, ops.EXEC)]
    assert all(one in plan.ops for one in kept)


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_the_visible_part_begins_with_the_session(no_new_privs: bool) -> None:
    made = codes(entering(pod(no_new_privs=no_new_privs), request("/probe")))
    first = made.index(ops.SESSION)
    assert made[first : first + 2] == [ops.SESSION, ops.STDIN_NULL]
    assert made[first + 2] == (ops.NO_NEW_PRIVS if no_new_privs else ops.SECCOMP)
    assert (made.index(ops.IDS) < first) == no_new_privs


def test_streams() -> None:
    wanted = request("/probe")
    wanted.interactive = True
    made = entering(pod(), wanted)
    assert ops.STDIN_NULL not in codes(made) and made.flags & ops.RELAY_STDIN
    wanted.tty = True
    made = entering(pod(tty=True), wanted)
    assert codes(made)[0] == ops.TTY and codes(made).count(ops.TTY) == 1


def test_another_user() -> None:
    wanted = request("/probe")
    wanted.ids = (0, 5, (6,))
    made = entering(pod(), wanted)
    (ids,) = [one for one in made.ops if one[0] == ops.IDS]
    assert (ids[5], ids[6], ids[3]) == (0, 5, b"\6\0\0\0")
    assert [one[3] for one in made.ops if one[0] == ops.CAPS] == [ops.caps_blob(0x20, 0x20, 0x20)] * 2
    assert user_id(pod()) == 7 and environment(pod()) == {"A": "1", "PATH": "/bin"}


def test_no_namespace_is_made() -> None:
    made = entering(pod(), request("/probe"))
    assert made.flags & ops.ENTER and made.clone_flags == 0


def test_notes_name_the_new_program() -> None:
    made = entering(pod(), request("/probe", "x"))
    last = ops.notes(ops.encode(made))[-1]
    assert last[0] == ops.EXEC and last[3] == ["/probe", "x"] and last[7] == ops.ENTERED


def test_who_could_be_taken_over() -> None:
    trace = 1 << 19
    assert exposed(pod(no_new_privs=False, bounding=trace))
    assert not exposed(pod(no_new_privs=False))
    assert not exposed(pod(bounding=trace))
    assert not exposed(pod(no_new_privs=False, bounding=trace, seccomp=b""))


def test_namespaces_to_join() -> None:
    """Those of a user namespace are joined one by one, so they are named; else all are."""
    assert entering(pod(), request("/probe")).clone_flags == 0
    lowered = pod(idmap=IdMap([(0, 1000, 1)], [(0, 1000, 1)]))
    made = entering(lowered, request("/probe"))
    assert made.clone_flags == lowered.clone_flags and made.clone_flags & ops.CLONE_NEWUSER
