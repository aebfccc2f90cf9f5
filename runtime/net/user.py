"""The network of a user's pod: pasta(1) or, where that is not there, slirp4netns(1), a process for each pod.

    attach   ports taken -> a namespace -> the process, which has an interface in it and speaks for it in the host's -> a relay for
             what comes in by ports (pyrun.net.relay) -> `net`
    detach   the processes ended, ports given back

It opens a connection of the host for each one of the pod, as any program of the user's would.  Ports are not left to it: the pasta of
2023 completes no connection before the client has said something, and brings no answer to datagrams from the host itself;
slirp4netns forwards IPv4 alone.  It wants a path of the namespace, which is mounted for it in a mount namespace of its own,
where Debian's AppArmor profile lets pasta read one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pyrun import native
from pyrun.errors import ConfigError, HostError
from pyrun.images import fastjson
from pyrun.net import leases, networks, ports, relay, rules
from pyrun.net.processes import end, started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

    Port = tuple[str, str, int, int]
    Held = tuple[int, int]

__all__ = ["attach", "begin", "command", "detach", "forwards"]

_PATIENCE = 20.0  # seconds
_PID = "net.pid"  # in the pod's directory
_PIN = "/run/user/0/netns/pod"
_MOUNT = f'mount -t tmpfs tmpfs "$([ -d /run/user ] && echo /run/user || echo /run)" && mkdir -p {os.path.dirname(_PIN)} && : >{_PIN}'
_PROGRAMS = ("slirp4netns", "pasta")  # the first takes no default route of the host
_PASTA = ["pasta", "--config-net", "--quiet", "--no-map-gw", "--netns-only", "--no-netns-quit", "--pid", _PID, "--netns", _PIN]
_PASTA += ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
_SLIRP = [
    "slirp4netns",
    "--configure",
    "--mtu=65520",
    "--disable-host-loopback",
    "--netns-type=path",
    "--enable-sandbox",
    "--enable-seccomp",
]


def attach(root: str, uuid: str, pod: int, want: dict[str, Any], record: dict[str, Any], held: Held | None = None) -> int:
    """Make the network of the pod whose directory is `pod`; return its namespace, a descriptor.  Errors leave the rest to `detach`.

    `held` are descriptors of the user and the network namespace of a pod that has them already; without it this process is root of
    the user namespace in which the pod will be.
    """
    program = begin(want, record)
    with networks.Lock(root):
        _claim(root, uuid, want["ports"], record)
        _note(pod, record)
    if held is None:
        ns, sock = native.netns()
        os.close(sock)
        users = -1
    else:
        users, ns = held[0], os.dup(held[1])
    try:
        make = _pasta if program == "pasta" else _slirp
        pid = make(pod, users, ns)
        record["process"] = [pid, started(pid)]
        if not record["process"][1]:
            raise _failed(program, "it ended at once")
        relay.enter(want["ports"], record, pid, ns, users)
        record["forwards"] = forwards(want)
        _note(pod, record)
    except BaseException:
        os.close(ns)
        raise
    return ns


def detach(root: str, uuid: str, pod: int, record: dict[str, Any]) -> None:
    """End the process and give the ports back; what is gone already is passed over."""
    if "relay" in record:
        relay.stop(record)
    pid, when = record.get("process") or (_written(pod), 0)
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the number is somebody else's by now
            end(pid, lambda: started(pid) == when if when else _wrote(pod, pid, record["program"]))
    with networks.Lock(root):
        for claim in record["claims"]:
            if leases.owner_of(f"{root}/networks/{claim}") == uuid:
                leases.release(f"{root}/networks/{claim}", uuid)
    for name in (_PID, "net"):
        leases.unlink(name, dir_fd=pod)


def begin(want: dict[str, Any], record: dict[str, Any]) -> str:
    """Put down what makes the network, and return its name; HostError where nothing is there for that, ConfigError for ports of sctp."""
    program = next((one for one in _PROGRAMS if _find(one)), "")
    if not program:
        hint = "apt-get install passt (or slirp4netns), or use --net none or host"
        reason = "without root that takes pasta or slirp4netns, and neither is there"
        raise HostError("make a network", "", reason, hint=hint, origin="--net")
    record.update(kind="user", program=program)
    _check(want["ports"])
    return program


def forwards(want: dict[str, Any]) -> list[list[object]]:
    """Return which ports lead to the pod, as the record has it."""
    return [[protocol, address, port, "", inside] for protocol, address, port, inside in want["ports"]]


def command(program: str, ns: int, told: int) -> list[str]:
    """Return the command that starts it where _PIN is the namespace, a descriptor; slirp4netns says on `told` that it is ready.

    Without a tail the shell would become the program.
    """
    words, tail = _PASTA, "; exit $?"
    if program == "slirp4netns":
        words, tail = [*_SLIRP, f"--ready-fd={told}", _PIN, "tap0"], f"& echo $! >{_PID}"
    script = f'{_MOUNT} && mount --bind /proc/self/fd/{ns} {_PIN} && "$@" </dev/null {tail}'
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", *words]


def _find(name: str) -> bool:
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in os.environ.get("PATH", os.defpath).split(":"))


def _check(wanted: list[Port]) -> None:
    for protocol, address, port, _ in wanted:
        if protocol == "sctp":
            what = f"{address}:{port}/{protocol}" if address else f"{port}/{protocol}"
            raise ConfigError("forward port", what, "without root no sctp is forwarded", hint="use tcp or udp", origin="--port")


def _claim(root: str, uuid: str, wanted: list[Port], record: dict[str, Any]) -> None:
    dead: list[str] = []
    try:
        ports.claim(root, uuid, wanted, record, dead)
    except PermissionError:
        port = min(port for _, _, port, _ in wanted)
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="ascii") as file:
            first = file.read().strip()
        hint = f"choose one from {first} on, or sysctl net.ipv4.ip_unprivileged_port_start={port}"
        raise ConfigError("forward port", str(port), f"below {first} ports are root's", hint=hint, origin="--port") from None
    finally:
        rules.clear(root, dead)


def _note(pod: int, record: dict[str, Any]) -> None:
    fd = os.open("net.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=pod)
    try:
        os.write(fd, fastjson.dumps(record).encode())
    finally:
        os.close(fd)
    os.rename("net.new", "net", src_dir_fd=pod, dst_dir_fd=pod)


def _run(pod: int, users: int, ns: int, program: str, said: IO[bytes], told: int = -1) -> int:
    """Run `command` in the user namespace `users` (-1: this one); its status.

    `said`, what it writes, is no pipe, which the process would hold open.

    The shell has the pod's directory, and its lock with it: should this process be killed, nobody takes the pod for dead before
    _PID says what there is to end.
    """
    import subprocess

    words, fds = command(program, ns, told), ((told,) if told >= 0 else ())
    if users >= 0:  # whose maker has every capability in it (user_namespaces(7))
        words = ["nsenter", "--preserve-credentials", f"--user=/proc/self/fd/{users}", *words]
        fds = (*fds, users)
    try:
        child = subprocess.Popen(
            words, stdin=pod, stdout=said, stderr=said, pass_fds=(ns, *fds), cwd=f"/proc/self/fd/{pod}", start_new_session=True
        )
    except OSError as error:
        said.write(str(error).encode())
        return 1
    try:
        return child.wait(_PATIENCE)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        said.write(f"\n{program} was not ready in time".encode())
        return 1


def _last(said: IO[bytes]) -> str:
    """The last line that is neither empty nor a warning."""
    said.seek(0)
    lines = [line.strip() for line in said.read(65536).decode("utf-8", "replace").splitlines()]
    told = [line for line in lines if line and not line.startswith(("WARNING", "child failed", "parent failed"))]
    return (told or [""])[-1]


def _pasta(pod: int, users: int, ns: int) -> int:
    import tempfile

    with tempfile.TemporaryFile() as said:
        if _run(pod, users, ns, "pasta", said):
            raise _failed("pasta", _last(said))
    return _written(pod)


def _slirp(pod: int, users: int, ns: int) -> int:
    import select
    import tempfile

    ready, told = os.pipe()
    with open(ready, "rb", buffering=0) as pipe, tempfile.TemporaryFile() as said:
        try:
            status = _run(pod, users, ns, "slirp4netns", said, told)
        finally:
            os.close(told)
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        if status or not poll.poll(_PATIENCE * 1000) or pipe.read(1) != b"1":
            raise _failed("slirp4netns", _last(said))
    return _written(pod)


def _failed(program: str, said: str) -> HostError:
    hint = "it needs an interface with a default route, and /dev/net/tun open for everybody; or use --net none or host"
    return HostError("make a network", "", f"{program}: {said or 'it failed'}", hint=hint, origin="--net")


def _written(pod: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fd/{pod}/{_PID}", encoding="ascii") as file:
        return int(file.read())
    return 0


def _wrote(pod: int, pid: int, program: str) -> bool:
    """Whether a process of which only _PID tells is the one that was meant: no other program, and none that began later.

    The shell that is about to become the program has its words.
    """
    try:
        said = _words(pid)
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read()
        written = os.stat(_PID, dir_fd=pod).st_mtime
    except OSError:
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - started(pid) / os.sysconf("SC_CLK_TCK")
    meant = _PIN.encode() in said or name.startswith(("pasta", "passt") if program == "pasta" else program)
    return meant and time.time() - age < written + 1


def _words(pid: int) -> bytes:
    """Its command line; for a moment of execve(2) there is none, and a zombie never has one."""
    for _ in range(20):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if said := file.read():
                return said
        time.sleep(0.01)
    return b""
