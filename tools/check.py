"""Runs the checks of `make test`: all of them, or the lanes named on the command line.

Everything: one line a check, the end of its log when it failed, and at last `N passed, N failed`, counting tests and
single checks alike.  Named lanes: the same checks, but their output goes straight to the terminal.

    lint     ruff, shellcheck, mypy, pyright, the documentation, two compilers' warnings and gcc's static analyzer
    unit     pure tests and the rules of the house        hostile  damaged and malicious input
    live     real containers on this kernel               fuzz     the plan decoder under libFuzzer and sanitizers
    package  sdist, wheel and installation                vm       a Debian machine with systemd under qemu
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LOGS = TOP / "build" / "log"
PYTHON = str(TOP / ".venv" / "bin" / "python")
LANES = ("lint", "unit", "package", "hostile", "live", "fuzz", "vm")
SLOW = ("live", "vm")  # what the others are done before
VMTEST = TOP.parent / "shared" / "vm" / "vmtest"
BINDING = "-std=gnu11 -O2 -Wall -Wextra -Werror -Wno-unused-function -fanalyzer -Inative".split()  # cffi calls what is static
MKDOCS = ["-m", "mkdocs", "build", "--strict"]
LIMIT = 2500  # seconds a check may take
SHOWN = 4000  # characters of a failed test's traceback
LIVE = ("tests/live", "-vv", "--maxfail=12")  # each may have waited for its limit
ENDS = ((signal.SIGTERM, 10), (signal.SIGKILL, None))  # signals in their order, with the seconds that each has
REASON = 160  # and of the line that comes last of all, which is there when the rest of the output is cut


class Check:
    """One command; `tests` says that it is pytest, whose cases are counted one by one."""

    def __init__(self, lane: str, name: str, text: str, command: Sequence[str], *, tests: bool = False) -> None:
        self.lane = lane
        self.name = name
        self.text = text
        self.command = list(command)
        self.tests = tests


class Tally:
    """What came of the checks so far."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.skipped = 0
        self.broken: list[str] = []
        self.reasons: list[str] = []  # a line for each test that failed


def pytest(*arguments: str) -> list[str]:
    return [PYTHON, "-m", "pytest", "-q", *arguments]


def native_sources() -> list[str]:
    """The sources of the two programs without libc; binding.c is compiled with the flags of its extension."""
    return sorted(str(path.relative_to(TOP)) for path in TOP.glob("native/*.c") if path.name != "binding.c")


def compile_only(compiler: str, *flags: str) -> list[str]:
    script = 'compiler=$1; shift; for file in "$@"; do $compiler -c -o /dev/null "$file" || exit 1; done'
    house = (TOP / "native" / "compile_flags.txt").read_text().split()
    return ["sh", "-c", script, "sh", " ".join([compiler, *house, *flags]), *native_sources()]


def compile_untar() -> list[str]:
    """The sources of the extension that only the confined process loads."""
    script = 'for file in native/untar/*.c; do gcc "$@" -Wshadow -Wconversion -c -o /dev/null "$file" || exit 1; done'
    return ["sh", "-c", script, "sh", *BINDING]


def scripts() -> list[str]:
    return [".ci/run", "examples/demo/report", *sorted(str(path.relative_to(TOP)) for path in TOP.glob("tools/*.sh"))]


def has_tests(folder: str) -> bool:
    return any((TOP / folder).glob("**/test_*.py"))


