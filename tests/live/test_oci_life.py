"""`pyrun-oci`: the life of a container, from what the runtime specification says of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from bundles import OCI, Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and ") Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_program_runs_at_start_and_not_before(oci: Runtime, tmp_path: Path) -> None:
    (tmp_path / "bundle/rootfs/out").mkdir()
    oci.command("/bin/sh", "-c", "echo $$ > /out/ran; sleep 1000")
    oci("create", "--pid-file", tmp_path / "pid", "one")
    pid = (tmp_path / "pid").read_text()
    assert pid.isdigit(), "nothing but digits"
    state = oci.state("one")
    assert (state["status"], state["pid"], state["id"]) == ("created", int(pid), "one")
    assert state["bundle"] == str(oci.bundle) and state["ociVersion"] == oci.config["ociVersion"]
    ran = tmp_path / "bundle/rootfs/out/ran"
    assert not ran.exists()
    oci("start", "one")
    assert oci.state("one")["status"] == "running"
    deadline = time.monotonic() + 60
    while not ran.exists() or not ran.read_text():
        assert time.monotonic() < deadline
    assert ran.read_text() == "1\n", "the program itself is process 1"
    oci("kill", "one", "KILL")
    wait_until_gone(int(pid))
    state = oci.state("one")
    assert (state["status"], state["pid"]) == ("stopped", 0)
    oci("delete", "one")
    assert not oci.leftovers()


def test_nothing_of_ours_stays_beside_a_container(oci: Runtime) -> None:
    pid = oci.start_sleeping()
    mine = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"pyrun" in path.read_bytes() and path.parent.name != str(os.getpid()) and b"pytest" not in path.read_bytes()
    ]
    assert mine == []
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"/bin/sleep\0001000\0"
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    oci("delete", "--force", "one")


def test_who_reaps_sees_the_exit_code(oci: Runtime) -> None:
    """As conmon does: a subreaper starts create, and the container's process becomes its child."""
    oci.command("/bin/sh", "-c", "exit 7")
    script = f"""
import ctypes, os, subprocess
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
run = ["{OCI}", "--root", "{oci.root}"]
subprocess.run([*run, "create", "--bundle", "{oci.bundle}", "--pid-file", "{oci.folder}/pid", "one"], check=True)
pid = int(open("{oci.folder}/pid").read())
subprocess.run([*run, "start", "one"], check=True)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "7\n", done.stderr
    oci("delete", "one")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("start", "none"), 1, "container does not exist"),
        (("state", "none"), 1, "container does not exist"),
        (("delete", "none"), 1, "container does not exist"),
        (("delete", "--force", "none"), 0, ""),
        (("kill", "none"), 1, "does not exist"),
        (("state", "../x"), 1, "invalid id"),
        (("state", "a/b"), 1, "invalid character in container ID"),
        (("--log-format=xml", "list"), 2, "choose log format xml"),
        (("--log-format=xml", "delete", "--force", "none"), 2, "choose log format xml"),  # by the launcher
        (("--log=/no/such/log", "list"), 2, "open log /no/such/log: no such file or directory"),
        (("frobnicate", "x"), 2, "no such command"),
        (("state",), 2, "needs a container's id"),
        (("state", "--nope", "x"), 2, "no such option"),
    ],
)
def test_refusals(oci: Runtime, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = oci(*arguments, code=code)
    assert words in done.stderr and "Traceback" not in done.stderr


def test_verbs_need_the_right_state(oci: Runtime) -> None:
    oci.start_sleeping()
    assert "already exists" in oci("create", "one", code=1).stderr
    assert "running" in oci("start", "one", code=1).stderr
    assert "not stopped" in oci("delete", "one", code=1).stderr
    assert "running" in oci("resume", "one", code=1).stderr
    oci("pause", "one")
    assert oci.state("one")["status"] == "paused"
    assert "paused" in oci("exec", "one", "true", code=255).stderr
    oci("resume", "one")
    pid = oci.state("one")["pid"]
    oci("kill", "one", "SIGKILL")
    wait_until_gone(pid)
    assert "container not running" in oci("kill", "one", "9", code=1).stderr
    assert "stopped" in oci("start", "one", code=1).stderr
    oci("delete", "one")


@pytest.mark.parametrize(
    ("program", "words"),
    [("/bin/none", "no such file or directory"), ("none", "executable file not found in $PATH"), ("/etc", "permission denied")],
)
def test_a_create_that_fails_leaves_nothing(oci: Runtime, program: str, words: str, tmp_path: Path) -> None:
    oci.command(program)
    log = tmp_path / "log"
    done = oci(f"--log={log}", "--log-format=json", "create", "one", code=1)
    assert words in done.stderr
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert line["level"] == "error" and words in line["msg"]
    assert not oci.leftovers()
    assert not [top for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith("/one")]


def test_exit_codes_of_run_and_exec(oci: Runtime) -> None:
    oci.command("/bin/sh", "-c", "exit 3")
    oci("run", "one", code=3)
    oci.command("/bin/sh", "-c", "kill -9 $$; sleep 5")
    oci.config["linux"]["namespaces"] = [one for one in oci.config["linux"]["namespaces"] if one["type"] != "pid"]
    oci.write()
    oci("run", "one", code=137)
    oci.start_sleeping()
    oci("exec", "one", "sh", "-c", "exit 4", code=4)
    oci("exec", "one", "/none", code=255)
    oci("delete", "-f", "one")


def test_exec_is_confined_as_the_container(oci: Runtime, tmp_path: Path) -> None:
    oci.start_sleeping()
    script = "grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs)' /proc/self/status; id -u; pwd; echo $A; ls /proc/self/fd"
    seen = oci("exec", "--env", "A=b", "--user", "1000:1000", "--cwd", "/tmp", "one", "sh", "-c", script).stdout.split("\n")
    assert seen[0].endswith("0" * 16) and seen[2] == "CapBnd:\t00000000000004fb"
    assert seen[3:7] == ["NoNewPrivs:\t1", "1000", "/tmp", "b"]
    assert seen[7:] == ["0", "1", "2", "3", ""], "3 is ls's own"
    (tmp_path / "process.json").write_text(
        json.dumps({"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 5, "gid": 6}, "env": ["PATH=/bin"]})
    )
    oci("exec", "--process", tmp_path / "process.json", "--detach", "--pid-file", tmp_path / "pid", "one")
    pid = int((tmp_path / "pid").read_text())
    assert "\nUid:\t5\t5\t5\t5\n" in Path(f"/proc/{pid}/status").read_text()
    assert sorted(json.loads(oci("ps", "--format=json", "one").stdout)) == sorted([pid, oci.state("one")["pid"]])
    oci("delete", "--force", "one")


def test_descriptors(oci: Runtime, tmp_path: Path) -> None:
    """Nothing but the standard streams and what was asked to be kept, however much the caller leaks."""
    oci.command("/bin/sh", "-c", "echo kept >&3; ls /proc/self/fd; ls -l /proc/1/fd/3 >/dev/null")
    line = f'exec 3>{tmp_path}/kept 4>&3 9>&3 60>&3; exec "$0" --root {oci.root} run --preserve-fds 1 one'
    done = subprocess.run(["bash", "-c", line, OCI], cwd=oci.bundle, capture_output=True, text=True, timeout=30)
    assert (tmp_path / "kept").read_text() == "kept\n", done.stderr
    assert done.stdout.split() == ["0", "1", "2", "3", "4"], "4 is ls's own"


def test_the_short_ways_say_what_python_says(oci: Runtime, tmp_path: Path) -> None:
    """state, start, kill and delete without Python (native/oci_verbs.c), and with it."""
    oci.config["annotations"] = {"a.b": 'quoted " and \\n more', "c": "ä"}
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    for _ in range(2):
        short, long = oci("state", "one").stdout, oci("state", "--", "one").stdout
        assert short == long and json.loads(short)["annotations"] == oci.config["annotations"]
        if json.loads(short)["status"] == "created":
            oci("start", "one")
    oci("kill", "one", "SIGKILL")
    wait_until_gone(oci.state("one")["pid"] or 1 << 22)
    assert oci("state", "one").stdout == oci("state", "--", "one").stdout
    short_trace = subprocess.run(
        ["strace", "-f", "-e", "trace=execve", OCI, "--root", oci.root, "delete", "one"], capture_output=True, text=True, timeout=30
    )
    assert short_trace.returncode == 0 and short_trace.stderr.count("execve(") == 1, short_trace.stderr
    assert not oci.leftovers()


def test_a_program_that_vanished_is_told_by_start(oci: Runtime) -> None:
    oci.command("/bin/gone")
    gone = oci.bundle / "rootfs/bin/gone"
    gone.symlink_to("busybox")
    oci("create", "one")
    gone.unlink()
    assert "no such file or directory" in oci("start", "one", code=1).stderr
    assert oci.state("one")["status"] == "stopped"
    oci("delete", "one")


def test_hooks(oci: Runtime, tmp_path: Path) -> None:
    """Each where and when the specification says, with the state on standard input."""
    out = tmp_path / "out"
    inside = oci.bundle / "rootfs" / "out"
    inside.mkdir()
    kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    oci.config["annotations"] = {"k": "v"}
    oci.config["hooks"] = {}
    for kind in kinds:
        path = "/bin/sh" if kind == "startContainer" else "/bin/busybox"
        target = "/out" if kind == "startContainer" else str(out)
        script = f'read -r s; echo "$s" >> {target}/{kind}; echo {kind} $1 $(env | grep -c ^A=b) $(hostname) >> {target}/order'
        argv = [path, "-c", script, "x", "arg"] if kind == "startContainer" else ["busybox", "sh", "-c", script, "x", "arg"]
        oci.config["hooks"][kind] = [{"path": path, "args": argv, "env": ["A=b"], "timeout": 10}]
    out.mkdir()
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    pid = oci.state("one")["pid"]
    order = (out / "order").read_text().splitlines()
    assert [line.split()[0] for line in order] == kinds[:3]
    assert order[2].split()[-1] == "pyrun", "createContainer runs in the container's namespaces"
    oci("start", "one")
    assert [line.split()[0] for line in (inside / "order").read_text().splitlines()] == ["startContainer"]
    assert [line.split()[0] for line in (out / "order").read_text().splitlines()] == [*kinds[:3], "poststart"]
    oci("delete", "--force", "one")
    assert all(" arg 1 " in line for line in (out / "order").read_text().splitlines()), "arguments and environment"
    states = {kind: json.loads((out if kind != "startContainer" else inside).joinpath(kind).read_text()) for kind in kinds}
    wanted = {"prestart": "created", "createRuntime": "creating", "createContainer": "creating", "startContainer": "created"}
    wanted |= {"poststart": "running", "poststop": "stopped"}
    assert {kind: states[kind]["status"] for kind in kinds} == wanted
    assert all(one["id"] == "one" and one["bundle"] == str(oci.bundle) and one["annotations"] == {"k": "v"} for one in states.values())
    assert [states[kind]["pid"] for kind in ("prestart", "createRuntime", "poststart")] == [pid] * 3
    assert states["startContainer"]["pid"] == 1


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer", "poststart"])
@pytest.mark.parametrize("script", ["exit 3", "sleep 100"])
def test_a_hook_that_fails_or_hangs_ends_the_container(oci: Runtime, kind: str, script: str) -> None:
    oci.config["hooks"] = {kind: [{"path": "/bin/busybox", "args": ["busybox", "sh", "-c", script], "timeout": 1}]}
    oci.command("/bin/sleep", "1000")
    words = "hook failed with exit code 3" if script == "exit 3" else "took longer"
    if kind.startswith("create"):
        assert words in oci("create", "one", code=1).stderr
    else:
        oci("create", "one")
        pid = oci.state("one")["pid"]
        assert words in oci("start", "one", code=1).stderr
        wait_until_gone(pid)
        if kind == "startContainer":
            assert oci.state("one")["status"] == "stopped"
            oci("delete", "one")
    assert not oci.leftovers()


def test_rules_for_devices_need_somebody_to_keep_them(oci: Runtime) -> None:
    oci.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    del oci.config["mounts"][6]
    oci.command("/bin/true")
    hidden = ["unshare", "--mount", "sh", "-c", 'umount -R /sys/fs/cgroup && exec "$@"', "sh"]
    hidden += [str(OCI), "--root", str(oci.root), "run", "one"]
    done = subprocess.run(hidden, cwd=oci.bundle, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "linux.resources.devices" in done.stderr and "no cgroup2 tree" in done.stderr
    assert not oci.leftovers()
    oci(f"--log={oci.folder}/log", "--cgroup-manager", "disabled", "run", "one")
    assert "level=warning" in (oci.folder / "log").read_text() and "linux.resources.devices" in (oci.folder / "log").read_text()
    del oci.config["linux"]["resources"]
    oci.write()
    assert subprocess.run(hidden, cwd=oci.bundle, stdin=subprocess.DEVNULL, timeout=60).returncode == 0


def test_devices_are_those_of_the_rules(oci: Runtime) -> None:
    """A node of another device, made inside with CAP_MKNOD, opens only where a rule allows it."""
    names = ["CAP_MKNOD", "CAP_DAC_OVERRIDE"]
    oci.config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
    script = "rm -f /tmp/d /tmp/k; busybox mknod /tmp/d c 1 5; busybox head -c 1 /tmp/d | wc -c; "
    script += "busybox mknod /tmp/k c 10 229; busybox dd if=/tmp/k count=0 2>&1"
    oci.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    assert "Operation not permitted" in oci.shell(f"({script}) ; true")
    oci.config["linux"]["resources"]["devices"].append({"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"})
    shown = oci.shell(script)
    assert shown.startswith("1\n") and "not permitted" not in shown


def test_a_limit_that_cannot_be_is_refused(oci: Runtime) -> None:
    """Zero is no limit for docker; anything else must hold, and here no cgroup has a memory controller."""
    oci.config["linux"]["resources"] = {"cpu": {"shares": 0}, "memory": {}, "blockIO": {"weight": 0}}
    assert oci.shell("echo ok") == "ok\n"
    oci.config["linux"]["resources"] = {"memory": {"limit": 64 << 20}}
    oci.command("/bin/true")
    done = oci("create", "one", code=1)
    assert "memory" in done.stderr and "linux.resources.memory.limit" in done.stderr
    assert not oci.leftovers()
    oci.config["linux"]["resources"] = {}
    oci.start_sleeping()
    assert "memory" in oci("update", "--memory", "64m", "one", code=1).stderr
    zeros = oci.folder / "zeros"
    zeros.write_text(json.dumps({"cpu": {"shares": 0}, "memory": {"limit": 0}, "blockIO": {"weight": 0}}))
    oci(f"--log={oci.folder}/log", "update", f"--resources={zeros}", "one")
    oci("delete", "--force", "one")


def test_features_and_events_and_what_is_refused(oci: Runtime) -> None:
    found = json.loads(oci("features").stdout)
    assert (found["ociVersionMin"], found["ociVersionMax"]) == ("1.0.0", "1.3.0")
    said = oci("--version").stdout.splitlines()
    assert said[1].startswith("commit: ") and said[2].startswith("spec: 1.")
    assert (
        said[0].startswith("pyrun-oci version ")
        and "runc version 1." in said[0]
        and {"+SYSTEMD", "+SECCOMP", "+EBPF"} <= set(said[3].split())
    )
    assert ("+CRIU" in said[3]) == (found["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true")
    assert {"org.systemd.property.", "run.oci."} <= set(found["potentiallyUnsafeConfigAnnotations"])
    assert "ro" in found["mountOptions"] and found["linux"]["seccomp"]["enabled"] and found["linux"]["cgroup"]["v2"]
    oci.start_sleeping()
    shown = json.loads(oci("events", "--stats", "one").stdout)
    assert shown["id"] == "one" and shown["type"] == "stats" and shown["data"]["cpu"]["usage"]["total"] > 0
    oci("delete", "--force", "one")


def test_a_create_that_was_killed_is_no_obstacle(oci: Runtime, tmp_path: Path) -> None:
    """By a hook that kills it: the container's process ends with it, and delete --force or the next create cleans up."""
    oci.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo $PPID; kill -9 $PPID; sleep 1"]}]}
    oci.config["linux"]["cgroupsPath"] = "oci-killed"
    for again in ("delete", "create"):
        oci.command("/bin/sleep", "1000")
        oci("create", "one", code=-9)
        groups = [Path(top) for top, _, _ in os.walk("/sys/fs/cgroup") if top.endswith("/oci-killed")]
        assert len(groups) == 1
        deadline = time.monotonic() + 60
        while "populated 1" in (groups[0] / "cgroup.events").read_text():
            assert time.monotonic() < deadline, "its process lives on"
            time.sleep(0.02)
        assert oci("list", "--quiet").stdout == ""
        if again == "delete":
            oci("delete", "--force", "one")
        else:
            hooks = oci.config.pop("hooks")
            oci.start_sleeping()
            oci("delete", "--force", "one")
            oci.config["hooks"] = hooks
        assert not groups[0].exists() and not oci.leftovers()


