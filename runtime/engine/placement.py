"""A place in the cgroup tree where a pod can be limited (cgroups(7), "no internal processes"; systemd, CONTROL_GROUP_INTERFACE).

A controller limits a pod only when the cgroup above the pod's enables it for its children, and the kernel allows that
only while no process is in that cgroup itself, the root excepted.  So whoever starts pods with limits sits in a leaf
beside them, `pyrun-supervisor`.  Below a service with Delegate=yes that is all.  A login session is not delegated: there
systemd is asked for a scope of the pod's own, and who is not root asks the systemd of the user (user@.service).
"""

from __future__ import annotations

import os
import time

from pyrun.errors import HostError
from pyrun.host import CGROUP_ROOTS, LEAF, own_cgroup, put, read_small
from pyrun.native.users import is_root, mapped_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["adjust", "advice", "approach", "bus", "environment", "properties_of_scope", "slice_of", "take"]

_WORDS = "cpu cpuset io memory pids"
_SYSTEMD = "/run/systemd/system"  # sd_booted(3)
_UNMANAGED = ("dmem", "hugetlb", "misc", "rdma")  # systemd.resource-control(5), Delegate=, knows no such controllers
_PATIENCE = 10.0  # seconds for systemd to make a scope
_COLLECT = ("CollectMode", "s", "inactive-or-failed")
_DEFAULTS = ("", "max", "0", "100", "default 100", "max 100000")  # what a unit has without the property


def take(uuid: str, words: Sequence[str], limits: Iterable[tuple[str, str]] = ()) -> None:
    """Bring this process to where the pod `uuid` can be limited; HostError when there is no such place.

    `words` are the controllers that it takes, @systemd or @cgroupfs when one of these is to manage the cgroup, and @slice=NAME for
    systemd to know which slice its scope belongs to.  The process may be moved to a leaf of its cgroup or, by systemd, into the scope
    `pyrun-UUID.scope`, which @systemd gives `limits`, (file, text) each, as properties.
    """
    controllers = [word for word in words if word[0] != "@"]
    above = found = own_cgroup()
    if not above and not is_root() and os.path.isdir(_SYSTEMD):
        above = _of_user(uuid, words, limits if "@systemd" in words else ())
    elif "@systemd" in words and above:
        above = _managed(uuid, words, above, limits)
    if not above:
        raise HostError("limit the pod", "", "there is no cgroup2 tree that pyrun may write to", hint="mount one on /sys/fs/cgroup")
    missing = [name for name in controllers if name not in _words(above, "cgroup.subtree_control")]
    if not missing:
        return
    managed = above == found and not {"@systemd", "@cgroupfs"} & set(words) and os.path.isdir(_SYSTEMD) and above not in CGROUP_ROOTS
    if managed and not _delegated(above):
        if above.endswith(".service"):
            hint = f"put Delegate=yes into {os.path.basename(above)}"
            raise HostError("limit the pod", missing[0], f"the controller is not delegated to {above}", hint=hint)
        above = _scope(uuid)
    if _settle(above, missing):
        return
    missing = [name for name in controllers if name not in _words(above, "cgroup.controllers")] or missing
    raise HostError("limit the pod", missing[0], f"the controller cannot be enabled in {above}", hint=advice(above, missing[0]))


def advice(above: str, controller: str) -> str:
    """Return what to do about a controller that cannot be enabled for the children of the cgroup directory `above`."""
    if controller in _words(above, "cgroup.controllers"):
        return "other processes are in that cgroup: start pyrun in one of its own, below a unit with Delegate=yes"
    for line in read_small("/proc/cgroups").decode().splitlines():
        fields = line.split()
        if fields[:1] == [controller] and fields[1] != "0":
            return "this host uses it with cgroup version 1: boot with systemd.unified_cgroup_hierarchy=1"
    if above in CGROUP_ROOTS:
        return "this kernel does not have it: see cgroup.controllers there"
    manager = next((part for part in above.split("/") if part.startswith("user@") and part.endswith(".service")), "")
    if manager:
        file = "/etc/systemd/system/user@.service.d/delegate.conf"
        return f"delegate it to users, in {file}: [Service] Delegate={_WORDS}; then restart {manager}"
    if controller in _UNMANAGED:
        return f"systemd never delegates it: write +{controller} to cgroup.subtree_control in {CGROUP_ROOTS[0]} and each cgroup above this"
    return "it is not delegated: put Delegate=yes into the unit that pyrun runs in, or enable it in cgroup.subtree_control above"


