"""Short ways to write syntax trees."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Mapping
from typing import Any


class NotLiteral(Exception):
    """A value that cannot be written as a literal."""


def name(text: str) -> ast.Name:
    assert text.isidentifier() and not keyword.iskeyword(text), text
    return ast.Name(id=text, ctx=ast.Load())


def attribute(value: Any, attr: str) -> Any:
    """`value.attr`, whatever the attribute is called."""
    if not attr.isidentifier() or keyword.iskeyword(attr):
        return call(name("getattr"), value, constant(attr))
    return ast.Attribute(value=value, attr=attr, ctx=ast.Load())


def dotted(text: str) -> Any:
    first, *rest = text.split(".")
    made: Any = name(first)
    for part in rest:
        made = attribute(made, part)
    return made


def call(function: Any, *args: Any, **keywords: Any) -> ast.Call:
    return ast.Call(func=function, args=list(args), keywords=[ast.keyword(arg=k, value=v) for k, v in keywords.items()])


def item(value: Any, index: Any) -> ast.Subscript:
    return ast.Subscript(value=value, slice=index, ctx=ast.Load())


def assign(target: str, value: Any) -> ast.Assign:
    return ast.Assign(targets=[name(target)], value=value)


def not_none(value: Any, given: bool = True) -> ast.Compare:
    return ast.Compare(left=value, ops=[ast.IsNot() if given else ast.Is()], comparators=[ast.Constant(value=None)])


def constant(value: Any) -> Any:
    """A value as a literal: None, booleans, numbers, strings, and tuples, lists and dicts of them. Raises NotLiteral."""
    if value is None or value is Ellipsis or type(value) in (bool, str):
        return ast.Constant(value=value)
    if type(value) in (int, float):
        if value < 0:
            return ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=-value))
        return ast.Constant(value=value)
    if type(value) is tuple:
        return ast.Tuple(elts=[constant(v) for v in value])
    if type(value) is list:
        return ast.List(elts=[constant(v) for v in value])
    if isinstance(value, Mapping):
        return ast.Dict(keys=[constant(k) for k in value], values=[constant(v) for v in value.values()])
    text = str(value)
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype" and text.startswith("torch."):
        return dotted(text)
    if isinstance(value, tuple):  # torch.Size and named tuples
        return ast.Tuple(elts=[constant(v) for v in value])
    raise NotLiteral(f"{type(value).__name__} {text[:60]}")


def literal(value: Any) -> bool:
    try:
        constant(value)
    except NotLiteral:
        return False
    return True
