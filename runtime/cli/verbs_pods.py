"""The verbs about pods, for `pyrun.cli.options.VERBS`; the same kind of table, and nothing but constants either.

`PodArgs` are the attributes of `Args` that they bring along.
"""

from __future__ import annotations

from pyrun.cli.verbs_appc import AppcArgs
from pyrun.cli.verbs_limits import DEVICE, DEVICE_DENY, LIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrun.cli.options import Option, Verb
    from pyrun.cli.parse import Args

    Text: TypeAlias = str | None
    Number: TypeAlias = int | None
    Seconds: TypeAlias = float | None
    Words: TypeAlias = list[str]


class PodArgs(AppcArgs):
    """Attributes of `pyrun.cli.parse.Args`."""

    pods: Words
    paths: Words
    output: Text
    changes: bool
    uuid_file: Words
    wait: bool
    timeout: Seconds
    follow: bool
    tail: Number
    since: Text
    timestamps: bool
    signal: Text
    force: bool
    detach: bool
    restart: Text
    condition: str
    health_cmd: Text
    health_interval: Text
    health_timeout: Text
    health_retries: Number
    health_start_period: Text
    health_on_failure: str
    no_healthcheck: bool
    log_driver: str
    log_opt: dict[str, str]
    detach_keys: Text
    no_stdin: bool
    pod_name: Text
    take_name: bool
    socket: Words | None
    pod_manifest: Text
    pid: str
    exit_policy: str
    apps: list[Args]  # of several images, each as if it stood alone; empty for one
    app: Text
    grace_period: Seconds
    expire_prepared: Seconds
    mark_only: bool
    notify: str
    unit: Text
    into: Text
    kmsg: bool
    destdir: Text
    no_stream: bool
    machined: bool


UUID_FILE: Option = ("--uuid-file", "FILE", "paths", "", "Pods", "take the pod's UUID from FILE, as --uuid-file-save wrote it")
_UUID_FILE = UUID_FILE
_FORMAT_TABLE: Option = ("--format", "FORMAT", "str", "table json", "Output", "print a table or JSON (default table)")
_FORMAT_TEXT: Option = ("--format", "FORMAT", "str", "text json", "Output", "print text or JSON (default text)")
FORMAT_LINES: Option = (
    "--format",
    "FORMAT",
    "str",
    "text json",
    "Output",
    "say what goes wrong, and with json how it ended, on standard error as text or lines of JSON (default text)",
)
FORMAT_STARTED: Option = (
    "--format",
    "FORMAT",
    "str",
    "text json",
    "Output",
    "with --detach print text or JSON; else say what goes wrong, and with json how it ended, on standard error as text or lines of JSON"
    " (default text)",
)
_FORMAT_JSON: Option = ("--format", "FORMAT", "str", "json", "Output", "print JSON, which is the only format")
_QUIET: Option = ("--quiet -q", "", "flag", "", "Output", "print nothing but results and errors")
_NO_LEGEND: Option = ("--no-legend", "", "flag", "", "Output", "leave out the header line of a table")
_FULL: Option = ("--full", "", "flag", "", "Output", "do not shorten ids")
_IDS: Option = ("--quiet -q", "", "flag", "", "Output", "print UUIDs only, one a line")
_SIGNAL: Option = (
    "--signal -s",
    "SIGNAL",
    "str",
    "",
    "Pods",
    "the signal that asks the app to end, by name or number (default: the image's own, else TERM)",
)
_SIGNAL_KILL: Option = (
    "--signal -s",
    "SIGNAL",
    "str",
    "",
    "Pods",
    "the signal, by name or number (default KILL, which ends all of the pod)",
)
_TIMEOUT: Option = ("--timeout --time", "DURATION", "seconds", "", "Pods", "kill what still runs after DURATION (default 10s)")
_PAUSE_TIMEOUT: Option = (
    "--timeout --time",
    "DURATION",
    "seconds",
    "",
    "Pods",
    "let go again what has not stopped after DURATION (default 10s)",
)
_WAIT_TIMEOUT: Option = (
    "--timeout",
    "DURATION",
    "seconds",
    "",
    "Pods",
    "wait no longer than DURATION, as in 500ms or 1m30s; exit with 124 when it is over",
)
DETACH: Option = ("--detach -d", "", "flag", "", "Pod", "return as soon as the app runs, and print the pod's UUID")

