"""Attention through transformers' interface.

In the source of the modules, calls of `scaled_dot_product_attention` become calls of the function that `config._attn_implementation` names.
(`AttentionInterface` of transformers; engines register functions of their own there.) A class is turned where its forward attends once, by
nothing but softmax(q k^T * scale + mask) v over heads [B, heads, N, head_dim]: not with bounded scores, latent keys, or windows folded into
the batch. What is turned has the class attributes `is_causal` and `num_key_value_groups`, which functions of the interface read, and gets
`config`, and where it remembers `layer_idx`, when the model is made.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

CALL = "scaled_dot_product_attention"
IMPORT = "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS"
EAGER = '''
def eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out (`attn_implementation="eager"`): [B, N, heads, head_dim], and the weights [B, heads, N, K]."""
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights
'''


@dataclass(frozen=True)
class Attends:
    """Where a class attends: the expression that gives heads side by side, and what goes into it."""

    statement: ast.stmt
    whole: ast.expr
    names: tuple[str, str, str]
    mask: ast.expr | None
    scale: ast.expr | None
    groups: int
    helper: ast.FunctionDef | None
    """A method that held the call and is left out."""
    causal: bool


def through_interface(source: str) -> tuple[str, list[str]]:
    """The source with attention through the interface, and the names of the classes that were turned."""
    lines = source.splitlines()
    turned = []
    for cls in reversed([n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]):
        found = attends(cls)
        if found is None:
            continue
        turned.append(cls.name)
        edits = [(found.statement.lineno, found.statement.end_lineno or 0, written(found, indent(lines, found.statement)))]
        if found.helper is not None:
            edits.append((found.helper.lineno - 1, found.helper.end_lineno or 0, []))  # and the empty line in front
        first = cls.body[0]
        after = (first.end_lineno or 0) if ast.get_docstring(cls) else cls.lineno
        facts = [f"    is_causal = {found.causal}", f"    num_key_value_groups = {found.groups}"]
        edits.append((after + 1, after, ["", *facts] if ast.get_docstring(cls) else facts))
        for start, end, new in sorted(edits, key=lambda e: -e[0]):
            lines[start - 1 : end] = new
    if not turned:
        return source, []
    tree = ast.parse("\n".join(lines))
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    typed = any(isinstance(n, ast.ImportFrom) and n.module == "typing" and "Any" in [a.name for a in n.names] for n in imports)
    at = imports[-1].end_lineno or 0
    lines[at:at] = [*([] if typed else ["from typing import Any"]), IMPORT, "", *EAGER.rstrip("\n").splitlines()]
    return "\n".join(lines) + "\n", turned[::-1]


def indent(lines: list[str], statement: ast.stmt) -> str:
    line = lines[statement.lineno - 1]
    return line[: len(line) - len(line.lstrip())]


def written(found: Attends, space: str) -> list[str]:
    """The statement that attends, with the function of the interface in front."""
    q, k, v = found.names
    mask = "None" if found.mask is None else ast.unparse(found.mask)
    scale = "" if found.scale is None else f", scaling={ast.unparse(found.scale)}"
    heads = ast.parse(f"heads.reshape({q}.shape[0], {q}.shape[2], -1)", mode="eval").body
    put = Put(found.whole, heads).visit(found.statement)
    return [
        f"{space}attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager)",
        f"{space}heads, _ = attention(self, {q}, {k}, {v}, {mask}{scale}, is_causal=False)  # the mask says all",
        *(space + line for line in ast.unparse(put).splitlines()),
    ]


class Put(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.expr) -> None:
        self.old, self.new = old, new

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().generic_visit(node)

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else super().visit(node)


# ---- what is found


def attends(cls: ast.ClassDef) -> Attends | None:
    """How a class attends, where its forward does so once and in the one way that the interface knows."""
    methods = {n.name: n for n in cls.body if isinstance(n, ast.FunctionDef)}
    calls = [(m, c) for m in methods.values() for c in ast.walk(m) if isinstance(c, ast.Call) and last(c.func) == CALL]
    forward = methods.get("forward")
    if forward is None or len(calls) != 1:
        return None
    method, call = calls[0]
    arguments = {k.arg: k.value for k in call.keywords}
    if set(arguments) - {"attn_mask", "scale"} or len(call.args) != 3 or not all(isinstance(a, ast.Name) for a in call.args):
        return None
    names = tuple(a.id for a in call.args if isinstance(a, ast.Name))
    if method is forward:
        place = enclosing(forward, side_by_side(forward, call))
        helper, groups = None, 1
        mask = arguments.get("attn_mask")
    else:
        groups_found = grouped(method, call)
        uses = [c for c in ast.walk(forward) if isinstance(c, ast.Call) and last(c.func) == method.name]
        if groups_found is None or len(uses) != 1 or uses[0].keywords or not all(isinstance(a, ast.Name) for a in uses[0].args):
            return None
        if used_elsewhere(cls, method.name, forward):
            return None
        given = dict(zip([a.arg for a in method.args.args[1:]], uses[0].args))
        if any(n not in given for n in names):
            return None
        mask = arguments.get("attn_mask")
        mask = given.get(mask.id) if isinstance(mask, ast.Name) else mask
        names = tuple(g.id for n in names if isinstance(g := given[n], ast.Name))
        place, helper, groups = enclosing(forward, uses[0]), method, groups_found
    scale = arguments.get("scale")
    if place is None or (scale is not None and not settled(scale)):
        return None
    statement, whole = place
    causal = any(isinstance(c, ast.Call) and ast.unparse(c.func) == "cache.append" for c in ast.walk(forward))
    return Attends(statement, whole, (names[0], names[1], names[2]), mask, scale, groups, helper, causal)


def last(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else ""


def settled(scale: ast.expr) -> bool:
    """Engines read a scale off the source: a number, or an attribute of the module."""
    return isinstance(scale, ast.Constant) or ast.unparse(scale).startswith("self.")


def side_by_side(method: ast.FunctionDef, call: ast.Call) -> ast.expr | None:
    """The expression `call.transpose(1, 2).flatten(2)`."""
    wanted = f"{ast.unparse(call)}.transpose(1, 2).flatten(2)"
    return next((n for n in ast.walk(method) if isinstance(n, ast.Call) and ast.unparse(n) == wanted), None)


def enclosing(method: ast.FunctionDef, expression: ast.expr | None) -> tuple[ast.stmt, ast.expr] | None:
    """The statement of a method's own body that holds an expression; one inside an `if` runs only sometimes."""
    for statement in method.body if expression is not None else ():
        if any(n is expression for n in ast.walk(statement)):
            simple = isinstance(statement, (ast.Return, ast.Assign))
            return (statement, expression) if simple and expression is not None else None
    return None


def grouped(method: ast.FunctionDef, call: ast.Call) -> int | None:
    """Of a method that only repeats keys and values over groups of heads and attends: how many heads share a key. None for another."""
    body = method.body[1:] if ast.get_docstring(method) else method.body
    groups = 1
    _, k, v = (a.id for a in call.args if isinstance(a, ast.Name))
    for statement in body:
        text = ast.unparse(statement)
        if isinstance(statement, ast.Assign) and text.startswith("groups = ") and isinstance(statement.value, ast.Constant):
            groups = int(statement.value.value)  # type: ignore[arg-type]
        elif text not in (f"{x} = {x}.repeat_interleave(groups, 1)" for x in (k, v)) and text not in (
            f"y = {ast.unparse(call)}",
            "return y.transpose(1, 2).flatten(2)",
            f"return {ast.unparse(call)}.transpose(1, 2).flatten(2)",
        ):
            return None
    return groups


def used_elsewhere(cls: ast.ClassDef, name: str, forward: ast.FunctionDef) -> bool:
    others = [m for m in cls.body if isinstance(m, ast.FunctionDef) and m is not forward and m.name != name]
    return any(isinstance(n, ast.Attribute) and n.attr == name for m in others for n in ast.walk(m))
