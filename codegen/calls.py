"""Calls: of modules, of own functions and methods (inlined where that reads well), of torch and of builtins."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field
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
    Pending,
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
    walk,
)  # fmt: skip
from .evaluate import Evaluator, attempted, is_loose, may_be_none, merged
from .frames import Frame
from .source import definition, method_node
from .stand import Stand
from .trees import attribute, constant, literal, name

SMALL_METHOD, SMALL_FUNCTION = 24, 11
"""Nodes of an expression up to which a call is replaced by it."""
STRICT_DTYPE = {"bool", "long", "float", "int", "any", "all"}
PURE = (len, max, min, int, float, bool, str, round, sum, abs, all, any)


@dataclass(eq=False)
class Unit:
    """A function or method to write, for all its calls together."""

    name: str
    node: ast.FunctionDef
    module: str
    owner: type | None = None
    me: Mod | None = None
    key: Any = None
    args: dict[str, Value] | None = None
    missing: set[str] = field(default_factory=set)
    """Parameters that some call leaves out."""
    tree: ast.FunctionDef | None = None
    kept: set[str] = field(default_factory=set)
    methods: dict[Any, Unit] = field(default_factory=dict)
    """Of a module's forward: the methods it reaches."""
    root: Unit | None = None
    records: list[tuple[tuple[nn.Module, ...], dict[str, Value]]] = field(default_factory=list)
    wanted: list[str] | None = None
    results: list[str] | None = None
    all_kept: bool = False
    opaque: bool = False
    """A function that is written as it stands."""
    dirty: bool = True


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def default_nodes(node: ast.FunctionDef) -> dict[str, Any]:
    plain_args = [*node.args.posonlyargs, *node.args.args]
    found = {a.arg: d for a, d in zip(plain_args[len(plain_args) - len(node.args.defaults) :], node.args.defaults)}
    return found | {a.arg: d for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults) if d is not None}


def size(tree: Any) -> int:
    return sum(1 for n in walk(tree) if isinstance(n, (ast.expr, ast.Slice)) and not isinstance(n, ast.expr_context))


