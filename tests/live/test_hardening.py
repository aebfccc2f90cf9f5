"""What the defaults keep away from an app: attack rows A01 to A29 and goals SEC-10, SEC-12, SEC-15, SEC-18, seen from inside."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from canary import Canary
from harness import COMMAND, Pyrun
from mkaci import Image

from pyrun.plan import mounts

Shell = Callable[..., str]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def seen(shared: Pyrun) -> dict[str, Any]:
    return shared.report()


def test_the_golden_status(seen: dict[str, Any]) -> None:
    """SEC-15 in one look."""
    status = seen["status"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapBnd"], 16).bit_count() <= 8
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert sorted(seen["fds"]) == ["0", "1", "2"]
    assert seen["groups"] == []
    assert sorted(seen["proc"]).count("self") == 1


def test_mounts_are_what_they_should_be(seen: dict[str, Any]) -> None:
    """Every file system but the nodes' own is nodev; no mount but the root is executable; nothing names the host."""
    for line in seen["mounts"]:
        fields = line.split(" - ")[0].split()
        target, flags = fields[4], set(fields[5].split(","))
        assert "nosuid" in flags, line
        masked = target in mounts.MASKED or target in mounts.READONLY
        assert "nodev" in flags or target in ("/dev", "/dev/pts") or masked, line
        assert "noexec" in flags or target == "/", line


def test_masked_paths_are_empty(shell: Shell) -> None:
    """SEC-18, A08; for root, with every capability that pyrun gives, even through a write."""
    script = """
        for path in PATHS; do
            if [ -d $path ]; then ls -A $path; mkdir $path/x 2>/dev/null && echo $path; fi
            if [ -c $path ]; then echo x >$path; head -c 1 $path; elif [ -f $path ]; then echo $path; fi
        done"""
    assert shell(script.replace("PATHS", " ".join(mounts.MASKED)) + "; true") == ""


def test_masks_go_only_when_asked(shell: Shell) -> None:
    script = "head -c 1 /proc/kallsyms | wc -c; head -c 1 /proc/timer_list | wc -c"
    assert shell(script).split() == ["0", "0"]
    assert shell(script, "--insecure-options", "paths").split() == ["1", "1"]


def test_read_only_paths_are(shell: Shell) -> None:
    script = """
        for path in PATHS; do
            [ -e $path ] || continue
            if [ -d $path ]; then file=$(find $path -type f | head -n 1); mkdir $path/x; else file=$path; fi
            [ -z "$file" ] || (echo 1 >$file)
        done 2>&1; true"""
    paths = [*mounts.READONLY, "/sys", "/sys/kernel", "/sys/fs/cgroup", "/proc/sys/kernel", "/proc/sys/vm"]
    lines = shell(script.replace("PATHS", " ".join(paths))).splitlines()
    assert len(lines) > len(paths) // 2
    for line in lines:
        assert any(word in line for word in ("Read-only", "ermission denied", "not permitted", "No such file")), line


SYSCTLS = """
    kernel/core_pattern kernel/modprobe kernel/hostname kernel/shmmax vm/overcommit_memory net/ipv4/ip_forward fs/file-max kernel/panic
""".split()


@pytest.mark.parametrize("insecure", ["none", "capabilities", "seccomp,new-privs"])
def test_no_sysctl_can_be_written(shell: Shell, insecure: str) -> None:
    """A10, A15: by no one, whatever else was given up."""
    before = {name: Path("/proc/sys", name).read_text() for name in SYSCTLS if Path("/proc/sys", name).exists()}
    assert len(before) >= 5
    script = "".join(f"(echo evil >/proc/sys/{name}) 2>&1; " for name in before) + "true"
    out = shell(script, "--insecure-options", insecure)
    assert out.count("Read-only") + out.count("ermission denied") == len(before), out
    assert {name: Path("/proc/sys", name).read_text() for name in before} == before


