"""Shortcuts that archives have broken before stay out of the package (SEC-05)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

FORBIDDEN_MODULES = {"tarfile", "zipfile"}
FORBIDDEN_NAMES = {"rmtree", "unpack_archive", "extractall", "removedirs", "realpath"}
UNPACKING = ("aci", "callfilter", "codec", "confine", "faults", "input", "oci_layer", "parents", "remove", "tar", "unpack", "zstd")


def sources(top: Path) -> list[Path]:
    return [path for room in ("images", "runtime", "native") for path in sorted((top / room).rglob("*.py"))]


def test_sec_05_no_module_unpacks_or_deletes_by_path(top: Path) -> None:
    found = []
    for path in sources(top):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used = node.attr if isinstance(node, ast.Attribute) else ""
            if FORBIDDEN_MODULES & set(names) or (used in FORBIDDEN_NAMES and path.parent.name == "images"):
                found.append(f"{path.name}:{getattr(node, 'lineno', 0)}")
    assert not found


@pytest.mark.parametrize("name", UNPACKING)
def test_sec_05_unpacking_joins_no_paths(top: Path, name: str) -> None:
    """os.path and open() follow links and take strings; here there are descriptors and components."""
    for node in ast.walk(ast.parse((top / "images" / f"{name}.py").read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("os", "path"), node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", node.lineno


BY_PATH = r"\b(open|creat|mkdir|mknod|link|symlink|unlink|rename|chmod|chown|lchown|utimes|setxattr|lsetxattr|stat|lstat|remove|system)\("


def test_sec_05_native_code_creates_by_descriptor_only(top: Path) -> None:
    """What takes a path is not called, but for a descriptor's own in /proc/self/fd, where the kernel has no other way."""
    found = []
    for path in sorted((top / "native" / "untar").glob("*.c")):
        code = re.sub(r"/\*.*?\*/|\"[^\"\n]*\"", "", path.read_text(), flags=re.S)
        found += [f"{path.name}: {match[1]}" for match in re.finditer(BY_PATH, code)]
    assert found == ["tree.c: chown", "tree.c: chmod"]
