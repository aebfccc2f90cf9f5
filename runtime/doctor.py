"""What this host can and cannot do, found out by looking and by one trial, and how to mend what it cannot.

ok        there
missing   nothing, or not what was asked, runs without it
limited   something that not everybody needs is not there
"""

from __future__ import annotations

import os
import sys

from pyrun.host import own_cgroup, read_small
from pyrun.native import HELPER
from pyrun.native.users import state_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    State = Literal["ok", "missing", "limited"]

__all__ = ["Finding", "examine"]

_OLDEST = (5, 12)  # mount_setattr(2)
_CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


class Finding:
    """One thing that was looked at: its `name`, what it is `needed` for, its `state`, what was `found`, how to `mend` it ("" if fine)."""

    __slots__ = ("found", "mend", "name", "needed", "state")

    def __init__(self, name: str, needed: str, state: State, found: str, mend: str = "") -> None:
        self.name = name
        self.needed = needed
        self.state: State = state
        self.found = found
        self.mend = "" if state == "ok" else mend

    def __repr__(self) -> str:
        return f"<pyrun.Finding {self.name}: {self.state}, {self.found}>"


def examine(root: str | None = None) -> list[Finding]:
    """Look at this host, as this user, for the state directory `root`; starts one container and leaves nothing."""
    where = os.path.abspath(root or state_root())
    return [*_kernel(), *_user(), *_cgroup(), *_programs(), *_store(where), _trial(where)]


def _kernel() -> Iterator[Finding]:
    system = os.uname()
    version = tuple(int(part) for part in system.release.split("-")[0].split(".")[:2] if part.isdigit())
    state: State = "ok" if version >= _OLDEST else "missing"
    yield Finding("kernel", "everything", state, system.release, f"boot Linux {_OLDEST[0]}.{_OLDEST[1]} or newer")
    state = "ok" if system.machine == "x86_64" else "missing"
    yield Finding("processor", "the native helper", state, system.machine, "use a machine with x86-64")
    state = "ok" if os.access(HELPER, os.R_OK) else "missing"
    yield Finding("native helper", "everything", state, HELPER, "install pyrun again, with a C compiler: pip install --force-reinstall")
    lacking = [name for name in _NAMESPACES if not os.path.exists(f"/proc/self/ns/{name}")]
    mend = "boot a kernel with CONFIG_NAMESPACES and all kinds of them, and see that /proc is mounted"
    yield Finding("namespaces", "isolation", "missing" if lacking else "ok", "no " + ", ".join(lacking) if lacking else "all kinds", mend)
    there = b"\toverlay\n" in read_small("/proc/filesystems")
    mend = "modprobe overlay, or run images with --no-overlay"
    yield Finding(
        "overlay", "root file systems without copying", "ok" if there else "limited", "there" if there else "not registered", mend
    )
    actions = read_small("/proc/sys/kernel/seccomp/actions_avail").decode().split()
    mend = "boot a kernel with CONFIG_SECCOMP_FILTER"
    yield Finding("seccomp", "system call filters", "ok" if "errno" in actions else "missing", " ".join(actions) or "no filters", mend)
    modules = read_small("/sys/kernel/security/lsm").decode().strip()
    landlock = "landlock" in modules.split(",")
    mend = "boot with lsm=landlock,... : the worker that unpacks images is then confined to its directory as well"
    yield Finding("landlock", "a second wall around unpacking", "ok" if landlock else "limited", modules or "no list of modules", mend)
    noexec = read_small("/proc/sys/vm/memfd_noexec").decode().strip()
    mend = "sysctl vm.memfd_noexec=0 or 1; until then the helper runs from a file without a name"
    yield Finding(
        "memfd", "a helper that nobody can change", "limited" if noexec == "2" else "ok", f"vm.memfd_noexec={noexec or 'absent'}", mend
    )


def _user() -> Iterator[Finding]:
    uid = os.geteuid()
    found = "root" if uid == 0 else f"uid {uid}"
    mend = "run it as root for bridges between pods, programs that decide about devices, and the library's `exec`"
    yield Finding("user", "all of it", "ok" if uid == 0 else "limited", found, mend)
    most = read_small("/proc/sys/user/max_user_namespaces").decode().strip()
    clone = read_small("/proc/sys/kernel/unprivileged_userns_clone").decode().strip()
    apparmor = read_small("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").decode().strip()
    mend = ""
    if most in ("", "0"):
        mend = "sysctl user.max_user_namespaces=10000"
    elif clone == "0":
        mend = "sysctl kernel.unprivileged_userns_clone=1"
    elif apparmor == "1":
        mend = "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile of AppArmor's that allows userns"
    state: State = "ok" if not mend else "limited" if uid == 0 else "missing"
    yield Finding("user namespaces", "containers without root", state, f"up to {most or 0}", mend)
    if uid:
        yield _subordinate(uid)