def test_proc_cannot_be_mounted_again(shared: Pyrun) -> None:
    """A24: not plainly, not from a user namespace of one's own."""
    assert shared.attempt("mount", "proc", "/tmp", "proc") == "EPERM"
    assert shared.attempt("remount", "/proc/sys") == "EPERM"
    assert shared.attempt("umount", "/proc/kcore") == "EPERM"
    assert shared.attempt("umount", "/sys/firmware") == "EPERM"
    for flags in ((), ("--insecure-options", "new-privs"), ("--user", "app")):
        assert shared.attempt("unshare", "0x10000000", flags=flags) == "EPERM"


def test_no_program_of_the_host_is_in_reach(shared: Pyrun, image: Make) -> None:
    """A01 (CVE-2019-5736): what init runs is a sealed memfd, which cannot be opened, let alone written."""
    path = image("example.com/self", ["/bin/sh", "-c"], edit=lambda made: made.busybox())
    script = """
        for p in exe root cwd fd/0 fd/3; do (: >/proc/1/$p) || echo; (: </proc/1/$p) || echo; readlink /proc/1/$p || echo; done
        cat /proc/1/environ /proc/1/mem; ls /proc/1/map_files"""
    done = shared("run", path, "--", script)
    assert done.out == "\n" * 15, done


def test_the_interpreter_line_of_a_hostile_image(shared: Pyrun, image: Make) -> None:
    """A01: `#!/proc/self/exe` makes the kernel execute whatever executes it: the helper, a memfd, never a host file."""

    def edit(made: Image) -> None:
        made.add("/evil", b"#!/proc/self/exe\n", mode=0o755)
        made.symlink("/link", "/proc/self/exe")
        made.symlink("/link1", "/proc/1/exe")

    path = image("example.com/evil", edit=edit)
    for program in ("/evil", "/link", "/link1", "/proc/self/exe", "/proc/1/exe"):
        failed = shared("run", path, "--exec", program)
        assert failed.code in (125, 126, 127), failed
        assert failed.out == "" and "Traceback" not in failed.err, failed
        assert "host" not in failed.err.split("hint:")[0]


