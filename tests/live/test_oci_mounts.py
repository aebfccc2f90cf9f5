"""`mounts` of config.json as the container sees them (runtime-spec config.md, "Mounts"), each line of mountinfo by the kernel's word."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundles import OCI, Runtime

ADMIN = ["CAP_SYS_ADMIN"]


@pytest.fixture
def oci(tmp_path: Path, probe: Path) -> Runtime:
    return Runtime(tmp_path, probe)


@pytest.fixture
def host_mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs in the test's own mount namespace: host_mount("a/b", "shared")."""
    made: list[Path] = []

    def mount(where: str, *propagation: str, flags: str = "rw") -> Path:
        path = tmp_path / where
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", flags, "tmpfs", path], check=True)
        made.append(path)
        for word in propagation:
            subprocess.run(["mount", f"--make-{word}", path], check=True)
        return path

    yield mount
    for path in reversed(made):
        subprocess.run(["umount", "--recursive", path], check=True)


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "memory", "options": list(options)}


def bind(source: Path | str, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": list(options or ("rbind",))}


def seen(oci: Runtime, *mounts: dict[str, Any], script: str = "") -> dict[str, tuple[str, str, str]]:
    """(flags of the mount, its propagation, options of the file system) by place."""
    oci.config["mounts"] += mounts
    found = {}
    for line in oci.shell(f"cat /proc/self/mountinfo; {script}").splitlines():
        head, dash, tail = line.partition(" - ")
        if dash:
            fields = head.split()
            found[fields[4]] = (fields[5], " ".join(word.partition(":")[0] for word in fields[6:]), tail.split()[2])
    return found


ATTRIBUTES = {
    "ro": "ro,relatime",
    "ro rw": "rw,relatime",
    "nosuid": "rw,nosuid,relatime",
    "nosuid suid": "rw,relatime",
    "nodev": "rw,nodev,relatime",
    "nodev dev": "rw,relatime",
    "noexec": "rw,noexec,relatime",
    "noexec exec": "rw,relatime",
    "noatime": "rw,noatime",
    "noatime atime": "rw,relatime",
    "noatime relatime": "rw,relatime",
    "relatime norelatime": "rw,relatime",
    "strictatime": "rw",
    "strictatime nostrictatime": "rw,relatime",
    "nodiratime": "rw,nodiratime,relatime",
    "nodiratime diratime": "rw,relatime",
    "nosymfollow": "rw,relatime,nosymfollow",
    "nosymfollow symfollow": "rw,relatime",
    "defaults auto nofail x-what comment=ever silent loud": "rw,relatime",
}
SUPERBLOCK = {
    "sync": "rw,sync",
    "sync async": "rw",
    "rsync": "rw,sync",
    "dirsync": "rw,dirsync",
    "lazytime": "rw,lazytime",
    "lazytime nolazytime": "rw",
    "iversion": "rw",
    "iversion noiversion": "rw",
    "mand nomand": "rw",
    "size=1m mode=0700": "rw,size=1024k,mode=700",
}
PROPAGATION = {
    "shared": "shared",
    "rshared": "shared",
    "slave": "",
    "private": "",
    "rprivate": "",
    "unbindable": "unbindable",
    "runbindable": "unbindable",
}


def test_every_option_does_what_mount_8_says(oci: Runtime) -> None:
    tables = [ATTRIBUTES, SUPERBLOCK, PROPAGATION]
    places = {f"/m/{which}/{at}": (which, words) for which, table in enumerate(tables) for at, words in enumerate(table)}
    found = seen(oci, *[tmpfs(place, *words.split()) for place, (_, words) in places.items()])
    for place, (which, words) in places.items():
        flags, spread, options = found[place]
        has = (flags, options, spread)[which]
        assert has.removesuffix(",inode64") == tables[which][words], words


def test_options_of_a_bind_and_of_all_below_it(oci: Runtime, host_mount: Callable[..., Path], tmp_path: Path) -> None:
    top = host_mount("top")
    host_mount("top/sub", flags="nodev")
    (tmp_path / "file").write_text("file")
    found = seen(
        oci,
        bind(top, "/plain"),
        bind(top, "/flat", "bind"),
        bind(top, "/ro", "rbind", "ro", "nosuid"),
        bind(top, "/rro", "rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime", "rnosymfollow"),
        bind(top, "/undone", "rbind", "ro", "rro", "rrw", "rdev"),
        bind(tmp_path / "file", "/new/place/file", "bind", "ro"),
        script="cat /new/place/file",
    )
    assert "/flat/sub" not in found
    assert (found["/plain"][0], found["/plain/sub"][0]) == ("rw,relatime", "rw,nodev,relatime")
    assert (found["/ro"][0], found["/ro/sub"][0]) == ("ro,nosuid,relatime", "rw,nodev,relatime"), "ro is the mount's alone"
    everything = "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"
    assert (found["/rro"][0], found["/rro/sub"][0]) == (everything, everything)
    assert (found["/undone"][0], found["/undone/sub"][0]) == ("rw,relatime", "rw,relatime")
    assert found["/new/place/file"][0] == "ro,relatime"


def test_a_bind_that_names_a_flag_has_the_others_as_a_new_mount(oci: Runtime, host_mount: Callable[..., Path]) -> None:
    top = host_mount("top", flags="ro,nodev,noexec,nosymfollow,nodiratime")

    def flags(option: str) -> str:
        return ",".join(sorted(seen(oci, bind(top, f"/{option}", "bind", option))[f"/{option}"][0].split(",")))

    assert flags("rprivate") == "nodev,nodiratime,noexec,nosymfollow,relatime,ro"
    assert [flags("exec"), flags("nosuid")] == ["nodiratime,relatime,rw", "nodiratime,nosuid,relatime,rw"]
    oci.config["linux"]["namespaces"].append({"type": "user"})
    oci.config["linux"]["uidMappings"] = oci.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    os.chown(oci.bundle / "rootfs", 100000, 100000)
    assert flags("noatime") == "noatime,nodev,nodiratime,noexec,ro", "what the kernel locks there stays"
    assert flags("rw") == "nodev,nodiratime,noexec,relatime,rw", "unless it is named"


def test_what_is_mounted_is_mounted_again(oci: Runtime, host_mount: Callable[..., Path]) -> None:
    top = host_mount("top")
    found = seen(
        oci,
        tmpfs("/one", "size=8k", "nosuid"),
        {"destination": "/one", "type": "tmpfs", "options": ["remount", "size=4k", "ro", "nodev"]},
        bind(top, "/two", "rbind", "nosuid"),
        {"destination": "/two", "options": ["bind", "remount", "ro"], "source": "/none", "type": "none"},
        tmpfs("/three"),
        {"destination": "/three", "type": "none", "options": ["shared"]},
    )
    assert (found["/one"][0], found["/one"][2].removesuffix(",inode64")) == ("ro,nodev,relatime", "ro,size=4k"), "as mount(8): all anew"
    assert found["/two"][0] == "ro,nosuid,relatime", "of a bind only what is named"
    assert found["/three"][1] == "shared"
    oci.config["mounts"].append({"destination": "/etc", "options": ["remount", "ro"]})
    oci.command("/bin/true")
    assert "mount again" in oci("run", "one", code=1).stderr, "nothing is mounted there"


def test_mounts_stand_in_their_order(oci: Runtime, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which").write_text(name)
    oci.config["mounts"] += [bind(tmp_path / "one", "/data"), bind(tmp_path / "two", "data"), tmpfs("/data/below/deep", "size=4k")]
    assert oci.shell("cat /data/which; grep -c /data/below/deep /proc/self/mountinfo") == "two1\n", "relative to /, too"
    assert (tmp_path / "two/below/deep").is_dir()


def test_a_mount_point_may_be_a_link_to_nothing(oci: Runtime, tmp_path: Path) -> None:
    root = oci.bundle / "rootfs"
    (root / "etc/localtime").symlink_to("../usr/share/zone")
    (root / "one").symlink_to("/two")
    (root / "two").symlink_to("three/four")
    (root / "round").symlink_to("round")
    (tmp_path / "file").write_text("file")
    oci.config["mounts"] += [bind(tmp_path / "file", "/etc/localtime", "bind"), tmpfs("/one", "size=4k")]
    assert oci.shell("cat /usr/share/zone; grep -c ' /three/four ' /proc/self/mountinfo") == "file1\n"
    oci.config["mounts"].append(tmpfs("/round"))
    oci.command("/bin/true")
    assert "symbolic links" in oci("run", "one", code=1).stderr


def test_a_shared_mount_goes_out_and_others_do_not(oci: Runtime, host_mount: Callable[..., Path]) -> None:
    out, kept, taken = host_mount("out", "shared"), host_mount("kept", "shared"), host_mount("taken", "shared")
    for path in (out, kept, taken):
        (path / "m").mkdir()
    for name in ("bounding", "effective", "permitted"):
        oci.config["process"]["capabilities"][name] = ADMIN
    oci.config["mounts"] += [
        bind(out, "/out", "rbind", "rshared"),
        bind(kept, "/kept", "rbind", "rprivate"),
        bind(taken, "/taken", "rbind", "rslave"),
    ]
    script = "for i in out kept taken; do mount -t tmpfs inside /$i/m || exit 1; done; sleep 1000"
    oci.config["linux"]["rootfsPropagation"] = "rshared"
    oci.command("/bin/sh", "-c", script)
    oci("create", "one")
    oci("start", "one")
    try:
        subprocess.run(["sh", "-c", f"for i in $(seq 50); do mountpoint -q {out}/m && exit; sleep 0.1; done; exit 1"], check=True)
        assert not os.path.ismount(kept / "m") and not os.path.ismount(taken / "m")
        (taken / "late").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "late", taken / "late"], check=True)
        inside = Path(f"/proc/{oci.state('one')['pid']}/mountinfo").read_text()
        assert " /taken/late " in inside, "a slave sees what the host mounts later"
    finally:
        oci("delete", "--force", "one")
        subprocess.run(["umount", out / "m"])


