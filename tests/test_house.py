"""The rules of the house that no linter knows: directions, sizes, the wire format, what the programs look like."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
ROOMS = {"runtime": "pyrun", "images": "pyrun.images", "native": "pyrun.native"}

LIBRARY = {f"pyrun.{name}" for name in "aio aiopool api background calls container doctor loops planning pool result streams".split()}
# Who may import whom: a module imports from its own row and the rows above it.
ROWS = (
    {"pyrun", "pyrun.errors"},
    {"pyrun.native"},
    {"pyrun.images"},
    {"pyrun.host", "pyrun.plan"},
    {"pyrun.engine", "pyrun.net", "pyrun.streams"},
    {"pyrun.pod"},
    {"pyrun.oci", "pyrun.service"} | LIBRARY,
    {"pyrun.cli"},
    {"pyrun.__main__"},
)
FACADE = "pyrun"  # offers names of every row, looked up when they are asked for
FILE_LINES = 400
FUNCTION_LINES = 50
C_FUNCTION_LINES = 60
# event handlers 155, figures 20, OCI plans 70, networks 35, the way to the metadata service 120, memory 16,
# entering without root, and its network, 53, trees of any depth and links that lead nowhere 11, code given back 5,
# the end told to the caller 35, one page of memory 35, children from before 15, waiting without memory 150:
# docs/design/supervisor.md
HELPER_LINES = 3215
KEEPER = {"keeper.c", "keep.h", "keep_run.c", "keep_helper.c", "keep_state.c"}
KEEPER |= {"keep_log.c", "keep_tty.c", "keep_pod.c", "keep_manager.c", "keep_health.c"}
# health 240, service manager 110, few files 15, many clients 35, hang-ups 30, version 1, 20, full disks 10, memory 70,
# starts that are cut off 15, the end told to the caller 25, and to who is attached 10, signals before it waits 5:
# docs/design/supervisor.md
KEEPER_LINES = 1960
VERSION_1_LINES = 50  # of the helper, for hosts with controllers in cgroup version 1: native/version1.c
OOM_LINES = 170  # of the helper, for who was killed for want of memory: native/oom.c
# of the launcher pyrun-oci, 5 to tell a format of logs from what is none, 15 for one that cannot be written, 8 for its own name
OCI_VERBS_LINES = 308
# of the launcher pyrun-oci, for containers like earlier ones: native/again*; 10 for who finds controllers to be enabled, 45 for the file
# `status` that crun has
AGAIN_LINES = 1215
# of the helper, for containers of other engines, labels and parameters of pods; what links of an image lead to, 40, what the program
# will be allowed to, 40, contexts, 20, devices for user namespaces, which take a mount namespace of their own to make, 50,
# signals before the start, 12, mounts of what was mounted before, 10, ids of those in user namespaces, 60,
# roots in the host's mount namespace, 28, groups of version 1, 5, mounts on the root and on running containers, 21: native/oci_*.c
OCI_LINES = 1321
LAUNCHER = {
    "launcher.c",
    "fast.c",
    "fast.h",
    "decide.c",
    "kept.c",
    "words.c",
    "words.h",
    "quick.c",
    "list.c",
    "list.h",
    "list_scan.c",
    "list_text.c",
}
LAUNCHER |= {
    "prepared.c",
    "prepared.h",
    "asked.c",
    "owners.h",
    "lines.c",
    "say.c",
    "say.h",
    "refuse.c",
    "refuse.h",
    "which.c",
    "joined.c",
    "net_script.c",
    "net_script.h",
    "net_text.c",
    "net_take.c",
    "net_names.c",
    "net_ready.c",
    "net_plugin.c",
    "net_plugin.h",
    "net_result.c",
    "net_address.c",
    "net_user.c",
    "net_relay.c",
    "net_undo.c",
    "net_clear.c",
    "users.c",
    "live.c",
    "live.h",
    "place.c",
    "scope.c",
}
NOT_HELPER = {"binding.c", "recipe.c", "recipe.h", "handover.c", "handover.h", "pod.c", "pod.h", "park.c", *LAUNCHER, *KEEPER}
NOT_HELPER |= {"version1.c", "oom.c"}


def module_name(path: Path) -> str:
    """The dotted name of a source file: images/trust/gpg.py is pyrun.images.trust.gpg."""
    parts = list(path.relative_to(TOP).with_suffix("").parts)
    parts[0] = ROOMS[parts[0]]
    return ".".join(parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    paths = [path for room in ROOMS for path in sorted((TOP / room).rglob("*.py"))]
    return {module_name(path): ast.parse(path.read_text(), str(path)) for path in paths}


def python_files() -> list[Path]:
    folders = [*ROOMS, "tests", "tools", "bench", "examples"]
    return [TOP / "setup.py", *(path for folder in folders for path in sorted((TOP / folder).rglob("*.py")))]


def c_files() -> list[Path]:
    return [*sorted((TOP / "native").rglob("*.[ch]")), *sorted((TOP / "tests").rglob("*.c"))]


def row(name: str) -> int:
    while name:
        for number, members in enumerate(ROWS):
            if name in members:
                return number
        name = name.rpartition(".")[0]
    raise AssertionError(f"{name} has no row")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, *, only_at_start: bool = False) -> Iterator[str]:
    """The modules of the package that this one imports; `only_at_start` leaves out imports in functions and for types."""
    for node in ast.iter_child_nodes(tree):
        if only_at_start and (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "pyrun")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyrun":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules() else node.module or ""
        else:
            yield from imports(node, only_at_start=only_at_start)


def test_imports_point_one_way() -> None:
    wrong = {
        f"{name} imports {other}"
        for name, tree in modules().items()
        for other in imports(tree)
        if name != FACADE and other in modules() and row(other) > row(name)
    }
    assert not wrong


def test_imports_have_no_cycle() -> None:
    graph = {name: {other for other in imports(tree, only_at_start=True) if other != name} for name, tree in modules().items()}
    while ready := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in ready:
            del graph[name]
    assert not graph, "these modules import each other, or one that does"


def test_every_import_names_a_module() -> None:
    missing = {f"{name}: {other}" for name, tree in modules().items() for other in imports(tree) if other not in modules()}
    assert missing <= {f"{name}: pyrun.native.{extension}" for name in modules() for extension in ("_native", "_seccomp", "_unpack")}


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(TOP))) for path in [*python_files(), *c_files()]])
def test_files_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES


def test_functions_stay_short() -> None:
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES:
                long.append(f"{path.relative_to(TOP)}:{node.lineno} {node.name}")
    assert not long


def test_c_functions_stay_short() -> None:
    long = []
    for path in c_files():
        start = 0
        for number, line in enumerate(path.read_text().splitlines(), 1):
            start = number if line == "{" else start
            if line == "}" and number - start > C_FUNCTION_LINES:
                long.append(f"{path.relative_to(TOP)}:{start}")
    assert not long


def code_lines(path: Path) -> list[str]:
    """Lines of a C file that hold code: what is explained or set apart does not make a program larger."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
    return [line for line in text.splitlines() if line.strip()]


