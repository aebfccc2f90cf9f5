"""What is measured, made ready: pyrun as installed from a wheel, signed images, a bundle for crun and runc, floor programs.

Kept from one run to the next below build/bench, each with a key of what it was made from: the environment, the floor
programs, the large image.  Everything else lives on a file system of its own (`disk`) and dies with the run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

TOP = Path(__file__).resolve().parent.parent
HERE = TOP / "bench"
KEPT = TOP / "build" / "bench"
PYTHON = "/usr/bin/python3"
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "runtime", "images", "native")
MADE = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "helper")
IMAGE = "example.com/bench"
LARGE = 200 << 20  # bytes of files in the large image
DISK = 12 << 30  # bytes, sparse, of the file system for all state
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


def call(*argv: object, **more: object) -> None:
    """Runs a program silently; CalledProcessError carries what it said."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        raise SystemExit(f"bench: {' '.join(words)}: exit {done.returncode}")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def key_of(paths: Iterable[Path]) -> str:
    """A digest of the files, and of those below the directories, among `paths`."""
    digest = hashlib.sha256()
    for top in paths:
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and path.suffix in (".py", ".c", ".h", ".txt", ".toml", ".pyi", ".typed", ".in"):
                digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def once(name: str, key: str, make: Callable[[], object]) -> None:
    """Calls `make` unless it was done for this key."""
    stamp = KEPT / f"{name}.key"
    if stamp.exists() and stamp.read_text() == key:
        return
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_text(key)


def install() -> Path:
    """Returns an environment of its own with pyrun from a wheel in it, built from a copy of the sources."""
    venv = KEPT / "venv"

    def make() -> None:
        tell("bench: building a wheel and installing it in build/bench/venv")
        for old in ("source", "wheel", "venv"):
            shutil.rmtree(KEPT / old, ignore_errors=True)
        (KEPT / "source").mkdir()
        for name in SOURCES:
            here, there = TOP / name, KEPT / "source" / name
            shutil.copytree(here, there, ignore=MADE) if here.is_dir() else shutil.copy2(here, there)
        pip = [TOP / ".venv/bin/python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", KEPT / "wheel"]
        call(*pip, KEPT / "source")
        call(PYTHON, "-m", "venv", venv)
        call(venv / "bin/python", "-m", "pip", "install", next((KEPT / "wheel").glob("*.whl")))

    once("venv", key_of(TOP / name for name in SOURCES), make)
    return venv


