"""Values with a grammar of their own: volumes, mounts, environment files, durations, sizes.

Imported by the parser only when such an option is used.  Grammar only: whether a source exists or a
volume is used is for the planner to say.
"""

from __future__ import annotations

import os

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

ENV_FILE_LIMIT = 1 << 20  # bytes; Linux refuses a longer environment string list anyway (execve(2))

# appc volume kinds and what each takes besides readOnly; tmpfs is pyrun's own.
_VOLUME_KEYS = {
    "host": ("source", "readOnly", "recursive"),
    "empty": ("readOnly", "mode", "uid", "gid"),
    "tmpfs": ("readOnly", "mode", "uid", "gid", "size"),
}
_DOCKER_KEYS = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readOnly",
    "readonly": "readOnly",
    "readOnly": "readOnly",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}
_SIZES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class VolumeSpec:
    """One volume as written: an rkt --volume (with `name`) or one that says its own `target` (-v SRC:DST).

    `kind` is "host", "empty" or "tmpfs"; `source` an absolute host path for "host", else None; `recursive`,
    `mode`, `uid`, `gid` and `size` (bytes) are None where not written; `origin` is for `PyrunError.origin`, `relative`
    says that the source was written so.
    """

    __slots__ = ("gid", "kind", "mode", "name", "origin", "read_only", "recursive", "relative", "size", "source", "target", "uid")

    def __init__(self, origin: str, kind: str, *, name: str | None = None, source: str | None = None, target: str | None = None) -> None:
        self.origin = origin
        self.kind = kind
        self.name = name
        self.source = source
        self.target = target
        self.read_only = self.relative = False
        self.recursive: bool | None = None
        self.mode: int | None = None
        self.uid: int | None = None
        self.gid: int | None = None
        self.size: int | None = None


class MountSpec:
    """One --mount volume=NAME,target=PATH: where the app sees a named volume."""

    __slots__ = ("origin", "read_only", "target", "volume")

    def __init__(self, origin: str, volume: str, target: str, read_only: bool) -> None:
        self.origin = origin
        self.volume = volume
        self.target = target
        self.read_only = read_only


def add_volume(args: Args, option: str, text: str) -> None:
    """Reads one --volume or -v value into `args.volume`; UsageError when it is malformed or its name is taken."""
    origin = f"{option} {text}"
    if text[0] in "/." or ":" in text.partition(",")[0]:
        args.volume.append(_short(option, text, origin))
        return
    name, *rest = text.split(",")
    if not _is_name(name):
        raise _bad(option, f"'{name}' is not a volume's name", "names are lower case letters, digits and dashes; short form: -v /SRC:/DST")
    if not rest:
        raise _bad(option, f"'{text}' says nothing but a name", f"write {option} {name},kind=host,source=/DIR, or -v /SRC:/DST")
    if any(volume.name == name for volume in args.volume):
        raise _bad(option, f"there are two volumes named {name}", "give each volume a name of its own")
    fields = _fields(option, rest)
    kind = fields.pop("kind", "")
    if kind not in _VOLUME_KEYS:
        raise _bad(option, f"volume {name} has no kind of host, empty, tmpfs", f"write {option} {name},kind=host,source=/DIR")
    volume = VolumeSpec(origin, kind, name=name)
    _fill(volume, option, fields)
    args.volume.append(volume)


