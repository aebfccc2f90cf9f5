"""Runs tests in a virtual machine: Debian's kernel, the whole cgroup2 tree, systemd as process 1.

The host makes a directory like a checkout, with a relocatable .venv in it (pyrun's wheel and what it needs, installed
by pip, since the machine has no network), the fixtures of the live tests and the tests of a directory, and hands it
to `vmtest`, which boots, runs pytest inside and brings its report back.  Each test of the guest is a test here too.

guest    the kernel that Debian makes for clouds
full     its kernel for everything, with SELinux instead of AppArmor, two nodes of memory, and what compiles a module
"""

from __future__ import annotations

import ast
import marshal
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import CodeType

import pytest
from harness import TOP, compile_probe, copy_of_sources

VMTEST = TOP.parent / "shared" / "vm" / "vmtest"
GUEST = Path(__file__).resolve().parent / "guest"
FULL = GUEST.with_name("full")
PREFIX = TOP / "build" / "vm" / "prefix"
# what tests need beside vmtest's own list, which has podman, crun and uidmap; each user's own bus and systemd, profiles of AppArmor
MACHINE = {"VMTEST_APT": "apparmor criu dbus-user-session passt"}
FULL_MACHINE = {"VMTEST_APT": "linux-headers-amd64 make secilc", "VMTEST_KERNEL": "linux-image-amd64"}
# vmtest has no option for more words of the kernel's command line, but takes what PATH has for QEMU.  It keeps machines by what
# --version says.
QEMU = """#!/bin/sh
for word; do
    shift
    [ "$before" != -append ] || word="$word {words}"
    set -- "$@" "$word"
    before=$word
done
[ "$1" != --version ] || echo "with {words}"
exec {program} "$@"
"""
FULL_WORDS = "security=selinux selinux=1 enforcing=0 numa=fake=2"
LIMIT = 2000  # seconds in the guest, whose processor is emulated; it takes a third of that on an idle machine
TREES = ("tests/conftest.py", "tests/support", "tests/live/conftest.py", "tools", "pyproject.toml")

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


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not VMTEST.exists():
        pytest.skip(f"{os.path.relpath(VMTEST, TOP)} is not beside this checkout: no virtual machine; with CI=true a skip fails")
    make_prefix(tmp_path_factory.mktemp("wheel"))


def run(factory: pytest.TempPathFactory, tests: Path, env: dict[str, str]) -> dict[str, list[str]]:
    """What became of each test of a directory, in a machine of `env`: its name, and a text for each time it failed."""
    folder, out = factory.mktemp("checkout"), factory.mktemp("out")
    make_checkout(folder, tests)
    files = " ".join(f"tests/live/{path.name}" for path in sorted(tests.glob("test_*.py")))
    inside = f".venv/bin/python3 -m pytest -q --durations=12 --junitxml=$OUT/report.xml {files}"
    command: list[str | Path] = [sys.executable, VMTEST, "-C", folder, "-o", out, "-t", str(LIMIT), "-e", "CI=true", "-c", inside]
    env = {**os.environ, **env}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    print(done.stdout)
    shutil.rmtree(folder)
    assert (out / "report.xml").exists(), f"exit {done.returncode}, no report:\n{done.stdout}"
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(out / "report.xml").iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name', '').partition('[')[0]}"
        found.setdefault(name, []).extend(node.text or node.get("message") or node.tag for node in case)
    return found


def check(report: dict[str, list[str]], name: str) -> None:
    assert name in report, "it did not run"
    assert report[name] == [], "\n".join(report[name])


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, prefix: None) -> dict[str, list[str]]:
    return run(tmp_path_factory, GUEST, MACHINE)


@pytest.mark.parametrize("name", guest_tests(GUEST))
def test_in_guest(guest: dict[str, list[str]], name: str) -> None:
    check(guest, name)


def with_words(folder: Path, words: str) -> str:
    """PATH with a QEMU in front that adds to the kernel's command line."""
    program = shutil.which("qemu-system-x86_64")
    if program:  # else vmtest tells what is missing
        (folder / "qemu-system-x86_64").write_text(QEMU.format(words=words, program=program))
        (folder / "qemu-system-x86_64").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, prefix: None) -> dict[str, list[str]]:
    path = with_words(tmp_path_factory.mktemp("bin"), FULL_WORDS)
    return run(tmp_path_factory, FULL, {**FULL_MACHINE, "PATH": path})


@pytest.mark.parametrize("name", guest_tests(FULL))
def test_with_full_kernel(full: dict[str, list[str]], name: str) -> None:
    check(full, name)