class Caller(Evaluator):
    """Needs `execute.Executor` for the bodies of what it inlines."""

    units: dict[Any, Unit]

    def eval_Call(self, node: ast.Call, frame: Frame) -> Value:
        whole, frame.whole = frame.whole, False
        function = node.func
        if isinstance(function, ast.Attribute) and is_super(function.value):
            target: Value = self.above(function.attr, frame)
        elif isinstance(function, ast.Attribute):
            owner = self.eval(function.value, frame)
            target = (
                Method(function.attr, owner)
                if isinstance(owner, (Dynamic, Seq, Table, Known, Over))
                else self.attribute_of(owner, function.attr)
            )
        else:
            target = self.eval(function, frame)
        args, stars = self.positional(node, frame)
        keywords = self.named(node, frame)
        frame.whole = whole
        try:
            return self.dispatch(target, args, keywords, stars, frame, is_super(getattr(function, "value", None)))
        finally:
            frame.whole = False

    def dispatch(self, target: Value, args: list[Value], keywords: dict[str, Value], stars: bool, frame: Frame, above: bool) -> Value:
        if isinstance(target, Mod):
            return self.module_call(target, args, keywords, frame)
        if isinstance(target, Fn):
            return self.function_call(target, args, keywords, frame)
        if isinstance(target, Closure):
            return self.closure_call(target, args, frame)
        if isinstance(target, Method):
            if isinstance(target.owner, Mod):
                return self.method_call(target, args, keywords, frame, above)
            return self.value_method(target, args, keywords, frame)
        if isinstance(target, Py):
            return self.python_call(target, args, keywords, stars, frame)
        if isinstance(target, Dynamic):
            self.escape(*args, *keywords.values())
            return Dynamic(self.plain_call(target.lift(), args, keywords))
        raise Unsupported(f"a call of a {type(target).__name__}")

    def positional(self, node: ast.Call, frame: Frame) -> tuple[list[Value], bool]:
        args: list[Value] = []
        stars = False
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                value = self.eval(arg.value, frame)
                parts = self.iterated(value)
                if parts is None:
                    args.append(Py(UNKNOWN, ast.Starred(value=value.lift())))
                    stars = True
                else:
                    args += parts
            else:
                args.append(self.eval(arg, frame))
        return args, stars

    def named(self, node: ast.Call, frame: Frame) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for keyword in node.keywords:
            value = self.eval(keyword.value, frame)
            if keyword.arg is not None:
                found[keyword.arg] = value
            elif isinstance(value, Table):
                found.update(value.items)
            else:
                raise Unsupported("keywords that are not known")
        return found

    def plain_call(self, function: Any, args: list[Value], keywords: dict[str, Value]) -> ast.Call:
        made = ast.Call(func=function, args=[a.lift() for a in args], keywords=[])
        made.keywords = [ast.keyword(arg=k, value=v.lift()) for k, v in keywords.items()]
        return made

    def escape(self, *values: Value) -> None:
        """Modules handed on as values are called in ways that are not seen here."""
        for value in values:
            if isinstance(value, Mod):
                for module in value.modules:
                    self.escaped(module)
            elif isinstance(value, Seq):
                self.escape(*value.items)
            elif isinstance(value, Table):
                self.escape(*value.items.values())

    def escaped(self, module: nn.Module) -> None:
        raise NotImplementedError

    def record(self, modules: tuple[nn.Module, ...], bound: dict[str, Value], missing: set[str], frame: Frame) -> None:
        raise NotImplementedError

    # ---- binding

    def bound(
        self, node: ast.FunctionDef, module: str, args: list[Value], keywords: dict[str, Value], frame: Frame, me: bool
    ) -> dict[str, Value]:
        """Values by parameter, defaults filled in; a `**` parameter is a table."""
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        if me:
            names = names[1:]
        found: dict[str, Value] = {}
        if len(args) > len(names):
            if node.args.vararg is None:
                raise Unsupported("more arguments than parameters")
            found[node.args.vararg.arg] = Seq(args[len(names) :])
            args = args[: len(names)]
        elif node.args.vararg is not None:
            found[node.args.vararg.arg] = Seq([])
        found.update(zip(names, args))
        every = {*names, *(a.arg for a in node.args.kwonlyargs)}
        found.update({k: v for k, v in keywords.items() if k in every})
        rest = {k: v for k, v in keywords.items() if k not in every}
        if node.args.kwarg is not None:
            found[node.args.kwarg.arg] = Table(rest)
        elif rest:
            raise Unsupported(f"an argument {next(iter(rest))} that is no parameter")
        defaults = default_nodes(node)
        for missing in every - found.keys():
            if missing not in defaults:
                raise Unsupported(f"a call without {missing}")
            found[missing] = self.eval(defaults[missing], Frame(module, node, None, None, {}, frame.unit))
        return found

    # ---- modules

    def module_call(self, target: Mod, args: list[Value], keywords: dict[str, Value], frame: Frame) -> Value:
        first = target.one
        given = [samples(a) for a in args]
        named = {k: samples(v) for k, v in keywords.items()}
        result = UNKNOWN
        if UNKNOWN not in map(id_or, (*given, *named.values())):
            result = attempted(lambda: first(*given, **named))
        if isinstance(result, dict):
            result = UNKNOWN
        forward = method_node_of(type(first), "forward")
        if isinstance(first, nn.Sequential) and forward is None:
            self.sequential(target, args, given, frame)
        if forward is None:
            return Dynamic(self.plain_call(target.lift(), args, keywords), result)
        node = forward[0]
        bound: dict[str, Value] = {}
        names = [a.arg for a in node.args.args][1:]
        bound.update(zip(names, args))
        bound.update(keywords)
        every = target.whole or target.modules
        self.escape(*args, *keywords.values())
        self.record(every, bound, {a.arg for a in parameters(node)[1:]} - bound.keys(), frame)
        tree = ast.Call(func=target.lift(), args=[], keywords=[])
        tree.pending = Pending(list(every), {k: v.lift() for k, v in bound.items() if liftable(v)})  # type: ignore[attr-defined]
        return Dynamic(tree, result, none=UNKNOWN is result and False)

    def sequential(self, target: Mod, args: list[Value], given: list[Any], frame: Frame) -> None:
        """The parts of an `nn.Sequential`, each called with what the one before gives."""
        for module in target.modules:
            sample = given[0] if len(given) == 1 else UNKNOWN
            for part in module.children():
                found = method_node_of(type(part), "forward")
                value = Dynamic(name("x"), sample)
                if found is not None:
                    first = parameters(found[0])[1].arg
                    self.record((part,), {first: value}, set(), frame)
                elif isinstance(part, nn.Sequential):
                    self.sequential(Mod((part,), target.tree), [value], [sample], frame)
                sample = UNKNOWN if sample is UNKNOWN else attempted(lambda p=part, x=sample: p(x))

    # ---- own functions

    def function_call(self, target: Fn, args: list[Value], keywords: dict[str, Value], frame: Frame) -> Value:
        node = self.function_node(target.key)
        bound = self.bound(node, target.key[0], args, keywords, frame, me=False)
        inlined = self.inline(
            node, target.key[0], None, None, bound, frame, SMALL_FUNCTION, force=has_closure(bound) or has_table(bound, node)
        )
        if inlined[0]:
            return inlined[1]
        unit = self.units.get(target.key)
        if unit is None:
            unit = self.units[target.key] = Unit(target.key[1], node, target.key[0], key=target.key)
        return self.residual(unit, target.lift(), bound, frame, inlined[1])

    def function_node(self, key: tuple[str, str]) -> ast.FunctionDef:
        if key not in self._nodes:
            self._nodes[key] = definition(key)
        found = self._nodes[key]
        if not isinstance(found, ast.FunctionDef) or found.decorator_list:
            raise Unsupported(f"{key[1]} is not a plain function")
        return found

    _nodes: dict[tuple[str, str], Any]

    def method_call(self, target: Method, args: list[Value], keywords: dict[str, Value], frame: Frame, above: bool) -> Value:
        owner = target.owner
        assert isinstance(owner, Mod)
        node = method_node(target.cls, target.name) if target.cls is not None and not torch_owned(target.cls) else None
        if node is None:
            return self.torch_method(target, owner, args, keywords, frame)
        if node.decorator_list:
            raise Unsupported(f"a decorated method {target.name}")
        assert target.cls is not None
        module = target.cls.__module__
        bound = self.bound(node, module, args, keywords, frame, me=True)
        inlined = self.inline(
            node, module, target.cls, owner, bound, frame, SMALL_METHOD, force=above or has_closure(bound) or has_table(bound, node)
        )
        if inlined[0]:
            return inlined[1]
        if not (isinstance(owner.tree, ast.Name) and owner.tree.id == "self"):
            raise Unsupported(f"a method {target.name} of another module")
        root = frame.unit.root or frame.unit
        key = (target.cls, target.name)
        unit = root.methods.get(key)
        if unit is None:
            taken = {u.name for u in root.methods.values()} | {"forward"}
            own = target.name if target.name not in taken else f"{target.cls.__name__.lower()}_{target.name}"
            unit = root.methods[key] = Unit(own, node, module, target.cls, owner, key, root=root)
        return self.residual(unit, attribute(name("self"), unit.name), bound, frame, inlined[1])

    def torch_method(self, target: Method, owner: Mod, args: list[Value], keywords: dict[str, Value], frame: Frame) -> Value:
        first = owner.one
        if isinstance(first, nn.ModuleDict) and not args and target.name in ("values", "items", "keys"):
            parts: list[Value] = []
            for key, module in first.items():
                inner = Mod((module,), ast.Subscript(value=owner.lift(), slice=constant(key)))
                parts.append({"values": inner, "keys": Known(key), "items": Seq([Known(key), inner])}[target.name])
            return Seq(parts)
        if target.name == "forward" and frame.me is not None and first is frame.me.one:
            # `super().forward(...)` of a torch class
            tree = self.plain_call(attribute(ast.Call(func=name("super"), args=[], keywords=[]), "forward"), args, keywords)
            given = [samples(a) for a in args]
            sample = UNKNOWN if any(g is UNKNOWN for g in given) else attempted(lambda: target.cls.forward(first, *given))  # type: ignore[union-attr]
            return Dynamic(tree, sample)
        self.escape(*args, *keywords.values())
        return Dynamic(self.plain_call(attribute(owner.lift(), target.name), args, keywords))

    def above(self, attr: str, frame: Frame) -> Value:
        """`super().attr`."""
        assert frame.me is not None and frame.owner is not None
        mro = type(frame.me.one).__mro__
        for cls in mro[mro.index(frame.owner) + 1 :]:
            if attr in cls.__dict__:
                return Method(attr, frame.me, cls)
        raise Unsupported(f"super().{attr}")

    def residual(self, unit: Unit, function: Any, bound: dict[str, Value], frame: Frame, result: Value | None) -> Value:
        """A call that stays one: its arguments join those of all others."""
        if unit.me is None:
            given = bound
            bound = {k: Dynamic(name(k)) if isinstance(v, Mod) else v for k, v in bound.items()}
            bound = {k: Known(v.value) if isinstance(v, Known) and literal(v.value) else v for k, v in bound.items()}
        else:
            given = bound
        self.escape(*given.values())
        if self.join(unit, bound):
            unit.dirty = True
        tree = ast.Call(func=function, args=[], keywords=[])
        tree.pending = Pending([unit], {k: v.lift() for k, v in flat_bound(given, unit.node).items() if liftable(v)})  # type: ignore[attr-defined]
        sample = UNKNOWN if result is None else samples(result)
        return Dynamic(tree, sample, none=True if result is None else may_be_none(result), loose=result is not None and is_loose(result))

    def join(self, unit: Unit, bound: dict[str, Value]) -> bool:
        """Widen what a unit is called with; whether that changed anything."""
        bound = flat_bound(bound, unit.node)
        if unit.args is None:
            unit.args = {k: joined_value(k, None, v) for k, v in bound.items()}
            return True
        changed = False
        for key in {**unit.args, **bound}:
            old = unit.args.get(key, Known(None))
            new = joined_value(key, old, bound.get(key, Known(None)))
            if key not in unit.args or not equal_knowledge(old, new):
                unit.args[key] = new
                changed = True
        return changed

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

    # ---- values and builtins

    def value_method(self, target: Method, args: list[Value], keywords: dict[str, Value], frame: Frame) -> Value:
        owner, attr = target.owner, target.name
        if isinstance(owner, Dynamic):
            return self.dynamic_method(owner, attr, args, keywords)
        if isinstance(owner, Table):
            if attr == "get" and known(args[0]):
                return owner.items.get(unwrapped(args[0]), args[1] if len(args) > 1 else Known(None))
            if attr == "items":
                return Seq([Seq([Known(k), v]) for k, v in owner.items.items()])
            if attr == "values":
                return Seq(list(owner.items.values()))
            if attr == "keys":
                return Seq([Known(k) for k in owner.items])
        if isinstance(owner, Seq) and attr == "append" and len(args) == 1:
            if owner.depth != frame.depth:
                raise Escape("a list that grows under a condition")
            owner.items.append(args[0])
            return Known(None)
        if known(owner) and all(known(a) for a in args) and not keywords:
            return plain(getattr(unwrapped(owner), attr)(*(unwrapped(a) for a in args)))
        raise Unsupported(f"the method {attr} of a {type(owner).__name__}")

    def dynamic_method(self, owner: Dynamic, attr: str, args: list[Value], keywords: dict[str, Value]) -> Value:
        if isinstance(owner.sample, Stand) and not args and not keywords:
            if attr == "dim":
                return Known(owner.sample.dim())
            if attr == "is_floating_point" and not owner.loose:
                return Known(owner.sample.is_floating_point())
        self.escape(*args, *keywords.values())
        given, named = [samples(a) for a in args], {k: samples(v) for k, v in keywords.items()}
        sample = UNKNOWN
        if owner.sample is not UNKNOWN and UNKNOWN not in map(id_or, (*given, *named.values())):
            sample = attempted(lambda: getattr(owner.sample, attr)(*given, **named))
        loose = owner.loose and attr not in STRICT_DTYPE
        return Dynamic(self.plain_call(attribute(owner.lift(), attr), args, keywords), sample, loose=loose)

    def python_call(self, target: Py, args: list[Value], keywords: dict[str, Value], stars: bool, frame: Frame) -> Value:
        found = target.object
        special = getattr(self, f"call_{getattr(found, '__name__', '')}", None)
        if special is not None and getattr(found, "__module__", "") == "builtins":
            result = special(args, keywords, target, frame)
            if result is not None:
                return result
        if getattr(found, "__self__", None) is dict and getattr(found, "__name__", "") == "fromkeys" and known(args[0]):
            return plain(dict.fromkeys(unwrapped(args[0])))
        if (found in PURE or getattr(math, getattr(found, "__name__", ""), None) is found) and all(map(known, (*args, *keywords.values()))):
            value = found(*(unwrapped(a) for a in args), **{k: unwrapped(v) for k, v in keywords.items()})
            traced = any(getattr(a, "tree", None) is not None for a in args)
            return Known(value, self.plain_call(target.lift(), args, keywords) if traced else None)
        if found is torch.cat and isinstance(args[0], Seq) and len(args[0].items) == 1:
            return args[0].items[0]
        self.escape(*args, *keywords.values())
        keywords = {k: v for k, v in keywords.items() if not (k in ("attn_mask", "scale") and isinstance(v, Known) and v.value is None)}
        tree = self.plain_call(target.lift(), args, keywords)
        if stars or (isinstance(found, type) and issubclass(found, BaseException)):
            return Dynamic(tree)
        given, named = [samples(a) for a in args], {k: samples(v) for k, v in keywords.items()}
        sample = UNKNOWN
        if UNKNOWN not in map(id_or, (*given, *named.values())):
            sample = attempted(lambda: found(*given, **named))
        return Dynamic(tree, sample, loose=is_loose(*args))

    def call_len(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        value = args[0]
        if isinstance(value, (Seq, Table)):
            return Known(len(value.items))
        if isinstance(value, Over):
            return Known(len(value.elements))
        if isinstance(value, Mod):
            counts = {len(m) for m in value.modules}  # type: ignore[arg-type]
            return Known(counts.pop()) if len(counts) == 1 else None
        return None

    def call_isinstance(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        value, classes = args
        if not isinstance(classes, (Py, Seq)):
            return None
        wanted = classes.object if isinstance(classes, Py) else tuple(c.object for c in classes.items)  # type: ignore[attr-defined]
        if isinstance(value, Mod):
            found = {isinstance(m, wanted) for m in value.modules}
            return Known(found.pop()) if len(found) == 1 else None
        kind = {Seq: getattr(value, "kind", tuple), Table: dict}.get(type(value))
        if kind is not None:
            return Known(issubclass(kind, wanted))
        if isinstance(value, Known):
            return Known(isinstance(value.value, wanted))
        if isinstance(value, Dynamic) and value.sample is not UNKNOWN and not value.none:
            return Known(issubclass(Tensor if isinstance(value.sample, Stand) else type(value.sample), wanted))
        return None

    def call_getattr(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        return self.attribute_of(args[0], args[1].value) if isinstance(args[1], Known) else None

    def call_hasattr(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        return (
            Known(all(hasattr(m, args[1].value) for m in args[0].modules))
            if isinstance(args[0], Mod) and isinstance(args[1], Known)
            else None
        )

    def _as(self, kind: type, args: list[Value]) -> Value | None:
        if not args:
            return Seq([], kind)
        parts = self.iterated(args[0])
        return None if parts is None else Seq(list(parts), kind)

    def call_tuple(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        return self._as(tuple, args)

    def call_list(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        made = self._as(list, args)
        if isinstance(made, Seq):
            made.depth = frame.depth
        return made

    def call_dict(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        if not args:
            return Table(dict(keywords), frame.depth)
        return Table(dict(args[0].items), frame.depth) if isinstance(args[0], Table) else None

    def call_range(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        if not all(isinstance(a, Known) for a in args):
            return None
        return Over([Known(i) for i in range(*(a.value for a in args))], self.plain_call(target.lift(), args, {}), "index")  # type: ignore[attr-defined]

    def call_map(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        if len(args) != 2 or not isinstance(args[0], Py) or not known(args[1]):
            return None
        return plain(tuple(map(args[0].object, unwrapped(args[1]))))

    def call_reversed(self, args: list[Value], keywords: Any, target: Py, frame: Frame) -> Value | None:
        parts = self.iterated(args[0])
        return None if parts is None else Over(list(reversed(parts)), self.plain_call(target.lift(), args, {}), "module")

    def call_enumerate(self, args: list[Value], keywords: dict[str, Value], target: Py, frame: Frame) -> Value | None:
        parts = self.iterated(args[0])
        start = args[1] if len(args) > 1 else keywords.get("start", Known(0))
        if parts is None or not isinstance(start, Known):
            return None
        inner = args[0].pattern if isinstance(args[0], Over) else "module"
        items: list[Value] = [Seq([Known(start.value + i), p]) for i, p in enumerate(parts)]
        return Over(items, self.plain_call(target.lift(), args, keywords), ("index", inner), [args[0], start])

    def call_zip(self, args: list[Value], keywords: dict[str, Value], target: Py, frame: Frame) -> Value | None:
        columns = [self.iterated(a) for a in args]
        if any(c is None for c in columns):
            return None
        patterns = tuple(a.pattern if isinstance(a, Over) else "module" for a in args)
        return Over([Seq(list(row)) for row in zip(*columns)], self.plain_call(target.lift(), args, {}), patterns)  # type: ignore[arg-type]


def id_or(value: Any) -> Any:
    """For `in` without asking tensors for equality."""
    return UNKNOWN if value is UNKNOWN else None


def is_super(node: Any) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args


def torch_owned(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "torch"


def method_node_of(cls: type, method: str) -> tuple[ast.FunctionDef, type] | None:
    """The own definition of a method, None where torch's is the first."""
    for base in cls.__mro__:
        if method in base.__dict__:
            if torch_owned(base):
                return None
            node = method_node(base, method)
            return None if node is None else (node, base)
    return None


def has_closure(bound: dict[str, Value]) -> bool:
    return any(isinstance(v, Closure) for v in bound.values())


def has_table(bound: dict[str, Value], node: ast.FunctionDef) -> bool:
    """Whether a dict that is taken apart here is handed on."""
    own = node.args.kwarg.arg if node.args.kwarg else ""
    return any(isinstance(v, Table) and not known(v) for k, v in bound.items() if k != own)


def flat_bound(bound: dict[str, Value], node: ast.FunctionDef) -> dict[str, Value]:
    """A table of further keywords as parameters of their own."""
    own = node.args.kwarg.arg if node.args.kwarg else ""
    made: dict[str, Value] = {}
    for key, value in bound.items():
        if isinstance(value, Table) and key == own:
            made.update(value.items)
        else:
            made[key] = value
    return made


def liftable(value: Value) -> bool:
    try:
        value.lift()
    except Unsupported:
        return False
    return True


def joined_value(key: str, old: Value | None, new: Value) -> Value:
    """What a parameter is for all calls: known where all agree."""
    if old is None or (same(old, new) and not isinstance(new, Dynamic)):
        if known(new) or isinstance(new, (Fn, Py)):
            return new
        if isinstance(new, Mod):
            return new
        return Dynamic(name(key), samples(new), may_be_none(new), is_loose(new))
    if isinstance(old, Mod) or isinstance(new, Mod):
        return Dynamic(name(key), UNKNOWN, may_be_none(old) or may_be_none(new))
    sample = merged(samples(old), samples(new)) if UNKNOWN not in (id_or(samples(old)), id_or(samples(new))) else UNKNOWN
    return Dynamic(name(key), sample, may_be_none(old) or may_be_none(new), is_loose(old, new))


def equal_knowledge(a: Value, b: Value) -> bool:
    if isinstance(a, Dynamic) and isinstance(b, Dynamic):
        known_samples = (a.sample is UNKNOWN) == (b.sample is UNKNOWN)
        return (a.none, a.loose) == (b.none, b.loose) and known_samples
    return same(a, b)


def reads(node: Any, variable: str) -> int:
    """How often a parameter is read, counting a loop or an inner function twice."""
    count = 0

    def visit(tree: Any, weight: int) -> None:
        nonlocal count
        if isinstance(tree, ast.Name) and tree.id == variable and isinstance(tree.ctx, ast.Load):
            count += weight
        loops = isinstance(tree, (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.DictComp, ast.SetComp)) or (
            isinstance(tree, ast.Lambda) and tree is not node
        )
        for child in ast.iter_child_nodes(tree):
            visit(child, weight + 1 if loops else weight)

    body = node.body if isinstance(node.body, list) else [node.body]
    for statement in body:
        visit(statement, 1)
    return count


def body_of(node: ast.FunctionDef) -> list[Any]:
    """The statements behind the docstring."""
    first = node.body[0]
    has_doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return node.body[1:] if has_doc else node.body


def assign_inlined(text: str, tree: Any) -> Any:
    from .trees import assign

    made = assign(text, tree)
    made.inlined = True  # type: ignore[attr-defined]
    return made


def trees_of(value: Value) -> list[Any]:
    if isinstance(value, Seq):
        return [t for i in value.items for t in trees_of(i)]
    if isinstance(value, Table):
        return [t for i in value.items.values() for t in trees_of(i)]
    return [value.tree] if isinstance(value, Dynamic) else []


def prune(out: list[Any], result: Value) -> None:
    """Drop assignments that neither the result nor a later statement reads."""
    read = {n.id for t in trees_of(result) for n in walk(t) if isinstance(n, ast.Name)}
    for statement in reversed(list(out)):
        simple = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], (ast.Name, ast.Tuple))
        if simple and not any(isinstance(n, ast.Name) and n.id in read for t in statement.targets for n in ast.walk(t)):
            out.remove(statement)
            continue
        read |= {n.id for n in walk(statement) if isinstance(n, ast.Name)}


def collapse(out: list[Any], result: Value) -> None:
    """Put assignments that are read once, by the next statement or the result, in the place where they are read."""
    changed = True
    while changed and out:
        changed = False
        last = out[-1]
        if not (isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name)):
            return
        text = last.targets[0].id
        trees = trees_of(result)
        if sum(1 for t in trees for n in walk(t) if isinstance(n, ast.Name) and n.id == text) != 1:
            return
        replace_in(result, text, last.value)
        out.pop()
        changed = True


def replace_in(value: Value, text: str, tree: Any) -> None:
    if isinstance(value, Seq):
        for i in value.items:
            replace_in(i, text, tree)
    elif isinstance(value, Table):
        for i in value.items.values():
            replace_in(i, text, tree)
    elif isinstance(value, Dynamic):
        value.tree = substituted(value.tree, text, tree)


def substituted(node: Any, text: str, tree: Any) -> Any:
    """The tree with one variable replaced by an expression."""
    if isinstance(node, ast.Name) and node.id == text:
        return tree
    for name_, old in ast.iter_fields(node):
        if isinstance(old, ast.AST):
            setattr(node, name_, substituted(old, text, tree))
        elif isinstance(old, list):
            setattr(node, name_, [substituted(o, text, tree) if isinstance(o, ast.AST) else o for o in old])
    pending = getattr(node, "pending", None)
    if pending is not None:
        pending.bound = {k: substituted(v, text, tree) for k, v in pending.bound.items()}
    return node
