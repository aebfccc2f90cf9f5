"""The hot parser: an argument vector and the option table in, `Args` out.

    pyrun [global options] VERB [options] IMAGE [options] [-- app arguments] [--- IMAGE [options] [-- app arguments]]...

Options may stand before or after the image, as --name VALUE, --name=VALUE, -n VALUE, -nVALUE or joined
flags (-it).  `--` begins the app's arguments and `---` ends them; a further image may follow.  Everything wrong is a `UsageError`
that says what, where, and what to write instead; what only errors need is imported when one happens.
"""

from __future__ import annotations

import posix
import sys

from pyrun.cli.table import COMMON, GLOBAL, INSECURE, KINDS, VERBS, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeAlias

    from pyrun.cli.options import Option
    from pyrun.cli.specs import MountSpec, VolumeSpec

    # `Args` has attributes of the builtins' names, which would hide them from its annotations.
    Text: TypeAlias = str | None
    Number: TypeAlias = int | None
    Words: TypeAlias = list[str]
    Numbers: TypeAlias = list[int]
    Volumes: TypeAlias = list[VolumeSpec]
    Mounts: TypeAlias = list[MountSpec]


class Args(Values):
    """What the command line said: one attribute for each option of the verb, dashes as underscores.

    Absent options hold the empty value of their kind (`options.KINDS`); `given` has the attribute
    names of those that were written, so `{name: getattr(args, name) for name in args.given}` are
    the keywords for the library.  Attributes of other verbs' options do not exist.
    """

    verb: str  # "run", "image list", ...; "" when there was none
    given: set[str]
    argv: Words  # what followed `--`: the app's arguments
    more: Words  # bare words behind the image, where they may be several

    root: str  # absolute
    debug: bool
    help: bool
    version: bool
    image: str
    pod: str
    files: Words
    shell: str
    topics: Words
    words: Words
    signature: Text
    name: Text
    exec: Text
    set_env: dict[str, str]
    set_env_file: Words
    inherit_env: bool
    user: Text
    group: Text
    supplementary_gids: Numbers
    working_dir: Text
    umask: Number
    rlimit: Words
    oom_score_adj: Number
    interactive: bool
    tty: bool
    volume: Volumes
    mount: Mounts
    readonly_rootfs: bool
    no_overlay: bool
    upper: str
    hostname: Text
    uuid_file_save: Text
    rm: bool
    keep: bool
    caps_retain: Words | None
    caps_remove: Words | None
    seccomp: Text
    insecure_options: Words
    pull_policy: str
    quiet: bool

    format: str
    full: bool
    no_legend: bool
    all: bool


def parse(argv: list[str]) -> Args:
    """Parses `argv` (without the program's name); UsageError for anything wrong.

    With --help or without a verb it stops early: `help` or `version` is set, `verb` may be "".
    """
    args = Args()
    args.verb = ""
    args.given = set()
    args.argv = []
    args.apps = []
    names = _prepare(args, GLOBAL)
    place = 0
    while place < len(argv) and argv[place][:1] == "-":
        place = _option(args, names, argv, place)
        if args.help or args.version:
            return args
    if place < len(argv):
        place = _verb(args, argv, place)
        if args.help:
            return args
        positional, options, pairs = VERBS[args.verb][1:4]
        names = _prepare(args, COMMON + options)
        words = _words(args, names, argv, place, positional)
        if args.help:
            return args
        _bind(args, positional, words)
        for one, other in pairs:
            if one in args.given and other in args.given:
                _fail(f"options --{one} and --{other}".replace("_", "-"), "exclude each other", "give one of them")
    _root(args)
    return args


def _prepare(args: Args, options: tuple[Option, ...]) -> dict[str, Option]:
    """Gives `args` the options' default values and returns the lookup by name."""
    names = {}
    values = args.__dict__
    for option in options:
        spelled = option[0].split()
        for name in spelled:
            names[name] = option
        dest = spelled[0][2:].replace("-", "_")
        if dest in values:
            continue
        default = KINDS[option[2]]
        if option[3] and option[2] == "str":
            default = option[3].split(" ", 1)[0]
        elif default.__class__ is list or default.__class__ is dict:
            default = default.__class__()
        values[dest] = default
    return names


def _verb(args: Args, argv: list[str], place: int) -> int:
    """Reads the verb, one word or two; returns the place after it."""
    word = argv[place]
    place += 1
    action = argv[place] if place < len(argv) else ""
    if f"{word} {action}" in VERBS:
        word = f"{word} {action}"
        place += 1
    elif word not in VERBS:
        from pyrun.cli.help import is_group, unknown_verb

        if action not in ("-h", "--help") or not is_group(word):
            raise unknown_verb(word, action)
        args.help = True
    args.verb = word
    return place


