"""What can go wrong in the middle of an import: kernel errors, a full disk, others doing the same, death at any step."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrun.errors import ImageError, PyrunError
from pyrun.images import commit
from pyrun.images.importer import collect_tmp, import_file
from pyrun.images.prune import remove_image
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
from pyrun.images.verify import verify_image

Build = Callable[..., Path]
Leftovers = Callable[[], list[str]]

pytestmark = pytest.mark.needs_root


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("step", ["write_file", "fsync_dir", "private_dirs"])
def test_kernel_errors_are_explained(
    store: Store, trusted: Keyring, build: Build, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers, number: int, step: str
) -> None:
    path = build()

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number), "/some/where")

    monkeypatch.setattr(commit, step, fail)
    with pytest.raises(ImageError) as caught:
        import_file(store, str(path), keyring=trusted)
    assert (caught.value.errno, "/some/where" in str(caught.value)) == (number, True)
    assert caught.value.hint
    assert leftovers() == []


FULL = """
import errno, os, subprocess, sys
from pyrun.errors import ImageError
from pyrun.images.importer import import_file
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
root, image, key = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", root], check=True)
store, keyring = Store(root), Keyring(root, "/nonexistent")
keyring.add(key, "example.com")
free = os.statvfs(root).f_bfree
try:
    import_file(store, image, keyring=keyring)
except ImageError as error:
    assert error.errno == errno.ENOSPC and "no space left on device" in str(error) and "pyrun image rm" in error.hint, error
else:
    raise AssertionError("it fitted")
assert free - os.statvfs(root).f_bfree <= 8, "but for directories and lock files, all of it is free again"
subprocess.run(["mount", "-o", "remount,size=32m", root], check=True)
print(import_file(store, image, keyring=keyring).name)
"""


def test_full_disk(build: Build, tmp_path: Path, keyfile: Callable[[str], str], private_mounts: Callable[..., str]) -> None:
    (tmp_path / "small").mkdir()
    path = build(big=os.urandom(3 << 20))
    assert private_mounts(FULL, str(tmp_path / "small"), str(path), keyfile("good")) == "example.com/app\n"


def test_many_at_once(store: Store, trusted: Keyring, build: Build) -> None:
    paths = [build(version=version, compression=compression, same=b"x") for version in "12" for compression in ("gzip", "xz")]
    start, found, problems = threading.Barrier(12), [], []

    def work(number: int) -> None:
        start.wait()
        try:
            found.append(import_file(store, str(paths[number % 4]), keyring=trusted).id)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(found) == 12 and len(set(found)) == 2
    assert sorted(os.listdir(f"{store.root}/layers")) == sorted(set(found))
    assert os.listdir(f"{store.root}/tmp") == []
    for image_id in set(found):
        assert verify_image(store, image_id, trusted) == []


CHILD = """
import os, sys
from pyrun.images import importer
from pyrun.images.store import Store
from pyrun.images.trust import Keyring
limit, count = int(sys.argv[4]), 0
def hook(event, args):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "subprocess.Popen", "os.listdir", "fcntl.flock") and armed:
        count += 1
        if count == limit:
            os.kill(os.getpid(), 9)
armed = False
sys.addaudithook(hook)
keyring = Keyring(sys.argv[1], sys.argv[3])
armed = True
importer.import_file(Store(sys.argv[1]), sys.argv[2], keyring=keyring)
armed = False
print(count)
"""


def test_sec_48_killed_at_every_step(store: Store, trusted: Keyring, build: Build, leftovers: Leftovers) -> None:
    path = build(hello=b"hello")

    def child(limit: int) -> subprocess.CompletedProcess[str]:
        arguments = [store.root, str(path), trusted.system, str(limit)]
        return subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)

    whole = child(0)
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    complete = leftovers()
    assert steps > 40
    for limit in range(1, steps + 1, 3 if steps < 400 else 7):
        remove_all(store)
        done = child(limit)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        for image in store.images():
            assert verify_image(store, image.id, trusted) == []
        known = store.images()
        collect_tmp(store)
        without_note = [name for name in complete if not name.startswith("imports/")]
        assert leftovers() in ((complete, without_note) if known else ([],)), limit
        assert import_file(store, str(path), keyring=trusted).name == "example.com/app"
        assert leftovers() == complete, limit


def remove_all(store: Store) -> None:
    for image_id in store.ids():
        remove_image(store, image_id)
    collect_tmp(store)


def test_store_that_cannot_be_made(build: Build, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PyrunError) as caught:
        import_file(Store(str(tmp_path / "file" / "root")), str(build()), keyring=Keyring(str(tmp_path / "none")))
    assert caught.value.hint
