"""The verbs that write for systemd: `generate systemd`, `systemd units`, `systemd install`, `systemd remove`."""

from __future__ import annotations

import contextlib
import os
import sys

from pyrun.cli.options import RUN
from pyrun.cli.origin import asked_for, pod_of
from pyrun.cli.output import emit, escape
from pyrun.cli.parse import parse
from pyrun.cli.run import HEALTH, tell
from pyrun.errors import PyrunError, UsageError
from pyrun.images import resolve
from pyrun.native.users import SYSTEM_ROOT
from pyrun.pod.state import Pods
from pyrun.pod.status import status
from pyrun.service import unit as units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrun.cli.parse import Args
    from pyrun.service.podfile import PodFile
    from pyrun.service.unit import Unit

__all__ = ["run"]

_OWN = ("--unit", "--into", "--uuid-file")  # options of `generate systemd` that are none of `run`
_MACHINED = "--machined"  # a flag of the same kind
_LIMIT = 1 << 20


def run(args: Args) -> int:
    """Write units, or what a host gets once, as the verb says."""
    if args.verb == "generate systemd":
        return _generate(args)
    if args.verb == "systemd units":
        return _units(args)
    from pyrun.service import host

    files = host.files_for_host(_program(), args.root)
    if args.verb == "systemd install":
        for path in host.write_files(args.destdir or "", files):
            emit(path + "\n")
        if not args.destdir:
            sys.stderr.write("hint: systemctl daemon-reload && systemctl enable --now pyrun-gc.timer\n")
        return 0
    for path in files:
        _unlink((args.destdir or "") + path)
    return 0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    emit(path + "\n")


def _generate(args: Args) -> int:
    """A service that does what `pyrun run` with the same words does, or those that a pod was made by; for several one each."""
    commands = [sys.argv[1:]]
    parsed = [args]
    into = args.into and os.path.abspath(args.into)
    if len(args.uuid_file) + len(args.more) + bool(args.image) > 1:
        if args.apps or args.argv or args.given - {"into", "machined", "uuid_file", "root", "debug"}:
            hint = "of several take only --into and --machined; make units with other options one by one"
            raise UsageError("generate systemd", "", "takes no options of `run`, nor --unit, with several pods or images", hint=hint)
        words = [*(f"--uuid-file={path}" for path in args.uuid_file), *filter(None, (args.image, *args.more))]
        commands = [["--root", args.root, "generate", "systemd", *([_MACHINED] if args.machined else []), word] for word in words]
        parsed = [parse(command) for command in commands]
    here = os.getcwd()
    made = []
    for one, command in zip(parsed, commands, strict=True):
        made.append(_one(one, command))
        os.chdir(here)
    return _write(made, into)


def _one(args: Args, command: Sequence[str]) -> Unit:
    pods = Pods(args.root)
    uuid = pod_of(args, pods)
    if uuid:
        return _for_pod(args, pods, uuid)
    words = _run_words(command)
    image = args.image.rpartition("/")[2].partition("@")[0].partition(":")[0].removesuffix(".aci")
    name = args.unit or args.name or image or "pod"
    if not units.is_name(name):
        raise UsageError("generate systemd", name, "cannot be the name of a unit", hint="choose one with --unit: letters, digits, - and _")
    folder = os.getcwd() if any(_relative(app) for app in _apps(args)) else ""
    return _service(name, args, words, args.machined, description=f"{_images(args)} (pyrun)", directory=folder)


def _images(args: Args) -> str:
    return ", ".join(app.image or os.path.basename(app.pod_manifest or "") for app in _apps(args))


def _for_pod(args: Args, pods: Pods, uuid: str) -> Unit:
    """The same for a pod of the background; the current directory is that pod's then."""
    directory, words, left_out = asked_for(pods, uuid)
    with contextlib.suppress(OSError):
        os.chdir(directory)  # what relative paths are relative to
    parsed = parse(["--root", args.root, "run", *words])
    name = args.unit or args.image or str(status(pods, uuid).get("pod_name") or f"pod-{uuid[:8]}")
    if not units.is_name(name):
        raise UsageError("generate systemd", name, "cannot be the name of a unit", hint="choose one with --unit: letters, digits, - and _")
    lost = sorted(left_out.keys() & {"interactive", "tty", *HEALTH})
    if lost:
        tell(f"left out, as only a pod in the background has it: {', '.join('--' + one.replace('_', '-') for one in lost)}")
    extra = {"Service": ["Restart=always"]} if left_out.get("restart") == "always" else None
    folder = directory if any(_relative(app) for app in _apps(parsed)) else ""
    description = f"{_images(parsed)} (pyrun)"
    return _service(name, parsed, words, args.machined, description=description, directory=folder, extra=extra)


def _write(made: Sequence[Unit], into: str | None) -> int:
    names = [one.name for one in made]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise UsageError("generate systemd", twice, "would be the unit of two of them", hint="make one of them alone, with --unit")
    if not into:
        emit(made[0].text if len(made) == 1 else "\n".join(f"# {one.name}\n{one.text}" for one in made))
        return 0
    from pyrun.service import host

    for path in host.write_units(into, [units.Unit(one.name, one.text) for one in made]):
        emit(path + "\n")
    return 0


