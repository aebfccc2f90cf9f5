"""The process that serves the metadata of all pods of one state directory: there is one while a pod wants it, and none else.

    metadata.sock        pods come here, each with a connection that stays open as long as it runs (native/metadata.c)
    a socket in a pod    made by the pod's init in the pod's own network and sent here; who connects there is of that pod

So a pod cannot even ask for another's data: its socket leads to its own.  Each pod is served by a few threads at a time, whatever
it sends, and the next connection is taken from each pod in turn.  Once it listens the process has no capabilities and may
not open sockets, execute or fork; it reads what pods send, so it must be nobody worth taking over.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import io
import os
import resource
import selectors
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from pyrun.errors import PyrunError
from pyrun.images import callfilter
from pyrun.images.locks import private_dirs
from pyrun.pod.metadata import socket_path
from pyrun.service.metadata import Facts, answer, host_key

__all__ = ["main"]

AT_ONCE = 4  # connections of one pod that are served at a time
_IDLE = 2.0  # seconds without any pod, then it ends
_PATIENCE = 2.0  # seconds that a client has for its request, all of it
_LONGEST = 1 << 20  # bytes of a form
_LISTEN_FDS = 3  # sd_listen_fds(3)


_NO_SERVER: Any = None  # which BaseHTTPRequestHandler does not ask


class _Request(io.RawIOBase):
    """What a client sends until its time is up, however it is cut into pieces."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._end = time.monotonic() + _PATIENCE

    def readable(self) -> bool:
        """Of io.RawIOBase."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Of io.RawIOBase; TimeoutError when the time is up."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One request of a pod: HTTP/1.0, so that no client keeps a thread."""

    pod: Pod
    key: bytes

    def setup(self) -> None:
        """Of socketserver.StreamRequestHandler, which gives each piece of a request a time of its own."""
        super().setup()
        self.rfile = io.BufferedReader(_Request(self.connection))

    def reply(self) -> None:
        """Answers whatever the method is."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or len(length) > 9 or int(length) > _LONGEST:
            self.send_error(413 if length.isdecimal() else 400)
            self.drain()
            return
        body = self.rfile.read(int(length))
        self.connection.settimeout(_PATIENCE)  # for all of the answer, socket.sendall()
        found = answer(self.pod.facts, self.key, self.command, self.path, body, known=self.headers.get("If-None-Match", ""))
        self.send_response(found.status)
        for name, value in found.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", found.kind)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(found.body)

    def drain(self) -> None:
        """Takes what the client still sends, in its time: it would not see the answer if the connection were reset."""
        self.connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while self.rfile.read(1 << 16):
                pass

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = reply

    def version_string(self) -> str:
        """The header line Server."""
        return "pyrun"

    def log_message(self, format: str, *args: object) -> None:
        """What pods ask is nobody's business."""


class Pod:
    """One connection: what is said of the pod behind it, and the socket on which it asks."""

    __slots__ = ("busy", "facts", "link", "listener", "waits")

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.facts = Facts(b'{"uuid":"","token":"-","manifest":{},"apps":{},"config":[]}', "")
        self.listener: socket.socket | None = None
        self.busy = 0
        self.waits = False  # the listener is not looked at, since enough of its connections are served


