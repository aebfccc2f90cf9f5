"""Removing images and garbage."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrun.errors import NotFoundError, StateError
from pyrun.images import prune
from pyrun.images.locks import Lock
from pyrun.images.prune import collect_tmp, remove_image
from pyrun.images.staging import Staging, sweep
from pyrun.images.store import Image, Store

Stored = Callable[..., Image]
Leftovers = Callable[[], list[str]]

pytestmark = pytest.mark.needs_root


def test_remove(store: Store, stored: Stored, leftovers: Leftovers) -> None:
    image = stored(big=bytes(5000))
    freed = remove_image(store, image.id)
    assert freed == image.size > 5000
    assert leftovers() == []
    assert os.listdir(f"{store.root}/refs") == os.listdir(f"{store.root}/layers") == os.listdir(f"{store.root}/tmp") == []
    with pytest.raises(NotFoundError):
        remove_image(store, image.id)


def test_others_stay(store: Store, stored: Stored) -> None:
    one, two = stored(version="1"), stored(version="2")
    remove_image(store, one.id)
    assert [image.id for image in store.images()] == [two.id]
    assert store.find("example.com/app").id == two.id
    assert Path(store.blob_path(two.blob)).exists() and store.has_layers(two)


def test_shared_layer_and_blob_stay(store: Store, stored: Stored) -> None:
    from pyrun.images import fastjson

    image = stored()
    record = image.record()
    record["id"] = twin = f"sha512-{'0' * 128}"
    Path(store.image_path(twin)).write_text(fastjson.dumps(record))
    assert remove_image(store, image.id) == 0
    assert store.has_layers(store.load(twin)) and Path(store.blob_path(image.blob)).exists()
    remove_image(store, twin)
    assert os.listdir(f"{store.root}/layers") == []


@pytest.mark.parametrize("phase", ["preparing", "prepared", "running", "exited"])
@pytest.mark.parametrize("damage", ["", "}}}}", "\xff\xfe"])
def test_image_in_use(store: Store, stored: Stored, phase: str, damage: str) -> None:
    image = stored()
    pod = Path(store.root, "pods", phase, "5e4e7d5e-8a3f-4e63-9a8e-000000000000")
    pod.mkdir(parents=True)
    (pod / "pod").write_text(f'{damage}{{"image": "{image.id}"}}', encoding="latin-1")
    with pytest.raises(StateError, match="pod 5e4e7d5e-8a3f-4e63-9a8e-000000000000 uses it") as caught:
        remove_image(store, image.id)
    assert caught.value.hint
    assert store.has_layers(store.find(image.id))
    pod.rename(Path(store.root, "pods", "garbage"))
    remove_image(store, image.id)


def test_damaged_record_is_removed_with_what_it_used(store: Store, stored: Stored, leftovers: Leftovers) -> None:
    image = stored()
    Path(store.image_path(image.id)).write_bytes(b"{")
    remove_image(store, image.id)
    assert leftovers() == []


def test_gc_of_a_clean_store(store: Store, stored: Stored, leftovers: Leftovers) -> None:
    assert collect_tmp(store) == 0
    stored()
    before = leftovers()
    assert collect_tmp(store) == 0
    assert leftovers() == before


def test_gc_of_orphans(store: Store, stored: Stored, leftovers: Leftovers) -> None:
    keep = stored(version="1")
    before = leftovers()
    gone = stored(version="2")
    Path(store.image_path(gone.id)).unlink()
    assert collect_tmp(store) == 5, "layer, blob, its signature, reference, import note"
    assert leftovers() == before
    assert store.has_layers(keep)


def test_gc_spares_everything_beside_a_damaged_record(store: Store, stored: Stored, leftovers: Leftovers) -> None:
    image = stored()
    before = leftovers()
    Path(store.image_path(image.id)).write_bytes(b"")
    assert collect_tmp(store) == 0
    assert leftovers() == before


def test_gc_spares_a_layer_in_use(store: Store, stored: Stored) -> None:
    image = stored()
    pod = Path(store.root, "pods", "running", "uuid")
    pod.parents[1].mkdir(0o700)
    pod.mkdir(parents=True)
    (pod / "pod").write_text(image.id)
    Path(store.image_path(image.id)).unlink()
    collect_tmp(store)
    assert store.has_layers(image)


def test_gc_leaves_orphans_alone_while_the_store_is_used(store: Store, stored: Stored, leftovers: Leftovers) -> None:
    image = stored()
    Path(store.image_path(image.id)).unlink()
    before = leftovers()
    with store.lock(exclusive=False):
        assert collect_tmp(store) == 0
    assert leftovers() == before
    assert collect_tmp(store) > 0


def test_sweep_tells_the_living_from_the_dead(store: Store) -> None:
    store.ensure()
    dead = Path(store.root, "tmp", "import-1-00")
    (dead / "layer" / "rootfs").mkdir(parents=True)
    (dead / "blob").write_bytes(b"x")
    Path(store.root, "tmp", "file").touch()
    Path(store.root, "tmp", "link").symlink_to("/etc")
    os.mkfifo(Path(store.root, "tmp", "fifo"))
    with Staging(store.root, "import") as live:
        assert sweep(store.root) == 4
        assert os.listdir(f"{store.root}/tmp") == [live.name]
        assert sweep(store.root) == 0
    assert os.listdir(f"{store.root}/tmp") == []


def test_staging_of_a_killed_process_is_swept(store: Store) -> None:
    store.ensure()
    code = "import os, sys; from pyrun.images.staging import Staging\nwith Staging(sys.argv[1], 'x'): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, store.root], check=False).returncode == -9
    assert len(os.listdir(f"{store.root}/tmp")) == 1
    assert sweep(store.root) == 1


def test_many_remove_and_collect_at_once(store: Store, stored: Stored) -> None:
    ids = [stored(version=str(number)).id for number in range(4)]
    start, problems = threading.Barrier(12), []

    def work(number: int) -> None:
        start.wait()
        try:
            if number % 3:
                remove_image(store, ids[number % 4])
            else:
                collect_tmp(store)
        except NotFoundError:
            pass  # another thread was quicker
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.images() == [] and os.listdir(f"{store.root}/tmp") == []


def test_lock_kinds(store: Store) -> None:
    with store.lock(exclusive=False) as first, store.lock(exclusive=False, wait=False):
        assert first.fileno() >= 0
        with pytest.raises(StateError, match="another pyrun holds it"), store.lock(exclusive=True, wait=False):
            pass
    with store.lock(exclusive=True), pytest.raises(StateError), store.lock(exclusive=False, wait=False):
        pass


def test_lock_is_closed_on_exec(store: Store) -> None:
    with store.lock(exclusive=True) as lock:
        assert fcntl.fcntl(lock.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_lock_file_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="open lock"), Lock(str(tmp_path / "lock"), exclusive=True):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_crash_between_the_steps_of_removal(store: Store, stored: Stored, monkeypatch: pytest.MonkeyPatch, leftovers: Leftovers) -> None:
    for place, step in ((prune, "_drop_refs"), (prune, "_drop_imports"), (prune._Work, "_layer"), (prune._Work, "_blob")):
        image = stored()
        original = getattr(place, step)

        def crash(*_arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(place, step, crash)
        with pytest.raises(KeyboardInterrupt):
            remove_image(store, image.id)
        monkeypatch.setattr(place, step, original)
        with pytest.raises(NotFoundError):
            store.find("example.com/app")
        collect_tmp(store)
        assert leftovers() == [], step
