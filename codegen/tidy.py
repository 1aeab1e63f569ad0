"""Small steps that make written statements read as by hand: a variable read once by the next statement is put there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from .units import substituted


def joined_up(body: list[Any]) -> list[Any]:
    """Variables of inlined calls that the next statement reads once are put where they are read."""
    made: list[Any] = []
    for node in body:
        for field in ("body", "orelse"):
            if isinstance(getattr(node, field, None), list):
                setattr(node, field, joined_up(getattr(node, field)))
        previous = made[-1] if made else None
        if (
            previous is not None
            and getattr(previous, "inlined", False)
            and isinstance(previous, ast.Assign)
            and isinstance(previous.targets[0], ast.Name)
            and isinstance(node, (ast.Assign, ast.Return, ast.Expr))
            and not getattr(previous, "lead", ())
        ):
            text = previous.targets[0].id
            value = node.value
            again = isinstance(node, ast.Assign) and any(t == text for target in node.targets for t in target_names(target))
            rest = body[body.index(node) + 1 :]
            later = not again and read_later(rest, text)
            count = sum(1 for n in walk_all(value) if isinstance(n, ast.Name) and n.id == text) if value is not None else 0
            if count == 1 and not later and (again or isinstance(node, ast.Return) or not isinstance(node, ast.Return)):
                node.value = substituted(value, text, previous.value)
                made.pop()
                if getattr(previous, "trail", "") and not getattr(node, "trail", ""):
                    node.trail = previous.trail  # type: ignore[union-attr]
        if previous is not None and returns_at_once(previous, node) and made and made[-1] is previous:
            node.value = previous.value
            made.pop()
            for mark in ("lead", "trail"):
                if getattr(previous, mark, None):
                    setattr(node, mark, getattr(previous, mark))
        made.append(node)
    return made


def returns_at_once(previous: Any, node: Any) -> bool:
    """`x = ...` and then `return x`."""
    if not (isinstance(node, ast.Return) and isinstance(node.value, ast.Name) and isinstance(previous, ast.Assign)):
        return False
    target = previous.targets[0]
    return isinstance(target, ast.Name) and target.id == node.value.id


def read_later(rest: list[Any], text: str) -> bool:
    for statement in rest:
        if isinstance(statement, ast.Assign) and text in {t for target in statement.targets for t in target_names(target)}:
            return any(isinstance(n, ast.Name) and n.id == text for n in walk_all(statement.value))
        if any(isinstance(n, ast.Name) and n.id == text for n in walk_all(statement)):
            return True
    return False


def walk_all(tree: Any) -> Iterator[Any]:
    from .abstract import walk

    return walk(tree)


def target_names(target: Any) -> Iterator[str]:
    for node in ast.walk(target):
        if isinstance(node, ast.Name) and not (isinstance(target, ast.Subscript) and node is not base_of(target)):
            yield node.id


def base_of(target: Any) -> Any:
    while isinstance(target, (ast.Subscript, ast.Attribute)):
        target = target.value
    return target


def target_name(target: Any) -> str:
    found = base_of(target)
    return found.id if isinstance(found, ast.Name) else ""
