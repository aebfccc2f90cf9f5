"""Bad input: one line that names it, one hint, the right exit code, and nothing left behind ("Bad input" of issue 1)."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Pyrun, Result, Signer
from mkaci import Image

Make = Callable[..., Path]


def tree(top: Path) -> set[str]:
    """What a state directory holds, but for what a successful look-up may leave (caches and locks) and the insides of layers."""
    kept = [path for path in top.iterdir() if path.name not in ("cache", "locks")]
    return {str(path) for folder in kept for path in [folder, *folder.glob("*"), *folder.glob("*/*")]}


@pytest.fixture(scope="module")
def stored(shared: Pyrun) -> Pyrun:
    """A store that has the probe image, all directories and a filter: a failing command adds nothing to it."""
    shared.report()
    return shared


def refuse(pyrun: Pyrun, *arguments: str | Path, code: int = 125) -> Result:
    """Runs pyrun, which must fail in the one way in which it may."""
    before = tree(pyrun.root)
    failed = pyrun(*arguments, code=code)
    lines = failed.err.splitlines()
    assert lines and lines[0].startswith("pyrun: "), failed
    assert len(lines[0]) > len("pyrun: x") and "Traceback" not in failed.err, failed
    assert [line.partition(" ")[0] for line in lines[1:]] in (["hint:"], ["hint:", "from:"]), failed
    assert failed.out == "", failed
    assert failed.err.isprintable() or re.fullmatch(r"[\n\x20-\x7e\x80-\U0010ffff]*", failed.err), "raw control characters"
    assert tree(pyrun.root) == before
    return failed


USAGE = [
    ["run"],
    ["run", "IMAGE", "second-image"],
    ["run", "--no-such-option", "IMAGE"],
    ["run", "IMAGE", "--net", "bridge 0"],
    ["run", "IMAGE", "--upper", "cloud"],
    ["run", "IMAGE", "--umask", "9"],
    ["run", "IMAGE", "--umask", "01000"],
    ["run", "IMAGE", "--rlimit", "nofile"],
    ["run", "IMAGE", "--rlimit", "nofiles=1"],
    ["run", "IMAGE", "--rlimit", "nofile=10:5"],
    ["run", "IMAGE", "--rlimit", "nofile=-1"],
    ["run", "IMAGE", "--oom-score-adj", "1001"],
    ["run", "IMAGE", "--supplementary-gids", "1,x"],
    ["run", "IMAGE", "--supplementary-gids", "-1"],
    ["run", "IMAGE", "--set-env", "NOVALUE"],
    ["run", "IMAGE", "--set-env", "=x"],
    ["run", "IMAGE", "--set-env", "a b=x"],
    ["run", "IMAGE", "--set-env", "a\nb=x"],
    ["run", "IMAGE", "--set-env-file", "/no/such/file"],
    ["run", "IMAGE", "--insecure-options", "everything"],
    ["run", "IMAGE", "--rm", "--keep"],
    ["run", "IMAGE", "--no-overlay", "--upper", "tmpfs"],
    ["run", "IMAGE", "--caps-retain", "KILL", "--caps-remove", "KILL"],
    ["run", "IMAGE", "-v", "data"],
    ["run", "IMAGE", "-v", "/a"],
    ["run", "IMAGE", "-v", "/a:/b:rx"],
    ["run", "IMAGE", "-v", ":/b"],
    ["run", "IMAGE", "--volume", "x,kind=magic"],
    ["run", "IMAGE", "--volume", "x,kind=host"],
    ["run", "IMAGE", "--volume", "x,kind=host,source=relative"],
    ["run", "IMAGE", "--volume", "x,kind=empty,source=/tmp"],
    ["run", "IMAGE", "--volume", "x,kind=tmpfs,size=big"],
    ["run", "IMAGE", "--volume", "X,kind=empty"],
    ["run", "IMAGE", "--mount", "type=magic,target=/x"],
    ["run", "IMAGE", "--mount", "target=/x"],
    ["run", "IMAGE", "--exec"],
    ["plan", "IMAGE", "--format", "xml"],
    ["no-such-verb"],
]


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_usage(stored: Pyrun, words: list[str]) -> None:
    refuse(stored, *[stored.probe_image if word == "IMAGE" else word for word in words], code=2)


CONFIG: list[tuple[list[str], str]] = [
    (["--user", "ghost"], "ghost"),
    (["--group", "ghost"], "ghost"),
    (["--user", "/no/such/file"], "/no/such/file"),
    (["--user", "4294967296"], "4294967296"),
    (["--working-dir", "relative"], "relative"),
    (["--working-dir", "/no/such/directory"], "/no/such/directory"),
    (["--working-dir", "/etc/passwd"], "/etc/passwd"),
    (["--working-dir", "/" + "x" * 300], "name too long"),
    (["--hostname", "-bad"], "-bad"),
    (["--hostname", "a_b"], "a_b"),
    (["--hostname", "a..b"], "a..b"),
    (["--name", "a b"], "a b"),
    (["--name", "../x"], "../x"),
    (["--name", "x" * 65], "x" * 65),
    (["--hostname", "x" * 65], "x" * 65),
    (["--caps-retain", "PONIES"], "PONIES"),
    (["--caps-remove", "CAP_SYS_PONY"], "CAP_SYS_PONY"),
    (["--seccomp", "mode=maybe"], "maybe"),
    (["--seccomp", "mode=remove,no_such_call"], "no_such_call"),
    (["--seccomp", "mode=remove,errno=ENOTHING,mkdir"], "ENOTHING"),
    (["--seccomp", "mode=retain,@no/such/group"], "@no/such/group"),
    (["-v", "/no/such/source:/data"], "/no/such/source"),
    (["--volume", "x,kind=empty"], "x"),
    (["--mount", "volume=ghost,target=/x"], "ghost"),
    (["-v", "/usr:/proc"], "/proc"),
    (["-v", "/usr:/dev/shm"], "/dev/shm"),
    (["-v", "/usr:/a/../b"], "/a/../b"),
    (["--uuid-file-save", "/no/such/dir/file"], "/no/such/dir/file"),
]


@pytest.mark.parametrize(("flags", "named"), CONFIG, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "")
def test_configuration(stored: Pyrun, flags: list[str], named: str) -> None:
    before = stored("run", *flags, stored.probe_image).code
    assert before in (2, 125)
    assert named in refuse(stored, "run", *flags, stored.probe_image, code=before).err


def test_more_than_a_plan_can_hold(stored: Pyrun, tmp_path: Path) -> None:
    """Told before anything is made, and not by the helper, who would leave the pod behind."""
    numbers = [f"--supplementary-gids={','.join(map(str, range(at, at + 4000)))}" for at in range(1, 17000, 4000)]
    assert "--supplementary-gids" in refuse(stored, "run", *numbers, stored.probe_image, code=2).err
    mounts = [f"--mount=type=tmpfs,target=/m/{number}" for number in range(4000)]
    assert "4096" in refuse(stored, "run", *mounts, stored.probe_image, code=2).err
    files = []
    for number in range(6):
        (tmp_path / f"{number}").write_text("".join(f"V{number}x{i}={'x' * 10000}\n" for i in range(90)))
        files += ["--set-env-file", str(tmp_path / f"{number}")]
    assert "too many" in refuse(stored, "run", *files, stored.probe_image, code=2).err


def test_files_that_cannot_take_the_uuid(stored: Pyrun) -> None:
    assert "/dev/full: no space left on device" in refuse(stored, "run", "--uuid-file-save", "/dev/full", stored.probe_image).err


def test_a_directory_of_the_systems_is_no_state_directory(stored: Pyrun, tmp_path: Path) -> None:
    """As --root / or /var, of which `gc` would empty the directory tmp, or one with pictures in a directory images."""
    (tmp_path / "var" / "tmp").mkdir(parents=True)
    (tmp_path / "var" / "tmp").chmod(0o1777)
    (tmp_path / "var" / "tmp" / "file").write_text("of others")
    (tmp_path / "home" / "layers").mkdir(parents=True, mode=0o755)
    (tmp_path / "home" / "layers" / "map").write_text("of others")
    before = tree(tmp_path)
    for words in (["gc"], ["image", "gc"], ["image", "gc", "--all"], ["run", stored.probe_image]):
        assert f"use root {tmp_path}/var: " in stored("--root", tmp_path / "var", *words, code=125).err
    assert f"use root {tmp_path}/home: " in stored("--root", tmp_path / "home", "image", "gc", code=125).err
    assert tree(tmp_path) == before


def test_images_that_are_not_there(stored: Pyrun, tmp_path: Path) -> None:
    for name in (
        "example.com/none",
        "sha512-" + "0" * 128,
        "probe",
        "example.com/probe:9.9",
        "./none.aci",
        "/no/such/file.aci",
        "none.aci",
    ):
        assert name.rpartition("/")[2] in refuse(stored, "run", name).err
    refuse(stored, "run", str(tmp_path) + "/")


def test_unsigned(stored: Pyrun, image: Make) -> None:
    path = image("example.com/unsigned", signed=False)
    assert "--insecure-options=image" in refuse(stored, "run", path).err
    stored("run", "--insecure-options", "image", path, code=0)


def test_signed_by_nobody_who_is_trusted(pyrun: Pyrun, image: Make, new_signer: Callable[[str], Signer]) -> None:
    pyrun.report()
    path = image("example.com/foreign", signed=False, edit=lambda made: made.add("/mark", b"foreign"))
    new_signer("stranger <stranger@example.com>").sign(path)
    refuse(pyrun, "run", path)


def test_signed_for_another_prefix(pyrun: Pyrun, image: Make) -> None:
    pyrun.report()
    refuse(pyrun, "run", image("example.org/elsewhere"))


def damaged(source: Path, target: Path, change: Callable[[bytes], bytes]) -> Path:
    target.write_bytes(change(source.read_bytes()))
    return target


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"hello, world\n",
    "cut": lambda data: data[: len(data) // 2],
    "cut header": lambda data: data[:300],
    "trailing": lambda data: data + b"garbage",
    "flipped": lambda data: data[:600] + bytes([data[600] ^ 0xFF]) + data[601:],
}


@pytest.mark.parametrize("compression", ["none", "xz"])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_archives(stored: Pyrun, image: Make, tmp_path: Path, how: str, compression: str) -> None:
    """A signature over the original fails first; without signatures the archive itself is at fault."""
    good = image("example.com/damaged", compression=compression, edit=lambda made: made.add("/mark", how.encode()))
    bad = damaged(good, tmp_path / "bad.aci", DAMAGE[how])
    (tmp_path / "bad.aci.asc").write_bytes(good.with_name(good.name + ".asc").read_bytes())
    refuse(stored, "run", bad)
    refuse(stored, "run", "--insecure-options", "image", bad)


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[Image], None]:
    def edit(made: Image) -> None:
        change(made.manifest)

    return edit


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "kind": lambda m: m.update(acKind="PodManifest"),
    "version": lambda m: m.update(acVersion="one"),
    "no name": lambda m: m.pop("name"),
    "bad name": lambda m: m.update(name="../evil"),
    "other os": lambda m: m.update(labels=[{"name": "os", "value": "freebsd"}, {"name": "arch", "value": "amd64"}]),
    "other arch": lambda m: m.update(labels=[{"name": "os", "value": "linux"}, {"name": "arch", "value": "aarch64"}]),
    "user": lambda m: m["app"].update(user=0),
    "relative cwd": lambda m: m["app"].update(workingDirectory="x"),
    "environment": lambda m: m["app"].update(environment=[{"name": "A B", "value": "x"}]),
    "two handlers": lambda m: m["app"].update(eventHandlers=[{"name": "pre-start", "exec": ["/x"]}] * 2),
    "unenforced": lambda m: m["app"].update(isolators=[{"name": "resource/memory", "value": {"limit": "1G"}}]),
    "both sets": lambda m: m["app"].update(
        isolators=[{"name": f"os/linux/capabilities-{way}-set", "value": {"set": ["CAP_KILL"]}} for way in ("retain", "remove")]
    ),
    "pony": lambda m: m["app"].update(isolators=[{"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_PONY"]}}]),
    "empty set": lambda m: m["app"].update(isolators=[{"name": "os/linux/capabilities-remove-set", "value": {"set": []}}]),
    "escape": lambda m: m.update(name="example.com/\x1b[31mred"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_broken_manifests(stored: Pyrun, image: Make, what: str) -> None:
    path = image("example.com/broken", app={"user": "0"}, edit=broken(MANIFESTS[what]))
    failed = stored("run", path, code=125)  # what is wrong with the app may show only when it is to run: the image is stored then
    assert failed.err.count("pyrun: ") == failed.err.count("hint: ") == 1 and failed.out == "", failed


@pytest.mark.parametrize(("program", "code"), [("/missing", 127), ("/etc/passwd", 126)])
def test_programs(stored: Pyrun, program: str, code: int) -> None:
    refuse(stored, "run", stored.probe_image, "--exec", program, code=code)


def test_control_characters_are_escaped(stored: Pyrun) -> None:
    for text in ("\x1b[31mred", "a\nb", "\r\x07", "\N{RIGHT-TO-LEFT OVERRIDE}x"):
        assert "\x1b" not in refuse(stored, "run", stored.probe_image, "--exec", "/" + text, code=127).err


def test_a_store_that_cannot_be_made(stored: Pyrun, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for root in (file, file / "below", Path("/proc/nowhere")):
        failed = stored("--root", root, "run", stored.probe_image, code=125)
        assert failed.err.count("pyrun: ") == failed.err.count("hint: ") == 1, failed


def test_a_full_disk(signer: Signer, probe_image: Path, tmp_path: Path) -> None:
    """F15: the failing step is named, its space returned, and with more space the same command works."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", small], check=True)
    try:
        pyrun = Pyrun(small / "state", probe_image)
        pyrun("trust", "--yes", "--prefix", "example.com", signer.public, code=0)
        failed = pyrun("run", probe_image, code=125)
        assert "no space left" in failed.err.lower() and failed.err.count("hint: ") == 1, failed
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        pyrun.probe("exit", "0", code=0)
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_errors_do_not_change_the_image_file(stored: Pyrun, image: Make) -> None:
    path = image("example.com/untouched", signed=False, edit=lambda made: made.add("/mark", b"untouched"))
    before = hashlib.sha256(path.read_bytes()).digest(), os.stat(path).st_mtime_ns
    refuse(stored, "run", path)
    assert (hashlib.sha256(path.read_bytes()).digest(), os.stat(path).st_mtime_ns) == before
