"""What scripts and tests that were written for runc and crun find here too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import OCI, Runtime, recipes
from waiting import wait_until

TREE = Path("/sys/fs/cgroup")


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    for name in ("one", "two"):
        made("delete", "--force", name)


@pytest.mark.parametrize("above", [False, True])
def test_a_frozen_cgroup_is_refused(oci: Runtime, above: bool) -> None:
    """Nothing would be carried out in it; whoever waits for the container's process would do so for ever."""
    oci.command("/bin/true")
    oci("run", "two")
    assert recipes(oci), "the next one could be made without Python"
    group = TREE / f"frozen-{os.getpid()}"
    oci.config["linux"]["cgroupsPath"] = f"/{group.name}/below/deep" if above else f"/{group.name}"
    group.mkdir()
    try:
        oci.command("/bin/true")
        oci("run", "two")
        group.mkdir(exist_ok=True)
        if above:
            (group / "below").rmdir()  # those above stay when a container goes
        (group / "cgroup.freeze").write_text("1")
        for verb in ("create", "run"):
            assert "container's cgroup unexpectedly frozen" in oci(verb, "one", code=1).stderr
            assert group.is_dir() and not [path for path in group.iterdir() if path.is_dir()], "what it has made is gone"
        assert not oci.leftovers()
    finally:
        (group / "cgroup.freeze").write_text("0")
        for path in (group / "below" / "deep", group / "below", group):
            if path.exists():
                path.rmdir()


def test_exec_enters_the_cgroup_of_the_container(oci: Runtime) -> None:
    """Wherever its own process has gone; in the virtual machine, what is done when it takes none."""
    first = oci.start_sleeping()
    group = TREE / "one"
    (group / "own").mkdir()
    (group / "own/cgroup.procs").write_text(str(first))
    for command in (("exec",), ("exec", "--ignore-paused")):  # the second one is Python's
        shown = oci(*command, "one", "cat", "/proc/self/cgroup").stdout
        assert shown.splitlines()[-1] == "0::/"


def test_exec_follows_a_container_whose_cgroup_is_gone(oci: Runtime) -> None:
    first = oci.start_sleeping()
    other = TREE / f"other-{os.getpid()}"
    other.mkdir()
    try:
        (other / "cgroup.procs").write_text(str(first))
        (TREE / "one").rmdir()
        for command in (("exec",), ("exec", "--ignore-paused")):
            shown = oci(*command, "one", "cat", "/proc/self/cgroup").stdout
            assert shown.splitlines()[-1] == f"0::/../{other.name}"
    finally:
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: "populated 0" in (other / "cgroup.events").read_text())
        other.rmdir()


def test_a_user_without_a_group_has_the_first(oci: Runtime) -> None:
    oci.config["process"]["user"] = {"uid": 7}
    assert oci.shell("id -u; id -g") == "7\n0\n"
    assert oci.shell("id -u; id -g") == "7\n0\n"


def test_debug_tells_the_steps(oci: Runtime, tmp_path: Path) -> None:
    oci.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}
    oci.command("/bin/sleep", "1000")
    steps = ["nsexec container setup", "child process in init()", "init: closing the pipe", '"seccomp filter flags: 2"']
    for _ in range(2):  # a recipe would tell nothing
        shown = oci("--debug", "run", "--detach", "one").stderr
        assert all(f"level=debug msg={step if step[0] == chr(34) else chr(34) + step}" in shown for step in steps)
        shown = oci("--debug", "exec", "one", "true").stderr
        assert "nsexec container setup" in shown and "setns_init: about to exec" in shown
        oci("delete", "--force", "one")
    log = tmp_path / "log"
    words = ["--log", log, "--log-format", "json", "--debug"]
    assert oci(*words, "run", "--detach", "one").stderr == ""
    assert oci(*words, "exec", "one", "true").stderr == ""
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert {one["level"] for one in told} == {"debug"} and [one["msg"][:22] for one in told].count("nsexec container setup") == 2
    assert oci("exec", "one", "true").stderr == "", "nothing without --debug"


