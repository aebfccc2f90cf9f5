"""The launcher: what it hands to the interpreter, which interpreter it takes, and what it says without one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrun

NATIVE = Path(__file__).resolve().parents[2] / "native"
LINK = "-nostdlib -static-pie -s -Wl,-e,_start -Wl,--gc-sections -Wl,-z,relro,-z,now,-z,noexecstack".split()
PACKAGE = os.path.dirname(os.path.abspath(pyrun.__file__))
LIB = f"{sys.platlibdir}/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

# Stands in for pyrun.cli.main: shows what it was started with.
WITNESS = """
import os, sys
def entry():
    import json
    flags = sys.flags
    print(json.dumps({
        "argv": [os.fsencode(word).decode("latin-1") for word in sys.argv], "path": sys.path[0], "environment": dict(os.environ),
        "isolated": flags.isolated, "no_site": flags.no_site, "ignore_environment": flags.ignore_environment, "utf8": flags.utf8_mode,
        "executable": sys.executable, "site": "site" in sys.modules, "descriptors": sorted(os.listdir("/proc/self/fd")),
    }))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("launcher") / "pyrun"
    flags = (NATIVE / "compile_flags.txt").read_text().split()
    setup = (NATIVE.parent / "setup.py").read_text()  # what it is made of stands there
    names = re.findall(r'"native/(\w+\.c)"', setup.partition("\nLAUNCHER = program(")[2].partition("\n)\n")[0])
    assert names[0] == "launcher.c"
    sources = [str(NATIVE / name) for name in names]
    subprocess.run(["gcc", *flags, "-fcf-protection=none", *LINK, "-o", str(path), *sources], check=True, timeout=60)
    return path


