"""Syntax trees → text, wrapped at a fixed width. Own rules, so that the text does not depend on the version of Python."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

WIDTH = 120
STEP = 4

_BINARY = {
    ast.BitOr: ("|", 7), ast.BitXor: ("^", 8), ast.BitAnd: ("&", 9), ast.LShift: ("<<", 10), ast.RShift: (">>", 10),
    ast.Add: ("+", 11), ast.Sub: ("-", 11), ast.Mult: ("*", 12), ast.Div: ("/", 12), ast.FloorDiv: ("//", 12),
    ast.Mod: ("%", 12), ast.MatMult: ("@", 12), ast.Pow: ("**", 14),
}  # fmt: skip
_COMPARE = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
_UNARY = {ast.Not: ("not ", 5), ast.USub: ("-", 13), ast.UAdd: ("+", 13), ast.Invert: ("~", 13)}
LAMBDA, TERNARY, OR, AND, COMPARE, ATOM = 1, 2, 3, 4, 6, 16


class Unprintable(Exception):
    """A construct that has no rule here."""


def quoted(text: str) -> str:
    """A string literal, in double quotes where that needs no escapes."""
    plain = repr(text)
    if plain[0] == "'" and '"' not in text:
        return '"' + plain[1:-1].replace("\\'", "'") + '"'
    return plain


def inside(text: str, formatted: bool = True) -> str:
    """A text between double quotes; braces are doubled in an f-string."""
    made = []
    for c in text:
        if c in '\\"':
            made.append("\\" + c)
        elif c in "{}" and formatted:
            made.append(c * 2)
        else:
            made.append(c if c.isprintable() else repr(c)[1:-1])
    return "".join(made)


def flat(node: Any, level: int = 0) -> str:
    """An expression on one line, in parentheses where it binds weaker than `level`."""
    text, own = _flat(node)
    return f"({text})" if own < level else text


def _flat(node: Any) -> tuple[str, int]:
    rule = _RULES.get(type(node))
    if rule is None:
        raise Unprintable(type(node).__name__)
    return rule(node)


def _constant(node: ast.Constant) -> tuple[str, int]:
    value = node.value
    if isinstance(value, str):
        return quoted(value), ATOM
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return f'float("{value}")', ATOM
    if value is Ellipsis:
        return "...", ATOM
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value < 0:
        return repr(value), 13
    return repr(value), ATOM


def _joined(node: ast.JoinedStr) -> tuple[str, int]:
    return 'f"' + "".join(_piece(part) for part in node.values) + '"', ATOM


def _piece(part: Any) -> str:
    if isinstance(part, ast.Constant):
        return inside(part.value)
    body = flat(part.value, TERNARY).replace('"', "'")
    mark = f"!{chr(part.conversion)}" if part.conversion != -1 else ""
    form = ":" + "".join(_piece(p) for p in part.format_spec.values) if part.format_spec else ""
    return "{" + body + mark + form + "}"


def _binary(node: ast.BinOp) -> tuple[str, int]:
    sign, level = _BINARY[type(node.op)]
    if sign == "**":
        return f"{flat(node.left, level + 1)}**{flat(node.right, 13)}", level
    left, right = flat(node.left, level), flat(node.right, level + 1)
    if sign in "|&^":  # mixed without parentheses they read badly
        left, right = (f"({t})" if _mixed(n, node) else t for t, n in ((left, node.left), (right, node.right)))
    return f"{left} {sign} {right}", level


def _mixed(inner: Any, outer: ast.BinOp) -> bool:
    return isinstance(inner, ast.BinOp) and type(inner.op) is not type(outer.op) and not isinstance(inner.op, (ast.BitOr,))


def _boolean(node: ast.BoolOp) -> tuple[str, int]:
    word, level = (" or ", OR) if isinstance(node.op, ast.Or) else (" and ", AND)
    return word.join(flat(v, level + 1) for v in node.values), level


def _unary(node: ast.UnaryOp) -> tuple[str, int]:
    sign, level = _UNARY[type(node.op)]
    return sign + flat(node.operand, level), level


def _comparison(node: ast.Compare) -> tuple[str, int]:
    pieces = [flat(node.left, COMPARE + 1)]
    for op, right in zip(node.ops, node.comparators):
        pieces += [_COMPARE[type(op)], flat(right, COMPARE + 1)]
    return " ".join(pieces), COMPARE


def _ternary(node: ast.IfExp) -> tuple[str, int]:
    return f"{flat(node.body, OR)} if {flat(node.test, OR)} else {flat(node.orelse, TERNARY)}", TERNARY


def _lambda(node: ast.Lambda) -> tuple[str, int]:
    given = ", ".join(arguments(node.args))
    return f"lambda {given}: {flat(node.body, LAMBDA)}" if given else f"lambda: {flat(node.body, LAMBDA)}", LAMBDA


def _tuple(node: ast.Tuple) -> tuple[str, int]:
    if not node.elts:
        return "()", ATOM
    return "(" + ", ".join(flat(e, LAMBDA) for e in node.elts) + (",)" if len(node.elts) == 1 else ")"), ATOM


def bare_tuple(node: Any) -> str:
    """A tuple as it stands after `=`, `return` and `for`: without parentheses where it has two or more parts."""
    if isinstance(node, ast.Tuple) and len(node.elts) > 1:
        return ", ".join(flat(e, LAMBDA) for e in node.elts)
    return flat(node)


def _subscript(node: ast.Subscript) -> tuple[str, int]:
    inner = node.slice
    if isinstance(inner, ast.Tuple) and inner.elts:
        text = ", ".join(flat(e, LAMBDA) for e in inner.elts) + ("," if len(inner.elts) == 1 else "")
    else:
        text = flat(inner)
    return f"{flat(node.value, ATOM)}[{text}]", ATOM


def _slice(node: ast.Slice) -> tuple[str, int]:
    plain = all(p is None or isinstance(p, (ast.Constant, ast.Name, ast.UnaryOp, ast.Attribute)) for p in (node.lower, node.upper))
    colon = ":" if plain else " : "
    text = (flat(node.lower, TERNARY) if node.lower else "") + colon + (flat(node.upper, TERNARY) if node.upper else "")
    text = text.strip() if not plain else text
    return text + (f":{flat(node.step, TERNARY)}" if node.step else ""), ATOM


def _call(node: ast.Call) -> tuple[str, int]:
    return f"{flat(node.func, ATOM)}({', '.join(call_arguments(node))})", ATOM


def call_arguments(node: ast.Call) -> list[str]:
    if len(node.args) == 1 and not node.keywords and isinstance(node.args[0], ast.GeneratorExp):
        return [_comprehended(node.args[0])]
    return [flat(a, LAMBDA) for a in node.args] + [
        f"{k.arg}={flat(k.value, LAMBDA)}" if k.arg else f"**{flat(k.value, 7)}" for k in node.keywords
    ]


def _comprehended(node: Any) -> str:
    head = f"{flat(node.key, LAMBDA)}: {flat(node.value, LAMBDA)}" if isinstance(node, ast.DictComp) else flat(node.elt, LAMBDA)
    return " ".join([head, *clauses(node)])


def clauses(node: Any, indent: int | None = None) -> list[str]:
    """The parts behind the element; broken where they begin in column `indent` and are too long."""
    found = []
    for g in node.generators:
        head = f"for {bare_tuple(g.target)} in "
        found.append(head + (flat(g.iter, OR) if indent is None else laid(g.iter, indent, indent + len(head), 0, OR)))
        found += [f"if {flat(test, OR)}" for test in g.ifs]
    return found


def _dict(node: ast.Dict) -> tuple[str, int]:
    return "{" + ", ".join(entries(node)) + "}", ATOM


def entries(node: ast.Dict) -> list[str]:
    return [f"{flat(k, LAMBDA)}: {flat(v, LAMBDA)}" if k else f"**{flat(v, 7)}" for k, v in zip(node.keys, node.values)]


def _attribute(node: ast.Attribute) -> tuple[str, int]:
    base = flat(node.value, ATOM)
    number = isinstance(node.value, ast.Constant) and isinstance(node.value.value, int)
    return (f"({base}).{node.attr}" if number else f"{base}.{node.attr}"), ATOM


def _walrus(node: ast.NamedExpr) -> tuple[str, int]:
    return f"({flat(node.target)} := {flat(node.value, LAMBDA)})", ATOM


_RULES: dict[type, Callable[[Any], tuple[str, int]]] = {
    ast.Constant: _constant, ast.JoinedStr: _joined, ast.Name: lambda n: (n.id, ATOM), ast.Attribute: _attribute,
    ast.BinOp: _binary, ast.BoolOp: _boolean, ast.UnaryOp: _unary, ast.Compare: _comparison, ast.IfExp: _ternary,
    ast.Lambda: _lambda, ast.Tuple: _tuple, ast.Subscript: _subscript, ast.Slice: _slice, ast.Call: _call, ast.Dict: _dict,
    ast.List: lambda n: ("[" + ", ".join(flat(e, LAMBDA) for e in n.elts) + "]", ATOM),
    ast.Set: lambda n: ("{" + ", ".join(flat(e, LAMBDA) for e in n.elts) + "}", ATOM),
    ast.Starred: lambda n: ("*" + flat(n.value, 7), LAMBDA), ast.NamedExpr: _walrus,
    ast.GeneratorExp: lambda n: (f"({_comprehended(n)})", ATOM), ast.ListComp: lambda n: (f"[{_comprehended(n)}]", ATOM),
    ast.SetComp: lambda n: ("{" + _comprehended(n) + "}", ATOM), ast.DictComp: lambda n: ("{" + _comprehended(n) + "}", ATOM),
}  # fmt: skip


def arguments(args: ast.arguments) -> list[str]:
    """The parameters of a signature, one text each."""

    def one(arg: ast.arg, default: Any) -> str:
        text = f"{arg.arg}: {flat(arg.annotation)}" if arg.annotation else arg.arg
        if default is None:
            return text
        return f"{text} = {flat(default, LAMBDA)}" if arg.annotation else f"{text}={flat(default, LAMBDA)}"

    plain = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
    made = [one(a, d) for a, d in zip(plain, defaults)]
    if args.posonlyargs:
        made.insert(len(args.posonlyargs), "/")
    if args.vararg:
        made.append("*" + one(args.vararg, None))
    elif args.kwonlyargs:
        made.append("*")
    made += [one(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults)]
    return made + (["**" + one(args.kwarg, None)] if args.kwarg else [])


# ---- breaking lines


def laid(node: Any, indent: int, used: int, tail: int = 0, level: int = 0) -> str:
    """An expression that begins in column `used` and is followed by `tail` characters, on as many lines as it needs."""
    text = flat(node, level)
    if used + len(text) + tail <= WIDTH:
        return text
    inner = indent + STEP
    if isinstance(node, ast.Call):
        head = laid(node.func, indent, used, 1, ATOM)
        parts: list[Any] = [*node.args, *node.keywords]
        if len(parts) == 1 and isinstance(parts[0], ast.GeneratorExp) and not node.keywords:
            return bracketed(head + "(", [flat(parts[0].elt, LAMBDA), *clauses(parts[0])], ")", indent, comma=False)
        if not parts:
            return head + "()"
        return listed(head + "(", parts, ")", indent)
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)) and node.elts:
        left, right = {ast.Tuple: "()", ast.List: "[]", ast.Set: "{}"}[type(node)]
        return listed(left, list(node.elts), right, indent)
    if isinstance(node, ast.Dict) and node.keys:
        return listed("{", list(zip(node.keys, node.values)), "}", indent)
    if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
        left, right = ("[", "]") if isinstance(node, ast.ListComp) else ("(", ")") if isinstance(node, ast.GeneratorExp) else ("{", "}")
        first = laid(node.elt, inner, inner, 0, LAMBDA)
        return bracketed(left, [first, *clauses(node, inner)], right, indent, comma=False, apart=True)
    if isinstance(node, ast.DictComp):
        key = flat(node.key, LAMBDA) + ": "
        first = key + laid(node.value, inner, inner + len(key), 0, LAMBDA)
        return bracketed("{", [first, *clauses(node, inner)], "}", indent, comma=False, apart=True)
    if isinstance(node, ast.Attribute):
        return laid(node.value, indent, used, tail + len(node.attr) + 1, ATOM) + f".{node.attr}"
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
        rest = flat(ast.Subscript(value=ast.Name(id=""), slice=node.slice))
        return laid(node.value, indent, used, tail + len(rest), ATOM) + rest
    if isinstance(node, (ast.Constant, ast.JoinedStr)):
        pieces = broken(node, WIDTH - inner - 4)
        return bracketed("(", pieces, ")", indent, comma=False, apart=True) if len(pieces) > 1 else text
    parts = operands(node, inner)
    return bracketed("(", parts, ")", indent, comma=False, apart=True) if len(parts) > 1 else text


def operands(node: Any, indent: int) -> list[str]:
    """The lines of a long expression inside parentheses: one operand each, behind its operator."""
    if isinstance(node, ast.BoolOp):
        word, level = ("or ", OR) if isinstance(node.op, ast.Or) else ("and ", AND)
        first, *rest = node.values
        lines = [laid(first, indent, indent, 0, level + 1)]
        return lines + [word + laid(v, indent, indent + len(word), 0, level + 1) for v in rest]
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Pow):
        sign, level = _BINARY[type(node.op)]
        same = isinstance(node.left, ast.BinOp) and _BINARY[type(node.left.op)][1] == level
        left = operands(node.left, indent) if same else [laid(node.left, indent, indent, 0, level)]
        return [*left, f"{sign} " + laid(node.right, indent, indent + len(sign) + 1, 0, level + 1)]
    if isinstance(node, ast.IfExp):
        return [
            laid(node.body, indent, indent, 0, OR),
            "if " + laid(node.test, indent, indent + 3, 0, OR),
            "else " + laid(node.orelse, indent, indent + 5, 0, TERNARY),
        ]
    return [flat(node)]


def listed(head: str, parts: Sequence[Any], foot: str, indent: int) -> str:
    """Items on one further line if they fit there, else one a line."""
    inner = indent + STEP
    together = ", ".join(_item(p, None) for p in parts)
    lone = foot == ")" and head == "(" and len(parts) == 1
    if inner + len(together) <= WIDTH and not lone:
        return f"{head}\n{' ' * inner}{together}\n{' ' * indent}{foot}"
    return bracketed(head, [_item(p, inner) for p in parts], foot, indent, comma=True, apart=True)


def _item(part: Any, indent: int | None) -> str:
    if isinstance(part, tuple):
        key = flat(part[0], LAMBDA) + ": " if part[0] else "**"
    elif isinstance(part, ast.keyword):
        key = f"{part.arg}=" if part.arg else "**"
    else:
        key = ""
    value = part[1] if isinstance(part, tuple) else part.value if isinstance(part, ast.keyword) else part
    return key + (flat(value, LAMBDA) if indent is None else laid(value, indent, indent + len(key), 1, LAMBDA))


def bracketed(head: str, lines: Sequence[str], foot: str, indent: int, comma: bool, apart: bool = False) -> str:
    """Lines between brackets; on one line where they fit and need not stand apart."""
    pad = " " * (indent + STEP)
    if not apart and indent + STEP + len(" ".join(lines)) <= WIDTH:
        lines = [" ".join(lines)]
    end = "," if comma else ""
    return head + "\n" + "\n".join(pad + line + end for line in lines) + "\n" + " " * indent + foot


def broken(node: Any, width: int) -> list[str]:
    """A long string as several literals that stand side by side, broken behind spaces."""
    formatted = isinstance(node, ast.JoinedStr)
    if not formatted and not isinstance(node.value, str):
        return [flat(node)]
    words: list[str] = []
    for part in node.values if formatted else [node]:
        if isinstance(part, ast.Constant):
            text = part.value
            split = [w + " " for w in text.split(" ")]
            split[-1] = split[-1][:-1]
            pieces = [inside(w, formatted) for w in split if w]
        else:
            pieces = [_piece(part)]
        for i, piece in enumerate(pieces):
            if i == 0 and words and not words[-1].endswith(" "):
                words[-1] += piece
            else:
                words.append(piece)
    lines, current = [], ""
    for word in words:
        if current and len(current) + len(word) > width:
            lines.append(current)
            current = ""
        current += word
    mark = "f" if formatted else ""
    return [f'{mark if "{" in line or not formatted else ""}"{line}"' for line in [*lines, current]]
