"""Python and the launcher find the same words of a command line to decide, and put the others into a plan in the same way."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrun.cli.options import COMMON, VERBS
from pyrun.cli.parse import parse
from pyrun.errors import UsageError
from pyrun.plan import ops
from pyrun.plan.config import Config
from pyrun.plan.planner import run_plan
from pyrun.pod import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.parse import Args

TOP = Path(__file__).resolve().parents[2]
LINK = "-nostdlib -static-pie -Wl,-e,_start -Wl,--gc-sections".split()
OPTIONS = (*COMMON, *VERBS["run"][2])


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words"
    flags = (TOP / "native/compile_flags.txt").read_text().split()
    sources = [str(TOP / name) for name in ("tests/words.c", "native/words.c", "native/decode.c", "native/start.c")]
    command = ["gcc", *flags, "-fcf-protection=none", f"-I{TOP}/native", *LINK, "-o", str(path), *sources]
    subprocess.run(command, check=True, timeout=60)
    return path


def native(witness: Path, form: int, argv: list[str], data: bytes = b"") -> list[bytes]:
    """The keys without and with the current directory, and the plan if there was one; nothing where the launcher leaves it to Python."""
    words = [str(witness), str(form), *argv]
    done = subprocess.run([os.fsencode(word) for word in words], input=data, capture_output=True, env={"PYRUN_ROOT": "/r"}, timeout=60)
    assert done.returncode in (0, 1)
    parts, rest = [], done.stdout if done.returncode == 0 else b""
    while rest:
        size = int.from_bytes(rest[:4], "little")
        parts.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return parts


def config(*argv: str, env: tuple[str, ...] = ("PATH=/bin",)) -> Config:
    made = Config("01234567-89ab-4cde-8f01-23456789abcd", list(argv), ["/layer"], stage="/s", pod_dir="/p")
    made.env = list(env)
    made.handlers = [("pre-start", ["/before", "it"], ["/before"], 5)]
    return made


TEXT = st.text(st.characters(min_codepoint=1, exclude_categories=()), max_size=4).map(
    lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
)
NAMES = st.sampled_from(["a", "web-1.example", "-a", "a-", "a_b", "x" * 64, "x" * 65, "", "a b", "\n", "é"])
VARIABLE = st.builds("{}={}".format, st.sampled_from(["A", "PATH", "PATHS", "container", "-e", "--env", "", "B C"]), TEXT)
OPTION = st.sampled_from([*cache.OPTIONS, "-v", "-it", "-ite", "--rm", "--env-file", "--set-envs", "--names"])
WORD = st.one_of(OPTION, VARIABLE, TEXT, NAMES, st.sampled_from(["--", "---", "-eA=1", "-e=A=1", "--hostname=h", "=", ""]))
WORD = st.one_of(WORD, st.builds("{}={}".format, OPTION, st.one_of(VARIABLE, TEXT, NAMES)))
LINES = st.lists(WORD, max_size=8).map(lambda words: ["run", *words])


@given(LINES)
def test_both_make_the_same_key(witness: Path, argv: list[str]) -> None:
    for form in (0, 1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("posix.environ", {b"PYRUN_ROOT": b"/r"})
            patch.setattr(sys.modules["__main__"], "launcher", str(witness), raising=False)  # see native/launcher.c
            line = cache.split(argv)
            there = line is not None and form in ((1, 2) if line.arguments else (0,))
            keys = [cache.key_of(line, form, here=here) for here in (False, True)] if line and there else []
            assert native(witness, form, argv) == keys


VALUES = st.sampled_from(["", "1", "--", "-e", "a=b", "\n", "é", "\udcff", "--name", "--rm=true", "web", "web-1", "-web"])
PARTS = ["-it", "--rm", "--name *", "--name=*", "--hostname=*", "--hostname *", "--uuid-file-save *", "--uuid-file-save=/*", "--user -e5"]
PARTS += ["--working-dir A=*", "-ie Z=*", "-eY=*", "-e A=*", "--env B=*", "--set-env *=1", "--set-env=C=*", "--env=D=*", "-e PATH=*"]
PARTS += ["--env=PATH=/*", "-e -x=*", "-e container=*", "-e *", "*"]


@given(st.data())
def test_lines_of_one_key_ask_for_the_same(data: st.DataObject) -> None:
    """But for the arguments of the app and the values of its variables; where one cannot be parsed, none can."""
    parts = data.draw(st.permutations([*data.draw(st.lists(st.sampled_from(PARTS), max_size=5, unique=True)), "IMAGE"]))
    pattern = ["run", *" ".join(parts).split(" ")]
    lines = [[word.replace("*", data.draw(VALUES)) for word in pattern] for _ in range(2)]
    for line in lines if data.draw(st.booleans()) else []:
        line += ["--", *data.draw(st.lists(VALUES, min_size=1, max_size=3))]
    split = [cache.split(line) for line in lines]
    if not split[0] or not split[1] or cache.key_of(split[0], 1, here=True) != cache.key_of(split[1], 1, here=True):
        return
    asked: list[Args | None] = []
    for line in lines:
        try:
            asked.append(parse(line))
        except UsageError:
            asked.append(None)
    one, other = asked
    if one is None or other is None:
        assert one is other
        return
    exchanged = [text.partition("=")[0] for text in split[0].variables]
    assert list(one.set_env) == list(other.set_env)
    for args, seen in ((one, split[0]), (other, split[1])):
        assert (args.argv, args.hostname or "", args.uuid_file_save or "") == (seen.arguments, seen.host_name, seen.uuid_file)
        assert seen.app < 0 if args.name is None else seen.variables[seen.app] == f"AC_APP_NAME={args.name}"
        args.name = args.hostname = args.uuid_file_save = None
        args.argv, args.set_env = [], {name: "" if name in exchanged else value for name, value in args.set_env.items()}
    assert one.__dict__ == other.__dict__


def test_the_options_for_variables_are_those_of_the_table() -> None:
    rows = {option[0].split()[0]: tuple(option[0].split()) for option in VERBS["run"][2]}
    assert rows["--set-env"] == cache.VARIABLE
    assert cache.OPTIONS[3:] == (*rows["--name"], *rows["--hostname"], *rows["--uuid-file-save"])


def test_no_option_takes_the_name_of_one_or_the_end_of_options_for_its_value() -> None:
    """What makes it possible to tell without parsing."""
    for option in OPTIONS:
        for name in option[0].split() if option[2] != "flag" else ():
            for value in (*cache.OPTIONS, *[f"{one}=1" for one in cache.OPTIONS], "--", "---"):
                with pytest.raises(UsageError):
                    parse(["run", name, value, "IMAGE"])


@pytest.mark.parametrize("form", [1, 2])
def test_both_put_the_same_into_a_plan(witness: Path, form: int) -> None:
    block = ops.encode(run_plan(config("/app", "own", env=("A=", "PATH=/bin", "B=x", "C="))))
    given = ["first", "", "a\nb", "\udcff", "--"]
    line = ["run", "-e", "A=new", "--env", "container=x", "IMAGE", "--set-env=C=", "--", *given]
    places = [0, 0xFFFFFFFF, 3]
    data = struct.pack("=128I", len(places), 0, *places, *[0] * (126 - len(places))) + bytes(512) + block
    *_, plan = native(witness, form, line, data)
    assert plan == ops.fill(block, given[form - 1 :], {0: "A=new", 3: "C="})
    decoded = ops.decode(plan)
    found = [(one[3], one[4]) for one in decoded.ops if one[0] == ops.EXEC]
    env = ["A=new", "PATH=/bin", "B=x", "C="]
    assert found == [(["/app", "own", *given[form - 1 :]], env), (["/before", "it"], env)]
    assert ops.notes(plan)[-1][3:5] == (["/before", "it"], env)


def with_patches(block: bytes, *patches: tuple[int, int, int], strings: bytes = b"\0head\0tail\0") -> bytes:
    head = struct.pack("=128I", 0, len(patches), *[0] * 126)
    return head + b"".join(struct.pack("=3I", *one) for one in patches).ljust(96, b"\0") + strings.ljust(416, b"\0") + block


def test_a_host_name_is_put_where_the_patches_say(witness: Path) -> None:
    made = config("/app")
    made.hosts = "127.0.1.1\told\n"
    block = ops.encode(run_plan(made))
    codes = [one[0] for one in ops.notes(block)]
    patches = [(ops.S1 + ops.SIZE * codes.index(ops.HOSTNAME), 0, 0), (ops.S2 + ops.SIZE * codes.index(ops.WRITE), 1, 6)]
    *_, plan = native(witness, 0, ["run", "--hostname", "new", "IMAGE"], with_patches(block, *patches))
    (name,) = [one[3] for one in ops.notes(plan) if one[0] == ops.HOSTNAME]
    (text,) = [one[4] for one in ops.decode(plan).ops if one[0] == ops.WRITE]
    assert (name, text) == ("new", "headnewtail")


@pytest.mark.parametrize(
    "patch", [(0, 0, 0), (60, 0, 0), (66, 0, 0), (1 << 20, 0, 0), (0xFFFFFFFC, 0, 0), (72, 416, 0), (72, 0, 0xFFFFFFFF)]
)
def test_a_patch_elsewhere_is_not_followed(witness: Path, patch: tuple[int, int, int]) -> None:
    block = ops.encode(run_plan(config("/app")))
    line = ["run", "--hostname=new", "IMAGE"]
    assert len(native(witness, 0, line, with_patches(block, (72, 0, 0)))) == 3
    assert native(witness, 0, line, with_patches(block, patch)) == []


@pytest.mark.parametrize("count", [16382, 16383, 100_000])
def test_more_arguments_than_a_plan_holds_are_for_python(witness: Path, count: int) -> None:
    data = bytes(1024) + ops.encode(run_plan(config("/app", "own")))
    found = native(witness, 1, ["run", "IMAGE", "--", *["x"] * count], data)
    assert len(found) == (3 if count == 16382 else 0)


@pytest.mark.parametrize("damage", [8, 12, 16, 20])
def test_a_damaged_plan_is_not_followed(witness: Path, damage: int) -> None:
    block = bytearray(ops.encode(run_plan(config("/app", "own"))))
    block[damage : damage + 4] = b"\xff\xff\xff\x7f"
    assert len(native(witness, 1, ["run", "IMAGE", "--", "x"], bytes(1024) + bytes(block))) == 0
