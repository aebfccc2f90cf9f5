"""Logs of pods in the background: the CRI's format, rotation, a flood, a journal, a full disk (E14, F34)."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from waiting import nothing_kept, wait_until

Detach = Callable[..., str]
LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z std(out|err) [FP] .*")


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    def begin(script: str, *flags: str) -> str:
        return pyrun("run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()

    with nothing_kept(pyrun):
        yield begin


def raw(pyrun: Pyrun, uuid: str) -> bytes:
    return (pyrun.root / "pods" / "exited" / uuid / "log").read_bytes()


def test_format(pyrun: Pyrun, detach: Detach) -> None:
    """Every line stamped, streams apart, parts of lines told; what comes out is byte for byte what went in."""
    before = time.time()
    uuid = detach(r"printf 'a\n\nb'; printf 'c\n' >&2; printf '\033[1mesc\377\n'; head -c 10000 /dev/zero | tr '\0' x; echo; printf end")
    pyrun("wait", uuid, code=0)
    lines = raw(pyrun, uuid).splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    stamps = [line.split(b" ")[0].decode() for line in lines]
    assert stamps == sorted(stamps)
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))[:13] == stamps[0][:13]
    done = subprocess.run([pyrun_command(), "logs", uuid], env=pyrun.environment(), capture_output=True, check=True)
    assert done.stdout == b"a\n\nb\x1b[1mesc\xff\n" + b"x" * 10000 + b"\nend\n" and done.stderr == b"c\n"
    assert os.stat(pyrun.root / "pods" / "exited" / uuid / "log").st_mode & 0o777 == 0o600


def pyrun_command() -> Path:
    from harness import COMMAND

    return COMMAND


def test_ace_16_what_can_be_asked(pyrun: Pyrun, detach: Detach) -> None:
    # ACE-16
    uuid = detach("seq 5; echo e >&2")
    pyrun("wait", uuid, code=0)
    assert pyrun("logs", "--tail", "2", uuid, code=0).out + pyrun("logs", "-n", "1", uuid, code=0).err in ("5\ne\n", "4\n5\n")
    assert pyrun("logs", "-n", "0", uuid, code=0).out == ""
    assert pyrun("logs", "--since", "1h", uuid, code=0).out == "1\n2\n3\n4\n5\n"
    assert pyrun("logs", "--since", "2099-01-01", uuid, code=0).out == ""
    assert re.fullmatch(r"(\S+Z \d\n){5}", pyrun("logs", "-t", uuid, code=0).out)
    found = [json.loads(line) for line in pyrun("logs", "--format", "json", uuid, code=0).out.splitlines()]
    assert sorted((one["stream"], one["text"]) for one in found)[0] == ("stderr", "e\n") and len(found) == 6
    for text in ("yesterday", "2026-13-01", "2026-11-26T15:40:48.Z", "2026-11-26T15:40:48.1x"):
        assert "not a time" in pyrun("logs", "--since", text, uuid, code=2).err
    third = pyrun("logs", "-t", uuid, code=0).out.splitlines()[2].split()[0]
    assert pyrun("logs", "--since", third, uuid, code=0).out.endswith("3\n4\n5\n"), "a time as it is printed"
    later = f"{third[:20]}{int(third[20:29]) + 1:09d}Z"
    assert "3\n" not in pyrun("logs", "--since", later, uuid, code=0).out, "and a moment later"
    assert pyrun("logs", "--since", "2099-01-01T00:00:00+02:00", uuid, code=0).out == ""


def test_rotation_keeps_what_was_asked_for(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("seq 100000 105000", "--log-opt", "max-size=16k", "--log-opt", "max-files=3")
    pyrun("wait", uuid, code=0)
    pod = pyrun.root / "pods" / "exited" / uuid
    files = sorted(name for name in os.listdir(pod) if name.startswith("log"))
    assert files == ["log", "log.1", "log.2"]
    assert all(0 < (pod / name).stat().st_size <= 16384 + 8192 for name in files)
    lines = pyrun("logs", uuid, code=0).out.split()
    assert lines == [str(number) for number in range(int(lines[0]), 105001)] and len(lines) > 500


def test_following_through_rotations(pyrun: Pyrun, detach: Detach) -> None:
    """Every line once, in order, until the pod ends; the reader then ends by itself."""
    uuid = detach("for i in $(seq 400); do echo $i; usleep 1000; done", "--log-opt", "max-size=2k", "--log-opt", "max-files=20")
    following = pyrun.start("logs", "--follow", uuid)
    out, err = following.communicate(timeout=60)
    assert (following.returncode, err) == (0, "") and out.split() == [str(number) for number in range(1, 401)]


def test_a_flood_costs_no_memory(pyrun: Pyrun, detach: Detach) -> None:
    """E14: 50 MB through the keeper; its memory stays what it was, and the disk holds what was allowed."""
    uuid = detach("yes $(seq 40 | tr -d '\\n') | head -c 50000000; echo; echo done; sleep 1000", "--log-opt", "max-size=100k")
    keeper = json.loads((pyrun.root / "pods" / "running" / uuid / "run").read_text())["keeper"]
    deadline = time.monotonic() + 50
    while "done\n" not in pyrun("logs", "-n", "1", uuid, code=0).out:
        assert time.monotonic() < deadline
    assert int(re.findall(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{keeper}/status").read_text())[0]) < 100
    assert sum(path.stat().st_size for path in (pyrun.root / "pods" / "running" / uuid).glob("log*")) < 400_000


def test_a_full_disk_stops_nobody(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    """F34: lines are lost and counted, those that are there are whole, the app goes on and its exit is recorded."""
    uuid = detach("read x; seq 20000; exit 5")  # /dev/null: at once
    pyrun("wait", uuid, code=5)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    try:
        full = Pyrun(small / "state", pyrun.probe_image)
        subprocess.run(["cp", "-a", pyrun.root / "trust", small / "trust"], check=True)
        (small / "state").mkdir(mode=0o700)
        os.rename(small / "trust", small / "state" / "trust")
        uuid = full("run", "--detach", "--upper", "tmpfs", full.probe_image, "--exec", "/probe", "--", "sleep", "0", code=0).out.strip()
        log = small / "state" / "pods" / "running" / uuid / "log"
        deadline = time.monotonic() + 60
        while b"ready" not in log.read_bytes():
            assert time.monotonic() < deadline
        with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(4096))
        full("stop", uuid)
        assert b"ready" in log.with_name("log").read_bytes() if log.exists() else True
        (small / "filler").unlink()
        assert full("wait", uuid).out.strip() == "143", "there was no room for a new file; it took the place of one"
        full("rm", "--force", uuid, code=0)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize("several", [False, True])
def test_a_full_disk_tells_of_the_last_run(pyrun: Pyrun, busybox: Path, tmp_path: Path, several: bool) -> None:
    """A run that ended well before the disk was full is not what is told of one that was killed after it."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", small], check=True)
    try:
        full = Pyrun(small / "state", pyrun.probe_image)
        subprocess.run(["cp", "-a", pyrun.root, small / "state"], check=True)
        script = "test -e /again && sleep 1000; : >/again; exit 0"
        words = ["run", "--detach", "--restart", "always", busybox, "--name", "a", "--exec", "/bin/sh", "--", "-c", script]
        uuid = full(*words, *(["---", busybox, "--name", "b", "--exec", "/bin/true"] if several else []), code=0).out.strip()
        wait_until(lambda: json.loads(full("status", "--format", "json", uuid, code=0).out).get("restarts") == 1)
        with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(4096))
        full("stop", uuid, code=0)
        assert full("wait", uuid).out.strip() == "143"
        (small / "filler").unlink()
        full("rm", uuid, code=0)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_other_drivers(pyrun: Pyrun, detach: Detach) -> None:
    uuid = detach("echo x", "--log-driver", "none")
    pyrun("wait", uuid, code=0)
    refused = pyrun("logs", uuid, code=125)
    assert refused.err.startswith(f"pyrun: read the log of pod {uuid}: it has none\nhint: ")
    through = pyrun("run", "--detach", "--log-driver", "passthrough", pyrun.probe_image, "--exec", "/probe", "--", "exit", "0", code=0)
    pyrun("wait", through.out.strip(), code=0)


