"""Capability names, sets and their App Container rules (appc ACE-53..57)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyrun.errors import ConfigError, UsageError
from pyrun.plan import caps


def test_names_are_those_of_the_kernel_header() -> None:
    header = Path("/usr/include/linux/capability.h").read_text(encoding="ascii")
    numbers = {}
    for line in header.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] == "#define" and words[1].startswith("CAP_") and words[2].isdigit():
            numbers[int(words[2])] = words[1]
    assert list(caps.NAMES)[: len(numbers)] == [numbers[n] for n in range(len(numbers))]
    assert len(caps.NAMES) == 41
    assert caps.NAMES[-1] == "CAP_CHECKPOINT_RESTORE"


def test_default_is_eight() -> None:
    assert [name[4:] for name in caps.names(caps.DEFAULT)] == "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID NET_BIND_SERVICE".split()


def test_ace_53_docker_and_rkt_presets_are_the_fourteen_of_appc() -> None:
    fourteen = "AUDIT_WRITE CHOWN DAC_OVERRIDE FSETID FOWNER KILL MKNOD NET_RAW NET_BIND_SERVICE SETUID SETGID SETPCAP SETFCAP SYS_CHROOT"
    assert caps.PRESETS["docker"] == caps.PRESETS["rkt"] == caps.parse(fourteen.split()) == 0xA80425FB


@pytest.mark.parametrize("name", ["CAP_KILL", "cap_kill", "kill", "KILL", " Kill "])
def test_any_spelling(name: str) -> None:
    assert caps.bit(name) == 1 << 5


def test_names_and_parse_are_inverse() -> None:
    assert caps.parse(caps.names(caps.ALL)) == caps.ALL
    assert caps.names(0) == []
    assert caps.names(1 << 45) == ["CAP_45"]


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        caps.parse(["CAP_SYS_ADMN"], "isolators[1]")
    assert caught.value.hint == "did you mean CAP_SYS_ADMIN?"
    assert caught.value.origin == "isolators[1]"
    assert "CAP_SYS_ADMN" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        caps.parse(["ponies"])
    assert caught.value.hint


def test_ace_55_retain_is_exact_and_may_exceed_the_default() -> None:
    assert caps.select(retain=["CAP_NET_ADMIN"], uid=0) == (0x1000, 0x1000)


def test_ace_54_remove_is_default_minus_the_set() -> None:
    assert caps.select(remove=["kill", "CAP_SYS_ADMIN"], uid=0) == (caps.DEFAULT & ~0x20,) * 2


def test_others_than_root_are_bounded_only() -> None:
    assert caps.select(uid=1000) == (caps.DEFAULT, 0)
    assert caps.select(retain=["NET_ADMIN"], uid=1) == (0x1000, 0)
    assert caps.select(uid=0) == (caps.DEFAULT, caps.DEFAULT)


@pytest.mark.parametrize(("retain", "remove"), [([], None), (None, []), (["kill"], ["kill"]), (["", "kill"], None)])
def test_ace_56_refused_sets(retain: list[str] | None, remove: list[str] | None) -> None:
    with pytest.raises(ConfigError) as caught:
        caps.select(retain=retain, remove=remove, uid=0)
    assert caught.value.hint


def test_flag_takes_lists_and_presets() -> None:
    def kept(*words: str) -> int:
        return caps.select(retain=caps.expand(list(words)), uid=0, where="--caps-retain")[0]

    assert kept("none") == kept() == 0
    assert kept("all") == caps.ALL
    assert kept("docker") == 0xA80425FB
    assert kept("kill", "chown") == 0x21
    with pytest.raises(UsageError):
        kept("all", "kill")
    with pytest.raises(UsageError, match="empty"):
        caps.select(remove=[], uid=0, where="--caps-remove")
