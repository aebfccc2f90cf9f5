"""Images on their way into a pod: who may sign them, what is remembered of them, many commands at once (ACI-15..18, D01..D12, F21)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import COMMAND, Pyrun, Signer

from pyrun.images.commit import encode_record
from pyrun.images.store import Store

Make = Callable[..., Path]


@pytest.fixture
def stranger(new_signer: Callable[[str], Signer]) -> Signer:
    return new_signer("stranger <stranger@example.net>")


def images(pyrun: Pyrun) -> list[str]:
    return [image["name"] for image in json.loads(pyrun("image", "list", "--format", "json", code=0).out)]


def copy(path: Path, folder: Path) -> Path:
    """The image file with its signature, for a test that changes them."""
    shutil.copy(f"{path}.asc", folder)
    return Path(shutil.copy(path, folder))


@pytest.mark.parametrize("verb", ["run", "fetch"])
def test_unsigned_is_refused_then_accepted_once(pyrun: Pyrun, image: Make, verb: str) -> None:
    path = image(command=["/probe", "exit", "3"], signed=False)
    refused = pyrun(verb, path, code=125)
    assert "no signature" in refused.err and "--insecure-options=image" in refused.err and refused.out == ""
    assert images(pyrun) == []
    pyrun("run", "--insecure-options=image", path, code=3)
    pyrun("run", path, code=125)
    pyrun("run", "example.com/test", code=125)
    pyrun("run", "--insecure-options=image", "example.com/test", code=3)


@pytest.mark.parametrize("offset", [0, 600, -1])
def test_tampered(pyrun: Pyrun, image: Make, tmp_path: Path, offset: int) -> None:
    path = copy(image(), tmp_path)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    assert "not what key" in pyrun("run", path, code=125).err
    assert images(pyrun) == []


def test_aci_18_unknown_key_then_trusted_for_its_prefix(pyrun: Pyrun, image: Make, tmp_path: Path, stranger: Signer) -> None:
    path = copy(image("example.net/tool", ["/probe", "exit", "4"]), tmp_path)
    assert "which is trusted for example.com only" in pyrun("run", path, code=125).err
    stranger.sign(path)
    assert "which is not trusted" in pyrun("run", path, code=125).err
    pyrun("trust", "--yes", "--prefix", "example.net", stranger.public, code=0)
    pyrun("run", path, code=4)
    ours = copy(image(), tmp_path)
    stranger.sign(ours)
    assert "which is trusted for example.net only" in pyrun("run", ours, code=125).err


def test_key_that_is_withdrawn(pyrun: Pyrun, image: Make, signer: Signer) -> None:
    path = image(command=["/probe", "exit", "5"])
    pyrun("run", path, code=5)
    fingerprint = json.loads(pyrun("trust", "--list", "--format", "json", code=0).out)[0]["fingerprint"]
    pyrun("trust", "--remove", fingerprint, code=0)
    for name in (path, "example.com/test", images(pyrun)[0]):
        assert fingerprint in pyrun("run", name, code=125).err
    done = pyrun("image", "verify", "--all", code=125)
    assert "not trusted" in done.out and done.err == ""
    pyrun("trust", "--yes", signer.public, code=0)
    pyrun("run", "example.com/test", code=5)


def test_what_was_imported_is_not_imported_again(pyrun: Pyrun, image: Make) -> None:
    path = image(command=["/probe", "exit", "6"])
    pyrun("run", path, code=6)
    trace = pyrun.root / "trace"
    subprocess.run(
        ["strace", "-f", "-e", "trace=execve,openat", "-o", trace, COMMAND, "run", path],
        env=pyrun.environment(),
        check=False,
        capture_output=True,
    )
    lines = trace.read_text()
    assert "gpgv" not in lines and str(path) not in lines.split("execve", 1)[1].split("\n", 1)[1]


def test_a_manifest_in_canonical_form_is_told_and_mended(pyrun: Pyrun, image: Make) -> None:
    """As versions recorded images that kept no manifest as it was shipped."""
    path = image("example.com/older", version="7")
    image_id = pyrun("fetch", path, code=0).out.strip()
    shipped = pyrun("image", "cat-manifest", image_id, code=0).out
    store = Store(str(pyrun.root))
    found = store.load(image_id)
    found.text = ""
    Path(store.image_path(image_id)).write_bytes(encode_record(found))
    for verb in ("verify", "cat-manifest"):
        told = pyrun("image", verb, image_id, code=0)
        assert "known in canonical form only; fetch its file again" in told.err
    assert told.out != shipped and json.loads(told.out)["name"] == json.loads(shipped)["name"]
    pyrun("fetch", path, code=0)
    assert pyrun("image", "verify", image_id, code=0).err == ""
    assert pyrun("image", "cat-manifest", image_id, code=0).out == shipped


def test_changed_file_is_imported_again(pyrun: Pyrun, image: Make, tmp_path: Path) -> None:
    path = copy(image(command=["/probe", "exit", "7"]), tmp_path)
    pyrun("run", path, code=7)
    other = image(command=["/probe", "exit", "8"], version="2.0")
    path.write_bytes(other.read_bytes())
    pyrun("run", path, code=125)
    Path(f"{path}.asc").write_bytes(Path(f"{other}.asc").read_bytes())
    pyrun("run", path, code=8)
    pyrun("run", "example.com/test:1.0", code=7)
    pyrun("run", "example.com/test", code=8)


def test_changed_tree_is_found(pyrun: Pyrun) -> None:
    image_id = pyrun("fetch", pyrun.probe_image, code=0).out.strip()
    assert pyrun("image", "verify", image_id, code=0).out.endswith(" ok\n")
    (pyrun.root / "layers" / image_id / "rootfs" / "etc" / "passwd").write_text("root:x:0:0:::\n")
    done = pyrun("image", "verify", image_id, code=125)
    assert "/etc/passwd: size, content changed" in done.out and done.err.count(f"pyrun image rm {image_id[:19]}\n") == 1
    pyrun("fetch", pyrun.probe_image, code=0)
    pyrun("image", "verify", image_id, code=125)
    pyrun("image", "rm", image_id[:19], code=0)
    pyrun("fetch", pyrun.probe_image, code=0)
    pyrun("image", "verify", image_id, code=0)


def test_image_of_a_running_pod_stays(pyrun: Pyrun, busybox: Path) -> None:
    pod = pyrun.start("run", "--interactive", busybox, "--exec", "/bin/sh", "--", "-c", "echo up; read line")
    try:
        assert pod.stdout is not None and pod.stdout.readline() == "up\n"
        assert "uses it" in pyrun("image", "rm", "example.com/busybox", code=125).err
    finally:
        pod.communicate("\n", timeout=60)
    pyrun("image", "rm", "example.com/busybox", code=0)
    assert images(pyrun) == []
    for kind in ("layers", "blobs/sha256", "images", "refs", "imports", "tmp"):
        assert os.listdir(pyrun.root / kind) == []


def test_first_run_by_many_at_once(pyrun: Pyrun, image: Make) -> None:
    path = image(command=["/probe", "exit", "9"])
    pods = [pyrun.start("run", path) for _ in range(10)]
    results = [(pod.communicate(timeout=60)[1], pod.returncode) for pod in pods]
    assert [code for _, code in results] == [9] * 10, results
    assert len(os.listdir(pyrun.root / "layers")) == len(images(pyrun)) == 1
    assert os.listdir(pyrun.root / "tmp") == []


def test_fetch_run_remove_and_collect_at_once(pyrun: Pyrun, image: Make) -> None:
    path = image(command=["/probe", "exit", "10"])
    verbs = [("fetch", path), ("run", path), ("image", "rm", "example.com/test"), ("gc",)] * 4
    started = [(words[0], pyrun.start(*words)) for words in verbs]
    for verb, process in started:
        err = process.communicate(timeout=60)[1]
        assert "Traceback" not in err
        assert process.returncode in (0, 10) or "uses it" in err or "not in the store" in err or "nothing in the store" in err, (verb, err)
    pyrun("gc", code=0)
    pyrun("run", path, code=10)
    pyrun("image", "verify", "--all", code=0)


def test_an_import_with_few_descriptors(pyrun: Pyrun) -> None:
    """The worker's own limit is no more than what the caller may have."""
    limited = ["prlimit", "--nofile=40:40", COMMAND, "--root", pyrun.root, "fetch", pyrun.probe_image]
    done = subprocess.run(limited, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