def _short(option: str, text: str, origin: str) -> VolumeSpec:
    """SRC:DST[:ro|rw]; a relative SRC is taken from the current directory, as it must contain a slash or a dot."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0]:
        raise _bad(option, f"'{text}' is not SRC:DST[:ro]", "write -v /SRC:/DST, or -v /SRC:/DST:ro")
    source, target = parts[:2]
    if "/" not in source and source[0] != ".":
        raise _bad(option, f"'{source}' is not a path", f"write ./{source} for a directory here; named volumes are {option} NAME,kind=...")
    volume = VolumeSpec(origin, "host", source=os.path.abspath(source), target=_target(option, target))
    volume.relative = source[0] != "/"
    for word in parts[2].split(",") if len(parts) == 3 else ():
        if word not in ("ro", "rw"):
            raise _bad(option, f"'{word}' is not ro or rw", "write -v /SRC:/DST:ro")
        volume.read_only = word == "ro"
    return volume


def add_mount(args: Args, option: str, text: str) -> None:
    """Reads one --mount value into `args.mount`, or, when it brings its own source, into `args.volume`."""
    origin = f"{option} {text}"
    fields = _fields(option, text.split(","), flags=("readonly", "ro", "readOnly"))
    kind = fields.pop("type", "volume" if "volume" not in fields else "")
    for alias in [key for key in fields if key in _DOCKER_KEYS]:
        value = fields.pop(alias)
        if fields.setdefault(_DOCKER_KEYS[alias], value) != value:
            raise _bad(option, f"{_DOCKER_KEYS[alias]} is written twice", "write each part once")
    target = _target(option, fields.pop("target", ""))
    if kind in ("", "volume"):
        name = fields.pop("volume", "") or fields.pop("source", "")
        if not name:
            hint = f"write {option} volume=NAME,target={target}, or type=bind,source=/DIR,target={target}"
            raise _bad(option, "no volume is named", hint)
        read_only = _boolean(option, "readOnly", fields.pop("readOnly", "false"))
        _nothing_left(option, fields, "volume, target and readOnly")
        args.mount.append(MountSpec(origin, name, target, read_only))
        return
    if kind not in ("bind", "tmpfs"):
        raise _bad(option, f"'{kind}' is not a type of mount", "types are bind, tmpfs and volume")
    volume = VolumeSpec(origin, "host" if kind == "bind" else "tmpfs", target=target)
    _fill(volume, option, fields)
    args.volume.append(volume)


def _fill(volume: VolumeSpec, option: str, fields: dict[str, str]) -> None:
    """Moves the written parts into the volume."""
    for key in _VOLUME_KEYS[volume.kind]:
        if key not in fields:
            continue
        value = fields.pop(key)
        if key == "source":
            if not value.startswith("/"):
                raise _bad(option, f"source '{value}' is not an absolute path", "write it from the root, as in source=/srv/data")
            volume.source = value
        elif key == "readOnly":
            volume.read_only = _boolean(option, key, value)
        elif key == "recursive":
            volume.recursive = _boolean(option, key, value)
        elif key == "mode":
            volume.mode = _number(option, key, value, 8, 0o7777)
        elif key == "size":
            volume.size = _size(option, value)
        elif key == "uid":
            volume.uid = _number(option, key, value, 10, 2**32 - 2)
        else:
            volume.gid = _number(option, key, value, 10, 2**32 - 2)
    _nothing_left(option, fields, ", ".join(_VOLUME_KEYS[volume.kind]))
    if volume.kind == "host" and volume.source is None:
        raise _bad(option, "a host volume needs a source", "add source=/DIR")


def _fields(option: str, items: list[str], flags: tuple[str, ...] = ()) -> dict[str, str]:
    """KEY=VALUE items, each key once; `flags` may stand without a value."""
    fields: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals and key in flags:
            value = "true"
        elif not key or not value:
            raise _bad(option, f"'{item}' is not KEY=VALUE", "write the parts as KEY=VALUE, separated by commas")
        if key in fields:
            raise _bad(option, f"{key} is written twice", "write each part once")
        fields[key] = value
    return fields


def _nothing_left(option: str, fields: dict[str, str], known: str) -> None:
    for key in fields:
        raise _bad(option, f"'{key}' has no meaning here", f"what can be said is {known}")


def _target(option: str, path: str) -> str:
    if not path.startswith("/") or not path.strip("/"):
        raise _bad(option, f"target '{path}' is not an absolute path below /", "write where the app shall see it, as in /data")
    return path


def _is_name(text: str) -> bool:
    """An AC Name (appc "Types"): lower case letters, digits and inner dashes."""
    return text.replace("-", "a").isalnum() and text.isascii() and text == text.lower() and "-" not in (text[0], text[-1])


def _boolean(option: str, key: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise _bad(option, f"{key}={text} is not true or false", f"write {key}=true or {key}=false")
    return text.lower() in ("true", "1")


def _number(option: str, key: str, text: str, base: int, most: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if text.strip(digits) or len(text) > 18 or int(text, base) > most:
        what, example = (f"an octal number up to {most:o}", "0755") if base == 8 else (f"a number up to {most}", "1000")
        raise _bad(option, f"{key}={text} is not {what}", f"write {key}={example}")
    return int(text, base)


def _size(option: str, text: str) -> int:
    """Bytes: a number with k, m, g or t for powers of 1024 (also written Ki, KiB, kb)."""
    digits = text.rstrip("kmgtibKMGTIB")
    unit = text[len(digits) :].lower().removesuffix("b").removesuffix("i")
    if digits.strip("0123456789") or not digits or len(digits) > 15 or unit not in _SIZES or int(digits) == 0:
        raise _bad(option, f"'{text}' is not a size", "write bytes, or a number with k, m, g or t, as in 64m")
    return int(digits) << _SIZES[unit]


def read_env_file(path: str, option: str = "--set-env-file") -> dict[str, str]:
    """The variables in a file of NAME=VALUE lines, values taken as they are.

    Blank lines and lines that begin with # or ; are skipped, and so is a byte order mark.  UsageError for an unreadable or too
    large file, a malformed line or a variable set twice.
    """
    from pyrun.images.given import opener

    try:
        with open(path, "rb", opener=opener) as file:
            data = file.read(ENV_FILE_LIMIT + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        hint = "name a readable file of NAME=VALUE lines"
        raise UsageError(f"option {option}", path, reason, errno=error.errno or 0, hint=hint) from error
    if len(data) > ENV_FILE_LIMIT:
        raise UsageError(f"option {option}", path, "larger than 1 MiB", hint="name a file of NAME=VALUE lines")
    variables: dict[str, str] = {}
    for number, raw in enumerate(os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n"), 1):
        line = raw.rstrip("\r").lstrip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        if not equals or not name or len(name.split()) != 1 or name != name.strip() or "\0" in line:
            raise UsageError(f"option {option}", f"{path}:{number}", "not NAME=VALUE", hint="begin comments with # or ;")
        if name in variables:
            raise UsageError(f"option {option}", f"{path}:{number}", f"{name} is set twice", hint="set each variable once")
        variables[name] = value
    return variables


def merge_env_files(paths: list[str]) -> dict[str, str]:
    """The variables of several files; UsageError when two of them set the same one."""
    variables: dict[str, str] = {}
    for path in paths:
        for name, value in read_env_file(path).items():
            if name in variables:
                raise UsageError("option --set-env-file", path, f"{name} is set by an earlier file too", hint="set each variable once")
            variables[name] = value
    return variables


def _bad(option: str, reason: str, hint: str) -> UsageError:
    return UsageError(f"option {option}", "", reason, hint=hint)
