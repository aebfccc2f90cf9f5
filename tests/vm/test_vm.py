"""Runs tests in a virtual machine: Debian's kernel, the whole cgroup2 tree, systemd as process 1.

The host makes a directory like a checkout, with a relocatable .venv in it (pyrun's wheel and what it needs, installed
by pip, since the machine has no network), the fixtures of the live tests and the tests of a directory, and hands it
to `vmtest`, which boots, runs pytest inside and brings its report back.  Each test of the guest is a test here too.

guest    the kernel that Debian makes for clouds; four machines, each with some of the files
full     its kernel for everything, with SELinux instead of AppArmor, two nodes of memory, and what compiles a module

Two machines run at a time, one for each processor of the host.  Beside the live lane (tools/check.py names its process in
CHECK_BESIDE) it is one, and two from when that has ended.  What each test took is in build/vm/*.xml.
"""

from __future__ import annotations

import ast
import contextlib
import marshal
import os
import select
import shutil
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from harness import TOP, compile_probe, copy_of_sources

VMTEST = TOP.parent / "shared" / "vm" / "vmtest"
GUEST = Path(__file__).resolve().parent / "guest"
FULL = GUEST.with_name("full")
PREFIX = TOP / "build" / "vm" / "prefix"
# what tests need beside vmtest's own list, which has podman, crun and uidmap; each user's own bus and systemd, profiles of AppArmor
MACHINE = {"VMTEST_APT": "apparmor criu dbus-user-session passt"}
FULL_MACHINE = {"VMTEST_APT": "secilc make linux-headers-amd64", "VMTEST_KERNEL": "linux-image-amd64"}
MADE = "/usr/local/lib/misc_charge"  # where test_misc.py finds the module in the machine
# vmtest has no options for the processor and more words of the kernel's command line, but takes what PATH has for QEMU.  It keeps
# machines by what --version says.
QEMU = """#!/bin/sh
before=
for word; do
    shift
    case $before in
    -append) word="$word {words}" ;;
    -cpu) word="$word{features}" ;;
    esac
    set -- "$@" "$word"
    before=$word
done
[ "$1" != --version ] || echo "with {words} {features}"
exec {program} "$@"
"""
# The image's own initrd is for nobody; what makes it would collect all modules there are, twice.  And where the kernel's headers are,
# the tests' own module is compiled while it goes at the host's speed; a test whose source is another one compiles it itself.
MMDEBSTRAP = """#!/bin/sh
exec {program} --essential-hook='mkdir -p $1/etc/initramfs-tools/conf.d; echo MODULES=list >$1/etc/initramfs-tools/conf.d/few' \\
    --customize-hook={folder}/module "$@"
"""
MODULE = """#!/bin/sh
set -e
for headers in "$1"/lib/modules/*/build; do
    [ -L "$headers" ] || exit 0
    mkdir -p "$1{place}"
    cp {source} "$1{place}"
    echo obj-m := {source.stem}.o >"$1{place}/Kbuild"
    chroot "$1" make -C "${{headers#"$1"}}" M={place} KCFLAGS=-g0 modules
done
"""
# What is slow where a processor is emulated (docs/design/testing.md): string instructions go byte by byte, so the kernel is not to
# clear and copy pages by them (clearcpuid=112 is rep_good), nor all that it hands out; a fifth level of page tables; SMAP, for which
# every copy from and to user space leaves what is compiled; vectors that the host has no use for.
FEATURES = ",-erms,-fsrm,-la57,-smap,-smep,-avx,-avx2"
WORDS = "no5lvl init_on_alloc=0 clearcpuid=112"
# a page would go to the node of whoever looks at it from outside, such as a reader of /proc/PID/cmdline, whatever cpuset.mems says
FULL_WORDS = f"{WORDS} security=selinux selinux=1 enforcing=0 numa=fake=2 numa_balancing=disable"
# Which files each machine of the guest's has, beside those that are named nowhere, which the first one has.  A second processor costs
# a quarter more for what does not need it: each change of memory that both may see is an exclusive one then.
PARTS = {
    "services": ["test_checkpoint", "test_podman", "test_units", "test_web"],
    "limits": ["test_limits", "test_limits_more", "test_limits_rare"],
    "processors": ["test_limits_felt"],
}
TWO_PROCESSORS = ("processors",)
LONGEST_FIRST = ("services", "guest", "limits", "processors", "full")
TOGETHER = 2  # machines at a time
LIMIT = 2000  # seconds in a machine, whose processor is emulated; it takes less than half of that on a busy host
TOOLS = ("pytest", "pytest-timeout")
# What of Debian's generators there is runs at each daemon-reload, and finds nothing to do (systemd.generator(7)).  The host's Python may
# be another build of the same sources, of another time, which a bundle looks at (first_starts.py).
INSIDE = """
while read -r time size path; do [ "$(stat -c %s "$path")" != "$size" ] || touch -m -d "@$time" "$path"; done <build/python
mkdir -p /etc/systemd/system-generators
for path in /lib/systemd/system-generators/*; do ln -s /dev/null "/etc/systemd/system-generators/${path##*/}"; done
"""
TREES = ("tests/conftest.py", "tests/support", "tests/live/conftest.py", "tools", "pyproject.toml")

