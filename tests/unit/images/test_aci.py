"""Images through the confined worker: layout, digests, and what the worker may still do."""

from __future__ import annotations

import bz2
import ctypes
import errno
import gzip
import hashlib
import json
import lzma
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import COMPRESS, END, MANIFEST, aci, directory, file, hardlink, header, manifest, node, symlink

from pyrun import errors
from pyrun.errors import ArchiveError, HostError, ImageError, ManifestError
from pyrun.images import worker
from pyrun.images.aci import AciInfo, unpack_aci
from pyrun.images.limits import Limits
from pyrun.images.remove import remove_tree
from pyrun.images.unpack import Policy

Unpack = Callable[..., AciInfo]


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty private directory, tmp_path/staging."""
    (tmp_path / "staging").mkdir(mode=0o700)
    fd = os.open(tmp_path / "staging", os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield fd
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


@pytest.fixture
def unpack(staging: int, tmp_path: Path) -> Unpack:
    """Unpacks the bytes of an image file."""

    def run(data: bytes, limits: Limits | None = None) -> AciInfo:
        path = tmp_path / "image"
        path.write_bytes(data)
        remove_tree(staging, b"rootfs")
        fd = os.open(path, os.O_RDONLY)
        try:
            os.lseek(fd, 1, os.SEEK_SET)
            info = unpack_aci(fd, staging, limits=limits)
            assert os.lseek(fd, 0, os.SEEK_CUR) == 1  # the caller's offset is its own
        finally:
            os.close(fd)
        return info

    return run


IMAGE = aci(
    file(b"rootfs/etc/hello", b"world", mode=0o640), symlink(b"rootfs/link", b"etc/hello"), hardlink(b"rootfs/h", b"rootfs/etc/hello")
)


@pytest.mark.parametrize("format", ["tar", "gzip", "bzip2", "xz"])
def test_aci_09_12_one_image_id_whatever_the_compression(unpack: Unpack, tmp_path: Path, format: str) -> None:
    data = COMPRESS[format](IMAGE)
    info = unpack(data)
    assert info.image_id == f"sha512-{hashlib.sha512(IMAGE).hexdigest()}"
    assert info.blob_digest == f"sha256-{hashlib.sha256(data).hexdigest()}"
    assert info.size == len(data)
    assert info.manifest["name"] == MANIFEST["name"]
    assert json.loads(info.manifest_bytes) == MANIFEST
    assert (tmp_path / "staging/rootfs/link").read_text() == "world"
    assert (tmp_path / "staging/rootfs/h").samefile(tmp_path / "staging/rootfs/etc/hello")
    assert sorted(os.listdir(tmp_path / "staging")) == ["rootfs", "tree"]


def test_aci_12_trailing_zeros_count(unpack: Unpack) -> None:
    data = IMAGE + bytes(512 * 19)
    assert unpack(gzip.compress(data)).image_id == f"sha512-{hashlib.sha512(data).hexdigest()}"


@pytest.mark.parametrize("join", [gzip.compress, bz2.compress, lzma.compress])
def test_aci_11_members_are_joined(unpack: Unpack, join: Callable[[bytes], bytes]) -> None:
    data = join(IMAGE[:1000]) + join(IMAGE[1000:])
    assert unpack(data).image_id == f"sha512-{hashlib.sha512(IMAGE).hexdigest()}"


def test_larger_than_the_queue_between_the_threads(unpack: Unpack, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 24
    data = aci(file(b"rootfs/big", content))
    assert unpack(gzip.compress(data, 1)).image_id == f"sha512-{hashlib.sha512(data).hexdigest()}"
    assert (tmp_path / "staging/rootfs/big").read_bytes() == content


JSON = json.dumps(MANIFEST).encode()
LAYOUT = {
    "ACI-05-manifest-first": manifest() + directory(b"rootfs") + END,
    "ACI-05-manifest-last": directory(b"rootfs") + manifest() + END,
    "ACI-05-dots": directory(b"./") + directory(b"./rootfs/") + file(b"./rootfs/a") + file(b"./manifest", JSON) + END,
    "ACI-05-rootfs-after-files": file(b"rootfs/a/b", b"x") + directory(b"rootfs/a") + directory(b"rootfs") + manifest() + END,
}  # fmt: skip


@pytest.mark.parametrize("data", LAYOUT.values(), ids=LAYOUT)
def test_layouts(unpack: Unpack, data: bytes) -> None:
    assert unpack(data).manifest["name"] == MANIFEST["name"]


MAN = manifest()
BAD_LAYOUT: dict[str, bytes] = {
    "ACI-02-file-twice": aci(file(b"rootfs/a"), file(b"rootfs/a")),
    "ACI-02-dot": aci(file(b"rootfs/a"), file(b"./rootfs/a")),
    "ACI-02-slash": aci(directory(b"rootfs/d"), directory(b"rootfs/d/")),
    "ACI-02-rootfs-twice": aci(directory(b"rootfs/")),
    "ACI-02-manifest-twice": aci(manifest(), manifest()),
    "ACI-02-dot-twice": directory(b".") + directory(b"./") + directory(b"rootfs") + MAN + END,
    "ACI-03-extra": aci(file(b"foo")),
    "ACI-03-extra-below": aci(file(b"foo/bar")),
    "ACI-03-rootfsX": aci(file(b"rootfsX/a")),
    "ACI-03-manifest-below": aci(file(b"manifest/a")),
    "ACI-03-rootfs-symlink": symlink(b"rootfs", b"/etc") + MAN + END,
    "ACI-03-rootfs-file": file(b"rootfs") + MAN + END,
    "ACI-03-rootfs-hardlink": hardlink(b"rootfs", b"manifest") + MAN + END,
    "ACI-03-manifest-symlink": directory(b"rootfs") + symlink(b"manifest", b"rootfs/m") + END,
    "ACI-03-manifest-hardlink": directory(b"rootfs") + file(b"rootfs/m", b"{}") + hardlink(b"manifest", b"rootfs/m") + END,
    "ACI-03-manifest-directory": directory(b"rootfs") + directory(b"manifest") + END,
    "ACI-03-manifest-fifo": directory(b"rootfs") + node(b"manifest", b"6") + END,
    "ACI-04-no-rootfs-member": file(b"rootfs/a") + MAN + END,
    "ACI-03-no-manifest": directory(b"rootfs") + END,
    "ACI-03-empty": END,
    "B05-dot-symlink": symlink(b".", b"/etc") + directory(b"rootfs") + MAN + END,
    "B05-dot-file": file(b".") + directory(b"rootfs") + MAN + END,
    "ACI-08-hardlink-without-prefix": aci(file(b"rootfs/a"), hardlink(b"rootfs/b", b"a")),
    "ACI-08-hardlink-to-manifest": MAN + directory(b"rootfs") + hardlink(b"rootfs/b", b"manifest") + END,
    "ACI-08-hardlink-to-rootfs": aci(hardlink(b"rootfs/b", b"rootfs")),
    "ACI-20-dotdot": aci(file(b"rootfs/../x")),
    "ACI-20-absolute": aci(file(b"/rootfs/x")),
    "manifest-too-large": directory(b"rootfs") + header(b"manifest", size=5 << 20) + bytes(5 << 20) + END,
}


@pytest.mark.parametrize("data", BAD_LAYOUT.values(), ids=BAD_LAYOUT)
def test_bad_layouts_are_refused(unpack: Unpack, data: bytes) -> None:
    with pytest.raises(ArchiveError) as caught:
        unpack(data)
    assert caught.value.hint
    assert "pyrun" not in caught.value.hint  # not the hint of an unforeseen exception


def test_manifest_errors_keep_their_class_and_path(unpack: Unpack) -> None:
    with pytest.raises(ManifestError) as caught:
        unpack(directory(b"rootfs") + manifest(labels=[{"name": "a", "value": 1}]) + END)
    assert caught.value.subject == "labels[0].value"
    assert caught.value.hint
    with pytest.raises(ManifestError, match="line 1"):
        unpack(directory(b"rootfs") + file(b"manifest", b"not json") + END)


def test_aci_09_zstd_is_not_an_image_format(unpack: Unpack) -> None:
    with pytest.raises(ArchiveError, match="compressed with zstd"):
        unpack(COMPRESS["zstd"](IMAGE))


def test_limits_reach_the_worker(unpack: Unpack) -> None:
    with pytest.raises(ArchiveError, match="more than 2 "):
        unpack(IMAGE, Limits(entries=2))


def test_a_pipe_will_do(staging: int) -> None:
    readable, writable = os.pipe()

    def feed() -> None:
        with open(writable, "wb") as pipe:
            pipe.write(IMAGE)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        assert unpack_aci(readable, staging).size == len(IMAGE)
    finally:
        feeder.join()
        os.close(readable)


def test_staging_with_a_rootfs_is_refused(staging: int, tmp_path: Path) -> None:
    (tmp_path / "staging/rootfs").mkdir()
    (tmp_path / "image").write_bytes(IMAGE)
    with (tmp_path / "image").open("rb") as image, pytest.raises(ImageError, match="unpack rootfs: file exists") as caught:
        unpack_aci(image.fileno(), staging)
    assert "empty" in caught.value.hint


# What the parent makes of a worker that does not behave


def fake(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(worker, "_BOOT", code)


GOOD_ANSWER = {"manifest": "e30=", "size": 1, "image_id": "sha512-" + "0" * 128, "blob_digest": "sha256-" + "0" * 64}
MISBEHAVIOUR = {
    "silent": "",
    "rubbish": "print('Traceback: \\x1b[31mboom')",
    "segfault": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "list": "print('[]')",
    "flood": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "no-fields": "print('{\"ok\": {}}')",
    "deep": "print('[' * 100000)",
    **{
        f"bad-{key}": f"print({json.dumps({'ok': {**GOOD_ANSWER, key: value}})!r})"
        for key, value in (("image_id", "sha512-../../etc"), ("blob_digest", 5), ("size", []), ("manifest", "%%%"))
    },
}


@pytest.mark.parametrize("code", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_a_worker_that_misbehaves_is_an_archive_error(unpack: Unpack, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    fake(monkeypatch, code)
    started = time.monotonic()
    with pytest.raises(ArchiveError) as caught:
        unpack(IMAGE)
    assert str(caught.value).isprintable()
    assert "report it" in caught.value.hint
    assert time.monotonic() - started < 10


def test_an_incomplete_installation_is_told_from_a_bad_image(unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "import nosuchmodule")
    with pytest.raises(HostError, match="nosuchmodule") as caught:
        unpack(IMAGE)
    assert "install" in caught.value.hint


def test_a_manifest_from_the_worker_is_validated_again(unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, f"print({json.dumps({'ok': GOOD_ANSWER})!r})")
    with pytest.raises(ManifestError, match="acKind"):
        unpack(IMAGE)


def test_errors_from_the_worker_stay_errors_of_ours(unpack: Unpack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SystemExit", "annotations", "EXIT_USAGE", "__name__"):
        fake(monkeypatch, f"print({json.dumps({'error': {'class': name, 'step': 'x', 'reason': 'y', 'errno': 'z'}})!r})")
        with pytest.raises(ImageError):
            unpack(IMAGE)


# SEC-68: what code that took over the worker can still do

EVIL = """
import sys; sys.path[:0] = sys.argv[1].split(':')
import ctypes, json, os, socket, threading
from pyrun.images import aci, worker
def evil(src, staging, limits, policy):
    tried = {}
    def attempt(name, call):
        try:
            call()
            tried[name] = "done"
        except BaseException as exc:
            tried[name] = type(exc).__name__
    attempt("write", lambda: open(TARGET + "/new", "w"))
    attempt("append", lambda: open(TARGET + "/../image", "a"))
    attempt("tmp", lambda: os.mkdir("/tmp/pyrun-evil"))
    attempt("read", lambda: open("/etc/passwd").read())
    attempt("list", lambda: os.listdir("/"))
    attempt("exec", lambda: os.posix_spawn("/bin/true", ["true"], {}))
    attempt("kill", lambda: os.kill(os.getppid(), 0))
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_NETLINK):
        attempt(f"socket-{family}", lambda: socket.socket(family, socket.SOCK_DGRAM))
    attempt("pair", socket.socketpair)
    libc = ctypes.CDLL(None, use_errno=True)
    def call(name, *arguments):
        tried[name] = ctypes.get_errno() if libc.syscall(*arguments) < 0 else "done"
    call("unshare", 272, 0x10000000)
    call("clone-user", 56, 0x10000000 | 17, None, None, None, None)
    call("clone3", 435, None, 0)
    call("ptrace", 101, 0, 0, None, None)
    call("x32", 0x40000000 | 39)
    call("bpf", 321, 0, None, 0)
    call("io_uring", 425, 1, None)
    attempt("thread", lambda: [t.start() or t.join() for t in [threading.Thread(target=int)]])
    attempt("mount", lambda: ctypes.CDLL(None, use_errno=True).mount(b"a", b"/", b"tmpfs", 0, None) and 1 / 0)
    attempt("inside", lambda: os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=staging)))
    attempt("memory", lambda: bytearray(2 << 30))
    status = dict(line.split(":\\t") for line in os.pread(status_fd, 9999, 0).decode().splitlines() if ":\\t" in line)
    tried["status"] = {key: status[key] for key in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "Name")}
    tried["fds"] = len(os.listdir(fds_fd)) - 1
    raise worker.ImageError("evil", reason=json.dumps(tried))
