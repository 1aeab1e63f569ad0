"""Loops: over layers they stay loops, over other known things they are written out, and equal rounds are put together again."""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

from .abstract import (
    UNKNOWN,
    Dynamic,
    Escape,
    Mod,
    Over,
    Seq,
    Table,
    Unsupported,
    Value,
    clone,
    samples,
)  # fmt: skip
from .execute import Executor, loads, marked, stores
from .frames import Frame
from .knowledge import is_loose, may_be_none, merged, negated
from .trees import assign, constant, name


class Looper(Executor):
    """`for` and `continue`."""

    def exec_For(self, node: ast.For, frame: Frame) -> bool:
        if node.orelse:
            raise Unsupported("for ... else")
        source = self.eval(node.iter, frame)
        elements = self.iterated(source)
        if elements is None:
            several = isinstance(source, Mod) and all(isinstance(m, (nn.ModuleList, nn.Sequential)) for m in source.modules)
            if not isinstance(source, Dynamic) and not several:
                raise Unsupported(f"a loop over a {type(source).__name__}")
            self.loop(node, source, frame)
            return False
        over_modules = isinstance(source, (Mod, Over)) and all(module_of(e) is not None for e in elements)
        if over_modules and len(elements) > 1 and not any(isinstance(n, (ast.Return, ast.Break)) for n in ast.walk(node)):
            saved = [(f, dict(f.env), dict(f.names), f.out, list(f.out), f.depth, f.branch, len(f.futures)) for f in frame.chain()]
            try:
                self.loop(node, source, frame)
                return False
            except Escape:
                for f, env, names, place, out, depth, branch, futures in saved:
                    f.env, f.names, f.depth, f.branch, f.out = env, names, depth, branch, place
                    f.out[:] = out
                    del f.futures[futures:]
                self.segments(node, elements, frame)
                return False
        if any(isinstance(n, (ast.Break, ast.Continue)) for n in ast.walk(node)) and not self.can_continue(node):
            raise Unsupported("break")
        for element in elements:
            self.round(node, element, frame)
        return False

    def can_continue(self, node: ast.For) -> bool:
        return not any(isinstance(n, ast.Break) for n in ast.walk(node))

    def exec_Continue(self, node: ast.Continue, frame: Frame) -> bool:
        if frame.branch != frame.loop_branch:
            raise Unsupported("continue under a condition")
        return True

    def round(self, node: ast.For, element: Value, frame: Frame) -> None:
        """One round of a loop that is written out."""
        self.take(node.target, element, frame)
        frame.futures.append(loads(node))
        before, frame.loop_branch = frame.loop_branch, frame.branch
        if self.block(without_continue(node.body), frame) and not isinstance(last_of(node.body), ast.Continue) and frame.result is not None:
            raise Unsupported("a return inside a loop that is written out")
        frame.loop_branch = before
        frame.futures.pop()

    def loop(self, node: ast.For, source: Value, frame: Frame) -> None:
        """A loop that stays one. What its body assigns is a variable of run time from the beginning."""
        changed = [v for v in stores(node.body) if v in frame.env]
        for variable in changed:
            value = frame.env[variable]
            if isinstance(value, Table) or (isinstance(value, Seq) and value.kind is list):
                if any(
                    isinstance(n, ast.Name) and n.id == variable and isinstance(n.ctx, ast.Store) for s in node.body for n in ast.walk(s)
                ):
                    raise Escape("a container that changes in a loop")
                continue  # a change of its entries is met where it happens
            if isinstance(value, Mod):
                continue
            frame.settle(variable)
        for _ in range(3):
            before, out, names = dict(frame.env), frame.out, dict(frame.names)
            frame.out = []
            target = self.loop_target(node.target, source, frame)
            frame.futures.append(loads(node))
            frame.depth += 1
            frame.branch += 1
            self.block(without_continue(node.body), frame)
            frame.depth -= 1
            frame.branch -= 1
            frame.futures.pop()
            body, after = frame.out, frame.env
            frame.out = out
            stable = True
            for variable in changed:
                old, new = before[variable], after.get(variable)
                if not isinstance(old, Dynamic) or new is None:
                    continue
                wider = Dynamic(
                    old.tree,
                    merged(old.sample, samples(new)) if samples(new) is not UNKNOWN else UNKNOWN,
                    old.none or may_be_none(new),
                    old.loose or is_loose(new),
                )
                if knowledge(wider) != knowledge(old):
                    before[variable] = wider
                    stable = False
            if not stable:
                frame.env, frame.names = before, names
                continue
            for variable in changed:
                new = after.get(variable)
                if new is not None and not isinstance(new, (Mod, Table, Seq)):
                    text = frame.written(variable)
                    if not (isinstance(new, Dynamic) and isinstance(new.tree, ast.Name) and new.tree.id == text):
                        body.append(assign(text, new.lift()))
                    frame.env[variable] = before[variable]
            for variable in list(frame.env):
                if variable not in before:
                    del frame.env[variable]
            if body:
                frame.emit(marked(ast.For(target=target, iter=source.lift(), body=body, orelse=[]), node))
            return
        raise Unsupported("a loop whose variables do not settle")

    def loop_target(self, target: Any, source: Value, frame: Frame) -> Any:
        return self.dynamic_target(target, source, frame)

    def segments(self, node: ast.For, elements: list[Value], frame: Frame) -> None:
        """Write a loop out round by round, then put equal rounds in a row together again."""
        rounds: list[list[Any]] = []
        out = frame.out
        for element in elements:
            frame.out = []
            self.round(node, element, frame)
            rounds.append(frame.out)
        frame.out = out
        start = 0
        while start < len(rounds):
            stop = start
            pattern = folded(rounds[start], elements[start])
            while stop < len(rounds) and pattern is not None and folded(rounds[stop], elements[stop]) == pattern:
                stop += 1
            if stop - start < 2:
                for statement in rounds[start]:
                    frame.emit(statement)
                start += 1
                continue
            if rounds[start]:
                frame.emit(self.rolled(rounds[start], elements, start, stop, frame))
            start = stop

    def rolled(self, body: list[Any], elements: list[Value], start: int, stop: int, frame: Frame) -> Any:
        mod = module_of(elements[start])
        assert mod is not None and isinstance(mod.tree, ast.Subscript)
        source = clone(mod.tree.value)
        lower = None if start == 0 else constant(start)
        upper = None if stop == len(mod.whole or elements) else constant(stop)
        if lower is not None or upper is not None:
            source = ast.Subscript(value=source, slice=ast.Slice(lower=lower, upper=upper))
        variable = frame.fresh("layer")
        return ast.For(target=name(variable), iter=source, body=[replaced(s, mod.tree, name(variable)) for s in body], orelse=[])


