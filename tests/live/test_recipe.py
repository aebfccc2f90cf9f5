"""The launcher's short way: the same pod as by the long way, and only while nothing that decided has changed."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun, Signer

RUN = ("--exec", "/probe", "--", "exit", "7")


def interpreters(pyrun: Pyrun, tmp_path: Path, *arguments: str | Path, code: int) -> list[str]:
    """Runs the command under strace and returns which Python interpreters it executed."""
    log = tmp_path / "execs"
    command = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", log, COMMAND, *arguments]
    done = subprocess.run(command, env=pyrun.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return [line for line in log.read_text().splitlines() if "python3" in line and "= 0" in line]


def recipes(pyrun: Pyrun) -> list[Path]:
    folder = pyrun.root / "cache/run"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_second_run_needs_no_interpreter(pyrun: Pyrun, tmp_path: Path) -> None:
    assert len(interpreters(pyrun, tmp_path, "run", pyrun.probe_image, *RUN, code=7)) >= 1
    assert interpreters(pyrun, tmp_path, "run", pyrun.probe_image, *RUN, code=7) == []


def test_both_ways_make_the_same_pod(pyrun: Pyrun) -> None:
    flags = ("--user", "app", "--hostname", "same", "--set-env", "A=b c", "--rlimit", "nofile=100", "-v", f"{pyrun.root}:/data:ro")
    first, second = pyrun.report(*flags), pyrun.report(*flags)
    assert len(recipes(pyrun)) >= 1
    different = {key for key in first if first[key] != second[key]}
    assert different <= {"fds", "init", "mounts", "namespaces", "status"}, different  # pipes, ids and counters of this very pod
    kept = ("Cap", "NoNewPrivs", "Seccomp", "Sig", "Uid", "Gid", "Groups", "Umask")
    states = [{name: value for name, value in seen["status"].items() if name.startswith(kept)} for seen in (first, second)]
    assert states[0] == states[1] != {}


def test_records_have_the_same_members(pyrun: Pyrun) -> None:
    for _ in range(2):
        pyrun("run", "--keep", pyrun.probe_image, *RUN, code=7)
    long_way, short_way = (json.loads((pod / "pod").read_text()) for pod in sorted((pyrun.root / "pods/exited").iterdir()))
    assert long_way.keys() == short_way.keys()
    same = set(long_way) - {"uuid", "created", "cgroup"}
    assert [long_way[key] for key in same] == [short_way[key] for key in same]
    for record in (long_way, short_way):
        assert record["cgroup"].endswith("/pyrun-" + record["uuid"])
        assert abs(record["created"] / 1e9 - time.time()) < 100


def test_a_key_that_is_no_longer_trusted_stops_the_image(pyrun: Pyrun) -> None:
    for _ in range(2):
        pyrun("run", pyrun.probe_image, *RUN, code=7)
    (key,) = (pyrun.root / "trust/prefix.d").glob("*/*")
    pyrun("trust", "--remove", key.name, code=0)
    refused = pyrun("run", pyrun.probe_image, *RUN, code=125)
    assert "trusted" in refused.err


def test_a_removed_image_is_not_run(pyrun: Pyrun) -> None:
    pyrun("fetch", pyrun.probe_image, code=0)
    for _ in range(2):
        pyrun("run", "example.com/probe", *RUN, code=7)
    pyrun("image", "rm", "example.com/probe", code=0)
    assert "nothing in the store" in pyrun("run", "example.com/probe", *RUN, code=125).err


def test_a_name_means_the_newest_import(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    for number in ("3", "4"):
        pyrun("fetch", image("example.com/versions", ["/probe", "exit", number], version=number), code=0)
        for _ in range(2):
            pyrun("run", "example.com/versions", code=int(number))


def test_a_replaced_file_is_imported_anew(pyrun: Pyrun, image: Callable[..., Path], signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "app.aci"
    for number in (3, 4):
        path.write_bytes(image("example.com/file", ["/probe", "exit", str(number)]).read_bytes())
        signer.sign(path)
        for _ in range(2):
            pyrun("run", path, code=number)


def test_directory_and_root_belong_to_the_decision(pyrun: Pyrun, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_text(name)
    for _ in range(2):
        for name in ("one", "two"):
            seen = pyrun.report("-v", "./data:/data", cwd=tmp_path / name)
            assert any("/data" in line and name in line for line in map(str, seen["mounts"])), name


@pytest.mark.parametrize("flag", ["--inherit-env", "--insecure-options=paths", "--no-overlay", "--set-env-file"])
def test_what_the_caller_may_change_is_decided_each_time(pyrun: Pyrun, tmp_path: Path, flag: str) -> None:
    words = [flag]
    if flag.endswith("-file"):
        (tmp_path / "env").write_text("SECRET=xyzzy\n")
        words.append(str(tmp_path / "env"))
    pyrun("run", *words, pyrun.probe_image, *RUN, code=7)
    assert recipes(pyrun) == []


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path, 0o600)
    elif how == "writable":
        path.chmod(0o622)
    elif how == "foreign":
        os.chown(path, 1000, 1000)
    elif how == "empty":
        path.write_bytes(b"")
    elif how.startswith("cut"):
        path.write_bytes(data[: int(how[3:])])
    else:  # every number of the header in turn, far beyond the file
        place = int(how[4:]) * 4
        path.write_bytes(data[:place] + b"\xff\xff\xff\x7f" + data[place + 4 :])


@pytest.mark.parametrize(
    "how", ["link", "fifo", "writable", "foreign", "empty", "cut10", "cut100", "cut5000", *[f"word{i}" for i in range(20)]]
)
def test_a_damaged_recipe_only_costs_time(pyrun: Pyrun, how: str) -> None:
    pyrun("run", pyrun.probe_image, *RUN, code=7)
    (path,) = recipes(pyrun)
    damage(path, how)
    pyrun("run", pyrun.probe_image, *RUN, code=7)
    assert [list((pyrun.root / "pods" / phase).iterdir()) for phase in ("preparing", "running", "garbage")] == [[], [], []]


def test_a_failure_reads_the_same_both_ways(pyrun: Pyrun) -> None:
    said = [pyrun("run", pyrun.probe_image, "--exec", "/no/such", code=127).err for _ in range(3)]
    assert said[0] == said[1] == said[2]
    assert said[0].startswith("pyrun: execute /no/such")
    assert list((pyrun.root / "pods/running").iterdir()) == []


def test_a_crashed_pod_is_swept_before_the_short_way(pyrun: Pyrun) -> None:
    pyrun("run", pyrun.probe_image, *RUN, code=7)
    sleeper = pyrun.start("run", pyrun.probe_image, "--exec", "/probe", "--", "sleep", "60")
    assert sleeper.stdout is not None and sleeper.stdout.readline() == "ready\n"
    (left,) = (pyrun.root / "pods/running").iterdir()
    cgroup = Path(json.loads((left / "pod").read_text())["cgroup"])
    assert cgroup.exists()
    sleeper.kill()
    sleeper.communicate()
    assert left.exists()
    pyrun("run", pyrun.probe_image, *RUN, code=7)
    assert not left.exists()
    assert not cgroup.exists()


def test_many_at_once(pyrun: Pyrun) -> None:
    pyrun("run", pyrun.probe_image, *RUN, code=7)
    running = [pyrun.start("run", pyrun.probe_image, *RUN) for _ in range(40)]
    for process in running:
        process.communicate()
    assert [process.returncode for process in running] == [7] * 40
    assert list((pyrun.root / "pods/running").iterdir()) == []


def test_a_source_of_another_kind(pyrun: Pyrun, tmp_path: Path, busybox: Path) -> None:
    """A directory that was replaced by a file, and back: what the place of the mount must be is decided anew."""
    source = tmp_path / "source"
    command = ["run", "-v", f"{source}:/data", busybox, "--exec", "/bin/sh", "--", "-c", "cat /data/inner /data 2>/dev/null"]
    for _ in range(2):
        source.mkdir()
        for text in ("one", "two"):
            (source / "inner").write_text(text)
            assert pyrun(*command).out == text
        (source / "inner").unlink()
        source.rmdir()
        source.write_text("a file")
        for _ in range(2):
            assert pyrun(*command).out == "a file"
        source.unlink()


def test_a_file_that_takes_a_names_place(pyrun: Pyrun, image: Callable[..., Path], signer: Signer, tmp_path: Path) -> None:
    """A word that meant a stored image means a file once there is one of that name."""
    pyrun("fetch", pyrun.probe_image, code=0)
    for _ in range(2):
        pyrun("run", "example.com/probe", *RUN, cwd=tmp_path, code=7)
    assert recipes(pyrun)
    path = tmp_path / "example.com" / "probe"
    path.parent.mkdir()
    path.write_bytes(image("example.com/other", ["/probe", "exit", "9"]).read_bytes())
    signer.sign(path)
    pyrun("run", "example.com/probe", *RUN[:-1], "9", cwd=tmp_path, code=9)
    assert "example.com/other" in pyrun("image", "list", code=0).out


def copy_of_probe(pyrun: Pyrun, signer: Signer, tmp_path: Path) -> Path:
    path = tmp_path / "copy.aci"
    path.write_bytes(pyrun.probe_image.read_bytes())
    signer.sign(path)
    return path


def test_a_file_from_before_1970(pyrun: Pyrun, signer: Signer, tmp_path: Path) -> None:
    path = copy_of_probe(pyrun, signer, tmp_path)
    os.utime(path, (-2, -2))
    pyrun("run", path, *RUN, code=7)
    assert interpreters(pyrun, tmp_path, "run", path, *RUN, code=7) == []


@pytest.mark.parametrize("decided", ["images", "trust/prefix.d/*/*"])
def test_what_changes_meanwhile_is_looked_at_again(pyrun: Pyrun, tmp_path: Path, decided: str) -> None:
    """The image was found, and trusted, by what was there when the command began."""
    pyrun("fetch", pyrun.probe_image, code=0)
    (path,) = pyrun.root.glob(decided)
    mode = path.stat().st_mode & 0o777
    running = True

    def change() -> None:
        while running:
            path.chmod(mode)
            time.sleep(0.001)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        pyrun("run", "example.com/probe", *RUN, code=7)
        assert recipes(pyrun) == []
    finally:
        running = False
        changing.join()
    pyrun("run", "example.com/probe", *RUN, code=7)
    assert interpreters(pyrun, tmp_path, "run", "example.com/probe", *RUN, code=7) == []
