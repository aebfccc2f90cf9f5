"""Sources -> code objects without what nobody looks at in a start: docstrings, annotations, imports for type checkers.  Cold."""

from __future__ import annotations
import __future__

import ast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

__all__ = ["in_order"]


def in_order(files: dict[str, str]) -> list[tuple[str, CodeType]]:
    """Return (name, code) for the modules `files`, name -> path, each behind what it imports while it is executed."""
    trees = {name: _Strip().visit(ast.parse(_read(file))) for name, file in files.items()}
    found: dict[str, CodeType] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in trees:
            return
        seen.add(name)
        visit(name.rpartition(".")[0])
        for needed in _imports(trees[name]):
            visit(needed)
        tree = _lines_only(ast.fix_missing_locations(trees[name]))
        found[name] = compile(tree, files[name], "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)

    for name in trees:
        visit(name)
    return list(found.items())


def _lines_only(tree: ast.Module) -> ast.Module:
    """Without columns, which are a fifth of what the interpreter would have to read."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.expr, ast.stmt, ast.excepthandler, ast.arg, ast.keyword, ast.alias)):
            node.col_offset = node.end_col_offset = -1
            node.end_lineno = node.lineno
    return tree


def _read(file: str) -> bytes:
    with open(file, "rb") as source:
        return source.read()


def _imports(tree: ast.Module) -> list[str]:
    """What the module's own statements import: modules, and names that may be modules."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
    return found


class _Strip(ast.NodeTransformer):
    """Behaviour and line numbers stay."""

    def _body(self, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            del node.body[0]
        node.body = [one for one in node.body if not _is_idle(one)] or [ast.Pass()]
        return node

    visit_Module = visit_ClassDef = _body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._body(node)
        node.returns = None
        arguments = node.args
        for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
            if one is not None:
                one.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _is_idle(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse
