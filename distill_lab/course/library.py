"""What of the library a submission may have while it is graded: single functions, cut out.

A worker gets no module whole, since the functions in it lead to others through their globals. It
gets the source text of the functions that answers may call, and of what these need, and nothing
beside them.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

PACKAGE = "distill_lab"
Sources = dict[str, str]


def home(function: Callable[..., Any]) -> tuple[str, str]:
    """Give the module and the name under which a function of the library is defined."""
    return function.__module__, function.__name__


def split(dotted: str) -> tuple[str, str]:
    """Give the module and the name of a dotted name."""
    module, _, name = dotted.rpartition(".")
    return module, name


def cut_out(wanted: Iterable[tuple[str, str]]) -> Sources:
    """Give, by module, the source text of some of its functions and of all that they need.

    Args:
        wanted: Pairs of a module of the library and a name defined in it.
    """
    needed: dict[str, set[str]] = {}
    left = list(wanted)
    while left:
        module, name = left.pop()
        if name in needed.setdefault(module, set()):
            continue
        needed[module].add(name)
        left += _names_used(module, name)
    return {module: _text(module, names) for module, names in sorted(needed.items())}


def defined(sources: Sources) -> set[tuple[str, str]]:
    """Give the pairs of a module and a name that such sources define."""
    return {
        (module, name)
        for module, source in sources.items()
        for statement in ast.parse(source).body
        for name in _binds(statement)
    }


@cache
def _statements(module: str) -> Mapping[str, ast.stmt]:
    """Give a module's top-level statements by the names they bind."""
    tree = ast.parse(inspect.getsource(import_module(module)))
    return {name: statement for statement in tree.body for name in _binds(statement)}


def _binds(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        aliases = [a.asname or a.name.partition(".")[0] for a in statement.names]
        return [] if getattr(statement, "module", "") == "__future__" else aliases
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return []


def _names_used(module: str, name: str) -> list[tuple[str, str]]:
    """Give what a top-level statement needs of the library, itself aside."""
    statement = _statements(module)[name]
    if isinstance(statement, ast.ImportFrom):
        return _imported(statement, {name})
    nodes = list(ast.walk(_bare(statement)))
    names = {n.id for n in nodes if isinstance(n, ast.Name)}
    found = [(module, other) for other in names if other in _statements(module) and other != name]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found += _imported(node, None)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            whole = _statements(module).get(node.value.id)
            if isinstance(whole, ast.ImportFrom) and whole.module == PACKAGE:
                found.append((f"{PACKAGE}.{node.value.id}", node.attr))
    return found


def _imported(statement: ast.ImportFrom, names: set[str] | None) -> list[tuple[str, str]]:
    """Give what an import takes from the library; ``names``: only those it binds."""
    module = statement.module or ""
    if not module.startswith(f"{PACKAGE}."):  # of the package itself, modules are imported
        return []
    return [
        (module, alias.name)
        for alias in statement.names
        if names is None or (alias.asname or alias.name) in names
    ]


def _bare(statement: ast.stmt) -> ast.stmt:
    """Leave out annotations, which nobody evaluates, and docstrings, which nobody needs."""
    bare: ast.stmt = _Bare().visit(ast.parse(ast.unparse(statement)).body[0])
    return bare


class _Bare(ast.NodeTransformer):
    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        if ast.get_docstring(node) is not None and len(node.body) > 1:
            node.body = node.body[1:]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def _text(module: str, names: set[str]) -> str:
    """Give the source of some names of a module, in the module's order."""
    chosen: dict[int, ast.stmt] = {}
    for name, statement in _statements(module).items():
        if name not in names:
            continue
        kept = _bare(statement)
        if isinstance(statement, ast.Import | ast.ImportFrom):
            assert isinstance(kept, ast.Import | ast.ImportFrom)
            kept.names = [a for a in kept.names if (a.asname or a.name.partition(".")[0]) in names]
        chosen[statement.lineno] = kept
    body = [chosen[line] for line in sorted(chosen)]
    return "\n\n".join(ast.unparse(ast.fix_missing_locations(one)) for one in body) + "\n"
