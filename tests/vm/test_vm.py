"""Runs tests in a virtual machine: Debian's kernel, the whole cgroup2 tree, systemd as process 1.

The host makes a directory like a checkout, with a relocatable .venv in it (pyrun's wheel and what it needs, installed
by pip, since the machine has no network), the fixtures of the live tests and the tests of a directory, and hands it
to `vmtest`, which boots, runs pytest inside and brings its report back.  Each test of the guest is a test here too.

guest    as Debian's kernel boots by itself; two machines, which have half of the files each
full     with SELinux instead of AppArmor, and two nodes of memory

All are of one image, which takes minutes to make, and start from one of two saved machines.
"""

from __future__ import annotations

import ast
import marshal
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import CodeType

import pytest
from harness import TOP, compile_probe, copy_of_sources

VMTEST = TOP.parent / "shared" / "vm" / "vmtest"
GUEST = Path(__file__).resolve().parent / "guest"
FULL = GUEST.with_name("full")
PREFIX = TOP / "build" / "vm" / "prefix"
# what tests need beside vmtest's own list, which has podman, crun and uidmap; each user's own bus and systemd, profiles of AppArmor,
# SELinux's compiler, and what compiles a module
MACHINE = {
    "VMTEST_APT": "apparmor criu dbus-user-session linux-headers-amd64 make passt secilc",
    "VMTEST_KERNEL": "linux-image-amd64",
}
# vmtest has no options for the processor and the kernel's command line, but takes what PATH has for QEMU.  It keeps machines by
# what --version says.
QEMU = """#!/bin/sh
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
# The image's own initrd is for nobody; what makes it would collect all modules there are, twice.
MMDEBSTRAP = """#!/bin/sh
exec {program} --essential-hook='mkdir -p $1/etc/initramfs-tools/conf.d; echo MODULES=list >$1/etc/initramfs-tools/conf.d/few' "$@"
"""
# What is slow where a processor is emulated, measured in processor time of the host (docs/design/testing.md): string instructions go
# byte by byte, so the kernel is not to clear and copy pages by them (clearcpuid=112 is rep_good), nor all that it hands out;
# a fifth level of page tables; SMAP, for which every copy from and to user space leaves what is compiled; vectors that the host
# has no use for; the clock of the chip set, which takes a lock of QEMU's for each look at it; the path of audited system calls.
FEATURES = ",-erms,-fsrm,-la57,-smap,-smep,-avx,-avx2"
WORDS = "no5lvl init_on_alloc=0 clearcpuid=112 tsc=reliable audit=0"
FULL_WORDS = f"{WORDS} security=selinux selinux=1 enforcing=0 numa=fake=2"
TOGETHER = 2  # machines at a time
LIMIT = 1100  # seconds in a guest, whose processor is emulated
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
    needs = (TOP / "pyproject.toml").read_text()
    stamp = PREFIX / "needs"
    sources, wheels = copy_of_sources(work / "sources"), work / "wheels"
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, sources)
    wheel = next(wheels.glob("*.whl"))
    if not stamp.exists() or stamp.read_text() != needs:
        shutil.rmtree(PREFIX, ignore_errors=True)
        pip("install", "--ignore-installed", "--prefix", PREFIX, wheel, "pytest", "pytest-timeout", "hypothesis")
        (PREFIX / "bin" / "python3").symlink_to("/usr/bin/python3")
        (PREFIX / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
        stamp.write_text(needs)
    else:
        pip("install", "--ignore-installed", "--no-deps", "--prefix", PREFIX, wheel)
    subprocess.run(["strip", "--strip-unneeded", *PREFIX.rglob("*.so")], check=True)


def make_checkout(folder: Path, tests: Path = GUEST) -> None:
    """The directory that becomes the guest's /src."""
    for name in TREES:
        source, target = TOP / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    for path in (*tests.glob("*.py"), *tests.glob("*.c")):
        shutil.copy2(path, folder / "tests" / "live")  # beside the fixtures
    shutil.copytree(PREFIX, folder / ".venv", symlinks=True)
    compile_probe(folder / "build" / "probe")
    shutil.copy2("/bin/busybox", folder / "build" / "busybox")
    compile_tests(folder)