def test_helper_stays_small() -> None:
    others = ("oci_", "again", "relay")
    sources = [path for path in (TOP / "native").glob("*.[ch]") if path.name not in NOT_HELPER and not path.name.startswith(others)]
    assert sum(len(code_lines(path)) for path in sources) < HELPER_LINES


def test_part_for_version_1_stays_small() -> None:
    assert len(code_lines(TOP / "native" / "version1.c")) < VERSION_1_LINES


def test_part_for_kills_stays_small() -> None:
    assert len(code_lines(TOP / "native" / "oom.c")) < OOM_LINES


def test_oci_part_of_the_helper_stays_small() -> None:
    native = TOP / "native"
    verbs = list(native.glob("oci_verbs.[ch]"))
    launcher = {*verbs, *exec_sources()}
    assert sum(len(code_lines(path)) for path in native.glob("oci_*.[ch]") if path not in launcher) < OCI_LINES
    assert sum(len(code_lines(path)) for path in verbs) < OCI_VERBS_LINES


def test_containers_like_earlier_ones_stay_simple() -> None:
    assert sum(len(code_lines(path)) for path in (TOP / "native").glob("again*.[ch]")) < AGAIN_LINES


def exec_sources() -> list[Path]:
    return [*(TOP / "native").glob("oci_exec*.[ch]"), *(TOP / "native").glob("oci_json.[ch]")]


def test_exec_of_the_launcher_stays_small() -> None:
    """docs/design/oci-exec.md."""
    assert sum(len(code_lines(path)) for path in exec_sources()) < 1200  # where home is, 70


def test_keeper_stays_smaller() -> None:
    assert sum(len(code_lines(TOP / "native" / name)) for name in KEEPER) < KEEPER_LINES


def test_relay_stays_small() -> None:
    """From [::1] 440, ports of users' pods 95: docs/design/networking.md."""
    assert sum(len(code_lines(path)) for path in (TOP / "native").glob("relay*.[ch]")) < 560


def test_public_things_have_docstrings() -> None:
    bare = []
    for name, tree in modules().items():
        bare += [] if ast.get_docstring(tree) else [name]
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                bare += [] if ast.get_docstring(node) else [f"{name}.{node.name}"]
    assert not bare


