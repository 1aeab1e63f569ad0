"""Expressions: what can be computed now is, the rest becomes an expression of run time."""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .abstract import (
    UNKNOWN,
    Closure,
    Dynamic,
    Escape,
    Fn,
    Known,
    Method,
    Mod,
    Over,
    Py,
    Seq,
    Table,
    Unsupported,
    Value,
    clone,
    known,
    mentions,
    plain,
    same,
    samples,
    unwrapped,
)  # fmt: skip
from .frames import Frame
from .ir import Import
from .source import method_node, package, resolve
from .stand import Stand, Standing, stand
from .trees import attribute, constant, item, literal, name
from .values import reference

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.BitOr: operator.or_, ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_,
    ast.UAdd: operator.pos, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


def attempted(function: Callable[[], Any]) -> Any:
    """A result made of stand-ins, UNKNOWN where there is none."""
    try:
        with Standing():
            return function()
    except Exception:  # whatever an operation on stand-ins raises, its result is not known
        return UNKNOWN


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

    # ---- containers

    def eval_Tuple(self, node: ast.Tuple, frame: Frame) -> Value:
        return self.sequence(node, frame, tuple)

    def eval_List(self, node: ast.List, frame: Frame) -> Value:
        return self.sequence(node, frame, list)

    def sequence(self, node: Any, frame: Frame, kind: type) -> Value:
        items: list[Value] = []
        for i, part in enumerate(node.elts):
            if isinstance(part, ast.Starred):
                inner = self.eval(part.value, frame)
                if not isinstance(inner, Seq):
                    rest = [
                        self.run(e, frame) if not isinstance(e, ast.Starred) else ast.Starred(value=self.run(e.value, frame))
                        for e in node.elts[i:]
                    ]
                    return Dynamic((ast.Tuple if kind is tuple else ast.List)(elts=[v.lift() for v in items] + rest))
                items += inner.items
            else:
                items.append(self.eval(part, frame))
        return Seq(items, kind, frame.depth)

    def eval_Dict(self, node: ast.Dict, frame: Frame) -> Value:
        keys = [self.eval(k, frame) for k in node.keys if k is not None]
        if len(keys) != len(node.keys) or not all(isinstance(k, Known) for k in keys):
            raise Unsupported("a dict with keys that are not known")
        return Table({k.value: self.eval(v, frame) for k, v in zip(keys, node.values)}, frame.depth)  # type: ignore[attr-defined]

    def eval_Subscript(self, node: ast.Subscript, frame: Frame) -> Value:
        value = self.eval(node.value, frame)
        index = self.index(node.slice, frame)
        if isinstance(value, Mod):
            return self.module_item(value, index)
        if isinstance(value, Seq) and isinstance(index, Known):
            found = value.items[index.value]
            return Seq(found, value.kind) if isinstance(found, list) else found  # type: ignore[arg-type]
        if isinstance(value, Seq) and isinstance(index, Dynamic) and value.items and all(same(value.items[0], i) for i in value.items):
            return value.items[0]
        if isinstance(value, Table):
            key = unwrapped(index) if known(index) else UNKNOWN
            if key is not UNKNOWN and key in value.items:
                return value.items[key]
            raise Unsupported("a dict read at a key that is not known")
        if isinstance(value, Known) and isinstance(index, Known):
            return plain(value.value[index.value])
        tree = index.tree if isinstance(index, Py) else index.lift()
        sample = (
            self.sampled(lambda a, b: a[b], value, index) if not isinstance(index, Py) else self.sampled(lambda a: a[index.object], value)
        )
        return Dynamic(item(value.lift(), tree), sample, loose=is_loose(value))

    def index(self, node: Any, frame: Frame) -> Value:
        """An index; slices and tuples with slices are kept as Py with their sample."""
        if isinstance(node, ast.Slice):
            parts = [self.eval(p, frame) if p is not None else None for p in (node.lower, node.upper, node.step)]
            given = [None if p is None else samples(p) for p in parts]
            if all(p is None or known(p) for p in parts):
                found = Known(slice(*given))
                found.tree = ast.Slice(*(None if p is None else p.lift() for p in parts))
                return found
            tree = ast.Slice(*(None if p is None else p.lift() for p in parts))
            return Py(slice(*(0 if g is UNKNOWN else g for g in given)), tree) if UNKNOWN not in given else Dynamic(tree)
        if isinstance(node, ast.Tuple) and any(isinstance(e, ast.Slice) for e in node.elts):
            values = [self.index(e, frame) for e in node.elts]
            tree = ast.Tuple(elts=[v.tree if isinstance(v, Py) else v.lift() for v in values])
            given = [v.object if isinstance(v, Py) else samples(v) for v in values]
            return Dynamic(tree) if any(g is UNKNOWN for g in given) else Py(tuple(given), tree)
        return self.eval(node, frame)

    def module_item(self, value: Mod, index: Value) -> Value:
        if isinstance(index, Known) and isinstance(index.value, slice):
            whole = list(value.one)  # type: ignore[call-overload]
            tree = item(value.lift(), index.lift())
            if index.value.start in (None, 0) and index.value.step is None and index.value.stop in (None, len(whole)):
                tree = value.lift()
            parts: list[Value] = [Mod((m,), item(value.lift(), constant(i)), tuple(whole)) for i, m in list(enumerate(whole))[index.value]]
            return Over(parts, tree, "module")
        if isinstance(index, Known):
            found = tuple(m[index.value] for m in value.modules)  # type: ignore[index]
            return Mod(found, item(value.lift(), constant(index.value)))
        if len(value.modules) == 1 and len(value.one):  # type: ignore[arg-type]
            every = tuple(value.one.values()) if isinstance(value.one, nn.ModuleDict) else tuple(value.one)  # type: ignore[call-overload]
            return Mod(every, item(value.lift(), index.lift()), every)
        raise Unsupported("a module list read at a place that is not known")

    def eval_JoinedStr(self, node: ast.JoinedStr, frame: Frame) -> Value:
        parts: list[Any] = []
        text: str | None = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(part)
                text = None if text is None else text + part.value
                continue
            assert isinstance(part, ast.FormattedValue)
            value = self.eval(part.value, frame)
            simple = isinstance(value, Known) and value.tree is None and part.format_spec is None and part.conversion in (-1, 114)
            if simple:
                if text is not None:
                    text += repr(value.value) if part.conversion == 114 else str(value.value)  # type: ignore[attr-defined]
                parts.append(ast.Constant(value=repr(value.value) if part.conversion == 114 else str(value.value)))  # type: ignore[attr-defined]
                continue
            text = None
            parts.append(ast.FormattedValue(value=value.lift(), conversion=part.conversion, format_spec=clone(part.format_spec)))
        return Known(text) if text is not None else Dynamic(ast.JoinedStr(values=joined(parts)), "")

    def eval_Lambda(self, node: ast.Lambda, frame: Frame) -> Value:
        return Closure(node, frame)

    # ---- comprehensions

    def eval_ListComp(self, node: Any, frame: Frame) -> Value:
        return self.comprehension(node, frame)

    eval_GeneratorExp = eval_SetComp = eval_DictComp = eval_ListComp

    def comprehension(self, node: Any, frame: Frame) -> Value:
        before = dict(frame.env)
        try:
            if len(node.generators) == 1:
                made = self.unrolled(node, frame)
                if made is not None:
                    return made
            return self.kept_comprehension(node, frame)
        finally:
            frame.env = before

    def unrolled(self, node: Any, frame: Frame) -> Value | None:
        """The comprehension over what is known now, part by part; None where that is not possible."""
        gen = node.generators[0]
        over = self.iterated(self.eval(gen.iter, frame))
        if over is None:
            return None
        items: list[Value] = []
        keys: list[Any] = []
        partial = False
        for element in over:
            self.take(gen.target, element, frame)
            tests = [self.truth(self.eval(test, frame)) for test in gen.ifs]
            if None in tests:
                if not (
                    isinstance(node, ast.DictComp)
                    and len(gen.ifs) == 1
                    and facts(gen.ifs[0], True) == [(getattr(node.value, "id", ""), False)]
                ):
                    return None
                partial, tests = True, [True]
            if not all(tests):
                continue
            if isinstance(node, ast.DictComp):
                key = self.eval(node.key, frame)
                if not known(key):
                    return None
                keys.append(unwrapped(key))
                items.append(self.eval(node.value, frame))
            else:
                items.append(self.eval(node.elt, frame))
        if isinstance(node, ast.DictComp):
            return Table(dict(zip(keys, items)), frame.depth, partial)
        return Seq(items, list if isinstance(node, ast.ListComp) else tuple, frame.depth)

    def iterated(self, value: Value) -> list[Value] | None:
        """The elements of something whose length is known."""
        if isinstance(value, Seq):
            return value.items
        if isinstance(value, Over):
            return value.elements
        if isinstance(value, Table):
            return [Known(k) for k in value.items]
        if isinstance(value, Known) and isinstance(value.value, (range, str)):
            return [Known(i) for i in value.value]
        if isinstance(value, Mod) and len(value.modules) == 1 and isinstance(value.one, (nn.ModuleList, nn.Sequential)):
            whole = tuple(value.one)
            return [Mod((m,), item(value.lift(), constant(i)), whole) for i, m in enumerate(whole)]
        return None

    def take(self, target: Any, value: Value, frame: Frame) -> None:
        """Bind a loop's or comprehension's target without writing anything."""
        if isinstance(target, ast.Name):
            frame.env[target.id] = value
            return
        parts = self.iterated(value)
        if parts is None or len(parts) != len(target.elts):
            raise Unsupported("a target that does not fit")
        for t, p in zip(target.elts, parts):
            self.take(t, p, frame)

    def kept_comprehension(self, node: Any, frame: Frame) -> Value:
        generators = []
        for gen in node.generators:
            source = self.eval(gen.iter, frame)
            target = self.dynamic_target(gen.target, source, frame)
            with self.narrowing(frame):
                ifs = [self.run(test, frame) for test in gen.ifs]
            for test in gen.ifs:
                for variable, none in facts(test, True):
                    value = frame.env.get(variable)
                    if isinstance(value, Dynamic) and not none:
                        frame.env[variable] = Dynamic(value.tree, value.sample, False, value.loose)
            generators.append(ast.comprehension(target=target, iter=source.lift(), ifs=ifs, is_async=0))
        if isinstance(node, ast.DictComp):
            made: Any = ast.DictComp(key=self.run(node.key, frame), value=self.run(node.value, frame), generators=generators)
        else:
            made = type(node)(elt=self.run(node.elt, frame), generators=generators)
        return Dynamic(made)

    def dynamic_target(self, target: Any, source: Value, frame: Frame) -> Any:
        """Names for the elements of something that only run time knows."""
        elements = self.iterated(source) if not isinstance(source, Dynamic) else None
        sample = UNKNOWN
        if isinstance(source, Dynamic) and isinstance(source.sample, (tuple, list)) and source.sample:
            sample = source.sample[0]
        none = bool(elements) and any(may_be_none(e) for e in elements or ())
        if isinstance(target, ast.Name):
            if elements and all(isinstance(e, Mod) for e in elements):
                every = tuple(m for e in elements for m in e.modules)  # type: ignore[attr-defined]
                frame.env[target.id] = Mod(every, name(target.id), every)
            else:
                if elements:
                    found = [samples(e) for e in elements if not (isinstance(e, Known) and e.value is None)]
                    sample = found[0] if found and all(alike(found[0], f) for f in found) else UNKNOWN
                frame.env[target.id] = Dynamic(name(target.id), sample, none, any(is_loose(e) for e in elements or ()))
            return name(target.id)
        if elements and all(self.iterated(e) is not None for e in elements):
            columns = list(zip(*(self.iterated(e) for e in elements)))  # type: ignore[misc]
            if len(columns) == len(target.elts):
                parts = [self.dynamic_target(t, Seq(list(c)), frame) for t, c in zip(target.elts, columns)]
                return ast.Tuple(elts=parts)
        return ast.Tuple(elts=[self.dynamic_target(t, Dynamic(name("_")), frame) for t in target.elts])


