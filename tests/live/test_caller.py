"""Hostile callers: whatever state pyrun is started in, the app finds the same one (F30, SEC-53, SEC-64, A03, A20)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun

# Runs in a process that then becomes pyrun, so that nothing between the two can tidy up.
PREPARE = """
import os, sys
for module in ("ctypes", "resource", "signal", "socket"):
    if module in sys.argv[1]:
        globals()[module] = __import__(module)
exec(sys.argv[1])
os.execve(sys.argv[2], sys.argv[2:], globals().get("env", os.environ))
"""

STATES = {
    "clean": "",
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "SIGPIPE ignored": "signal.signal(signal.SIGPIPE, signal.SIG_IGN)",
    "everything ignored": "[signal.signal(n, signal.SIG_IGN) for n in range(1, 65) if n not in (9, 19, 32, 33)]",
    "everything blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "stdin closed": "os.close(0)",
    "stdout and stderr only": "os.close(0); os.closerange(3, 1024)",
    "umask 0": "os.umask(0)",
    "umask 0777": "os.umask(0o777)",
    "64 descriptors": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    "small stack": "resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))",
    "directory gone": "os.mkdir('/tmp/h'); os.chdir('/tmp/h'); os.rmdir('/tmp/h')",
    "no environment": "env = {'PYRUN_ROOT': os.environ['PYRUN_ROOT']}",
    "odd environment": "env = {**os.environb, b'\\xff': b'\\xfe', b'PYTHONPATH': b'/tmp', b'TERM': b'\\x1b'}",
    "60 descriptors": "[os.set_inheritable(os.dup(0 if n % 3 else os.open('/', os.O_RDONLY)), True) for n in range(60)]",
    "sockets": "kept = [s.set_inheritable(True) or s for pair in range(20) for s in socket.socketpair()]",
    "high descriptors": "os.dup2(1, 1000); os.dup2(os.open('/etc', os.O_RDONLY), 900)",
    "no new privileges": "ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)",
    "subreaper": "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)",
    "parent death signal": "ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)",
    "keepcaps": "ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)",
    "nice": "os.nice(5); os.nice(0)",
    "other session": "os.setsid()",
    "groups": "os.setgroups([1, 2, 3])",
    "dumpable off": "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)",
    "odd personality": "ctypes.CDLL(None).personality(0x0040000)",
}

SAME = ("pid", "ppid", "sid", "umask", "cwd", "env", "uid", "gid", "groups", "fds", "root", "argv", "interfaces", "uid_map")
SAME_STATUS = ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")


def run_from(shared: Pyrun, state: str, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", PREPARE, state, COMMAND, *(words or ("run", shared.probe_image))]
    return subprocess.run(command, env=shared.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **more)


def essence(report: dict[str, Any]) -> dict[str, Any]:
    found = {name: report[name] for name in SAME}
    found["fds"], found["root"] = sorted(found["fds"]), sorted(found["root"])
    return found | {name: report["status"][name] for name in SAME_STATUS}


@pytest.fixture(scope="module")
def clean(shared: Pyrun) -> dict[str, Any]:
    return essence(shared.report("--hostname", "same"))


@pytest.mark.parametrize("path", ["decided", "repeated"])
@pytest.mark.parametrize("state", STATES)
def test_the_app_cannot_tell(shared: Pyrun, clean: dict[str, Any], tmp_path: Path, state: str, path: str) -> None:
    """The same descriptors, signals, mask, environment and rights, whether Python decides or the launcher repeats."""
    extra: list[str | Path] = ["--uuid-file-save", tmp_path / "uuid"] if path == "decided" else []
    done = run_from(shared, STATES[state], "run", "--hostname", "same", *extra, shared.probe_image)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert essence(json.loads(done.stdout)) == clean


@pytest.mark.parametrize("state", STATES)
def test_failures_are_told(shared: Pyrun, state: str) -> None:
    """The supervisor turns into Python again, which starts in the same state as the first one."""
    failed = run_from(shared, STATES[state], "run", shared.probe_image, "--exec", "/missing")
    assert failed.returncode == 127
    assert failed.stderr.startswith("pyrun: execute /missing: no such file or directory\nhint: "), failed.stderr


@pytest.mark.parametrize("state", ["SIGCHLD ignored", "everything ignored", "everything blocked", "no environment"])
def test_the_exit_code_is_the_apps(shared: Pyrun, state: str) -> None:
    """Trap 7: an ignored SIGCHLD makes waiters see success where there was none."""
    words = ("run", shared.probe_image, "--exec", "/probe", "--")
    assert run_from(shared, STATES[state], *words, "exit", "3").returncode == 3
    assert run_from(shared, STATES[state], *words, "kill", "15").returncode == 143


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1", "0, 1, 2"])
def test_closed_standard_streams(shared: Pyrun, closed: str) -> None:
    """A stream that is not there is /dev/null to the app, and never one of pyrun's own files."""
    state = "[os.close(fd) for fd in (" + closed + ",)]"
    done = run_from(shared, state, "run", shared.probe_image, "--exec", "/probe", "--", "exit", "5")
    assert done.returncode == 5, done
    if "1" not in closed:
        fds = json.loads(run_from(shared, state).stdout)["fds"]
        assert sorted(fds) == ["0", "1", "2"]
        assert all(fds[fd] == "/dev/null" for fd in closed.split(", "))


