"""`pyrun-oci exec` by the launcher alone (native/oci_exec.c) and by Python: the same process either way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Alone, Runtime
from consoles import Socket, read_until

PYTHONS = "--ignore-paused"  # which the launcher does not know
# everything that the kernel tells of a process, but for what is its own or counts something
SEEN = r"""
grep -vE '^(TracerPid|Pid|Tgid|PPid|NStgid|NSpid|NSpgid|NSsid|Vm|Rss|HugetlbPages|FDSize|SigQ|voluntary|nonvoluntary)' /proc/self/status
cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj /proc/self/personality /proc/self/sessionid
for one in cgroup ipc mnt net pid time user uts; do busybox readlink /proc/self/ns/$one; done
busybox stat -c '%u %g' /proc/self/fd/0; id; pwd; umask; env | busybox sort; ls /proc/self/fd; tr '\0' '\n' < /proc/$$/cmdline
"""


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    made.config["process"]["env"].append("A=as configured")
    yield made
    made("delete", "--force", "one")


def execute(oci: Runtime, *words: str | Path, python: bool = False, **more: Any) -> subprocess.CompletedProcess[str]:
    """exec with these words behind the verb; that no interpreter is started, or that one is, is part of it."""
    log = oci.folder / "execs"
    command = ["strace", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", log, OCI, "--root", oci.root, "exec", *words]
    more = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60, "cwd": oci.bundle, **more}
    done: subprocess.CompletedProcess[str] = subprocess.run([str(word) for word in command], **more)
    assert any("python3" in line and "= 0" in line for line in log.read_text().splitlines()) == python, f"{words}: {done}"
    return done


def both(oci: Runtime, *words: str | Path, **more: Any) -> str:
    """What the same exec prints by either way; they may differ in nothing."""
    short = execute(oci, *words, **more)
    long = execute(oci, PYTHONS, *words, python=True, **more)
    assert (short.stdout, short.stderr, short.returncode) == (long.stdout, long.stderr, long.returncode)
    assert short.returncode == 0, short.stderr
    return short.stdout


RULES = [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17}]
WORLDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filter": {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": RULES}}},
    "open filter": {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": RULES}}, "process": {"noNewPrivileges": False}},
    "users": {
        "linux": {
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 201000, "size": 9}],
            "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "user", "time")],
        },
    },
    "few namespaces": {"linux": {"namespaces": [{"type": "mount"}, {"type": "uts"}]}, "hostname": "few"},
    "nulls": {"process": {"rlimits": None, "capabilities": None, "oomScoreAdj": None}, "linux": {"seccomp": None, "uidMappings": None}},
    "odd": {
        "linux": {"personality": {"domain": "LINUX32"}, "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}},
        "process": {
            "user": {"uid": 1000, "gid": 1001, "umask": 0o027, "additionalGids": [5, 70000]},
            "oomScoreAdj": 321,
            "cwd": "/tmp",
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}],
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL", "CAP_UNHEARD_OF"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN", "CAP_NET_RAW"],
                "inheritable": ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_TIME"],
                "ambient": ["CAP_CHOWN", "CAP_NET_RAW"],
            },
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("world", WORLDS)
def test_both_ways_confine_alike(oci: Runtime, world: str) -> None:
    change = WORLDS[world]
    oci.config["linux"].update(change.get("linux", {}))
    oci.config["process"].update(change.get("process", {}))
    oci.config["hostname"] = change.get("hostname", "pyrun")
    for path in (oci.folder, *oci.folder.parents):
        path.chmod(path.stat().st_mode | 0o111)
    oci.start_sleeping()
    for options in (
        [],
        ["--user", "1000:7", "--cwd", "/etc", "--env", "A=changed", "-e", "B=new=", "--no-new-privs"],
        ["-u=1000", "--env=PATH=/bin:"],
    ):
        seen = both(oci, *options, "one", "sh", "-c", SEEN)
        assert "A=" in seen and "SigIgn:\t0000000000000000" in seen
    assert ("Seccomp:\t2" in seen) == ("filter" in world)
    assert both(oci, "one", "/bin/busybox", "id", "-u").strip() == str(oci.config["process"]["user"]["uid"])


PROCESS: dict[str, Any] = {
    "terminal": False,
    "consoleSize": {"height": 1, "width": 2},
    "user": {"uid": 5, "gid": 6, "umask": 0o77, "additionalGids": [8, 9]},
    "args": ["sh", "-c", SEEN, "quote \" and \\ and \t \b\f\n/", "\u00e4\u20ac", "", "<&>"],
    "env": ["PATH=/bin", "EMPTY=", "\u00fc=\u00fc"],
    "cwd": "/etc",
    "capabilities": {"bounding": ["CAP_KILL", "CAP_CHECKPOINT_RESTORE"], "ambient": [], "permitted": None},
    "rlimits": [{"type": "RLIMIT_NPROC", "soft": 100, "hard": 200}, {"type": "RLIMIT_RTTIME", "soft": 2**64 - 1, "hard": 2**64 - 1}],
    "noNewPrivileges": True,
    "oomScoreAdj": -7,
    "apparmorProfile": "",
    "selinuxLabel": None,
}  # fmt: skip


def test_a_process_file_says_who_it_is(oci: Runtime) -> None:
    oci.start_sleeping()
    path = oci.folder / "process.json"
    path.write_text(json.dumps(PROCESS, indent=1))
    seen = both(oci, "--process", path, "one")
    assert "CapBnd:\t0000010000000020" in seen and seen.endswith('quote " and \\ and \t \b\f\n/\n\u00e4\u20ac\n\n<&>\n')
    path.write_text('{"args":["id","-u"],"cwd":"/"}')
    assert both(oci, "-p", path, "one") == "0\n"
    # what takes a second look is Python's, whose answer it is
    for text, code, words in (
        (json.dumps({**PROCESS, "args": ["true"], "scheduler": {"policy": "SCHED_BATCH"}}), 0, ""),
        (json.dumps({**PROCESS, "args": ["true"], "more": 1}), 0, ""),
        ('{"args":["true"],"cwd":"/"} x', 255, "not valid JSON"),
        ('{"args":["true"],"cwd":"/","args":["false"]}', 255, "occurs twice"),
        ('{"args":["true"],"cwd":"/","user":{"uid":01,"gid":0}}', 255, "not valid JSON"),
        ('{"args":["true"],"cwd":"/","user":{"uid":4294967296,"gid":0}}', 255, "user.uid"),
        ('{"args":[],"cwd":"/"}', 255, "at least 1 item"),
        ('{"args":["true"]}', 255, "cwd"),
    ):
        path.write_text(text)
        done = execute(oci, "--process", path, "one", python=True)
        assert done.returncode == code and words in done.stderr, f"{text}: {done}"


def test_errors_are_pythons(oci: Runtime) -> None:
    oci.start_sleeping()
    assert "executable file not found in $PATH" in execute(oci, "one", "none", python=True).stderr
    assert (
        "chdir to /none: no such file or directory (from process.cwd)" in execute(oci, "--cwd", "/none", "one", "true", python=True).stderr
    )
    assert execute(oci, "one", "/etc", python=True).returncode == 255
    oci("kill", "one", "KILL")
    deadline = time.monotonic() + 30
    while oci.state("one")["status"] != "stopped":
        assert time.monotonic() < deadline
    assert "container not running" in execute(oci, "one", "true", python=True).stderr
    oci("delete", "one")
    assert "does not exist" in execute(oci, "one", "true", python=True).stderr


@pytest.mark.parametrize("word", ["9" * 5000, "\u0663", "4294967296", "-1", ""])
def test_odd_numbers_are_refused_in_one_line(oci: Runtime, word: str) -> None:
    oci.start_sleeping()
    for words in (
        ["exec", f"--user={word}:0", "one", "true"],
        ["exec", f"--user=0:{word or '-'}", "one", "true"],
        ["exec", f"--additional-gids={word}", "one", "true"],
        ["exec", f"--preserve-fds={word}", "one", "true"],
        ["kill", "one", word or "RTMIN+"],
        ["kill", "one", "RTMAX-" + word],
    ):
        done = oci(*words, code=2)
        assert done.stderr.startswith("pyrun-oci: ") and "internal error" not in done.stderr, done.stderr[:300]
        assert len([line for line in done.stderr.splitlines() if not line.startswith("hint: ")]) == 1
    assert oci("exec", "one", "id", "-u", env={**os.environ, "LISTEN_FDS": word}).stdout == "0\n"


def test_the_pid_of_another_is_not_entered(oci: Runtime) -> None:
    """A container whose process is gone, and whose pid somebody else has: told apart by the start time."""
    oci.start_sleeping()
    state = oci.root / "one"
    time.sleep(0.05)  # a time that counts in ticks of 10 ms (proc(5), starttime) is another one then
    with subprocess.Popen(["sleep", "1000"]) as other:
        for name in ("fast", "state"):
            data = (state / name).read_bytes().replace(str(oci.state("one")["pid"]).encode(), str(other.pid).encode())
            (state / f"{name}.changed").write_bytes(data)
        for name in ("fast", "state"):
            (state / name).rename(state / f"{name}.kept")
            (state / f"{name}.changed").rename(state / name)
        assert "container not running" in execute(oci, "one", "true", python=True).stderr
        other.kill()
    for name in ("fast", "state"):
        (state / f"{name}.kept").rename(state / name)


def test_it_ends_as_its_process_does(oci: Runtime) -> None:
    oci.start_sleeping()
    assert execute(oci, "one", "sh", "-c", "exit 7").returncode == 7
    assert execute(oci, "one", "sh", "-c", "kill -9 $$").returncode == 137
    script = "trap 'echo told; exit 5' USR1; echo ready; while :; do busybox usleep 20000; done"
    for options in ([], [PYTHONS]):
        words = [OCI, "--root", oci.root, "exec", *options, "one", "sh", "-c", script]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout is not None and client.stdout.readline() == "ready\n"
            client.send_signal(signal.SIGUSR1)
            assert client.stdout.read() == "told\n"
        assert client.returncode == 5


def test_detached_with_a_pid_file(oci: Runtime) -> None:
    oci.start_sleeping()
    (oci.folder / "process.json").write_text(json.dumps({**PROCESS, "args": ["sleep", "1000"]}))
    command = ["--process", oci.folder / "process.json", "--detach", "--pid-file", "pid", "one"]
    assert execute(oci, *command, capture_output=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    pid = (oci.bundle / "pid").read_text()
    assert "sleep\0001000" in Path(f"/proc/{pid}/cmdline").read_text() and "Uid:\t5\t5" in Path(f"/proc/{pid}/status").read_text()
    assert (oci.bundle / "pid").stat().st_mode & 0o777 == 0o644
    assert not [name for name in os.listdir(oci.bundle) if name.startswith(".")]
    # nothing runs where it cannot be told which process that is
    before = json.loads(oci("ps", "--format=json", "one").stdout)
    (oci.bundle / "folder").mkdir()
    for where in ("folder", "none/pid"):
        assert "pid file" in execute(oci, "--detach", "--pid-file", where, "one", "sleep", "1000", python=True).stderr
    assert json.loads(oci("ps", "--format=json", "one").stdout) == before


def test_the_console_socket_gets_the_terminal(oci: Runtime) -> None:
    oci.start_sleeping()
    path = oci.folder / "process.json"
    size = {"height": 33, "width": 111}
    script = "tty; busybox stty size; busybox stat -c %u $(tty); read -r x"
    path.write_text(json.dumps({**PROCESS, "terminal": True, "consoleSize": size, "args": ["sh", "-c", script]}))
    listener = Socket(oci.folder / "socket")
    execute(oci, "--process", path, "--tty", "--detach", "--console-socket", oci.folder / "socket", "one")
    master, name = listener.master()
    assert name.startswith("/dev/pts/")
    assert b"/dev/pts/0\r\n33 111\r\n5\r\n" in read_until(master, b"\n5\r\n")
    os.close(master)
    # nobody gets the terminal of a program that is not there
    done = execute(oci, "--tty", "--detach", "--console-socket", oci.folder / "socket", "one", "none", python=True)
    assert "executable file not found" in done.stderr
    listener.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.listener.accept()
    listener.close()
    # and nothing runs on a terminal that nobody takes
    before = json.loads(oci("ps", "--format=json", "one").stdout)
    words = ["-t", "-d", "--console-socket", oci.folder / "socket", "one", "sleep", "1000"]
    assert "console socket" in execute(oci, *words, python=True).stderr
    assert json.loads(oci("ps", "--format=json", "one").stdout) == before


def test_descriptors_are_those_that_were_asked_for(oci: Runtime) -> None:
    """Leaked ones go, kept ones come, also when Python begins again."""
    oci.start_sleeping()
    ours, theirs = socket.socketpair()
    line = 'exec 3<&{0} 4<&{0} 9<&{0} 60<&{0} 130<&{0} {0}<&-; exec "$@"'.format(theirs.fileno())
    for options in ([], [PYTHONS]):
        command = [OCI, "--root", oci.root, "exec", "--preserve-fds", "2", *options, "one", "sh", "-c", "ls /proc/self/fd; echo kept >&4"]
        done = subprocess.run(
            ["bash", "-c", line, "x", *map(str, command)], pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=30
        )
        assert done.stdout.split() == ["0", "1", "2", "3", "4", "5"], f"5 is ls's own: {done}"
        assert ours.recv(16) == b"kept\n"
    for options, python in (([], True), (["--preserve-fds", "65"], True)):
        told = execute(oci, *options, "one", "none", python=python)
        assert told.returncode == 255
    ours.close(), theirs.close()


def test_a_created_container_can_be_entered(oci: Runtime) -> None:
    oci.command("/bin/true")
    oci("create", "one")
    assert both(oci, "one", "id", "-u") == "0\n"


def test_a_container_like_an_earlier_one(oci: Runtime) -> None:
    """It was made by the launcher, which leaves what exec needs as Python does."""
    for _ in range(2):
        oci.start_sleeping()
        assert "HOME=/root\n" in both(oci, "one", "sh", "-c", SEEN)
        oci("delete", "--force", "one")


def test_a_capability_is_added_but_to_no_programs_file(oci: Runtime) -> None:
    """What is inheritable a program with capabilities of its own could take up (capabilities(7))."""
    oci.config["process"]["capabilities"] = {"inheritable": ["CAP_SYS_TIME"], "bounding": ["CAP_SYS_TIME"], "permitted": ["CAP_SYS_TIME"]}
    oci.start_sleeping()
    words = ("sh", "-c", "grep ^Cap /proc/self/status")
    seen = dict(line.split(":\t") for line in oci("exec", "--cap", "CAP_KILL", "--cap=CAP_SYS_TIME", "one", *words).stdout.splitlines())
    assert seen["CapBnd"] == seen["CapPrm"] == seen["CapEff"] == "0000000002000020"
    assert seen["CapInh"] == seen["CapAmb"] == "0000000002000000"
    done = oci("exec", "--cap", "CAP_UNHEARD_OF", "one", "true", code=2)
    assert "CAP_UNHEARD_OF" in done.stderr and "--cap" in done.stderr


def test_a_cgroup_is_one_of_the_containers_own(oci: Runtime) -> None:
    oci.config["mounts"][6]["options"].remove("ro")
    oci.start_sleeping()
    outside = Path("/sys/fs/cgroup/outside")
    outside.mkdir()
    oci("exec", "one", "mkdir", "/sys/fs/cgroup/below")
    try:
        assert oci("exec", "--cgroup", "below", "one", "cat", "/proc/self/cgroup").stdout.endswith("0::/below\n")
        for group in ("../outside", "below/../../outside", "..", "/../outside"):
            done = oci("exec", f"--cgroup={group}", "one", "true", code=2)
            assert group in done.stderr and "--cgroup" in done.stderr
    finally:
        outside.rmdir()


def test_cgroups_of_its_own_go_with_the_container(oci: Runtime, tmp_path: Path) -> None:
    """Deepest first, by the launcher; what a container leaves empty nobody has to wait for."""
    oci.config["mounts"][6]["options"].remove("ro")
    oci.command("/bin/sh", "-c", "mkdir -p /sys/fs/cgroup/a/b/c /sys/fs/cgroup/d; touch /tmp/ready; exec sleep 1000")
    oci("run", "--detach", "one")
    deadline = time.monotonic() + 60
    while not (oci.bundle / "rootfs/tmp/ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    group = Path("/sys/fs/cgroup/one")
    assert (group / "a/b/c").is_dir() and execute(oci, "one", "true").returncode == 0
    Alone(tmp_path / "alone", oci)("delete", "--force", "one")
    assert not group.exists() and not oci.leftovers()


def test_streams_of_a_user(oci: Runtime) -> None:
    """Who is not root can open /dev/stdout, a pipe of root's; of a user namespace it is the mapped user."""
    change = WORLDS["users"]["linux"]
    for linux, owner in (({}, (1000, 1001)), (change, (201000, 101001))):
        oci.config["linux"].update(linux)
        for path in (oci.folder, *oci.folder.parents):
            path.chmod(path.stat().st_mode | 0o111)
        oci.start_sleeping()
        out, into = os.pipe()
        os.fchmod(into, 0o600)
        execute(oci, "--user", "1000:1001", "one", "sh", "-c", "echo reopened > /dev/stdout", capture_output=False, stdout=into)
        assert os.read(out, 64) == b"reopened\n" and (os.fstat(into).st_uid, os.fstat(into).st_gid) == owner
        os.close(out), os.close(into)
        oci("delete", "--force", "one")


