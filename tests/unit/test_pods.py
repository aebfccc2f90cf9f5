"""What can be said about pods without running one: names, policies, log lines, archives, statuses of directories."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrun.errors import StateError, UsageError
from pyrun.pod import keep
from pyrun.pod.collect import collect
from pyrun.pod.control import signal_number
from pyrun.pod.logs import read_log
from pyrun.pod.names import check_name, claim, rename, resolve, uuid_of_name
from pyrun.pod.options import Options
from pyrun.pod.state import Pods, lock, new_uuid
from pyrun.pod.status import exit_code, listing
from pyrun.pod.tarout import TarWriter


@pytest.fixture
def pods(tmp_path: Path) -> Pods:
    return Pods(str(tmp_path / "state"))


def stand(pods: Pods, phase: str, **files: object) -> str:
    uuid = new_uuid()
    folder = Path(pods.path) / phase / uuid
    folder.mkdir()
    for name, value in files.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return uuid


@pytest.mark.parametrize(
    ("text", "policy"),
    [("no", ("no", 0)), ("always", ("always", 0)), ("on-failure", ("on-failure", 0)), ("on-failure:5", ("on-failure", 5))],
)
def test_restart_policies(text: str, policy: tuple[str, int]) -> None:
    assert keep.restart_policy(text) == policy


@pytest.mark.parametrize("text", ["", "yes", "always:3", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:x", "No"])
def test_no_policies(text: str) -> None:
    with pytest.raises(UsageError, match="not a restart policy"):
        keep.restart_policy(text)


def test_keep_is_what_the_keeper_reads() -> None:
    """Field by field as native/keep.h declares them."""
    options = Options("/x")
    options.restart, options.log_driver, options.log_opt, options.interactive = (
        "on-failure:3",
        "k8s-file",
        {"max-size": "2k", "max-file": "7"},
        True,
    )
    block = keep.encode(options, "näme" * 30)
    magic, version, restart, most, log, files, size, flags, backoff, name = struct.unpack("=6IQ2I64s", block)
    assert (magic, version, restart, most, log, files, size, flags, backoff) == (0x7065656B, 2, 1, 3, 1, 7, 2048, 3, 100)
    assert name[63] == 0 and name.rstrip(b"\0") == ("näme" * 30).encode()[:63]
    header = (Path(__file__).parents[2] / "native" / "keep.h").read_text()
    assert "KEEP_MAGIC 0x7065656b" in header and "KEEP_VERSION 2\n" in header


@pytest.mark.parametrize("options", [{"max-size": "x"}, {"max-size": "-1"}, {"max-files": "0"}, {"max-files": "1001"}, {"colour": "red"}])
def test_bad_log_options(options: dict[str, str]) -> None:
    wanted = Options("/x")
    wanted.log_opt = options
    with pytest.raises(UsageError, match="log-opt"):
        keep.encode(wanted, "x")


def test_signals() -> None:
    assert [signal_number(text, "x") for text in ("TERM", "sigterm", "15", "RTMIN+1", "KILL")] == [15, 15, 15, 35, 9]
    for text in ("", "0", "65", "FOO", "RTMIN+99", "-9"):
        with pytest.raises(UsageError):
            signal_number(text, "option --signal")


@pytest.mark.parametrize("name", ["a", "web-1", "a.b_c", "0", "x" * 63])
def test_names(name: str) -> None:
    assert check_name(name, "") == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "a-", ".", "..", "a/b", "a b", "x" * 64, "ä", "a\n", "11111111-2222-4333-8444-555555555555"]
)
def test_no_names(name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        check_name(name, "--pod-name")


@pytest.mark.parametrize("name", ["deadbeef", "11111111", "11111111-2222", "11111111-2222-4333-8444-5", "11111111-0"])
def test_names_like_the_beginning_of_a_uuid(pods: Pods, name: str) -> None:
    with pytest.raises(UsageError, match="looks like the beginning of a UUID") as caught:
        check_name(name, "--pod-name")
    assert "a letter from g to z" in caught.value.hint
    uuid = stand(pods, "exited")
    with pytest.raises(UsageError, match="looks like the beginning of a UUID"):
        rename(pods, uuid, name)
    assert uuid_of_name(pods, name) == ""
    claim(pods, name, uuid)  # one of an older version
    assert resolve(pods, name) == ("exited", uuid)


@pytest.mark.parametrize("name", ["deadbee", "11111111a", "1111-1111", "deadbeef.0", "11111111-2222a", "0" * 36])
def test_names_that_no_uuid_begins_with(name: str) -> None:
    assert check_name(name, "") == name


def test_resolving(pods: Pods) -> None:
    one, other = stand(pods, "exited"), stand(pods, "prepared")
    claim(pods, "web", one)
    assert resolve(pods, "web") == resolve(pods, one.upper()) == ("exited", one)
    assert resolve(pods, other) == ("prepared", other)
    with pytest.raises(StateError, match="has that name"):
        claim(pods, "web", other)
    with pytest.raises(StateError, match="none of that name"):
        resolve(pods, "nobody")
    for odd in ("", "..", "web/..", "../web"):
        assert uuid_of_name(pods, odd) == ""
    os.rmdir(f"{pods.path}/exited/{one}")
    claim(pods, "web", other)
    assert resolve(pods, "web") == ("prepared", other)


def test_statuses_of_whatever_is_there(pods: Pods) -> None:
    good = stand(pods, "exited", pod={"created": 5, "app": "x"}, exit={"code": 3, "signal": 0})
    killed = stand(pods, "exited", pod={"created": 6}, exit={"code": 0, "signal": 9})
    empty = stand(pods, "exited")
    odd = stand(pods, "running", pod="[1]", run="{", exit="null")
    (Path(pods.path) / "prepared" / new_uuid()).write_text("a file")
    found = {one["uuid"]: one for one in listing(pods)}
    assert [exit_code(found[uuid]) for uuid in (good, killed, empty, odd)] == [3, 137, 125, 125]
    assert found[empty]["damaged"] and found[odd]["damaged"] and found[odd]["state"] == "exited"
    assert len(found) == 5 and list(found)[-2:] == [good, killed], "those without a date first"


def test_collecting(pods: Pods) -> None:
    old, young, held = stand(pods, "prepared"), stand(pods, "prepared"), stand(pods, "prepared")
    for uuid in (old, held):
        os.utime(f"{pods.path}/prepared/{uuid}", (1, 1))
    fd = os.open(f"{pods.path}/prepared/{held}", os.O_RDONLY)
    assert lock(fd)
    claim(pods, "gone", old)
    told: list[tuple[str, str]] = []
    collect(pods, told=lambda phase, uuid: told.append((phase, uuid)))
    os.close(fd)
    assert told == [("prepared", old)] and sorted(os.listdir(f"{pods.path}/prepared")) == sorted([young, held])
    assert os.listdir(f"{pods.path}/names") == []


def log(folder: Path, *files: bytes) -> int:
    for number, data in enumerate(reversed(files)):
        (folder / (f"log.{number}" if number else "log")).write_bytes(data)
    return os.open(folder, os.O_RDONLY)


def test_parts_of_lines(tmp_path: Path) -> None:
    fd = log(
        tmp_path,
        b"1Z stdout P a\n2Z stderr F e\n",
        b"3Z stdout P b\nbroken\n4Z stdout F c\n5Z stdout F \n6Z stdo",
    )
    assert list(read_log(fd)) == [(b"2Z", b"stderr", b"e\n"), (b"1Z", b"stdout", b"abc\n"), (b"5Z", b"stdout", b"\n")]
    assert list(read_log(fd, tail=1)) == [(b"5Z", b"stdout", b"\n")] and list(read_log(fd, tail=0)) == []
    assert [when for when, _, _ in read_log(fd, since="2Z")] == [b"2Z", b"5Z"]
    os.close(fd)


def test_a_line_without_end_does_not_fill_memory(tmp_path: Path) -> None:
    fd = log(tmp_path, b"".join(b"1Z stdout P " + b"x" * 4000 + b"\n" for _ in range(600)))
    lines = list(read_log(fd))
    os.close(fd)
    assert len(lines) >= 1 and max(len(text) for _, _, text in lines) < 1100000


class Info:
    """What `TarWriter.entry` looks at."""

    def __init__(self, mode: int, size: int = 0, uid: int = 0, gid: int = 0, mtime: int = 0, rdev: int = 0) -> None:
        self.st_mode, self.st_size, self.st_uid, self.st_gid, self.st_mtime_ns, self.st_rdev = mode, size, uid, gid, mtime, rdev


@given(
    st.binary(min_size=1, max_size=200).map(lambda raw: raw.replace(b"\0", b"x").replace(b"/", b"y")),
    st.integers(0, 2**32 - 2),
    st.integers(-(10**18), 2**62),
    st.binary(max_size=1500),
)
@settings(max_examples=200, deadline=None)
def test_archives_are_read_by_others(name: bytes, uid: int, mtime: int, data: bytes) -> None:
    out = io.BytesIO()
    tar = TarWriter(out)
    size = tar.entry(name, Info(0o100644, len(data), uid, uid, mtime), xattrs={"user.x": b"1"})  # type: ignore[arg-type]
    tar.content(data)
    tar.pad(size)
    tar.entry(b"link", Info(0o120777), link=name)  # type: ignore[arg-type]
    tar.marker(b"d/" + b".wh." + name, 0)
    tar.close()
    out.seek(0)
    with tarfile.open(fileobj=out, errors="surrogateescape") as archive:
        one, link, marker = archive.getmembers()
        assert os.fsencode(one.name) == name.rstrip(b"/") and (one.uid, one.gid) == (uid, uid)
        assert abs(one.mtime - mtime / 1e9) < 2 and one.pax_headers["SCHILY.xattr.user.x"] == "1"
        content = archive.extractfile(one)
        assert content is not None and content.read() == data
        assert os.fsencode(link.linkname) == name and marker.name.startswith("d/.wh.")
    assert len(out.getvalue()) % 512 == 0 and tar.count == 3


YEARS = 10 * 365 * 86400.0


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["forward", "back"])
def test_a_clock_that_jumps_makes_nothing_old(pods: Pods, jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-62: what was made a moment ago is young whatever the date is now, what is old goes, and so do remains of crashes."""
    now, up = time.time(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    young = stand(pods, "prepared", pod={"uptime": up})
    ended = stand(pods, "exited", pod={"uptime": 1}, exit={"code": 0, "uptime": up})
    lost = stand(pods, "exited", pod={"uptime": up})
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(time, "time", lambda: now + jump)
    collect(pods, grace=1800, expire=86400, told=lambda phase, uuid: told.append((phase, uuid)))
    assert told == []
    old = stand(pods, "prepared", pod={"uptime": up - 2 * 10**9})
    os.utime(f"{pods.path}/prepared/{old}", (now - 2, now - 2))
    monkeypatch.setattr(time, "time", lambda: now + min(jump, 0))
    collect(pods, grace=1800, expire=1.5, told=lambda phase, uuid: told.append((phase, uuid)))
    assert told == [("prepared", old)]
    made = stand(pods, "preparing", pod="")
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert pods.sweep(thorough=True) == 1 and made not in os.listdir(f"{pods.path}/preparing")
    collect(pods, told=lambda phase, uuid: told.append((phase, uuid)))
    assert sorted(told[1:]) == sorted([("exited", ended), ("exited", lost)]) and os.listdir(f"{pods.path}/prepared") == [young]
