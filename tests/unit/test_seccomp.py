"""Seccomp sets as flags and isolators (appc ACE-60..69), and the cache of compiled filters."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyrun.errors import ConfigError, UsageError
from pyrun.plan import caps, seccomp, seccomp_build

RETAIN, REMOVE = seccomp.RETAIN, seccomp.REMOVE


def test_flag() -> None:
    spec = seccomp.parse_flag("mode=retain,errno=ENOSYS,write,read,@pyrun/time,read")
    assert (spec.mode, spec.names, spec.errno, spec.where) == ("retain", ("@pyrun/time", "read", "write"), errno.ENOSYS, "--seccomp")
    spec = seccomp.parse_flag("sync,mode=remove")
    assert (spec.mode, spec.names, spec.errno) == ("remove", ("sync",), 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mode is missing"),
        ("read", "mode is missing"),
        ("mode=deny,read", "'deny' is not retain or remove"),
        ("mode=retain", "set is empty"),
        ("mode=retain,errno=EPERM", "set is empty"),
        ("mode=retain,mode=remove,read", "given twice"),
        ("mode=retain,errno=EPERM,errno=EIO,read", "given twice"),
        ("mode=retain,errno=eperm,read", "eperm: no such error"),
        ("mode=retain,errno=1,read", "1: no such error"),
        ("mode=retain,errno=EPONY,read", "EPONY: no such error"),
        ("mode=retain,color=red,read", "color: no such option"),
        ("mode=retain,read,", "not a name"),
        ("mode=retain,re ad", "not a name"),
        ("mode=retain,r\u00e9ad", "not a name"),
        ("mode=retain,@appc.io/empty", "no meaning in a retain set"),
        ("mode=remove,@appc.io/all", "no meaning in a remove set"),
        ("mode=remove,@appc.io/foo", "no meaning in a remove set"),
    ],
)
def test_flag_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        seccomp.parse_flag(text)
    assert words in str(caught.value)
    assert caught.value.hint


def test_ace_64_every_posix_errno_is_known() -> None:
    for name in errno.errorcode.values():
        assert seccomp.parse_flag(f"mode=remove,errno={name},sync").errno == getattr(errno, name)


def test_isolators() -> None:
    other = {"name": "resource/cpu", "value": {"limit": "1"}}
    found = seccomp.from_isolators([other, {"name": REMOVE, "value": {"set": ["sync"], "errno": "EIO"}}], "app.isolators")
    assert found is not None
    assert (found.mode, found.names, found.errno, found.where) == ("remove", ("sync",), errno.EIO, "app.isolators[1]")
    assert seccomp.from_isolators([other]) is None
    assert seccomp.from_isolator(RETAIN, {"set": ["read"], "errno": ""}, "x").errno == 0


@pytest.mark.parametrize("names", [(RETAIN, REMOVE), (REMOVE, REMOVE), (RETAIN, RETAIN)])
def test_only_one_set(names: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        seccomp.from_isolators([{"name": name, "value": {"set": ["sync"]}} for name in names])
    assert "isolators[0]" in str(caught.value)
    assert caught.value.origin == "isolators[1]"


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"set": None},
        {"set": []},
        {"set": [1]},
        {"set": "read"},
        {"set": ["read"], "errno": 1},
        {"set": ["read"], "errno": "E PERM"},
    ],
)
def test_malformed_isolator(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        seccomp.from_isolator(RETAIN, value, "isolators[0]")
    assert caught.value.origin == "isolators[0]"
    assert caught.value.hint


def test_wildcards_mask_the_rest_of_the_set(tmp_path: Path) -> None:
    everything = seccomp.from_isolator(RETAIN, {"set": ["read", "@appc.io/all"]}, "x")
    assert everything.off
    assert seccomp.load(str(tmp_path), everything, 0) == b""
    nothing = seccomp.from_isolator(REMOVE, {"set": ["sync", "@appc.io/empty"], "errno": "EIO"}, "x")
    assert not nothing.off
    assert seccomp.cache_path("", nothing, 0, "x86_64") == seccomp.cache_path("", None, 0, "x86_64")
    assert seccomp.load(str(tmp_path), nothing, 0) == seccomp.load(str(tmp_path), None, 0)


def test_describe() -> None:
    assert seccomp.parse_flag("mode=remove,errno=EIO,sync").describe() == "default, also refuse sync; errno EIO"
    assert seccomp.parse_flag("mode=retain,read").describe() == "allow only read; SIGSYS"
    assert seccomp.parse_flag("mode=retain,@appc.io/all").describe() == "no filter"
    assert seccomp.parse_flag("mode=remove,@appc.io/empty").describe() == "default"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mode=retain,raed", "did you mean read?"),
        ("mode=remove,xyzzyxyzzy", "syscalls(2)"),
        ("mode=retain,@pyrun/tim", "did you mean @pyrun/time?"),
        ("mode=retain,@systemd/clock", "@pyrun/default"),
        ("mode=remove,execve", "leave it out"),
        ("mode=remove,@pyrun/processes", "leave it out"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        seccomp.load(str(tmp_path), seccomp.parse_flag(text), 0)
    assert hint in caught.value.hint
    assert caught.value.origin == "--seccomp"


def test_early_filter_cannot_refuse_what_drops_privileges(tmp_path: Path) -> None:
    spec = seccomp.parse_flag("mode=remove,errno=EPERM,setresuid")
    assert seccomp.load(str(tmp_path), spec, 0)
    with pytest.raises(UsageError) as caught:
        seccomp.load(str(tmp_path), spec, 0, early=True)
    assert "no-new-privileges" in caught.value.hint


def test_names_of_other_machines_are_skipped(tmp_path: Path) -> None:
    plain = seccomp.load(str(tmp_path), seccomp.parse_flag("mode=retain,errno=EPERM,read"), 0)
    assert seccomp.load(str(tmp_path), seccomp.parse_flag("mode=retain,errno=EPERM,read,socketcall,mmap2"), 0) == plain


def test_cache_key_depends_on_what_matters() -> None:
    def key(spec: seccomp.SeccompSpec | None = None, mask: int = 0, machine: str = "x86_64", early: bool = False) -> str:
        return seccomp.cache_path("/s", spec, mask, machine, early)

    read = seccomp.parse_flag("mode=retain,read")
    different = [
        key(),
        key(mask=caps.bit("SYS_ADMIN")),
        key(machine="aarch64"),
        key(read),
        key(read, early=True),
        key(seccomp.parse_flag("mode=remove,read")),
        key(seccomp.parse_flag("mode=retain,errno=EPERM,read")),
        key(seccomp.parse_flag("mode=retain,read,write")),
    ]
    assert len(set(different)) == len(different)
    assert key() == key(mask=caps.DEFAULT) == key(early=True)
    assert key().startswith("/s/cache/seccomp/") and key().endswith(".bpf")


def test_second_load_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = seccomp.load(str(tmp_path), None, caps.DEFAULT)
    assert len(first) % 8 == 0 and first
    path = Path(seccomp.cache_path(str(tmp_path), None, caps.DEFAULT, os.uname().machine))
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.parent.stat().st_mode & 0o7777 == 0o700
    assert list((tmp_path / "tmp").iterdir()) == []
    monkeypatch.setattr(seccomp_build, "compile_filter", None)
    assert seccomp.load(str(tmp_path), None, 0) == first


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":
        path.write_bytes(bytes(len(data)))
    elif how == "short":
        path.write_bytes(data[:-8])
    elif how == "odd":
        path.write_bytes(data[:-3])
    elif how == "flipped":
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif how == "huge":
        path.write_bytes(data + bytes(1 << 20))
    elif how == "writable":
        path.chmod(0o620)
    elif how == "link":
        path.rename(path.with_suffix(".moved"))
        path.symlink_to(path.with_suffix(".moved"))
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)


@pytest.mark.parametrize("how", ["empty", "zeros", "short", "odd", "flipped", "huge", "writable", "link", "fifo"])
def test_damaged_cache_is_not_used_and_mended(tmp_path: Path, how: str) -> None:
    good = seccomp.load(str(tmp_path), None, 0)
    path = Path(seccomp.cache_path(str(tmp_path), None, 0, os.uname().machine))
    damage(path, how)
    assert seccomp._cached(str(path)) == b""
    assert seccomp.load(str(tmp_path), None, 0) == good
    assert seccomp._cached(str(path)) == good
    assert not path.is_symlink()


@pytest.mark.needs_root
def test_cache_of_a_stranger_is_not_used(tmp_path: Path) -> None:
    seccomp.load(str(tmp_path), None, 0)
    path = seccomp.cache_path(str(tmp_path), None, 0, os.uname().machine)
    os.chown(path, 12345, 12345)
    assert seccomp._cached(path) == b""


def test_store_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert seccomp.load(str(missing), None, 0)
    assert not missing.exists()
    (tmp_path / "cache").write_text("in the way")
    assert seccomp.load(str(tmp_path), None, 0)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_concurrent_loads_agree(tmp_path: Path) -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(seccomp.load(str(tmp_path), None, 0))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len(set(results)) == 1
    assert len(list((tmp_path / "cache" / "seccomp").iterdir())) == 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_hit_imports_nothing_heavy(tmp_path: Path) -> None:
    seccomp.load(str(tmp_path), None, 0)
    script = (
        "import sys; from pyrun.plan import seccomp; before = set(sys.modules); seccomp.load(sys.argv[1], None, 0); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {
        "pyrun.plan.seccomp_build",
        "pyrun.plan.seccomp_profile",
        "pyrun.plan.seccomp_gate",
        "pyrun.native._seccomp",
        "hashlib",
    }
