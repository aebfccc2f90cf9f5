"""Every verb and option of the command line, as one table of plain values; imports nothing but more of them.

The hot parser (`pyrun.cli.parse`), help, completion and the manual pages all read it, so an option
is described once.  Only constants here: the compiler stores each table as one ready-made object.

An option is a row of six strings:

    names     "--set-env --env -e": the first long name is the official one and, with dashes as
              underscores, the attribute of `Args`; the others are aliases
    metavar   the value's name in help; "" for a flag
    kind      see `KINDS`
    choices   words a value must be one of, separated by blanks (the first is the default of a `str`),
              or "LOW..HIGH" for an `int`
    section   heading in help; a leading "app " marks an option that belongs to the app (the image
              before it), the others belong to the pod or to the command
    help      one sentence
"""

from __future__ import annotations

from pyrun.cli.verbs_appc import APPC_VERBS, HANDLERS, SECURITY_OPT, SYSCTL, TOLD
from pyrun.cli.verbs_images import IMAGES
from pyrun.cli.verbs_limits import CGROUP_MANAGER, DEVICE, LIMITS, POD_LIMIT, SLICE
from pyrun.cli.verbs_network import NET_AHEAD, NETWORK, NETWORKS
from pyrun.cli.verbs_pods import APP, BACKGROUND, DETACH, FORMAT_LINES, FORMAT_STARTED, GC, POD_VERBS, SEVERAL, UUID_FILE
from pyrun.cli.verbs_trust import POLICY, TRUST_VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Option: TypeAlias = tuple[str, str, str, str, str, str]
    # module in pyrun.cli, positional words, options, pairs that exclude each other, summary
    Verb: TypeAlias = tuple[str, str, tuple[Option, ...], tuple[tuple[str, str], ...], str]

# kind -> what `Args` holds when the option is absent (lists and mappings are made afresh for each `Args`).
KINDS: dict[str, object] = {
    "flag": False,  # True when given
    "str": None,  # str | None; the first choice where there are choices
    "path": None,  # str | None; completes as a file name
    "int": None,  # int | None
    "octal": None,  # int | None, written in octal
    "seconds": None,  # float | None, an int where it is whole, written 90, 500ms, 30m, 1h30m or 2d
    "csv": None,  # list[str] | None; an empty list when given empty, so that "none at all" can be said
    "list": [],  # list[str], one element for each time it is given; choices are for completion
    "paths": [],  # list[str]; completes as a file name
    "ints": [],  # list[int], written with commas
    "insecure": [],  # list[str], written with commas, groups replaced by their members; http:HOST[:PORT] stays as it is
    "env": {},  # dict[str, str], NAME=VALUE
    "volume": [],  # list[VolumeSpec], see pyrun.cli.specs
    "mount": [],  # list[MountSpec]; the docker form adds to `volume` instead
}

# What --insecure-options may name: group -> members.
INSECURE: dict[str, tuple[str, ...]] = {
    "none": (),
    "image": ("image",),
    "http": ("http",),
    "capabilities": ("capabilities",),
    "paths": ("paths",),
    "seccomp": ("seccomp",),
    "new-privs": ("new-privs",),
    "all-fetch": ("image", "http"),
    "all-run": ("capabilities", "paths", "seccomp", "new-privs"),
    "all": ("image", "http", "capabilities", "paths", "seccomp", "new-privs"),
}

COMMON: tuple[Option, ...] = (
    (
        "--root --dir",
        "DIR",
        "path",
        "",
        "Global",
        "keep images, pods and keys in DIR (default $PYRUN_ROOT, else /var/lib/pyrun or, without root, ~/.local/share/pyrun)",
    ),
    ("--debug", "", "flag", "", "Global", "show a traceback with each error (as does PYRUN_DEBUG=1)"),
    ("--help -h", "", "flag", "", "Global", "show help and exit"),
)

GLOBAL: tuple[Option, ...] = (*COMMON, ("--version -V", "", "flag", "", "Global", "show the version and exit"))

