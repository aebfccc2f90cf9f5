r"""Files that describe a pod, `*.pod`: what `pyrun run` would be told, in the form of a unit file (systemd.syntax(7)).

    [Pod]
    Image=example.com/web:1.0
    Exec=/bin/httpd -f -p 8080         the program and its arguments
    Volume=/srv/www:/www:ro            every long option of `pyrun run`, in any case, with or without dashes
    Environment=MODE=fast "NAME=two words"

    [Socket]                           makes the pod's program wait for its first connection
    ListenStream=8080

    [Unit] [Service] [Install] [Timer] go into the units as they are, behind what pyrun writes itself

Pure: text in, values out.  What the options mean is for the command line's own parser to say.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
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
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class PodFile:
    """One file taken apart: `words` follow ``pyrun run``; `sections` are the lines that go into units, by section."""

    __slots__ = ("image", "path", "sections", "words")

    def __init__(self, path: str) -> None:
        self.path = path
        self.image = ""
        self.words: list[str] = []
        self.sections: dict[str, list[str]] = {}


def parse(text: str, path: str, options: Mapping[str, tuple[str, bool]]) -> PodFile:
    """Read a file.  `options` has what `pyrun run` knows: a long name without its dashes -> (the option, whether it is a flag).

    ConfigError with ``PATH:LINE`` for what is malformed, unknown or missing.
    """
    made = PodFile(path)
    names = {name.replace("-", ""): option for name, option in options.items()}
    exec_words: list[str] | None = None
    args: list[str] = []
    for number, section, key, value in _lines(text, path):
        where = f"{path}:{number}"
        if section != "Pod":
            made.sections.setdefault(section, []).append(f"{key}={value}")
            continue
        plain = key.lower().replace("-", "").replace("_", "")
        if plain == "image":
            if made.image or not value:
                raise _wrong(
                    where, "Image= is written twice" if made.image else "Image= is empty", "name one image: Image=example.com/web:1.0"
                )
            made.image = value
        elif plain == "exec":
            exec_words = _split(where, key, value)
        elif plain == "args":
            args += _split(where, key, value)
        else:
            made.words += _option(where, key, value, names)
    if not made.image:
        raise _wrong(path, "no Image= in a section [Pod]", "begin with the lines [Pod] and Image=NAME")
    if exec_words:
        made.words.append(f"--exec={exec_words[0]}")
        args = exec_words[1:] + args
    made.words += [made.image, "--", *args]
    return made


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
    values = _split(where, key, value) if plain in _SEVERAL else [value]
    return [f"{option}={one}" for one in values]


def _split(where: str, key: str, value: str) -> list[str]:
    try:
        return split(value)
    except ValueError as error:
        raise _wrong(where, f"{key}=: {error}", "quote words as in a shell; a backslash is written twice") from None


def _lines(text: str, path: str) -> list[tuple[int, str, str, str]]:
    """(line number, section, key, value) of each assignment; a line that ends in a backslash goes on in the next one."""
    found = []
    section = ""
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
            section = line[1:-1]
            if section not in SECTIONS:
                raise _wrong(f"{path}:{first}", f"unknown section [{section}]", f"sections are {', '.join(SECTIONS)}")
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip() or not section or "\0" in line:
            reason = f"'{line[:40]}' stands before any section" if equals and not section else f"'{line[:40]}' is not KEY=VALUE"
            raise _wrong(f"{path}:{first}", reason, "write a section such as [Pod], then lines KEY=VALUE")
        found.append((first, section, key.strip(), value.strip()))
    if pending:
        raise _wrong(f"{path}:{first}", "the last line ends with a backslash", "leave it out")
    return found


def _wrong(where: str, reason: str, hint: str) -> ConfigError:
    return ConfigError("read", where, reason, hint=hint)
