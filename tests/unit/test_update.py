"""What `update` changes stands in the plan for the pod's next starts, and nothing else of the plan does."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest

from pyrun.engine.explain import LISTS, NO_FILE
from pyrun.errors import HostError
from pyrun.plan import ops
from pyrun.plan.devices_bpf import POD_DEFAULT, device_program, rules_of_text
from pyrun.plan.ops import Plan, decode, encode, op
from pyrun.pod.update import _changed, _set


def plan() -> Plan:
    made = Plan(
        [
            op(ops.LIMIT, "memory.max", "67108864", origin="--memory"),
            op(ops.LIMIT, "io.max", "8:0 rbps=1", origin="--io-max"),
            op(ops.LIMIT, "pids.max", "20", a="/sys/fs/cgroup/pids/x", origin="--pids-limit"),
            op(ops.PROPAGATION, n=ops.MS_PRIVATE),
            op(ops.MKNOD, "/dev/null", n=0o020666, a=1 << 8 | 3),
            op(ops.MKNOD, "/dev/fuse", n=0o020600, a=10 << 8 | 229, b=1 << 32),
            op(ops.SECCOMP, bytes(16), origin="filter"),
            op(ops.EXEC, ["/bin/sh", "-c", "x"], ["A=b"], b=["/bin/sh"]),
        ],
        clone_flags=ops.CLONE_NEWNS,
        flags=ops.REMOVE,
    )
    made.uid_map, made.gid_map, made.pod_name, made.cgroup_name = "0 1 2\n", "3 4 5\n", "uuid", "pyrun-uuid"
    made.timens, made.explain = "monotonic 1 0\n", ["python", "-m", "pyrun"]
    return made


def test_a_plan_is_read_as_it_was_written() -> None:
    block = encode(plan())
    again = decode(block)
    end = sum(int.from_bytes(block[at : at + 4], "little") for at in (16, 20))  # of the pool; the notes behind it hold the same values
    assert encode(again)[24:end] == block[24:end] and again.ops == plan().ops == decode(encode(again)).ops
    assert (again.pod_name, again.cgroup_name, again.timens, again.explain) == (
        "uuid",
        "pyrun-uuid",
        "monotonic 1 0\n",
        ["python", "-m", "pyrun"],
    )


def test_limits_are_replaced_by_file_and_device() -> None:
    wanted = [("", "memory.max", "1048576", "u"), ("", "io.max", "8:16 wbps=2", "u"), ("/sys/fs/cgroup/pids/x", "pids.max", "max", "u")]
    found = [(one[5], one[3], one[4]) for one in _changed(plan().ops, wanted, [], []) if one[0] == ops.LIMIT]
    assert found == [
        (0, "memory.max", "1048576"),
        (0, "io.max", "8:0 rbps=1"),
        ("/sys/fs/cgroup/pids/x", "pids.max", "max"),
        (0, "io.max", "8:16 wbps=2"),
    ]
    unlimited = _changed(plan().ops, [("", "memory.max", "max", "u")], [], [])
    assert not any(one[3] == "memory.max" for one in unlimited), "a new cgroup has none anyway"
    assert [one[0] for one in unlimited][-5:] == [one[0] for one in plan().ops][-5:], "the rest stays in its order"


def test_what_a_file_has_several_of_stays() -> None:
    """An update of one line of io.latency, or one rate of io.max, leaves the others for the next start, as the kernel does."""
    held = [ops.op(ops.LIMIT, "io.latency", f"8:{minor} target=1", origin="--io-latency") for minor in (0, 16)]
    held.append(ops.op(ops.LIMIT, "io.max", "8:0 rbps=1 wbps=2", origin="--io-max"))
    wanted = [("", "io.latency", "8:16 target=5", "u"), ("", "io.max", "8:0 rbps=9", "u")]
    found = [(one[3], one[4]) for one in _changed(held, wanted, [], []) if one[0] == ops.LIMIT]
    assert found == [("io.latency", "8:0 target=1"), ("io.latency", "8:16 target=5"), ("io.max", "8:0 wbps=2 rbps=9")]


def test_a_closed_device_has_no_node_and_no_rule() -> None:
    found = _changed(plan().ops, [], [], POD_DEFAULT)
    (program,) = [one for one in found if one[0] == ops.DEVICES]
    assert program[3] == device_program(POD_DEFAULT) and rules_of_text(str(program[4])) == list(POD_DEFAULT)
    assert [one[3] for one in found if one[0] == ops.MKNOD] == ["/dev/null"]
    assert [one[0] for one in found][:4] == [ops.LIMIT, ops.LIMIT, ops.LIMIT, ops.DEVICES], "before the clone, in front"


@pytest.mark.parametrize(
    ("file", "controllers", "reason", "hint"),
    [
        ("io.latency", "cpu io", "no such file or directory", NO_FILE),
        ("io.latency", "cpu", "the pod's cgroup does not have the controller io", "start the pod with a limit of that kind"),
        ("misc.max", "misc", "invalid argument", LISTS["misc.max"]),
    ],
)
def test_what_the_kernel_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, controllers: str, reason: str, hint: str
) -> None:
    """A file that the kernel lacks, a controller that the pod lacks, a name that nothing has: each is said, as at a start."""

    def refuse(path: str, text: str) -> None:
        raise OSError(errno.EINVAL, "as the kernel says", path)

    (tmp_path / "cgroup.controllers").write_text(controllers + "\n")
    (tmp_path / "misc.max").write_text("sev max\n")
    monkeypatch.setattr("pyrun.pod.update._write", refuse)
    with pytest.raises(HostError) as caught, contextlib.ExitStack() as undo:
        _set(str(tmp_path), ("", file, "x 1", "--flag"), undo)
    assert caught.value.reason == reason and caught.value.hint.startswith(hint)


@pytest.mark.parametrize(("file", "none"), [("io.max", "rbps=max wbps=max riops=max wiops=max"), ("io.latency", "target=max")])
def test_a_disk_that_had_no_limit_has_none_again(tmp_path: Path, file: str, none: str) -> None:
    (tmp_path / file).write_text("")
    with contextlib.ExitStack() as undo:
        _set(str(tmp_path), ("", file, "8:0 x=1", "--flag"), undo)
        assert (tmp_path / file).read_text() == "8:0 x=1"
    assert (tmp_path / file).read_text().startswith(f"8:0 {none}")
