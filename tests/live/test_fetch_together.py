"""SEC-54, the part of fetch: many commands want one image at the same time, and some of them are killed or clean up."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Pyrun
from registries import Authority, ImageParts, Reply, Request, Scripted

ALLOW = "--insecure-options=image"
SCALE = int(os.environ.get("TEST_SCALE", "1"))


class Counting:
    """A registry of one image that counts how often each blob was asked for; `gate` holds the answers for blobs back."""

    def __init__(self, authority: Authority) -> None:
        self.parts = ImageParts({"bin/busybox": Path("/bin/busybox").read_bytes()}, ["/bin/busybox", "echo", "together"])
        self.gate = threading.Event()
        self.gate.set()
        self.server = Scripted(authority.issue("counting"), self.answer)
        self.env = {"SSL_CERT_FILE": str(authority.certificate)}

    @property
    def name(self) -> str:
        return f"docker://{self.server.place}/app:1"

    @property
    def blobs(self) -> collections.Counter[str]:
        return collections.Counter(request.path for request in list(self.server.seen) if "/blobs/" in request.path)

    def answer(self, request: Request) -> Reply:
        if "/blobs/" in request.path:
            self.gate.wait(60)
        return self.parts.answer(request)

    def wait_for_a_blob(self) -> None:
        deadline = time.monotonic() + 60
        while not self.blobs and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self.blobs


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Counting]:
    made = Counting(Authority(tmp_path))
    with made.server:
        yield made
        made.gate.set()


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    return [(process.returncode, out, err) for process in processes for out, err in [process.communicate(timeout=120)]]


@pytest.mark.stress
def test_sec_54_fifty_fetches_bring_each_blob_once(pyrun: Pyrun, remote: Counting) -> None:
    for round_ in range(SCALE):
        remote.server.seen.clear()
        remote.gate.clear()  # until all of them are under way
        processes = [pyrun.start("fetch", "-q", ALLOW, remote.name, env=remote.env) for _ in range(50)]
        remote.wait_for_a_blob()
        remote.gate.set()
        results = finish(processes)
        assert [code for code, _, _ in results] == [0] * 50, results
        assert len({out for _, out, _ in results}) == 1
        assert sorted(remote.blobs.values()) == [1, 1], remote.blobs
        assert list((pyrun.root / "tmp").iterdir()) == []
        pyrun("image", "verify", "--all", code=0)
        assert pyrun("run", "-q", ALLOW, remote.name, code=0).out == "together\n"
        if round_ + 1 < SCALE:
            pyrun("image", "rm", results[0][1].strip(), code=0)


def killed(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGKILL)


def test_sec_54_killed_fetches_block_nobody(pyrun: Pyrun, remote: Counting) -> None:
    """Whoever downloads is killed while the others wait for it; the next one goes on at once, and nothing of the dead stays."""
    remote.gate.clear()
    first = pyrun.start("fetch", "-q", ALLOW, remote.name, env=remote.env)
    remote.wait_for_a_blob()
    others = [pyrun.start("fetch", "-q", ALLOW, remote.name, env=remote.env) for _ in range(5)]
    killed([first, others[0]])
    remote.gate.set()
    finish([first])
    results = finish(others)
    assert [code for code, _, _ in results[1:]] == [0] * 4, results
    assert max(remote.blobs.values()) <= 2
    pyrun("gc", code=0)
    assert list((pyrun.root / "tmp").iterdir()) == []
    pyrun("image", "verify", "--all", code=0)


@pytest.mark.parametrize("other", [("gc",), ("image", "rm", "ID"), ("run", "-q", ALLOW, "NAME"), ("image", "list")])
@pytest.mark.stress
def test_sec_54_fetch_beside_others(pyrun: Pyrun, remote: Counting, other: tuple[str, ...]) -> None:
    """Fetches while another verb works on the store: each ends well or says that something is busy or gone."""
    stored = pyrun("fetch", "-q", ALLOW, remote.name, env=remote.env, code=0).out.strip()
    spell: Callable[[str], str] = lambda word: {"ID": stored, "NAME": remote.name}.get(word, word)  # noqa: E731
    for _ in range(SCALE):
        fetches = [pyrun.start("fetch", "-q", ALLOW, remote.name, env=remote.env) for _ in range(6)]
        beside = [pyrun.start(*map(spell, other), env=remote.env) for _ in range(6)]
        for code, out, err in finish(fetches):
            assert (code, out.strip()) == (0, stored), err
        for code, _, err in finish(beside):
            assert code == 0 or (other[0] == "image" and "hint:" in err), err
    pyrun("fetch", "-q", ALLOW, remote.name, env=remote.env, code=0)
    pyrun("image", "verify", "--all", code=0)