@pytest.mark.parametrize(
    ("value", "shows"),
    [("", ""), ("private", ""), ("slave", ""), ("shared", "shared"), ("unbindable", "unbindable"), ("rshared", "shared")],
)
def test_the_root_has_the_propagation_that_is_asked_for(oci: Runtime, value: str, shows: str) -> None:
    oci.config["linux"]["rootfsPropagation"] = value
    assert seen(oci)["/"][1] == shows


def test_a_slave_root_sees_what_the_host_mounts_in_it(oci: Runtime, host_mount: Callable[..., Path]) -> None:
    root = host_mount("bundle/shared", "shared")
    subprocess.run(["cp", "-a", f"{oci.bundle}/rootfs/.", root], check=True)
    (root / "late").mkdir()
    oci.config["root"]["path"] = "shared"
    oci.config["linux"]["rootfsPropagation"] = "rslave"
    pid = oci.start_sleeping()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "late", root / "late"], check=True)
        assert " /late " in Path(f"/proc/{pid}/mountinfo").read_text()
    finally:
        oci("delete", "--force", "one")


def test_a_read_only_root_has_writable_mounts(oci: Runtime) -> None:
    oci.config["root"]["readonly"] = True
    oci.config["mounts"].append(tmpfs("/m"))
    script = "touch /x /bin/x /m/x; ls /m; echo > /dev/null; grep ' / / ' /proc/self/mountinfo | wc -l"
    done = oci.shell(script)
    assert done.startswith("x\n")
    assert seen(oci)["/"][0].startswith("ro,")


