"""A policy of SELinux that fits on a page: compiled by secilc(8), loaded and enforced as load_policy(8) and setenforce(8) do it.

base_t      the host: all there is at first; may do anything, but become lone_t
box_t       a container: what its own files, the host's pipes and the kernel's file systems are, and nothing of host_t
host_t      files of disks, unless they are labelled as box_file_t
lone_t      a domain that nothing may change to
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FILE = """
    append create entrypoint execmod execute execute_no_trans getattr ioctl link lock map mounton open quotaon read relabelfrom
    relabelto rename setattr unlink watch write
"""
PROCESS = """
    dyntransition execheap execmem execstack fork getattr getcap getpgid getrlimit getsched getsession noatsecure ptrace rlimitinh
    setcap setcurrent setexec setfscreate setkeycreate setpgid setrlimit setsched setsockcreate share sigchld siginh sigkill signal
    signull sigstop transition
"""
FILES = dict.fromkeys(("file", "lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file"), FILE)
FILES["dir"] = FILE + " add_name remove_name reparent rmdir search"
CLASSES = {
    **FILES,
    "process": PROCESS,
    "process2": "nnp_transition nosuid_transition",
    "fd": "use",
    "key": "create link read search setattr view write",
    "filesystem": "associate getattr mount quotaget quotamod relabelfrom relabelto remount unmount watch",
}
# by number; what is not used any more has a number all the same
SIDS = """
    kernel security unlabeled fs file file_labels init any_socket port netif netmsg node igmp_packet icmp_socket tcp_socket
    sysctl_modprobe sysctl sysctl_fs sysctl_kernel sysctl_net sysctl_net_unix sysctl_vm sysctl_dev kmod policy scmp_packet devnull
""".split()
TYPES = ("base_t", "box_t", "box_file_t", "host_t", "lone_t")
MOUNTED = Path("/sys/fs/selinux")


def _context(role: str, kind: str) -> str:
    return f"(system_u {role} {kind} ((s0) (s0)))"


def source() -> str:
    """The policy, in the Common Intermediate Language; with categories, of which containers have two each."""
    names = " ".join(f"c{number}" for number in range(1024))
    lines = ["(handleunknown allow) (mls true) (policycap nnp_nosuid_transition) (policycap open_perms)"]
    lines += [f"(class {name} ({' '.join(words.split())}))" for name, words in CLASSES.items()] + [f"(classorder ({' '.join(CLASSES)}))"]
    lines += [f"(sid {name})" for name in SIDS] + [f"(sidorder ({' '.join(SIDS)}))"]
    lines += ["(sensitivity s0) (sensitivityorder (s0))", *(f"(category {name})" for name in names.split())]
    lines += [f"(categoryorder ({names}))", "(sensitivitycategory s0 (range c0 c1023))"]
    lines += ["(role system_r) (role object_r) (user system_u) (userrole system_u system_r) (userrole system_u object_r)"]
    lines += ["(userlevel system_u (s0)) (userrange system_u ((s0) (s0 (range c0 c1023))))"]
    lines += [f"(type {name}) (roletype system_r {name}) (roletype object_r {name})" for name in TYPES]
    lines += ["(typeattribute any) (typeattributeset any (all)) (typeattribute near) (typeattributeset near (not lone_t))"]
    lines += ["(typeattribute open) (typeattributeset open (base_t box_t box_file_t))"]
    lines += [
        f"(sidcontext {name} {_context('object_r', 'host_t') if name == 'file' else _context('system_r', 'base_t')})" for name in SIDS
    ]
    for name in CLASSES:
        lines.append(f"(allow base_t {'near' if name == 'process' else 'any'} ({name} (all)))")
        lines.append(f"(allow box_t {'box_t' if name == 'key' else 'open'} ({name} (all)))")
    lines += [f"(mlsconstrain ({name} (read write open)) (or (dom h1 h2) (eq t1 base_t)))" for name in FILES]
    lines += ["(allow any any (filesystem (associate)))"]
    lines += [f"(fsuse trans {name} {_context('object_r', 'base_t')})" for name in ("tmpfs", "devtmpfs", "devpts", "mqueue")]
    lines += [f"(fsuse task {name} {_context('object_r', 'base_t')})" for name in ("pipefs", "sockfs")]
    lines += [f"(fsuse xattr {name} {_context('object_r', 'host_t')})" for name in ("ext4", "overlay")]
    return "\n".join(lines) + "\n"


def load(folder: Path) -> None:
    """Makes this the machine's policy, not enforced yet."""
    (folder / "policy.cil").write_text(source())
    subprocess.run(["secilc", "-o", folder / "policy", "-f", "/dev/null", folder / "policy.cil"], check=True, timeout=120)
    file = os.open(MOUNTED / "load", os.O_WRONLY)
    try:
        data = (folder / "policy").read_bytes()
        assert os.write(file, data) == len(data), "a policy is loaded by one write"
    finally:
        os.close(file)


def enforce(on: bool) -> None:
    (MOUNTED / "enforce").write_text("1" if on else "0")


def context(path: Path | str) -> str:
    return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()


def label(tree: Path, text: str) -> None:
    """Gives a file, or all below a directory and itself, a label, as chcon(1) does."""
    for path in (tree, *tree.rglob("*")):
        os.setxattr(path, "security.selinux", text.encode() + b"\0", follow_symlinks=False)