def test_help_begins_with_the_name() -> None:
    for words, name, usage in (
        (["-h"], "pyrun-oci - ", "COMMAND [ARG...]"),
        (["exec", "--help"], "pyrun-oci exec - ", "exec CONTAINER cmd [ARG...]"),
        (["list", "-h"], "pyrun-oci list - ", "list"),
    ):
        shown = subprocess.run([OCI, *words], capture_output=True, text=True, check=True).stdout.splitlines()
        assert shown[0] == "NAME:" and shown[1].strip().startswith(name) and f"Usage: pyrun-oci [OPTION...] {usage}" in shown
    done = subprocess.run([OCI, "frobnicate", "-h"], capture_output=True, text=True)
    assert done.returncode == 2 and "No help topic for 'frobnicate'" in done.stderr


@pytest.mark.parametrize(("name", "called"), [("crun", "crun"), ("runc", "runc"), ("other", "pyrun-oci")])
def test_a_link_that_stands_in_for_a_peer_speaks_by_its_name(oci: Runtime, name: str, called: str) -> None:
    link = oci.folder / name
    link.symlink_to(OCI)
    shown = subprocess.run([link, "delete", "--help"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[1].strip().startswith(f"{called} delete - ") and f"Usage: {called} [OPTION...] delete CONTAINER" in shown
    done = subprocess.run([link, "delete"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"{called}: ") and f"usage: {called} [OPTION...] delete CONTAINER" in done.stderr
    oci.program = link
    assert oci.shell("echo works") == "works\n"


@pytest.mark.parametrize("name", ["crun", "pyrun-oci"])
def test_a_capability_that_no_kernel_has_is_warned_of_but_refused_by_the_name_of_crun(oci: Runtime, name: str) -> None:
    oci.program = oci.folder / name
    oci.program.symlink_to(OCI)
    oci.config["process"]["capabilities"]["bounding"] = ["CAP_KILL", "CAP_UNKNOWN"]
    oci.command("/bin/grep", "CapBnd", "/proc/self/status")
    done = oci("run", "one", code=None)
    where = "process.capabilities.bounding[1]"
    if name == "crun":
        assert done.returncode == 1 and "unknown cap" in done.stderr and where in done.stderr and not oci.leftovers()
    else:
        assert done.stdout.split() == ["CapBnd:", f"{1 << 5:016x}"] and where in done.stderr


def test_what_cannot_be_executed_is_told_in_the_programs_place(oci: Runtime) -> None:
    """By `run` whose output something reads; `start` tells what it knows."""
    for name, text in (("script", "#!/none/sh"), ("garbage", "\x7fELF")):
        (oci.bundle / "rootfs" / name).write_text(text + " " * 200)
        (oci.bundle / "rootfs" / name).chmod(0o755)
    for name, reason in (("/script", "no such file or directory"), ("/garbage", "exec format error")):
        oci.command(name)
        assert oci("run", "one", code=1).stderr == f"exec {name}: {reason}\n"
        oci("create", "one")
        assert oci("start", "one", code=1).stderr.startswith(f"pyrun-oci: exec {name}: {reason}")
        oci("delete", "--force", "one")
    oci.command("/none")
    assert oci("run", "one", code=1).stderr.startswith('pyrun-oci: exec "/none": no such file or directory')
    assert not oci.leftovers()


def test_a_destination_may_name_the_root_on_the_host(oci: Runtime) -> None:
    (oci.bundle / "from").mkdir()
    (oci.bundle / "from/file").touch()
    one = {"destination": f"{oci.bundle}/rootfs/mnt/deep", "type": "bind", "source": str(oci.bundle / "from"), "options": ["rbind"]}
    oci.config["mounts"].append(one)
    assert oci.shell("ls /mnt/deep") == "file\n"
    assert not recipes(oci), "the path of another root would be told apart by nobody"
    one["destination"] = f"{oci.bundle}/rootfsx/mnt"
    assert oci.shell(f"ls {oci.bundle}/rootfsx/mnt") == "file\n"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("users", [False, True])
def test_a_bind_of_what_is_mounted_in_the_root(oci: Runtime, users: bool, there: bool) -> None:
    """Each mount after those before it, its source on the host found among them; for idmapped ones without a user namespace too."""
    for path in ("bind/a", "rootfs/mnt", "rootfs/final", *(["rootfs/mnt/x/a"] if there else [])):
        (oci.bundle / path).mkdir(parents=True, exist_ok=True)
    (oci.bundle / "bind/a/file").touch()
    os.chown(oci.bundle / "bind/a/file", 5, 6)
    root, options, maps = oci.bundle / "rootfs", ["rbind"], {}
    if users:
        oci.config["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 0, "size": 1000}]
        oci.config["linux"].update(uidMappings=ids, gidMappings=ids)
        wanted = "5 6\n"
    else:
        ids = [{"containerID": 5, "hostID": 1005, "size": 10}]
        options, maps, wanted = ["rbind", "idmap"], {"uidMappings": ids, "gidMappings": ids}, "1005 1006\n"
    oci.config["mounts"] += [
        {"destination": "/mnt/x", "type": "bind", "source": str(oci.bundle / "bind"), "options": ["rbind"]},
        {"destination": "/final", "type": "bind", "source": str(root / "mnt/x/a"), "options": options, **maps},
    ]
    assert oci.shell("stat -c '%u %g' /final/file") == wanted
    assert list((root / "final").iterdir()) == []


def test_idmap_goes_by_the_user_namespace_that_is_joined(oci: Runtime) -> None:
    ids = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    oci.config["linux"]["namespaces"].append({"type": "user"})
    oci.config["linux"].update(uidMappings=ids, gidMappings=ids)
    for top, names, files in os.walk(oci.folder):
        os.chmod(top, 0o755)
        for name in [*names, *files]:
            os.chown(os.path.join(top, name), 100000, 100000, follow_symlinks=False)
    for path in (oci.folder, *oci.folder.parents[:2]):
        path.chmod(0o755)
    first = oci.start_sleeping("two")
    oci.config["linux"]["namespaces"][-1]["path"] = f"/proc/{first}/ns/user"
    del oci.config["linux"]["uidMappings"], oci.config["linux"]["gidMappings"]
    source = oci.bundle / "data"
    source.mkdir()
    (source / "file").touch()
    os.chown(source / "file", 5, 6)
    one = {"destination": "/data", "type": "bind", "source": str(source), "options": ["bind", "idmap"]}
    oci.config["mounts"].append(one)
    assert oci.shell("stat -c '%u %g' /data/file") == "5 6\n"
    one["options"] = ["bind"]
    assert oci.shell("stat -c '%u %g' /data/file") == "65534 65534\n"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT"])
def test_kill_ends_a_container_that_waits_for_its_start(oci: Runtime, name: str) -> None:
    """Process 1 of a pid namespace does not get such a signal unless it has a handler (pid_namespaces(7))."""
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    oci("kill", "one", name)
    wait_until(lambda: oci.state("one")["status"] == "stopped")
    oci("delete", "one")
    program = "trap 'echo caught; exit' TERM; kill -TERM $$; sleep 1"
    assert oci.shell(f"grep -E 'Sig(Cgt|Ign)' /proc/1/status; {program}", "two").splitlines()[-1] == "caught"


def test_the_handlers_of_who_waits_are_not_the_programs(oci: Runtime) -> None:
    oci.command("/bin/sleep", "1000")
    pid = oci.start_sleeping()
    masks = [line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(("SigCgt", "SigIgn"))]
    assert masks == ["0" * 16] * 2


def test_a_slave_root_is_one(oci: Runtime) -> None:
    """mount_namespaces(7): what the host mounts below comes in, and none goes out; as `slave` says, and the default."""
    oci.config["linux"]["rootfsPropagation"] = "slave"
    oci.command("/bin/cat", "/proc/self/mountinfo")
    words = [str(word) for word in (OCI, "--root", oci.root, "run", "--bundle", oci.bundle, "one")]
    shared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --make-rshared / && exec "$@"', "sh"]
    done = subprocess.run([*shared, *words], capture_output=True, text=True, check=True)
    root = next(line for line in done.stdout.splitlines() if line.split()[4] == "/")
    assert " master:" in root and " shared:" not in root


def test_a_template_grants_few_capabilities(tmp_path: Path) -> None:
    subprocess.run([OCI, "spec", "--bundle", tmp_path], check=True)
    found = json.loads((tmp_path / "config.json").read_text())["process"]["capabilities"]
    few = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    assert found == {"bounding": few, "effective": few, "permitted": few}


def test_a_deadline_may_come_with_a_nice_value(oci: Runtime) -> None:
    """Which the kernel does not look at then (sched_setattr(2))."""
    times = {"runtime": 42000, "deadline": 1000000, "period": 1000000}
    oci.config["process"]["scheduler"] = {"policy": "SCHED_DEADLINE", "nice": 19, **times}
    pid = oci.start_sleeping()
    assert os.sched_getscheduler(pid) == 6


def test_a_deadline_has_all_processors(oci: Runtime) -> None:
    """Which it wants (sched_setattr(2), EPERM), whatever its caller may use; a cpuset that takes some away is in tests/vm/guest."""
    times = {"runtime": 42000, "deadline": 1000000, "period": 1000000}
    oci.config["process"]["scheduler"] = {"policy": "SCHED_DEADLINE", **times}
    oci.command("/bin/sleep", "1000")
    oci("run", "--detach", "one", preexec_fn=lambda: os.sched_setaffinity(0, {0}))
    assert os.sched_getscheduler(int(oci.state("one")["pid"])) == 6


def test_exec_takes_a_scheduler_that_no_fork_inherits(oci: Runtime) -> None:
    """sched(7): with SCHED_RESET_ON_FORK, which a deadline wants for processes that fork."""
    oci.start_sleeping()
    times = {"runtime": 42000, "deadline": 1000000, "period": 1000000}
    wanted = {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], **times}
    process = {"cwd": "/", "args": ["/bin/sleep", "1000"], "scheduler": wanted}
    (oci.folder / "process").write_text(json.dumps(process))
    oci("exec", "--detach", "--process", oci.folder / "process", "--pid-file", oci.folder / "pid", "one")
    pid = int((oci.folder / "pid").read_text())
    assert os.sched_getscheduler(pid) == 6 | os.SCHED_RESET_ON_FORK
    wanted.update(runtime=900000, deadline=900000)
    wanted["flags"] = ["SCHED_FLAG_RESET_ON_FORK"]
    (oci.folder / "process").write_text(json.dumps({**process, "scheduler": {**wanted, **dict.fromkeys(times, 1 << 62)}}))
    before = set(Path("/sys/fs/cgroup/one/cgroup.procs").read_text().split())
    oci("exec", "--detach", "--process", oci.folder / "process", "one", code=255)
    assert set(Path("/sys/fs/cgroup/one/cgroup.procs").read_text().split()) == before


def test_memory_policies_count_nodes(oci: Runtime) -> None:
    oci.config["linux"]["memoryPolicy"] = {"mode": "MPOL_DEFAULT", "nodes": "0-3,2"}
    oci.command("/bin/true")
    assert "mode requires 0 nodes but got 4" in oci("create", "one", code=1).stderr


def test_events_end_with_a_container_that_is_deleted(oci: Runtime) -> None:
    oci.start_sleeping()
    words = [OCI, "--root", oci.root, "events", "--interval", "500ms", "one"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout is not None and shown.stderr is not None
        assert json.loads(shown.stdout.readline())["type"] == "stats"
        oci("delete", "--force", "one")
        assert shown.wait(timeout=30) == 0 and shown.stderr.read() == ""
    assert "does not exist" in oci("events", "one", code=1).stderr


def test_events_show_who_has_waited(oci: Runtime) -> None:
    """psi.rst, by the kernel's own numbers; the time does not go back."""
    oci.start_sleeping()
    told = [json.loads(oci("events", "--stats", "one").stdout)["data"]["cpu"]["psi"] for _ in range(2)]
    own = dict(word.split("=") for word in (TREE / "one/cpu.pressure").read_text().splitlines()[0].split()[1:])
    assert told[0]["some"]["total"] <= told[1]["some"]["total"] <= int(own["total"])
    assert set(told[0]["some"]) == {"avg10", "avg60", "avg300", "total"} and isinstance(told[0]["some"]["avg10"], float)
