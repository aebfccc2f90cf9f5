"""The messages that are exchanged with criu, and what is read from its log and from mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pyrun.errors import ConfigError, UsageError
from pyrun.oci import criu, criu_config, criu_mounts, criu_rpc
from pyrun.oci.arguments import parse


def test_messages_as_protocol_buffers_have_them() -> None:
    """The bytes are those of the encoding's own documentation, and of fields with numbers above 15."""
    assert criu_rpc.encode([(1, 150)]) == bytes.fromhex("089601")
    assert criu_rpc.encode([(2, "testing")]) == bytes.fromhex("120774657374696e67")
    assert criu_rpc.encode([(3, [(1, 150)])]) == bytes.fromhex("1a03089601")
    assert criu_rpc.encode([(37, "a"), (37, "b"), (64, 2)]) == bytes.fromhex("aa020161aa020162800402")
    assert criu_rpc.encode([(1, -1)]) == bytes.fromhex("08ffffffffffffffffff01")


@given(some.dictionaries(some.integers(1, 500), some.integers(0, 2**64 - 1) | some.binary(max_size=300)))
def test_what_is_encoded_is_decoded(fields: dict[int, int | bytes]) -> None:
    data = criu_rpc.encode(list(fields.items()))
    assert criu_rpc.decode(data) == fields
    if data:
        with pytest.raises(ValueError, match=r"."):
            criu_rpc.decode(data + b"\x12\x05abc")


@given(some.binary(max_size=60))
def test_damaged_messages_are_a_value_error_at_most(data: bytes) -> None:
    try:
        criu_rpc.decode(data)
    except ValueError:
        return


def test_the_reason_is_the_first_error_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert criu_rpc.first_error(str(log)) == ""
    log.write_text(
        "(00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
        "(00.02)      1: Error (criu/files-reg.c:2353): Can't open file fd/1 on restore: Permission denied\n"
        "(00.03) Error (criu/cr-restore.c:2331): Restoring FAILED.\n"
    )
    assert criu_rpc.first_error(str(log)) == "Can't open file fd/1 on restore: Permission denied"


def test_options_become_fields_of_the_request() -> None:
    found = criu.common(
        parse(["checkpoint", "--tcp-established", "--file-locks", "--lsm-profile=selinux:x", "--empty-ns", "network", "one"])
    )
    assert {(5, 1), (8, 1), (53, "selinux:x"), (38, 0x40000000), (34, 0)} <= set(map(tuple, found))  # type: ignore[arg-type]
    assert not {4, 7, 16} & {field for field, _ in found}
    for words in (["--manage-cgroups-mode", "full"], ["--empty-ns", "ipc"], ["--status-fd", "3"]):
        with pytest.raises(UsageError, match=words[0]):
            criu.common(parse(["restore", *words, "one"]))


def test_pages_that_stay_behind_want_an_address() -> None:
    served = ["--lazy-pages", "--page-server", "[::1]:27000", "--status-fd", "7"]
    found = criu.common(parse(["checkpoint", *served, "one"]))
    assert [one for one in found if one[0] in (11, 48, 49)] == [(48, 1), (11, [(1, "::1"), (2, 27000)]), (49, 7)]
    assert (48, 1) in criu.common(parse(["restore", "--lazy-pages", "one"]))
    for words, wrong in (
        (["checkpoint", "--lazy-pages"], "needs an address"),
        (["checkpoint", "--lazy-pages", "--page-server", "host:0"], "needs an address"),
        (["checkpoint", "--lazy-pages", "--page-server", "27000"], "needs an address"),
        (["checkpoint", *served, "--leave-running"], "goes neither"),
        (["checkpoint", *served[:-1], "x"], "not the number"),
        (["checkpoint", "--page-server", "host:1"], "without --lazy-pages"),
        (["restore", *served], "without --lazy-pages"),
    ):
        with pytest.raises(UsageError, match=wrong):
            criu.common(parse([*words, "one"]))