def checks() -> list[Check]:
    """Every check of this checkout, in the order in which they are told of but for the live lane: quick ones first."""
    # tests mix str and Path in lists, which mypy joins to object: what they pass is not checked, what they name is
    loose = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--check-untyped-defs"]
    loose += ["--explicit-package-bases", "--cache-dir=build/mypy"]
    loose += [f"--disable-error-code={code}" for code in ("arg-type", "func-returns-value", "return-value")]
    loose_mypy = ["env", "MYPYPATH=tests/support:tools:typings:build/source", PYTHON, "-m", "mypy", *loose]
    found = [
        Check("lint", "ruff", "ruff: style and imports", [PYTHON, "-m", "ruff", "check", "."]),
        Check("lint", "format", "ruff: form of the sources", [PYTHON, "-m", "ruff", "format", "--check", "."]),
        Check("lint", "shellcheck", "shellcheck: shell scripts", ["shellcheck", "-x", *scripts()]),
        Check("lint", "mypy", "mypy --strict: the package", [PYTHON, "-m", "mypy"]),
        Check("lint", "mypy-tests", "mypy: tests and tools", [*loose_mypy, "tests", "tools"]),
        Check("lint", "pyright", "pyright: the package", [PYTHON, "-m", "pyright", "--warnings"]),
        Check("lint", "docs", "mkdocs --strict: the documentation's site", ["env", "NO_MKDOCS_2_WARNING=1", PYTHON, *MKDOCS]),
        Check("lint", "gcc", "gcc -fanalyzer -Werror: the native programs", compile_only("gcc", "-fanalyzer")),
        Check("lint", "binding", "gcc -fanalyzer -Werror: the extension", ["gcc", *BINDING, "-c", "-o", "/dev/null", "native/binding.c"]),
        Check("lint", "untar", "gcc -fanalyzer -Werror: the reader of archives", compile_untar()),
        Check("lint", "clang", "clang -Werror: the native programs", compile_only("clang")),
        Check("unit", "unit", "unit tests and house rules", pytest("tests/unit", "tests/test_house.py"), tests=True),
        Check("package", "package", "sdist, wheel, installation", pytest("tests/package"), tests=True),
        Check("hostile", "hostile", "hostile input", pytest("tests/hostile"), tests=True),
        Check("fuzz", "fuzz", "plan decoder, archives: fuzzer, sanitizers, corpus", ["tools/fuzz.sh"]),
        Check("live", "live", "live containers on this kernel", ["tools/lane.sh", *pytest(*LIVE)], tests=True),
    ]
    if VMTEST.exists() or os.environ.get("CI") == "true":
        found.append(Check("vm", "vm", "containers under systemd in a virtual machine", pytest("tests/vm", "--timeout=2400"), tests=True))
    return [check for check in found if not check.tests or has_tests(f"tests/{check.lane}")]