def test_tmpcopyup_brings_what_the_image_has(oci: Runtime) -> None:
    place = oci.bundle / "rootfs/stuff"
    (place / "deep/er").mkdir(parents=True)
    (place / "deep/er/file").write_text("x" * 100000)
    (place / "link").symlink_to("/deep")
    os.chmod(place / "deep/er/file", 0o4751)
    os.chown(place / "deep/er", 7, 8)
    os.utime(place / "deep/er/file", (1, 2))
    os.chmod(place, 0o711)
    oci.config["mounts"].append(tmpfs("/stuff", "tmpcopyup", "ro", "size=1m"))
    script = """stat -c '%a %u %g %s %Y %n' /stuff /stuff/deep/er /stuff/deep/er/file; ls -l /stuff/link | grep -o 'link -> .*'
        touch /stuff/x || echo read-only"""
    lines = oci.shell(script).splitlines()
    assert [line.split(" ", 3)[0] for line in lines[:3]] == ["711", "755", "4751"]
    assert lines[1].split()[1:3] == ["7", "8"] and lines[2].split()[3:5] == ["100000", "2"]
    assert lines[3:] == ["link -> /deep", "read-only"]


@pytest.mark.parametrize("users", [False, True])
def test_idmapped_binds_show_other_owners(oci: Runtime, tmp_path: Path, host_mount: Callable[..., Path], users: bool) -> None:
    top = host_mount("top")
    sub = host_mount("top/sub")
    for folder, owner in ((top, 0), (sub, 5)):
        (folder / "file").write_text("")
        os.chown(folder / "file", owner, owner)
    if users:
        oci.config["linux"]["namespaces"].append({"type": "user"})
        oci.config["linux"]["uidMappings"] = oci.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        os.chown(oci.bundle / "rootfs", 100000, 100000)
    base = 100000 if users else 0
    maps = [{"containerID": 0, "hostID": base + 1000, "size": 100}]
    mapped = {**bind(top, "/mapped", "rbind", "idmap"), "uidMappings": maps, "gidMappings": maps}
    deep = {**bind(top, "/deep", "rbind", "ridmap"), "uidMappings": maps, "gidMappings": maps}
    oci.config["mounts"] += [mapped, deep, *([bind(top, "/own", "rbind", "ridmap")] if users else [])]
    script = "stat -c '%u %g' /mapped/file /mapped/sub/file /deep/file /deep/sub/file" + (
        " /own/file; touch /own/new && stat -c %u /own/new" * users
    )
    plain = "65534 65534" if users else "5 5"
    own = ["0 0", "0"] if users else []
    assert oci.shell(script).splitlines() == ["1000 1000", plain, "1000 1000", "1005 1005", *own]
    if users:
        assert os.stat(top / "new").st_uid == 0, "what root of the container makes is root's on the host's disk"


