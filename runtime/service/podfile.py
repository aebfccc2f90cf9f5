r"""Files that describe a pod, `*.pod`: what `pyrun run` would be told, in the form of a unit file (systemd.syntax(7)).

    [Pod]
    Image=example.com/web:1.0
    Exec=/bin/httpd -f -p 8080         the program and its arguments
    Volume=/srv/www:/www:ro            every long option of `pyrun run`, in any case, with or without dashes
    Environment=MODE=fast "NAME=two words"

    [Pod]                              a further app of the same pod: its image and options; those of the pod may stand in any of them
    Image=example.com/cache

    [Socket]                           makes the pod's program wait for its first connection
    ListenStream=8080

    [Socket]                           a further one, with a name of its own for `Socket=` and $LISTEN_FDNAMES
    FileDescriptorName=admin
    ListenStream=8081

    [Unit] [Service] [Install] [Timer] go into the units as they are, behind what pyrun writes itself

Pure: text in, values out.  What the options mean is for the command line's own parser to say.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
from pyrun.service.unit import is_name
from pyrun.service.words import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PodFile", "parse"]

MAX_SIZE = 1 << 20
SECTIONS = ("Unit", "Pod", "Service", "Socket", "Timer", "Install")
# Names of quadlet's keys where they are none of ours; lists hold several words on one line.
_ALIASES = {"environment": "setenv", "environmentfile": "setenvfile", "readonly": "readonlyrootfs", "ulimit": "rlimit"}
_SEVERAL = ("setenv",)
_OWN = ("image", "exec", "args")
_MANIFEST = "--pod-manifest="
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class PodFile:
    """One file taken apart: `words` follow ``pyrun run``; `image` says what that runs; `sections` are lines of units, by section.

    `sockets` are the lines of further sections [Socket], by their FileDescriptorName=.
    """

    __slots__ = ("image", "path", "sections", "sockets", "words")

    def __init__(self, path: str) -> None:
        self.path = path
        self.image = ""
        self.words: list[str] = []
        self.sections: dict[str, list[str]] = {}
        self.sockets: dict[str, list[str]] = {}


def parse(text: str, path: str, options: Mapping[str, tuple[str, bool]]) -> PodFile:
    """Read a file.  `options` has what `pyrun run` knows: a long name without its dashes -> (the option, whether it is a flag).

    ConfigError with ``PATH:LINE`` for what is malformed, unknown or missing.
    """
    made = PodFile(path)
    names = {name.replace("-", ""): option for name, option in options.items()}
    apps: dict[int, _App] = {}
    sockets: dict[int, tuple[str, list[str]]] = {}
    for number, place, section, key, value in _lines(text, path):
        if section == "Pod":
            apps.setdefault(place, _App()).take(f"{path}:{number}", key, value, names)
        elif section == "Socket":
            sockets.setdefault(place, (f"{path}:{number}", []))[1].append(f"{key}={value}")
        else:
            made.sections.setdefault(section, []).append(f"{key}={value}")
    manifest = next((word.partition("=")[2] for app in apps.values() for word in app.words if word.startswith(_MANIFEST)), "")
    if not apps or not (manifest or all(app.image for app in apps.values())):
        raise _wrong(path, "no Image= in a section [Pod]", "begin with the lines [Pod] and Image=NAME")
    for app in apps.values():
        made.words += [*(["---"] if made.words else []), *app.said()]
    made.image = manifest or ", ".join(app.image for app in apps.values())
    _tell_apart(made, list(sockets.values()))
    return made


def _tell_apart(made: PodFile, sockets: list[tuple[str, list[str]]]) -> None:
    """A unit has one FileDescriptorName=, systemd.socket(5): sections with the name of the first, or with none, belong to that one."""
    first = _descriptor(sockets[0][1]) if sockets else ""
    for where, lines in sockets:
        name = _descriptor(lines)
        if name in ("", first):
            made.sections.setdefault("Socket", []).extend(lines)
            continue
        if not is_name(name) or ":" in name:
            hint = "choose one of letters, digits, - and _: it is part of the name of a unit"
            raise _wrong(where, f"FileDescriptorName={name} cannot name a further socket", hint)
        made.sockets.setdefault(name, []).extend(lines)


def _descriptor(lines: list[str]) -> str:
    return next((line.partition("=")[2] for line in reversed(lines) if line.startswith("FileDescriptorName=")), "")


class _App:
    """One section [Pod]."""

    def __init__(self) -> None:
        self.image = ""
        self.words: list[str] = []
        self.program: list[str] = []
        self.args: list[str] = []

    def take(self, where: str, key: str, value: str, names: dict[str, tuple[str, bool]]) -> None:
        plain = key.lower().replace("-", "").replace("_", "")
        if plain == "image":
            if self.image or not value:
                reason = "Image= is written twice" if self.image else "Image= is empty"
                raise _wrong(where, reason, "name one image, Image=example.com/web:1.0; a further app has a section [Pod] of its own")
            self.image = value
        elif plain == "exec":
            self.program = _split(where, key, value)
        elif plain == "args":
            self.args += _split(where, key, value)
        else:
            self.words += _option(where, key, value, names)

    def said(self) -> list[str]:
        program = [f"--exec={self.program[0]}"] if self.program else []
        return [*self.words, *program, *([self.image] if self.image else []), "--", *self.program[1:], *self.args]


def _option(where: str, key: str, value: str, names: dict[str, tuple[str, bool]]) -> list[str]:
    """One key of [Pod] as options of `pyrun run`."""
    plain = key.lower().replace("-", "").replace("_", "")
    plain = _ALIASES.get(plain, plain)
    if plain not in names:
        import difflib

        near = difflib.get_close_matches(plain, [*names, *_OWN], 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise _wrong(
            where, f"unknown key {key}=", f"{hint}keys are Image, Exec, Args and the options of `pyrun run --help`, as in WorkingDir="
        )
    option, flag = names[plain]
    if flag:
        if value.lower() not in _TRUE + _FALSE:
            raise _wrong(where, f"{key}={value} is not true or false", f"write {key}=true")
        return [option] if value.lower() in _TRUE else []
    if option == "--pod-name" and not set(value) & set("%$"):  # else only systemd knows what becomes of it
        from pyrun.pod.names import check_name

        check_name(value, f"{where}: {key}=")
    values = _split(where, key, value) if plain in _SEVERAL else [value]
    return [f"{option}={one}" for one in values]


def _split(where: str, key: str, value: str) -> list[str]:
    try:
        return split(value)
    except ValueError as error:
        raise _wrong(where, f"{key}=: {error}", "quote words as in a shell; a backslash is written twice") from None


def _lines(text: str, path: str) -> list[tuple[int, int, str, str, str]]:
    """(line number, which section it is, its name, key, value) of each assignment; a line that ends in a backslash goes on."""
    found = []
    section, place = "", 0
    pending, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if line[:1] in ("#", ";") or (not line and not pending):
            continue
        first = first if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        line, pending = pending + line, ""
        if line[0] == "[" and line[-1] == "]":
            section, place = line[1:-1], place + 1
            if section not in SECTIONS:
                raise _wrong(f"{path}:{first}", f"unknown section [{section}]", f"sections are {', '.join(SECTIONS)}")
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip() or not section or "\0" in line:
            reason = f"'{line[:40]}' stands before any section" if equals and not section else f"'{line[:40]}' is not KEY=VALUE"
            raise _wrong(f"{path}:{first}", reason, "write a section such as [Pod], then lines KEY=VALUE")
        found.append((first, place, section, key.strip(), value.strip()))
    if pending:
        raise _wrong(f"{path}:{first}", "the last line ends with a backslash", "leave it out")
    return found


def _wrong(where: str, reason: str, hint: str) -> ConfigError:
    return ConfigError("read", where, reason, hint=hint)