FORMAT_TABLE: Option = ("--format", "FORMAT", "str", "table json", "Output", "print a table or JSON (default table)")
FORMAT_TEXT: Option = ("--format", "FORMAT", "str", "text json", "Output", "print text or JSON (default text)")
NO_LEGEND: Option = ("--no-legend", "", "flag", "", "Output", "leave out the header line of a table")
FULL: Option = ("--full", "", "flag", "", "Output", "do not shorten ids")
SIGNATURE: Option = (
    "--signature",
    "FILE",
    "path",
    "",
    "app Image",
    "signature of the image: of an .aci file or URL a detached one of OpenPGP (default: its own name with .asc added),"
    " of OCI and Docker images a signed message as skopeo makes them, or a sigstore bundle",
)
ALLOW: Option = (
    "--insecure-options",
    "LIST",
    "insecure",
    "none image http capabilities paths seccomp new-privs all-fetch all-run all",
    "Security",
    "give up the named protections, separated by commas; groups: all-fetch is image and http, all-run the other four;"
    " http:HOST[:PORT] is http for another server than the one that is named",
)
ALLOW_FETCH: Option = (
    "--insecure-options",
    "LIST",
    "insecure",
    "none image http all-fetch all",
    "Security",
    "give up protections: image accepts images without a good signature, http asks the server that is named over plain http,"
    " http:HOST[:PORT] another one",
)
PULL_NEW: Option = (
    "--pull-policy",
    "POLICY",
    "str",
    "new never update",
    "app Image",
    "fetch the image if it is not stored (new, the default), never, or also if a registry's tag or a URL has changed (update)",
)
PULL_NEVER: Option = (
    "--pull-policy",
    "POLICY",
    "str",
    "never new update",
    "app Image",
    "fetch the image never (the default), if it is not stored (new), or also if a registry's tag or a URL has changed (update)",
)
PULL_UPDATE: Option = (
    "--pull-policy",
    "POLICY",
    "str",
    "update new never",
    "Image",
    "fetch what a registry's tag or a URL has changed to (update, the default), only what is not stored (new), or never",
)
NO_CACHE: Option = (
    "--no-cache",
    "",
    "flag",
    "",
    "app Image",
    "when a URL is fetched or updated, ask its server even where it has said that its last answer is good for longer",
)
DESTDIR: Option = ("--destdir", "DIR", "path", "", "Output", "write below DIR, as for a package (default: the host itself)")
QUIET: Option = ("--quiet -q", "", "flag", "", "Output", "print nothing but results and errors")

