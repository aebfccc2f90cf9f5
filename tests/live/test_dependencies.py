"""App Container Images that depend on others: what the app sees is all of them, in rendering order (ACE-03..10, D04)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Pyrun
from mkaci import Image

Make = Callable[..., Path]


def needing(*names: str, whitelist: tuple[str, ...] = ()) -> Callable[[Image], None]:
    def edit(made: Image) -> None:
        made.manifest["dependencies"] = [{"imageName": name} for name in names]
        if whitelist:
            made.manifest["pathWhitelist"] = list(whitelist)

    return edit


def holding(**files: str) -> Callable[[Image], None]:
    def edit(made: Image) -> None:
        for name, text in files.items():
            made.add("/" + name.replace("__", "/"), text.encode())

    return edit


def both(*edits: Callable[[Image], None]) -> Callable[[Image], None]:
    def edit(made: Image) -> None:
        for one in edits:
            one(made)

    return edit


def show(pyrun: Pyrun, name: str, *paths: str) -> list[str]:
    script = "; ".join(f"cat {path} 2>/dev/null || echo -n none; echo" for path in paths)
    return pyrun("run", name, "--exec", "/bin/sh", "--", "-c", script, code=0).out.split()


def test_ace_05_later_replaces_earlier_also_in_a_diamond(pyrun: Pyrun, image: Make, busybox: Path) -> None:
    pyrun("fetch", busybox, code=0)
    d = image("example.com/d", edit=both(needing("example.com/busybox"), holding(everywhere="D", b_and_d="D", only_d="D")))
    b = image("example.com/b", edit=both(needing("example.com/d"), holding(everywhere="B", b_and_d="B", only_b="B")))
    c = image("example.com/c", edit=both(needing("example.com/d"), holding(everywhere="C", b_and_c="C")))
    a = image("example.com/a", edit=both(needing("example.com/b", "example.com/c"), holding(everywhere="A")))
    pyrun("fetch", d, b, c, a, code=0)
    # D is written again after B, as a dependency of C, and so wins over B
    assert show(pyrun, "example.com/a", "/everywhere", "/b_and_d", "/only_d", "/only_b", "/b_and_c") == ["A", "D", "D", "B", "C"]


def test_ace_07_whitelist_is_what_the_app_sees(pyrun: Pyrun, image: Make, busybox: Path) -> None:
    pyrun(
        "fetch",
        busybox,
        image("example.com/base", edit=both(needing("example.com/busybox"), holding(etc__keep="1", etc__drop="2"))),
        code=0,
    )
    listed = ("/bin/sh", "/bin/busybox", "/bin/cat", "/bin/ls", "/etc/keep", "/own")
    pyrun("fetch", image("example.com/top", edit=both(needing("example.com/base", whitelist=listed), holding(own="3", hidden="4"))), code=0)
    assert show(pyrun, "example.com/top", "/etc/keep", "/etc/drop", "/own", "/hidden", "/probe") == ["1", "none", "3", "none", "none"]
    # the image below is as it was
    assert show(pyrun, "example.com/base", "/etc/drop") == ["2"]


def test_ace_06_a_link_is_replaced_and_never_followed(pyrun: Pyrun, image: Make, busybox: Path) -> None:
    pyrun("fetch", busybox, code=0)
    linked = image("example.com/linked", edit=both(needing("example.com/busybox"), lambda made: made.symlink("/lib", "/etc")))
    pyrun("fetch", linked, image("example.com/top", edit=both(needing("example.com/linked"), holding(lib__x="new"))), code=0)
    script = "cat /lib/x; echo; [ -L /lib ] || echo directory; ls /lib; [ -e /etc/x ] || echo untouched"
    assert pyrun("run", "example.com/top", "--exec", "/bin/sh", "--", "-c", script, code=0).out.split() == [
        "new",
        "directory",
        "x",
        "untouched",
    ]


def test_im_35_the_app_of_a_dependency_is_ignored(pyrun: Pyrun, image: Make, busybox: Path) -> None:
    pyrun("fetch", busybox, code=0)
    below = {
        "environment": [{"name": "BELOW", "value": "1"}],
        "workingDirectory": "/tmp",
        "mountPoints": [{"name": "below", "path": "/below"}],
        "isolators": [{"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_KILL"]}}],
        "eventHandlers": [{"name": "pre-start", "exec": ["/no/such"]}],
    }
    pyrun("fetch", image("example.com/below", app=below, edit=needing("example.com/busybox")), code=0)
    pyrun("fetch", image("example.com/above", edit=needing("example.com/below")), code=0)
    script = "echo ${BELOW-none} $PWD; [ -e /below ] || echo unmounted; grep CapBnd /proc/self/status"
    done = pyrun("run", "example.com/above", "--exec", "/bin/sh", "--", "-c", script, code=0)
    assert done.out.split()[:3] == ["none", "/", "unmounted"] and done.err == ""
    assert done.out.split()[-1] != f"{1 << 5:016x}", "CAP_KILL alone"


def test_layers_are_shared_and_kept_while_needed(pyrun: Pyrun, image: Make, busybox: Path) -> None:
    pyrun("fetch", busybox, image("example.com/user", edit=needing("example.com/busybox")), code=0)
    refused = pyrun("image", "rm", "example.com/busybox", code=125)
    assert "example.com/user depends on it" in refused.err
    pyrun("image", "rm", "example.com/user", code=0)
    pyrun("image", "rm", "example.com/busybox", code=0)
    assert [list((pyrun.root / folder).iterdir()) for folder in ("layers", "images")] == [[], []]


def test_each_image_needs_a_trusted_key_of_its_own(pyrun: Pyrun, image: Make, new_signer: Any, busybox: Path) -> None:
    other = new_signer("other <other@example.org>")
    base = image("example.org/base", signed=False, edit=lambda made: made.busybox())
    other.sign(base)
    pyrun("trust", "--yes", "--prefix", "example.org", other.public, code=0)
    pyrun("fetch", base, image("example.com/app", edit=needing("example.org/base")), code=0)
    assert show(pyrun, "example.com/app", "/nothing") == ["none"]
    (key,) = (pyrun.root / "trust/prefix.d/example.org").iterdir()
    pyrun("trust", "--remove", key.name, code=0)
    refused = pyrun("run", "example.com/app", code=125)
    assert "example.org/base" in refused.err and "no longer trusted" in refused.err


def test_missing_dependency_is_named_and_nothing_stays(pyrun: Pyrun, image: Make) -> None:
    refused = pyrun("run", image("example.com/lonely", edit=needing("nowhere")), code=125)
    assert refused.err.splitlines()[:2] == [
        "pyrun: find dependency nowhere: not in the store",
        "hint: import nowhere first: pyrun fetch FILE",
    ]
    assert [list((pyrun.root / folder).iterdir()) for folder in ("layers", "images", "tmp")] == [[], [], []]
