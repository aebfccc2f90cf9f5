"""Terminals that a runtime hands over by a socket."""

from __future__ import annotations

import array
import os
import select
import socket
from pathlib import Path


class Socket:
    """What conmon and containerd's shim do: listen, and take the master of a terminal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.settimeout(10)

    def master(self) -> tuple[int, str]:
        client, _ = self.listener.accept()
        with client:
            data, control, _, _ = client.recvmsg(4096, socket.CMSG_SPACE(4))
        fds = array.array("i")
        fds.frombytes(control[0][2][:4])
        return fds[0], data.decode()

    def close(self) -> None:
        self.listener.close()


def read_until(master: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        assert select.select([master], [], [], 10)[0], seen
        seen += os.read(master, 4096)
    return seen