def _run_words(argv: Sequence[str]) -> list[str]:
    """What follows ``generate systemd`` on this command line, without the options that `run` does not know."""
    place = argv.index("systemd") + 1
    words: list[str] = []
    while place < len(argv):
        word = argv[place]
        if word == "--":  # an app's arguments, up to the next app
            end = argv.index("---", place) if "---" in argv[place:] else len(argv)
            words += argv[place:end]
            place = end
            continue
        if word in _OWN:
            place += 1
        elif word.partition("=")[0] not in (*_OWN, _MACHINED):
            words.append(word)
        place += 1
    return words


def _apps(args: Args) -> Sequence[Args]:
    """What the command line says of each app."""
    return args.apps or [args]


def _relative(args: Args) -> bool:
    """Whether something on the command line is relative to the current directory."""
    image = resolve.parse(args.image).path if args.image else args.pod_manifest
    paths = [image, args.signature, args.uuid_file_save, *args.set_env_file]
    return any(path and path[0] != "/" for path in paths) or any(volume.relative for volume in args.volume)


def _service(name: str, args: Args, words: Sequence[str], machined: bool, **more: object) -> Unit:
    """The service for parsed words of `pyrun run`."""
    command = [_program(), *([] if args.root == SYSTEM_ROOT else ["--root", args.root]), "run", *_named(name, args), *words]
    registered = [*command[: command.index("run")], "register", "--name", name] if machined else []
    apps = _apps(args)
    sources = [volume.source for app in apps for volume in app.volume if volume.kind == "host" and volume.source]
    return units.service(
        name,
        command,
        [*command[: command.index("run")], "gc", "--grace-period", "1h"],  # others' pods may be wanted for their logs
        started=registered,
        mounts=[args.root, *sources],
        retain=[cap for app in apps for cap in app.caps_retain or ()],
        devices=[device for app in apps for device in _devices(app)],
        new_privs=any("new-privs" in app.insecure_options for app in apps),
        **more,  # type: ignore[arg-type]
    )


def _named(name: str, args: Args) -> list[str]:
    """The option that gives the pod the unit's name, unless it has one, or the name is none for a pod.

    A pod that is kept takes it from the one that ended before, which would still have it.
    """
    from pyrun.pod.names import check_name

    apps = (args, *_apps(args))
    taken = ["--take-name"] if any(app.keep for app in apps) and not any(app.take_name for app in apps) else []
    if any(app.pod_name for app in apps):
        return taken
    try:
        return [f"--pod-name={check_name(name, '--unit')}", *taken]
    except UsageError:
        return []


def _devices(args: Args) -> list[str]:
    """Nodes that the unit's own list has to let through; those of a directory are the ones that are there now."""
    if not args.device:
        return []
    from pyrun.pod.devices import read_device

    return [device.source for word in args.device for device, _ in read_device(word)]


def _units(args: Args) -> int:
    """Units for files that describe pods; one that is wrong does not keep the others from being written."""
    from pyrun.service import host

    code = 0
    for path in args.files or host.pod_files():
        try:
            made = _read(path, args.root)
            if args.into:
                for written in host.write_units(os.path.abspath(args.into), made):
                    emit(written + "\n")
                continue
        except PyrunError as error:
            from pyrun.cli.main import render

            code = render(error, args.debug)
            if args.kmsg:
                host.tell_kernel(escape(f"{path}: {error}"))
            continue
        for one in made:
            emit(f"# {one.name}\n{one.text}\n")
    return code


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # nothing holds up a boot, not even a pipe in its place


def _read(path: str, root: str) -> list[Unit]:
    """The units of one file."""
    from pyrun.service import podfile

    name = os.path.basename(path).removesuffix(".pod")
    if not units.is_name(name):
        hint = "name the file NAME.pod, with letters, digits, - and _"
        raise UsageError("read", path, "its name cannot be that of a unit", hint=hint)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", opener=_open) as file:
            text = file.read(_LIMIT + 1)
    except OSError as error:
        raise UsageError("read", path, errno=error.errno or 0, hint="name a readable file that describes a pod") from None
    if len(text) > _LIMIT:
        raise UsageError("read", path, "larger than 1 MiB", hint="a file that describes a pod has some ten lines")
    flags = {word[2:]: (word, option[2] == "flag") for option in RUN for word in option[0].split() if word.startswith("--")}
    found = podfile.parse(text, path, {**flags, _MACHINED[2:]: (_MACHINED, True)})
    machined = _MACHINED in found.words[: found.words.index("--")]
    if machined:
        found.words.remove(_MACHINED)
    try:
        parsed = parse(["--root", root, "run", *found.words])
        if any(_relative(app) for app in _apps(parsed)):
            raise UsageError("read", path, "a path in it is not absolute", hint="write paths of the host from the root: /srv/www")
    except PyrunError as error:
        error.origin = error.origin or path
        raise
    return _of_file(name, parsed, found, machined)


def _of_file(name: str, parsed: Args, found: PodFile, machined: bool) -> list[Unit]:
    further = {f"{name}@{one}": lines for one, lines in found.sockets.items()}  # an instance: no other file's unit can have that name
    listening = [f"{one}.socket" for one in (name, *further)] if "Socket" in found.sections else []
    source = os.path.abspath(found.path)
    description = f"{found.image} (pyrun)"
    more = {"description": description, "listening": listening, "extra": found.sections, "source": source}
    made = [_service(name, parsed, found.words, machined, **more)]
    if listening:
        made.append(units.socket(name, found.sections["Socket"], description=description, source=source))
    for one, lines in further.items():
        made.append(units.socket(one, lines, description=description, source=source, starts=name))
    return made


def _program() -> str:
    """The launcher beside this interpreter, as a unit has to name it."""
    return os.path.join(os.path.dirname(sys.executable), "pyrun")
