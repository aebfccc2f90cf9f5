"""The command line of `pyrun-oci`: the union of what the clients of crun and runc use, as tables and one small parser."""

from __future__ import annotations

import sys

from pyrun.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.oci.recipe import Key

__all__ = ["Arguments", "general", "listening", "parse", "program", "verbs"]

# Each word: an option, "=" behind it when it takes a value, "*" when it may be given again; "-x,--long" are two names of one.
general = "--root= --log= --log-format= --log-level= --debug --systemd-cgroup --cgroup-manager= --rootless= -v,--version -h,--help"
_PIDFD = " --pidfd-socket="
_START = "-b,--bundle= -f,--config= --console-socket= --pid-file= --preserve-fds= --no-pivot --no-new-keyring --no-subreaper"
_EXEC = (
    "-p,--process= -d,--detach -t,--tty -e,--env=* -u,--user= -c,--cap=* --cwd= --pid-file= --pidfd-socket= --console-socket="
    " --preserve-fds= --no-new-privs --apparmor= --process-label= --cgroup= -g,--additional-gids=* --ignore-paused"
)
_UPDATE = (
    "-r,--resources= --memory= --memory-reservation= --memory-swap= --cpu-share= --cpu-quota= --cpu-period= --cpu-rt-period="
    " --cpu-rt-runtime= --cpuset-cpus= --cpuset-mems= --pids-limit= --blkio-weight= --kernel-memory= --kernel-memory-tcp="
    " --l3-cache-schema= --mem-bw-schema= --cpu-burst= --cpu-idle="
)
_CRIU = (
    "--image-path= --work-path= --tcp-established --ext-unix-sk --shell-job --file-locks --auto-dedup --manage-cgroups-mode="
    " --empty-ns= --lsm-profile= --lsm-mount-context= --lazy-pages --page-server= --status-fd="
)

# verb: (options, the fewest positional arguments, the most, what they are, one line of help)
verbs = {
    "checkpoint": (
        f"{_CRIU} --leave-running --pre-dump --parent-path=",
        1,
        1,
        "CONTAINER",
        "write the processes of a container to files",
    ),
    "create": (_START + _PIDFD, 1, 1, "CONTAINER", "make a container; its program waits for `start`"),
    "delete": ("-f,--force -r,--regex", 1, 1, "CONTAINER", "remove a stopped container"),
    "events": ("--stats --interval=", 1, 1, "CONTAINER", "show what a container uses"),
    "exec": (_EXEC, 1, -1, "CONTAINER cmd [ARG...]", "run one more process in a container"),
    "features": ("", 0, 0, "", "show what this runtime can do"),
    "kill": ("-a,--all -r,--regex", 1, 2, "CONTAINER [SIGNAL]", "send a signal to a container"),
    "list": ("-f,--format= -q,--quiet", 0, 0, "", "list containers"),
    "mounts": ("", 3, 3, "[add|remove] CONTAINER FILE", "mount more in a running container, or take it away"),
    "pause": ("", 1, 1, "CONTAINER", "freeze the processes of a container"),
    "ps": ("-f,--format=", 1, -1, "CONTAINER [PS-OPTION...]", "list the processes of a container"),
    "restore": (f"{_START} -d,--detach --keep {_CRIU}", 1, 1, "CONTAINER", "start a container from files that checkpoint wrote"),
    "resume": ("", 1, 1, "CONTAINER", "let frozen processes go on"),
    "run": (_START + _PIDFD + " -d,--detach --keep", 1, 1, "CONTAINER", "create, start, wait and delete"),
    "spec": ("-b,--bundle= -f,--config= --rootless", 0, 0, "", "write a config.json to start from"),
    "start": ("", 1, 1, "CONTAINER", "start the program of a created container"),
    "state": ("", 1, 1, "CONTAINER", "show the state of a container"),
    "update": (_UPDATE, 1, 1, "CONTAINER", "change the limits of a container"),
}
_MOST = 1 << 20  # descriptors
_PROGRAM_FOLLOWS = ("exec", "ps")  # behind the first positional argument everything is the program's


def program() -> str:
    """Return what the command calls itself: a link to it that stands in for crun or runc speaks by that name."""
    name = sys.argv[0].rpartition("/")[2]
    return name if name in ("crun", "runc") else "pyrun-oci"