def _managed(uuid: str, words: Sequence[str], above: str, limits: Iterable[tuple[str, str]]) -> str:
    from pyrun.plan.scope import properties_of

    if above.endswith(f"/pyrun-{uuid}.scope"):
        return above  # the launcher has done it
    hint = "use --cgroup-manager cgroupfs, below a unit with Delegate=yes"
    if not os.path.isdir(_SYSTEMD):
        raise HostError("make scope", f"pyrun-{uuid}.scope", "this host was not booted by systemd", hint=hint)
    if above.endswith(".service"):
        raise HostError("make scope", f"pyrun-{uuid}.scope", f"{os.path.basename(above)} would lose its main process", hint=hint)
    return _scope(uuid, properties_of(limits), slice_of(words))


def _of_user(uuid: str, words: Sequence[str], limits: Iterable[tuple[str, str]]) -> str:
    """A scope below the user's own systemd, for whoever was started where root rules, as a login session is."""
    from pyrun.plan.scope import properties_of

    if "@cgroupfs" not in words and os.path.exists(bus()):
        return _scope(uuid, properties_of(limits), slice_of(words))
    path = _own_path()
    reason = f"the controller is not delegated to you in {CGROUP_ROOTS[0]}{path}"
    hint = "leave out --cgroup-manager cgroupfs, or run it in a unit with Delegate=yes and User="
    if "@cgroupfs" not in words:
        reason += f", and {_runtime_dir()}/bus is not there"
        hint = "start your own systemd, `loginctl enable-linger` (Debian: dbus-user-session), or use a unit with Delegate=yes and User="
    raise HostError("limit the pod", next((word for word in words if word[0] != "@"), ""), reason, hint=hint)


def _own_path() -> str:
    """This process's cgroup, as a path below the root of the tree."""
    return read_small("/proc/self/cgroup").decode("utf-8", "surrogateescape").rpartition("0::")[2].split("\n")[0]


def _runtime_dir() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{mapped_ids('uid')[0][1] if os.geteuid() == 0 else os.geteuid()}"


def bus() -> str:
    """Return the path of the bus on which systemd is asked for scopes: the system's or, for who is not root, the user's."""
    return "/run/dbus/system_bus_socket" if is_root() else f"{_runtime_dir()}/bus"


def approach(cgroup: str) -> None:
    """Bring this process to where the user's processes may enter the pod's `cgroup`: the one above both has to be the user's (cgroups(7)).

    From elsewhere, a login for example, the user's systemd moves it into a scope; without one, it stays: entering then fails.
    """
    own = _own_path()
    root = next((root for root in CGROUP_ROOTS if cgroup.startswith(root + "/")), "")
    if not root or not os.path.isdir(_SYSTEMD) or os.access(os.path.commonpath([root + own, cgroup]) + "/cgroup.procs", os.W_OK):
        return
    if os.path.exists(f"{_runtime_dir()}/bus"):
        name = os.path.basename(cgroup)
        _move(f"{name}-{os.getpid()}.scope", [("Description", "s", f"a process for {name}"), ("Slice", "s", "app.slice"), _COLLECT])


def adjust(cgroup: str, limits: Iterable[tuple[str, str]]) -> None:
    """Give the scope above a pod's `cgroup` new limits, where it has such limits; HostError when systemd refuses."""
    from pyrun.plan.scope import properties_of

    above = os.path.dirname(cgroup)
    name = os.path.basename(above)
    if not name.startswith("pyrun-") or not name.endswith(".scope"):
        return
    bounded = [limit for limit in limits if read_small(f"{above}/{limit[0]}").decode().strip() not in _DEFAULTS]
    properties = properties_of(bounded)
    if properties:
        words = [word for one in properties for word in one]
        _call(name, "SetUnitProperties", "sba(sv)", name, "true", str(len(properties)), *words)