# Of `run` and `prepare`: what only a pod in the background needs.
HEALTH: tuple[Option, ...] = (
    (
        "--health-cmd",
        "COMMAND",
        "str",
        "",
        "app Health",
        "run COMMAND in the pod now and then, a line for /bin/sh or a JSON array of words; exit code 0 means healthy"
        " (default: the image's own)",
    ),
    ("--health-interval", "DURATION", "str", "", "app Health", "time between two checks, as in 10s or 500ms (default 30s)"),
    ("--health-timeout", "DURATION", "str", "", "app Health", "a check that takes longer has failed (default 30s)"),
    ("--health-retries", "N", "int", "1..1000000", "app Health", "so many failures in a row make the pod unhealthy (default 3)"),
    (
        "--health-start-period",
        "DURATION",
        "str",
        "",
        "app Health",
        "failures do not count for that long, until a check succeeds (default 0)",
    ),
    (
        "--health-on-failure",
        "ACTION",
        "str",
        "none kill restart stop",
        "app Health",
        "what becomes of an unhealthy pod: none (the default), kill (its --restart policy decides then), restart, or stop",
    ),
    ("--no-healthcheck", "", "flag", "", "app Health", "do not run the image's own health check"),
)


BACKGROUND: tuple[Option, ...] = (
    ("--pod-name", "NAME", "str", "", "Pod", "a name for the pod, by which every verb finds it"),
    ("--take-name", "", "flag", "", "Pod", "take --pod-name from a pod that has ended; that one is called NAME.UUID then"),
    (
        "--restart",
        "POLICY",
        "str",
        "",
        "Pod",
        "start the app again when it ends: no (the default), always, on-failure, or on-failure:N for no more than N times",
    ),
    (
        "--log-driver",
        "DRIVER",
        "str",
        "auto k8s-file journald none passthrough",
        "Pod",
        "where the output of a pod in the background goes: k8s-file (beside the pod, see `pyrun logs`), journald, none, or passthrough"
        " (the caller's own); auto is journald where it runs, else k8s-file",
    ),
    *HEALTH,
    ("--log-opt", "NAME=VALUE", "env", "", "Pod", "of k8s-file: max-size=10m bytes of a file, max-files=3 that are kept"),
)

# Of pods of several apps.
SEVERAL: tuple[Option, ...] = (
    (
        "--pod-manifest",
        "FILE",
        "path",
        "",
        "Pod",
        "run the apps that a pod manifest (App Container spec, JSON) lists, instead of images on the command line",
    ),
    (
        "--exit-policy",
        "POLICY",
        "str",
        "first-failure last-exit main-app",
        "Pod",
        "when a pod of several apps ends, and with whose exit code: when the first one fails, or all have ended well (first-failure, the"
        " default); when the last one ends (last-exit); or when the first of the command line ends (main-app)",
    ),
    (
        "--pid",
        "WHICH",
        "str",
        "app pod",
        "Pod",
        "process numbers of several apps: each its own (app, the default), or one set for all, who then see each other (pod)",
    ),
)
APP: Option = ("--app", "NAME", "str", "", "Pods", "which app of a pod of several")

GC: tuple[Option, ...] = (
    ("--expire-prepared", "DURATION", "seconds", "", "Pods", "remove prepared pods that nobody ran for DURATION (default 1d)"),
    ("--mark-only", "", "flag", "", "Pods", "delete nothing: only move crashed pods on, for ExecStopPost= of a unit"),
)


