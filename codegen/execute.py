"""Statements: known conditions disappear, loops over layers stay loops, the rest is written out again."""

from __future__ import annotations

import ast
from typing import Any

from .abstract import (
    UNKNOWN,
    Dynamic,
    Escape,
    Known,
    Mod,
    Over,
    Seq,
    Table,
    Unsupported,
    Value,
    clone,
    known,
    same,
    samples,
    unwrapped,
)  # fmt: skip
from .calls import Caller
from .evaluate import facts, is_loose, may_be_none, merged, negated
from .frames import Frame, identifier
from .trees import assign, constant, name


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
            statement = ast.Assign(targets=[ast.Tuple(elts=[name(t) for t in texts])], value=tree)
            frame.emit(marked(statement, source))
            for t, text, one in zip(target.elts, texts, each):
                frame.env[t.id] = Dynamic(name(text), one, none=none or one is None)
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

    # ---- loops

    def exec_For(self, node: ast.For, frame: Frame) -> bool:
        if node.orelse:
            raise Unsupported("for ... else")
        source = self.eval(node.iter, frame)
        elements = self.iterated(source)
        if elements is None:
            if not isinstance(source, Dynamic):
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
                if (wider.none, wider.loose, wider.sample is UNKNOWN) != (old.none, old.loose, old.sample is UNKNOWN):
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
