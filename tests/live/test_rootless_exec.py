"""One more process in a pod of the library's, for whoever is not root: what it sees is what the app sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lowered
import pytest
from users import PLAIN, User
from waiting import wait_until

import pyrun as library
from pyrun.errors import ConfigError, ExecError, StateError

KINDS = ("user", "pid", "ipc", "uts", "net", "mnt", "cgroup")
LOOK = "; ".join(
    [
        "id",
        *[f"readlink /proc/self/ns/{kind}" for kind in KINDS],
        "grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp|Sig(Blk|Ign))' /proc/self/status",
        "grep ^0:: /proc/self/cgroup",
        "cat /proc/self/oom_score_adj /proc/self/limits /proc/self/uid_map /proc/self/setgroups /proc/self/mountinfo",
        "ls /proc/self/fd | wc -l",
        "hostname; pwd; umask; env | sort; echo end",
    ]
)


def said(app: library.Container | library.Pod, *argv: str, **more: Any) -> str:
    read, write = os.pipe()
    process = app.exec(argv, stdout=write, **more)
    os.close(write)
    with open(read) as file:
        text = file.read()
    assert process.wait() == 0, text
    return text


def look_twice(root: str, **more: Any) -> object:
    """What the app and then one more process see, and what that sees of the app."""
    with library.start(None, ["sh", "-c", LOOK + "; sleep 1000"], rootfs="host", root=root, stdout=library.PIPE, **more) as app:
        first = ""
        while not first.endswith("end\n"):
            assert app.stdout
            more_of_it = app.stdout.read(65536)
            assert more_of_it, first
            first += more_of_it.decode()
        app.wait_running()
        second = said(app, "sh", "-c", LOOK)
        script = (
            "tr '\\0' ' ' </proc/2/cmdline; echo; grep PPid /proc/$$/status; kill -0 2 && echo reached; readlink /proc/1/exe || echo kept"
        )
        return [first, second, said(app, "sh", "-c", script)]


def check(found: Any) -> None:
    first, second, others = found
    assert first == second
    assert "uid=0(root)" in first and "NoNewPrivs:\t1" in first and "Seccomp:\t2" in first and "0::/\n" in first
    host = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in KINDS}
    assert all(name not in first for kind, name in host.items() if kind != "net")
    assert others.startswith("sh -c id; ") and "PPid:\t0\n" in others and "reached\nkept\n" in others


def test_it_sees_what_the_app_sees(as_nobody: lowered.Calls) -> None:
    """Namespaces, ids, capabilities, filter, limits, mounts, descriptors, variables; the app is its neighbour, init stays out of reach."""
    found: Any = as_nobody(lambda root: look_twice(root, rlimit=["nofile=99"], set_env={"A": "b"}, working_dir="/usr", umask=0o27))
    check(found)
    assert os.readlink("/proc/self/ns/net") not in found[0]


def test_with_the_network_of_the_host(as_nobody: lowered.Calls) -> None:
    found: Any = as_nobody(lambda root: look_twice(root, net="host"))
    check(found)
    assert os.readlink("/proc/self/ns/net") in found[0]


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """A cgroup that is nobody's, as systemd gives one away with Delegate=yes."""
    path = Path("/sys/fs/cgroup") / f"given-{os.getpid()}"
    path.mkdir()
    for one in (path, path / "cgroup.procs", path / "cgroup.subtree_control"):
        os.chown(one, lowered.NOBODY, lowered.NOBODY)
    yield path

    def remove() -> bool:
        with contextlib.suppress(OSError):
            for below in [*path.glob("*/"), path]:
                below.rmdir()
        return not path.exists()

    wait_until(remove)


def test_it_is_born_in_the_cgroup_of_the_pod(tmp_path: Path, own_cgroup: Path) -> None:
    def work(root: str) -> object:
        found = look_twice(root)
        with library.start(None, ["sleep", "1000"], rootfs="host", root=root) as app:
            app.wait_running()
            with app.exec(["sleep", "1000"]):
                where = str(app.pod.status()["cgroup"])

                def both() -> bool:
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # who goes there first ends then
                        pids = Path(where, "cgroup.procs").read_text().split()
                        return [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids].count("sleep\x001000\x00") == 2
                    return False

                wait_until(both)
                return [found, where]

    seen: Any = lowered.call(work, lowered.prepare(tmp_path), own_cgroup)
    check(seen[0])
    assert seen[1].startswith(f"{own_cgroup}/")


