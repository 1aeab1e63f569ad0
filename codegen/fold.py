"""Numbers of a class put in the place of its attributes, and what can be computed from them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

from .trees import constant

WHOLE = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod}


def folded(tree: Any, values: Mapping[str, Any]) -> Any:
    """The tree with `self.name` replaced by its value, and whole-number arithmetic of literals done. In place."""
    for field, old in ast.iter_fields(tree):
        if isinstance(old, ast.AST):
            setattr(tree, field, _folded(old, values))
        elif isinstance(old, list):
            setattr(tree, field, [_folded(o, values) if isinstance(o, ast.AST) else o for o in old])
    return tree


def _folded(node: Any, values: Mapping[str, Any]) -> Any:
    mine = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    if mine and node.attr in values and not isinstance(getattr(node, "ctx", None), ast.Store):
        return constant(values[node.attr])
    node = folded(node, values)
    if isinstance(node, ast.JoinedStr):
        node.values = _joined(node.values)
    if isinstance(node, ast.BinOp) and type(node.op) in WHOLE:
        left, right = whole(node.left), whole(node.right)
        if left is not None and right is not None and not (right == 0 and isinstance(node.op, (ast.FloorDiv, ast.Mod))):
            return constant(WHOLE[type(node.op)](left, right))
    return node


def whole(node: Any) -> int | None:
    """The value of a literal whole number."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = whole(node.operand)
        return None if inner is None else -inner
    return node.value if isinstance(node, ast.Constant) and type(node.value) is int else None


def _joined(parts: list[Any]) -> list[Any]:
    """Literals inside an f-string are part of its text."""
    made: list[Any] = []
    for part in parts:
        if (
            isinstance(part, ast.FormattedValue)
            and isinstance(part.value, ast.Constant)
            and part.format_spec is None
            and part.conversion == -1
        ):
            part = ast.Constant(value=str(part.value.value))
        if isinstance(part, ast.Constant) and made and isinstance(made[-1], ast.Constant):
            made[-1] = ast.Constant(value=made[-1].value + part.value)
        else:
            made.append(part)
    return made
