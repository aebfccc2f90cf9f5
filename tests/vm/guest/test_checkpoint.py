"""`pyrun-oci checkpoint` and `restore` with Debian's criu, which works with Debian's kernel.

Few containers, each looked at from all sides: the processor is emulated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime
from consoles import Socket, read_until
from waiting import wait_until

COUNT = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; sleep 0.1; done"
FILTER = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ERRNO"}]}

pytestmark = pytest.mark.timeout(600)


class Counter(Runtime):
    """Containers that count, and that have no files of the host as streams."""

    patience = 300

    def count(self) -> int:
        path = self.bundle / "rootfs/tmp/count"
        return int(path.read_text()) if path.exists() else 0

    def goes_on(self) -> None:
        """Fails unless it counts, and not from the start."""
        before = self.count()
        wait_until(lambda: self.count() > before + 1, "it does not count")

    def quiet(self, *words: str | Path, stdout: int = subprocess.DEVNULL) -> None:
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        command = [str(word) for word in (OCI, "--root", self.root, "--log", log, *words)]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.DEVNULL}
        done = subprocess.run(command, cwd=self.bundle, timeout=self.patience, **streams)
        text = log.read_text() if log.exists() else ""
        for found in sorted(self.folder.glob("work/*.log")) if done.returncode else ():
            text += f"{found}:\n" + "\n".join(line for line in found.read_text().splitlines() if "Error" in line or "Warn" in line)
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{text}"

    def begin(self, name: str = "one", script: str = COUNT) -> None:
        self.command("/bin/sh", "-c", script)
        self.quiet("run", "--detach", name)
        wait_until(lambda: self.count() > 2, "it does not count")

    def checkpoint(self, *words: str | Path, name: str = "one") -> Path:
        images = self.folder / "images"
        self.quiet("checkpoint", "--image-path", images, "--work-path", self.folder / "work", *words, name)
        return images

    def restore(self, *words: str | Path, name: str = "one", stdout: int = subprocess.DEVNULL) -> None:
        paths = ["--image-path", self.folder / "images", "--work-path", self.folder / "work"]
        self.quiet("restore", "--detach", *paths, *words, name, stdout=stdout)

    def seen(self, name: str = "one") -> str:
        """What the first process of the container has about it, but for numbers that are new with each."""
        script = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|NSpid)' /proc/1/status; cat /proc/1/oom_score_adj; hostname"
        text = self("exec", name, "/bin/sh", "-c", script).stdout
        mounts = self("exec", name, "/bin/cat", "/proc/1/mountinfo").stdout
        lines = [re.sub(r" (master|shared):\d+", "", line).split(" ") for line in mounts.splitlines()]
        return text + "\n".join(sorted(" ".join([words[3].rpartition("rootfs")[2], *words[4:]]) for words in lines))


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Counter]:
    made = Counter(tmp_path, probe)
    made.config["linux"]["cgroupsPath"] = f"/criu-{tmp_path.name}"
    yield made
    for name in made.leftovers():  # of a test that failed
        made("delete", "--force", name)


def group(oci: Counter) -> Path:
    return Path("/sys/fs/cgroup") / oci.config["linux"]["cgroupsPath"].strip("/")


def test_a_counter_goes_on_counting(oci: Counter, tmp_path: Path) -> None:
    """With its mounts, its filter and its limits, as a container like any other."""
    assert json.loads(oci("features").stdout)["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"
    assert "image-path" in oci("checkpoint", "--help").stdout
    (tmp_path / "volume/deep").mkdir(parents=True)
    (tmp_path / "hosts").write_text("content\n")
    bind = {"type": "bind", "source": str(tmp_path / "volume"), "destination": "/data", "options": ["rbind", "ro", "nosuid"]}
    file = {"type": "bind", "source": str(tmp_path / "hosts"), "destination": "/etc/hosts", "options": ["bind"]}
    oci.config["mounts"] += [bind, file]
    oci.config["linux"]["seccomp"] = FILTER
    told = tmp_path / "told"
    oci.config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {kind} $(grep -o creating) >> {told}"]}]
        for kind in ("createRuntime", "poststop")
    }
    oci.config["linux"]["resources"] = {"memory": {"limit": 200 << 20}, "pids": {"limit": 40}}
    oci.begin(script="echo kept > /dev/shm/file; " + COUNT)
    before = oci.seen()
    oci.checkpoint()
    assert oci.leftovers() == [] and not group(oci).exists(), "it is deleted with its processes"
    assert told.read_text() == "createRuntime creating\npoststop\n"
    stopped = oci.count()
    assert stopped >= 3
    oci.restore("--pid-file", tmp_path / "pid")
    oci.goes_on()
    assert oci.count() > stopped, "it began anew"
    state = oci.state("one")
    assert (state["status"], str(state["pid"])) == ("running", (tmp_path / "pid").read_text())
    assert oci.seen() == before
    assert (group(oci) / "memory.max").read_text() == f"{200 << 20}\n" and (group(oci) / "pids.max").read_text() == "40\n"
    assert str(state["pid"]) in (group(oci) / "cgroup.procs").read_text().split()
    assert oci("exec", "one", "/bin/sh", "-c", "cat /etc/hosts /dev/shm/file; grep ^0: /proc/self/cgroup").stdout == "content\nkept\n0::/\n"
    assert oci("exec", "one", "/bin/touch", "/data/x", code=1).stderr, "its volume is read-only still"
    oci("pause", "one")
    assert oci.state("one")["status"] == "paused"
    oci("resume", "one")
    oci("kill", "one", "KILL")
    wait_until(lambda: oci.state("one")["status"] == "stopped", "it lives")
    oci("delete", "one")
    assert oci.leftovers() == [] and not group(oci).exists()
    assert told.read_text() == "createRuntime creating\npoststop\n" * 2
    assert str(oci.bundle) not in Path("/proc/self/mounts").read_text()


def test_one_that_runs_on_and_another_made_of_it(oci: Counter, tmp_path: Path) -> None:
    """While paused, after a dump that only counts pages; restored in the foreground, under another name, to a pipe."""
    oci.begin(script="trap 'echo ends; exit 7' TERM; " + COUNT)
    oci.quiet("checkpoint", "--pre-dump", "--image-path", tmp_path / "early", "--work-path", tmp_path / "work", "one")
    assert not (tmp_path / "early/pyrun-oci.json").exists(), "which cannot be restored"
    oci("pause", "one")
    oci.checkpoint("--leave-running", "--parent-path", "../early")
    assert oci.state("one")["status"] == "paused"
    oci("resume", "one")
    oci.goes_on()
    oci("delete", "--force", "one")
    words = ["restore", "--image-path", tmp_path / "images", "--work-path", tmp_path / "work", "two"]
    command = [str(word) for word in (OCI, "--root", oci.root, *words)]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, cwd=oci.bundle)
    wait_until((oci.root / "two/state").exists, "it is not restored")
    oci.goes_on()
    process.terminate()
    assert process.wait(120) == 7, "the code of the restored process"
    assert oci.leftovers() == [] and not group(oci).exists()


def test_a_pipe_and_a_connection(oci: Counter, tmp_path: Path) -> None:
    """What was the caller's pipe is the new caller's, and a checkpoint that fails leaves everything as it was."""
    talk = "until cat /proc/net/tcp* | grep -q ' 0A '; do sleep 0.1; done; while :; do echo x; sleep 0.1; done | nc 127.0.0.1 99"
    gate = "echo first; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo second; "
    oci.command("/bin/sh", "-c", f"sleep 1000 | nc -l -p 99 >/tmp/heard & ({talk}) & {gate}{COUNT}")
    heard, images = oci.bundle / "rootfs/tmp/heard", tmp_path / "images"
    read, write = os.pipe()
    oci.quiet("run", "--detach", "one", stdout=write)
    os.close(write)
    with os.fdopen(read) as first:
        assert first.readline() == "first\n"
        wait_until(lambda: heard.exists() and heard.stat().st_size, "nobody talks")
        done = oci("checkpoint", "--image-path", images, "one", code=1)
        assert "tcp-established" in done.stderr and not images.exists(), done.stderr
        assert oci.state("one")["status"] == "running"
        oci.checkpoint("--tcp-established")
    said = heard.stat().st_size
    read, write = os.pipe()
    oci.restore("--tcp-established", stdout=write)
    os.close(write)
    with os.fdopen(read) as second:
        (oci.bundle / "rootfs/tmp/go").touch()
        assert second.readline() == "second\n"
    oci.goes_on()
    wait_until(lambda: heard.stat().st_size > said, "the connection is dead")
    oci("delete", "--force", "one")


def test_a_terminal_is_handed_over_again(oci: Counter, tmp_path: Path) -> None:
    oci.config["process"]["terminal"] = True
    oci.command("/bin/sh", "-c", "echo ready; read -r x; echo got $x; read -r x; exit 5")
    listener = Socket(tmp_path / "socket")
    oci("run", "--detach", "--console-socket", tmp_path / "socket", "one")
    master, _ = listener.master()
    read_until(master, b"ready")
    oci.checkpoint()
    os.close(master)
    oci.restore("--console-socket", tmp_path / "socket")
    master, name = listener.master()
    assert name.startswith("/dev/pts/")
    os.write(master, b"typed\n")
    read_until(master, b"got typed")
    os.close(master)
    listener.close()
    oci("delete", "--force", "one")
    assert oci.leftovers() == []


def test_what_would_be_lost_is_refused(oci: Counter, tmp_path: Path) -> None:
    """While the container runs, and it runs on."""
    images = tmp_path / "images"
    oci.command("/bin/sleep", "1000")
    oci("create", "one")
    assert "is created" in oci("checkpoint", "--image-path", images, "one", code=1).stderr
    oci("start", "one")
    assert "descriptor 1: is a file of the host" in oci("checkpoint", "--image-path", images, "one", code=1).stderr, "that of the harness"
    assert "not relative" in oci("checkpoint", "--image-path", images, "--parent-path", "/x", "one", code=2).stderr
    assert oci.state("one")["status"] == "running" and not images.exists()
    oci("delete", "--force", "one")
    assert "does not exist" in oci("checkpoint", "one", code=1).stderr
    other = subprocess.Popen(["unshare", "--ipc", "sleep", "1000"])
    place = f"/proc/{other.pid}/ns/ipc"
    while os.readlink(place) == os.readlink("/proc/self/ns/ipc"):
        time.sleep(0.01)
    others = [row for row in oci.config["linux"]["namespaces"] if row["type"] != "ipc"]
    oci.config["linux"]["namespaces"] = [*others, {"type": "ipc", "path": place}]
    oci.begin()
    done = oci("checkpoint", "--image-path", images, "one", code=1)
    assert f"linux.namespaces[{len(others)}]" in done.stderr and not images.exists()
    oci.goes_on()
    other.kill()
    other.wait()


def test_a_checkpoint_that_cannot_be_finished_ends_nothing(oci: Counter, tmp_path: Path) -> None:
    """All is written, and cannot be put in its place."""
    obstacle = tmp_path / "images/pyrun-oci.json"
    obstacle.mkdir(parents=True)
    oci.begin()
    error = oci("checkpoint", "--image-path", tmp_path / "images", "one", code=1).stderr
    assert "is a directory" in error and os.listdir(tmp_path / "images") == [obstacle.name]
    assert oci.state("one")["status"] == "running"
    oci.goes_on()


def test_what_cannot_be_restored_leaves_nothing(oci: Counter, tmp_path: Path) -> None:
    oci.begin()
    oci.checkpoint()
    images, mounts = tmp_path / "images", Path("/proc/self/mounts").read_text()

    def refused(*words: str | Path) -> str:
        done = oci("restore", "--detach", "--image-path", images, "--work-path", tmp_path / "work", *words, "one", code=1)
        assert oci.leftovers() == [] and not group(oci).exists() and Path("/proc/self/mounts").read_text() == mounts
        assert len(done.stderr.splitlines()) == 2, done.stderr
        return done.stderr

    pages = images / "pages-1.img"
    data = pages.read_bytes()
    pages.write_bytes(data[:-4096])
    assert "pages-1.img has" in refused()
    pages.write_bytes(data)
    oci.config["mounts"].append({"type": "tmpfs", "destination": "/more"})
    oci.write()
    assert "the configuration /more" in refused()
    oci.config["mounts"].pop()
    oci.write()
    program, kept = oci.bundle / "rootfs/bin/busybox", tmp_path / "busybox"
    shutil.move(program, kept)
    program.write_bytes(kept.read_bytes() + b"changed")
    program.chmod(0o755)
    assert "bin/busybox" in refused()
    shutil.move(kept, program)
    before = oci.count()
    oci.restore()
    wait_until(lambda: oci.count() > before, "what failed has damaged it")
    oci("delete", "--force", "one")


def test_sources_that_are_mounted_in_one_another(oci: Counter, tmp_path: Path) -> None:
    """And the bundle itself; and criu's own file of options, which says where its log is."""
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
    (tmp_path / "inner/file").write_text("inner\n")
    places = {"/data": tmp_path / "outer", "/data/for/inner": tmp_path / "inner", "/bundle": "."}
    oci.config["mounts"] += [
        {"type": "bind", "source": str(source), "destination": at, "options": ["bind"]} for at, source in places.items()
    ]
    (tmp_path / "criu.conf").write_text("log-file=other.log\n")
    oci.config["annotations"] = {"org.criu.config": str(tmp_path / "criu.conf")}
    oci.begin()
    oci.checkpoint()
    shutil.rmtree(tmp_path / "outer/for")
    assert (tmp_path / "work/other.log").exists() and not (tmp_path / "work/dump.log").exists()
    (tmp_path / "work/other.log").unlink()
    oci.restore(stdout=subprocess.PIPE)  # in the place of the null device, which a pipe cannot be
    oci.goes_on()
    assert (tmp_path / "work/other.log").exists() and not (tmp_path / "work/restore.log").exists()
    assert oci("exec", "one", "/bin/cat", "/data/for/inner/file").stdout == "inner\n"
    assert "org.criu.config" in oci("exec", "one", "/bin/cat", "/bundle/config.json").stdout