def _subordinate(uid: int) -> Finding:
    from pyrun.native.users import id_tools, subordinate_ids

    ids = [sum(count for _, count in subordinate_ids(kind, uid)) for kind in ("uid", "gid")]
    tools = id_tools()
    mend = f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {uid}" if tools else "apt-get install uidmap"
    found = f"{ids[0]} users and {ids[1]} groups" + ("" if tools else ", but no newuidmap")
    return Finding("subordinate ids", "pods with more users than root", "ok" if tools and all(ids) else "limited", found, mend)


def _cgroup() -> Iterator[Finding]:
    above = own_cgroup()
    mend = "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup"
    if os.geteuid():
        mend = "start it in a unit with Delegate=yes, as in systemd-run --user --scope -p Delegate=yes"
    yield Finding("cgroup", "figures, limits, pausing", "ok" if above else "limited", above or "none that may be written to", mend)
    have = read_small(above + "/cgroup.controllers").decode().split() if above else []
    lacking = [name for name in _CONTROLLERS if name not in have]
    if not above:
        return
    from pyrun.engine.placement import advice

    mend = advice(above, lacking[0]) if lacking else ""
    found = " ".join(have) or "none"
    yield Finding("controllers", "limits of " + ", ".join(lacking or _CONTROLLERS), "limited" if lacking else "ok", found, mend)


def _programs() -> Iterator[Finding]:
    import shutil

    wanted = {
        "gpgv": ("OpenPGP signatures of images", "apt-get install gpgv"),
        "gpg": ("reading keys, `image sign`", "apt-get install gpg"),
    }
    for name, (needed, mend) in wanted.items():
        path = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        yield Finding(name, needed, "ok" if path else "limited", path or "not there", mend)
    import ctypes.util

    for library, needed, package in (("seccomp", "making filters", "libseccomp2"), ("nftables", "networks with ports", "libnftables1")):
        found = ctypes.util.find_library(library)
        state: State = "ok" if found else "missing" if library == "seccomp" else "limited"
        yield Finding(f"lib{library}", needed, state, found or "not there", f"apt-get install {package}")
    systemd = os.path.isdir("/run/systemd/system")
    mend = "boot with systemd; everything else works without"
    yield Finding(
        "systemd", "units, pods at boot, a scope for limits", "ok" if systemd else "limited", "runs" if systemd else "does not run", mend
    )
    state = "ok" if sys.version_info >= (3, 11) else "missing"
    yield Finding("python", "everything", state, ".".join(map(str, sys.version_info[:3])), "use Python 3.11 or newer")


def _store(root: str) -> Iterator[Finding]:
    from pyrun.errors import PyrunError
    from pyrun.images import trust

    place = root
    while not os.path.isdir(place) and place != "/":
        place = os.path.dirname(place)
    writable = os.access(place, os.W_OK)
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    found = f"{root}, {free >> 20} MiB free" if writable else f"{place} may not be written to"
    state: State = "missing" if not writable else "ok" if free > 1 << 28 else "limited"
    yield Finding(
        "state directory", "everything", state, found, "name another one, --root DIR or PYRUN_ROOT, or make room: `pyrun image gc`"
    )
    policy = trust.policy_path(root)
    if not os.path.exists(policy):
        keys = os.path.isdir(f"{root}/trust")
        mend = (
            "trust a signer, `pyrun trust --prefix NAME KEYFILE`, or accept unsigned images of an origin, `pyrun trust --unsigned ORIGIN`"
        )
        yield Finding("trust", "running images", "ok" if keys else "limited", "keys or origins" if keys else "nobody is trusted yet", mend)
        return
    try:
        from pyrun.images.trust import policyfile

        policyfile.read(policy)
    except (PyrunError, OSError, ValueError) as error:
        yield Finding("policy", "running images", "missing", str(error), f"mend {policy}: every image is refused until then")
        return
    yield Finding("policy", "running images", "ok", policy)


def _trial(root: str) -> Finding:
    """What counts in the end: the host's own `true` in a container, in the state directory or, where there is none yet, a new one."""
    import tempfile

    from pyrun.api import Runtime
    from pyrun.errors import PyrunError

    with tempfile.TemporaryDirectory(prefix="pyrun-doctor-") as other:
        runtime = None
        try:
            runtime = Runtime(root if os.path.isdir(root + "/pods") and os.access(root, os.W_OK) else other)
            done = runtime.run(None, ["true"], rootfs="host", capture_output=True, timeout=30)
        except (PyrunError, OSError) as error:
            return Finding("a container", "everything", "missing", str(error), getattr(error, "hint", "") or "see what is missing above")
        finally:
            if runtime is not None:
                runtime.settle()
    state: State = "ok" if done.ok else "missing"
    return Finding(
        "a container", "everything", state, f"{done.reason} {done.returncode} in {done.seconds * 1000:.1f} ms", "see what is missing above"
    )