ACCOUNTS = {
    "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n": "/home/app",
    "a:x:10:1:::\nb:x:1000:1::relative:\nc:x:1000:1::/c": "/c",
    "app:x:1000:1000:no shell:/six": "/six",
    "app:x:1000\n:::::\n\n": "/",
    "": "/",
}


@pytest.mark.parametrize("text", ACCOUNTS)
def test_home_is_what_the_accounts_of_the_container_say(oci: Runtime, text: str) -> None:
    """passwd(5); of two variables of a name the last counts, and an empty HOME is none."""
    oci.config["process"]["env"] = ["A=1", "PATH=/bin", "A=2"]
    oci.start_sleeping()
    (oci.bundle / "rootfs/etc/passwd").write_text(text)
    added = ("--env", "B=1", "--env", "HOME=", "--env", "B=2")
    for options in ((), added, ("--env", "HOME=/own")):
        home = "/own" if "HOME=/own" in options else ACCOUNTS[text]
        wanted = [*(["B=2"] if options == added else []), "A=2", f"HOME={home}", "PATH=/bin"]
        assert sorted(both(oci, "--user", "1000:1000", *options, "one", "env").splitlines()) == sorted(wanted)


def test_accounts_that_are_not_plain_are_read_by_python(oci: Runtime) -> None:
    oci.start_sleeping()
    path = oci.bundle / "rootfs/etc/passwd"
    for text in (b"app\0:x:1000:1000::/home/app:\n", b"#" * 70000 + b"\napp:x:1000:1000::/home/app:\n"):
        path.write_bytes(text)
        assert execute(oci, "--user", "1000", "one", "sh", "-c", "echo $HOME", python=True).stdout == "/home/app\n"
    path.unlink()
    path.symlink_to("/proc/self/environ")
    assert both(oci, "one", "sh", "-c", "echo $HOME") == "/\n"
