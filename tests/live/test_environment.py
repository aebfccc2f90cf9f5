"""The variables that an app gets, and those that it does not (ACE-40..43, IM-23, E05)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Pyrun

Make = Callable[..., Path]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def variables(shared: Pyrun, *flags: str | Path, image: Path | None = None, env: dict[str, str] | None = None) -> dict[str, str]:
    seen = json.loads(shared("run", *flags, image or shared.probe_image, env=env, code=0).out)
    names = [line.partition("=")[0] for line in seen["env"]]
    assert len(names) == len(set(names)), "a variable is there twice"
    return dict(line.split("=", 1) for line in seen["env"])


def test_ace_40_42_what_everyone_gets(shared: Pyrun) -> None:
    """ACE-40, and nothing of the caller's (ACE-42): the whole list."""
    found = variables(shared, env={"SECRET": "x", "LD_PRELOAD": "", "PYTHONPATH": "/x", "TERM": "vt100", "USER": "somebody"})
    assert found == {"PATH": PATH, "HOME": "/", "USER": "root", "LOGNAME": "root", "AC_APP_NAME": "probe", "container": "pyrun"}


def test_ace_41_a_name_of_its_own(shared: Pyrun) -> None:
    assert variables(shared, "--name", "web")["AC_APP_NAME"] == "web"


def test_im_23_ace_43_image_variables_are_literal(shared: Pyrun, image: Make) -> None:
    """IM-23: no expansion; ACE-43: PATH may be overridden, the executor's own names may not."""
    own = {
        "A": "${HOME} $A `id` \\ \" ' \n\t",
        "a.b-c": "ok",
        "PATH": "/only",
        "HOME": "/h",
        "EMPTY": "",
        "AC_APP_NAME": "forged",
        "container": "x",
    }
    app = {"environment": [{"name": name, "value": value} for name, value in own.items()]}
    found = variables(shared, image=image("example.com/literal", app=app))
    assert {name: found[name] for name in ("A", "a.b-c", "PATH", "HOME", "EMPTY")} == {
        k: own[k] for k in ("A", "a.b-c", "PATH", "HOME", "EMPTY")
    }
    assert (found["AC_APP_NAME"], found["container"]) == ("literal", "pyrun")


def test_who_wins(shared: Pyrun, image: Make, tmp_path: Path) -> None:
    """Weakest first: the caller's, the image's, the file's, the flag's."""
    path = image("example.com/layers", app={"environment": [{"name": name, "value": "image"} for name in ("B", "C", "D")]})
    file = tmp_path / "env"
    file.write_text("# comment\n; another\n\nC=file\nD=file\nE=a = b\n")
    caller = {"A": "caller", "B": "caller", "C": "caller", "D": "caller"}
    found = variables(shared, "--inherit-env", "--set-env-file", file, "--set-env", "D=flag", image=path, env=caller)
    assert [found[name] for name in "ABCDE"] == ["caller", "image", "file", "flag", "a = b"]
    found = variables(shared, "-e", "D=flag", image=path, env=caller)
    assert ("A" in found, found["B"], found["D"]) == (False, "image", "flag")


def test_odd_values_pass_unchanged(shared: Pyrun) -> None:
    flags = ["-e", "EQUALS=a=b=", "-e", "UTF=\N{SNOWMAN}", "-e", "SPACE= x ", "-e", "NEWLINE=a\nb", "-e", "NOTHING="]
    seen = shared.report(*flags)["env"]
    # the probe writes bytes as Latin-1
    assert {"EQUALS=a=b=", "UTF=\N{SNOWMAN}".encode().decode("latin-1"), "SPACE= x ", "NEWLINE=a\nb", "NOTHING="} <= set(seen)


def test_reserved_names_cannot_be_set(shared: Pyrun) -> None:
    found = variables(shared, "-e", "AC_APP_NAME=forged", "-e", "container=forged")
    assert (found["AC_APP_NAME"], found["container"]) == ("probe", "pyrun")


def test_a_terminal_brings_its_kind(shared: Pyrun) -> None:
    out = shared("run", "-t", shared.probe_image, env={"TERM": "screen-256color"}, code=0).out
    assert "TERM=screen-256color" in json.loads(out)["env"]


def test_many_large_variables(shared: Pyrun, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("".join(f"V{number}={'x' * 1000}\n" for number in range(500)))
    found = variables(shared, "--set-env-file", file)
    assert len([name for name in found if name.startswith("V")]) == 500


def test_a_file_may_be_a_descriptor(shared: Pyrun) -> None:
    """What a shell makes of <(decrypt secrets): the launcher leaves the caller's descriptors to Python, and the app gets none of them."""
    for flags in ([], ["--hostname", "other"]):
        read, write = os.pipe()
        os.write(write, b"\xef\xbb\xbfSECRET=of a pipe\n")
        os.close(write)
        try:
            seen = shared.report("--set-env-file", f"/dev/fd/{read}", *flags, pass_fds=(read,))
        finally:
            os.close(read)
        assert "SECRET=of a pipe" in seen["env"]
        assert sorted(seen["fds"]) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "hostile", ["LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "GLIBC_TUNABLES", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"]
)
def test_the_images_variables_stay_inside(shared: Pyrun, image: Make, hostile: str, tmp_path: Path) -> None:
    """E05, SEC-26: they are the app's; the helper, and pyrun explaining a failure, never see them."""
    app = {"environment": [{"name": hostile, "value": str(tmp_path / "evil")}]}
    path = image("example.com/hostile-env", app=app)
    assert variables(shared, image=path)[hostile] == str(tmp_path / "evil")
    failed = shared("run", path, "--exec", "/missing", code=127)
    assert failed.err.startswith("pyrun: execute /missing: no such file or directory\nhint: ")


def test_too_much_for_one_program(shared: Pyrun, tmp_path: Path) -> None:
    """execve(2) takes 128 KiB a string."""
    file = tmp_path / "env"
    file.write_text("V=" + "x" * 200_000)
    failed = shared("run", "--set-env-file", file, shared.probe_image, code=126)
    assert "argument list too long" in failed.err and failed.err.count("hint: ") == 1
