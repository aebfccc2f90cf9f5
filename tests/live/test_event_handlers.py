"""Event handlers of the App Container spec: when they run, as whom, with what, and what a failing one does (IM-18..20, ACE-40, ACE-46)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Pyrun

import pyrun as library

Handled = Callable[..., Path]


@pytest.fixture
def handled(image: Callable[..., Path]) -> Handled:
    """A busybox image with handlers: handled("main script", pre="script", post="script")."""

    def make(main: str, pre: str = "", post: str = "", **app: object) -> Path:
        handlers = [("pre-start", pre), ("post-stop", post)]
        found = [{"name": name, "exec": ["/bin/sh", "-c", script]} for name, script in handlers if script]

        def edit(made: object) -> None:
            made.busybox()  # type: ignore[attr-defined]
            made.accounts(app=1000)  # type: ignore[attr-defined]
            made.manifest["app"] = {  # type: ignore[attr-defined]
                "exec": ["/bin/sh", "-c", main],
                "user": "0",
                "group": "0",
                **app,
                "eventHandlers": found,
            }

        return image(edit=edit)

    return make


def ended(pyrun: Pyrun, name: str) -> None:
    pyrun("wait", name)


def test_im_19_im_20_ace_46_order_and_one_root(shared: Pyrun, handled: Handled, tmp_path: Path) -> None:
    """pre-start has ended before main runs, post-stop runs after it; all see the same files and volumes."""
    (tmp_path / "out").mkdir(mode=0o777)
    made = handled(
        "cat /x; echo main >>/out/log; echo >/y",
        pre="sleep 0.2; echo from pre >/x; echo pre >>/out/log",
        post="ls /y >>/out/log; echo post",
    )
    assert shared("run", "-v", f"{tmp_path}/out:/out", made, code=0).out == "from pre\npost\n"
    assert (tmp_path / "out" / "log").read_text() == "pre\nmain\n/y\n"


@pytest.mark.parametrize(
    ("main", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)], ids=["good", "bad", "crash", "term"]
)
def test_im_20_post_stop_after_any_end(shared: Pyrun, handled: Handled, main: str, code: int) -> None:
    assert shared("run", handled(main, post="echo post"), code=code).out == "post\n"


def test_im_20_post_stop_writes_where_the_library_reads(shared: Pyrun, handled: Handled) -> None:
    made = handled("echo main", post="echo post; echo bad >&2")
    name = shared("fetch", made, code=0).out.split()[0]
    done = library.run(name, root=str(shared.root), capture_output=True, timeout=20)
    library.settle(root=str(shared.root))
    assert (done.stdout, done.stderr, done.returncode) == (b"main\npost\n", b"bad\n", 0)


def test_ace_40_mandated_environment_in_all_three_phases(shared: Pyrun, handled: Handled) -> None:
    script = "echo $PATH $AC_APP_NAME $container $MINE $LISTEN_FDS"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    made = handled(script, pre=script, post=script, environment=[{"name": "MINE", "value": "1"}])
    assert shared("run", "--name", "web", made, code=0).out == f"{path} web pyrun 1\n" * 3


def test_ace_46_same_confinement(shared: Pyrun, handled: Handled) -> None:
    """User, groups, capabilities, filter, limits, namespaces and directory are the app's."""
    keys = "-e ^Uid -e ^Gid -e ^Groups -e ^Cap -e ^NoNewPrivs -e ^Seccomp: -e ^NSpid"
    script = (
        f"grep {keys} /proc/self/status; ulimit -n; pwd; umask; for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done"
    )
    for flags in ((), ("--insecure-options", "new-privs"), ("--caps-retain", "CAP_CHOWN,CAP_KILL")):
        made = handled(f"{script}; echo", pre=f"{script}; echo", post=f"{script}; echo", user="app", group="app", supplementaryGIDs=[7, 8])
        out = shared("run", "--rlimit", "nofile=77", "--umask", "027", "-w", "/tmp", *flags, made, code=0).out
        parts = [[line for line in part.splitlines() if not line.startswith("NSpid")] for part in out.strip().split("\n\n")]
        assert len(parts) == 3 and parts[0] == parts[1] == parts[2], out
        assert "Uid:\t1000\t1000\t1000\t1000" in parts[0] and "Groups:\t7 8 " in parts[0] and "77" in parts[0] and "/tmp" in parts[0]


