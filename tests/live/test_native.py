"""The helper by itself: plans made by hand, its reports, and what no flag of the command line reaches yet."""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from direct import Direct
from harness import COMMAND, Pyrun
from waiting import gone

from pyrun import native
from pyrun.engine.launch import EXITED, RUNNING
from pyrun.errors import ExecError, SetupError
from pyrun.plan import ops
from pyrun.plan.config import Config, IdMap, Mount
from pyrun.plan.ops import Plan, op
from pyrun.plan.planner import run_plan

if TYPE_CHECKING:
    from pyrun.plan.ops import Op


@pytest.fixture
def direct(tmp_path: Path, probe: Path) -> Direct:
    return Direct(tmp_path, probe)


@pytest.fixture
def open_direct(probe: Path) -> Iterator[Direct]:
    """Below a directory that everybody may search, which pytest's are not."""
    base = Path(tempfile.mkdtemp(prefix="pyrun-test-", dir="/tmp"))
    base.chmod(0o755)
    yield Direct(base, probe)
    shutil.rmtree(base)


def inserted(config: Config, *more: Op) -> tuple[Plan, int]:
    """The plan with more operations behind the mount of /dev, and where the first of them is."""
    plan = run_plan(config)
    todo = list(plan.ops)
    at = next(i for i, one in enumerate(todo) if one[:1] == (ops.MOUNT,) and one[4] == "/dev/shm") + 1
    plan.ops = [*todo[:at], *more, *todo[at:]]
    return plan, at


def test_reports_in_order(direct: Direct) -> None:
    supervisor = direct.start(direct.config("exit", "7"))
    running = supervisor.next_report()
    assert running is not None and running.kind == RUNNING
    assert supervisor.init_pid == running.pid > 0
    ended = supervisor.next_report()
    assert ended is not None and ended.kind == EXITED
    assert os.waitstatus_to_exitcode(ended.status) == 7
    assert 0 < running.time_ns <= ended.time_ns <= time.time_ns()
    assert supervisor.next_report() is None
    supervisor.close()
    assert not any(direct.stage.iterdir())


def test_all_256_exit_codes(direct: Direct) -> None:
    """F29, SEC-60."""
    assert [direct.run(direct.config("exit", str(code))) for code in range(256)] == list(range(256))


def test_all_signals(direct: Direct) -> None:
    deadly = [n for n in range(1, 32) if n not in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH)]
    deadly = [n for n in deadly if n not in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)]
    assert [direct.run(direct.config("kill", str(number))) for number in deadly] == [-number for number in deadly]


def test_a_signal_by_the_control_socket(direct: Direct) -> None:
    supervisor = direct.start(direct.config("trap", "10", "12"))
    supervisor.next_report()
    while direct.said() != "ready\n":
        time.sleep(0.01)
    supervisor.kill(signal.SIGUSR2)
    assert os.waitstatus_to_exitcode(supervisor.wait()) == 12
    supervisor.close()
    with pytest.raises(ProcessLookupError):
        supervisor.kill(signal.SIGTERM)


