"""What a caller asks of one more process in a running pod -> the plan of it, looked up in the pod as it now is."""

from __future__ import annotations

import errno
import os

from pyrun.engine.launch import Slots
from pyrun.errors import ConfigError, ExecError, StateError, UsageError
from pyrun.plan import ops
from pyrun.plan.entering import Request, entering, environment, exposed, user_id
from pyrun.pod.live import find_live
from pyrun.pod.names import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyrun.images.rootfs import RootFS
    from pyrun.plan.ops import Plan
    from pyrun.pod.live import Live
    from pyrun.pod.state import Pods

__all__ = ["find_enterable", "make_plan", "open_slots", "pod_plan"]

_SHELL = "/bin/sh"
_OTHER_SHELLS = ("/bin/bash", "/bin/ash", "/bin/dash", "/usr/bin/sh", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/zsh", "/bin/busybox")
_NO_SHELLS = ("", "/bin/false", "/usr/bin/false", "/sbin/nologin", "/usr/sbin/nologin")


def find_enterable(pods: Pods, word: str, app: str | None = None) -> Live:
    """Return the running pod that `word` means (`pyrun.pod.names.resolve`); StateError, which says why, when it cannot be entered.

    `app` says which app of several.
    """
    phase, uuid = resolve(pods, word)
    if phase != "running":
        reason = "it has ended" if phase == "exited" else "it does not run yet"
        raise StateError("enter pod", uuid, reason, hint="only a running pod can be entered")
    return find_live(pods, uuid, app)


def open_slots(live: Live, plan: Plan) -> Slots:
    """Return the descriptors with which the helper carries out a plan of `make_plan`; StateError when the pod is paused or gone."""
    slots = Slots(pods=live.init_fd, cgroup=_open_cgroup(live))  # SLOT_INIT takes the place of SLOT_PODS
    if plan.clone_flags & ops.CLONE_NEWUSER and plan.clone_flags & ops.CLONE_NEWNS:  # of the pod's own, see `entering`
        try:
            slots.network = live.open_supervisor()  # and SLOT_SUPERVISOR that of SLOT_NETWORK
        except BaseException:
            slots.close()
            raise
    return slots


def _open_cgroup(live: Live) -> int:
    """A descriptor of the pod's cgroup, -1 where it has none."""
    from pyrun.engine import cgroup

    if not live.cgroup:
        return -1
    try:
        fd = cgroup.open_existing(live.cgroup)
    except OSError as error:
        if error.errno == errno.ENOENT and os.geteuid() and live.lives():
            return -1  # a user may make none: the record was written before that was tried
        raise StateError("enter pod", live.uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None
    if _is_frozen(fd, "cgroup.freeze") or (live.app and _is_frozen(fd, "../cgroup.freeze")):
        os.close(fd)
        raise StateError("enter pod", live.uuid, "it is paused", hint="resume it first")
    return fd


def _is_frozen(cgroup: int, name: str) -> bool:
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup)
    except OSError:
        return False
    try:
        return os.read(file, 8).strip() == b"1"
    finally:
        os.close(file)


def pod_plan(live: Live) -> Plan:
    """Return the plan that the pod runs by; StateError when nobody may enter such a pod."""
    try:
        pod = ops.decode(live.plan())
    except ValueError:
        hint = "use that version, or start the pod again"
        raise StateError("enter pod", live.uuid, "another version of pyrun started it", hint=hint) from None
    if exposed(pod):
        reason = "it gave up no_new_privs, and its app may trace whoever enters (CAP_SYS_PTRACE)"
        raise StateError("enter pod", live.uuid, reason, hint="start it without --insecure-options=new-privs, or without that capability")
    if pod.flags & ops.HOST_NETWORK and not _same_network(live):
        hint = "do so from where it was started"
        raise StateError("enter pod", live.uuid, "it has the network that its supervisor is in, and this is another one", hint=hint)
    return pod


def _same_network(live: Live) -> bool:
    """Nobody can be brought to a network that belongs to none of his user namespaces (setns(2))."""
    try:
        return os.path.samefile(f"/proc/{live.supervisor}/ns/net", "/proc/self/ns/net")
    except OSError as error:
        raise StateError("enter pod", live.uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None


def make_plan(
    live: Live,
    argv: Sequence[str],
    *,
    interactive: bool = False,
    tty: bool = False,
    user: str | None = None,
    group: str | None = None,
    set_env: Mapping[str, str] | None = None,
    working_dir: str | None = None,
    term: str = "xterm",
    known: Plan | None = None,
) -> Plan:
    """Return the plan for `argv`, or for a shell if it is empty, with all that the app has but for what is asked.

    `user` and `group` mean what the pod's own /etc/passwd and /etc/group say.  ConfigError for an unknown one, UsageError
    for a directory that is not absolute, ExecError when there is no shell.  `known` is what `pod_plan` said, where it was asked before.
    """
    pod = pod_plan(live) if known is None else known
    own_users = bool(pod.clone_flags & ops.CLONE_NEWUSER)
    env = environment(pod)
    request = Request()
    if own_users:
        _check_user(user, group)
    elif user is not None or group is not None:
        request.ids = _identity(live, pod, user, group, env)
    if tty:
        env.setdefault("TERM", term)
    env.update(set_env or {})
    if working_dir is not None and not working_dir.startswith("/"):
        raise UsageError("use working directory", working_dir, "not an absolute path", hint="begin it with /", origin="--working-dir")
    request.cwd = working_dir
    request.argv = list(argv) or ([_SHELL] if own_users else _shell(live, user_id(pod) if request.ids is None else request.ids[0]))
    program = request.argv[0]
    request.paths = [program] if "/" in program else [f"{one or '.'}/{program}" for one in env.get("PATH", "").split(":")]
    request.env = [f"{name}={value}" for name, value in env.items()]
    request.interactive, request.tty = interactive, tty
    outside = os.geteuid() != 0 and not own_users
    return entering(pod, request, ops.CLONE_NEWUSER if outside else 0)


def _check_user(user: str | None, group: str | None) -> None:
    """Without root a pod of the library has one user, whose files cannot be read from outside to look others up."""
    for wanted, origin in ((user, "--user"), (group, "--group")):
        if wanted not in (None, "0", "root"):
            hint = "leave it out, or start the pod by the command line or as root"
            reason = "without root there is one user inside, root, which stands for the caller"
            raise ConfigError("run as", str(wanted), reason, hint=hint, origin=origin)


class _Root:
    """The pod's root as it now is, seen through its process 1."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._fd = -1

    def __enter__(self) -> RootFS:
        from pyrun.images.rootfs import RootFS

        try:
            self._fd = os.open(f"/proc/{self._live.init}/root", os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise StateError("look into pod", self._live.uuid, errno=error.errno or 0, hint="has it ended meanwhile?") from None
        if not self._live.lives():  # its number may be another's
            os.close(self._fd)
            raise StateError("look into pod", self._live.uuid, "it has ended", hint="only a running pod can be entered")
        return RootFS([f"/proc/self/fd/{self._fd}"])

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _identity(live: Live, pod: Plan, user: str | None, group: str | None, env: dict[str, str]) -> tuple[int, int, tuple[int, ...]]:
    """The ids; variables that name the user follow."""
    from pyrun.images.passwd import resolve_user

    own = user_id(pod)
    with _Root(live) as rootfs:
        found = resolve_user(rootfs, user or str(own), group, origin="--user", group_origin="--group")
    if user is not None:
        for name in ("USER", "LOGNAME"):
            env.pop(name, None)
            if found.name:
                env[name] = found.name
        env["HOME"] = found.home or "/"
    return found.uid, found.gid, _groups(pod) if found.uid == own else ()


def _groups(plan: Plan) -> tuple[int, ...]:
    (blob,) = [one[3] for one in plan.ops if one[0] == ops.IDS]
    assert isinstance(blob, bytes)
    return tuple(int.from_bytes(blob[at : at + 4], "little") for at in range(0, len(blob), 4))


def _shell(live: Live, uid: int) -> list[str]:
    """The shell of the user in the pod's /etc/passwd if it is there, else /bin/sh, else any that is usual."""
    from pyrun.images.passwd import login_shell

    with _Root(live) as rootfs:
        try:
            own = login_shell(rootfs, uid)
        except ConfigError:
            own = ""
        wanted = [shell for shell in dict.fromkeys((own, _SHELL)) if shell not in _NO_SHELLS]
        for shell in (*wanted, *_OTHER_SHELLS):
            if rootfs.owner(os.fsencode(shell)) is not None:
                return [shell, "sh"] if shell.endswith("/busybox") else [shell]
    hint = "name a program that is: pyrun enter POD /bin/PROGRAM"
    raise ExecError("enter pod", live.uuid, f"there is no shell in it: no {' and no '.join(wanted)}", errno=errno.ENOENT, hint=hint)
