"""Sources -> code objects without what nobody looks at in a start: docstrings, annotations, imports for type checkers.

Functions that a start does not call are taken out, into a second code object for all of the module, its piece, which `pyrun.cli.bundle`
reads when one of them is called after all; and so are whole modules of which a start uses nothing.  Cold.
"""

from __future__ import annotations
import __future__

import ast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from types import CodeType

    Stripped = tuple[str, CodeType | None, tuple[str, ...], CodeType | None]  # module, code; functions in its piece, and that

__all__ = ["in_order"]

ERRORS = "pyrun.errors"
_PIECE, _ERRORS = "__piece__", "__errors__"  # what makes the stand-in for a method, and that module; in the namespace of each other one
_Function = ast.FunctionDef


def in_order(
    files: dict[str, str], called: Collection[tuple[str, str]] = (), *, whole: Collection[str] = (), later: Collection[str] = ()
) -> list[Stripped]:
    """Return the modules `files`, name -> path, each behind what it imports while it is executed.

    `called` are the functions that stay, as (module, qualified name); the modules `whole` stay as they are, and of those of `later`
    nothing does.
    """
    trees = {name: _Strip().visit(ast.parse(_read(file))) for name, file in files.items()}
    found: dict[str, Stripped] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in trees:
            return
        seen.add(name)
        visit(name.rpartition(".")[0])
        tree, file = trees[name], files[name]
        for needed in _imports(tree):
            visit(needed)
        if name in whole:
            found[name] = name, _compile(tree, file), (), None
            return
        if ERRORS in later and name != ERRORS:
            _look_up_errors(tree)
        if name in later:
            found[name] = name, None, (), _compile(tree, file)
            return
        out = _take_out(tree, {one for module, one in called if module == name})
        piece = _compile(ast.Module(list(out), []), file) if out else None
        found[name] = name, _compile(tree, file), tuple(one.name for one in out if "." not in one.name), piece

    for name in trees:
        visit(name)
    return list(found.values())


def _look_up_errors(tree: ast.Module) -> None:
    """Let a module look its errors up when it needs one: there are many, and to make them takes longer than many a module."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == ERRORS]
    names = {alias.asname or alias.name: alias.name for node in imports for alias in node.names}
    tree.body = [node for node in tree.body if node not in imports] or [ast.Pass()]
    _LookUp(names).visit(tree)


class _LookUp(ast.NodeTransformer):
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.names:
            return node
        return ast.copy_location(ast.Attribute(ast.Name(_ERRORS, ast.Load()), self.names[node.id], ast.Load()), node)


def _compile(tree: ast.Module, file: str) -> CodeType:
    tree = _lines_only(ast.fix_missing_locations(tree))
    code: CodeType = compile(tree, file, "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
    return code


def _take_out(tree: ast.Module, called: Collection[str]) -> list[_Function]:
    """Take the functions that are not `called` out of a module, and return them; methods as CLASS.NAME."""
    called = {*called, *[name for node in tree.body if not isinstance(node, _Function) for name in _names(node)]}
    out = [node for node in tree.body if isinstance(node, _Function) and node.name not in called and _is_plain(node)]
    tree.body = [node for node in tree.body if node not in out] or [ast.Pass()]
    for parent in tree.body:
        for place, node in enumerate(parent.body if isinstance(parent, ast.ClassDef) else ()):
            assert isinstance(parent, ast.ClassDef)
            if isinstance(node, _Function) and f"{parent.name}.{node.name}" not in called and _is_plain(node):
                call = ast.Call(ast.Name(_PIECE, ast.Load()), [ast.Constant(f"{parent.name}.{node.name}")], [])
                parent.body[place] = ast.copy_location(ast.Assign([ast.Name(node.name, ast.Store())], call), node)
                node.name = f"{parent.name}.{node.name}"
                out.append(node)
    return out


def _names(node: ast.stmt) -> set[str]:
    """The names that a statement of a module uses itself, and not when a function is called later."""
    if isinstance(node, ast.ClassDef):
        parts = [*node.bases, *node.decorator_list, *[one for one in node.body if not isinstance(one, _Function)]]
        return {one.id for part in parts for one in ast.walk(part) if isinstance(one, ast.Name)}
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _is_plain(function: _Function) -> bool:
    """Whether it does not matter when, and in which scope, it is defined."""
    inside = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    inside |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
    if inside & {"super", "__class__"} or [name for name in inside if name[:2] == "__" and name[-2:] != "__"]:
        return False  # in a class they mean something else
    if function.decorator_list or function.name[:2] == "__":
        return False
    return all(one is None or _is_constant(one) for one in (*function.args.defaults, *function.args.kw_defaults))


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node.operand if isinstance(node, ast.UnaryOp) else node, ast.Constant)


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
