"""The store under blows: killed at any system call, refused any of them, out of space (SEC-45, 46, 47 of the security goals)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import MUTATING, VERBS, Template, held, problems, pyrun, sample, settled, strace
from scale import scaled

from pyrun.images.store import Store

pytestmark = [pytest.mark.needs_root, pytest.mark.stress]

ERRNOS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "ENOMEM", "EMFILE", "EPERM", "ENOLCK")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(tmp_path_factory.mktemp("faults"))


class Case:
    """One verb on copies of the template: what it leaves when nothing disturbs it, and after how many system calls."""

    def __init__(self, template: Template, verb: str, folder: Path, *, follow: bool) -> None:
        self.template, self.verb, self.folder = template, verb, folder
        self.words, self.prepare = VERBS[verb][0](template), VERBS[verb][1]
        self.follow = follow
        store = self.fresh()
        self.old = set(store.ids())
        log = folder / "log"
        done = pyrun(self.root, *self.words, before=strace("-e", f"trace={MUTATING}", "-o", str(log), follow=follow))
        assert done.returncode == 0, done.stderr
        self.new = set(store.ids())
        settled(store)
        self.names = held(self.root, notes=False)
        lines = [line.split(" ")[0] if follow else "" for line in log.read_text().splitlines() if "resumed>" not in line]
        self.calls = max(lines.count(pid) for pid in set(lines))

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def fresh(self) -> Store:
        store = self.template.copy(self.root)
        self.prepare(store)
        return store

    def hit(self, injection: str) -> subprocess.CompletedProcess[str]:
        """Runs the verb with something injected, then looks at what is left, and does it again."""
        store = self.fresh()
        options = ("-e", f"trace={MUTATING}", "-e", f"inject={MUTATING}:{injection}", "-o", "/dev/null")
        done = pyrun(self.root, *self.words, before=strace(*options, follow=self.follow))
        where = f"{self.verb} {injection}: {done.returncode}\n{done.stderr}"
        assert "Traceback" not in done.stderr and "internal error" not in done.stderr, where
        ids = set(store.ids())
        assert self.old & self.new <= ids <= self.old | self.new, where
        assert problems(store) == [], where
        assert pyrun(self.root, "image", "list").returncode == 0, where
        again = pyrun(self.root, *self.words)
        gone = "nothing in the store answers to it" in again.stderr and self.words[:2] == ("image", "rm")
        assert again.returncode == 0 or gone, where + again.stderr
        settled(store)
        assert held(self.root, notes=False) == self.names, where
        return done


@pytest.mark.parametrize("verb", VERBS)
def test_sec_45_killed_at_any_call(template: Template, verb: str, tmp_path: Path) -> None:
    case = Case(template, verb, tmp_path, follow=False)
    codes = [case.hit(f"signal=KILL:when={number}").returncode for number in sample(case.calls, scaled(3), verb)]
    assert -9 in codes or 137 in codes, "it was killed at least once"


@pytest.mark.parametrize("verb", ["fetch", "fetch-oci"])
def test_sec_45_any_process_killed(template: Template, verb: str, tmp_path: Path) -> None:
    """Also the confined worker, whose caller then says so."""
    case = Case(template, verb, tmp_path, follow=True)
    for number in sample(case.calls, scaled(2), verb + "all"):
        case.hit(f"signal=KILL:when={number}")


@pytest.mark.parametrize("verb", VERBS)
def test_sec_46_any_call_fails(template: Template, verb: str, tmp_path: Path) -> None:
    case = Case(template, verb, tmp_path, follow=False)
    for turn, number in enumerate(sample(case.calls, scaled(3), verb + "error")):
        name = ERRNOS[(turn + len(verb)) % len(ERRNOS)]
        done = case.hit(f"error={name}:when={number}")
        if done.returncode != 0:
            reason = os.strerror(getattr(errno, name)).lower()
            assert done.returncode == 125 and reason in done.stderr, (verb, name, number, done.stderr)


FULL = """
import os, subprocess, sys
from pathlib import Path
root, template, short, extra, *words = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,nr_inodes=100000", "none", root], check=True)
subprocess.run(["cp", "-a", template, root + "/state"], check=True)
sys.path[:0] = %r
from faulty import problems, pyrun, settled
from pyrun.images.store import Store
state, store = Path(root, "state"), Store(root + "/state")
pyrun(state, "image", "tag", "shop", "warm:up")  # directories and locks that stay
pyrun(state, "image", "rm", "warm:up")
before = store.ids()
known = {str(path) for path in Path(root).rglob("*")}
room = os.statvfs(root)
used = {"size": (room.f_blocks - room.f_bfree + int(extra)) * room.f_bsize, "nr_inodes": room.f_files - room.f_ffree + int(extra)}
subprocess.run(["mount", "-o", f"remount,{short}={used[short]}", root], check=True)
done = pyrun(state, *words)
assert done.returncode == 125 and "no space left on device" in done.stderr and "hint:" in done.stderr, done
left = [str(path) for path in Path(root).rglob("*") if str(path) not in known and path.parent.name != "locks"]
assert left == [], "what was taken is given back, but for lock files"
assert store.ids() == before and problems(store) == [], "what was there is untouched"
# not one byte or inode is left: looking and removing still work
try:
    number = 0
    while True:
        number += 1
        with open(f"{root}/ballast{number}", "wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
            while file.write(b"x"):
                pass
except OSError:
    pass
for verb in (["image", "list"], ["image", "verify", "--all"], ["image", "rm", "web:1"], ["image", "rm", "shop"], ["image", "gc"]):
    done = pyrun(state, *verb)
    assert done.returncode == 0, (verb, done.stderr)
settled(store)
for path in Path(root).glob("ballast*"):
    path.unlink()
subprocess.run(["mount", "-o", "remount,size=200m,nr_inodes=0", root], check=True)
done = pyrun(state, *words)
assert done.returncode == 0, done.stderr
settled(store)
print(len(set(store.ids()) - set(before)))
"""


@pytest.mark.parametrize("short", ["size", "nr_inodes"])
@pytest.mark.parametrize("verb", ["fetch", "fetch-oci"])
def test_sec_47_a_full_disk(template: Template, verb: str, short: str, tmp_path: Path) -> None:
    paths = [str(Path(__file__).resolve().parents[1] / "support"), str(Path(__file__).resolve().parents[2] / "tools")]
    (tmp_path / "small").mkdir()
    for extra in sample(6, scaled(2), verb + short):
        words = [str(tmp_path / "small"), str(template.root), short, str(extra), *VERBS[verb][0](template)]
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", FULL % paths, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "1\n"), (extra, done.stderr[-3000:])
