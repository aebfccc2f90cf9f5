"""`linux.seccomp` of config.json (runtime-spec config-linux.md, "Seccomp"): filters, and who is asked."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


LISTEN = """
import array, ctypes, fcntl, os, socket, struct, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(sys.argv[1])
server.listen(1)
print("ready", flush=True)
client = server.accept()[0]
fds = array.array("i")
data, ancillary, *_ = client.recvmsg(65536, socket.CMSG_LEN(8))
fds.frombytes(ancillary[0][2][:4])
print(data.decode(), client.recv(1), len(ancillary[0][2]) // 4, flush=True)
while True:  # struct seccomp_notif, struct seccomp_notif_resp of seccomp_unotify(2)
    notice = bytearray(80)
    try:
        fcntl.ioctl(fds[0], 0xC0502100, notice)
    except OSError:
        break
    number, pid, _, call = struct.unpack_from("=QIIi", notice)
    continued = call == 59
    fcntl.ioctl(fds[0], 0xC0182101, struct.pack("=QqiI", number, 0, 0 if continued else -99, 1 if continued else 0))
    print("call", call, flush=True)
"""


@pytest.mark.parametrize("locked", [True, False])
def test_a_listener_is_asked(oci: Runtime, tmp_path: Path, locked: bool) -> None:
    """config-linux.md, "Container process state": exactly one message a connection, with the descriptor; even execve may wait for it."""
    calls = {"names": ["mkdir", "execve"], "action": "SCMP_ACT_NOTIFY"}
    flags = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    where = str(tmp_path / "agent")
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [calls], "listenerPath": where, "listenerMetadata": 'a "b"', "flags": flags}
    oci.config["linux"]["seccomp"] = seccomp
    oci.config["process"]["noNewPrivileges"] = locked
    with subprocess.Popen([sys.executable, "-c", LISTEN, where], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
        said = oci.shell("mkdir /tmp/x 2>&1; echo end; ls /tmp")
        told, _, rest = agent.stdout.readline().rpartition("}")
        assert rest.strip() == "b'' 1", "closed after one message, one descriptor"
        state = json.loads(told + "}")
        assert (state["fds"], state["metadata"]) == (["seccompFd"], 'a "b"')
        assert state["state"]["id"] == "one" and state["state"]["pid"] == state["pid"] > 1
        agent.wait(timeout=60)
        asked = agent.stdout.read().split("\n")
    assert "Cannot assign requested address" in said and said.endswith("end\n"), "the answer was EADDRNOTAVAIL"
    assert "call 83" in asked and "call 59" in asked


QUIET = {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}


@pytest.mark.parametrize(("name", "version"), [("pyrun-oci", "1.3.0"), ("crun", "0.2.0")])
def test_who_listens_is_told_of_a_filter_that_asks_nobody(oci: Runtime, tmp_path: Path, name: str, version: str) -> None:
    """As with crun, by whose name the message has its version too."""
    oci.program = oci.folder / name
    oci.program.symlink_to(OCI)
    where = str(tmp_path / "agent")
    oci.config["linux"]["seccomp"] = {**QUIET, "listenerPath": where}
    with subprocess.Popen([sys.executable, "-c", LISTEN, where], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
        assert oci.shell("mkdir /tmp/x && echo made") == "made\n"
        told, _, rest = agent.stdout.readline().rpartition("}")
        agent.kill()
    state = json.loads(told + "}")
    assert rest.strip() == "b'' 1" and (state["ociVersion"], state["fds"], state["metadata"]) == (version, ["seccompFd"], "m")
    assert state["state"]["status"] == "creating"


def test_nobody_need_listen_to_a_filter_that_asks_nobody(oci: Runtime, tmp_path: Path) -> None:
    where = tmp_path / "agent"
    oci.config["linux"]["seccomp"] = {**QUIET, "listenerPath": str(where)}
    assert oci.shell("grep Seccomp: /proc/self/status").split() == ["Seccomp:", "2"]
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(where))
    assert oci.shell("grep Seccomp: /proc/self/status", "two").split() == ["Seccomp:", "2"], "a socket that was left behind"
    oci.start_sleeping("three")
    assert oci("exec", "three", "grep", "Seccomp:", "/proc/self/status").stdout.split() == ["Seccomp:", "2"]
    oci("delete", "--force", "three")


def test_by_the_name_of_runc_nobody_is_told_of_a_filter_that_asks_nobody(oci: Runtime, tmp_path: Path) -> None:
    oci.program = oci.folder / "runc"
    oci.program.symlink_to(OCI)
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(tmp_path / "agent")}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "agent"))
        server.listen(1)
        server.settimeout(0.1)
        assert oci.shell("echo runs") == "runs\n"
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("locked", [True, False])
def test_a_listener_is_asked_by_who_enters(oci: Runtime, tmp_path: Path, locked: bool) -> None:
    """A descriptor of its own, with its own pid beside the container's."""
    where = tmp_path / "agent"
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "execve"], "action": "SCMP_ACT_NOTIFY"}]}
    oci.config["linux"]["seccomp"] = {**seccomp, "listenerPath": str(where)}
    oci.config["process"]["noNewPrivileges"] = locked
    agents = []
    try:
        for number in range(2):
            where.unlink(missing_ok=True)
            agents.append(subprocess.Popen([sys.executable, "-c", LISTEN, str(where)], stdout=subprocess.PIPE, text=True))
            assert agents[-1].stdout is not None and agents[-1].stdout.readline() == "ready\n"
            if number == 0:
                pid = oci.start_sleeping()
        script = "mkdir /tmp/x 2>&1; readlink /proc/self/fd/204; echo end; busybox sleep 1000"
        with subprocess.Popen([OCI, "--root", oci.root, "exec", "one", "sh", "-c", script], stdout=subprocess.PIPE, text=True) as client:
            assert agents[1].stdout is not None
            told, _, rest = agents[1].stdout.readline().rpartition("}")
            state = json.loads(told + "}")
            assert rest.strip() == "b'' 1" and state["fds"] == ["seccompFd"]
            assert (state["state"]["id"], state["state"]["pid"], state["state"]["status"]) == ("one", pid, "running")
            assert client.stdout is not None
            assert "Cannot assign requested address" in client.stdout.readline() and client.stdout.readline() == "end\n"
            status = Path(f"/proc/{state['pid']}/status").read_text()
            assert state["pid"] != pid and "Seccomp:\t2" in status and f"NoNewPrivs:\t{int(locked)}" in status
            assert Path(f"/proc/{state['pid']}/ns/pid").readlink() == Path(f"/proc/{pid}/ns/pid").readlink()
            assert "CapEff:\t00000000000004fb" in status and "CapBnd:\t00000000000004fb" in status
            oci("delete", "--force", "one")
        assert client.returncode == 137
    finally:
        oci("delete", "--force", "one")
        for agent in agents:
            agent.kill()
            agent.communicate()


