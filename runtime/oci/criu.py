"""checkpoint: the processes of a container become files, by criu (docs/design/checkpoint.md).  Cold.

Beside criu's own files stands `pyrun-oci.json`, written last: what restore has to know, and the sign that the checkpoint is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re

from pyrun.errors import HostError, StateError, UsageError
from pyrun.images import fastjson
from pyrun.oci import criu_mounts, criu_rpc, state
from pyrun.oci.create import is_user, root_of
from pyrun.oci.criu_config import check, config_file
from pyrun.oci.criu_lazy import lazy
from pyrun.oci.criu_mounts import is_node
from pyrun.oci.mounts import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.oci.arguments import Arguments
    from pyrun.oci.criu_rpc import Field, Told
    from pyrun.oci.state import Container

__all__ = ["NETWORK", "available", "checkpoint", "common", "failed", "places", "read_note", "shape", "sweep"]

NOTE = "pyrun-oci.json"
NETWORK = "extRootNetNS"  # the name of a network namespace that the container does not own
_EMPTY_NETWORK = 0x40000000  # CLONE_NEWNET
_IPTABLES, _NFTABLES = 1, 2
# option: field of criu_opts
_FLAGS = {"ext-unix-sk": 4, "tcp-established": 5, "shell-job": 7, "file-locks": 8, "auto-dedup": 16}
_TEXTS = {"lsm-profile": 53, "lsm-mount-context": 63}
_STREAM = re.compile(r"|pipe:\[[0-9]+\]|file\[[0-9a-f]+:[0-9a-f]+\]")
_OTHERS = (NOTE + ".new", NOTE, "parent", "dump.log", "restore.log", "stats-dump", "stats-restore")


def available(args: Arguments, verb: str) -> str:
    """Return the path of criu; HostError when it is not there or does not work here, or for a caller without root's rights."""
    if is_user(args.get("rootless", "auto")):
        raise HostError(verb, "", "it takes the rights of the host's root", hint="criu looks into every process")
    return criu_rpc.usable(verb)


def checkpoint(args: Arguments) -> int:
    """Write the container's processes to files, and end them unless that is not wanted; PyrunError, and they run on."""
    options = common(args)
    _check_parent(args)
    program = available(args, args.verb)
    container = state.Container(root_of(args), args.words[0])
    status, pid = container.status(), container.pid
    if status not in ("running", "paused") or not pid:
        reason = f"cannot checkpoint a container that is {status}" + (": container not running" if status == "stopped" else "")
        raise StateError("checkpoint container", container.id, reason, hint="start it first" if status == "created" else "")
    config = container.config()
    network = check(container, config)
    early = "pre-dump" in args.options
    options += [*_tracking(args, program, early), *config_file(config)]
    if early or "leave-running" in args.options:
        options.append((3, 1))
    try:
        note = _note(container.id, pid, config)
        options += _wanted(container, pid, note, network)
    except (FileNotFoundError, ProcessLookupError):
        raise StateError("checkpoint container", container.id, "container not running") from None
    _write(args, program, note, options, container if "lazy-pages" in args.options else None, early=early)
    if "lazy-pages" in args.options:
        try:
            container.lock()
        except StateError:  # somebody has deleted it
            return 0
    if not early and "leave-running" not in args.options:
        from pyrun.oci.control import destroy

        destroy(container, force=True)
    container.close()
    return 0


def _write(args: Arguments, program: str, note: dict[str, Any], options: list[Field], serving: Container | None, *, early: bool) -> None:
    """Let criu write the files, and put them in the place of an earlier checkpoint's once they are whole; what fails leaves that one.

    From then on a container that goes on `serving` its pages is not locked: it may be deleted.
    """
    import fcntl

    existed, before = os.path.isdir(_images(args)), None
    try:
        images, work = places(args, make=True)
        before = set(os.listdir(images))
        with _Fresh(images) as fresh:

            def told(what: str, _: int, fd: int) -> None:
                if fd >= 0:
                    os.close(fd)
                if what == "post-dump" and not early:  # no process has been ended yet, nor is if this fails
                    _seal(fresh.path, note)
                    _replace(fresh.path, images, args.get("parent-path"))
                    if serving is not None:
                        fcntl.flock(serving.fd, fcntl.LOCK_UN)

            _dump(args, program, criu_rpc.PRE_DUMP if early else criu_rpc.DUMP, options, (fresh.path, work), told)
            if early:
                _replace(fresh.path, images, args.get("parent-path"))
    except BaseException:
        if before is not None:  # else there is nothing yet, and what stands there is somebody else's
            sweep(_images(args), before)
        if not existed:
            with contextlib.suppress(OSError):
                os.rmdir(_images(args))
        raise


