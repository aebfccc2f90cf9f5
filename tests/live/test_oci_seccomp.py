"""`linux.seccomp` of config.json (runtime-spec config-linux.md, "Seccomp"): filters, and who is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import Runtime


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


LISTEN = """
import array, ctypes, fcntl, os, socket, struct, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(sys.argv[1])
server.listen(1)
print("ready", flush=True)
client = server.accept()[0]
fds = array.array("i")
data, ancillary, *_ = client.recvmsg(65536, socket.CMSG_LEN(8))
fds.frombytes(ancillary[0][2][:4])
print(data.decode(), client.recv(1), len(ancillary[0][2]) // 4, flush=True)
while True:  # struct seccomp_notif, struct seccomp_notif_resp of seccomp_unotify(2)
    notice = bytearray(80)
    try:
        fcntl.ioctl(fds[0], 0xC0502100, notice)
    except OSError:
        break
    number, pid, _, call = struct.unpack_from("=QIIi", notice)
    continued = call == 59
    fcntl.ioctl(fds[0], 0xC0182101, struct.pack("=QqiI", number, 0, 0 if continued else -99, 1 if continued else 0))
    print("call", call, flush=True)
"""


@pytest.mark.parametrize("locked", [True, False])
def test_a_listener_is_asked(oci: Runtime, tmp_path: Path, locked: bool) -> None:
    """config-linux.md, "Container process state": exactly one message a connection, with the descriptor; even execve may wait for it."""
    calls = {"names": ["mkdir", "execve"], "action": "SCMP_ACT_NOTIFY"}
    flags = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    where = str(tmp_path / "agent")
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [calls], "listenerPath": where, "listenerMetadata": 'a "b"', "flags": flags}
    oci.config["linux"]["seccomp"] = seccomp
    oci.config["process"]["noNewPrivileges"] = locked
    with subprocess.Popen([sys.executable, "-c", LISTEN, where], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == "ready\n"
        said = oci.shell("mkdir /tmp/x 2>&1; echo end; ls /tmp")
        told, _, rest = agent.stdout.readline().rpartition("}")
        assert rest.strip() == "b'' 1", "closed after one message, one descriptor"
        state = json.loads(told + "}")
        assert (state["fds"], state["metadata"]) == (["seccompFd"], 'a "b"')
        assert state["state"]["id"] == "one" and state["state"]["pid"] == state["pid"] > 1
        agent.wait(timeout=10)
        asked = agent.stdout.read().split("\n")
    assert "Cannot assign requested address" in said and said.endswith("end\n"), "the answer was EADDRNOTAVAIL"
    assert "call 83" in asked and "call 59" in asked


def test_a_filter_of_the_configuration_holds(oci: Runtime) -> None:
    oci.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]},
        ],
    }
    script = "mkdir /tmp/x 2>&1 | grep -o 'File exists'; kill -10 $$ 2>&1 | grep -o 'not permitted'; kill -0 $$ && echo fine"
    assert oci.shell(script).splitlines() == ["File exists", "not permitted", "fine"]
