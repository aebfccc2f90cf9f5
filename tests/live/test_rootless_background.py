"""The library's pods in the background without root: they live as the command line's do, with all ids that their user may have."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import COMMAND
from users import COUNT, PLAIN, RANGE, RANGED, User
from waiting import wait_until

BEGIN = """
import contextlib, io, json, os, signal, subprocess, sys, threading, time, pyrun
IMAGE, OWN = "example.com/busybox", {"exec": "/bin/sh", "insecure_options": ["image"]}
os.chdir(os.environ["HOME"])

def said(pod, script, **more):
    read, write = os.pipe()
    process = pod.exec(["/bin/sh", "-c", script], stdout=write, stderr=write, **more)
    os.close(write)
    with open(read) as file:
        text = file.read()
    return [process.wait(), text]

def until(pod, script, **more):
    while said(pod, script, **more)[0]:
        time.sleep(0.02)

def show(*found):
    print(json.dumps(found))

"""
IDS = "id -u; cat /proc/self/uid_map; for kind in user net mnt pid ipc; do readlink /proc/self/ns/$kind; done; hostname"
CONFINED = "grep -E '^(Cap|NoNew|Seccomp:|Groups)' /proc/self/status; cat /proc/self/limits; grep ^0:: /proc/self/cgroup"


@pytest.fixture(params=[PLAIN, RANGED])
def user(request: pytest.FixtureRequest, ranges: None, busybox: Path) -> Iterator[User]:
    made = User(request.param)
    copy = made.home / busybox.name
    shutil.copyfile(busybox, copy)
    copy.chmod(0o644)
    made.pyrun("fetch", "--insecure-options=image", copy)
    yield made
    for one in json.loads(made.pyrun("list", "--format", "json").out):  # of a test that failed
        made.pyrun("rm", "--force", one["uuid"], code=None)
    made.close()


def python(user: User, script: str, **given: str) -> list[object]:
    """What a program of the user's shows; it has `given` as variables."""
    variables = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    found: list[object] = json.loads(user.run(sys.executable, "-c", BEGIN + variables + script).out)
    return found


def other_of(user: User) -> str:
    """An id that is there only with a range."""
    return "1000" if user.name == RANGED else "0"


def ids(user: User) -> list[str]:
    """The id map of the user's pods, as words."""
    return ["0", str(user.uid), "1", *(["1", str(RANGE), str(COUNT)] if user.name == RANGED else [])]


def left(user: User) -> list[str]:
    return [name for phase in ("preparing", "prepared", "running", "exited", "garbage") for name in os.listdir(user.state / "pods" / phase)]


STARTED = """
pod = pyrun.detach(IMAGE, ["-c", "{ " + look + "; } >/look; chmod 0 /look; exec sleep 1000"], pod_name="web", **OWN)
show(pod.uuid, os.readlink("/proc/self/ns/user"))
"""
ATTACHED = """
pod = pyrun.Container.attach("web")
until(pod, "test -s /look && test $(stat -c %a /look) = 0")
first, second = said(pod, "chmod 600 /look; cat /look; chmod 0 /look"), said(pod, look)
pod.copy_out("/look", "look")
os.chmod("look", 0o600)
with open("look") as file:
    copied = file.read()
with open("given", "w") as file:
    file.write("word")
pod.copy_in("given", "/tmp")
show(pod.uuid, first[1], second[1], copied, said(pod, "stat -c %u:%g /tmp/given; cat /tmp/given"))
"""


def test_started_entered_copied_and_removed(user: User) -> None:
    """By one process after the other: what runs inside is what the command line would run, whoever enters it is confined alike."""
    look = f"{IDS}; {CONFINED}"
    uuid, host = python(user, STARTED, look=look)
    seen, first, second, copied, given = python(user, ATTACHED, look=look)
    assert seen == uuid and first == second == copied and given == [0, "0:0\nword"]
    assert isinstance(first, str)
    words = first.split()
    assert words[: 1 + len(ids(user))] == ["0", *ids(user)] and f"pyrun-{uuid}" in words and "Seccomp:\t2" in first
    assert str(host) not in first
    assert user.pyrun("exec", "web", "--", "/bin/sh", "-c", look).out == first, "the command line enters it as well"
    assert python(user, "pod = pyrun.attach('web')\npod.stop(force=True)\npod.remove()\nshow(*pyrun.list_pods())") == []
    assert left(user) == []


