"""Numbers of a command line: bounded, and wrong ones told in one line."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr

import pytest

from pyrun.cli.main import main
from pyrun.errors import UsageError
from pyrun.net.addresses import Subnet
from pyrun.net.bandwidth import rate
from pyrun.net.want import want_of
from pyrun.oci.arguments import listening
from pyrun.oci.arguments import parse as oci_parse
from pyrun.plan.numbers import whole
from pyrun.pod.control import signal_number
from pyrun.pod.keep import restart_policy

LONG = "9" * 5000  # more digits than int() takes
ARABIC = "\u0663"  # a digit, of a kind


NUMBERS = {"0": 0, "5": 5, "007": 7, "0" * 5000 + "7": 7, "65535": 65535}
NONE = ["65536", "", "-1", "+1", " 1", "1_0", "1.0", "\0", ARABIC, LONG]


@pytest.mark.parametrize(("text", "number"), [*NUMBERS.items(), *((text, -1) for text in NONE)])
def test_whole(text: str, number: int) -> None:
    assert whole(text, 65535) == number


@pytest.mark.parametrize("word", [LONG, ARABIC, "1" + "0" * 30])
def test_numbers_are_refused_in_one_line(word: str) -> None:
    for net, port in (
        ((f"default:mtu={word}",), ()),
        (("default",), (f"{word}:80",)),
        (("default",), (f"80:{word}",)),
        (("default",), (f"1-{word}:1-2",)),
    ):
        with pytest.raises(UsageError):
            want_of(net, port, [])
    with pytest.raises(UsageError):
        rate(word, "--net-bandwidth")
    with pytest.raises(UsageError):
        signal_number(word, "stop")
    with pytest.raises(UsageError):
        signal_number("RTMIN+" + word, "stop")
    with pytest.raises(UsageError):
        restart_policy("on-failure:" + word)
    with pytest.raises(UsageError):
        oci_parse(["exec", "--preserve-fds", word, "one", "true"]).number("preserve-fds")
    assert Subnet.parse("10.0.0.0/" + word) is None and Subnet.parse("fd00::/" + word) is None
    assert listening(word) == 0


def test_the_command_line_says_so(tmp_path: os.PathLike[str]) -> None:
    for words in (["network", "create", "--subnet", "10.0.0.0/" + LONG, "x"], ["network", "create", "--subnet", "fd00::/" + ARABIC, "x"]):
        said = io.StringIO()
        with redirect_stderr(said):
            assert main(["--root", str(tmp_path), *words]) == 2
        assert "internal error" not in said.getvalue() and "subnet" in said.getvalue()