POISON = """/bin/gzip /bin/xz /bin/bzip2 /bin/zstd /usr/bin/unpigz /bin/gpgv /bin/pyrun /bin/python3 /lib/x86_64-linux-gnu/libnss_files.so.2
    /lib/x86_64-linux-gnu/libnss_dns.so.2 /lib/x86_64-linux-gnu/libc.so.6 /etc/nsswitch.conf /etc/ld.so.preload /etc/ld.so.cache
    /usr/lib/x86_64-linux-gnu/gconv/gconv-modules /usr/lib/python3.11/encodings/__init__.py /usr/lib/python3.11/site.py"""


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_nobody_of_the_host_runs_or_loads_what_the_image_ships(pyrun: Pyrun, image: Make, tmp_path: Path, compression: str) -> None:
    """B22 and B23: no decompressor is executed, and nothing is loaded late, once a root is the image's."""

    def edit(made: Image) -> None:
        for path in POISON.split():
            made.add(path, b"poison", mode=0o755)

    path = image("example.com/poison", ["/probe", "exit", "7"], compression=compression, edit=edit)
    log = tmp_path / "log"
    calls = "trace=execve,execveat,open,openat,openat2,pivot_root"
    words: list[str | Path] = ["strace", "-f", "-qq", "-s", "4096", "-e", calls, "-o", log, COMMAND]
    for more in (["fetch"], ["run", "--user", "app"]):
        done = subprocess.run([*words, *more, path], env=pyrun.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == (7 if more[0] == "run" else 0), done.stderr
        lines = [line for line in log.read_text().splitlines() if not line.endswith(" ENOENT (No such file or directory)")]
        executed = {line.split('"')[1].rpartition("/")[2] for line in lines if " execve(" in line and line.endswith(" = 0")}
        assert executed <= {"pyrun", "python3", "gpg", "gpgv", "probe"}
        turned = [number for number, line in enumerate(lines) if "pivot_root(" in line]
        assert len(turned) == (1 if more[0] == "run" else 0)
        inside = lines[turned[0] :] if turned else []
        assert not [line for line in inside if any(word in line for word in ("libnss", "libc.so", "nsswitch", "ld.so", "gconv", "python"))]
        assert not [line for line in lines if "/rootfs/" in line and any(f"/rootfs{place}" in line for place in POISON.split())]


def test_every_new_process_is_watched(shared: Pyrun, busybox: Path) -> None:
    """A02: a payload that lists every process from within finds no executable and no descriptor of the host's."""
    script = "for i in 1 2 3 4 5 6 7 8; do for p in /proc/[0-9]*; do readlink $p/exe $p/root $p/cwd $p/fd/*; done; done"
    out = shared("run", busybox, "--exec", "/bin/sh", "--", "-c", script).out
    assert {line for line in out.splitlines() if line.startswith("/")} <= {"/", "/bin/busybox", "/dev/null"}


@pytest.fixture(params=["absolute", "relative", "two hops", "to a file"])
def link(request: pytest.FixtureRequest, canary: Canary) -> Iterator[Callable[[Image, str], None]]:
    """Makes a path of the image a link to the canary, in one of four ways."""
    kind = request.param

    def plant(made: Image, path: str) -> None:
        targets = {
            "absolute": str(canary.path),
            "relative": "../../../../../../../.." + str(canary.path),
            "two hops": "/hop",
            "to a file": str(canary.path / "file"),
        }
        made.members = {name: member for name, member in made.members.items() if not f"/{name}/".startswith(path + "/")}
        made.symlink(path, targets[kind])
        if kind == "two hops":
            made.symlink("/hop", str(canary.path))

    yield plant


@pytest.mark.parametrize("path", ["/proc", "/sys", "/dev"])
def test_the_runtimes_directories_as_links(shared: Pyrun, image: Make, link: Callable[[Image, str], None], path: str) -> None:
    """A04, A11, SEC-10: refused, named, and nothing outside touched."""
    crafted = image("example.com/links", edit=lambda made: link(made, path), signed=False)
    for flags in (["--readonly-rootfs"], ["--no-overlay", "-t"]):
        failed = shared("run", "--insecure-options", "image", *flags, crafted, code=125)
        assert failed.err.splitlines()[-2 if "from:" in failed.err else -1].startswith("hint: "), failed
        assert path in failed.err, failed


FILES = "/etc/hosts /etc/resolv.conf /etc/hostname /etc/mtab /dev/null /dev/zero /dev/console"


@pytest.mark.parametrize("paths", ["/etc", "/tmp", "/dev/pts", FILES])
def test_other_planted_links(shared: Pyrun, image: Make, link: Callable[[Image, str], None], paths: str) -> None:
    """A08, A26, SEC-10: the app may run or not, the canary sees nothing."""

    def edit(made: Image) -> None:
        for path in paths.split():
            link(made, path)

    crafted = image("example.com/planted-links", edit=edit, signed=False)
    for flags in (["--net", "host"], ["--no-overlay", "-t"]):
        result = shared("run", "--insecure-options", "image", *flags, crafted, "--exec", "/probe", "--", "exit", "0")
        assert result.code in (0, 125), result
        if result.code == 125:
            assert result.err.count("hint: ") == 1, result


SHAPES: dict[str, dict[str, Any]] = {
    "file": {"type": b"0"},
    "fifo": {"type": b"6"},
    "device": {"type": b"3", "devmajor": 1, "devminor": 5},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("paths", ["/proc", "/sys", "/dev", "/dev/shm", "/tmp", FILES])
def test_planted_files(shared: Pyrun, image: Make, paths: str, shape: str) -> None:
    """A12, A28: nothing that the runtime writes goes into a FIFO or a device, and nothing waits for one."""

    def edit(made: Image) -> None:
        for path in paths.split():
            made.members = {name: member for name, member in made.members.items() if not f"/{name}/".startswith(path + "/")}
            made.add(path, b"", mode=0o666, **SHAPES[shape])

    crafted = image("example.com/planted-files", edit=edit, signed=False)
    result = shared("run", "--insecure-options", "image", crafted, "--exec", "/probe", "--", "try", "write", "/dev/null")
    assert result.code in (0, 125), result
    if result.code == 125:
        assert result.err.count("hint: ") == 1, result
    else:
        assert json.loads(result.out)["errno"] == ""


@pytest.mark.parametrize("shape", ["link", "fifo", "device", "directory", "huge", "long line", "loop"])
@pytest.mark.parametrize("file", ["passwd", "group"])
def test_hostile_accounts(shared: Pyrun, image: Make, canary: Canary, file: str, shape: str) -> None:
    """A28, SEC-25: an answer at once, with nothing of the host's file in it."""

    def edit(made: Image) -> None:
        path = f"/etc/{file}"
        del made.members[path[1:]]
        if shape == "link":
            made.symlink(path, str(canary.path / file))
        elif shape == "loop":
            made.symlink(path, path)
        elif shape == "directory":
            made.directory(path)
        elif shape in ("huge", "long line"):
            made.add(path, (b"x:x:1:1::/:\n" if shape == "huge" else b"x") * (1 << 20))
        else:
            made.add(path, type=b"6" if shape == "fifo" else b"3", devmajor=1, devminor=5)

    path = image("example.com/accounts", edit=edit, signed=False)
    result = shared("run", "--insecure-options", "image", "--user", "app", "--group", "app", path)
    assert result.code == 125 and result.err.count("hint: ") == 1, result
    assert "canary" not in result.err
    numbers = shared("run", "--insecure-options", "image", "--user", "7", "--group", "8", path)
    assert numbers.code in (0, 125), numbers


@pytest.mark.parametrize("target", ["absolute", "up", "through a file"])
def test_hostile_working_directories(shared: Pyrun, image: Make, canary: Canary, target: str) -> None:
    """A27: a link out of the root is a link within it; nothing is made."""
    where = {"absolute": str(canary.path), "up": f"../../../..{canary.path}", "through a file": str(canary.path / "file")}[target]
    path = image("example.com/workdir", app={"workingDirectory": "/l/x"}, edit=lambda made: made.symlink("/l", where))
    failed = shared("run", path, code=125)
    assert failed.err.startswith("pyrun: enter directory /l/x: ") and failed.err.count("hint: ") == 1


def test_masks_do_not_use_the_images_null(shared: Pyrun, image: Make) -> None:
    """A08: the image brings its own /dev with another null; what is masked stays masked."""

    def edit(made: Image) -> None:
        made.busybox()
        made.symlink("/dev/null", "/proc/sys/kernel/core_pattern")

    path = image("example.com/null", ["/bin/sh", "-c", "cat /proc/kallsyms | wc -c; stat -c %t,%T /dev/null /proc/kallsyms"], edit=edit)
    assert shared("run", path, code=0).out.split() == ["0", "1,3", "1,3"]


def test_the_masking_null_is_really_null(shell: Shell) -> None:
    """Everything that is masked by it would change if the app could change its mode or owner to something else."""
    script = "chmod 0 /dev/null; chown 5:5 /dev/null; rm /dev/null; echo x >/proc/kcore; head -c 1 /proc/keys | wc -c"
    assert shell(script + "; stat -c %t,%T /proc/keys").split() == ["0", "1,3"]


def test_descriptors_of_the_pod_are_not_the_hosts(shared: Pyrun, busybox: Path) -> None:
    """No st_dev:st_ino of a host directory shows up behind any descriptor in the pod (A02, SEC-12)."""
    host = {(os.stat(path).st_dev, os.stat(path).st_ino) for path in ("/", "/tmp", shared.root, shared.root / "pods", "/sys/fs/cgroup")}
    out = shared(
        "run",
        busybox,
        "--exec",
        "/bin/sh",
        "--",
        "-c",
        "stat -L -c '%d %i' /proc/*/fd/* /proc/*/root /proc/*/cwd 2>/dev/null; true",
        code=0,
    ).out
    found = {tuple(map(int, line.split())) for line in out.splitlines()}
    assert found and not found & host


def test_core_dumps_are_off(shared: Pyrun, seen: dict[str, Any]) -> None:
    assert seen["rlimits"]["core"] == [0, 0]
    assert shared.probe("kill", "11", code=139).err == ""
