"""Mounts that come and go while a container runs (`mounts add`, `mounts remove`), and a first mount on its root."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime, make_root
from waiting import wait_until


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "memory", "options": list(options)}


def listed(folder: Path, *mounts: dict[str, Any]) -> Path:
    path = folder / "mounts.json"
    path.write_text(json.dumps(mounts))
    return path


def seen(oci: Runtime) -> dict[str, str]:
    """The type of what is on top at each place, as a process of the container sees it."""
    lines = oci("exec", "one", "cat", "/proc/self/mountinfo").stdout.splitlines()
    return {line.split()[4]: line.partition(" - ")[2].split()[0] for line in lines}


@pytest.mark.parametrize("users", [False, True], ids=["host ids", "user namespace"])
def test_mounts_come_and_go(oci: Runtime, tmp_path: Path, users: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("from outside")
    if users:
        oci.config["linux"]["namespaces"].append({"type": "user"})
        for kind in ("uidMappings", "gidMappings"):
            oci.config["linux"][kind] = [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    oci.config["mounts"].append(tmpfs("/space", "mode=755"))
    (oci.bundle / "rootfs" / "space").mkdir()
    oci.start_sleeping()
    try:
        before = seen(oci)
        path = listed(tmp_path, bind(source, "/space/deep/er", "ro"), tmpfs("/space/more", "size=64k"))
        oci("mounts", "add", "one", path)
        assert oci("exec", "one", "cat", "/space/deep/er/file").stdout == "from outside"
        assert "Read-only" in oci("exec", "one", "touch", "/space/deep/er/other", code=1).stderr
        assert seen(oci) == {**before, "/space/deep/er": seen(oci)["/space/deep/er"], "/space/more": "tmpfs"}
        oci("mounts", "remove", "one", path)
        assert seen(oci) == before
        done = oci("mounts", "remove", "one", path, code=1)
        assert "/space/more: nothing is mounted there" in done.stderr and "mounts[1]" in done.stderr
        assert "/space" not in Path("/proc/self/mountinfo").read_text()
    finally:
        oci("delete", "--force", "one")
    assert not oci.leftovers() and (source / "file").exists()


def test_file_systems_are_of_its_own_namespaces(oci: Runtime, tmp_path: Path) -> None:
    """Queues and network devices of the container; the processes would be the host's, so that is refused."""
    oci.start_sleeping()
    try:
        queues = {"destination": "/queues", "type": "mqueue", "source": "mqueue"}
        oci("mounts", "add", "one", listed(tmp_path, queues, {"destination": "/system", "type": "sysfs", "source": "sysfs"}))
        oci("exec", "one", "touch", "/dev/mqueue/here")
        assert oci("exec", "one", "ls", "/queues", "/system/class/net").stdout.split() == ["/queues:", "here", "/system/class/net:", "lo"]
        done = oci("mounts", "add", "one", listed(tmp_path, tmpfs("/x"), {"destination": "/again", "type": "proc"}), code=1)
        assert "show the host's processes" in done.stderr and "mounts[1]" in done.stderr
        assert not {"/x", "/again"} & seen(oci).keys()
    finally:
        oci("delete", "--force", "one")


def test_the_program_sees_a_mount_and_cannot_lead_its_removal_astray(oci: Runtime, tmp_path: Path) -> None:
    oci.command("/bin/sh", "-c", "until test -e /a/b/file; do sleep 0.01; done; mv /a /c; ln -s /proc /a; touch /done; sleep 1000")
    oci.config["linux"]["maskedPaths"] = ["/proc/uptime"]
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    oci.write()
    oci("run", "--detach", "one")
    try:
        oci("mounts", "add", "one", listed(tmp_path, bind(source, "/a/b"), bind(source, "/a/uptime")))
        wait_until((oci.bundle / "rootfs" / "done").exists)
        done = oci("mounts", "remove", "one", listed(tmp_path, bind(source, "/a/uptime")), code=1)
        assert "unmount /a/uptime" in done.stderr
        assert "/proc/uptime" in seen(oci) and "/c/uptime" in seen(oci)
        oci("mounts", "remove", "one", listed(tmp_path, bind(source, "/c/b"), bind(source, "/c/uptime")))
        assert not any(place.startswith("/c/") for place in seen(oci))
    finally:
        oci("delete", "--force", "one")


