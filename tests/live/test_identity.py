"""Who an app runs as and what it may do: ids, groups, capabilities, limits (IM-12..17, ACE-53..58, E01..E03, SEC-15, SEC-24)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import COMMAND, Pyrun
from mkaci import Image

from pyrun.plan import caps

Shell = Callable[..., str]
Make = Callable[..., Path]


def accounts(made: Image) -> None:
    made.add("/etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:100::/home/app:\n1042:x:42:43::/digits:\nodd:x:77:78::relative:\n")
    made.add("/etc/group", b"root:x:0:\nstaff:x:50:app\n2001:x:21:\n")
    made.add("/owned", b"", uid=7, gid=8)
    made.directory("/home/app", 0o700, uid=1000, gid=100)
    made.add("/link", type=b"2", linkname="owned", uid=3, gid=4)
    made.directory("/closed", 0o700)


@pytest.fixture(scope="module")
def people(image: Make) -> Path:
    return image("example.com/people", edit=accounts)


def ids(shared: Pyrun, path: Path, *flags: str) -> tuple[int, int, list[int]]:
    seen = json.loads(shared("run", *flags, path, code=0).out)
    assert len(set(seen["uid"])) == len(set(seen["gid"])) == 1  # real, effective and saved
    return seen["uid"][0], seen["gid"][0], seen["groups"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--user", "app"], (1000, 100, [])),
        (["--user", "1000"], (1000, 100, [])),
        (["--user", "5"], (5, 0, [])),
        (["--user", "2147483647"], (2147483647, 0, [])),
        (["--user", "1042"], (42, 43, [])),  # IM-13: a name of digits is a name first
        (["--user", "42"], (42, 43, [])),
        (["--user", "/owned"], (7, 8, [])),  # IM-14
        (["--user", "/link"], (3, 4, [])),  # the link itself, as lstat(2) sees it
        (["--group", "staff"], (0, 50, [])),
        (["--group", "2001"], (0, 21, [])),
        (["--group", "/owned"], (0, 8, [])),
        (["--user", "app", "--group", "staff"], (1000, 50, [])),
        (["--user", "app", "--supplementary-gids", "7,8,7"], (1000, 100, [7, 8])),
        (["--supplementary-gids", "0,4"], (0, 0, [0, 4])),
        ([], (0, 0, [])),
    ],
    ids=lambda value: " ".join(value) or "default" if isinstance(value, list) else "",
)
def test_im_13_14_exact_ids(shared: Pyrun, people: Path, flags: list[str], expected: tuple[int, int, list[int]]) -> None:
    assert ids(shared, people, *flags) == expected


BAD_USERS = "nobody-here daemon -1 +1 01 0x0 1e3 2147483648 4294967295 4294967296 18446744073709551616 1.0 root: root\n ../root".split(" ")


@pytest.mark.parametrize("user", [*BAD_USERS, "٣", " 0", "/nowhere", "/owned/x", "/../../owned/.."])
def test_im_15_no_other_user_is_taken_for_one(shared: Pyrun, people: Path, user: str) -> None:
    """IM-15, SEC-24: refusal, with the string named, and never id 0 by accident; the host's accounts do not count."""
    for flag in ("--user", "--group"):
        result = shared("run", f"{flag}={user}", people)
        if user == "/../../owned/..":
            continue  # a path like any other, if an odd one
        assert result.code in (2, 125), result
        assert result.err.count("pyrun: ") == 1 and "hint: " in result.err


def test_manifest_identity(shared: Pyrun, image: Make) -> None:
    app = {"user": "app", "group": "staff", "supplementaryGIDs": [9, 10]}
    path = image("example.com/manifest-user", app=app, edit=accounts)
    assert ids(shared, path) == (1000, 50, [9, 10])
    assert ids(shared, path, "--user", "root") == (0, 0, [9, 10])
    assert ids(shared, path, "--group", "/owned") == (1000, 8, [9, 10])


@pytest.mark.parametrize("app", [{"user": "ghost"}, {"group": "ghost"}, {"user": "/ghost"}])
def test_unknown_manifest_identity(shared: Pyrun, image: Make, app: dict[str, str]) -> None:
    failed = shared("run", image("example.com/ghost", app=app), code=125)
    assert "ghost" in failed.err and "hint: " in failed.err


