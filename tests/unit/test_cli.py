"""The command as a whole: exit codes, what errors look like, broken streams, what is imported, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pyrun
from pyrun.cli import completion, main
from pyrun.cli.options import VERBS
from pyrun.errors import ConfigError, ExecError, PyrunError

PARENT = os.path.dirname(os.path.dirname(os.path.abspath(pyrun.__file__)))
# The isolated flags of the launcher, with the package found where this test found it.
BOOT = [
    sys.executable,
    "-I",
    "-S",
    "-E",
    "-X",
    "utf8",
    "-c",
    f"import sys; sys.path.insert(0, {PARENT!r}); from pyrun.cli.main import entry; entry()",
]


def command(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BOOT, *words], capture_output=True, text=True, check=False, timeout=30, **options)  # type: ignore[call-overload,no-any-return]


def outcome(monkeypatch: pytest.MonkeyPatch, act: object, *flags: str) -> int:
    """Runs `pyrun gc` with a verb module that raises `act` or returns it."""
    module = ModuleType("pyrun.cli.gc")

    def run(args: object) -> object:
        if isinstance(act, BaseException):
            raise act
        return act

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyrun.cli.gc", module)
    monkeypatch.delenv("PYRUN_DEBUG", raising=False)
    return main.main(["gc", *flags])


@pytest.mark.parametrize(
    ("act", "code", "text"),
    [
        (0, 0, ""),
        (7, 7, ""),
        (
            ConfigError("volume", "db", "is not mounted", hint="add --mount", origin="--volume db,kind=empty"),
            125,
            "pyrun: volume db: is not mounted\nhint: add --mount\nfrom: --volume db,kind=empty\n",
        ),
        (ExecError("exec", "/bin/x", errno=2, hint="h"), 127, "pyrun: exec /bin/x: no such file or directory\nhint: h\n"),
        (ExecError("exec", "/bin/x", errno=13), 126, "pyrun: exec /bin/x: permission denied\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (
            OSError(28, "No space left on device", "/a", None, "/b"),
            125,
            "pyrun: /a -> /b: no space left on device\nhint: free some space, or",
        ),
        (PermissionError(13, "Permission denied", "/x\n"), 125, "pyrun: /x\\n: permission denied\nhint: "),
        (OSError("odd"), 125, "pyrun: odd\nhint: "),
        (ValueError("a\nb"), 125, "pyrun: internal error: ValueError: a\\nb\nhint: run it again with --debug"),
        (
            PyrunError("x\x1b[2J", "\u202e", "\n", hint="\x07", origin="\x9b"),
            125,
            "pyrun: x\\x1b[2J \\u202e: \\n\nhint: \\x07\nfrom: \\x9b\n",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outcome(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], act: object, code: int, text: str) -> None:
    assert outcome(monkeypatch, act) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith(text)
    assert (seen.err == "") == (text == "")


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(monkeypatch, ValueError("oops"), "--debug") == 125
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PYRUN_DEBUG", "1")
    assert main.main(["frob"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PYRUN_DEBUG", "0")
    assert main.main(["run", "x", "y", "--", "--debug"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_no_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("usage: pyrun")


@pytest.mark.parametrize(
    "words", [["--help"], ["help"], ["help", "run"], ["run", "-h"], ["image", "--help"], ["help", "image", "rm"], ["help", "image"]]
)
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(words) == 0
    seen = capsys.readouterr()
    assert seen.out.startswith("usage: pyrun")
    assert seen.err == ""


@pytest.mark.parametrize("verb", [verb for verb in VERBS if not verb.startswith("__")])
def test_help_names_every_option(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Exit codes:" in text
    for option in VERBS[verb][2]:
        assert all(name in text for name in option[0].split())
    assert all(len(line) <= 120 for line in text.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == main.main(["version"]) == main.main(["version", "--format", "json"]) == 0
    assert capsys.readouterr().out.count(pyrun.__version__) == 3


def test_streams() -> None:
    assert command("version").stdout.startswith("pyrun ")
    closed = f'exec {" ".join(map(repr, BOOT[:-1]))} "$0" version'
    for redirection in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(["sh", "-c", f"{closed} {redirection}", BOOT[-1]], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), redirection
    full = subprocess.run(["sh", "-c", f"{closed} >/dev/full", BOOT[-1]], capture_output=True, text=True, check=False)
    assert full.returncode == 125
    assert full.stderr.startswith("pyrun: write standard output: no space left on device\nhint: ")
    pipe = subprocess.run(["bash", "-c", f"({closed}; echo $? >&2) | true", BOOT[-1]], capture_output=True, text=True, check=False)
    assert pipe.stderr.strip() in ("", "141", "0")  # whichever of the two was quicker


def test_broken_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*BOOT, "version"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_undecodable_arguments() -> None:
    done = subprocess.run([*map(os.fsencode, BOOT), b"run", b"\xff\x1b", b"b"], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(b"pyrun run '\\xff\\x1b' -- b\n")


def test_hot_imports() -> None:
    """Parsing a `run` brings in few modules of pyrun's own and nothing that the bare interpreter lacks."""
    probe = (
        "import sys; before = set(sys.modules); "
        f"sys.path.insert(0, {PARENT!r}); from pyrun.cli.main import parse; "
        "parse(['run', '-it', '-e', 'A=1', '--caps-retain=CAP_KILL', 'x', '--', 'y']); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-E", "-c", probe], capture_output=True, text=True, check=True)
    own = ["main", "options", "parse", "table", "verbs_appc", "verbs_images", "verbs_limits", "verbs_network", "verbs_pods", "verbs_trust"]
    assert done.stdout.split() == ["__future__", "pyrun", "pyrun.cli", *(f"pyrun.cli.{name}" for name in own), "pyrun.errors"]


