"""What can go wrong in the middle of an import in parts: kernel errors, a full disk, others doing the same, death at any step."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
from mkoci import Layout, layer

from pyrun.errors import ImageError
from pyrun.images import commit, resolve
from pyrun.images.prune import collect_tmp, remove_image
from pyrun.images.store import Store
from pyrun.images.verify import verify_image

Leftovers = Callable[[], list[str]]

pytestmark = pytest.mark.needs_root


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "app")
    made.image(*(layer(archives.file(b"file%d" % number, b"x" * number)) for number in range(3)), ref="one")
    made.image(*(layer(archives.file(b"file%d" % number, b"x" * number)) for number in range(1, 4)), ref="two")
    return made


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["fsync_dir", "commit_record", "commit_layer", "measure_layer", "place_blob", "remember_import"])
def test_kernel_errors_are_explained(
    store: Store, layout: Layout, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers, number: int, step: str
) -> None:
    def fail(*_arguments: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number), "/some/where")

    with monkeypatch.context() as patch:
        patch.setattr(commit, step, fail)
        with pytest.raises(ImageError) as caught:
            resolve.find(store, f"oci:{layout.path}:one", unsigned=True)
    assert (caught.value.errno, "/some/where" in str(caught.value), bool(caught.value.hint)) == (number, True, True)
    if step != "remember_import":  # by then the image is there
        assert leftovers() == []
    assert resolve.find(store, f"oci:{layout.path}:one", unsigned=True).name == "app"


FULL = """
import errno, os, subprocess, sys
from pyrun.errors import ImageError
from pyrun.images import resolve
from pyrun.images.store import Store
root, reference = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", root], check=True)
store = Store(root)
free = os.statvfs(root).f_bfree
try:
    resolve.find(store, reference, unsigned=True)
except ImageError as error:
    assert error.errno == errno.ENOSPC and "no space left on device" in str(error) and "pyrun image rm" in error.hint, error
else:
    raise AssertionError("it fitted")
assert free - os.statvfs(root).f_bfree <= 8, "but for directories and lock files, all of it is free again"
subprocess.run(["mount", "-o", "remount,size=80m", root], check=True)
print(resolve.find(store, reference, unsigned=True).name)
"""


def test_full_disk(tmp_path: Path, private_mounts: Callable[..., str]) -> None:
    (tmp_path / "small").mkdir()
    made = Layout(tmp_path / "large")
    made.image(layer(archives.file(b"random", os.urandom(3 << 20))))
    assert private_mounts(FULL, str(tmp_path / "small"), f"oci:{made.path}") == "large\n"


def test_many_at_once(store: Store, layout: Layout) -> None:
    start, found, problems = threading.Barrier(8), [], []

    def work(ref: str) -> None:
        start.wait()
        try:
            found.append(resolve.find(store, f"oci:{layout.path}:{ref}", unsigned=True).id)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(("one", "two")[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and len(found) == 8 and len(set(found)) == 2
    assert len(os.listdir(f"{store.root}/layers")) == 4 and os.listdir(f"{store.root}/tmp") == []
    for image_id in set(found):
        assert verify_image(store, image_id, None) == []  # type: ignore[arg-type]


CHILD = """
import os, sys
from pyrun.images import layered, resolve
from pyrun.images.store import Store
limit, count = int(sys.argv[3]), 0
def hook(event, args):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "subprocess.Popen", "os.listdir", "fcntl.flock") and armed:
        count += 1
        if count == limit:
            os.kill(os.getpid(), 9)
armed = False
sys.addaudithook(hook)
armed = True
resolve.find(Store(sys.argv[1]), sys.argv[2], unsigned=True)
armed = False
print(count)
"""


def test_sec_48_killed_at_many_steps(store: Store, layout: Layout, leftovers: Leftovers) -> None:
    def child(limit: int) -> subprocess.CompletedProcess[str]:
        arguments = [store.root, f"oci:{layout.path}:one", str(limit)]
        return subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)

    whole = child(0)
    assert whole.returncode == 0, whole.stderr
    steps, complete = int(whole.stdout), leftovers()
    for limit in range(1, steps + 1, max(1, steps // 14)):
        for image_id in store.ids():
            remove_image(store, image_id)
        done = child(limit)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        known = store.images()
        for image in known:
            assert verify_image(store, image.id, None) == []  # type: ignore[arg-type]
        collect_tmp(store)
        without_note = [name for name in complete if not name.startswith("imports/")]
        assert leftovers() in ((complete, without_note) if known else ([],)), limit
        assert resolve.find(store, f"oci:{layout.path}:one", unsigned=True).name == "app"
        assert leftovers() == complete, limit
