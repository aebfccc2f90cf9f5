"""By what a security module of Linux confines an app: a profile of AppArmor, a context of SELinux (proc_pid_attr(5)).

A module that the kernel does not have, or has turned off, is an error; whether it knows the profile tells the write that sets it.
"""

from __future__ import annotations

import errno
import os

from pyrun.errors import ConfigError, UsageError
from pyrun.host import read_small
from pyrun.pod.sysctl import ISOLATOR as SYSCTL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.pod.options import Options

    Label = tuple[str, str, str]

__all__ = ["ISOLATORS", "context_unknown", "inherited", "labels_of", "module_off", "profile_file"]

# isolator -> its word of --security-opt
ISOLATORS = {"os/linux/apparmor-profile": "apparmor", "os/linux/selinux-context": "label"}
_MODULES = {"apparmor": "AppArmor", "label": "SELinux"}
_CONTEXT = ("user", "role", "type", "level")


def profile_file() -> str:
    """Return the file of /proc/self/attr that takes a profile: AppArmor's own, on kernels before 5.8 the one for whichever module is on."""
    return "apparmor/exec" if os.path.exists("/proc/self/attr/apparmor/exec") else "exec"


def module_off(word: str) -> str:
    """Return why a module, "apparmor" or "label", cannot confine here, or the empty string."""
    if word == "label":
        on = os.path.exists("/sys/fs/selinux/enforce")
        if on and read_small("/proc/self/attr/current").rstrip(b"\0\n") == b"kernel":  # then it takes any label, and none means anything
            return "no policy of SELinux is loaded"
    else:
        on = read_small("/sys/module/apparmor/parameters/enabled") == b"Y\n"
    return "" if on else f"this kernel has no {_MODULES[word]}, or it is off"


def context_unknown(text: str) -> str:
    """Return why the policy that is loaded has no such context, or the empty string (selinux_check_context(3))."""
    try:
        with open("/sys/fs/selinux/context", "r+b", buffering=0) as file:
            file.write(text.encode() + b"\0")
    except OSError as error:  # others, as that asking is not allowed, say nothing about it
        if error.errno == errno.EINVAL:
            return "the policy that is loaded knows no such context"
    return ""


def inherited(own: list[dict[str, Any]], of_pod: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """Return an app's isolators and, behind them, those of its pod that hold for it unless it has its own (appc-spec, ACE).

    Notes tell the user where the app's own say otherwise.
    """
    names = {item["name"] for item in own}
    shared = [item for item in of_pod if item["name"] in (*ISOLATORS, SYSCTL)]
    beaten = [item["name"] for item in shared if item["name"] in names and item not in own]
    notes.extend(f"isolator {name} of the pod does not count: the app has its own" for name in beaten)
    return [*own, *(item for item in shared if item["name"] not in names)]


def labels_of(options: Options, isolators: list[dict[str, Any]]) -> list[Label]:
    """Return (file of /proc/self/attr, content, origin) for each label; --security-opt beats the isolators.

    UsageError for an option that cannot be read, ConfigError where the module is off.
    """
    wanted: dict[str, tuple[str, str]] = {}
    for item in isolators:
        word = ISOLATORS.get(item["name"])
        if word:
            value = item["value"]
            wanted[word] = (value["profile"] if word == "apparmor" else ":".join([value[part] for part in _CONTEXT]), item["name"])
    for text in options.security_opt:
        word, _, value = text.partition("=")
        if word not in _MODULES or not value or not value.isprintable():
            hint = (
                "write apparmor=PROFILE or label=USER:ROLE:TYPE:LEVEL; for the filter there is --seccomp; no new privileges is the default"
            )
            raise UsageError("option --security-opt", text, "not known", hint=hint)
        wanted[word] = (value, "--security-opt")
    return [_label(word, value, origin) for word, (value, origin) in wanted.items()]


def _label(word: str, value: str, origin: str) -> Label:
    reason = module_off(word) or (context_unknown(value) if word == "label" else "")
    if reason and origin in ISOLATORS:
        raise ConfigError("apply isolator", origin, reason, hint="run an image without it", origin="app.isolators")
    if reason:
        raise ConfigError(f"use {_MODULES[word]}", value, reason, hint="leave the option out", origin=origin)
    return (profile_file(), f"exec {value}", origin) if word == "apparmor" else ("exec", value, origin)
