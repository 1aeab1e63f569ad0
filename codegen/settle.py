"""Settles what is written of every function: which parameters are kept, which statements nobody needs, how calls are made."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from .abstract import Dynamic, Known, Pending, Seq, Value, clone, samples
from .docs import told
from .knowledge import may_be_none
from .source import refer
from .stand import Stand
from .tidy import joined_up, target_name, target_names
from .trees import constant, name
from .units import Unit, default_nodes, parameters


class Settler:
    """`unit_of`: the unit of a module's forward, None where the module is torch's or written as it stands."""

    def __init__(self, units: Iterable[Unit], unit_of: dict[int, Unit | None], bodies: list[list[Any]]) -> None:
        self.units, self.unit_of, self.bodies = list(units), unit_of, bodies

    def run(self) -> None:
        """Least fixpoint: a parameter is kept when something that is needed reads it."""
        for unit in self.units:
            unit.kept = set(self.changeable(unit)) if unit.all_kept else set()
        together = list(self.groups())
        changed = True
        while changed:
            changed = False
            for unit in self.units:
                found = unit.kept | (self.needed(unit.body) & set(self.changeable(unit)))  # type: ignore[attr-defined]
                if found != unit.kept:
                    unit.kept, changed = found, True
            for group in together:
                union = set().union(*(u.kept for u in group))
                for u in group:
                    if u.kept != union:
                        u.kept, changed = set(union), True
        for unit in self.units:
            unit.body = self.cleaned(unit.body)  # type: ignore[attr-defined]
        for body in self.bodies:
            body[:] = self.cleaned(body)
        for body in [*(u.body for u in self.units), *self.bodies]:  # type: ignore[attr-defined]
            for statement in body:
                self.write_calls(statement)
        for unit in self.units:
            unit.tree = self.function(unit)

    def changeable(self, unit: Unit) -> list[str]:
        """Parameters that are not the same in all calls, in order; those of a `**` parameter come last."""
        args = unit.args or {}
        own = [a.arg for a in parameters(unit.node)[(1 if unit.owner is not None else 0) :]]
        every = [*own, *(k for k in args if k not in own)]
        return [k for k in every if isinstance(args.get(k), Dynamic)]

    def groups(self) -> Iterator[list[Unit]]:
        """Units that are called by one expression, which therefore take the same arguments."""
        for body in [*(u.body for u in self.units), *self.bodies]:  # type: ignore[attr-defined]
            for pending in pendings(body):
                found = list(dict.fromkeys(u for u in map(self.callee, pending.callees) if u is not None))
                if len(found) > 1:
                    yield found

    def callee(self, what: Any) -> Unit | None:
        if isinstance(what, Unit):
            return None if what.opaque else what
        return self.unit_of.get(id(what))

    # ---- what is needed

    def needed(self, body: list[Any]) -> set[str]:
        """Variables that statements with an effect or a result read, and all that those are made from."""
        found: set[str] = set()
        while True:
            before = len(found)
            self.collect(body, found)
            if len(found) == before:
                return found

    def collect(self, body: list[Any], found: set[str]) -> None:
        for node in body:
            if isinstance(node, ast.If):
                if self.matters(node.body, found) or self.matters(node.orelse, found):
                    found |= self.reads(node.test)
                self.collect(node.body, found)
                self.collect(node.orelse, found)
            elif isinstance(node, ast.For):
                if self.matters(node.body, found):
                    found |= self.reads(node.iter)
                self.collect(node.body, found)
            elif isinstance(node, ast.Assign):
                if self.assign_matters(node, found):
                    found |= self.reads(node.value)
                    for target in node.targets:
                        if isinstance(target, ast.Subscript):
                            found |= self.reads(target.slice)
            elif isinstance(node, ast.AugAssign):
                if target_name(node.target) in found:
                    found |= self.reads(node.value)
            else:
                found |= self.reads(node)

    def matters(self, body: list[Any], found: set[str]) -> bool:
        for node in body:
            if isinstance(node, ast.If):
                if self.matters(node.body, found) or self.matters(node.orelse, found):
                    return True
            elif isinstance(node, ast.For):
                if self.matters(node.body, found):
                    return True
            elif isinstance(node, ast.Assign):
                if self.assign_matters(node, found):
                    return True
            elif isinstance(node, ast.AugAssign):
                if target_name(node.target) in found:
                    return True
            elif not isinstance(node, ast.Pass):
                return True
        return False

    def assign_matters(self, node: ast.Assign, found: set[str]) -> bool:
        return any(t in found for target in node.targets for t in target_names(target))

    def reads(self, tree: Any) -> set[str]:
        found: set[str] = set()
        todo = [tree]
        while todo:
            node = todo.pop()
            if isinstance(node, ast.Name):
                found.add(node.id)
            todo += list(ast.iter_child_nodes(node))
            pending = getattr(node, "pending", None)
            if pending is not None:
                todo += [v for k, v in pending.bound.items() if self.keeps(pending, k)]
        return found

    def keeps(self, pending: Pending, key: str) -> bool:
        units = [self.callee(c) for c in pending.callees]
        if any(u is None for u in units):
            return True
        return any(key in u.kept for u in units if u is not None)

    def cleaned(self, body: list[Any]) -> list[Any]:
        found = self.needed(body)
        return joined_up(self.kept_statements(body, found))

    def kept_statements(self, body: list[Any], found: set[str]) -> list[Any]:
        made: list[Any] = []
        for node in body:
            if not self.matters([node], found):
                continue
            if isinstance(node, ast.If):
                node.body, node.orelse = self.kept_statements(node.body, found), self.kept_statements(node.orelse, found)
                if not node.body and node.orelse:
                    from .knowledge import negated

                    node.test, node.body, node.orelse = negated(node.test), node.orelse, []
            elif isinstance(node, ast.For):
                node.body = self.kept_statements(node.body, found)
                unused_index(node, found)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                split = self.halved(node, found)
                if split is not None:
                    made += split
                    continue
            made.append(node)
        return made

    def halved(self, node: ast.Assign, found: set[str]) -> list[Any] | None:
        """`a, b = x, y` of which only one is needed."""
        target = node.targets[0]
        assert isinstance(target, ast.Tuple)
        if not (isinstance(node.value, ast.Tuple) and len(node.value.elts) == len(target.elts)):
            for t in target.elts:
                if isinstance(t, ast.Name) and t.id not in found:
                    t.id = "_"
            return None
        kept = [(t, v) for t, v in zip(target.elts, node.value.elts) if not (isinstance(t, ast.Name) and t.id not in found)]
        if len(kept) == len(target.elts):
            return None
        if len(kept) == 1:
            made = ast.Assign(targets=[kept[0][0]], value=kept[0][1])
        else:
            made = ast.Assign(targets=[ast.Tuple(elts=[t for t, _ in kept])], value=ast.Tuple(elts=[v for _, v in kept]))
        return [made]

    # ---- calls and signatures

    def write_calls(self, tree: Any) -> None:
        for node in list(ast.walk(tree)):
            pending = getattr(node, "pending", None)
            if pending is None:
                continue
            del node.pending
            self.arguments(node, pending)
            for child in (*node.args, *node.keywords):
                self.write_calls(child)

    def arguments(self, node: ast.Call, pending: Pending) -> None:
        units = [self.callee(c) for c in pending.callees]
        first = next((u for u in units if u is not None), None)
        if first is None or any(u is None for u in units):
            order = self.original_order(pending)
            kept = [k for k in order if k in pending.bound] + [k for k in pending.bound if k not in order]
            positional = order
        else:
            positional = [k for k in self.changeable(first) if k in first.kept]
            kept = [k for k in positional if k in pending.bound]
        straight = True
        for index, key in enumerate(kept):
            straight = straight and index < len(positional) and positional[index] == key
            value = pending.bound[key]
            if straight:
                node.args.append(value)
            else:
                node.keywords.append(ast.keyword(arg=key, value=value))

    def original_order(self, pending: Pending) -> list[str]:
        import inspect

        what = pending.callees[0]
        if isinstance(what, Unit):
            return [a.arg for a in parameters(what.node)]
        found = list(inspect.signature(type(what).forward).parameters.values())[1:]
        return [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]

    def function(self, unit: Unit) -> ast.FunctionDef:
        node = unit.node
        kept = [k for k in self.changeable(unit) if k in unit.kept]
        annotations = {a.arg: a.annotation for a in parameters(node)}
        defaults = default_nodes(node)
        args = [ast.arg(arg=parameters(node)[0].arg)] if unit.owner is not None else []
        given: list[Any] = []
        for key in kept:
            value = (unit.args or {})[key]
            annotation = annotations.get(key) if key in annotations else getattr(node.args.kwarg, "annotation", None)
            args.append(ast.arg(arg=key, annotation=self.annotation(value, annotation, unit.module)))
            optional = key in unit.missing or (unit.me is None and False)
            if optional or given:
                default = defaults.get(key, ast.Constant(value=None))
                given.append(refer(clone(default), unit.module))
        signature = ast.arguments(posonlyargs=[], args=args, vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=given)
        body = list(unit.body)  # type: ignore[attr-defined]
        doc = told(ast.get_docstring(node) or "", {a.arg for a in parameters(node)} - set(kept) - {"self"}, keep_first=False)
        if doc:
            body.insert(0, ast.Expr(value=ast.Constant(value=doc)))
        return ast.FunctionDef(name=unit.name, args=signature, body=body, decorator_list=[], returns=self.result(unit))

    def annotation(self, value: Value, source: Any, module: str) -> Any:
        sample = samples(value)
        none = may_be_none(value)
        made: Any = None
        if isinstance(sample, Stand):
            made = name("Tensor")
        elif source is not None:
            made = refer(clone(source), module)
            if not none:
                made = without_none(made)
            return made
        if made is None:
            return None
        return ast.BinOp(left=made, op=ast.BitOr(), right=constant(None)) if none else made

    def result(self, unit: Unit) -> Any:
        gives: list[Value] = unit.gives  # type: ignore[attr-defined]
        if not gives or all(isinstance(g, Known) and g.value is None for g in gives):
            return constant(None)
        kinds = {kind(g) for g in gives}
        if len(kinds) == 1:
            one = kinds.pop()
            if one is not None:
                return refer_torch(ast.parse(one, mode="eval").body)
        if unit.node.returns is None:
            return None
        made = refer(clone(unit.node.returns), unit.module)
        if not any(may_be_none(g) for g in gives):
            made = without_none(made)
        return made


def refer_torch(tree: Any) -> Any:
    for node in ast.walk(tree):
        for mark in ("lineno", "col_offset", "end_lineno", "end_col_offset"):
            if hasattr(node, mark):
                delattr(node, mark)
    return tree


def kind(value: Value) -> str | None:
    """The annotation of a result, where its sample tells."""
    if isinstance(value, Seq):
        parts = [kind(i) for i in value.items]
        return None if None in parts else f"tuple[{', '.join(p for p in parts if p)}]"
    sample = samples(value)
    if isinstance(sample, Stand):
        return "Tensor | None" if may_be_none(value) else "Tensor"
    return None


def without_none(tree: Any) -> Any:
    """`X | None` → `X`."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.right, ast.Constant) and tree.right.value is None:
        return without_none(tree.left)
    return tree


def pendings(body: list[Any]) -> Iterator[Pending]:
    todo = list(body)
    while todo:
        node = todo.pop()
        todo += list(ast.iter_child_nodes(node))
        pending = getattr(node, "pending", None)
        if pending is not None:
            yield pending
            todo += list(pending.bound.values())


def unused_index(node: ast.For, found: set[str]) -> None:
    """`for i, layer in enumerate(layers)` whose `i` nobody reads."""
    target, over = node.target, node.iter
    if not (isinstance(target, ast.Tuple) and len(target.elts) == 2 and isinstance(target.elts[0], ast.Name)):
        return
    if not (isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id == "enumerate" and len(over.args) == 1):
        return
    read = {n.id for s in node.body for n in ast.walk(s) if isinstance(n, ast.Name)} | {
        n.id for p in pendings(node.body) for v in p.bound.values() for n in ast.walk(v) if isinstance(n, ast.Name)
    }
    if target.elts[0].id not in read:
        node.target, node.iter = target.elts[1], over.args[0]
