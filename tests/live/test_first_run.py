"""A command line that nobody has run before: Python leaves a recipe, in a child, and the launcher carries it out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from harness import Pyrun
from hybrids import REASON, has_version_1, inside
from places import ENTER, LIMITS, enabled, place_for_pods, processes
from prefixes import Prefix

APP = ("example.com/probe", "--exec", "/probe", "--")


class Installation(Prefix):
    """One with a bundle, and a state directory in which recipes are kept."""

    def __init__(self, prefix: Path, shared: Pyrun) -> None:
        super().__init__(prefix)
        self.environment = shared.environment()
        self.root = shared.root
        shared("run", shared.probe_image, *APP[1:], "exit", "0", code=0)  # the image is there, and the directory of recipes
        assert self("run", *APP, "exit", "0").returncode == 0
        assert list((self.package / "__pycache__").glob("run.*.bundle")), "the first run has left one"

    def forget(self) -> None:
        for recipe in self.recipes():
            recipe.unlink()

    def recipes(self) -> list[Path]:
        return [path for path in (self.root / "cache" / "run").iterdir() if path.name[0] != "."]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.command, *words], env=self.environment, capture_output=True, text=True, timeout=60)

    def traced(self, *words: str, code: int = 0, before: Sequence[str] = ()) -> tuple[int, list[tuple[int, str]]]:
        """A run under strace(1), by a command that becomes it: its own pid, and who executed what of pyrun's, in their order."""
        log = self.command.with_name("log")
        trace = ["strace", "-f", "-qq", "-e", "trace=execve,execveat", "-o", str(log), *before, str(self.command), *words]
        done = subprocess.run(trace, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        calls = [re.match(r"(\d+) +(execve\w*)\((\S+)", line) for line in log.read_text().splitlines()]
        kinds = {"python3": "python", "pyrun": "launcher", "16,": "helper"}
        found = [
            (int(call[1]), kinds.get(call[3].rstrip(',"').rpartition("/")[2] + ("," if call[2] == "execveat" else ""), ""))
            for call in calls
            if call
        ]
        return found[0][0], [one for one in found if one[1]]


@pytest.fixture
def installed(shared: Pyrun, tmp_path: Path) -> Iterator[Installation]:
    yield Installation(tmp_path, shared)


def left(root: Path) -> list[Path]:
    return [path for phase in ("preparing", "running", "garbage") for path in (root / "pods" / phase).iterdir()]


def test_another_process_decides_and_the_launcher_starts_it(installed: Installation) -> None:
    installed.forget()
    own, calls = installed.traced("run", *APP, "exit", "3", code=3)
    assert [kind for _, kind in calls] == ["launcher", "python", "helper"]
    assert calls[0][0] == calls[2][0] == own != calls[1][0]
    assert len(installed.recipes()) == 1
    own, calls = installed.traced("run", *APP, "exit", "3", code=3)
    assert [kind for _, kind in calls] == ["launcher", "helper"]


def test_a_pod_with_a_limit(installed: Installation, shared: Pyrun, busybox: Path) -> None:
    """No controller is enabled where a process is, so the launcher waits for the child to be gone; then it is in a place of its own."""
    shared("fetch", busybox, code=0)
    for kinds in (["launcher", "python", "helper"], ["launcher", "helper"]):
        with enabled() as controller, place_for_pods() as place:
            flag, value, file, content = LIMITS[controller]
            if "python" in kinds:
                installed.forget()
            test = f'test "$(cat /sys/fs/cgroup/{file})" = {content} && exit 3'
            words = ["run", flag, value, "example.com/busybox", "--exec", "/bin/sh", "--", "-c", test]
            own, calls = installed.traced(*words, code=3, before=["sh", "-c", ENTER, str(place)])
            assert [kind for _, kind in calls] == kinds and calls[0][0] == calls[-1][0] == own
            assert processes(place) == processes(place / "pyrun-supervisor") == []
            assert [path.name for path in place.iterdir() if path.is_dir()] == ["pyrun-supervisor"]


@pytest.mark.skipif(not has_version_1(), reason=REASON)
def test_limits_of_version_1_are_tried_once(installed: Installation) -> None:
    """They go to groups of the caller's own, which Python finds."""
    installed.forget()
    for pythons in (2, 1, 1):
        _, calls = installed.traced("run", "--memory", "64Mi", "--cpu-weight", "50", *APP, "exit", "5", code=5, before=inside())
        assert [kind for _, kind in calls].count("python") == pythons


MEMORY = (
    "--memory 64Mi --memory-high 60Mi --memory-low 8Mi --memory-min 4Mi --swap 0 --oom-group --cpu-weight 50 --cpus 1.5 --cpu-burst 20ms"
)
OTHER = "-m 64Mi --cgroup-set memory.zswap.max=0 --cpuset-cpus 0 --cpuset-mems 0 --pids-limit 30 --hugetlb 2MB=4Mi --misc a=3"


def test_where_there_is_no_place_it_is_said_as_ever(installed: Installation) -> None:
    """The child decides all of these; what then cannot be had is Python's to say, which begins again, once."""
    (installed.root / "cache" / "run").mkdir(exist_ok=True)
    for flags in (MEMORY.split(), OTHER.split(), "--rdma a:hca_handle=2 --io-weight 20 --cpu-idle".split()):
        installed.forget()
        _, calls = installed.traced("run", *flags, *APP, "exit", "0", code=125)
        assert [kind for _, kind in calls] == ["launcher", "python", "python"]
        assert len(installed.recipes()) == 1 and installed.recipes()[0].stat().st_size > 5000
        said = installed("run", *flags, *APP, "exit", "0")
        assert said.stderr.startswith("pyrun: limit the pod ") and said.stderr.count("\n") == 2
    assert left(installed.root) == []


def test_it_is_gone_when_the_app_runs(installed: Installation) -> None:
    installed.forget()
    words = [str(installed.command), "run", *APP, "exec-and-wait"]
    words[-1:] = ["sleep", "30"]
    run = subprocess.Popen(words, env=installed.environment)
    deadline = time.monotonic() + 30
    while True:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        names = [Path(f"/proc/{child}/comm").read_text().strip() for child in children]
        if names and "python3" not in names and left(installed.root):
            break
        assert time.monotonic() < deadline, names
        time.sleep(0.01)
    assert len(names) == 1, "process 1 of the pod alone"
    run.send_signal(signal.SIGKILL)
    run.wait()


@pytest.mark.parametrize(
    "flags",
    [["--set-env-file", "FILE"], ["--pod-name", "first-run", "--take-name"], ["--seccomp", "mode=remove,errno=EPERM,sync"], ["--quiet"]],
    ids=lambda flags: str(flags[0]),
)
def test_what_takes_more_is_not_tried(installed: Installation, tmp_path: Path, flags: list[str]) -> None:
    installed.forget()
    (tmp_path / "file").write_text("A=B\n")
    words = [str(tmp_path / "file") if word == "FILE" else word for word in flags]
    own, calls = installed.traced("run", *words, *APP, "exit", "4", code=4)
    assert calls[:2] == [(own, "launcher"), (own, "python")]


def test_what_cannot_be_kept_is_tried_once(installed: Installation, shared: Pyrun, image: Callable[..., Path]) -> None:
    """A note is for each start, and written by Python."""
    shared("fetch", image("example.com/noted", app={"mountPoints": [{"name": "data", "path": "/data"}]}), code=0)
    words = ("run", "example.com/noted", *APP[1:], "exit", "5")
    installed.forget()
    for pythons in (2, 1, 1):
        _, calls = installed.traced(*words, code=5)
        assert [kind for _, kind in calls].count("python") == pythons
    assert "note: no volume for mount point data" in installed(*words).stderr
    assert left(installed.root) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--user", "nobody-of-that-name", *APP, "exit", "0"],
        ["-v", "/no/such/directory:/data", *APP, "exit", "0"],
        ["example.com/none", "--exec", "/probe"],
        ["--umask", "9", *APP],
        [APP[0], "--exec", "/no-such-program"],
    ],
    ids=["user", "volume", "image", "usage", "program"],
)
def test_errors_are_told_once(installed: Installation, words: list[str]) -> None:
    results = []
    for _ in range(2):
        installed.forget()
        results.append(installed("run", *words))
        (installed.package / "start" / "python3._pth").unlink(missing_ok=True)  # without it Python decides as ever
    first, other = ((one.returncode, one.stdout, one.stderr) for one in results)
    assert first == other and first[0] in (2, 125, 126, 127) and first[2].startswith("pyrun: ")
    assert left(installed.root) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_who_gives_up_ends_both(installed: Installation, number: int) -> None:
    """While Python, which is stopped for that, decides."""
    run, child = deciding(installed)
    run.send_signal(number)
    assert run.wait(timeout=10) == -number
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert installed.recipes() == left(installed.root) == []
    assert installed("run", *APP, "exit", "6").returncode == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_decision_that_is_killed_is_made_again(installed: Installation, number: int) -> None:
    run, child = deciding(installed)
    os.kill(child, number)
    os.kill(child, signal.SIGCONT)
    assert run.wait(timeout=30) == 3
    assert left(installed.root) == []


