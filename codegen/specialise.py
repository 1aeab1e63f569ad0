"""Follows every module's forward for the way this model is built and called, outer modules first."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from torch import nn

from vlmgraph.ir.types import INTEGER_KINDS, Type

from .abstract import UNKNOWN, Dynamic, Known, Mod, Py, Seq, Table, Unsupported, Value, clone, known, samples, unwrapped
from .frames import Frame
from .knowledge import may_be_none
from .leaves import is_torch
from .loops import Looper
from .source import definition, refer
from .stand import BOOL, FLOAT, WHOLE, Stand
from .trees import literal, name
from .units import Unit, body_of, default_nodes, joined_value, method_node_of, parameters


class Specializer(Looper):
    """`unit_of` maps a module to the unit of its forward; None where it is written as it stands."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.units: dict[Any, Unit] = {}
        self._nodes: dict[tuple[str, str], Any] = {}
        self.calls: dict[int, dict[str, Value]] = {}
        self.missing: dict[int, set[str]] = {}
        self.open: set[int] = set()
        """Modules that are called in ways not seen here."""
        self.wanted: dict[int, list[str]] = {}
        self.unit_of: dict[int, Unit | None] = {}
        self.cache: dict[Any, tuple[nn.Module, Unit]] = {}
        self.signatures: dict[int, Any] = {}
        self.alike: list[tuple[Unit, Unit]] = []
        self.failed: dict[str, str] = {}
        self.verbatim: set[int] = set()

    # ---- calls that are seen

    def record(self, modules: tuple[nn.Module, ...], bound: dict[str, Value], missing: set[str], frame: Frame | None) -> None:
        if frame is not None:
            (frame.unit.root or frame.unit).records.append((modules, bound))
        for module in modules:
            self.join_call(module, bound)

    def join_call(self, module: nn.Module, bound: Mapping[str, Value]) -> None:
        found = method_node_of(type(module), "forward")
        if found is None:
            return
        node, cls = found
        names = [a.arg for a in parameters(node)[1:]]
        left_out = {n for n in names if n not in bound}
        self.missing.setdefault(id(module), set()).update(left_out)
        defaults = default_nodes(node)
        blank = Frame(cls.__module__, node, cls, None, {}, None)
        whole = {**{n: self.eval(defaults[n], blank) for n in left_out if n in defaults}, **bound}
        whole = {k: outside(v) for k, v in whole.items()}
        old = self.calls.get(id(module))
        if old is None:
            self.calls[id(module)] = {k: joined_value(k, None, v) for k, v in whole.items()}
            return
        # what a `**` parameter collects is named by no signature: left out where another call gives it
        self.missing[id(module)] |= (old.keys() ^ whole.keys()) - set(names)
        for key in {**old, **whole}:
            old[key] = joined_value(key, old.get(key, Known(None)), whole.get(key, Known(None)))

    def escaped(self, module: nn.Module) -> None:
        for inner in module.modules():
            self.open.add(id(inner))

    def program_call(self, module: nn.Module, described: Mapping[str, Any], wanted: list[str] | None) -> None:
        """A call from a program: a type, a type that may be None, a list of types, or a constant for each argument."""
        bound: dict[str, Value] = {}
        for key, what in described.items():
            if isinstance(what, Dynamic):
                bound[key] = what
            elif isinstance(what, Type):
                bound[key] = Dynamic(name(key), sample_of(what), False, what.kind == "mask")
            elif isinstance(what, tuple) and what and isinstance(what[0], Type):
                bound[key] = Dynamic(name(key), sample_of(what[0]), True, what[0].kind == "mask")
            elif isinstance(what, list) and what and isinstance(what[0], Type):
                bound[key] = Dynamic(name(key), [sample_of(t) for t in what])
            else:
                bound[key] = constant_value(what)
        self.join_call(module, bound)
        if wanted is not None:
            known_keys = self.wanted.setdefault(id(module), [])
            known_keys += [w for w in wanted if w not in known_keys]

    # ---- following

    def run_all(self) -> None:
        for path, module in self.root.named_modules():
            if not path or is_torch(type(module)) or id(module) in self.unit_of:
                continue
            self.unit_of[id(module)] = self.unit(path, module)
        pending = True
        while pending:
            pending = False
            for unit in list(self.units.values()):
                if unit.dirty and not unit.opaque:
                    pending = True
                    self.follow_function(unit)

    def follow_function(self, unit: Unit) -> None:
        try:
            self.follow(unit)
        except RecursionError:
            raise
        except Exception as error:  # as for a class
            self.failed[unit.name] = f"{type(error).__name__}: {error}"
            unit.opaque = True
            unit.tree = refer(definition(unit.key), unit.key[0])

    def unit(self, path: str, module: nn.Module) -> Unit | None:
        found = method_node_of(type(module), "forward")
        if id(module) in self.verbatim or found is None:
            return None
        node, cls = found
        args = self.calls.get(id(module))
        if args is None and id(module) not in self.open:
            return Unit("forward", node, cls.__module__, cls, None, args={})  # never called: no methods
        if id(module) in self.open:
            args = self.anything(node, args or {})
        assert args is not None
        key = (self.signature(module), tuple((k, described(v)) for k, v in sorted(args.items())), tuple(self.wanted.get(id(module), ())))
        key = (*key, id(module) in self.open)
        if key in self.cache:
            first, unit = self.cache[key]
            self.replay(first, module, unit)
            unit.missing |= self.missing.get(id(module), set())
            return unit
        unit = Unit(
            "forward", node, cls.__module__, cls, Mod((module,), name("self")), args=args, missing=set(self.missing.get(id(module), ()))
        )
        unit.wanted = self.wanted.get(id(module))
        unit.all_kept = id(module) in self.open
        try:
            self.follow(unit)
            while any(m.dirty for m in unit.methods.values()):
                for method in list(unit.methods.values()):
                    if method.dirty:
                        self.follow(method)
        except RecursionError:
            raise
        except Exception as error:
            # whatever the evaluator does not follow is written as it stands; tests say that nothing of vlmgraph's own is
            self.failed[path] = f"{type(module).__name__}: {type(error).__name__}: {error}"
            self.verbatim.update(id(m) for m in module.modules())
            return None
        self.cache[key] = module, unit
        return unit

    def anything(self, node: ast.FunctionDef, args: Mapping[str, Value]) -> dict[str, Value]:
        """Arguments of a module that others call too: each may be anything its signature allows."""
        defaults = default_nodes(node)
        made: dict[str, Value] = {}
        for arg in parameters(node)[1:]:
            held = args.get(arg.arg)
            none = arg.arg in defaults and isinstance(defaults[arg.arg], ast.Constant) and defaults[arg.arg].value is None
            sample = samples(held) if isinstance(held, Dynamic) else UNKNOWN
            made[arg.arg] = Dynamic(name(arg.arg), sample if not none else UNKNOWN, none)
        return made

    def replay(self, first: nn.Module, module: nn.Module, unit: Unit) -> None:
        """A module like one seen before makes the same calls of its own parts."""
        # two modules with one signature have the same parts in the same order
        twins = {id(a): b for a, b in zip(first.modules(), module.modules())}
        for modules, bound in unit.records:
            for m in modules:
                self.join_call(twins.get(id(m), m), bound)
        self.open.update(id(b) for a, b in zip(first.modules(), module.modules()) if id(a) in self.open)

    def follow(self, unit: Unit) -> None:
        """Write a unit's body for what it is called with."""
        unit.dirty = False
        node, args = unit.node, unit.args or {}
        frame = Frame(unit.module, node, unit.owner, unit.me, {}, unit)
        named = parameters(node)
        if unit.me is not None:
            frame.env[named[0].arg] = unit.me
            named = named[1:]
        if node.args.vararg is not None:
            raise Unsupported("*args")
        for arg in named:
            value = args.get(arg.arg)
            if value is None:
                raise Unsupported(f"nothing is known of {arg.arg}")
            frame.env[arg.arg] = self.parameter(arg.arg, value)
            frame.names[arg.arg] = arg.arg
        if node.args.kwarg is not None:
            known_names = {a.arg for a in parameters(node)}
            rest = {k: self.parameter(k, v) for k, v in args.items() if k not in known_names}
            frame.env[node.args.kwarg.arg] = Table(rest)
            frame.names.update({k: k for k in rest})
        ended = self.block(body_of(node), frame)
        if (
            ended
            and frame.result is not None
            and not (isinstance(frame.result, Known) and frame.result.value is None and not frame.returns)
        ):
            last = ast.Return(value=frame.result.lift())
            source = body_of(node)[-1]
            for mark in ("lead", "trail"):
                if getattr(source, mark, None) and isinstance(source, ast.Return):
                    setattr(last, mark, getattr(source, mark))
            frame.out.append(last)
        unit.body = frame.out  # type: ignore[attr-defined]
        unit.gives = [*frame.returns, *([frame.result] if frame.result is not None else [])]  # type: ignore[attr-defined]

    def parameter(self, key: str, value: Value) -> Value:
        if isinstance(value, Dynamic):
            return Dynamic(name(key), value.sample, value.none, value.loose)
        return value

    def returned(self, value: Value, frame: Frame) -> Value:
        unit = frame.unit
        if frame.parent is not None or unit.wanted is None or frame.node is not unit.node:
            return value
        if not isinstance(value, Table) or not all(w in value.items for w in unit.wanted):
            raise Unsupported(f"a result that is no dict of its outputs {unit.wanted}")
        unit.results = [k for k in value.items if k in unit.wanted]
        picked = [value.items[k] for k in unit.results]
        return picked[0] if len(picked) == 1 else Seq(picked)

    # ---- what makes two modules the same

    def signature(self, module: nn.Module) -> Any:
        """Everything about a module that following its methods may look at."""
        if id(module) not in self.signatures:
            own = tuple((k, repr(v)) for k, v in vars(module).items() if not k.startswith("_") and k != "training" and literal(v))
            tensors = tuple((k, None if t is None else tuple(t.shape)) for k, t in (*module._parameters.items(), *module._buffers.items()))
            children = tuple((k, None if m is None else self.signature(m)) for k, m in module._modules.items())
            self.signatures[id(module)] = hash((type(module), own, tensors, children))
        return self.signatures[id(module)]


def outside(value: Value) -> Value:
    """A value without the expression it has at the caller's."""
    if isinstance(value, Known):
        return Known(value.value)
    if isinstance(value, (Seq, Table)) and known(value):
        return constant_value(unwrapped(value))
    if isinstance(value, (Mod, Seq, Table)):
        return Dynamic(name("_"), samples(value), may_be_none(value))
    return value


def constant_value(value: Any) -> Value:
    from .abstract import plain

    return plain(value)


def described(value: Value) -> Any:
    if isinstance(value, Dynamic):
        sample = value.sample
        kind = (sample.rank, sample.dtype) if isinstance(sample, Stand) else type(sample)
        return ("dynamic", value.none, value.loose, kind)
    if known(value):
        return ("known", repr(unwrapped(value)))
    return ("py", id(value.object)) if isinstance(value, Py) else ("other", id(value))


def sample_of(type_: Type) -> Any:
    """A stand-in of a type's rank and kind of numbers."""
    if type_.rest:
        return UNKNOWN
    return Stand(len(type_.dims), WHOLE if type_.kind in INTEGER_KINDS else BOOL if type_.kind == "mask" else FLOAT)


__all__ = ["Specializer", "clone"]