def knowledge(value: Dynamic) -> tuple[bool, ...]:
    return value.none, value.loose, value.sample is UNKNOWN, value.sample is None


def without_continue(body: list[Any]) -> list[Any]:
    """`if test: continue` and what follows as one condition."""
    for index, node in enumerate(body):
        if isinstance(node, ast.If) and not node.orelse and len(node.body) == 1 and isinstance(node.body[0], ast.Continue):
            rest = without_continue(body[index + 1 :])
            made = ast.If(test=negated(node.test), body=rest, orelse=[])
            return [*body[:index], marked(made, node)] if rest else body[:index]
    return body


def last_of(body: list[Any]) -> Any:
    return body[-1]


def module_of(element: Value) -> Mod | None:
    if isinstance(element, Mod):
        return element
    if isinstance(element, Seq):
        return next((m for i in element.items if (m := module_of(i)) is not None), None)
    return None


def folded(body: list[Any], element: Value) -> str | None:
    """The text of a round with its layer taken out."""
    mod = module_of(element)
    if mod is None:
        return None
    return "\n".join(dump(replaced(clone(s), mod.tree, ast.Name(id="…"))) for s in body)


def dump(tree: Any) -> str:
    """Like `ast.dump`, with the arguments of calls that are not settled yet."""
    if isinstance(tree, list):
        return "[" + ", ".join(dump(t) for t in tree) + "]"
    if not isinstance(tree, ast.AST):
        return repr(tree)
    fields = ", ".join(f"{f}={dump(getattr(tree, f, None))}" for f in tree._fields if f not in ("ctx", "type_comment", "kind"))
    pending = getattr(tree, "pending", None)
    more = "" if pending is None else "|" + ", ".join(f"{k}={dump(v)}" for k, v in sorted(pending.bound.items()))
    return f"{type(tree).__name__}({fields}{more})"


def replaced(node: Any, old: Any, new: Any) -> Any:
    """The tree with every occurrence of an expression replaced."""
    wanted = dump(old)

    def visit(tree: Any) -> Any:
        if isinstance(tree, ast.expr) and dump(tree) == wanted:
            return clone(new)
        for field_, value in ast.iter_fields(tree):
            if isinstance(value, ast.AST):
                setattr(tree, field_, visit(value))
            elif isinstance(value, list):
                setattr(tree, field_, [visit(v) if isinstance(v, ast.AST) else v for v in value])
        pending = getattr(tree, "pending", None)
        if pending is not None:
            pending.bound = {k: visit(v) for k, v in pending.bound.items()}
        return tree

    return visit(node)