def _words(args: Args, names: dict[str, Option], argv: list[str], place: int, positional: str) -> list[str]:
    """Takes the options out of the rest of the command line; returns the bare words."""
    words: list[str] = []
    start, ended = place, False
    takes_app, takes_command = positional.endswith(" --"), positional.endswith(" +")
    if args.verb == "__complete":
        return argv[place + 1 :] if argv[place : place + 1] == ["--"] else argv[place:]
    while place < len(argv):
        word = argv[place]
        if takes_command and (words or (args.uuid_file and (word == "--" or word[:1] != "-"))):
            args.argv = argv[place + 1 :] if word == "--" else argv[place:]
            break
        if word[:1] != "-" or word == "-":
            if words and ended:
                from pyrun.cli.several import split

                return split(args, names, argv, start)
            if words and takes_app and args.verb != "generate systemd":
                import shlex

                hint = f"arguments for the app go after `--`: pyrun {args.verb} {shlex.join([words[0], '--', *argv[place:]])}"
                _fail(args.verb, f"unexpected argument '{word}'", hint)
            words.append(word)
            place += 1
        elif word == "--":
            rest = argv[place + 1 :]
            if not takes_app:
                return words + rest
            end = rest.index("---") if "---" in rest else len(rest)
            args.argv += rest[:end]
            place += end + 2
            ended = True
        elif word == "---" and takes_app:
            place += 1  # without another image it says nothing, as in rkt
            ended = True
        else:
            place = _option(args, names, argv, place)
            if args.help:
                break
    return words


def _bind(args: Args, positional: str, words: list[str]) -> None:
    """Stores the bare words under the names of the verb's positionals; UsageError for too few or too many."""
    for name in positional.split():
        label = name.strip("[].")
        if label in ("--", "+"):
            args.more, words = words, []
            break
        if not words and name[0] != "[" and not (args.__dict__.get("uuid_file") or args.__dict__.get("pod_manifest")):
            _fail(args.verb, f"needs {'at least one ' if name[-1] == '.' else ''}{label}", f"`pyrun {args.verb} --help` shows how")
        if name.endswith("..."):
            setattr(args, label.lower() + "s", words)
            return
        setattr(args, label.lower(), words.pop(0) if words else "")
    if words:
        _fail(args.verb, f"unexpected argument '{words[0]}'", f"`pyrun {args.verb} --help` shows how")


def _option(args: Args, names: dict[str, Option], argv: list[str], place: int) -> int:
    """Takes the option at `place`, with its value; returns the place after it."""
    word = argv[place]
    if word[:2] == "--":
        name, equals, value = word.partition("=")
        option = names.get(name)
        if option is None:
            _unknown(args, name, names)
        if option[2] == "flag":
            if equals:
                _set_flag(args, option, name, value)
            else:
                _set(args, option, True)
            return place + 1
        if not equals:
            place += 1
            value = _value(names, option, name, argv, place)
        _store(args, option, name, value)
        return place + 1
    for i in range(1, len(word)):
        name = "-" + word[i]
        option = names.get(name)
        if option is None:
            _unknown(args, name if i > 1 or len(word) == 2 else word, names)
        if option[2] == "flag":
            _set(args, option, True)
            continue
        value = word[i + 1 :]
        if value[:1] == "=":
            value = value[1:]
        elif not value:
            place += 1
            value = _value(names, option, name, argv, place)
        _store(args, option, name, value)
        break
    return place + 1


def _value(names: dict[str, Option], option: Option, name: str, argv: list[str], place: int) -> str:
    """The word after an option; UsageError where it is missing or is plainly the next option."""
    value = argv[place] if place < len(argv) else "--"
    if value in ("--", "---") or value in names or value.partition("=")[0] in names:
        hint = f"write {name} {option[1]}"
        if value[2:]:
            hint += f", or {name}={value} if that is the value" if name[:2] == "--" else ""
        _fail(f"option {name}", f"needs a value {option[1]}", hint)
    return value


def _set(args: Args, option: Option, value: object) -> None:
    dest = option[0].partition(" ")[0][2:].replace("-", "_")
    args.__dict__[dest] = value
    args.given.add(dest)


def _set_flag(args: Args, option: Option, name: str, value: str) -> None:
    if value not in ("true", "false"):
        _fail(f"option {name}", f"takes no value but true or false, not '{value}'", f"write {name} alone")
    _set(args, option, value == "true")


