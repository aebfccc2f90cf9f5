"""Images made by umoci, skopeo and podman, run from the disk in every form in which these tools write them (B07, C19, C21)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import archives
import mkoci
import pytest
from harness import Pyrun

UNSIGNED = "--insecure-options=image"
PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/srv:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1001:\nlogs:x:1002:other,web\n"


def tool(*words: str | Path, **more: Any) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **more)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def umoci(*words: str | Path) -> None:
    tool("umoci", *words)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with busybox, accounts and /data, which is web's."""
    top = tmp_path_factory.mktemp("files")
    for name in ("bin", "etc", "data", "tmp"):
        (top / name).mkdir()
    shutil.copy("/bin/busybox", top / "bin")
    for name in ("sh", "echo", "cat", "id", "ls", "pwd", "stat", "env"):
        (top / "bin" / name).symlink_to("busybox")
    (top / "etc" / "passwd").write_text(PASSWD)
    (top / "etc" / "group").write_text(GROUP)
    (top / "etc" / "gone").write_text("x")
    (top / "data" / "shipped").write_text("from the image")
    os.chown(top / "data", 1000, 1001)
    (top / "data").chmod(0o750)
    return top


@pytest.fixture(scope="module")
def layout(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout made by umoci: image `app`, whose Entrypoint is echo and whose Cmd is hello."""
    path = tmp_path_factory.mktemp("umoci") / "lay"
    umoci("init", "--layout", path)
    umoci("new", "--image", f"{path}:app")
    umoci("insert", "--image", f"{path}:app", files, "/")
    umoci("config", "--image", f"{path}:app", "--config.entrypoint", "/bin/echo", "--config.cmd", "hello", "--config.env", "COLOUR=red")
    return path


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """podman with a storage of its own."""
    top = tmp_path_factory.mktemp("podman")
    command = ["podman", "--root", f"{top}/root", "--runroot", f"{top}/run", "--storage-driver", "vfs", "--events-backend", "none"]
    yield command
    subprocess.run([*command, "system", "reset", "--force"], capture_output=True, check=False, timeout=60)


def configured(layout: Path, target: Path, *flags: str) -> str:
    """A copy of the image with other settings; returns its reference."""
    tag = f"app{len(list(target.iterdir())) if target.is_dir() else 0}"
    copy = target / "copy"
    if not copy.exists():
        shutil.copytree(layout, copy)
    umoci("config", "--image", f"{copy}:app", "--tag", tag, *flags)
    return f"oci:{copy}:{tag}"


def sh(pyrun: Pyrun, reference: str, script: str, *flags: str) -> str:
    return pyrun("run", "--quiet", UNSIGNED, *flags, reference, "--exec", "/bin/sh", "--", "-c", script, code=0).out


def test_umoci(pyrun: Pyrun, layout: Path) -> None:
    refused = pyrun("run", f"oci:{layout}", code=125)
    assert UNSIGNED in refused.err and pyrun("image", "list", "--no-legend", code=0).out == ""
    assert pyrun("run", UNSIGNED, f"oci:{layout}", code=0).out == "hello\n"
    assert pyrun("run", UNSIGNED, f"oci:{layout}:app", "--", "good", "bye", code=0).out == "good bye\n"
    assert pyrun("run", UNSIGNED, layout, code=0).out == "hello\n"
    assert pyrun("run", UNSIGNED, "lay:app", code=0).out == "hello\n"
    assert pyrun("run", "lay:app", code=125).out == ""
    assert "COLOUR=red" in sh(pyrun, "lay", "env")


def test_verbs(pyrun: Pyrun, layout: Path) -> None:
    assert "pyrun fetch oci:" in pyrun("plan", UNSIGNED, f"oci:{layout}", code=125).err
    fetched = pyrun("fetch", UNSIGNED, f"oci:{layout}", code=0).out.strip()
    assert "execute ['/bin/echo', 'hello']" in pyrun("plan", UNSIGNED, f"oci:{layout}", code=0).out
    (listed,) = json.loads(pyrun("image", "list", "--format", "json", code=0).out)
    assert (listed["id"], listed["kind"], listed["name"], listed["labels"]["version"]) == (fetched, "oci", "lay", "app")
    assert json.loads(pyrun("image", "show", "lay", code=0).out)["manifest"]["config"]["Cmd"] == ["hello"]
    assert pyrun("image", "verify", "--all", code=0).out.endswith(" ok\n")
    pyrun("image", "rm", fetched[:20], code=0)
    for kind in ("layers", "blobs/sha256", "images", "refs", "imports", "tmp"):
        assert os.listdir(pyrun.root / kind) == []


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_skopeo(pyrun: Pyrun, layout: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "image.tar"
    tool("skopeo", "copy", "--quiet", f"oci:{layout}:app", f"{form}:{path}:example.com/app:1.0")
    for reference in (f"{form}:{path}", f"{form}:{path}:example.com/app:1.0", path):
        assert pyrun("run", UNSIGNED, reference, code=0).out == "hello\n"
    assert pyrun("run", UNSIGNED, "example.com/app:1.0", code=0).out == "hello\n"
    assert "no signature" in pyrun("run", path, code=125).err
    assert len(os.listdir(pyrun.root / "layers")) == 1


@pytest.mark.parametrize("format", ["oci", "v2s2"])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_skopeo_compressions(pyrun: Pyrun, layout: Path, tmp_path: Path, format: str, compression: str) -> None:
    if (format, compression) == ("v2s2", "zstd"):
        return  # there is no such thing
    copy = ["skopeo", "copy", "--quiet", "--format", format, "--dest-compress-format", compression]
    tool(*copy, f"oci:{layout}:app", f"oci:{tmp_path}/copy:app")
    assert pyrun("run", UNSIGNED, f"oci:{tmp_path}/copy", code=0).out == "hello\n"


def test_podman(pyrun: Pyrun, podman: list[str], files: Path, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text(
        "FROM scratch\nCOPY . /\nENV COLOUR=blue\nUSER web\nWORKDIR /work/here\nVOLUME /data\n"
        'ENTRYPOINT ["/bin/sh", "-c"]\nCMD ["id -un"]\n'
    )
    tool(*podman, "build", "--quiet", "--isolation", "chroot", "--tag", "localhost/built:2", "--file", tmp_path / "Containerfile", files)
    for form, name in (("docker-archive", "d.tar"), ("oci-archive", "o.tar"), ("oci-dir", "dir")):
        tool(*podman, "save", "--quiet", "--format", form, "--output", tmp_path / name, "localhost/built:2")
        scheme = "oci" if form == "oci-dir" else form
        assert pyrun("run", "--quiet", UNSIGNED, f"{scheme}:{tmp_path / name}", code=0).out == "web\n"
    seen = pyrun("run", "--quiet", UNSIGNED, tmp_path / "d.tar", "--", "echo $COLOUR; pwd; id -G; stat -c %a /data", code=0).out
    assert seen.splitlines() == ["blue", "/work/here", "1001 1002", "750"]
    assert "localhost/built" in pyrun("image", "list", code=0).out


def test_whiteouts(pyrun: Pyrun, layout: Path, files: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy)
    umoci("insert", "--image", f"{copy}:app", "--whiteout", "/etc/gone")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "fresh").write_text("x")
    umoci("insert", "--image", f"{copy}:app", "--opaque", tmp_path / "new", "/data")
    assert sh(pyrun, f"oci:{copy}", "ls /etc /data").split() == ["/data:", "fresh", "/etc:", "group", "hosts", "passwd"]
    assert pyrun("image", "verify", "--all", code=0).out.endswith(" ok\n")
    copied = sh(pyrun, f"oci:{copy}", "ls /etc /data", "--no-overlay").split()
    assert copied[:3] == ["/data:", "fresh", "/etc:"] and "gone" not in copied


def test_volumes_begin_as_what_the_image_holds(pyrun: Pyrun, layout: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("x").mkdir()
    reference = configured(layout, tmp_path, "--config.volume", "/data", "--config.volume", "/none")
    script = "cat /data/shipped; echo; stat -c '%u %g %a' /data; ls /data /none; echo mine > /data/mine"
    for _ in range(2):
        seen = sh(pyrun, reference, script).split("\n")
        assert seen[:2] == ["from the image", "1000 1001 750"] and "mine" not in seen
    host = tmp_path / "host"
    host.mkdir()
    assert sh(pyrun, reference, "ls /data", "--volume", f"volume-data,kind=host,source={host}") == ""
    assert sh(pyrun, reference, "ls /data", "--volume", f"{host}:/data") == ""
    assert os.listdir(pyrun.root / "pods" / "running") == []


@pytest.mark.parametrize(
    ("user", "seen"), [("web", "1000 1001 1001 1002"), ("web:root", "1000 0 0"), ("5:6", "5 6 6"), ("1000", "1000 1001 1001 1002")]
)
def test_users(pyrun: Pyrun, layout: Path, tmp_path: Path, user: str, seen: str) -> None:
    reference = configured(layout, tmp_path, "--config.user", user)
    assert " ".join(sh(pyrun, reference, "id -u; id -g; id -G").split()) == seen


def test_image_settings_are_data(pyrun: Pyrun, layout: Path, tmp_path: Path) -> None:
    """Labels and annotations of the image change nothing about how it is run (C21)."""
    labels = [
        flag
        for key in ("io.pyrun.privileged", "org.systemd.property.ExecStart", "run.oci.hooks")
        for flag in ("--config.label", f"{key}=true")
    ]
    plain, labelled = configured(layout, tmp_path, "--config.cmd", "x"), configured(layout, tmp_path, "--config.cmd", "x", *labels)
    for reference in (plain, labelled):
        pyrun("fetch", UNSIGNED, reference, code=0)
    plans = [
        json.loads(pyrun("plan", UNSIGNED, "--format", "json", "--hostname", "h", one, code=0).out)["operations"]
        for one in (plain, labelled)
    ]
    assert [one["op"] for one in plans[0]] == [one["op"] for one in plans[1]]


def test_many_layers(pyrun: Pyrun, files: Path, tmp_path: Path) -> None:
    made = mkoci.Layout(tmp_path / "many")
    busybox = mkoci.layer(archives.directory(b"bin"), archives.file(b"bin/ls", Path("/bin/busybox").read_bytes(), mode=0o755))
    made.image(
        busybox,
        *(mkoci.layer(archives.directory(b"d"), archives.file(b"d/%03d" % n)) for n in range(126)),
        config={"Cmd": ["/bin/ls", "/d"]},
    )
    assert len(pyrun("run", UNSIGNED, made.path, code=0).out.split()) == 126


def test_for_another_machine(pyrun: Pyrun, tmp_path: Path) -> None:
    made = mkoci.Layout(tmp_path / "arm")
    made.image(architecture="arm64")
    assert "built for linux/aarch64" in pyrun("run", UNSIGNED, made.path, code=125).err


def test_first_run_by_many_at_once(pyrun: Pyrun, layout: Path) -> None:
    pods = [pyrun.start("run", UNSIGNED, f"oci:{layout}") for _ in range(8)]
    results = [(*pod.communicate(timeout=60), pod.returncode) for pod in pods]
    assert [(out, code) for out, _, code in results] == [("hello\n", 0)] * 8, results
    assert len(os.listdir(pyrun.root / "layers")) == 1 and os.listdir(pyrun.root / "tmp") == []
    pyrun("image", "verify", "--all", code=0)