class Service:
    """Everything between the sockets."""

    def __init__(self, root: str, door: socket.socket) -> None:
        self.root = root
        self.door = door
        self.key = host_key(root)
        self.pods: set[Pod] = set()
        self.lock = threading.Lock()
        self.free: list[Pod] = []  # whose connections may be taken again
        self.wake, self.wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.selector = selectors.DefaultSelector()
        self.selector.register(door, selectors.EVENT_READ, None)
        self.selector.register(self.wake, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Serves until no pod is left."""
        while True:
            ready = self.selector.select(None if self.pods else _IDLE)
            if not ready and not self.pods:
                return
            for key, _ in ready:
                if key.fileobj is self.door:
                    self.come()
                elif key.fd == self.wake:
                    self.resume()
                elif key.fileobj is key.data.link:
                    self.hear(key.data)
                elif key.data in self.pods:
                    self.take(key.data)

    def come(self) -> None:
        """A pod starts."""
        try:
            link, _ = self.door.accept()
        except OSError:
            return
        _, uid, _ = struct.unpack("=3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            link.close()
            return
        link.setblocking(False)
        pod = Pod(link)
        self.pods.add(pod)
        self.selector.register(link, selectors.EVENT_READ, pod)
        self.say(pod, b"H")

    def say(self, pod: Pod, word: bytes) -> None:
        """One byte for native/metadata.c."""
        try:
            pod.link.send(word, socket.MSG_NOSIGNAL)
        except OSError:
            self.leave(pod)

    def hear(self, pod: Pod) -> None:
        """Its name, then its socket, then its end."""
        try:
            data, ancillary, _, _ = pod.link.recvmsg(256, socket.CMSG_SPACE(struct.calcsize("i")), socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self.leave(pod)
        elif data == b"L" and ancillary:
            fds = array.array("i")
            fds.frombytes(ancillary[0][2])
            pod.listener = socket.socket(fileno=fds[0])
            pod.listener.setblocking(False)
            self.selector.register(pod.listener, selectors.EVENT_READ, pod)
            self.say(pod, b"K")
        else:
            uuid = data.decode("ascii", "replace").partition("/")[0]
            try:
                if "/" in uuid or uuid.startswith("."):
                    raise ValueError(uuid)
                with open(f"{self.root}/pods/running/{uuid}/metadata", "rb") as file:
                    pod.facts = Facts(file.read(), self.root)
            except (OSError, ValueError):
                self.say(pod, b"E")
                return
            self.say(pod, b"K")

    def leave(self, pod: Pod) -> None:
        """A pod has ended."""
        for one in (pod.link, pod.listener):
            if one is not None:
                with contextlib.suppress(KeyError):
                    self.selector.unregister(one)
                one.close()
        self.pods.discard(pod)

    def take(self, pod: Pod) -> None:
        """One connection of a pod, in a thread of its own."""
        assert pod.listener is not None
        try:
            connection, address = pod.listener.accept()
        except OSError:
            return
        with self.lock:
            pod.busy += 1
            pod.waits = pod.busy >= AT_ONCE
            if pod.waits:
                self.selector.unregister(pod.listener)
        try:
            threading.Thread(target=self.serve, args=(pod, connection, address), daemon=True).start()
        except RuntimeError:  # no more threads: this one must not wait for a client
            connection.close()
            self.done(pod)

    def serve(self, pod: Pod, connection: socket.socket, address: object) -> None:
        """In the thread."""
        try:
            with connection:
                connection.settimeout(_PATIENCE)
                handler = type("", (Handler,), {"pod": pod, "key": self.key})
                with contextlib.suppress(OSError):
                    handler(connection, address, _NO_SERVER)
        finally:
            self.done(pod)

    def done(self, pod: Pod) -> None:
        """One connection of a pod less: it may have another."""
        with self.lock:
            pod.busy -= 1
            again = pod.waits
            if again:
                pod.waits = False
                self.free.append(pod)
        if again:
            with contextlib.suppress(BlockingIOError):
                os.write(self.wakes, b"x")

    def resume(self) -> None:
        """Pods that were busy have room again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 4096)
        with self.lock:
            free, self.free = self.free, []
        for pod in free:
            if pod in self.pods and pod.listener is not None:
                self.selector.register(pod.listener, selectors.EVENT_READ, pod)


def main(root: str, *, told: bool = True) -> None:
    """Serve the pods of `root`; with `told` standard output says when, by its end.  Returns when no pod is left, or if another serves."""
    path = socket_path(root)
    private_dirs(root)
    fd = os.open(f"{root}/metadata.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        passed = _passed()
        door = passed or _door(path, fd)
        if door is None:
            return
        sys.setswitchinterval(0.0005)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # two for each pod and its connections: 1,024 are soon gone
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        service = Service(root, door)
        _give_up_privileges()
        if told:
            with contextlib.suppress(OSError):
                os.write(1, b"R")
            null = os.open("/dev/null", os.O_WRONLY)
            os.dup2(null, 1)
            os.close(null)
        service.run()
        if passed is None:  # nobody may connect to one that is about to end
            with contextlib.suppress(OSError):
                os.unlink(path)
        door.close()
    finally:
        os.close(fd)


def _passed() -> socket.socket | None:
    """A socket of the service manager's, sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    door = socket.socket(fileno=_LISTEN_FDS)
    door.setblocking(False)
    return door


def _door(path: str, lock: int) -> socket.socket | None:
    """The listening socket, or None when another process serves.  The lock is held as long as this one does."""
    for _ in range(100):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
                other.settimeout(_PATIENCE)
                with contextlib.suppress(OSError):
                    other.connect(path)
                    if other.recv(1) == b"H":
                        return None
            threading.Event().wait(0.02)  # it is about to end, or has not begun
    else:
        raise PyrunError("serve metadata", path, "another process holds the lock", hint="see who has metadata.lock open")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.umask(0o077)
    door.bind(path)
    door.listen(128)
    door.setblocking(False)
    return door


def _give_up_privileges() -> None:
    """No capability, no new privileges, and the filter of the unpack worker: no new socket, program or process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    for capability in range(64):
        if libc.prctl(24, capability, 0, 0, 0) < 0:  # PR_CAPBSET_DROP
            break
    header, data = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3
    if libc.capset(header, data) < 0:
        raise OSError(ctypes.get_errno(), "capset")
    callfilter.install(libc)