def environment(check: Check, places: str, beside: int | None = None) -> dict[str, str]:
    """Pinned tools look for no newer versions of themselves, and tests see no settings of the caller's pyrun.

    Below `places` each check has a directory for what its tests write: of the one that pytest has for all, each pytest that begins takes
    away what others may search, which tests give users.  `beside` is the process of the live lane: until it ends, virtual machines leave
    one processor to it.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYRUN_")}
    version = re.search(r"pyright\[nodejs\]==([\d.]+)", (TOP / "pyproject.toml").read_text())
    if version:
        env["PYRIGHT_PYTHON_FORCE_VERSION"] = version[1]
    env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"
    env.pop("CHECK_BESIDE", None)
    if check.lane == "vm" and beside:
        env["CHECK_BESIDE"] = str(beside)
    if check.tests:
        env["PYTEST_ADDOPTS"] = f"--junitxml={LOGS / check.name}.xml --basetemp={places}/{check.name}"
    return env


def count(check: Check, code: int, tally: Tally) -> str:
    """Adds one finished check to the tally; returns what to say of it."""
    report = LOGS / f"{check.name}.xml"
    if not check.tests or not report.exists():
        tally.passed += code == 0
        tally.failed += code != 0
        return ""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    tally.passed += total - failed - skipped
    tally.failed += max(failed, code != 0)
    tally.skipped += skipped
    return f", {total - failed - skipped} passed" + (f", {failed} failed" if failed else "") + (f", {skipped} skipped" if skipped else "")


def failures(check: Check) -> list[tuple[str, str]]:
    """Name and traceback of each test that failed."""
    report = LOGS / f"{check.name}.xml"
    if not check.tests or not report.exists():
        return []
    tree = ElementTree.parse(report).getroot()
    bad = [(case, found) for case in tree.iter("testcase") for found in case if found.tag in ("failure", "error")]
    return [(f"{case.get('classname')}::{case.get('name')}", found.text or "") for case, found in bad]


def where(log: Path) -> str:
    """Where a check was by its log, that of `pytest -v`: the test that it names last, and the first that had failed."""
    text = log.read_text(errors="replace")
    names = re.findall(r"^tests/\S+::\S+", text, re.MULTILINE)
    failed = re.findall(r"^(tests/\S+::.+?) (?:FAILED|ERROR)", text, re.MULTILINE)
    return f"in {names[-1] if names else 'no test'}" + (f"; failed before: {', '.join(failed[:5])}" if failed else "")


class Running:
    """A check that was started, with its output going to its log."""

    def __init__(self, check: Check, places: str, beside: int | None = None) -> None:
        self.check = check
        self.log = LOGS / f"{check.name}.log"
        self.started = time.monotonic()
        self.late = False
        (LOGS / f"{check.name}.xml").unlink(missing_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                check.command,
                cwd=TOP,
                env=environment(check, places, beside),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def wait(self) -> int:
        """Returns the exit code, that of a failure when the check took too long; then its log tells where each process of Python was."""
        try:
            return self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.late = True
            self.end((signal.SIGABRT, 10), *ENDS)
            with self.log.open("a") as out:
                out.write(f"ended after {LIMIT} seconds\n")
            return 1

    def end(self, *ends: tuple[int, int | None]) -> None:
        """Ends the check, and what it started in its session, if it still runs."""
        for number, patience in ends or ENDS:
            if self.process.poll() is not None:
                return
            os.killpg(self.process.pid, number)
            try:
                self.process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                continue


def report(running: Running, tally: Tally) -> None:
    """Waits for one check and says in one line what came of it; when it failed, the end of its log too."""
    check = running.check
    print(f"{check.text:<50} ", end="", flush=True)
    code = running.wait()
    told = count(check, code, tally)
    print(f"{'ok' if code == 0 else 'FAILED'}, {time.monotonic() - running.started:.1f} s{told}", flush=True)
    if code:
        tally.broken.append(check.name)
        if running.late:
            tally.reasons.append(f"{check.name}: ended after {LIMIT} s, {where(running.log)}")
        print("".join(running.log.read_text(errors="replace").splitlines(keepends=True)[-80:]), flush=True)
        for name, text in failures(check):  # what pytest prints as it ends can push them out of the lines above
            print(f"{name}\n{text[-SHOWN:]}\n", flush=True)
            errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
            tally.reasons.append(f"{name}: {(errors or text.splitlines() or ['no reason'])[0][:REASON]}")


def run_everything(places: str) -> int:
    tally = Tally()
    if not VMTEST.exists():
        print(f"vm: {os.path.relpath(VMTEST, TOP)} is not there, so the tests in a virtual machine are left out")
    running: dict[str, Running] = {}
    todo = checks()
    try:
        for check in sorted(todo, key=lambda check: check.lane != "live"):  # the live lane, which is long, beside all the others
            live = running.get("live")
            running[check.name] = Running(check, places, beside=live.process.pid if live else None)
            if check.lane not in SLOW:
                report(running[check.name], tally)
        for check in todo:
            if check.lane in SLOW:
                report(running[check.name], tally)
    finally:
        for one in running.values():
            one.end()
    if tally.broken:
        print(f"failed: {', '.join(tally.broken)} (logs in build/log)", *tally.reasons, sep="\n  ")
    print(f"{tally.passed} passed, {tally.failed} failed" + (f", {tally.skipped} skipped" if tally.skipped else ""))
    return 1 if tally.failed else 0


def run_lanes(lanes: Sequence[str], places: str) -> int:
    failed = 0
    for check in checks():
        if check.lane in lanes:
            print(f"{check.text}: {check.name}", flush=True)
            failed |= subprocess.run(check.command, cwd=TOP, env=environment(check, places)).returncode
    return 1 if failed else 0


def main(lanes: Sequence[str]) -> int:
    unknown = set(lanes) - set(LANES)
    if unknown:
        print(f"check: no lane {' '.join(sorted(unknown))}; there are {' '.join(LANES)}", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    places = tempfile.mkdtemp(prefix="pytest-")
    try:
        return run_lanes(lanes, places) if lanes else run_everything(places)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", places])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
