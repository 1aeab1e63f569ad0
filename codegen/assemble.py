"""Plans, helpers and programs → the definitions of a file, in the order of their use, with settled names."""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Iterator
from typing import Any

from torch import nn

from .construct import constructor, torch_class
from .ir import Class, Constant, Function, Import, Method
from .plans import Plan
from .source import Key, bound, definition, parsed, refer
from .statements import block, docstring, function
from .values import Special

Target = Plan | Import | tuple


class Names:
    """One name for every global of the file."""

    def __init__(self, reserved: set[str]) -> None:
        self.taken = {*keyword.kwlist, *dir(builtins), *reserved}
        self.by_target: dict[Any, str] = {}

    def give(self, target: Any, *wanted: str) -> str:
        if target not in self.by_target:
            options = [*wanted, *(f"{wanted[-1]}{i}" for i in range(2, 99))]
            chosen = next(o for o in options if o not in self.taken)
            self.taken.add(chosen)
            self.by_target[target] = chosen
        return self.by_target[target]


class Assembler:
    """Collects definitions, each behind what it needs."""

    def __init__(self, plans: list[Plan], special: dict[Key, Any]) -> None:
        self.plans, self.special = plans, special
        self.of_class: dict[type, list[Plan]] = {}
        for plan in plans:
            self.of_class.setdefault(plan.cls, []).append(plan)
        self.imports: list[Import] = []
        self.order: list[Any] = []
        self.trees: dict[Any, Any] = {}
        self.seen: set[Any] = set()
        self.locals: set[str] = set()

    def need(self, target: Any) -> None:
        """Place a definition and, before it, all that it refers to."""
        if target in self.seen or target is None:
            return
        self.seen.add(target)
        if isinstance(target, Import):
            self.imports.append(target)
            return
        if isinstance(target, Plan):
            trees = [t for t in (constructor(target), *target.code.methods) if t is not None]
            self.scan(trees)
            if target.code.base is not nn.Module:
                self.scan([torch_class(target.code.base)])
            self.trees[target] = trees
        elif isinstance(target, Special):
            self.scan([self.special[target.key]])
            self.trees[target] = self.special[target.key]
        else:
            own = self.classes(target)
            if own is not None:
                for plan in own:
                    self.need(plan)
                return
            tree = refer(definition(target), target[0])
            self.scan([tree])
            self.trees[target] = tree
        self.order.append(target)

    def classes(self, key: Key) -> list[Plan] | None:
        """The planned classes that a module class of the source became."""
        node = parsed(key[0]).names.get(key[1])
        if not isinstance(node, ast.ClassDef):
            return None
        cls = getattr(__import__("sys").modules[key[0]], key[1])
        return self.of_class.get(cls, []) if issubclass(cls, nn.Module) else None

    def scan(self, trees: list[Any]) -> None:
        for tree in trees:
            if isinstance(tree, ast.FunctionDef):
                self.locals |= bound(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Name):
                    self.need(target_of(node))

    def settle(self, names: Names) -> None:
        """Give every definition its name and write it where it is used."""
        for target in sorted((i for i in self.imports), key=lambda i: (i.module, i.name)):
            names.give(target, target.binds, f"{target.module.replace('.', '_')}_{target.binds}")
        for target in self.order:
            if isinstance(target, Plan):
                target.name = names.give(target, target.name)
        for target in self.order:
            if not isinstance(target, Plan):
                key = target.key if isinstance(target, Special) else target
                names.give(target, key[1], f"{key[0].rpartition('.')[2]}_{key[1]}")
        for target in self.order:
            trees = self.trees[target] if isinstance(target, Plan) else [self.trees[target]]
            self.rename(trees, names)

    def rename(self, trees: list[Any], names: Names) -> None:
        for tree in trees:
            for node in ast.walk(tree):
                if not isinstance(node, ast.Name):
                    continue
                target = target_of(node)
                if target is None:
                    continue
                if isinstance(target, tuple) and target not in names.by_target:
                    plans = self.classes(target) or []
                    found = [names.by_target[p] for p in plans]
                    # in `isinstance`: a class that became several, or none
                    node.id = found[0] if len(found) == 1 else "(" + ", ".join(found) + ")"
                else:
                    node.id = names.by_target[target]

    def definitions(self, names: Names) -> Iterator[Constant | Function | Class]:
        for target in self.order:
            if isinstance(target, Plan):
                yield self.plan(target)
                continue
            tree = self.trees[target]
            given = names.by_target[target]
            if isinstance(tree, ast.FunctionDef):
                tree.name = given
                yield Function(given, tuple(function(tree, 0)))
            elif isinstance(tree, ast.ClassDef):
                tree.name = given
                yield Function(given, tuple(block([tree], 0)))
            else:
                for part in ast.walk(tree):
                    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id == target[1]:
                        part.id = given
                yield Constant(given, tuple(block([tree], 0)))

    def plan(self, plan: Plan) -> Class:
        base = ast.unparse(torch_class(plan.code.base))
        methods = tuple(Method(t.name, tuple(function(t, 4))) for t in self.trees[plan])
        return Class(plan.name, f"class {plan.name}({base}):", tuple(docstring(plan.code.doc, 4) if plan.code.doc else ()), methods)


ROOTS = {
    "torch": Import("torch"), "nn": Import("torch", "nn"), "F": Import("torch.nn", "functional", "F"), "Tensor": Import("torch", "Tensor"),
}  # fmt: skip


def target_of(node: ast.Name) -> Any:
    """What a name stands for: its mark, or one of torch's usual names in a tree made here."""
    if hasattr(node, "target"):
        return node.target
    return ROOTS.get(node.id) if getattr(node, "made_here", True) and not hasattr(node, "lineno") else None


def import_lines(imports: list[Import], names: Names) -> list[list[str]]:
    """The standard library, then torch; names of one module on one line."""
    groups: list[list[str]] = [[], []]
    plain = sorted(i for i in imports if not i.name)
    for found in plain:
        given = names.by_target[found]
        alias = "" if given == found.module else f" as {given}"
        groups[found.module.partition(".")[0] == "torch"].append(f"import {found.module}{alias}")
    for module in sorted({i.module for i in imports if i.name}):
        parts = sorted((i for i in imports if i.module == module and i.name), key=lambda i: (i.name.islower(), i.name))
        if module == "torch.nn" and [p.name for p in parts] == ["functional"]:
            groups[1].append(f"import torch.nn.functional as {names.by_target[parts[0]]}")
            continue
        texts = [p.name + ("" if names.by_target[p] == p.name else f" as {names.by_target[p]}") for p in parts]
        groups[module.partition(".")[0] == "torch"].append(f"from {module} import {', '.join(texts)}")
    return [sorted(g, key=lambda line: (line.startswith("from"), line)) for g in groups if g]
