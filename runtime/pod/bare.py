"""A pod without any image: its root is a directory of the host, or the host's own programs as they are, read-only.

rootfs="/srv/tree"    that directory is the lower one of the pod's overlay: the app may change what it sees, the directory never changes
rootfs="host"         /usr of the host, read-only, with empty directories around it: what bubblewrap is mostly used for
"""

from __future__ import annotations

import errno
import os

from pyrun.errors import ConfigError
from pyrun.images.locks import private_dirs
from pyrun.images.store import Image
from pyrun.pod.binds import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["HOST", "bare_image", "host_root", "stamp"]

HOST = "host"
_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DIRECTORIES = {"etc": 0o755, "usr": 0o755, "home": 0o755, "root": 0o700, "run": 0o755, "var": 0o755, "var/tmp": 0o1777, "tmp": 0o1777}
# What programs below /usr look for outside of it; nothing of it is secret, and links are left out: they lead below /usr anyway.
_MORE = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/ssl/openssl.cnf")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def bare_image(rootfs: str, args: Sequence[str]) -> Image:
    """Return what stands for the image of a pod that has none; it is in no store and needs no signature.

    ConfigError when `rootfs` is neither "host" nor an absolute path of a directory.
    """
    if rootfs != HOST:
        hint = 'name a directory by its absolute path, or rootfs="host" for the host\'s own /usr'
        if not rootfs.startswith("/"):
            raise ConfigError("use root directory", rootfs, "not an absolute path", hint=hint, origin="rootfs")
        if not os.path.isdir(rootfs):
            code = errno.ENOTDIR if os.path.exists(rootfs) else errno.ENOENT
            raise ConfigError("use root directory", rootfs, errno=code, hint=hint, origin="rootfs")
        if any(letter in rootfs for letter in ":,\\\n"):
            reason = "overlayfs takes no colon, comma or backslash in a path"
            raise ConfigError("use root directory", rootfs, reason, hint="rename it, or reach it by a link", origin="rootfs")
    image = Image.__new__(Image)
    image.id = image.blob = ""
    image.kind = "rootfs"
    image.name = rootfs
    image.labels = {}
    image.layers, image.needs, image.blobs = [], [], []
    image.size = image.imported = 0
    image.signature = image.origin = image.judged = None
    image.manifest = {"app": {"exec": [], "name": os.path.basename(rootfs)}} if not args else {"app": {"exec": list(args)}}
    return image


def stamp(rootfs: str) -> tuple[tuple[int, int, int] | None, ...]:
    """What of a root directory decides about a plan, as it is now: users are looked up in its files."""
    return tuple(_stat(rootfs + file) for file in ("", "/etc/passwd", "/etc/group"))


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino, info.st_mtime_ns


def host_root(root: str) -> tuple[str, list[Volume]]:
    """Return the directory around the host's /usr, made below the state directory `root` on first use, and what is mounted into it."""
    links = [(name, os.readlink("/" + name)) for name in _LINKS if os.path.islink("/" + name)]
    name = "host-" + "-".join(name for name, _ in links)
    path = f"{root}/cache/{name}"
    if not os.path.isdir(path):
        _make(f"{root}/cache", name, links)
    own = [f"/{name}" for name in _LINKS if os.path.isdir("/" + name) and not os.path.islink("/" + name)]
    wanted = ["/usr", *own, *[one for one in _MORE if os.path.exists(one) and not os.path.islink(one)]]
    return path, [Volume(one, source=one, read_only=True) for one in wanted]


def _make(parent: str, name: str, links: list[tuple[str, str]]) -> None:
    """Complete or not at all: made beside its place and renamed."""
    private_dirs(parent)
    made = f"{parent}/{name}.{os.getpid()}.{os.urandom(4).hex()}"
    os.mkdir(made, 0o755)
    os.chmod(made, 0o755)
    for directory, mode in _DIRECTORIES.items():
        os.mkdir(f"{made}/{directory}")
        os.chmod(f"{made}/{directory}", mode)
    for link, target in links:
        os.symlink(target, f"{made}/{link}")
    for file, text in _FILES.items():
        fd = os.open(f"{made}/{file}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    try:
        os.rename(made, f"{parent}/{name}")
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        from pyrun.images.remove import remove_tree  # somebody else was first

        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, os.fsencode(os.path.basename(made)))
        finally:
            os.close(fd)
