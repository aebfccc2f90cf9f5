"""The network of another pod, or one that somebody else has made and given a path (ip-netns(8), NetworkNamespacePath= of units)."""

from __future__ import annotations

import errno
import os

from pyrun.errors import ConfigError, StateError, UsageError

__all__ = ["open_namespace"]


def open_namespace(root: str, join: str) -> int:
    """Return a descriptor of the network namespace that `container:POD` or `ns:/PATH` names."""
    kind, _, name = join.partition(":")
    if kind == "ns":
        return _by_path(name)
    from pyrun.pod.live import find_live
    from pyrun.pod.names import resolve
    from pyrun.pod.state import Pods

    pods = Pods(root)
    phase, uuid = resolve(pods, name)
    if phase != "running":
        raise StateError("share the network of pod", uuid, f"it is {phase}", hint="start it first")
    with find_live(pods, uuid) as live:
        ns = os.open(f"/proc/{live.init}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            import signal

            signal.pidfd_send_signal(live.init_fd, 0)  # it lives, so that was its namespace
            if os.fstat(ns).st_ino == os.stat("/proc/self/ns/net").st_ino:
                hint = "write --net host if that is what is wanted"
                raise ConfigError("share the network of pod", uuid, "it has the host's", hint=hint, origin="--net")
        except ProcessLookupError:
            os.close(ns)
            raise StateError("share the network of pod", uuid, "it has just ended", hint="see `pyrun list`") from None
        except BaseException:
            os.close(ns)
            raise
    return ns


def _by_path(path: str) -> int:
    if not path.startswith("/"):
        raise UsageError("option --net", f"ns:{path}", "not an absolute path", hint="write ns:/run/netns/NAME")
    try:
        ns = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        hint = "`ip netns add NAME` makes /run/netns/NAME"
        raise ConfigError("join the network namespace", path, errno=error.errno or errno.EIO, hint=hint, origin="--net") from None
    from pyrun.net.pin import is_network

    if not is_network(ns):
        os.close(ns)
        raise ConfigError("join the network namespace", path, "that is something else", hint="name a file as in /run/netns", origin="--net")
    return ns