def test_streams_of_a_user(oci: Runtime) -> None:
    """Who is not root can open /dev/stdout, a pipe of root's."""
    oci.config["process"]["user"] = {"uid": 1000, "gid": 1001}
    oci.command("/bin/sh", "-c", "echo reopened > /dev/stdout; stat -L -c '%u %g' /proc/self/fd/1")
    for _ in range(2):  # the second one is made by what the first one left
        done = subprocess.run([OCI, "--root", oci.root, "run", "one"], cwd=oci.bundle, capture_output=True, text=True, timeout=30)
        assert done.stdout == "reopened\n1000 1001\n", done.stderr


def test_sockets_of_the_caller(oci: Runtime, tmp_path: Path) -> None:
    oci.command("/bin/sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; echo through >&3")
    line = f'exec 3>{tmp_path}/socket; export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=web; exec "$0" --root {oci.root} run one'
    done = subprocess.run(["bash", "-c", line, OCI], cwd=oci.bundle, capture_output=True, text=True, timeout=30)
    assert done.stdout == "1 1 web\n" and (tmp_path / "socket").read_text() == "through\n", done.stderr


def test_network_devices(oci: Runtime) -> None:
    """One end of a pair moves, under another name, with its address, and is up."""
    addresses = ["address add 192.0.2.7/24 dev oci-there", "address add 2001:db8::7/64 dev oci-there nodad"]
    for line in ("link add oci-here type veth peer name oci-there", *addresses):
        subprocess.run(["ip", *line.split()], check=True)
    try:
        oci.config["linux"]["netDevices"] = {"oci-there": {"name": "eth7"}}
        shown = oci.shell("busybox ip address show dev eth7")
        assert "192.0.2.7/24" in shown and "2001:db8::7/64" in shown and "UP" in shown
    finally:
        subprocess.run(["ip", "link", "delete", "oci-here"], stderr=subprocess.DEVNULL)
    oci.config["linux"]["netDevices"] = {"none7": {}}
    oci.command("/bin/true")
    assert "linux.netDevices.none7" in oci("create", "one", code=1).stderr
    assert not oci.leftovers()


def test_options_of_create_and_run(oci: Runtime) -> None:
    """Without a pivot, without a session keyring, without a cgroup of its own."""
    oci.command("/bin/sh", "-c", "ls /; cat /proc/self/cgroup")
    for flags in (["run", "--no-pivot"], ["run", "--no-new-keyring"], ["--cgroup-manager=disabled", "run"]):
        shown = oci(*flags, "one").stdout
        assert "probe\n" in shown and "home\n" not in shown
    assert "no such manager" in oci("--cgroup-manager", "none", "create", "one", code=2).stderr
    pids = [oci.start_sleeping(name) for name in ("two", "three")]
    assert json.loads(oci("list", "--format", "json").stdout)[1]["pid"] == pids[0]
    assert "sleep 1000" in oci("ps", "two").stdout
    oci("exec", "two", "/bin/sh", "-c", "sleep 1000 & exit 0")
    oci("kill", "--all", "two", "KILL")
    wait_until_gone(pids[0])
    oci("delete", "--force", "--regex", "^t")
    assert not oci.leftovers()
