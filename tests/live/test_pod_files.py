"""Copying into and out of running pods, exports, events (E10, E11, E12, B22, SEC-28 at CI size)."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import signal
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import Canary
from harness import Pyrun
from waiting import nothing_kept

from pyrun.errors import StateError
from pyrun.pod.files import copy_in, copy_out
from pyrun.pod.state import Pods

Detach = Callable[..., str]


@pytest.fixture
def detach(pyrun: Pyrun, busybox: Path) -> Iterator[Detach]:
    def begin(script: str, *flags: str) -> str:
        command = ["run", "--detach", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script + "; echo ready; sleep 1000"]
        uuid = pyrun(*command, code=0).out.strip()
        deadline = time.monotonic() + 60
        while "ready" not in pyrun("logs", uuid, code=0).out:
            assert time.monotonic() < deadline
        return uuid

    with nothing_kept(pyrun):
        yield begin


def test_out_and_in(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    uuid = detach("mkdir -p /d/e; echo one >/d/a; ln -s a /d/l; echo x >/d/e/b; chmod 4755 /d/a; mkfifo /d/f")
    told = pyrun("cp", f"{uuid}:/d", tmp_path, code=0)
    assert told.err == "pyrun: note: d/f is neither a file nor a directory nor a link: not copied\n"
    assert (tmp_path / "d" / "a").read_text() == "one\n" and os.readlink(tmp_path / "d" / "l") == "a"
    assert (tmp_path / "d" / "e" / "b").read_text() == "x\n" and not (tmp_path / "d" / "f").exists()
    assert stat.S_IMODE((tmp_path / "d" / "a").stat().st_mode) == 0o755, "no set-id bit comes out"
    pyrun("cp", f"{uuid[:8]}:/d/l", tmp_path / "new", code=0)
    assert (tmp_path / "new").read_text() == "one\n", "the path itself is followed, inside"
    (tmp_path / "new").write_text("two\n")
    pyrun("cp", tmp_path / "new", f"{uuid}:/d/a", code=0)
    pyrun("cp", tmp_path / "d", f"{uuid}:/copy", code=0)
    pyrun("cp", tmp_path / "new", f"{uuid}:/copy/e", code=0)
    pyrun("cp", f"{uuid}:/copy", tmp_path / "back", code=0)
    assert (tmp_path / "back" / "e" / "new").read_text() == "two\n"
    pyrun("cp", f"{uuid}:/d/a", tmp_path / "again", code=0)
    assert (tmp_path / "again").read_text() == "two\n"
    for words in ([f"{uuid}:/missing", "."], [f"{uuid}:/dev/null", "."], ["/missing", f"{uuid}:/x"], ["/etc/hostname", f"{uuid}:/no/x"]):
        failed = pyrun("cp", *words, code=125, cwd=tmp_path)
        assert "hint: " in failed.err or "missing" in failed.err
    for words in (["a", "b"], [f"{uuid}:/a", f"{uuid}:/b"], [f"{uuid}:a", "b"], ["x"]):
        pyrun("cp", *words, code=2)


def test_links_lead_nowhere(pyrun: Pyrun, detach: Detach, canary: Canary, tmp_path: Path) -> None:
    uuid = detach(f"ln -s {canary.path} /out; ln -s /proc/1/root /root1; mkdir /t; ln -s {canary.path} /t/x; ln -s {canary.path}/file /f")
    pods = Pods(str(pyrun.root))
    source = tmp_path / "x"
    source.mkdir()
    (source / "file").write_text("evil")
    for path in ("/out", "/out/file", "/root1/etc", "/t", "/t/x/file"):
        try:
            copy_in(pods, uuid, str(source), path)
        except StateError:
            continue
    copy_in(pods, uuid, str(source / "file"), "/f")  # replaces the link
    assert pyrun("cp", f"{uuid}:/f", tmp_path / "f", code=0) and (tmp_path / "f").read_text() == "evil"
    with pytest.raises(StateError):
        copy_out(pods, uuid, "/root1/etc/hostname", str(tmp_path / "stolen"))
    copy_out(pods, uuid, "/t", str(tmp_path / "t"))
    assert (tmp_path / "t" / "x").is_symlink()
    # on the host a link in the place of a directory is no way out of the target either
    (tmp_path / "into" / "t").mkdir(parents=True)
    canary.assert_untouched()


def test_swaps_during_copies(pyrun: Pyrun, detach: Detach, canary: Canary, tmp_path: Path) -> None:
    """SEC-28: somebody exchanges a directory and a link to the host's canary all the time; it is neither read nor written."""
    uuid = detach(f"mkdir -p /s/place/deep; echo inside >/s/place/deep/file; ln -s {canary.path} /s/link")
    shelf = Path(f"/proc/{json.loads(pyrun('status', '--format', 'json', uuid, code=0).out)['pid']}/root/s")
    names, stop, count = (os.fsencode(shelf / "place"), os.fsencode(shelf / "link")), threading.Event(), [0]

    def work() -> None:
        rename = ctypes.CDLL(None).renameat2
        while not stop.is_set():
            rename(-100, names[0], -100, names[1], 2)  # RENAME_EXCHANGE
            count[0] += 1

    source = tmp_path / "deep"
    source.mkdir()
    (source / "file").write_text("evil")
    secret = {path.name for path in canary.path.iterdir()}
    pods = Pods(str(pyrun.root))
    swapper = threading.Thread(target=work)
    swapper.start()
    done = 0
    try:
        for number in range(150):
            for copy, one, other in ((copy_out, "/s/place", str(tmp_path / f"out{number}")), (copy_in, str(source), "/s/place/deep")):
                try:
                    copy(pods, uuid, one, other)
                    done += 1
                except StateError:
                    continue
            out = tmp_path / f"out{number}"
            if out.is_dir() and not out.is_symlink():
                assert not secret & {path.name for path in out.iterdir()}
    finally:
        stop.set()
        swapper.join()
    assert count[0] > 150 and done > 0
    canary.assert_untouched()