def _store(args: Args, option: Option, name: str, text: str) -> None:
    """Converts a value by its option's kind and stores it; UsageError when it does not fit."""
    kind, choices = option[2], option[3]
    if kind == "csv":
        dest = option[0].partition(" ")[0][2:].replace("-", "_")
        _set(args, option, (args.__dict__[dest] or []) + _items(name, text))
        return
    if not text:
        _fail(f"option {name}", "the value is empty", f"write {name} {option[1]}, or leave the option out")
    if kind == "str" or kind == "path":
        if choices and text not in choices.split():
            known = ", ".join(choices.split())
            _fail(f"option {name}", f"'{text}' is not one of {known}", f"write one of them, as in {name} {choices.split()[0]}")
        _set(args, option, text)
    elif kind == "int" or kind == "octal":
        _set(args, option, _number(name, text, choices, 8 if kind == "octal" else 10))
    elif kind == "seconds":
        from pyrun.plan.numbers import duration

        _set(args, option, duration(text, f"option {name}"))
    else:
        _extend(args, option, name, text)


def _extend(args: Args, option: Option, name: str, text: str) -> None:
    """Adds a value to an option that may be repeated."""
    kind = option[2]
    dest = option[0].partition(" ")[0][2:].replace("-", "_")
    held = args.__dict__[dest]
    args.given.add(dest)
    if kind == "list" or kind == "paths":
        held.append(text)
    elif kind == "env":
        key, equals, value = text.partition("=")
        if not equals or key.split() != [key]:
            hint = f"write {name} {''.join(key.split()) or 'NAME'}=VALUE; --inherit-env passes all of the caller's variables"
            _fail(f"option {name}", f"'{text}' is not NAME=VALUE", hint)
        if key in held:
            _fail(f"option {name}", f"{key} is set twice", "set each variable once")
        held[key] = value
    elif kind == "ints":
        held += [_number(name, item, "0..4294967294", 10) for item in _items(name, text)]
    elif kind == "insecure":
        for item in _items(name, text):
            if item not in INSECURE and not (item.startswith("http:") and item[5:]):
                _fail(f"option {name}", f"'{item}' is not a protection that can be given up", f"choose from {', '.join(INSECURE)}")
            held += [member for member in INSECURE.get(item, (item,)) if member not in held]
    else:
        from pyrun.cli.specs import add_mount, add_volume

        if kind == "volume":
            add_volume(args, name, text)
        else:
            add_mount(args, name, text)


def _items(name: str, text: str) -> list[str]:
    """The elements of a list written with commas; UsageError for an empty one (an empty text is an empty list)."""
    items = text.split(",") if text else []
    if "" in items:
        _fail(f"option {name}", f"'{text}' has an empty element", "separate the elements with single commas")
    return items


def _number(name: str, text: str, bounds: str, base: int) -> int:
    """A whole number within "LOW..HIGH", which are written in the same base."""
    low, _, high = bounds.partition("..")
    digits = text[1:] if text[:1] == "-" else text
    # int() alone would also take blanks, underscores, other scripts' digits and a prefix.
    if digits.isascii() and digits.isdigit() and len(digits) < 19 and (base == 10 or not digits.strip("01234567")):
        number = int(text, base)
        if not bounds or int(low, base) <= number <= int(high, base):
            return number
    what, example = ("an octal number", "0022") if base == 8 else ("a whole number", "100")
    _fail(f"option {name}", f"'{text}' is not {what} from {low} to {high}", f"write one, as in {name} {example}")


def _root(args: Args) -> None:
    """Settles where the state is: --root, else $PYRUN_ROOT, else as `pyrun.native.users.state_root` has it; always absolute."""
    args.root = args.root or getenv("PYRUN_ROOT")
    if not args.root and posix.geteuid() == 0 and posix.readlink("/proc/self/ns/user") == "user:[4026531837]":  # see there
        args.root = "/var/lib/pyrun"
    if args.root[:1] != "/":
        import os

        from pyrun.native.users import state_root

        args.root = os.path.abspath(args.root or state_root())


def getenv(name: str) -> str:
    """An environment variable, or "".

    `os` takes 2 ms to import, a sixth of the interpreter's own start, so the hot path looks into the
    interpreter's copy of the environment unless someone imported it already (and may have changed it).
    """
    os = sys.modules.get("os")
    if os is not None:
        return str(os.environ.get(name, ""))
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def _unknown(args: Args, name: str, names: dict[str, Option]) -> NoReturn:
    from pyrun.cli.help import unknown_option

    raise unknown_option(args.verb, name, names)


def _fail(what: str, reason: str, hint: str) -> NoReturn:
    from pyrun.errors import UsageError

    raise UsageError(what, "", reason, hint=hint)
