"""What the partial evaluator knows about a value while it rewrites a method."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .trees import constant, literal
from .values import Special, reference

UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "UNKNOWN"})()
"""Stands for a sample that could not be computed."""


class Unsupported(Exception):
    """A construct that the partial evaluator does not follow: the class is then written as it stands."""


class Escape(Exception):
    """A container known here is changed where control flow is not: the loop around has to be unrolled."""


class Value:
    """Base of all that a variable may hold."""

    def lift(self) -> Any:
        """The expression that gives this value at run time."""
        raise NotImplementedError


@dataclass(eq=False)
class Known(Value):
    """A Python value. `tree` is the expression it came from where that says more than the literal (`self.heads // 2`)."""

    value: Any
    tree: Any = None

    def lift(self) -> Any:
        if self.tree is not None:
            return clone(self.tree)
        if not literal(self.value):
            raise Unsupported(f"a {type(self.value).__name__} as a literal")
        return constant(self.value)


@dataclass(eq=False)
class Dynamic(Value):
    """A value of run time: its expression, a stand-in on the meta device, whether it may be None, whether its dtype is open."""

    tree: Any
    sample: Any = UNKNOWN
    none: bool = False
    loose: bool = False
    nones: tuple[bool, ...] = ()
    """Of a tuple: which parts may be None."""

    def lift(self) -> Any:
        return clone(self.tree)

    @property
    def atomic(self) -> bool:
        """Whether it may be written several times: a name, or a path of attributes."""
        node = self.tree
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, (ast.Name, ast.Constant))


@dataclass(eq=False)
class Mod(Value):
    """A module, or (a loop's variable) one of several that are called alike."""

    modules: tuple[nn.Module, ...]
    tree: Any
    whole: tuple[nn.Module, ...] = ()
    """All elements of the list that they are part of."""

    @property
    def one(self) -> nn.Module:
        return self.modules[0]

    def lift(self) -> Any:
        return clone(self.tree)


@dataclass(eq=False)
class Seq(Value):
    """A tuple or list of known length."""

    items: list[Value]
    kind: type = tuple
    depth: int = 0
    tree: Any = None

    def lift(self) -> Any:
        if self.tree is not None:
            return clone(self.tree)
        return (ast.Tuple if self.kind is tuple else ast.List)(elts=[i.lift() for i in self.items])


@dataclass(eq=False)
class Table(Value):
    """A dict with known keys."""

    items: dict[Any, Value]
    depth: int = 0
    partial: bool = False
    """An entry that may be None stands for one that may be absent."""

    def lift(self) -> Any:
        if self.partial:
            raise Unsupported("a dict with entries that may be absent")
        return ast.Dict(keys=[constant(k) for k in self.items], values=[v.lift() for v in self.items.values()])


@dataclass(eq=False)
class Py(Value):
    """A Python object that exists at run time too: a module, a class, a function of torch, a builtin."""

    object: Any
    tree: Any

    def lift(self) -> Any:
        return clone(self.tree)


@dataclass(eq=False)
class Fn(Value):
    """A function of copied source."""

    function: Any
    key: tuple[str, str]

    def lift(self) -> Any:
        return reference(Special(self.key), self.key[1])


@dataclass(eq=False)
class Method(Value):
    """A method of an own class, bound to a module; or a built-in method of a known container."""

    name: str
    owner: Value
    cls: type | None = None
    """The class that defines it."""

    def lift(self) -> Any:
        return ast.Attribute(value=self.owner.lift(), attr=self.name, ctx=ast.Load())


@dataclass(eq=False)
class Closure(Value):
    """A lambda with the variables around it."""

    node: ast.Lambda
    frame: Any

    def lift(self) -> Any:
        raise Unsupported("a lambda as a value")


@dataclass(eq=False)
class Over(Value):
    """Something to loop over: the elements, and the expression and targets that loop over it at run time."""

    elements: list[Value]
    tree: Any
    pattern: Any
    """What one element is at run time: "index", "module", or a tuple of those."""
    parts: list[Any] = field(default_factory=list)

    def lift(self) -> Any:
        return clone(self.tree)


@dataclass(eq=False)
class Pending:
    """The arguments of a call by the callee's parameter names. Which of them are written is settled when all callees are known."""

    callees: list[Any]
    """Modules, or one unit (a function or method)."""
    bound: dict[str, Any]


def clone(tree: Any) -> Any:
    """A copy of a tree with its marks; what marks point at is shared."""
    if isinstance(tree, list):
        return [clone(t) for t in tree]
    if not isinstance(tree, ast.AST):
        return tree
    made = type(tree)(**{f: clone(getattr(tree, f)) for f in tree._fields if hasattr(tree, f)})
    for mark in ("target", "lead", "trail", "inlined", "unpack", "element"):
        if hasattr(tree, mark):
            setattr(made, mark, getattr(tree, mark))
    pending = getattr(tree, "pending", None)
    if pending is not None:
        made.pending = Pending(pending.callees, {k: clone(v) for k, v in pending.bound.items()})
    return made


def same(a: Value | None, b: Value | None) -> bool:
    """Whether two values are known to be the same thing."""
    if a is b:
        return True
    if isinstance(a, Known) and isinstance(b, Known):
        return type(a.value) is type(b.value) and bool(a.value == b.value)
    if isinstance(a, Dynamic) and isinstance(b, Dynamic):
        return ast.dump(a.tree) == ast.dump(b.tree)
    if isinstance(a, Mod) and isinstance(b, Mod):
        return a.modules == b.modules
    if isinstance(a, Seq) and isinstance(b, Seq):
        return a.kind is b.kind and len(a.items) == len(b.items) and all(same(x, y) for x, y in zip(a.items, b.items))
    if isinstance(a, Table) and isinstance(b, Table):
        return list(a.items) == list(b.items) and all(same(a.items[k], b.items[k]) for k in a.items)
    if isinstance(a, Py) and isinstance(b, Py):
        return a.object is b.object
    if isinstance(a, Method) and isinstance(b, Method):
        return a.name == b.name and same(a.owner, b.owner)
    return isinstance(a, Fn) and isinstance(b, Fn) and a.function is b.function


def samples(value: Value) -> Any:
    """The stand-in of a value; UNKNOWN where any part has none."""
    if isinstance(value, Known):
        return value.value
    if isinstance(value, Dynamic):
        return value.sample
    if isinstance(value, Seq):
        parts = [samples(i) for i in value.items]
        return UNKNOWN if any(p is UNKNOWN for p in parts) else value.kind(parts)
    if isinstance(value, Table):
        entries = {k: samples(v) for k, v in value.items.items()}
        return UNKNOWN if any(p is UNKNOWN for p in entries.values()) else entries
    if isinstance(value, Py):
        return value.object
    if isinstance(value, Fn):
        return value.function
    if isinstance(value, Mod) and len(value.modules) == 1:
        return value.one
    return UNKNOWN


def known(value: Value) -> bool:
    """Whether the whole value is there now."""
    if isinstance(value, Seq):
        return all(known(i) for i in value.items)
    if isinstance(value, Table):
        return all(known(i) for i in value.items.values())
    return isinstance(value, Known)


def plain(value: Any) -> Value:
    """A Python value as Known, containers part by part."""
    if type(value) in (tuple, list):
        return Seq([plain(v) for v in value], type(value))
    if type(value) is dict:
        return Table({k: plain(v) for k, v in value.items()})
    return Known(value)


def unwrapped(value: Value) -> Any:
    """The Python value of a known one."""
    if isinstance(value, Seq):
        return value.kind(unwrapped(i) for i in value.items)
    if isinstance(value, Table):
        return {k: unwrapped(v) for k, v in value.items.items()}
    assert isinstance(value, Known)
    return value.value


def mentions(value: Any, text: str) -> bool:
    """Whether a value's expression reads a variable."""
    if isinstance(value, Seq):
        return any(mentions(i, text) for i in value.items)
    if isinstance(value, Table):
        return any(mentions(i, text) for i in value.items.values())
    tree = getattr(value, "tree", None)
    return tree is not None and any(isinstance(n, ast.Name) and n.id == text for n in walk(tree))


def walk(tree: Any) -> Iterator[Any]:
    """Every node, those inside calls whose arguments are not settled yet among them."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += list(ast.iter_child_nodes(node))
        pending = getattr(node, "pending", None)
        if pending is not None:
            todo += list(pending.bound.values())
