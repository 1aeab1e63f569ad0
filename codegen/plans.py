"""Instances → classes to write: which instances share a class, what its constructor takes, and how each is made."""

from __future__ import annotations

import keyword
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .abstract import clone
from .fold import folded
from .leaves import Leaf, Unwritable, is_torch, torch_arguments
from .trees import literal
from .verbatim import Code

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


@dataclass(eq=False)
class Plan:
    """One class to write, for instances that differ in numbers only."""

    cls: type
    code: Code
    instances: list[Made] = field(default_factory=list)
    name: str = ""
    parameters: list[str] = field(default_factory=list)
    column: list[int | None] = field(default_factory=list)
    """For each leaf the constructor parameter it is, or None where it has one value in all instances."""

    def values(self, made: Made) -> list[Any]:
        """What an instance gives for the parameters."""
        leaves = made.leaves()
        return [leaves[self.column.index(i)].value for i in range(len(self.parameters))]

    def close(self) -> None:
        """Leaves that differ among the instances become parameters; those that always agree become one."""
        rows = [made.leaves() for made in self.instances]
        seen: dict[tuple[Any, ...], int] = {}
        self.column, self.parameters = [], []
        for index, leaf in enumerate(rows[0]):
            values = tuple((type(row[index].value), row[index].value) for row in rows)
            if len(set(map(repr, values))) == 1:
                self.column.append(None)
                continue
            if values not in seen:
                seen[values] = len(self.parameters)
                self.parameters.append(self._fresh(leaf))
            self.column.append(seen[values])

    def fold(self) -> None:
        """Attributes that are one number in all instances become literals in a copy of the methods."""
        if self.code.whole:
            return
        index = len(self.instances[0].base)
        literals: dict[str, Any] = {}
        for attr, member in self.instances[0].members:
            if isinstance(member, Leaf) and self.column[index] is None:
                literals[attr] = member.value
                del self.column[index]
                continue
            index += len(flat(member))
        for made in self.instances:
            made.members = [(a, m) for a, m in made.members if a not in literals]
        methods = [folded(clone(m), literals) for m in self.code.methods]
        self.code = replace(self.code, methods=methods)

    def _fresh(self, leaf: Leaf) -> str:
        wanted = [leaf.hint, f"{leaf.owner}_{leaf.hint}" if leaf.owner else leaf.hint]
        wanted += [f"{leaf.hint}_{i}" for i in range(2, 99)]
        return next(w for w in wanted if w not in self.parameters and w.isidentifier() and not keyword.iskeyword(w))


@dataclass(eq=False)
class Made:
    """How one module is made: members in the order of its constructor, each with leaves or further modules."""

    module: nn.Module
    path: str
    kind: str
    """"plan", "torch", "list", "dict", "sequential", "box" (a plain container)."""
    members: list[tuple[str, Any]] = field(default_factory=list)
    """plan: (attribute, Leaf, TensorMember or Made). torch: (keyword or "", Leaf). Containers: (key, Made)."""
    plan: Plan | None = None
    base: list[tuple[str, Leaf]] = field(default_factory=list)
    """Arguments of the constructor of a torch.nn class that it extends."""

    def leaves(self) -> list[Leaf]:
        """Every number in the call that makes it (of a plan: in its constructor's body)."""
        return [leaf for _, leaf in self.base] + [leaf for _, member in self.members for leaf in flat(member)]

    @cached_property
    def deep(self) -> tuple[Any, ...]:
        """Every number down to the leaves."""
        found: list[Any] = [(type(leaf.value), leaf.value) for _, leaf in self.base]
        for _, member in self.members:
            if isinstance(member, Made):
                found += member.deep
            else:
                found += [(type(leaf.value), leaf.value) for leaf in flat(member)]
        return tuple(found)

    @cached_property
    def uniform(self) -> bool:
        """A list whose elements are made by the same call."""
        if self.kind not in ("list", "sequential", "dict") or len(self.members) < 2 + (self.kind == "dict"):
            return False
        if self.kind == "dict" and key_range(self) is None:
            return False
        first = self.members[0][1]
        return all(m.skeleton == first.skeleton and m.deep == first.deep for _, m in self.members[1:])

    @cached_property
    def skeleton(self) -> Any:
        """What instances must share to be made by one class."""
        if self.kind == "plan":
            return ("plan", id(self.plan))
        if self.kind == "torch":
            return ("torch", type_of(self.module))
        if self.uniform:
            return (self.kind, "*" if self.kind != "dict" else key_range(self), self.members[0][1].skeleton)
        return (self.kind, tuple((key, shape_of(m)) for key, m in self.members))


def key_range(made: Made) -> range | None:
    """The keys of a dict that are the texts of evenly spaced numbers."""
    keys = [key for key, _ in made.members]
    if len(keys) < 3 or not all(k.isdecimal() for k in keys):
        return None
    first, step = int(keys[0]), int(keys[1]) - int(keys[0])
    found = range(first, first + step * len(keys), step) if step > 0 else None
    return found if found is not None and [str(i) for i in found] == keys else None


def type_of(module: nn.Module) -> type:
    return next(c for c in type(module).__mro__ if is_torch(c))


def shape_of(member: Any) -> Any:
    if isinstance(member, Made):
        return member.skeleton
    return "leaf" if isinstance(member, Leaf) else (member.kind, len(member.shape), member.extra)


