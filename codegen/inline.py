"""Calls that are followed in place: when the result reads well it takes the call's place, else nothing has happened."""

from __future__ import annotations

import ast
from typing import Any

from .abstract import (
    UNKNOWN,
    Closure,
    Dynamic,
    Known,
    Mod,
    Unsupported,
    Value,
    same,
    samples,
)  # fmt: skip
from .builtin import Builtins
from .frames import Frame
from .knowledge import is_loose, may_be_none, merged
from .trees import name
from .units import (
    assign_inlined,
    body_of,
    collapse,
    prune,
    reads,
    size,
    trees_of,
)  # fmt: skip


class Inliner(Builtins):
    """Own functions, methods and lambdas in the place of their calls."""

    def inline(
        self,
        node: ast.FunctionDef,
        module: str,
        owner: type | None,
        me: Mod | None,
        bound: dict[str, Value],
        frame: Frame,
        limit: int,
        force: bool,
    ) -> tuple[bool, Value]:
        """Follow a call from here. (True, value) where its value takes the call's place; (False, value) where it does not."""
        if sum(1 for f in frame.chain() if f.node is node) > 1:
            raise Unsupported("recursion")
        chain = frame.chain()
        before = [(f, dict(f.env), dict(f.names), f.out, list(f.out)) for f in chain]
        inner = Frame(module, node, owner, me, {}, frame.unit, frame, depth=frame.depth, attempt=not force)
        if force:
            inner.out = frame.out
        if me is not None:
            inner.env[node.args.args[0].arg] = me
        self.enter(inner, node, bound, frame)
        ended = self.block(body_of(node), inner)
        result = inner.result if ended else Known(None)
        if inner.returns or (ended and inner.result is None):
            if force:
                raise Unsupported("an inlined call that returns at several places")
            self.restore(before)
            return False, self.any_of([*inner.returns, *([inner.result] if inner.result is not None else [])])
        assert result is not None
        if force:
            return True, result
        prune(inner.out, result)
        collapse(inner.out, result)
        trees = trees_of(result)
        own = sum(size(t) for t in trees) - sum(size(t) for v in bound.values() for t in trees_of(v))
        if not inner.out and own <= limit * max(1, len(trees)):
            return True, result
        self.restore(before)
        return False, result

    def any_of(self, results: list[Value]) -> Value:
        found = results[0]
        if all(same(found, r) for r in results[1:]):
            return found
        sample: Any = None
        for r in results:
            sample = merged(sample, samples(r)) if samples(r) is not UNKNOWN and sample is not UNKNOWN else UNKNOWN
        return Dynamic(name("_"), sample, any(may_be_none(r) for r in results), is_loose(*results))

    def restore(self, before: list[Any]) -> None:
        for f, env, names, place, out in before:
            f.env, f.names, f.out = env, names, place
            f.out[:] = out

    def enter(self, inner: Frame, node: ast.FunctionDef, bound: dict[str, Value], frame: Frame) -> None:
        """Bind the arguments of an inlined call: an expression read more than once gets a variable first."""
        for key, value in bound.items():
            if isinstance(value, Dynamic) and not value.atomic and reads(node, key) > 1:
                text = inner.written(key)
                inner.emit(assign_inlined(text, value.lift()))
                value = Dynamic(name(text), value.sample, value.none, value.loose)
            elif (
                isinstance(value, Dynamic)
                and isinstance(value.tree, ast.Name)
                and value.tree.id == key
                and frame.whole
                and not frame.alive(key)
            ):
                inner.names[key] = key
            inner.env[key] = value

    def closure_call(self, target: Closure, args: list[Value], frame: Frame) -> Value:
        origin = target.frame
        inner = Frame(
            origin.module,
            target.node,
            origin.owner,
            origin.me,
            dict(origin.env),
            frame.unit,
            frame,
            frame.out,
            dict(origin.names),
            depth=frame.depth,
        )
        for arg, value in zip(target.node.args.args, args):
            if isinstance(value, Dynamic) and not value.atomic and reads(target.node, arg.arg) > 1:
                text = frame.fresh(arg.arg)
                frame.emit(assign_inlined(text, value.lift()))
                value = Dynamic(name(text), value.sample, value.none, value.loose)
            inner.env[arg.arg] = value
        return self.eval(target.node.body, inner)