def compile_tests(folder: Path) -> None:
    """Leaves the files that pytest compiles tests to, as if it had in the guest, which takes ten times as long."""
    collect = [TOP / "tools/lane.sh", folder / ".venv/bin/python3", *"-m pytest -q --collect-only tests/live".split()]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(collect, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (folder / "tests").rglob("*-pytest-*.pyc"):
        data = path.read_bytes()  # a header of 16 bytes that tells which source this is of
        path.write_bytes(data[:16] + marshal.dumps(moved(marshal.loads(data[16:]), str(folder), "/src")))


def moved(code: CodeType, old: str, new: str) -> CodeType:
    """The same with another place of its source, from where tracebacks take their lines."""
    inner = tuple(moved(one, old, new) if isinstance(one, CodeType) else one for one in code.co_consts)
    return code.replace(co_filename=code.co_filename.replace(old, new, 1), co_consts=inner)


def run(checkout: Path, out: Path, files: list[Path], env: dict[str, str]) -> Report:
    """What became of each test of some files, in a machine of `env`: its name, and a text for each time it failed."""
    names = " ".join(f"tests/live/{path.name}" for path in files)
    inside = f".venv/bin/python3 -m pytest -q --timeout=300 --durations=12 --junitxml=$OUT/report.xml {names}"
    command: list[str | Path] = [sys.executable, VMTEST, "-C", checkout, "-o", out, "-t", str(LIMIT), "-e", "CI=true", "-c", inside]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    print(done.stdout)
    assert (out / "report.xml").exists(), f"exit {done.returncode}, no report:\n{done.stdout}"
    found: Report = {}
    for case in ElementTree.parse(out / "report.xml").iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '').partition('[')[0]}"
        found.setdefault(name, []).extend(node.text or node.get("message") or node.tag for node in case)
    return found


def halves(tests: Path) -> list[list[Path]]:
    """The files of a directory in two lists that are about as long."""
    made: list[list[Path]] = [[], []]
    size = [0, 0]
    for path in sorted(tests.glob("test_*.py"), key=lambda path: -path.stat().st_size):
        less = size.index(min(size))
        made[less].append(path)
        size[less] += path.stat().st_size
    return [sorted(one) for one in made]


def environment(folder: Path, tests: Path) -> dict[str, str]:
    """That of vmtest for the machine that a directory of tests is for; `folder` gets programs that stand in front of others."""
    words = FULL_WORDS if tests == FULL else WORDS
    for name, text in (("qemu-system-x86_64", QEMU), ("mmdebstrap", MMDEBSTRAP)):
        program = shutil.which(name)
        if program:  # else vmtest tells what is missing
            (folder / name).write_text(text.format(words=words, features=FEATURES, program=program))
            (folder / name).chmod(0o755)
    return {**os.environ, **MACHINE, "PATH": f"{folder}:{os.environ['PATH']}"}


def check(report: Report, name: str) -> None:
    assert name in report, "it did not run"
    assert report[name] == [], "\n".join(report[name])


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, list[Future[Report]]]]:
    """What comes of each directory of tests, while its machines run."""
    if not VMTEST.exists():
        pytest.skip(f"{os.path.relpath(VMTEST, TOP)} is not beside this checkout: no virtual machine; with CI=true a skip fails")
    new = tmp_path_factory.mktemp
    env = {tests: environment(new("bin"), tests) for tests in (GUEST, FULL)}
    build, null = [sys.executable, VMTEST, "--build"], subprocess.DEVNULL
    with subprocess.Popen(build, env=env[GUEST], stdin=null, stdout=null, stderr=null):  # whose failure the first run tells
        make_prefix(new("wheel"))
        checkouts = {tests: new("checkout") for tests in env}
        for tests, folder in checkouts.items():
            make_checkout(folder, tests)
    with ThreadPoolExecutor(TOGETHER) as pool:
        parts = {GUEST: halves(GUEST), FULL: [sorted(FULL.glob("test_*.py"))]}
        yield {tests: [pool.submit(run, checkouts[tests], new("out"), one, env[tests]) for one in parts[tests]] for tests in parts}
    for folder in checkouts.values():
        shutil.rmtree(folder)


def reports(machines: dict[Path, list[Future[Report]]], tests: Path) -> Report:
    return {name: texts for one in machines[tests] for name, texts in one.result().items()}


@pytest.fixture(scope="module")
def guest(machines: dict[Path, list[Future[Report]]]) -> Report:
    return reports(machines, GUEST)


@pytest.mark.parametrize("name", guest_tests(GUEST))
def test_in_guest(guest: Report, name: str) -> None:
    check(guest, name)


@pytest.fixture(scope="module")
def full(machines: dict[Path, list[Future[Report]]]) -> Report:
    return reports(machines, FULL)


@pytest.mark.parametrize("name", guest_tests(FULL))
def test_with_full_kernel(full: Report, name: str) -> None:
    check(full, name)