class Arguments:
    """A parsed command line: `verb`, `options` of all names without dashes, `lists` of those that may be repeated, `words`.

    `kept` is how many descriptors of the caller the container gets, `key` what the launcher has made of the configuration, for the next
    container of its kind.
    """

    __slots__ = ("kept", "key", "lists", "options", "verb", "words")

    def __init__(self) -> None:
        self.verb = ""
        self.kept = 0
        self.key: Key | None = None
        self.options: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self.words: list[str] = []

    def get(self, name: str, default: str = "") -> str:
        """Return the value of an option; "1" for one without a value that was given."""
        return self.options.get(name, default)

    def number(self, name: str) -> int:
        """Return the value of an option that is a whole number, 0 when it was not given; UsageError otherwise."""
        text = self.options.get(name)
        if text is None:
            return 0
        from pyrun.plan.numbers import whole

        number = whole(text, _MOST)
        if number < 0:
            raise UsageError("read option", f"--{name}", f"{text!r} is not a number up to {_MOST}", origin=f"--{name}")
        return number


def listening(text: str) -> int:
    """Return how many sockets of the caller's LISTEN_FDS stands for (sd_listen_fds(3)), 0 for anything that is no number."""
    if not text:
        return 0
    from pyrun.plan.numbers import whole

    return max(0, whole(text, _MOST))


def parse(argv: list[str]) -> Arguments:
    """Return the command line (without the program's name) as values; UsageError for what is unknown or missing."""
    found = Arguments()
    rest = _options(argv, _table(general), found, stop=True)
    if not rest or "help" in found.options or "version" in found.options:
        return found
    found.verb = rest[0]
    if found.verb not in verbs:
        asked = rest[1:2] == ["-h"] or rest[1:2] == ["--help"]
        reason = f"No help topic for '{found.verb}': no such command" if asked else "no such command"
        raise UsageError("read command", found.verb, reason, hint="commands: " + " ".join(verbs))
    options, least, most, _, _ = verbs[found.verb]
    table = {**_table(general), **_table(options)}
    found.words = _options(rest[1:], table, found, stop=found.verb in _PROGRAM_FOLLOWS)
    if found.verb == "ps" and found.words[1:] and found.words[1].startswith("--format"):
        found.words[1:] = _options(found.words[1:], table, found, stop=True)
    if "help" not in found.options and not least <= len(found.words) <= (most if most >= 0 else len(found.words)):
        usage = f"usage: {program()} [OPTION...] {found.verb} {verbs[found.verb][3]}"
        reason = "needs a container's id" if len(found.words) < least else f"too many arguments: {found.words[most]!r}"
        raise UsageError(found.verb, "", reason, hint=usage)
    return found


def _table(words: str) -> dict[str, tuple[str, str]]:
    table = {}
    for word in words.split():
        names, equals, kind = word.partition("=")
        both = names.split(",")
        for name in both:
            table[name] = (both[-1][2:], equals + kind)
    return table


def _options(argv: list[str], table: dict[str, tuple[str, str]], found: Arguments, *, stop: bool) -> list[str]:
    """Read options; with `stop` only up to the first word that is none.  Returns the other words."""
    words: list[str] = []
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            return words + argv[at:]
        if len(word) < 2 or word[0] != "-":
            words.append(word)
            if stop:
                return words + argv[at:]
            continue
        name, equals, value = word.partition("=")
        if name not in table and word[:2] not in table and "-" + name in table:
            name = "-" + name  # -root, as Go's own parser takes it
        if name not in table and word[:2] in table and word[1] != "-":
            name, equals, value = word[:2], "=", word[2:]
        if name not in table:
            raise UsageError("read option", name, "no such option", hint=f"`{program()} --help` lists them")
        key, kind = table[name]
        if not kind:
            if equals and value not in ("true", "false", ""):
                raise UsageError("read option", name, "takes no value")
            if value != "false":
                found.options[key] = "1"
            continue
        if not equals:
            if at == len(argv):
                raise UsageError("read option", name, "needs a value")
            value = argv[at]
            at += 1
        found.options[key] = value
        if kind == "=*":
            found.lists.setdefault(key, []).append(value)
    return words