def test_few_descriptors_after_many(shared: Pyrun) -> None:
    """A decision made under generous limits is repeated under tight ones."""
    shared.report("--hostname", "tight")
    hard = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    done = run_from(shared, hard, "run", "--hostname", "tight", shared.probe_image)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rlimits"]["nofile"] == [64, 64]


def test_no_more_than_the_caller_has(shared: Pyrun) -> None:
    hard = "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))"
    done = run_from(shared, hard, "run", "--rlimit", "nofile=100", shared.probe_image)
    assert done.returncode == 125
    assert "nofile=100" in done.stderr and "hint: " in done.stderr and "from: --rlimit nofile=100" in done.stderr


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9, 64])
@pytest.mark.parametrize("below", ["", "/etc", "/.."])
def test_no_working_directory_through_a_descriptor(shared: Pyrun, number: int, below: str) -> None:
    """A03 (CVE-2024-21626), SEC-13: the caller even leaves directories of the host open on those numbers."""
    state = "root = os.open('/', os.O_RDONLY); [os.dup2(root, n, inheritable=True) for n in range(3, 65) if n != root]"
    done = run_from(shared, state, "run", shared.probe_image, "--working-dir", f"/proc/self/fd/{number}{below}")
    assert done.returncode == 125 and done.stdout == ""
    assert done.stderr.startswith(f"pyrun: enter directory /proc/self/fd/{number}{below}: ")
    assert done.stderr.count("hint: ") == 1


@pytest.mark.parametrize("directory", ["/proc/1/cwd", "/proc/1/root/..", "/proc/self/cwd/..", "/proc/self/root/.."])
def test_working_directories_through_proc(shared: Pyrun, directory: str) -> None:
    done = shared("run", shared.probe_image, "--working-dir", directory)
    assert done.code == 125 or json.loads(done.out)["cwd"] == "/"


def test_a_link_in_the_image_to_a_descriptor(shared: Pyrun, image: Callable[..., Path]) -> None:
    path = image("example.com/fd-link", app={"workingDirectory": "/away"}, edit=lambda made: made.symlink("/away", "/proc/self/fd/7"))
    failed = shared("run", path, code=125)
    assert failed.err.startswith("pyrun: enter directory /away: ") and "from: app.workingDirectory" in failed.err


def test_no_planted_module_is_loaded(shared: Pyrun, tmp_path: Path) -> None:
    """SEC-64: neither from the current directory nor from anything that the environment names."""
    for name in ("os", "pyrun", "sitecustomize", "usercustomize", "errno", "encodings"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('{name}')\n")
    for name in ("gpg", "gpgv", "newuidmap", "python3", "mount"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >{tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    planted = str(tmp_path)
    env = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HOME", "TMPDIR", "GNUPGHOME"), planted)
    env |= {"PYTHONSTARTUP": f"{planted}/os.py", "PYTHONINSPECT": "1", "PATH": f"{planted}:/usr/bin:/bin", "PYTHONWARNINGS": "error"}
    fresh = Pyrun(tmp_path / "state", shared.probe_image)
    for words in (
        ["run", "--insecure-options", "image", shared.probe_image],
        ["run", shared.probe_image, "--user", "ghost"],
        ["version"],
        ["gc"],
    ):
        fresh(*words, env=env, cwd=tmp_path)
    assert fresh("run", "--insecure-options", "image", shared.probe_image, env=env, cwd=tmp_path, code=0).err == ""
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