RUN: tuple[Option, ...] = (
    SIGNATURE,
    NO_CACHE,
    ("--name", "NAME", "str", "", "app Process", "name of the app (default: last part of the image's name)"),
    ("--exec", "PATH", "str", "", "app Process", "run PATH instead of the image's program"),
    ("--set-env --env -e", "NAME=VALUE", "env", "", "app Process", "set a variable; it beats the image's and those of --set-env-file"),
    (
        "--set-env-file --env-file",
        "FILE",
        "paths",
        "",
        "app Process",
        "set the variables in FILE, one NAME=VALUE a line, # and ; for comments",
    ),
    ("--inherit-env", "", "flag", "", "app Process", "pass the caller's variables; the image's own and --set-env beat them"),
    ("--user -u", "USER", "str", "", "app Process", "run as USER: a name, a number, or a /path in the image whose owner is meant"),
    ("--group", "GROUP", "str", "", "app Process", "run as GROUP: a name, a number, or a /path in the image whose group is meant"),
    ("--supplementary-gids", "GID,...", "ints", "", "app Process", "further group numbers, separated by commas"),
    ("--working-dir --workdir -w", "DIR", "str", "", "app Process", "start in DIR of the image (default: the image's, else /)"),
    ("--umask", "OCTAL", "octal", "0..0777", "app Process", "mask for the modes of new files (default 0022)"),
    ("--rlimit --ulimit", "NAME=SOFT[:HARD]", "list", "", "app Process", "limit a resource, as in nofile=1024:4096"),
    ("--oom-score-adj", "N", "int", "-1000..1000", "app Process", "make the kernel more or less eager to end the app when memory runs out"),
    *HANDLERS,
    ("--interactive -i", "", "flag", "", "app Process", "keep standard input open and connected to the app, which is one of several"),
    ("--tty -t", "", "flag", "", "app Process", "give the app a terminal"),
    (
        "--socket",
        "NAME,...",
        "csv",
        "",
        "app Process",
        "of several apps: which of the service manager's sockets this one gets, by FileDescriptorName= of systemd.socket(5)"
        " (default: the first app gets all)",
    ),
    (
        "--volume -v",
        "SPEC",
        "volume",
        "",
        "Files",
        "a volume: SRC:DST[:ro], or NAME,kind=KIND with kinds host (source=DIR, recursive=false), empty (mode=, uid=, gid=)"
        " and tmpfs (size=, mode=, uid=, gid=), each with readOnly=true if so wanted",
    ),
    (
        "--mount",
        "SPEC",
        "mount",
        "",
        "app Files",
        "where the app sees a volume: volume=NAME,target=PATH; or both in one: type=bind,source=DIR,target=PATH[,readonly]",
    ),
    ("--readonly-rootfs --read-only", "", "flag", "", "app Files", "make the image's files read-only; volumes are not affected"),
    ("--no-overlay", "", "flag", "", "Files", "copy the image's files instead of laying an overlay over them"),
    (
        "--upper",
        "WHERE",
        "str",
        "disk tmpfs",
        "Files",
        "where the app's changes go: disk (below the state directory, the default) or tmpfs (memory)",
    ),
    ("--hostname", "NAME", "str", "", "Pod", "host name inside (default pyrun-UUID)"),
    *NETWORK,
    (
        "--notify --sdnotify",
        "WHO",
        "str",
        "exec app none",
        "app Pod",
        "who tells the service manager that the pod is ready: pyrun when the program runs (exec, the default), the app itself, or none",
    ),
    *LIMITS,
    POD_LIMIT,
    CGROUP_MANAGER,
    SLICE,
    ("--uuid-file-save", "FILE", "path", "", "Pod", "write the pod's UUID to FILE before anything else is done"),
    ("--rm", "", "flag", "", "Pod", "remove the pod when it has ended (this is the default)"),
    ("--keep", "", "flag", "", "Pod", "keep the ended pod and its files until `pyrun gc`"),
    ("--caps-retain", "CAP,...", "csv", "", "app Security", "the capabilities that the app may have, instead of the default eight"),
    ("--caps-remove", "CAP,...", "csv", "", "app Security", "take these capabilities away from the default set"),
    DEVICE,
    (
        "--seccomp",
        "SPEC",
        "str",
        "",
        "app Security",
        "system call filter: mode=retain or mode=remove, then errno=NAME if wanted, then calls and @groups, all with commas",
    ),
    SECURITY_OPT,
    SYSCTL,
    *TOLD,
    *SEVERAL,
    *BACKGROUND,
    ALLOW,
    POLICY,
    QUIET,
)

INTO: tuple[Option, ...] = (
    APP,
    UUID_FILE,
    ("--interactive -i", "", "flag", "", "Process", "keep standard input open and connected"),
    ("--tty -t", "", "flag", "", "Process", "give it a terminal of the pod's"),
    (
        "--user -u",
        "USER",
        "str",
        "",
        "Process",
        "run as USER of the pod's /etc/passwd, a number, or the owner of a /path (default: the app's)",
    ),
    ("--group", "GROUP", "str", "", "Process", "run as GROUP: a name, a number, or a /path whose group is meant"),
    ("--set-env --env -e", "NAME=VALUE", "env", "", "Process", "set a variable; it beats the app's and those of --set-env-file"),
    ("--set-env-file --env-file", "FILE", "paths", "", "Process", "set the variables in FILE, one NAME=VALUE a line, # and ; for comments"),
    ("--working-dir --workdir -w", "DIR", "str", "", "Process", "start in DIR of the pod (default: the app's)"),
    FORMAT_LINES,
)