Report = dict[str, list[str]]

pytestmark = [pytest.mark.vm, pytest.mark.needs_root]


def guest_tests(tests: Path) -> list[str]:
    """Every `file::test` of a directory, parametrised ones once."""
    found = []
    for path in sorted(tests.glob("test_*.py")):
        functions = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        found += [f"{path.stem}::{name}" for name in functions if name.startswith("test_")]
    return found


def pip(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def make_prefix(work: Path) -> None:
    """Installs pyrun and its needs below build/vm/prefix; only pyrun itself when the needs are there already."""
    needs = (TOP / "pyproject.toml").read_text() + " ".join(TOOLS)
    stamp = PREFIX / "needs"
    sources, wheels = copy_of_sources(work / "sources"), work / "wheels"
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, sources)
    wheel = next(wheels.glob("*.whl"))
    if not stamp.exists() or stamp.read_text() != needs:
        shutil.rmtree(PREFIX, ignore_errors=True)
        pip("install", "--ignore-installed", "--prefix", PREFIX, wheel, *TOOLS)
        (PREFIX / "bin" / "python3").symlink_to("/usr/bin/python3")
        (PREFIX / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        stamp.write_text(needs)
    else:
        pip("install", "--ignore-installed", "--no-deps", "--prefix", PREFIX, wheel)
    subprocess.run(["strip", "--strip-unneeded", *PREFIX.rglob("*.so")], check=True)


def make_checkout(folder: Path) -> None:
    """The directory that becomes each machine's /src."""
    for name in TREES:
        source, target = TOP / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    for tests in (GUEST, FULL):
        for path in (*tests.glob("*.py"), *tests.glob("*.c")):
            shutil.copy2(path, folder / "tests" / "live")  # beside the fixtures
    shutil.copytree(PREFIX, folder / ".venv", symlinks=True)
    compile_probe(folder / "build" / "probe")
    shutil.copy2("/bin/busybox", folder / "build" / "busybox")
    compile_tests(folder)
    make_bundles(folder)


def run_in_checkout(command: list[str | Path], folder: Path) -> None:
    """Runs a command that has a pytest of its own; that one writes the files that it compiles."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS")}
    done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def compile_tests(folder: Path) -> None:
    """Leaves the files that pytest compiles tests to, as if it had in the guest, which takes ten times as long."""
    collect = [TOP / "tools/lane.sh", folder / ".venv/bin/python3", *"-m pytest -q --collect-only tests/live".split()]
    run_in_checkout(collect, folder)
    for path in (folder / "tests").rglob("*-pytest-*.pyc"):
        data = path.read_bytes()  # a header of 16 bytes that tells which source this is of
        path.write_bytes(data[:16] + marshal.dumps(moved(marshal.loads(data[16:]), str(folder), "/src")))


# The directory is /src for who is in the lane, whose root gets all that this one's has.
AS_SOURCE = """
mount -t tmpfs root "$1"
for path in /*; do
    if [ -L "$path" ]; then cp -P "$path" "$1"; elif [ -d "$path" ]; then mkdir "$1$path"; mount --rbind "$path" "$1$path"; fi
done
mkdir -p "$1/src"
mount --bind "$2" "$1/src"
cd "$1"
pivot_root . .
umount -l .
cd /src
exec .venv/bin/python3 -m pytest -q tests/live/first_starts.py
"""


def make_bundles(folder: Path) -> None:
    """Leaves what the first `pyrun run` and the first `pyrun-oci` write beside the package, which takes each machine as long as ten others.

    They know each source by its path and time, and the archive that it travels in has whole seconds.
    """
    root = folder / "root"
    root.mkdir()
    for path in (folder / ".venv").rglob("*.py"):
        seconds = int(path.stat().st_mtime)
        os.utime(path, (seconds, seconds))
    shutil.copy2(GUEST.with_name("first_starts.py"), folder / "tests" / "live")
    run_in_checkout([TOP / "tools/lane.sh", "bash", "-euc", AS_SOURCE, "bash", root, folder], folder)
    root.rmdir()
    for path in (folder / "tests").rglob("*first_starts*"):
        path.unlink()


def moved(code: CodeType, old: str, new: str) -> CodeType:
    """The same with another place of its source, from where tracebacks take their lines."""
    inner = tuple(moved(one, old, new) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_filename=code.co_filename.replace(old, new, 1), co_consts=inner)


class Machine:
    """One with the files of a directory that it is for; `vmtest` makes its image, unless there is one, from when it is begun."""

    def __init__(self, name: str, tests: Path, files: list[Path], folder: Path) -> None:
        self.name = name
        self.files = files
        self.folder = folder
        kind, words = (MACHINE, WORDS) if tests == GUEST else (FULL_MACHINE, FULL_WORDS)
        for front, text in (("qemu-system-x86_64", QEMU), ("mmdebstrap", MMDEBSTRAP), ("module", MODULE)):
            program = shutil.which(front)  # vmtest tells what is missing
            values = {"folder": folder, "words": words, "features": FEATURES, "place": MADE, "source": FULL / "misc_charge.c"}
            if program or text == MODULE:
                (folder / front).write_text(text.format(program=program, **values))
                (folder / front).chmod(0o755)
        cpus = "2" if name in TWO_PROCESSORS else "1"
        self.env = {**os.environ, **kind, "VMTEST_CPUS": cpus, "PATH": f"{folder}:{os.environ['PATH']}"}
        self.vmtest = [sys.executable, str(VMTEST)]
        null = subprocess.DEVNULL
        self.build = subprocess.Popen([*self.vmtest, "--build"], env=self.env, stdin=null, stdout=null, stderr=null)

    def run(self, checkout: Path) -> Report:
        """What became of each test: its name, and a text for each time it failed."""
        self.build.wait()  # whether it failed, this one will tell
        out = self.folder / "out"
        files = " ".join(f"tests/live/{path.name}" for path in self.files)
        inside = f"{INSIDE}.venv/bin/python3 -m pytest -q --timeout=300 --durations=12 --junitxml=$OUT/report.xml {files}"
        command: list[str | Path] = [*self.vmtest, "-C", checkout, "-o", out, "-t", str(LIMIT), "-e", "CI=true", "-c", inside]
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, env=self.env, text=True, **streams)
        print(done.stdout)
        assert (out / "report.xml").exists(), f"exit {done.returncode}, no report:\n{done.stdout}"
        shutil.copy(out / "report.xml", PREFIX.with_name(f"{self.name}.xml"))
        found: Report = {}
        for case in ElementTree.parse(out / "report.xml").iter("testcase"):
            name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '').partition('[')[0]}"
            found.setdefault(name, []).extend(node.text or node.get("message") or node.tag for node in case)
        return found


class Turns:
    """What each thread that runs machines begins with: but for the first one, it waits for the end of the process that is beside them."""

    def __init__(self, beside: int | None) -> None:
        self.over = threading.Event()
        self.one = threading.Semaphore(1)
        self.process = None
        if beside is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                self.process = os.pidfd_open(beside)

    def take(self) -> None:
        if self.one.acquire(blocking=False) or self.process is None:
            return
        look = select.poll()
        look.register(self.process, select.POLLIN)
        while not self.over.is_set() and not look.poll(1000):
            pass

    def close(self) -> None:
        """Nobody waits any longer."""
        self.over.set()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Report]]]:
    """What comes of each file, once its machine has run."""
    if not VMTEST.exists():
        pytest.skip(f"{os.path.relpath(VMTEST, TOP)} is not beside this checkout: no virtual machine; with CI=true a skip fails")
    new = tmp_path_factory.mktemp
    guests = {name: [GUEST / f"{stem}.py" for stem in stems] for name, stems in PARTS.items()}
    named = [path for paths in guests.values() for path in paths]
    rest = [path for path in sorted(GUEST.glob("test_*.py")) if path not in named]
    parts = {name: (GUEST, paths) for name, paths in guests.items()}
    parts |= {"guest": (GUEST, rest), "full": (FULL, sorted(FULL.glob("test_*.py")))}
    machines = [Machine(name, *parts[name], new(name)) for name in LONGEST_FIRST]
    checkout = new("checkout")
    turns = Turns(int(os.environ["CHECK_BESIDE"]) if "CHECK_BESIDE" in os.environ else None)
    with ThreadPoolExecutor(TOGETHER, initializer=turns.take) as pool:
        try:
            make_prefix(new("wheel"))
            make_checkout(checkout)
            runs = [(machine, pool.submit(machine.run, checkout)) for machine in machines]
            yield {path.stem: run for machine, run in runs for path in machine.files}
        finally:
            turns.close()
            pool.shutdown(cancel_futures=True)
            for machine in machines:
                machine.build.wait()
    shutil.rmtree(checkout)


def check(reports: dict[str, Future[Report]], name: str) -> None:
    report = reports[name.partition("::")[0]].result()
    assert name in report, "it did not run"
    if report[name]:
        pytest.fail("\n".join(report[name]), pytrace=False)  # its own traceback is the one to see


@pytest.mark.parametrize("name", guest_tests(GUEST))
def test_in_guest(reports: dict[str, Future[Report]], name: str) -> None:
    check(reports, name)


@pytest.mark.parametrize("name", guest_tests(FULL))
def test_with_full_kernel(reports: dict[str, Future[Report]], name: str) -> None:
    check(reports, name)
