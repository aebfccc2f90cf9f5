"""`rdma.max` by a device that the kernel makes of a network interface (RDMA over Ethernet), which its kernel for clouds does not have."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from bundles import Runtime
from harness import COMMAND, Pyrun
from waiting import wait_until

TREE = Path("/sys/fs/cgroup")
NODE = Path("/dev/infiniband/uverbs0")
DEVICE = "pyrun0"


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    """There, and the controller that systemd never delegates is too."""
    subprocess.run(["modprobe", "rdma_rxe"], check=True)
    subprocess.run(["rdma", "link", "add", DEVICE, "type", "rxe", "netdev", "lo"], check=True)
    wait_until(NODE.exists, "no verbs device")
    subprocess.run(["systemctl", "start", "machine.slice"], check=True)
    for file in (TREE / "cgroup.subtree_control", TREE / "machine.slice/cgroup.subtree_control"):
        file.write_text("+rdma")
    # it stays: `rdma link delete` is an oops of Debian 12's kernel, with locks held that the end of a cgroup wants


def used(shared: Pyrun, handles: int, domains: int, *flags: str) -> list[str]:
    words = [*flags, "--device", NODE, shared.probe_image, "--exec", "/probe", "--", "rdma", NODE, handles, domains]
    command = ["systemd-run", "--quiet", "--scope", COMMAND, "--root", shared.root, "run", *words]
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done
    return done.stdout.split()


def test_handles_and_objects_of_a_pod(shared: Pyrun) -> None:
    assert used(shared, 3, 2) == ["handle"] * 3 + ["pd"] * 2, "without a limit"
    assert used(shared, 3, 0, "--rdma", f"{DEVICE}:hca_handle=2") == ["handle", "handle", "EAGAIN"]
    assert used(shared, 1, 3, "--rdma", f"{DEVICE}:hca_handle=1,hca_object=2") == ["handle", "pd", "pd", "EAGAIN"]


def test_of_a_container(tmp_path: Path, probe: Path) -> None:
    """By linux.resources.rdma; the host reads what is left."""
    oci = Runtime(tmp_path, probe)
    oci.config["linux"]["devices"] = [{"type": "c", "path": str(NODE), "major": 231, "minor": 192, "fileMode": 0o666}]
    rules = [{"allow": True, "type": "c", "major": 231, "access": "rw"}]
    oci.config["linux"]["cgroupsPath"] = "/machine.slice/pyrun-rdma"
    oci.config["linux"]["resources"] = {"rdma": {DEVICE: {"hcaHandles": 1, "hcaObjects": 5}}, "devices": rules}
    oci.start_sleeping()
    group = TREE / "machine.slice/pyrun-rdma"
    assert (group / "rdma.max").read_text().strip() == f"{DEVICE} hca_handle=1 hca_object=5"
    assert oci("exec", "one", "/probe", "rdma", NODE, "2", "1").stdout.split() == ["handle", "EAGAIN", "pd"]
    wanted = {"rdma": {DEVICE: {"hcaHandles": 2}}}
    (tmp_path / "more.json").write_text(json.dumps(wanted))
    oci("update", "--resources", tmp_path / "more.json", "one")
    assert oci("exec", "one", "/probe", "rdma", NODE, "3", "0").stdout.split() == ["handle", "handle", "EAGAIN"]
    oci("delete", "--force", "one")
