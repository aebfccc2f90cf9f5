"""What whoever comes from another runtime is used to, where the specification leaves it open."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, Runtime
from waiting import gone, wait_until

SHELL = ["busybox", "sh", "-c"]


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    for name in ("one", "two"):
        made("delete", "--force", name)


def test_a_relayed_terminal_ends_lines_as_the_program_does(oci: Runtime) -> None:
    oci.config["process"]["terminal"] = True
    oci.command("/bin/sh", "-c", "tty; echo second")
    assert oci("run", "one").stdout == "/dev/pts/0\nsecond\n"
    oci.config["process"]["terminal"] = False
    oci.start_sleeping()
    assert oci("exec", "--tty", "one", "/bin/sh", "-c", "tty; echo second").stdout == "/dev/pts/0\nsecond\n"


def test_of_two_variables_of_a_name_the_last_counts(oci: Runtime) -> None:
    oci.config["process"]["env"] = ["ONE=1", "PATH=/none", "HOME=/first", "ONE=2", "PATH=/bin", "HOME="]
    oci.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    oci.command("env")
    for _ in range(2):  # the second one could be made by what the first one left
        assert sorted(oci("run", "one").stdout.splitlines()) == ["HOME=/home/app", "ONE=2", "PATH=/bin"]
    oci.config["process"]["env"] = ["PATH=/bin", "HOME=/own"]
    oci.command("env")
    assert sorted(oci("run", "one").stdout.splitlines()) == ["HOME=/own", "PATH=/bin"]


def test_a_failed_hook_is_named(oci: Runtime) -> None:
    for kind in ("createRuntime", "createContainer", "startContainer", "poststart"):
        oci.config["hooks"] = {kind: [{"path": "/bin/busybox", "args": ["busybox", word]} for word in ("true", "false")]}
        oci.command("/bin/sleep", "1000")
        assert f"error running {kind} hook #1: /bin/busybox: {kind} hook failed with exit code 1" in oci("run", "one", code=1).stderr
    assert not oci.leftovers()


def test_hooks_under_a_filter_that_leaves_little(oci: Runtime) -> None:
    """The state gets to them, and their failure to the caller, whatever the container may not do."""
    (oci.bundle / "rootfs/told").mkdir()
    for name in ("memfd_create", "clone3"):
        oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [name], "action": "SCMP_ACT_ERRNO"}]}
        oci.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["busybox", "tail", "-c", "1"]}]}
        oci.config["hooks"]["startContainer"].append({"path": "/bin/busybox", "args": [*SHELL, "read x; case $x in {*) exit 3; esac"]})
        oci.command("/bin/true")
        assert "startContainer hook #1: /bin/busybox: startContainer hook failed with exit code 3" in oci("run", "one", code=1).stderr, name
        oci("delete", "--force", "one")


def test_what_a_hook_says_before_it_fails_is_shown(oci: Runtime) -> None:
    oci.config["process"]["terminal"] = True
    oci.config["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": [*SHELL, "echo no licence; exit 3"]}]}
    oci.command("/bin/true")
    assert oci("run", "one", code=1).stdout == "no licence\n"


def test_a_hook_in_the_container_has_the_variables_of_its_process(oci: Runtime) -> None:
    oci.config["process"]["env"] = ["ONE=two"]
    told = [*SHELL, 'echo "$ONE|$HOME|$OWN"']
    oci.config["hooks"] = {
        "startContainer": [{"path": "/bin/busybox", "args": told}, {"path": "/bin/busybox", "args": told, "env": ["OWN=1"]}]
    }
    oci.command("/bin/true")
    assert oci("run", "one").stdout == "two|/root|\n||1\n"


def test_a_hook_finds_the_root_in_the_namespace_of_the_container(oci: Runtime) -> None:
    """As those do that add devices and libraries: they enter by the pid, and mount below the path of the root."""
    (oci.bundle / "added").write_text("added\n")
    root = oci.bundle / "rootfs"
    (root / "library").touch()
    script = f"pid=$(jq .pid) && nsenter --mount --target $pid mount --bind {oci.bundle}/added {root}/library"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    oci.config["hooks"] = {"createRuntime": [hook]}
    assert oci.shell("cat /library") == "added\n"
    assert (root / "library").read_text() == "" and str(root) not in Path("/proc/self/mountinfo").read_text()


def test_a_source_below_the_root_has_what_is_mounted_there(oci: Runtime) -> None:
    (oci.bundle / "data/below").mkdir(parents=True)
    (oci.bundle / "rootfs/mnt").mkdir()
    bind = ["rbind"]
    for source, target in ((oci.bundle / "data", "/mnt"), (oci.bundle / "rootfs/mnt/below", "/again")):
        oci.config["mounts"].append({"destination": target, "type": "bind", "source": str(source), "options": bind})
    assert oci.shell("touch /again/here; ls /mnt/below") == "here\n"


@pytest.mark.parametrize("first_is_gone", [False, True])
def test_kill_ends_all_that_share_a_pid_namespace(oci: Runtime, first_is_gone: bool) -> None:
    oci.config["linux"]["namespaces"] = [one for one in oci.config["linux"]["namespaces"] if one["type"] != "pid"]
    first = oci.start_sleeping()
    oci("exec", "--detach", "--pid-file", oci.folder / "pid", "one", "/bin/sleep", "1000")
    other = int((oci.folder / "pid").read_text())
    if first_is_gone:
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: oci.state("one")["status"] == "stopped")
        assert not gone(other)
    oci("kill", "one", "KILL")
    wait_until(lambda: gone(first) and gone(other))
    wait_until(lambda: not Path("/sys/fs/cgroup/one/cgroup.procs").read_text())
    assert "container not running" in oci("kill", "one", "KILL", code=1).stderr


def test_exec_stays_below_the_cgroup_of_its_container(oci: Runtime) -> None:
    oci.start_sleeping()
    Path("/sys/fs/cgroup/one/workers").mkdir()
    assert oci("exec", "--cgroup", "workers", "one", "cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/workers"
    assert oci("exec", "--cgroup", "/", "one", "cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/"
    for path in ("..", "workers/../..", "/../two"):
        assert "bad sub cgroup path" in oci("exec", "--cgroup", path, "one", "true", code=2).stderr
    assert "no such file or directory" in oci("exec", "--cgroup", "none", "one", "true", code=255).stderr


def test_events_come_as_often_as_is_asked_for(oci: Runtime) -> None:
    oci.start_sleeping()
    words = [str(OCI), "--root", str(oci.root), "events", "--interval", "50ms", "one"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None
        try:
            assert [json.loads(shown.stdout.readline())["type"] for _ in range(3)] == ["stats"] * 3
        finally:
            shown.kill()
    for wrong in ("0", "ten", "-1s", "5d", "nan", "."):
        assert "not a duration" in oci("events", "--interval", wrong, "one", code=2).stderr


def test_options_behind_the_id_are_those_of_ps(oci: Runtime) -> None:
    """ps(1) has an -f of its own."""
    pid = oci.start_sleeping()
    head, line = oci("ps", "one", "-e", "-x").stdout.splitlines()
    assert "STAT" in head and line.split()[0] == str(pid) and "sleep 1000" in line
    assert "PPID" in oci("ps", "one", "-f").stdout.splitlines()[0]
    for words in (("--format", "json", "one"), ("one", "--format", "json"), ("one", "--format=json"), ("-f", "json", "one")):
        assert json.loads(oci("ps", *words).stdout) == [pid]


def test_a_root_that_is_not_there_has_no_list(oci: Runtime) -> None:
    assert "no such directory" in oci("list", code=1).stderr
    oci.start_sleeping()
    assert "one" in oci("list").stdout


def test_a_path_is_masked_once(oci: Runtime) -> None:
    (oci.bundle / "rootfs/hidden").mkdir()
    oci.config["linux"]["maskedPaths"] = ["/hidden"] * 3
    oci.config["linux"]["readonlyPaths"] = ["/bin", "/bin"]
    lines = oci.shell("cat /proc/self/mountinfo").splitlines()
    assert sorted(line.split()[4] for line in lines if line.split()[4] in ("/hidden", "/bin")) == ["/bin", "/hidden"]


def test_a_directory_that_only_the_runtime_may_enter(oci: Runtime) -> None:
    (oci.bundle / "rootfs/closed").mkdir(mode=0o700)
    process = oci.config["process"]
    process.update(cwd="/closed", user={"uid": 1000, "gid": 1000})
    assert (
        oci.shell("pwd; ls . 2>/dev/null || echo closed; grep CapEff /proc/self/status") == "/closed\nclosed\nCapEff:\t0000000000000000\n"
    )
    process["cwd"] = "/"
    oci.start_sleeping()
    assert oci("exec", "--cwd", "/closed", "one", "busybox", "pwd").stdout == "/closed\n"


def test_a_program_that_takes_a_capability_to_execute(oci: Runtime) -> None:
    program = oci.bundle / "rootfs/mine"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o744)
    process = oci.config["process"]
    process["user"] = {"uid": 1000, "gid": 1000}
    process["capabilities"] = {}
    oci.command("/mine")
    assert "permission denied" in oci("run", "one", code=1).stderr
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    process["capabilities"] = {key: ["CAP_DAC_OVERRIDE"] for key in sets}
    oci.write()
    assert oci("run", "one").stdout == "ran\n"


@pytest.mark.parametrize("verb", ["create", "run", "exec"])
def test_a_descriptor_of_the_process_goes_to_who_asks_for_it(oci: Runtime, verb: str) -> None:
    words: list[str] = [verb, "one"]
    if verb == "exec":
        oci.start_sleeping()
        words = ["exec", "--detach", "--pid-file", str(oci.folder / "pid"), "one", "/bin/sleep", "1000"]
    elif verb == "run":
        words = ["run", "--detach", "one"]
    oci.command("/bin/sleep", "1000")
    place = str(oci.folder / "pidfd")
    words[1:1] = ["--pidfd-socket", place]
    assert "connect to pidfd socket" in oci(*words, code=255 if verb == "exec" else 1).stderr
    assert verb == "exec" or not oci.leftovers()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(1)
        oci(*words)
        client, _ = listener.accept()
        with client:
            _, fds, _, _ = socket.recv_fds(client, 100, 1)
    pid = int((oci.folder / "pid").read_text()) if verb == "exec" else int(oci.state("one")["pid"])
    assert f"Pid:\t{pid}\n" in Path(f"/proc/self/fdinfo/{fds[0]}").read_text()
    os.close(fds[0])


def test_a_process_described_by_a_descriptor(oci: Runtime) -> None:
    oci.start_sleeping()
    reader, writer = os.pipe()
    os.write(writer, json.dumps({**oci.config["process"], "args": ["ls", "/proc/self/fd"]}).encode())
    os.close(writer)
    seen = oci("exec", "--process", f"/dev/fd/{reader}", "one", pass_fds=[reader]).stdout.split()
    os.close(reader)
    assert seen == ["0", "1", "2", "3"], "the last is what ls reads"


def test_a_read_only_dev_has_its_devices(oci: Runtime) -> None:
    place = next(one for one in oci.config["mounts"] if one["destination"] == "/dev")
    place["options"].append("ro")
    assert oci.shell("echo > /dev/null; test -c /dev/ptmx; touch /dev/x 2>/dev/null || echo read-only; touch /dev/shm/x") == "read-only\n"


def test_a_tmpfs_has_the_mode_of_what_it_covers(oci: Runtime) -> None:
    (oci.bundle / "rootfs/closed").mkdir()
    (oci.bundle / "rootfs/closed").chmod(0o2710)
    for target, options in (("/closed", []), ("/given", ["mode=0500"]), ("/made", [])):
        oci.config["mounts"].append({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options})
    assert oci.shell("stat -c %a /closed /given /made") == "2710\n500\n1777\n"
    assert stat.S_IMODE((oci.bundle / "rootfs/made").stat().st_mode) == 0o755


def test_links_to_nothing_on_the_way_to_a_mount_point(oci: Runtime) -> None:
    root = oci.bundle / "rootfs"
    (root / "jump").symlink_to("/far/away")
    (root / "etc/link").symlink_to("../jump/inner/file")
    (root / "etc/loop").symlink_to("loop")
    oci.config["mounts"].append(
        {"destination": "/etc/link", "type": "bind", "source": str(oci.bundle / "config.json"), "options": ["bind"]}
    )
    assert oci.shell("test -s /far/away/inner/file; grep -c /far/away/inner/file /proc/self/mountinfo") == "1\n"
    oci.config["mounts"][-1]["destination"] = "/etc/loop"
    oci.command("/bin/true")
    assert "too many levels of symbolic links" in oci("run", "one", code=1).stderr


def test_a_root_without_a_pivot_does_not_show_the_proc_of_the_host(oci: Runtime) -> None:
    """mount_namespaces(7): who makes a user namespace may mount procfs only where one is to be seen that nothing covers."""
    oci.config["process"]["capabilities"] = {key: ["CAP_SETFCAP"] for key in ("bounding", "effective", "permitted")}  # to map root
    oci.command("busybox", "unshare", "-mrpf", "busybox", "sh", "-c", "mount -t proc none /proc")
    for options in ([], ["--no-pivot"]):
        assert "mount: permission denied" in oci("run", *options, "one", code=1).stderr


def test_no_mounts_of_others_are_taken_away(oci: Runtime) -> None:
    """Not where they are shared with the caller; without a pivot that is refused.  What is at risk here is a copy of ours."""
    script = "mount --make-rshared /; cp /proc/self/mountinfo $1; shift; $@; echo $?; cat /proc/self/mountinfo"

    def mounts(*words: str | Path) -> tuple[str, str]:
        before = oci.folder / "before"
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", before, OCI, "--root", oci.root, *words]
        done = subprocess.run([str(word) for word in command], cwd=oci.bundle, capture_output=True, text=True, timeout=60)
        code, _, after = done.stdout.partition("\n")
        assert after == before.read_text(), done.stderr
        return code, done.stderr

    oci.command("/bin/true")
    assert mounts("run", "--no-pivot", "one")[0] == "0"
    for value in ("shared", "rshared"):
        oci.config["linux"]["rootfsPropagation"] = value
        oci.command("/bin/true")
        code, error = mounts("run", "--no-pivot", "one")
        assert code == "1" and "--no-pivot" in error and "from linux.rootfsPropagation" in error
        assert mounts("run", "one")[0] == "0"
    del oci.config["linux"]["rootfsPropagation"]
    pid = oci.start_sleeping("two")
    before = Path(f"/proc/{pid}/mountinfo").read_text()
    space = next(one for one in oci.config["linux"]["namespaces"] if one["type"] == "mount")
    space["path"] = f"/proc/{pid}/ns/mnt"
    oci.command("/bin/true")
    code, error = mounts("run", "--no-pivot", "one")
    assert code == "1" and "--no-pivot" in error and Path(f"/proc/{pid}/mountinfo").read_text() == before