@pytest.mark.parametrize("how", ["close", "death"])
def test_end_of_the_control_socket_ends_the_pod(direct: Direct, how: str) -> None:
    """The life-line: closed by hand, or by the kernel when whoever held it died."""
    if how == "close":
        supervisor = direct.start(direct.config("sleep", "0"))
        supervisor.next_report()
        init = supervisor.init_pid
        assert not gone(init)
        supervisor.close()
    else:
        reader, writer = os.pipe()
        holder = os.fork()
        if holder == 0:
            try:
                supervisor = direct.start(direct.config("sleep", "0"))
                supervisor.next_report()
                os.write(writer, f"{supervisor.init_pid}\n".encode())
                time.sleep(60)
            finally:
                os._exit(1)
        init = int(os.read(reader, 20))
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(reader)
        os.close(writer)
    deadline = time.monotonic() + 60
    while not gone(init):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_supervisor_is_no_exit(direct: Direct) -> None:
    supervisor = direct.start(direct.config("sleep", "0"))
    supervisor.next_report()
    os.kill(supervisor.pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError):
        supervisor.wait()
    deadline = time.monotonic() + 60
    while not gone(supervisor.init_pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(supervisor.init_pid)


def test_a_failed_operation_says_which(direct: Direct) -> None:
    config = direct.config("exit", "0")
    config.mounts = [Mount("host", "/data", source="/no/such/dir", origin="--volume data")]
    plan = run_plan(config)
    index = next(i for i, one in enumerate(plan.ops) if one[0] == ops.BIND)
    with pytest.raises(SetupError) as caught:
        direct.run(plan)
    error = caught.value
    assert (error.errno, error.op, error.origin) == (errno.ENOENT, index, "--volume data")
    assert isinstance(error, OSError) and error.filename == "/data"
    assert str(error) == "mount /no/such/dir on /data: no such file or directory" and error.hint


def test_a_failed_exec(direct: Direct) -> None:
    config = direct.config()
    config.paths = ["/usr/bin/none", "/none"]
    config.origins["argv"] = "app.exec"
    plan = run_plan(config)
    with pytest.raises(ExecError) as caught:
        direct.run(plan)
    assert (caught.value.errno, caught.value.op, caught.value.origin) == (errno.ENOENT, len(plan.ops) - 1, "app.exec")
    assert caught.value.exit_code == 127


def test_optional(direct: Direct) -> None:
    """ENOENT alone is forgiven, and only where the plan says so."""
    missing = op(ops.MOUNT, "tmpfs", "/missing/place", flags=ops.OPTIONAL)
    assert direct.run(inserted(direct.config("exit", "3"), missing)[0]) == 3
    for one, number in (
        (op(ops.MOUNT, "tmpfs", "/missing/place"), errno.ENOENT),
        (op(ops.MOUNT, "nofs", "/tmp", flags=ops.OPTIONAL), errno.ENODEV),
    ):
        plan, at = inserted(direct.config("exit", "3"), one)
        with pytest.raises(SetupError) as caught:
            direct.run(plan)
        assert (caught.value.errno, caught.value.op) == (number, at)


@pytest.mark.parametrize(("first", "kind"), [("nofs", "ramfs"), ("tmpfs", "tmpfs")])
def test_else(direct: Direct, first: str, kind: str) -> None:
    """The next one is done when this one fails, else skipped."""
    plan, _ = inserted(direct.config("report"), op(ops.MOUNT, first, "/tmp", flags=ops.ELSE), op(ops.MOUNT, "ramfs", "/tmp"))
    assert direct.run(plan) == 0
    assert re.findall(r" /tmp [^\"]* - (\w+) ", direct.said()) == [kind]


def test_a_failed_alternative(direct: Direct) -> None:
    plan, at = inserted(direct.config("report"), op(ops.MOUNT, "nofs", "/tmp", flags=ops.ELSE), op(ops.MOUNT, "nofs2", "/tmp"))
    with pytest.raises(SetupError) as caught:
        direct.run(plan)
    assert (caught.value.errno, caught.value.op) == (errno.ENODEV, at + 1)


@pytest.mark.parametrize("how", ["cut", "longer", "magic", "no exec", "mount after pivot", "two pivots", "app first"])
def test_malformed_plans_are_not_begun(direct: Direct, how: str) -> None:
    plan = run_plan(direct.config("exit", "0"))
    todo = list(plan.ops)
    pivot, mount = (next(one for one in todo if one[0] == code) for code in (ops.PIVOT, ops.MOUNT))
    at = todo.index(pivot)
    plan.ops = {
        "no exec": todo[:-1],
        "mount after pivot": [*todo[: at + 1], mount, *todo[at + 1 :]],
        "two pivots": [*todo[:at], pivot, *todo[at:]],
        "app first": [op(ops.APP), *todo],
    }.get(how, todo)
    block = ops.encode(plan)
    block = {"cut": block[:-1], "longer": block + b"x", "magic": b"x" + block[1:]}.get(how, block)
    with pytest.raises(ChildProcessError):
        direct.start(block).wait()
    assert direct.said() == "pyrun: internal error: the plan is malformed\n"
    assert not any(direct.stage.iterdir())


def test_threads_may_start_pods(direct: Direct) -> None:
    """Nothing forks and nothing is shared; the helper is loaded once."""
    codes: list[int] = []

    def work(number: int) -> None:
        supervisor = direct.start(direct.config("exit", str(number)))
        codes.append(os.waitstatus_to_exitcode(supervisor.wait()))
        supervisor.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == list(range(20))


def test_no_descriptor_is_lost(direct: Direct) -> None:
    direct.run(direct.config("exit", "0"))
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        direct.run(direct.config("exit", "0"))
        with pytest.raises(ExecError):
            config = direct.config()
            config.paths = ["/none"]
            direct.run(config)
    assert len(os.listdir("/proc/self/fd")) == len(before)


RANGES = [(0, 100000, 65536)]


@pytest.mark.parametrize("setgroups", [True, False])
def test_user_namespace(open_direct: Direct, setgroups: bool) -> None:
    """Root inside is nobody outside; device nodes are the host's, bound."""
    config = open_direct.config("report")
    config.idmap, config.inner, config.no_setgroups = IdMap(RANGES, RANGES), True, not setgroups
    root = Path(config.pod_dir, "rootfs")
    shutil.copytree(open_direct.layer, root)
    for path in [root, *root.rglob("*")]:
        os.chown(path, 100000, 100000)
    Path(config.pod_dir).chmod(0o755)
    config.copy_root = str(root)
    seen = open_direct.report(config)
    assert [line.split() for line in seen["uid_map"]] == [["0", "100000", "65536"]]
    assert (seen["uid"], seen["gid"]) == ([0] * 3, [0] * 3)
    assert seen["namespaces"]["user"] != os.readlink("/proc/self/ns/user")
    assert {name: seen["dev"][name]["minor"] for name in ("null", "zero", "full", "random", "urandom")} == {
        "null": 3,
        "zero": 5,
        "full": 7,
        "random": 8,
        "urandom": 9,
    }


def test_user_namespace_outside(open_direct: Direct) -> None:
    config = open_direct.config("sleep", "0")
    config.idmap, config.inner = IdMap(RANGES, RANGES), True
    root = Path(config.pod_dir, "rootfs")
    shutil.copytree(open_direct.layer, root)
    Path(config.pod_dir).chmod(0o755)
    for path in [root, *root.rglob("*")]:
        os.chown(path, 100000, 100000)
    config.copy_root, config.uid, config.gid = str(root), 7, 8
    supervisor = open_direct.start(config)
    try:
        supervisor.next_report()
        children = Path(f"/proc/{supervisor.init_pid}/task/{supervisor.init_pid}/children").read_text()
        status = Path(f"/proc/{int(children)}/status").read_text()
        assert "Uid:\t100007\t100007\t100007\t100007\n" in status and "Gid:\t100008\t100008\t100008\t100008\n" in status
    finally:
        supervisor.close()


@pytest.mark.parametrize("uids", [[(0, 100000, 0)], [(0, 1, 10), (5, 100, 10)]])
def test_bad_id_maps(open_direct: Direct, uids: list[tuple[int, int, int]]) -> None:
    """E09: the kernel's refusal, told as the step that it is."""
    config = open_direct.config("exit", "0")
    config.idmap, config.inner = IdMap(uids, RANGES), True
    with pytest.raises(SetupError) as caught:
        open_direct.run(config)
    assert str(caught.value).startswith("map user and group ids") and caught.value.hint


def test_time_namespace(direct: Direct) -> None:
    config = direct.shell("cat /proc/uptime; readlink /proc/self/ns/time")
    config.time_offsets = "monotonic 1000 0\nboottime 1000000 0\n"
    assert direct.run(config) == 0
    uptime, namespace = direct.said().splitlines()
    own = float(Path("/proc/uptime").read_text().split()[0])
    assert 1_000_000 <= float(uptime.split()[0]) - own + 1 < 1_000_100
    assert namespace != os.readlink("/proc/self/ns/time")


def test_bad_time_offsets(direct: Direct) -> None:
    config = direct.config("exit", "0")
    config.time_offsets = "sidereal 1 0\n"
    with pytest.raises(SetupError) as caught:
        direct.run(config)
    assert str(caught.value) == "set the time namespace's offsets: invalid argument"


def test_memory_that_cannot_be_executed(shared: Pyrun) -> None:
    """vm.memfd_noexec=2, a setting of each pid namespace: the helper runs from a nameless file, and that is said."""
    script = 'echo 2 >/proc/sys/vm/memfd_noexec && exec "$@"'
    words = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", COMMAND, "run", shared.probe_image]
    for _ in range(2):
        command = [*words, "--exec", "/probe", "--", "exit", "6"]
        done = subprocess.run(command, env=shared.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert done.returncode == 6, done.stderr
        assert done.stderr.startswith("pyrun: note: this kernel forbids to execute a memfd")


def test_nameless_file(direct: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_helper", native._unlinked_copy(str(direct.base), Path(native.HELPER).read_bytes()))
    supervisor = direct.start(direct.config("sleep", "0"))
    supervisor.next_report()
    exe = os.readlink(f"/proc/{supervisor.init_pid}/exe")
    supervisor.close()
    os.close(native._helper)
    assert exe.startswith(f"{direct.base}/#") and exe.endswith(" (deleted)")


def test_the_pidfd_tells_the_end(direct: Direct) -> None:
    supervisor = direct.start(direct.config("exit", "0"))
    assert select.select([supervisor.pidfd], [], [], 10)[0]
    assert supervisor.wait() == 0
    assert supervisor.reap()