status_fd = os.open("/proc/self/status", os.O_RDONLY)
fds_fd = os.open("/proc/self/fd", os.O_RDONLY)
aci.read_aci = evil
worker.main(sys.argv[2])
"""


def landlock_abi() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, 0, 1))


def report(unpack: Unpack, monkeypatch: pytest.MonkeyPatch, target: Path) -> dict[str, Any]:
    fake(monkeypatch, f"TARGET = {str(target)!r}\n{EVIL}")
    with pytest.raises(ImageError) as caught:
        unpack(IMAGE)
    found: dict[str, Any] = json.loads(caught.value.reason)
    return found


def test_sec_68_sec_68_a_taken_over_worker_is_harmless(unpack: Unpack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker, "_MAX_TEXT", 5000)
    (tmp_path / "target").mkdir()
    found = report(unpack, monkeypatch, tmp_path / "target")
    assert found["inside"] == "done"
    assert found["memory"] == "MemoryError"
    assert found["status"]["NoNewPrivs"] == "1"
    assert found["status"]["Name"] == "pyrun-unpack"
    assert found["fds"] <= 8
    if os.geteuid() == 0:
        assert {found["status"][name] for name in ("CapEff", "CapPrm", "CapBnd")} == {f"{0x8800001B:016x}"}
        assert found["status"]["CapInh"] == found["status"]["CapAmb"] == "0" * 16
    assert found["mount"] == "ZeroDivisionError"
    abi = landlock_abi()
    if abi >= 1:
        assert {found[name] for name in ("write", "append", "tmp", "read", "list", "exec")} == {"PermissionError"}
    if os.uname().machine == "x86_64":
        assert {found[name] for name in ("unshare", "clone-user", "ptrace", "x32", "bpf", "io_uring")} == {errno.EPERM}
        assert found["clone3"] == errno.ENOSYS
        assert {found[f"socket-{family}"] for family in (1, 2, 16)} | {found["pair"]} == {"PermissionError"}
    assert found["thread"] == "done"
    if abi >= 6:
        assert found["kill"] == "PermissionError"
    assert not os.path.exists("/tmp/pyrun-evil")


def test_the_worker_dies_with_its_caller(tmp_path: Path) -> None:
    """Killed in the middle, the caller leaves no process behind that still writes."""
    read_end, write_end = os.pipe()
    code = (
        "import os, sys; from pyrun.images.aci import unpack_aci; "
        f"os.mkdir({str(tmp_path / 's')!r}); unpack_aci({read_end}, os.open({str(tmp_path / 's')!r}, 0))"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], pass_fds=(read_end,))
    os.write(write_end, IMAGE[:1024])
    deadline = time.monotonic() + 20
    while not (tmp_path / "s/rootfs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert len(children) == 1
    while os.path.exists(f"/proc/{children[0]}/exe"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.close(read_end)
    os.close(write_end)


def test_policy_reaches_the_worker(staging: int, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(aci(node(b"rootfs/null", b"3", 1, 3)))
    with path.open("rb") as image, pytest.raises(ArchiveError, match="policy refuses"):
        unpack_aci(image.fileno(), staging, policy=Policy(nodes="refuse"))


def test_every_error_class_survives_the_pipe() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        sent = worker._fields(kind("step", "subject", "reason", errno=5, hint="hint", origin="origin"))
        back = worker._error(json.loads(json.dumps(sent)))
        assert type(back) is kind
        assert (str(back), back.errno, back.hint, back.origin) == ("step subject: reason", 5, "hint", "origin")
