"""`checkpoint` and `restore` where criu is missing or broken, and of what is no checkpoint; tests/vm/guest has those that succeed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime
from waiting import wait_until

from pyrun.errors import StateError
from pyrun.oci import criu, criu_mounts, patience
from pyrun.oci.arguments import parse
from pyrun.oci.create import Making, create
from pyrun.oci.state import Container


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Iterator[Runtime]:
    made = Runtime(tmp_path, probe)
    yield made
    for name in made.leftovers():  # of a test that failed
        made("delete", "--force", name)


def without(**more: str) -> dict[str, Any]:
    return {"env": {**os.environ, "PATH": "/nowhere", **more}}


def pretend(folder: Path, script: str) -> dict[str, Any]:
    """An environment in which criu is a shell script; its socket is descriptor 3."""
    folder.mkdir()
    (folder / "criu").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "criu").chmod(0o755)
    return without(PATH=f"{folder}:/usr/bin:/bin")


def written(folder: Path) -> Path:
    """What looks like a checkpoint."""
    folder.mkdir()
    (folder / "inventory.img").write_bytes(b"12345")
    shape = {"mounts": [], "namespaces": [], "terminal": False}
    note = {"version": "0", "id": "one", "shape": shape, "streams": ["", "", ""], "external": {}, "files": {"inventory.img": 5}}
    (folder / "pyrun-oci.json").write_text(json.dumps(note))
    return folder


def test_without_criu_one_line_names_the_package(oci: Runtime, tmp_path: Path) -> None:
    oci.start_sleeping()
    words = ["checkpoint", "--image-path", tmp_path / "images", "one"]
    error = oci(*words, code=1, **without()).stderr
    assert "criu is not installed" in error and "apt-get install criu" in error and len(error.splitlines()) == 2
    assert "(from --parent-path)" in oci(*words, "--parent-path", "../none", code=1, **without()).stderr, (
        "what is wrong anyway is told first"
    )
    for verb in ("checkpoint", "restore"):
        assert "--image-path" in oci(verb, "--help", **without()).stdout, "help is had everywhere"
    assert oci.state("one")["status"] == "running" and not (tmp_path / "images").exists()
    error = oci("restore", "--detach", "--image-path", written(tmp_path / "written"), "two", code=1, **without()).stderr
    assert "criu is not installed" in error and oci.leftovers() == ["one"]
    shown = json.loads(oci("features", **without()).stdout)
    assert shown["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "false"
    oci("delete", "--force", "one")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo first >&2; echo cannot go on >&2; exit 3", "criu ended without an answer: cannot go on"),
        ("kill -KILL $$", "criu ended without an answer"),
        ("head -c 1 <&3 >/dev/null; printf junk >&3", "criu ended without an answer"),
        (r"head -c 1 <&3 >/dev/null; printf '\010\012\020\001\122\004\010\003\020\003' >&3", "version 3.3 of criu is too old"),
    ],
)
def test_a_criu_that_does_not_answer_harms_nobody(oci: Runtime, tmp_path: Path, script: str, says: str) -> None:
    broken = pretend(tmp_path / "programs", script)
    oci.start_sleeping()
    error = oci("checkpoint", "--image-path", tmp_path / "images", "one", code=1, **broken).stderr
    assert says in error
    assert oci.state("one")["status"] == "running" and not (tmp_path / "images").exists()
    assert says in oci("restore", "--detach", "--image-path", written(tmp_path / "written"), "two", code=1, **broken).stderr
    assert oci.leftovers() == ["one"]
    oci("delete", "--force", "one")


def test_what_is_no_checkpoint_is_refused_before_anything_is_made(oci: Runtime, tmp_path: Path) -> None:
    oci.command("/bin/true")

    def refused(images: Path, *words: str) -> str:
        done = oci("restore", "--image-path", images, *words, "one", code=1)
        assert not oci.leftovers() and "--image-path" in done.stderr
        return done.stderr

    assert "no such file or directory" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "pyrun-oci.json is missing" in refused(tmp_path / "empty")
    images = written(tmp_path / "written")
    note = json.loads((images / "pyrun-oci.json").read_text())
    (images / "inventory.img").write_bytes(b"1234")
    assert "inventory.img has 4 bytes, and had 5" in refused(images)
    (images / "inventory.img").unlink()
    assert "inventory.img is missing" in refused(images)
    hostile: list[dict[str, Any]] = [
        {"files": {"../x": 1}},
        {"files": {"notes.txt": 1}},
        {"streams": ["", "", "", "extRootNetNS"]},
        {"streams": ["extRootNetNS", "", ""]},
        {"shape": {"mounts": [1, {}], "namespaces": [], "terminal": False}},
        {"shape": {"mounts": ["/data"], "namespaces": [], "terminal": False}, "external": {"/x": {"mount": "/data", "below": "dmin"}}},
        *({"external": {"/x": {"path": path}}} for path in ("/etc", "/dev/mem", "/dev/vda")),
        *({"external": {point: {"path": "/dev/null"}}} for point in ("", "x", "/a//b", "/../x")),
    ]
    for text in ("{", "[]", "{}", *(json.dumps({**note, **more}) for more in hostile)):
        (images / "pyrun-oci.json").write_text(text)
        assert "is damaged" in refused(images), text
    (images / "pyrun-oci.json").unlink()
    os.mkfifo(images / "pyrun-oci.json")
    assert "is damaged" in refused(images)


def test_files_of_others_stay_when_a_checkpoint_fails(oci: Runtime, tmp_path: Path) -> None:
    """Before criu was asked for anything, and after; and an earlier checkpoint does, until there is a new one."""
    images = written(tmp_path / "written")
    for name in ("vm-disk.img", "notes.txt"):
        (images / name).write_text("1")
    answer = r"head -c 1 <&3 >/dev/null; printf '\010\012\020\001\122\004\010\003\020\020' >&3"
    check = r"head -c 1 <&3 >/dev/null; printf '\010\003\020\001' >&3"
    turns = f"echo x >>{tmp_path}/turns; case $(wc -l <{tmp_path}/turns) in 1) {answer};; 2) {check};; *) exit 1;; esac"
    mended = pretend(tmp_path / "programs", turns)
    oci.command("/bin/sleep", "1000")
    null = subprocess.DEVNULL  # a file as a stream would be refused first
    words = [str(word) for word in (OCI, "--root", oci.root, "run", "--detach", "one")]
    subprocess.run(words, cwd=oci.bundle, stdin=null, stdout=null, stderr=null, check=True)
    kept = sorted(os.listdir(images))

    def fails(*words: str | Path) -> str:
        (tmp_path / "turns").unlink(missing_ok=True)
        return oci("checkpoint", "--image-path", images, *words, "one", code=1, **mended).stderr

    assert "--work-path" in fails("--work-path", "/etc/passwd"), "which is no directory"
    assert sorted(os.listdir(images)) == kept
    (images / "pyrun-oci.json.d").mkdir()
    (images / "pyrun-oci.json.d" / "pages-1.img").write_text("of one that was killed")
    assert "criu ended without an answer" in fails()
    assert sorted(os.listdir(images)) == kept and (images / "inventory.img").read_text() == "12345"
    oci("delete", "--force", "one")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--manage-cgroups-mode", "soft"], "come from config.json"),
        (["--empty-ns", "pid"], "no such kind"),
        (["--status-fd", "1"], "is not supported"),
        (["--page-server", "10.0.0.1:1"], "is not supported"),
    ],
)
@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_options_that_are_refused(oci: Runtime, verb: str, words: list[str], says: str) -> None:
    error = oci(verb, *words, "one", code=2).stderr
    assert says in error and words[0] in error and not oci.leftovers()


def test_a_new_checkpoint_takes_the_place_of_an_earlier_one_of_which_nothing_is_left(tmp_path: Path) -> None:
    images = written(tmp_path / "written")
    (images / "parent").symlink_to("../before")
    (images / "notes.txt").write_text("1")
    with criu._Fresh(str(images)) as fresh:
        with pytest.raises(StateError, match="another one is being written there"), criu._Fresh(str(images)):
            pass
        (Path(fresh.path) / "core-1.img").write_text("123")
        (Path(fresh.path) / "parent").symlink_to("../../early")
        criu._seal(fresh.path, json.loads((images / "pyrun-oci.json").read_text()))
        criu._replace(fresh.path, str(images), "../early")
    assert sorted(os.listdir(images)) == ["core-1.img", "notes.txt", "parent", "pyrun-oci.json"]
    assert criu.read_note(str(images))["files"] == {"core-1.img": 3} and (images / "parent").readlink() == Path("../early")


def test_what_criu_leaves_when_it_dies_over_a_restore_is_ended(oci: Runtime, tmp_path: Path) -> None:
    """Also where there is no cgroup that shows who that is; in another session, and once its parent is gone."""
    child = f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 1000' & sleep 1000 & while ! [ -s {tmp_path}/pid ]; do :; done"
    answers = [r"printf '\010\012\020\001\122\004\010\003\020\020'", r"printf '\010\003\020\001'", "false"]
    turns = [f"{number}) head -c 1 <&3 >/dev/null; {answer} >&3;;" for number, answer in enumerate(answers[:2], 1)]
    script = f"echo x >>{tmp_path}/turns; case $(wc -l <{tmp_path}/turns) in {' '.join(turns)} *) exec 3>&-; {child};; esac"
    oci.command("/bin/true")
    words = ["--cgroup-manager", "disabled", "restore", "--detach", "--image-path", written(tmp_path / "written"), "one"]
    note = {**json.loads((tmp_path / "written/pyrun-oci.json").read_text()), "shape": criu.shape(oci.config)}
    (tmp_path / "written/pyrun-oci.json").write_text(json.dumps(note))
    assert "criu ended without an answer" in oci(*words, code=1, **pretend(tmp_path / "programs", script)).stderr
    assert not oci.leftovers() and not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_who_waits_for_a_container_is_told_who_holds_it(oci: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a checkpoint that hangs does; what needs no lock goes on."""
    oci.start_sleeping()
    lock = os.open(oci.root / "one", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    monkeypatch.setattr(patience, "LONGEST", 0.05)
    with pytest.raises(StateError, match=f"another command changes it since .*process {os.getpid()}"):
        Container(str(oci.root), "one")
    oci("kill", "one", "KILL")
    wait_until(lambda: oci.state("one")["status"] == "stopped", "it lives")
    waiting = subprocess.Popen([str(word) for word in (OCI, "--root", oci.root, "delete", "one")])
    assert oci.leftovers() == ["one"] and waiting.poll() is None
    os.close(lock)
    assert waiting.wait(30) == 0 and not oci.leftovers()


def test_a_user_is_told_that_it_takes_root(oci: Runtime) -> None:
    words = ["unshare", "--user", "--map-root-user", OCI, "--root", oci.root, "checkpoint", "one"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 1 and "rights of the host's root" in done.stderr


def test_nothing_of_a_killed_create_is_taken_over(oci: Runtime) -> None:
    """Its fifo would make a restored container one that waits to be started."""
    folder = oci.root / "one"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "exec.fifo")
    (folder / "failure").touch()
    oci.command("/bin/true")
    seen: list[list[str]] = []

    def make(_args: object, _config: object, _text: bytes, _bundle: str, making: Making) -> None:
        seen.append(os.listdir(making.container.fd))

    container, _ = create(parse(["--root", str(oci.root), "restore", "--bundle", str(oci.bundle), "--detach", "one"]), make)
    assert seen == [[]]
    container.remove()
    container.close()


def test_mounts_below_a_bind_are_the_host_s_only_if_it_has_them(oci: Runtime, tmp_path: Path) -> None:
    for name in ("given", "own"):
        (tmp_path / "volume" / name).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "volume/given"], check=True)
    try:
        bind = {"type": "bind", "source": str(tmp_path / "volume"), "destination": "/data", "options": ["rbind"]}
        oci.config["mounts"].append(bind)
        pid = oci.start_sleeping()
        subprocess.run(["nsenter", "-t", str(pid), "-m", "--", "/bin/busybox", "mount", "-t", "tmpfs", "none", "/data/own"], check=True)
        found = criu_mounts.externals(pid, oci.config)
    finally:
        oci("delete", "--force", "one")
        subprocess.run(["umount", tmp_path / "volume/given"], check=True)
    below = {point: what for point, what in found.items() if point.startswith("/data")}
    assert below == {"/data": {"mount": "/data", "below": ""}, "/data/given": {"mount": "/data", "below": "/given"}}