def _settle(above: str, missing: Sequence[str]) -> bool:
    """Enable the controllers `missing` for the children of `above`; a process that is alone there goes to the leaf first."""
    if any(name not in _words(above, "cgroup.controllers") for name in missing):
        return False
    if not _make_room(above):
        return False
    return put(above + "/cgroup.subtree_control", " ".join("+" + name for name in missing))


def _make_room(above: str) -> bool:
    """Move this process out of `above`; whether nobody is in there then.  The root (it has no cgroup.type) takes no notice of processes."""
    if not os.path.exists(above + "/cgroup.type"):
        return True
    if _words(above, "cgroup.procs") == [str(os.getpid())]:
        try:
            os.mkdir(f"{above}/{LEAF}", 0o755)
        except FileExistsError:
            pass
        except OSError:
            return False
        if not put(f"{above}/{LEAF}/cgroup.procs", "0"):
            return False
    return not _words(above, "cgroup.procs")


def _delegated(above: str) -> bool:
    """Whether systemd left this cgroup, or one above it, to its unit (systemd.resource-control(5), Delegate=)."""
    import fnmatch

    own = above
    while above not in ("/", *CGROUP_ROOTS):
        if above != own and fnmatch.fnmatchcase(os.path.basename(above), "user@*.service"):
            return _given_away(own[len(above) + 1 :].split("/"))  # delegated to the user's systemd, which gives it away unit by unit
        for name in ("trusted.delegate", "user.delegate"):
            try:
                if os.getxattr(above, name) == b"1":
                    return True
            except OSError:
                pass
        above = os.path.dirname(above)
    return False


def _given_away(below: Sequence[str]) -> bool:
    """Whether the user's systemd left its unit of that path to it: not every version of it marks the cgroup."""
    import subprocess

    unit = next((name for name in below if name.endswith((".service", ".scope"))), "")
    if not unit:
        return False
    command = ["systemctl", "--user", "show", "--property=Delegate", "--value", "--", unit]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL, env=environment(user=not is_root())
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "yes"


def _scope(uuid: str, limits: Sequence[Sequence[str]] = (), slice: str = "") -> str:
    """Have systemd move this process into a scope of its own; returns that one's directory (org.freedesktop.systemd1(5))."""
    return _move(f"pyrun-{uuid}.scope", properties_of_scope(uuid, limits, slice))


def slice_of(words: Iterable[str]) -> str:
    """Return the slice that the words of `take` name, "" for none."""
    return next((word.partition("=")[2] for word in words if word.startswith("@slice=")), "")


def _move(name: str, properties: Sequence[Sequence[str]]) -> str:
    properties = [*properties, ("PIDs", "au", "1", str(os.getpid()))]
    words = [word for one in properties for word in one]
    _call(name, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", str(len(properties)), *words, "0")
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        above = own_cgroup()
        if above.endswith("/" + name):
            return above
        time.sleep(0.002)
    raise HostError("make scope", name, "systemd did not make it in time", hint="see `systemctl list-jobs`")


def properties_of_scope(uuid: str, limits: Sequence[Sequence[str]] = (), slice: str = "") -> list[Sequence[str]]:
    """Return the properties of a pod's scope, in the words of busctl(1), but for its process; a slice if another one is wanted."""
    return [
        ("Description", "s", f"pyrun pod {uuid}"),
        ("Delegate", "b", "true"),
        ("Slice", "s", slice or ("machine.slice" if is_root() else "app.slice")),
        _COLLECT,
        *limits,
    ]


def _call(name: str, *words: str) -> None:
    import subprocess

    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    command = ["busctl", "--system" if is_root() else "--user", "call", *manager, *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL, env=environment(user=not is_root())
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError("ask systemd for", name, str(error), hint="is systemd's busctl there?") from error
    if done.returncode != 0:
        raise HostError("ask systemd for", name, done.stderr.strip() or "systemd refused it", hint="see `journalctl -b`")


def environment(*, user: bool) -> dict[str, str]:
    """Return what systemd's own programs are to have; for a `user` with the bus of his systemd, whatever other bus the session has."""
    folder = _runtime_dir() if user else ""
    return {**os.environ, "XDG_RUNTIME_DIR": folder, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus"} if folder else dict(os.environ)


def _words(cgroup: str, file: str) -> list[str]:
    return read_small(f"{cgroup}/{file}").decode().split()
