"""Networks of the library's pods without root, by pasta and by slirp4netns: what goes through, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import HOST, OUTSIDE, Server
from networld import SERVE, get
from userplace import Place
from waiting import wait_until

BEGIN = "import asyncio, json, os, sys, pyrun\nfrom pyrun import aio\nIMAGE = 'example.com/busybox'\n"
BEGIN += "KIND = {'exec': '/bin/sh', 'insecure_options': ['image']}\n"
LOOK = "ls /sys/class/net | sort; ip route | grep -c default; nc -w 20 %s 7000; id -u; readlink /proc/self/ns/net; cat /proc/self/uid_map"

pytestmark = pytest.mark.usefixtures("tun")


@pytest.fixture(params=["pasta", "slirp4netns"])
def place(request: pytest.FixtureRequest, busybox: Path) -> Iterator[Place]:
    made = Place(busybox, request.param)
    yield made
    made.close()


def left(place: Place) -> list[str]:
    """Also of what is being removed."""
    return [*place.left(), *[name for phase in ("preparing", "garbage") for name in os.listdir(place.user.state / "pods" / phase)]]


def python(place: Place, script: str, **more: object) -> str:
    return place.user.run(sys.executable, "-c", BEGIN + script, **more).out  # type: ignore[arg-type]


def test_what_goes_out(busybox: Path) -> None:
    """By slirp4netns, whose age does not depend on the kernel: from the app and from one more process in it, which is where the app is."""
    place = Place(busybox, "slirp4netns")
    script = f"look = '{LOOK % OUTSIDE[0]}'\n"
    script += "with pyrun.start(IMAGE, ['-c', look + '; exec sleep 1000'], net='default', stdout=pyrun.PIPE, **KIND) as app:\n"
    script += " said = b''\n while not said.count(b'\\n') >= 7: said += app.stdout.read(4096)\n"
    script += " read, write = os.pipe(); other = app.exec(['/bin/sh', '-c', look], stdout=write); os.close(write)\n"
    script += " print(json.dumps([said.decode(), os.fdopen(read).read(), other.wait(), os.readlink('/proc/self/ns/net')]))\n"
    try:
        with Server(place.outside, 7000):
            first, second, code, host = json.loads(python(place, script))
        assert first == second and code == 0 and host not in first
        assert first.split()[:5] == ["lo", "tap0", "1", HOST[0], "0"], "the network is there before the app"
        wait_until(lambda: left(place) == [])
    finally:
        place.close()


def test_forwarded_ports(place: Place) -> None:
    """Until its end, by whatever; the port is free again then."""
    script = f"with pyrun.start(IMAGE, ['-c', {SERVE.format(word='web', port=80)!r}], port=['8080:80'], **KIND) as app:\n"
    script += " print(app.pod.status()['ports'], flush=True); sys.stdin.readline()\n"
    words = place.user.command(sys.executable, "-c", BEGIN + script)
    for end in ("input", "kill"):
        with subprocess.Popen(words, env=place.user.env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdin and program.stdout
            assert "8080" in program.stdout.readline()
            assert get(place.host, "127.0.0.1", 8080) == "web"
            assert len(place.helpers()) == 1
            if end == "kill":
                program.kill()
        wait_until(lambda: left(place) == [])


def test_runs_and_loops(busybox: Path) -> None:
    """To the end, several at once on an event loop, cancelled, in a pool; a program that is not there, a port that is taken."""
    place = Place(busybox, "slirp4netns")
    script = "WORDS = ['-c', 'ip -o link show tap0 | grep -c UP']\n"
    script += "async def main():\n"
    script += " one = lambda: aio.run(IMAGE, WORDS, net='default', capture_output=True, **KIND)\n"
    script += " print([done.stdout for done in await asyncio.gather(one(), one())])\n"
    script += " task = asyncio.create_task(aio.run(IMAGE, ['-c', 'sleep 1000'], net='default', **KIND))\n"
    script += " await asyncio.sleep(0); task.cancel()\n"  # while the network is made
    script += " print(await asyncio.gather(task, return_exceptions=True))\n"
    script += " read, write = os.pipe()\n"
    script += " task = asyncio.create_task(aio.run(IMAGE, ['-c', 'echo; exec sleep 1000'], net='default', stdout=write, **KIND))\n"
    script += " await asyncio.to_thread(os.read, read, 1); task.cancel()\n"  # while it runs
    script += " print(await asyncio.gather(task, return_exceptions=True))\n"
    script += "print(pyrun.run(IMAGE, WORDS, net='default', capture_output=True, **KIND).stdout)\n"
    script += "asyncio.run(main())\n"
    script += "with pyrun.Pool(IMAGE, size=1, net='default', insecure_options=['image']) as pool:\n"
    script += " print(pool.run(['/bin/sh', *WORDS], capture_output=True).stdout)\n"
    script += (
        "for more in ({'exec': '/nope', 'net': 'default'}, {'exec': '/bin/sh', 'port': ['1:1']}, {'exec': '/bin/sh', 'net': 'other'}):\n"
    )
    script += " try: pyrun.run(IMAGE, insecure_options=['image'], **more)\n except pyrun.PyrunError as error: print(error)\n"
    script += "pyrun.settle()\n"
    try:
        lines = python(place, script).splitlines()
        assert lines[:3] == ["b'1\\n'", "[b'1\\n', b'1\\n']", "[CancelledError('')]"]
        del lines[2]
        assert lines[2:4] == ["[CancelledError('')]", "b'1\\n'"]
        assert lines[4].startswith("execute /nope: no such file") and "ports are root's" in lines[5] and "takes root" in lines[6]
        wait_until(lambda: left(place) == [])
    finally:
        place.close()


def test_without_the_programs(busybox: Path) -> None:
    place = Place(busybox)
    script = (
        "try: pyrun.run(IMAGE, ['-c', 'true'], net='default', **KIND)\nexcept pyrun.HostError as error: print(error, '|', error.hint)\n"
    )
    try:
        said = python(place, script + "pyrun.settle()\n")
        assert "neither is there" in said and "apt-get install" in said
        wait_until(lambda: left(place) == [])
    finally:
        place.close()


def test_the_same_port_again_at_once(place: Place) -> None:
    """The process of the pod before may still listen; whoever takes the port waits for its end."""
    script = "for _ in range(8): pyrun.start(IMAGE, ['-c', 'sleep 1000'], port=['8080:80'], **KIND).close()\nprint('good')\n"
    assert python(place, script) == "good\n"
    wait_until(lambda: left(place) == [])


def test_a_program_that_is_killed_at_any_moment(place: Place) -> None:
    """Before the network, while it is made, and after it: nothing stays."""
    python(place, "pyrun.run(None, ['true'], rootfs='host'); pyrun.settle()")  # so that there are directories to look at
    held, go = place.user.home / "held", place.user.home / "go"
    for fifo in (held, go):
        os.mkfifo(fifo)
        fifo.chmod(0o666)
    program = place.user.home / "bin" / place.program
    real = program.readlink()
    program.unlink()
    program.write_text(f'#!/bin/sh\necho >{held}\nread x <{go}\nexec {real} "$@"\n')
    program.chmod(0o755)
    script = "print('begins', flush=True)\n"
    script += "with pyrun.start(IMAGE, ['-c', 'sleep 1000'], port=['8080:80'], **KIND) as app:\n"
    script += " app.wait_running()\n print('runs', flush=True)\n app.wait()\n"
    words = place.user.command(sys.executable, "-c", BEGIN + script)
    for moment in ("before", "while", "after"):
        read, write = os.open(held, os.O_RDWR), os.open(go, os.O_RDWR)
        with subprocess.Popen(words, env=place.user.env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
            assert running.stdout and running.stdout.readline() == b"begins\n"
            if moment != "before":
                assert os.read(read, 1) == b"\n"  # the program is there, and no network yet
            if moment == "after":
                os.write(write, b"\n")
                assert running.stdout.readline() == b"runs\n"
            running.kill()
        if moment != "after":
            os.write(write, b"\n")  # pasta is not ended before it has said who it is
        wait_until(lambda: left(place) == [])
        os.close(read)
        os.close(write)  # and with them what nobody has read


def background(place: Place, more: str = "") -> str:
    """A pod in the background that serves on 8080, started by a program that has ended; its UUID."""
    script = f"pod = pyrun.detach(IMAGE, ['-c', {SERVE.format(word='web', port=80)!r}], port=['8080:80'], pod_name='web', {more} **KIND)\n"
    uuid = python(place, script + "print(pod.uuid)\n").strip()
    assert get(place.host, "127.0.0.1", 8080) == "web"
    return uuid


def test_a_pod_in_the_background(place: Place) -> None:
    """Its process lives as long as it does, whoever started it, and for each of its runs there is another one."""
    background(place)
    (first,) = place.helpers()
    script = "pod = pyrun.Container.attach('web'); print(pod.status()['ports'])\n"
    script += f"read, write = os.pipe(); print(pod.exec(['/bin/sh', '-c', {'ls /sys/class/net | sort; id -u'!r}], stdout=write).wait())\n"
    script += "os.close(write); print(os.fdopen(read).read().split()); pod.restart()\n"
    said = python(place, script).splitlines()
    assert "8080" in said[0] and said[1] == "0" and len(said[2].split()) == 3 and "'lo'" in said[2], said
    assert get(place.host, "127.0.0.1", 8080) == "web"
    wait_until(lambda: len(place.helpers()) == 1)
    assert place.helpers() != [first]
    python(place, "pod = pyrun.attach('web'); pod.stop(force=True)\n")
    wait_until(lambda: left(place) == [])
    python(place, "pyrun.attach('web').remove()\n")


def test_a_keeper_that_is_killed(place: Place) -> None:
    """And what it kept with it: `gc` and the next pod with that port find what is left, and end it."""
    for finish in ("gc", "again"):
        uuid = background(place)
        status = json.loads(place.user.pyrun("status", "--format", "json", uuid).out)
        run = json.loads((place.user.state / "pods" / "running" / uuid / "run").read_text())
        for pid in (run["keeper"], run["supervisor"], status["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=status["pid"]: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
        assert len(place.helpers()) == 1
        if finish == "gc":
            place.user.pyrun("gc")
        else:
            python(place, "pyrun.attach('web').remove()\n")
            background(place)
            assert len(place.helpers()) == 1
            python(place, "pyrun.attach('web').stop(force=True)\n")
        wait_until(lambda: left(place) == [])
        for one in json.loads(place.user.pyrun("list", "--format", "json").out):
            place.user.pyrun("rm", "--force", one["uuid"])


def test_apps_with_one_network(place: Place) -> None:
    script = f"web = pyrun.App(IMAGE, ['-c', {SERVE.format(word='web', port=80)!r}], name='web', **KIND)\n"
    script += "other = pyrun.App(IMAGE, ['-c', 'exec sleep 1000'], name='other', **KIND)\n"
    script += "pod = pyrun.create_pod([web, other], pod_name='site', port=['8080:80'])\n"
    script += "assert os.readlink('/proc/self/ns/net') != ''\npod.start()\n"
    script += "read, write = os.pipe()\n"
    script += "while pod.exec(['/bin/sh', '-c', 'nc 127.0.0.1 80'], stdout=write, app='other').wait(): pass\n"
    script += "os.close(write); print(os.fdopen(read).read())\n"
    assert python(place, script).split()[-1:] == ["web"]
    assert get(place.host, "127.0.0.1", 8080) == "web" and len(place.helpers()) == 1
    python(place, "pyrun.attach('site').remove(force=True)\n")
    wait_until(lambda: left(place) == [])


def test_a_start_that_came_to_nothing(place: Place) -> None:
    """A port that is taken, a program that is not there: one line, and no process, no port, no pod is left."""
    script = "import socket\nheld = socket.create_server(('0.0.0.0', 8080))\n"
    script += "for exec, port in (('/bin/sh', '8080:80'), ('/nope', '8081:80'), ('/bin/sh', '1:1')):\n"
    script += (
        " try: pyrun.detach(IMAGE, insecure_options=['image'], exec=exec, port=[port])\n except pyrun.PyrunError as error: print(error)\n"
    )
    lines = python(place, script).splitlines()
    assert len(lines) == 3 and "8080" in lines[0] and "/nope: no such file" in lines[1] and "ports are root's" in lines[2], lines
    wait_until(lambda: left(place) == [])
    assert json.loads(place.user.pyrun("list", "--format", "json").out) == []
