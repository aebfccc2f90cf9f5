"""SCTP through a forwarded port: Debian's kernel has it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from harness import TOP, Pyrun

SERVER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as server:
    server.bind(("", 80))
    server.listen()
    while True:
        one, _ = server.accept()
        one.sendall(socket.gethostname().encode())
        one.close()
"""
FILES = ("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro")


def said(address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
        client.settimeout(5)
        client.connect((address, port))
        return client.recv(100).decode()


def settle() -> None:
    """Waits until udev's workers, which look at new interfaces and modules, have ended."""
    deadline = time.monotonic() + 60
    while subprocess.run(["pgrep", "-f", "udev-worker"], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_forwarded_port(pyrun: Pyrun, image: Callable[..., Path]) -> None:
    subprocess.run(["modprobe", "sctp"], check=True)
    tools = image("example.com/tools", ["/bin/sh"], edit=lambda made: made.busybox(TOP / "build" / "busybox"))
    flags = ("--pod-name", "talk", "--hostname", "talks-sctp", "-p", "9000:80/sctp", *FILES)
    pyrun("run", "--detach", *flags, tools, "--exec", "/usr/bin/python3", "--", "-I", "-S", "-c", SERVER, code=0)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert said("127.0.0.1", 9000) == "talks-sctp"
                break
            except OSError:
                assert time.monotonic() < deadline, pyrun("logs", "talk").out
                time.sleep(0.2)
        clash = pyrun("run", "-p", "9000:80/sctp", tools, "--exec", "/bin/true", code=125).err
        assert "forward port 9000/sctp" in clash
    finally:
        pyrun("rm", "--force", "talk", code=0)
        settle()
