"""What a host gets once: the generator that boots its pods from files, and a timer that removes what ended.

systemd.generator(7): a generator runs early at boot and at each daemon-reload, before any file system but the root is sure
to be there, and writes units into a directory in memory.  It is a shell script of a few lines; where there are no files
it ends without Python.
"""

from __future__ import annotations

import contextlib
import errno
import os

from pyrun.errors import StateError
from pyrun.service.words import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyrun.service.unit import Unit

__all__ = ["POD_DIRS", "files_for_host", "pod_files", "tell_kernel", "write_files", "write_units"]

POD_DIRS = ("/etc/pyrun/pods.d", "/run/pyrun/pods.d", "/usr/local/lib/pyrun/pods.d", "/usr/lib/pyrun/pods.d")
_SUFFIX = ".pod"
_KMSG = "/dev/kmsg"
_LONGEST = 900  # bytes of a line: the kernel refuses one of 1024 and more

_GENERATOR = """\
#!/bin/sh
# Written by `pyrun systemd install`: units for the pods that {dirs} describe.
for file in {globs}; do
    [ -e "$file" ] && exec {command} systemd units --kmsg --into "$1"
done
exit 0
"""

_GC_SERVICE = """\
[Unit]
Description=Remove ended pods and what crashed runs left behind
Documentation=man:pyrun-gc(1)

[Service]
Type=oneshot
ExecStart={command}
Nice=10
IOSchedulingClass=idle
"""

_METADATA_SOCKET = """\
[Unit]
Description=Metadata service for pods
Documentation=man:pyrun-metadata(1)

[Socket]
ListenSequentialPacket={path}
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"""

_METADATA_SERVICE = """\
[Unit]
Description=Metadata service for pods
Documentation=man:pyrun-metadata(1)

[Service]
ExecStart={command}
PrivateNetwork=yes
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=strict
ReadWritePaths={root}
NoNewPrivileges=yes
MemoryMax=256M
"""

_GC_TIMER = """\
[Unit]
Description=Remove ended pods and what crashed runs left behind, once an hour
Documentation=man:pyrun-gc(1)

[Timer]
OnBootSec=5min
OnUnitInactiveSec=1h
RandomizedDelaySec=5min

[Install]
WantedBy=timers.target
"""


def files_for_host(program: str, root: str) -> dict[str, tuple[str, int]]:
    """Path below the destination -> (content, mode), of all that a host gets for one `program` and state directory."""
    command = [program, "--root", root]
    shell = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    generator = _GENERATOR.format(command=shell, dirs=", ".join(POD_DIRS), globs=" ".join(f"{path}/*{_SUFFIX}" for path in POD_DIRS))
    units = "/usr/local/lib/systemd/system"
    return {
        "/usr/local/lib/systemd/system-generators/pyrun": (generator, 0o755),
        f"{units}/pyrun-gc.service": (_GC_SERVICE.format(command=join([*command, "gc"])), 0o644),
        f"{units}/pyrun-gc.timer": (_GC_TIMER, 0o644),
        f"{units}/pyrun-metadata.socket": (_METADATA_SOCKET.format(path=f"{root}/metadata.sock".replace("%", "%%")), 0o644),
        f"{units}/pyrun-metadata.service": (
            _METADATA_SERVICE.format(command=join([*command, "metadata"]), root=root.replace("%", "%%")),
            0o644,
        ),
    }


def pod_files(folders: Iterable[str] = POD_DIRS) -> list[str]:
    """The files that describe pods, by name; of two with one name the one in the earlier directory counts, as with units.

    A link to /dev/null hides the ones behind it.
    """
    found: dict[str, str] = {}
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(folder):
                if name.endswith(_SUFFIX) and name[0] != ".":
                    found.setdefault(name, f"{folder}/{name}")
    return [found[name] for name in sorted(found) if os.path.realpath(found[name]) != "/dev/null"]


def tell_kernel(text: str) -> None:
    """Write a printable line with the priority err to the kernel's log, from where the journal takes it; nothing where that is not allowed.

    systemd.generator(7): a generator has no journal yet, and what it writes to standard error is lost after the boot.
    """
    line = f"<3>pyrun: {text}".encode("utf-8", "replace")[:_LONGEST] + b"\n"
    with contextlib.suppress(OSError):
        fd = os.open(_KMSG, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            os.write(fd, line)  # in one piece: the kernel takes each write for a message
        finally:
            os.close(fd)


def write_units(folder: str, units: Iterable[Unit]) -> list[str]:
    """Write units into a directory, with the links that start them at boot; returns the paths written."""
    written = []
    for unit in units:
        written.append(_write(f"{folder}/{unit.name}", unit.text, 0o644))
        for target in unit.wants:
            link = f"{folder}/{target}/{unit.name}"
            try:
                os.makedirs(os.path.dirname(link), exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.symlink(f"../{unit.name}", link)
            except OSError as error:
                raise _failed(link, error) from None
    return written


def write_files(destination: str, files: dict[str, tuple[str, int]]) -> list[str]:
    """Write files below a directory ("" for the host itself); returns the paths written."""
    return [_write(destination + path, text, mode) for path, (text, mode) in files.items()]


def _write(path: str, text: str, mode: int) -> str:
    """One file, whole or not at all."""
    new = f"{path}.new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(new, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        os.rename(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise _failed(path, error) from None
    return path


def _failed(path: str, error: OSError) -> StateError:
    denied = error.errno in (errno.EACCES, errno.EPERM) and os.geteuid()
    return StateError("write", path, errno=error.errno or 0, hint=f"{'run as root, or ' if denied else ''}write to another directory")