def flat(member: Any) -> list[Leaf]:
    """Leaves of a member as seen by the class that holds it."""
    if isinstance(member, Leaf):
        return [member]
    if isinstance(member, TensorMember):
        return list(member.shape)
    if member.kind == "plan":
        return [Leaf(v, p, member.path.rpartition(".")[2]) for v, p in zip(member.plan.values(member), member.plan.parameters)]
    if member.uniform:
        count = [] if member.kind == "dict" else [Leaf(len(member.members), "count", member.path.rpartition(".")[2])]
        return count + flat(member.members[0][1])
    return [leaf for _, inner in member.members for leaf in flat(inner)]


@dataclass(frozen=True)
class TensorMember:
    """A parameter or buffer: its dims as leaves, and what else its constructor says."""

    kind: str
    shape: tuple[Leaf, ...]
    extra: tuple[tuple[str, str], ...]


class Planner:
    """Goes through a tree of modules, children first."""

    def __init__(self, code_of: Callable[[nn.Module, str], Code | None], dtype: torch.dtype) -> None:
        self.code_of, self.dtype = code_of, dtype
        self.plans: list[Plan] = []
        self.found: dict[Any, Plan] = {}
        self.by_module: dict[int, Made] = {}
        self.pending: list[Made] = []

    def make(self, module: nn.Module, path: str) -> Made:
        """Describe a module and everything below. Plans are complete only after `close` of their level."""
        try:
            made = self._describe(module, path)
        except Unwritable as error:
            error.path = getattr(error, "path", path)  # type: ignore[attr-defined]
            raise
        self.by_module[id(module)] = made
        return made

    def close(self) -> None:
        """Settle constructor parameters, inner classes first."""
        for plan in self.plans:
            plan.close()
        for plan in self.plans:
            plan.fold()

    def _describe(self, module: nn.Module, path: str) -> Made:
        code = self.code_of(module, path)
        if code is None:
            cls = next(c for c in type(module).__mro__ if is_torch(c))
            if cls in CONTAINERS:
                kind = {nn.ModuleList: "list", nn.ModuleDict: "dict", nn.Sequential: "sequential"}[cls]
                return Made(module, path, kind, [(k, self.make(m, f"{path}.{k}")) for k, m in module._modules.items() if m is not None])
            if cls is nn.Module:
                children = [(k, self.make(m, f"{path}.{k}")) for k, m in module._modules.items() if m is not None]
                return Made(module, path, "box", children)
            if any(m is not None for m in module._modules.values()):
                raise Unwritable(f"{cls.__name__} at {path} holds modules of its own")
            return Made(module, path, "torch", [*torch_arguments(module, cls, path.rpartition(".")[2])])
        return self._own(module, path, code)

    def _own(self, module: nn.Module, path: str, code: Code) -> Made:
        made = Made(module, path, "plan")
        every = "*" in code.reads
        for attr, value in vars(module).items():
            if attr.startswith("_") or attr == "training" or not (attr in code.reads or (every and literal(value))):
                continue
            if isinstance(value, torch.Tensor) or not literal(value):
                raise Unwritable(f"{type(module).__name__}.{attr} is a {type(value).__name__}, which has no literal")
            made.members.append((attr, Leaf(value, attr)))
        taken = {attr for attr, _ in made.members}
        if code.base is not nn.Module and code.base not in CONTAINERS:
            made.base = torch_arguments(module, code.base, "")
        if code.base is nn.Module:
            for attr, tensor in module._parameters.items():
                made.members.append((attr, self._tensor("parameter", attr, tensor, module)))
            for attr, tensor in module._buffers.items():
                made.members.append((attr, self._tensor("buffer", attr, tensor, module)))
        for attr, child in module._modules.items():
            if child is None:
                if attr in code.reads and attr not in taken:
                    made.members.append((attr, Leaf(None, attr)))
            elif stateful(child) or attr in code.reads or every or code.base in CONTAINERS:
                made.members.append((attr, self.make(child, f"{path}.{attr}")))
        key = (type(module), code.key, tuple((attr, shape_of(member)) for attr, member in made.members))
        plan = self.found.get(key)
        if plan is None:
            plan = self.found[key] = Plan(type(module), code)
            self.plans.append(plan)
        made.plan = plan
        plan.instances.append(made)
        return made

    def _tensor(self, kind: str, attr: str, tensor: Any, module: nn.Module) -> Any:
        if tensor is None:
            return Leaf(None, attr)
        extra = []
        if tensor.dtype != (self.dtype if tensor.is_floating_point() else None):
            extra.append(("dtype", str(tensor.dtype)))
        if kind == "parameter" and not tensor.requires_grad:
            extra.append(("requires_grad", "False"))
        if kind == "buffer" and attr in module._non_persistent_buffers_set:
            raise Unwritable(f"{type(module).__name__}.{attr} is a buffer outside the state dict: its values are known to nobody else")
        hints = ["width"] if tensor.dim() == 1 else ["count", "width"] if tensor.dim() == 2 else [f"dim{i}" for i in range(tensor.dim())]
        return TensorMember(kind, tuple(Leaf(n, hint, attr) for n, hint in zip(tensor.shape, hints)), tuple(extra))


def stateful(module: nn.Module) -> bool:
    """Whether the state dict has anything of a module."""
    own = (*module._parameters.values(), *module._buffers.values())
    return any(t is not None for t in own) or any(stateful(m) for m in module._modules.values() if m is not None)