POD_VERBS: dict[str, Verb] = {
    "run-prepared": (
        "prepare",
        "[POD]...",
        (DETACH, _UUID_FILE, _QUIET, FORMAT_STARTED),
        (),
        "run a prepared pod",
    ),
    "list": ("pods", "", (_FORMAT_TABLE, _FULL, _NO_LEGEND, _IDS), (), "list the pods"),
    "attach": (
        "attach",
        "POD",
        (
            (
                "--detach-keys",
                "KEYS",
                "str",
                "",
                "Pods",
                "the keys that leave the pod to itself, with commas: characters or ctrl-X (default ctrl-p,ctrl-q); or none",
            ),
            ("--no-stdin", "", "flag", "", "Pods", "only look: pass no input on"),
            UUID_FILE,
            FORMAT_LINES,
        ),
        (),
        "look at and type on the terminal of a pod",
    ),
    "status": (
        "pods",
        "[POD]...",
        (
            ("--wait", "", "flag", "", "Pods", "wait until the pod has ended; exit as its app did"),
            _WAIT_TIMEOUT,
            _FORMAT_TEXT,
            _UUID_FILE,
        ),
        (),
        "show how a pod does, or how it ended",
    ),
    "wait": (
        "pods",
        "[POD]...",
        (
            ("--condition", "STATE", "str", "stopped healthy unhealthy", "Pods", "wait until pods are STATE (default stopped)"),
            _WAIT_TIMEOUT,
            _FORMAT_TEXT,
            _UUID_FILE,
        ),
        (),
        "wait until pods have ended; print their exit codes",
    ),
    "logs": (
        "logs",
        "[POD]...",
        (
            APP,
            ("--follow -f", "", "flag", "", "Logs", "go on until the pod has ended"),
            ("--tail -n", "LINES", "int", "-1000000000..1000000000", "Logs", "of what is there, the last LINES only; all when below 0"),
            (
                "--since",
                "WHEN",
                "str",
                "",
                "Logs",
                "only what was written since WHEN: a span such as 10m, or a time as --timestamps prints it",
            ),
            ("--timestamps -t", "", "flag", "", "Logs", "put the time in front of each line"),
            _FORMAT_TEXT,
            _UUID_FILE,
        ),
        (),
        "print what the app of a pod in the background wrote",
    ),
    "stop": (
        "control",
        "[POD]...",
        (_SIGNAL, _TIMEOUT, ("--force", "", "flag", "", "Pods", "do not ask the app: kill all of the pod"), _UUID_FILE, _FORMAT_TEXT),
        (),
        "end pods: ask the app, and kill what is left",
    ),
    "kill": ("control", "[POD]...", (_SIGNAL_KILL, _UUID_FILE, _FORMAT_TEXT), (), "send a signal to the apps of pods"),
    "pause": ("control", "[POD]...", (_PAUSE_TIMEOUT, _UUID_FILE, _FORMAT_TEXT), (), "stop every process of a pod where it is"),
    "resume": ("control", "[POD]...", (_UUID_FILE, _FORMAT_TEXT), (), "let a paused pod go on"),
    "restart": ("control", "[POD]...", (_SIGNAL, _TIMEOUT, _UUID_FILE, _FORMAT_TEXT), (), "end pods of the background and run them again"),
    "rm": (
        "control",
        "[POD]...",
        (("--force -f", "", "flag", "", "Pods", "kill a pod that runs; a pod that is not there is no error"), _UUID_FILE, _FORMAT_TEXT),
        (),
        "remove pods that do not run",
    ),
    "rename": ("control", "[POD]...", (_UUID_FILE, _FORMAT_TEXT), (), "give a pod another name"),
    "inspect": ("pods", "[POD]...", (_UUID_FILE, _FORMAT_JSON), (), "print all that is known of a pod as JSON"),
    "cat-manifest": ("pods", "[POD]...", (_UUID_FILE, _FORMAT_JSON), (), "print the pod manifest as it is run"),
    "cp": ("files", "PATH...", (APP, _UUID_FILE, _FORMAT_TEXT), (), "copy files out of a running pod, or into it"),
    "export": (
        "files",
        "[POD]...",
        (
            APP,
            ("--output -o", "FILE", "path", "", "Files", "write to FILE instead of standard output"),
            ("--changes", "", "flag", "", "Files", "only what the app changed, as a layer of an OCI image"),
            _UUID_FILE,
            _FORMAT_TEXT,
        ),
        (),
        "write the files of a pod as a tar archive",
    ),
    "events": ("watch", "[POD]...", (_UUID_FILE, _FORMAT_TEXT), (), "print what happens to pods, as it happens"),
    "stats": (
        "stats",
        "[POD]...",
        (
            ("--no-stream", "", "flag", "", "Output", "print the figures once and end"),
            ("--format", "FORMAT", "str", "table json openmetrics", "Output", "print a table, JSON or OpenMetrics text (default table)"),
            _UUID_FILE,
        ),
        (),
        "show what running pods use",
    ),
    "update": (
        "stats",
        "[POD]...",
        (*LIMITS, DEVICE, DEVICE_DENY, APP, _UUID_FILE, _FORMAT_TEXT),
        (),
        "change the limits and devices of a running pod",
    ),
    "register": (
        "register",
        "[POD]...",
        (
            ("--name", "NAME", "str", "", "Pods", "call the machine NAME (default: the pod's name, else its app's and the UUID)"),
            _UUID_FILE,
            _FORMAT_TEXT,
        ),
        (),
        "show running pods to systemd-machined, for machinectl",
    ),
    "top": ("pods", "[POD]...", (APP, _FORMAT_TABLE, _UUID_FILE), (), "list the processes of a pod"),
}
