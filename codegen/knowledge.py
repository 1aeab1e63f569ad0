"""What is known of values: samples, tests for None, whether two may stand for one another."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import torch

from .abstract import (
    UNKNOWN,
    Dynamic,
    Known,
    Over,
    Seq,
    Table,
    Value,
)  # fmt: skip
from .stand import Stand, Standing


def attempted(function: Callable[[], Any]) -> Any:
    """A result made of stand-ins, UNKNOWN where there is none."""
    try:
        with Standing():
            return function()
    except Exception:  # whatever an operation on stand-ins raises, its result is not known
        return UNKNOWN


def facts(test: Any, truth: bool) -> list[tuple[str, bool]]:
    """What the outcome of a test says of variables: (name, whether it is None)."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And if truth else ast.Or):
        return [f for part in test.values for f in facts(part, truth)]
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return facts(test.operand, not truth)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.left, ast.Name):
        right = test.comparators[0]
        if isinstance(right, ast.Constant) and right.value is None and isinstance(test.ops[0], (ast.Is, ast.IsNot)):
            return [(test.left.id, isinstance(test.ops[0], ast.Is) == truth)]
    return []


def negated(tree: Any) -> Any:
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
        other = {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}.get(type(tree.ops[0]))
        if other is not None:
            return ast.Compare(left=tree.left, ops=[other()], comparators=tree.comparators)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return tree.operand
    return ast.UnaryOp(op=ast.Not(), operand=tree)


def is_whole(value: Dynamic) -> bool:
    """Whether a value is made of whole numbers, so that adding 0 leaves it as it is."""
    sample = value.sample
    if isinstance(sample, Stand):
        return sample.dtype in (torch.int64, torch.int32) and not value.loose
    return type(sample) is int


def is_loose(*values: Value) -> bool:
    return any(getattr(v, "loose", False) or (isinstance(v, Seq) and is_loose(*v.items)) for v in values)


def may_be_none(value: Value) -> bool:
    return bool(getattr(value, "none", False)) or (isinstance(value, Known) and value.value is None)


def holds_none(value: Value) -> bool:
    """Whether a value may be None, or one that it holds."""
    inner = value.items.values() if isinstance(value, Table) else value.items if isinstance(value, Seq) else ()
    inner = value.elements if isinstance(value, Over) else inner
    return may_be_none(value) or any(getattr(value, "nones", ())) or any(map(holds_none, inner))


def alike(a: Any, b: Any) -> bool:
    """Whether two samples have one rank and one kind of numbers."""
    if isinstance(a, Stand) and isinstance(b, Stand):
        return (a.rank, a.dtype) == (b.rank, b.dtype)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b))
    return type(a) is type(b) and a is not UNKNOWN


def merged(a: Any, b: Any) -> Any:
    """A sample for either of two values."""
    if a is None or b is None:
        return b if a is None else a
    return a if alike(a, b) else UNKNOWN
