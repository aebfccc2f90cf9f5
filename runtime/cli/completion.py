"""Shell completion: three short scripts that ask `pyrun __complete`, which reads the option table.

    pyrun __complete -- WORD...      the words after `pyrun`, the last one being completed (may be "")

answers with one candidate a line, "WORD<tab>DESCRIPTION", or the line ":files" or ":dirs" where the shell
should complete names of files or directories itself.
"""

from __future__ import annotations

from pyrun.cli.help import dest, visible
from pyrun.cli.options import COMMON, GLOBAL, INSECURE, VERBS
from pyrun.cli.output import emit, escape
from pyrun.errors import PyrunError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.options import Option
    from pyrun.cli.parse import Args

FILES, DIRS = ":files", ":dirs"
_PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789-._~/"  # appc "AC Identifier Type", and ids

_BASH = """\
# bash completion for pyrun
_pyrun() {
    local IFS=$'\\n' line cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    # readline splits at "=": put --name=value together again
    if [[ $cur == "=" ]]; then cur=""; fi
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$cur")) ;;
            :dirs) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -d -- "$cur")) ;;
            *) COMPREPLY+=("${line%%$'\\t'*}") ;;
        esac
    done < <(pyrun __complete -- "${words[@]}" 2>/dev/null)
}
complete -F _pyrun pyrun
"""

_ZSH = """\
#compdef pyrun
# zsh completion for pyrun
_pyrun() {
    local line
    local -a found
    while IFS= read -r line; do
        case $line in
            :files) _files ;;
            :dirs) _files -/ ;;
            *) found+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}") ;;
        esac
    done < <(pyrun __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe pyrun found
}
compdef _pyrun pyrun
"""

