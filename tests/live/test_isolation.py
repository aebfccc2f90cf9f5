"""What an app can see beyond itself: nothing, unless a flag says so (SEC-15, A13, A14, A17, A18, A19, ACE-14)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun

from pyrun.plan import caps

Shell = Callable[..., str]
DEFAULT = ",".join(caps.names(caps.DEFAULT))
NEW = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]


@pytest.fixture(scope="module")
def seen(shared: Pyrun) -> dict[str, Any]:
    return shared.report()


def own(name: str) -> str:
    return os.readlink(f"/proc/self/ns/{name}")


def test_every_namespace_is_new(seen: dict[str, Any]) -> None:
    assert [name for name in NEW if seen["namespaces"][name] == own(name)] == []


def test_two_pods_share_none(shared: Pyrun) -> None:
    first = shared.start("run", shared.probe_image, "--exec", "/probe", "--", "sleep", "5")
    try:
        assert first.stdout is not None and first.stdout.readline() == "ready\n"
        second = shared.report()
        init = children(first.pid)[0]
        assert [name for name in NEW if second["namespaces"][name] == os.readlink(f"/proc/{init}/ns/{name}")] == []
    finally:
        first.terminate()
        first.communicate()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_init_is_process_1_and_nobody_else_is_there(seen: dict[str, Any]) -> None:
    assert (seen["pid"], seen["ppid"], seen["sid"], seen["pgid"]) == (2, 1, 2, 2)
    assert sorted(name for name in seen["proc"] if name.isdigit()) == ["1", "2"]


def test_init_holds_next_to_nothing(seen: dict[str, Any]) -> None:
    init = dict(line.split(":", 1) for line in seen["init"])
    assert init["NoNewPrivs"].strip() == "1"
    assert init["Seccomp"].strip() == "2"
    assert int(init["CapEff"], 16) == int(init["CapPrm"], 16) == 1 << 5  # CAP_KILL, to pass signals on
    assert int(init["CapInh"], 16) == int(init["CapAmb"], 16) == 0


def test_host_name_is_the_pods(shared: Pyrun, seen: dict[str, Any]) -> None:
    assert seen["hostname"].startswith("pyrun-")
    assert shared.report("--hostname", "web-1.example.com")["hostname"] == "web-1.example.com"
    assert os.uname().nodename != seen["hostname"]


def test_ace_14_network_none_is_a_working_loopback_alone(shell: Shell, seen: dict[str, Any]) -> None:
    assert seen["interfaces"] == ["lo"]
    assert "127.0.0.1" in shell("ifconfig lo") and "UP" in shell("ifconfig lo")
    script = "nc -ll -p 8080 -e echo hello & while ! nc 127.0.0.1 8080 </dev/null 2>/dev/null; do :; done"
    assert shell(script) == "hello"


def test_network_host_is_the_hosts(shared: Pyrun) -> None:
    there = shared.report("--net", "host")
    assert there["namespaces"]["net"] == own("net")
    assert sorted(there["interfaces"]) == sorted(os.listdir("/sys/class/net"))
    assert [name for name in NEW if there["namespaces"][name] == own(name)] == ["net"]


def test_no_abstract_socket_is_pyruns(shell: Shell) -> None:
    """A19: whatever pyrun listens on would be reachable from every pod with the host's network."""
    before = Path("/proc/net/unix").read_text()
    inside = shell("cat /proc/net/unix", "--net", "host")
    new = [line for line in inside.splitlines() if "@" in line and line.split()[-1] not in before]
    assert new == []
    assert "@" not in shell("cat /proc/net/unix")


def test_abstract_sockets_of_the_host_are_out_of_reach(shell: Shell) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0pyrun-test-abstract")
        assert "pyrun-test-abstract" in Path("/proc/net/unix").read_text()
        assert "pyrun-test-abstract" not in shell("cat /proc/net/unix")


def test_shared_memory_of_the_host_is_not_there(shell: Shell) -> None:
    made = subprocess.run(["ipcmk", "-M", "4096"], capture_output=True, text=True, check=True).stdout.split()[-1]
    try:
        assert f"\n{'':>10} {made} " in Path("/proc/sysvipc/shm").read_text() or made in subprocess.getoutput("ipcs -m")
        assert len(shell("cat /proc/sysvipc/shm").splitlines()) == 1
    finally:
        subprocess.run(["ipcrm", "-m", made], check=True)


def test_message_queues_are_the_pods(shell: Shell) -> None:
    assert shell("ls /dev/mqueue") == ""


def test_cgroup_is_the_root_of_its_own_tree(seen: dict[str, Any]) -> None:
    assert seen["cgroup"][-1] == "0::/"


