"""A pod's network, from its options to a namespace that its supervisor gets: the part that knows pods, above pyrun.net."""

from __future__ import annotations

import os

from pyrun.errors import ConfigError, PyrunError, StateError, UsageError
from pyrun.images import fastjson
from pyrun.net import pin, relay
from pyrun.net.attach import attach, detach, make_ready, own_hosts, read_record
from pyrun.net.script import FILE, write_down
from pyrun.net.want import want_of
from pyrun.pod import starter
from pyrun.pod.state import lock, read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.engine.launch import Supervisor
    from pyrun.images.store import Image
    from pyrun.plan.config import Config
    from pyrun.pod.options import Options
    from pyrun.pod.state import Pods

__all__ = ["SLOT", "connect", "connect_ahead", "connect_waiting", "join_of", "prepare_network", "release", "take_network", "wanted"]

SLOT = 9  # SLOT_NETWORK of native/plan.h, where the keeper finds the namespace


def wanted(options: Options, images: list[Image], config: Config) -> dict[str, Any]:
    """Return what `connect` is to make of these options; UsageError for what has no meaning, ConfigError without root."""
    declared = []
    for image in images:
        app = image.manifest.get("app")
        declared += list(app.get("ports") or []) if isinstance(app, dict) else []
    if config.inner:
        return _of_user(options, declared, config)
    if join_of(options) and (options.net_isolate or options.net_bandwidth or options.net_ahead):
        option = "--net-isolate" if options.net_isolate else "--net-bandwidth" if options.net_bandwidth else "--net-ahead"
        hint = "say it of the pod that the network belongs to"
        raise UsageError(f"option {option}", "", "is for a network that is made for this pod", hint=hint)
    want = want_of([options.net] if isinstance(options.net, str) else options.net, options.port, declared)
    names = [name for name in (options.pod_name, options.hostname) if name and name != "localhost"]
    want["names"] = list(dict.fromkeys(names))
    want["hostname"] = config.hostname
    if config.hosts_bound:
        want["hosts"] = config.hosts
    want["isolate"] = options.net_isolate
    want["ahead"] = options.net_ahead
    if config.bandwidth:
        want["bandwidth"] = config.bandwidth
    return want


