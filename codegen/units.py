"""Functions and methods to write, what they are called with, and what inlining needs to know of trees."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .abstract import (
    UNKNOWN,
    Closure,
    Dynamic,
    Fn,
    Mod,
    Py,
    Seq,
    Table,
    Unsupported,
    Value,
    known,
    same,
    samples,
    walk,
)  # fmt: skip
from .knowledge import is_loose, may_be_none, merged
from .source import method_node
from .trees import name


@dataclass(eq=False)
class Unit:
    """A function or method to write, for all its calls together."""

    name: str
    node: ast.FunctionDef
    module: str
    owner: type | None = None
    me: Mod | None = None
    key: Any = None
    args: dict[str, Value] | None = None
    missing: set[str] = field(default_factory=set)
    """Parameters that some call leaves out."""
    tree: ast.FunctionDef | None = None
    kept: set[str] = field(default_factory=set)
    methods: dict[Any, Unit] = field(default_factory=dict)
    """Of a module's forward: the methods it reaches."""
    root: Unit | None = None
    records: list[tuple[tuple[nn.Module, ...], dict[str, Value]]] = field(default_factory=list)
    wanted: list[str] | None = None
    results: list[str] | None = None
    all_kept: bool = False
    opaque: bool = False
    """A function that is written as it stands."""
    dirty: bool = True


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def default_nodes(node: ast.FunctionDef) -> dict[str, Any]:
    plain_args = [*node.args.posonlyargs, *node.args.args]
    found = {a.arg: d for a, d in zip(plain_args[len(plain_args) - len(node.args.defaults) :], node.args.defaults)}
    return found | {a.arg: d for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults) if d is not None}


def size(tree: Any) -> int:
    return sum(1 for n in walk(tree) if isinstance(n, (ast.expr, ast.Slice)) and not isinstance(n, ast.expr_context))


def id_or(value: Any) -> Any:
    """For `in` without asking tensors for equality."""
    return UNKNOWN if value is UNKNOWN else None


def is_super(node: Any) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args