@pytest.fixture
def prefix(program: Path, tmp_path: Path) -> Path:
    """A prefix with launcher, interpreter and the witness as its package."""
    (tmp_path / "bin").mkdir()
    shutil.copy(program, tmp_path / "bin/pyrun")
    os.symlink(os.path.realpath(sys.executable), tmp_path / "bin/python3")
    package = tmp_path / LIB / "pyrun/cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(WITNESS)
    shutil.copytree(os.path.join(PACKAGE, "start"), package.parent / "start", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start(path: Path | str, *words: str | bytes, **environment: str) -> dict[str, object]:
    import json

    done = subprocess.run([str(path), *words], capture_output=True, check=True, env=environment, timeout=30)
    assert done.stderr == b""
    value: dict[str, object] = json.loads(done.stdout)
    return value


def test_start(prefix: Path) -> None:
    program = prefix / "bin/pyrun"
    seen = start(program, "run", "", "-c", "--", b"\xff", "a b", PYTHONPATH="/nowhere", PYTHONHOME="/nowhere", LC_ALL="C", X="1")
    assert seen["argv"] == [str(program), "run", "", "-c", "--", "\xff", "a b"]
    assert seen["path"] == str(prefix / LIB)
    assert seen["executable"] == str(prefix / "bin/python3")
    assert seen["environment"] == {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere", "LC_ALL": "C", "X": "1"}
    assert (seen["isolated"], seen["no_site"], seen["ignore_environment"], seen["utf8"], seen["site"]) == (1, 1, 1, 1, False)


def test_by_link_and_by_other_name(prefix: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(prefix / "bin/pyrun")
    assert start(link)["executable"] == str(prefix / "bin/python3")
    done = subprocess.run(["some name", "x"], executable=prefix / "bin/pyrun", capture_output=True, text=True, check=True)
    assert '"argv": ["some name", "x"]' in done.stdout


# What an interpreter says of itself.
SELF = """
import json, sys
names = "prefix exec_prefix base_prefix base_exec_prefix executable _base_executable _stdlib_dir platlibdir flags".split()
found = {name: str(getattr(sys, name)) for name in names}
print(json.dumps({**found, "path": sys.path, "name": sys.orig_argv[0], "encodings": sys.modules["encodings"].__path__}))
"""


def interpreted(prefix: Path, code: str) -> str:
    """What the interpreter prints that the launcher has started, executing this."""
    (prefix / LIB / "pyrun/cli/main.py").write_text(f"import encodings, sys\ndef entry():\n    exec({code!r})\n")
    done = subprocess.run([prefix / "bin/pyrun"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout


def test_interpreter_by_another_name_says_the_same(prefix: Path) -> None:
    """It is called by one that spares it a search for `encodings`, and puts everything else back."""
    import json

    seen = json.loads(interpreted(prefix, SELF))
    command = [prefix / "bin/python3", "-I", "-S", "-E", "-X", "utf8", "-c", SELF]
    expected = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert seen["path"].pop(0) == str(prefix / LIB)
    assert [os.path.normpath(word) for word in seen["path"]] == expected.pop("path")
    assert seen | {"path": 0} == expected | {"path": 0}
    # and that is how it was called
    assert interpreted(prefix, "print(encodings.__file__)") == f"{prefix / LIB}/pyrun/start/encodings.py\n"


ENCODINGS = {
    "another one": r"print('\xe4'.encode('latin-1'), b'\xe4'.decode('cp1252'), 'b\xfc'.encode('idna'), b'\xc3\xa4'.decode('u8'))",
    "by name": r"import encodings.idna; print(encodings.idna.ToASCII('b\xfc'), encodings.normalize_encoding('a b'))",
    "what was imported before": """
import encodings.punycode
'x'.encode('cp500')
import encodings
print(encodings.punycode.__name__, encodings.cp500.__name__)
""",
    "streams": r"""
import codecs, io
print(codecs.getreader('utf-8')(io.BytesIO(b'\xc3\xa4')).read(), codecs.getwriter('utf-8')(io.BytesIO()).write)
""",
    "parts": r"""
import codecs
decoder = codecs.getincrementaldecoder('utf8')()
print(decoder.decode(b'\xc3'), decoder.decode(b'\xa4', True), codecs.decode(b'a', 'utf_8'))
""",
    "unknown": """
try:
    'x'.encode('none')
except LookupError as error:
    print(error)
""",
    "surrogates": r"""
import io
text = io.TextIOWrapper(io.BytesIO(), 'utf-8', 'surrogateescape')
text.write('\udcff')
text.flush()
print(text.buffer.getvalue())
""",
}


@pytest.mark.parametrize("what", ENCODINGS)
def test_encodings_are_those_of_the_library(prefix: Path, what: str) -> None:
    code = ENCODINGS[what]
    command = [prefix / "bin/python3", "-I", "-S", "-E", "-X", "utf8", "-c", f"import encodings, sys\n{code}"]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.sub("0x[0-9a-f]+", "", interpreted(prefix, code)) == re.sub("0x[0-9a-f]+", "", expected)


def test_where_the_interpreter_is_no_link(prefix: Path) -> None:
    """Its name does not tell its version then: it begins by its own name."""
    python = prefix / "bin/python3"
    target = os.readlink(python)
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec {target} "$@"\n')
    python.chmod(0o755)
    assert start(prefix / "bin/pyrun", "a")["argv"] == [str(prefix / "bin/pyrun"), "a"]
    assert not interpreted(prefix, "print(encodings.__file__)").startswith(str(prefix))


def test_many_arguments(prefix: Path) -> None:
    words = [str(number) for number in range(20000)]
    argv = start(prefix / "bin/pyrun", *words)["argv"]
    assert isinstance(argv, list)
    assert argv[1:] == words


def test_closed_standard_streams_are_filled(prefix: Path) -> None:
    out = prefix / "out"
    for redirection in ("<&-", "2>&-", "<&- 2>&-"):
        subprocess.run(["sh", "-c", f'"$0" {redirection} >"$1"', prefix / "bin/pyrun", out], check=True)
        # the last one is the directory being listed
        assert '"descriptors": ["0", "1", "2", "3"]' in out.read_text(), redirection


def test_package_found_through_site(prefix: Path) -> None:
    """An editable install has a .pth file in place of the package."""
    shutil.rmtree(prefix / LIB / "pyrun")
    farm = prefix / "farm"
    farm.mkdir()
    os.symlink(PACKAGE, farm / "pyrun")
    (prefix / LIB / "editable.pth").write_text(f"{farm}\n")
    (prefix / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    done = subprocess.run([prefix / "bin/pyrun", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"pyrun {pyrun.__version__}\n")


def test_package_missing(prefix: Path) -> None:
    shutil.rmtree(prefix / LIB)
    done = subprocess.run([prefix / "bin/pyrun"], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    first, hint = done.stderr.splitlines()
    assert first.startswith(f"pyrun: {prefix}/bin/python3: No module named")
    assert hint.startswith("hint: ")


def test_interpreter_cannot_be_executed(prefix: Path) -> None:
    (prefix / "bin/python3").unlink()
    (prefix / "bin/python3").write_text("not a program")
    done = subprocess.run([prefix / "bin/pyrun"], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr == f"pyrun: cannot execute {prefix}/bin/python3 (errno 13)\n"


@pytest.mark.needs_root
def test_no_interpreter_at_all(program: Path, tmp_path: Path) -> None:
    """In a root directory with nothing but the launcher; chroot(2) needs privilege."""
    shutil.copy(program, tmp_path / "pyrun")
    done = subprocess.run(["chroot", str(tmp_path), "/pyrun"], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert done.stderr == "pyrun: no Python interpreter: /usr/bin/python3 and /usr/local/bin/python3 are missing\n"


def test_nothing_to_relocate(program: Path) -> None:
    """Nobody relocates a static PIE without libc, so a stored pointer would be wrong."""
    done = subprocess.run(["readelf", "-rW", program], capture_output=True, text=True, check=True)
    assert "no relocations" in done.stdout