OTHERS = """
pod = pyrun.detach(IMAGE, ["-c", "umask 77; mkdir /tmp/d; echo x >/tmp/d/x; exec sleep 1000"], user=other, **OWN)
until(pod, "test -s /tmp/d/x")
pod.copy_out("/tmp/d", "d")
status, out = os.stat("d/x"), io.BytesIO()
pod.export(out, changes=True)
inside = said(pod, "id -u; stat -c %u /tmp/d/x")[1].split()
pod.stop(force=True)
again = pod.restart()
pod.remove(force=True)
show(status.st_uid, status.st_mode & 0o777, inside, b"tmp/d/x" in out.getvalue(), again > 0, pod.exists())
"""
REFUSED = """
try:
    pyrun.detach(IMAGE, user="1000", **OWN)
except pyrun.ConfigError as error:
    show(str(error), error.hint)
"""


def test_files_of_others(user: User) -> None:
    """Of ids that are there only inside: copied, exported, removed; without a range there is one user, and others are refused."""
    other = other_of(user)
    assert python(user, OTHERS, other=other) == [user.uid, 0o600, [other, other], True, True, False]
    if user.name == PLAIN:
        reason, hint = python(user, REFUSED)
        assert "one user inside" in str(reason) and "/etc/subuid" in str(hint)
    assert left(user) == []


def test_pods_of_the_command_lines(user: User) -> None:
    """Prepared there and started here, entered here, and the other way round."""
    words = ("--pod-name", "web", "--insecure-options=image", "example.com/busybox", "--exec", "/bin/sh", "--", "-c", "exec sleep 1000")
    user.pyrun("prepare", *words)
    script = "pod = pyrun.attach('web')\npod.start()\nshow(*said(pod, look), *said(pod, 'id -u', user=who))"
    code, text, *who = python(user, script, look=IDS, who="app" if user.name == RANGED else "root")
    assert code == 0 and str(text).split()[: 1 + len(ids(user))] == ["0", *ids(user)] and who == [0, other_of(user) + "\n"]
    assert user.pyrun("exec", "web", "--", "/bin/sh", "-c", IDS).out == text
    user.pyrun("restart", "web")
    python(user, "pod = pyrun.attach('web')\npod.restart()\npod.remove(force=True)\nshow()")
    (uuid,) = python(user, "show(pyrun.create(None, ['sleep', '1000'], rootfs='host', pod_name='mine').uuid)")
    assert user.pyrun("run-prepared", "--detach", "mine").out.strip() == uuid
    user.pyrun("restart", "mine")
    assert user.pyrun("exec", "mine", "--", "id", "-u").out == "0\n"
    user.pyrun("rm", "--force", "mine")
    assert left(user) == []


SEVERAL = """
apps = [
    pyrun.App(IMAGE, ["-c", "echo one >/dev/shm/one; exec sleep 1001"], name="one", **OWN),
    pyrun.App(IMAGE, ["-c", "exec sleep 1002"], name="two", user=other, volume=[pyrun.Volume("/v", kind="empty", mode=0o777)], **OWN),
]
with pyrun.create_pod(apps, pod_name="site", pid=pid) as pod:
    pod.start()
    until(pod, "test -s /dev/shm/one", app="one")
    look = "for kind in user net ipc; do readlink /proc/self/ns/$kind; done; hostname; cat /dev/shm/one"
    one, two = said(pod, look, app="one"), said(pod, look, app="two")
    sees = said(pod, "cat /proc/[0-9]*/cmdline", app="two")[1]
    who = said(pod, "id -u; ls /sys/class/net; stat -c %u /v", app="two")
    with open("given", "w") as file:
        file.write("word")
    pod.copy_in("given", "/v", app="two")
    pod.copy_out("/v/given", "got", app="two")
    kept = [said(pod, "ls /v", app=app)[0] for app in ("one", "two")]
    with open("got") as file:
        show(one, two, sees, who, kept, file.read())
"""