def test_sources_are_the_new_configuration_s(tmp_path: Path) -> None:
    (tmp_path / "new/deep").mkdir(parents=True)
    config = {"mounts": [{"destination": "/data/", "type": "bind", "source": "new"}]}
    found = {
        "/real": {"mount": "/data", "below": ""},
        "/real/deep": {"mount": "/data", "below": "/deep"},
        "/proc/keys": {"path": "/dev/null"},
    }
    assert criu_mounts.sources(found, config, str(tmp_path), "") == [
        ("/real", f"{tmp_path}/new"),
        ("/real/deep", f"{tmp_path}/new/deep"),
        ("/proc/keys", "/dev/null"),
    ]
    (tmp_path / "new/deep").rmdir()
    with pytest.raises(ConfigError, match="deep: no such file"):
        criu_mounts.sources(found, config, str(tmp_path), "")
    (tmp_path / "new/deep").symlink_to("/")
    with pytest.raises(ConfigError, match="deep: too many levels of symbolic links"):
        criu_mounts.sources(found, config, str(tmp_path), "")


def test_mount_points_are_made_beneath_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to("/target")
    (root / "target").mkdir()
    (tmp_path / "file").touch()
    config = {"mounts": [{"destination": "/dev", "type": "tmpfs"}]}
    wanted = [("/a/b", str(tmp_path)), ("/link/name", str(tmp_path / "file")), ("/dev/inner", str(tmp_path))]
    criu_mounts.make_targets(str(root), wanted, config)
    criu_mounts.make_targets(str(root), wanted, config)
    assert (root / "a/b").is_dir() and (root / "target/name").is_file() and (root / "dev").is_dir()
    assert not (root / "dev/inner").exists(), "that stands in the container's own file system"


def test_mount_points_in_a_source_are_made_there(tmp_path: Path) -> None:
    """And a source has a name that is its own, whatever it is called."""
    for name in ("root", "one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "link").symlink_to("/")
    places = {"/one": "./one/.", "/one/a/two": "two/", "/one/link/b": "../" + tmp_path.name + "/two"}
    config = {"mounts": [{"destination": at, "type": "bind", "source": source} for at, source in places.items()]}
    found = {at: {"mount": at, "below": ""} for at in places}
    wanted = criu_mounts.sources(found, config, str(tmp_path), "")
    assert wanted == [("/one", f"{tmp_path}/one"), ("/one/a/two", f"{tmp_path}/two"), ("/one/link/b", f"{tmp_path}/two")]
    for _ in range(2):
        criu_mounts.make_targets(str(tmp_path / "root"), wanted, config)
    assert (tmp_path / "one/a/two").is_dir() and (tmp_path / "one/b").is_dir(), "a link in there leads to its top"
    assert (tmp_path / "root/one").is_dir() and not (tmp_path / "root/one/a").exists()


def test_options_for_criu_from_files(tmp_path: Path) -> None:
    assert criu_config.config_file({"annotations": {"org.criu.config": "/some/file"}}) == [(51, "/some/file")]
    assert criu_config.config_file({"annotations": {"org.criu.config": ""}}) == [], "none at all"


@pytest.mark.parametrize(
    ("name", "read"),
    [("pyrun-oci", ["pyrun-oci", "crun", "runc"]), ("crun", ["crun", "runc"]), ("runc", ["runc"])],
)
def test_options_of_a_file_that_a_peer_has_left(monkeypatch: pytest.MonkeyPatch, name: str, read: list[str]) -> None:
    """Each is read where those before it are not there."""
    monkeypatch.setattr("sys.argv", [f"/usr/bin/{name}"])
    there = {f"/etc/criu/{one}.conf" for one in ("pyrun-oci", "crun", "runc")}
    monkeypatch.setattr("os.path.isfile", lambda path: path in there)
    for one in read:
        assert criu_config.config_file({}) == [(51, f"/etc/criu/{one}.conf")]
        there.discard(f"/etc/criu/{one}.conf")
    assert criu_config.config_file({}) == []


def test_a_checkpoint_is_not_its_own_parent(tmp_path: Path) -> None:
    """What it is to be compared with would be deleted before."""
    for parent in (".", f"../{tmp_path.name}"):
        args = parse(["checkpoint", "--image-path", str(tmp_path), "--parent-path", parent, "one"])
        with pytest.raises(UsageError, match="is --image-path itself"):
            criu._check_parent(args)