class _Fresh:
    """A locked and empty directory beside the files of an earlier checkpoint, for those of a new one; gone at the end."""

    def __init__(self, images: str) -> None:
        self.images, self.path, self.fd = images, f"{images}/{NOTE}.d", -1

    def __enter__(self) -> _Fresh:
        import fcntl

        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if os.fstat(self.fd).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state.clear(self.fd)  # of a checkpoint that was killed
        except BlockingIOError:
            self._close()
            raise StateError("write checkpoint", self.images, "another one is being written there", origin="--image-path") from None
        except OSError as error:
            self._close()
            raise HostError("write checkpoint", self.path, errno=error.errno or 0, origin="--image-path") from None
        return self

    def __exit__(self, *_: object) -> None:
        state.clear(self.fd)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
        self._close()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def _replace(fresh: str, images: str, parent: str) -> None:
    """Put new files in the place of an earlier checkpoint's: the note, which makes one, is removed first and comes last."""
    _forget(images)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{fresh}/parent")  # which leads there from one directory further down
        os.symlink(parent, f"{images}/parent")
    for name in sorted(os.listdir(fresh), key=NOTE.__eq__):
        os.rename(f"{fresh}/{name}", f"{images}/{name}")


def sweep(images: str, before: set[str]) -> None:
    """Remove what criu has written into a directory since it had the files `before`."""
    with contextlib.suppress(FileNotFoundError):
        for name in set(os.listdir(images)) - before:
            if name.endswith(".img") or name in _OTHERS:
                os.unlink(f"{images}/{name}")


def common(args: Arguments) -> list[Field]:
    """Return what the options come to that checkpoint and restore share; UsageError for one that is not to be had."""
    mode = args.get("manage-cgroups-mode", "ignore")
    if mode != "ignore":
        hint = "the cgroup and its limits come from config.json, which is mode ignore"
        raise UsageError(args.verb, f"--manage-cgroups-mode {mode}", "is not supported", hint=hint, origin="--manage-cgroups-mode")
    spaces = args.get("empty-ns", "network")
    if spaces != "network":
        raise UsageError(args.verb, f"--empty-ns {spaces}", "no such kind", hint="network", origin="--empty-ns")
    options: list[Field] = [(field, 1) for name, field in _FLAGS.items() if name in args.options]
    options += [(field, args.get(name)) for name, field in _TEXTS.items() if args.get(name)]
    if args.get("empty-ns"):
        options.append((38, _EMPTY_NETWORK))
    options += lazy(args)
    lock = _IPTABLES if _has("iptables-restore") else _NFTABLES
    return [*options, (9, 4), (12, 1), (29, 1), (30, 1), (34, 0), (50, 1), (64, lock)]


def _has(program: str) -> bool:
    return any(os.access(f"{folder}/{program}", os.X_OK) for folder in os.environ.get("PATH", "").split(":") if folder)


def shape(config: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be the same in config.json at restore."""
    linux = config.get("linux", {})
    return {
        "mounts": sorted({clean(mount["destination"]) for mount in config.get("mounts", ())}),
        "namespaces": sorted(one["type"] + (" by path" if one.get("path") else "") for one in linux.get("namespaces", ())),
        "terminal": bool((config.get("process") or {}).get("terminal")),
    }


def _note(name: str, pid: int, config: dict[str, Any]) -> dict[str, Any]:
    from pyrun import __version__

    terminal = (config.get("process") or {}).get("terminal")
    streams = ["" if terminal else _stream(pid, fd) for fd in range(3)]
    outside = criu_mounts.externals(pid, config)
    return {"version": __version__, "id": name, "shape": shape(config), "streams": streams, "external": outside}


def _stream(pid: int, fd: int) -> str:
    """Return by which name criu knows a standard stream that came from the caller, "" for one that is the container's own."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        if target.startswith("pipe:"):
            return target
        return criu_mounts.outside(pid, fd) if target.startswith("/") else ""
    except FileNotFoundError:  # it has closed it
        return ""


def _check_parent(args: Arguments) -> None:
    parent = args.get("parent-path")
    if parent.startswith("/"):
        hint = "it is relative to --image-path, and stays so when both are moved"
        raise UsageError("checkpoint", f"--parent-path {parent}", "is not relative", hint=hint, origin="--parent-path")
    if parent and os.path.realpath(f"{_images(args)}/{parent}") == os.path.realpath(_images(args)):
        hint = "it would be overwritten; give this one a directory of its own"
        raise UsageError("checkpoint", f"--parent-path {parent}", "is --image-path itself", hint=hint, origin="--parent-path")
    if parent and not os.path.isdir(os.path.normpath(f"{_images(args)}/{parent}")):
        raise HostError("checkpoint", parent, "no such directory", origin="--parent-path")


def _tracking(args: Arguments, program: str, early: bool) -> list[Field]:
    """What makes the next dump smaller: pages are counted from an earlier one on."""
    parent = args.get("parent-path")
    if not parent and not early:
        return []
    if not criu_rpc.can_track_memory("checkpoint", program):
        raise HostError("checkpoint", "", "this kernel does not tell which memory was written (CONFIG_MEM_SOFT_DIRTY)", origin="--pre-dump")
    return [(15, 1), *([(14, f"../{parent}")] if parent else [])]  # from `_Fresh`


def _images(args: Arguments) -> str:
    return os.path.abspath(args.get("image-path", "checkpoint"))


def places(args: Arguments, *, make: bool) -> tuple[str, str]:
    """Return the directories of the files and of criu's log, made if wanted; HostError when they cannot be had."""
    images = _images(args)
    work = os.path.abspath(args.get("work-path") or images)
    for path, option, wanted in ((images, "--image-path", make), (work, "--work-path", True)):
        try:
            if wanted:
                os.makedirs(path, 0o700, exist_ok=True)
            os.listdir(path)
        except OSError as error:
            raise HostError(f"open {option[2:]}", path, errno=error.errno or 0, origin=option) from None
    return images, work


def _wanted(container: Container, pid: int, note: dict[str, Any], network: str) -> list[Field]:
    options: list[Field] = [(2, pid), (13, container.record["rootfs"])]
    options += [(37, f"mnt[{point}]:{point}") for point in note["external"]]
    options += [(37, key) for key in note["streams"] if key.startswith("file[")]
    if network:
        options.append((37, f"net[{os.stat(f'/proc/{pid}/ns/net').st_ino}]:{NETWORK}"))
    if container.group:
        options.append((44, container.group))
    return options


def _dump(args: Arguments, program: str, kind: int, options: list[Field], folders: tuple[str, str], told: Told) -> None:
    from pyrun.oci import attend

    attend.hold()  # until the end: what comes after the dump belongs to it
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in folders]
    try:
        service = criu_rpc.Service([program], apart=True)
        answer = service.ask(args.verb, [(1, kind), (2, [(1, fds[0]), (17, fds[1]), (10, "dump.log"), *options])], told)
    finally:
        for fd in fds:
            os.close(fd)
    if not criu_rpc.succeeded(answer):
        raise failed(args, f"{folders[1]}/dump.log", service.said)


