"""Asks the running kernel, call by call, what the compiled filters let through (SEC-16, K01, K02, A21).

`seccomp_walk.c` puts every question without executing the call.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrun.plan import caps, seccomp

GOLDEN = Path(__file__).with_name("seccomp-x86_64.golden")
DOCKER = 300  # native calls that Docker's default of June 2026 allows, not counting 8 newer ones
KILLED = "signal 31"
PROBES = (335, 336)  # uretprobe and uprobe pass every filter since Linux 6.14

Ask = Callable[..., str]


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("walk") / "seccomp_walk"
    source = Path(__file__).with_name("seccomp_walk.c")
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(program), str(source)], check=True)
    return str(program)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filter_file(tmp_path_factory.mktemp("store"))


@pytest.fixture
def ask(walker: str, default: str) -> Ask:
    def question(*words: int | str, how: str = "ask", program: str = default) -> str:
        command = [walker, program, how, *[str(word) for word in words]]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return question


def filter_file(folder: Path, flag: str = "", mask: int = caps.DEFAULT) -> str:
    path = folder / "filter"
    path.write_bytes(seccomp.load(str(folder), seccomp.parse_flag(flag) if flag else None, mask))
    return str(path)


def words(verdict: str) -> str:
    return {"1": "EPERM", "38": "ENOSYS"}.get(verdict, verdict)


def golden() -> dict[int, tuple[str, str]]:
    lines = [line.split() for line in GOLDEN.read_text(encoding="ascii").splitlines() if not line.startswith("#")]
    return {int(number): (name, verdict) for number, name, verdict in lines}


def test_all_numbers(ask: Ask) -> None:
    answers = dict(line.split(" ", 1) for line in ask(0, 600, how="walk").splitlines())
    assert len(answers) == 601
    expected = golden()
    wrong = {}
    for number in range(601):
        name, verdict = expected.get(number, ("unknown", "ENOSYS"))
        found = words(answers[str(number)])
        if found != verdict and number not in PROBES:
            wrong[number] = f"{name}: {found}, not {verdict}"
    assert not wrong


def test_fewer_calls_than_docker() -> None:
    allowed = [name for name, verdict in golden().values() if verdict == "allow"]
    allowed += ["socket", "socketpair"]  # judged by their arguments
    assert len(allowed) == 288
    assert len(allowed) <= DOCKER - 12


@pytest.mark.parametrize("flag", ["", "mode=retain,@pyrun/default", "mode=remove,errno=EIO,sync"])
def test_foreign_abis_are_dead(ask: Ask, tmp_path: Path, flag: str) -> None:
    path = filter_file(tmp_path, flag)
    for number in (1, 20, 102, 359):  # write, getpid, socketcall, socket
        assert ask(number, 40, how="ask32", program=path) == KILLED
    for number in (0, 39, 41, 59, 512, 520):
        assert ask(number | 0x40000000, program=path) == KILLED
    assert words(ask(39, program=path)) == "allow"


def test_four_families(ask: Ask) -> None:
    families = {family for family in range(48) if ask(41, family) == "allow"}
    assert families == {1, 2, 10, 16}
    assert words(ask(41, 40)) == words(ask(41, 38)) == "EPERM"  # vsock, alg
    assert ask(41, hex(0xBAD00000002)) == "allow"
    assert words(ask(41, hex(0xBAD00000028))) == "EPERM"
    assert words(ask(53, 30)) == "EPERM"
    assert ask(53, 1) == "allow"
    assert ask(41, 16, 3, 0) == "allow"
    assert ask(41, 16, 3, 12) == str(errno.EPROTONOSUPPORT)


@pytest.mark.parametrize("dirt", [0, 1 << 32, 1 << 63, 0xFFFFFFFF00000000])
def test_no_typing_into_terminals(ask: Ask, dirt: int) -> None:
    assert words(ask(16, 0, hex(0x5412 | dirt))) == "EPERM"
    assert words(ask(16, 0, hex(0x541C | dirt))) == "EPERM"
    assert ask(16, 0, hex(0x5413 | dirt)) == "allow"


def test_clone_flags(ask: Ask) -> None:
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert words(ask(56, hex(flag | 17))) == "EPERM"
    assert ask(56, 17) == ask(56, hex(0x3D0F00)) == "allow"
    assert words(ask(435)) == "ENOSYS"
    assert words(ask(272, hex(0x10000000))) == "EPERM"


def test_personality(ask: Ask) -> None:
    assert ask(135, 0) == ask(135, hex(0xFFFFFFFF)) == ask(135, hex(0xFFFFFFFFFFFFFFFF)) == "allow"
    for value in (8, 0x20000, 0x40000, 0x400000):  # Linux32, names of 2.6, no address randomisation, readable means executable
        assert words(ask(135, hex(value))) == "EPERM"


def test_capabilities_unlock(ask: Ask, tmp_path: Path) -> None:
    path = filter_file(tmp_path, mask=caps.parse(["SYS_ADMIN", "SYS_CHROOT", "NET_RAW"]))
    for number in (56, 161, 165, 272, 435, 457):
        assert ask(number, hex(0x10000000), program=path) == "allow"
    assert ask(41, 17, program=path) == "allow"
    assert words(ask(321, program=path)) == "EPERM"  # bpf asks for a capability of its own


def test_retain_set_kills_or_answers(ask: Ask, tmp_path: Path) -> None:
    path = filter_file(tmp_path, "mode=retain,write")
    assert ask(39, how="ask", program=filter_file(tmp_path, "mode=retain,write,errno=EACCES")) == str(errno.EACCES)
    path = filter_file(tmp_path, "mode=retain,write")
    assert ask(39, program=path) == KILLED
    assert ask(1000, program=path) == KILLED


def test_remove_set_blocks_its_calls_only(ask: Ask, tmp_path: Path) -> None:
    path = filter_file(tmp_path, "mode=remove,errno=ENOSPC,mkdir,mkdirat")
    assert ask(83, program=path) == ask(258, program=path) == str(errno.ENOSPC)
    assert ask(84, program=path) == "allow"
    assert ask(83, program=filter_file(tmp_path, "mode=remove,mkdir")) == KILLED


@pytest.mark.parametrize("number", [getattr(errno, name) for name in ("E2BIG", "EILSEQ", "EDOM", "ERANGE", "EXDEV", "ERFKILL")])
def test_errno_reaches_the_caller(ask: Ask, tmp_path: Path, number: int) -> None:
    path = filter_file(tmp_path, f"mode=remove,errno={errno.errorcode[number]},sync")
    assert ask(162, program=path) == str(number)


SCRIPT = """
import asyncio, mmap, os, socket, subprocess, threading, time
thread = threading.Thread(target=time.sleep, args=(0.01,)); thread.start(); thread.join()
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname()); client.close()
asyncio.run(asyncio.sleep(0.01))
mmap.mmap(-1, 4096).close()
print(subprocess.check_output(["sh", "-c", "date >/dev/null && echo inner | cat"], text=True).strip(), end=" ")
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:")])
"""


def test_ordinary_programs_run(walker: str, default: str) -> None:
    done = subprocess.run([walker, default, "exec", "/usr/bin/python3", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "inner 2\n", "")


SMALL = r"""
void _start(void)
{
    long r;

    __asm__ volatile("syscall" : "=a"(r) : "0"(1L), "D"(1L), "S"("small\n"), "d"(6L) : "rcx", "r11", "memory");
    __asm__ volatile("syscall" : : "a"(231L), "D"(7L));
    __builtin_unreachable();
}
"""


@pytest.mark.parametrize(
    ("flag", "output", "code"),
    [("mode=retain,write", "small\n", 7), ("mode=retain,read", "", -31), ("mode=retain,errno=EPERM,read", "", 7)],
)
def test_small_program_under_a_retain_set(walker: str, tmp_path: Path, flag: str, output: str, code: int) -> None:
    source = tmp_path / "small.c"
    source.write_text(SMALL)
    program = str(tmp_path / "small")
    subprocess.run(["gcc", "-O1", "-nostdlib", "-static", "-o", program, str(source)], check=True)
    done = subprocess.run([walker, filter_file(tmp_path, flag), "exec", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (output, code)