def test_dunder_all_is_sorted_and_true() -> None:
    for name, tree in modules().items():
        names = [
            ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if not names:
            continue
        assert names[0] == sorted(names[0], key=str), name
        module = __import__(name, fromlist=["*"])
        assert [exported for exported in names[0] if not hasattr(module, exported)] == [], name


def test_the_librarys_keywords_are_the_options() -> None:
    """A new option of `Options` wants its type in `pyrun.pod.keywords`."""
    from pyrun.pod.keywords import Keywords
    from pyrun.pod.options import Options

    own = {"root", "argv", "interactive", "tty"}
    assert list(Keywords.__annotations__) == sorted(Options("/").__dict__.keys() - own)


def called(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_module_extracts_or_removes_trees_the_easy_way() -> None:
    forbidden = {"dataclasses", "tarfile", "shutil.rmtree", "shutil.unpack_archive"}
    assert {name: both for name, tree in modules().items() if (both := forbidden & (imported(tree) | called(tree)))} == {}


def test_only_the_command_line_prints_and_exits() -> None:
    forbidden = {"print", "sys.exit", "exit", "quit", "logging.getLogger", "warnings.warn"}
    library = {name: tree for name, tree in modules().items() if row(name) < row("pyrun.cli") and not name.endswith("build")}
    assert {name: both for name, tree in library.items() if (both := forbidden & called(tree))} == {}


def test_versions_agree() -> None:
    version = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    literals = re.findall(r'^__version__ = "(.+)"', (TOP / "runtime" / "__init__.py").read_text(), re.M)
    assert literals == [version]
    assert f"## {version}" in (TOP / "CHANGELOG.md").read_text()


def header() -> dict[str, int]:
    """The constants of plan.h by name."""
    text = "".join((TOP / "native" / name).read_text() for name in ("plan.h", "oci_plan.h"))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    found = re.findall(r"^#define (\w+) (\w+)\s*$", text, re.M) + re.findall(r"^\s*(\w+) = (\w+),?\s*$", text, re.M)
    return {name: int(value, 0) for name, value in found}


def test_python_and_c_agree_on_the_wire() -> None:
    from pyrun.native import _native
    from pyrun.plan import ops

    for name, value in header().items():
        assert getattr(_native.lib, name) == value
        for prefix in ("OP_", "OPF_", "PLAN_HAS_"):
            if name.startswith(prefix) and name not in ("OP_NONE", "OP_LAST"):
                assert getattr(ops, name.removeprefix("OPF_").removeprefix("OP_").removeprefix("PLAN_")) == value, name
    assert header()["PLAN_MAGIC"] == ops.MAGIC
    assert header()["PLAN_VERSION"] == ops.VERSION
    assert _native.ffi.sizeof("struct plan_op") == 32
    assert _native.ffi.sizeof("struct plan_header") == 64


def test_every_operation_is_numbered_once() -> None:
    codes = {name: value for name, value in header().items() if name.startswith("OP_") and name != "OP_LAST"}
    assert sorted(codes.values()) == list(range(header()["OP_LAST"] + 1))


def readelf(program: Path, *flags: str) -> str:
    return subprocess.run(["readelf", "-W", *flags, program], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("program", ["native/helper", "native/keeper", "native/park", ".venv/bin/pyrun", ".venv/bin/pyrun-oci"])
def test_native_programs_are_hardened(program: str) -> None:
    path = TOP / program
    assert "Type:                              DYN" in readelf(path, "-h"), "position independent"
    segments = readelf(path, "-l")
    assert "INTERP" not in segments, "static"
    assert "GNU_RELRO" in segments
    assert re.search(r"GNU_STACK .* RW +0x", segments), "stack not executable"
    assert not re.search(r"LOAD .* RWE ", segments), "nothing writable and executable"
    dynamic = readelf(path, "-d")
    assert "(NEEDED)" not in dynamic, "no library"
    assert "NOW" in dynamic and "PIE" in dynamic
    assert "no relocations" in readelf(path, "-r"), "nobody relocates a program without libc"
    assert path.stat().st_mode & 0o7777 == 0o755, "executable, not setuid"


def test_helper_starts_without_memory_of_its_own() -> None:
    """Each start pays for what exec maps and for each page that is touched.  A variable with an initial value that is not zero
    would be a page copied from the file: the kernel zeroes what is behind it."""
    helper = TOP / "native" / "helper"
    assert helper.stat().st_size < 64 * 1024
    assert len(re.findall(r" LOAD ", readelf(helper, "-l"))) == 2
    assert not re.search(r" \.data +PROGBITS", readelf(helper, "-S")), "initialised variables: set them at run time"