def test_a_handler_may_not_trace_those_that_start(shared: Pyrun, handled: Handled) -> None:
    made = handled("true", pre="grep ^CapBnd /proc/self/status")
    out = shared("run", "--caps-retain", "CAP_SYS_PTRACE,CAP_KILL", made, code=0).out
    assert int(out.split()[1], 16) == 1 << 5


@pytest.mark.parametrize(
    ("pre", "code", "error"),
    [
        ("exit 3", 125, "run event handler pre-start: it ended with code 3"),
        ("kill -9 $$", 125, "run event handler pre-start: signal 9 killed it"),
        ("sleep 100", 125, "run event handler pre-start: it took too long and was killed"),
    ],
)
def test_a_failing_pre_start_stops_the_start(shared: Pyrun, handled: Handled, pre: str, code: int, error: str) -> None:
    """The app does not run; post-stop does."""
    failed = shared("run", "--handler-timeout", "1", handled("echo main", pre=pre, post="echo post"), code=code)
    assert failed.out == "post\n" and failed.err.startswith(f"pyrun: {error}\nhint: ") and "from: app.eventHandlers pre-start" in failed.err


def test_a_handler_that_is_not_there_is_named(shared: Pyrun, image: Callable[..., Path]) -> None:
    def edit(made: object) -> None:
        made.manifest["app"]["eventHandlers"] = [{"name": "pre-start", "exec": ["/missing"]}]  # type: ignore[attr-defined]

    failed = shared("run", image(edit=edit), code=127)
    assert failed.err.startswith("pyrun: execute /missing: no such file or directory") and "from: event handler pre-start" in failed.err
    assert shared("run", "--no-handlers", image(edit=edit), code=0).err == ""


def test_a_failing_post_stop_changes_nothing_but_is_told(shared: Pyrun, handled: Handled) -> None:
    for post in ("exit 4", "exec /missing", "sleep 100"):
        found = shared("run", "--handler-timeout", "1", handled("exit 5", post=post), code=5)
        assert "pyrun: the event handler post-stop failed\n" in found.err


def test_what_the_app_left_is_gone_before_post_stop(shared: Pyrun, handled: Handled) -> None:
    made = handled("sleep 321 & sleep 0.1; exit 0", post="ps | grep '[s]leep 321' || echo alone")
    assert shared("run", made, code=0).out == "alone\n"


def test_ace_45_stop_in_order_also_of_one_that_ignores_term(shared: Pyrun, handled: Handled, tmp_path: Path) -> None:
    """TERM, then the app alone is killed, then post-stop; `stop` waits for it."""
    (tmp_path / "out").mkdir(mode=0o777)
    for trap, seconds, lines in (("'echo term >>/out/log; exit 0' TERM", "10", "term\npost\n"), ("'' TERM", "1", "post\n")):
        (tmp_path / "out" / "log").unlink(missing_ok=True)
        made = handled(f"trap {trap}; echo >/dev/shm/ready; while :; do sleep 0.05; done", post="sleep 0.3; echo post >>/out/log")
        shared("run", "-d", "--pod-name", "handled", "-v", f"{tmp_path}/out:/out", made, code=0)
        shared("exec", "handled", "sh", "-c", "until [ -e /dev/shm/ready ]; do sleep 0.01; done", code=0)
        shared("stop", "--timeout", seconds, "handled", code=0)
        assert (tmp_path / "out" / "log").read_text() == lines
        shared("rm", "handled", code=0)


def test_of_several_apps_each_has_its_own(shared: Pyrun, handled: Handled) -> None:
    """With shared process numbers as well; a kill after ten seconds is not waited for here."""
    one = handled("echo >/dev/shm/there; cat /x; sleep 0.2", pre="echo pre >/x", post="echo post")
    other = handled("until [ -e /dev/shm/there ]; do sleep 0.01; done; ls /x 2>&1", post="echo other")
    for which in ("app", "pod"):
        found = shared("run", "--exit-policy", "last-exit", "--pid", which, one, "--name", "a", "---", other, "--name", "b", code=0)
        assert sorted(found.out.splitlines()) == ["ls: /x: No such file or directory", "other", "post", "pre"]


def test_a_detached_pod_tells_of_a_failing_pre_start_and_leaves_nothing(shared: Pyrun, handled: Handled) -> None:
    failed = shared("run", "-d", handled("sleep 100", pre="exit 9"), code=125)
    assert failed.err.startswith("pyrun: run event handler pre-start: it ended with code 9\nhint: ")
    assert json.loads(shared("list", "--format", "json", code=0).out) == []
