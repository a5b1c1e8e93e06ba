"""Hashes of code that ignore comments, docstrings and layout: what can change a result changes them, nothing else."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kit.offline.errors import RecipeError


def code_hash(path: Path, without: Iterable[str] = (), only: str | None = None) -> str:
    """SHA-256 of a Python file's code, less the functions named in `without`.

    only: of that one function or method, with all it mentions in the file, directly or not; "" where it is not there.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if only is None:
        return _digest(_Without(without).visit(tree))
    needed = _needed(tree, only)
    return _digest(ast.Module(body=needed, type_ignores=[])) if needed else ""


def function_hash(function: Callable[..., Any]) -> str:
    """SHA-256 of a function's code, of what it mentions in its file and of the values that it carries.

    Those are what it closes over, the arguments of a functools.partial, and the attributes of an object that is called.
    Raises RecipeError for a value that looks otherwise in each process.
    """
    settings = _settings(function, ())
    return hashlib.sha256(json.dumps([_code_of(function), *([settings] if settings else [])]).encode()).hexdigest()


def _settings(value: Any, within: tuple[int, ...]) -> dict[str, Any]:
    """The values that something callable carries, by name, plain."""
    if isinstance(value, functools.partial):
        carried = {"func": value.func, "args": value.args, **value.keywords}
    elif inspect.ismethod(value):
        carried = {"self": value.__self__, "func": value.__func__}
    elif inspect.isfunction(value):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        carried = {name: cell.cell_contents for name, cell in cells}
    else:
        carried = {} if isinstance(value, type) else dict(getattr(value, "__dict__", {}))
    return {name: _plain(item, (*within, id(value))) for name, item in carried.items()}


def _plain(value: Any, within: tuple[int, ...]) -> Any:
    """A value in JSON, the same in each process. within: what holds it, for values that hold themselves."""
    if id(value) in within:
        return "itself"
    if isinstance(value, Mapping):
        return [[_plain(key, within), _plain(item, within)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item, within) for item in value]
    if isinstance(value, set | frozenset):  # whose order differs from process to process
        return sorted(json.dumps(_plain(item, within)) for item in value)
    if isinstance(value, ModuleType):
        return value.__name__
    if hasattr(value, "__array__") and not isinstance(value, type):  # whose text leaves out most of it
        array = np.asarray(value)
        content = (
            hashlib.sha256(array.tobytes()).hexdigest() if array.dtype != object else _plain(array.tolist(), within)
        )
        return [str(array.dtype), list(array.shape), content]
    if callable(value) or hasattr(value, "__dict__"):
        return [_code_of(value), _settings(value, within)]
    if re.search(r" at 0x[0-9a-fA-F]+", repr(value)):
        raise RecipeError(
            "functions of a recipe that carry plain values, functions or objects of them", repr(value), "make it inside"
        )
    return repr(value)


def _code_of(value: Any) -> str:
    """A hash of the code of a function, or of an object's class; its name where there is no source."""
    if isinstance(value, functools.partial):
        return "partial"
    made = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    outer, _, inner = made.__qualname__.partition(".<locals>.")
    try:
        found = code_hash(Path(inspect.getsourcefile(made) or ""), only=outer.rpartition(".")[2])
        if found and not inner:
            return found
        # What is defined in a function hangs on all that this one mentions; a lambda has no name to be found by.
        return found + hashlib.sha256(inspect.getsource(made).encode()).hexdigest()
    except (OSError, TypeError):
        return f"{made.__module__}.{made.__qualname__}"


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """The statements of a module and its classes that bind `name`, and those that bind what they mention, in order."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    scope = [*tree.body, *(statement for node in classes for statement in node.body)]
    binding: dict[str, list[ast.stmt]] = {}
    for statement in scope:
        for bound in _bound(statement):
            binding.setdefault(bound, []).append(statement)
    wanted, seen, needed = [name], {name}, set[int]()
    while wanted:
        for statement in binding.get(wanted.pop(), []):
            needed.add(id(statement))
            fresh = set(_mentioned(statement)) - seen
            seen |= fresh
            wanted += fresh
    return [statement for statement in scope if id(statement) in needed]


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in statement.names)
    else:
        stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
        yield from (node.id for node in stored if isinstance(node.ctx, ast.Store))


def _mentioned(statement: ast.stmt) -> Iterator[str]:
    """Every name and every attribute: `self.width` mentions what the class binds as `width`."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _digest(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and _is_docstring(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(repr(_outline(tree)).encode()).hexdigest()


def _outline(part: Any) -> Any:
    """A tree as lists of text, the same on every Python.

    `ast.unparse` is not: it quotes otherwise in 3.12 than in 3.11. Nodes are not quite: they gain fields, which stay
    empty in older code, and 3.12 ends formats with an empty text.
    """
    if isinstance(part, ast.Constant):
        return ["Constant", ascii(part.value)]
    if isinstance(part, ast.JoinedStr):
        return ["JoinedStr", [_outline(one) for one in part.values if getattr(one, "value", None) != ""]]
    if isinstance(part, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(part) if value is not None and value != []]
        return [type(part).__name__, *([name, _outline(value)] for name, value in fields)]
    return [_outline(one) for one in part] if isinstance(part, list) else ascii(part)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class _Without(ast.NodeTransformer):
    def __init__(self, names: Iterable[str]):
        self.names = set(names)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return None if node.name in self.names else self.generic_visit(node)