_RUN_PAIRS: tuple[tuple[str, str], ...] = (("rm", "keep"), ("caps_retain", "caps_remove"))

# Positional words: "IMAGE" one, "FILE..." one or more, "[REF]..." any number; the attribute of `Args` is the word in lower
# case, `image`, or where there are dots a list, `files`.  A trailing " --" says that `--` begins the app's arguments (`argv`), a
# trailing " +" that all that follows the word is a command (`argv`), its options included.
VERBS: dict[str, Verb] = {
    "run": ("run", "IMAGE --", (PULL_NEW, *RUN, DETACH, FORMAT_STARTED), _RUN_PAIRS, "run an image, in the foreground or detached"),
    "prepare": ("prepare", "IMAGE --", (PULL_NEW, *RUN, NET_AHEAD, FORMAT_TEXT), _RUN_PAIRS, "make a pod that is ready for `run-prepared`"),
    **TRUST_VERBS,
    **POD_VERBS,
    "enter": ("enter", "POD +", INTO, (), "run a shell or a program in a running pod"),
    "exec": ("enter", "POD +", INTO, (), "run a program in a running pod, for scripts"),
    "plan": (
        "plan",
        "IMAGE --",
        (PULL_NEVER, *RUN, FORMAT_TEXT),
        _RUN_PAIRS,
        "print what `run` would ask of the kernel",
    ),
    "fetch": (
        "fetch",
        "FILE...",
        (PULL_UPDATE, NO_CACHE, SIGNATURE, ALLOW_FETCH, POLICY, QUIET),
        (),
        "verify images, local or on servers, and store them",
    ),
    **IMAGES,
    **APPC_VERBS,
    **NETWORKS,
    "gc": (
        "gc",
        "",
        (
            ("--grace-period", "DURATION", "seconds", "", "Pods", "spare pods that ended less than DURATION ago, as in 30m (default 0)"),
            *GC,
            FORMAT_TABLE,
        ),
        (),
        "remove ended pods and what crashed runs left behind",
    ),
    "generate systemd": (
        "generate",
        "IMAGE --",
        (
            *RUN,
            ("--unit", "NAME", "str", "", "Output", "name of the unit (default: --name, else the last part of the image's name)"),
            ("--into", "DIR", "path", "", "Output", "write DIR/NAME.service instead of printing it"),
            UUID_FILE,
            ("--machined", "", "flag", "", "Output", "let the unit register the pod with systemd-machined, for machinectl"),
        ),
        _RUN_PAIRS,
        "print systemd units that do what `run` would, or did for pods",
    ),
    "systemd units": (
        "generate",
        "[FILE]...",
        (
            ("--into", "DIR", "path", "", "Output", "write the units below DIR, started at boot, instead of printing them"),
            ("--kmsg", "", "flag", "", "Output", "say what is wrong in the kernel's log as well, as a generator has to"),
        ),
        (),
        "make systemd units of the files that describe pods",
    ),
    "systemd install": ("generate", "", (DESTDIR,), (), "let systemd boot pods from files, and collect ended ones once an hour"),
    "systemd remove": ("generate", "", (DESTDIR,), (), "take back what `systemd install` wrote"),
    "doctor": ("doctor", "", (FORMAT_TEXT,), (), "say what this host can and cannot do, and how to mend it"),
    "version": ("version", "", (FORMAT_TEXT,), (), "show the versions of pyrun, Python and the kernel"),
    "completion": ("completion", "SHELL", (), (), "print a completion script for bash, zsh or fish"),
    "help": ("help", "[TOPIC]...", (), (), "show help on a verb"),
    "__complete": ("completion", "[WORD]...", (), (), ""),
}
