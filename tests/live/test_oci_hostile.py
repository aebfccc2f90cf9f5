"""Bundles that attack the host: what a root file system or a config.json may hold must not reach out of the container.

A canary stands where the attacks aim; it is compared whole afterwards.  CVE numbers name the attack, not the code.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import Runtime
from canary import Canary
from scale import scaled


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.fixture
def escape(tmp_path: Path, canary: Canary) -> str:
    """The canary's directory, as a link in the image would name it."""
    return str(canary.path / "dir")


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": list(options or ("rbind",))}


def without(oci: Runtime, *destinations: str) -> None:
    oci.config["mounts"] = [one for one in oci.config["mounts"] if not one["destination"].startswith(destinations)]


def refused(oci: Runtime, *words: str) -> str:
    """Runs /bin/true, which must not come to it; what was said."""
    oci.command("/bin/true")
    done = oci("run", "one", code=1)
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not oci.leftovers()
    return done.stderr


@pytest.mark.parametrize("number", [3, 5, 7, 10, 64, 200, 203])
def test_no_descriptor_of_the_host_is_a_directory_to_start_in(oci: Runtime, number: int) -> None:
    """CVE-2024-21626."""
    oci.config["process"]["cwd"] = f"/proc/self/fd/{number}"
    refused(oci)
    oci.config["process"]["cwd"] = f"/proc/self/fd/{number}/../../.."
    refused(oci)
    (oci.bundle / "rootfs/link").symlink_to(f"/proc/self/fd/{number}")
    oci.config["process"]["cwd"] = "/link"
    refused(oci)


def test_nor_for_one_that_enters(oci: Runtime) -> None:
    oci.start_sleeping()
    (oci.bundle / "rootfs/link").symlink_to("/proc/self/fd/9")
    for cwd in [*(f"/proc/self/fd/{number}" for number in range(3, 12)), "/proc/self/fd/200", "/proc/self/fd/201/..", "/link"]:
        done = oci("exec", "--cwd", cwd, "one", "/bin/ls", code=None)
        assert done.returncode == 255 and done.stdout == "", done
    assert oci("exec", "one", "/bin/ls", "/proc/self/fd").stdout.split() == ["0", "1", "2", "3"]
    oci("delete", "--force", "one")


def test_the_program_gets_no_descriptor_but_its_streams(oci: Runtime) -> None:
    oci.command("/bin/ls", "/proc/self/fd")
    files = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(60)]
    try:
        done = oci("run", "one", pass_fds=files)
        assert done.stdout.split() == ["0", "1", "2", "3"], "3 is the directory that ls itself has opened"
    finally:
        for fd in files:
            os.close(fd)


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_kernel_file_systems_are_mounted_on_directories_only(oci: Runtime, name: str) -> None:
    """CVE-2019-19921, CVE-2023-27561: else labels and parameters would go to files of the image's choice."""
    shutil.rmtree(oci.bundle / "rootfs" / name)
    (oci.bundle / "rootfs" / name).symlink_to("/tmp/elsewhere")
    (oci.bundle / "rootfs/tmp/elsewhere").mkdir()
    refused(oci, "symbolic link", "mounts[")


@pytest.mark.parametrize("target", ["/p/sys", "/p", "/p/self/attr", "/q/uptime"])
def test_links_lead_no_mount_into_procfs(oci: Runtime, target: str) -> None:
    """CVE-2019-16884, with a link for the path."""
    (oci.bundle / "rootfs/p").symlink_to("/proc")
    (oci.bundle / "rootfs/q").symlink_to("p/../p")
    source = "/etc/passwd" if target == "/q/uptime" else "/tmp"
    oci.config["mounts"].append(bind(source, target))
    refused(oci, "hide a part of procfs", "mounts[7]")


LINKS = ["{0}", "../../../../../../../../../..{0}", "/one", "/proc/self/root{0}", "/proc/1/cwd"]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("mounted", [True, False])
def test_dev_of_the_image_may_be_a_link(oci: Runtime, canary: Canary, escape: str, link: str, mounted: bool) -> None:
    """runc CVE-2026-41579, crun CVE-2026-88264: nodes, links and the console end up beneath the root or nowhere."""
    root = oci.bundle / "rootfs"
    (root / "dev").rmdir()
    (root / "dev").symlink_to(link.format(escape))
    (root / "one").symlink_to("two")
    (root / "two").symlink_to(f"../../../..{escape}")
    if not mounted:
        without(oci, "/dev")
    oci.config["linux"]["devices"] = [{"type": "c", "path": "/dev/file", "major": 1, "minor": 3}]
    oci.command("/bin/true")
    oci("run", "one", code=None)
    canary.assert_untouched()
    assert not oci.leftovers()