def test_im_17_callers_groups_do_not_leak(shared: Pyrun) -> None:
    """IM-17, E03."""
    program = "import os, sys; os.setgroups([4, 20, 12345]); os.execv(sys.argv[1], sys.argv[1:])"
    for flags in ([], ["--user", "app"], ["--supplementary-gids", "7"]):
        command = ["/usr/bin/python3", "-c", program, COMMAND, "run", *flags, shared.probe_image]
        seen = json.loads(
            subprocess.run(command, env=shared.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
        )
        assert seen["groups"] == ([7] if "7" in flags else [])


@pytest.mark.parametrize(
    ("user", "home", "name"), [("app", "/home/app", "app"), ("odd", "/", "odd"), ("5", "/", None), ("root", "/root", "root")]
)
def test_home_and_name(shared: Pyrun, people: Path, user: str, home: str, name: str | None) -> None:
    env = dict(line.split("=", 1) for line in json.loads(shared("run", "--user", user, people, code=0).out)["env"])
    assert (env["HOME"], env.get("USER"), env.get("LOGNAME")) == (home, name, name)


SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def capabilities(shared: Pyrun, *flags: str) -> dict[str, int]:
    status = shared.report(*flags)["status"]
    return {name: int(status[name], 16) for name in SETS}


def test_ace_53_eight_capabilities_by_default(shared: Pyrun) -> None:
    """SEC-15; none of them inheritable or ambient (E02)."""
    held = capabilities(shared)
    assert held == {"CapInh": 0, "CapPrm": caps.DEFAULT, "CapEff": caps.DEFAULT, "CapBnd": caps.DEFAULT, "CapAmb": 0}
    assert caps.DEFAULT.bit_count() <= 8


@pytest.mark.parametrize("user", ["app", "2147483647"])
def test_others_than_root_hold_none(shared: Pyrun, user: str) -> None:
    held = capabilities(shared, "--user", user)
    assert held == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": caps.DEFAULT, "CapAmb": 0}
    assert capabilities(shared, "--user", user, "--caps-retain", "NET_ADMIN")["CapPrm"] == 0


@pytest.mark.parametrize(
    ("flags", "mask"),
    [
        (["--caps-retain", "CAP_NET_ADMIN"], 0x1000),
        (["--caps-retain", "chown,Cap_Kill"], 0x21),
        (["--caps-remove", "KILL,CHOWN"], caps.DEFAULT & ~0x21),
        (["--caps-remove", "SYS_ADMIN"], caps.DEFAULT),
    ],
)
def test_ace_54_55_chosen_capabilities(shared: Pyrun, flags: list[str], mask: int) -> None:
    """ACE-54, ACE-55: bounding, permitted and effective alike."""
    held = capabilities(shared, *flags)
    assert (held["CapBnd"], held["CapPrm"], held["CapEff"]) == (mask, mask, mask)


@pytest.mark.parametrize(
    ("isolator", "mask"),
    [
        ({"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_NET_ADMIN"]}}, 0x1000),
        ({"name": "os/linux/capabilities-remove-set", "value": {"set": ["CAP_KILL", "CAP_SYS_ADMIN"]}}, caps.DEFAULT & ~0x20),
    ],
)
def test_isolators_choose_capabilities_and_flags_win(shared: Pyrun, image: Make, isolator: dict[str, Any], mask: int) -> None:
    path = image("example.com/isolated", app={"isolators": [isolator]})
    assert int(json.loads(shared("run", path, code=0).out)["status"]["CapBnd"], 16) == mask
    assert int(json.loads(shared("run", "--caps-retain", "KILL", path, code=0).out)["status"]["CapBnd"], 16) == 0x20


def test_a_named_set_holds_where_the_protection_is_given_up(shared: Pyrun) -> None:
    """--insecure-options=all says that there need be none, the flag which there is."""
    assert capabilities(shared, "--insecure-options", "all", "--caps-retain", "KILL")["CapBnd"] == 0x20
    assert capabilities(shared, "--insecure-options", "capabilities", "--caps-remove", "KILL")["CapBnd"] == caps.DEFAULT & ~0x20
    seen = shared.report("--insecure-options", "all", "--seccomp", "mode=remove,errno=EPERM,sync")
    assert seen["status"]["Seccomp"] == "2"


