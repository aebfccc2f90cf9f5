"""Python and the launcher find the same words of a command line to decide, and put the others into a plan in the same way."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
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
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: `make setup` installs one, and with CI=true a skip fails")
    path = tmp_path_factory.mktemp("words") / "words"
    flags = (TOP / "native/compile_flags.txt").read_text().split()
    sources = [str(TOP / name) for name in ("tests/words.c", "native/words.c", "native/decode.c", "native/start.c")]
    command = [compiler, *flags, "-fcf-protection=none", f"-I{TOP}/native", *LINK, "-o", str(path), *sources]
    subprocess.run(command, check=True, timeout=60)
    return path


def native(witness: Path, form: int, argv: list[str], data: bytes = b"") -> list[bytes]:
    """The key, and the plan if there was one; nothing where the launcher leaves it to Python."""
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
VARIABLE = st.builds("{}={}".format, st.sampled_from(["A", "PATH", "PATHS", "container", "-e", "--env", "", "B C"]), TEXT)
OPTION = st.sampled_from(["-e", "--env", "--set-env", "--name", "-v", "-it", "-ite", "--rm", "--env-file", "--set-envs"])
WORD = st.one_of(OPTION, VARIABLE, TEXT, st.sampled_from(["--", "---", "-eA=1", "-e=A=1", "--hostname=h", "=", ""]))
WORD = st.one_of(WORD, st.builds("{}={}".format, OPTION, st.one_of(VARIABLE, TEXT)))
LINES = st.lists(WORD, max_size=8).map(lambda words: ["run", *words])


def form_of(argv: list[str]) -> list[int]:
    return [1, 2] if cache.split(argv)[2] else [0]


@given(LINES)
def test_both_make_the_same_key(witness: Path, argv: list[str]) -> None:
    for form in (0, 1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("posix.environ", {b"PYRUN_ROOT": b"/r"})
            key = cache.key_of(argv, form)
        assert native(witness, form, argv) == ([key] if form in form_of(argv) else [])


VALUES = st.sampled_from(["", "1", "--", "-e", "a=b", "\n", "é", "\udcff", "--name", "--rm=true"])
PARTS = [
    "-it",
    "--rm",
    "--name *",
    "--hostname=h",
    "--user -e5",
    "--working-dir A=*",
    "-ie Z=*",
    "-eY=*",
    "-e A=*",
    "--env B=*",
    "--set-env *=1",
]
PARTS += ["--set-env=C=*", "--env=D=*", "-e PATH=*", "--env=PATH=/*", "-e -x=*", "-e container=*", "-e *", "*"]


@given(st.data())
def test_lines_of_one_key_ask_for_the_same(data: st.DataObject) -> None:
    """But for the arguments of the app and the values of its variables; where one cannot be parsed, none can."""
    parts = data.draw(st.permutations([*data.draw(st.lists(st.sampled_from(PARTS), max_size=5, unique=True)), "IMAGE"]))
    pattern = ["run", *" ".join(parts).split(" ")]
    lines = [[word.replace("*", data.draw(VALUES)) for word in pattern] for _ in range(2)]
    for line in lines if data.draw(st.booleans()) else []:
        line += ["--", *data.draw(st.lists(VALUES, min_size=1, max_size=3))]
    if cache.key_of(lines[0], 1) != cache.key_of(lines[1], 1):
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
    assert [args.argv for args in asked if args] == [cache.split(line)[2] for line in lines]
    exchanged = [text.partition("=")[0] for text in cache.split(lines[0])[1]]
    assert list(one.set_env) == list(other.set_env)
    for args in (one, other):
        args.argv, args.set_env = [], {name: "" if name in exchanged else value for name, value in args.set_env.items()}
    assert one.__dict__ == other.__dict__


def test_the_options_for_variables_are_those_of_the_table() -> None:
    (row,) = [option for option in VERBS["run"][2] if option[0].startswith("--set-env ")]
    assert tuple(row[0].split()) == cache.VARIABLE


def test_no_option_takes_the_name_of_one_or_the_end_of_options_for_its_value() -> None:
    """What makes it possible to tell without parsing."""
    for option in OPTIONS:
        for name in option[0].split() if option[2] != "flag" else ():
            for value in (*cache.VARIABLE, "--", "---", "--env=A=1", "--set-env=A=1"):
                with pytest.raises(UsageError):
                    parse(["run", name, value, "IMAGE"])


@pytest.mark.parametrize("form", [1, 2])
def test_both_put_the_same_into_a_plan(witness: Path, form: int) -> None:
    block = ops.encode(run_plan(config("/app", "own", env=("A=", "PATH=/bin", "B=x", "C="))))
    given = ["first", "", "a\nb", "\udcff", "--"]
    line = ["run", "-e", "A=new", "--env", "container=x", "IMAGE", "--set-env=C=", "--", *given]
    places = [0, 0xFFFFFFFF, 3]
    data = struct.pack("=128I", len(places), *places, *[0] * (127 - len(places))) + block
    _, plan = native(witness, form, line, data)
    assert plan == ops.fill(block, given[form - 1 :], {0: "A=new", 3: "C="})
    decoded = ops.decode(plan)
    found = [(one[3], one[4]) for one in decoded.ops if one[0] == ops.EXEC]
    env = ["A=new", "PATH=/bin", "B=x", "C="]
    assert found == [(["/app", "own", *given[form - 1 :]], env), (["/before", "it"], env)]
    assert ops.notes(plan)[-1][3:5] == (["/before", "it"], env)


@pytest.mark.parametrize("count", [16382, 16383, 100_000])
def test_more_arguments_than_a_plan_holds_are_for_python(witness: Path, count: int) -> None:
    data = bytes(512) + ops.encode(run_plan(config("/app", "own")))
    found = native(witness, 1, ["run", "IMAGE", "--", *["x"] * count], data)
    assert len(found) == (2 if count == 16382 else 0)


@pytest.mark.parametrize("damage", [8, 12, 16, 20])
def test_a_damaged_plan_is_not_followed(witness: Path, damage: int) -> None:
    block = bytearray(ops.encode(run_plan(config("/app", "own"))))
    block[damage : damage + 4] = b"\xff\xff\xff\x7f"
    assert len(native(witness, 1, ["run", "IMAGE", "--", "x"], bytes(512) + bytes(block))) == 0