NAMES = ["null", "full", "zero", "console", "ptmx", "tty", "fd", "stdin", "pts", "shm"]


@pytest.mark.parametrize("terminal", [False, True])
def test_devices_of_the_image_may_be_links(oci: Runtime, canary: Canary, escape: str, terminal: bool) -> None:
    without(oci, "/dev")
    for name in NAMES:
        (oci.bundle / "rootfs/dev" / name).symlink_to(f"{escape}/{name}")
    for name in ("proc", "etc"):
        (oci.bundle / "rootfs" / name / "hosts").write_text("")
    oci.config["process"]["terminal"] = terminal
    oci.command("/bin/true")
    done = oci("run", "one", code=None)
    assert done.returncode != 0, "a link is not the device"
    canary.assert_untouched()


def test_what_is_hidden_is_hidden_by_the_runtimes_null(oci: Runtime) -> None:
    """CVE-2025-31133: the image's own /dev/null would show whatever it points to."""
    without(oci, "/dev")
    root = oci.bundle / "rootfs"
    os.mknod(root / "dev/null", 0o020666, os.makedev(1, 5))  # zero
    (root / "secret").write_text("secret")
    oci.config["linux"]["maskedPaths"] = ["/secret", "/proc/kcore"]
    refused(oci, "default devices", "another file")
    os.unlink(root / "dev/null")
    assert oci.shell("wc -c < /secret; echo x > /secret; wc -c < /secret").split() == ["0", "0"]
    assert (root / "secret").read_text() == "secret"


def test_a_mount_point_beneath_links_stays_inside(oci: Runtime, canary: Canary, escape: str, tmp_path: Path) -> None:
    """Files and directories that are missing are made in the root, wherever its links point."""
    root = oci.bundle / "rootfs"
    (root / "etc/out").symlink_to(escape)
    (root / "etc/up").symlink_to("../../../../../../../../../.." + escape)
    (tmp_path / "source").mkdir()
    (tmp_path / "file").write_text("inside")
    targets = ["/etc/out/new", "/etc/up/a/b", "/etc/out/../x", "/../../y", "/etc/up"]
    oci.config["mounts"] += [bind(tmp_path / "source", target) for target in targets]
    oci.config["mounts"].append(bind(tmp_path / "file", "/etc/out/null"))
    oci.config["linux"]["maskedPaths"] = ["/etc/out/file", "/etc/up/inner"]
    oci.config["linux"]["readonlyPaths"] = ["/etc/out", "/etc/up/dir"]
    oci.config["process"]["cwd"] = "/etc/out/made/cwd"
    done = oci("run", "one", code=None, cwd=oci.write() or oci.bundle)
    canary.assert_untouched()
    assert done.returncode in (0, 1) and not oci.leftovers()
    oci.config["process"]["cwd"] = "/"
    assert (root / escape.lstrip("/")).is_dir() or "mounts[" in done.stderr, "made beneath the root, or not at all"


EXCHANGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, two = (name.encode() for name in sys.argv[1:])
print("ready", flush=True)
while os.getppid() != 1:
    libc.syscall(316, -100, one, -100, two, 2)
"""


@pytest.fixture
def swapping(oci: Runtime, escape: str) -> Iterator[Path]:
    """A volume in which somebody exchanges a directory and a link to the canary all the time (CVE-2021-30465, CVE-2024-45310)."""
    volume = oci.folder / "volume"
    (volume / "swap").mkdir(parents=True)
    (volume / "other").symlink_to(escape)
    assert ctypes.CDLL(None).syscall(316, -100, b"/no", -100, b"/no", 2) == -1, "renameat2"
    command = [sys.executable, "-c", EXCHANGE, str(volume / "swap"), str(volume / "other")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield volume
        process.kill()


def test_mount_points_that_are_exchanged_meanwhile(oci: Runtime, swapping: Path, canary: Canary, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    oci.config["mounts"] += [
        bind(swapping, "/volume"),
        bind(tmp_path / "source", "/volume/swap/new/deep"),
        {"destination": "/volume/swap", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"]},
        bind(tmp_path / "source", "/volume/swap/inner"),
    ]
    oci.config["linux"]["maskedPaths"] = ["/volume/swap/dir", "/volume/swap/file"]
    oci.config["linux"]["readonlyPaths"] = ["/volume/swap"]
    oci.command("/bin/true")
    before = Path("/proc/self/mountinfo").read_text()
    end = time.monotonic() + scaled(4)
    while time.monotonic() < end:
        oci("run", "one", code=None)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert not oci.leftovers()


KEYS = """
kernel.core_pattern kernel/core_pattern kernel.modprobe kernel.sysrq vm.overcommit_memory fs.file-max fs.suid_dumpable dev.cdrom.info
kernel.ns_last_pid net kernel kernel.shmmax.x kernel..shmmax net.../kernel.x net/../kernel/core_pattern net.ipv4/../../kernel.x
/proc/sys/kernel/core_pattern ../kernel/core_pattern fs.mqueue/../x abi.vsyscall32 debug.exception-trace
""".split()


@pytest.mark.parametrize("key", [*KEYS, "kernel.shmmax+x", "kernel.shmmax\nkernel.x", "kernel.shmmax ", "", "net.a\\b"])
def test_only_parameters_of_its_own_namespaces(oci: Runtime, key: str) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    oci.config["linux"]["sysctl"] = {key: "|/bin/evil"}
    refused(oci, "linux.sysctl")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_parameters_do_not_go_by_the_containers_proc(oci: Runtime, canary: Canary, escape: str) -> None:
    """CVE-2025-52881: /proc/sys of the root is the image's to arrange."""
    without(oci, "/proc", "/sys")
    root = oci.bundle / "rootfs"
    (root / "proc/sys/net").mkdir(parents=True)
    (root / "proc/sys/net/ipv4").symlink_to(escape)
    (root / "proc/self").symlink_to(escape)
    oci.config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "99"}
    oci.config["process"]["oomScoreAdj"] = 300
    pid = oci.start_sleeping()
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "300\n"
    oci("delete", "--force", "one")