def test_the_cgroup_mount_shows_the_containers_own_tree(oci: Runtime) -> None:
    script = "ls /sys/fs/cgroup/cgroup.procs && grep ^0: /proc/self/cgroup; mkdir /sys/fs/cgroup/x || echo read-only"
    assert oci.shell(script).splitlines() == ["/sys/fs/cgroup/cgroup.procs", "0::/", "read-only"]
    oci.config["linux"]["namespaces"] = [one for one in oci.config["linux"]["namespaces"] if one["type"] != "cgroup"]
    own = oci.shell("grep -c . /sys/fs/cgroup/cgroup.procs; grep -q $$ /sys/fs/cgroup/cgroup.procs && echo member")
    assert own.endswith("member\n"), "without a namespace of its own it is bound"


@pytest.mark.parametrize("tree", ["mkdir unified && mount -t cgroup2 cgroup2 unified", "true"])
def test_the_cgroup_mount_on_other_hosts(oci: Runtime, tree: str) -> None:
    """One that has version 1 beside version 2, and one that has no version 2."""
    oci.command("/bin/sh", "-c", "ls -d /sys/fs/cgroup/cgroup.procs")
    prepare = f'mount -t tmpfs none /sys/fs/cgroup && cd /sys/fs/cgroup && {tree} && cd / && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", prepare, "sh", OCI, "--root", oci.root, "run", "--bundle", oci.bundle, "one"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.stdout == "/sys/fs/cgroup/cgroup.procs\n" * (tree != "true"), done.stderr
    assert tree != "true" or ("no cgroup2 tree" in done.stderr and "mounts[6]" in done.stderr)
    assert not oci.leftovers()


def test_what_a_user_namespace_may_not_mount_is_the_hosts(oci: Runtime) -> None:
    """user_namespaces(7): proc, sysfs and mqueue are the owner's of the namespace that they show."""
    linux = oci.config["linux"]
    linux["namespaces"] = [{"type": kind} for kind in ("mount", "user", "uts", "cgroup")]
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    oci.config["mounts"] = [mount for mount in oci.config["mounts"] if mount["type"] != "mqueue"]
    oci.config["mounts"] = [mount for mount in oci.config["mounts"] if mount["destination"] != "/sys/fs/cgroup"]
    found = seen(oci)
    assert found["/sys"][0].startswith("ro,") and "/proc" in found
    assert found["/sys/fs/cgroup"][0].startswith("ro,"), "the host's tree comes with it, and is no more writable than the rest"


