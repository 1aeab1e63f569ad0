"""Expressions: what can be computed now is, the rest becomes an expression of run time."""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .abstract import (
    UNKNOWN,
    Closure,
    Dynamic,
    Fn,
    Known,
    Method,
    Mod,
    Py,
    Seq,
    Table,
    Unsupported,
    Value,
    known,
    plain,
    same,
    samples,
    unwrapped,
)  # fmt: skip
from .cached import CacheStand
from .frames import Frame
from .ir import Import
from .knowledge import alike, attempted, facts, is_loose, is_whole, may_be_none, negated
from .source import method_node, resolve
from .stand import Stand, stand
from .trees import attribute, constant, literal, name
from .values import reference

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.BitOr: operator.or_, ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_,
    ast.UAdd: operator.pos, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


class Evaluator:
    """Expressions. `calls.Caller` adds calls."""

    def eval(self, node: Any, frame: Frame) -> Value:
        rule = getattr(self, f"eval_{type(node).__name__}", None)
        if rule is None:
            raise Unsupported(f"{type(node).__name__} in an expression")
        return rule(node, frame)

    def run(self, node: Any, frame: Frame) -> Any:
        return self.eval(node, frame).lift()

    # ---- atoms

    def eval_Constant(self, node: ast.Constant, frame: Frame) -> Value:
        return Known(node.value)

    def eval_Name(self, node: ast.Name, frame: Frame) -> Value:
        if node.id in frame.env:
            return frame.env[node.id]
        return self.global_value(frame.module, node.id)

    def global_value(self, module: str, text: str) -> Value:
        target = resolve(module, text)
        if target is None:
            if hasattr(__builtins__, text) if not isinstance(__builtins__, dict) else text in __builtins__:
                found = __builtins__[text] if isinstance(__builtins__, dict) else getattr(__builtins__, text)
                return Py(found, name(text))
            raise Unsupported(f"the name {text}")
        if isinstance(target, Import):
            found = getattr(sys.modules[module], text)
            return Py(found, reference(target, target.binds))
        found = getattr(sys.modules[target[0]], target[1])
        if isinstance(found, type):
            return Py(found, reference(target, target[1]))
        if callable(found) and hasattr(found, "__code__"):
            return Fn(found, target)
        value = plain(found)
        if isinstance(value, (Known, Seq)) and literal(found):
            value.tree = reference(target, target[1])
            return value
        return Py(found, reference(target, target[1]))

    def eval_Attribute(self, node: ast.Attribute, frame: Frame) -> Value:
        return self.attribute_of(self.eval(node.value, frame), node.attr)

    def attribute_of(self, value: Value, attr: str) -> Value:
        if isinstance(value, Mod):
            return self.module_attribute(value, attr)
        if isinstance(value, Py):
            if not hasattr(value.object, attr):
                raise Unsupported(f"{value.object}.{attr}")
            return Py(getattr(value.object, attr), attribute(value.lift(), attr))
        if isinstance(value, Dynamic):
            sample = attempted(lambda: getattr(value.sample, attr)) if value.sample is not UNKNOWN else UNKNOWN
            if attr == "ndim" and isinstance(value.sample, Stand):
                return Known(value.sample.ndim)
            if isinstance(value.sample, CacheStand):
                return Dynamic(attribute(value.lift(), attr), sample, none=attr in value.sample.maybe)
            return Dynamic(attribute(value.lift(), attr), sample if not callable(sample) or isinstance(sample, Stand) else UNKNOWN)
        return Method(attr, value)

    def module_attribute(self, value: Mod, attr: str) -> Value:
        first = value.one
        for cls in type(first).__mro__:
            if attr in cls.__dict__:
                if cls.__module__.partition(".")[0] == "torch":
                    if attr in first.__dict__ or attr in first._modules or attr in first._parameters:
                        break
                    return Method(attr, value, cls)
                if method_node(cls, attr) is None:
                    break
                return Method(attr, value, cls)
        if not all(hasattr(m, attr) for m in value.modules):
            raise Unsupported(f"{type(first).__name__}.{attr}")
        found = [getattr(m, attr) for m in value.modules]
        tree = attribute(value.lift(), attr)
        if all(isinstance(f, nn.Module) for f in found):
            return Mod(tuple(found), tree)
        if all(isinstance(f, Tensor) for f in found):
            return Dynamic(tree, stand(found[0]) if len({f.dim() for f in found}) == 1 else UNKNOWN)
        if any(f != found[0] or type(f) is not type(found[0]) for f in found):
            raise Unsupported(f"an attribute {attr} that differs among the modules of a loop")
        result = plain(found[0])
        if type(found[0]) in (int, float) and len(value.modules) == 1 and isinstance(value.tree, ast.Name) and value.tree.id == "self":
            assert isinstance(result, Known)
            result.tree = tree
        elif not known(result) or not literal(found[0]):
            return Py(found[0], tree)
        return result

    # ---- operators

    def eval_BinOp(self, node: ast.BinOp, frame: Frame) -> Value:
        left = self.held(self.eval(node.left, frame), node.right, frame)
        return self.binary(node.op, left, self.eval(node.right, frame))

    def held(self, value: Value, rest: Any, frame: Frame) -> Value:
        return value

    def binary(self, op: Any, left: Value, right: Value) -> Value:
        if isinstance(left, Known) and isinstance(right, Known):
            result = OPERATORS[type(op)](left.value, right.value)
            tree = ast.BinOp(left=left.lift(), op=op, right=right.lift()) if left.tree is not None or right.tree is not None else None
            if tree is not None and isinstance(op, ast.Add) and right.tree is None and right.value == 0:
                tree = left.tree
            return Known(result, tree) if literal(result) else Unknowable.refuse(result)
        if isinstance(left, Seq) and isinstance(right, Seq) and isinstance(op, ast.Add):
            return Seq([*left.items, *right.items], left.kind)
        if isinstance(left, Seq) and isinstance(right, Known) and isinstance(op, ast.Mult):
            return Seq(left.items * right.value, left.kind)
        for one, other in ((left, right), (right, left)):
            whole = isinstance(other, Dynamic) and is_whole(other)
            if (
                whole
                and isinstance(one, Known)
                and one.value == 0
                and (isinstance(op, ast.Add) or (isinstance(op, ast.Sub) and one is right))
            ):
                return other
        tree = ast.BinOp(left=left.lift(), op=op, right=right.lift())
        return Dynamic(tree, self.sampled(OPERATORS[type(op)], left, right), loose=is_loose(left, right))

    def sampled(self, function: Callable[..., Any], *values: Value) -> Any:
        given = [samples(v) for v in values]
        return UNKNOWN if any(g is UNKNOWN for g in given) else attempted(lambda: function(*given))

    def eval_UnaryOp(self, node: ast.UnaryOp, frame: Frame) -> Value:
        value = self.eval(node.operand, frame)
        if isinstance(node.op, ast.Not):
            truth = self.truth(value)
            return Known(not truth) if truth is not None else Dynamic(negated(value.lift()), True)
        if isinstance(value, Known):
            tree = None if value.tree is None else ast.UnaryOp(op=node.op, operand=value.lift())
            return Known(OPERATORS[type(node.op)](value.value), tree)
        return Dynamic(ast.UnaryOp(op=node.op, operand=value.lift()), self.sampled(OPERATORS[type(node.op)], value))

    def truth(self, value: Value) -> bool | None:
        """Whether a value is true; None where only run time tells."""
        if isinstance(value, Known):
            return bool(value.value)
        if isinstance(value, Seq):
            return bool(value.items)
        if isinstance(value, Table):
            return bool(value.items)
        if isinstance(value, Mod):
            return bool(len(value.one)) if isinstance(value.one, (nn.ModuleList, nn.ModuleDict, nn.Sequential)) else True
        if isinstance(value, (Py, Fn, Method, Closure)):
            return True
        return None

    def eval_Compare(self, node: ast.Compare, frame: Frame) -> Value:
        values = [self.eval(n, frame) for n in (node.left, *node.comparators)]
        if len(values) == 2:
            return self.compared(node.ops[0], *values)
        results = [self.compared(op, a, b) for op, a, b in zip(node.ops, values, values[1:])]
        if all(isinstance(r, Known) for r in results):
            return Known(all(r.value for r in results))  # type: ignore[attr-defined]
        return Dynamic(ast.Compare(left=values[0].lift(), ops=node.ops, comparators=[v.lift() for v in values[1:]]), True)

    def compared(self, op: Any, left: Value, right: Value) -> Value:
        if isinstance(op, (ast.Is, ast.IsNot)) and isinstance(right, Known) and right.value is None:
            if isinstance(left, Known):
                return Known((left.value is None) == isinstance(op, ast.Is))
            if not isinstance(left, Dynamic) or not left.none:
                return Known(isinstance(op, ast.IsNot))
            if left.sample is None:  # it is in every case there is
                return Known(isinstance(op, ast.Is))
            return Dynamic(ast.Compare(left=left.lift(), ops=[op], comparators=[constant(None)]), True)
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(right, (Seq, Table)) and not right.items:
            return Known(isinstance(op, ast.NotIn))
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(left, Known):
            inside = self.contains(left.value, right)
            if inside is not None:
                return Known(inside == isinstance(op, ast.In))
        if known(left) and known(right):
            return Known(bool(OPERATORS[type(op)](unwrapped(left), unwrapped(right))))
        if isinstance(left, Py) and isinstance(right, Py):
            return Known(bool(OPERATORS[type(op)](left.object, right.object)))
        tree = ast.Compare(left=left.lift(), ops=[op], comparators=[right.lift()])
        sample = UNKNOWN if isinstance(op, (ast.In, ast.NotIn)) else self.sampled(OPERATORS[type(op)], left, right)
        return Dynamic(tree, sample)

    def contains(self, key: Any, right: Value) -> bool | None:
        if isinstance(right, Mod) and isinstance(right.one, nn.ModuleDict):
            found = {key in m for m in right.modules}  # type: ignore[operator]
            return found.pop() if len(found) == 1 else None
        if isinstance(right, Table):
            return key in right.items
        if known(right):
            return key in unwrapped(right)
        return None

    def eval_BoolOp(self, node: ast.BoolOp, frame: Frame) -> Value:
        both = isinstance(node.op, ast.And)
        kept: list[Value] = []
        with self.narrowing(frame) as narrow:
            for part in node.values:
                value = self.eval(part, frame)
                truth = self.truth(value)
                if truth is None:
                    kept.append(value)
                    narrow(part, both)
                elif truth != both:
                    if not kept:
                        return value
                    if isinstance(value, Known) and type(value.value) is bool:
                        return value
                    kept.append(value)
                    break
                elif part is node.values[-1] and not (isinstance(value, Known) and type(value.value) is bool):
                    kept.append(value)
        if not kept:
            return Known(both)
        if len(kept) == 1:
            return kept[0]
        return Dynamic(ast.BoolOp(op=node.op, values=[k.lift() for k in kept]), UNKNOWN, none=any(getattr(k, "none", False) for k in kept))

    def eval_IfExp(self, node: ast.IfExp, frame: Frame) -> Value:
        test = self.eval(node.test, frame)
        truth = self.truth(test)
        if truth is not None:
            return self.eval(node.body if truth else node.orelse, frame)
        with self.narrowing(frame) as narrow:
            narrow(node.test, True)
            body = self.pure(node.body, frame)
        with self.narrowing(frame) as narrow:
            narrow(node.test, False)
            other = self.pure(node.orelse, frame)
        if same(body, other):
            return body
        none = any(may_be_none(v) for v in (body, other))
        sample = samples(body)
        if sample is None or sample is UNKNOWN:
            sample = samples(other)
        elif samples(other) is not None and not alike(sample, samples(other)):
            sample = UNKNOWN
        return Dynamic(ast.IfExp(test=test.lift(), body=body.lift(), orelse=other.lift()), sample, none, is_loose(body, other))

    def pure(self, node: Any, frame: Frame) -> Value:
        """An expression under a condition: it may write no statements before itself."""
        before = len(frame.out)
        value = self.eval(node, frame)
        if len(frame.out) != before:
            raise Unsupported("an inlined call inside a conditional expression")
        return value

    @contextmanager
    def narrowing(self, frame: Frame) -> Iterator[Callable[[Any, bool], None]]:
        """What a test says about None holds inside; afterwards the variables are what they were."""
        before: dict[str, Value] = {}

        def narrow(test: Any, truth: bool) -> None:
            for variable, none in facts(test, truth):
                value = frame.env.get(variable)
                if isinstance(value, Dynamic) and value.none:
                    before.setdefault(variable, value)
                    frame.env[variable] = Known(None) if none else Dynamic(value.tree, value.sample, False, value.loose)

        yield narrow
        frame.env.update(before)


class Unknowable:
    @staticmethod
    def refuse(result: Any) -> Value:
        raise Unsupported(f"a {type(result).__name__} made of known values")