@pytest.mark.parametrize("pid", ["app", "pod"])
def test_several_apps(user: User, pid: str) -> None:
    """They share network, /dev/shm and, if asked for, process numbers; each has its own user and volume."""
    one, two, sees, who, kept, got = python(user, SEVERAL, pid=pid, other=other_of(user))
    assert isinstance(one, list) and isinstance(sees, str) and isinstance(kept, list)
    assert one == two and one[0] == 0 and one[1].startswith("user:[") and one[1].endswith("\none\n")
    assert ("1001" in sees) == (pid == "pod") and "1002" in sees
    assert who == [0, f"{other_of(user)}\nlo\n0\n"] and kept[0] != 0 and kept[1] == 0 and got == "word"
    assert left(user) == []


CHECKED = """
pod = pyrun.detach(IMAGE, ["-c", "exec sleep 1000"], net="host", pod_name="web", health_cmd="touch /well", health_interval="50ms", **OWN)
show(*said(pod, "readlink /proc/self/ns/net"))
"""
BOTH = """
apps = [pyrun.App(IMAGE, ["-c", "exec sleep 1000"], name=name, **OWN) for name in ("one", "two")]
with pyrun.create_pod(apps, net="host") as pod:
    pod.start()
    show(*said(pod, "readlink /proc/self/ns/net", app="two"))
"""


def test_network_of_the_host(user: User) -> None:
    """Of one app and of several: who enters is in it, by the library and by the command, and so is what checks its health."""
    host = os.readlink("/proc/self/ns/net")
    assert python(user, CHECKED) == [0, host + "\n"]
    assert user.pyrun("exec", "web", "--", "readlink", "/proc/self/ns/net").out == host + "\n"
    user.pyrun("wait", "--condition", "healthy", "web")
    user.within = ["unshare", "--net"]
    refused = user.pyrun("exec", "web", "--", "true", code=125)
    user.within = []
    assert "and this is another one" in refused.err
    user.pyrun("rm", "--force", "web")
    assert python(user, BOTH) == [0, host + "\n"]


COPIED = """
script = "echo x >/x; chmod 0 /x; mkdir /closed; echo y >/closed/y; chmod 0 /closed; exec sleep 1000"
with pyrun.start(IMAGE, ["-c", script], **OWN) as app:
    until(app, "test -e /closed/y && test $(stat -c %a /closed) = 0")
    app.pod.copy_out("/x", "x")
    app.pod.copy_out("/closed", "closed")
    os.chmod("x", 0o600)
    os.chmod("closed", 0o700)
    app.pod.copy_in("x", "/closed/x")
    inside = said(app, "cat /closed/x; stat -c %u:%a /closed/x")
    code = subprocess.run([command, "cp", app.uuid + ":/closed/y", "y"]).returncode
    show(*[open(name).read() for name in ("x", "closed/y", "y")], inside, code)
"""


def test_a_pod_that_ends_with_its_program(user: User) -> None:
    """It has a user namespace of its own: files of any mode are copied, by the library and by the command."""
    assert python(user, COPIED, command=str(COMMAND)) == ["x\n", "y\n", "y\n", [0, "x\n0:600\n"], 0]


TRIED = """
found = []
def tried(what, *args, **more):
    try:
        what(*args, **more)
    except pyrun.PyrunError as error:
        found.append([type(error).__name__, str(error), error.hint])

tried(pyrun.detach, "example.com/none")
tried(pyrun.detach, IMAGE, exec="/nope", insecure_options=["image"])
tried(pyrun.detach, IMAGE, color="red", **OWN)
tried(pyrun.detach, IMAGE, hostname=object(), **OWN)
tried(pyrun.create_pod, [])
tried(pyrun.create_pod, [pyrun.App(IMAGE, **OWN)] * 2)
pod = pyrun.detach(IMAGE, ["-c", "exec sleep 1000"], **OWN)
tried(pod.copy_out, "/nope", "nope")
tried(pod.start)
pod.remove(force=True)
tried(pod.copy_in, "/etc/hostname", "/tmp")
show(*found)
"""


def test_errors_are_those_of_the_child(user: User) -> None:
    """Typed, with their hints; nothing is left."""
    found = python(user, TRIED)
    assert all(isinstance(one, list) and (one[2] or one[1].endswith("has no app")) for one in found), found
    kinds, said, _ = zip(*found, strict=True)  # type: ignore[call-overload]
    wanted = "NotFoundError ExecError UsageError UsageError UsageError UsageError StateError StateError StateError".split()
    assert list(kinds) == wanted, found
    for one, words in zip(said, ("example.com/none", "/nope: no such file", "color", "hostname", "no app", "that name"), strict=False):
        assert words in one
    assert left(user) == []