def test_pages_may_come_later(oci: Counter, tmp_path: Path) -> None:
    """While the container is elsewhere already; when all have been taken it is gone where it was."""
    oci.begin()
    stopped = oci.count()
    ready, told = os.pipe()
    images = tmp_path / "images"
    words: list[str | Path | int] = ["checkpoint", "--image-path", images, "--work-path", tmp_path / "work", "--lazy-pages"]
    words += ["--page-server", "127.0.0.1:27117", "--status-fd", told, "one"]
    null: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": oci.bundle}
    serving = subprocess.Popen([str(word) for word in (OCI, "--root", oci.root, *words)], pass_fds=[told], **null)
    os.close(told)
    assert os.read(ready, 1) == b"\0"
    os.close(ready)
    where = ["--page-server", "--address", "127.0.0.1", "--port", "27117", "--images-dir", images, "--work-dir", tmp_path / "work"]
    taking = subprocess.Popen(["criu", "lazy-pages", *map(str, where)], **null)
    wait_until((tmp_path / "work/lazy-pages.socket").exists)
    oci.config["linux"]["cgroupsPath"] += "-two"
    oci.write()
    oci.restore("--lazy-pages", name="two")
    assert (serving.wait(300), taking.wait(300)) == (0, 0)
    assert oci.leftovers() == ["two"] and oci.count() >= stopped
    oci.goes_on()