def deciding(installed: Installation) -> tuple[subprocess.Popen[bytes], int]:
    """A launcher, and the child that decides for it, which is stopped."""
    for _ in range(200):
        installed.forget()
        run = subprocess.Popen([installed.command, "run", *APP, "exit", "3"], env=installed.environment)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        while run.poll() is None:
            found = children.read_text().split()
            try:
                if found and Path(f"/proc/{found[0]}/comm").read_text() == "python3\n":
                    os.kill(int(found[0]), signal.SIGSTOP)
                    if installed.recipes() == left(installed.root) == []:
                        return run, int(found[0])
                    os.kill(int(found[0]), signal.SIGCONT)
            except (FileNotFoundError, ProcessLookupError):
                pass
    raise AssertionError("it was never seen")


def test_text_that_is_not_ascii(installed: Installation, tmp_path: Path) -> None:
    """The child has the locale C; what is no text at all is handed on as well."""
    folder = tmp_path / "für"
    folder.mkdir()
    reports = []
    for _ in range(2):
        installed.forget()
        words = [os.fsencode(installed.command), b"run", b"-v", os.fsencode(f"{folder}:/täglich:ro"), b"-e", b"K\xff=\xc3\xbc\xfe"]
        command = [*words, *map(os.fsencode, APP), b"report", "€".encode()]
        done = subprocess.run(command, env={**installed.environment, "LC_ALL": "C.UTF-8"}, stdout=subprocess.PIPE, timeout=60)
        assert done.returncode == 0
        report = json.loads(done.stdout.decode("latin-1"))
        reports.append([report[name] for name in ("env", "argv", "root")])
        (installed.package / "start" / "python3._pth").unlink(missing_ok=True)
    environment, argv, root = reports[0]
    assert reports[0] == reports[1]
    assert not any(one.startswith("LC_") for one in environment) and any(one.startswith("K") for one in environment)
    assert argv[-1] == "€".encode().decode("latin-1") and "täglich".encode().decode("latin-1") in root


def test_its_network_is_its_own(installed: Installation, shared: Pyrun, busybox: Path) -> None:
    """The launcher makes one while Python decides, and stays in the host's."""
    shared("fetch", busybox, code=0)
    script = "readlink /proc/self/ns/net; ls /sys/class/net; cat /sys/class/net/lo/flags; sleep 30"
    own = os.readlink("/proc/self/ns/net")
    for flags, forgotten in (((), True), ((), False), (("--net", "host"), True)):
        if forgotten:
            installed.forget()
        words = [str(installed.command), "run", *flags, "example.com/busybox", "--exec", "/bin/sh", "--", "-c", script]
        run = subprocess.Popen(words, env=installed.environment, stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        told = [run.stdout.readline().strip() for _ in range(3)]
        assert os.readlink(f"/proc/{run.pid}/ns/net") == own
        assert told[0] == own if flags else told[0] != own and told[1:] == ["lo", "0x9"]
        assert [name for name in os.listdir(f"/proc/{run.pid}/fd") if "net:[" in os.readlink(f"/proc/{run.pid}/fd/{name}")] == []
        run.terminate()
        assert run.wait(timeout=30) == 143
        run.stdout.close()
