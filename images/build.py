"""App Container Images made of a directory or an archive of one, and a manifest (appc-spec, "Image Archive").  Cold.

The same input gives the same bytes: members in the order of their names, owners, modes, attributes and times as the files
have them, nothing of the machine or the hour.  Archives are read by the confined worker, as those of images are.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import lzma
import os
import stat
import subprocess
import zlib

from pyrun.errors import ImageError, PyrunError, TrustError, UsageError
from pyrun.images.fresh import fresh_signed
from pyrun.images.limits import Limits
from pyrun.images.manifest import parse_image_manifest
from pyrun.images.staging import Staging
from pyrun.images.tarwrite import END, LINK, Tree, header, padding
from pyrun.images.trust.gpg import GPG
from pyrun.images.unpack import Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyrun.images.fresh import Sign

__all__ = ["COMPRESSIONS", "build", "signer"]

SUFFIX = ".aci"
_FORMATS = ("tar", "gzip", "bzip2", "xz", "zstd")


class _Plain:
    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


COMPRESSIONS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(6, zlib.DEFLATED, 31),  # neither name nor time in the header
    "xz": lambda: lzma.LZMACompressor(preset=6),
    "bzip2": lambda: bz2.BZ2Compressor(9),
    "none": _Plain,
}


class _Rootfs(Tree):
    """A tree as the members of an App Container Image: below rootfs/, names as they are, times no later than `latest`."""

    __slots__ = ("_latest",)

    def __init__(self, write: Callable[[bytes], object], latest: int | None) -> None:
        super().__init__(write)
        self._latest = latest

    def hidden(self, prefix: bytes, name: bytes) -> None:
        hint = "it is a whiteout of a layer: build from a whole root file system"
        raise ImageError("build image of", os.fsdecode(prefix + name), "a device 0:0 that deletes a file", hint=hint)

    def member(self, path: bytes, kind: bytes, info: os.stat_result, xattrs: Any = None, *, target: bytes = b"", size: int = 0) -> None:
        mtime = info.st_mtime_ns if self._latest is None else min(info.st_mtime_ns, self._latest * 10**9)
        whole = b"rootfs/" + path if path else b"rootfs/"
        inside = b"rootfs/" + target if kind == LINK else target
        owner = (info.st_uid, info.st_gid)
        mode = stat.S_IMODE(info.st_mode)
        self.write(
            header(whole, kind, size=size, mode=mode, owner=owner, mtime_ns=mtime, target=inside, device=info.st_rdev, xattrs=xattrs)
        )


class _Sink:
    """Hashes what the image is and writes what is shipped."""

    def __init__(self, fd: int, compression: str) -> None:
        self.id = hashlib.sha512()
        self._fd = fd
        self._press = COMPRESSIONS[compression]()

    def write(self, data: bytes) -> None:
        self.id.update(data)
        self._out(self._press.compress(data))

    def close(self) -> None:
        self._out(self._press.flush())

    def _out(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def build(
    root: str,
    source: str,
    manifest: dict[str, Any],
    target: str,
    *,
    compression: str = "gzip",
    latest: int | None = None,
    overwrite: bool = False,
    sign_by: str = "",
) -> str:
    """Write the image of a directory or an archive of one to the new file `target`; return its id.

    With `sign_by`, a secret key of the caller's gpg, its detached signature is beside it, in `target`.asc; TrustError when gpg does not.

    Times later than `latest`, in seconds since 1970, become that.  `root` is the state directory, where archives are unpacked
    meanwhile.  UsageError for a target that is not called .aci, ManifestError for the manifest, ArchiveError for the archive,
    ImageError for what no image can hold, StateError when it cannot be written; nothing is left then.
    """
    if not target.endswith(SUFFIX):
        raise UsageError("build image", target, "its name does not end in .aci", hint=f"call it {target}{SUFFIX}")
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    parse_image_manifest(text)
    if os.path.isdir(source):
        return _write(source, text, target, compression, latest, overwrite, signer(target, sign_by))
    with Staging(root, "build") as staging:
        _unpack(source, staging)
        return _write(f"{staging.path}/rootfs", text, target, compression, latest, overwrite, signer(target, sign_by))


def _unpack(source: str, staging: Staging) -> None:
    from pyrun.images import worker
    from pyrun.images.importer import open_image

    with open_image(source) as file:
        worker.run("layer", file.fileno(), staging.fd, Limits(), Policy(), formats=_FORMATS)


def _write(rootfs: str, manifest: bytes, target: str, compression: str, latest: int | None, overwrite: bool, sign: Sign | None) -> str:
    with fresh_signed(target, sign, overwrite=overwrite) as new:
        fd = os.open(new.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            sink = _Sink(fd, compression)
            sink.write(header(b"manifest", size=len(manifest)) + manifest + padding(len(manifest)))
            try:
                _Rootfs(sink.write, latest).tree(rootfs)
            except OSError as error:
                if isinstance(error, PyrunError):
                    raise
                hint = "is every file there readable?"
                raise ImageError("build image of", error.filename or rootfs, errno=error.errno or 0, hint=hint) from None
            sink.write(END)
            sink.close()
        finally:
            os.close(fd)
    return f"sha512-{sink.id.hexdigest()}"


def signer(target: str, key: str) -> Sign | None:
    """Return what writes the detached, armoured signature of the image `target` by a secret key of the caller's gpg; None without a key.

    It takes the path where the image is by then and the signature's, and raises TrustError when gpg does not sign.
    """
    return (lambda image, signature: _sign(target, key, image, signature)) if key else None


def _sign(target: str, key: str, image: str, signature: str) -> None:
    command = [GPG, "--no-tty", "--armor", "--local-user", key, "--digest-algo", "SHA512", "--output", signature, "--detach-sign", image]
    try:
        done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise TrustError("run", GPG, errno=error.errno or 0, hint="install it, on Debian: apt install gpg") from None
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").replace(image, target).strip().splitlines()
        raise TrustError("sign", target, words[-1] if words else "gpg did not sign", hint="see the keys with: gpg --list-secret-keys")
