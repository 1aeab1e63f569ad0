"""Calls: of modules, of own functions and methods (inlined where that reads well), of torch and of builtins."""

from __future__ import annotations

import ast
from typing import Any

from torch import nn

from .abstract import (
    UNKNOWN,
    Closure,
    Dynamic,
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
    samples,
)  # fmt: skip
from .frames import Frame
from .inline import Inliner
from .knowledge import attempted, is_loose, may_be_none
from .source import definition, method_node
from .trees import attribute, constant, literal, name
from .units import (
    Unit,
    default_nodes,
    equal_knowledge,
    flat_bound,
    has_closure,
    has_table,
    id_or,
    is_super,
    joined_value,
    liftable,
    method_node_of,
    parameters,
    torch_owned,
)  # fmt: skip

SMALL_METHOD, SMALL_FUNCTION = 24, 11
"""Nodes of an expression up to which a call is replaced by it."""
STRICT_DTYPE = {"bool", "long", "float", "int", "any", "all"}
PURE = (len, max, min, int, float, bool, str, round, sum, abs, all, any)


class Caller(Inliner):
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
        return self.perhaps(Dynamic(tree, result), first, args, keywords)

    def perhaps(self, value: Dynamic, module: nn.Module, args: list[Value], keywords: dict[str, Value]) -> Dynamic:
        """Marks results that are None when an argument is that may be."""
        if value.sample is UNKNOWN:
            return value
        for absent in [a for a in (*args, *keywords.values()) if may_be_none(a) and samples(a) is not None]:
            given = [None if a is absent else samples(a) for a in args]
            named = {k: None if v is absent else samples(v) for k, v in keywords.items()}
            other = attempted(lambda given=given, named=named: module(*given, **named))
            if isinstance(value.sample, tuple) and isinstance(other, tuple) and len(other) == len(value.sample):
                before = value.nones or (False,) * len(other)
                value.nones = tuple(b or o is None for b, o in zip(before, other))
            elif other is None:
                value.none = True
        return value

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