def floor_programs() -> dict[str, Path]:
    """Compiles the small C programs; returns them by name."""
    flags = {
        "floor_bare": ["-nostdlib", "-static", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"],
        "floor_glibc": ["-static"],
        "floor_spawn": [],
        "floor_pod": ["-static"],
    }

    def make() -> None:
        for name, more in flags.items():
            call("gcc", "-O2", "-s", "-Wall", "-Wextra", "-Werror", *more, "-o", KEPT / name, HERE / f"{name}.c")

    once("floor", key_of([*HERE.glob("floor_*.c"), HERE / "stage.py"]), make)
    return {name: KEPT / name for name in flags}


def files_of_this_machine(size: int) -> list[Path]:
    """Regular files below /usr/lib and /usr/share, in the order of their names, about `size` bytes in all."""
    found, total = [], 0
    for top in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/python3", "/usr/share", "/usr/bin", "/usr/lib"):
        for directory, _, names in sorted(os.walk(top)):
            for path in (Path(directory, name) for name in sorted(names)):
                if path.is_symlink() or not path.is_file() or path.stat().st_size > size // 8:
                    continue
                found.append(path)
                total += path.stat().st_size
                if total >= size:
                    return list(dict.fromkeys(found))
    return list(dict.fromkeys(found))


def large_image() -> Path:
    """Returns an image of 200 MB, compressed with gzip."""
    path = KEPT / "large.aci"

    def make() -> None:
        from mkaci import Image

        tell("bench: making an image of 200 MB")
        image = Image("example.com/large", ["/bin/true"])
        for file in files_of_this_machine(LARGE):
            image.add(str(file), file.read_bytes(), mode=0o755 if os.access(file, os.X_OK) else 0o644)
        with gzip.GzipFile(path, "wb", compresslevel=6, mtime=0) as out:
            out.write(image.tar())

    once("large", key_of([HERE / "stage.py"]), make)
    return path


def podman_images(count: int) -> list[str]:
    """Returns the options of podman for a storage with `count` names to list, all of one image.

    Different images would take podman minutes to load and, each with a layer of its own, minutes to list: this is its best case.
    """
    storage = KEPT / "podman"
    options = ["--root", str(storage), "--runroot", f"/run/pyrun-bench-{os.getuid()}"]

    def make() -> None:
        from archives import file
        from mkoci import docker_archive, layer

        image = {"layers": [layer(file(b"hello", b"hello"))], "tags": ["localhost/number:1.0"]}
        archive = docker_archive(KEPT / "podman.tar", image)
        call("podman", *options, "load", "-q", "-i", archive)
        archive.unlink()
        call("podman", *options, "tag", "localhost/number:1.0", *(f"localhost/number-{number}:1.0" for number in range(1, count)))

    once("podman", key_of([HERE / "stage.py"]), make)
    return options


def disk() -> Path:
    """Returns where a new, empty ext4 file system with a journal is mounted: one in a file, seen by this lane only.

    ext4 without a journal, as in some virtual machines, passes over each inode that was freed within a minute when it
    makes a file (find_inode_bit in fs/ext4/ialloc.c): what anybody deleted before would be measured, not pyrun.
    """
    image, mounted = KEPT / "disk.img", KEPT / "disk"
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(DISK)
    mounted.mkdir(exist_ok=True)
    call("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    call("mount", "-o", "loop", image, mounted)
    return mounted


class Stage:
    """The temporary directory of one run: a state root with the image in it, a bundle of the same files, a signing key."""

    def __init__(self) -> None:
        sys.path += [str(TOP / "tools"), str(TOP / "tests" / "support")]
        KEPT.mkdir(parents=True, exist_ok=True)
        self.venv = install()
        self.floor = floor_programs()
        self.pyrun = str(self.venv / "bin" / "pyrun")
        self.python = str(self.venv / "bin" / "python3")
        self.directory = disk()
        self.gpg_home = tempfile.mkdtemp(prefix="pyrun-bench-")  # below /tmp: the path of its agent's socket must be short
        self.gpg("--passphrase", "", "--quick-generate-key", "pyrun bench <bench@example.com>", "ed25519", "sign", "never")
        self.public = self.directory / "key.asc"
        self.gpg("--armor", "--output", self.public, "--export")
        self.root = self.state("state")
        image = self.directory / "bench.aci"
        self.small(IMAGE).write(image)
        self.sign(image)
        call(self.pyrun, "--root", self.root, "fetch", image, env=ENVIRONMENT)
        (layer,) = (self.root / "layers").iterdir()
        self.rootfs = layer / "rootfs"

    def gpg(self, *arguments: object) -> None:
        call("gpg", "--batch", "--quiet", "--homedir", self.gpg_home, *arguments)

    def state(self, name: str) -> Path:
        """Returns a new state root that trusts the key."""
        root = self.directory / name
        call(self.pyrun, "--root", root, "trust", "--yes", "--prefix", "example.com", self.public, env=ENVIRONMENT)
        return root

    def sign(self, image: Path) -> None:
        self.gpg("--armor", "--output", f"{image}.asc", "--detach-sign", image)

    def small(self, name: str):  # type: ignore[no-untyped-def]  # mkaci is a tool, not a package
        """Returns Debian's static busybox as an image; with the mount points that crun would make in it otherwise."""
        from mkaci import Image

        image = Image(name, ["/bin/sh"])
        for directory in ("/dev", "/proc", "/sys", "/tmp", "/etc"):
            image.directory(directory)
        image.busybox()
        image.accounts()
        return image

    def bundle(self, name: str, seccomp: list[str] | None = None, program: Sequence[str] = ("/bin/true",)) -> Path:
        """Returns a bundle as `crun spec` makes it, except: no terminal, `program` on our files, no device rules.

        The rules would be a BPF program that wants CAP_SYS_RESOURCE and costs time that pyrun does not spend;
        `seccomp` adds a filter that allows these calls.
        """
        path = self.directory / name
        path.mkdir()
        call("crun", "spec", cwd=path)
        config = json.loads((path / "config.json").read_text())
        config["process"].update(terminal=False, args=list(program))
        config["root"] = {"path": str(self.rootfs), "readonly": True}
        config["linux"].pop("resources", None)
        if seccomp is not None:
            config["linux"]["seccomp"] = {
                "defaultAction": "SCMP_ACT_ERRNO",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": seccomp, "action": "SCMP_ACT_ALLOW"}],
            }
        (path / "config.json").write_text(json.dumps(config))
        return path

    def system_tree(self) -> Path:
        """Returns a copy of our files with the directories that systemd-nspawn asks for, or else makes in them."""
        tree = self.directory / "system-tree"
        if not tree.exists():
            shutil.copytree(self.rootfs, tree, symlinks=True)
            for name in ("root", "run", "usr", "var"):
                (tree / name).mkdir(exist_ok=True)
        return tree

    def allowed_calls(self) -> list[str]:
        """The system calls that pyrun's default filter allows by number."""
        code = "from pyrun.plan import caps, seccomp_build as b; print(*sorted(b.default_allowed(caps.DEFAULT)))"
        return subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True).stdout.split()

    def forget(self) -> None:
        """Empties cache/run: the next `pyrun run` has to decide again."""
        directory = self.root / "cache" / "run"
        for path in directory.iterdir() if directory.exists() else ():
            path.unlink()

    def settle(self) -> None:
        """Waits until nothing is left of pods that have ended: the next `pyrun run` would sweep it first."""
        deadline = time.monotonic() + 60
        while any(path for phase in ("running", "garbage", "preparing") for path in (self.root / "pods" / phase).glob("*")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"pods are left in {self.root}")
            time.sleep(0.002)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        call("gpgconf", "--homedir", self.gpg_home, "--kill", "all")
        shutil.rmtree(self.gpg_home, ignore_errors=True)
        call("umount", "--lazy", self.directory)
        (KEPT / "disk.img").unlink()
