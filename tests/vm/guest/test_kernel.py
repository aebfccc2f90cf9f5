"""The essentials once more, on Debian 12's own kernel (6.1) and a pure cgroup2 tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Pyrun


def test_the_machine_is_the_one_that_is_meant() -> None:
    assert os.uname().release.startswith("6.1."), "Debian 12's kernel"
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert {"cpu", "io", "memory", "pids"} <= set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())
    assert "apparmor" in Path("/sys/kernel/security/lsm").read_text().split(",")
    needed = "podman crun newuidmap slirp4netns pasta apparmor_parser loginctl"
    assert [name for name in needed.split() if shutil.which(name) is None] == []
    assert Path("/usr/lib/systemd/user/dbus.socket").exists(), "each user's own bus"


def test_what_the_app_sees(shared: Pyrun) -> None:
    seen = shared.report("--hostname", "inside", "--user", "app")
    assert (seen["pid"], seen["hostname"], seen["uid"], seen["gid"]) == (2, "inside", [1000] * 3, [1000] * 3)
    own = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
    assert [name for name in own if seen["namespaces"][name] == os.readlink(f"/proc/self/ns/{name}")] == []
    assert seen["cgroup"] == ["0::/"], "its cgroup is the root of its view"
    assert seen["interfaces"] == ["lo"]
    assert sorted(seen["fds"]) == ["0", "1", "2"]
    status = seen["status"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert int(status["CapBnd"], 16).bit_count() <= 8


@pytest.mark.parametrize(("command", "code"), [(("exit", "0"), 0), (("exit", "7"), 7), (("kill", "9"), 137), (("kill", "15"), 143)])
def test_exit_codes(shared: Pyrun, command: tuple[str, ...], code: int) -> None:
    shared.probe(*command, code=code)


def test_a_missing_program(shared: Pyrun) -> None:
    result = shared("run", shared.probe_image, "--exec", "/nothing", code=127)
    assert "/nothing" in result.err and "hint:" in result.err


def test_orphans_are_reaped(shared: Pyrun) -> None:
    shared.probe("orphan", "20", code=0)


def test_an_unsigned_image_is_refused(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    pyrun("run", image("example.com/unsigned", signed=False), code=125)