@pytest.mark.parametrize("insecure", ["none", "capabilities", "all-run"])
def test_cgroups_are_read_only(shell: Shell, insecure: str) -> None:
    """A13: nothing is made or moved in the tree, its own part included, in any mode."""
    script = "mkdir /sys/fs/cgroup/x; echo 1 >/sys/fs/cgroup/cgroup.procs; echo 1 >/sys/fs/cgroup/cgroup.kill"
    assert shell(f"({script}) 2>&1 | grep -c 'Read-only file system'", "--insecure-options", insecure) == "3"


def test_cgroup_v1_cannot_be_mounted(shared: Pyrun) -> None:
    """A14: no release_agent to plant."""
    assert shared.attempt("mount", "cgroup", "/tmp", "cgroup") == "EPERM"
    assert shared.attempt("unshare", "0x12000000") == "EPERM"


def test_mounts_inside_stay_inside_and_mounts_outside_stay_outside(shared: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """A17: nothing propagates, in either direction, not even below a volume."""
    shelf = tmp_path / "shelf"
    (shelf / "late").mkdir(parents=True)
    script = "mount -t tmpfs inside /tmp && mkdir /v/in && mount -t tmpfs inside /v/in; echo $?; read x; cat /proc/mounts"
    flags = ["-i", "--caps-retain", f"{DEFAULT},SYS_ADMIN", "-v", f"{shelf}:/v"]
    running = shared.start("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "0\n"
        assert "inside" not in Path("/proc/self/mountinfo").read_text()
        subprocess.run(["mount", "-t", "tmpfs", "outside", shelf / "late"], check=True)
        out, err = running.communicate("\n", timeout=60)
        assert running.returncode == 0, err
        assert "inside" in out
        assert "outside" not in out
    finally:
        running.kill()
        running.communicate()
        subprocess.run(["umount", shelf / "late"])


def test_every_mount_is_private(seen: dict[str, Any]) -> None:
    fields = [line.split(" - ")[0].split()[6:] for line in seen["mounts"]]
    assert [one for one in fields if one] == []  # neither shared: nor master:


def test_no_chroot_leads_out(shell: Shell, shared: Pyrun) -> None:
    """A18: the classic way out of a chroot, where the capability allows to try, and through process 1."""
    assert shared.attempt("chroot", "/tmp") == "EPERM"
    script = "mkdir /x; chroot /x true 2>/dev/null; cd ../../../../..; pwd; ls /bin/busybox; ls -di / /.. | cut -d' ' -f1 | uniq | wc -l"
    assert shell(script, "--caps-retain", f"{DEFAULT},SYS_CHROOT").split() == ["/", "/bin/busybox", "1"]
    assert shell("ls /proc/1/root/ 2>&1 || echo refused").endswith("refused")
    assert shell("ls /proc/1/root/probe", "--insecure-options", "all-run") == "/proc/1/root/probe"  # the pod's own root


def test_the_hosts_processes_cannot_be_signalled(shell: Shell) -> None:
    assert shell(f"kill -0 {os.getpid()} 2>&1 || echo none").endswith("none")


def test_the_hosts_name_cannot_be_changed(shared: Pyrun) -> None:
    before = os.uname().nodename
    assert shared.attempt("sethostname") == "EPERM"
    assert shared.attempt("sethostname", flags=("--caps-retain", f"{DEFAULT},SYS_ADMIN")) == ""
    assert os.uname().nodename == before


# A caller with a session keyring of its own and a key in it (keyctl(2), add_key(2)), which then becomes pyrun.
ADD_KEY, KEYCTL, SESSION, READ = "248", "250", "-3", "11"
CALLER = f"""
import ctypes, os, sys
call = ctypes.CDLL(None).syscall
call({KEYCTL}, 1, b"pyrun-test")
ring, key = call({KEYCTL}, 0, {SESSION}, 0), call({ADD_KEY}, b"user", b"pyrun-secret", b"x", 1, {SESSION})
print(ring, key, flush=True)
os.execv(sys.argv[1], [word.replace("KEY", str(key)) for word in sys.argv[1:]])
"""


def with_a_key(shared: Pyrun, *words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-c", CALLER, COMMAND, "run", "--insecure-options", "seccomp", shared.probe_image, *words]
    done = subprocess.run(command, env=shared.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers, report = done.stdout.split("\n", 1)
    ring, key = map(int, numbers.split())
    assert ring > 0 and key > 0
    return ring, json.loads(report)


def test_session_keyring_is_new(shared: Pyrun) -> None:
    """A22: the caller's keyring is not the app's and its keys cannot be read, even where the filter lets keyctl through."""
    ring, seen = with_a_key(shared)
    assert seen["keyring"] > 0 and seen["keyring"] != ring
    assert with_a_key(shared, "--exec", "/probe", "--", "try", "nr", KEYCTL, READ, "KEY", "0", "0")[1]["errno"] == "EACCES"
    assert shared.attempt("nr", KEYCTL, "0", SESSION, "0") == "EPERM"  # with the filter not even a question