JOURNALCTL = r"""#!/bin/sh
case "$*" in *--sync*) exit;; esac
line() { printf '{"__CURSOR":"c%s","__REALTIME_TIMESTAMP":"1795707648123456","PRIORITY":"%s","MESSAGE":"%s"}\n' "$1" "$2" "$1"; }
case "$*" in *--after-cursor=c2*) line last 6;; *) line 1 6; line 2 3;; esac
case "$*" in *--follow*) exec sleep 1000;; esac
"""


def test_what_the_journal_has_is_read_as_a_file_is(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """The two streams apart, and to follow ends with the pod, after what journalctl(1) had not told by then."""
    (tmp_path / "journalctl").write_text(JOURNALCTL)
    (tmp_path / "journalctl").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    folder = Path("/run/systemd")
    subprocess.run(["mount", "--mkdir", "-t", "tmpfs", "none", folder], check=True)
    try:
        (folder / "journal").mkdir()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "journal" / "stdout"))
            server.listen()
            uuid = pyrun("run", "--detach", busybox, "--exec", "/bin/sleep", "--", "1000", code=0).out.strip()
            once = pyrun("logs", "--timestamps", uuid, env=env, code=0)
            assert (once.out, once.err) == ("2026-11-26T15:40:48.123456000Z 1\n", "2026-11-26T15:40:48.123456000Z 2\n")
            with pyrun.start("logs", "--follow", uuid, env=env) as following:
                assert following.stdout is not None and following.stdout.readline() == "1\n"
                assert following.poll() is None
                pyrun("stop", uuid, code=0)
                assert following.communicate(timeout=60) == ("last\n", "2\n")
                assert following.returncode == 0
            pyrun("rm", uuid, code=0)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_journal_gets_the_streams_themselves(pyrun: Pyrun, busybox: Path) -> None:
    """sd_journal_stream_fd(3): its header, then lines that no process of ours touches."""
    folder = Path("/run/systemd")
    subprocess.run(["mount", "--mkdir", "-t", "tmpfs", "none", folder], check=True)
    try:
        (folder / "journal").mkdir()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "journal" / "stdout"))
            server.listen()
            server.settimeout(20)
            script = "echo out; echo err >&2"
            uuid = pyrun("run", "--detach", "--pod-name", "j", busybox, "--exec", "/bin/sh", "--", "-c", script, code=0).out.strip()
            said = []
            for _ in range(2):
                stream, _ = server.accept()
                with stream, stream.makefile("rb") as file:
                    said.append(file.read())
        assert said == [b"j\n\n6\n0\n0\n0\n0\nout\n", b"j\n\n3\n0\n0\n0\n0\nerr\n"]
        pyrun("wait", uuid, code=0)
        assert not (pyrun.root / "pods" / "exited" / uuid / "log").exists()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert "open the pod's log" in pyrun("run", "--detach", "--log-driver", "journald", busybox, code=125).err
