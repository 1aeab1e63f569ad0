"""A class as it stands: the methods that `forward` reaches, with its bases folded in. For what cannot be specialised."""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from .leaves import is_torch
from .source import class_node, method_node, refer
from .trees import attribute, name

DROPPED = ("__init__", "reset_parameters", "init_weights", "extra_repr")


@dataclass
class Code:
    """What is written of a class beside its constructor."""

    doc: str
    methods: list[ast.FunctionDef]
    base: type = nn.Module
    reads: set[str] = field(default_factory=set)
    """Attributes of `self` that the methods read."""
    whole: bool = False
    """Whether it is written as it stands."""

    @cached_property
    def key(self) -> str:
        return self.doc + "".join(ast.dump(m) for m in self.methods)


def torch_base(cls: type) -> type:
    return next(c for c in cls.__mro__ if is_torch(c))


def doc_of(cls: type) -> str:
    return ast.get_docstring(class_node(cls)) or ""


def verbatim(cls: type) -> Code:
    """Every method that `forward` reaches, bases folded in: `super().m()` of an own base becomes `self.base_m()`. Raises NoSource."""
    mro = [c for c in cls.__mro__ if not is_torch(c) and c is not object]
    methods: dict[str, ast.FunctionDef] = {}
    reads: set[str] = set()
    todo: list[tuple[str, type | None, str]] = [("forward", None, "forward")]
    while todo:
        called, above, written = todo.pop()
        if written in methods:
            continue
        start = 0 if above is None else mro.index(above) + 1
        owner = next((c for c in mro[start:] if method_node(c, called) is not None), None)
        if owner is None:
            continue
        node = refer(copy.deepcopy(method_node(owner, called)), owner.__module__)
        node.name = written
        methods[written] = node
        rewritten = Super(owner, mro)
        rewritten.visit(node)
        todo += rewritten.found
        own = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"}
        reads |= own
        todo += [(n, None, n) for n in sorted(own) if any(method_node(c, n) is not None for c in mro)]
        if any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ("getattr", "hasattr") for n in ast.walk(node)):
            reads.add("*")
    if torch_base(cls) is not nn.Module:
        reads.add("*")  # who holds it may ask for its attributes
    return Code(doc_of(cls), list(methods.values()), torch_base(cls), reads, whole=True)


class Super(ast.NodeTransformer):
    """`super().m` → `self.base_m`, where the base is not torch's."""

    def __init__(self, owner: type, mro: list[type]) -> None:
        self.owner, self.mro = owner, mro
        self.found: list[tuple[str, type | None, str]] = []

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        self.generic_visit(node)
        inner = node.value
        if not (isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "super"):
            return node
        above = self.mro[self.mro.index(self.owner) + 1 :]
        base = next((c for c in above if method_node(c, node.attr) is not None), None)
        if base is None:
            return node
        written = f"{re.sub(r'(?<!^)(?=[A-Z])', '_', base.__name__).lower()}_{node.attr}"
        self.found.append((node.attr, self.owner, written))
        return attribute(name("self"), written)
