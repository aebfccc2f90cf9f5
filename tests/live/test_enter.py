"""One more process in a running pod has what the app has, attribute by attribute (SEC-14, E04, SEC-12; rkt's enter had everything)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun
from mkaci import Image

Make = Callable[..., Path]
Pod = Callable[..., "Entered"]


class Entered:
    """A pod that runs, and the process of `pyrun run` behind it; `seen` is what its app reported of itself."""

    def __init__(self, pyrun: Pyrun, process: subprocess.Popen[str], uuid: str) -> None:
        self.pyrun = pyrun
        self.process = process
        self.uuid = uuid
        self.seen: dict[str, Any] = {}

    def exec(self, *words: str, flags: tuple[str, ...] = (), **more: Any) -> Any:
        return self.pyrun("exec", *flags, self.uuid, *words, **more)

    def report(self, *flags: str) -> dict[str, Any]:
        """What a probe reports that entered the pod."""
        seen: dict[str, Any] = json.loads(self.exec("/probe", "report", flags=flags, code=0).out)
        return seen


@pytest.fixture
def pod(shared: Pyrun, tmp_path: Path) -> Iterator[Pod]:
    """Starts the probe, with these flags of `pyrun run`, to report and stay; or another command that says something first."""
    started: list[subprocess.Popen[str]] = []

    def begin(*flags: str | Path, image: Path | None = None, command: tuple[str, ...] = ("stay",), **more: Any) -> Entered:
        uuid = tmp_path / f"uuid-{len(started)}"
        words = ["run", "--uuid-file-save", uuid, *flags, image or shared.probe_image, "--exec", "/probe", "--", *command]
        process = shared.start(*words, **more)
        started.append(process)
        assert process.stdout is not None
        text = process.stdout.readline()
        while command == ("stay",) and text.rstrip() and not text.rstrip().endswith("}"):
            text += process.stdout.readline()
        if not text:
            pytest.fail(process.communicate()[1])
        one = Entered(shared, process, uuid.read_text().strip())
        if command == ("stay",):
            one.seen = json.loads(text)
        return one

    yield begin
    for process in started:
        process.terminate()
        process.communicate()


# What the two must have in common; the rest names the very process, or the streams that it was given.
SAME = """uid gid groups umask hostname domainname cwd env rlimits namespaces dev root proc interfaces mounts cgroup oom_score_adj
    uid_map hosts""".split()
STATUS = ("Cap", "NoNewPrivs", "Seccomp", "Speculation", "Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "SigCgt", "Cpus", "Mems")
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "user and groups": ("--user", "app", "--group", "1001", "--supplementary-gids", "7,8,2000"),
    "caps retained": ("--caps-retain", "NET_RAW,SYS_CHROOT,KILL"),
    "no caps": ("--caps-retain", "none"),
    "caps removed": ("--caps-remove", "SETUID,SETGID", "--seccomp", "mode=remove,errno=EPERM,sync,syncfs"),
    "filter of its own": ("--seccomp", "mode=retain,errno=EPERM,@pyrun/default", "--user", "other"),
    "small filter": ("--seccomp", "mode=retain,errno=ENOSYS,@pyrun/default,ptrace,unshare"),
    "read-only": ("--readonly-rootfs", "-v", "/usr:/data:ro"),
    "limits": ("--rlimit", "nofile=100:200", "--rlimit", "core=0", "--umask", "0077", "--oom-score-adj", "500"),
    "environment": ("-e", "A=b c", "-e", "PATH=/nowhere", "--working-dir", "/tmp", "--hostname", "h"),
    "host network": ("--net", "host"),
    "no protection": ("--insecure-options=all-run",),
    "privileges to be gained": ("--insecure-options=new-privs", "--user", "app"),
}


def difference(app: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found = {key: (app[key], other[key]) for key in SAME if app[key] != other[key]}
    for key in (key for key in app["status"] if key.startswith(STATUS)):
        if app["status"][key] != other["status"].get(key):
            found[key] = (app["status"][key], other["status"].get(key))
    return found


@pytest.mark.parametrize("flags", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_sec14_confinement_is_the_apps(pod: Pod, flags: tuple[str, ...]) -> None:
    one = pod(*flags)
    quick, long_way = one.report(), one.report("--working-dir", one.seen["cwd"])
    for other in (quick, long_way):
        other["proc"] = [name for name in other["proc"] if not name.isdecimal()]
    one.seen["proc"] = [name for name in one.seen["proc"] if not name.isdecimal()]
    assert difference(one.seen, quick) == {}
    assert difference(one.seen, long_way) == {}
    assert len(SAME) + len([key for key in one.seen["status"] if key.startswith(STATUS)]) > 25
    assert quick["sid"] == quick["pgid"] == quick["pid"], "a session of its own"
    if one.seen["keyring"] != -1:  # else the filter does not let it look
        assert quick["keyring"] != one.seen["keyring"], "never the caller's"


def test_sec14_callers_state_does_not_leak(pod: Pod) -> None:
    """Another umask, limits, groups, oom score and signals of the caller than when the pod was started."""
    one = pod()

    def spoil() -> None:
        import resource
        import signal

        os.umask(0)
        os.setgroups([5, 6, 7])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 30))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 8192))
        Path("/proc/self/oom_score_adj").write_text("333")
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM])
        os.chdir("/usr")

    done = subprocess.run(
        [COMMAND, "exec", one.uuid, "/probe", "report"],
        env=one.pyrun.environment({"SECRET": "x"}),
        preexec_fn=spoil,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    for report in (seen, one.seen):
        report["proc"] = [name for name in report["proc"] if not name.isdecimal()]
        report["rlimits"].pop("fsize")  # this caller's hard limit, which it may not raise without CAP_SYS_RESOURCE, is lower
        report["oom_score_adj"] = ""  # likewise
    assert difference(one.seen, seen) == {}


def test_sec12_three_descriptors_of_sixty(pod: Pod) -> None:
    one = pod()
    held = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(60)]
    try:
        for flags in ((), ("-i",), ("--env", "A=B")):
            done = one.exec("/probe", "report", flags=flags, code=0, pass_fds=held)
            assert sorted(json.loads(done.out)["fds"]) == ["0", "1", "2"]
    finally:
        for fd in held:
            os.close(fd)


def test_sec13_no_way_out_by_the_working_directory(pod: Pod) -> None:
    one = pod()
    for number in range(3, 20):
        refused = one.exec("/probe", "exit", "0", flags=("--working-dir", f"/proc/self/fd/{number}"), code=125)
        assert "enter directory" in refused.err


def test_the_filter_is_the_same_program(pod: Pod) -> None:
    """Not only some filter: what it refuses, and how."""
    flags = ("--seccomp", "mode=remove,errno=EXDEV,sethostname")
    one = pod(*flags)
    tries = [("sethostname",), ("unshare", "0x10000000"), ("socket", "16", "3"), ("nr", "435"), ("mount", "a", "/tmp", "tmpfs")]
    for call in tries:
        inside = json.loads(one.exec("/probe", "try", *call, code=0).out)["errno"]
        assert inside == one.pyrun.attempt(*call, flags=flags), call
    assert json.loads(one.exec("/probe", "try", "sethostname", code=0).out)["errno"] == "EXDEV"


def test_masked_paths_stay_masked(pod: Pod) -> None:
    one = pod()
    for path in ("/proc/kcore", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"):
        assert json.loads(one.exec("/probe", "try", "write", path, code=0).out)["errno"] != "", path


def test_options_change_one_thing_each(pod: Pod) -> None:
    one = pod("-e", "A=1", "-e", "B=2")
    assert "A=3" in one.report("--env", "A=3")["env"] and "B=2" in one.report("--env", "A=3")["env"]
    assert one.report("--working-dir", "/tmp")["cwd"] == "/tmp"
    seen = one.report("--user", "app")
    assert (seen["uid"], seen["gid"], seen["groups"]) == ([1000] * 3, [1000] * 3, [])
    assert int(seen["status"]["CapPrm"], 16) == 0 and seen["status"]["CapBnd"] == one.seen["status"]["CapBnd"]
    assert {"USER=app", "LOGNAME=app"} <= set(seen["env"])
    assert one.report("--group", "other")["gid"] == [1001] * 3
    assert one.report("--user", "4711")["uid"] == [4711] * 3


def test_root_in_a_pod_of_a_user_is_bounded(pod: Pod) -> None:
    one = pod("--user", "app", "--caps-retain", "KILL,CHOWN")
    seen = one.report("--user", "root")
    assert seen["uid"] == [0, 0, 0]
    assert seen["status"]["CapPrm"] == seen["status"]["CapBnd"] == one.seen["status"]["CapBnd"]


@pytest.mark.parametrize("user", ["nobody-here", "-1", "4294967296", "0x0", "01000", " 0"])
def test_odd_users_are_refused(pod: Pod, user: str) -> None:
    """SEC-24: never 0 by accident."""
    assert "user" in pod().exec("/probe", "report", flags=(f"--user={user}",), code=125).err


def test_a_command_and_nothing_else_needs_no_interpreter(pod: Pod, tmp_path: Path) -> None:
    one = pod()
    for words, long_way in (
        (["exec", one.uuid, "/probe", "exit", "3"], False),
        (["exec", "-i", one.uuid, "/probe", "exit", "3"], False),
        (["enter", one.uuid, "--", "/probe", "exit", "3"], False),
        (["--root", str(one.pyrun.root), "exec", one.uuid, "/probe", "exit", "3"], False),
        (["exec", "--env", "A=B", one.uuid, "/probe", "exit", "3"], True),
    ):
        log = tmp_path / "execs"
        command = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", log, COMMAND, *words]
        done = subprocess.run(command, env=one.pyrun.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        assert any("python3" in line and "= 0" in line for line in log.read_text().splitlines()) == long_way, words


@pytest.mark.parametrize("path", ["/nowhere:/:", "/", ":/nowhere", "/nowhere"])
def test_programs_are_looked_up_in_the_apps_path(pod: Pod, path: str) -> None:
    one = pod("-e", f"PATH={path}", "--working-dir", "/")
    code = 127 if path == "/nowhere" else 4
    one.exec("probe", "exit", "4", code=code)
    one.exec("probe", "exit", "4", flags=("--env", "A=B"), code=code)


def test_exit_codes(pod: Pod) -> None:
    one = pod()
    for number in (0, 1, 42, 255):
        one.exec("/probe", "exit", str(number), code=number)
    for number in (9, 15, 31):
        one.exec("/probe", "kill", str(number), code=128 + number)
    missing = one.exec("/bin/missing", code=127)
    assert re.fullmatch(r"pyrun: execute /bin/missing: no such file or directory\nhint: .*\nfrom: the command line\n", missing.err)
    assert "missing" in one.exec("missing", "-x", code=127).err
    one.exec("/etc/passwd", code=126)
    one.exec("/tmp", code=126)
    assert one.process.poll() is None, "the app does not notice"


def test_usage(pod: Pod) -> None:
    one = pod()
    assert "needs a command" in one.pyrun("exec", one.uuid, code=2).err
    assert "needs POD" in one.pyrun("exec", code=2).err
    assert one.pyrun("exec", one.uuid[:8], "/probe", "exit", "3", code=3).err == ""
    one.pyrun("exec", one.uuid, "--", "/probe", "exit", "4", code=4)
    one.pyrun("exec", one.uuid, "/probe", "exit", "5", "--help", code=5)


def test_standard_input_only_if_asked_for(pod: Pod) -> None:
    one = pod(image=None)
    assert one.report()["fds"]["0"] == "/dev/null"
    for flags in (("-i",), ("-i", "--env", "A=B")):
        seen = json.loads(one.exec("/probe", "report", flags=flags, input="x", code=0).out)
        assert seen["fds"]["0"].startswith("pipe:")
    seen = json.loads(one.pyrun("enter", one.uuid, "/probe", "report", input="x", code=0).out)
    assert seen["fds"]["0"].startswith("pipe:")


def test_an_app_with_standard_input(pod: Pod) -> None:
    one = pod("-i")
    assert one.report()["fds"]["0"] == "/dev/null"
    assert json.loads(one.exec("/probe", "report", flags=("-i",), input="x", code=0).out)["fds"]["0"].startswith("pipe:")


def test_default_command_is_the_users_shell(pod: Pod, image: Make) -> None:
    def edit(made: Image) -> None:
        made.busybox()
        made.add("/etc/passwd", b"root:x:0:0::/:/bin/ash\napp:x:1000:1000::/:/sbin/nologin\nother:x:1001:1001::/:/bin/none\n")

    one = pod(image=image("example.com/shells", edit=edit))
    script = "echo $0 $(id -u)\n"
    enter = one.pyrun("enter", one.uuid, input=script, code=0)
    assert enter.out == "/bin/ash 0\n", enter
    for user, number in (("app", 1000), ("other", 1001)):
        assert one.pyrun("enter", "--user", user, one.uuid, input=script, code=0).out == f"/bin/sh {number}\n"


@pytest.mark.parametrize("shell", ["/bin/ash", "/bin/busybox"])
def test_a_shell_that_exists(pod: Pod, image: Make, shell: str) -> None:
    """An image without /bin/sh may have another one."""

    def edit(made: Image) -> None:
        made.program(shell, Path("/bin/busybox"))

    one = pod(image=image("example.com/shell", edit=edit))
    enter = one.pyrun("enter", one.uuid, input="echo here\n", code=0)
    assert enter.out == "here\n", enter


def test_no_shell_is_said(pod: Pod) -> None:
    one = pod()
    refused = one.pyrun("enter", one.uuid, code=127)
    assert "there is no shell in it" in refused.err and "hint: name a program" in refused.err