def test_a_container_that_serves_its_pages_can_be_deleted(oci: Counter, tmp_path: Path) -> None:
    oci.begin()
    ready, told = os.pipe()
    words: list[str | Path | int] = ["checkpoint", "--image-path", tmp_path / "images", "--lazy-pages"]
    words += ["--page-server", "127.0.0.1:27118", "--status-fd", told, "one"]
    null: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": oci.bundle}
    serving = subprocess.Popen([str(word) for word in (OCI, "--root", oci.root, *words)], pass_fds=[told], **null)
    os.close(told)
    assert os.read(ready, 1) == b"\0"
    os.close(ready)
    (criu,) = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
    oci("delete", "--force", "one")
    assert oci.leftovers() == [] and not group(oci).exists()
    os.kill(int(criu), signal.SIGKILL)  # nobody will ask it
    serving.wait(60)


def test_namespaces_of_the_runtime(oci: Counter) -> None:
    """By path: criu leaves them as they are.  What has a pid there has the same one again."""
    for one in oci.config["linux"]["namespaces"]:
        if one["type"] in ("pid", "ipc", "uts"):
            one["path"] = f"/proc/{os.getpid()}/ns/{one['type']}"
    oci.begin()
    before = oci.state("one")["pid"]
    oci.checkpoint()
    assert not Path(f"/proc/{before}").exists()
    oci.restore()
    oci.goes_on()
    assert oci.state("one")["pid"] == before
    for kind in ("pid", "ipc", "uts"):
        assert os.readlink(f"/proc/{before}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    oci("delete", "--force", "one")