class Unknowable:
    @staticmethod
    def refuse(result: Any) -> Value:
        raise Unsupported(f"a {type(result).__name__} made of known values")


def joined(parts: list[Any]) -> list[Any]:
    """Neighbouring constants of an f-string as one."""
    made: list[Any] = []
    for part in parts:
        if isinstance(part, ast.Constant) and made and isinstance(made[-1], ast.Constant):
            made[-1] = ast.Constant(value=made[-1].value + part.value)
        else:
            made.append(part)
    return made


def facts(test: Any, truth: bool) -> list[tuple[str, bool]]:
    """What the outcome of a test says of variables: (name, whether it is None)."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And if truth else ast.Or):
        return [f for part in test.values for f in facts(part, truth)]
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return facts(test.operand, not truth)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.left, ast.Name):
        right = test.comparators[0]
        if isinstance(right, ast.Constant) and right.value is None and isinstance(test.ops[0], (ast.Is, ast.IsNot)):
            return [(test.left.id, isinstance(test.ops[0], ast.Is) == truth)]
    return []


def negated(tree: Any) -> Any:
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
        other = {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}.get(type(tree.ops[0]))
        if other is not None:
            return ast.Compare(left=tree.left, ops=[other()], comparators=tree.comparators)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return tree.operand
    return ast.UnaryOp(op=ast.Not(), operand=tree)


def is_whole(value: Dynamic) -> bool:
    """Whether a value is made of whole numbers, so that adding 0 leaves it as it is."""
    sample = value.sample
    if isinstance(sample, Stand):
        return sample.dtype in (torch.int64, torch.int32) and not value.loose
    return type(sample) is int


def is_loose(*values: Value) -> bool:
    return any(getattr(v, "loose", False) or (isinstance(v, Seq) and is_loose(*v.items)) for v in values)


def may_be_none(value: Value) -> bool:
    return bool(getattr(value, "none", False)) or (isinstance(value, Known) and value.value is None)


def alike(a: Any, b: Any) -> bool:
    """Whether two samples have one rank and one kind of numbers."""
    if isinstance(a, Stand) and isinstance(b, Stand):
        return (a.rank, a.dtype) == (b.rank, b.dtype)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b))
    return type(a) is type(b) and a is not UNKNOWN


def merged(a: Any, b: Any) -> Any:
    """A sample for either of two values."""
    if a is None or b is None:
        return b if a is None else a
    return a if alike(a, b) else UNKNOWN


__all__ = ["Escape", "Evaluator", "alike", "facts", "is_loose", "may_be_none", "mentions", "merged", "package"]
