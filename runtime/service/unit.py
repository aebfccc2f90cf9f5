"""Units for systemd that run a pod: systemd.service(5), systemd.exec(5), systemd.resource-control(5).

Pure.  The pod's supervisor is the unit's main process, so systemd sees the app's end as the unit's; the pod's control
group is made below the unit's (Delegate=), so the unit's limits hold for it and systemd never touches what is inside.
What is hardened here is the supervisor's side: a pod confines its app by itself.
"""

from __future__ import annotations

from pyrun.service.words import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Unit", "is_name", "service", "socket"]

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:")

# What making a pod takes, capabilities(7), besides what an app may be given by default or keep (`retain`).
_CAPABILITIES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL MKNOD NET_ADMIN NET_BIND_SERVICE
    SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_PTRACE SYS_RESOURCE
""".split()

# SuccessExitStatus: the app ended by SIGTERM because it was told to.  Nothing here is inherited by the app, as a system
# call filter or a resource limit of the unit would be.
_SERVICE = """
    Restart=on-failure
    RestartSec=1
    TimeoutStartSec=300
    TimeoutStopSec=30
    KillMode=mixed
    SuccessExitStatus=143
    Delegate=yes
    DevicePolicy=closed
    DeviceAllow=char-pts rw
    UMask=0077
"""
_LISTS = frozenset(("DeviceAllow", "SuccessExitStatus"))  # of these a further line adds to the ones before


class Unit:
    """A unit to be written: `name` is its file's, `wants` the targets that start it at boot."""

    __slots__ = ("name", "text", "wants")

    def __init__(self, name: str, text: str, wants: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text
        self.wants = list(wants)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a unit in front of its suffix, systemd.unit(5); no template."""
    return 0 < len(text) <= 200 and _NAME.issuperset(text) and text[0] not in ".-"


def service(
    name: str,
    command: Sequence[str],
    after: Sequence[str] = (),
    *,
    description: str,
    mounts: Iterable[str] = (),
    directory: str = "",
    retain: Iterable[str] = (),
    devices: Iterable[str] = (),
    new_privs: bool = False,
    listening: Sequence[str] = (),
    started: Sequence[str] = (),
    extra: Mapping[str, Sequence[str]] | None = None,
    source: str = "",
) -> Unit:
    """The service that runs `command`, and `after` when it has ended, however it did.

    `mounts` are paths that must be there (RequiresMountsFor=), `directory` what relative ones are relative to, `retain`
    capabilities of the app beyond the default, `devices` nodes of the host that it may use, `new_privs` that it may gain
    privileges, `listening` are units of sockets that start it, `started` is run with all privileges once the app runs.
    `extra` has lines of a person's by section; they come last, so they win.
    """
    extra = extra or {}
    unit = [f"Description={_plain(description)}", "Documentation=man:pyrun-run(1)"]
    unit += [f"SourcePath={_plain(source)}"] if source else []
    unit += ["Wants=network-online.target", "After=network-online.target"]
    unit += [f"{key}={' '.join(listening)}" for key in ("Requires", "After") if listening]
    unit += [f"RequiresMountsFor={_path(path)}" for path in mounts]
    lines = ["Type=notify", "NotifyAccess=main", "ExecStart=" + join(list(command))]
    lines += ["ExecStartPost=-+" + join(list(started))] if started else []
    lines += ["ExecStopPost=-" + join(list(after))] if after else []
    lines += [f"Sockets={' '.join(listening)}"] if len(listening) > 1 else []
    lines += [f"WorkingDirectory={_path(directory)}"] if directory else []
    theirs = {line.partition("=")[0] for line in extra.get("Service", ())} - _LISTS
    own = [line.strip() for line in _SERVICE.strip().split("\n")]
    lines += [
        *(line for line in own if line.partition("=")[0] not in theirs),
        *(f"DeviceAllow={_path(one)} rwm" for one in devices),
        f"SyslogIdentifier={name}",
        _capabilities(retain),
        *([] if new_privs else ["NoNewPrivileges=yes"]),
    ]
    sections = {"Unit": [*unit, *extra.get("Unit", ())], "Service": [*lines, *extra.get("Service", ())]}
    install = list(extra.get("Install", ()))
    if not install and not listening:
        install = ["WantedBy=multi-user.target"]
    if install:
        sections["Install"] = install
    return Unit(f"{name}.service", _text(sections), _targets(install))


def _capabilities(retain: Iterable[str]) -> str:
    wanted = {*_CAPABILITIES, *(one.upper().removeprefix("CAP_") for one in retain)}
    return "CapabilityBoundingSet=" + " ".join(f"CAP_{one}" for one in sorted(wanted))


def socket(name: str, lines: Sequence[str], *, description: str, source: str = "", starts: str = "") -> Unit:
    """The socket that starts the service of the same name, or the one that it `starts`; systemd.socket(5)."""
    unit = [f"Description={_plain(description)} (socket)", *([f"SourcePath={_plain(source)}"] if source else [])]
    install = ["WantedBy=sockets.target"]
    own = [f"Service={starts}.service"] if starts else []
    return Unit(f"{name}.socket", _text({"Unit": unit, "Socket": [*own, *lines], "Install": install}), _targets(install))


def _targets(install: Iterable[str]) -> list[str]:
    """Directories of links that `systemctl enable` would make: ``multi-user.target.wants``."""
    found = []
    for line in install:
        key, _, value = line.partition("=")
        suffix = {"WantedBy": ".wants", "RequiredBy": ".requires"}.get(key)
        found += [target + suffix for target in value.split()] if suffix else []
    return found


def _text(sections: Mapping[str, Sequence[str]]) -> str:
    return "\n".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())


def _plain(text: str) -> str:
    """A text for a setting in which systemd expands specifiers, on one line."""
    return "".join(char if char.isprintable() else " " for char in text).replace("%", "%%")


def _path(path: str) -> str:
    """A path for a setting, systemd.unit(5)."""
    return join([path]).replace("$$", "$")