_FISH = """\
# fish completion for pyrun
function __pyrun_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (pyrun __complete -- $words[2..-1] 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path (commandline -ct)
            case :dirs
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c pyrun -f -a '(__pyrun_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def run(args: Args) -> int:
    """`pyrun completion SHELL` prints a script; the hidden `pyrun __complete` answers its questions."""
    if args.verb == "__complete":
        for candidate in complete(args.words, args.root):
            emit(candidate + "\n")
        return 0
    if args.shell not in SCRIPTS:
        raise UsageError("completion", args.shell, "not a shell that pyrun knows", hint=f"choose from {', '.join(SCRIPTS)}")
    emit(SCRIPTS[args.shell])
    return 0


def complete(words: list[str], root: str) -> list[str]:
    """Candidates for the last of `words`, given those before it; never an error."""
    if not words:
        return []
    *before, current = words
    verb, rest = _verb(before)
    if verb not in VERBS:
        pending = _pending(GLOBAL, before)
        return _values(pending, current, root) if pending else _global(verb, rest, current)
    positional, options = VERBS[verb][1:3]
    options = (*options, *COMMON)
    if "--" in rest:
        return [] if positional.endswith(" --") else [FILES]
    # Some shells split --name=value at the equals sign.
    if current == "=" or rest[-1:] == ["="]:
        rest = rest if current == "=" else rest[:-1]
        current = "" if current == "=" else current
    pending = _pending(options, rest)
    if pending is not None:
        return _values(pending, current, root)
    if current.startswith("--") and "=" in current:
        name, _, value = current.partition("=")
        found = next((option for option in options if name in option[0].split()), None)
        return [c if c[0] == ":" else f"{name}={c}" for c in _values(found, value, root)] if found else []
    if current.startswith("-"):
        return _options(options, current)
    below = _global(verb, [], current) if not rest and any(other.startswith(verb + " ") for other in VERBS) else []
    return below + _positional(_word(positional, options, rest), current, root)


def _word(positional: str, options: tuple[Option, ...], rest: list[str]) -> str:
    """The positional word that is being written: the last one, unless `rest` has fewer bare words before it."""
    bare = 0
    for place, word in enumerate(rest):
        bare += word[:1] != "-" and _pending(options, rest[:place]) is None
    words = positional.split()
    return words[min(bare, len(words) - 1)] if words else ""


def _verb(words: list[str]) -> tuple[str, list[str]]:
    """Splits what stands before the cursor into verb, one or two words of it, and rest."""
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in ("--root", "--dir") else 1
    two = " ".join(words[place : place + 2])
    if two in VERBS:
        return two, words[place + len(two.split()) :]
    return " ".join(words[place : place + 1]), words[place + 1 :]


def _global(group: str, rest: list[str], current: str) -> list[str]:
    """Verbs, the second words of a group, or global options."""
    if group and not rest:
        group += " "
    elif rest:
        return []
    if current.startswith("-"):
        return _options(GLOBAL, current)
    found: dict[str, str] = {}
    for verb in visible():
        if verb.startswith(group):
            word = verb[len(group) :].split()[0]
            # A group such as `image` has the summary of its first verb only by accident: leave it out.
            found[word] = VERBS[verb][4] if group + word == verb else ""
    return [f"{word}\t{text}" for word, text in found.items() if word.startswith(current)]


def _options(options: tuple[Option, ...], current: str) -> list[str]:
    return [f"{name}\t{option[5]}" for option in options for name in option[0].split() if name.startswith(current) and len(name) > 2]


def _pending(options: tuple[Option, ...], rest: list[str]) -> Option | None:
    """The option whose value is being written, if the word before the cursor asks for one."""
    last = rest[-1] if rest else ""
    for option in options:
        for name in option[0].split():
            joined = len(name) == 2 and len(last) > 2 and last[:2] != "--" and last[0] == "-" and last[-1] == name[1]
            if option[2] != "flag" and (last == name or joined):
                return option
    return None


def _values(option: Option, current: str, root: str) -> list[str]:
    kind, choices = option[2], option[3]
    if kind == "insecure":
        head, comma, tail = current.rpartition(",")
        return [f"{head}{comma}{name}\tgive up {name}" for name in INSECURE if name.startswith(tail)]
    if kind in ("str", "list") and choices:
        return [f"{choice}\t{option[5]}" for choice in choices.split() if choice.startswith(current)]
    if kind in ("path", "paths"):
        return [DIRS if dest(option[0]) == "root" else FILES]
    return []


def _positional(positional: str, current: str, root: str) -> list[str]:
    word = positional.strip("[].")
    if word == "SHELL":
        return [f"{shell}\tcompletion for {shell}" for shell in SCRIPTS if shell.startswith(current)]
    if word == "TOPIC":
        return [f"{topic}\t" for topic in dict.fromkeys(verb.split()[0] for verb in visible()) if topic.startswith(current)]
    if word in ("IMAGE", "REF"):
        found = [] if "/" in current[:2] else _images(root, current)
        return found or ([FILES] if word == "IMAGE" else [])
    if word == "DIR":
        return [DIRS]
    if word == "FINGERPRINT":
        return _keys(root, current)
    return [FILES] if word in ("FILE", "KEYFILE") else []


def _images(root: str, current: str) -> list[str]:
    """Names and ids of stored images; nothing where the store cannot be read."""
    try:
        from pyrun.images import catalog
        from pyrun.images.store import Store
        from pyrun.images.tags import stored

        rows = catalog.load(root).rows
        names = {tag.name: tag.id[:19] for tag in stored(Store(root))}
    except (ImportError, OSError, PyrunError):
        return []
    names.update({row[1]: row[0][:19] for row in rows})
    names.update({row[0][:19]: row[1] for row in rows if current.startswith("sha")})
    # The shell pastes what it is given into the command line, so nothing that it could take for a command.
    return [f"{name}\t{escape(text)}" for name, text in sorted(names.items()) if name.startswith(current) and not name.strip(_PLAIN)]


def _keys(root: str, current: str) -> list[str]:
    """Fingerprints of trusted keys; nothing where they cannot be read."""
    try:
        from pyrun.images.trust.keyring import Keyring

        found = {key.fingerprint: key.prefix or "all images" for key in Keyring(root).list() if not key.masked}
    except (ImportError, OSError, PyrunError):
        return []
    return [f"{name}\ttrusted for {escape(text)}" for name, text in sorted(found.items()) if name.startswith(current)]
