"""Tuples, lists, dicts, indices and comprehensions: over what is known they are done now, over the rest they stay."""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

from .abstract import (
    UNKNOWN,
    Closure,
    Dynamic,
    Known,
    Mod,
    Over,
    Py,
    Seq,
    Table,
    Unsupported,
    Value,
    clone,
    known,
    plain,
    same,
    samples,
    unwrapped,
)  # fmt: skip
from .evaluate import Evaluator
from .frames import Frame
from .knowledge import alike, facts, is_loose, may_be_none
from .trees import constant, item, name


class Containers(Evaluator):
    """Values made of several values."""

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
        if isinstance(value, Dynamic) and (isinstance(value.sample, (dict, list)) or (known(index) and isinstance(unwrapped(index), str))):
            return Dynamic(item(value.lift(), tree), none=True)  # of a container it is not known which parts may be None
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
        if elements is None and isinstance(source, Mod) and isinstance(target, ast.Name):
            inner = tuple(part for module in source.modules for part in module.children())
            frame.env[target.id] = Mod(inner, name(target.id), inner)
            return name(target.id)
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


def joined(parts: list[Any]) -> list[Any]:
    """Neighbouring constants of an f-string as one."""
    made: list[Any] = []
    for part in parts:
        if isinstance(part, ast.Constant) and made and isinstance(made[-1], ast.Constant):
            made[-1] = ast.Constant(value=made[-1].value + part.value)
        else:
            made.append(part)
    return made
