"""Nothing gets its name in the store before its bytes are on the disk (SEC-50), as strace(1) saw it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import VERBS, Template, pyrun, strace

pytestmark = pytest.mark.needs_root

CALLS = (
    "openat,write,pwrite64,copy_file_range,ftruncate,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,symlink,symlinkat,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,mknodat,setxattr,fsetxattr,fchmod,fchown"
)
BY_DESCRIPTOR = ("write", "pwrite64", "copy_file_range", "ftruncate", "fsync", "fdatasync", "syncfs", "fsetxattr", "fchmod", "fchown")
COMMITTED = ("blobs", "layers", "images", "refs", "tags", "imports")
LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
WORD = re.compile(r'(AT_FDCWD|\d+)(?:<([^>]*)>)?|"((?:[^"\\]|\\.)*)"')


def calls(log: str) -> Iterator[tuple[str, list[str], str]]:
    """Name, paths and arguments of each call that succeeded, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        pid, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[pid] = rest.removesuffix("<unfinished ...>")
            continue
        resumed = re.match(r"\s*<\.\.\. \w+ resumed>(.*)", rest)
        whole = f"{pid} {begun.pop(pid) + resumed[1] if resumed else rest.strip()}"
        found = LINE.match(whole)
        if found and not found[4].startswith("-"):
            name, arguments = found[2], found[3]
            paths = re.findall(r"(?:^|, )\d+<([^>]*)>", arguments) if name in BY_DESCRIPTOR else []
            yield name, paths or paths_of(arguments), arguments


def paths_of(arguments: str) -> list[str]:
    """The paths among the arguments: strings joined with the directory before them."""
    found: list[str] = []
    directory: str | None = None
    for _number, target, text in WORD.findall(arguments):
        if text:
            found.append(text if text.startswith("/") or not directory else f"{directory}/{text}")
            directory = None
        elif target:
            if directory is not None:
                found.append(directory)
            directory = target
    return [*found, directory] if directory is not None else found


class Disk:
    """What may be lost when the power goes."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.dirty: set[str] = set()  # content not yet synced
        self.unnamed: set[str] = set()  # directories with names that are not yet durable
        self.commits = 0

    def inside(self, path: str) -> str:
        """The first part of a path below the root, "" elsewhere."""
        return path[len(self.root) + 1 :].split("/")[0] if path.startswith(self.root + "/") else ""

    def call(self, name: str, paths: list[str], text: str) -> None:
        if not paths or not any(path.startswith(self.root) for path in paths):
            return
        if name == "syncfs":
            self.dirty.clear()
            self.unnamed.clear()
        elif name in ("fsync", "fdatasync"):
            self.dirty.discard(paths[0])
            self.unnamed.discard(paths[0])
        elif name.startswith("rename"):
            self.rename(paths[0], paths[1])
        elif name.startswith("link"):
            self.new(paths[-1])
        elif name == "openat":
            if "O_CREAT" in text and self.inside(paths[0]) not in ("locks", "pods", ""):
                self.new(paths[0])
        elif name.startswith(("unlink", "rmdir")):
            self.dirty.discard(paths[0])
            if self.inside(paths[0]) in ("images", "layers"):
                self.unnamed.add(paths[0].rpartition("/")[0])
        elif name.startswith(("mk", "symlink")):
            self.new(paths[-1])
        elif self.inside(paths[0]) != "locks":
            self.dirty.add(paths[-1] if name == "copy_file_range" else paths[0])

    def new(self, path: str) -> None:
        if self.inside(path):
            self.dirty.add(path)

    def rename(self, source: str, target: str) -> None:
        lost = [path for path in self.dirty if path == source or path.startswith(source + "/")]
        kind = self.inside(target)
        if kind in COMMITTED:
            assert not lost, f"{target} has its name before {lost[:3]} are on the disk"
            self.commits += 1
            if kind == "images":
                waiting = {path for path in self.unnamed if self.inside(path + "/x") != "images"}
                assert not waiting, f"the record {target} is there before the names in {waiting}"
            self.unnamed.add(target.rpartition("/")[0])
        elif self.inside(source) in COMMITTED:
            gone = {path for path in self.unnamed if path.startswith(source)}
            assert not gone, f"{source} goes before its marker is gone for good"
            if self.inside(source) == "images":
                raise AssertionError("a record is unlinked, never moved")
            self.unnamed.add(source.rpartition("/")[0])
        self.dirty -= set(lost)


@pytest.mark.parametrize("verb", VERBS)
def test_sec_50_order_of_writes(verb: str, tmp_path: Path) -> None:
    template = Template(tmp_path)
    root = tmp_path / "root"
    store = template.copy(root)
    words, prepare = VERBS[verb]
    prepare(store)
    log = tmp_path / "log"
    before = strace("-y", "-s", "300", "-e", f"trace={CALLS}", "-o", str(log), follow=True)
    done = pyrun(root, *words(template), before=before)
    assert done.returncode == 0, done.stderr
    disk = Disk(root)
    for name, paths, text in calls(log.read_text()):
        disk.call(name, paths, text)
    kept = {path for path in disk.unnamed if disk.inside(path + "/x") in ("blobs", "layers", "images", "tags")}
    assert not kept, f"the command ends before the names in {kept} are durable"
    assert disk.commits >= {"fetch": 5, "fetch-oci": 7, "tag": 1}.get(verb, 0), "the log was understood"


def test_sec_50_the_checker_sees_what_is_wrong(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.call("openat", [f"{tmp_path}/tmp/a/blob"], "O_CREAT")
    with pytest.raises(AssertionError, match="before"):
        disk.call("rename", [f"{tmp_path}/tmp/a/blob", f"{tmp_path}/blobs/sha256/x"], "")
    disk.call("fsync", [f"{tmp_path}/tmp/a/blob"], "")
    disk.call("rename", [f"{tmp_path}/tmp/a/blob", f"{tmp_path}/blobs/sha256/x"], "")
    disk.call("openat", [f"{tmp_path}/tmp/a/record"], "O_CREAT")
    disk.call("fsync", [f"{tmp_path}/tmp/a/record"], "")
    with pytest.raises(AssertionError, match="before the names"):
        disk.call("rename", [f"{tmp_path}/tmp/a/record", f"{tmp_path}/images/y"], "")
