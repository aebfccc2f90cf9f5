"""What becomes of an app's isolators: which are enforced as they stand, changed by a flag, or ignored (appc-spec, ACE "Isolators").

What cannot be enforced, and would be missed, is an error; isolators that nobody knows are ignored, and that is told.
"""

from __future__ import annotations

from pyrun.errors import ConfigError
from pyrun.pod.labels import ISOLATORS
from pyrun.pod.sysctl import ISOLATOR as SYSCTL
from pyrun.pod.sysctl import beaten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrun.pod.options import Options

    Verdicts = dict[str, object]

__all__ = ["NO_NEW_PRIVILEGES", "judge"]

NO_NEW_PRIVILEGES = "os/linux/no-new-privileges"

# isolator -> options that are stronger, and the word of --insecure-options that gives all of it up
_STRONGER: dict[str, tuple[tuple[str, ...], str]] = {
    "os/linux/capabilities-retain-set": (("caps_retain", "caps_remove"), "capabilities"),
    "os/linux/capabilities-remove-set": (("caps_retain", "caps_remove"), "capabilities"),
    "os/linux/seccomp-retain-set": (("seccomp",), "seccomp"),
    "os/linux/seccomp-remove-set": (("seccomp",), "seccomp"),
    "os/linux/oom-score-adj": (("oom_score_adj",), ""),
    "os/linux/cpu-shares": (("cpu_weight", "cpu_idle"), ""),
    "resource/memory": (("memory",), ""),
    "resource/cpu": (("cpus",), ""),
    "resource/block-bandwidth": (("io_max",), ""),
    "resource/block-iops": (("io_max",), ""),
    "resource/network-bandwidth": (("net_bandwidth",), ""),
}


def judge(options: Options, isolators: list[dict[str, Any]], notes: list[str]) -> Verdicts:
    """Return the names that are `enforced`, those `changed` with what is stronger, and those `ignored`; ConfigError as above.

    Notes tell the user of the last two kinds.
    """
    enforced: list[str] = []
    changed: list[dict[str, str]] = []
    ignored: list[str] = []
    for item in isolators:
        name = item["name"]
        by = _by(options, name, item["value"])
        if by is None:
            ignored.append(name)
            notes.append(f"isolator {name} is unknown and has no effect")
        elif by:
            changed.append({"name": name, "by": by})
            notes.append(f"isolator {name} does not count: {by} does")
        else:
            enforced.append(name)
    return {"enforced": enforced, "changed": changed, "ignored": ignored}


def _by(options: Options, name: str, value: object) -> str | None:
    """What is stronger than an isolator, "" for nothing, None where nobody knows it."""
    if name in _STRONGER:
        flags, word = _STRONGER[name]
        given = [flag for flag in flags if getattr(options, flag) not in (None, False, [])]
        if not given and word and word in options.insecure_options:
            return f"--insecure-options={word}"
        return "--" + given[0].replace("_", "-") if given else ""
    if name == SYSCTL:
        assert isinstance(value, dict)
        return "--sysctl" if beaten(options, value) else ""
    if name == NO_NEW_PRIVILEGES:  # only a host's operator gives up the default
        return (
            ""
            if value is True or "new-privs" in options.insecure_options
            else "pyrun's default, which --insecure-options=new-privs gives up"
        )
    if name in ISOLATORS:  # whether the kernel can is asked by `labels_of`
        return "--security-opt" if any(word.startswith(ISOLATORS[name] + "=") for word in options.security_opt) else ""
    if name.startswith(("resource/", "os/linux/", "os/unix/")):
        hint = "this version of pyrun does not enforce it; run an image without it"
        raise ConfigError("apply isolator", name, "cannot be enforced", hint=hint, origin="app.isolators")
    return None