def test_nobody_enters_without_a_listener_or_where_others_could_take_over(oci: Runtime, tmp_path: Path) -> None:
    where = tmp_path / "agent"
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}
    oci.config["linux"]["seccomp"] = {**seccomp, "listenerPath": str(where)}
    for tracer in (False, True):
        if tracer:
            oci.config["process"]["noNewPrivileges"] = False
            oci.config["process"]["capabilities"]["bounding"].append("CAP_SYS_PTRACE")
        with subprocess.Popen([sys.executable, "-c", LISTEN, str(where)], stdout=subprocess.PIPE, text=True) as agent:
            assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
            oci.start_sleeping()
            where.unlink()
            done = oci("exec", "one", "sh", "-c", "touch /tmp/ran", code=255)
            words = "CAP_SYS_PTRACE" if tracer else "no such file or directory"
            assert words in done.stderr and "linux.seccomp.listenerPath" in done.stderr
            assert not (oci.bundle / "rootfs/tmp/ran").exists()
            oci("delete", "--force", "one")
            agent.communicate()


def test_a_filter_of_the_configuration_holds(oci: Runtime) -> None:
    oci.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]},
        ],
    }
    script = "mkdir /tmp/x 2>&1 | grep -o 'File exists'; kill -10 $$ 2>&1 | grep -o 'not permitted'; kill -0 $$ && echo fine"
    assert oci.shell(script).splitlines() == ["File exists", "not permitted", "fine"]


