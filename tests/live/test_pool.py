"""Pools: shells that wait for their app, each used once."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Pyrun

import pyrun as library


@pytest.fixture
def root(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "state")
    library.settle(root=str(tmp_path / "state"))
    deadline = time.monotonic() + 60
    while any(os.listdir(tmp_path / "state/pods" / phase) for phase in ("preparing", "running", "garbage")):
        assert time.monotonic() < deadline, "a pod is left"
        time.sleep(0.02)


def shell(pool: library.Pool, script: str, **more: object) -> library.Result:
    return pool.run(["sh", "-c", script], capture_output=True, **more)  # type: ignore[arg-type]


def test_it_is_as_any_other_run(root: str) -> None:
    """What the app sees of itself is what it sees without a pool: identity, filter, descriptors, variables, process numbers."""
    look = "id; cut -f2- -d: /proc/self/uid_map; grep -E 'Cap|Seccomp:|NoNew' /proc/self/status; ls /proc/self/fd; echo $$; env | sort; pwd"
    look += "; ulimit -n; ls /dev; cat /proc/$$/comm"
    env = {"A": "b c", "HOME": "/tmp"}
    with library.Pool(rootfs="host", size=2, root=root, hostname="web", rlimit=["nofile=99"]) as pool:
        done = shell(pool, look, set_env=env, working_dir="/usr")
        words = ["sh", "-c", look]
        limit = ["nofile=99"]
        plain = library.run(
            None, words, rootfs="host", root=root, hostname="web", rlimit=limit, set_env=env, working_dir="/usr", capture_output=True
        )
        assert done.stdout == plain.stdout and done.ok, (done, plain.stdout)
        assert shell(pool, "cat; exit 3", input=b"x" * 200_000).returncode == 3
        assert shell(pool, "kill -9 $$").returncode == -9 and shell(pool, "echo e >&2").stderr == b"e\n"
        assert shell(pool, "trap '' TERM; sleep 100 & sleep 100", timeout=0.3).reason == "timeout"
        assert shell(pool, "yes", output_limit=1000).reason == "output" and done.usage["cpu_usec"] > 0
        with pytest.raises(library.ExitError):
            shell(pool, "exit 1", check=True)
    assert pool.ready == 0
    with pytest.raises(library.StateError, match="the pool is closed"):
        pool.run(["true"])


def test_each_shell_is_used_once(root: str) -> None:
    """What one run leaves, the next one does not find; what was killed while it waited is passed over."""
    with library.Pool(rootfs="host", size=2, root=root) as pool:
        leave = "[ -e /tmp/x ] && echo found; touch /tmp/x /dev/shm/x; mkdir /new; sleep 1000 & hostname"
        seen = [shell(pool, leave) for _ in range(5)]
        assert b"found" not in b"".join(done.stdout or b"" for done in seen) and all(done.stderr == b"" for done in seen)
        assert len({done.uuid for done in seen}) == 5 == len({done.stdout for done in seen})
        pool._shells[0][0].kill(9)
        pool._shells[0][0].wait()
        handler = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            assert shell(pool, "exit 4").returncode == 4 and pool.ready == 2
        finally:
            signal.signal(signal.SIGPIPE, handler)


def test_what_is_not_there(root: str) -> None:
    with library.Pool(rootfs="host", size=1, root=root) as pool:
        for program in ("/nope", "nope"):
            with pytest.raises(library.ExecError, match=f"execute {program}: no such file") as caught:
                pool.run([program])
            assert caught.value.errno == errno.ENOENT and caught.value.exit_code == 127
        with pytest.raises(library.ExecError) as caught:
            pool.run(["/etc/passwd"])
        assert caught.value.errno == errno.EACCES and caught.value.exit_code == 126
        with pytest.raises(library.ExecError):
            pool.run(["true"], working_dir="/missing")
        for wrong in ([], "true", ["a\0b"], ["true", "x" * 200_000]):
            with pytest.raises(library.UsageError):
                pool.run(wrong)
        assert pool.run(["true", *["x" * 1000] * 100], set_env={f"V{number}": "y" for number in range(500)}).ok
    with pytest.raises(library.UsageError):
        library.Pool(rootfs="host", size=0, root=root)
    with pytest.raises(library.ConfigError):
        library.Pool(rootfs="/missing", root=root)


def test_threads_share_it_and_a_forked_process_has_its_own(root: str) -> None:
    with library.Pool(rootfs="host", size=3, root=root) as pool:
        codes: list[int] = []
        workers = [
            threading.Thread(target=lambda n=n: codes.extend(shell(pool, f"exit {n}").returncode for _ in range(4))) for n in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(codes) == sorted([0, 1, 2, 3] * 4)
        child = os.fork()
        if child == 0:
            code = shell(pool, "exit 6").returncode
            pool.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
        assert shell(pool, "exit 7").returncode == 7
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            shell(pool, "exit 0")
        library.settle(root=root)
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_images(shared: Pyrun, busybox: Path) -> None:
    shared("fetch", busybox, code=0)
    with library.Pool("example.com/busybox", root=str(shared.root), size=1, user="app", readonly_rootfs=True) as pool:
        done = pool.run(["sh", "-c", "id -u; touch /x"], capture_output=True)
        assert (done.stdout, done.returncode) == (b"1000\n", 1)
    library.settle(root=str(shared.root))