def failed(args: Arguments, log: str, said: str) -> HostError:
    """Return the error of a criu that gave up, with the reason from its log."""
    why = criu_rpc.first_error(log) or said or "it does not say why"
    hint = f"see {log}" if args.get("work-path") else "with --work-path its log stays there"
    return HostError(f"{args.verb} container", args.words[0], f"criu failed: {why}", hint=hint)


def read_note(images: str) -> dict[str, Any]:
    """Return what is beside a whole checkpoint; StateError for a directory without one, or one with files that are not as they were."""
    try:
        if not os.path.isfile(f"{images}/{NOTE}") and os.path.lexists(f"{images}/{NOTE}"):
            raise ValueError(NOTE)
        note: Any = fastjson.loads(state.read(f"{images}/{NOTE}"))
        if not _is_note(note):
            raise ValueError(NOTE)
        sizes = {name: os.stat(f"{images}/{name}", follow_symlinks=False).st_size for name in note["files"]}
    except FileNotFoundError as error:
        missing = os.path.basename(error.filename or NOTE)
        hint = "a directory that `pyrun-oci checkpoint` of this runtime has written is needed"
        raise StateError("read checkpoint", images, f"{missing} is missing", hint=hint, origin="--image-path") from None
    except ValueError:
        raise StateError("read checkpoint", f"{images}/{NOTE}", "is damaged", origin="--image-path") from None
    for name, size in note["files"].items():
        if sizes[name] != size:
            reason = f"{name} has {sizes[name]} bytes, and had {size}"
            raise StateError("read checkpoint", images, reason, hint="copy it again", origin="--image-path")
    found: dict[str, Any] = note
    return found


def _is_note(note: Any) -> bool:
    """Whether it has the members that `_note` and `_seal` have written, and names no other places than they do."""
    try:
        outside, shaped = note["external"], note["shape"]
        return (
            all("/" not in name and name.endswith(".img") and isinstance(size, int) for name, size in note["files"].items())
            and len(note["streams"]) == 3
            and all(_STREAM.fullmatch(key) for key in note["streams"])
            and all(isinstance(one, str) for kind in ("mounts", "namespaces") for one in [*shaped[kind]])
            and isinstance(shaped["terminal"], bool)
            and all(what["mount"] in shaped["mounts"] if "mount" in what else is_node(what["path"]) for what in outside.values())
            and all(_is_plain(what.get("below", "")) for what in outside.values())
            and all(point and _is_plain(point) for point in outside)
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _is_plain(path: str) -> bool:
    """Whether it is empty, or absolute and goes down only."""
    return not path or (path[0] == "/" and not {"", ".", ".."}.intersection(path[1:].split("/")))


def _seal(images: str, note: dict[str, Any]) -> None:
    """Write what makes the checkpoint whole: the sizes of its files."""
    files = {entry.name: entry.stat().st_size for entry in os.scandir(images) if entry.name.endswith(".img")}
    state.write(f"{images}/{NOTE}", fastjson.dumps({**note, "files": files}).encode())


def _forget(images: str) -> None:
    """Remove an earlier checkpoint."""
    try:
        names = [NOTE, *read_note(images)["files"]]
    except StateError:
        names = [NOTE, "inventory.img"]
    for name in [*names, "parent"]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{images}/{name}")
