"""Pods of several apps: what they share, what each has for itself, and when such a pod ends."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from harness import COMMAND, Pyrun

SHELL = ("--exec", "/bin/sh", "--", "-c")
LIMIT = 60
Words = tuple[str | Path, ...]


@pytest.fixture
def several(shared: Pyrun, busybox: Path) -> Iterator[Callable[..., Words]]:
    """The command line of a pod with a shell script for each app: several({"a": "id", "b": "true"})."""

    def words(scripts: dict[str, str], more: dict[str, Words] | None = None) -> Words:
        found: list[str | Path] = []
        for name, script in scripts.items():
            found += [*(("---",) if found else ()), busybox, "--name", name, *(more or {}).get(name, ()), *SHELL, script]
        return tuple(found)

    yield words
    assert os.listdir(shared.root / "pods" / "running") == []


def said(text: str) -> dict[str, str]:
    """Lines of NAME=VALUE."""
    return dict(line.split("=", 1) for line in text.splitlines())


def test_ace_15_which_namespaces_they_share(shared: Pyrun, several: Callable[..., Words]) -> None:
    # ACE-15; process numbers with --pid pod
    kinds = ("net", "ipc", "uts", "pid", "mnt", "cgroup")
    for which in ("app", "pod"):
        script = "for n in net ipc uts pid mnt cgroup; do echo $AC_APP_NAME.$n=$(readlink /proc/self/ns/$n); done; "
        script += (
            "touch /dev/shm/$AC_APP_NAME; until [ -e /dev/shm/a -a -e /dev/shm/b ]; do sleep 0.05; done"  # else a number is used again
        )
        found = said(shared("run", "--pid", which, *several({"a": script, "b": script}), code=0).out)
        same = {kind for kind in kinds if found[f"a.{kind}"] == found[f"b.{kind}"]}
        assert same == {"net", "ipc", "uts"} | ({"pid"} if which == "pod" else set())
        assert all(found[f"a.{kind}"] != os.readlink(f"/proc/self/ns/{kind}") for kind in kinds)


def test_one_reaches_the_other_by_the_loopback(shared: Pyrun, several: Callable[..., Words]) -> None:
    serve = "echo hello from a | nc -l -p 8080 127.0.0.1 >/dev/null"
    ask = "for i in $(seq 200); do nc 127.0.0.1 8080 </dev/null && exit 0; sleep 0.05; done; exit 1"
    assert shared("run", *several({"a": serve, "b": ask}), code=0).out == "hello from a\n"


def test_the_host_s_network_when_asked_for(shared: Pyrun, several: Callable[..., Words]) -> None:
    found = shared("run", "--net", "host", *several({"a": "readlink /proc/self/ns/net", "b": "readlink /proc/self/ns/net"}), code=0)
    assert found.out.splitlines() == [os.readlink("/proc/self/ns/net")] * 2


def test_memory_is_shared_files_are_not(shared: Pyrun, several: Callable[..., Words]) -> None:
    """SysV shm (shmget is system call 29) and /dev/shm are the pod's; the root file system is each app's own."""
    first = "/probe try nr 29 4660 4096 950 >/dev/null; echo secret >/tmp/x; echo word >/dev/shm/x; echo >/dev/shm/ready; sleep 100"
    second = "until [ -e /dev/shm/ready ]; do sleep 0.01; done; cat /dev/shm/x; cat /tmp/x; /probe try nr 29 4660 4096 0"
    found = shared("run", "--exit-policy", "main-app", *several({"b": second, "a": first}), code=0)
    word, result = found.out.splitlines()
    assert word == "word" and json.loads(result)["errno"] == "" and "/tmp/x" in found.err


def test_each_has_its_own_user_environment_and_confinement(shared: Pyrun, several: Callable[..., Words]) -> None:
    script = "echo $AC_APP_NAME $(id -u) $(id -g) $X $(pwd) $(ulimit -n) $(umask) $(grep -h -e CapBnd -e NoNewPrivs /proc/self/status)"
    own: dict[str, Words] = {
        "a": ("--user", "1000", "--set-env", "X=1", "--rlimit", "nofile=64", "--caps-retain", "CAP_KILL"),
        "b": ("--working-dir", "/tmp", "--umask", "077", "--caps-retain", "CAP_CHOWN", "--readonly-rootfs"),
    }
    found = shared("run", *several({"a": f"{script}; touch /tmp/x", "b": f"{script}; touch /x || exit 0"}, own), code=0)
    one, other = (line.split()[1:] for line in sorted(found.out.splitlines()))
    assert [one[0], one[2], one[3], one[4]] == ["1000", "1", "/", "64"] and int(one[-3], 16) == 1 << 5
    assert [other[0], other[2], other[4]] == ["0", "/tmp", "0077"] and int(other[-3], 16) == 1
    assert "Read-only file system" in found.err


def test_they_have_one_host_name(shared: Pyrun, several: Callable[..., Words]) -> None:
    assert shared("run", *several({"a": "hostname", "b": "hostname"}), "---", "--hostname", "web-1", code=0).out == "web-1\n" * 2


def test_volumes_are_the_pod_s(shared: Pyrun, several: Callable[..., Words], tmp_path: Path) -> None:
    """A named volume belongs to whoever mounts it; a short one to the app that it stands beside."""
    (tmp_path / "file").write_text("host\n")
    own: dict[str, Words] = {
        "a": ("--mount", "volume=data,target=/data", "-v", f"{tmp_path}:/host:ro"),
        "b": ("--volume", "data,kind=empty,mode=0777,uid=7", "--mount", "volume=data,target=/other"),
    }
    write = "cat /host/file; echo 1 >/data/new; mv /data/new /data/x; until [ -e /data/y ]; do sleep 0.01; done; stat -c %u:%a /data"
    read = "until [ -e /other/x ]; do sleep 0.01; done; ls / | grep host; echo 1 >/other/y"
    assert shared("run", *several({"a": write, "b": read}, own), code=0).out == "host\n7:777\n"


def test_process_numbers_of_their_own_or_together(shared: Pyrun, several: Callable[..., Words]) -> None:
    there = "until [ -e /dev/shm/there ]; do sleep 0.01; done"
    for which, seen in (("app", False), ("pod", True)):
        wait = f"{there}; sleep 0.1" if which == "app" else "until ps | grep -q '[s]leep 123'; do sleep 0.01; done"
        scripts = {"a": "echo >/dev/shm/there; exec sleep 123", "b": f"{wait}; ps; exit 7"}
        found = shared("run", "--pid", which, *several(scripts), code=7)
        assert ("sleep 123" in found.out) is seen, repr(found)


def test_what_an_app_left_dies_with_it(shared: Pyrun, several: Callable[..., Words]) -> None:
    """With shared process numbers no pid 1 goes when one app does: its cgroup is what is killed."""
    scripts = {
        "a": "sleep 321 & until [ -e /dev/shm/seen ]; do sleep 0.01; done; exit 0",
        "b": "until ps | grep '[s]leep 321'; do sleep 0.01; done; echo >/dev/shm/seen; "
        "while ps | grep -q '[s]leep 321'; do sleep 0.01; done; echo gone",
    }
    assert shared("run", "--pid", "pod", *several(scripts), code=0).out.endswith("gone\n")


LONG = "sleep 100"
# The second ends well after the first: it waits for the lock that the first has until its end.
FIRST = "exec 9>/dev/shm/lock; flock 9; echo >/dev/shm/held; exit {}"
LAST = "until [ -e /dev/shm/held ]; do sleep 0.01; done; exec 9>/dev/shm/lock; flock 9; sleep 0.5; exit {}"


@pytest.mark.parametrize(
    ("policy", "scripts", "code"),
    [
        ("first-failure", {"a": "exit 0", "b": "sleep 0.2; exit 0"}, 0),
        ("first-failure", {"a": LONG, "b": "exit 3", "c": LONG}, 3),
        ("first-failure", {"a": "exit 0", "b": "sleep 0.2; kill -9 $$"}, 137),
        ("last-exit", {"a": FIRST.format(3), "b": LAST.format(0)}, 0),
        ("last-exit", {"a": LAST.format(5), "b": FIRST.format(0)}, 5),
        ("main-app", {"a": "sleep 0.3; exit 4", "b": "exit 3"}, 4),
        ("main-app", {"a": "exit 0", "b": LONG}, 0),
    ],
)
@pytest.mark.parametrize("pid", ["app", "pod"])
def test_exit_policies(shared: Pyrun, several: Callable[..., Words], policy: str, scripts: dict[str, str], code: int, pid: str) -> None:
    shared("run", "--exit-policy", policy, "--pid", pid, *several(scripts), code=code)


def test_the_others_are_asked_before_they_are_killed(shared: Pyrun, several: Callable[..., Words]) -> None:
    wait = "trap 'echo bye; exit 0' TERM; echo >/dev/shm/x; while :; do sleep 0.05; done"
    fail = "until [ -e /dev/shm/x ]; do sleep 0.01; done; exit 9"
    assert shared("run", *several({"a": wait, "b": fail}), code=9).out == "bye\n"


def test_signals_reach_every_app_once(shared: Pyrun, several: Callable[..., Words]) -> None:
    """Also those of a terminal, which come to the whole process group at once."""
    script = "n=0; trap 'n=$((n+1)); echo $AC_APP_NAME $n' USR1; trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with shared.start("run", *several({"a": script, "b": script}), start_new_session=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == ["ready\n"] * 2
        os.killpg(process.pid, signal.SIGUSR1)
        assert sorted([process.stdout.readline(), process.stdout.readline()]) == ["a 1\n", "b 1\n"]
        os.killpg(process.pid, signal.SIGTERM)
        assert process.communicate(timeout=LIMIT) == ("", "")
    assert process.returncode == 0


def test_the_service_manager_hears_when_all_run(shared: Pyrun, several: Callable[..., Words], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "manager"))
        manager.settimeout(LIMIT)
        with shared.start("run", *several({"a": LONG, "b": LONG}), env={"NOTIFY_SOCKET": str(tmp_path / "manager")}) as process:
            assert manager.recv(100) == b"READY=1"
            process.terminate()
            process.communicate(timeout=LIMIT)
    assert process.returncode == 143


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_one_that_cannot_start_is_explained_and_ends_all(
    shared: Pyrun, several: Callable[..., Words], busybox: Path, detach: Words
) -> None:
    words = several({"a": "trap '' TERM; while :; do sleep 1; done"})
    failed = shared("run", *detach, *words, "---", busybox, "--name", "b", "--exec", "/missing", code=127)
    assert failed.err.startswith("pyrun: app b: execute /missing: no such file or directory\nhint: ") and "from: --exec" in failed.err
    assert [name for name in ("prepared", "exited", "garbage") if os.listdir(shared.root / "pods" / name)] == []


def test_one_app_has_the_caller_s_input(shared: Pyrun, several: Callable[..., Words]) -> None:
    """The others read /dev/null."""
    scripts = {"a": "read x; echo a $?", "b": "read x; echo b $x"}
    found = shared("run", *several(scripts, {"b": ("--interactive",)}), input="word\n", code=0)
    assert sorted(found.out.splitlines()) == ["a 1", "b word"]
    uuid = shared("prepare", "--rm", *several(scripts, {"b": ("--interactive",)}), code=0).out.strip()
    assert "it was prepared with standard input" in shared("run-prepared", "--detach", uuid, code=125).err
    assert sorted(shared("run-prepared", uuid, input="word\n", code=0).out.splitlines()) == ["a 1", "b word"]


def test_one_app_has_the_caller_s_terminal(shared: Pyrun, several: Callable[..., Words]) -> None:
    """Its size, its keys, and what it ends with; the other one has none."""
    script = "trap 'echo interrupted' INT; trap 'stty size' WINCH; stty size; while ! read word; do :; done; exit $word"
    none = "tty; sleep 1000"
    words = ["run", "--exit-policy", "main-app", *map(str, several({"b": script, "a": none}, {"b": ("-it",)}))]
    one = pexpect.spawn(str(COMMAND), words, env=shared.environment(), timeout=LIMIT, dimensions=(33, 99), encoding="utf-8")
    try:
        one.expect(["33 99.*not a tty", "not a tty.*33 99"])
        one.send("\x03")
        one.expect_exact("interrupted")
        one.setwinsize(20, 50)
        one.expect_exact("20 50")
        one.send("3\r")
        one.expect(pexpect.EOF)
    finally:
        one.close(force=True)
    assert one.exitstatus == 3


def test_bad_command_lines_are_refused_with_one_line(shared: Pyrun, several: Callable[..., Words], busybox: Path) -> None:
    two = several({"a": "true", "b": "true"})
    traced = several({"a": "true", "b": "true"}, {"b": ("--caps-retain", "CAP_SYS_PTRACE")})
    memory = ("--mount", "volume=m,target=/m")
    cases: list[tuple[Words, str]] = [
        ((*several({"a": "true"}), "---", *several({"a": "true"})), "name app a: two apps have that name"),
        (several({"a": "true", "B/..": "true"}), "name app B/..: not a name for an app of several"),
        (("--memory", "64M", *two), "limit the pod memory: the controller cannot be enabled"),
        (("--pod-limit", "memory=64M", *two), "limit the pod memory: the controller cannot be enabled"),
        (("--pod-limit", "memory", *two), "option --pod-limit memory: not NAME=VALUE"),
        (("--pod-limit", "speed=1", *two), "option --pod-limit speed=1: not NAME=VALUE"),
        (("--pod-limit", "memory=16m", *two), "set limit 16m: would be thousandths"),
        (("--pod-limit", "memory=1Gi", "--pod-limit", "memory=2Gi", *two), "option --pod-limit memory: is set twice"),
        (("--pod-limit", "memory=1Gi", busybox), "option --pod-limit: is for a pod of several apps"),
        (("-i", *several({"a": "true", "b": "true"}, {"b": ("-t",)})), "option --tty: a and b cannot both have the caller's input"),
        (("--detach", "-i", *two), "options --detach and --interactive: exclude each other"),
        (several({"a": "true", "b": "true"}, {"a": ("--notify", "app"), "b": ("--notify", "none")}), "option --notify: app and none"),
        (("--socket", "web", busybox), "option --socket: is for a pod of several apps"),
        (("--exit-policy", "any", *two), "option --exit-policy: 'any' is not one of first-failure, last-exit, main-app"),
        (("--volume", "x,kind=empty", *two), "use volume x: no app mounts it"),
        (
            ("--volume", "m,kind=tmpfs", *several({"a": "true", "b": "true"}, {"a": memory, "b": memory})),
            "share volume m: it is kept in memory",
        ),
        (("--pid", "pod", *traced), "share process numbers with app b: it may trace"),
        ((busybox, busybox), "run: unexpected argument"),
        ((busybox, "---", "missing.example.com/x:1", "--pull-policy", "never"), "find image missing.example.com/x:1"),
        (tuple(word for _ in range(65) for word in (busybox, "---")), "make a pod: 65 apps are too many"),
        ((busybox, "---", busybox, "--no-such"), "unknown option --no-such of `pyrun run`"),
    ]
    for words, error in cases:
        refused = shared("run", *words)
        assert refused.code in (2, 125) and refused.out == "", repr(refused)
        assert refused.err.startswith(f"pyrun: {error}") and "\nhint: " in refused.err and "Traceback" not in refused.err, repr(refused)
    assert [name for name in ("preparing", "prepared", "running") if os.listdir(shared.root / "pods" / name)] == []


def test_separators_without_an_image_say_nothing(shared: Pyrun, busybox: Path) -> None:
    assert shared("run", "---", busybox, *SHELL, "echo $AC_APP_NAME $X", "---", "--set-env", "X=1", "---", code=0).out == "busybox 1\n"
