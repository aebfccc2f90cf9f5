"""The hot parser: every spelling of an option, every way to get one wrong, and agreement with argparse."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrun.cli.help import dest, parser, visible
from pyrun.cli.options import COMMON, VERBS
from pyrun.cli.parse import parse
from pyrun.cli.specs import merge_env_files, read_env_file
from pyrun.errors import UsageError


def test_run_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYRUN_ROOT", raising=False)
    args = parse(["run", "app.aci"])
    assert (args.verb, args.image, args.argv, args.given) == ("run", "app.aci", [], set())
    assert (args.root, args.net, args.upper) == ("/var/lib/pyrun", [], "disk")
    assert args.set_env == {}
    assert args.volume == args.mount == args.rlimit == args.insecure_options == []
    assert args.caps_retain is None
    assert args.caps_remove is None
    assert not (args.interactive or args.tty or args.keep or args.rm)


def test_defaults_are_not_shared() -> None:
    parse(["run", "x", "-e", "A=1", "--rlimit", "core=0"])
    args = parse(["run", "x"])
    assert args.set_env == {}
    assert args.rlimit == []


@pytest.mark.parametrize(
    "words",
    [
        ["--user", "www", "x"],
        ["--user=www", "x"],
        ["-u", "www", "x"],
        ["-uwww", "x"],
        ["-u=www", "x"],
        ["x", "-u", "www"],
        ["-itu", "www", "x"],
        ["-ituwww", "x"],
        ["--user", "root", "x", "-u", "www"],
    ],
)
def test_spellings(words: list[str]) -> None:
    args = parse(["run", *words])
    assert args.user == "www"
    assert args.image == "x"
    assert "user" in args.given
    assert args.tty == args.interactive == words[0].startswith("-it")


def test_aliases_share_an_attribute() -> None:
    args = parse(["run", "x", "--env", "A=1", "-e", "B=", "--set-env", "C==x", "--network", "host", "--read-only", "--ulimit", "core=0"])
    assert args.set_env == {"A": "1", "B": "", "C": "=x"}
    assert args.net == ["host"]
    assert args.readonly_rootfs
    assert args.rlimit == ["core=0"]
    assert args.given == {"set_env", "net", "readonly_rootfs", "rlimit"}


def test_flags_take_true_and_false() -> None:
    assert parse(["run", "x", "--tty=true"]).tty is True
    assert parse(["run", "x", "--tty=false"]).tty is False


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["x", "--", "-a", "--user", "b"], ["-a", "--user", "b"]),
        (["--", "a", "---", "x"], ["a"]),
        (["x", "--", "a", "---", "-i"], ["a"]),
        (["x", "---"], []),
        (["x", "--"], []),
        (["x", "--", "", "--"], ["", "--"]),
    ],
)
def test_app_arguments(words: list[str], argv: list[str]) -> None:
    args = parse(["run", *words])
    assert args.image == "x"
    assert args.argv == argv


def test_numbers_and_lists() -> None:
    args = parse(["run", "x", "--oom-score-adj", "-500", "--umask=027", "--supplementary-gids", "1,2", "--supplementary-gids=3"])
    assert args.oom_score_adj == -500
    assert args.umask == 0o27
    assert args.supplementary_gids == [1, 2, 3]
    args = parse(["run", "x", "--caps-retain=CAP_CHOWN,CAP_KILL", "--caps-retain", "CAP_MKNOD"])
    assert args.caps_retain == ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"]


def test_an_empty_list_of_capabilities_is_not_the_default() -> None:
    assert parse(["run", "x", "--caps-retain="]).caps_retain == []


def test_insecure_options() -> None:
    assert parse(["run", "x", "--insecure-options", "image,all-run"]).insecure_options == [
        "image",
        "capabilities",
        "paths",
        "seccomp",
        "new-privs",
    ]
    assert parse(["run", "x", "--insecure-options=none"]).insecure_options == []


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172800), ("1h5", 3605), ("0", 0)])
def test_duration(text: str, seconds: int) -> None:
    assert parse(["gc", "--grace-period", text]).grace_period == seconds


def test_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYRUN_ROOT", "/from/environment")
    assert parse(["run", "x"]).root == "/from/environment"
    assert parse(["--root", "/a", "run", "x"]).root == "/a"
    assert parse(["--dir=/a", "run", "x", "--root=/b"]).root == "/b"
    monkeypatch.chdir(tmp_path)
    assert parse(["--root", "state", "gc"]).root == os.path.join(tmp_path, "state")


def test_global_options_before_and_after_the_verb() -> None:
    assert parse(["--debug", "run", "x"]).debug
    assert parse(["run", "--debug", "x"]).debug
    assert "debug" in parse(["--debug", "run", "x"]).given


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["run", "--help"], ["run", "x", "-h"], ["image", "--help"], ["image", "rm", "-h"]])
def test_help_needs_nothing_else(words: list[str]) -> None:
    assert parse(words).help


def test_verbs_of_two_words() -> None:
    args = parse(["image", "rm", "a", "b"])
    assert (args.verb, args.refs) == ("image rm", ["a", "b"])
    assert parse(["image", "show", "a"]).ref == "a"
    assert parse(["image", "list"]).format == "table"


def test_double_dash_in_other_verbs() -> None:
    assert parse(["fetch", "--", "-odd.aci", "--help"]).files == ["-odd.aci", "--help"]


def test_volumes() -> None:
    volumes = ["--volume", "db,kind=host,source=/srv/db,readOnly=true,recursive=false", "-v", "/a:/b:ro", "-v./c:/d"]
    volumes += ["--volume=tmp,kind=tmpfs,size=64m,mode=1777,uid=5,gid=6"]
    mounts = ["--mount", "volume=db,target=/db,readOnly=true", "--mount", "type=bind,src=/e,dst=/f,readonly"]
    mounts += ["--mount", "type=tmpfs,destination=/g,tmpfs-size=1k"]
    args = parse(["run", "x", *volumes, *mounts])
    named, short, relative, memory, bind, tmpfs = args.volume
    assert (named.name, named.kind, named.source, named.read_only, named.recursive, named.target) == (
        "db",
        "host",
        "/srv/db",
        True,
        False,
        None,
    )
    assert (short.name, short.kind, short.source, short.target, short.read_only) == (None, "host", "/a", "/b", True)
    assert relative.source == os.path.abspath("c")
    assert (memory.size, memory.mode, memory.uid, memory.gid) == (64 << 20, 0o1777, 5, 6)
    assert (bind.source, bind.target, bind.read_only) == ("/e", "/f", True)
    assert (tmpfs.kind, tmpfs.target, tmpfs.size) == ("tmpfs", "/g", 1024)
    (mount,) = args.mount
    assert (mount.volume, mount.target, mount.read_only, mount.origin) == ("db", "/db", True, "--mount volume=db,target=/db,readOnly=true")


BAD = [
    (["frob"], "unknown verb 'frob'"),
    (["image"], "image: needs to know what to do"),
    (["image", "lst"], "'lst' is not"),
    (["run"], "needs IMAGE"),
    (["fetch"], "needs at least one FILE"),
    (["run", "x", "ls"], "unexpected argument 'ls'"),
    (["gc", "now"], "unexpected argument 'now'"),
    (["run", "--usr", "x"], "unknown option --usr"),
    (["run", "-Z", "x"], "unknown option -Z"),
    (["run", "-itZ", "x"], "unknown option -Z"),
    (["run", "-name", "x"], "unknown option -name"),
    (["--user", "x", "run"], "unknown option --user"),
    (["run", "--user"], "needs a value USER"),
    (["run", "--user", "--", "x"], "needs a value USER"),
    (["run", "--user", "--tty", "x"], "needs a value USER"),
    (["run", "--user=", "x"], "is empty"),
    (["run", "-u", "", "x"], "is empty"),
    (["run", "--tty=maybe", "x"], "true or false"),
    (["run", "--net", "", "x"], "is empty"),
    (["run", "--upper=", "x"], "is empty"),
    (["run", "--set-env", "A", "x"], "'A' is not NAME=VALUE"),
    (["run", "--set-env", "=A", "x"], "is not NAME=VALUE"),
    (["run", "-e", "A=1", "-e", "A=1", "x"], "A is set twice"),
    (["run", "--oom-score-adj", "1001", "x"], "from -1000 to 1000"),
    (["run", "--oom-score-adj", "1_0", "x"], "not a whole number"),
    (["run", "--oom-score-adj", "\u0661", "x"], "not a whole number"),
    (["run", "--oom-score-adj", "9" * 5000, "x"], "not a whole number"),
    (["run", "--umask", "0o22", "x"], "not an octal number"),
    (["run", "--umask", "89", "x"], "not an octal number"),
    (["run", "--umask", "1777", "x"], "from 0 to 0777"),
    (["run", "--supplementary-gids", "1,,2", "x"], "empty element"),
    (["run", "--supplementary-gids", "wheel", "x"], "not a whole number"),
    (["run", "--caps-retain", "a,", "x"], "empty element"),
    (["run", "--caps-retain", "a", "--caps-remove", "b", "x"], "exclude each other"),
    (["run", "--rm", "--keep", "x"], "exclude each other"),
    (["run", "--insecure-options", "everything", "x"], "not a protection"),
    (["gc", "--grace-period", "soon"], "not a duration"),
    (["gc", "--grace-period", "m"], "not a duration"),
    (["gc", "--grace-period", "99999999999"], "not a duration"),
    (["run", "-v", "name:/x", "x"], "'name' is not a path"),
    (["run", "-v", "/a", "x"], "not SRC:DST"),
    (["run", "-v", "/a:/b:ro:x", "x"], "not SRC:DST"),
    (["run", "-v", "/a:b", "x"], "not an absolute path"),
    (["run", "-v", "/a:/", "x"], "not an absolute path below /"),
    (["run", "-v", "/a:/b:z", "x"], "not ro or rw"),
    (["run", "--volume", "db", "x"], "nothing but a name"),
    (["run", "--volume", "DB,kind=empty", "x"], "not a volume's name"),
    (["run", "--volume", "-,kind=empty", "x"], "not a volume's name"),
    (["run", "--volume", "db,kind=disk", "x"], "has no kind"),
    (["run", "--volume", "db,kind=host", "x"], "needs a source"),
    (["run", "--volume", "db,kind=host,source=a", "x"], "not an absolute path"),
    (["run", "--volume", "db,kind=empty,source=/a", "x"], "'source' has no meaning"),
    (["run", "--volume", "db,kind=empty,mode=999", "x"], "not an octal number"),
    (["run", "--volume", "db,kind=empty,uid=-1", "x"], "not a number"),
    (["run", "--volume", "db,kind=empty,readOnly=perhaps", "x"], "not true or false"),
    (["run", "--volume", "db,kind=empty,kind=host", "x"], "written twice"),
    (["run", "--volume", "db,kind=tmpfs,size=big", "x"], "not a size"),
    (["run", "--volume", "db,kind=tmpfs,size=0", "x"], "not a size"),
    (["run", "--volume", "db,kind=empty", "--volume", "db,kind=empty", "x"], "two volumes named db"),
    (["run", "--volume", "db,kind=empty,,", "x"], "not KEY=VALUE"),
    (["run", "--mount", "volume=db", "x"], "target"),
    (["run", "--mount", "target=/x", "x"], "no volume is named"),
    (["run", "--mount", "type=nfs,target=/x", "x"], "not a type of mount"),
    (["run", "--mount", "type=bind,target=/x", "x"], "needs a source"),
    (["run", "--mount", "type=bind,src=/a,source=/b,target=/x", "x"], "written twice"),
    (["run", "--mount", "volume=a,target=/x,mode=1", "x"], "'mode' has no meaning"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "")
def test_bad_input(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert message in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


HINTS = [
    (["rn"], "did you mean `pyrun run`?"),
    (["image", "shw", "a"], "did you mean `pyrun image show`?"),
    (["run", "--hostnam", "x"], "did you mean --hostname?"),
    (["run", "-name", "x"], "did you mean --name?"),
    (["--net", "host"], "--net belongs to a verb"),
    (["fetch", "--net", "host"], "--net is an option of `pyrun run`"),
    (["run", "x", "ls", "-l", "a b"], "pyrun run x -- ls -l 'a b'"),
    (["run", "--user", "--tty", "x"], "--user=--tty if that is the value"),
]


@pytest.mark.parametrize(("words", "hint"), HINTS, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_hints(words: list[str], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert hint in caught.value.hint


def test_env_file(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b"# a comment\n; another\n\nA=1\r\n  B = two words \nC=#=\n")
    with pytest.raises(UsageError, match=r"env:5: not NAME=VALUE"):
        read_env_file(str(file))
    file.write_bytes(b"A=1\r\nB= x \nC=#=\nD=\xff\n")
    assert read_env_file(str(file)) == {"A": "1", "B": " x ", "C": "#=", "D": "\udcff"}
    file.write_bytes(b"A=1\nA=2\n")
    with pytest.raises(UsageError, match="A is set twice"):
        read_env_file(str(file))
    file.write_bytes(b"A=" + b"x" * (1 << 20))
    with pytest.raises(UsageError, match="larger than"):
        read_env_file(str(file))
    with pytest.raises(UsageError, match="no such file"):
        read_env_file(str(tmp_path / "missing"))


def test_env_files_do_not_overrule_each_other(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("A=1\n")
    other.write_text("B=2\n")
    assert merge_env_files([str(one), str(other)]) == {"A": "1", "B": "2"}
    with pytest.raises(UsageError, match="A is set by an earlier file"):
        merge_env_files([str(one), str(one)])


# What argparse, built from the same table, makes of a command line is what the hot parser must make of it.

SAMPLES = {
    "flag": [""],
    "str": ["some", "-dash", "a=b"],
    "path": ["/a/b"],
    "int": ["-5", "7"],
    "octal": ["22"],
    "seconds": ["5m"],
    "csv": ["a,b", "c"],
    "list": ["one", "two"],
    "paths": ["/e"],
    "ints": ["1,2"],
    "insecure": ["image", "all"],
    "env": ["A=1", "B=2", "C=x=y"],
    "volume": ["/a:/b"],
    "mount": ["volume=a,target=/x"],
}


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    verb = draw(st.sampled_from([verb for verb in visible() if verb not in ("help", "completion")]))
    words: list[str] = []
    used: set[str] = set()
    for option in draw(st.lists(st.sampled_from([*VERBS[verb][2], *COMMON[:2]]), max_size=6)):
        name = draw(st.sampled_from(option[0].split()))
        choices = option[3].split() if option[2] == "str" and option[3] else SAMPLES[option[2]]
        if option[2] == "int" and option[3]:
            choices = option[3].split("..")  # both ends of what is allowed
        value = draw(st.sampled_from(choices))
        if option[2] == "env":
            if value[0] in used:
                continue
            used.add(value[0])
        if option[2] == "flag":
            words.append(name)
        elif name.startswith("--"):
            words.append(f"{name}={value}")
        else:
            words += [name + value]
    bare = ["some.aci"] * len(VERBS[verb][1].removesuffix(" --").removesuffix(" +").split())
    # behind a pod everything belongs to the command
    place = len(words) if VERBS[verb][1].endswith(" +") else draw(st.integers(0, len(words)))
    return verb, [*words[:place], *bare, *words[place:]]


def reference(verb: str, words: list[str]) -> argparse.Namespace:
    return parser(verb).parse_args(words)


@pytest.mark.parametrize("command", [["/bin/ls", "-l", "--help"], ["-x"], ["--tty", "--", "x"]])
def test_behind_a_pod_everything_is_the_command(command: list[str]) -> None:
    for separator in ([], ["--"]):
        args = parse(["exec", "-i", "--user=app", "1234", *separator, *command])
        assert (args.pod, args.argv, args.interactive, args.tty, args.help) == ("1234", command, True, False, False)
    with pytest.raises(UsageError):
        parse(["exec", "--tty"])


@given(command_lines())
@settings(max_examples=150, deadline=None)
def test_agrees_with_argparse(line: tuple[str, list[str]]) -> None:
    verb, words = line
    expected = vars(reference(verb, words))
    exclusive = any(expected[one] and expected[other] for one, other in VERBS[verb][3])
    if exclusive:
        with pytest.raises(UsageError):
            parse([*verb.split(), *words])
        return
    args = parse([*verb.split(), *words])
    for option in VERBS[verb][2]:
        name, kind = dest(option[0]), option[2]
        assert (name in args.given) == bool(expected[name]), name
        if kind in ("flag", "path") or (kind == "str" and name in args.given):
            assert getattr(args, name) == expected[name]
        elif kind in ("list", "paths", "volume", "mount", "env"):
            assert len(getattr(args, name)) == len(expected[name] or [])


@given(
    st.lists(
        st.one_of(st.text(max_size=8), st.sampled_from(["run", "image", "--", "---", "-", "-it", "--user", "--volume=", "-e"])), max_size=6
    )
)
@settings(max_examples=300, deadline=None)
def test_any_words_parse_or_are_a_usage_error(words: list[str]) -> None:
    try:
        parse(words)
    except UsageError as error:
        assert error.hint