PROC = [
    tmpfs("/proc/sys"),
    bind("/tmp", "/proc/self/attr"),
    tmpfs("/proc"),
    bind("/tmp", "/proc"),
    bind("/etc/passwd", "//proc/./x/../version"),
]


@pytest.mark.parametrize("mount", PROC, ids=[one["destination"] for one in PROC])
def test_nothing_may_hide_a_part_of_procfs(oci: Runtime, mount: dict[str, Any]) -> None:
    oci.config["mounts"].append(mount)
    oci.command("/bin/true")
    done = oci("run", "one", code=1)
    assert "proc" in done.stderr and "mounts[7]" in done.stderr
    assert not oci.leftovers()


def test_a_file_of_procfs_may_have_a_stand_in(oci: Runtime, tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("5 5\n")
    oci.config["mounts"].append(bind(tmp_path / "uptime", "/proc/uptime", "bind", "ro"))
    assert oci.shell("cat /proc/uptime") == "5 5\n"


@pytest.mark.parametrize("more", [[], ["remount"]])
def test_options_of_a_file_system_mean_nothing_to_a_bind(oci: Runtime, tmp_path: Path, more: list[str]) -> None:
    """The kernel passes over them, as mount(8) does: who sends them is told, and what does count counts."""
    oci.config["mounts"] += [bind(tmp_path, "/x")] if more else []
    oci.config["mounts"].append(bind(tmp_path, "/x", "bind", "mode=755", "ro", *more))
    for _ in range(2):
        oci.command("/bin/sh", "-c", "touch /x/file")
        done = oci("run", "one", code=1)
        assert ".options[1]: mode=755 means nothing to a bind mount" in done.stderr and "Read-only" in done.stderr


WRONG: list[tuple[dict[str, Any], str, str]] = [
    (bind("/no/such", "/x"), "mounts[7]", "no such file or directory"),
    (bind("/etc", "/x", "rbind", "ro0"), "mounts[7].options[1]", "unknown option 'ro0'"),
    (tmpfs("/x", "sizzle=5"), "mounts[7]", "does not take one of the options"),
    (tmpfs("/x", "size=abc"), "mounts[7]", "does not take one of the options size=abc: Invalid argument"),
    ({"destination": "/x", "type": "cgroup", "options": ["ro", "nonsense"]}, "mounts[7]", "does not take one of the options nonsense"),
    ({"destination": "/x", "type": "nosuchfs"}, "mounts[7]", "no file system nosuchfs"),
    ({"destination": "/x"}, "mounts[7].type", "has no type"),
    ({"destination": "/x", "options": ["bind"]}, "mounts[7].source", "has no source"),
    ({"destination": "/x", "type": "proc", "options": ["tmpcopyup"]}, "mounts[7].options", "goes with tmpfs"),
    (tmpfs("/x", "ridmap"), "mounts[7].options", "idmap has no mapping"),
    (bind("/etc", "/x", "bind", "idmap=uids=1-1"), "mounts[7].options", "uids and gids"),
    (
        {**bind("/etc", "/x", "bind", "idmap=uids=1-1-1;gids=1-1-1"), "uidMappings": [], "gidMappings": []},
        "mounts[7].options",
        "says the same",
    ),
    (tmpfs("/", "tmpcopyup"), "mounts[7].destination", "the root itself"),
    (bind("/etc", "//.", "bind"), "mounts[7].destination", "the root itself"),
    (tmpfs("/x", "private", "shared", "slave"), "mounts[7].options", "two kinds of propagation"),
]


@pytest.mark.parametrize(("mount", "where", "reason"), WRONG, ids=[row[2] for row in WRONG])
def test_a_wrong_mount_is_refused_with_its_path(oci: Runtime, mount: dict[str, Any], where: str, reason: str) -> None:
    oci.config["mounts"].append(mount)
    oci.command("/bin/true")
    done = oci("run", "one", code=1)
    assert reason in done.stderr and where in done.stderr, done.stderr
    assert not oci.leftovers() and len(json.dumps(oci.config)) > 0
