"""Fixtures of the live lane: the installed `pyrun`, small signed images, the probe inside, and proof that nothing stays.

    pyrun        the command with a store of its own, in which the test key is trusted for example.com
    shared       the same, one store for the whole session: quicker, for tests that do not look at the store
    image        makes signed images: image(), image(command=["/probe", "exit", "3"]), image(edit=lambda i: i.busybox())
    signer       the test key; signer.sign(path) writes path.asc
    busybox      a signed image with busybox and the probe
    shell        runs a shell script in it, on the shared store: shell("id -u", "--user", "app")
    world        pods with networks, on a host of their own: see tests/support/networld.py
    controller   one that can limit pods, and place, a cgroup for them
    tun          /dev/net/tun is open for everybody, as pasta and slirp4netns need it
    as_nobody    calls a function of a state directory in a process of user nobody
    ranges       subordinate ids for the users of tests/support/users.py
    canary       a host directory that must stay as it is; it is looked at after the test

`pyrun.report(...)` runs the probe image and returns what the probe saw inside (tests/probe_report.c).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lowered
import pytest
from canary import Canary
from harness import TOP, Pyrun, Signer, Surroundings, compile_probe
from mkaci import Image
from networld import World
from places import enabled, place_for_pods
from userplace import tun_for_everybody
from users import Ranges

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)
            item.add_marker(pytest.mark.needs_root)


def pytest_sessionstart() -> None:
    if subprocess.run(["stat", "-f", "-c", "%T", "/sys/fs/cgroup"], capture_output=True, text=True).stdout.strip() != "cgroup2fs":
        pytest.exit("live tests want a pure cgroup2 tree: run them with `make live` or tools/lane.sh", returncode=1)


@pytest.fixture(scope="session")
def new_signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Signer]]:
    """Makes more keys: new_signer("somebody else <x@example.com>")."""
    made: list[Signer] = []

    def make(user: str) -> Signer:
        home = Path(os.path.realpath(tmp_path_factory.mktemp("gpg")))
        home.chmod(0o700)
        made.append(Signer(home, user))
        return made[-1]

    yield make
    for signer in made:
        signer.close()


@pytest.fixture(scope="session")
def signer(new_signer: Callable[[str], Signer]) -> Signer:
    return new_signer("pyrun tests <tests@example.com>")


@pytest.fixture(scope="session")
def probe() -> Path:
    """The static probe program."""
    return compile_probe(TOP / "build" / "probe")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, signer: Signer, probe: Path) -> Callable[..., Path]:
    """Makes an image that holds the probe, the directory /tmp and accounts root 0, app 1000, other 1001."""
    folder = tmp_path_factory.mktemp("images")

    def make(
        name: str = "example.com/test",
        command: tuple[str, ...] | list[str] = ("/probe", "report"),
        *,
        app: dict[str, Any] | None = None,
        edit: Callable[[Image], object] | None = None,
        signed: bool = True,
        compression: str = "none",
        version: str = "1.0",
    ) -> Path:
        made = Image(name, command, version=version, app=app)
        made.directory("/tmp", 0o1777)
        made.program("/probe", probe)
        made.accounts(app=1000, other=1001)
        if edit:
            edit(made)
        path = made.write(folder / f"{len(list(folder.iterdir()))}-{name.rpartition('/')[2]}.aci", compression)
        if signed:
            signer.sign(path)
        return path

    return make


@pytest.fixture(scope="module")
def ranges() -> Iterator[None]:
    made = Ranges()
    yield
    made.close()


@pytest.fixture(scope="session")
def probe_image(image: Callable[..., Path]) -> Path:
    return image("example.com/probe")


@pytest.fixture(scope="session")
def busybox(image: Callable[..., Path]) -> Path:
    return image("example.com/busybox", ["/bin/sh"], edit=lambda made: made.busybox())


def _trusting(root: Path, probe_image: Path, signer: Signer) -> Pyrun:
    pyrun = Pyrun(root, probe_image)
    pyrun("trust", "--yes", "--prefix", "example.com", signer.public, code=0)
    return pyrun


@pytest.fixture
def pyrun(tmp_path: Path, probe_image: Path, signer: Signer) -> Pyrun:
    return _trusting(tmp_path / "state", probe_image, signer)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, probe_image: Path, signer: Signer) -> Pyrun:
    return _trusting(tmp_path_factory.mktemp("shared") / "state", probe_image, signer)


@pytest.fixture(scope="session")
def shell(shared: Pyrun, busybox: Path) -> Callable[..., str]:
    """Runs a script inside and returns what it wrote to standard output, without the last line's end."""

    def run(script: str, *flags: str | Path, code: int = 0, **more: Any) -> str:
        return shared("run", *flags, busybox, "--exec", "/bin/sh", "--", "-c", script, code=code, **more).out.rstrip("\n")

    return run


@pytest.fixture(scope="module")
def tun() -> Iterator[None]:
    yield from tun_for_everybody()


@pytest.fixture
def as_nobody(tmp_path: Path) -> lowered.Calls:
    state = lowered.prepare(tmp_path)
    return lambda what: lowered.call(what, state)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    made = Canary(tmp_path / "canary")
    yield made
    made.assert_untouched()


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind(signer: Signer, probe: Path) -> Iterator[None]:
    """Every module of live tests leaves the machine as it was; stragglers get their time to end."""
    before = Surroundings()
    yield
    deadline = time.monotonic() + 60
    while (left := Surroundings().difference(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, probe_image: Path, busybox: Path, signer: Signer) -> Iterator[World]:
    """A host and a machine beside it, both network namespaces, with pyrun and a state directory on the host."""
    pyrun = _trusting(tmp_path_factory.mktemp("net") / "state", probe_image, signer)
    made = World(pyrun, busybox)
    yield made
    made.close()


@pytest.fixture
def controller() -> Iterator[str]:
    """A controller of limits that this tree has: see tests/support/places.py."""
    with enabled() as found:
        yield found


@pytest.fixture
def place(controller: str) -> Iterator[Path]:
    """A cgroup for the pods that it limits, from which none may be left."""
    with place_for_pods() as group:
        yield group