INTERRUPTED = """
count = 0
for number in range(8):
    try:
        threading.Timer(0.01 + 0.02 * number, os.kill, (os.getpid(), signal.SIGINT)).start()
        pyrun.create(IMAGE, **OWN)
        time.sleep(10)
    except KeyboardInterrupt:
        count += 1
for one in pyrun.list_pods():
    with contextlib.suppress(pyrun.StateError):  # it is taken back just now
        pyrun.attach(one["uuid"]).remove()
show(count)
"""
# the moment at which nobody could tell the child that it is not wanted any more
UNHEARD = """
plain, seen = subprocess.Popen, []
class Interrupted(plain):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        raise KeyboardInterrupt

web = [pyrun.App(IMAGE, ["-c", "exec sleep 1000"], name=name, **OWN) for name in ("one", "two")]
for make in (pyrun.create, pyrun.detach, lambda *_, **__: pyrun.create_pod(web)):
    subprocess.Popen = Interrupted
    try:
        make(IMAGE, ["-c", "exec sleep 1000"], **OWN)
    except KeyboardInterrupt:
        subprocess.Popen = plain
        os.waitpid(-1, 0)
        seen.append([one["state"] for one in pyrun.list_pods()])
show(*seen)
"""


def test_a_program_that_is_interrupted_before_it_knows_of_the_child(user: User) -> None:
    """Which then takes back what it has made."""
    assert python(user, UNHEARD) == [[]] * 3
    wait_until(lambda: left(user) == [])


def test_a_program_that_is_interrupted(user: User) -> None:
    """While a child works for it: what is half made goes with it."""
    assert python(user, INTERRUPTED) == [8]
    wait_until(lambda: left(user) == [])


GIVEN = """
own = open("/proc/self/cgroup").read().rpartition("0::")[2].strip()
pod = pyrun.detach(IMAGE, ["-c", "exec sleep 1000"], pod_name="web", **OWN)
apps = [pyrun.App(IMAGE, ["-c", "exec sleep 1000"], name=name, **OWN) for name in ("one", "two")]
several = pyrun.create_pod(apps, pod_name="site")
several.start()
show(own, pod.status()["cgroup"], several.status()["cgroup"])
"""
BORN = """
pod = pyrun.attach("web")
where = pod.status()["cgroup"]
def count():
    with open(where + "/cgroup.procs") as file:
        return len(file.read().split())

before = count()
with pod.exec(["sleep", "1000"]):
    while count() == before:
        time.sleep(0.02)
    used = pod.stats()["cpu_usec"]
pod.pause()
frozen = open(where + "/cgroup.events").read().split()
pod.resume()
show(before, used > 0, frozen[-2:], said(pyrun.attach("site"), "grep ^0:: /proc/self/cgroup", app="two"))
"""


@pytest.fixture
def given(user: User) -> Iterator[Path]:
    """A cgroup that is the user's, as systemd gives one away with Delegate=yes, in which programs of the user's are started."""
    path = Path("/sys/fs/cgroup") / f"given-{user.name}-{os.getpid()}"
    path.mkdir()
    for one in (path, path / "cgroup.procs", path / "cgroup.subtree_control"):
        os.chown(one, user.uid, user.uid)
    user.within = ["sh", "-c", f'echo $$ >{path}/cgroup.procs && exec "$@"', "sh"]
    yield path
    for name in ("web", "site"):
        user.pyrun("rm", "--force", name, code=None)
    user.within = []

    def removed() -> bool:
        with contextlib.suppress(OSError):
            path.rmdir()
        return not path.exists()

    wait_until(removed)


def test_a_cgroup_of_the_users_own(user: User, given: Path) -> None:
    """The pods are in it beside the program and outlive that; who enters is born in the pod's; nothing stays."""
    own, *pods = python(user, GIVEN)
    assert own == f"/{given.name}" and all(str(pod).startswith(f"{given}/pyrun-") for pod in pods)
    assert python(user, BORN) == [2, True, ["frozen", "1"], [0, "0::/\n"]]
    user.pyrun("rm", "--force", "web", "site")
    wait_until(lambda: not list(given.glob("pyrun-*")))