def test_no_new_privileges(shared: Pyrun) -> None:
    for flags in ([], ["--user", "app"], ["--insecure-options", "seccomp,capabilities,paths"]):
        assert shared.report(*flags)["status"]["NoNewPrivs"] == "1"
    assert shared.report("--insecure-options", "new-privs")["status"]["NoNewPrivs"] == "0"


@pytest.mark.parametrize(
    "flags", [[], ["--user", "app"], ["--insecure-options", "new-privs"], ["--user", "app", "--insecure-options", "new-privs"]]
)
def test_the_filter_is_on(shared: Pyrun, flags: list[str]) -> None:
    assert shared.report(*flags)["status"]["Seccomp"] == "2"
    assert shared.report(*flags, "--insecure-options", "seccomp,new-privs")["status"]["Seccomp"] == "0"


def test_ace_58_set_id_programs_are_inert(shared: Pyrun, image: Make, tmp_path: Path, probe: Path) -> None:
    """A25, ACE-58: in the image and in a volume; both alive only where no_new_privs is given up, the volume's not even then."""

    def edit(made: Image) -> None:
        made.add("/setuid", probe.read_bytes(), mode=0o6755)

    path = image("example.com/setuid", edit=edit)
    volume = tmp_path / "v"
    volume.mkdir()
    (volume / "setuid").write_bytes(probe.read_bytes())
    (volume / "setuid").chmod(0o6755)
    for program in ("/setuid", "/v/setuid"):
        command = ["run", "--user", "app", "-v", f"{volume}:/v", path, "--exec", program, "--", "report"]
        seen = json.loads(shared(*command, code=0).out)
        assert (seen["uid"], seen["gid"]) == ([1000] * 3, [1000] * 3)
        seen = json.loads(shared(*command[:1], "--insecure-options", "new-privs", *command[1:], code=0).out)
        assert seen["uid"] == ([1000, 0, 0] if program == "/setuid" else [1000] * 3)


def test_umask(shared: Pyrun) -> None:
    assert shared.report()["umask"] == 0o022
    assert shared.report("--umask", "077")["umask"] == 0o077
    assert shared.report("--umask", "0")["umask"] == 0


def test_limits(shared: Pyrun) -> None:
    limits = shared.report()["rlimits"]
    assert limits["core"] == [0, 0]
    assert limits["nofile"] == [1024, 4096]
    assert limits["memlock"] == [65536, 65536]
    limits = shared.report("--rlimit", "nofile=100:200", "--rlimit", "cpu=10", "--rlimit", "fsize=1048576:unlimited")["rlimits"]
    assert (limits["nofile"], limits["cpu"], limits["fsize"]) == ([100, 200], [10, 10], [1048576, -1])


def test_oom_score(shared: Pyrun, image: Make) -> None:
    assert shared.report()["oom_score_adj"] == Path("/proc/self/oom_score_adj").read_text().split()
    assert shared.report("--oom-score-adj", "500")["oom_score_adj"] == ["500"]
    path = image("example.com/oom", app={"isolators": [{"name": "os/linux/oom-score-adj", "value": 300}]})
    assert json.loads(shared("run", path, code=0).out)["oom_score_adj"] == ["300"]
    assert json.loads(shared("run", "--oom-score-adj", "7", path, code=0).out)["oom_score_adj"] == ["7"]


def test_im_21_22_ace_44_working_directory(shared: Pyrun, people: Path, image: Make, tmp_path: Path) -> None:
    """IM-21, IM-22, ACE-44: checked after the volumes are there, with the app's own rights."""
    assert shared.report()["cwd"] == "/"
    assert shared.report("--working-dir", "/tmp")["cwd"] == "/tmp"
    assert shared.report("-w", "/v", "-v", f"{tmp_path}:/v")["cwd"] == "/v"
    path = image("example.com/cwd", app={"workingDirectory": "/home/app"}, edit=accounts)
    assert json.loads(shared("run", "--user", "app", path, code=0).out)["cwd"] == "/home/app"
    assert json.loads(shared("run", path, "-w", "/etc", code=0).out)["cwd"] == "/etc"
    failed = shared("run", "--user", "5", people, "--working-dir", "/closed", code=125)
    assert failed.err.startswith("pyrun: enter directory /closed: permission denied\nhint: ")
    assert os.path.isdir("/") and shared("run", people, "--working-dir", "/owned", code=125).err.count("hint: ") == 1