WRONG: list[tuple[str, str, str]] = [
    ('{"destination": "/x"}', "mounts", "must be an array"),
    ('[{"type": "tmpfs"}]', "mounts[0].destination", "is required"),
    ('[{"destination": "/x", "type": 3}]', "mounts[0].type", "must be a string"),
    ('[{"destination": "/x", "type": "tmpfs", "options": ["idmap"]}]', "mounts[0].options", "idmap has no mapping"),
    ('[{"destination": "/x", "type": "bind", "source": "/no/such"}]', "mounts[0]", "no such file or directory"),
    ('[{"destination": "/proc/sys", "type": "tmpfs", "source": "t"}]', "mounts[0]", "hide a part of procfs"),
    ('[{"destination": "/", "type": "tmpfs", "source": "t"}]', "mounts[0].destination", "it is the root itself"),
    ("[", "", "not valid JSON"),
]


def test_what_is_wrong_is_told_and_changes_nothing(oci: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "mounts.json"
    oci.start_sleeping()
    try:
        before = seen(oci)
        for text, where, reason in WRONG:
            path.write_text(text)
            done = oci("mounts", "add", "one", path, code=1)
            assert where in done.stderr and reason in done.stderr, done.stderr
        assert "neither add nor remove" in oci("mounts", "move", "one", path, code=2).stderr
        assert "no/such" in oci("mounts", "add", "one", tmp_path / "no" / "such", code=1).stderr
        assert "needs a container's id" in oci("mounts", "add", code=2).stderr
        assert seen(oci) == before
        oci("kill", "one", "KILL")
        wait_until(lambda: oci.state("one")["status"] == "stopped")
        path.write_text(json.dumps([tmpfs("/x")]))
        assert "mounts of a stopped container" in oci("mounts", "add", "one", path, code=1).stderr
    finally:
        oci("delete", "--force", "one")


def test_a_first_mount_on_the_root_is_the_root(oci: Runtime, tmp_path: Path, probe: Path) -> None:
    other = make_root(tmp_path / "other", probe)
    (other / "name").write_text("other")
    oci.config["mounts"].insert(0, bind(other, "/"))
    assert oci.shell("cat /name; touch /made; test -e /proc/self/stat && ls /dev/null") == "other/dev/null\n"
    assert (other / "made").exists() and not (oci.bundle / "rootfs" / "made").exists()
    oci.config["root"]["readonly"] = True
    oci.write()
    assert "Read-only" in oci("run", "two").stderr
    assert not oci.leftovers() and str(tmp_path) not in Path("/proc/self/mountinfo").read_text().replace(str(tmp_path / "containers"), "")


def test_a_root_in_memory_begins_as_the_image(oci: Runtime) -> None:
    oci.config["mounts"].insert(0, tmpfs("/", "tmpcopyup"))
    script = "touch /made; cat /etc/passwd /proc/self/mountinfo"
    lines = oci.shell(script).splitlines()
    root = next(line for line in lines if len(line.split()) > 5 and line.split()[4] == "/")
    assert lines[0].startswith("root:") and root.partition(" - ")[2].startswith("tmpfs ")
    assert not (oci.bundle / "rootfs" / "made").exists()


def test_a_mount_on_a_root_that_others_have_is_refused(oci: Runtime) -> None:
    oci.config["mounts"].insert(0, tmpfs("/", "tmpcopyup"))
    oci.config["linux"]["rootfsPropagation"] = "shared"
    oci.command("/bin/true")
    done = oci("run", "one", code=1)
    assert "it is the root itself" in done.stderr and "mounts[0].destination" in done.stderr


@pytest.mark.skipif(
    ":freezer:" not in Path("/proc/self/cgroup").read_text(),
    reason="this host has no freezer of cgroup version 1, so nothing can be held by one",
)
def test_delete_ends_what_a_freezer_of_version_1_holds(oci: Runtime) -> None:
    """On a host that has both versions, as a mount namespace of the test's own shows it; SIGKILL alone does not reach who is in there."""
    oci.command("/bin/sleep", "1000")
    script = f"""
        mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup && mkdir freezer unified && mount -t cgroup2 none unified || exit 77
        mount -t cgroup -o freezer none freezer && cd {oci.bundle} || exit 77
        {oci.program} --root {oci.root} run --detach --pid-file pid one >/dev/null || exit 78
        pid=$(cat pid) group=/sys/fs/cgroup/freezer/pyrun-$(cat pid)
        mkdir $group && echo $pid >$group/cgroup.procs && echo FROZEN >$group/freezer.state || exit 79
        {oci.program} --root {oci.root} delete --force one
        code=$?
        cat $group/cgroup.procs
        echo THAWED >$group/freezer.state
        until rmdir $group; do sleep 0.1; done
        exit $code
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not oci.leftovers()