def test_a_refusing_filter_tells_of_newer_calls(oci: Runtime) -> None:
    """By ENOSYS, at which C libraries take an older one; what the profile's author can have known is refused by EPERM."""
    source = oci.folder / "calls.c"
    source.write_text(
        """#include <errno.h>
        #include <stdio.h>
        #include <unistd.h>
        int main(void) {
            long numbers[] = {272 /* unshare */, 308 /* setns */, 322 /* execveat */, 323 /* userfaultfd */, 1000, 0x40000000 + 600};
            for (int i = 0; i < 6; i++) {
                errno = 0;
                long r = syscall(numbers[i], -1, 0, 0, 0, 0);
                printf("%ld %d\\n", r, errno);
            }
            return 0;
        }"""
    )
    subprocess.run(["gcc", "-static", "-o", oci.bundle / "rootfs/calls", source], check=True)
    allowed = "execve exit_group exit read write close fstat newfstatat mmap munmap mprotect brk arch_prctl set_tid_address set_robust_list"
    allowed += " rseq prlimit64 readlink readlinkat getrandom ioctl rt_sigaction rt_sigprocmask execveat futex"
    seccomp: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": allowed.split(), "action": "SCMP_ACT_ALLOW"}]}
    seccomp["architectures"] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    oci.config["linux"]["seccomp"] = seccomp
    oci.command("/calls")
    found = [line.split()[1] for line in oci("run", "one").stdout.splitlines()]
    assert found[:2] == ["1", "1"], "EPERM for what is older than the profile"
    assert found[2] not in ("1", "38"), "what it allows"
    assert found[3:] == ["1", "38", "38"], "userfaultfd is older than rseq"
    seccomp["defaultErrnoRet"] = 1  # as in Docker's profile: the same as nothing
    oci.command("/calls")
    assert [line.split()[1] for line in oci("run", "one").stdout.splitlines()] == found
    seccomp["defaultErrnoRet"] = 6
    oci.command("/calls")
    found = [line.split()[1] for line in oci("run", "one").stdout.splitlines()]
    assert found[:2] + found[3:] == ["6"] * 5, "what is said counts for all"


def test_hooks_in_the_container_are_under_its_filter(oci: Runtime) -> None:
    calls = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [calls]}
    oci.config["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    for locked in (True, False):
        oci.config["process"]["noNewPrivileges"] = locked
        oci.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["busybox", "mkdir", "/made"]}]}
        oci.command("/bin/true")
        assert "killed by signal 31 (bad system call)" in oci("run", "one", code=1).stderr
        assert not (oci.bundle / "rootfs/made").exists()


@pytest.mark.parametrize(("call", "limit"), [("wait4", {}), ("ppoll", {"timeout": 1})])
def test_a_hook_that_the_filter_lets_nobody_wait_for_has_failed(oci: Runtime, call: str, limit: dict[str, int]) -> None:
    """It is not taken for one that went well, nor has it all the time of the world."""
    calls = {"names": [call], "action": "SCMP_ACT_ERRNO"}
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [calls]}
    oci.config["process"]["noNewPrivileges"] = True
    script = "exit 3" if call == "wait4" else "sleep 30"
    oci.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", script], **limit}]}
    oci.command("/bin/sh", "-c", "echo has run")
    oci.write()
    before = time.monotonic()
    done = oci("run", "one", code=1)
    assert "has run" not in done.stdout and "operation not permitted" in done.stderr and "hooks.startContainer[0]" in done.stderr
    assert time.monotonic() - before < 20 and not oci.leftovers()


def test_a_filter_that_refuses_even_to_exit_ends_the_process(oci: Runtime) -> None:
    """It can neither run the program, nor say so, nor leave: it would try for ever."""
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}
    oci.config["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    oci.command("/bin/true")
    assert oci("run", "one", code=None).returncode == 128 + 4
    assert not oci.leftovers()


def test_nobody_listens_to_write(oci: Runtime) -> None:
    calls = {"names": ["mkdir", "write"], "action": "SCMP_ACT_NOTIFY"}
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [calls], "listenerPath": "/none"}
    oci.command("/bin/true")
    assert "SCMP_ACT_NOTIFY cannot be used for the write syscall" in oci("create", "one", code=1).stderr
    calls["names"] = ["mkdir"]
    oci.command("/bin/true")
    assert "failed to connect with seccomp agent: no such file or directory" in oci("create", "one", code=1).stderr


@pytest.mark.parametrize(("flags", "number"), [(None, 4), ([], 0), (["SECCOMP_FILTER_FLAG_LOG"], 2), (["SECCOMP_FILTER_FLAG_TSYNC"], 0)])
def test_filters_without_flags_allow_speculation(oci: Runtime, flags: list[str] | None, number: int) -> None:
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"} | ({} if flags is None else {"flags": flags})
    oci.command("/bin/true")
    assert f'"seccomp filter flags: {number}"' in oci("--debug", "run", "one").stderr