def test_facade_is_lazy_and_sorted() -> None:
    probe = f"import sys; sys.path.insert(0, {PARENT!r}); import pyrun; assert 'pyrun.errors' not in sys.modules; "
    probe += "print(pyrun.UsageError.__module__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pyrun.errors"
    assert sorted(pyrun.__all__) == pyrun.__all__
    assert all(getattr(pyrun, name) for name in pyrun.__all__)
    assert set(pyrun.__all__) <= set(dir(pyrun))
    with pytest.raises(AttributeError):
        getattr(pyrun, "frob")  # noqa: B009


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_completion_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == 0
    assert "__complete" in capsys.readouterr().out
    assert main.main(["completion", "tcsh"]) == 2


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["im"], ["image"]),
        (["image", "sh"], ["show"]),
        (["--root", "x"], [":dirs"]),
        (["--root", "x", "ve"], ["version"]),
        (["run", "--caps-r"], ["--caps-retain", "--caps-remove"]),
        (["run", "--net", ""], ["none", "host", "default", "default-restricted"]),
        (["run", "--net", "=", "h"], ["host"]),
        (["run", "--net=h"], ["--net=host"]),
        (["run", "-it", "--seccomp", ""], []),
        (["run", "--insecure-options", "image,cap"], ["image,capabilities"]),
        (["run", "./x"], [":files"]),
        (["run", "x", "--", ""], []),
        (["trust", ""], ["list", "rm", ":files"]),
        (["trust", "l"], ["list", ":files"]),
        (["trust", "--yes", ""], [":files"]),
        (["trust", "list", "--f"], ["--format"]),
        (["trust", "rm", ""], []),
        (["completion", "z"], ["zsh"]),
        (["help", "g"], ["gc", "generate"]),
        (["frob", "x"], []),
        ([], []),
    ],
    ids=" ".join,
)
def test_complete(words: list[str], found: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--root", "/nonexistent", "__complete", "--", *words]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == found


@pytest.mark.parametrize(("words", "found"), [("run --caps-ret", "--caps-retain"), ("trust l", "list lies.asc"), ("trust list", "list")])
def test_bash_completion(words: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "lies.asc").touch()
    count = len(words.split())
    script = completion.SCRIPTS["bash"] + f'COMP_WORDS=(pyrun {words}) COMP_CWORD={count}; _pyrun; echo "${{COMPREPLY[@]}}"\n'
    shim = f'pyrun() {{ {" ".join(map(repr, BOOT[:-1]))} "$BOOT" "$@"; }}\n'
    env = {"BOOT": BOOT[-1], "PATH": os.defpath}
    done = subprocess.run(["bash", "-c", shim + script], capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == (found, "")
