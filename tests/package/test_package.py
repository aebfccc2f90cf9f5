"""What pip gets: sdist, the wheel built from it, an installation of that, and a build in place."""

from __future__ import annotations

import stat
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from harness import TOP, copy_of_sources

ROOMS = {"runtime": "pyrun", "images": "pyrun/images", "native": "pyrun/native"}
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]


def run(*command: str | Path, cwd: Path = TOP) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_sources(tmp_path_factory.mktemp("sources") / "pyrun")


@pytest.fixture(scope="module")
def dist(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one sdist and one wheel, the wheel made from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, sources)
    return out


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel in it."""
    prefix = tmp_path_factory.mktemp("installed")
    venv.create(prefix, symlinks=True)
    run(
        sys.executable,
        "-m",
        "pip",
        "-q",
        "install",
        "--no-index",
        "--no-deps",
        "--ignore-installed",
        "--prefix",
        prefix,
        *dist.glob("*.whl"),
    )
    return prefix


def python_files() -> set[str]:
    return {f"{package}/{path.relative_to(TOP / room)}" for room, package in ROOMS.items() for path in (TOP / room).rglob("*.py")}


def test_one_wheel_for_all_pythons(dist: Path) -> None:
    assert [path.name for path in dist.glob("*.whl")] == [f"pyrun_runtime-{VERSION}-cp311-abi3-linux_x86_64.whl"]


def test_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    names = set(zipfile.ZipFile(next(dist.glob("*.whl"))).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    data = {
        "pyrun/py.typed",
        "pyrun/start/python3._pth",
        "pyrun/native/helper",
        "pyrun/native/keeper",
        "pyrun/native/park",
        "pyrun/native/relay",
        "pyrun/native/plan.h",
        "pyrun/native/oci_plan.h",
        f"pyrun_runtime-{VERSION}.data/scripts/pyrun",
        f"pyrun_runtime-{VERSION}.data/scripts/pyrun-oci",
    }
    extensions = {f"pyrun/native/{name}.abi3.so" for name in ("_native", "_seccomp", "_unpack")}
    stubs = {f"pyrun/native/{path.name}" for path in (TOP / "native").glob("*.pyi")}
    assert inside == python_files() | data | extensions | stubs
    assert {f"pyrun_runtime-{VERSION}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= names


def test_programs_in_the_wheel_are_executable(dist: Path) -> None:
    wheel = zipfile.ZipFile(next(dist.glob("*.whl")))
    programs = [f"pyrun/native/{name}" for name in ("helper", "keeper", "park", "relay")]
    for name in (*programs, f"pyrun_runtime-{VERSION}.data/scripts/pyrun"):
        assert stat.S_IMODE(wheel.getinfo(name).external_attr >> 16) == 0o755, name


def test_sdist_holds_what_make_test_needs(dist: Path) -> None:
    top = f"pyrun_runtime-{VERSION}/"
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.removeprefix(top) for name in archive.getnames()}
    wanted = {path.relative_to(TOP).as_posix() for room in (*ROOMS, "tests", "tools") for path in (TOP / room).rglob("*.[cp]*")}
    wanted = {name for name in wanted if name.endswith((".c", ".h", ".py", ".pyi", ".sh")) and "__pycache__" not in name}
    assert wanted | {"Makefile", "README.md", "LICENSE", "NOTICE", "setup.py", "pyproject.toml", ".ci/run"} <= names
    programs = {f"native/{name}" for name in ("helper", "keeper", "park", "relay")}
    assert not {name for name in names if name.endswith((".so", ".pyc", ".o")) or name in programs}


def test_installed_command_runs(installed: Path) -> None:
    assert run(installed / "bin" / "pyrun", "version").startswith(f"pyrun {VERSION}\n")
    assert "usage: pyrun" in run(installed / "bin" / "pyrun", "--help")


def test_installed_helper_is_executable(installed: Path) -> None:
    helper = next(installed.glob("lib/python3*/site-packages/pyrun/native/helper"))
    assert stat.S_IMODE(helper.stat().st_mode) == 0o755
    assert subprocess.run([helper], stderr=subprocess.PIPE, timeout=10).returncode == 125, "without a plan it refuses"


def test_in_place_build(sources: Path) -> None:
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=sources)
    assert {path.name for path in (sources / "native").glob("*.so")} == {"_native.abi3.so", "_seccomp.abi3.so", "_unpack.abi3.so"}
    assert (sources / "native" / "helper").stat().st_mode & 0o111
