"""Linux capabilities as bit masks: names, pyrun's default set, and the retain and remove sets of the App Container spec.

A mask has bit n set for capability number n of capabilities(7).  A retain set is the bounding set exactly and
may exceed the default; a remove set is the default minus what it lists.  An app that is not root holds no
capability: the chosen set only bounds what it could ever gain (appc-spec, "Capabilities").
"""

from __future__ import annotations

from pyrun.errors import ConfigError, blame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ALL", "DEFAULT", "NAMES", "PRESETS", "bit", "expand", "names", "parse", "select"]

# linux/capability.h; the index is the number
NAMES = tuple(
    """
    CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
    CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK
    CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT
    CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE
    CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND
    CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE
    """.split()
)
ALL = (1 << len(NAMES)) - 1

# CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID NET_BIND_SERVICE: enough to install files, drop to a user
# and listen on port 80; nothing that reaches beyond the container
DEFAULT = 0x4FB

# what an appc or Docker image may expect: AUDIT_WRITE MKNOD NET_RAW SETFCAP SETPCAP SYS_CHROOT on top
FOURTEEN = 0xA80425FB

PRESETS = {"all": ALL, "default": DEFAULT, "docker": FOURTEEN, "none": 0, "rkt": FOURTEEN}


def bit(name: str, where: str = "capabilities") -> int:
    """Return the mask of one capability; any case, `CAP_` optional.  ConfigError, or UsageError for a flag, names the nearest one."""
    full = name.strip().upper()
    if not full.startswith("CAP_"):
        full = "CAP_" + full
    if full not in NAMES:
        raise blame(where)("read capabilities", name, "no such capability", hint=_nearest(full), origin=where)
    return 1 << NAMES.index(full)


def _nearest(name: str) -> str:
    import difflib

    found = difflib.get_close_matches(name, NAMES, 1, 0.5)
    return f"did you mean {found[0]}?" if found else "capabilities(7) lists the names"


def parse(names: Iterable[str], where: str = "capabilities") -> int:
    """Return the mask of `names`; ConfigError, or UsageError for a flag, when one is unknown or there is none."""
    mask = 0
    for name in names:
        mask |= bit(name, where)
    if not mask:
        raise blame(where)("read capabilities", where, "the set is empty", hint="list at least one capability, or none", origin=where)
    return mask


def expand(words: list[str]) -> list[str]:
    """Return the names that a flag means: `words`, unless they are one preset of `PRESETS` other than "none"."""
    mask = PRESETS.get(words[0].lower()) if len(words) == 1 else None
    return names(mask) if mask else words


def select(
    *, retain: Iterable[str] | None = None, remove: Iterable[str] | None = None, uid: int, where: str = "capabilities"
) -> tuple[int, int]:
    """Return (bounding, permitted) for an app that runs as `uid`; permitted is also the effective set.

    Inheritable and ambient stay empty always (CVE-2022-24769).  ConfigError when both sets are given.
    """
    if retain is not None and remove is not None:
        raise ConfigError("choose capabilities", where, "a retain set and a remove set", hint="keep one of the two", origin=where)
    mask = DEFAULT
    if retain is not None:
        kept = list(retain)
        mask = 0 if where == "--caps-retain" and kept in ([], ["none"]) else parse(kept, where)
    elif remove is not None:
        mask = DEFAULT & ~parse(remove, where)
    return mask, mask if uid == 0 else 0


def names(mask: int) -> list[str]:
    """Return the names in `mask` in the kernel's order; a bit without a name shows as its number."""
    return [NAMES[n] if n < len(NAMES) else f"CAP_{n}" for n in range(mask.bit_length()) if mask >> n & 1]
