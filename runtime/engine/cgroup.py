"""The pod's own cgroup (cgroups(7), version 2), below the one that pyrun itself runs in.

Below, not beside: a unit's or a session's limits and accounting then hold for the pod as well.
The pod is cloned into it (CLONE_INTO_CGROUP) and the supervisor stays outside and removes it.
"""

from __future__ import annotations

import os

from pyrun.host import CGROUP_ROOTS

__all__ = ["create", "name_of", "open_existing", "remove", "remove_version_1"]


def name_of(uuid: str) -> str:
    """Return the name of a pod's cgroup directory."""
    return "pyrun-" + uuid


def create(above: str, uuid: str) -> tuple[int, int]:
    """Make the pod's cgroup below the directory `above` and return descriptors of that and of itself; (-1, -1) where none can be made.

    A host without cgroup2, a read-only or a foreign tree is no error as long as nothing is to be limited.
    """
    if not above:
        return -1, -1
    try:
        parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1, -1
    try:
        os.mkdir(name_of(uuid), 0o755, dir_fd=parent)
        return parent, os.open(name_of(uuid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        os.close(parent)
        return -1, -1


def open_existing(path: str) -> int:
    """Return a descriptor of the cgroup directory `path` of a running pod; OSError when it is gone."""
    return os.open(path if os.path.exists(path) else _elsewhere(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def remove(path: str) -> bool:
    """Kill what is in the cgroup directory `path` and remove it; True when it is gone.

    For pods whose supervisor died: their processes are dead or dying, killed with their pid 1.
    """
    import time

    if not os.path.exists(path):
        path = _elsewhere(path)
    for _ in range(100):
        try:
            os.rmdir(path)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            _kill(path)
            _remove_below(path)
            time.sleep(0.01)
    return False


def remove_version_1(path: str) -> None:
    """Remove a cgroup of version 1, with those of apps below, in which nobody lives any more; best effort: what dies just now keeps
    it for a moment.
    """
    import contextlib
    import time

    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(path)
            except PermissionError:
                return
            except OSError:
                _remove_below(path)
                time.sleep(0.01)
                continue
        return


def _remove_below(path: str) -> None:
    """The groups of a pod's apps; those that are still busy stay."""
    import contextlib

    for top, names, _ in os.walk(path, topdown=False):
        for name in names:
            with contextlib.suppress(OSError):
                os.rmdir(f"{top}/{name}")


def _elsewhere(path: str) -> str:
    """The same cgroup where another mount namespace, or a host that was reconfigured, shows the hierarchy."""
    pure, hybrid = CGROUP_ROOTS
    return pure + path[len(hybrid) :] if path.startswith(hybrid + "/") else hybrid + path[len(pure) :]


def _kill(path: str) -> None:
    try:
        fd = os.open(path + "/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"1")
    except OSError:
        pass
    finally:
        os.close(fd)
