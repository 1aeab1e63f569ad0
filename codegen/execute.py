"""Statements: known conditions disappear, loops over layers stay loops, the rest is written out again."""

from __future__ import annotations

import ast
from typing import Any

from .abstract import (
    UNKNOWN,
    Dynamic,
    Escape,
    Known,
    Table,
    Unsupported,
    Value,
    known,
    same,
    samples,
    unwrapped,
)  # fmt: skip
from .calls import Caller
from .frames import Frame, identifier
from .knowledge import facts, is_loose, may_be_none, merged, negated
from .trees import assign, name


def loads(nodes: Any) -> set[str]:
    """Names that statements read; remembered at each statement of the source."""
    found: set[str] = set()
    for node in nodes if isinstance(nodes, list) else [nodes]:
        own = getattr(node, "own_loads", None)
        if own is None:
            own = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            own |= {n.target.id for n in ast.walk(node) if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
            node.own_loads = own
        found |= own
    return found


def stores(nodes: list[Any]) -> list[str]:
    found = [n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    found += [
        n.value.id
        for node in nodes
        for n in ast.walk(node)
        if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name)
    ]
    return list(dict.fromkeys(found))


class Executor(Caller):
    """Follows the statements of functions."""

    def block(self, body: list[Any], frame: Frame) -> bool:
        """Follow statements; True where every way through them ends the function."""
        for index, node in enumerate(body):
            frame.futures.append(loads(body[index + 1 :]))
            try:
                ended = self.statement(node, frame)
            finally:
                frame.futures.pop()
            if ended:
                return True
        return False

    def statement(self, node: Any, frame: Frame) -> bool:
        rule = getattr(self, f"exec_{type(node).__name__}", None)
        if rule is None:
            raise Unsupported(f"{type(node).__name__} as a statement")
        return bool(rule(node, frame))

    def exec_Pass(self, node: ast.Pass, frame: Frame) -> None:
        return None

    def exec_Expr(self, node: ast.Expr, frame: Frame) -> None:
        if isinstance(node.value, ast.Constant):
            return
        value = self.eval(node.value, frame)
        if isinstance(value, Dynamic) and not value.atomic:
            frame.emit(marked(ast.Expr(value=value.lift()), node))

    def exec_Assert(self, node: ast.Assert, frame: Frame) -> None:
        value = self.eval(node.test, frame)
        for variable, none in facts(node.test, True):
            held = frame.env.get(variable)
            if isinstance(held, Dynamic) and not none:
                frame.env[variable] = Dynamic(held.tree, held.sample, False, held.loose)
        if self.truth(value) is None and not facts(node.test, True) and "isinstance" not in loads(node.test):
            frame.emit(marked(ast.Assert(test=value.lift(), msg=None if node.msg is None else self.run(node.msg, frame)), node))

    def exec_Raise(self, node: ast.Raise, frame: Frame) -> bool:
        cause = None if node.cause is None else self.run(node.cause, frame)
        frame.emit(marked(ast.Raise(exc=self.run(node.exc, frame), cause=cause), node))
        return True

    def exec_Return(self, node: ast.Return, frame: Frame) -> bool:
        frame.whole = isinstance(node.value, ast.Call) and frame.branch == 0
        value = Known(None) if node.value is None else self.eval(node.value, frame)
        frame.whole = False
        value = self.returned(value, frame)
        if frame.branch == 0:
            frame.result = value
            return True
        frame.returns.append(value)
        frame.emit(marked(ast.Return(value=value.lift()), node))
        return True

    def returned(self, value: Value, frame: Frame) -> Value:
        """Hook: how a component gives several outputs."""
        return value

    # ---- assignments

    def exec_Assign(self, node: ast.Assign, frame: Frame) -> None:
        if len(node.targets) != 1:
            raise Unsupported("an assignment to several targets")
        target = node.targets[0]
        frame.whole = isinstance(node.value, ast.Call)
        before, frame.assigning = frame.assigning, frozenset(stores([target])) if frame.whole else frozenset()
        value = self.eval(node.value, frame)
        frame.whole, frame.assigning = False, before
        self.assign(target, value, frame, node)

    def exec_AnnAssign(self, node: ast.AnnAssign, frame: Frame) -> None:
        if node.value is not None:
            self.assign(node.target, self.eval(node.value, frame), frame, node)

    def assign(self, target: Any, value: Value, frame: Frame, source: Any) -> None:
        if isinstance(target, ast.Name):
            frame.bind(target.id, value, source)
            return
        if isinstance(target, (ast.Tuple, ast.List)):
            parts = self.iterated(value)
            if parts is not None and len(parts) == len(target.elts):
                self.spread(target.elts, parts, frame, source)
                return
            if not all(isinstance(t, ast.Name) for t in target.elts):
                raise Unsupported("a nested target")
            tree = value.lift()
            texts = [frame.written(t.id) for t in target.elts]
            for text in texts:
                frame.rescue(text)
            sample = samples(value)
            each = list(sample) if isinstance(sample, (tuple, list)) and len(sample) == len(texts) else [UNKNOWN] * len(texts)
            none = sample is UNKNOWN
            nones = getattr(value, "nones", ()) or (False,) * len(texts)
            statement = ast.Assign(targets=[ast.Tuple(elts=[name(t) for t in texts])], value=tree)
            frame.emit(marked(statement, source))
            for t, text, one, maybe in zip(target.elts, texts, each, nones):
                frame.env[t.id] = Dynamic(name(text), one, none=none or one is None or maybe)
            return
        if isinstance(target, ast.Subscript):
            self.store(target, value, frame, source)
            return
        raise Unsupported("an assignment to an attribute")

    def spread(self, targets: list[Any], parts: list[Value], frame: Frame, source: Any) -> None:
        """`a, b = x, y`, one after the other; values that an earlier target would change are saved first."""
        for i, (target, value) in enumerate(zip(targets, parts)):
            later = parts[i + 1 :]
            if isinstance(target, ast.Name) and isinstance(value, Dynamic) and not value.atomic:
                text = frame.written(target.id)
                if any(mentioned(v, text) for v in later):
                    self.together(targets[i:], parts[i:], frame, source)
                    return
            self.assign(target, value, frame, source if i == 0 else None)

    def together(self, targets: list[Any], parts: list[Value], frame: Frame, source: Any) -> None:
        """One assignment of a tuple to a tuple."""
        if not all(isinstance(t, ast.Name) for t in targets):
            raise Unsupported("a nested target")
        tree = ast.Tuple(elts=[p.lift() for p in parts])
        texts = [frame.written(t.id) for t in targets]
        for text in texts:
            frame.rescue(text)
        frame.emit(marked(ast.Assign(targets=[ast.Tuple(elts=[name(t) for t in texts])], value=tree), source))
        for t, text, part in zip(targets, texts, parts):
            frame.env[t.id] = Dynamic(name(text), samples(part), may_be_none(part), is_loose(part))

    def store(self, target: ast.Subscript, value: Value, frame: Frame, source: Any) -> None:
        owner = self.eval(target.value, frame)
        if isinstance(owner, Table):
            index = self.eval(target.slice, frame)
            if owner.depth != frame.depth or not known(index):
                raise Escape("a dict that changes under a condition")
            owner.items[unwrapped(index)] = self.frozen(value, unwrapped(index), frame)
            return
        if not isinstance(owner, Dynamic):
            raise Unsupported(f"an item of a {type(owner).__name__}")
        index = self.index(target.slice, frame)
        tree = ast.Subscript(value=owner.lift(), slice=index.tree if hasattr(index, "tree") and index.tree is not None else index.lift())
        frame.emit(marked(ast.Assign(targets=[tree], value=value.lift()), source))

    def frozen(self, value: Value, key: Any, frame: Frame) -> Value:
        """A value kept in a container: a longer expression gets a variable."""
        if not isinstance(value, Dynamic) or value.atomic:
            return value
        text = frame.fresh(identifier(key))
        frame.emit(assign(text, value.lift()))
        return Dynamic(name(text), value.sample, value.none, value.loose)

    def exec_AugAssign(self, node: ast.AugAssign, frame: Frame) -> None:
        if not isinstance(node.target, ast.Name):
            raise Unsupported("an item changed in place")
        old, value = frame.env[node.target.id], self.eval(node.value, frame)
        if isinstance(old, Known):
            frame.bind(node.target.id, self.binary(node.op, old, value), node)
            return
        result = self.binary(node.op, old, value)
        assert isinstance(result, Dynamic)
        text = frame.written(node.target.id)
        if not (isinstance(old, Dynamic) and isinstance(old.tree, ast.Name) and old.tree.id == text):
            frame.settle(node.target.id)
        frame.rescue(text)
        frame.emit(marked(ast.AugAssign(target=name(text), op=node.op, value=value.lift()), node))
        frame.env[node.target.id] = Dynamic(name(text), result.sample, False, result.loose)

    # ---- conditions

    def exec_If(self, node: ast.If, frame: Frame) -> bool:
        test = self.eval(node.test, frame)
        truth = self.truth(test)
        if truth is not None:
            return self.block(node.body if truth else node.orelse, frame)
        sides = []
        for body, outcome in ((node.body, True), (node.orelse, False)):
            sides.append(self.side(body, node.test, outcome, frame))
        (env_a, out_a, ended_a, names_a), (env_b, out_b, ended_b, names_b) = sides
        frame.names = {**names_a, **names_b}
        if ended_a and ended_b:
            frame.env = env_a
        elif ended_a or ended_b:
            frame.env = env_b if ended_a else env_a
        else:
            frame.env = self.met(env_a, out_a, env_b, out_b, frame)
        if not out_a and not out_b:
            return ended_a and ended_b
        tree = test.lift()
        if not out_a:
            tree, out_a, out_b = negated(tree), out_b, []
        frame.emit(marked(ast.If(test=tree, body=out_a, orelse=[] if ended_a and not ended_b else out_b), node))
        if ended_a and not ended_b:  # what was under `else` needs no indentation behind a return
            for statement in out_b:
                frame.emit(statement)
        return ended_a and ended_b

    def side(self, body: list[Any], test: Any, outcome: bool, frame: Frame) -> tuple[dict[str, Value], list[Any], bool, dict[str, str]]:
        """One branch with variables and text of its own."""
        before = frame.env, frame.out, dict(frame.names)
        outer = [(f, dict(f.env)) for f in frame.chain()[1:]]
        frame.env, frame.out = dict(before[0]), []
        frame.depth += 1
        frame.branch += 1
        for variable, none in facts(test, outcome):
            value = frame.env.get(variable)
            if isinstance(value, Dynamic) and value.none:
                frame.env[variable] = Known(None) if none else Dynamic(value.tree, value.sample, False, value.loose)
        ended = self.block(body, frame)
        frame.depth -= 1
        frame.branch -= 1
        made = frame.env, frame.out, ended, frame.names
        frame.env, frame.out, frame.names = before[0], before[1], dict(before[2])
        for f, env in outer:
            if any(f.env.get(k) is not v for k, v in env.items()):
                raise Unsupported("a branch that moves variables of its caller")
        return made

    def met(self, a: dict[str, Value], out_a: list[Any], b: dict[str, Value], out_b: list[Any], frame: Frame) -> dict[str, Value]:
        """Variables behind a condition: what differs is written out on both sides."""
        joined: dict[str, Value] = {}
        for variable in {**a, **b}:
            left, right = a.get(variable), b.get(variable)
            if left is None or right is None:
                held = left if left is not None else right
                assert held is not None
                if not frame.alive(variable):
                    continue
                joined[variable] = self.written_out(variable, held, out_a if left is not None else out_b, frame)
                continue
            if left is right:
                joined[variable] = left
                continue
            if same(left, right):
                both = isinstance(left, Dynamic) and isinstance(right, Dynamic)
                joined[variable] = (
                    Dynamic(left.tree, merged(left.sample, right.sample), left.none or right.none, left.loose or right.loose)  # type: ignore[union-attr]
                    if both
                    else left
                )
                continue
            before = frame.env.get(variable)
            if isinstance(before, Dynamic) and isinstance(before.tree, ast.Name):
                # narrowed on one side only, not assigned
                text = before.tree.id
                if all(is_narrowed(v, text) for v in (left, right)):
                    joined[variable] = before
                    continue
            if not frame.alive(variable):
                continue
            x = self.written_out(variable, left, out_a, frame)
            y = self.written_out(variable, right, out_b, frame)
            assert isinstance(x, Dynamic) and isinstance(y, Dynamic)
            sample = merged(x.sample, y.sample) if x.sample is not UNKNOWN and y.sample is not UNKNOWN else UNKNOWN
            joined[variable] = Dynamic(x.tree, sample, x.none or y.none, x.loose or y.loose)
        return joined

    def written_out(self, variable: str, value: Value, out: list[Any], frame: Frame) -> Value:
        text = frame.written(variable)
        if not (isinstance(value, Dynamic) and isinstance(value.tree, ast.Name) and value.tree.id == text):
            out.append(assign(text, value.lift()))
        return Dynamic(name(text), samples(value), may_be_none(value), is_loose(value))


def is_narrowed(value: Value, text: str) -> bool:
    if isinstance(value, Known):
        return value.value is None
    return isinstance(value, Dynamic) and isinstance(value.tree, ast.Name) and value.tree.id == text


def mentioned(value: Value, text: str) -> bool:
    from .abstract import mentions

    return mentions(value, text)


def marked(statement: Any, source: Any) -> Any:
    """With the comments of the statement it comes from."""
    for mark in ("lead", "trail"):
        if source is not None and getattr(source, mark, None):
            setattr(statement, mark, getattr(source, mark))
    return statement
