"""Statements → lines, with the comments that stood beside them in their source."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from .printer import _BINARY, LAMBDA, OR, STEP, WIDTH, Unprintable, arguments, bare_tuple, flat, laid


def block(body: Sequence[Any], indent: int) -> list[str]:
    """The lines of a body; `pass` where it is empty."""
    lines: list[str] = []
    for statement in body:
        pad = " " * indent
        for comment in getattr(statement, "lead", ()):
            lines += [pad + line for line in textwrap.wrap(comment, WIDTH - indent, subsequent_indent="# ")]
        made = one(statement, indent)
        trail = getattr(statement, "trail", "")
        if trail and len(made[0]) + 2 + len(trail) <= WIDTH:
            made[0] += "  " + trail
        elif trail:
            made = [pad + line for line in textwrap.wrap(trail, WIDTH - indent, subsequent_indent="# ")] + made
        lines += made
    return lines or [" " * indent + "pass"]


def one(node: Any, indent: int) -> list[str]:
    """The lines of one statement."""
    pad = " " * indent
    rule = _RULES.get(type(node))
    if rule is not None:
        return rule(node, indent)
    return (pad + simple(node, indent)).split("\n")


def simple(node: Any, indent: int) -> str:
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return "\n".join(docstring(node.value.value, indent)).lstrip()
        return laid(node.value, indent, indent)
    if isinstance(node, ast.Assign):
        head = "".join(f"{bare_tuple(t)} = " for t in node.targets)
        return head + value(node.value, indent, indent + len(head))
    if isinstance(node, ast.AnnAssign):
        head = f"{flat(node.target)}: {flat(node.annotation)}"
        return head + (" = " + laid(node.value, indent, indent + len(head) + 3) if node.value else "")
    if isinstance(node, ast.AugAssign):
        head = f"{flat(node.target)} {_BINARY[type(node.op)][0]}= "
        return head + laid(node.value, indent, indent + len(head))
    if isinstance(node, ast.Return):
        return "return " + value(node.value, indent, indent + 7) if node.value else "return"
    if isinstance(node, ast.Raise):
        text = "raise " + laid(node.exc, indent, indent + 6) if node.exc else "raise"
        return text + (f" from {flat(node.cause)}" if node.cause else "")
    if isinstance(node, ast.Assert):
        text = "assert " + laid(node.test, indent, indent + 7, 0, LAMBDA)
        return text + (f", {flat(node.msg, LAMBDA)}" if node.msg else "")
    if isinstance(node, ast.Delete):
        return "del " + ", ".join(flat(t) for t in node.targets)
    if isinstance(node, (ast.Pass, ast.Break, ast.Continue)):
        return type(node).__name__.lower()
    raise Unprintable(type(node).__name__)


def value(node: Any, indent: int, used: int) -> str:
    """The right side of an assignment or a return."""
    text = bare_tuple(node)
    return text if used + len(text) <= WIDTH else laid(node, indent, used)


def _if(node: ast.If, indent: int, word: str = "if") -> list[str]:
    pad = " " * indent
    head = f"{pad}{word} {laid(node.test, indent, indent + len(word) + 1, 1)}:"
    lines = [*head.split("\n"), *block(node.body, indent + STEP)]
    if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If) and not getattr(node.orelse[0], "lead", ()):
        return lines + _if(node.orelse[0], indent, "elif")
    return lines + ([f"{pad}else:", *block(node.orelse, indent + STEP)] if node.orelse else [])


def _for(node: ast.For, indent: int) -> list[str]:
    head = f"for {bare_tuple(node.target)} in "
    text = " " * indent + head + laid(node.iter, indent, indent + len(head), 1) + ":"
    lines = [*text.split("\n"), *block(node.body, indent + STEP)]
    return lines + ([" " * indent + "else:", *block(node.orelse, indent + STEP)] if node.orelse else [])


def _while(node: ast.While, indent: int) -> list[str]:
    text = " " * indent + f"while {laid(node.test, indent, indent + 6, 1)}:"
    return [*text.split("\n"), *block(node.body, indent + STEP)]


def _with(node: ast.With, indent: int) -> list[str]:
    items = ", ".join(flat(i.context_expr, OR) + (f" as {flat(i.optional_vars)}" if i.optional_vars else "") for i in node.items)
    return [f"{' ' * indent}with {items}:", *block(node.body, indent + STEP)]


def _try(node: ast.Try, indent: int) -> list[str]:
    pad = " " * indent
    lines = [f"{pad}try:", *block(node.body, indent + STEP)]
    for h in node.handlers:
        lines.append(f"{pad}except{' ' + flat(h.type) if h.type else ''}{f' as {h.name}' if h.name else ''}:")
        lines += block(h.body, indent + STEP)
    for word, body in (("else", node.orelse), ("finally", node.finalbody)):
        lines += [f"{pad}{word}:", *block(body, indent + STEP)] if body else []
    return lines


def function(node: ast.FunctionDef, indent: int) -> list[str]:
    """A function, its signature on as many lines as it needs."""
    pad = " " * indent
    back = f" -> {flat(node.returns)}" if node.returns else ""
    lines = [f"{pad}@{flat(d)}" for d in node.decorator_list]
    given = arguments(node.args)
    text = f"{pad}def {node.name}({', '.join(given)}){back}:"
    if len(text) > WIDTH:
        inner = " " * (indent + STEP)
        joined = ", ".join(given)
        rows = [inner + joined] if len(inner + joined) <= WIDTH else [f"{inner}{g}," for g in given]
        lines += [f"{pad}def {node.name}(", *rows, f"{pad}){back}:"]
    else:
        lines.append(text)
    return lines + block(node.body, indent + STEP)


def _class(node: ast.ClassDef, indent: int) -> list[str]:
    inside = [flat(b) for b in node.bases] + [f"{k.arg}={flat(k.value)}" for k in node.keywords]
    lines = [f"{' ' * indent}@{flat(d)}" for d in node.decorator_list]
    return [*lines, f"{' ' * indent}class {node.name}{'(' + ', '.join(inside) + ')' if inside else ''}:", *block(node.body, indent + STEP)]


_RULES: dict[type, Any] = {
    ast.If: _if, ast.For: _for, ast.While: _while, ast.With: _with, ast.Try: _try, ast.FunctionDef: function, ast.ClassDef: _class,
}  # fmt: skip


def docstring(text: str, indent: int) -> list[str]:
    """A docstring's lines. Whatever the text holds, it stays one string literal: backslashes and quotes are escaped."""
    pad = " " * indent
    lines: list[str] = []
    for paragraph in _paragraphs(_unindented(text)):
        cleaned = [_escaped(line) for line in paragraph]
        start = cleaned[0][: len(cleaned[0]) - len(cleaned[0].lstrip())]
        room = WIDTH - indent - (0 if lines else 3)
        if any(len(line) > room for line in cleaned):
            joined = start + " ".join(line.strip() for line in cleaned)
            cleaned = textwrap.wrap(joined, room, subsequent_indent=start, break_on_hyphens=False, break_long_words=False)
        lines += cleaned
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    if len(lines) == 1 and indent + len(lines[0]) + 6 <= WIDTH:
        return [f'{pad}"""{lines[0]}"""']
    return [f'{pad}"""{lines[0]}', *((pad + line).rstrip() for line in lines[1:]), f'{pad}"""']


def _escaped(line: str) -> str:
    clean = line.replace("\\", "\\\\").rstrip()
    clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in clean)
    return re.sub(r'"{2,}|"$', lambda m: '\\"' * len(m[0]), clean)


def _paragraphs(lines: Sequence[str]) -> list[list[str]]:
    """Lines of one indentation that follow each other."""
    made: list[list[str]] = []
    before: int | None = None
    for line in lines:
        margin = len(line) - len(line.lstrip()) if line.strip() else None
        if margin is None or margin != before or not made:
            made.append([line])
        else:
            made[-1].append(line)
        before = margin
    return made


def _unindented(text: str) -> list[str]:
    first, *rest = text.expandtabs(4).split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    return [first.strip(), *(line[margin:] for line in rest)]