def test_a_fifo_in_the_place_of_a_file_does_not_hang(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    uuid = detach("mkdir /d; mkfifo /d/a; mkfifo /b")
    pods = Pods(str(pyrun.root))
    assert copy_out(pods, uuid, "/d", str(tmp_path)) == ["d/a"]
    with pytest.raises(StateError, match="neither a file nor a directory"):
        copy_out(pods, uuid, "/b", str(tmp_path))


def test_a_copy_leaves_directories_of_others_as_they_are(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    """Only what the copy made gets mode and owner: a pod is not to open the caller's directories, nor a copy the pod's."""
    uuid = detach("mkdir /home /new; chmod 777 /home /new; echo x >/home/a; chown 1000:1001 /etc; chmod 751 /etc")
    (tmp_path / "home").mkdir(mode=0o700)
    os.chown(tmp_path / "home", 1000, 1001)
    pyrun("cp", f"{uuid}:/home", tmp_path, code=0)
    pyrun("cp", f"{uuid}:/new", tmp_path, code=0)
    told = (tmp_path / "home").stat()
    assert (stat.S_IMODE(told.st_mode), told.st_uid, told.st_gid) == (0o700, 1000, 1001)
    assert (tmp_path / "home" / "a").read_text() == "x\n"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777
    (tmp_path / "etc").mkdir(mode=0o700)
    (tmp_path / "etc" / "b").write_text("y\n")
    pyrun("cp", tmp_path / "etc", f"{uuid}:/", code=0)
    assert pyrun("exec", uuid, "/bin/sh", "-c", "stat -c '%a %u %g' /etc; cat /etc/b", code=0).out == "751 1000 1001\ny\n"


def test_a_device_is_left_out_and_not_opened(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    """Where devices cannot be opened, as in a volume, the files beside one are copied all the same."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mknod(volume / "dev", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (volume / "file").write_text("x")
    uuid = detach("true", "-v", f"{volume}:/vol")
    told = pyrun("cp", f"{uuid}:/vol", tmp_path / "out", code=0)
    assert told.err == "pyrun: note: out/dev is neither a file nor a directory nor a link: not copied\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    failed = pyrun("cp", volume / "file", f"{uuid}:/made/", code=125)
    assert "/made/: " in failed.err, "a directory was meant, and there is none"
    failed = pyrun("cp", f"{uuid}:/proc/1", tmp_path / "proc", code=125)
    assert "copy from pod /proc/1/" in failed.err, "the whole path is named"


def test_holes_stay_holes(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    """An app makes a terabyte with one call: neither that, nor what a copy is told to leave, fills the disk."""
    big, middle = 1 << 40, 1 << 39
    uuid = detach(f"mkdir /d; truncate -s {big} /d/big; printf middle | dd of=/d/big bs=1 seek={middle} conv=notrunc")
    pyrun("cp", f"{uuid}:/d", tmp_path, code=0)
    with (tmp_path / "d" / "big").open("rb") as file:
        info = os.fstat(file.fileno())
        assert info.st_size == big and info.st_blocks < 100
        file.seek(middle - 1)
        assert file.read(8) == b"\0middle\0"
    pyrun("cp", tmp_path / "d" / "big", f"{uuid}:/again", code=0)
    assert pyrun("exec", uuid, "/bin/stat", "-c", "%s", "/again", code=0).out == f"{big}\n"


@pytest.mark.parametrize("verb", ["cp", "export"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_half_of_a_file(pyrun: Pyrun, detach: Detach, tmp_path: Path, verb: str, number: signal.Signals) -> None:
    uuid = detach("dd if=/dev/zero of=/big bs=1M count=200")
    folder = tmp_path / "out"
    folder.mkdir()
    copying = pyrun.start("cp", f"{uuid}:/big", folder) if verb == "cp" else pyrun.start("export", "-o", folder / "x", uuid)
    deadline = time.monotonic() + 60
    while not [one for one in folder.iterdir() if one.stat().st_size]:
        assert time.monotonic() < deadline and copying.poll() is None
    copying.send_signal(number)
    assert copying.wait(60) == 128 + number
    assert not list(folder.iterdir())
    copying.communicate()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: one for one in archive}


def test_export(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    """The whole root and the changes, of a running and of an ended pod, as GNU tar and Python read them."""
    long = "n" * 150
    script = f"rm -r /tmp; rm /bin/sh; echo x >/new; ln /new /hard; ln -s new /soft; mkdir -p /{long}/{long}; echo y >/{long}/{long}/f"
    uuid = detach(script + "; chown 1000:1001 /new; rm -r /etc; mkdir /etc")
    for _ in range(2):
        pyrun("export", "-o", tmp_path / "all.tar", uuid, code=0)
        pyrun("export", "--changes", "-o", tmp_path / "changes.tar", uuid, code=0)
        whole, changes = members((tmp_path / "all.tar").read_bytes()), members((tmp_path / "changes.tar").read_bytes())
        assert {"bin/busybox", "probe", "new", "hard", "soft", f"{long}/{long}/f"} <= set(whole)
        assert not {"tmp", "bin/sh", "etc/passwd"} & set(whole) and "etc" in whole
        assert (whole["new"].uid, whole["new"].gid, whole["soft"].linkname) == (1000, 1001, "new")
        assert {whole["hard"].islnk(), whole["new"].islnk()} == {True, False}
        assert {".wh.tmp", "bin/.wh.sh", "etc/.wh..wh..opq", "new"} <= set(changes) and "probe" not in changes
        assert not [name for name in whole if name.startswith(("proc/", "sys/", "dev/"))]
        (tmp_path / "x").mkdir(exist_ok=True)
        subprocess.run(["tar", "-C", tmp_path / "x", "-xf", tmp_path / "all.tar"], check=True)
        assert (tmp_path / "x" / "new").read_text() == "x\n"
        pyrun("stop", "--force", uuid, code=0)
    streamed = subprocess.run([pyrun_command(), "export", uuid], env=pyrun.environment(), capture_output=True, check=True).stdout
    assert set(members(streamed)) == set(whole)
    assert "keeps no files" in pyrun("export", "-o", tmp_path / "none", detach("true", "--upper", "tmpfs"), code=125).err
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob("*.tmp"))


def pyrun_command() -> Path:
    from harness import COMMAND

    return COMMAND


def watches(pid: int) -> int:
    """How many paths a process watches (proc(5), inotify)."""
    found = 0
    for one in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            found += one.read_text().count("inotify wd:")
    return found


def test_events(pyrun: Pyrun, busybox: Path) -> None:
    pyrun("run", busybox, "--exec", "/bin/true", code=0)
    watching = pyrun.start("events", "--format", "json")
    deadline = time.monotonic() + 60
    while watches(watching.pid) < 4:  # one for each phase
        assert time.monotonic() < deadline
        time.sleep(0.01)
    script = "test -e /again || { touch /again; exit 3; }; exit 0"
    uuid = pyrun(
        "run", "--detach", "--pod-name", "e", "--restart", "on-failure", busybox, "--exec", "/bin/sh", "--", "-c", script, code=0
    ).out.strip()
    pyrun("wait", uuid, code=0)
    pyrun("rm", uuid, code=0)
    seen: list[dict[str, Any]] = []
    assert watching.stdout is not None
    while not seen or seen[-1]["event"] != "removed":
        seen.append(json.loads(watching.stdout.readline()))
    watching.terminate()
    watching.communicate()
    assert {one["uuid"] for one in seen} == {uuid}
    kinds = [one["event"] for one in seen]
    assert [kind for kind in kinds if kind != "running"] == ["prepared", "started", "died", "died", "exited", "removed"]
    assert [one["code"] for one in seen if one["event"] == "died"][-1] == 0


def test_events_of_chosen_pods(pyrun: Pyrun, busybox: Path, tmp_path: Path) -> None:
    """By name or by a file; it ends with the last of them, and what happens to others is not told."""
    uuids = []
    for name in ("one", "two", "other"):
        flags = ("--pod-name", name, "--uuid-file-save", tmp_path / name)
        uuids.append(pyrun("prepare", *flags, busybox, "--exec", "/bin/true", code=0).out.strip())
    watching = pyrun.start("events", "--format", "json", "--uuid-file", tmp_path / "one", uuids[1][:13])
    deadline = time.monotonic() + 60
    while watches(watching.pid) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for name in ("other", "one", "two"):
        pyrun("rm", name, code=0)
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, err) == (0, "")
    assert [(one["event"], one["uuid"]) for one in map(json.loads, out.splitlines())] == [("removed", uuid) for uuid in uuids[:2]]
    assert "there is none of that name" in pyrun("events", "one", code=125).err
    (tmp_path / "empty").touch()
    assert "is empty\nhint:" in pyrun("rm", "--uuid-file", tmp_path / "empty", code=2).err


def test_the_pod_of_a_file_with_its_uuid(pyrun: Pyrun, detach: Detach, tmp_path: Path) -> None:
    """`cp` and `rename` know pods as the other verbs do; with the file a colon alone marks the side in the pod."""
    file = tmp_path / "uuid"
    uuid = detach("echo one >/a", "--uuid-file-save", str(file))
    pyrun("cp", "--uuid-file", file, ":/a", tmp_path / "out", code=0)
    assert (tmp_path / "out").read_text() == "one\n"
    pyrun("cp", "--uuid-file", file, tmp_path / "out", ":/b", code=0)
    pyrun("rename", "--uuid-file", file, "other", code=0)
    assert pyrun("exec", "other", "/bin/cat", "/b", code=0).out == "one\n"
    for words in (["cp", ":/a", "x"], ["cp", "--uuid-file", file, f"{uuid}:/a", "x"], ["cp", "--uuid-file", tmp_path / "none", ":/a", "x"]):
        refused = pyrun(*words, code=2).err
        assert "hint:" in refused and "Traceback" not in refused
    assert not Path("x").exists()
