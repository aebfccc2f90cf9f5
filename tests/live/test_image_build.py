"""`pyrun image build`: images of directories and archives that run, the same each time, signed if wanted (ACI-01, ACI-06..08)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from harness import Pyrun, Signer


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system with all that an archive can hold."""
    root = tmp_path / "rootfs"
    for name in ("bin", "etc", "tmp", "empty"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    os.link(root / "bin" / "busybox", root / "bin" / "sh")
    (root / "bin" / "ls").symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
    os.mkfifo(root / "tmp" / "fifo")
    os.mknod(root / "tmp" / "node", 0o020666, os.makedev(1, 3))
    (root / "etc" / "set").write_text("x")
    os.chown(root / "etc" / "set", 7, 8)
    (root / "etc" / "set").chmod(0o4750)
    os.setxattr(root / "etc" / "set", "user.word", b"value")
    os.utime(root / "etc" / "set", ns=(10**18 + 5, 10**18 + 5))
    (root / "tmp").chmod(0o1777)
    return root


BUILD = ("--name", "example.com/built", "--label", "version=2.0", "--exec", "/bin/sh")


def test_a_directory_becomes_an_image_that_runs(shared: Pyrun, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "built.aci"
    words = ("--set-env", "A=1", "--user", "app", "--expose", "www:80", "--mount-point", "data:/data", "--annotation", "authors=us")
    built = shared(
        "image",
        "build",
        tree,
        "-o",
        out,
        *BUILD,
        *words,
        "--",
        "-c",
        "echo $A; busybox id -u; busybox stat -c %a:%u:%g:%Y /etc/set",
        code=0,
    )
    found = shared("run", "--insecure-options=image", out, code=0)
    assert found.out == "1\n1000\n4750:7:8:1000000000\n"
    shown = json.loads(shared("image", "show", built.out.strip()[:30], code=0).out)
    assert shown["id"] == built.out.strip() and shown["labels"] == {"version": "2.0", "os": "linux", "arch": "amd64"}
    app = shown["manifest"]["app"]
    assert app["ports"][0]["port"] == 80 and app["mountPoints"][0]["path"] == "/data"
    target = tmp_path / "rendered"
    shared("image", "render", built.out.strip(), target, code=0)
    assert os.stat(target / "bin/sh").st_ino == os.stat(target / "bin/busybox").st_ino
    assert os.stat(target / "etc/set").st_mtime_ns == 10**18 + 5 and os.getxattr(target / "etc/set", "user.word") == b"value"
    assert (target / "tmp/fifo").is_fifo() and os.stat(target / "tmp/node").st_rdev == os.makedev(1, 3)


def test_the_same_input_gives_the_same_bytes(shared: Pyrun, tree: Path, tmp_path: Path) -> None:
    """From a directory, a copy of it, and archives of it; however it is compressed the id is one (ACI-09, ACI-12)."""
    one = tmp_path / "one.aci"
    first = shared("image", "build", tree, "-o", one, *BUILD, code=0).out
    shared("image", "build", tree, "-o", one, *BUILD, "--overwrite", code=0)
    copied = tmp_path / "copy"
    subprocess.run(["cp", "-a", tree, copied], check=True)
    again = tmp_path / "again.aci"
    assert shared("image", "build", copied, "-o", again, *BUILD, code=0).out == first
    assert one.read_bytes() == again.read_bytes()
    for compression in ("xz", "bzip2", "none"):
        other = tmp_path / f"{compression}.aci"
        assert shared("image", "build", tree, "-o", other, *BUILD, "--compression", compression, code=0).out == first
        assert shared("fetch", "--insecure-options=image", other, code=0).out.strip() == first.strip()
    archive = tmp_path / "rootfs.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as out:
        out.add(tree, ".")
    late = ("--latest", "1000000000")
    of_archive = shared("image", "build", archive, "-o", tmp_path / "a.aci", *BUILD, *late, code=0).out
    os.remove(tree / "etc" / "set")  # which has an attribute and a time that this archive does not
    (tree / "etc" / "set").write_text("x")
    os.chown(tree / "etc" / "set", 7, 8)
    os.chmod(tree / "etc" / "set", 0o4750)
    assert shared("image", "build", tree, "-o", tmp_path / "b.aci", *BUILD, *late, code=0).out == of_archive


def test_a_manifest_and_flags(shared: Pyrun, tree: Path, tmp_path: Path) -> None:
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/file", "labels": [{"name": "version", "value": "1"}]}
    manifest["app"] = {"exec": ["/bin/sh", "-c", "busybox echo $B"], "user": "0", "group": "0"}  # type: ignore[assignment]
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    out = tmp_path / "out.aci"
    shared("image", "build", tree, "-o", out, "--manifest", tmp_path / "m.json", "-e", "B=2", code=0)
    assert shared("run", "--insecure-options=image", out, code=0).out == "2\n"


def test_oci(shared: Pyrun, tree: Path, tmp_path: Path) -> None:
    """A layout that others read."""
    out = tmp_path / "layout"
    shared("image", "build", tree, "-o", out, "--image-format", "oci", *BUILD, "--", "-c", "busybox echo hello", code=0)
    assert shared("run", "--insecure-options=image", f"oci:{out}", code=0).out == "hello\n"
    seen = subprocess.run(["skopeo", "inspect", "--config", f"oci:{out}"], check=True, capture_output=True)
    assert json.loads(seen.stdout)["config"]["Entrypoint"] == ["/bin/sh", "-c", "busybox echo hello"]


def test_aci_15_16_signed_ones_are_trusted(shared: Pyrun, tree: Path, tmp_path: Path, signer: Signer) -> None:
    """ACI-15, ACI-16: a detached armoured signature beside the file."""
    out = tmp_path / "signed.aci"
    key = subprocess.run(["gpg", "--homedir", signer.home, "--list-keys", "--with-colons"], check=True, capture_output=True, text=True)
    fingerprint = next(line.split(":")[9] for line in key.stdout.splitlines() if line.startswith("fpr"))
    env = {"GNUPGHOME": str(signer.home)}
    shared("image", "build", tree, "-o", out, *BUILD, "--sign-by", fingerprint, "--", "-c", "busybox echo trusted", code=0, env=env)
    assert (tmp_path / "signed.aci.asc").read_text().startswith("-----BEGIN PGP SIGNATURE-----")
    assert shared("run", out, code=0).out == "trusted\n"


def test_aci_01_what_is_refused(shared: Pyrun, tree: Path, tmp_path: Path) -> None:
    """ACI-01: an image's name ends in .aci."""
    (tmp_path / "bad.json").write_text("{")
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        ((tree, "-o", tmp_path / "x.tar", *BUILD), 2, f"build image {tmp_path}/x.tar: its name does not end in .aci"),
        ((tree, "-o", tmp_path / "x.aci"), 2, "image build: the image needs a name"),
        ((tree, "-o", tmp_path / "x.aci", "--name", "A"), 125, "read manifest name: "),
        ((tree, "-o", tmp_path / "x.aci", *BUILD, "--expose", "www"), 2, "option --expose www: not NAME:PORT[/PROTOCOL]"),
        ((tree, "-o", tmp_path / "x.aci", *BUILD, "--label", "x"), 2, "option --label x: not NAME=VALUE"),
        (
            (tree, "-o", tmp_path / "x.aci", *BUILD, "--manifest", tmp_path / "bad.json"),
            2,
            f"option --manifest {tmp_path}/bad.json: not JSON",
        ),
        ((tmp_path / "missing", "-o", tmp_path / "x.aci", *BUILD), 125, ""),
        ((tmp_path / "bad.json", "-o", tmp_path / "x.aci", *BUILD), 125, ""),
        ((tree, "-o", tmp_path / "x.aci", *BUILD, "--sign-by", "0" * 40), 125, f"sign {tmp_path}/x.aci: "),
    ]
    for words, code, error in cases:
        refused = shared("image", "build", *words, code=code)
        assert refused.err.startswith(f"pyrun: {error}") and "\nhint: " in refused.err and "Traceback" not in refused.err, repr(refused)
        assert refused.out == "" and not [one for one in os.listdir(tmp_path) if "x.aci" in one or "x.tar" in one], "nothing is left"


def test_a_signature_is_of_the_file_beside_it(shared: Pyrun, tree: Path, tmp_path: Path) -> None:
    """With --overwrite none of an earlier file stays, and where it cannot be signed the earlier file does."""
    out, old = tmp_path / "x.aci", tmp_path / "x.aci.asc"
    shared("image", "build", tree, "-o", tmp_path / "plain.aci", *BUILD, code=0)
    ways: list[tuple[str | Path, ...]] = [("image", "build", tree, *BUILD), ("image", "convert", tmp_path / "plain.aci")]
    for made in ways:
        out.write_text("old")
        old.write_text("its signature")
        refused = shared(*made, "-o", out, "--overwrite", "--sign-by", "0" * 40, code=125)
        assert refused.out == "" and (out.read_text(), old.read_text()) == ("old", "its signature")
        shared(*made, "-o", out, "--overwrite", code=0)
        assert [one for one in os.listdir(tmp_path) if "x.aci" in one] == ["x.aci"]
