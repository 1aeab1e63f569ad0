"""The source of modules as syntax trees: where a global name comes from, and the comments that stand beside statements."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from .ir import Import

Key = tuple[str, str]
"""A global: the module that defines it and its name there."""

PRAGMAS = ("# type:", "# noqa", "# fmt:", "# pragma", "# pylint", "# mypy", "# ruff")
OWN = ("vlmgraph",)


class NoSource(Exception):
    """A class or function whose source cannot be had."""


class Foreign(Exception):
    """Source that needs a package other than torch."""

    def __init__(self, module: str, line: int, package: str) -> None:
        self.module, self.line, self.package = module, line, package
        super().__init__(f"{module}, line {line}, imports {package}")


@dataclass(frozen=True)
class Parsed:
    """A module's tree, its lines and what its top level binds."""

    name: str
    tree: ast.Module
    lines: tuple[str, ...]
    names: dict[str, Any]


@cache
def parsed(name: str) -> Parsed:
    """Raises NoSource."""
    module = sys.modules.get(name) or importlib.import_module(name)
    try:
        text = inspect.getsource(module)
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError) as error:
        raise NoSource(name) from error
    names: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, ast.Assign):
            names.update({t.id: node for t in _targets(node)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            names[node.target.id] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update({alias.asname or alias.name.partition(".")[0]: node for alias in node.names})
    return Parsed(name, tree, tuple(text.splitlines()), names)


def _targets(node: ast.Assign) -> Iterator[ast.Name]:
    for target in node.targets:
        for part in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(part, ast.Name):
                yield part


def package(module: str) -> str:
    return module.partition(".")[0]


def resolve(module: str, name: str) -> Key | Import | None:
    """What a global name of a module means: a definition to copy, an import to write, or (None) a builtin.

    Raises Foreign when it is imported from a package that is neither torch, the standard library nor the module's own or vlmgraph.
    """
    node = parsed(module).names.get(name)
    if node is None:
        return None
    if isinstance(node, ast.Import):
        alias = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
        _allowed(module, node.lineno, alias.name, copied=False)
        return Import(alias.name, "", alias.asname or "")
    if isinstance(node, ast.ImportFrom):
        alias = next(a for a in node.names if (a.asname or a.name) == name)
        source = "." * node.level + (node.module or "")
        if node.level:
            holder = sys.modules[module]
            source = importlib.util.resolve_name(source, holder.__package__ or "")
        if package(source) in (*OWN, package(module)):
            found = sys.modules.get(f"{source}.{alias.name}")
            if found is not None and alias.name not in parsed(source).names:
                raise Foreign(module, node.lineno, f"the module {source}.{alias.name}")
            return resolve(source, alias.name)
        _allowed(module, node.lineno, source, copied=True)
        return Import(source, alias.name, alias.asname or "")
    return module, name


def _allowed(module: str, line: int, source: str, copied: bool) -> None:
    top = package(source)
    if top != "torch" and top not in sys.stdlib_module_names:
        raise Foreign(module, line, top)


def definition(key: Key) -> Any:
    """A fresh copy of the node that defines a global, comments attached."""
    return _commented(key)


def _commented(key: Key) -> Any:
    node = copy.deepcopy(parsed(key[0]).names[key[1]])
    attach(node, key[0])
    return node


def class_node(cls: type) -> ast.ClassDef:
    """Raises NoSource."""
    node = parsed(cls.__module__).names.get(cls.__qualname__)
    if not isinstance(node, ast.ClassDef):
        raise NoSource(f"{cls.__module__}.{cls.__qualname__}")
    return node


def method_node(cls: type, name: str) -> ast.FunctionDef | None:
    """The method that a class itself defines; comments attached, not to be changed."""
    return _methods(cls).get(name)


@cache
def _methods(cls: type) -> dict[str, ast.FunctionDef]:
    found = {n.name: n for n in class_node(cls).body if isinstance(n, ast.FunctionDef)}
    for node in found.values():
        attach(node, cls.__module__)
    return found


def attach(node: Any, module: str) -> None:
    """Give every statement under `node` the comment lines above it (`lead`) and the comment behind it (`trail`)."""
    lines = parsed(module).lines
    for inner in ast.walk(node):
        for field in ("body", "orelse"):
            body = getattr(inner, field, None)
            if not isinstance(body, list) or (inner is not node and isinstance(inner, ast.ClassDef)):
                continue
            for statement in body:
                if isinstance(statement, ast.stmt):
                    statement.lead = _above(lines, statement.lineno - 1)  # type: ignore[attr-defined]
                    statement.trail = _behind(lines, statement)  # type: ignore[attr-defined]


def _above(lines: tuple[str, ...], line: int) -> tuple[str, ...]:
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        text = lines[line].strip()
        if not text.startswith(PRAGMAS):
            found.insert(0, text)
    return tuple(found)


def _behind(lines: tuple[str, ...], node: Any) -> str:
    head = getattr(node, "test", None) or getattr(node, "iter", None) if isinstance(node, (ast.If, ast.For, ast.While)) else node
    if head is None or isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.With, ast.Try)):
        return ""
    rest = lines[head.end_lineno - 1].encode()[head.end_col_offset :].decode().lstrip(" ):")
    return rest.strip() if rest.startswith("#") and not rest.startswith(PRAGMAS) else ""


BOUND = (ast.Store, ast.Del)


def bound(function: Any) -> set[str]:
    """Names that a function binds itself: parameters, targets, nested definitions."""
    found = {a.arg for n in ast.walk(function) if isinstance(n, ast.arguments) for a in _all(n)}
    found |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, BOUND)}
    return found | {n.name for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function}


def _all(args: ast.arguments) -> Iterator[ast.arg]:
    yield from (*args.posonlyargs, *args.args, *args.kwonlyargs)
    yield from (a for a in (args.vararg, args.kwarg) if a)


def refer(node: Any, module: str) -> Any:
    """Mark every global name under `node` with what it means there (`target`), so that it can be renamed later. In place."""
    local = bound(node) if isinstance(node, (ast.FunctionDef, ast.Lambda)) else set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id not in local and not hasattr(inner, "target"):
            inner.target = resolve(module, inner.id)  # type: ignore[attr-defined]
    return node