def test_ends_and_errors(as_nobody: lowered.Calls) -> None:
    def work(root: str) -> object:
        seen: list[object] = []
        with library.start(None, ["sleep", "1000"], rootfs="host", root=root) as app:
            seen.append([app.exec(["sh", "-c", f"exit {code}"]).wait() for code in (0, 3, 255)])
            seen.append(app.exec(["sh", "-c", "kill -15 $$"]).wait())
            process = app.exec(["sleep", "1000"])
            process.kill()
            seen.append(process.wait())
            seen.append(said(app, "sh", "-c", "read x; echo $x", stdin=os.open("/proc/self/comm", os.O_RDONLY)) != "")
            seen.append(app.exec([], stdin=os.open("/dev/null", os.O_RDONLY)).wait())  # a shell that reads nothing
            seen.append(app.exec(["true"], user="root", group="0").wait())
            begun, tell = os.pipe()
            last = app.exec(["sh", "-c", "echo; exec sleep 1000 >/dev/null"], stdout=tell)
            os.read(begun, 1)
            for wrong, words in (({}, ["/nope"]), ({"user": "games"}, ["true"]), ({"working_dir": "/nope"}, ["true"])):
                try:
                    app.exec(words, **wrong).wait()  # type: ignore[arg-type]
                except (ExecError, ConfigError, library.SetupError) as error:
                    seen.append(str(error))
            app.kill(9)
            seen.append(last.wait())
            app.wait()
        with contextlib.suppress(StateError):
            app.exec(["true"]).wait()
            seen.append("it was entered after its end")
        library.settle(root=root)
        left = [name for phase in ("preparing", "running", "garbage") for name in os.listdir(f"{root}/pods/{phase}")]
        return [*seen, left]

    seen: Any = as_nobody(work)
    assert seen[:6] == [[0, 3, 255], -15, -9, True, 0, 0]
    assert seen[6].startswith("execute /nope: no such file") and "one user inside" in seen[7] and "/nope" in seen[8]
    assert seen[9:] == [-9, []]


def test_on_an_event_loop(as_nobody: lowered.Calls, tmp_path: Path) -> None:
    async def main(root: str) -> list[int]:
        async with await library.aio.start(None, ["sleep", "1000"], rootfs="host", root=root) as app:
            other = await app.exec(["sleep", "1000"])
            first = await (await app.exec(["sh", "-c", "exit 4"])).wait()
            other.kill(9)
            return [first, await other.wait()]

    own = str(tmp_path / "roots")
    assert asyncio.run(main(own)) == [4, -9]  # and all is imported
    assert as_nobody(lambda root: asyncio.run(main(root))) == [4, -9]


KEPT = """
import os, sys, pyrun
pod = pyrun.detach(None, ["sleep", "1000"], rootfs="host", pod_name="web", health_cmd="test -e /tmp/well", health_interval="50ms")
print(pod.uuid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def user() -> Iterator[User]:
    made = User(PLAIN)
    yield made
    made.close()


def test_a_pod_in_the_background(user: User) -> None:
    """Any process of the user's enters it, the command and the keeper's checks of its health too."""
    uuid = user.run(sys.executable, "-c", KEPT).out.strip()
    script = "import pyrun, sys; sys.exit(pyrun.attach('web').exec(['sh', '-c', 'touch /tmp/well; exit 9']).wait())"
    try:
        user.run(sys.executable, "-c", script, code=9)
        assert user.pyrun("exec", "web", "--", "sh", "-c", "id -u; hostname").out.split() == ["0", f"pyrun-{uuid}"]
        user.pyrun("wait", "--condition", "healthy", "web")
        user.pyrun("cp", "web:/tmp/well", user.home / "well")
        assert (user.home / "well").stat().st_uid == user.uid
    finally:
        user.pyrun("rm", "--force", "web")


def test_the_handler_of_its_end(user: User, image: Callable[..., Path]) -> None:
    """It is one more process in the pod, by the pod's own supervisor."""
    events = [{"name": "post-stop", "exec": ["/bin/sh", "-c", "id -u; cat /kept"]}]

    def edit(made: Any) -> None:
        made.busybox()
        made.manifest["app"]["eventHandlers"] = events

    path = image("example.com/handled", ["/bin/sh", "-c", "echo word >/kept"], edit=edit)
    given = user.home / path.name
    shutil.copyfile(path, given)
    given.chmod(0o644)
    user.pyrun("fetch", "--insecure-options=image", given)
    script = "import pyrun; pyrun.run('example.com/handled', insecure_options=['image']); pyrun.settle()"
    assert user.run(sys.executable, "-c", script).out == "0\nword\n"
