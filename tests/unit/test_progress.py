"""Progress bars: what they say, and that they fit the terminal."""

from __future__ import annotations

import pytest

from pyrun.cli.progress import Bars, Blob, picture

MIB = 1 << 20


def blob(have: int, total: int, seconds: float = 2.0, name: str = "sha256:0123456789ab") -> Blob:
    made = Blob(name, total, 100.0)
    made.have = have
    made.measure(100.0 + seconds)
    return made


def test_a_bar_tells_bytes_rate_and_time_left() -> None:
    (line,) = picture([blob(10 * MIB, 40 * MIB)], 100, 24)
    assert line == "sha256:0123456789ab [#####---------------]   10 MiB of 40 MiB  5.0 MiB/s  0:06"
    assert picture([blob(0, 3600 * MIB)], 100, 24)[0].endswith("0 B of 3.5 GiB  0 B/s  -:--")
    assert picture([blob(2 * MIB, 7202 * MIB)], 100, 24)[0].endswith("1.0 MiB/s  2:00:00")


def test_the_rate_is_that_of_the_last_seconds() -> None:
    one = blob(30 * MIB, 90 * MIB, 1.0)
    for second in range(2, 8):  # it stands still
        one.measure(100.0 + second)
    assert one.rate == 0
    one.have = 0  # what was cut begins anew
    one.measure(108.5)
    assert one.rate == 0


def test_nobody_knows_the_size() -> None:
    assert picture([blob(3 * MIB, 0, name="app.aci")], 80, 24) == ["app.aci 3.0 MiB  1.5 MiB/s"]


@pytest.mark.parametrize("columns", [10, 40, 60, 79, 200])
@pytest.mark.parametrize("rows", [2, 5, 24])
def test_it_fits_the_terminal(columns: int, rows: int) -> None:
    lines = picture([blob(number * MIB, 40 * MIB) for number in range(12)], columns, rows)
    assert 0 < len(lines) <= rows and all(len(line) < columns for line in lines)
    assert len(lines) == 12 or lines[-1].startswith(f"and {12 - len(lines) + 1} more"[: columns - 1])


def test_elsewhere_a_line_for_each_blob(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.begin("https://example.com/a.aci?key=secret", 0)
    bars.moved("https://example.com/a.aci?key=secret", 2048)
    bars.end("https://example.com/a.aci?key=secret", 2048, "sha256-" + "ab" * 32)
    bars.close()
    assert capsys.readouterr().err == "pyrun: fetched sha256:abababababab 2.0 KiB\n"
