"""Hashes of code that ignore comments, docstrings and layout: what changes results changes them, what does not does not."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def code_hash(path: Path, without: Iterable[str] = (), only: str | None = None) -> str:
    """SHA-256 of a Python file's code, less the functions named in `without`; or of the one function `only` ("" where there is none)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if only is not None:
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == only]
        return _digest(ast.Module(body=list(found), type_ignores=[])) if found else ""
    return _digest(_Without(without).visit(tree))


def function_hash(function: Callable[..., Any]) -> str:
    """SHA-256 of a function's own code; of its name where the source is not to be had."""
    try:
        return _digest(ast.parse(textwrap.dedent(inspect.getsource(function))))
    except (OSError, TypeError, SyntaxError):
        return hashlib.sha256(function.__qualname__.encode()).hexdigest()


def _digest(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and body and _is_docstring(body[0]):
            node.body = body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(ast.fix_missing_locations(tree)).encode()).hexdigest()


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class _Without(ast.NodeTransformer):
    def __init__(self, names: Iterable[str]):
        self.names = set(names)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if node.name in self.names else self.generic_visit(node)