def torch_owned(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "torch"


def method_node_of(cls: type, method: str) -> tuple[ast.FunctionDef, type] | None:
    """The own definition of a method, None where torch's is the first."""
    for base in cls.__mro__:
        if method in base.__dict__:
            if torch_owned(base):
                return None
            node = method_node(base, method)
            return None if node is None else (node, base)
    return None


def has_closure(bound: dict[str, Value]) -> bool:
    return any(isinstance(v, Closure) for v in bound.values())


def has_table(bound: dict[str, Value], node: ast.FunctionDef) -> bool:
    """Whether a dict that is taken apart here is handed on."""
    own = node.args.kwarg.arg if node.args.kwarg else ""
    return any(isinstance(v, Table) and not known(v) for k, v in bound.items() if k != own)


def flat_bound(bound: dict[str, Value], node: ast.FunctionDef) -> dict[str, Value]:
    """A table of further keywords as parameters of their own."""
    own = node.args.kwarg.arg if node.args.kwarg else ""
    made: dict[str, Value] = {}
    for key, value in bound.items():
        if isinstance(value, Table) and key == own:
            made.update(value.items)
        else:
            made[key] = value
    return made


def liftable(value: Value) -> bool:
    try:
        value.lift()
    except Unsupported:
        return False
    return True


def joined_value(key: str, old: Value | None, new: Value) -> Value:
    """What a parameter is for all calls: known where all agree."""
    if old is None or (same(old, new) and not isinstance(new, Dynamic)):
        if known(new) or isinstance(new, (Fn, Py)):
            return new
        if isinstance(new, Mod):
            return new
        return Dynamic(name(key), samples(new), may_be_none(new), is_loose(new))
    if isinstance(old, Mod) or isinstance(new, Mod):
        return Dynamic(name(key), UNKNOWN, may_be_none(old) or may_be_none(new))
    sample = merged(samples(old), samples(new)) if UNKNOWN not in (id_or(samples(old)), id_or(samples(new))) else UNKNOWN
    return Dynamic(name(key), sample, may_be_none(old) or may_be_none(new), is_loose(old, new))


def equal_knowledge(a: Value, b: Value) -> bool:
    if isinstance(a, Dynamic) and isinstance(b, Dynamic):
        known_samples = (a.sample is UNKNOWN, a.sample is None) == (b.sample is UNKNOWN, b.sample is None)
        return (a.none, a.loose) == (b.none, b.loose) and known_samples
    return same(a, b)


def reads(node: Any, variable: str) -> int:
    """How often a parameter is read, counting a loop or an inner function twice."""
    count = 0

    def visit(tree: Any, weight: int) -> None:
        nonlocal count
        if isinstance(tree, ast.Name) and tree.id == variable and isinstance(tree.ctx, ast.Load):
            count += weight
        loops = isinstance(tree, (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp)) or (
            isinstance(tree, ast.Lambda) and tree is not node
        )
        for child in ast.iter_child_nodes(tree):
            visit(child, weight + 1 if loops else weight)

    body = node.body if isinstance(node.body, list) else [node.body]
    for statement in body:
        visit(statement, 1)
    return count


def body_of(node: ast.FunctionDef) -> list[Any]:
    """The statements behind the docstring."""
    first = node.body[0]
    has_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return node.body[1:] if has_doc else node.body


def assign_inlined(text: str, tree: Any) -> Any:
    from .trees import assign

    made = assign(text, tree)
    made.inlined = True  # type: ignore[attr-defined]
    return made


def trees_of(value: Value) -> list[Any]:
    if isinstance(value, Seq):
        return [t for i in value.items for t in trees_of(i)]
    if isinstance(value, Table):
        return [t for i in value.items.values() for t in trees_of(i)]
    return [value.tree] if isinstance(value, Dynamic) else []


def prune(out: list[Any], result: Value) -> None:
    """Drop assignments that neither the result nor a later statement reads."""
    read = {n.id for t in trees_of(result) for n in walk(t) if isinstance(n, ast.Name)}
    for statement in reversed(list(out)):
        simple = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], (ast.Name, ast.Tuple))
        if simple and not any(isinstance(n, ast.Name) and n.id in read for t in statement.targets for n in ast.walk(t)):
            out.remove(statement)
            continue
        read |= {n.id for n in walk(statement) if isinstance(n, ast.Name)}


def collapse(out: list[Any], result: Value) -> None:
    """Put assignments that are read once, by the next statement or the result, in the place where they are read."""
    changed = True
    while changed and out:
        changed = False
        last = out[-1]
        if not (isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name)):
            return
        text = last.targets[0].id
        trees = trees_of(result)
        if sum(1 for t in trees for n in walk(t) if isinstance(n, ast.Name) and n.id == text) != 1:
            return
        replace_in(result, text, last.value)
        out.pop()
        changed = True


def replace_in(value: Value, text: str, tree: Any) -> None:
    if isinstance(value, Seq):
        for i in value.items:
            replace_in(i, text, tree)
    elif isinstance(value, Table):
        for i in value.items.values():
            replace_in(i, text, tree)
    elif isinstance(value, Dynamic):
        value.tree = substituted(value.tree, text, tree)


def substituted(node: Any, text: str, tree: Any) -> Any:
    """The tree with one variable replaced by an expression."""
    if isinstance(node, ast.Name) and node.id == text:
        return tree
    for name_, old in ast.iter_fields(node):
        if isinstance(old, ast.AST):
            setattr(node, name_, substituted(old, text, tree))
        elif isinstance(old, list):
            setattr(node, name_, [substituted(o, text, tree) if isinstance(o, ast.AST) else o for o in old])
    pending = getattr(node, "pending", None)
    if pending is not None:
        pending.bound = {k: substituted(v, text, tree) for k, v in pending.bound.items()}
    return node