def _of_user(options: Options, declared: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """One network, by a process of the user's; see `pyrun.net.user`."""
    nets = [options.net] if isinstance(options.net, str) else options.net
    plain = [word for net in nets for word in net.split(",")] in ([], ["default"])
    flags = (("--net-isolate", options.net_isolate), ("--net-bandwidth", config.bandwidth), ("--net-ahead", options.net_ahead))
    given = next((flag for flag, value in flags if value), "")
    if not plain or given:
        what = given or "--net " + ",".join(nets)
        hint = "use --net default, none or host, or run it as root"
        raise ConfigError("make a network", what, "that takes root: interfaces and rules are the host's", hint=hint, origin="--net")
    want = want_of([], options.port, declared)
    want.update(user=True, join="", names=[], hostname=config.hostname, **({"hosts": config.hosts} if config.hosts_bound else {}))
    return want


def join_of(options: Options) -> bool:
    """Whether the network is another pod's, or one with a path."""
    nets = [options.net] if isinstance(options.net, str) else options.net
    return any(word.startswith(("container:", "pod:", "ns:")) for net in nets for word in net.split(","))


def connect(root: str, uuid: str, pod: int, want: dict[str, Any]) -> int:
    """Make what is wanted for the pod whose directory is `pod`; return its network namespace, a descriptor."""
    if not want["join"]:
        return attach(root, uuid, pod, want)
    from pyrun.pod.joined import open_namespace

    ns = open_namespace(root, want["join"])
    own_hosts(root, uuid, pod, want, {"nets": []})
    return ns


def prepare_network(root: str, uuid: str, pod: int, want: dict[str, Any], *, lasting: bool = True) -> None:
    """Write down what a prepared pod wants, and where it can be how that is made: native/joined.c finds or makes it without Python.

    Of a network what its pods have in common is made now.
    """
    from pyrun.pod.prepare import write

    write(pod, "net.want", fastjson.dumps(want).encode())
    kind, _, name = want["join"].partition(":")
    if kind in ("container", "pod") or name.startswith("/"):
        own_hosts(root, uuid, pod, want, {"nets": []})
        write(pod, "net.join", os.fsencode(name if kind == "ns" else f"container:{name}"))
        return
    if want["join"]:
        raise UsageError("option --net", f"ns:{name}", "not an absolute path", hint="write ns:/run/netns/NAME")
    if not want.get("user"):
        make_ready(root, want)
    if script := write_down(root, uuid, want, lasting=lasting):
        write(pod, FILE, script)


def connect_ahead(root: str, uuid: str, pod: int, want: dict[str, Any]) -> None:
    """Make the network of a pod that stands prepared, locked, if it wants it at once, and keep it for native/joined.c.

    On an error nothing of it is left.
    """
    if not want.get("ahead"):
        return
    ns = connect(root, uuid, pod, want)
    try:
        from pyrun.pod.prepare import write

        if made := read_record(pod).get("relay"):
            write(pod, "net.relay", " ".join(map(str, made)).encode())
        pin.pin(root, uuid, ns)
        write(pod, "net.join", os.fsencode(pin.path_of(root, uuid)))
    except BaseException:
        release(root, uuid, pod)
        raise
    finally:
        os.close(ns)


def connect_waiting(pods: Pods, uuid: str, pod: int, want: dict[str, Any], supervisor: Supervisor) -> None:
    """Make what is wanted for a pod that was started with PLAN_WAIT, by the namespaces that its supervisor holds, and let it go on.

    On an error the pod is gone.
    """
    if supervisor.next_report() is None:
        supervisor.wait()  # says so
    try:
        _connect_inside(pods.root, uuid, pod, want, supervisor.pid)
    except BaseException:
        supervisor.close()
        raise
    supervisor.go_on()


def _connect_inside(root: str, uuid: str, pod: int, want: dict[str, Any], supervisor: int) -> None:
    from pyrun.native._native import lib

    fds: list[int] = []
    try:
        for kind in (lib.NAMESPACE_USER, lib.NAMESPACE_NET):
            fds.append(os.open(f"/proc/{supervisor}/fd/{lib.SLOT_NAMESPACES + kind}", os.O_RDONLY | os.O_CLOEXEC))
        fds.append(attach(root, uuid, pod, want, (fds[0], fds[1])))
    except OSError as error:
        if isinstance(error, PyrunError):
            raise
        raise StateError("make the network of pod", uuid, errno=error.errno or 0, hint="has it been killed meanwhile?") from None
    finally:
        for fd in fds:
            os.close(fd)


def take_network(pods: Pods, uuid: str) -> int:
    """Make the network of a prepared pod, unless it was made ahead; its namespace, or -1 where it has none of its own.

    StateError when somebody else starts it.
    """
    try:
        pod = os.open(f"prepared/{uuid}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=pods.fd)
    except OSError:
        return -1  # the keeper says so
    try:
        want = read_json(pod, "net.want")
        if not want:
            return -1
        if not lock(pod) or not os.path.isdir(f"{pods.path}/prepared/{uuid}"):
            raise starter.taken(uuid)
        if starter.claim(pod, uuid):  # whoever did was killed before there was a keeper
            release(pods.root, uuid, pod)
        try:
            ahead = pin.open_pinned(pods.root, uuid) if relay.lives(read_record(pod)) else -1
            return ahead if ahead >= 0 else connect(pods.root, uuid, pod, want)
        except BaseException:
            starter.give_up(pod)
            raise
    finally:
        os.close(pod)  # and its lock, which the keeper takes


def release(root: str, uuid: str, pod: int) -> None:
    """Take back what the network of a pod that has ended has in the host; `pod` is its directory."""
    detach(root, uuid, pod)
