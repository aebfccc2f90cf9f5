"""The network of a user's pod: pasta(1) or, where that is not there, slirp4netns(1), a process for each pod.

    attach   ports taken -> a namespace -> the process, which has an interface in it and speaks for it in the host's -> `net`
    detach   the process ended, ports given back

It opens a connection or a port of the host for each one of the pod, as any program of the user's would.  It wants a path of the
namespace, which is mounted for it in a mount namespace of its own, where Debian's AppArmor profile lets pasta read one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pyrun import native
from pyrun.errors import ConfigError, HostError
from pyrun.images import fastjson
from pyrun.net import leases, networks, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Port = tuple[str, str, int, int]

__all__ = ["attach", "detach"]

_PATIENCE = 20.0  # seconds
_PID, _SOCKET = "net.pid", "net.sock"  # in the pod's directory
_PIN = "/run/user/0/netns/pod"
_MOUNT = f'mount -t tmpfs tmpfs "$([ -d /run/user ] && echo /run/user || echo /run)" && mkdir -p {os.path.dirname(_PIN)} && : >{_PIN}'
_PROGRAMS = ("pasta", "slirp4netns")
_SLIRP_ADDRESS = "10.0.2.100"  # the pod's, as slirp4netns --configure gives it


def attach(root: str, uuid: str, pod: int, want: dict[str, Any], record: dict[str, Any]) -> int:
    """Make the network of the pod whose directory is `pod`; return its namespace, a descriptor.  Errors leave the rest to `detach`."""
    program = next((one for one in _PROGRAMS if _find(one)), "")
    if not program:
        hint = "apt-get install passt (or slirp4netns), or use --net none or host"
        reason = "without root that takes pasta or slirp4netns, and neither is there"
        raise HostError("make a network", "", reason, hint=hint, origin="--net")
    record.update(kind="user", program=program)
    _check(program, want["ports"])
    with networks.Lock(root):
        _claim(root, uuid, want["ports"], record)
        _note(pod, record)
    ns, sock = native.netns()
    os.close(sock)
    try:
        pid = _pasta(pod, ns, want["ports"]) if program == "pasta" else _slirp(pod, ns, want["ports"])
        record["process"] = [pid, _started(pid)]
        record["forwards"] = [[protocol, address, port, "", inside] for protocol, address, port, inside in want["ports"]]
        _note(pod, record)
    except BaseException:
        os.close(ns)
        raise
    return ns


def detach(root: str, uuid: str, pod: int, record: dict[str, Any]) -> None:
    """End the process and give the ports back; what is gone already is passed over."""
    pid, started = record.get("process") or (_written(pod), 0)
    if pid and started in (0, _started(pid)):
        with contextlib.suppress(ProcessLookupError):
            _end(pid, started)
    with networks.Lock(root):
        for claim in record["claims"]:
            if leases.owner_of(f"{root}/networks/{claim}") == uuid:
                leases.release(f"{root}/networks/{claim}", uuid)
    for name in (_PID, _SOCKET, "net"):
        leases.unlink(name, dir_fd=pod)


def _find(name: str) -> bool:
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in os.environ.get("PATH", os.defpath).split(":"))


def _check(program: str, wanted: list[Port]) -> None:
    for protocol, address, port, _ in wanted:
        if protocol == "sctp" or (program != "pasta" and ":" in address):
            what = f"{address}:{port}/{protocol}" if address else f"{port}/{protocol}"
            reason = f"{program} forwards no {'sctp' if protocol == 'sctp' else 'IPv6'}"
            hint = "use tcp or udp" if protocol == "sctp" else "apt-get install passt, which does"
            raise ConfigError("forward port", what, reason, hint=hint, origin="--port")


def _claim(root: str, uuid: str, wanted: list[Port], record: dict[str, Any]) -> None:
    try:
        ports.claim(root, uuid, wanted, record)
    except PermissionError:
        port = min(port for _, _, port, _ in wanted)
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            first = file.read().strip()
        hint = f"choose one from {first} on, or sysctl net.ipv4.ip_unprivileged_port_start={port}"
        raise ConfigError("forward port", str(port), f"below {first} ports are root's", hint=hint, origin="--port") from None


def _note(pod: int, record: dict[str, Any]) -> None:
    fd = os.open("net.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=pod)
    try:
        os.write(fd, fastjson.dumps(record).encode())
    finally:
        os.close(fd)
    os.rename("net.new", "net", src_dir_fd=pod, dst_dir_fd=pod)


def _run(pod: int, ns: int, words: list[str], tail: str = "", fds: tuple[int, ...] = ()) -> tuple[int, str]:
    """Run a program where _PIN is the namespace; its status and the last line that it wrote."""
    import subprocess
    import tempfile

    script = f'{_MOUNT} && mount --bind /proc/self/fd/{ns} {_PIN} && "$@" {tail}'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *words]
    with tempfile.TemporaryFile() as said:  # not a pipe, which the process would hold open
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(ns, *fds), cwd=f"/proc/self/fd/{pod}",
                timeout=_PATIENCE, start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, str(error)
        said.seek(0)
        lines = said.read(65536).decode("utf-8", "replace").strip().splitlines()
    return done.returncode, next((line for line in reversed(lines) if line.strip()), "")


def _pasta(pod: int, ns: int, wanted: list[Port]) -> int:
    words = ["pasta", "--config-net", "--quiet", "--no-map-gw", "--netns-only", "--no-netns-quit", "--pid", _PID, "--netns", _PIN]
    for protocol, flag in (("tcp", "-t"), ("udp", "-u")):
        mine = [f"{address + '/' if address else ''}{port}:{inside}" for kind, address, port, inside in wanted if kind == protocol]
        for spec in mine or ["none"]:
            words += [flag, spec]
    status, said = _run(pod, ns, [*words, "-T", "none", "-U", "none"])
    if status:
        raise _failed("pasta", said)
    return _written(pod)


def _slirp(pod: int, ns: int, wanted: list[Port]) -> int:
    ready, told = os.pipe()
    try:
        words = ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path", f"--ready-fd={told}"]
        status, said = _run(pod, ns, [*words, f"--api-socket={_SOCKET}", _PIN, "tap0"], f"& echo $! >{_PID}", (told,))
        os.close(told)
        told = -1
        if status or os.read(ready, 1) != b"1":
            raise _failed("slirp4netns", said)
    finally:
        for fd in (ready, told):
            if fd >= 0:
                os.close(fd)
    for protocol, address, port, inside in wanted:
        _forward(pod, protocol, address or "0.0.0.0", port, inside)
    return _written(pod)


def _forward(pod: int, protocol: str, address: str, port: int, inside: int) -> None:
    """By slirp4netns' own socket, see its manual page."""
    import _socket

    given = {"proto": protocol, "host_addr": address, "host_port": port, "guest_addr": _SLIRP_ADDRESS, "guest_port": inside}
    asked = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        asked.connect(f"/proc/self/fd/{pod}/{_SOCKET}")
        asked.send(fastjson.dumps({"execute": "add_hostfwd", "arguments": given}).encode())
        asked.shutdown(_socket.SHUT_WR)
        answer = asked.recv(4096).decode("utf-8", "replace")
    finally:
        asked.close()
    if '"error"' in answer:
        reason = f"slirp4netns: {answer.strip()}"
        raise ConfigError("forward port", f"{address}:{port}", reason, hint="choose another port", origin="--port")


def _failed(program: str, said: str) -> HostError:
    hint = "it needs an interface with a default route, and /dev/net/tun open for everybody; or use --net none or host"
    return HostError("make a network", "", f"{program}: {said or 'it failed'}", hint=hint, origin="--net")


def _written(pod: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fd/{pod}/{_PID}", encoding="ascii") as file:
        return int(file.read())
    return 0


def _started(pid: int) -> int:
    """When a process started, in clock ticks (proc(5), field 22 of stat); 0 when it is gone."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read(4096).rpartition(b")")[2].split()[19])
    return 0


def _end(pid: int, started: int) -> None:
    import select

    held = os.pidfd_open(pid)
    try:
        if started in (0, _started(pid)):
            signal.pidfd_send_signal(held, signal.SIGTERM)
            poll = select.poll()
            poll.register(held, select.POLLIN)
            end = time.monotonic() + _PATIENCE / 10
            if not poll.poll(max(0, end - time.monotonic()) * 1000):
                signal.pidfd_send_signal(held, signal.SIGKILL)
    finally:
        os.close(held)