def test_odd_names_are_names_and_not_options(oci: Runtime) -> None:
    """CVE-2024-9407: no part of a path becomes another option."""
    odd = oci.folder / "a,suid:c\\d\n e=f"
    odd.mkdir()
    (odd / "file").write_text("there")
    oci.config["mounts"] += [bind(odd, "/m,rw", "rbind", "ro", "nosuid")]
    assert oci.shell('cat "/m,rw/file"; touch "/m,rw/x" || echo read-only') == "thereread-only\n"
    oci.config["mounts"][-1:] = [{"destination": "/x", "type": "tmpfs", "source": "a,size=1k,mode=0", "options": ["mode=0700,size=4k"]}]
    refused(oci, "does not take one of the options")


PASSWD = ["link", "fifo", "directory", "device", "huge", "binary"]


@pytest.mark.parametrize("kind", PASSWD)
def test_accounts_of_the_image_are_read_with_care(oci: Runtime, canary: Canary, kind: str) -> None:
    """CVE-2024-9676 and its kin: what is not a plain file of the root says nothing."""
    passwd = oci.bundle / "rootfs/etc/passwd"
    passwd.unlink()
    if kind == "link":
        (canary.path.parent / "accounts").write_text("root:x:0:0:root:/of/the/host:/bin/sh\n")
        passwd.symlink_to(canary.path.parent / "accounts")
    elif kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "directory":
        passwd.mkdir()
    elif kind == "device":
        os.mknod(passwd, 0o020666, os.makedev(1, 5))
    elif kind == "huge":
        passwd.touch()
        os.truncate(passwd, 1 << 40)
    else:
        passwd.write_bytes(b"root:x:0:0:\0:/\0x:\n\xff" * 1000)
    start = time.monotonic()
    assert oci.shell("echo $HOME") == "/\n"
    assert time.monotonic() - start < 2


def test_nothing_is_mounted_outside(oci: Runtime) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    for name in "abc":
        oci.shell("true", name)
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize(
    ("maps", "where"),
    [
        ([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 0, "hostID": 1, "size": 1}], "linux.uidMappings[1].containerID"),
        ([{"containerID": 0, "hostID": 5, "size": 10}, {"containerID": 20, "hostID": 10, "size": 1}], "linux.uidMappings[1].hostID"),
        ([{"containerID": 4294967295, "hostID": 0, "size": 1}], "linux.uidMappings"),
        ([{"containerID": n, "hostID": n, "size": 1} for n in range(341)], "linux.uidMappings"),
        ([{"containerID": 1000, "hostID": 1000, "size": 1}], ""),
    ],
)
def test_id_maps_are_checked_or_refused_by_the_kernel(oci: Runtime, maps: list[dict[str, int]], where: str) -> None:
    linux = oci.config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"], linux["gidMappings"] = maps, [{"containerID": 0, "hostID": 100000, "size": 1}]
    refused(oci, where)


def test_the_containers_cgroup_is_where_it_ends(oci: Runtime) -> None:
    """No way up: not by the mount, not by a new one."""
    for name in ("bounding", "effective", "permitted"):
        oci.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]
    script = "mkdir /sys/fs/cgroup/up 2> /dev/null && echo made; mkdir /m; mount -t cgroup2 x /m && ls /m | grep -E 'slice|pyrun'; true"
    assert oci.shell(script) == ""
